//! What does a cluster of the mesh say of itself?

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use isthmus_control_plane_core::model::{
    Allotment, CredentialRef, GatewayChoice, MeshCluster, Observed, PRICE_MAX, PRIORITY_MAX, Spec,
};
use isthmus_control_plane_core::world::RESERVED;
use isthmus_proto::ids::{is_dns_name, is_object_name};
use isthmus_proto::locality::Locality;
use isthmus_proto::range::IpRange;
use isthmus_proto::spiffe::TrustDomain;
use serde::Deserialize;

use super::gateway::{GATEWAY_PORT, reachable};
use super::{Bad, Document, Failure, Metadata, status};

/// Most gateways of one cluster.
const GATEWAYS_MAX: usize = 16;
/// Most ranges of one cluster's pods.
const RANGES_MAX: usize = 32;
/// Which root the trust domain should have, by its number.
const ROOT_ANNOTATION: &str = "isthmus.dev/root";
/// The key of a Secret that a kubeconfig is expected under.
const CREDENTIAL_KEY: &str = "kubeconfig";
/// The annotation in which `isthmus cluster join` writes which cluster is meant.
const UID: &str = "isthmus.dev/cluster-uid";

#[derive(Deserialize)]
struct Cluster {
    spec: ClusterSpec,
    #[serde(default)]
    status: Option<serde_json::Value>,
}

/// One cluster of the mesh, as its control plane should see it. Its name is the cluster's name.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClusterSpec {
    /// The network that pods and virtual addresses are on: the same name in two clusters says that
    /// their pods reach each other without a gateway.
    network: String,
    /// Where its pods' addresses are, in CIDR notation: `10.8.0.0/16`, `fd00:8::/48`. Others are told of
    /// no endpoint outside of them, and a pod in them that another cluster of the network calls by its
    /// address is called by mutual TLS. Not written: its endpoints may be anywhere.
    #[serde(default)]
    pod_ranges: Option<Vec<String>>,
    /// The region of pods whose node does not say.
    #[serde(default)]
    region: Option<String>,
    /// The zone of pods whose node does not say.
    #[serde(default)]
    zone: Option<String>,
    /// The domain of its names in DNS (the kubelet's `clusterDomain`): its clients call its services by
    /// `cart.shop.svc.<cluster domain>`. Default: cluster.local.
    #[serde(default)]
    cluster_domain: Option<String>,
    /// The trust domain of its workloads. It follows from the name (`<name>.<mesh domain>`); written
    /// here it is compared, and a condition tells of a difference.
    #[serde(default)]
    trust_domain: Option<String>,
    /// Its east-west gateways. Not written: every Gateway of class `isthmus-east-west` in the
    /// cluster's namespace `isthmus-system`.
    #[serde(default)]
    gateways: Option<Vec<RawGateway>>,
    /// May its sidecars pass through what is no service of the mesh? `Deny` holds whatever their own
    /// configuration says, and cuts what is open. Default: Allow.
    #[serde(default)]
    passthrough: Option<Passthrough>,
    /// Which tier it is in for calls from other clusters, 0 to 9: a lower one is preferred as long as it
    /// has room. A tier is worth 100 ms of latency. Default: 0.
    #[serde(default)]
    priority: Option<u32>,
    /// What a GiB between it and other clusters costs, in thousandths of what you count in: 20 is 0.02.
    /// Charged to calls as latency, 1 ms for each 2. At most 10000. Default: 0.
    #[serde(default)]
    price: Option<u32>,
    /// How its API server is reached. Not written: the cluster that the control plane runs in, or one
    /// that its configuration names.
    #[serde(default)]
    credential: Option<RawCredential>,
    /// Who signs for its workloads, if that is handed in (by cert-manager, by hand). Not written: the
    /// control plane makes its own keys.
    #[serde(default)]
    issuer: Option<RawIssuer>,
    /// How much of it the mesh takes in. Beyond it an object is refused, what was known of it stays,
    /// and the condition QuotaExceeded tells. Not written: as the control plane's configuration says.
    #[serde(default)]
    quota: Option<RawQuota>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawQuota {
    /// Endpoints in its EndpointSlices.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    endpoints: Option<u32>,
    /// Memory for its objects, in MiB, by estimate.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    mebibytes: Option<u32>,
}

#[derive(Deserialize, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum Passthrough {
    /// They may.
    Allow,
    /// Nothing leaves that is not for a service.
    Deny,
}

/// Either `name`, or `address` and perhaps `port`.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawGateway {
    /// A Gateway of class `isthmus-east-west` in the cluster's namespace `isthmus-system`.
    #[serde(default)]
    name: Option<String>,
    /// An IP address or a host name at which other networks reach the gateway.
    #[serde(default)]
    address: Option<String>,
    /// The port at that address. Default: 15443.
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCredential {
    /// A Secret in the control plane's namespace.
    secret_ref: SecretRef,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct SecretRef {
    /// The Secret's name.
    name: String,
    /// The key whose value is a kubeconfig. Default: kubeconfig.
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawIssuer {
    /// A Secret of the type `kubernetes.io/tls` in the control plane's namespace.
    secret_ref: IssuerSecretRef,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct IssuerSecretRef {
    /// The Secret's name. It has `tls.crt` (the signing certificate, then what stands above it),
    /// `tls.key` and `ca.crt` (the roots).
    name: String,
}

pub(super) fn mesh_cluster(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: Cluster = document.decode()?;
    let name = metadata.name.as_deref().unwrap_or_default();
    if RESERVED.contains(&name) {
        let why = format!("metadata.name: {name:?} is reserved for the mesh itself");
        return Err(document.failure(why));
    }
    let cluster =
        understand(raw.spec, name).map_err(|Bad(why)| document.failure(format!("spec.{why}")))?;
    let root = metadata
        .annotation(ROOT_ANNOTATION)
        .map(str::parse::<NonZeroU32>);
    let root = root.transpose().map_err(|_| {
        document.failure(format!(
            "metadata.annotations[{ROOT_ANNOTATION}]: not a number from 1"
        ))
    })?;
    Ok(Spec::MeshCluster(MeshCluster {
        root: root.map(NonZeroU32::get),
        observed: status::observed(metadata, raw.status.as_ref(), status::CLUSTER),
        uid: metadata.annotations().remove(UID),
        ..cluster
    }))
}

fn understand(raw: ClusterSpec, name: &str) -> Result<MeshCluster, Bad> {
    let network = raw
        .network
        .parse()
        .map_err(|bad| Bad(format!("network: {bad}")))?;
    let trust_domain = raw.trust_domain.as_deref().map(|text| domain(text, name));
    Ok(MeshCluster {
        root: None,
        network,
        pod_ranges: raw
            .pod_ranges
            .map(|listed| some_ranges(&listed))
            .transpose()?
            .unwrap_or_default(),
        locality: Locality {
            region: raw.region.unwrap_or_default(),
            zone: raw.zone.unwrap_or_default(),
        },
        cluster_domain: raw.cluster_domain.map(cluster_domain).transpose()?,
        trust_domain: trust_domain.transpose()?,
        gateways: raw.gateways.map(gateways).transpose()?.unwrap_or_default(),
        priority: hint("priority", raw.priority, PRIORITY_MAX)?,
        price: hint("price", raw.price, PRICE_MAX)?,
        passthrough_denied: raw.passthrough == Some(Passthrough::Deny),
        credential: raw.credential.map(credential).transpose()?,
        issuer: raw.issuer.map(issuer).transpose()?,
        uid: None,
        quota: raw
            .quota
            .as_ref()
            .map(allotment)
            .transpose()?
            .unwrap_or_default(),
        observed: Observed::default(),
    })
}

/// The clusterset's own names are all clusters'.
fn cluster_domain(text: String) -> Result<String, Bad> {
    let taken = text == "clusterset.local" || text.ends_with(".clusterset.local");
    if taken || !is_dns_name(&text) {
        return Err(Bad(format!(
            "clusterDomain: {text:?} is no domain of a cluster"
        )));
    }
    Ok(text)
}

/// The mesh domain is not known here: that is compared later.
fn domain(text: &str, cluster: &str) -> Result<TrustDomain, Bad> {
    let rest = text.strip_prefix(cluster);
    if rest.is_none_or(|rest| !rest.starts_with('.')) {
        return Err(Bad(format!(
            "trustDomain: {text:?} is another cluster's; this one's begins with {cluster:?} and a dot"
        )));
    }
    text.parse()
        .map_err(|bad| Bad(format!("trustDomain: {bad}")))
}

/// An empty list could be read as "nowhere" or as "anywhere".
fn some_ranges(listed: &[String]) -> Result<Vec<IpRange>, Bad> {
    if listed.is_empty() {
        let why = format!("podRanges: 1 to {RANGES_MAX}, or not written");
        return Err(Bad(why));
    }
    pod_ranges(listed.iter().map(String::as_str)).map_err(|Bad(why)| Bad(format!("podRanges{why}")))
}

/// Ranges as they are written; an error says which is wrong: `[0]: …`.
pub(super) fn pod_ranges<'a>(listed: impl Iterator<Item = &'a str>) -> Result<Vec<IpRange>, Bad> {
    let mut ranges = Vec::new();
    for (at, text) in listed.enumerate() {
        if at >= RANGES_MAX {
            return Err(Bad(format!(": more than {RANGES_MAX}")));
        }
        let range = text.parse().and_then(IpRange::of_pods);
        let range = range.map_err(|bad| Bad(format!("[{at}]: {bad}")))?;
        if ranges.contains(&range) {
            return Err(Bad(format!("[{at}]: {range} is written twice")));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// None is not the same as nothing written, and nobody knows what it should mean.
fn gateways(listed: Vec<RawGateway>) -> Result<Vec<GatewayChoice>, Bad> {
    if listed.is_empty() || listed.len() > GATEWAYS_MAX {
        return Err(Bad(format!(
            "gateways: 1 to {GATEWAYS_MAX}, or not written"
        )));
    }
    let mut gateways = Vec::with_capacity(listed.len());
    for (at, one) in listed.into_iter().enumerate() {
        let place = |Bad(why)| Bad(format!("gateways[{at}]: {why}"));
        gateways.push(gateway(one).map_err(place)?);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = gateways.iter().find(|one| !seen.insert(*one)) {
        return Err(Bad(format!("gateways: {twice:?} is named twice")));
    }
    Ok(gateways)
}

fn hint(field: &str, written: Option<u32>, most: u32) -> Result<u32, Bad> {
    let number = written.unwrap_or(0);
    if number > most {
        return Err(Bad(format!("{field}: {number} is not 0 to {most}")));
    }
    Ok(number)
}

fn allotment(raw: &RawQuota) -> Result<Allotment, Bad> {
    if raw.endpoints == Some(0) || raw.mebibytes == Some(0) {
        return Err(Bad("quota: nothing would be taken in".to_owned()));
    }
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Allotment {
        endpoints: raw.endpoints.map(count),
        bytes: raw
            .mebibytes
            .map(|mebibytes| count(mebibytes).saturating_mul(1024 * 1024)),
    })
}

fn gateway(raw: RawGateway) -> Result<GatewayChoice, Bad> {
    match (raw.name, raw.address, raw.port) {
        (Some(name), None, None) if is_object_name(&name) => Ok(GatewayChoice::Named(name)),
        (Some(name), None, None) => Err(Bad(format!("{name:?} is no name of a Gateway"))),
        (None, Some(_), Some(0)) => Err(Bad("port: 0 is no port".to_owned())),
        (None, Some(text), port) => {
            let address = reachable(&text)?;
            let port = port.unwrap_or(GATEWAY_PORT);
            Ok(GatewayChoice::At { address, port })
        }
        _ => Err(Bad("either name, or address and perhaps port".to_owned())),
    }
}

fn credential(raw: RawCredential) -> Result<CredentialRef, Bad> {
    let SecretRef { name, key } = raw.secret_ref;
    if !is_object_name(&name) {
        let why = format!("credential.secretRef: {name:?} is no name of a Secret");
        return Err(Bad(why));
    }
    let key = key.unwrap_or_else(|| CREDENTIAL_KEY.to_owned());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if key.is_empty() || key.len() > 253 || !key.bytes().all(plain) {
        let why = format!("credential.secretRef: {key:?} is no key of a Secret");
        return Err(Bad(why));
    }
    Ok(CredentialRef { secret: name, key })
}

fn issuer(raw: RawIssuer) -> Result<String, Bad> {
    let IssuerSecretRef { name } = raw.secret_ref;
    if is_object_name(&name) {
        return Ok(name);
    }
    let why = format!("issuer.secretRef: {name:?} is no name of a Secret");
    Err(Bad(why))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{one, read};
    use isthmus_control_plane_core::model::GatewayAddress;

    use super::*;

    fn manifest(spec: &str) -> String {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {{name: west}}\nspec: {spec}\n"
        )
    }

    fn cluster(spec: &str) -> MeshCluster {
        let Spec::MeshCluster(cluster) = one(&manifest(spec)).spec else {
            panic!("a MeshCluster")
        };
        cluster
    }

    #[test]
    fn a_quota_may_be_written_in_part_and_is_never_nothing() {
        let found = cluster("{network: n, quota: {mebibytes: 2}}").quota;
        assert_eq!(
            (found.endpoints, found.bytes),
            (None, Some(2 * 1024 * 1024))
        );
        assert!(cluster("{network: n}").quota.is_none());
        let parsed = crate::manifest::parse(
            &manifest("{network: n, quota: {endpoints: 0}}"),
            &"west".parse().unwrap(),
        );
        assert!(parsed.errors[0].message.contains("quota"), "{parsed:?}");
    }

    #[test]
    fn names_of_the_mesh_itself_are_no_clusters() {
        for name in RESERVED {
            let text = manifest("{network: n}").replace("name: west", &format!("name: {name}"));
            let problem = &read(&text).errors[0];
            let said = format!("metadata.name: {name:?} is reserved");
            assert!(problem.message.starts_with(&said), "{problem}");
            assert_eq!(problem.line, 3);
        }
    }

    #[test]
    fn ranges_of_pods_are_read() {
        let found = cluster("{network: n, podRanges: [10.8.0.0/16, 'fd00:8::/48']}").pod_ranges;
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.8.0.0/16", "fd00:8::/48"]);
        assert!(cluster("{network: n}").pod_ranges.is_empty());
    }

    #[test]
    fn join_says_which_cluster_is_meant() {
        let text = manifest("{network: n}").replace(
            "metadata: {name: west}",
            "metadata: {name: west, annotations: {isthmus.dev/cluster-uid: 8c1e}}",
        );
        let Spec::MeshCluster(cluster) = one(&text).spec else {
            panic!("a MeshCluster")
        };
        assert_eq!(cluster.uid.as_deref(), Some("8c1e"));
    }

    #[test]
    fn gateways_are_named_or_have_an_address() {
        let found = cluster(
            "{network: n, priority: 1, price: 20, trustDomain: west.mesh.internal, credential: {secretRef: {name: west}}, \
             issuer: {secretRef: {name: west-ca}}, \
             gateways: [{name: a}, {address: 203.0.113.7}, {address: GW.example.com., port: 443}]}",
        );
        assert_eq!(found.charge_ms(), 110);
        assert_eq!(
            found.gateways,
            [
                GatewayChoice::Named("a".to_owned()),
                GatewayChoice::At {
                    address: GatewayAddress::Ip("203.0.113.7".parse().unwrap()),
                    port: 15443
                },
                GatewayChoice::At {
                    address: GatewayAddress::Hostname("gw.example.com".to_owned()),
                    port: 443
                },
            ]
        );
        assert_eq!(found.trust_domain.unwrap().as_str(), "west.mesh.internal");
        assert_eq!(found.credential.unwrap().key, "kubeconfig");
        assert_eq!(found.issuer.as_deref(), Some("west-ca"));
    }

    fn each_is_refused(cases: &[(&str, &str)]) {
        for (spec, says) in cases {
            let parsed = read(&manifest(spec));
            let message = &parsed
                .errors
                .first()
                .unwrap_or_else(|| panic!("{spec}"))
                .message;
            assert!(message.contains(says), "{message} lacks {says}");
        }
    }

    #[test]
    fn a_cluster_that_is_not_understood_is_refused_with_the_field() {
        each_is_refused(&[
            ("{network: N}", "spec.network"),
            ("{network: n, trustDomain: west.a_b}", "spec.trustDomain"),
            (
                "{network: n, trustDomain: east.mesh.internal}",
                "spec.trustDomain: \"east.mesh.internal\" is another",
            ),
            (
                "{network: n, trustDomain: westmost.internal}",
                "is another cluster's",
            ),
            ("{network: n, credential: {}}", "secretRef"),
            (
                "{network: n, credential: {secretRef: {name: W}}}",
                "no name of a Secret",
            ),
            (
                "{network: n, credential: {secretRef: {name: w, key: a/b}}}",
                "no key of a Secret",
            ),
            ("{network: n, issuer: {}}", "secretRef"),
            (
                "{network: n, issuer: {secretRef: {name: a/b}}}",
                "issuer.secretRef: \"a/b\" is no name of a Secret",
            ),
            (
                "{network: n, priority: 10}",
                "spec.priority: 10 is not 0 to 9",
            ),
            ("{network: n, price: 10001}", "spec.price: 10001 is not"),
            ("{network: n, podRanges: []}", "spec.podRanges: 1 to 32"),
            (
                "{network: n, podRanges: [10.8.0.0/16, 10.8.0.1/16]}",
                "spec.podRanges[1]: range \"10.8.0.1/16\": its address has bits",
            ),
            (
                "{network: n, podRanges: [10.8.0.0/16, 0.0.0.0/0]}",
                "spec.podRanges[1]: range \"0.0.0.0/0\": wider than /4",
            ),
            (
                "{network: n, podRanges: ['::/0']}",
                "spec.podRanges[0]: range \"::/0\": wider than /12",
            ),
            (
                "{network: n, podRanges: [fd00::/48, fd00::/48]}",
                "spec.podRanges[1]: fd00::/48 is written twice",
            ),
            ("{network: n, colour: red}", "colour"),
        ]);
    }

    #[test]
    fn a_gateway_that_leads_nowhere_is_refused_with_its_place() {
        each_is_refused(&[
            ("{network: n, gateways: []}", "spec.gateways: 1 to 16"),
            (
                "{network: n, gateways: [{address: 127.0.0.1}]}",
                "spec.gateways[0]: address: \"127.0.0.1\" leads nowhere",
            ),
            (
                "{network: n, gateways: [{address: \"::ffff:10.0.0.1\"}]}",
                "leads nowhere",
            ),
            (
                "{network: n, gateways: [{address: a.LOCALHOST.}]}",
                "leads nowhere",
            ),
            ("{network: n, gateways: [{}]}", "spec.gateways[0]: either"),
            (
                "{network: n, gateways: [{name: a, address: b}]}",
                "spec.gateways[0]: either",
            ),
            (
                "{network: n, gateways: [{name: a, port: 1}]}",
                "spec.gateways[0]: either",
            ),
            (
                "{network: n, gateways: [{address: \"a b\"}]}",
                "spec.gateways[0]: address",
            ),
            (
                "{network: n, gateways: [{address: a, port: 0}]}",
                "spec.gateways[0]: port",
            ),
            (
                "{network: n, gateways: [{name: a}, {name: a}]}",
                "named twice",
            ),
        ]);
    }
}
