//! What is called by a pod's own address?
//!
//! Clients of a headless service, and members of a StatefulSet, call pods and not a service. A pod of the
//! mesh is told to them as a service of one endpoint, so that such a call has an identity on both
//! ends, too: in the clear it would be refused where the pod is strict. Only pods of the client's own
//! cluster, for what another cluster says of addresses could take calls away from whoever has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_proto::ids::{ServiceName, WorkloadName};
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;

use crate::model::{Kind, Pod};
use crate::translate::endpoint::{MESH_PORT, usable};
use crate::translate::{Answer, Client, encode, octets, workload};
use crate::world::World;
use crate::world::cluster::Cluster;
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

/// Whom a client calls at an address of its own cluster that is no service's.
pub(crate) fn at(cluster: &Cluster, client: &Client, ip: IpAddr) -> Option<WorkloadName> {
    let (namespace, name) = cluster.pod_at(ip)?;
    let of: WorkloadName = format!("{}/{namespace}/{name}", cluster.id).parse().ok()?;
    called(cluster, client, &of).map(|_| of)
}

/// The pod, if it can be called as one of the mesh. A pod's calls to itself never leave it.
fn called<'a>(cluster: &'a Cluster, client: &Client, of: &WorkloadName) -> Option<&'a Entry<Pod>> {
    let entry = cluster.pods.get(of.namespace(), of.pod())?;
    let fits = of.cluster() == cluster.id.as_str() && *of != client.workload;
    (fits && entry.value.meshed && !entry.value.finished).then_some(entry)
}

/// The client's cluster, if it is known what pods it has and what they speak.
fn home<'a>(world: &'a World, client: &Client) -> Option<&'a Cluster> {
    let cluster = world.listed(client.cluster.as_str())?;
    (cluster.knows(Kind::Pod) && cluster.knows(Kind::Service)).then_some(cluster)
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
    let Some(cluster) = home(world, client) else {
        return Answer::unknown();
    };
    let found = called(cluster, client, of).and_then(|entry| {
        let network = cluster.network()?.to_string();
        let own = |ip: &IpAddr| {
            let here = cluster.pod_at(*ip) == Some((of.namespace(), of.pod()));
            here && cluster.vip(*ip).is_none()
        };
        let address = |ip: IpAddr| resource::VirtualAddress {
            network: network.clone(),
            address: octets(ip),
        };
        let port = |(port, protocol): (u16, i32)| resource::ServicePort {
            port: u32::from(port),
            name: format!("port-{port}"),
            protocol,
        };
        let addresses = usable(&entry.value.ips).into_iter().filter(own);
        let ports = ports(cluster, of, &entry.value).into_iter();
        let message = resource::Service {
            name: service_name(of),
            hostnames: vec![host(of)],
            addresses: addresses.map(address).collect(),
            ports: ports.map(port).collect(),
            traffic: None,
            scope: resource::ServiceScope::Cluster.into(),
            origin: None,
        };
        let sound = message.name.parse::<ServiceName>().is_ok()
            && !message.ports.is_empty()
            && !message.addresses.is_empty();
        let name = message.name.clone();
        sound.then(|| encode(&name, message, &cluster.id, Some(entry.stamp)))
    });
    Answer::complete(found)
}

/// The pod as the one endpoint of itself: whoever calls it by its address wants nobody else, ready or not.
pub(crate) fn endpoints(world: &World, client: &Client, of: &WorkloadName) -> Answer {
    let Some(cluster) = home(world, client) else {
        return Answer::unknown();
    };
    let found = called(cluster, client, of).and_then(|entry| {
        let pod = &entry.value;
        let (domain, account) = (&cluster.trust_domain, &pod.service_account);
        let locality = cluster.locality(&pod.locality);
        let mapping = |(port, _): (u16, i32)| resource::PortMapping {
            service_port: u32::from(port),
            target_port: u32::from(port),
        };
        let message = resource::Endpoint {
            name: of.to_string(),
            service: service_name(of),
            addresses: usable(&pod.ips).into_iter().map(octets).collect(),
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
    Answer::complete(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Object, Spec};
    use crate::sample::{Proxy, client, labels, list, object, pod, port, service, shop, world};
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
