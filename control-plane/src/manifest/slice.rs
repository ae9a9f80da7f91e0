//! What does an endpoint slice say?

use std::net::IpAddr;

use isthmus_control_plane_core::model::{
    EndpointSlice, IpFamily, SliceEndpoint, SlicePort, Spec, Transport,
};
use isthmus_control_plane_core::write::SERVICE_NAME_LABEL;
use isthmus_proto::ids::is_label;
use serde::Deserialize;

use super::workload::{addresses, transport};
use super::{Bad, Document, Failure, Metadata, status};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceObject {
    #[serde(default)]
    address_type: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<RawSlicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    target_ref: Option<TargetRef>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    hints: Option<Hints>,
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    for_zones: Option<Vec<ForZone>>,
}

#[derive(Deserialize)]
struct ForZone {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct RawSlicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

/// `None`: a slice of host names, or of no service, which the mesh does not look at.
pub(super) fn endpoint_slice(
    document: &Document<'_>,
    metadata: &Metadata,
) -> Option<Result<Spec, Failure>> {
    let raw: SliceObject = match document.decode() {
        Ok(raw) => raw,
        Err(failure) => return Some(Err(failure)),
    };
    let service = metadata.label(SERVICE_LABEL)?.to_owned();
    let family = match raw.address_type.as_deref().map(family) {
        Some(Ok(Family::Names)) => return None,
        Some(Ok(Family::Of(family))) => Some(family),
        Some(Err(Bad(why))) => return Some(Err(document.failure(why))),
        None => None,
    };
    let endpoint = |(at, raw): (usize, RawEndpoint)| {
        let key = format!("endpoints[{at}].addresses");
        let texts: Vec<&str> = raw.addresses.iter().map(String::as_str).collect();
        let addresses = addresses(document, &key, &texts)?;
        if addresses.is_empty() {
            return Err(document.failure(format!("{key}: there is none")));
        }
        let is_of = |address: &&IpAddr| match family {
            Some(IpFamily::V4) => address.is_ipv4(),
            Some(IpFamily::V6) => address.is_ipv6(),
            None => true,
        };
        if let Some(other) = addresses.iter().find(|address| !is_of(address)) {
            let why = format!("{key}: \"{other}\" is not of the addressType");
            return Err(document.failure(why));
        }
        let ready = raw.conditions.ready.unwrap_or(true);
        let zones = raw.hints.and_then(|hints| hints.for_zones).into_iter();
        let pod = raw
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"));
        Ok(SliceEndpoint {
            addresses,
            ready,
            serving: raw.conditions.serving.unwrap_or(ready),
            terminating: raw.conditions.terminating.unwrap_or(false),
            zone: raw.zone.unwrap_or_default(),
            // That of a pod is the pod's.
            node: raw
                .node_name
                .filter(|name| pod.is_none() && !name.is_empty()),
            pod: pod.and_then(|target| target.name),
            hostname: raw.hostname.filter(|name| is_label(name)),
            for_zones: zones.flatten().map(|zone| zone.name).collect(),
        })
    };
    let endpoints = raw.endpoints.unwrap_or_default().into_iter();
    let endpoints = endpoints.enumerate().map(endpoint);
    let endpoints: Result<_, Failure> = endpoints.collect();
    let ports = slice_ports(document, raw.ports.unwrap_or_default());
    let read = endpoints.and_then(|endpoints| Ok((endpoints, ports?)));
    Some(read.map(|(endpoints, ports)| {
        Spec::EndpointSlice(EndpointSlice {
            service,
            ports,
            endpoints,
            managed: status::managed(metadata)
                .filter(|m| m.labels.contains_key(SERVICE_NAME_LABEL)),
        })
    }))
}

enum Family {
    Of(IpFamily),
    Names,
}

fn family(text: &str) -> Result<Family, Bad> {
    match text {
        "IPv4" => Ok(Family::Of(IpFamily::V4)),
        "IPv6" => Ok(Family::Of(IpFamily::V6)),
        "FQDN" => Ok(Family::Names),
        _ => Err(Bad(format!(
            "addressType: {text:?} is unknown; it must be IPv4, IPv6 or FQDN"
        ))),
    }
}

fn slice_ports(
    document: &Document<'_>,
    listed: Vec<RawSlicePort>,
) -> Result<Vec<SlicePort>, Failure> {
    let mut ports = Vec::new();
    for (at, raw) in listed.into_iter().enumerate() {
        let key = format!("ports[{at}].protocol");
        let transport = transport(document, &key, raw.protocol.as_deref())?;
        if raw.port == Some(0) {
            let why = format!("ports[{at}].port: 0 is not 1 to 65,535");
            return Err(document.failure(why));
        }
        if let (Transport::Tcp, Some(port)) = (transport, raw.port) {
            let name = raw.name.unwrap_or_default();
            ports.push(SlicePort { name, port });
        }
    }
    Ok(ports)
}
