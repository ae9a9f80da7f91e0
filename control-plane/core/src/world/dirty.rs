//! What is different now, and for whom?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_proto::ids::{ClusterId, WorkloadName};

use crate::model::ObjectRef;

/// What a change of the world may have altered. It may name too much, never too little: sessions
/// compare before they send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Everything, for everybody: a cluster was listed for the first time, joined or left.
    pub(crate) all: bool,
    pub(crate) services: BTreeMap<ServiceKey, Affected>,
    pub(crate) workloads: BTreeSet<WorkloadName>,
    /// Addresses of pods: who has them, or what is spoken there.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) policies: BTreeSet<PolicyScope>,
    /// Gateways of these clusters.
    pub(crate) gateways: BTreeSet<ClusterId>,
    /// The freshness of these clusters.
    pub(crate) freshness: BTreeSet<ClusterId>,
    /// What the gateways of these clusters may forward to.
    pub(crate) exports: BTreeSet<ClusterId>,
    pub(crate) trust: bool,
    /// How pods find the control plane.
    pub(crate) advertised: bool,
    /// Objects that the writer looks at one by one: namespaces, exports, imports, routes, grants,
    /// gateways, policies, config maps.
    pub(crate) objects: BTreeSet<ObjectRef>,
}

/// A service by what manifests call it; stands for its cluster-local names and its clusterset name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ServiceKey {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What of a service is different, and whose clients may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Affected {
    /// Clients of every cluster.
    pub(crate) everywhere: bool,
    /// Clients of these clusters.
    pub(crate) clients: BTreeSet<ClusterId>,
    /// The service itself, and so all of it.
    pub(crate) definition: bool,
    /// Endpoints in these clusters.
    pub(crate) providers: BTreeSet<ClusterId>,
    /// Its routes.
    pub(crate) routes: bool,
}

impl Affected {
    /// May a client in this cluster see it?
    pub(crate) fn concerns(&self, client: &ClusterId) -> bool {
        self.everywhere || self.clients.contains(client)
    }

    fn merge(&mut self, other: &Self) {
        self.everywhere |= other.everywhere;
        self.definition |= other.definition;
        self.routes |= other.routes;
        self.clients.extend(other.clients.iter().cloned());
        self.providers.extend(other.providers.iter().cloned());
    }
}

/// Whose policies are different.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PolicyScope {
    Mesh,
    Cluster(ClusterId),
    Namespace(ClusterId, String),
}

impl Dirty {
    /// Is nothing different?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `other` names.
    pub fn merge(&mut self, other: &Self) {
        if other.all {
            // Nothing more can be said.
            *self = Self::everything();
        }
        if self.all {
            return;
        }
        for (key, affected) in &other.services {
            self.services
                .entry(key.clone())
                .or_default()
                .merge(affected);
        }
        self.workloads.extend(other.workloads.iter().cloned());
        self.addresses.extend(&other.addresses);
        self.policies.extend(other.policies.iter().cloned());
        self.gateways.extend(other.gateways.iter().cloned());
        self.freshness.extend(other.freshness.iter().cloned());
        self.exports.extend(other.exports.iter().cloned());
        self.trust |= other.trust;
        self.advertised |= other.advertised;
        self.objects.extend(other.objects.iter().cloned());
    }

    pub(crate) fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Notes a service that clients of `cluster` see, or of every cluster if it is `exported`.
    pub(crate) fn service(
        &mut self,
        key: ServiceKey,
        cluster: &ClusterId,
        exported: bool,
    ) -> &mut Affected {
        let affected = self.services.entry(key).or_default();
        if exported {
            affected.everywhere = true;
        } else {
            affected.clients.insert(cluster.clone());
        }
        affected
    }
}
