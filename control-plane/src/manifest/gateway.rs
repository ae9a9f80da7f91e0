//! What do gateways say, and the Services that lead to them?

use std::net::IpAddr;

use isthmus_control_plane_core::model::{
    Gateway, GatewayAddress, GatewayFront, GatewayStatus, Listener, Spec,
};
use isthmus_proto::ids::is_dns_name;
use serde::Deserialize;
use serde_json::Value;

use super::workload::addresses;
use super::{Bad, Document, Failure, Metadata, status};
use crate::kubernetes::client::FIELD_MANAGER;

/// The usual port of an east-west gateway.
pub(super) const GATEWAY_PORT: u16 = 15443;
/// By this label a Service belongs to a Gateway of its namespace (GEP-1762).
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Addresses that are read of one Service or status.
const ADDRESSES_MAX: usize = 16;
/// Every machine is this for itself (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";

#[derive(Deserialize)]
struct GatewayObject {
    #[serde(default)]
    metadata: Kept,
    spec: GatewaySpec,
    #[serde(default)]
    status: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    #[serde(default)]
    managed_fields: Option<Vec<ManagedFields>>,
}

/// What one field manager keeps; only the addresses in the status are asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManagedFields {
    #[serde(default)]
    manager: Option<String>,
    #[serde(default, rename = "fieldsV1")]
    fields: Option<Value>,
}

impl Kept {
    /// Did the mesh, and nobody else, write `status.addresses`?
    fn has_our_addresses(&self) -> bool {
        let of_addresses = |one: &&ManagedFields| {
            let fields = one.fields.as_ref();
            fields.is_some_and(|fields| !fields["f:status"]["f:addresses"].is_null())
        };
        let all = self.managed_fields.iter().flatten();
        let mut keepers = all.filter(of_addresses).peekable();
        let is_ours = |one: &ManagedFields| one.manager.as_deref() == Some(FIELD_MANAGER);
        keepers.peek().is_some() && keepers.all(is_ours)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewaySpec {
    gateway_class_name: String,
    #[serde(default)]
    listeners: Vec<RawListener>,
    #[serde(default)]
    addresses: Option<Vec<RawAddress>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListener {
    #[serde(default)]
    name: Option<String>,
    port: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    allowed_routes: Option<AllowedRoutes>,
}

#[derive(Deserialize)]
struct AllowedRoutes {
    #[serde(default)]
    kinds: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    value: Option<String>,
}

pub(super) fn gateway(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: GatewayObject = document.decode()?;
    let spec = raw.spec;
    let reported = raw.status.as_ref().and_then(|s| s.get("addresses"));
    let reported = reported
        .map(Vec::<RawAddress>::deserialize)
        .transpose()
        .map_err(|e| document.failure(format!("status.addresses: {e}")))?
        .unwrap_or_default();
    let reported = listed(document, reported)?;
    // What the mesh wrote there itself it knows from elsewhere.
    let is_foreign = !reported.is_empty() && !raw.metadata.has_our_addresses();
    let said = listed(document, spec.addresses.unwrap_or_default())?;
    let listeners: Vec<Listener> = spec.listeners.iter().map(listener).collect();
    let mut gateway = Gateway {
        class: spec.gateway_class_name,
        addresses: if is_foreign { reported.clone() } else { said },
        port: GATEWAY_PORT,
        listeners,
        status: GatewayStatus {
            addresses: reported,
            is_foreign,
            listeners: status::listeners(raw.status.as_ref()),
        },
        observed: status::observed(metadata, raw.status.as_ref(), status::GATEWAY),
    };
    if let Some(chosen) = gateway.listener().and_then(|at| spec.listeners.get(at)) {
        gateway.port = chosen.port;
    }
    if gateway.port == 0 {
        return Err(document.failure("spec.listeners: port 0".to_owned()));
    }
    Ok(Spec::Gateway(gateway))
}

fn listener(raw: &RawListener) -> Listener {
    let kinds = raw.allowed_routes.as_ref().and_then(|of| of.kinds.as_ref());
    Listener {
        name: raw.name.clone().unwrap_or_default(),
        protocol: raw.protocol.clone().unwrap_or_default(),
        names_kinds: kinds.is_some_and(|kinds| !kinds.is_empty()),
    }
}

fn listed(document: &Document<'_>, raw: Vec<RawAddress>) -> Result<Vec<GatewayAddress>, Failure> {
    let mut found = Vec::new();
    for address in raw {
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
    Ok(found)
}

/// The status of a Service.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Deserialize)]
struct LoadBalancer {
    #[serde(default)]
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize)]
struct Ingress {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
}

/// How a Service leads to a gateway, if it is labelled so. An address that leads nowhere from another
/// network is left out: it is no reason to refuse the Service.
pub(super) fn front(
    metadata: &Metadata,
    kind: Option<&str>,
    status: &ServiceStatus,
    external: &[String],
) -> Option<Box<GatewayFront>> {
    let gateway = metadata.label(GATEWAY_LABEL).filter(|n| is_dns_name(n))?;
    let balanced = status.load_balancer.iter();
    let balanced = balanced.flat_map(|of| of.ingress.iter().flatten());
    let balanced = balanced.filter(|_| kind == Some("LoadBalancer"));
    let told = balanced.filter_map(|one| one.ip.as_deref().or(one.hostname.as_deref()));
    let reachable = |text: &str| reachable(text).ok();
    let mut addresses: Vec<_> = told.filter_map(reachable).take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        let external = external.iter().map(String::as_str);
        let ips = external.filter(|text| text.parse::<IpAddr>().is_ok());
        addresses = ips.filter_map(reachable).take(ADDRESSES_MAX).collect();
    }
    Some(Box::new(GatewayFront {
        gateway: gateway.to_owned(),
        addresses,
    }))
}

/// At which clients on other networks can reach something.
pub(super) fn reachable(text: &str) -> Result<GatewayAddress, Bad> {
    let refused = |why: &str| Bad(format!("address: {text:?} {why}"));
    match text.parse() {
        Ok(ip) if is_reachable(ip) => Ok(GatewayAddress::Ip(ip)),
        Ok(_) => Err(refused("leads nowhere from another network")),
        Err(_) => match host_name(text).ok_or_else(|| refused("is no address"))? {
            name if name == LOCALHOST || name.ends_with(&format!(".{LOCALHOST}")) => {
                Err(refused("leads nowhere from another network"))
            }
            name => Ok(GatewayAddress::Hostname(name)),
        },
    }
}

/// What Kubernetes calls a global unicast address; private ones are among them.
fn is_reachable(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !special && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// In lower case, without the trailing dot.
pub(super) fn host_name(text: &str) -> Option<String> {
    let host = text.trim_end_matches('.').to_ascii_lowercase();
    is_dns_name(&host).then_some(host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{object, parse};
    use super::*;

    fn ip(text: &str) -> GatewayAddress {
        GatewayAddress::Ip(text.parse().unwrap())
    }

    fn read(kind: &str, value: &Value) -> Spec {
        let (version, east) = (value["apiVersion"].as_str().unwrap(), "east".parse());
        let bytes = value.to_string().into_bytes();
        let mut parsed = object(&bytes, version, kind, &east.unwrap());
        assert_eq!(parsed.errors, vec![]);
        parsed.objects.pop().unwrap().spec
    }

    /// A Gateway with these addresses in its spec, and these in its status, which these managers keep.
    fn gateway(spec: &[&str], reported: &[&str], managers: &[&str]) -> Gateway {
        let address = |value: &&str| json!({ "type": "IPAddress", "value": value });
        let listed = |all: &[&str]| all.iter().map(address).collect::<Vec<_>>();
        let field = |manager: &&str| {
            json!({
                "manager": manager, "operation": "Apply", "subresource": "status",
                "fieldsV1": { "f:status": { "f:addresses": {}, "f:conditions": {} } },
            })
        };
        let managers: Vec<_> = managers.iter().map(field).collect();
        let value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": { "name": "ew", "namespace": "isthmus-system", "managedFields": managers },
            "spec": {
                "gatewayClassName": "isthmus-east-west", "addresses": listed(spec),
                "listeners": [
                    { "name": "web", "port": 80, "protocol": "HTTP", "allowedRoutes": { "kinds": [{ "kind": "HTTPRoute" }] } },
                    { "name": "mesh", "port": 15444, "protocol": "TLS", "allowedRoutes": { "namespaces": { "from": "Same" } } },
                ],
            },
            "status": { "addresses": listed(reported), "listeners": [
                { "name": "mesh", "attachedRoutes": 0, "supportedKinds": [], "conditions": [
                    { "type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1 },
                    { "type": "Ready", "status": "True", "reason": "Ready" },
                ] },
            ] },
        });
        match read("Gateway", &value) {
            Spec::Gateway(gateway) => gateway,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_mesh_wrote_into_a_status_is_no_source_of_addresses() {
        let (ours, theirs) = ("isthmus", "balancer");
        let cases: [(&[&str], bool); 4] = [
            (&[ours], false),
            (&[theirs], true),
            // Theirs, and what we say is the same.
            (&[ours, theirs], true),
            // A file, or `kubectl get -o yaml`.
            (&[], true),
        ];
        for (managers, is_foreign) in cases {
            let found = gateway(&["192.0.2.1"], &["192.0.2.2"], managers);
            let counts = if is_foreign { "192.0.2.2" } else { "192.0.2.1" };
            assert_eq!(found.addresses, [ip(counts)], "{managers:?}");
            assert_eq!(found.status.is_foreign, is_foreign);
            assert_eq!(found.status.addresses, [ip("192.0.2.2")]);
        }
        let none = gateway(&[], &[], &[theirs]);
        assert_eq!((none.addresses, none.status.is_foreign), (vec![], false));
    }

    #[test]
    fn listeners_and_what_is_said_of_them_are_read() {
        let found = gateway(&[], &[], &[]);
        assert_eq!((found.listener(), found.port), (Some(1), 15_444));
        let kinds: Vec<bool> = found.listeners.iter().map(|l| l.names_kinds).collect();
        assert_eq!(kinds, [true, false]);
        let told = &found.status.listeners;
        assert_eq!((told.len(), told[0].name.as_str()), (1, "mesh"));
        // `Ready` is somebody else's.
        assert_eq!(told[0].conditions.len(), 1);
    }

    fn service(kind: &str, ingress: &Value, external: &[&str]) -> Option<Box<GatewayFront>> {
        let value = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "ew", "namespace": "isthmus-system",
                "labels": { "gateway.networking.k8s.io/gateway-name": "ew" },
            },
            "spec": { "type": kind, "externalIPs": external, "ports": [{ "port": 15443 }] },
            "status": { "loadBalancer": { "ingress": ingress } },
        });
        match read("Service", &value) {
            Spec::Service(service) => service.front,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_labelled_service_leads_from_its_load_balancer_else_from_its_external_addresses() {
        let of = |kind, ingress: Value, external: &[&str]| {
            let front = service(kind, &ingress, external).unwrap();
            assert_eq!(front.gateway, "ew");
            front.addresses
        };
        let ingress =
            json!([{ "ip": "192.0.2.1" }, { "hostname": "LB.example.com." }, { "ip": "fd00::1" }]);
        let host = GatewayAddress::Hostname("lb.example.com".to_owned());
        assert_eq!(
            of("LoadBalancer", ingress.clone(), &["192.0.2.9"]),
            [ip("192.0.2.1"), host, ip("fd00::1")]
        );
        // What is left of another type counts no more.
        assert_eq!(of("ClusterIP", ingress, &["192.0.2.9"]), [ip("192.0.2.9")]);
        assert_eq!(
            of("LoadBalancer", json!([]), &["192.0.2.9"]),
            [ip("192.0.2.9")]
        );
        assert_eq!(of("LoadBalancer", Value::Null, &[]), []);
        assert_eq!(of("NodePort", Value::Null, &["a.example.com"]), []);
    }

    /// S26: as it is of addresses that a MeshCluster names.
    #[test]
    fn an_address_of_a_service_that_leads_nowhere_from_another_network_is_left_out() {
        for bad in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:192.0.2.1",
        ] {
            let ingress = json!([{ "ip": bad }, { "ip": "192.0.2.1" }]);
            let front = service("LoadBalancer", &ingress, &[]).unwrap();
            assert_eq!(front.addresses, [ip("192.0.2.1")], "{bad}");
            let front = service("ClusterIP", &json!([]), &[bad]).unwrap();
            assert_eq!(front.addresses, [], "{bad}");
        }
        for bad in ["localhost", "a.localhost.", "a b", ""] {
            let front = service("LoadBalancer", &json!([{ "hostname": bad }]), &[]).unwrap();
            assert_eq!(front.addresses, [], "{bad}");
        }
    }

    #[test]
    fn a_service_without_the_label_leads_to_no_gateway() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\n\
             spec: {type: LoadBalancer, ports: [{port: 15443}]}\n\
             status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n";
        let parsed = parse(text, &"east".parse().unwrap());
        let Spec::Service(service) = &parsed.objects[0].spec else {
            panic!("a service")
        };
        assert_eq!(service.front, None);
    }
}
