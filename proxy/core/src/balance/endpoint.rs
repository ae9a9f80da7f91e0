//! What is one endpoint, and is its resource sound?

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use isthmus_proto::handle::HANDLE_CHARS;
use isthmus_proto::ids::{ClusterId, NetworkId, ServiceName, WorkloadName, is_label};
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;
use smallvec::SmallVec;

use super::stats::EndpointStats;
use crate::guard::PENALTY_MS_MAX;
use crate::snapshot::Rejected;

/// Most addresses of one endpoint (ours to tune; Kubernetes gives at most one a family).
pub const ADDRESSES_MAX: usize = 16;
/// Most port mappings of one endpoint (ours to tune).
pub const PORTS_MAX: usize = 256;

/// Which endpoint: the same for the same pod of the same service, in every generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

impl EndpointId {
    /// The id of a pod as an endpoint of a service: FNV-1a over both names.
    #[must_use]
    pub fn of(service: &ServiceName, name: &WorkloadName) -> Self {
        let bytes = service
            .as_str()
            .bytes()
            .chain([b'#'])
            .chain(name.as_str().bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What discovery says of an endpoint's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Takes new work.
    Healthy,
    /// Keeps its work, gets new work only if nothing healthy is left.
    Draining,
    /// Gets nothing.
    Unhealthy,
}

/// One address that serves traffic, checked.
#[derive(Debug)]
pub struct Endpoint {
    /// Stable over generations.
    pub id: EndpointId,
    /// cluster/namespace/pod.
    pub name: WorkloadName,
    /// Its service.
    pub service: ServiceName,
    /// At least one, valid on `network`.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Whose addresses these are.
    pub network: NetworkId,
    /// Where it runs; the first part of `name`.
    pub cluster: ClusterId,
    /// Who must answer. Present where `tunnel_port` is.
    pub identity: Option<SpiffeId>,
    /// Relative; 0 receives nothing.
    pub weight: u32,
    /// What discovery says.
    pub health: Health,
    /// Region and zone.
    pub locality: Arc<Locality>,
    /// What a call from another cluster is charged for going here, in ms of latency: its cluster's
    /// priority and price.
    pub charge_ms: u32,
    /// (service port, target port), at least one, service ports unique.
    pub ports: SmallVec<[(u16, u16); 2]>,
    /// Its mesh listener. None: plain only.
    pub tunnel_port: Option<u16>,
    /// The first label of the SNI through a gateway. None: not exported.
    pub handle: Option<Arc<str>>,
    /// Measurements; they outlive generations.
    pub stats: Arc<EndpointStats>,
    /// The whole SNI and the mesh domain that it was made for.
    sni: OnceLock<(Box<str>, Arc<str>)>,
}

impl Endpoint {
    /// Checks a resource by every rule of `endpoint.proto`.
    ///
    /// # Errors
    /// A field breaks its rule: the name is the resource's (`service#endpoint`), the reason names
    /// the field.
    pub fn compile(from: &resource::Endpoint, stats: Arc<EndpointStats>) -> Result<Self, Rejected> {
        check(from, stats).map_err(|why| Rejected {
            name: format!("{}#{}", from.service, from.name),
            why,
        })
    }

    /// Which port of the pod answers for this port of the service.
    #[must_use]
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports
            .iter()
            .find(|(from, _)| *from == service_port)
            .map(|(_, to)| *to)
    }

    /// `<handle>.<cluster>.<mesh domain>`; None if it has no handle. Made once.
    #[must_use]
    pub fn sni(&self, mesh_domain: &str) -> Option<Arc<str>> {
        let handle = self.handle.as_ref()?;
        let make = || Arc::<str>::from(format!("{handle}.{}.{mesh_domain}", self.cluster));
        let (domain, sni) = self.sni.get_or_init(|| (Box::from(mesh_domain), make()));
        // A process has one mesh domain; another one is served all the same.
        Some(if **domain == *mesh_domain {
            Arc::clone(sni)
        } else {
            make()
        })
    }
}

fn check(from: &resource::Endpoint, stats: Arc<EndpointStats>) -> Result<Endpoint, String> {
    let name: WorkloadName = parse("name", &from.name)?;
    let service: ServiceName = parse("service", &from.service)?;
    let cluster: ClusterId = parse("origin.cluster", origin_cluster(from)?)?;
    if name.cluster() != cluster.as_str() {
        return Err(format!(
            "origin.cluster: {cluster} declares a pod of {}",
            name.cluster()
        ));
    }
    let tunnel_port = match from.tunnel_port {
        0 => None,
        port => Some(port_number("tunnel_port", port)?),
    };
    let identity = match from.identity.as_str() {
        "" if tunnel_port.is_some() => {
            return Err("identity: required where tunnel_port is set".to_owned());
        }
        "" => None,
        text => Some(parse("identity", text)?),
    };
    Ok(Endpoint {
        id: EndpointId::of(&service, &name),
        addresses: addresses(from)?,
        network: parse("network", &from.network)?,
        identity,
        weight: from.weight.unwrap_or(1),
        health: health(from.health)?,
        locality: from
            .locality
            .as_ref()
            .map(|locality| Arc::new(Locality::from(locality)))
            .unwrap_or_default(),
        charge_ms: charge(from.charge_ms)?,
        ports: ports(from)?,
        tunnel_port,
        handle: handle(&from.handle)?,
        stats,
        sni: OnceLock::new(),
        name,
        service,
        cluster,
    })
}

fn origin_cluster(from: &resource::Endpoint) -> Result<&str, String> {
    from.origin
        .as_ref()
        .map(|o| o.cluster.as_str())
        .ok_or_else(|| "origin: required".to_owned())
}

fn addresses(from: &resource::Endpoint) -> Result<SmallVec<[IpAddr; 2]>, String> {
    if from.addresses.is_empty() || from.addresses.len() > ADDRESSES_MAX {
        return Err(format!(
            "addresses: {} of 1 to {ADDRESSES_MAX}",
            from.addresses.len()
        ));
    }
    from.addresses
        .iter()
        .map(|bytes| address(bytes).map_err(|why| format!("addresses: {why}")))
        .collect()
}

fn ports(from: &resource::Endpoint) -> Result<SmallVec<[(u16, u16); 2]>, String> {
    if from.ports.is_empty() || from.ports.len() > PORTS_MAX {
        return Err(format!("ports: {} of 1 to {PORTS_MAX}", from.ports.len()));
    }
    let mut ports = SmallVec::new();
    for mapping in &from.ports {
        let service = port_number("ports.service_port", mapping.service_port)?;
        let target = port_number("ports.target_port", mapping.target_port)?;
        if ports.iter().any(|(known, _)| *known == service) {
            return Err(format!("ports.service_port: {service} twice"));
        }
        ports.push((service, target));
    }
    Ok(ports)
}

fn health(raw: i32) -> Result<Health, String> {
    match resource::Health::try_from(raw) {
        Ok(resource::Health::Healthy) => Ok(Health::Healthy),
        Ok(resource::Health::Draining) => Ok(Health::Draining),
        Ok(resource::Health::Unhealthy) => Ok(Health::Unhealthy),
        Ok(resource::Health::Unspecified) => Err("health: unspecified".to_owned()),
        Err(_) => Err(format!("health: {raw} is not known")),
    }
}

fn charge(ms: u32) -> Result<u32, String> {
    if ms > PENALTY_MS_MAX {
        return Err(format!("charge_ms: {ms} is above {PENALTY_MS_MAX}"));
    }
    Ok(ms)
}

fn handle(text: &str) -> Result<Option<Arc<str>>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > HANDLE_CHARS || !is_label(text) {
        return Err(format!(
            "handle: not a DNS label of at most {HANDLE_CHARS} characters"
        ));
    }
    Ok(Some(Arc::from(text)))
}

/// An address of 4 or 16 bytes; an IPv4 address in IPv6 is an IPv4 address.
pub(crate) fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let ip = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => IpAddr::V4(Ipv4Addr::from(four)),
        (_, Ok(sixteen)) => IpAddr::V6(Ipv6Addr::from(sixteen)).to_canonical(),
        (Err(_), Err(_)) => return Err(format!("{} bytes, not 4 or 16", bytes.len())),
    };
    // Connecting to 0.0.0.0 means this host; nobody is there by a group address.
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("{ip} is no host's address"));
    }
    Ok(ip)
}

/// A port from 1 to 65,535.
pub(crate) fn port_number(field: &str, port: u32) -> Result<u16, String> {
    u16::try_from(port)
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("{field}: {port} is not 1 to 65,535"))
}

pub(crate) fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, String>
where
    T::Err: fmt::Display,
{
    text.parse().map_err(|why| format!("{field}: {why}"))
}

#[cfg(test)]
mod tests;
