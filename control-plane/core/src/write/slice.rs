//! Which endpoints does a headless import have?
//!
//! Clients of a headless service call its pods by their own addresses, and find them by DNS, which
//! makes its records from EndpointSlices (KEP-1645, "Using EndpointSlice objects"). So they are written
//! beside the import, each with the pods of one cluster: those that can be reached by their own
//! address, on the network of the cluster that imports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource::Health;

use crate::import::Merged;
use crate::model::{
    EndpointSlice, IpFamily, Kind, Labels, MANAGED_BY, MANAGED_LABEL, ServiceType, SliceEndpoint,
    SlicePort,
};
use crate::translate::endpoint::{Backend, backends};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::service::{Place, holds, uid_of};
use crate::write::{Body, Plan, SERVICE_NAME_LABEL, Settings, reference};

/// The label of a slice that says whose endpoints they are (KEP-1645).
pub const SOURCE_CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";
/// The label by which Kubernetes leads from a slice to its Service: here the derived one.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that keeps other controllers away from a slice.
const SLICE_MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value.
const SLICE_MANAGER: &str = "controller.isthmus.dev";
/// Endpoints of one slice, as Kubernetes' own controller makes them.
const ENDPOINTS_MAX: usize = 100;
/// Slices of one import for each cluster and family: 1,000 pods. DNS has no room for more.
const SLICES_MAX: usize = 10;

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceBody {
    /// The one that is to be changed; empty: there is none yet, and none is to be overwritten.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Of all its addresses; never changes.
    pub family: IpFamily,
    /// TCP.
    pub ports: Vec<SlicePort>,
    /// At most 100, with one address each, and no pod: that is another cluster's.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ServiceImport that owns it: name and uid.
    pub owner: (String, String),
}

/// Can pods of one cluster be called by their own addresses in the other?
fn is_reached(from: &Cluster, to: &Cluster) -> bool {
    from.id == to.id || (from.network().is_some() && from.network() == to.network())
}

/// What a headless import says of the clusters whose pods it does not list; empty: of none.
pub(super) fn unlisted(world: &World, to: &Cluster, merged: &Merged) -> String {
    if merged.kind != ServiceType::Headless {
        return String::new();
    }
    let known = merged.exporters.iter();
    let known = known.filter_map(|exporter| world.clusters.get(exporter));
    let far = known.filter(|from| !is_reached(from, to));
    let far: Vec<&str> = far.map(|from| from.id.as_str()).collect();
    if far.is_empty() {
        return String::new();
    }
    let network = "are on other networks, and can't be called by their own addresses";
    format!("pods of {} {network}", far.join(", "))
}

/// Writes the slices of a headless import that differ, and removes those that are none any more.
pub(super) fn look(
    (world, merged): (&World, &Merged),
    place: &Place<'_>,
    owner: &str,
    settings: Settings<'_>,
    plan: &mut Plan,
) {
    let mut wanted = BTreeSet::new();
    for exporter in &merged.exporters {
        let Some(from) = world.clusters.get(exporter) else {
            continue;
        };
        if !is_reached(from, place.cluster) {
            continue;
        }
        for (name, body) in bodies((world, from), place, owner) {
            write(place, &name, body, plan);
            wanted.insert(name);
        }
    }
    for (name, slice) in ours(place) {
        let known = source(slice).is_none_or(|from| is_known(world, from));
        if settings.removals && known && !wanted.contains(name) {
            delete(place, name, slice, plan);
        }
    }
}

/// Takes all slices away: it is headless no more, or gone.
pub(super) fn remove(place: &Place<'_>, plan: &mut Plan) {
    for (name, slice) in ours(place) {
        delete(place, name, slice, plan);
    }
}

/// The import that a slice was made for by the mesh.
pub(crate) fn made_for(slice: &EndpointSlice) -> Option<&str> {
    let managed = slice.managed.as_ref()?;
    managed.labels.get(SERVICE_NAME_LABEL).map(String::as_str)
}

fn source(slice: &EndpointSlice) -> Option<&str> {
    let managed = slice.managed.as_ref()?;
    managed.labels.get(SOURCE_CLUSTER_LABEL).map(String::as_str)
}

/// Is it known what there is in this cluster, or that it left the mesh?
fn is_known(world: &World, cluster: &str) -> bool {
    world.is_settled(cluster, |cluster| {
        cluster.offers_known() && cluster.knows(Kind::EndpointSlice) && cluster.knows(Kind::Pod)
    })
}

/// The slices beside an import that the mesh made for it.
fn ours<'a>(place: &Place<'a>) -> impl Iterator<Item = (&'a str, &'a EndpointSlice)> {
    let name = place.name;
    let all = place
        .cluster
        .named_slices_of(place.namespace, place.derived);
    let all = all.map(|(name, entry)| (name, &entry.value));
    all.filter(move |(_, slice)| made_for(slice) == Some(name))
}

fn write(place: &Place<'_>, name: &str, mut body: SliceBody, plan: &mut Plan) {
    let at = reference(place.cluster, Kind::EndpointSlice, place.namespace, name);
    let found = place.cluster.slices.get(place.namespace, name);
    let Some(found) = found.map(|entry| &entry.value) else {
        plan.write(at, Body::Slice(body), place.subject);
        return;
    };
    let Some(managed) = &found.managed else {
        let why = "an EndpointSlice of this name was not made by the mesh, and stays as it is";
        plan.refuse(at, why, place.subject);
        return;
    };
    body.uid = uid_of(Some(managed));
    let same = found.ports == body.ports
        && found.endpoints == body.endpoints
        && managed.owner == body.owner.1
        && holds(&managed.labels, &body.labels);
    if same {
        plan.unchanged("endpoint_slice");
    } else {
        plan.write(at, Body::Slice(body), place.subject);
    }
}

fn delete(place: &Place<'_>, name: &str, slice: &EndpointSlice, plan: &mut Plan) {
    let at = reference(place.cluster, Kind::EndpointSlice, place.namespace, name);
    let uid = uid_of(slice.managed.as_ref());
    plan.write(at, Body::Delete { uid }, place.subject);
}

/// The slices that there should be of one cluster's endpoints, by name.
fn bodies(
    (world, from): (&World, &Cluster),
    place: &Place<'_>,
    owner: &str,
) -> Vec<(String, SliceBody)> {
    let own = from.id == place.cluster.id;
    let mut found = if own {
        backends(from, place.namespace, place.name)
    } else {
        world.told_backends(from, place.namespace, place.name)
    };
    // An address without a pod is its own cluster's business: nobody vouches for it elsewhere.
    found.retain(|backend| own || backend.pod.is_some());
    let labels = labels(place, &from.id);
    let mut bodies = Vec::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let groups = groups(from, place, &found, family);
        let parts = groups.iter().flat_map(|(ports, endpoints)| {
            let parts = endpoints.chunks(ENDPOINTS_MAX);
            parts.map(move |part| (ports, part))
        });
        for (at, (ports, part)) in parts.take(SLICES_MAX).enumerate() {
            let name = format!(
                "{}-{}-{}-{at}",
                place.derived,
                from.id,
                family.as_str().to_ascii_lowercase()
            );
            let body = SliceBody {
                uid: String::new(),
                labels: labels.clone(),
                family,
                ports: ports
                    .iter()
                    .map(|(name, port)| slice_port(name, *port))
                    .collect(),
                endpoints: part.to_vec(),
                owner: (place.name.to_owned(), owner.to_owned()),
            };
            bodies.push((name, body));
        }
    }
    bodies
}

/// Endpoints with an address of the family, by the ports that they serve on.
fn groups(
    from: &Cluster,
    place: &Place<'_>,
    found: &[Backend<'_>],
    family: IpFamily,
) -> BTreeMap<Vec<(String, u16)>, Vec<SliceEndpoint>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let service = from.services.get(place.namespace, place.name);
    for backend in found {
        let mut addresses = backend.addresses.iter().copied();
        let Some(address) = addresses.find(|ip| IpFamily::of(*ip) == family) else {
            continue;
        };
        let ports = service.into_iter().flat_map(|entry| &entry.value.ports);
        let ports = ports.filter_map(|own| {
            let target = backend.ports.get(&own.port)?;
            Some((own.name.clone(), *target))
        });
        let endpoints: &mut Vec<SliceEndpoint> = groups.entry(ports.collect()).or_default();
        endpoints.push(endpoint(from, backend, address));
    }
    groups
}

fn endpoint(from: &Cluster, backend: &Backend<'_>, address: IpAddr) -> SliceEndpoint {
    let (ready, serving, terminating) = match backend.health {
        Health::Healthy => (true, true, false),
        Health::Draining => (false, true, true),
        Health::Unhealthy | Health::Unspecified => (false, false, false),
    };
    SliceEndpoint {
        addresses: vec![address],
        ready,
        serving,
        terminating,
        zone: from.locality(&backend.locality).zone,
        pod: None,
        hostname: backend.hostname.clone(),
        node: None,
        for_zones: Vec::new(),
    }
}

fn slice_port(name: &str, port: u16) -> SlicePort {
    SlicePort {
        name: name.to_owned(),
        port,
    }
}

fn labels(place: &Place<'_>, from: &ClusterId) -> Labels {
    let pairs = [
        (MANAGED_LABEL, MANAGED_BY),
        (SLICE_MANAGER_LABEL, SLICE_MANAGER),
        (SERVICE_NAME_LABEL, place.name),
        (SERVICE_LABEL, place.derived),
        (SOURCE_CLUSTER_LABEL, from.as_str()),
    ];
    let pairs = pairs.into_iter();
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
