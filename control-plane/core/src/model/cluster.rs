//! What does a cluster say of itself, and of who answers for what in it?

use serde::{Deserialize, Serialize};

use crate::model::Observed;

/// The property that is the cluster's name in its set (KEP-2149).
pub const CLUSTER_ID_PROPERTY: &str = "cluster.clusterset.k8s.io";
/// The property that is the name of its set.
pub const CLUSTER_SET_PROPERTY: &str = "clusterset.k8s.io";

/// A class of Gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayClass {
    /// Who answers for its Gateways.
    pub controller: String,
    /// Its status.
    pub observed: Observed,
}

/// A fact that a cluster states of itself: one of the two above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterProperty {
    /// As it is written.
    pub value: String,
}
