//! What is this proxy's own pod, and on which ports does it serve?

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_proto::ids::{NetworkId, ServiceName, WorkloadName};
use isthmus_proto::locality::Locality;
use isthmus_proto::resource::{self, Protocol};
use isthmus_proto::spiffe::SpiffeId;

use super::compile::{address, port, protocol};

/// Most ports of a workload.
pub const PORTS_MAX: usize = 1_024;

/// The pod beside the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnWorkload {
    /// `cluster/namespace/pod`.
    pub name: WorkloadName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The network that they are valid on.
    pub network: NetworkId,
    /// Where it runs.
    pub locality: Locality,
    /// The ports that services lead to.
    pub ports: BTreeMap<u16, OwnPort>,
    /// What inbound accepts.
    pub inbound_mode: InboundMode,
    /// Must outbound refuse connections whose destination is no service?
    pub passthrough_denied: bool,
}

/// One port of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPort {
    /// What it speaks.
    pub protocol: Protocol,
    /// The services and service ports that lead here.
    pub services: Vec<(ServiceName, u16)>,
}

/// What inbound accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMode {
    /// Mutual TLS only.
    Strict,
    /// Plaintext too, as an unauthenticated peer.
    Permissive,
}

impl OwnWorkload {
    /// Compiles a workload.
    ///
    /// # Errors
    /// A part of it can't be understood.
    pub fn compile(workload: &resource::Workload) -> Result<Self, String> {
        if workload.ports.len() > PORTS_MAX {
            return Err(format!(
                "{} ports, at most {PORTS_MAX}",
                workload.ports.len()
            ));
        }
        let mut ports = BTreeMap::new();
        for own in &workload.ports {
            let number = port(own.port)?;
            let compiled = OwnPort {
                protocol: protocol(own.protocol)?,
                services: own
                    .services
                    .iter()
                    .map(service_ref)
                    .collect::<Result<_, _>>()?,
            };
            if ports.insert(number, compiled).is_some() {
                return Err(format!("port {number} twice"));
            }
        }
        let inbound_mode = resource::InboundMode::try_from(workload.inbound_mode)
            .map_err(|_| format!("inbound mode {} is not known", workload.inbound_mode))?;
        let passthrough = resource::Passthrough::try_from(workload.passthrough)
            .map_err(|_| format!("passthrough {} is not known", workload.passthrough))?;
        Ok(Self {
            name: workload.name.parse().map_err(|e| format!("{e}"))?,
            identity: workload.identity.parse().map_err(|e| format!("{e}"))?,
            addresses: workload
                .addresses
                .iter()
                .map(|a| address(a))
                .collect::<Result<_, _>>()?,
            network: workload.network.parse().map_err(|e| format!("{e}"))?,
            locality: workload
                .locality
                .as_ref()
                .map(Locality::from)
                .unwrap_or_default(),
            ports,
            inbound_mode: match inbound_mode {
                resource::InboundMode::Permissive => InboundMode::Permissive,
                resource::InboundMode::Strict | resource::InboundMode::Unspecified => {
                    InboundMode::Strict
                }
            },
            passthrough_denied: passthrough == resource::Passthrough::Deny,
        })
    }

    /// What a port of the pod speaks. Not listed: not declared.
    #[must_use]
    pub fn protocol_of(&self, port: u16) -> Protocol {
        self.ports
            .get(&port)
            .map_or(Protocol::Unspecified, |own| own.protocol)
    }

    /// Which port of the pod answers for a port of a service; for standard clients, which name
    /// only the service. `host` is in lower case: the service's host name, or whole leading
    /// labels of it (`cart.shop` for `cart.shop.svc.cluster.local`) where they mean one port.
    #[must_use]
    pub fn target_port_of(&self, host: &str, service_port: u16) -> Option<u16> {
        let leads = |short: bool| {
            self.ports.iter().filter_map(move |(number, own)| {
                let named = |(service, port): &(ServiceName, u16)| {
                    let name = service.hostname();
                    *port == service_port && (name == host || (short && is_leading(host, name)))
                };
                own.services.iter().any(named).then_some(*number)
            })
        };
        if let Some(exact) = leads(false).next() {
            return Some(exact);
        }
        let mut candidates = leads(true);
        candidates.next().filter(|_| candidates.next().is_none())
    }
}

fn is_leading(host: &str, name: &str) -> bool {
    !host.is_empty()
        && name
            .strip_prefix(host)
            .is_some_and(|rest| rest.starts_with('.'))
}

fn service_ref(reference: &resource::ServiceRef) -> Result<(ServiceName, u16), String> {
    let service = reference.service.parse().map_err(|e| format!("{e}"))?;
    Ok((service, port(reference.port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> resource::Workload {
        let port = |port, protocol: Protocol, services: &[(&str, u32)]| resource::WorkloadPort {
            port,
            protocol: protocol.into(),
            services: services
                .iter()
                .map(|(service, port)| resource::ServiceRef {
                    service: (*service).to_owned(),
                    port: *port,
                })
                .collect(),
        };
        resource::Workload {
            name: "east/shop/cart-1".into(),
            identity: "spiffe://east.mesh.internal/ns/shop/sa/cart".into(),
            addresses: vec![bytes::Bytes::from_static(&[10, 0, 0, 1])],
            network: "east-net".into(),
            ports: vec![
                port(
                    8080,
                    Protocol::Http1,
                    &[("shop/cart.shop.svc.cluster.local", 80)],
                ),
                port(
                    9090,
                    Protocol::Grpc,
                    &[("shop/cart.shop.svc.clusterset.local", 81)],
                ),
                port(
                    9091,
                    Protocol::Tcp,
                    &[("shop/cart.other.svc.cluster.local", 81)],
                ),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn service_ports_lead_to_the_pods_ports() {
        let own = OwnWorkload::compile(&workload()).unwrap();
        assert_eq!(
            own.target_port_of("cart.shop.svc.cluster.local", 80),
            Some(8080)
        );
        assert_eq!(own.target_port_of("cart.shop", 80), Some(8080));
        assert_eq!(own.target_port_of("cart.shop", 81), Some(9090));
        assert_eq!(
            own.target_port_of("cart", 81),
            None,
            "two ports could be meant"
        );
        assert_eq!(own.target_port_of("car", 80), None);
        assert_eq!(own.target_port_of("cart.shop.svc.cluster.local", 82), None);
        assert_eq!(own.protocol_of(9090), Protocol::Grpc);
        assert_eq!(own.protocol_of(1), Protocol::Unspecified);
        assert_eq!(own.inbound_mode, InboundMode::Strict);
        assert!(!own.passthrough_denied);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |change: fn(&mut resource::Workload)| {
            let mut changed = workload();
            change(&mut changed);
            OwnWorkload::compile(&changed).unwrap_err()
        };
        refused(|w| w.inbound_mode = 7);
        refused(|w| w.passthrough = 3);
        refused(|w| w.ports[0].port = 0);
        refused(|w| w.ports[0].port = 9090);
        refused(|w| w.ports[0].protocol = 42);
        refused(|w| w.addresses = vec![bytes::Bytes::from_static(&[1, 2, 3])]);
        refused(|w| w.identity = "spiffe://x".into());
    }
}
