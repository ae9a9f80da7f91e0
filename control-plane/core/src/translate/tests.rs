//! Does each resource say what was declared?

use isthmus_proto::resource::{InboundMode, gateway_address};

use crate::model::*;
use crate::sample::*;
use crate::session::ResourceType as T;
use crate::translate::{Answer, Encoded};
use crate::world::World;
use isthmus_proto::resource;

mod node;

const LOCAL: &str = "shop/cart.shop.svc.cluster.local";

fn build(objects: &[Object]) -> World {
    let mut world = world(&["east", "west"]);
    list(&mut world, "east", objects);
    list(&mut world, "west", objects);
    world
}

/// What a sidecar holds that asks for these names.
fn seen(objects: &[Object], workload: &str, account: &str, keys: &[&str]) -> Proxy {
    let world = build(objects);
    let client = client(&world, workload, account, "sidecar");
    let mut proxy = Proxy::sidecar(&client, keys);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    proxy
}

fn endpoint(name: &str, ready: bool, terminating: bool, pod: Option<&str>) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![name.parse().unwrap()],
        ready,
        serving: !name.ends_with('9'),
        terminating,
        zone: "z1".into(),
        pod: pod.map(str::to_owned),
        hostname: None,
        node: None,
        for_zones: Vec::new(),
    }
}

fn slice(cluster: &str, endpoints: Vec<SliceEndpoint>) -> Object {
    let ports = vec![SlicePort {
        name: "http".into(),
        port: 9090,
    }];
    let slice = EndpointSlice {
        service: "cart".into(),
        ports,
        endpoints,
        managed: None,
    };
    object(cluster, "shop", "cart-abc", Spec::EndpointSlice(slice))
}

/// Whether each endpoint of the cart is the very one that it was, by its name.
fn kept(before: &Answer, after: &Answer) -> Vec<(String, bool)> {
    let of = |one: &Encoded| one.name.rsplit('/').next().unwrap_or_default().to_owned();
    let old = |name: &str| before.resources().find(|one| of(one) == name);
    let same = |one: &Encoded| {
        let old = old(&of(one));
        (
            of(one),
            old.is_some_and(|old| std::sync::Arc::ptr_eq(&old.name, &one.name)),
        )
    };
    after.resources().map(same).collect()
}

#[test]
fn what_is_as_it_was_of_a_service_is_not_made_again() {
    let mut world = build(&shop());
    let apply = |world: &mut World, number: u8, ready: bool| {
        let mut object = pod("east", "cart", number);
        if let Spec::Pod(pod) = &mut object.spec {
            pod.ready = ready;
        }
        world.apply(Change::Apply(object), at(5));
    };
    for number in [3, 4, 5] {
        apply(&mut world, number, true);
    }
    let client = client(&world, "east/shop/web-1", "web", "sidecar");
    let service = ServiceRef::of_service_name(LOCAL).unwrap();
    let ask = |world: &World| super::endpoint::endpoints(world, &client, &service).0;
    let all_but = |answer: &[(String, bool)], changed: &str| {
        answer.iter().all(|(name, same)| *same == (name != changed))
    };
    let before = ask(&world);
    let again = kept(&before, &ask(&world));
    assert!(again.len() >= 4 && all_but(&again, ""), "{again:?}");
    apply(&mut world, 4, false);
    let unready = ask(&world);
    let of_one = kept(&before, &unready);
    assert!(all_but(&of_one, "cart-4"), "{of_one:?}");
    // One more in between, one less at the begin: the others are where they were.
    apply(&mut world, 30, true);
    let first = before.resources().next().unwrap().name.rsplit('/').next();
    let mut gone = pod("east", "cart", 1).reference();
    gone.name = first.unwrap().to_owned();
    world.apply(Change::Delete(gone), at(6));
    let moved = kept(&unready, &ask(&world));
    assert_eq!(moved.len(), again.len(), "{moved:?}");
    assert!(all_but(&moved, "cart-30"), "{moved:?}");
    // The service itself: all of them.
    let mut redefined = crate::sample::service("east", "cart", 1);
    if let Spec::Service(service) = &mut redefined.spec {
        service.ports = vec![port("http", 81)];
    }
    let before = ask(&world);
    world.apply(Change::Apply(redefined), at(7));
    let none = kept(&before, &ask(&world));
    assert!(none.iter().all(|(_, same)| !same), "{none:?}");
}

#[test]
fn each_part_of_an_endpoint_that_changes_is_told_once_it_was_told_otherwise() {
    let mut world = build(&shop());
    let client = client(&world, "east/shop/web-1", "web", "sidecar");
    let service = ServiceRef::of_service_name(LOCAL).unwrap();
    let changes: [fn(&mut Pod); 7] = [
        |pod| pod.service_account = "other".to_owned(),
        |pod| pod.meshed = !pod.meshed,
        |pod| pod.terminating = true,
        |pod| pod.ready = false,
        |pod| pod.ips = vec!["10.9.9.9".parse().unwrap()],
        |pod| pod.locality.zone = "another".to_owned(),
        |pod| pod.finished = true,
    ];
    let mut object = pod("east", "cart", 3);
    for change in changes {
        world.apply(Change::Apply(object.clone()), at(5));
        let before = super::endpoint::endpoints(&world, &client, &service).0;
        if let Spec::Pod(pod) = &mut object.spec {
            change(pod);
        }
        world.apply(Change::Apply(object.clone()), at(5));
        let after = super::endpoint::endpoints(&world, &client, &service).0;
        let of = |answer: &Answer| {
            let mut all = answer.resources();
            let found = all.find(|one| one.name.ends_with("/cart-3"));
            found.map(|one| one.version)
        };
        assert_ne!(of(&before), of(&after), "{object:?}");
    }
}

#[test]
fn hints_say_which_zone_takes_an_endpoint_if_all_that_are_ready_have_one() {
    let mut objects = shop();
    let hinted = |name: &str, zones: &[&str], ready: bool| SliceEndpoint {
        for_zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        ..endpoint(name, ready, false, None)
    };
    let zones = |endpoints: Vec<SliceEndpoint>, objects: &[Object], workload: &str| {
        let mut objects = objects.to_vec();
        objects.push(slice("east", endpoints));
        let proxy = seen(&objects, workload, "web", &[LOCAL]);
        let names = proxy.names(T::Endpoint).into_iter();
        let names = names.filter(|name| name.contains("ip-10"));
        let zone = |name: &str| {
            let endpoint: resource::Endpoint = proxy.get(T::Endpoint, name);
            endpoint.locality.unwrap().zone
        };
        let mut zones: Vec<String> = names.map(zone).collect();
        zones.sort();
        zones.dedup();
        zones
    };
    objects.retain(|object| object.spec.kind() != Kind::Pod || object.name.starts_with("web"));
    let all = || {
        vec![
            hinted("10.0.0.1", &["z2"], true),
            hinted("10.0.0.2", &["z3", "z1"], true),
            // Who takes nothing new has no say.
            hinted("10.0.0.9", &[], false),
        ]
    };
    assert_eq!(zones(all(), &objects, "east/shop/web-1"), ["z1", "z2"]);
    let mut some = all();
    some[1].for_zones.clear();
    assert_eq!(zones(some, &objects, "east/shop/web-1"), ["z1"]);
}

#[test]
fn a_cluster_that_calls_its_domain_otherwise_is_called_by_that() {
    let mut objects = shop();
    for object in &mut objects {
        if let Spec::MeshCluster(mesh) = &mut object.spec {
            mesh.cluster_domain = Some("corp.example".to_owned());
        }
    }
    let hosts = |key: &str| {
        let proxy = seen(&objects, "east/shop/web-1", "web", &[key]);
        let found = proxy.names(T::Service).contains(&LOCAL);
        found.then(|| proxy.get::<resource::Service>(T::Service, LOCAL).hostnames)
    };
    let told = hosts("host:cart.shop.svc.corp.example").unwrap();
    assert_eq!(
        told,
        ["cart.shop.svc.corp.example", "cart.shop.svc", "cart.shop"]
    );
    assert_eq!(hosts("host:cart"), Some(told));
    assert_eq!(hosts("host:cart.shop.svc.cluster.local"), None);
    assert_eq!(hosts("host:cart.shop.svcxcorp.example"), None);
}

#[test]
fn slices_count_where_there_are_any_and_say_who_is_healthy() {
    let mut objects = shop();
    for number in 1..=4 {
        objects.push(pod("east", "cart", number));
    }
    objects.push(slice(
        "east",
        vec![
            endpoint("10.1.0.1", true, false, Some("cart-1")),
            endpoint("10.1.0.2", false, false, Some("cart-2")),
            endpoint("10.1.0.3", false, true, Some("cart-3")),
            endpoint("10.1.0.9", false, true, Some("cart-4")),
            endpoint("10.9.9.1", true, false, None),
            endpoint("10.1.0.7", true, false, Some("never-seen")),
            endpoint("169.254.169.254", true, false, None),
        ],
    ));
    let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    let get = |pod: &str| -> resource::Endpoint {
        proxy.get(T::Endpoint, &format!("{LOCAL}#east/shop/{pod}"))
    };
    assert_eq!(proxy.names(T::Endpoint).len(), 5);
    assert_eq!(get("cart-1").health(), resource::Health::Healthy);
    assert_eq!(get("cart-2").health(), resource::Health::Unhealthy);
    assert_eq!(get("cart-3").health(), resource::Health::Draining);
    assert_eq!(get("cart-4").health(), resource::Health::Unhealthy);
    assert_eq!(get("cart-1").ports[0].target_port, 9090);
    assert_eq!(get("cart-1").locality.unwrap().zone, "z1");
    let plain = get("ip-10-9-9-1.address");
    assert_eq!((plain.identity.as_str(), plain.tunnel_port), ("", 0));
}

/// One slice for each address family, written one after the other.
#[test]
fn of_two_slices_the_one_counts_that_knows_of_an_ailment() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut objects = shop();
        for number in 1..=2 {
            objects.push(pod("east", "cart", number));
        }
        let mut before = slice(
            "east",
            vec![
                endpoint("10.1.0.1", true, false, Some("cart-1")),
                endpoint("10.1.0.2", true, false, Some("cart-2")),
            ],
        );
        before.name = first.to_owned();
        let mut after = slice(
            "east",
            vec![
                endpoint("fd00::1", false, false, Some("cart-1")),
                endpoint("fd00::2", false, true, Some("cart-2")),
            ],
        );
        after.name = second.to_owned();
        objects.extend([before, after]);
        let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
        let get = |pod: &str| -> resource::Endpoint {
            proxy.get(T::Endpoint, &format!("{LOCAL}#east/shop/{pod}"))
        };
        assert_eq!(get("cart-1").health(), resource::Health::Unhealthy);
        assert_eq!(get("cart-1").addresses.len(), 2);
        assert_ne!(get("cart-2").health(), resource::Health::Healthy);
    }
}

#[test]
fn a_pod_without_a_proxy_is_plain_at_home_and_unknown_abroad() {
    let mut objects = shop();
    for object in &mut objects {
        if let Spec::Pod(pod) = &mut object.spec
            && object.name.starts_with("cart")
        {
            pod.meshed = false;
        }
    }
    let key = "shop/cart.shop.svc.clusterset.local";
    let proxy = seen(&objects, "east/shop/web-1", "web", &[key]);
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{key}#east/shop/cart-11")]
    );
    let own: resource::Endpoint = proxy.get(T::Endpoint, &format!("{key}#east/shop/cart-11"));
    assert!(own.handle.is_empty() && own.identity.is_empty() && own.tunnel_port == 0);
}

#[test]
fn a_pod_of_the_mesh_without_an_identity_is_never_called_in_plaintext() {
    let mut objects = shop();
    for object in &mut objects {
        if let Spec::Pod(pod) = &mut object.spec
            && object.name == "cart-11"
        {
            pod.service_account = "Cart_1".into();
        }
    }
    let key = "shop/cart.shop.svc.clusterset.local";
    let proxy = seen(&objects, "east/shop/web-1", "web", &[key]);
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{key}#west/shop/cart-12")]
    );
    let told = build(&objects).conditions();
    let told = told.iter().find(|c| c.reason == "NoIdentity").unwrap();
    assert!(!told.holds && told.object.name == "cart-11", "{told:?}");
}

#[test]
fn a_workload_knows_the_services_that_lead_to_it() {
    let proxy = seen(&shop(), "east/shop/cart-11", "cart", &[]);
    let own: resource::Workload = proxy.get(T::Workload, "east/shop/cart-11");
    assert_eq!(own.identity, "spiffe://east.mesh.internal/ns/shop/sa/cart");
    assert_eq!(
        (own.network.as_str(), own.inbound_mode()),
        ("east-net", InboundMode::Strict)
    );
    assert_eq!(own.locality.unwrap().region, "r1");
    assert_eq!(own.ports.len(), 1);
    assert_eq!(own.ports[0].port, 8080);
    assert_eq!(own.ports[0].protocol(), resource::Protocol::Http1);
    let names: Vec<_> = own.ports[0]
        .services
        .iter()
        .map(|s| (s.service.as_str(), s.port))
        .collect();
    assert_eq!(
        names,
        [(LOCAL, 80), ("shop/cart.shop.svc.clusterset.local", 80)]
    );
    assert_eq!(own.origin.unwrap().observed_at.unwrap(), at(1).into());
}

fn policy(cluster: &str, namespace: &str, name: &str, policy: AccessPolicy) -> Object {
    object(cluster, namespace, name, Spec::AccessPolicy(policy))
}

#[test]
fn a_pod_gets_the_policies_that_select_it() {
    let labelled = |app: &str| PolicyTarget::Workloads(labels(&[("app", app)]));
    let mut objects = shop();
    for (name, target) in [
        ("all", PolicyTarget::Namespace),
        ("of-cart", labelled("cart")),
        ("of-web", labelled("web")),
        ("service", services(&["cart"])),
        ("other", services(&["pay"])),
    ] {
        objects.push(policy("east", "shop", name, allow(target)));
    }
    objects.push(policy(
        "east",
        "bank",
        "foreign",
        allow(PolicyTarget::Namespace),
    ));
    objects.push(policy(
        "west",
        "shop",
        "foreign",
        allow(PolicyTarget::Namespace),
    ));
    objects.push(policy(
        "west",
        SYSTEM_NAMESPACE,
        "mesh",
        allow(PolicyTarget::Mesh),
    ));
    objects.push(policy(
        "west",
        SYSTEM_NAMESPACE,
        "west",
        allow(PolicyTarget::Cluster),
    ));
    objects.push(policy(
        "east",
        SYSTEM_NAMESPACE,
        "east",
        allow(PolicyTarget::Cluster),
    ));
    let proxy = seen(&objects, "east/shop/cart-11", "cart", &[]);
    assert_eq!(
        proxy.names(T::AccessPolicy),
        [
            "east/isthmus-system/east",
            "east/shop/all",
            "east/shop/of-cart",
            "east/shop/service",
            "mesh/west/isthmus-system/mesh",
        ]
    );
    let service: resource::AccessPolicy = proxy.get(T::AccessPolicy, "east/shop/service");
    assert_eq!(service.scope, "service east/shop/cart");
    assert_eq!(
        (service.action(), service.invalid.as_str()),
        (resource::Action::Allow, "")
    );
}

#[test]
fn a_policy_that_is_not_understood_denies_in_its_scope() {
    let mut unread = allow(PolicyTarget::Namespace);
    unread.invalid = Some("rules[0].form: unknown field".into());
    let mut regex = allow(PolicyTarget::Namespace);
    let path = resource::StringMatch {
        kind: Some(resource::string_match::Kind::Regex("(".into())),
    };
    let to = resource::Operation {
        paths: vec![path],
        ..Default::default()
    };
    regex.body.as_mut().unwrap().rules[0].to = vec![to];
    let mut who = allow(PolicyTarget::Namespace);
    who.body.as_mut().unwrap().rules[0].from[0].identities = vec!["spiffe://Bad/x".into()];
    let mut empty = allow(PolicyTarget::Namespace);
    empty.body.as_mut().unwrap().action = 0;
    let mut objects = shop();
    // A namespace that speaks for the mesh denies itself, and nobody else.
    for (name, written) in [
        ("unread", unread),
        ("regex", regex),
        ("who", who),
        ("empty", empty),
        ("mesh", allow(PolicyTarget::Mesh)),
    ] {
        objects.push(policy("east", "shop", name, written));
    }
    let proxy = seen(&objects, "east/shop/cart-11", "cart", &[]);
    for (name, why) in [
        ("unread", "unknown field"),
        ("regex", "regular expression"),
        ("who", "SPIFFE ID"),
        ("empty", "no action"),
        ("mesh", "system namespace"),
    ] {
        let sent: resource::AccessPolicy = proxy.get(T::AccessPolicy, &format!("east/shop/{name}"));
        assert!(sent.invalid.contains(why), "{name}: {}", sent.invalid);
        assert_eq!(
            (sent.action(), sent.rules.len()),
            (resource::Action::Deny, 0)
        );
    }
    let west = seen(&objects, "west/shop/cart-12", "cart", &[]);
    assert!(west.names(T::AccessPolicy).is_empty());
}

/// Kubernetes bounds names of policies, pods and accounts as a whole, and not their labels.
#[test]
fn names_that_no_host_has_are_taken_and_told() {
    let long = "a".repeat(150);
    let mut objects = shop();
    let cart = objects
        .iter()
        .find(|o| o.name == "cart-11" && o.cluster.as_str() == "east");
    let mut pod = cart.unwrap().clone();
    pod.name.clone_from(&long);
    if let Spec::Pod(pod) = &mut pod.spec {
        pod.service_account.clone_from(&long);
        pod.ips = vec!["10.1.0.99".parse().unwrap()];
    }
    objects.push(pod);
    let mut denied = allow(PolicyTarget::Namespace);
    denied.body.as_mut().unwrap().action = resource::Action::Deny.into();
    denied.body.as_mut().unwrap().rules[0].from[0].service_accounts = vec![long.clone()];
    objects.push(policy("east", "shop", &long, denied));
    let world = build(&objects);
    let refused: Vec<_> = world
        .conditions()
        .into_iter()
        .filter(|c| !c.holds)
        .collect();
    assert!(refused.iter().all(|c| c.object.name != long), "{refused:?}");
    let proxy = seen(&objects, &format!("east/shop/{long}"), &long, &[]);
    let sent: resource::AccessPolicy = proxy.get(T::AccessPolicy, &format!("east/shop/{long}"));
    assert_eq!(
        (sent.action(), sent.invalid.as_str()),
        (resource::Action::Deny, "")
    );
    isthmus_proxy_core::authorize::Policy::compile(&sent).unwrap();
    let own: resource::Workload = proxy.get(T::Workload, &format!("east/shop/{long}"));
    assert!(own.identity.ends_with(&format!("/sa/{long}")), "{own:?}");
    // By its address it is called as what it is.
    let key = "vip:east-net/10.1.0.99";
    let caller = seen(&objects, "east/shop/cart-11", "cart", &[key]);
    let name = format!("shop/{long}.shop.pod.east.local");
    let called: resource::Service = caller.get(T::Service, &name);
    assert!(called.hostnames.is_empty(), "{called:?}");
}

#[test]
fn permissive_is_what_the_narrowest_policy_says() {
    let says = |target, mode| AccessPolicy {
        body: None,
        inbound: Some(mode),
        ..allow(target)
    };
    let mut objects = shop();
    objects.push(policy(
        "east",
        "shop",
        "a",
        says(PolicyTarget::Namespace, InboundMode::Permissive),
    ));
    let mode = |objects: &[Object]| {
        let proxy = seen(objects, "east/shop/cart-11", "cart", &[]);
        assert!(proxy.names(T::AccessPolicy).is_empty());
        proxy
            .get::<resource::Workload>(T::Workload, "east/shop/cart-11")
            .inbound_mode()
    };
    assert_eq!(mode(&objects), InboundMode::Permissive);
    let narrow = services(&["cart"]);
    objects.push(policy(
        "east",
        "shop",
        "b",
        says(narrow, InboundMode::Strict),
    ));
    assert_eq!(mode(&objects), InboundMode::Strict);
}

fn route(namespace: &str, name: &str, backend: &str, ports: &[Option<u16>]) -> Object {
    let service = ServiceRef {
        reach: Reach::Cluster,
        namespace: "shop".parse().unwrap(),
        name: "cart".into(),
    };
    let parent = |port: &Option<u16>| ParentRef {
        service: service.clone(),
        port: *port,
        section: None,
        explicit: true,
    };
    let backend = resource::WeightedBackend {
        service: backend.into(),
        port: 80,
        ..Default::default()
    };
    let rule = resource::RouteRule {
        backends: vec![backend],
        ..Default::default()
    };
    let route = Route {
        kind: RouteKind::Http,
        parents: ports.iter().map(parent).collect(),
        hostnames: Vec::new(),
        rules: vec![rule],
        invalid: None,
        incompatible: false,
        failing: Vec::new(),
        dropped: Vec::new(),
        limited: Vec::new(),
        generation: 0,
        statuses: Vec::new(),
    };
    object("east", namespace, name, Spec::Route(route))
}

#[test]
fn routes_of_the_callers_namespace_take_the_place_of_the_services_own() {
    let mut objects = shop();
    objects.push(route("shop", "own", LOCAL, &[None]));
    objects.push(route("shop", "one-port", LOCAL, &[Some(80)]));
    objects.push(route("bank", "theirs", LOCAL, &[None]));
    let mut teller = pod("east", "teller", 50);
    teller.namespace = Some("bank".parse().unwrap());
    objects.push(teller);
    let shop = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    assert_eq!(
        shop.names(T::Route),
        [
            format!("shop/one-port:80@{LOCAL}"),
            format!("shop/own@{LOCAL}")
        ]
    );
    let bank = seen(&objects, "east/bank/teller-50", "teller", &[LOCAL]);
    assert_eq!(bank.names(T::Route), [format!("bank/theirs@{LOCAL}")]);
}

fn of_kind(kind: RouteKind, mut object: Object) -> Object {
    if let Spec::Route(route) = &mut object.spec {
        route.kind = kind;
    }
    object
}

/// The shop, with a cart of two ports and a teller in the bank.
fn two_ports() -> Vec<Object> {
    let mut objects = shop();
    let mut teller = pod("east", "teller", 50);
    teller.namespace = Some("bank".parse().unwrap());
    objects.push(teller);
    for object in &mut objects {
        if let Spec::Service(service) = &mut object.spec
            && object.name == "cart"
        {
            let mut admin = service.ports[0].clone();
            (admin.name, admin.port) = ("admin".into(), 81);
            service.ports.push(admin);
        }
    }
    objects
}

/// GEP-1294: "only a single route type should be applied".
#[test]
fn at_one_port_routes_of_one_kind_apply() {
    let mut objects = two_ports();
    let mut names = |object: Object| {
        objects.push(object);
        let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
        let names = proxy.names(T::Route);
        let cut = |name: &&str| name.trim_end_matches(&format!("@{LOCAL}")).to_owned();
        names.iter().map(cut).collect::<Vec<_>>()
    };
    let tcp = of_kind(RouteKind::Tcp, route("shop", "t", LOCAL, &[None]));
    assert_eq!(names(tcp), ["shop/t+tcp"]);
    let tls = of_kind(RouteKind::Tls, route("shop", "s", LOCAL, &[Some(81)]));
    assert_eq!(names(tls), ["shop/s+tls:81", "shop/t+tcp:80"]);
    let http = route("shop", "h", LOCAL, &[Some(80)]);
    assert_eq!(names(http), ["shop/h:80", "shop/s+tls:81"]);
    let grpc = of_kind(RouteKind::Grpc, route("shop", "g", LOCAL, &[None]));
    assert_eq!(names(grpc), ["shop/g+grpc"]);
}

#[test]
fn a_route_of_the_callers_namespace_displaces_the_services_own_only_at_its_port() {
    let mut objects = two_ports();
    objects.push(of_kind(
        RouteKind::Grpc,
        route("shop", "own", LOCAL, &[None]),
    ));
    // It may lead to its parent without a grant, and its kind is not compared with the producer's.
    objects.push(route("bank", "theirs", LOCAL, &[Some(81)]));
    let bank = seen(&objects, "east/bank/teller-50", "teller", &[LOCAL]);
    assert_eq!(
        bank.names(T::Route),
        [
            format!("bank/theirs:81@{LOCAL}"),
            format!("shop/own+grpc:80@{LOCAL}"),
        ]
    );
    let sent: resource::Route = bank.get(T::Route, &format!("bank/theirs:81@{LOCAL}"));
    assert_eq!(sent.rules[0].backends[0].service, LOCAL);
    let shop = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    assert_eq!(shop.names(T::Route), [format!("shop/own+grpc@{LOCAL}")]);
}

#[test]
fn a_route_that_is_not_understood_is_sent_so_that_nothing_passes_by_it() {
    let mut objects = shop();
    let mut broken = route("shop", "own", "", &[None]);
    if let Spec::Route(route) = &mut broken.spec {
        route.invalid = Some("spec.rules[0]: no".into());
        route.hostnames = vec!["shop.example".into()];
        route.rules[0].backends.clear();
    }
    objects.push(broken);
    let mut empty = route("shop", "empty", "", &[None]);
    if let Spec::Route(route) = &mut empty.spec {
        route.rules.clear();
    }
    objects.push(empty);
    let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    for name in ["own", "empty"] {
        let sent: resource::Route = proxy.get(T::Route, &format!("shop/{name}@{LOCAL}"));
        assert_eq!(sent.rules, [resource::RouteRule::default()], "{name}");
        assert_eq!(sent.hostnames, Vec::<String>::new(), "GEP-1294");
    }
}

#[test]
fn a_backend_in_another_namespace_needs_a_grant() {
    let vault = "vault/keys.vault.svc.cluster.local";
    let mut objects = shop();
    objects.push(route("shop", "own", vault, &[None]));
    let backend = |objects: &[Object]| {
        let proxy = seen(objects, "east/shop/web-1", "web", &[LOCAL]);
        let route: resource::Route = proxy.get(T::Route, &format!("shop/own@{LOCAL}"));
        route.rules[0].backends[0].service.clone()
    };
    assert_eq!(backend(&objects), "");
    assert!(
        build(&objects)
            .conditions()
            .iter()
            .any(|c| c.reason == "RefNotPermitted")
    );
    let grant = ReferenceGrant {
        from: vec![(Kind::HttpRoute, "shop".parse().unwrap())],
        to: vec![(Kind::Service, Some("keys".into()))],
    };
    objects.push(object("east", "vault", "g", Spec::ReferenceGrant(grant)));
    assert_eq!(backend(&objects), vault);
    assert!(
        build(&objects)
            .conditions()
            .iter()
            .all(|c| c.reason != "RefNotPermitted")
    );
}

#[test]
fn an_import_has_the_address_that_its_cluster_gave_it() {
    let mut objects = shop();
    let ips = vec!["10.96.0.77".parse().unwrap()];
    objects.push(object(
        "east",
        "shop",
        "cart",
        Spec::ServiceImport(ServiceImport {
            ips: ips.clone(),
            ports: vec![OtherPort {
                port: 80,
                transport: Transport::Tcp,
                name: "http".to_owned(),
                app_protocol: None,
            }],
            ..ServiceImport::default()
        }),
    ));
    // The derived service that the address was allocated for is older, and has no pods.
    let derived = Service {
        cluster_ips: ips.clone(),
        ports: vec![port("http", 80)],
        ..Service::default()
    };
    let mut derived = object("east", "shop", "derived-x", Spec::Service(derived));
    derived.created = Some(at(0));
    objects.push(derived);
    let key = "vip:east-net/10.96.0.77";
    let proxy = seen(&objects, "east/shop/web-1", "web", &[key]);
    let name = "shop/cart.shop.svc.clusterset.local";
    assert_eq!(proxy.names(T::Service), [name]);
    let service: resource::Service = proxy.get(T::Service, name);
    assert_eq!(service.addresses[0].address.as_ref(), [10, 96, 0, 77]);
    // Nobody exports it any more: it is known to be empty, and its address to be of the mesh.
    let mut orphaned = objects.clone();
    orphaned.retain(|object| !matches!(object.spec, Spec::ServiceExport(_)));
    let proxy = seen(&orphaned, "east/shop/web-1", "web", &[key]);
    let service: resource::Service = proxy.get(T::Service, name);
    assert_eq!(service.addresses[0].address.as_ref(), [10, 96, 0, 77]);
    assert_eq!((service.ports.len(), service.ports[0].port), (1, 80));
    assert!(proxy.names(T::Endpoint).is_empty());
    assert!(proxy.is_absent(T::Endpoint, key) || proxy.is_absent(T::Endpoint, name));
    // Nobody takes an address from a service of another namespace, or from one with pods.
    let thief = ServiceImport {
        ips: vec!["10.96.0.5".parse().unwrap()],
        ..ServiceImport::default()
    };
    objects.push(object(
        "east",
        "bank",
        "cart",
        Spec::ServiceImport(thief.clone()),
    ));
    objects.push(object("east", "shop", "thief", Spec::ServiceImport(thief)));
    let proxy = seen(
        &objects,
        "east/shop/web-1",
        "web",
        &["vip:east-net/10.96.0.5"],
    );
    assert_eq!(proxy.names(T::Service), [LOCAL]);
    // An address of another network is not the client's.
    let proxy = seen(
        &objects,
        "east/shop/web-1",
        "web",
        &["vip:west-net/10.96.0.5"],
    );
    assert!(proxy.is_absent(T::Service, "vip:west-net/10.96.0.5"));
}

#[test]
fn gateways_are_heard_from_the_system_namespace_only() {
    let mut objects = shop();
    let mut foreign = gateway("east", 66);
    foreign.namespace = Some("shop".parse().unwrap());
    objects.push(foreign);
    let proxy = seen(&objects, "east/shop/web-1", "web", &[]);
    assert_eq!(proxy.names(T::Gateway), ["east/isthmus-system/ew"]);
    let gateway: resource::Gateway = proxy.get(T::Gateway, "east/isthmus-system/ew");
    let address = &gateway.addresses[0];
    assert_eq!(address.port, 15_443);
    assert!(
        matches!(&address.kind, Some(gateway_address::Kind::Ip(ip)) if ip.as_ref() == [192, 0, 2, 1])
    );
    assert!(
        build(&objects)
            .conditions()
            .iter()
            .any(|c| c.reason == "NotPermitted")
    );
}

#[test]
fn trust_is_told_apart_for_each_domain_and_only_once_it_is_known() {
    let mut world = build(&shop());
    let client = client(&world, "east/shop/web-1", "web", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &[]);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    assert!(!proxy.is_absent(T::TrustBundle, "*"));
    for cluster in ["east", "west"] {
        let bundle = resource::TrustBundle {
            trust_domain: format!("{cluster}.mesh.internal"),
            roots: vec![cluster.as_bytes().to_vec().into()],
            sequence: 1,
            cluster: cluster.into(),
            origin: None,
            retiring: Vec::new(),
        };
        session.dirty(&world.set_trust_bundle(bundle).unwrap());
    }
    proxy.settle(&mut session, &world);
    assert_eq!(
        proxy.names(T::TrustBundle),
        ["east.mesh.internal", "west.mesh.internal"]
    );
    session.dirty(&world.remove_trust_bundle(&"west.mesh.internal".parse().unwrap()));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle), ["east.mesh.internal"]);
}

#[test]
fn endpoints_are_charged_for_the_priority_and_the_price_of_their_cluster() {
    let charge = |priority: u32, price: u32| {
        let mut objects = shop();
        for object in &mut objects {
            if let Spec::MeshCluster(mesh) = &mut object.spec
                && object.name == "west"
            {
                (mesh.priority, mesh.price) = (priority, price);
            }
        }
        let name = "shop/cart.shop.svc.clusterset.local";
        let proxy = seen(&objects, "east/shop/web-1", "web", &[name]);
        let names = proxy.names(T::Endpoint);
        let west = names.iter().find(|name| name.contains("#west/")).unwrap();
        let endpoint: resource::Endpoint = proxy.get(T::Endpoint, west);
        endpoint.charge_ms
    };
    assert_eq!(charge(0, 0), 0);
    assert_eq!(charge(0, 20), 10, "0.02 for a GiB");
    assert_eq!(charge(2, 0), 200);
    assert_eq!(charge(1, 90), 145);
}

#[test]
fn a_service_that_prefers_the_zone_is_charged_for_leaving_it_unless_a_policy_says_more() {
    let penalty = |distribution: Option<&str>, policy: Option<u32>| {
        let mut objects = shop();
        for object in &mut objects {
            if let Spec::Service(service) = &mut object.spec {
                service.spread.distribution = distribution.map(str::to_owned);
            }
        }
        if policy.is_some() {
            let body = resource::TrafficPolicy {
                balancing: Some(resource::Balancing {
                    zone_penalty_ms: policy,
                    ..Default::default()
                }),
                ..Default::default()
            };
            let policy = TrafficPolicy {
                service: "cart".into(),
                reach: Reach::Cluster,
                body,
                cover_imported: false,
                invalid: None,
                observed: Observed::default(),
            };
            objects.push(object("east", "shop", "cart", Spec::TrafficPolicy(policy)));
        }
        let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
        let service: resource::Service = proxy.get(T::Service, LOCAL);
        let balancing = service.traffic.and_then(|traffic| traffic.balancing);
        balancing.and_then(|balancing| balancing.zone_penalty_ms)
    };
    assert_eq!(penalty(None, None), None);
    for word in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        assert_eq!(penalty(Some(word), None), Some(20));
    }
    assert_eq!(penalty(Some("Elsewhere"), None), None);
    assert_eq!(penalty(Some("PreferClose"), Some(3)), Some(3));
}

#[test]
fn a_service_that_asks_for_affinity_has_it_here_and_everywhere() {
    const EVERYWHERE: &str = "shop/cart.shop.svc.clusterset.local";
    let names = [LOCAL, EVERYWHERE];
    let seconds = |objects: &[Object]| {
        let proxy = seen(objects, "east/shop/web-1", "web", &names);
        names.map(|name| {
            let service: resource::Service = proxy.get(T::Service, name);
            let balancing = service.traffic.and_then(|traffic| traffic.balancing);
            balancing.and_then(|balancing| balancing.client_affinity_seconds)
        })
    };
    let with = |change: &dyn Fn(&mut Service)| {
        let mut objects = shop();
        for object in &mut objects {
            if let Spec::Service(service) = &mut object.spec {
                change(service);
            }
        }
        objects
    };
    assert_eq!(seconds(&shop()), [None, None]);
    let sticky = with(&|service| service.client_ip_affinity = true);
    assert_eq!(seconds(&sticky), [Some(AFFINITY_SECONDS); 2]);
    let short = with(&|service| {
        service.client_ip_affinity = true;
        service.affinity_seconds = Some(60);
    });
    assert_eq!(seconds(&short), [Some(60); 2]);
    let headless = with(&|service| {
        service.client_ip_affinity = true;
        service.kind = ServiceType::Headless;
    });
    assert_eq!(seconds(&headless), [None, None]);
}

#[test]
fn who_writes_for_nobody_is_told() {
    let traffic = |name: &str, reach, service: &str| {
        let policy = TrafficPolicy {
            reach,
            service: service.into(),
            body: resource::TrafficPolicy::default(),
            cover_imported: false,
            invalid: None,
            observed: Observed::default(),
        };
        object("east", "shop", name, Spec::TrafficPolicy(policy))
    };
    let access = |name: &str, service: &str| {
        let policy = allow(services(&[service]));
        object("east", "shop", name, Spec::AccessPolicy(policy))
    };
    let mut astray = route("shop", "astray", LOCAL, &[None]);
    if let Spec::Route(route) = &mut astray.spec {
        route.parents[0].service.name = "carts".into();
    }
    let mut objects = shop();
    objects.extend([
        traffic("a", Reach::Cluster, "cart"),
        traffic("b", Reach::Cluster, "cart"),
        traffic("c", Reach::Clusterset, "cart"),
        traffic("d", Reach::Clusterset, "carts"),
        access("good", "cart"),
        access("typo", "carts"),
        astray,
        route(
            "shop",
            "nowhere",
            "shop/carts.shop.svc.cluster.local",
            &[None],
        ),
        route("shop", "right", LOCAL, &[None]),
    ]);
    let told: Vec<_> = build(&objects)
        .conditions()
        .into_iter()
        .filter(|c| !c.holds && c.kind != "Conflict")
        .map(|c| (c.object.name, c.kind, c.reason))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(name, kind, reason)| (name.as_str(), kind.as_str(), reason.as_str()))
        .collect();
    let expected = [
        ("typo", "ResolvedRefs", "TargetNotFound"),
        ("b", "Accepted", "Conflicted"),
        ("d", "Accepted", "TargetNotFound"),
        ("astray", "Accepted", "NoMatchingParent"),
        ("nowhere", "ResolvedRefs", "BackendNotFound"),
    ];
    assert_eq!(told, expected);
}
