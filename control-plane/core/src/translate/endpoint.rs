//! Which addresses serve?
//!
//! EndpointSlices say it where a service has any; otherwise the pods that its selector takes. Who
//! must answer there is always said by the pod's own cluster: no other can vouch for it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;

use crate::import;
use crate::model::{
    MeshCluster, Pod, Reach, Service, ServicePort, ServiceRef, ServiceType, SliceEndpoint,
    TargetPort,
};
use crate::translate::cache::{EndpointsKey, Made};
use crate::translate::service::{View, providers};
use crate::translate::{Answer, Client, Encoded, encode, octets};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;
use crate::world::table::Entry;

/// The port of a pod's mesh listener.
pub(crate) const MESH_PORT: u16 = 15_008;
/// Addresses of one endpoint (two families, and one to move).
const ADDRESSES_MAX: usize = 4;

/// The service's endpoints for this client, and the clusters that they are in.
pub(crate) fn endpoints(
    world: &World,
    client: &Client,
    service: &ServiceRef,
) -> (Answer, Vec<ClusterId>) {
    let Some(view) = View::of(world, client, service) else {
        return (Answer::unknown(), Vec::new());
    };
    let key = ServiceKey::new(service.namespace.as_str(), &service.name);
    let mut answer = Answer {
        lists: Vec::new(),
        known: true,
        complete: view.is_complete(world),
    };
    let node = match node_only(&view, client) {
        Ok(node) => node,
        Err(NotKnown) => return (Answer::unknown(), Vec::new()),
    };
    let mut found = Vec::new();
    for provider in providers(&view) {
        // No node is in two clusters.
        if node.is_some() && *provider != client.cluster {
            continue;
        }
        let Some(cluster) = world.listed(provider.as_str()) else {
            continue;
        };
        if *provider != client.cluster && !world.counts_elsewhere(cluster) {
            continue;
        }
        let at = EndpointsKey {
            reach: service.reach,
            ports_of: (service.reach == Reach::Cluster).then(|| client.cluster.clone()),
            provider: provider.clone(),
            own: *provider == client.cluster,
            node: node.clone(),
        };
        let list = world.cache.endpoints(&key, at.clone(), |before| {
            encode_all((world, &view), cluster, &at, before)
        });
        if !list.is_empty() {
            found.push(provider.clone());
            answer.lists.push(list);
        }
    }
    (answer, found)
}

/// Too little is known of the client's own pod.
struct NotKnown;

/// The node that a service's endpoints are to be on, for this client; `None`: on any. It is that of
/// `internalTrafficPolicy: Local`, of a service with a virtual address: for others Kubernetes has none.
/// Pods that name no node, as in a folder of manifests, are on one.
fn node_only(view: &View<'_>, client: &Client) -> Result<Option<Option<Arc<str>>>, NotKnown> {
    let local = view
        .own
        .is_some_and(|own| own.value.spread.node_only && own.value.kind == ServiceType::ClusterIp);
    if !local {
        return Ok(None);
    }
    let (namespace, pod) = (client.namespace(), client.workload.pod());
    let own = view.cluster.pods.get(namespace, pod).ok_or(NotKnown)?;
    Ok(Some(own.value.node.as_deref().map(Into::into)))
}

fn encode_all(
    (world, view): (&World, &View<'_>),
    cluster: &Cluster,
    at: &EndpointsKey,
    before: &Made,
) -> Made {
    let (namespace, name) = (view.service.namespace.as_str(), view.service.name.as_str());
    let Some(own) = cluster.services.get(namespace, name) else {
        return Made::default();
    };
    let ports = import::matching(view.ports(), &own.value.ports);
    // The local name in its own cluster needs no gateway; everything else may.
    let exported = cluster.exported(namespace, name) && !(at.reach == Reach::Cluster && at.own);
    let found = if at.own {
        hinted(backends(cluster, namespace, name))
    } else {
        world.told_backends(cluster, namespace, name)
    };
    let is_here = |backend: &&Backend<'_>| {
        let node = at.node.as_ref();
        node.is_none_or(|node| node.as_deref() == backend.node)
    };
    let visible = found
        .iter()
        .filter(|backend| at.own || (exported && backend.is_meshed()))
        .filter(is_here);
    let marked = visible.map(|backend| (backend.mark(world.cache.chance()), backend));
    before.again(marked, |backend| {
        encode_one(view.service, cluster, backend, (&ports, exported))
    })
}

/// Topology hints, as kube-proxy takes them: those of the client's own cluster, and only if every endpoint
/// that is ready has one. An endpoint then counts as being in the zone that it is meant for; of several
/// in its own, else in the first.
fn hinted(mut backends: Vec<Backend<'_>>) -> Vec<Backend<'_>> {
    let lacks = |b: &Backend<'_>| b.health == resource::Health::Healthy && b.for_zones.is_empty();
    if !backends.iter().any(lacks) {
        for backend in &mut backends {
            let zone = &mut backend.locality.zone;
            if let Some(first) = backend.for_zones.first()
                && !backend.for_zones.contains(zone)
            {
                zone.clone_from(first);
            }
        }
    }
    backends
}

fn encode_one(
    service: &ServiceRef,
    cluster: &Cluster,
    backend: &Backend<'_>,
    (ports, exported): (&[(u16, &ServicePort)], bool),
) -> Option<Encoded> {
    let mapping = |(view, own): &(u16, &ServicePort)| {
        let target = backend.ports.get(&own.port)?;
        let (service_port, target_port) = (u32::from(*view), u32::from(*target));
        Some(resource::PortMapping {
            service_port,
            target_port,
        })
    };
    let ports: Vec<_> = ports.iter().filter_map(mapping).collect();
    if ports.is_empty() {
        return None;
    }
    let name = backend.workload(cluster)?;
    let identity = backend.identity(cluster);
    // Of the mesh, and nobody could say who must answer: not in plaintext. A condition tells.
    if backend.is_meshed() && identity.is_none() {
        return None;
    }
    let handle = if exported && identity.is_some() {
        backend.handle(cluster)
    } else {
        None
    };
    let locality = cluster.locality(&backend.locality);
    let message = resource::Endpoint {
        name: name.to_string(),
        service: service.service_name(),
        addresses: backend.addresses.iter().map(|ip| octets(*ip)).collect(),
        network: cluster.network()?.to_string(),
        tunnel_port: if identity.is_some() {
            u32::from(MESH_PORT)
        } else {
            0
        },
        identity: identity.map(|id| id.to_string()).unwrap_or_default(),
        weight: Some(1),
        health: backend.health.into(),
        origin: None,
        locality: Some(resource::Locality {
            region: locality.region,
            zone: locality.zone,
        }),
        ports,
        handle: handle.unwrap_or_default(),
        charge_ms: cluster.mesh().map_or(0, MeshCluster::charge_ms),
    };
    let seen = backend.pod.map(|(_, entry)| entry.stamp);
    Some(encode(
        &format!("{}#{name}", message.service),
        message,
        &cluster.id,
        seen,
    ))
}

/// One place that a service leads to in one cluster.
#[derive(Debug)]
pub(crate) struct Backend<'a> {
    /// The last part of its name.
    pub(crate) name: String,
    namespace: &'a str,
    pub(crate) pod: Option<(&'a str, &'a Entry<Pod>)>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) health: resource::Health,
    /// Its name below the service's in DNS.
    pub(crate) hostname: Option<String>,
    /// Port of the cluster's own service → port of the pod.
    pub(crate) ports: BTreeMap<u16, u16>,
    pub(crate) locality: Locality,
    /// The node that it is on; `None`: it does not say.
    node: Option<&'a str>,
    /// The zones that it is meant for, if anybody says.
    for_zones: &'a [String],
}

impl Backend<'_> {
    pub(crate) fn is_meshed(&self) -> bool {
        self.pod.is_some_and(|(_, entry)| entry.value.meshed)
    }

    pub(crate) fn workload(&self, cluster: &Cluster) -> Option<WorkloadName> {
        format!("{}/{}/{}", cluster.id, self.namespace, self.name)
            .parse()
            .ok()
    }

    /// Who must answer; `None`: nobody that could prove it, so only plain connections.
    pub(crate) fn identity(&self, cluster: &Cluster) -> Option<SpiffeId> {
        let (_, entry) = self.pod.filter(|_| self.is_meshed())?;
        SpiffeId::new(
            &cluster.trust_domain,
            self.namespace,
            &entry.value.service_account,
        )
        .ok()
    }

    /// Its id among the cluster's endpoints.
    pub(crate) fn id(&self, cluster: &Cluster) -> Option<u64> {
        self.pod
            .and_then(|(pod, _)| cluster.endpoint_id(self.namespace, pod))
    }

    /// What tells it from what it was, while its service and its cluster are as they were. Of its pod the
    /// stamp tells. Two that differ have the same mark once in 2^64.
    fn mark(&self, chance: &RandomState) -> u64 {
        let stamp = self.pod.map(|(_, entry)| entry.stamp);
        let stamp = stamp.map(|stamp| (stamp.at, stamp.generation));
        let health = i32::from(self.health);
        let place = (&self.locality.region, &self.locality.zone);
        let said = (
            &self.name,
            stamp,
            &self.addresses,
            health,
            &self.ports,
            place,
        );
        chance.hash_one(said)
    }

    fn handle(&self, cluster: &Cluster) -> Option<String> {
        Some(cluster.keys.first()?.encode(self.id(cluster)?))
    }
}

/// All places that a service of one cluster leads to, by name.
pub(crate) fn backends<'a>(
    cluster: &'a Cluster,
    namespace: &'a str,
    name: &str,
) -> Vec<Backend<'a>> {
    let Some(service) = cluster
        .services
        .get(namespace, name)
        .map(|entry| &entry.value)
    else {
        return Vec::new();
    };
    let slices = cluster.slices_of(namespace, name);
    if slices.is_empty() {
        let pods = cluster.selected(namespace, &service.selector);
        return pods
            .filter_map(|pod| of_pod(namespace, service, pod))
            .collect();
    }
    let mut found = BTreeMap::new();
    for slice in slices {
        let target = |port: &ServicePort| {
            let same = slice.value.ports.iter().find(|p| p.name == port.name)?;
            Some((port.port, same.port))
        };
        let ports: BTreeMap<u16, u16> = service.ports.iter().filter_map(target).collect();
        for endpoint in &slice.value.endpoints {
            if let Some(backend) = of_slice(cluster, (namespace, service), endpoint, &ports) {
                add(&mut found, backend);
            }
        }
    }
    found.into_values().collect()
}

/// One pod may stand in several slices: one for each address family, or set of ports.
fn add<'a>(found: &mut BTreeMap<String, Backend<'a>>, backend: Backend<'a>) {
    let Some(known) = found.get_mut(&backend.name) else {
        found.insert(backend.name.clone(), backend);
        return;
    };
    for ip in backend.addresses {
        if !known.addresses.contains(&ip) && known.addresses.len() < ADDRESSES_MAX {
            known.addresses.push(ip);
        }
    }
    known.ports.extend(backend.ports);
    // Slices are written one after another: what one of them knows of its health already, counts.
    if ailing(backend.health) > ailing(known.health) {
        known.health = backend.health;
    }
}

/// How far a health is from a good one.
fn ailing(health: resource::Health) -> u8 {
    match health {
        resource::Health::Healthy => 0,
        resource::Health::Draining => 1,
        resource::Health::Unhealthy | resource::Health::Unspecified => 2,
    }
}

fn of_pod<'a>(
    namespace: &'a str,
    service: &Service,
    (name, entry): (&'a str, &'a Entry<Pod>),
) -> Option<Backend<'a>> {
    let pod = &entry.value;
    let addresses = usable(&pod.ips);
    if pod.finished || addresses.is_empty() {
        return None;
    }
    let target = |port: &ServicePort| match &port.target {
        TargetPort::Number(number) => Some((port.port, *number)),
        TargetPort::Name(name) => {
            let found = pod.ports.iter().find(|p| p.name == *name)?;
            Some((port.port, found.port))
        }
    };
    Some(Backend {
        name: name.to_owned(),
        namespace,
        pod: Some((name, entry)),
        addresses,
        health: health(service, pod.ready, pod.ready, pod.terminating),
        hostname: None,
        ports: service.ports.iter().filter_map(target).collect(),
        locality: pod.locality.clone(),
        node: pod.node.as_deref(),
        for_zones: &[],
    })
}

fn of_slice<'a>(
    cluster: &'a Cluster,
    (namespace, service): (&'a str, &Service),
    endpoint: &'a SliceEndpoint,
    ports: &BTreeMap<u16, u16>,
) -> Option<Backend<'a>> {
    let addresses = usable(&endpoint.addresses);
    let first = addresses.first()?;
    let pod = match &endpoint.pod {
        // A pod that is not known has no identity yet: nobody could tell who must answer.
        Some(pod) => Some(cluster.pods.entry(namespace, pod)?),
        None => None,
    };
    let gone = pod.is_some_and(|(_, entry)| entry.value.finished);
    if gone {
        return None;
    }
    let terminating = endpoint.terminating || pod.is_some_and(|(_, p)| p.value.terminating);
    let mut locality = pod
        .map(|(_, entry)| entry.value.locality.clone())
        .unwrap_or_default();
    if locality.zone.is_empty() {
        locality.zone.clone_from(&endpoint.zone);
    }
    Some(Backend {
        name: pod.map_or_else(|| address_name(*first), |(name, _)| name.to_owned()),
        namespace,
        pod,
        addresses,
        health: health(service, endpoint.ready, endpoint.serving, terminating),
        hostname: endpoint.hostname.clone(),
        ports: ports.clone(),
        locality,
        node: match pod {
            Some((_, entry)) => entry.value.node.as_deref(),
            None => endpoint.node.as_deref(),
        },
        for_zones: &endpoint.for_zones,
    })
}

fn health(service: &Service, ready: bool, serving: bool, terminating: bool) -> resource::Health {
    match (
        terminating,
        ready || service.publish_not_ready,
        ready || serving,
    ) {
        (true, _, true) => resource::Health::Draining,
        (false, true, _) => resource::Health::Healthy,
        (true, _, false) | (false, false, _) => resource::Health::Unhealthy,
    }
}

/// Addresses that a pod can have: Kubernetes refuses the others too. IPv4 written as IPv6 is IPv4.
pub(crate) fn usable(ips: &[IpAddr]) -> Vec<IpAddr> {
    let fits = |ip: &IpAddr| {
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !link_local && !ip.is_unspecified() && !ip.is_multicast()
    };
    ips.iter()
        .map(IpAddr::to_canonical)
        .filter(fits)
        .take(ADDRESSES_MAX)
        .collect()
}

/// The name of an address without a pod: a DNS name that says which.
fn address_name(ip: IpAddr) -> String {
    let text = match ip {
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) => v6.segments().map(|part| format!("{part:x}")).join("-"),
    };
    format!("ip-{text}.address")
}
