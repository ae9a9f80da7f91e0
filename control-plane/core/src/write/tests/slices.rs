//! Do the pods of a headless service stand where DNS looks for them?

use super::*;

fn headless(cluster: &str) -> Object {
    let mut service = service(cluster, "cart", 5);
    if let Spec::Service(service) = &mut service.spec {
        service.kind = ServiceType::Headless;
        service.cluster_ips.clear();
    }
    service
}

/// What the cluster's own controller says of its pods.
fn slice(cluster: &str, numbers: std::ops::Range<u8>) -> Object {
    let endpoint = |number: u8| {
        let Spec::Pod(pod) = pod(cluster, "cart", number).spec else {
            panic!("a pod")
        };
        SliceEndpoint {
            addresses: pod.ips,
            ready: number != 9,
            serving: number != 9,
            terminating: false,
            zone: "z1".into(),
            pod: Some(format!("cart-{number}")),
            hostname: Some(format!("cart-{number}")),
            node: None,
            for_zones: Vec::new(),
        }
    };
    let spec = EndpointSlice {
        service: "cart".into(),
        ports: vec![SlicePort {
            name: "http".into(),
            port: 8080,
        }],
        endpoints: numbers.map(endpoint).collect(),
        managed: None,
    };
    object(cluster, "shop", "cart-abc", Spec::EndpointSlice(spec))
}

/// A headless service of both, with pods 1 and 2 each; on these networks.
fn both(east: &str, west: &str) -> Run {
    let mut objects = vec![mesh("east", east), mesh("west", west)];
    for cluster in ["east", "west"] {
        objects.extend([headless(cluster), export(cluster, "cart")]);
        objects.extend((1..10).map(|number| pod(cluster, "cart", number)));
        objects.push(slice(cluster, 1..3));
    }
    Run::of(&["east", "west"], &objects)
}

impl Run {
    /// The mesh's own slices in a cluster: source, addresses and hostnames.
    fn slices(&self, cluster: &str) -> Vec<(String, Vec<String>)> {
        let all = self.servers.objects(&id(cluster)).into_iter();
        let ours = all.filter_map(|object| match object.spec {
            Spec::EndpointSlice(slice) => {
                let labels = slice.managed?.labels;
                assert_eq!(labels["multicluster.kubernetes.io/service-name"], "cart");
                assert_eq!(
                    labels["endpointslice.kubernetes.io/managed-by"],
                    "controller.isthmus.dev"
                );
                assert_eq!(slice.service, derived_name("shop", "cart"));
                assert_eq!(slice.ports[0].port, 8080);
                let said = slice.endpoints.iter().map(|e| {
                    let ready = if e.ready { "" } else { " not ready" };
                    let name = e.hostname.as_deref().unwrap_or("-");
                    format!("{} {name}{ready}", e.addresses[0])
                });
                Some((labels[SOURCE_CLUSTER_LABEL].clone(), said.collect()))
            }
            _ => None,
        });
        ours.collect()
    }
}

fn of(source: &str, said: &[&str]) -> (String, Vec<String>) {
    let said = said.iter().map(|&text| text.to_owned());
    (source.to_owned(), said.collect())
}

#[test]
fn pods_of_one_network_are_listed_for_dns_and_followed_until_the_import_goes() {
    let mut run = both("flat", "flat");
    run.settle();
    let (east, west) = (
        of("east", &["10.1.0.1 cart-1", "10.1.0.2 cart-2"]),
        of("west", &["10.2.0.1 cart-1", "10.2.0.2 cart-2"]),
    );
    for cluster in ["east", "west"] {
        assert_eq!(run.slices(cluster), [east.clone(), west.clone()]);
    }
    assert_eq!(run.settle(), 0);
    // A pod that is not ready, and no more than it is written.
    run.put(slice("west", 8..10));
    assert_eq!(run.settle(), 2);
    let now = of("west", &["10.2.0.8 cart-8", "10.2.0.9 cart-9 not ready"]);
    assert_eq!(run.slices("east"), [east.clone(), now]);
    // One exporter fewer, then none.
    run.remove(&export("west", "cart").reference());
    run.settle();
    assert_eq!(run.slices("west"), [east]);
    run.remove(&export("east", "cart").reference());
    run.settle();
    assert_eq!(run.slices("east"), []);
    assert_eq!(run.slices("west"), []);
}

#[test]
fn pods_of_another_network_are_left_out_and_the_import_says_whose() {
    let mut run = both("east-net", "west-net");
    run.settle();
    assert_eq!(run.slices("east").len(), 1);
    assert_eq!(run.slices("east")[0].0, "east");
    let import = run.import("east", "cart").unwrap();
    let ready = &import.observed.conditions[0];
    assert_eq!(
        (ready.status, ready.reason.as_str()),
        (Truth::True, "Ready")
    );
    assert!(
        ready
            .message
            .starts_with("pods of west are on other networks"),
        "{}",
        ready.message
    );
}

#[test]
fn a_service_that_gets_an_address_has_no_slices_any_more() {
    let mut run = both("flat", "flat");
    run.settle();
    for cluster in ["east", "west"] {
        run.put(service(cluster, "cart", 5));
    }
    run.settle();
    assert_eq!(run.slices("east"), []);
    assert!(!run.import("east", "cart").unwrap().headless);
}

#[test]
fn a_slice_that_somebody_deletes_comes_back_and_anothers_is_left_alone() {
    let mut run = both("flat", "flat");
    run.settle();
    let name = format!("{}-west-ipv4-0", derived_name("shop", "cart"));
    let mut at = export("east", &name).reference();
    at.kind = Kind::EndpointSlice;
    run.remove(&at);
    assert_eq!(run.settle(), 1);
    assert_eq!(run.slices("east").len(), 2);
    run.remove(&at);
    let Spec::EndpointSlice(mut theirs) = slice("east", 3..4).spec else {
        panic!("a slice")
    };
    theirs.service = "other".into();
    let foreign = object("east", "shop", &name, Spec::EndpointSlice(theirs));
    run.put(foreign.clone());
    let plan = run.plan();
    assert_eq!(plan.writes, []);
    assert!(plan.refused.iter().any(|(refused, ..)| *refused == at));
    assert_eq!(
        run.servers.find("east", Kind::EndpointSlice, &name),
        Some(foreign.spec)
    );
}

#[test]
fn a_slice_has_a_hundred_endpoints_and_an_import_ten_of_a_cluster() {
    let mut objects = vec![
        mesh("east", "flat"),
        headless("east"),
        export("east", "cart"),
    ];
    let mut endpoints = Vec::new();
    for number in 0..1_050_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let name = format!("cart-{number:04}");
        let ip = IpAddr::from([10, 1, high, low]);
        let Spec::Pod(some) = pod("east", "cart", 1).spec else {
            panic!("a pod")
        };
        let ips = vec![ip];
        objects.push(object(
            "east",
            "shop",
            &name,
            Spec::Pod(Pod { ips, ..some }),
        ));
        endpoints.push(SliceEndpoint {
            addresses: vec![ip],
            ready: true,
            serving: true,
            terminating: false,
            zone: String::new(),
            pod: Some(name),
            hostname: None,
            node: None,
            for_zones: Vec::new(),
        });
    }
    for (at, part) in endpoints.chunks(1_000).enumerate() {
        let Spec::EndpointSlice(mut spec) = slice("east", 1..2).spec else {
            panic!("a slice")
        };
        spec.endpoints = part.to_vec();
        let name = format!("cart-{at}");
        objects.push(object("east", "shop", &name, Spec::EndpointSlice(spec)));
    }
    let mut run = Run::of(&["east"], &objects);
    run.settle();
    let sizes: Vec<_> = run
        .slices("east")
        .iter()
        .map(|(_, all)| all.len())
        .collect();
    assert_eq!(sizes, [100; 10]);
}

#[test]
fn a_cluster_that_is_not_known_yet_keeps_its_slices() {
    let mut run = both("flat", "flat");
    run.settle();
    let before = run.slices("west");
    // A new control plane, which can't reach east.
    run.world = world(&["east", "west"]);
    run.planner = Planner::default();
    run.relist("west");
    assert_eq!(run.settle(), 0);
    assert_eq!(run.slices("west"), before);
}
