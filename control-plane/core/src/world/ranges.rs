//! Whose pods have an address?
//!
//! A cluster's own word about its addresses is no proof: an EndpointSlice may name anything. Where
//! ranges are declared, others are told nothing of the cluster outside of them, and nothing inside of
//! another's. Against others they count only if somebody says so who speaks for the mesh: else a
//! cluster could take addresses by declaring them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use isthmus_proto::range::IpRange;

use crate::model::{Kind, MeshCluster};
use crate::translate::endpoint::{Backend, backends, usable};
use crate::world::World;
use crate::world::cluster::Cluster;

/// What is wrong with a cluster's ranges, or with what it has outside of them: a word, and for people.
pub(crate) type Wrong = (&'static str, String);

/// Whose pods an address can be, for a client of some cluster.
#[derive(Debug)]
pub(crate) enum Owner<'a> {
    /// No other cluster of the network has it, or the client's own has it, too.
    NoOther,
    /// This other one.
    Other(&'a Cluster),
    /// Another one that is not there yet, or one of several.
    Unsaid,
}

impl Cluster {
    /// Where its pods' addresses are; empty: nobody says.
    pub(crate) fn pod_ranges(&self) -> &[IpRange] {
        self.mesh().map_or(&[], |mesh| &mesh.pod_ranges)
    }
}

/// What addresses of one cluster others may be told.
#[derive(Debug)]
struct Limits<'a> {
    own: &'a [IpRange],
    /// Its ranges are no more than its own word: what is another's is not its.
    unproven: bool,
    others: Vec<&'a [IpRange]>,
}

impl Limits<'_> {
    /// May others be told of the address?
    fn allow(&self, ip: IpAddr) -> bool {
        let within = self.own.is_empty() || holds(self.own, ip);
        let anothers = || self.others.iter().any(|ranges| holds(ranges, ip));
        within && !(self.unproven && anothers())
    }
}

/// What others could be told if there were no ranges: a pod on its host's network is none of the mesh.
fn told_otherwise(of: &Cluster) -> impl Iterator<Item = IpAddr> {
    let pods = of.pods.iter().map(|(_, _, entry)| &entry.value);
    let pods = pods.filter(|pod| pod.meshed && !pod.finished);
    let pods = pods.flat_map(|pod| usable(&pod.ips));
    let slices = of
        .slices
        .iter()
        .filter(|(_, _, entry)| entry.value.managed.is_none());
    let named = slices.flat_map(move |(namespace, _, entry)| {
        let all = entry.value.endpoints.iter();
        let meshed = all.filter(move |endpoint| {
            let pod = endpoint.pod.as_deref();
            let pod = pod.and_then(|pod| of.pods.get(namespace, pod));
            pod.is_some_and(|pod| pod.value.meshed)
        });
        meshed.flat_map(|endpoint| usable(&endpoint.addresses))
    });
    pods.chain(named)
}

fn holds(ranges: &[IpRange], ip: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(ip))
}

/// Another cluster on the network, whose ranges count against others.
#[derive(Debug)]
struct Neighbour<'a> {
    name: &'a str,
    ranges: &'a [IpRange],
    /// `None`: it is named, and not there yet.
    cluster: Option<&'a Cluster>,
}

impl World {
    /// Do its ranges count against others?
    fn is_vouched_for(&self, cluster: &Cluster) -> bool {
        cluster.declared.is_some() || self.is_mesh_author(&cluster.id)
    }

    fn neighbours<'a>(&'a self, of: &'a Cluster) -> impl Iterator<Item = Neighbour<'a>> {
        let network = of.network();
        let is_near = move |name: &str, mesh: &MeshCluster| {
            !mesh.pod_ranges.is_empty()
                && network.as_ref() == Some(&mesh.network)
                && name != of.id.as_str()
        };
        let is_there = is_near.clone();
        let there = self.clusters.values().filter_map(move |other| {
            let (name, mesh) = (other.id.as_str(), other.mesh()?);
            let counts = is_there(name, mesh) && self.is_vouched_for(other);
            counts.then_some(Neighbour {
                name,
                ranges: &mesh.pod_ranges,
                cluster: Some(other),
            })
        });
        let named = self.named_elsewhere();
        let named = named.filter(move |(name, mesh)| is_near(name, mesh));
        there.chain(named.map(|(name, mesh)| Neighbour {
            name,
            ranges: &mesh.pod_ranges,
            cluster: None,
        }))
    }

    /// Is it known which ranges there are? Who speaks for the mesh may say more.
    pub(crate) fn ranges_known(&self) -> bool {
        self.author_without(&[Kind::MeshCluster]).is_none()
    }

    /// What addresses of a cluster others may be told.
    fn limits<'a>(&'a self, of: &'a Cluster) -> Limits<'a> {
        Limits {
            own: of.pod_ranges(),
            unproven: of.pod_ranges().is_empty() || !self.is_vouched_for(of),
            others: self.neighbours(of).map(|other| other.ranges).collect(),
        }
    }

    /// All places that a service of one cluster leads to, as others may be told of them.
    pub(crate) fn told_backends<'a>(
        &'a self,
        cluster: &'a Cluster,
        namespace: &'a str,
        name: &str,
    ) -> Vec<Backend<'a>> {
        let limits = self.limits(cluster);
        let mut found = backends(cluster, namespace, name);
        found.retain_mut(|backend| {
            backend.addresses.retain(|ip| limits.allow(*ip));
            !backend.addresses.is_empty()
        });
        found
    }

    /// The cluster whose pods have the address where `client` is, if that is not the gateway's own: who
    /// is there is no gateway, whatever another cluster says of it.
    pub(crate) fn pods_instead<'a>(
        &'a self,
        gateway: &Cluster,
        client: &'a Cluster,
        ip: IpAddr,
    ) -> Option<&'a str> {
        let near = self.neighbours(client);
        let near = near.map(|other| (other.name, other.ranges));
        let own = (client.id.as_str(), client.pod_ranges());
        let mut others = near.chain([own]);
        let is_there =
            |(name, ranges): &(&str, &[IpRange])| *name != gateway.id.as_str() && holds(ranges, ip);
        others.find(is_there).map(|(name, _)| name)
    }

    /// The same for the clients of any other cluster.
    pub(crate) fn pods_somewhere<'a>(&'a self, gateway: &Cluster, ip: IpAddr) -> Option<&'a str> {
        let others = self.clusters.values().filter(|one| one.id != gateway.id);
        let mut found = others.filter_map(|client| self.pods_instead(gateway, client, ip));
        found.next()
    }

    /// Whose pods have the address, for clients of `of` on its network.
    pub(crate) fn owner<'a>(&'a self, of: &'a Cluster, ip: IpAddr) -> Owner<'a> {
        if holds(of.pod_ranges(), ip) {
            return Owner::NoOther;
        }
        let mut others = self.neighbours(of).filter(|other| holds(other.ranges, ip));
        match (others.next(), others.next()) {
            (None, _) => Owner::NoOther,
            (Some(one), None) => one.cluster.map_or(Owner::Unsaid, Owner::Other),
            (Some(_), Some(_)) => Owner::Unsaid,
        }
    }

    /// What its author must be told about a cluster's ranges. `None`: all is as they say.
    pub(crate) fn wrong_ranges(&self, of: &Cluster) -> Option<Wrong> {
        let own = of.pod_ranges();
        for other in self.neighbours(of) {
            let theirs = other.ranges;
            let mut pairs = own.iter().flat_map(|a| theirs.iter().map(move |b| (a, b)));
            if let Some((a, b)) = pairs.find(|(a, b)| a.overlaps(b)) {
                let message = format!(
                    "{a} and {b} of {} overlap: whose pods are there can't be said",
                    other.name
                );
                return Some(("Overlap", message));
            }
        }
        let first = self.withheld(of).min()?;
        // No number: it would be another condition with each pod that comes or goes.
        let message = if own.is_empty() {
            format!(
                "others are not told of {first} and perhaps more: it is in another cluster's range"
            )
        } else {
            format!("others are not told of {first} and perhaps more: it is in none of its ranges")
        };
        Some(("EndpointsOutside", message))
    }

    /// Addresses of a cluster's pods and slices that others are not told.
    fn withheld<'a>(&'a self, of: &'a Cluster) -> impl Iterator<Item = IpAddr> {
        let limits = self.limits(of);
        let limited = !limits.own.is_empty() || !limits.others.is_empty();
        let of = limited.then_some(of);
        let all = of.into_iter().flat_map(told_otherwise);
        all.filter(move |ip| !limits.allow(*ip))
    }

    /// How many addresses of a cluster's pods and slices others are not told, because of ranges.
    #[must_use]
    pub fn withheld_addresses(&self, cluster: &str) -> usize {
        let found = self.listed(cluster);
        let withheld = found.into_iter().flat_map(|cluster| self.withheld(cluster));
        withheld.collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use isthmus_proto::resource;

    use super::*;
    use crate::model::{EndpointSlice, Object, SliceEndpoint, SlicePort, Spec};
    use crate::sample::{Proxy, client, id, list, object, shop, world};
    use crate::session::ResourceType as T;

    const CART: &str = "shop/cart.shop.svc.clusterset.local";

    /// East and west on one network; who speaks for the mesh is east.
    fn flat(east: &[&str], west: &[&str]) -> Vec<Object> {
        let mut objects = shop();
        let mut said = Vec::new();
        for object in &mut objects {
            if let Spec::MeshCluster(mesh) = &mut object.spec {
                let ranges = if object.name == "east" { east } else { west };
                mesh.network = "flat".parse().unwrap();
                mesh.pod_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
                said.push(Object {
                    cluster: id("east"),
                    ..object.clone()
                });
            }
        }
        objects.extend(said);
        objects
    }

    fn build(objects: &[Object]) -> World {
        let mut world = world(&["east", "west"]);
        world.set_mesh_authors(Some(BTreeSet::from([id("east")])));
        list(&mut world, "east", objects);
        list(&mut world, "west", objects);
        world
    }

    /// West says of its pod that it is here.
    fn claims(ip: [u8; 4]) -> Object {
        let endpoint = SliceEndpoint {
            addresses: vec![ip.into()],
            ready: true,
            serving: true,
            terminating: false,
            zone: String::new(),
            pod: Some("cart-12".to_owned()),
            hostname: None,
            for_zones: Vec::new(),
            node: None,
        };
        let slice = EndpointSlice {
            service: "cart".to_owned(),
            ports: vec![SlicePort {
                name: "http".to_owned(),
                port: 8080,
            }],
            endpoints: vec![endpoint],
            managed: None,
        };
        object("west", "shop", "cart-x", Spec::EndpointSlice(slice))
    }

    /// Where endpoints in west are, for a client of a cluster.
    fn told(world: &World, workload: &str, account: &str) -> Vec<IpAddr> {
        let client = client(world, workload, account, "sidecar");
        let mut proxy = Proxy::sidecar(&client, &[CART]);
        let mut session = proxy.connect(client);
        proxy.settle(&mut session, world);
        let name = format!("{CART}#west/shop/cart-12");
        if !proxy.names(T::Endpoint).contains(&name.as_str()) {
            return Vec::new();
        }
        let endpoint: resource::Endpoint = proxy.get(T::Endpoint, &name);
        let four = |bytes: &bytes::Bytes| <[u8; 4]>::try_from(bytes.as_ref()).unwrap();
        endpoint.addresses.iter().map(|b| four(b).into()).collect()
    }

    /// S26
    #[test]
    fn an_endpoint_outside_of_its_clusters_ranges_is_told_to_its_own_only() {
        let mut objects = flat(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        let home = |world: &World| told(world, "west/shop/cart-12", "cart");
        let abroad = |world: &World| told(world, "east/shop/web-1", "web");
        let as_it_is = build(&objects);
        assert_eq!(abroad(&as_it_is), [IpAddr::from([10, 2, 0, 12])]);
        assert_eq!(as_it_is.withheld_addresses("west"), 0);
        let valid = as_it_is.conditions();
        assert!(
            valid.iter().all(|said| said.kind != "PodRangesValid"),
            "{valid:?}"
        );
        // East's pod, a node, something outside.
        for ip in [[10, 1, 0, 11], [192, 168, 0, 7], [203, 0, 113, 9]] {
            objects.push(claims(ip));
            let world = build(&objects);
            assert_eq!(abroad(&world), Vec::<IpAddr>::new(), "{ip:?}");
            assert_eq!(home(&world), [IpAddr::from(ip)]);
            assert_eq!(world.withheld_addresses("west"), 1);
            let said = world.conditions();
            let said = said
                .iter()
                .find(|said| said.kind == "PodRangesValid")
                .unwrap();
            assert_eq!(
                (said.reason.as_str(), said.holds),
                ("EndpointsOutside", false)
            );
            assert!(
                said.message.contains(&IpAddr::from(ip).to_string()),
                "{said:?}"
            );
            assert_eq!(said.object.to_string(), "west: MeshCluster west");
            objects.pop();
        }
        // Its own gateway forwards to no such place, either.
        objects.push(claims([203, 0, 113, 9]));
        let world = build(&objects);
        let gateway = client(&world, "west/isthmus-system/ew-1", "ew", "gateway");
        let exported = crate::translate::gateway::exported(&world, &gateway);
        assert_eq!(exported.resources().count(), 0);
        let offers = world.offers(("shop", "cart"));
        let west = offers.iter().find(|offer| offer.cluster == id("west"));
        assert_eq!(west.unwrap().endpoints, []);
    }

    /// S26
    #[test]
    fn who_declares_nothing_has_nothing_in_anothers_ranges() {
        let mut objects = flat(&["10.1.0.0/16"], &[]);
        objects.push(claims([10, 1, 0, 11]));
        let world = build(&objects);
        assert!(told(&world, "east/shop/web-1", "web").is_empty());
        assert_eq!(world.withheld_addresses("west"), 1);
        // What a cluster declares for itself takes nothing from anybody.
        let mut objects = flat(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        objects.retain(|object| !(object.cluster == id("east") && object.name == "west"));
        for object in &mut objects {
            if let Spec::MeshCluster(mesh) = &mut object.spec
                && object.name == "west"
            {
                mesh.pod_ranges = vec!["0.0.0.0/0".parse().unwrap()];
            }
        }
        let world = build(&objects);
        assert_eq!(world.withheld_addresses("east"), 0);
        assert_eq!(world.offers(("shop", "cart"))[0].endpoints.len(), 1);
        objects.push(claims([10, 1, 0, 11]));
        assert!(told(&build(&objects), "east/shop/web-1", "web").is_empty());
    }

    #[test]
    fn ranges_that_overlap_are_told_to_both_and_whose_an_address_is_is_not_said() {
        let world = build(&flat(&["10.1.0.0/16"], &["10.0.0.0/8"]));
        let said = world.conditions();
        let overlaps = said.iter().filter(|said| said.reason == "Overlap");
        let told: Vec<String> = overlaps.map(|said| said.object.to_string()).collect();
        assert_eq!(told, ["east: MeshCluster east", "west: MeshCluster west"]);
        let apart = build(&flat(&["10.1.0.0/16"], &["fd00::/8", "10.2.0.0/16"]));
        assert!(
            apart
                .conditions()
                .iter()
                .all(|said| said.reason != "Overlap")
        );
    }

    /// S26
    #[test]
    fn no_gateway_is_where_anothers_pods_are() {
        let mut objects = flat(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        for object in &mut objects {
            match &mut object.spec {
                Spec::MeshCluster(mesh) if object.name == "west" => {
                    mesh.network = "west-net".parse().unwrap();
                }
                Spec::Gateway(gateway) if object.cluster == id("west") => {
                    let at = |ip: [u8; 4]| crate::model::GatewayAddress::Ip(ip.into());
                    gateway.addresses = vec![at([10, 1, 0, 11]), at([192, 0, 2, 2])];
                }
                _ => {}
            }
        }
        let world = build(&objects);
        let client = client(&world, "east/shop/web-1", "web", "sidecar");
        let mut proxy = Proxy::sidecar(&client, &[CART]);
        let mut session = proxy.connect(client);
        proxy.settle(&mut session, &world);
        let gateway: resource::Gateway = proxy.get(T::Gateway, "west/isthmus-system/ew");
        assert_eq!(gateway.addresses.len(), 1);
        assert_eq!(
            gateway.addresses[0].kind,
            Some(resource::gateway_address::Kind::Ip(
                bytes::Bytes::from_static(&[192, 0, 2, 2])
            ))
        );
    }
}
