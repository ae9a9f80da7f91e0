//! What is called by a pod's own address?
//!
//! Clients of a headless service, and members of a StatefulSet, call pods and not a service. A pod of the
//! mesh is told to them as a service of one endpoint, so that such a call has an identity on both
//! ends, too: in the clear it would be refused where the pod is strict. Pods of the client's own
//! cluster; those of another one on its network only in the ranges that are declared for it, for what
//! another cluster says of addresses could take calls away from whoever has them. In such ranges
//! nothing passes in the clear that may be of the mesh: what is not known there can't be said.
//!
//! Nobody is told of ranges, nor of pods that he does not call: a sidecar asks about each address that
//! its application calls, once, and is told what is there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_proto::ids::{ClusterId, ServiceName, WorkloadName, is_dns_name};
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;

use crate::model::{Kind, Pod};
use crate::translate::endpoint::{MESH_PORT, usable};
use crate::translate::service::Resolved;
use crate::translate::{Answer, Client, encode, octets, workload};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::ranges::Owner;
use crate::world::table::Entry;

/// A pod as a service: `shop/cart-0.shop.pod.east.local`.
pub(crate) fn service_name(of: &WorkloadName) -> String {
    format!("{}/{}", of.namespace(), host(of))
}

fn host(of: &WorkloadName) -> String {
    let (cluster, namespace, pod) = (of.cluster(), of.namespace(), of.pod());
    format!("{pod}.{namespace}.pod.{cluster}.local")
}

/// The pod of a name as [`service_name`] makes it. `None`: it is no such name.
pub(crate) fn of_service_name(text: &str) -> Option<WorkloadName> {
    let (namespace, host) = text.split_once('/')?;
    // The names of pods may have dots.
    let (rest, cluster) = host.strip_suffix(".local")?.rsplit_once('.')?;
    let pod = rest.strip_suffix(".pod")?;
    let pod = pod.strip_suffix(namespace)?.strip_suffix('.')?;
    format!("{cluster}/{namespace}/{pod}").parse().ok()
}

/// The address that a key asks about.
pub(crate) fn address_of(key: &str) -> Option<IpAddr> {
    let (_, ip) = key.strip_prefix("vip:")?.split_once('/')?;
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Whom a client of the cluster calls at an address of its network that is no service's.
pub(crate) fn at((world, own): (&World, &Cluster), client: &Client, ip: IpAddr) -> Resolved {
    let found = |cluster: &Cluster, (namespace, name): (&str, &str)| {
        let of: WorkloadName = format!("{}/{namespace}/{name}", cluster.id).parse().ok()?;
        called(cluster, client, &of).map(|_| of)
    };
    if own.pods_at.contains_key(&ip) {
        let pod = own.pod_at(ip).and_then(|pod| found(own, pod));
        return pod.map_or(Resolved::Nothing, Resolved::Pod);
    }
    if !world.ranges_known() {
        return Resolved::Unknown;
    }
    let other = match world.owner(own, ip) {
        Owner::NoOther => return Resolved::Nothing,
        Owner::Unsaid => return Resolved::Unknown,
        Owner::Other(other) => other,
    };
    let known = world.counts_elsewhere(other) && known(other);
    let Some((namespace, name)) = other.pod_at(ip).filter(|_| known) else {
        return Resolved::Unknown;
    };
    let entry = other.pods.get(namespace, name);
    if entry.is_some_and(|entry| !entry.value.meshed) {
        return Resolved::Nothing;
    }
    // One of the mesh that nobody can be led to is not called as it is, either.
    let leads = |of: &WorkloadName| entry.is_some_and(|e| !ports(other, of, &e.value).is_empty());
    let found = found(other, (namespace, name)).filter(leads);
    found.map_or(Resolved::Unknown, Resolved::Pod)
}

/// The pod, if it can be called as one of the mesh. A pod's calls to itself never leave it.
fn called<'a>(cluster: &'a Cluster, client: &Client, of: &WorkloadName) -> Option<&'a Entry<Pod>> {
    let entry = cluster.pods.get(of.namespace(), of.pod())?;
    let fits = of.cluster() == cluster.id.as_str() && *of != client.workload;
    (fits && entry.value.meshed && !entry.value.finished).then_some(entry)
}

/// Is it known what pods a cluster has, and what they speak?
fn known(cluster: &Cluster) -> bool {
    cluster.knows(Kind::Pod) && cluster.knows(Kind::Service)
}

/// Where a pod can be called by its own address.
struct Reached<'a> {
    world: &'a World,
    /// The client's cluster.
    own: &'a Cluster,
    /// The pod's.
    cluster: &'a Cluster,
}

impl<'a> Reached<'a> {
    /// `None`: too little is known of the two clusters.
    fn of(world: &'a World, client: &Client, of: &WorkloadName) -> Option<Self> {
        let own = world.listed(client.cluster.as_str())?;
        let cluster = world.listed(of.cluster())?;
        known(cluster).then_some(Self {
            world,
            own,
            cluster,
        })
    }

    /// The addresses of a pod that mean it and nobody else to the client.
    fn addresses(&self, of: &WorkloadName, pod: &Pod) -> Vec<IpAddr> {
        let is_own = self.own.id == self.cluster.id;
        if !is_own && !self.world.counts_elsewhere(self.cluster) {
            return Vec::new();
        }
        let has = |ip| match self.world.owner(self.own, ip) {
            Owner::Other(owner) => owner.id == self.cluster.id,
            Owner::NoOther | Owner::Unsaid => false,
        };
        let its = |ip: &IpAddr| is_own || (!self.own.pods_at.contains_key(ip) && has(*ip));
        let alone = |ip: &IpAddr| {
            let here = self.cluster.pod_at(*ip) == Some((of.namespace(), of.pod()));
            here && self.own.vip(*ip).is_none()
        };
        let mut addresses = usable(&pod.ips);
        addresses.retain(|ip| alone(ip) && its(ip));
        addresses
    }
}

/// Ports of the pod: those that services lead to with what is spoken there, and those that it names.
fn ports(cluster: &Cluster, of: &WorkloadName, pod: &Pod) -> BTreeMap<u16, i32> {
    let named = pod.ports.iter();
    let unspecified = resource::Protocol::Unspecified.into();
    let mut ports: BTreeMap<u16, i32> = named.map(|port| (port.port, unspecified)).collect();
    for port in workload::ports(cluster, of, pod) {
        if let Ok(number) = u16::try_from(port.port) {
            ports.insert(number, port.protocol);
        }
    }
    ports
}

/// The pod as a service. It has the addresses that are nobody else's.
pub(crate) fn definition(world: &World, client: &Client, of: &WorkloadName) -> Answer {
    let Some(reached) = Reached::of(world, client, of) else {
        return Answer::unknown();
    };
    let cluster = reached.cluster;
    let found = called(cluster, client, of).and_then(|entry| {
        let network = cluster.network()?.to_string();
        let address = |ip: IpAddr| resource::VirtualAddress {
            network: network.clone(),
            address: octets(ip),
        };
        let port = |(port, protocol): (u16, i32)| resource::ServicePort {
            port: u32::from(port),
            name: format!("port-{port}"),
            protocol,
        };
        let addresses = reached.addresses(of, &entry.value).into_iter();
        let ports = ports(cluster, of, &entry.value).into_iter();
        let message = resource::Service {
            name: service_name(of),
            // A pod may have a name that no host in DNS has: nobody looks it up.
            hostnames: Some(host(of))
                .filter(|host| is_dns_name(host))
                .into_iter()
                .collect(),
            addresses: addresses.map(address).collect(),
            ports: ports.map(port).collect(),
            traffic: None,
            scope: resource::ServiceScope::Cluster.into(),
            origin: None,
            // In another cluster nothing of the mesh is called as it is.
            closed: cluster.id != reached.own.id,
        };
        let sound = message.name.parse::<ServiceName>().is_ok()
            && !message.ports.is_empty()
            && !message.addresses.is_empty();
        let name = message.name.clone();
        sound.then(|| encode(&name, message, &cluster.id, Some(entry.stamp)))
    });
    if cluster.id != reached.own.id {
        // Who is gone leaves an address that is not known to be nobody's: its calls are not passed on.
        return Answer::partial(found);
    }
    Answer::complete(found)
}

/// The pod as the one endpoint of itself: whoever calls it by its address wants nobody else, ready or not.
/// Beside it the cluster that it is in, if it is there.
pub(crate) fn endpoints(
    world: &World,
    client: &Client,
    of: &WorkloadName,
) -> (Answer, Vec<ClusterId>) {
    let Some(reached) = Reached::of(world, client, of) else {
        return (Answer::unknown(), Vec::new());
    };
    let cluster = reached.cluster;
    let found = called(cluster, client, of).and_then(|entry| {
        let pod = &entry.value;
        // What it is called by is where it is reached; at home the others lead to it, too.
        let addresses = match reached.addresses(of, pod) {
            own if cluster.id == reached.own.id => {
                own.first()?;
                usable(&pod.ips)
            }
            its => its,
        };
        let (domain, account) = (&cluster.trust_domain, &pod.service_account);
        let locality = cluster.locality(&pod.locality);
        let mapping = |(port, _): (u16, i32)| resource::PortMapping {
            service_port: u32::from(port),
            target_port: u32::from(port),
        };
        let message = resource::Endpoint {
            name: of.to_string(),
            service: service_name(of),
            addresses: addresses.into_iter().map(octets).collect(),
            network: cluster.network()?.to_string(),
            tunnel_port: u32::from(MESH_PORT),
            identity: SpiffeId::new(domain, of.namespace(), account)
                .ok()?
                .to_string(),
            weight: Some(1),
            health: resource::Health::Healthy.into(),
            origin: None,
            locality: Some(resource::Locality {
                region: locality.region,
                zone: locality.zone,
            }),
            ports: ports(cluster, of, pod).into_iter().map(mapping).collect(),
            handle: String::new(),
            charge_ms: 0,
        };
        let name = format!("{}#{of}", message.service);
        let sound = !message.ports.is_empty() && !message.addresses.is_empty();
        sound.then(|| encode(&name, message, &cluster.id, Some(entry.stamp)))
    });
    let providers = found.iter().map(|_| cluster.id.clone()).collect();
    (Answer::complete(found), providers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::model::{Change, Object, Spec};
    use crate::sample::{
        Proxy, at, client, id, labels, list, mesh, object, pod, port, service, shop, world,
    };
    use crate::session::ResourceType as T;

    const CART: &str = "vip:east-net/10.1.0.11";
    const NAME: &str = "shop/cart-11.shop.pod.east.local";

    fn told(objects: &[Object], keys: &[&str]) -> Proxy {
        let mut world = world(&["east", "west"]);
        list(&mut world, "east", objects);
        list(&mut world, "west", objects);
        let client = client(&world, "east/shop/web-1", "web", "sidecar");
        let mut proxy = Proxy::sidecar(&client, keys);
        let mut session = proxy.connect(client);
        proxy.settle(&mut session, &world);
        proxy
    }

    fn changed(change: impl Fn(&mut Pod)) -> Vec<Object> {
        let mut objects = shop();
        for object in &mut objects {
            if let Spec::Pod(pod) = &mut object.spec
                && object.name == "cart-11"
            {
                change(pod);
            }
        }
        objects
    }

    #[test]
    fn the_name_of_a_pod_as_a_service_is_read_back() {
        for pod in ["east/shop/cart-0", "east/shop/a.b.pod.shop", "c/pod/local"] {
            let of: WorkloadName = pod.parse().unwrap();
            let name = service_name(&of);
            assert_eq!(of_service_name(&name), Some(of), "{name}");
            assert!(name.parse::<ServiceName>().is_ok(), "{name}");
        }
        for other in [
            "shop/cart.shop.svc.cluster.local",
            "shop/cart.bank.pod.east.local",
            "shop/cart.shop.pod.local",
            "cart.shop.pod.east.local",
            "",
        ] {
            assert_eq!(of_service_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_pod_is_a_service_of_one_to_those_who_call_its_address() {
        let proxy = told(&shop(), &[CART]);
        assert_eq!(proxy.names(T::Service), [NAME]);
        let service: resource::Service = proxy.get(T::Service, NAME);
        assert_eq!(service.addresses[0].address.as_ref(), [10, 1, 0, 11]);
        // By the service that leads there: port 80 is port 8080 of the pod.
        assert_eq!((service.ports.len(), service.ports[0].port), (1, 8080));
        assert_eq!(service.ports[0].protocol(), resource::Protocol::Http1);
        let endpoint: resource::Endpoint =
            proxy.get(T::Endpoint, &format!("{NAME}#east/shop/cart-11"));
        assert_eq!(
            endpoint.identity,
            "spiffe://east.mesh.internal/ns/shop/sa/cart"
        );
        assert_eq!((endpoint.tunnel_port, endpoint.ports.len()), (15_008, 1));
        assert!(proxy.is_absent(T::Route, CART), "known to have none");
        // A port that it names and no service leads to: nobody says what is spoken.
        let lonely = changed(|pod| pod.labels = labels(&[]));
        let service: resource::Service = told(&lonely, &[CART]).get(T::Service, NAME);
        let unspecified = resource::Protocol::Unspecified;
        assert_eq!(
            (service.ports[0].port, service.ports[0].protocol()),
            (8080, unspecified)
        );
    }

    #[test]
    fn what_is_no_pod_of_the_mesh_here_is_nothing() {
        let absent = |objects: &[Object], key: &str| {
            let proxy = told(objects, &[key]);
            assert!(proxy.names(T::Service).is_empty(), "{key}");
            assert!(proxy.is_absent(T::Service, key), "{key}");
        };
        absent(&changed(|pod| pod.meshed = false), CART);
        absent(&changed(|pod| pod.finished = true), CART);
        absent(&changed(|pod| pod.ips = Vec::new()), CART);
        let silent = |pod: &mut Pod| (pod.ports, pod.labels) = (Vec::new(), labels(&[]));
        absent(&changed(silent), CART);
        absent(&shop(), "vip:east-net/10.1.0.99");
        // A pod's own address, and that of another cluster or network.
        absent(&shop(), "vip:east-net/10.1.0.1");
        absent(&shop(), "vip:east-net/10.2.0.12");
        absent(&shop(), "vip:west-net/10.2.0.12");
        // Two on the network of their host: nobody can say which is meant.
        let mut twins = shop();
        let mut twin = pod("east", "pay", 11);
        twin.name = "twin".to_owned();
        twins.push(twin);
        absent(&twins, CART);
    }

    /// East and west on one network, with the ranges that are declared for them.
    fn flat(east: &[&str], west: &[&str]) -> Vec<Object> {
        let mut objects = shop();
        for object in &mut objects {
            if let Spec::MeshCluster(mesh) = &mut object.spec {
                let ranges = if object.name == "east" { east } else { west };
                mesh.network = "flat".parse().unwrap();
                mesh.pod_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            }
        }
        objects
    }

    /// What a client in east is told of the pod in west: its service's name, or if it is known to be
    /// none.
    fn told_of_west(objects: &[Object]) -> (Vec<String>, bool) {
        let proxy = told(objects, &[FAR]);
        let names = proxy.names(T::Service).into_iter().map(str::to_owned);
        (names.collect(), proxy.is_absent(T::Service, FAR))
    }

    const FAR: &str = "vip:flat/10.2.0.12";
    const FAR_NAME: &str = "shop/cart-12.shop.pod.west.local";

    #[test]
    fn a_pod_of_another_cluster_is_called_by_its_address_where_its_range_is_declared() {
        let proxy = told(&flat(&["10.1.0.0/16"], &["10.2.0.0/16"]), &[FAR]);
        assert_eq!(proxy.names(T::Service), [FAR_NAME]);
        let service: resource::Service = proxy.get(T::Service, FAR_NAME);
        assert!(service.closed, "no other port passes in the clear");
        assert_eq!((service.ports.len(), service.ports[0].port), (1, 8080));
        let endpoint: resource::Endpoint =
            proxy.get(T::Endpoint, &format!("{FAR_NAME}#west/shop/cart-12"));
        let identity = "spiffe://west.mesh.internal/ns/shop/sa/cart";
        assert_eq!(
            (endpoint.identity.as_str(), endpoint.network.as_str()),
            (identity, "flat")
        );
        assert_eq!(endpoint.addresses, [octets([10, 2, 0, 12].into())]);
        // How old what is known of it is concerns the client, too.
        assert_eq!(proxy.names(T::ClusterFreshness), ["east", "west"]);
        // Pods at home are as they were.
        let home = told(
            &flat(&["10.1.0.0/16"], &["10.2.0.0/16"]),
            &["vip:flat/10.1.0.11"],
        );
        let service: resource::Service = home.get(T::Service, NAME);
        assert!(!service.closed);
    }

    #[test]
    fn an_address_that_another_cluster_does_not_have_for_certain_is_none_of_its_pods() {
        let nobody = (Vec::new(), true);
        let unknown = (Vec::new(), false);
        // Nobody says where its pods are; or elsewhere; or they are as much the client's.
        assert_eq!(told_of_west(&flat(&[], &[])), nobody);
        assert_eq!(told_of_west(&flat(&[], &["10.9.0.0/16"])), nobody);
        assert_eq!(
            told_of_west(&flat(&["10.0.0.0/8"], &["10.2.0.0/16"])),
            nobody
        );
        // In its range is nobody known, or somebody who can't be led to: nothing passes there.
        let there = flat(&[], &["10.2.0.0/16"]);
        let without: Vec<Object> = there
            .iter()
            .filter(|object| object.name != "cart-12")
            .cloned()
            .collect();
        assert_eq!(told_of_west(&without), unknown);
        let changed = |change: fn(&mut Pod)| {
            let mut objects = there.clone();
            for object in &mut objects {
                if let Spec::Pod(pod) = &mut object.spec
                    && object.name == "cart-12"
                {
                    change(pod);
                }
            }
            told_of_west(&objects)
        };
        let silent = |pod: &mut Pod| (pod.ports, pod.labels) = (Vec::new(), labels(&[]));
        assert_eq!(changed(silent), unknown);
        assert_eq!(changed(|pod| pod.finished = true), unknown);
        // Only what is known to be none of the mesh is called as it is.
        assert_eq!(changed(|pod| pod.meshed = false), nobody);
    }

    /// What passed as it is after the pod has ended could meet the next pod of the address.
    #[test]
    fn a_pod_of_another_cluster_that_ends_leaves_nobody_to_call() {
        let objects = flat(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        let mut world = world(&["east", "west"]);
        list(&mut world, "east", &objects);
        list(&mut world, "west", &objects);
        let client = client(&world, "east/shop/web-1", "web", "sidecar");
        let mut proxy = Proxy::sidecar(&client, &[FAR]);
        let mut session = proxy.connect(client);
        proxy.settle(&mut session, &world);
        assert_eq!(proxy.names(T::Endpoint).len(), 1);
        let pod = |number| pod("west", "cart", number);
        let dirty = world.apply(Change::Delete(pod(12).reference()), at(2));
        session.dirty(&dirty);
        proxy.settle(&mut session, &world);
        assert_eq!(proxy.names(T::Endpoint).len(), 0, "its end is told");
        assert_eq!(proxy.names(T::Service), [FAR_NAME], "and nothing passes");
        assert!(!proxy.is_absent(T::Service, FAR));
        // Another one has the address.
        let mut other = pod(13);
        if let Spec::Pod(pod) = &mut other.spec {
            pod.ips = vec![[10, 2, 0, 12].into()];
        }
        session.dirty(&world.apply(Change::Apply(other), at(3)));
        proxy.settle(&mut session, &world);
        assert_eq!(
            proxy.names(T::Service),
            ["shop/cart-13.shop.pod.west.local"]
        );
        assert_eq!(proxy.names(T::Endpoint).len(), 1);
    }

    #[test]
    fn only_who_speaks_for_the_mesh_gives_a_cluster_its_ranges() {
        let objects = flat(&[], &["10.2.0.0/16"]);
        let asked = |home: &[Object]| {
            let mut world = world(&["east", "west", "home"]);
            world.set_mesh_authors(Some(BTreeSet::from([id("home")])));
            list(&mut world, "east", &objects);
            list(&mut world, "west", &objects);
            let before = ask(&world);
            list(&mut world, "home", home);
            (before, ask(&world))
        };
        fn ask(world: &World) -> bool {
            let client = client(world, "east/shop/web-1", "web", "sidecar");
            let mut proxy = Proxy::sidecar(&client, &[FAR]);
            let mut session = proxy.connect(client);
            proxy.settle(&mut session, world);
            proxy.is_absent(T::Service, FAR)
        }
        // Its own word is none about others; and before the mesh's is heard, nobody can say.
        assert_eq!(asked(&[]), (false, true));
        let mut said = mesh("west", "flat");
        said.cluster = id("home");
        if let Spec::MeshCluster(mesh) = &mut said.spec {
            mesh.pod_ranges = vec!["10.2.0.0/16".parse().unwrap()];
        }
        assert_eq!(asked(&[said.clone()]), (false, false));
        // Named, and not in the mesh yet: its pods are called by nobody as they are.
        said.name = "north".to_owned();
        assert_eq!(asked(&[said]), (false, false));
    }

    /// A Service's claim to an address is older than that of any pod.
    #[test]
    fn a_services_address_is_the_services() {
        let mut objects = shop();
        let Spec::Service(mut claimed) = service("east", "pay", 9).spec else {
            unreachable!()
        };
        claimed.cluster_ips = vec![[10, 1, 0, 11].into()];
        claimed.ports = vec![port("http", 80)];
        objects.push(object("east", "shop", "pay", Spec::Service(claimed)));
        let proxy = told(&objects, &[CART]);
        assert_eq!(proxy.names(T::Service), ["shop/pay.shop.svc.cluster.local"]);
    }
}
