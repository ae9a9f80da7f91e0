//! What do imports, gateways and grants say?

use isthmus_control_plane_core::model::{
    Gateway, GatewayAddress, Kind, ReferenceGrant, ServiceImport, Spec,
};
use isthmus_proto::ids::is_dns_name;
use serde::Deserialize;

use super::workload::addresses;
use super::{Document, Failure};

/// The usual port of an east-west gateway.
pub(super) const GATEWAY_PORT: u16 = 15443;

#[derive(Deserialize)]
struct ImportObject {
    #[serde(default)]
    spec: ImportSpec,
}

#[derive(Default, Deserialize)]
struct ImportSpec {
    #[serde(default)]
    ips: Option<Vec<String>>,
}

pub(super) fn service_import(document: &Document<'_>) -> Result<Spec, Failure> {
    let raw: ImportObject = document.decode()?;
    let ips = raw.spec.ips.unwrap_or_default();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    Ok(Spec::ServiceImport(ServiceImport {
        ips: addresses(document, "spec.ips", &ips)?,
    }))
}

#[derive(Deserialize)]
struct GatewayObject {
    spec: GatewaySpec,
    #[serde(default)]
    status: GatewayStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewaySpec {
    gateway_class_name: String,
    #[serde(default)]
    listeners: Vec<Listener>,
    #[serde(default)]
    addresses: Option<Vec<RawAddress>>,
}

#[derive(Deserialize)]
struct Listener {
    port: u16,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
struct GatewayStatus {
    #[serde(default)]
    addresses: Option<Vec<RawAddress>>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    value: Option<String>,
}

pub(super) fn gateway(document: &Document<'_>) -> Result<Spec, Failure> {
    let raw: GatewayObject = document.decode()?;
    let spec = raw.spec;
    // A dump of a cluster has a status, a hand-written manifest has not.
    let listed = raw.status.addresses.or(spec.addresses).unwrap_or_default();
    let mut found = Vec::new();
    for address in listed {
        // Without a value the implementation is asked to choose; the status will say which.
        let Some(value) = address.value.filter(|value| !value.is_empty()) else {
            continue;
        };
        found.push(match address.r#type.as_deref() {
            None | Some("IPAddress") => {
                let ips = addresses(document, "addresses", &[&value])?;
                let ip = ips
                    .first()
                    .ok_or_else(|| document.failure("no address".to_owned()))?;
                GatewayAddress::Ip(*ip)
            }
            Some("Hostname") => match host_name(&value) {
                Some(host) => GatewayAddress::Hostname(host),
                None => {
                    let why = format!("addresses: {value:?} is no host name");
                    return Err(document.failure(why));
                }
            },
            Some(other) => {
                return Err(document.failure(format!("addresses: the type {other:?} is unknown")));
            }
        });
    }
    let tls = spec
        .listeners
        .iter()
        .find(|l| l.protocol.as_deref() == Some("TLS"));
    let port = tls
        .or(spec.listeners.first())
        .map_or(GATEWAY_PORT, |l| l.port);
    if port == 0 {
        return Err(document.failure("spec.listeners: port 0".to_owned()));
    }
    Ok(Spec::Gateway(Gateway {
        class: spec.gateway_class_name,
        addresses: found,
        port,
    }))
}

/// In lower case, without the trailing dot.
pub(super) fn host_name(text: &str) -> Option<String> {
    let host = text.trim_end_matches('.').to_ascii_lowercase();
    is_dns_name(&host).then_some(host)
}

#[derive(Deserialize)]
struct GrantObject {
    spec: GrantSpec,
}

#[derive(Deserialize)]
struct GrantSpec {
    #[serde(default)]
    from: Vec<GrantFrom>,
    #[serde(default)]
    to: Vec<GrantTo>,
}

#[derive(Deserialize)]
struct GrantFrom {
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
struct GrantTo {
    kind: String,
    #[serde(default)]
    name: Option<String>,
}

/// Kinds that the mesh does not look at are left out: that grants less, never more.
pub(super) fn reference_grant(document: &Document<'_>) -> Result<Spec, Failure> {
    let raw: GrantObject = document.decode()?;
    let mut grant = ReferenceGrant::default();
    for from in raw.spec.from {
        let kind = match from.kind.as_str() {
            "HTTPRoute" => Kind::HttpRoute,
            "GRPCRoute" => Kind::GrpcRoute,
            "TCPRoute" => Kind::TcpRoute,
            "TLSRoute" => Kind::TlsRoute,
            _ => continue,
        };
        let namespace = from
            .namespace
            .parse()
            .map_err(|bad| document.failure(format!("spec.from.namespace: {bad}")))?;
        grant.from.push((kind, namespace));
    }
    for to in raw.spec.to {
        let kind = match to.kind.as_str() {
            "Service" => Kind::Service,
            "ServiceImport" => Kind::ServiceImport,
            _ => continue,
        };
        grant
            .to
            .push((kind, to.name.filter(|name| !name.is_empty())));
    }
    Ok(Spec::ReferenceGrant(grant))
}
