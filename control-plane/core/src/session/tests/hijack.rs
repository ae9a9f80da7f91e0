//! Can a cluster take what is another's? (S26)
//!
//! Random meshes of 2 to 5 clusters. The last one's API server says whatever it likes: pods and slices
//! at others' addresses, others' virtual addresses, gateways where others' pods are, other ranges. What
//! a client elsewhere is told is compared with what it is told without that cluster.

use std::net::IpAddr;

use isthmus_proto::range::IpRange;

use super::*;
use crate::model::{
    CLUSTER_ID_PROPERTY, ClusterProperty, EndpointSlice, Gateway, GatewayAddress, GatewayFront,
    Pod, SYSTEM_NAMESPACE, Service, ServiceExport, ServiceImport, SliceEndpoint, SlicePort,
};

const NAMES: [&str; 5] = ["east", "west", "north", "south", "mid"];
const APPS: [&str; 3] = ["cart", "pay", "web"];

/// What a seed leads to.
struct Rng(u64);

impl Rng {
    /// Below `most`.
    fn below(&mut self, most: usize) -> usize {
        // Numerical Recipes' constants, and the upper half.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn byte(&mut self, most: usize) -> u8 {
        u8::try_from(self.below(most)).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A mesh, and who in it can't be believed.
struct Case {
    clusters: Vec<&'static str>,
    hostile: &'static str,
    objects: Vec<Object>,
}

fn number(cluster: &str) -> u8 {
    let at = NAMES.iter().position(|name| *name == cluster).unwrap();
    u8::try_from(at).unwrap() + 1
}

fn range(cluster: &str) -> IpRange {
    format!("10.{}.0.0/16", number(cluster)).parse().unwrap()
}

fn address(cluster: &str, host: u8) -> IpAddr {
    [10, number(cluster), 0, host].into()
}

/// A pod `shop/<app>-<host>`.
fn pod_at(cluster: &str, app: &str, host: u8, ip: IpAddr) -> Object {
    let mut found = pod(cluster, app, host);
    if let Spec::Pod(pod) = &mut found.spec {
        pod.ips = vec![ip];
    }
    found
}

fn declared(by: &str, cluster: &str, network: &str, ranges: &[IpRange]) -> Object {
    let mut found = mesh(cluster, network);
    found.cluster = id(by);
    if let Spec::MeshCluster(mesh) = &mut found.spec {
        mesh.pod_ranges = ranges.to_vec();
    }
    found
}

/// What an honest cluster has: a client, and services of its own with pods in its range.
fn honest(rng: &mut Rng, cluster: &str) -> Vec<Object> {
    let mut objects = vec![pod_at(cluster, "web", 1, address(cluster, 1))];
    for app in APPS {
        if rng.chance(50) {
            objects.push(service(cluster, app, rng.byte(4) + 1));
            let pods = 3 + rng.byte(2);
            let pods = (2..pods).map(|host| {
                let host = host + 10 * number(cluster);
                pod_at(cluster, app, host, address(cluster, host))
            });
            objects.extend(pods);
            if rng.chance(60) {
                objects.push(export(cluster, app));
            }
        }
        if rng.chance(20) {
            objects.push(import(rng, cluster, app));
        }
    }
    objects.push(gateway(cluster, number(cluster)));
    objects
}

fn import(rng: &mut Rng, cluster: &str, app: &str) -> Object {
    let import = ServiceImport {
        ips: vec![[10, 96, 0, rng.byte(6) + 1].into()],
        ..ServiceImport::default()
    };
    object(cluster, "shop", app, Spec::ServiceImport(import))
}

/// A slice that says that a pod of the cluster is at this address.
fn claimed(rng: &mut Rng, (own, app, host): (&str, &str, u8), ip: IpAddr) -> Object {
    let endpoint = SliceEndpoint {
        addresses: vec![ip],
        ready: true,
        serving: true,
        terminating: false,
        zone: String::new(),
        pod: rng
            .chance(80)
            .then(|| format!("{app}-{}", rng.byte(40) + 1)),
        hostname: None,
        for_zones: Vec::new(),
        node: None,
    };
    let slice = EndpointSlice {
        service: app.to_owned(),
        ports: vec![SlicePort {
            name: "http".to_owned(),
            port: 8080,
        }],
        endpoints: vec![endpoint],
        managed: None,
    };
    let name = format!("{app}-{host}");
    object(own, "shop", &name, Spec::EndpointSlice(slice))
}

/// A gateway without an address of its own has that of whatever Service says so.
fn front(own: &str, app: &str, ip: IpAddr) -> Object {
    let Spec::Service(plain) = service(own, app, 1).spec else {
        unreachable!()
    };
    let front = GatewayFront {
        gateway: "ew".to_owned(),
        addresses: vec![GatewayAddress::Ip(ip)],
    };
    let service = Service {
        ports: vec![port("mesh", 15_443)],
        front: Some(Box::new(front)),
        ..plain
    };
    object(own, SYSTEM_NAMESPACE, "ew", Spec::Service(service))
}

/// Anything that an API server may say.
fn anything(rng: &mut Rng, clusters: &[&'static str], own: &str) -> Object {
    let (app, host) = (rng.of(&APPS), rng.byte(40) + 1);
    let of = rng.of(clusters);
    let ip = address(of, host);
    match rng.below(10) {
        0 => pod_at(own, app, rng.byte(40) + 1, ip),
        1 => claimed(rng, (own, app, host), ip),
        2 => {
            // The address of a pod, or another cluster's virtual one.
            let virtual_ip = [10, 96, 0, rng.byte(6) + 1].into();
            let ip = rng.of(&[ip, virtual_ip]);
            let Spec::Service(plain) = service(own, app, 1).spec else {
                unreachable!()
            };
            let service = Service {
                cluster_ips: vec![ip],
                ..plain
            };
            object(own, "shop", app, Spec::Service(service))
        }
        3 | 4 => object(
            own,
            "shop",
            app,
            Spec::ServiceExport(ServiceExport::default()),
        ),
        5 => {
            let mut found = import(rng, own, app);
            if let Spec::ServiceImport(import) = &mut found.spec
                && rng.chance(50)
            {
                import.ips = vec![ip];
            }
            found
        }
        6 => {
            let mut found = gateway(own, 9);
            if let Spec::Gateway(Gateway { addresses, .. }) = &mut found.spec {
                *addresses = if rng.chance(50) {
                    vec![GatewayAddress::Ip(ip)]
                } else {
                    Vec::new()
                };
            }
            found.namespace = Some(rng.of(&[SYSTEM_NAMESPACE, "shop"]).parse().unwrap());
            found
        }
        7 => front(own, app, ip),
        8 => declared(
            own,
            of,
            rng.of(&["flat", "west-net"]),
            &[rng.of(&[range(of), "0.0.0.0/0".parse().unwrap()])],
        ),
        _ => object(
            own,
            "",
            CLUSTER_ID_PROPERTY,
            Spec::ClusterProperty(ClusterProperty {
                value: of.to_owned(),
            }),
        ),
    }
}

fn case(seed: u64) -> Case {
    let mut rng = Rng(seed);
    let count = 2 + rng.below(4);
    let clusters = NAMES[..count].to_vec();
    let (home, hostile) = (clusters[0], clusters[count - 1]);
    let mut objects = Vec::new();
    for cluster in &clusters {
        let own = format!("{cluster}-net");
        let network = if rng.chance(75) { "flat" } else { &own };
        // Who speaks for the mesh may say nothing of the hostile cluster's ranges.
        let silent = *cluster == hostile && rng.chance(30);
        let ranges = [range(cluster)];
        let ranges = if silent { &[][..] } else { &ranges };
        objects.push(declared(home, cluster, network, ranges));
        if *cluster == hostile {
            objects.push(pod_at(cluster, "web", 1, address(cluster, 1)));
            let lies = 2 + rng.below(10);
            objects.extend((0..lies).map(|_| anything(&mut rng, &clusters, cluster)));
        } else {
            objects.extend(honest(&mut rng, cluster));
        }
    }
    Case {
        clusters,
        hostile,
        objects,
    }
}

fn build(case: &Case, clusters: &[&str]) -> World {
    let mut world = world(clusters);
    world.set_mesh_authors(Some(BTreeSet::from([id(case.clusters[0])])));
    for cluster in clusters {
        list(&mut world, cluster, &case.objects);
    }
    world
}

/// All that a client can ask for: names, virtual addresses, pods' addresses.
fn keys(case: &Case, network: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for app in APPS {
        keys.push(format!("host:{app}"));
        keys.push(format!("shop/{app}.shop.svc.clusterset.local"));
    }
    for ip in 1..5 {
        keys.push(format!("vip:{network}/10.96.0.{ip}"));
    }
    // Of honest pods, and of what the hostile cluster says that it has.
    let addresses = case.objects.iter().filter_map(|object| match &object.spec {
        Spec::Pod(Pod { ips, .. }) => ips.first(),
        Spec::Service(service) if object.cluster == id(case.hostile) => service.cluster_ips.first(),
        _ => None,
    });
    let addresses: BTreeSet<&IpAddr> = addresses.collect();
    keys.extend(
        addresses
            .into_iter()
            .map(|ip| format!("vip:{network}/{ip}")),
    );
    keys
}

fn asked(world: &World, case: &Case, cluster: &str) -> Proxy {
    let network = world.listed(cluster).unwrap().network().unwrap();
    let client = client(world, &format!("{cluster}/shop/web-1"), "web", "sidecar");
    let keys = keys(case, network.as_str());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut proxy = Proxy::sidecar(&client, &keys);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, world);
    proxy
}

/// Does it concern what the hostile cluster offers, and may?
fn offered(case: &Case, (kind, name): &(T, String)) -> bool {
    let mark = format!("{}/", case.hostile);
    let of_its_pod = format!(".pod.{}.local", case.hostile);
    let exports = case.objects.iter().filter(|object| {
        object.cluster == id(case.hostile) && matches!(object.spec, Spec::ServiceExport(_))
    });
    let mut exports = exports.map(|export| format!("shop/{}.shop.svc.clusterset", export.name));
    match kind {
        T::Gateway | T::ClusterFreshness => name.starts_with(case.hostile),
        T::Endpoint if name.contains(&format!("#{mark}")) => true,
        T::Service | T::Endpoint | T::Route => {
            name.contains(&of_its_pod) || exports.any(|export| name.contains(&export))
        }
        T::TrustBundle | T::AccessPolicy | T::Workload | T::HandleKeys | T::ExportedEndpoint => {
            false
        }
    }
}

fn ip_of(bytes: &[u8]) -> IpAddr {
    IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap())
}

/// Nobody is led to an address of another cluster than the one that must answer there.
fn check_places(case: &Case, proxy: &Proxy, cluster: &str, seed: u64) {
    let others = || case.clusters.iter().filter(|other| **other != case.hostile);
    // Where they are themselves, on the client's network.
    let network = network_of(case, cluster);
    let here = |other: &&&str| network_of(case, other) == network;
    let theirs = |ip: IpAddr| others().filter(here).any(|other| range(other).contains(ip));
    for name in proxy.names(T::Endpoint) {
        let endpoint: resource::Endpoint = proxy.get(T::Endpoint, name);
        let of = endpoint.name.split('/').next().unwrap();
        let identity = format!("spiffe://{of}.mesh.internal/");
        assert!(
            endpoint.identity.starts_with(&identity),
            "{seed}: {endpoint:?}"
        );
        let direct = endpoint.network == network;
        for ip in endpoint.addresses.iter().map(|bytes| ip_of(bytes)) {
            let right = range(of).contains(ip) || !(direct && theirs(ip));
            assert!(right, "{seed}: {endpoint:?}");
        }
    }
    for name in proxy.names(T::Gateway) {
        let gateway: resource::Gateway = proxy.get(T::Gateway, name);
        for address in &gateway.addresses {
            let Some(resource::gateway_address::Kind::Ip(ip)) = &address.kind else {
                continue;
            };
            let near = others().filter(here);
            let mut near = near.filter(|other| **other != gateway.cluster);
            let taken = near.any(|other| range(other).contains(ip_of(ip)));
            assert!(!taken, "{seed}: {gateway:?}");
        }
    }
    for name in proxy.names(T::Service) {
        let service: resource::Service = proxy.get(T::Service, name);
        for address in &service.addresses {
            let ip = ip_of(&address.address);
            let its = name.ends_with(&format!(".pod.{}.local", case.hostile));
            assert!(!(its && theirs(ip)), "{seed}: {service:?}");
        }
    }
}

fn network_of(case: &Case, cluster: &str) -> String {
    let said = case.objects.iter().find_map(|object| match &object.spec {
        Spec::MeshCluster(mesh)
            if object.name == cluster && object.cluster == id(case.clusters[0]) =>
        {
            Some(mesh.network.to_string())
        }
        _ => None,
    });
    said.unwrap()
}

/// `ISTHMUS_FULL`: as many as are promised.
fn merges() -> u64 {
    match std::env::var_os("ISTHMUS_FULL") {
        Some(_) => 10_000,
        None => 1_000,
    }
}

/// S26
#[test]
fn nothing_is_hijacked_in_random_merges() {
    let mut told_of_it = 0;
    for seed in 0..merges() {
        let case = case(seed);
        let honest = &case.clusters[..case.clusters.len() - 1];
        let cluster = honest[usize::try_from(seed).unwrap() % honest.len()];
        let merged = build(&case, &case.clusters);
        let alone = build(&case, honest);
        let (with, without) = (
            asked(&merged, &case, cluster),
            asked(&alone, &case, cluster),
        );
        check_places(&case, &with, cluster, seed);
        let rest = |proxy: &Proxy| {
            let mut state = proxy.state();
            state.retain(|name, _| !offered(&case, name));
            state
        };
        assert_eq!(
            rest(&with),
            rest(&without),
            "seed {seed}, seen from {cluster}"
        );
        let of_it = format!("#{}/", case.hostile);
        told_of_it += u64::from(
            with.names(T::Endpoint)
                .iter()
                .any(|name| name.contains(&of_it)),
        );
    }
    // It was not for want of anything to be told.
    assert!(told_of_it > merges() / 10, "{told_of_it}");
}
