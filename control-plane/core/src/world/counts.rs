//! How many objects does a cluster declare?

use std::collections::BTreeMap;

use crate::model::Kind;
use crate::world::cluster::Cluster;

impl Cluster {
    /// How many objects of each kind there are.
    pub(crate) fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::from([
            (Kind::Pod, self.pods.len()),
            (Kind::Service, self.services.len()),
            (Kind::EndpointSlice, self.slices.len()),
            (Kind::ServiceExport, self.exports.len()),
            (Kind::ServiceImport, self.imports.len()),
            (Kind::ReferenceGrant, self.grants.len()),
            (Kind::Gateway, self.gateways.len()),
            (Kind::GatewayClass, self.classes.len()),
            (Kind::ClusterProperty, self.properties.len()),
            (Kind::MeshCluster, self.mesh.len()),
            (Kind::AccessPolicy, self.policies.len()),
            (Kind::TrafficPolicy, self.traffic.len()),
            (Kind::TrustPolicy, self.trust.len()),
            (Kind::ConfigMap, self.roots.len()),
        ]);
        counts.extend(self.routes.iter().map(|(kind, table)| (*kind, table.len())));
        counts.extend(self.plain.iter().map(|(kind, table)| (*kind, table.len())));
        counts.retain(|_, count| *count > 0);
        counts
    }
}
