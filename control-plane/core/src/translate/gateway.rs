//! Which ways lead between networks, what may pass them, and how old is what lies behind?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_proto::ids::{ClusterId, Namespace, is_dns_name};
use isthmus_proto::resource::{self, gateway_address};

use crate::model::{
    GATEWAY_CLASS, Gateway, GatewayAddress, GatewayChoice, Kind, KindFreshness, Listener, Reach,
    SYSTEM_NAMESPACE, ServiceRef,
};
use crate::translate::endpoint::MESH_PORT;
use crate::translate::{Answer, Client, Encoded, List, encode, encode_plain, octets};
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;
use crate::world::table::Entry;
use crate::world::{State, World, whole_steps};
use crate::write::CONTROLLER_NAME;

/// Addresses of one gateway.
const ADDRESSES_MAX: usize = 16;

/// The gateways of these clusters, as a client of one sees them.
pub(crate) fn gateways(world: &World, client: &Client, clusters: &BTreeSet<ClusterId>) -> Answer {
    let viewer = world.clusters.get(&client.cluster);
    let listed = clusters
        .iter()
        .filter_map(|cluster| world.listed(cluster.as_str()));
    let of = |cluster: &Cluster| {
        let at = (cluster.id.clone(), client.cluster.clone());
        world.cache.gateways(at, || {
            let all = cluster.gateways.iter();
            let heard = all.filter(|(namespace, name, entry)| {
                is_heard((world, cluster), namespace, &entry.value)
                    && is_chosen(cluster, name)
                    && is_located(cluster, &entry.value)
            });
            heard
                .filter_map(|(ns, name, entry)| {
                    encode_one((world, viewer), cluster, (ns, name, entry))
                })
                .chain(chosen_addresses(cluster))
                .collect()
        })
    };
    Answer {
        lists: listed.map(of).collect(),
        known: true,
        complete: clusters
            .iter()
            .all(|cluster| gateways_known(world, cluster.as_str())),
    }
}

/// Is a gateway that the cluster does not have known to be gone?
pub(crate) fn gateways_known(world: &World, cluster: &str) -> bool {
    let all_located = |cluster: &Cluster| {
        let mut all = cluster.gateways.iter();
        all.all(|(.., entry)| is_located(cluster, &entry.value))
    };
    world.is_settled(cluster, |cluster| {
        cluster.knows(Kind::Gateway) && all_located(cluster)
    })
}

/// Is it one of this mesh's gateways? The object of its class says so; where there is none, its name.
pub(crate) fn is_ours(cluster: &Cluster, gateway: &Gateway) -> bool {
    match cluster.classes.get("", &gateway.class) {
        Some(class) => class.value.controller == CONTROLLER_NAME,
        None => gateway.class == GATEWAY_CLASS,
    }
}

/// Is it one of this mesh's gateways, and nothing is wrong with it?
pub(crate) fn is_heard(
    (world, cluster): (&World, &Cluster),
    namespace: &str,
    gateway: &Gateway,
) -> bool {
    is_ours(cluster, gateway) && refusal(world, namespace, gateway).is_none()
}

/// Protocols that nothing is relayed for byte by byte.
const TERMINATED: [&str; 3] = ["HTTP", "HTTPS", "UDP"];

/// Why one of this mesh's gateways is not accepted: a reason of the Gateway API, and for people.
pub(crate) fn refusal(
    world: &World,
    namespace: &str,
    gateway: &Gateway,
) -> Option<(&'static str, &'static str)> {
    if !world.is_system(namespace) {
        let why = "east-west gateways are declared in a system namespace";
        return Some(("Invalid", why));
    }
    let listener = gateway.listener().and_then(|at| gateway.listeners.get(at));
    let is_terminated = |l: &Listener| TERMINATED.contains(&l.protocol.as_str());
    listener
        .is_some_and(is_terminated)
        .then_some(("ListenersNotValid", UNSUPPORTED_PROTOCOL))
}

/// What is said of a listener that would not be relayed byte by byte.
pub(crate) const UNSUPPORTED_PROTOCOL: &str =
    "an east-west gateway relays bytes: its listener has the protocol TLS";

/// Where it is reached: as somebody else keeps it in its status, as its spec says, else where the
/// Services lead from that are its own (GEP-1762).
pub(crate) fn addresses(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    gateway: &Gateway,
) -> Vec<GatewayAddress> {
    let mut found = gateway.addresses.clone();
    if found.is_empty() {
        for (_, entry) in cluster.services.within(namespace) {
            let service = &entry.value;
            let is_led_to = service.ports.iter().any(|port| port.port == gateway.port);
            let front = service.front.iter().filter(|front| front.gateway == name);
            for address in front.flat_map(|front| &front.addresses) {
                if is_led_to && !found.contains(address) {
                    found.push(address.clone());
                }
            }
        }
    }
    found.truncate(ADDRESSES_MAX);
    found
}

/// Can it be said where it is reached? What has no address of its own may have a Service that was not
/// seen yet.
pub(crate) fn is_located(cluster: &Cluster, gateway: &Gateway) -> bool {
    !gateway.addresses.is_empty() || cluster.knows(Kind::Service)
}

/// What the cluster's MeshCluster says of its gateways; empty: nothing.
fn choices(cluster: &Cluster) -> &[GatewayChoice] {
    cluster.mesh().map_or(&[], |mesh| &mesh.gateways)
}

/// Is the Gateway of this name one that the cluster is reached by?
fn is_chosen(cluster: &Cluster, name: &str) -> bool {
    let choices = choices(cluster);
    let named = |choice: &GatewayChoice| match choice {
        GatewayChoice::Named(chosen) => chosen == name,
        GatewayChoice::At { .. } => false,
    };
    choices.is_empty() || choices.iter().any(named)
}

/// The name of gateways that a MeshCluster names by their addresses; nobody calls a Gateway so.
const CHOSEN: &str = "addresses.meshcluster.isthmus.dev";

/// Gateways that are no objects of the cluster: a load balancer in front of it, for example.
fn chosen_addresses(cluster: &Cluster) -> Vec<Encoded> {
    let Some(network) = cluster.network() else {
        return Vec::new();
    };
    let addresses: Vec<_> = choices(cluster)
        .iter()
        .filter_map(|choice| match choice {
            GatewayChoice::Named(_) => None,
            GatewayChoice::At { address, port } => encode_address(address, *port),
        })
        .take(ADDRESSES_MAX)
        .collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    // Beside the names of Gateways, and like them: a proxy refuses what is no `cluster/namespace/name`.
    let name = format!("{}/{SYSTEM_NAMESPACE}/{CHOSEN}", cluster.id);
    let message = resource::Gateway {
        name: name.clone(),
        cluster: cluster.id.to_string(),
        network: network.to_string(),
        addresses,
        origin: None,
    };
    vec![encode(&name, message, &cluster.id, None)]
}

fn encode_address(address: &GatewayAddress, port: u16) -> Option<resource::GatewayAddress> {
    let kind = match address {
        GatewayAddress::Ip(ip) => gateway_address::Kind::Ip(octets(*ip)),
        GatewayAddress::Hostname(host) if is_dns_name(host) => {
            gateway_address::Kind::Hostname(host.clone())
        }
        GatewayAddress::Hostname(_) => return None,
    };
    (port > 0).then_some(resource::GatewayAddress {
        kind: Some(kind),
        port: u32::from(port),
    })
}

fn encode_one(
    (world, viewer): (&World, Option<&Cluster>),
    cluster: &Cluster,
    (namespace, name, entry): (&str, &str, &Entry<Gateway>),
) -> Option<Encoded> {
    // Where others' pods are no object of a cluster leads: its MeshCluster may, for it is the mesh's word.
    let is_free = |address: &&GatewayAddress| match (address, viewer) {
        (GatewayAddress::Ip(ip), Some(viewer)) => {
            world.pods_instead(cluster, viewer, *ip).is_none()
        }
        (GatewayAddress::Ip(_) | GatewayAddress::Hostname(_), _) => true,
    };
    let addresses = addresses(cluster, (namespace, name), &entry.value);
    let addresses = addresses
        .iter()
        .filter(is_free)
        .filter_map(|address| encode_address(address, entry.value.port))
        .collect();
    let full = format!("{}/{namespace}/{name}", cluster.id);
    let message = resource::Gateway {
        name: full.clone(),
        cluster: cluster.id.to_string(),
        network: cluster.network()?.to_string(),
        addresses,
        origin: None,
    };
    Some(encode(&full, message, &cluster.id, Some(entry.stamp)))
}

/// How old what is known of these clusters is.
pub(crate) fn freshness(world: &World, clusters: &BTreeSet<ClusterId>) -> Answer {
    let known = clusters
        .iter()
        .filter_map(|cluster| world.clusters.get(cluster));
    Answer::complete(known.map(|cluster| {
        let (state, confirmed_at) = match cluster.state {
            State::Unknown => (resource::Freshness::Unknown, None),
            State::Synced => (
                resource::Freshness::Synced,
                cluster.confirmed_at.map(whole_steps),
            ),
            State::Stale => (resource::Freshness::Stale, cluster.confirmed_at),
        };
        let message = resource::ClusterFreshness {
            cluster: cluster.id.to_string(),
            state: state.into(),
            confirmed_at: confirmed_at.map(Into::into),
            reason: cluster.reason.clone(),
            kinds: older(cluster),
        };
        encode_plain(cluster.id.as_str(), &message)
    }))
}

/// The kinds of which less is known than of the cluster, or older.
fn older(cluster: &Cluster) -> Vec<resource::KindFreshness> {
    let unknown = cluster.unknown().iter().map(|kind| (*kind, None));
    let older = cluster.older.iter().map(|(kind, of)| (*kind, Some(of)));
    let kinds: BTreeMap<Kind, Option<&KindFreshness>> = unknown.chain(older).collect();
    let kinds = kinds.into_iter().map(|(kind, of)| {
        let confirmed_at = of.and_then(|of| of.confirmed_at);
        let state = match confirmed_at {
            Some(_) => resource::Freshness::Stale,
            None => resource::Freshness::Unknown,
        };
        resource::KindFreshness {
            kind: kind.as_str().to_owned(),
            state: state.into(),
            confirmed_at: confirmed_at.map(Into::into),
            reason: of.map(|of| of.reason.clone()).unwrap_or_default(),
        }
    });
    kinds.collect()
}

/// What the gateways of the client's cluster may forward to: the meshed endpoints of what is
/// exported now.
pub(crate) fn exported(world: &World, client: &Client) -> Answer {
    let found = world.listed(client.cluster.as_str());
    let Some(cluster) = found.filter(|cluster| cluster.offers_known()) else {
        return Answer::unknown();
    };
    let mut seen: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut found = Vec::new();
    for (namespace, name, _) in cluster.exports.iter() {
        let key = ServiceKey::new(namespace, name);
        let list = world.cache.exported(&key, cluster.id.clone(), || {
            let service = clusterset_name(namespace, name);
            world
                .told_backends(cluster, namespace, name)
                .iter()
                .filter_map(|backend| encode_exported(cluster, backend, &service))
                .collect::<List>()
        });
        // A pod may stand behind several exported services: the first one names it.
        found.extend(
            list.iter()
                .filter(|one| seen.insert(one.name.clone()))
                .cloned(),
        );
    }
    Answer::complete(found)
}

/// A service's name for all clusters. Empty: its namespace is none.
fn clusterset_name(namespace: &str, name: &str) -> String {
    let namespace = namespace.parse::<Namespace>();
    let service = namespace.map(|namespace| ServiceRef {
        reach: Reach::Clusterset,
        namespace,
        name: name.to_owned(),
    });
    service.map(|s| s.service_name()).unwrap_or_default()
}

fn encode_exported(
    cluster: &Cluster,
    backend: &crate::translate::endpoint::Backend<'_>,
    service: &str,
) -> Option<Encoded> {
    backend.identity(cluster)?;
    let id = backend.id(cluster)?;
    let message = resource::ExportedEndpoint {
        id,
        workload: backend.workload(cluster)?.to_string(),
        address: octets(*backend.addresses.first()?),
        port: u32::from(MESH_PORT),
        origin: None,
        service: service.to_owned(),
    };
    let seen = backend.pod.map(|(_, entry)| entry.stamp);
    Some(encode(&format!("{id:016x}"), message, &cluster.id, seen))
}

/// The keys of the client's cluster; unknown until the shell has given some.
pub(crate) fn keys(world: &World, client: &Client) -> Answer {
    let cluster = world.clusters.get(&client.cluster);
    let Some(cluster) = cluster.filter(|cluster| !cluster.keys.is_empty()) else {
        return Answer::unknown();
    };
    let key = |key: &isthmus_proto::handle::HandleKey| resource::HandleKey {
        epoch: u32::from(key.epoch()),
        secret: key.secret().to_vec().into(),
    };
    let message = resource::HandleKeys {
        cluster: cluster.id.to_string(),
        keys: cluster.keys.iter().map(key).collect(),
    };
    Answer::complete([encode_plain(cluster.id.as_str(), &message)])
}
