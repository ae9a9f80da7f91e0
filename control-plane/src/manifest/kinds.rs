//! Is there such a kind, of the groups that the mesh reads?
//!
//! `kind: Servce` would else be one of the many that the mesh does not look at, and nobody would be told.

/// The group of the mesh's own kinds.
const OURS: &str = "isthmus.dev";

/// Groups that are read: their versions, and every kind that they have.
const GROUPS: &[(&str, &[&str], &[&str])] = &[
    (
        "",
        &["v1"],
        &[
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "List",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    (
        "apps",
        &["v1"],
        &[
            "ControllerRevision",
            "DaemonSet",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
        ],
    ),
    ("discovery.k8s.io", &["v1"], &["EndpointSlice"]),
    (
        "multicluster.x-k8s.io",
        &["v1", "v1beta1", "v1alpha2", "v1alpha1"],
        &[
            "ClusterProfile",
            "PlacementDecision",
            "ServiceExport",
            "ServiceImport",
            "Work",
            "AppliedWork",
        ],
    ),
    (
        "gateway.networking.k8s.io",
        &["v1", "v1beta1", "v1alpha3", "v1alpha2"],
        &[
            "BackendLBPolicy",
            "BackendTLSPolicy",
            "GRPCRoute",
            "Gateway",
            "GatewayClass",
            "HTTPRoute",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        ],
    ),
    (
        "about.k8s.io",
        &["v1", "v1beta1", "v1alpha1"],
        &["ClusterProperty"],
    ),
    (
        OURS,
        &["v1alpha1"],
        &[
            "AccessPolicy",
            "MeshCluster",
            "TrafficPolicy",
            "TrustPolicy",
        ],
    ),
];

/// Why there is no such kind; of groups that are not read nothing is known.
pub(super) fn check(version: &str, kind: &str) -> Result<(), String> {
    let (group, number) = split(version);
    let Some((_, versions, kinds)) = GROUPS.iter().find(|(name, ..)| *name == group) else {
        return Ok(());
    };
    if !versions.contains(&number) {
        return Err(format!(
            "apiVersion: {version:?} is no version that is known; known of this group: {}",
            versions.join(", ")
        ));
    }
    if !kinds.contains(&kind) {
        return Err(format!("kind: {version} has no kind {kind:?}"));
    }
    Ok(())
}

/// A kind that is read, in a version that is not known here.
pub(super) fn is_of_no_known_version(version: &str, kind: &str) -> bool {
    let (group, number) = split(version);
    let found = GROUPS.iter().find(|(name, ..)| *name == group);
    found.is_some_and(|(_, versions, kinds)| kinds.contains(&kind) && !versions.contains(&number))
}

/// An access policy of a version that is not known: it can't be understood, and must not be left out.
pub(super) fn is_access_policy_of_no_known_version(version: &str, kind: &str) -> bool {
    split(version).0 == OURS && kind == "AccessPolicy" && is_of_no_known_version(version, kind)
}

fn split(version: &str) -> (&str, &str) {
    version.split_once('/').unwrap_or(("", version))
}
