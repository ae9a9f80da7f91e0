//! Which service does a client mean, and what is it?
//!
//! A name is resolved relative to the client's cluster: `cart.shop.svc.cluster.local` in one cluster
//! has nothing to do with the same name in another. In discovery every cluster's services are called
//! so; what stands behind `svc.` in host names is the cluster's own (`clusterDomain`).

use std::net::IpAddr;

use isthmus_proto::ids::{ClusterId, Namespace, ServiceName, WorkloadName, is_label};
use isthmus_proto::resource;

use crate::import;
use crate::model::{
    CLUSTER_DOMAIN, Kind, OtherPort, Reach, Service, ServiceImport, ServicePort, ServiceRef,
    ServiceType, TargetPort, TrafficPolicy, Transport,
};
use crate::translate::{Answer, Client, List, direct, encode, octets};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;
use crate::world::table::{Entry, Stamp};

/// What a call is charged for leaving its zone where `trafficDistribution` asks for the zone: as much
/// as for leaving the cluster, ten times the usual.
const CLOSE_PENALTY_MS: u32 = 20;

/// What a subscription key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// A service's name; whether it exists is another question.
    Service(ServiceRef),
    /// A pod, by its own address.
    Pod(WorkloadName),
    /// It can mean no service.
    Nothing,
    /// It can't be said yet.
    Unknown,
}

/// The service that a key means to this client: `host:<hostname>`, `vip:<network>/<ip>` or a
/// service's name.
pub(crate) fn resolve(world: &World, client: &Client, key: &str) -> Resolved {
    let named = if let Some(host) = key.strip_prefix("host:") {
        by_host(domain(world, client), client, host)
    } else if let Some(vip) = key.strip_prefix("vip:") {
        return by_address(world, client, vip);
    } else {
        ServiceRef::of_service_name(key)
    };
    named.map_or(Resolved::Nothing, Resolved::Service)
}

/// The domain of names in DNS where a client is.
fn domain<'a>(world: &'a World, client: &Client) -> &'a str {
    let cluster = world.listed(client.cluster.as_str());
    cluster.map_or(CLUSTER_DOMAIN, Cluster::domain)
}

/// `cart`, `cart.shop`, `cart.shop.svc`, `cart.shop.svc.<domain>` and
/// `cart.shop.svc.clusterset.local`.
fn by_host(domain: &str, client: &Client, host: &str) -> Option<ServiceRef> {
    let local = host
        .strip_suffix(domain)
        .and_then(|rest| rest.strip_suffix(".svc."));
    let (short, reach) = if let Some(short) = host.strip_suffix(".svc.clusterset.local") {
        (short, Reach::Clusterset)
    } else if let Some(short) = local {
        (short, Reach::Cluster)
    } else if let Some(short) = host.strip_suffix(".svc") {
        (short, Reach::Cluster)
    } else {
        (host, Reach::Cluster)
    };
    let (name, namespace) = match short.split_once('.') {
        Some(parts) => parts,
        // Only a bare name is taken to be in the client's own namespace.
        None if short == host => (short, client.namespace()),
        None => return None,
    };
    let namespace: Namespace = namespace.parse().ok()?;
    is_label(name).then(|| ServiceRef {
        reach,
        namespace,
        name: name.to_owned(),
    })
}

fn by_address(world: &World, client: &Client, vip: &str) -> Resolved {
    let Some((network, ip)) = vip.split_once('/') else {
        return Resolved::Nothing;
    };
    let Ok(ip) = ip.parse::<IpAddr>() else {
        return Resolved::Nothing;
    };
    let Some(cluster) = world.listed(client.cluster.as_str()) else {
        return Resolved::Unknown;
    };
    // Virtual addresses are those of the client's own cluster: nobody else can claim one.
    if cluster.network().is_none_or(|own| own.as_str() != network) {
        return Resolved::Nothing;
    }
    let Some(claim) = cluster.vip(ip) else {
        return direct::at((world, cluster), client, ip.to_canonical());
    };
    let found = claim.namespace.parse().map(|namespace| ServiceRef {
        reach: claim.reach,
        namespace,
        name: claim.name.clone(),
    });
    found.map_or(Resolved::Nothing, Resolved::Service)
}

/// A service as the clients of one cluster see it.
pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) service: &'a ServiceRef,
    /// The cluster's own service, if that is what the name means.
    pub(crate) own: Option<&'a Entry<Service>>,
    /// What all clusters offer, if the name covers that.
    pub(crate) merged: Option<import::Merged>,
    /// What the client's cluster imports and nobody exports: known, and empty. If it were unknown, calls
    /// to its address would pass through as they are.
    orphan: Option<Orphan<'a>>,
    pub(crate) traffic: Option<&'a TrafficPolicy>,
    /// Does the name cover what other clusters export?
    pub(crate) covers: bool,
}

/// An import without an export.
struct Orphan<'a> {
    import: &'a Entry<ServiceImport>,
    ports: Vec<ServicePort>,
}

impl<'a> Orphan<'a> {
    fn of(import: &'a Entry<ServiceImport>) -> Self {
        let tcp = |port: &&OtherPort| port.transport == Transport::Tcp;
        let ports = import.value.ports.iter().filter(tcp);
        let port = |port: &OtherPort| ServicePort {
            name: port.name.clone(),
            port: port.port,
            target: TargetPort::Number(port.port),
            protocol: resource::Protocol::Unspecified,
            app_protocol: port.app_protocol.clone(),
        };
        let ports = ports.map(port).collect();
        Self { import, ports }
    }
}

impl<'a> View<'a> {
    /// The view of a client; `None` while its own cluster, or how it wants calls to be treated, is
    /// not known.
    pub(crate) fn of(world: &'a World, client: &Client, service: &'a ServiceRef) -> Option<Self> {
        let cluster = world.listed(client.cluster.as_str())?;
        if !cluster.knows(Kind::TrafficPolicy) {
            return None;
        }
        let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
        let traffic = traffic(cluster, service);
        let (own, covers) = match service.reach {
            Reach::Cluster => (
                cluster.services.get(namespace, name),
                traffic.is_some_and(|t| t.cover_imported),
            ),
            Reach::Clusterset => (None, true),
        };
        // An alias in DNS stays what it is: imports do not take its place.
        let alias = own.is_some_and(|entry| entry.value.kind == ServiceType::ExternalName);
        let (own, covers) = (own.filter(|_| !alias), covers && !alias);
        let merged = if covers {
            import::merged(world, namespace, name)
        } else {
            None
        };
        let imported = || cluster.imports.get(namespace, name).map(Orphan::of);
        let orphan = if merged.is_none() && service.reach == Reach::Clusterset {
            imported()
        } else {
            None
        };
        Some(Self {
            cluster,
            service,
            own,
            merged,
            orphan,
            traffic,
            covers,
        })
    }

    /// Its ports; empty: there is no such service.
    pub(crate) fn ports(&self) -> &[ServicePort] {
        let orphan = self.orphan.as_ref().map(|orphan| orphan.ports.as_slice());
        let merged = self.merged.as_ref().map(|merged| merged.ports.as_slice());
        let own = self.own.map(|own| own.value.ports.as_slice());
        own.or(merged).or(orphan).unwrap_or_default()
    }

    /// Is all known that could make it exist, or change it?
    pub(crate) fn is_complete(&self, world: &World) -> bool {
        let (namespace, name) = (self.service.namespace.as_str(), &self.service.name);
        !self.covers || world.awaited_exporter(namespace, name).is_none()
    }

    fn message(&self) -> Option<(resource::Service, Stamp)> {
        let ServiceRef {
            reach,
            namespace,
            name,
        } = self.service;
        let stamp = self
            .own
            .map(|own| own.stamp)
            .or(self.merged.as_ref().map(|m| m.stamp))
            .or(self.orphan.as_ref().map(|o| o.import.stamp))?;
        let hostnames = match reach {
            Reach::Cluster => {
                vec![
                    format!("{name}.{namespace}.svc.{}", self.cluster.domain()),
                    format!("{name}.{namespace}.svc"),
                    format!("{name}.{namespace}"),
                ]
            }
            Reach::Clusterset => vec![format!("{name}.{namespace}.{}", reach.suffix())],
        };
        let scope = if self.covers {
            resource::ServiceScope::Clusterset
        } else {
            resource::ServiceScope::Cluster
        };
        let message = resource::Service {
            name: self.service.service_name(),
            hostnames,
            addresses: self.addresses(),
            ports: self.ports().iter().map(port).collect(),
            traffic: self.treatment(),
            scope: scope.into(),
            origin: None,
            closed: false,
        };
        (!message.ports.is_empty()).then_some((message, stamp))
    }

    /// What the policy says, and what the service itself asks for. A headless service has no affinity:
    /// its clients choose for themselves. `internalTrafficPolicy: Local` is a matter of its endpoints.
    fn treatment(&self) -> Option<resource::TrafficPolicy> {
        let policy = self.traffic.map(|traffic| traffic.body.clone());
        let merged = self.merged.as_ref();
        let (kind, seconds, spread) = match self.own {
            Some(own) => (own.value.kind, own.value.affinity(), &own.value.spread),
            None => (merged?.kind, merged?.affinity, &merged?.spread),
        };
        let aware = self.own.is_some_and(|own| own.value.topology_aware);
        let close = aware || spread.prefers_zone();
        let seconds = seconds.filter(|_| kind == ServiceType::ClusterIp);
        if seconds.is_none() && !close {
            return policy;
        }
        let mut policy = policy.unwrap_or_default();
        let balancing = policy.balancing.get_or_insert_default();
        balancing.client_affinity_seconds = seconds;
        if close {
            // The policy is the mesh's own word, and more exact.
            balancing.zone_penalty_ms.get_or_insert(CLOSE_PENALTY_MS);
        }
        Some(policy)
    }

    /// Virtual addresses are the client's cluster's own, and only those that it has the first claim to.
    fn addresses(&self) -> Vec<resource::VirtualAddress> {
        let (namespace, name) = (self.service.namespace.as_str(), self.service.name.as_str());
        let ips: &[IpAddr] = match self.service.reach {
            Reach::Cluster => self.own.map_or(&[], |own| &own.value.cluster_ips),
            Reach::Clusterset => self
                .cluster
                .imports
                .get(namespace, name)
                .map_or(&[], |i| &i.value.ips),
        };
        let Some(network) = self.cluster.network() else {
            return Vec::new();
        };
        let ours = |ip: &&IpAddr| {
            self.cluster.vip(**ip).is_some_and(|claim| {
                claim.reach == self.service.reach
                    && claim.namespace == namespace
                    && claim.name == name
            })
        };
        let address = |ip: &IpAddr| resource::VirtualAddress {
            network: network.to_string(),
            address: octets(*ip),
        };
        ips.iter().filter(ours).map(address).collect()
    }
}

/// The service itself.
pub(crate) fn definition(world: &World, client: &Client, service: &ServiceRef) -> Answer {
    let Some(view) = View::of(world, client, service) else {
        return Answer::unknown();
    };
    let key = ServiceKey::new(service.namespace.as_str(), &service.name);
    let at = (service.reach, client.cluster.clone());
    let list = world.cache.definition(&key, at, || {
        let found = view
            .message()
            .filter(|(message, _)| message.name.parse::<ServiceName>().is_ok());
        let encoded = found.map(|(message, stamp)| {
            let origin = match (&view.own, &view.merged) {
                (None, Some(merged)) => &merged.origin,
                (Some(_), _) | (None, None) => &client.cluster,
            };
            encode(&message.name.clone(), message, origin, Some(stamp))
        });
        encoded.into_iter().collect::<List>()
    });
    Answer {
        lists: vec![list],
        known: true,
        complete: view.is_complete(world),
    }
}

/// The policy for a service: the oldest of those that target it.
pub(crate) fn traffic<'a>(cluster: &'a Cluster, service: &ServiceRef) -> Option<&'a TrafficPolicy> {
    let policies = cluster.traffic.within(service.namespace.as_str());
    policies
        .filter(|(_, entry)| {
            let policy = &entry.value;
            policy.invalid.is_none()
                && policy.reach == service.reach
                && policy.service == service.name
        })
        .min_by_key(|(name, entry)| (entry.age(), *name))
        .map(|(_, entry)| &entry.value)
}

fn port(port: &ServicePort) -> resource::ServicePort {
    resource::ServicePort {
        port: u32::from(port.port),
        name: port.name.clone(),
        protocol: port.protocol.into(),
    }
}

/// The clusters whose endpoints a view may have.
pub(crate) fn providers<'a>(view: &'a View<'_>) -> Vec<&'a ClusterId> {
    let mut providers = Vec::new();
    if view.own.is_some() {
        providers.push(&view.cluster.id);
    }
    for exporter in view.merged.iter().flat_map(|merged| &merged.exporters) {
        if !providers.contains(&exporter) {
            providers.push(exporter);
        }
    }
    providers
}
