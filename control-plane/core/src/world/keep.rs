//! What of a cluster outlives the control plane?
//!
//! Objects go out in pages, so that nobody waits while a large cluster is written down; they come
//! back as what a cluster was when it was seen last: stale, and as old as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use isthmus_proto::ids::ClusterId;

use crate::model::{Kind, KindFreshness, Object, Spec};
use crate::world::cluster::Cluster;
use crate::world::table::{Stamp, Table};
use crate::world::{Dirty, State, World};

/// Why a cluster is stale that is known from before the start, and of which nothing was heard since.
pub const NOT_SEEN: &str = "not seen since the control plane started";

/// Where a page of objects ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Place {
    /// Behind this object.
    #[must_use]
    pub fn of(object: &Object) -> Self {
        Self {
            kind: object.spec.kind(),
            namespace: object
                .namespace
                .as_ref()
                .map_or("", |n| n.as_str())
                .to_owned(),
            name: object.name.clone(),
        }
    }
}

/// How a cluster was when it was seen last.
#[derive(Debug, Clone, Copy)]
pub struct LastSeen<'a> {
    /// When.
    pub at: SystemTime,
    /// Kinds that were never seen.
    pub unknown: &'a BTreeSet<Kind>,
    /// Kinds that were not as fresh as the rest.
    pub older: &'a BTreeMap<Kind, KindFreshness>,
}

impl World {
    /// At most `most` objects of a cluster, behind `after` or from the beginning; none behind the last.
    /// `None`: the cluster is not in the mesh. Between two pages the cluster may change: what came meanwhile may be missing,
    /// and its [`super::ClusterStatus::revision`] says so.
    #[must_use]
    pub fn page(
        &self,
        cluster: &ClusterId,
        after: Option<&Place>,
        most: usize,
    ) -> Option<Vec<Object>> {
        let cluster = self.clusters.get(cluster)?;
        let mut page = Vec::new();
        let begun = after.and_then(|place| Kind::ALL.iter().position(|k| *k == place.kind));
        for (at, kind) in Kind::ALL.iter().enumerate().skip(begun.unwrap_or(0)) {
            let behind = after.filter(|_| begun == Some(at));
            let behind = behind.map(|place| (place.namespace.as_str(), place.name.as_str()));
            let room = most.saturating_sub(page.len());
            objects(cluster, *kind, behind, room, &mut page);
        }
        Some(page)
    }

    /// Takes in what a cluster was when it was last seen, then, but for these kinds. Only as long as nothing else is known
    /// of it; false: nothing was taken in. Its sources go on from there: what their first whole list
    /// does not name is gone.
    pub fn restore(
        &mut self,
        cluster: &ClusterId,
        objects: &[Object],
        seen: LastSeen<'_>,
        now: SystemTime,
    ) -> (bool, Dirty) {
        let stamp = self.stamp(now);
        let fresh = |found: &&mut Cluster| !found.listed() && found.list == 0;
        let Some(found) = self.clusters.get_mut(cluster).filter(fresh) else {
            return (false, Dirty::default());
        };
        for object in objects.iter().filter(|object| object.cluster == *cluster) {
            // What was admitted once and is not now, its source will tell again.
            if found.admit(object).is_ok() {
                found.put(object, stamp);
            }
        }
        found.state = State::Stale;
        found.unknown.clone_from(seen.unknown);
        found.older.clone_from(seen.older);
        NOT_SEEN.clone_into(&mut found.reason);
        found.confirmed_at = Some(seen.at.min(now));
        found.restored_at = found.confirmed_at;
        // What it says of other clusters, and whom it cuts off, counts again.
        self.settle();
        (true, self.settled(Dirty::everything(), stamp))
    }
}

/// Adds at most `room` objects of a kind.
fn objects(
    cluster: &Cluster,
    kind: Kind,
    after: Option<(&str, &str)>,
    room: usize,
    page: &mut Vec<Object>,
) {
    macro_rules! from {
        ($table:expr, $spec:expr) => {
            page.extend(
                $table
                    .behind(after)
                    .take(room)
                    .map(|(namespace, name, entry)| {
                        let spec = $spec;
                        Object {
                            cluster: cluster.id.clone(),
                            namespace: namespace.parse().ok(),
                            name: name.to_owned(),
                            created: entry.created,
                            spec: spec(entry.value.clone()),
                        }
                    }),
            )
        };
    }
    match kind {
        Kind::Pod => from!(cluster.pods, Spec::Pod),
        Kind::Service => from!(cluster.services, Spec::Service),
        Kind::EndpointSlice => from!(cluster.slices, Spec::EndpointSlice),
        Kind::ServiceExport => from!(cluster.exports, Spec::ServiceExport),
        Kind::ServiceImport => from!(cluster.imports, Spec::ServiceImport),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            from!(
                cluster.routes.get(&kind).unwrap_or(&Table::NONE),
                Spec::Route
            );
        }
        Kind::ReferenceGrant => from!(cluster.grants, Spec::ReferenceGrant),
        Kind::Gateway => from!(cluster.gateways, Spec::Gateway),
        Kind::GatewayClass => from!(cluster.classes, Spec::GatewayClass),
        Kind::ClusterProperty => from!(cluster.properties, Spec::ClusterProperty),
        Kind::MeshCluster => from!(cluster.mesh, Spec::MeshCluster),
        Kind::ClusterProfile => from!(cluster.profiles, Spec::ClusterProfile),
        Kind::AccessPolicy => from!(cluster.policies, Spec::AccessPolicy),
        Kind::TrafficPolicy => from!(cluster.traffic, Spec::TrafficPolicy),
        Kind::TrustPolicy => from!(cluster.trust, Spec::TrustPolicy),
        Kind::ConfigMap => from!(cluster.roots, Spec::ConfigMap),
        Kind::Namespace => from!(
            cluster.plain.get(&kind).unwrap_or(&Table::NONE),
            Spec::Namespace
        ),
        Kind::ServiceAccount => from!(cluster.plain.get(&kind).unwrap_or(&Table::NONE), |_| {
            Spec::ServiceAccount
        }),
        Kind::Deployment => from!(cluster.plain.get(&kind).unwrap_or(&Table::NONE), |_| {
            Spec::Deployment
        }),
    }
}

impl World {
    /// The stamp of what changes now. Hybrid of clock and counter: grows, also over a restart of the
    /// control plane.
    pub(super) fn stamp(&self, now: SystemTime) -> Stamp {
        let clock = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let clock = u64::try_from(clock).unwrap_or(0);
        Stamp {
            at: now,
            generation: clock.max(self.generation.saturating_add(1)),
        }
    }
}
