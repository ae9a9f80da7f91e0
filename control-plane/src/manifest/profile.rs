//! What does an inventory say of a cluster?
//!
//! ClusterProfiles (KEP-4322) are written by a cluster manager that knows nothing of meshes: what is
//! missing has a default, and a MeshCluster says more.

use isthmus_control_plane_core::model::{
    AccessProvider, Allotment, ClusterProfile, MeshCluster, Observed, Spec,
};
use isthmus_proto::ids::{NAME_BYTES_MAX, NetworkId};
use isthmus_proto::locality::Locality;
use serde::Deserialize;

use super::cluster::pod_ranges;
use super::{Bad, Document, Failure, Metadata};

/// The property that names a cluster in its set (KEP-2149).
const CLUSTER: &str = "cluster.clusterset.k8s.io";
/// The property, label or annotation that names the network of its pods.
const NETWORK: &str = "isthmus.dev/network";
/// ... that says where its pods' addresses are, with commas.
const POD_RANGES: &str = "isthmus.dev/pod-ranges";
/// Ways to one cluster, as the definition of ClusterProfiles has it.
const PROVIDERS_MAX: usize = 64;
/// One of them, in bytes.
const PROVIDER_BYTES_MAX: usize = 64 << 10;
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    properties: Option<Vec<Property>>,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
    #[serde(default, rename = "accessProviders")]
    access: Option<Vec<Provider>>,
    /// As it was called first.
    #[serde(default, rename = "credentialProviders")]
    credentials: Option<Vec<Provider>>,
}

#[derive(Deserialize)]
struct Provider {
    name: String,
    #[serde(default)]
    cluster: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Property {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

pub(super) fn cluster_profile(
    document: &Document<'_>,
    metadata: &Metadata,
) -> Result<Spec, Failure> {
    let raw: Profile = document.decode()?;
    let status = raw.status.unwrap_or_default();
    let annotations = metadata.annotations();
    let properties = status.properties.unwrap_or_default();
    let says = |key: &str| {
        let property = properties.iter().find(|p| p.name == key);
        let property = property.map(|p| p.value.as_str());
        let label = metadata.label(key);
        let annotation = annotations.get(key).map(String::as_str);
        let said = property.or(label).or(annotation);
        said.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let name = metadata.name.clone().unwrap_or_default();
    let cluster = says(CLUSTER).unwrap_or(name);
    // Without a network it is on one of its own, as a cluster without a MeshCluster.
    let network = says(NETWORK).unwrap_or_else(|| cluster.clone());
    let network: NetworkId = network
        .parse()
        .map_err(|bad| document.failure(format!("{NETWORK}: {bad}")))?;
    let ranges = says(POD_RANGES).unwrap_or_default();
    let ranges = ranges
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let pod_ranges =
        pod_ranges(ranges).map_err(|Bad(why)| document.failure(format!("{POD_RANGES}{why}")))?;
    let conditions = status.conditions.unwrap_or_default();
    let access = status.access.into_iter().chain(status.credentials);
    let access = providers(access.flatten()).map_err(|Bad(why)| document.failure(why))?;
    let left = |c: &Condition| c.r#type == "Joined" && c.status == "False";
    Ok(Spec::ClusterProfile(ClusterProfile {
        has_left: conditions.iter().any(left),
        mesh: MeshCluster {
            network,
            pod_ranges,
            locality: Locality {
                region: says(REGION).unwrap_or_default(),
                zone: says(ZONE).unwrap_or_default(),
            },
            cluster_domain: None,
            passthrough_denied: false,
            trust_domain: None,
            gateways: Vec::new(),
            priority: 0,
            price: 0,
            credential: None,
            issuer: None,
            root: None,
            uid: None,
            quota: Allotment::default(),
            observed: Observed::default(),
        },
        cluster,
        access,
    }))
}

/// Of two with one name the first counts: the newer field's.
fn providers(listed: impl Iterator<Item = Provider>) -> Result<Vec<AccessProvider>, Bad> {
    let mut found: Vec<AccessProvider> = Vec::new();
    for one in listed {
        if found.iter().any(|known| known.name == one.name) {
            continue;
        }
        if found.len() >= PROVIDERS_MAX {
            return Err(Bad(format!(
                "status.accessProviders: more than {PROVIDERS_MAX}"
            )));
        }
        let cluster = serde_json::Value::Object(one.cluster).to_string();
        if one.name.len() > NAME_BYTES_MAX || cluster.len() > PROVIDER_BYTES_MAX {
            let at = found.len();
            return Err(Bad(format!("status.accessProviders[{at}]: too long")));
        }
        found.push(AccessProvider {
            name: one.name,
            cluster,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{one, read};
    use super::*;

    fn profile(more: &str) -> ClusterProfile {
        let text = format!(
            "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ClusterProfile\n\
             metadata: {{name: fleet-7, namespace: isthmus-system}}\n\
             spec: {{displayName: seven, clusterManager: {{name: fleet}}}}\n{more}\n"
        );
        match one(&text).spec {
            Spec::ClusterProfile(profile) => profile,
            _ => panic!("a profile"),
        }
    }

    #[test]
    fn a_profile_has_its_name_and_place_from_its_properties_or_its_own_name() {
        let plain = profile("");
        assert_eq!(plain.cluster, "fleet-7");
        assert_eq!(plain.mesh.network.as_str(), "fleet-7");
        assert!(!plain.has_left);
        let named = profile(
            "status: {properties: [{name: cluster.clusterset.k8s.io, value: west}, \
             {name: isthmus.dev/network, value: flat}, \
             {name: isthmus.dev/pod-ranges, value: '10.8.0.0/16, fd00:8::/48'}, {name: topology.kubernetes.io/region, value: eu}], \
             conditions: [{type: Joined, status: 'False'}]}",
        );
        assert_eq!(named.cluster, "west");
        assert_eq!(named.mesh.network.as_str(), "flat");
        assert_eq!(named.mesh.pod_ranges.len(), 2);
        assert_eq!(named.mesh.locality.region, "eu");
        assert!(named.has_left);
    }

    #[test]
    fn the_ways_to_its_api_server_are_read_under_both_names() {
        let found = profile(
            "status: {accessProviders: [{name: fleet, cluster: {server: 'https://a:6443'}}], \
             credentialProviders: [{name: fleet, cluster: {server: 'https://b'}}, {name: old}]}",
        );
        let one = |name: &str, cluster: &str| AccessProvider {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
        };
        let server = r#"{"server":"https://a:6443"}"#;
        assert_eq!(found.access, [one("fleet", server), one("old", "{}")]);
        let many: Vec<String> = (0..65).map(|n| format!("{{name: p{n}}}")).collect();
        let text = format!(
            "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ClusterProfile\n\
             metadata: {{name: a, namespace: isthmus-system}}\nstatus: {{accessProviders: [{}]}}\n",
            many.join(", ")
        );
        let message = &read(&text).errors[0].message;
        assert!(
            message.contains("accessProviders: more than 64"),
            "{message}"
        );
    }

    #[test]
    fn a_network_that_is_no_name_is_refused_with_its_key() {
        let text = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ClusterProfile\n\
             metadata: {name: a, namespace: isthmus-system, labels: {isthmus.dev/network: A_B}}\n";
        let parsed = read(text);
        assert!(parsed.errors[0].message.contains("isthmus.dev/network"));
    }
}
