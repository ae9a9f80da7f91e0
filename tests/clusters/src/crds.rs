//! Which kinds must a cluster know beside Kubernetes' own, before the mesh's objects fit in?
//!
//! Our own and those of the Multi-Cluster Services API are in deploy/crds, and are as they are
//! installed. Of the routes of the Gateway API defaults and statuses are as its reference has them (see
//! `gateway_api`); of the others only names, versions, scopes and statuses are here, and any fields are
//! taken: what reads them is tested, not they.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{gateway_api, manifest};

/// What `isthmus install` would define.
const DEFINITIONS: [&str; 6] = [
    include_str!("../../../deploy/crds/isthmus.dev_accesspolicies.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_meshclusters.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_trafficpolicies.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_trustpolicies.yaml"),
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceexports.yaml"),
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceimports.yaml"),
];

/// A kind: group, kind, plural, is it namespaced, versions that are served, the stored one first.
type Kind = (
    &'static str,
    &'static str,
    &'static str,
    bool,
    &'static [&'static str],
);

const GATEWAY: &str = "gateway.networking.k8s.io";
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
        "multicluster.x-k8s.io",
        "ClusterProfile",
        "clusterprofiles",
        true,
        &["v1alpha1"],
    ),
    (
        ABOUT,
        "ClusterProperty",
        "clusterproperties",
        false,
        &["v1beta1", "v1alpha1"],
    ),
];

/// The definitions of every kind that the mesh looks at, but for those that are defined already:
/// `known` has their names, `plural.group`.
///
/// # Errors
/// A file of deploy/crds is no YAML.
pub fn missing(known: &BTreeSet<String>) -> anyhow::Result<Vec<Value>> {
    let mut all: Vec<Value> = KINDS.iter().map(definition).collect();
    for text in DEFINITIONS {
        all.extend(manifest::objects(text)?);
    }
    all.retain(|definition| {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str);
        name.is_none_or(|name| !known.contains(name))
    });
    Ok(all)
}

/// The definition of one kind.
#[must_use]
pub fn permissive_of(kind: &str) -> Option<Value> {
    KINDS.iter().find(|(_, k, ..)| *k == kind).map(definition)
}

fn definition((group, kind, plural, namespaced, versions): &Kind) -> Value {
    let anything = || json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = gateway_api::route(kind).unwrap_or_else(anything);
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
        let all = missing(&BTreeSet::new()).unwrap();
        assert_eq!(all.len(), KINDS.len() + DEFINITIONS.len());
        let rest = missing(&known).unwrap();
        assert_eq!(rest.len(), all.len() - 1);
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
