//! What is a service, as the proxy sees it?

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::ids::{NetworkId, ServiceName, is_dns_name};
use isthmus_proto::resource::{self, Protocol};

use super::compile::{address, port, protocol};
use crate::balance::EndpointSet;
use crate::failure::Failure;
use crate::guard::{ServiceGuard, TrafficPolicy};
use crate::route::RouteTable;

/// Most ports of a service.
pub const PORTS_MAX: usize = 1_024;
/// Most host names of a service.
pub const HOSTNAMES_MAX: usize = 64;
/// Most virtual addresses of a service.
pub const ADDRESSES_MAX: usize = 256;

/// Something that may not have been heard of yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Known<T> {
    /// Nobody has said yet.
    #[default]
    Unknown,
    /// This is what there is; it may be empty.
    Known(T),
}

impl<T> Known<T> {
    /// What is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Unknown => None,
            Self::Known(value) => Some(value),
        }
    }
}

/// A service, with all that hangs on it. Parts that did not change are shared between
/// generations; the guard outlives them.
pub struct Service {
    /// `namespace/hostname`.
    pub name: ServiceName,
    /// Every name that means it, canonical first.
    pub hostnames: Arc<[Arc<str>]>,
    /// Its virtual addresses, each on one network.
    pub addresses: Arc<[(NetworkId, IpAddr)]>,
    /// Its ports, by number.
    pub ports: Arc<[ServicePort]>,
    /// How calls are treated.
    pub traffic: Arc<TrafficPolicy>,
    /// Where endpoints may come from.
    pub scope: Scope,
    /// Are its addresses its alone, so that nothing passes there at other ports?
    pub closed: bool,
    /// Its routes, merged.
    pub routes: Arc<RouteTable>,
    /// Have the routes been heard of? Until then a call could take a way that a route forbids.
    pub routes_known: bool,
    /// Who answers.
    pub endpoints: Known<Arc<EndpointSet>>,
    /// What bounds calls to it, shared by all workers.
    pub guard: Arc<ServiceGuard>,
}

impl Service {
    /// Is everything known that a call needs?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.routes_known && self.endpoints.known().is_some()
    }

    /// Is a request to this port sent as HTTP/2? As the port declares; else as the client spoke.
    #[must_use]
    pub fn speaks_http2(&self, port: u16, client_spoke_http1: bool) -> bool {
        match self
            .port(port)
            .map_or(Protocol::Unspecified, |p| p.protocol)
        {
            Protocol::Http2 | Protocol::Grpc => true,
            Protocol::Unspecified => !client_spoke_http1,
            Protocol::Http1 | Protocol::Tcp | Protocol::Tls => false,
        }
    }

    /// Can a rule lead to this port? A reference to a port that is not there is one to nothing: 500, as the
    /// Gateway API has it, and no lack of endpoints.
    ///
    /// # Errors
    /// It has no such port.
    pub fn as_backend(&self, port: u16) -> Result<(), Failure> {
        match self.port(port) {
            Some(_) => Ok(()),
            None => Err(Failure::InvalidBackend),
        }
    }

    /// One of its ports.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports
            .binary_search_by_key(&number, |port| port.port)
            .ok()
            .and_then(|i| self.ports.get(i))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// 1 to 65,535.
    pub port: u16,
    /// May be empty.
    pub name: Box<str>,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Where endpoints may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The client's own cluster.
    Cluster,
    /// Every cluster that exports the service.
    ClusterSet,
}

/// What the resource says of a service, compiled.
pub(super) struct Spec {
    pub(super) name: ServiceName,
    pub(super) hostnames: Arc<[Arc<str>]>,
    pub(super) addresses: Arc<[(NetworkId, IpAddr)]>,
    pub(super) ports: Arc<[ServicePort]>,
    pub(super) traffic: Arc<TrafficPolicy>,
    pub(super) scope: Scope,
    pub(super) closed: bool,
}

impl Spec {
    pub(super) fn compile(service: &resource::Service) -> Result<Self, String> {
        at_most("ports", service.ports.len(), PORTS_MAX)?;
        at_most("hostnames", service.hostnames.len(), HOSTNAMES_MAX)?;
        at_most("addresses", service.addresses.len(), ADDRESSES_MAX)?;
        if service.hostnames.is_empty() || service.ports.is_empty() {
            return Err("has no hostname or no port".to_owned());
        }
        let traffic = TrafficPolicy::compile(service.traffic.as_ref(), &service.name)
            .map_err(|rejected| rejected.why)?;
        Ok(Self {
            name: service.name.parse().map_err(|e| format!("{e}"))?,
            hostnames: service
                .hostnames
                .iter()
                .map(|h| hostname(h))
                .collect::<Result<_, _>>()?,
            addresses: service
                .addresses
                .iter()
                .map(virtual_address)
                .collect::<Result<_, _>>()?,
            ports: ports(&service.ports)?,
            closed: service.closed,
            traffic: Arc::new(traffic),
            scope: match service.scope() {
                resource::ServiceScope::Cluster => Scope::Cluster,
                resource::ServiceScope::Clusterset => Scope::ClusterSet,
                resource::ServiceScope::Unspecified => {
                    return Err("scope is not set or not known".to_owned());
                }
            },
        })
    }
}

fn hostname(text: &str) -> Result<Arc<str>, String> {
    if is_dns_name(text) {
        Ok(text.into())
    } else {
        Err(format!("hostname {text:?} is not a DNS name in lower case"))
    }
}

fn virtual_address(vip: &resource::VirtualAddress) -> Result<(NetworkId, IpAddr), String> {
    let network = vip.network.parse().map_err(|e| format!("address: {e}"))?;
    Ok((network, address(&vip.address)?))
}

/// Sorted by number.
fn ports(ports: &[resource::ServicePort]) -> Result<Arc<[ServicePort]>, String> {
    let mut numbers = BTreeSet::new();
    let mut compiled = Vec::with_capacity(ports.len());
    for written in ports {
        let number = port(written.port)?;
        if !numbers.insert(number) {
            return Err(format!("port {number} twice"));
        }
        compiled.push(ServicePort {
            port: number,
            name: written.name.as_str().into(),
            protocol: protocol(written.protocol)?,
        });
    }
    compiled.sort_by_key(|port| port.port);
    Ok(compiled.into())
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        Err(format!("{count} {what}, at most {most}"))
    } else {
        Ok(())
    }
}
