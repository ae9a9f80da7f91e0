//! Which kinds are watched, and where does an API server have them?

use isthmus_control_plane_core::model::{Kind, ROOTS_NAME};

/// The group of GAMMA's routes.
const GATEWAY: &str = "gateway.networking.k8s.io";
const MULTICLUSTER: &str = "multicluster.x-k8s.io";

/// One kind of objects of all namespaces.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) what: What,
    /// Empty: the core group.
    group: &'static str,
    /// Those that say the same for us, the preferred one first.
    versions: &'static [&'static str],
    /// As the path has it.
    plural: &'static str,
    /// Only the objects of this name.
    only: Option<&'static str>,
    /// Nothing can be said of a cluster without it.
    pub(super) essential: bool,
}

/// What becomes of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Places of pods.
    Nodes,
    /// Objects of the world.
    Objects(Kind),
}

impl Collection {
    /// The kind as manifests have it.
    pub(super) fn name(&self) -> &'static str {
        match self.what {
            What::Nodes => "Node",
            What::Objects(kind) => kind.as_str(),
        }
    }

    /// `apiVersion`; the versions are counted round.
    pub(super) fn api_version(&self, version: usize) -> String {
        let round = version.checked_rem(self.versions.len()).unwrap_or(0);
        let version = self.versions.get(round).copied().unwrap_or("v1");
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// Does it say who may do what, and who belongs to the mesh?
    pub(super) fn governs(&self) -> bool {
        match self.what {
            What::Nodes => false,
            What::Objects(kind) => kind == Kind::ClusterProfile || kind.governs().is_some(),
        }
    }

    /// Does every API server have it? Then one that does not is none.
    pub(super) fn always_there(&self) -> bool {
        matches!(self.group, "" | "discovery.k8s.io")
    }

    /// What selects its objects, for a query.
    pub(super) fn selector(&self) -> Option<(&'static str, String)> {
        let name = self.only?;
        Some(("fieldSelector", format!("metadata.name={name}")))
    }

    /// How many versions there are to try.
    pub(super) fn versions(&self) -> usize {
        self.versions.len()
    }

    /// Where the collection is.
    pub(super) fn path(&self, version: usize) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{}/{}", self.api_version(version), self.plural)
    }
}

const fn core(what: What, plural: &'static str, essential: bool) -> Collection {
    Collection {
        what,
        group: "",
        versions: &["v1"],
        plural,
        only: None,
        essential,
    }
}

const fn custom(
    kind: Kind,
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
) -> Collection {
    Collection {
        what: What::Objects(kind),
        group,
        versions,
        plural,
        only: None,
        essential: matches!(kind, Kind::EndpointSlice | Kind::AccessPolicy),
    }
}

/// Every kind that is watched.
pub(super) const COLLECTIONS: &[Collection] = &[
    core(What::Nodes, "nodes", false),
    core(What::Objects(Kind::Namespace), "namespaces", true),
    core(What::Objects(Kind::Pod), "pods", true),
    core(What::Objects(Kind::Service), "services", true),
    custom(
        Kind::EndpointSlice,
        "discovery.k8s.io",
        &["v1"],
        "endpointslices",
    ),
    custom(
        Kind::ServiceExport,
        MULTICLUSTER,
        &["v1beta1", "v1alpha1"],
        "serviceexports",
    ),
    custom(
        Kind::ServiceImport,
        MULTICLUSTER,
        &["v1beta1", "v1alpha1"],
        "serviceimports",
    ),
    custom(Kind::HttpRoute, GATEWAY, &["v1", "v1beta1"], "httproutes"),
    custom(Kind::GrpcRoute, GATEWAY, &["v1", "v1alpha2"], "grpcroutes"),
    custom(Kind::TcpRoute, GATEWAY, &["v1", "v1alpha2"], "tcproutes"),
    custom(
        Kind::TlsRoute,
        GATEWAY,
        &["v1", "v1alpha3", "v1alpha2"],
        "tlsroutes",
    ),
    custom(
        Kind::ReferenceGrant,
        GATEWAY,
        &["v1", "v1beta1"],
        "referencegrants",
    ),
    custom(Kind::Gateway, GATEWAY, &["v1", "v1beta1"], "gateways"),
    custom(
        Kind::GatewayClass,
        GATEWAY,
        &["v1", "v1beta1"],
        "gatewayclasses",
    ),
    custom(
        Kind::ClusterProperty,
        "about.k8s.io",
        &["v1", "v1beta1", "v1alpha1"],
        "clusterproperties",
    ),
    custom(
        Kind::MeshCluster,
        "isthmus.dev",
        &["v1alpha1"],
        "meshclusters",
    ),
    custom(
        Kind::ClusterProfile,
        MULTICLUSTER,
        &["v1alpha1"],
        "clusterprofiles",
    ),
    custom(
        Kind::AccessPolicy,
        "isthmus.dev",
        &["v1alpha1"],
        "accesspolicies",
    ),
    custom(
        Kind::TrustPolicy,
        "isthmus.dev",
        &["v1alpha1"],
        "trustpolicies",
    ),
    custom(
        Kind::TrafficPolicy,
        "isthmus.dev",
        &["v1alpha1"],
        "trafficpolicies",
    ),
    Collection {
        only: Some(ROOTS_NAME),
        ..core(What::Objects(Kind::ConfigMap), "configmaps", false)
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_config_maps_only_ours_are_asked_for() {
        let selectors = COLLECTIONS.iter().filter_map(Collection::selector);
        let only = ("fieldSelector", "metadata.name=isthmus-roots".to_owned());
        assert_eq!(selectors.collect::<Vec<_>>(), [only]);
    }

    #[test]
    fn paths_are_those_of_an_api_server() {
        let path = |name: &str, version| {
            let collection = COLLECTIONS.iter().find(|c| c.name() == name).unwrap();
            collection.path(version)
        };
        assert_eq!(path("Pod", 0), "/api/v1/pods");
        assert_eq!(path("Pod", 7), "/api/v1/pods");
        let routes = |version: &str| format!("/apis/gateway.networking.k8s.io/{version}/tlsroutes");
        assert_eq!(path("TLSRoute", 2), routes("v1alpha2"));
        assert_eq!(path("TLSRoute", 3), routes("v1"));
        assert_eq!(
            path("AccessPolicy", 0),
            "/apis/isthmus.dev/v1alpha1/accesspolicies"
        );
    }
}
