//! Does every order of news lead to the same tables?

use super::describe::Content;
use super::*;
use crate::balance::Ticks;
use crate::guard::USED_GRAIN;
use bytes::Bytes;
use isthmus_proto::ids::ServiceName;
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;
use proptest::prelude::*;
use prost::Message;

pub(crate) const HOST: &str = "cart.shop.svc.cluster.local";
pub(crate) const CART: &str = "shop/cart.shop.svc.cluster.local";

pub(crate) fn me() -> Me {
    Me {
        cluster: "east".parse().unwrap(),
        network: "east-net".parse().unwrap(),
        locality: Locality::default(),
    }
}

pub(crate) fn upsert(kind: Kind, name: &str, aliases: &[&str], message: &impl Message) -> Update {
    Update::Upsert {
        kind,
        name: name.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        version: "1".to_owned(),
        body: message.encode_to_vec().into(),
    }
}

fn remove(kind: Kind, name: &str) -> Update {
    Update::Remove {
        kind,
        name: name.to_owned(),
    }
}

fn forget(kind: Kind, name: &str) -> Update {
    Update::Forget {
        kind,
        name: name.to_owned(),
    }
}

pub(crate) fn service_of(name: &str) -> resource::Service {
    let (_, host) = name.split_once('/').unwrap();
    let vip = |network: &str, last: u8| resource::VirtualAddress {
        network: network.to_owned(),
        address: Bytes::copy_from_slice(&[10, 96, 0, last]),
    };
    let port = |port| resource::ServicePort {
        port,
        name: String::new(),
        protocol: resource::Protocol::Http1.into(),
    };
    resource::Service {
        name: name.to_owned(),
        hostnames: vec![host.to_owned(), format!("{host}.alt")],
        addresses: vec![vip("east-net", 5), vip("west-net", 6)],
        ports: vec![port(81), port(80)],
        scope: resource::ServiceScope::Clusterset.into(),
        closed: false,
        ..Default::default()
    }
}

pub(crate) fn endpoint_of(service: &str, pod: &str) -> (String, resource::Endpoint) {
    let cluster = pod.split('/').next().unwrap();
    let endpoint = resource::Endpoint {
        name: pod.to_owned(),
        service: service.to_owned(),
        addresses: vec![Bytes::from_static(&[10, 1, 0, 1])],
        network: format!("{cluster}-net"),
        identity: format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/cart"),
        health: resource::Health::Healthy.into(),
        ports: vec![resource::PortMapping {
            service_port: 80,
            target_port: 8080,
        }],
        tunnel_port: 15008,
        origin: Some(resource::Origin {
            cluster: cluster.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    (format!("{service}#{pod}"), endpoint)
}

fn service() -> Update {
    upsert(Kind::Service, CART, &["host:cart"], &service_of(CART))
}

fn endpoint(pod: &str) -> Update {
    let (name, endpoint) = endpoint_of(CART, pod);
    upsert(Kind::Endpoint, &name, &["host:cart"], &endpoint)
}

pub(crate) fn route_of(service: &str, name: &str) -> (String, resource::Route) {
    let backend = resource::WeightedBackend {
        service: service.to_owned(),
        port: 80,
        ..Default::default()
    };
    let route = resource::Route {
        name: name.to_owned(),
        service: service.to_owned(),
        kind: resource::RouteKind::Http.into(),
        rules: vec![resource::RouteRule {
            backends: vec![backend],
            ..Default::default()
        }],
        ..Default::default()
    };
    (format!("{name}@{service}"), route)
}

fn route(name: &str) -> Update {
    let (name, route) = route_of(CART, name);
    upsert(Kind::Route, &name, &["host:cart"], &route)
}

pub(crate) fn policy(name: &str) -> Update {
    let policy = resource::AccessPolicy {
        name: name.to_owned(),
        action: resource::Action::Allow.into(),
        rules: vec![resource::AccessRule::default()],
        ..Default::default()
    };
    upsert(Kind::AccessPolicy, name, &[], &policy)
}

fn broken(kind: Kind, name: &str) -> Update {
    Update::Upsert {
        kind,
        name: name.to_owned(),
        aliases: Vec::new(),
        version: "2".to_owned(),
        body: Bytes::from_static(b"\xff\xff"),
    }
}

pub(crate) fn built(updates: impl IntoIterator<Item = Update>) -> (SnapshotBuilder, Arc<Snapshot>) {
    let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
    for update in updates {
        let refused = builder.apply(update);
        assert!(refused.is_empty(), "{refused:?}");
    }
    let snapshot = builder.build();
    (builder, snapshot)
}

fn cart(snapshot: &Snapshot) -> &Arc<Service> {
    let name: ServiceName = CART.parse().unwrap();
    snapshot.services.lookup_name(&name).found().unwrap()
}

fn pods(snapshot: &Snapshot) -> Option<Vec<&str>> {
    let endpoints = &cart(snapshot).endpoints;
    endpoints
        .known()
        .map(|set| set.endpoints().iter().map(|e| e.name.as_str()).collect())
}

#[test]
fn a_root_that_is_none_leaves_the_last_good_bundle() {
    let read = |root: &[u8]| match root {
        b"garbage" => Err("no certificate".to_owned()),
        _ => Ok(()),
    };
    let mut builder = SnapshotBuilder::new(me(), read);
    let bundle = |roots: &[&'static [u8]], sequence| {
        let bundle = resource::TrustBundle {
            trust_domain: "west.mesh.internal".into(),
            roots: roots.iter().map(|root| Bytes::from_static(root)).collect(),
            sequence,
            ..Default::default()
        };
        upsert(Kind::TrustBundle, "west.mesh.internal", &[], &bundle)
    };
    assert_eq!(builder.apply(bundle(&[b"good"], 1)), []);
    let refused = builder.apply(bundle(&[b"good", b"garbage"], 2));
    let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["west.mesh.internal: roots[1]: no certificate"]);
    let snapshot = builder.build();
    let held = snapshot.trust.roots(&"west.mesh.internal".parse().unwrap());
    assert_eq!(held.unwrap().sequence(), 1);
    assert_eq!(builder.apply(bundle(&[b"good", b"next"], 3)), []);
}

#[test]
fn endpoints_are_unknown_until_somebody_says_something() {
    let (mut builder, snapshot) = built([service()]);
    assert_eq!(pods(&snapshot), None);
    assert!(!cart(&snapshot).is_complete());
    builder.apply(remove(Kind::Endpoint, "host:cart"));
    builder.apply(remove(Kind::Route, "host:cart"));
    let snapshot = builder.build();
    assert_eq!(pods(&snapshot), Some(vec![]), "known to be none");
    assert!(cart(&snapshot).is_complete());
    builder.apply(endpoint("east/shop/cart-1"));
    assert_eq!(pods(&builder.build()), Some(vec!["east/shop/cart-1"]));
    builder.apply(remove(Kind::Endpoint, &format!("{CART}#east/shop/cart-1")));
    assert_eq!(
        pods(&builder.build()),
        Some(vec![]),
        "the last one went, which is no doubt"
    );
    builder.apply(forget(Kind::Endpoint, "host:cart"));
    assert_eq!(pods(&builder.build()), None);
}

#[test]
fn children_wait_for_their_parent() {
    let (mut builder, snapshot) = built([
        endpoint("east/shop/cart-1"),
        route("shop/r"),
        remove(Kind::Service, "host:x"),
    ]);
    assert!(snapshot.services.is_empty());
    builder.apply(service());
    let snapshot = builder.build();
    assert_eq!(pods(&snapshot), Some(vec!["east/shop/cart-1"]));
    assert_eq!(
        cart(&snapshot).routes.names().collect::<Vec<_>>(),
        ["shop/r"]
    );
    // And for its return.
    builder.apply(remove(Kind::Service, CART));
    assert!(builder.build().services.is_empty());
    builder.apply(service());
    assert_eq!(pods(&builder.build()), Some(vec!["east/shop/cart-1"]));
}

#[test]
fn the_last_use_of_a_service_is_told_by_every_key_and_outlives_generations() {
    let (mut builder, snapshot) = built([service()]);
    let (called, now) = (Ticks(0).after(USED_GRAIN), Ticks(0).after(USED_GRAIN * 3));
    cart(&snapshot).guard.touch(called);
    builder.apply(remove(Kind::Service, "host:other"));
    let table = builder.build().services.clone();
    let used = |key: &str| table.used(&key.parse().unwrap(), now);
    for key in ["host:cart", "vip:east-net/10.96.0.5", CART] {
        assert_eq!(used(key), Some(called), "{key}");
    }
    for key in ["host:other", "vip:east-net/10.96.0.9", "shop/none.shop"] {
        assert_eq!(used(key), None, "{key}");
    }
}

#[test]
fn a_service_is_found_by_every_name_that_means_it() {
    let (mut builder, snapshot) = built([service()]);
    let table = &snapshot.services;
    let (own, foreign) = ("10.96.0.5".parse().unwrap(), "10.96.0.6".parse().unwrap());
    assert!(table.lookup_vip(own, 80).found().is_some());
    assert!(
        matches!(table.lookup_vip(own, 82), Lookup::Absent),
        "no such port"
    );
    assert!(
        matches!(table.lookup_vip(foreign, 80), Lookup::Unknown),
        "another network's"
    );
    for host in [HOST, "cart.shop.svc.cluster.local.alt", "cart"] {
        assert!(table.lookup_host(host).found().is_some(), "{host}");
    }
    assert!(matches!(table.lookup_host("cart.shop"), Lookup::Unknown));
    builder.apply(remove(Kind::Service, "host:cart.shop"));
    builder.apply(remove(Kind::Service, "vip:east-net/10.96.0.9"));
    builder.apply(remove(Kind::Service, "vip:west-net/10.96.0.8"));
    builder.apply(remove(Kind::Service, "shop/none.shop"));
    let table = builder.build().services.clone();
    assert!(matches!(table.lookup_host("cart.shop"), Lookup::Absent));
    assert!(matches!(
        table.lookup_vip("10.96.0.9".parse().unwrap(), 1),
        Lookup::Absent
    ));
    assert!(matches!(
        table.lookup_vip("10.96.0.8".parse().unwrap(), 1),
        Lookup::Unknown
    ));
    let none = "shop/none.shop".parse().unwrap();
    assert!(matches!(table.lookup_name(&none), Lookup::Absent));
    // It turns out that there is one after all.
    let named = upsert(Kind::Service, CART, &["host:cart.shop"], &service_of(CART));
    builder.apply(named);
    assert!(
        builder
            .build()
            .services
            .lookup_host("cart.shop")
            .found()
            .is_some()
    );
    assert!(
        builder
            .build()
            .services
            .lookup_host("cart")
            .found()
            .is_some(),
        "keys add up"
    );
}

#[test]
fn a_removed_service_is_absent_and_a_forgotten_one_unknown() {
    let (mut builder, _) = built([service()]);
    builder.apply(remove(Kind::Service, CART));
    assert!(matches!(
        builder.build().services.lookup_host("cart"),
        Lookup::Absent
    ));
    builder.apply(service());
    assert!(
        builder
            .build()
            .services
            .lookup_host("cart")
            .found()
            .is_some()
    );
    builder.apply(forget(Kind::Service, CART));
    assert!(matches!(
        builder.build().services.lookup_host("cart"),
        Lookup::Unknown
    ));
    // A key that leads nowhere leads nowhere, whatever it led to before.
    builder.apply(service());
    builder.apply(remove(Kind::Service, "host:cart"));
    let snapshot = builder.build();
    assert_eq!(snapshot.services.len(), 1);
    assert!(matches!(
        snapshot.services.lookup_host("cart"),
        Lookup::Absent
    ));
}

#[test]
fn of_two_keys_one_may_go() {
    let (mut builder, _) = built([upsert(
        Kind::Service,
        CART,
        &["host:cart", "host:c"],
        &service_of(CART),
    )]);
    builder.apply(remove(Kind::Service, "host:c"));
    let snapshot = builder.build();
    assert!(snapshot.services.lookup_host("cart").found().is_some());
    assert!(matches!(snapshot.services.lookup_host("c"), Lookup::Absent));
}

#[test]
fn a_bad_resource_keeps_its_last_good_version_and_its_siblings_apply() {
    let (mut builder, before) = built([
        service(),
        endpoint("east/shop/cart-1"),
        route("shop/r"),
        policy("east/p"),
    ]);
    let pod = format!("{CART}#east/shop/cart-1");
    for (kind, name) in [
        (Kind::Service, CART),
        (Kind::Endpoint, pod.as_str()),
        (Kind::Route, &format!("shop/r@{CART}")),
        (Kind::AccessPolicy, "east/p"),
        (Kind::TrustBundle, "east.mesh.internal"),
    ] {
        let refused = builder.apply(broken(kind, name));
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].name, name);
    }
    builder.apply(endpoint("west/shop/cart-2"));
    let after = builder.build();
    assert_eq!(
        pods(&after),
        Some(vec!["east/shop/cart-1", "west/shop/cart-2"])
    );
    assert!(Arc::ptr_eq(&before.policies, &after.policies));
    assert!(Arc::ptr_eq(&before.trust, &after.trust));
    assert!(Arc::ptr_eq(&cart(&before).routes, &cart(&after).routes));
    assert!(Arc::ptr_eq(&cart(&before).traffic, &cart(&after).traffic));
}

#[test]
fn a_resource_that_lies_about_its_name_or_parent_is_refused() {
    let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
    let (_, endpoint) = endpoint_of(CART, "east/shop/cart-1");
    let (_, route) = route_of(CART, "shop/r");
    for update in [
        upsert(
            Kind::Endpoint,
            "shop/other.shop#east/shop/cart-1",
            &[],
            &endpoint,
        ),
        upsert(
            Kind::Endpoint,
            &format!("{CART}#east/shop/cart-2"),
            &[],
            &endpoint,
        ),
        upsert(Kind::Endpoint, "nothing", &[], &endpoint),
        upsert(Kind::Route, "shop/r@shop/other.shop", &[], &route),
        upsert(Kind::Service, "shop/other.shop", &[], &service_of(CART)),
    ] {
        assert_eq!(builder.apply(update.clone()).len(), 1, "{update:?}");
    }
    assert!(
        !builder.is_dirty() && builder.slots.is_empty(),
        "nothing is left behind"
    );
}

/// S20, S26: by its name, and the last good one stays. Who is on loopback himself has neighbours there.
#[test]
fn nobody_is_told_to_call_his_own_host() {
    fn news(ip: &'static [u8]) -> [Update; 3] {
        let ip = Bytes::from_static(ip);
        let (name, mut pod) = endpoint_of(CART, "west/shop/cart-1");
        pod.addresses.push(ip.clone());
        let gateway = resource::Gateway {
            name: "west/shop/gateway".into(),
            cluster: "west".into(),
            network: "west-net".into(),
            addresses: vec![resource::GatewayAddress {
                kind: Some(resource::gateway_address::Kind::Ip(ip.clone())),
                port: 15443,
            }],
            ..Default::default()
        };
        let export = resource::ExportedEndpoint {
            id: 1,
            workload: "east/shop/cart-1".into(),
            service: CART.into(),
            address: ip,
            port: 15008,
            ..Default::default()
        };
        [
            upsert(Kind::Endpoint, &name, &[], &pod),
            upsert(Kind::Gateway, "west/shop/gateway", &[], &gateway),
            upsert(Kind::ExportedEndpoint, "0000000000000001", &[], &export),
        ]
    }
    let (mut builder, good) = built(news(&[10, 2, 0, 1]));
    let wrong: [(&[u8], bool); 5] = [
        (&[127, 0, 0, 1], true),
        (&[127, 20, 0, 3], true),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], true),
        (&[169, 254, 169, 254], false),
        (&[254, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], false),
    ];
    for (ip, on_laptop) in wrong {
        for update in news(ip) {
            let refused = builder.apply(update.clone());
            assert_eq!(refused.len(), 1, "{ip:?} {update:?}");
            let why = ["loopback", "link-local"];
            assert!(
                why.iter().any(|why| refused[0].why.contains(why)),
                "{refused:?}"
            );
        }
        assert!(Arc::ptr_eq(&good, &builder.build()), "{ip:?}");
        let hosts = Hosts::beside(&["127.20.0.9".parse().unwrap()]);
        let mut laptop = SnapshotBuilder::new(me(), |_| Ok(())).among(hosts);
        for update in news(ip) {
            assert_eq!(laptop.apply(update).is_empty(), on_laptop, "{ip:?}");
        }
    }
}

#[test]
fn a_policy_that_was_never_understood_denies() {
    let (mut builder, snapshot) = built([]);
    assert!(matches!(*snapshot.policies, PolicySet::Unknown));
    builder.apply(Update::Answered {
        kind: Kind::AccessPolicy,
    });
    let policies = |builder: &mut SnapshotBuilder| builder.build().describe(None).content.policies;
    assert_eq!(policies(&mut builder), Some(vec![]));
    assert_eq!(builder.apply(broken(Kind::AccessPolicy, "east/p")).len(), 1);
    let shown = policies(&mut builder).unwrap();
    assert!(shown[0].invalid.is_some(), "{shown:?}");
    // Also after a restart, though not as if it had been accepted.
    let saved = builder.export("x", Default::default());
    assert_eq!(saved.records.iter().next().unwrap().version, "");
    let mut again = SnapshotBuilder::new(me(), |_| Ok(()));
    assert_eq!(again.import(&saved).len(), 1);
    assert_eq!(policies(&mut again), Some(shown));
    assert!(builder.apply(policy("east/p")).is_empty());
    assert_eq!(policies(&mut builder).unwrap()[0].invalid, None);
}

#[test]
fn what_did_not_change_is_shared() {
    let (mut builder, one) = built([service(), endpoint("east/shop/cart-1"), policy("east/p")]);
    assert!(
        Arc::ptr_eq(&one, &builder.build()),
        "no news, no generation"
    );
    builder.apply(endpoint("east/shop/cart-1"));
    assert!(!builder.is_dirty(), "the same again");
    let other = service_of("shop/other.shop");
    builder.apply(upsert(Kind::Service, "shop/other.shop", &[], &other));
    let two = builder.build();
    assert!(two.generation > one.generation);
    assert!(Arc::ptr_eq(cart(&one), cart(&two)));
    assert!(Arc::ptr_eq(&one.policies, &two.policies));
    builder.apply(endpoint("east/shop/cart-2"));
    let three = builder.build();
    assert!(Arc::ptr_eq(two.services.index(), three.services.index()));
    assert!(!Arc::ptr_eq(cart(&two), cart(&three)));
}

#[test]
fn measurements_outlive_generations_and_end_with_the_endpoint() {
    let (mut builder, one) = built([service(), endpoint("east/shop/cart-1")]);
    let first = |snapshot: &Snapshot| {
        cart(snapshot).endpoints.known().unwrap().endpoints()[0]
            .stats
            .clone()
    };
    let (stats, guard) = (first(&one), cart(&one).guard.clone());
    let (name, mut changed) = endpoint_of(CART, "east/shop/cart-1");
    changed.weight = Some(7);
    builder.apply(upsert(Kind::Endpoint, &name, &[], &changed));
    let mut louder = service_of(CART);
    louder.hostnames.push("more.shop".to_owned());
    builder.apply(upsert(Kind::Service, CART, &[], &louder));
    let two = builder.build();
    assert!(Arc::ptr_eq(&stats, &first(&two)) && Arc::ptr_eq(&guard, &cart(&two).guard));
    changed.addresses = vec![Bytes::from_static(&[10, 1, 0, 9])];
    builder.apply(upsert(Kind::Endpoint, &name, &[], &changed));
    assert!(
        !Arc::ptr_eq(&stats, &first(&builder.build())),
        "another pod of the same name"
    );
    let stats = first(&builder.build());
    builder.apply(remove(Kind::Endpoint, &name));
    builder.build();
    builder.apply(endpoint("east/shop/cart-1"));
    assert!(!Arc::ptr_eq(&stats, &first(&builder.build())));
}

#[test]
fn the_own_workload_says_where_the_proxy_is() {
    let workload = resource::Workload {
        name: "east/shop/cart-1".into(),
        identity: "spiffe://east.mesh.internal/ns/shop/sa/cart".into(),
        network: "east-net".into(),
        locality: Some(resource::Locality {
            region: "r".into(),
            zone: "z".into(),
        }),
        ..Default::default()
    };
    let (mut builder, one) = built([service(), endpoint("east/shop/cart-1")]);
    builder.apply(upsert(Kind::Workload, "east/shop/cart-1", &[], &workload));
    let two = builder.build();
    assert_eq!(two.me.locality.zone, "z");
    assert!(
        !Arc::ptr_eq(cart(&one), cart(&two)),
        "distances are measured anew"
    );
    builder.apply(remove(Kind::Workload, "east/shop/cart-1"));
    let three = builder.build();
    assert_eq!(
        (three.own.is_none(), three.me.locality.zone.as_str()),
        (true, "")
    );
}

fn flat_kinds() -> Vec<Update> {
    let origin = || {
        Some(resource::Origin {
            cluster: "east".into(),
            ..Default::default()
        })
    };
    let gateway = resource::Gateway {
        name: "west/istio/gw".into(),
        cluster: "west".into(),
        network: "west-net".into(),
        addresses: vec![resource::GatewayAddress {
            kind: Some(resource::gateway_address::Kind::Hostname("gw.west".into())),
            port: 15443,
        }],
        origin: origin(),
    };
    let trust = resource::TrustBundle {
        trust_domain: "west.mesh.internal".into(),
        roots: vec![Bytes::from_static(b"der")],
        sequence: 3,
        cluster: "west".into(),
        origin: origin(),
        retiring: Vec::new(),
    };
    let freshness = resource::ClusterFreshness {
        cluster: "west".into(),
        state: resource::Freshness::Stale.into(),
        confirmed_at: Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 2,
        }),
        reason: "watch lost".into(),
        kinds: vec![resource::KindFreshness {
            kind: "HTTPRoute".into(),
            state: resource::Freshness::Unknown.into(),
            confirmed_at: None,
            reason: "forbidden".into(),
        }],
    };
    let keys = resource::HandleKeys {
        cluster: "east".into(),
        keys: vec![resource::HandleKey {
            epoch: 3,
            secret: vec![7; 32].into(),
        }],
    };
    let export = resource::ExportedEndpoint {
        id: 0xabc,
        workload: "east/shop/cart-1".into(),
        address: Bytes::from_static(&[10, 1, 0, 1]),
        port: 15008,
        origin: origin(),
        service: String::new(),
    };
    vec![
        upsert(Kind::Gateway, "west/istio/gw", &[], &gateway),
        upsert(Kind::TrustBundle, "west.mesh.internal", &[], &trust),
        upsert(Kind::ClusterFreshness, "west", &[], &freshness),
        upsert(Kind::HandleKeys, "east", &[], &keys),
        upsert(Kind::ExportedEndpoint, "0000000000000abc", &[], &export),
    ]
}

fn all_kinds() -> Vec<Update> {
    let mut all = vec![
        service(),
        upsert(
            Kind::Service,
            "shop/other.shop",
            &["host:other"],
            &service_of("shop/other.shop"),
        ),
        endpoint("east/shop/cart-1"),
        endpoint("west/shop/cart-2"),
        route("shop/r"),
        route("shop/s"),
        policy("east/p"),
        policy("mesh/q"),
        remove(Kind::Service, "host:nothing"),
        remove(Kind::Endpoint, "host:other"),
        remove(Kind::Route, "shop/other.shop"),
        broken(Kind::Endpoint, &format!("{CART}#east/shop/bad")),
        broken(Kind::AccessPolicy, "east/bad"),
        Update::Answered {
            kind: Kind::Workload,
        },
    ];
    all.extend(flat_kinds());
    all
}

fn content(
    updates: impl IntoIterator<Item = Update>,
    in_between: bool,
) -> (Content, SnapshotBuilder) {
    let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
    for update in updates {
        builder.apply(update);
        if in_between {
            builder.build();
        }
    }
    (builder.build().describe(Some(Ticks(1))).content, builder)
}

#[test]
fn what_is_saved_rebuilds_the_same_tables() {
    let (before, builder) = content(all_kinds(), false);
    let keys = std::collections::BTreeSet::from(["host:cart".to_owned()]);
    let file = persist::encode(&builder.export("east/shop/cart-1", keys));
    let saved = persist::decode(&file, "east/shop/cart-1").unwrap();
    let mut again = SnapshotBuilder::new(me(), |_| Ok(()));
    let refused: Vec<_> = again.import(&saved).into_iter().map(|r| r.name).collect();
    assert_eq!(refused, ["east/bad"], "the policy that was refused before");
    let after = again.build();
    assert_eq!(after.describe(Some(Ticks(1))).content, before);
    assert!(after.generation > builder.generation());
    assert!(matches!(
        after.services.lookup_host("nothing"),
        Lookup::Absent
    ));
    assert_eq!(
        again.export("east/shop/cart-1", saved.keys.clone()).records,
        saved.records
    );
}

#[test]
fn left_overs_do_not_pile_up() {
    let (mut builder, _) = built([service(), endpoint("east/shop/cart-1"), route("shop/r")]);
    builder.apply(remove(Kind::Service, CART));
    builder.apply(remove(Kind::Endpoint, &format!("{CART}#east/shop/cart-1")));
    builder.apply(remove(Kind::Route, &format!("shop/r@{CART}")));
    builder.build();
    assert!(builder.slots.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_order_of_news_does_not_matter(
        shuffled in Just(all_kinds()).prop_shuffle(),
        in_between: bool,
    ) {
        prop_assert_eq!(content(shuffled, in_between).0, content(all_kinds(), false).0);
    }
}
