//! Is what we know of a cluster as new as what the client has?
//!
//! A client that comes from another replica says when each cluster's view was last confirmed there.
//! A replica that has lost sight of a cluster for longer would bring back pods that are gone, policies
//! that were replaced, and roots that were withdrawn (SECURITY S33). Until it sees the cluster again
//! the client keeps what it has of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use isthmus_proto::discovery::Node;
use isthmus_proto::ids::ClusterId;
use prost_types::value::Kind as ValueKind;

use crate::session::channel::{Channel, Draft, Holding};
use crate::session::question::{Asker, Subject, cluster_of};
use crate::translate::{Client, Encoded, ResourceType};
use crate::world::{CLUSTERS_MAX, CONFIRMED_STEP, World};

/// Where a client says it, in its node's metadata: cluster → milliseconds since 1970.
pub const SEEN: &str = "seen";
/// Two replicas that lose a cluster together may think so differently of when: a quiet API server
/// says once a minute that all is well.
const SLACK: Duration = CONFIRMED_STEP;

/// What a client has from elsewhere that is newer than what we have.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// Of clusters that we are behind in: when the client's view was confirmed.
    ahead: BTreeMap<ClusterId, SystemTime>,
}

impl Epochs {
    /// As the client says it. What can't be read says nothing: it is only for the client's own good.
    pub(crate) fn of_node(node: &Node) -> Self {
        let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
        let seen = fields.and_then(|fields| fields.get(SEEN)?.kind.as_ref());
        let Some(ValueKind::StructValue(seen)) = seen else {
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
        Self {
            ahead: seen
                .fields
                .iter()
                .take(CLUSTERS_MAX)
                .filter_map(read)
                .collect(),
        }
    }

    /// Looks whether we have caught up; true: in a cluster, and all is to be looked at again.
    pub(crate) fn catch_up(&mut self, world: &World) -> bool {
        let before = self.ahead.len();
        self.ahead.retain(|cluster, seen| {
            let Some(status) = world.clusters().find(|status| status.cluster == cluster) else {
                // It belongs to the mesh no more, as soon as that is known.
                return world.is_gathering();
            };
            let confirmed = status.confirmed_at.and_then(|at| at.checked_add(SLACK));
            confirmed.is_none_or(|confirmed| confirmed < *seen)
        });
        self.ahead.len() != before
    }

    /// Is the client ahead of us in some cluster?
    pub(crate) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Would telling the client of this resource, or that it is gone, take it back in time?
    pub(crate) fn holds_back(&self, client: &Client, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Endpoint
            | ResourceType::AccessPolicy
            | ResourceType::Gateway
            | ResourceType::ClusterFreshness => {
                cluster_of(kind, name).is_some_and(|cluster| self.ahead.contains_key(cluster))
            }
            ResourceType::Workload | ResourceType::ExportedEndpoint => {
                self.ahead.contains_key(&client.cluster)
            }
            // Made of what several clusters say.
            ResourceType::Service | ResourceType::Route | ResourceType::TrustBundle => {
                self.is_ahead()
            }
            ResourceType::HandleKeys => false,
        }
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
