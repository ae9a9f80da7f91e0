//! Who may call, and how are calls treated?

use std::collections::BTreeSet;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource;
use serde::{Deserialize, Serialize};

use crate::model::{Labels, Observed, Reach, wire};

/// The name of the policy that a source declares where it could not take some of a namespace: no object of
/// an API server has it.
pub const NOT_TAKEN: &str = "(not-taken)";

/// Who may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// To whom it applies. Mesh and Cluster are heard only from [`super::SYSTEM_NAMESPACE`] (or from an
    /// object without namespace); elsewhere the policy is invalid in its own namespace. If the
    /// target could not be read: Namespace.
    pub target: PolicyTarget,
    /// Action and rules; name, scope, origin and `invalid` are filled in by the core. `None`: the
    /// policy only sets `inbound`.
    #[serde(with = "wire::optional")]
    pub body: Option<resource::AccessPolicy>,
    /// What inbound accepts, where it says so; of several the narrowest target counts.
    #[serde(with = "wire::optional_number")]
    pub inbound: Option<resource::InboundMode>,
    /// Why it could not be understood in full. Where the policy was never understood, its target denies
    /// everything; where it was, it counts as it was. One whose `body` is an Audit all the same is left
    /// out: it would have changed no verdict.
    pub invalid: Option<String>,
    /// Its status.
    pub observed: Observed,
}

impl AccessPolicy {
    /// Does it say what the other one says, whatever their statuses are?
    pub(crate) fn says_what(&self, other: &Self) -> bool {
        let Self {
            target,
            body,
            inbound,
            invalid,
            observed: _,
        } = self;
        (target, inbound, invalid) == (&other.target, &other.inbound, &other.invalid)
            && *body == other.body
    }
}

impl TrafficPolicy {
    /// Does it say what the other one says, whatever their statuses are?
    pub(crate) fn says_what(&self, other: &Self) -> bool {
        let Self {
            reach,
            service,
            body,
            cover_imported,
            invalid,
            observed: _,
        } = self;
        (reach, service) == (&other.reach, &other.service)
            && (cover_imported, invalid) == (&other.cover_imported, &other.invalid)
            && *body == other.body
    }
}

/// To whom an access policy applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyTarget {
    /// Every workload of every cluster.
    Mesh,
    /// Every workload of the cluster.
    Cluster,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The pods behind any of these services of the policy's namespace.
    Services(BTreeSet<String>),
    /// The pods of the policy's namespace that have these labels. Empty: all of them.
    Workloads(Labels),
}

/// How calls to a service are treated, by clients in the policy's cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// The service or import, in the policy's namespace.
    pub reach: Reach,
    /// Its name.
    pub service: String,
    /// The treatment.
    #[serde(with = "wire")]
    pub body: resource::TrafficPolicy,
    /// Only for `Reach::Cluster`: the cluster-local name covers the endpoints that other clusters
    /// export under the same namespace and name too.
    pub cover_imported: bool,
    /// Why it could not be understood; such a policy is not used, and a condition says so.
    pub invalid: Option<String>,
    /// Its status.
    pub observed: Observed,
}

/// Who is not believed any more. Of clusters whose policies for the mesh count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustPolicy {
    /// Clusters that are cut off.
    pub distrusted: BTreeSet<ClusterId>,
    /// Its status.
    #[serde(default, skip_serializing_if = "Observed::is_empty")]
    pub observed: Observed,
}
