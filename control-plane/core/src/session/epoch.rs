//! Is what we know of a cluster as new as what the client has?
//!
//! A client that comes from another replica says when each cluster's view was last confirmed there, and
//! up to which position of the cluster's store it was told of pods, slices, exports and policies. A
//! replica that has lost sight of a cluster for longer, or has not come as far, would bring back pods
//! that are gone, policies that were replaced, and roots that were withdrawn (SECURITY S33). Until it
//! sees the cluster again the client keeps what it has of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use isthmus_proto::discovery::Node;
use isthmus_proto::ids::ClusterId;
use isthmus_proto::positions::{self, Positions};
use prost_types::value::Kind as ValueKind;

use crate::model::{Kind, POSITIONED};
use crate::session::channel::{Channel, Holding};
use crate::session::draft::Draft;
use crate::session::question::{Asker, Subject, cluster_of};
use crate::translate::{Client, Encoded, ResourceType, direct};
use crate::world::cluster::Cluster;
use crate::world::{CLUSTERS_MAX, CONFIRMED_STEP, World};

/// Where a client says it, in its node's metadata: cluster → milliseconds since 1970.
pub const SEEN: &str = "seen";
/// Two replicas that lose a cluster together may think so differently of when: a quiet API server
/// says once a minute that all is well. Within it only positions can tell who is behind.
const SLACK: Duration = CONFIRMED_STEP;

/// What a client has from elsewhere that is newer than what we have.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// Of clusters that we are behind in.
    ahead: BTreeMap<ClusterId, Ahead>,
}

/// What a client knows of a cluster, and how far behind that we are.
#[derive(Debug)]
struct Ahead {
    /// When the client's view was confirmed.
    seen: SystemTime,
    positions: BTreeMap<Kind, u64>,
    behind: Behind,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Behind {
    /// In all that there is of the cluster; what is not known yet counts as this.
    #[default]
    Wholly,
    /// In these kinds.
    Kinds(BTreeSet<Kind>),
}

impl Epochs {
    /// As the client says it. What can't be read says nothing: it is only for the client's own good.
    pub(crate) fn of_node(node: &Node) -> Self {
        let mut ahead: BTreeMap<ClusterId, Ahead> = BTreeMap::new();
        let field = |name: &str| node.metadata.as_ref()?.fields.get(name)?.kind.as_ref();
        let Some(ValueKind::StructValue(seen)) = field(SEEN) else {
            return Self::default();
        };
        let read = |(name, value): (&String, &prost_types::Value)| {
            let Some(ValueKind::NumberValue(milliseconds)) = value.kind else {
                return None;
            };
            let since = Duration::try_from_secs_f64(milliseconds / 1_000.0).ok()?;
            let at = SystemTime::UNIX_EPOCH.checked_add(since)?;
            Some((name.parse().ok()?, at))
        };
        for (cluster, at) in seen.fields.iter().take(CLUSTERS_MAX).filter_map(read) {
            let of = Ahead {
                seen: at,
                positions: BTreeMap::new(),
                behind: Behind::default(),
            };
            ahead.insert(cluster, of);
        }
        if let Some(ValueKind::StringValue(text)) = field(positions::METADATA) {
            for (cluster, kind, position) in Positions::read(text).iter() {
                let known = POSITIONED.into_iter().find(|one| one.as_str() == kind);
                // Without a time nothing would ever end the wait for a store that was made anew.
                if let (Some(of), Some(kind)) = (ahead.get_mut(cluster), known) {
                    of.positions.insert(kind, position);
                }
            }
        }
        Self { ahead }
    }

    /// Looks whether we have caught up; true: in a cluster, and all is to be looked at again.
    pub(crate) fn catch_up(&mut self, world: &World) -> bool {
        let mut moved = false;
        self.ahead.retain(|name, ahead| {
            let Some(cluster) = world.clusters.get(name) else {
                // It belongs to the mesh no more, as soon as that is known.
                let stays = world.awaits(name.as_str());
                moved |= !stays;
                return stays;
            };
            let Some(behind) = ahead.compare(cluster) else {
                moved = true;
                return false;
            };
            moved |= behind != ahead.behind;
            ahead.behind = behind;
            true
        });
        moved
    }

    /// Is the client ahead of us in some cluster?
    pub(crate) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Is the client ahead of us in anything that resources of this type are made of?
    pub(crate) fn concerns(&self, kind: ResourceType) -> bool {
        let kinds = made_of(kind);
        self.ahead.values().any(|ahead| ahead.behind.holds(kinds))
    }

    /// Can what is told of a cluster be counted on as the newest that the client knows?
    pub(crate) fn is_ahead_in(&self, cluster: &ClusterId) -> bool {
        self.ahead.contains_key(cluster)
    }

    /// Would telling the client of this resource, or that it is gone, take it back in time?
    pub(crate) fn holds_back(&self, client: &Client, kind: ResourceType, name: &str) -> bool {
        let holds = |cluster: &str| {
            let ahead = self.ahead.get(cluster);
            ahead.is_some_and(|ahead| ahead.behind.holds(made_of(kind)))
        };
        match kind {
            ResourceType::Endpoint
            | ResourceType::AccessPolicy
            | ResourceType::Gateway
            | ResourceType::ClusterFreshness => cluster_of(kind, name).is_some_and(holds),
            ResourceType::Workload | ResourceType::ExportedEndpoint => {
                holds(client.cluster.as_str())
            }
            ResourceType::Service if direct::of_service_name(name).is_some() => {
                self.concerns(kind) || self.concerns(ResourceType::Endpoint)
            }
            // Made of what several clusters say.
            ResourceType::Service | ResourceType::Route | ResourceType::TrustBundle => {
                self.concerns(kind)
            }
            ResourceType::HandleKeys => false,
        }
    }
}

impl Ahead {
    /// How far behind it we are; `None`: not at all.
    fn compare(&self, cluster: &Cluster) -> Option<Behind> {
        let (seen, confirmed) = (self.seen, cluster.confirmed_at);
        let with_slack = confirmed.and_then(|at| at.checked_add(SLACK));
        if with_slack.is_none_or(|confirmed| confirmed < seen) {
            return Some(Behind::Wholly);
        }
        // A store that was made anew counts anew: then time tells.
        let later = seen.checked_add(SLACK);
        if confirmed >= later {
            return None;
        }
        let behind = |(kind, position): (&Kind, &u64)| {
            let ours = cluster.positions.get(kind);
            ours.is_none_or(|ours| ours < position).then_some(*kind)
        };
        let kinds: BTreeSet<Kind> = self.positions.iter().filter_map(behind).collect();
        (!kinds.is_empty()).then_some(Behind::Kinds(kinds))
    }
}

impl Behind {
    /// Does it hold back what is made of these kinds?
    fn holds(&self, made_of: &[Kind]) -> bool {
        match self {
            Self::Wholly => true,
            Self::Kinds(kinds) => made_of.iter().any(|kind| kinds.contains(kind)),
        }
    }
}

/// Kinds with positions that resources of this type are made of.
pub(crate) fn made_of(kind: ResourceType) -> &'static [Kind] {
    match kind {
        ResourceType::Endpoint | ResourceType::ExportedEndpoint => {
            &[Kind::Pod, Kind::EndpointSlice, Kind::ServiceExport]
        }
        ResourceType::AccessPolicy => &[Kind::AccessPolicy],
        ResourceType::TrustBundle
        | ResourceType::Workload
        | ResourceType::HandleKeys
        | ResourceType::ClusterFreshness
        | ResourceType::Gateway
        | ResourceType::Service
        | ResourceType::Route => &[],
    }
}

impl Channel {
    /// To a client that is ahead of us: neither what would take it back in time, nor that there is
    /// nothing. It is told the rest when we have caught up.
    pub(crate) fn careful(
        &self,
        asker: &Asker<'_>,
        of: (&Subject, &Holding),
        mut desired: BTreeMap<&str, &Encoded>,
        (draft, bytes_max): (&mut Draft, usize),
    ) -> bool {
        let held_back = |name: &str| asker.epochs.holds_back(asker.client, self.kind, name);
        // Of what it asks for the first time it has nothing newer.
        let first = |key: &String| self.keys.get(key).is_some_and(|known| known.anew);
        if !of.1.keys.iter().all(first) {
            desired.retain(|name, _| !held_back(name));
        }
        desired.is_empty() || self.upserts(of, &desired, draft, bytes_max)
    }
}
