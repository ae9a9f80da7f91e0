//! What do pods and services say?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_control_plane_core::model::{
    ContainerPort, IpFamily, OtherPort, Pod, Service, ServicePort, ServiceType, Spec, Spread,
    TargetPort, Transport,
};
use isthmus_control_plane_core::write::SERVICE_NAME_LABEL;
use isthmus_proto::ids::is_object_name;
use isthmus_proto::locality::Locality;
use isthmus_proto::resource::Protocol;
use serde::Deserialize;

use super::gateway::{ServiceStatus, front};
use super::word::{client_affinity, one_of};
use super::{Bad, Document, Failure, Metadata, status};

const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// A label or annotation with the value `false` keeps a pod out of the mesh.
const OPT_OUT: [&str; 2] = ["isthmus.dev/inject", "isthmus.dev/mesh"];
/// A label or annotation with one of these values says that a pod has a sidecar (ADR-0018).
const OPT_IN: (&str, [&str; 2]) = ("isthmus.dev/mesh", ["true", "enabled"]);
/// The container that is one, beside the application or among the init containers.
const SIDECAR: &str = "isthmus-proxy";

#[derive(Deserialize)]
struct PodObject {
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Option<String>,
    host_network: Option<bool>,
    node_name: Option<String>,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    ports: Option<Vec<RawContainerPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    #[serde(default)]
    name: Option<String>,
    container_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

pub(super) fn pod(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: PodObject = document.decode()?;
    let status = raw.status;
    let mut ips: Vec<&str> = status.pod_ip.iter().map(String::as_str).collect();
    for more in status.pod_ips.iter().flatten() {
        if !ips.contains(&more.ip.as_str()) {
            ips.push(&more.ip);
        }
    }
    let ips = addresses(document, "status.podIPs", &ips)?;
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    // A manifest that was written by hand has no conditions: what has an address then serves.
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.r#type == "Ready");
    let words = ["True", "False", "Unknown"];
    let said = condition.map(|c| c.status.as_str());
    let said = one_of(document, "status.conditions", said, &words)?;
    let ready = condition.map_or(!ips.is_empty(), |_| said == Some("True")) && !finished;
    let containers = raw
        .spec
        .containers
        .iter()
        .chain(raw.spec.init_containers.iter().flatten());
    let sidecar = containers
        .clone()
        .any(|c| c.name.as_deref() == Some(SIDECAR));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    if ports.clone().any(|port| port.container_port == 0) {
        let why = "spec.containers.ports.containerPort: 0 is not 1 to 65,535";
        return Err(document.failure(why.to_owned()));
    }
    let named = |p: &RawContainerPort| {
        Some(ContainerPort {
            name: p.name.clone().filter(|n| !n.is_empty())?,
            port: p.container_port,
        })
    };
    let opted_out = OPT_OUT.iter().any(|key| metadata.says(key, "false"));
    let (key, words) = OPT_IN;
    let opted_in = words.iter().any(|word| metadata.says(key, word));
    // The folder's pods are processes that somebody started with a proxy beside each; in a cluster most
    // pods have none.
    let has_one = sidecar || opted_in || !document.is_of_server();
    Ok(Spec::Pod(Pod {
        labels: metadata.labels(),
        service_account: account(document, raw.spec.service_account_name)?,
        ips,
        ready,
        terminating: metadata.deleted(),
        finished,
        ports: ports.filter_map(named).collect(),
        locality: place(metadata),
        uid: Some(metadata.uid()).filter(|uid| !uid.is_empty()),
        node: raw.spec.node_name.filter(|name| !name.is_empty()),
        // The network of a node belongs to all of its pods: nothing can be captured there.
        meshed: has_one && !opted_out && raw.spec.host_network != Some(true),
    }))
}

/// A name that no identity can hold would leave the pod without one.
fn account(document: &Document<'_>, name: Option<String>) -> Result<String, Failure> {
    match name.filter(|name| !name.is_empty()) {
        None => Ok("default".to_owned()),
        Some(name) if is_object_name(&name) => Ok(name),
        Some(name) => Err(document.failure(format!(
            "spec.serviceAccountName: {name:?} is no name of an object"
        ))),
    }
}

/// Where labels say that something is.
pub(super) fn place(metadata: &Metadata) -> Locality {
    let says = |label| metadata.label(label).unwrap_or_default().to_owned();
    Locality {
        region: says(REGION_LABEL),
        zone: says(ZONE_LABEL),
    }
}

#[derive(Deserialize)]
struct ServiceObject {
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    selector: Option<BTreeMap<String, String>>,
    ports: Option<Vec<RawServicePort>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<RawAffinity>,
    publish_not_ready_addresses: Option<bool>,
    internal_traffic_policy: Option<String>,
    traffic_distribution: Option<String>,
    ip_families: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    #[serde(default)]
    name: Option<String>,
    port: u16,
    #[serde(default)]
    target_port: Option<RawTarget>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    app_protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTarget {
    Number(u16),
    Name(String),
}

pub(super) fn service(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: ServiceObject = document.decode()?;
    let spec = raw.spec;
    let external = spec.external_ips.unwrap_or_default();
    let front = front(metadata, spec.r#type.as_deref(), &raw.status, &external);
    let mut ips: Vec<&str> = spec.cluster_ip.iter().map(String::as_str).collect();
    for more in spec.cluster_ips.iter().flatten() {
        if !ips.contains(&more.as_str()) {
            ips.push(more);
        }
    }
    ips.retain(|ip| !ip.is_empty());
    let kind = match spec.r#type.as_deref() {
        Some("ExternalName") => ServiceType::ExternalName,
        _ if ips.contains(&"None") => ServiceType::Headless,
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => ServiceType::ClusterIp,
        Some(other) => return Err(document.failure(format!("spec.type: {other:?} is unknown"))),
    };
    ips.retain(|ip| *ip != "None");
    let (mut ports, mut others) = (Vec::new(), Vec::new());
    let mut numbers = BTreeSet::new();
    for (at, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        let key = format!("spec.ports[{at}].protocol");
        let transport = transport(document, &key, port.protocol.as_deref())?;
        if !numbers.insert((port.port, transport)) {
            let why = format!("spec.ports[{at}].port: {} is there twice", port.port);
            return Err(document.failure(why));
        }
        match transport {
            Transport::Tcp => ports.push(service_port(document, port)?),
            transport => others.push(OtherPort {
                port: port.port,
                transport,
                name: port.name.unwrap_or_default(),
                app_protocol: port.app_protocol,
            }),
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = ports.iter().find(|p| !names.insert(&p.name)) {
        let why = format!("spec.ports: {:?} is the name of two ports", twice.name);
        return Err(document.failure(why));
    }
    // Services of the mesh's own have the first label, too; these are made for an import.
    let managed = status::managed(metadata).filter(|m| m.labels.contains_key(SERVICE_NAME_LABEL));
    Ok(Spec::Service(Service {
        kind,
        cluster_ips: addresses(document, "spec.clusterIPs", &ips)?,
        selector: spec.selector.unwrap_or_default(),
        ports,
        others,
        client_ip_affinity: client_affinity(document, spec.session_affinity.as_deref())?,
        affinity_seconds: spec.session_affinity_config.and_then(RawAffinity::seconds),
        front,
        managed,
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        spread: spread(
            document,
            spec.internal_traffic_policy.as_deref(),
            spec.traffic_distribution,
        )?,
        topology_aware: topology_aware(metadata),
        families: families(document, &spec.ip_families.unwrap_or_default())?,
    }))
}

/// The name of today, and that of Kubernetes before 1.27. Every word but these asks for something.
fn topology_aware(metadata: &Metadata) -> bool {
    const MODES: [&str; 2] = [
        "service.kubernetes.io/topology-mode",
        "service.kubernetes.io/topology-aware-hints",
    ];
    let said = MODES.iter().find_map(|key| metadata.annotation(key));
    said.is_some_and(|word| !word.is_empty() && !word.eq_ignore_ascii_case("disabled"))
}

/// `internalTrafficPolicy` and `trafficDistribution`
pub(super) fn spread(
    document: &Document<'_>,
    internal: Option<&str>,
    distribution: Option<String>,
) -> Result<Spread, Failure> {
    let known = ["Cluster", "Local"];
    let internal = one_of(document, "spec.internalTrafficPolicy", internal, &known)?;
    Ok(Spread {
        node_only: internal == Some("Local"),
        distribution: distribution.filter(|word| !word.is_empty()),
    })
}

/// `ipFamilies`
pub(super) fn families(
    document: &Document<'_>,
    listed: &[String],
) -> Result<Vec<IpFamily>, Failure> {
    let family = |text: &String| match text.as_str() {
        "IPv4" => Ok(IpFamily::V4),
        "IPv6" => Ok(IpFamily::V6),
        _ => Err(document.failure(format!(
            "spec.ipFamilies: {text:?} is unknown; it must be IPv4 or IPv6"
        ))),
    };
    listed.iter().map(family).collect()
}

fn service_port(document: &Document<'_>, raw: RawServicePort) -> Result<ServicePort, Failure> {
    let name = raw.name.unwrap_or_default();
    let bad = |what: &str| document.failure(format!("spec.ports: {what} of {name:?} is 0"));
    let target = match raw.target_port {
        None => TargetPort::Number(raw.port),
        // Kubernetes reads 0 as absent.
        Some(RawTarget::Number(0)) => TargetPort::Number(raw.port),
        Some(RawTarget::Number(number)) => TargetPort::Number(number),
        // A quoted number is a number: names have a letter.
        Some(RawTarget::Name(text)) => match text.parse() {
            Ok(0) => return Err(bad("targetPort")),
            Ok(number) => TargetPort::Number(number),
            Err(_) if is_port_name(&text) => TargetPort::Name(text),
            Err(_) => {
                return Err(document.failure(format!(
                    "spec.ports.targetPort: {text:?} is no name of a port"
                )));
            }
        },
    };
    if raw.port == 0 {
        return Err(bad("port"));
    }
    let protocol = protocol(&name, raw.app_protocol.as_deref());
    Ok(ServicePort {
        port: raw.port,
        target,
        protocol,
        app_protocol: raw.app_protocol,
        name,
    })
}

/// A name as ports of containers have it (RFC 6335 §5.1).
fn is_port_name(text: &str) -> bool {
    const CHARS_MAX: usize = 15;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= CHARS_MAX
        && text.bytes().all(plain)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// What is spoken: `appProtocol`, else the port's name up to the first hyphen.
fn protocol(name: &str, app_protocol: Option<&str>) -> Protocol {
    let text = app_protocol.unwrap_or_else(|| name.split('-').next().unwrap_or(name));
    match text.to_ascii_lowercase().as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb" => {
            Protocol::Tcp
        }
        _ => Protocol::Unspecified,
    }
}

/// What carries a port's traffic. A port that is not understood is an error: without it, its service
/// would be another one.
pub(super) fn transport(
    document: &Document<'_>,
    key: &str,
    protocol: Option<&str>,
) -> Result<Transport, Failure> {
    match protocol {
        None | Some("TCP" | "") => Ok(Transport::Tcp),
        Some("UDP") => Ok(Transport::Udp),
        Some("SCTP") => Ok(Transport::Sctp),
        Some(other) => Err(document.failure(format!(
            "{key}: {other:?} is unknown; it must be TCP, UDP or SCTP"
        ))),
    }
}

/// `sessionAffinityConfig`
#[derive(Deserialize)]
pub(super) struct RawAffinity {
    #[serde(default, rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

impl RawAffinity {
    /// For how many seconds a client stays.
    pub(super) fn seconds(self) -> Option<u32> {
        self.client_ip?.timeout_seconds
    }
}

/// Addresses, all of them: one that is dropped would be an endpoint that is missing silently.
pub(super) fn addresses(
    document: &Document<'_>,
    key: &str,
    texts: &[&str],
) -> Result<Vec<IpAddr>, Failure> {
    texts
        .iter()
        .map(|text| address(text).map_err(|bad| document.failure(format!("{key}: {}", bad.0))))
        .collect()
}

fn address(text: &str) -> Result<IpAddr, Bad> {
    text.parse()
        .map_err(|_| Bad(format!("{text:?} is no IP address")))
}
