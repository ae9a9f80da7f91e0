//! Does the explanation tell the same verdict as the decision?

mod properties;

use super::*;
use crate::authorize::{ConnFacts, authorize};
use crate::balance::{Call, Distance, Rng, Ticks, pick};
use crate::failure::Failure;
use crate::hop::reachable;
use crate::snapshot::tests::{
    CART, HOST, built, endpoint_of, me, policy, route_of, service_of, upsert,
};
use crate::snapshot::{Kind, Snapshot, SnapshotBuilder, Update};
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;
use std::sync::Arc;

fn question(host: &str) -> Question {
    Question {
        host: host.to_owned(),
        port: 80,
        said: Said::Request(RequestQuestion::default()),
        mesh_domain: "mesh.internal".to_owned(),
        random: 0,
        now: Ticks(1),
    }
}

fn cart() -> Update {
    upsert(Kind::Service, CART, &[], &service_of(CART))
}

fn none(kind: Kind) -> Update {
    Update::Remove {
        kind,
        name: CART.to_owned(),
    }
}

fn pod(name: &str, change: fn(&mut resource::Endpoint)) -> Update {
    let (full, mut endpoint) = endpoint_of(CART, name);
    change(&mut endpoint);
    upsert(Kind::Endpoint, &full, &[], &endpoint)
}

fn some_of_each() -> Arc<Snapshot> {
    let keep = |_: &mut resource::Endpoint| {};
    built([
        cart(),
        none(Kind::Route),
        pod("east/shop/good", keep),
        pod("east/shop/unready", |e| {
            e.health = resource::Health::Unhealthy.into()
        }),
        pod("east/shop/idle", |e| e.weight = Some(0)),
        pod("east/shop/other-port", |e| e.ports[0].service_port = 81),
        pod("west/shop/far", keep),
    ])
    .1
}

#[test]
fn each_endpoint_says_why_it_can_or_cannot() {
    let snapshot = some_of_each();
    let told = explain_outbound(&snapshot, &question(HOST));
    assert_eq!(told.found, Found::Service(CART.to_owned()));
    assert_eq!((told.failure, told.endpoints_total), (None, 5));
    let why = |pod: &str| {
        let step = told
            .endpoints
            .iter()
            .find(|step| step.endpoint.name.ends_with(pod))
            .unwrap();
        (step.usable, step.why.as_str())
    };
    assert_eq!(why("good"), (true, "it is healthy"));
    assert_eq!(why("unready"), (false, "it is not ready"));
    assert_eq!(why("idle"), (false, "its weight is 0"));
    assert_eq!(
        why("other-port"),
        (false, "has no port for the service's port 80")
    );
    assert_eq!(
        why("far"),
        (
            false,
            "it is on network west-net and not exported to others"
        )
    );
    let first = &told.endpoints[0];
    assert_eq!(
        (first.distance, first.target_port),
        (Distance::Cluster, Some(8080))
    );
    let hop = "tunnel to 10.1.0.1:15008, who must be spiffe://east.mesh.internal/ns/shop/sa/cart";
    assert_eq!(first.next_hop.as_deref(), Some(hop));
    let verdict = "1 of 5 endpoints of shop/cart.shop.svc.cluster.local can take it; \
                   the nearest are at distance cluster";
    assert_eq!(told.verdict, verdict);
}

#[test]
fn what_excludes_each_endpoint_is_written_down_within_a_bound() {
    let snapshot = some_of_each();
    let found = |snapshot: &Snapshot| {
        let service = snapshot.services.lookup_host(HOST).found().unwrap();
        exclusions(snapshot, service, 80, "mesh.internal", Ticks(1))
    };
    let few = found(&snapshot);
    assert_eq!((few.total, few.examined, few.named.len()), (5, 5, 5));
    assert_eq!(few.generation, snapshot.generation);
    assert_eq!(few.reasons["it is not ready"], 1);
    let idle = ("east/shop/idle".to_owned(), "its weight is 0".to_owned());
    assert!(few.named.contains(&idle), "{:?}", few.named);
    let many = EXAMINED_MAX + 1;
    let unready = |n: usize| {
        pod(&format!("east/shop/cart-{n}"), |e| {
            e.health = resource::Health::Unhealthy.into();
        })
    };
    let updates = [cart(), none(Kind::Route)];
    let many_found = found(&built(updates.into_iter().chain((0..many).map(unready))).1);
    assert_eq!((many_found.total, many_found.examined), (many, many - 1));
    assert_eq!(many_found.reasons["it is not ready"], many - 1);
    let named = many_found.named.iter();
    let bytes: usize = named.map(|(name, why)| name.len() + why.len()).sum();
    assert!(
        bytes > NAMED_BYTES_MAX / 2 && bytes <= NAMED_BYTES_MAX,
        "{bytes}"
    );
}

#[test]
fn a_pick_takes_only_what_the_replay_calls_usable() {
    let snapshot = some_of_each();
    let told = explain_outbound(&snapshot, &question(HOST));
    let service = snapshot.services.lookup_host(HOST).found().unwrap();
    let set = service.endpoints.known().unwrap();
    let mut rng = Rng::new(7);
    let ways = |e: &crate::balance::Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
    let call = Call {
        port: 80,
        tried: &[],
    };
    for _ in 0..50 {
        let picked = pick(
            set,
            &service.traffic.balance,
            &ways,
            &call,
            &mut rng,
            Ticks(1),
        )
        .unwrap();
        let usable =
            |step: &EndpointStep| step.usable && step.endpoint.name == picked.name.as_str();
        assert!(told.endpoints.iter().any(usable), "{}", picked.name);
    }
}

#[test]
fn unknown_absent_empty_and_unusable_are_told_apart() {
    let told = |updates: Vec<Update>| {
        let told = explain_outbound(&built(updates).1, &question(HOST));
        (told.found, told.failure, told.verdict)
    };
    let (found, failure, _) = told(vec![]);
    assert_eq!((found, failure), (Found::Unknown, None));
    let absent = Update::Remove {
        kind: Kind::Service,
        name: format!("host:{HOST}"),
    };
    assert_eq!(told(vec![absent]).0, Found::Absent);
    let (_, failure, verdict) = told(vec![cart()]);
    assert_eq!(failure, Some(Failure::EndpointsUnknown));
    assert!(verdict.starts_with("the routes of"), "{verdict}");
    let (_, failure, verdict) = told(vec![cart(), none(Kind::Route)]);
    assert_eq!(failure, Some(Failure::EndpointsUnknown));
    assert!(verdict.starts_with("the endpoints of"), "{verdict}");
    let (_, failure, _) = told(vec![cart(), none(Kind::Route), none(Kind::Endpoint)]);
    assert_eq!(failure, Some(Failure::NoEndpoint));
    let unready = pod("east/shop/a", |e| {
        e.health = resource::Health::Unhealthy.into()
    });
    let (_, failure, verdict) = told(vec![cart(), none(Kind::Route), unready]);
    assert_eq!(failure, Some(Failure::NoHealthyEndpoint));
    assert!(verdict.starts_with("none of the 1 endpoints"), "{verdict}");
}

#[test]
fn a_rule_that_leads_to_a_port_that_is_not_there_leads_nowhere() {
    let (name, mut route) = route_of(CART, "shop/r");
    route.rules[0].backends[0].port = 9;
    let updates = vec![
        cart(),
        upsert(Kind::Route, &name, &[], &route),
        pod("east/shop/a", |e| e.ports[0].service_port = 9),
    ];
    let told = explain_outbound(&built(updates).1, &question(HOST));
    assert_eq!(told.failure, Some(Failure::InvalidBackend));
    assert!(told.verdict.ends_with("has no port 9"), "{}", told.verdict);
}

#[test]
fn the_rule_its_backends_and_its_changes_are_shown() {
    let (name, mut route) = route_of(CART, "shop/r");
    let rewrite = resource::Rewrite {
        hostname: "new.shop".to_owned(),
        path: Some(resource::PathModifier {
            kind: Some(resource::path_modifier::Kind::ReplaceFull("/v2".to_owned())),
        }),
    };
    let kind = Some(resource::route_filter::Kind::Rewrite(rewrite));
    route.rules[0].filters = vec![resource::RouteFilter { kind }];
    route.rules[0]
        .backends
        .push(resource::WeightedBackend::default());
    route.hostnames = vec![HOST.to_owned()];
    let updates = vec![
        cart(),
        upsert(Kind::Route, &name, &[], &route),
        pod("east/shop/a", |_| {}),
    ];
    let (_, snapshot) = built(updates);
    let mut ask = question(HOST);
    ask.said = Said::Request(RequestQuestion {
        path: "/v1?a=b".to_owned(),
        ..Default::default()
    });
    let step = explain_outbound(&snapshot, &ask).route.unwrap();
    assert_eq!(step.rule.as_deref(), Some("shop/r rule 0"));
    assert_eq!(step.backends.len(), 2);
    assert_eq!(
        step.backends[1],
        BackendStep {
            backend: None,
            weight: 1
        }
    );
    assert_eq!(step.path.as_deref(), Some("/v2?a=b"));
    assert_eq!(step.authority.as_deref(), Some("new.shop"));
    ask.random = u64::MAX;
    let told = explain_outbound(&snapshot, &ask);
    assert_eq!(told.failure, Some(Failure::InvalidBackend));
    ask.host = "cart.shop.svc.cluster.local.alt".to_owned();
    let told = explain_outbound(&snapshot, &ask);
    assert_eq!(told.failure, Some(Failure::NoRoute));
    assert!(told.verdict.ends_with("are: shop/r"), "{}", told.verdict);
    ask.said = Said::Request(RequestQuestion {
        path: "no slash".to_owned(),
        ..Default::default()
    });
    assert!(matches!(
        explain_outbound(&snapshot, &ask).failure,
        Some(Failure::BadRequest(_))
    ));
    ask.port = 99;
    assert_eq!(
        explain_outbound(&snapshot, &ask).failure,
        Some(Failure::NoDestination)
    );
}

fn trust() -> Update {
    let bundle = resource::TrustBundle {
        trust_domain: "west.mesh.internal".into(),
        roots: vec![bytes::Bytes::from_static(b"der")],
        sequence: 1,
        cluster: "west".into(),
        origin: None,
        retiring: Vec::new(),
    };
    upsert(Kind::TrustBundle, "west.mesh.internal", &[], &bundle)
}

#[test]
fn an_inbound_replay_agrees_with_the_decision() {
    let id: SpiffeId = "spiffe://west.mesh.internal/ns/shop/sa/web"
        .parse()
        .unwrap();
    let ask = InboundQuestion {
        identity: Some(id.clone()),
        port: 8080,
        host: "cart".to_owned(),
        said: Said::Request(RequestQuestion::default()),
    };
    let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
    let told = |builder: &mut SnapshotBuilder, ask: &InboundQuestion| {
        explain_inbound(&builder.build(), ask)
    };
    let first = told(&mut builder, &ask);
    assert_eq!(first.failure, Some(Failure::Unauthenticated));
    builder.apply(trust());
    assert_eq!(
        told(&mut builder, &ask).failure,
        Some(Failure::PolicyUnknown)
    );
    builder.apply(policy("east/p"));
    let allowed = told(&mut builder, &ask);
    assert!(
        allowed.allowed && allowed.policy.as_deref() == Some("east/p"),
        "{allowed:?}"
    );
    let deny = resource::AccessPolicy {
        name: "east/q".into(),
        action: resource::Action::Deny.into(),
        rules: vec![resource::AccessRule::default()],
        ..Default::default()
    };
    builder.apply(upsert(Kind::AccessPolicy, "east/q", &[], &deny));
    let denied = told(&mut builder, &ask);
    assert_eq!(
        (denied.failure, denied.policy.as_deref()),
        (Some(Failure::Denied), Some("east/q"))
    );
    assert_eq!(denied.steps.len(), 2);
    assert!(denied.remedy.contains("east/q"), "{}", denied.remedy);
    let snapshot = builder.build();
    let peer = crate::identify::PeerIdentity { id };
    let conn = ConnFacts {
        peer: Some(&peer),
        port: 8080,
        source: [0, 0, 0, 0].into(),
    };
    assert_eq!(
        authorize(&snapshot.policies, &conn, None)
            .unwrap_err()
            .reason,
        denied.reason
    );
    let nobody = InboundQuestion {
        identity: None,
        ..ask
    };
    assert_eq!(
        told(&mut builder, &nobody).failure,
        Some(Failure::Unauthenticated)
    );
}

#[test]
fn an_inbound_replay_judges_each_reading_of_a_path() {
    let path = resource::StringMatch {
        kind: Some(resource::string_match::Kind::Exact("/closed".into())),
    };
    let to = resource::Operation {
        paths: vec![path],
        ..Default::default()
    };
    let rule = resource::AccessRule {
        to: vec![to],
        ..Default::default()
    };
    let deny = resource::AccessPolicy {
        name: "east/q".into(),
        action: resource::Action::Deny.into(),
        rules: vec![rule],
        ..Default::default()
    };
    let updates = [trust(), upsert(Kind::AccessPolicy, "east/q", &[], &deny)];
    let (_, snapshot) = built(updates);
    for (path, allowed) in [("/open", true), ("/closed", false), ("/closed;v=1", false)] {
        let request = RequestQuestion {
            path: path.to_owned(),
            ..Default::default()
        };
        let ask = InboundQuestion {
            identity: "spiffe://west.mesh.internal/ns/shop/sa/web".parse().ok(),
            port: 8080,
            host: "cart".to_owned(),
            said: Said::Request(request),
        };
        let told = explain_inbound(&snapshot, &ask);
        assert_eq!(told.allowed, allowed, "{path}: {told:?}");
    }
}

fn declare(service: &mut resource::Service, protocol: Protocol) {
    for port in &mut service.ports {
        port.protocol = protocol.into();
    }
}

/// Two services, so that a route of layer 4 can be seen to choose.
fn of_layer_4(protocol: Protocol, kind: resource::RouteKind) -> Arc<Snapshot> {
    const CANARY: &str = "shop/canary.shop.svc.cluster.local";
    let mut cart = service_of(CART);
    declare(&mut cart, protocol);
    let (name, mut route) = route_of(CART, "shop/r");
    route.kind = kind.into();
    route.hostnames = match kind {
        resource::RouteKind::Tls => vec!["canary.shop".to_owned()],
        _ => Vec::new(),
    };
    route.rules[0].backends[0].service = CANARY.to_owned();
    let (canary, endpoint) = endpoint_of(CANARY, "east/shop/canary-1");
    built([
        upsert(Kind::Service, CART, &[], &cart),
        upsert(Kind::Service, CANARY, &[], &service_of(CANARY)),
        upsert(Kind::Route, &name, &[], &route),
        pod("east/shop/cart-1", |_| {}),
        upsert(Kind::Endpoint, &canary, &[], &endpoint),
    ])
    .1
}

#[test]
fn a_port_of_bytes_is_judged_by_the_routes_of_layer_4_whatever_is_asked() {
    let snapshot = of_layer_4(Protocol::Tcp, resource::RouteKind::Tcp);
    for said in [
        Said::Nothing,
        Said::Request(RequestQuestion::default()),
        Said::Connection { server_name: None },
    ] {
        let told = explain_outbound(
            &snapshot,
            &Question {
                said,
                ..question(HOST)
            },
        );
        assert_eq!(
            (told.protocol, told.judged_as),
            (Some("tcp"), Some("connection"))
        );
        let route = told.route.unwrap();
        assert_eq!(route.rule.as_deref(), Some("shop/r rule 0"));
        assert!(route.chosen.contains("canary"), "{}", route.chosen);
        assert_eq!(route.path, None);
    }
}

#[test]
fn a_server_name_chooses_among_the_routes_of_tls() {
    let snapshot = of_layer_4(Protocol::Tls, resource::RouteKind::Tls);
    let told = |name: Option<&str>| {
        let said = Said::Connection {
            server_name: name.map(ToOwned::to_owned),
        };
        explain_outbound(
            &snapshot,
            &Question {
                said,
                ..question(HOST)
            },
        )
    };
    let chosen = told(Some("canary.shop")).route.unwrap().chosen;
    assert!(chosen.contains("canary"), "{chosen}");
    assert_eq!(told(Some("other.shop")).failure, Some(Failure::NoRoute));
    assert_eq!(told(None).failure, Some(Failure::NoRoute));
}

#[test]
fn what_a_port_does_not_declare_is_what_is_said() {
    let cart = |protocol: Protocol| {
        let mut cart = service_of(CART);
        declare(&mut cart, protocol);
        built([upsert(Kind::Service, CART, &[], &cart), none(Kind::Route)]).1
    };
    let judged = |protocol, said| {
        let ask = Question {
            said,
            ..question(HOST)
        };
        explain_outbound(&cart(protocol), &ask).judged_as.unwrap()
    };
    let connection = || Said::Connection { server_name: None };
    let auto = Protocol::Unspecified;
    assert_eq!(judged(auto, Said::Nothing), "request");
    assert_eq!(judged(auto, connection()), "connection");
    assert_eq!(judged(Protocol::Http2, connection()), "request");
}
