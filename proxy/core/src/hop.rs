//! By which way does a call get to an endpoint?

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use isthmus_proto::ids::{ClusterId, NetworkId, WorkloadName, is_dns_name};
use isthmus_proto::resource::{self, gateway_address::Kind};
use isthmus_proto::spiffe::SpiffeId;
use smallvec::SmallVec;

use crate::balance::{
    Endpoint, EndpointStats, Me, Outcome, Rng, Ticks, address, parse, port_number,
};
use crate::failure::Failure;
use crate::snapshot::Rejected;

/// Most addresses of one gateway (ours to tune).
pub const GATEWAY_ADDRESSES_MAX: usize = 32;

/// The way, as a value: where to connect, and who must answer.
#[derive(Debug, Clone)]
pub enum NextHop {
    /// To the application itself, in plain bytes.
    Plain {
        /// The pod and the application's port.
        address: SocketAddr,
    },
    /// Mutual TLS to the endpoint's mesh listener.
    Tunnel {
        /// The pod and its mesh port.
        address: SocketAddr,
        /// Its handle, if it has one; only information on a direct way.
        sni: Option<Arc<str>>,
        /// Who must answer.
        identity: SpiffeId,
    },
    /// Mutual TLS to the endpoint, relayed by one of the gateways of its cluster and network.
    ViaGateway {
        /// At least one; [`pick_gateway`] chooses.
        gateways: SmallVec<[Arc<Gateway>; 2]>,
        /// By this the gateway knows the endpoint.
        sni: Arc<str>,
        /// Who must answer: the endpoint, never the gateway.
        identity: SpiffeId,
    },
}

/// Where a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GatewayAddress {
    /// As it is.
    Ip(SocketAddr),
    /// A name that the proxy resolves, and a port.
    Hostname(String, u16),
}

/// An east-west gateway.
#[derive(Debug)]
pub struct Gateway {
    /// cluster/namespace/name.
    pub name: WorkloadName,
    /// Whose pods it reaches.
    pub cluster: ClusterId,
    /// The network behind it.
    pub network: NetworkId,
    /// Empty: known, not reachable.
    pub addresses: Vec<GatewayAddress>,
    /// Measurements; they outlive generations.
    pub stats: Arc<EndpointStats>,
}

impl Gateway {
    /// Checks a resource by every rule of `gateway.proto`.
    ///
    /// # Errors
    /// A field breaks its rule; the reason names it.
    pub fn compile(from: &resource::Gateway, stats: Arc<EndpointStats>) -> Result<Self, Rejected> {
        check(from, stats).map_err(|why| Rejected {
            name: from.name.clone(),
            why,
        })
    }

    /// Its addresses that are none of a name.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(|address| match address {
            GatewayAddress::Ip(address) => Some(address.ip()),
            GatewayAddress::Hostname(..) => None,
        })
    }
}

fn check(from: &resource::Gateway, stats: Arc<EndpointStats>) -> Result<Gateway, String> {
    let name: WorkloadName = parse("name", &from.name)?;
    let cluster: ClusterId = parse("cluster", &from.cluster)?;
    // A cluster that could declare gateways for another would get that one's traffic.
    if name.cluster() != cluster.as_str() {
        return Err(format!(
            "cluster: {cluster}, but the name says {}",
            name.cluster()
        ));
    }
    if from.addresses.len() > GATEWAY_ADDRESSES_MAX {
        return Err(format!("addresses: more than {GATEWAY_ADDRESSES_MAX}"));
    }
    Ok(Gateway {
        network: parse("network", &from.network)?,
        addresses: from
            .addresses
            .iter()
            .map(gateway_address)
            .collect::<Result<_, _>>()?,
        stats,
        name,
        cluster,
    })
}

fn gateway_address(from: &resource::GatewayAddress) -> Result<GatewayAddress, String> {
    let port = port_number("addresses.port", from.port)?;
    match &from.kind {
        None => Err("addresses: neither ip nor hostname".to_owned()),
        Some(Kind::Ip(bytes)) => {
            let ip = address(bytes).map_err(|why| format!("addresses.ip: {why}"))?;
            Ok(GatewayAddress::Ip(SocketAddr::new(ip, port)))
        }
        Some(Kind::Hostname(name)) if is_dns_name(name) => {
            Ok(GatewayAddress::Hostname(name.clone(), port))
        }
        Some(Kind::Hostname(_)) => {
            Err("addresses.hostname: not a DNS name in lower case".to_owned())
        }
    }
}

/// Gateways by what they reach.
#[derive(Debug, Default)]
pub struct GatewayTable {
    /// Those that have addresses.
    by_cluster: BTreeMap<ClusterId, SmallVec<[Ways; 1]>>,
    all: Vec<Arc<Gateway>>,
}

#[derive(Debug)]
struct Ways {
    network: NetworkId,
    gateways: SmallVec<[Arc<Gateway>; 2]>,
}

impl GatewayTable {
    /// Sorts gateways by cluster and network.
    #[must_use]
    pub fn new(gateways: impl IntoIterator<Item = Arc<Gateway>>) -> Self {
        let mut table = Self::default();
        for gateway in gateways {
            if !gateway.addresses.is_empty() {
                let ways = table.by_cluster.entry(gateway.cluster.clone()).or_default();
                let known = ways.iter().position(|way| way.network == gateway.network);
                match known.and_then(|at| ways.get_mut(at)) {
                    Some(way) => way.gateways.push(Arc::clone(&gateway)),
                    None => ways.push(Ways {
                        network: gateway.network.clone(),
                        gateways: SmallVec::from_iter([Arc::clone(&gateway)]),
                    }),
                }
            }
            table.all.push(gateway);
        }
        table
    }

    /// The reachable gateways to a network of a cluster; none: empty.
    #[must_use]
    pub fn to(&self, cluster: &ClusterId, network: &NetworkId) -> &[Arc<Gateway>] {
        let ways = self.by_cluster.get(cluster).map_or(&[][..], |ways| ways);
        ways.iter()
            .find(|way| way.network == *network)
            .map_or(&[], |way| &way.gateways)
    }

    /// All, also those without addresses.
    #[must_use]
    pub fn all(&self) -> &[Arc<Gateway>] {
        &self.all
    }
}

/// Is there a way to this endpoint? For [`pick`](crate::balance::pick): true exactly when
/// [`next_hop`] finds one.
#[must_use]
pub fn reachable(endpoint: &Endpoint, me: &Me, gateways: &GatewayTable) -> bool {
    if endpoint.network == me.network {
        return !endpoint.addresses.is_empty();
    }
    endpoint.handle.is_some()
        && endpoint.identity.is_some()
        && endpoint.tunnel_port.is_some()
        && !gateways.to(&endpoint.cluster, &endpoint.network).is_empty()
}

/// The way to an endpoint: direct on our own network, through a gateway of its cluster otherwise.
///
/// # Errors
/// `NoHealthyEndpoint`: it is on another network and is not exported, has no mesh listener, or no
/// gateway leads there.
pub fn next_hop(
    endpoint: &Endpoint,
    target_port: u16,
    me: &Me,
    gateways: &GatewayTable,
    mesh_domain: &str,
) -> Result<NextHop, Failure> {
    let tunnel = endpoint.tunnel_port.zip(endpoint.identity.as_ref());
    if endpoint.network == me.network {
        let ip: IpAddr = *endpoint
            .addresses
            .first()
            .ok_or(Failure::NoHealthyEndpoint)?;
        return Ok(match tunnel {
            Some((port, identity)) => NextHop::Tunnel {
                address: SocketAddr::new(ip, port),
                sni: endpoint.sni(mesh_domain),
                identity: identity.clone(),
            },
            None => NextHop::Plain {
                address: SocketAddr::new(ip, target_port),
            },
        });
    }
    let ways = gateways.to(&endpoint.cluster, &endpoint.network);
    match (tunnel, endpoint.sni(mesh_domain)) {
        (Some((_, identity)), Some(sni)) if !ways.is_empty() => Ok(NextHop::ViaGateway {
            gateways: SmallVec::from(ways),
            sni,
            identity: identity.clone(),
        }),
        _ => Err(Failure::NoHealthyEndpoint),
    }
}

/// What came of trying to reach an endpoint through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// No connection to the gateway came about.
    Unreached,
    /// It came about, and no peer answered through it: the gateway is dead behind a load balancer
    /// that still takes connections, or the pod is dead behind a gateway that is well.
    Silent,
    /// A peer answered, be it another one than was called.
    Answered,
}

impl Tried {
    /// What the gateway is to be remembered for; `None`: nothing. `answered`: a peer did through one
    /// of the gateways that were tried, so the pod is well.
    ///
    /// Whose fault a silence is can't be seen on the connection itself. Where no gateway leads to an
    /// answer, the endpoint is told of the failure, and the gateways are not.
    #[must_use]
    pub fn outcome(self, answered: bool) -> Option<Outcome> {
        match self {
            Self::Unreached => Some(Outcome::NoAnswer),
            Self::Silent if answered => Some(Outcome::NoAnswer),
            Self::Silent => None,
            Self::Answered => Some(Outcome::Success),
        }
    }
}

/// Chooses among gateways: the cheaper of two that are not ejected; if all are, the one that
/// returns first. None only if there are none.
///
/// Tell the gateway's stats how *connecting to it* went ([`Tried::outcome`]), and the endpoint's stats
/// how the call went, a failed connection included: of several gateways the broken one is then ejected
/// before any pod behind it is, and behind a single one the pods are, so that other clusters take over.
pub fn pick_gateway(gateways: &[Arc<Gateway>], rng: &mut Rng, now: Ticks) -> Option<Arc<Gateway>> {
    let usable: SmallVec<[&Arc<Gateway>; 4]> = gateways
        .iter()
        .filter(|g| !g.stats.is_ejected(now))
        .collect();
    let n = usable.len();
    if n < 2 {
        let first_back = || gateways.iter().min_by_key(|g| g.stats.ejected_until());
        return usable.first().copied().or_else(first_back).map(Arc::clone);
    }
    let at = rng.below(n);
    let other = at
        .saturating_add(1)
        .saturating_add(rng.below(n.saturating_sub(1)));
    let other = if other >= n {
        other.saturating_sub(n)
    } else {
        other
    };
    let (a, b) = usable.get(at).zip(usable.get(other))?;
    let first = EndpointStats::cheaper(&a.stats, &b.stats, rng, now);
    Some(Arc::clone(if first { a } else { b }))
}

#[cfg(test)]
mod tests;
