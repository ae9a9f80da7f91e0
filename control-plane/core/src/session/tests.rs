//! Is a client told what it asked for, once, and nothing else?

use isthmus_proto::discovery::DeltaDiscoveryRequest;
use isthmus_proto::resource;

use super::*;
use crate::model::{Change, Object, PolicyTarget, Reach, Spec, TrafficPolicy};
use crate::sample::*;
use crate::world::Dirty;
use ResourceType as T;

mod epoch;
mod gathering;
mod hijack;
mod interest;
mod random;
mod unknown;

const LOCAL: &str = "shop/cart.shop.svc.cluster.local";
const EVERYWHERE: &str = "shop/cart.shop.svc.clusterset.local";

fn listed(objects: &[Object]) -> World {
    let mut world = world(&["east", "west"]);
    list(&mut world, "east", objects);
    list(&mut world, "west", objects);
    world
}

fn web(world: &World) -> Client {
    client(world, "east/shop/web-1", "web", "sidecar")
}

/// Applies a change and lets the session know.
fn tell(world: &mut World, session: &mut Session, change: Change) {
    let dirty = world.apply(change, at(5));
    session.dirty(&dirty);
}

#[test]
fn a_sidecar_is_told_what_it_calls_and_nothing_else() {
    let mut objects = shop();
    objects.push(service("east", "pay", 6));
    objects.push(pod("east", "pay", 13));
    let world = listed(&objects);
    let client = web(&world);
    let keys = [
        "vip:east-net/10.96.0.5",
        "host:cart.shop.svc.clusterset.local",
    ];
    let mut proxy = Proxy::sidecar(&client, &keys);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);

    assert_eq!(proxy.names(T::Service), [LOCAL, EVERYWHERE]);
    let service: resource::Service = proxy.get(T::Service, LOCAL);
    assert_eq!(
        service.hostnames,
        ["cart.shop.svc.cluster.local", "cart.shop.svc", "cart.shop"]
    );
    assert_eq!(service.scope(), resource::ServiceScope::Cluster);
    assert_eq!(service.addresses[0].network, "east-net");
    assert_eq!(
        proxy.names(T::Endpoint),
        [
            "shop/cart.shop.svc.cluster.local#east/shop/cart-11",
            "shop/cart.shop.svc.clusterset.local#east/shop/cart-11",
            "shop/cart.shop.svc.clusterset.local#west/shop/cart-12",
        ]
    );
    let remote: resource::Endpoint = proxy.get(
        T::Endpoint,
        "shop/cart.shop.svc.clusterset.local#west/shop/cart-12",
    );
    assert_eq!(
        remote.identity,
        "spiffe://west.mesh.internal/ns/shop/sa/cart"
    );
    assert_eq!(
        (remote.network.as_str(), remote.tunnel_port),
        ("west-net", 15_008)
    );
    assert_eq!(
        remote.ports,
        [resource::PortMapping {
            service_port: 80,
            target_port: 8080
        }]
    );
    assert_eq!(remote.handle.len(), 40);
    assert_eq!(
        proxy.names(T::Gateway),
        ["east/isthmus-system/ew", "west/isthmus-system/ew"]
    );
    assert_eq!(proxy.names(T::ClusterFreshness), ["east", "west"]);
    assert_eq!(proxy.names(T::Workload), ["east/shop/web-1"]);
    // No policy selects it: known, not unknown.
    assert!(proxy.is_absent(T::AccessPolicy, "*"));
    assert!(keys.iter().all(|key| proxy.is_absent(T::Route, key)));
    assert!(
        keys.iter()
            .all(|key| proxy.known.contains(&(T::Service, (*key).to_owned())))
    );
}

#[test]
fn a_change_sends_what_it_changed_and_only_to_those_who_asked() {
    let mut world = listed(&shop());
    let client = web(&world);
    let mut proxy = Proxy::sidecar(&client, &["host:cart.shop.svc.clusterset.local"]);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    assert_eq!(session.poll(&world), None);

    for unasked in [
        service("east", "pay", 6),
        pod("west", "pay", 9),
        pod("east", "pay", 8),
    ] {
        tell(&mut world, &mut session, Change::Apply(unasked));
        assert_eq!(session.poll(&world), None);
    }
    tell(
        &mut world,
        &mut session,
        Change::Apply(pod("west", "cart", 14)),
    );
    let responses = proxy.settle(&mut session, &world);
    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0].resources.len(), 1);
    assert_eq!(
        responses[0].resources[0].name,
        format!("{EVERYWHERE}#west/shop/cart-14")
    );

    tell(
        &mut world,
        &mut session,
        Change::Delete(pod("west", "cart", 12).reference()),
    );
    let responses = proxy.settle(&mut session, &world);
    assert_eq!(responses.len(), 1);
    assert_eq!(
        responses[0].removed_resources,
        [format!("{EVERYWHERE}#west/shop/cart-12")]
    );
}

#[test]
fn unknown_is_silence_and_empty_is_said() {
    let objects = shop();
    let mut world = world(&["east", "west", "north"]);
    list(&mut world, "east", &objects);
    let client = web(&world);
    let keys = [
        "host:nowhere.shop",
        "host:other.shop.svc.clusterset.local",
        EVERYWHERE,
        LOCAL,
    ];
    let mut proxy = Proxy::wanting(&keys);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    // The own cluster is listed: its names are known to be absent. The mesh is not.
    assert!(proxy.is_absent(T::Service, "host:nowhere.shop"));
    assert!(!proxy.is_absent(T::Service, "host:other.shop.svc.clusterset.local"));
    assert_eq!(proxy.names(T::Endpoint).len(), 2);

    // East withdraws; the others may still have some.
    tell(
        &mut world,
        &mut session,
        Change::Delete(export("east", "cart").reference()),
    );
    proxy.settle(&mut session, &world);
    assert!(!proxy.is_absent(T::Endpoint, EVERYWHERE));
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{LOCAL}#east/shop/cart-11")]
    );

    session.dirty(&list(&mut world, "west", &objects));
    session.dirty(&list(&mut world, "north", &[]));
    proxy.settle(&mut session, &world);
    assert!(proxy.is_absent(T::Service, "host:other.shop.svc.clusterset.local"));
    assert_eq!(proxy.names(T::Endpoint).len(), 2);
    tell(
        &mut world,
        &mut session,
        Change::Delete(pod("west", "cart", 12).reference()),
    );
    proxy.settle(&mut session, &world);
    assert!(proxy.is_absent(T::Endpoint, EVERYWHERE));
}

#[test]
fn a_restarted_control_plane_takes_nothing_away_that_it_does_not_know() {
    let objects = shop();
    let old = listed(&objects);
    let mut proxy = Proxy::sidecar(&web(&old), &[EVERYWHERE]);
    let mut session = proxy.connect(web(&old));
    proxy.settle(&mut session, &old);
    let before = proxy.state();

    let mut new = world(&["east", "west"]);
    let mut session = proxy.connect(web(&new));
    assert_eq!(
        proxy
            .settle(&mut session, &new)
            .iter()
            .map(|r| r.removed_resources.len())
            .sum::<usize>(),
        0
    );
    session.dirty(&list(&mut new, "east", &objects));
    proxy.settle(&mut session, &new);
    let kept: Vec<_> = proxy.names(T::Endpoint);
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(proxy.names(T::Gateway).len(), 2);
    proxy.received.clear();
    session.dirty(&list(&mut new, "west", &objects));
    proxy.settle(&mut session, &new);
    assert_eq!(proxy.state(), before);
    // Only how fresh it is has changed.
    assert!(
        proxy
            .received
            .iter()
            .all(|(kind, _, _)| *kind == T::ClusterFreshness)
    );
}

#[test]
fn a_client_that_comes_back_keeps_its_gateways_until_it_said_what_it_calls() {
    let world = listed(&shop());
    let mut proxy = Proxy::sidecar(&web(&world), &[EVERYWHERE]);
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    let gateways = proxy.names(T::Gateway);
    assert_eq!(gateways.len(), 2);

    // It asks for gateways first, and for endpoints a moment later.
    let mut session = Session::new(web(&world));
    let request = DeltaDiscoveryRequest {
        type_url: T::Gateway.type_url().to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        initial_resource_versions: gateways
            .iter()
            .map(|name| ((*name).to_owned(), "held".to_owned()))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    };
    session.handle(&request).unwrap();
    let response = session.poll(&world);
    let removed = response.map(|r| r.removed_resources).unwrap_or_default();
    assert!(removed.is_empty(), "{removed:?}");
}

#[test]
fn removed_endpoints_go_ahead_of_everything() {
    let mut world = listed(&shop());
    let client = web(&world);
    let mut proxy = Proxy::sidecar(&client, &[EVERYWHERE]);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);

    let policy = object(
        "east",
        "shop",
        "p",
        Spec::AccessPolicy(allow(PolicyTarget::Namespace)),
    );
    tell(&mut world, &mut session, Change::Apply(policy));
    tell(
        &mut world,
        &mut session,
        Change::Apply(pod("west", "cart", 20)),
    );
    tell(
        &mut world,
        &mut session,
        Change::Delete(pod("west", "cart", 12).reference()),
    );
    let first = session.poll(&world).unwrap();
    assert_eq!(
        first.removed_resources,
        [format!("{EVERYWHERE}#west/shop/cart-12")]
    );
    assert!(first.resources.is_empty());
    // While the client has not acknowledged, the next removal waits, and everything else with it.
    tell(
        &mut world,
        &mut session,
        Change::Delete(pod("east", "cart", 11).reference()),
    );
    assert_eq!(session.poll(&world), None);
    session.handle(&proxy.take(&first)).unwrap();
    let second = session.poll(&world).unwrap();
    assert_eq!(
        second.removed_resources,
        [format!("{EVERYWHERE}#east/shop/cart-11")]
    );
    session.handle(&proxy.take(&second)).unwrap();
    let third = session.poll(&world).unwrap();
    assert_eq!(third.type_url, T::AccessPolicy.type_url());
}

/// A proxy that takes all but one endpoint, whose name is told.
fn refusing(world: &World) -> (Proxy, Session, String) {
    let client = web(world);
    let bad = format!("{EVERYWHERE}#west/shop/cart-12");
    let mut proxy = Proxy::wanting(&[EVERYWHERE]);
    proxy.refuses.insert(bad.clone());
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, world);
    (proxy, session, bad)
}

#[test]
fn what_was_refused_waits_until_it_changes() {
    let mut world = listed(&shop());
    let (mut proxy, mut session, bad) = refusing(&world);
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{EVERYWHERE}#east/shop/cart-11")]
    );
    let nacked = session
        .status()
        .find(|status| status.kind == T::Endpoint)
        .unwrap();
    assert_eq!((nacked.nacked, nacked.held), (1, 1));
    assert!(nacked.refused[bad.as_str()].contains("not liked"));

    proxy.received.clear();
    session.dirty(&Dirty::everything());
    tell(
        &mut world,
        &mut session,
        Change::Apply(pod("east", "cart", 15)),
    );
    proxy.settle(&mut session, &world);
    let names: Vec<_> = proxy
        .received
        .iter()
        .map(|(_, name, _)| name.as_str())
        .collect();
    assert_eq!(names, [format!("{EVERYWHERE}#east/shop/cart-15")]);

    proxy.refuses.clear();
    let mut changed = pod("west", "cart", 12);
    if let Spec::Pod(pod) = &mut changed.spec {
        pod.ready = false;
    }
    tell(&mut world, &mut session, Change::Apply(changed));
    proxy.settle(&mut session, &world);
    assert!(proxy.names(T::Endpoint).contains(&bad.as_str()));
    assert!(session.status().all(|status| status.refused.is_empty()));
}

#[test]
fn a_refusal_of_what_is_no_more_is_over() {
    let mut world = listed(&shop());
    let (mut proxy, mut session, bad) = refusing(&world);
    let refused = |session: &Session| -> Vec<String> {
        let all = session.status().flat_map(|status| status.refused);
        all.map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(refused(&session), [bad]);
    let gone = pod("west", "cart", 12).reference();
    tell(&mut world, &mut session, Change::Delete(gone));
    proxy.settle(&mut session, &world);
    assert_eq!(refused(&session), [""; 0]);
}

#[test]
fn a_second_name_for_the_same_service_is_answered_with_all_of_it() {
    let world = listed(&shop());
    let mut proxy = Proxy::wanting(&[LOCAL]);
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    for kind in [T::Service, T::Endpoint, T::Route] {
        proxy
            .wants
            .entry(kind)
            .or_default()
            .insert("host:cart".into());
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url(),
            resource_names_subscribe: vec!["host:cart".into()],
            ..Default::default()
        };
        session.handle(&request).unwrap();
    }
    proxy.settle(&mut session, &world);
    assert!(proxy.known.contains(&(T::Service, "host:cart".into())));
    assert!(proxy.known.contains(&(T::Endpoint, "host:cart".into())));
    assert!(proxy.is_absent(T::Route, "host:cart"));
}

#[test]
fn a_local_name_covers_imports_only_where_a_policy_of_that_cluster_says_so() {
    let mut world = listed(&shop());
    let mut proxy = Proxy::wanting(&[LOCAL]);
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::Endpoint).len(), 1);
    let traffic = |cluster| {
        let policy = TrafficPolicy {
            reach: Reach::Cluster,
            service: "cart".into(),
            body: resource::TrafficPolicy::default(),
            cover_imported: true,
            invalid: None,
            observed: crate::model::Observed::default(),
        };
        object(cluster, "shop", "cart", Spec::TrafficPolicy(policy))
    };
    tell(&mut world, &mut session, Change::Apply(traffic("west")));
    assert_eq!(session.poll(&world), None);
    tell(&mut world, &mut session, Change::Apply(traffic("east")));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::Endpoint).len(), 2);
    let service: resource::Service = proxy.get(T::Service, LOCAL);
    assert_eq!(service.scope(), resource::ServiceScope::Clusterset);
    // Also where there is no service of that name in the cluster itself.
    tell(&mut world, &mut session, Change::Delete(service_ref()));
    proxy.settle(&mut session, &world);
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{LOCAL}#west/shop/cart-12")]
    );
}

fn service_ref() -> crate::model::ObjectRef {
    service("east", "cart", 5).reference()
}

#[test]
fn a_moved_virtual_address_leads_to_the_other_service() {
    let mut world = listed(&shop());
    let key = "vip:east-net/10.96.0.5";
    let mut proxy = Proxy::wanting(&[key]);
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::Service), [LOCAL]);
    tell(&mut world, &mut session, Change::Delete(service_ref()));
    proxy.settle(&mut session, &world);
    assert!(proxy.names(T::Service).is_empty() && proxy.is_absent(T::Service, key));
    assert!(proxy.names(T::Endpoint).is_empty() && proxy.is_absent(T::Endpoint, key));
    tell(
        &mut world,
        &mut session,
        Change::Apply(service("east", "pay", 5)),
    );
    tell(
        &mut world,
        &mut session,
        Change::Apply(pod("east", "pay", 30)),
    );
    proxy.settle(&mut session, &world);
    let pay = "shop/pay.shop.svc.cluster.local";
    assert_eq!(proxy.names(T::Service), [pay]);
    assert_eq!(
        proxy.names(T::Endpoint),
        [format!("{pay}#east/shop/pay-30")]
    );
}

/// The client holds the service that the address moves to. It is sent all the same, with the key: its
/// addresses are part of it, so it has another version.
#[test]
fn a_virtual_address_that_moves_while_the_stream_is_down_is_told() {
    let pay = "shop/pay.shop.svc.cluster.local";
    let key = "vip:east-net/10.96.0.5";
    let mut objects = shop();
    objects.push(service("east", "pay", 6));
    let before = listed(&objects);
    let mut proxy = Proxy::wanting(&[key, pay]);
    let mut session = proxy.connect(web(&before));
    proxy.settle(&mut session, &before);
    assert_eq!(proxy.names(T::Service), [LOCAL, pay]);

    objects.retain(|object| object.reference() != service_ref());
    objects.pop();
    objects.push(service("east", "pay", 5));
    let after = listed(&objects);
    let mut session = proxy.connect(web(&after));
    proxy.known.clear();
    proxy.settle(&mut session, &after);
    assert_eq!(proxy.names(T::Service), [pay]);
    assert!(proxy.known.contains(&(T::Service, key.to_owned())));
}

#[test]
fn a_gateway_is_told_what_is_exported_now_and_nobody_else_is() {
    let mut world = listed(&shop());
    let gateway = client(&world, "west/isthmus-system/ew-1", "gateway", "gateway");
    let mut proxy = Proxy::default()
        .with(T::ExportedEndpoint, "*")
        .with(T::HandleKeys, "*");
    let mut session = proxy.connect(gateway);
    proxy.settle(&mut session, &world);
    let name = proxy.names(T::ExportedEndpoint)[0].to_owned();
    let exported: resource::ExportedEndpoint = proxy.get(T::ExportedEndpoint, &name);
    assert_eq!(
        (exported.workload.as_str(), exported.port),
        ("west/shop/cart-12", 15_008)
    );
    let keys: resource::HandleKeys = proxy.get(T::HandleKeys, "west");
    assert_eq!(keys.keys.len(), 1);
    // The handle that clients are given leads there.
    let mut caller = Proxy::wanting(&[EVERYWHERE]);
    let mut session_of_caller = caller.connect(web(&world));
    caller.settle(&mut session_of_caller, &world);
    let remote: resource::Endpoint =
        caller.get(T::Endpoint, &format!("{EVERYWHERE}#west/shop/cart-12"));
    let key = isthmus_proto::handle::HandleKey::new(2, [2; 32]);
    let id = isthmus_proto::handle::verify(remote.handle.as_bytes(), &[key]).unwrap();
    assert_eq!(id, exported.id);

    tell(
        &mut world,
        &mut session,
        Change::Delete(export("west", "cart").reference()),
    );
    proxy.settle(&mut session, &world);
    assert!(proxy.names(T::ExportedEndpoint).is_empty());
    assert!(proxy.is_absent(T::ExportedEndpoint, "*"));
}

#[test]
fn nobody_is_told_what_is_not_theirs() {
    let world = listed(&shop());
    let ask = |kind: T, name: &str| {
        let mut session = Session::new(web(&world));
        session.handle(&DeltaDiscoveryRequest {
            type_url: kind.type_url(),
            resource_names_subscribe: vec![name.to_owned()],
            ..Default::default()
        })
    };
    assert!(matches!(
        ask(T::HandleKeys, "*"),
        Err(ProtocolError::Denied(_))
    ));
    assert!(matches!(
        ask(T::ExportedEndpoint, "*"),
        Err(ProtocolError::Denied(_))
    ));
    assert!(matches!(
        ask(T::Workload, "east/shop/cart-11"),
        Err(ProtocolError::Denied(_))
    ));
    assert!(matches!(
        ask(T::Service, "*"),
        Err(ProtocolError::Invalid(_))
    ));
    assert!(matches!(
        ask(T::Gateway, "east"),
        Err(ProtocolError::Invalid(_))
    ));
    assert!(matches!(
        ask(T::Service, &"a".repeat(601)),
        Err(ProtocolError::TooMuch(_))
    ));

    let claim = |id: &str, account: &str, role: &str| {
        let identity = format!("spiffe://east.mesh.internal/ns/shop/sa/{account}")
            .parse()
            .unwrap();
        Client::of_node(&world, identity, &node(id, role))
    };
    assert!(claim("east/shop/web-1", "web", "sidecar").is_ok());
    for (id, account, role) in [
        ("west/shop/cart-12", "cart", "sidecar"),
        ("east/bank/web-1", "web", "sidecar"),
        ("east/shop/cart-11", "web", "sidecar"),
        ("east/shop/web-1", "web", "gateway"),
        ("south/shop/web-1", "web", "sidecar"),
    ] {
        let refused = claim(id, account, role);
        assert!(
            matches!(refused, Err(ProtocolError::Denied(_))),
            "{id} {role}: {refused:?}"
        );
    }
}

#[test]
fn too_many_names_end_the_stream() {
    let world = listed(&shop());
    let mut session = Session::new(web(&world));
    let mut more = |from: usize| {
        let names = (from..from + 6_000)
            .map(|number| format!("host:s{number}.shop"))
            .collect();
        session.handle(&DeltaDiscoveryRequest {
            type_url: T::Service.type_url(),
            resource_names_subscribe: names,
            ..Default::default()
        })
    };
    assert_eq!(more(0), Ok(()));
    assert!(matches!(more(6_000), Err(ProtocolError::TooMuch(_))));
}

#[test]
fn a_response_is_bounded_and_the_rest_follows() {
    let mut objects = shop();
    objects.retain(|object| object.cluster == id("east"));
    for number in 0..4_000_u32 {
        let mut more = pod("east", "cart", 100);
        more.name = format!("cart-{number}-{}", "x".repeat(40));
        objects.push(more);
    }
    let world = listed(&objects);
    let mut proxy = Proxy::wanting(&[LOCAL]);
    let mut session = proxy.connect(web(&world));
    let responses = proxy.settle(&mut session, &world);
    let largest = responses
        .iter()
        .map(prost::Message::encoded_len)
        .max()
        .unwrap();
    assert!(largest < 2 * RESPONSE_BYTES_MAX, "{largest}");
    assert!(responses.len() > 2);
    assert_eq!(proxy.names(T::Endpoint).len(), 4_001);
    assert_eq!(proxy.received.len(), 4_001 + 1);
}
