//! Which kinds must a cluster know beside Kubernetes' own, before the mesh's objects fit in?
//!
//! The real definitions come from their projects and from deploy/crds. These here have the names,
//! versions, scopes and statuses only, and take any fields: what reads them is tested, not they.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A kind: group, kind, plural, is it namespaced, versions that are served, the stored one first.
type Kind = (
    &'static str,
    &'static str,
    &'static str,
    bool,
    &'static [&'static str],
);

const GATEWAY: &str = "gateway.networking.k8s.io";
const MCS: &str = "multicluster.x-k8s.io";
const ISTHMUS: &str = "isthmus.dev";
const ABOUT: &str = "about.k8s.io";

const KINDS: &[Kind] = &[
    (GATEWAY, "GatewayClass", "gatewayclasses", false, &["v1"]),
    (GATEWAY, "Gateway", "gateways", true, &["v1"]),
    (GATEWAY, "HTTPRoute", "httproutes", true, &["v1"]),
    (GATEWAY, "GRPCRoute", "grpcroutes", true, &["v1"]),
    (GATEWAY, "TCPRoute", "tcproutes", true, &["v1alpha2", "v1"]),
    (
        GATEWAY,
        "TLSRoute",
        "tlsroutes",
        true,
        &["v1", "v1alpha3", "v1alpha2"],
    ),
    (
        GATEWAY,
        "ReferenceGrant",
        "referencegrants",
        true,
        &["v1beta1", "v1"],
    ),
    (
        MCS,
        "ServiceExport",
        "serviceexports",
        true,
        &["v1beta1", "v1alpha1"],
    ),
    (
        MCS,
        "ServiceImport",
        "serviceimports",
        true,
        &["v1beta1", "v1alpha1"],
    ),
    (
        ABOUT,
        "ClusterProperty",
        "clusterproperties",
        false,
        &["v1beta1", "v1alpha1"],
    ),
    (ISTHMUS, "MeshCluster", "meshclusters", false, &["v1alpha1"]),
    (
        ISTHMUS,
        "AccessPolicy",
        "accesspolicies",
        true,
        &["v1alpha1"],
    ),
    (
        ISTHMUS,
        "TrafficPolicy",
        "trafficpolicies",
        true,
        &["v1alpha1"],
    ),
    (
        ISTHMUS,
        "TrustPolicy",
        "trustpolicies",
        false,
        &["v1alpha1"],
    ),
];

/// The definitions of every kind that the mesh looks at, but for those that are defined already:
/// `known` has their names, `plural.group`.
#[must_use]
pub fn permissive(known: &BTreeSet<String>) -> Vec<Value> {
    KINDS
        .iter()
        .filter(|(group, _, plural, ..)| !known.contains(&format!("{plural}.{group}")))
        .map(definition)
        .collect()
}

/// The definition of one kind.
#[must_use]
pub fn permissive_of(kind: &str) -> Option<Value> {
    KINDS.iter().find(|(_, k, ..)| *k == kind).map(definition)
}

fn definition((group, kind, plural, namespaced, versions): &Kind) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(at, version)| {
            json!({
                "name": version, "served": true, "storage": at == 0,
                "schema": { "openAPIV3Schema": schema },
                "subresources": { "status": {} },
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            // Groups of Kubernetes itself want a word.
            "annotations": { "api-approved.kubernetes.io": "unapproved, without a schema, for tests" },
        },
        "spec": {
            "group": group,
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "names": {
                "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                "listKind": format!("{kind}List"),
            },
            "versions": versions,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_known_is_left_alone() {
        let known = BTreeSet::from(["meshclusters.isthmus.dev".to_owned()]);
        let all = permissive(&BTreeSet::new());
        assert_eq!(all.len(), KINDS.len());
        let rest = permissive(&known);
        assert_eq!(rest.len(), KINDS.len() - 1);
        assert!(
            rest.iter()
                .all(|d| d["spec"]["names"]["kind"] != "MeshCluster")
        );
        for definition in all {
            let stored = definition["spec"]["versions"].as_array().unwrap();
            assert_eq!(stored.iter().filter(|v| v["storage"] == true).count(), 1);
        }
    }
}
