//! Does a client ask, acknowledge and come back as delta xDS says?

use super::*;
use crate::snapshot::tests::{endpoint_of, me, policy, service_of, upsert};
use crate::snapshot::{SnapshotBuilder, persist};
use isthmus_proto::discovery::Resource;
use std::collections::BTreeSet;
use std::time::Duration;

mod simulation;

const CART: &str = "shop/cart.shop";
const KEY: &str = "host:cart";

fn node() -> Node {
    Node {
        id: "east/shop/web-1".into(),
        cluster: "east".into(),
        metadata: None,
    }
}

fn subscription() -> Subscription {
    let mut subscription = Subscription::new(node(), None);
    subscription.connected();
    subscription
}

fn sent(subscription: &mut Subscription) -> Vec<DeltaDiscoveryRequest> {
    std::iter::from_fn(|| subscription.poll_transmit()).collect()
}

/// The resource of an upsert, as it travels.
pub(super) fn resource(update: Update, version: &str) -> Resource {
    let Update::Upsert {
        kind,
        name,
        aliases,
        body,
        ..
    } = update
    else {
        panic!("{update:?}")
    };
    let content = prost_types::Any {
        type_url: kind.type_url().to_owned(),
        value: body.to_vec(),
    };
    Resource {
        version: version.to_owned(),
        resource: Some(content),
        name,
        aliases,
    }
}

fn response(
    kind: Kind,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: format!("world-{nonce}"),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn take(
    subscription: &mut Subscription,
    response: DeltaDiscoveryResponse,
    refuse: &[Rejected],
) -> Vec<Update> {
    let nonce = response.nonce.clone();
    let updates = subscription.handle(response, Instant::now()).unwrap();
    subscription.acked(&nonce, refuse);
    updates
}

fn cart(version: &str) -> Resource {
    resource(
        upsert(Kind::Service, CART, &[KEY], &service_of(CART)),
        version,
    )
}

fn pod(pod: &str) -> Resource {
    let (name, endpoint) = endpoint_of(CART, pod);
    resource(upsert(Kind::Endpoint, &name, &[KEY], &endpoint), "1")
}

#[test]
fn the_first_request_of_a_stream_says_who_asks_and_each_kind_is_asked_for_once() {
    let mut subscription = subscription();
    assert!(subscription.want(Kind::AccessPolicy, "*"));
    assert!(!subscription.want(Kind::AccessPolicy, "*"), "no news");
    assert!(subscription.want_service(KEY));
    let requests = sent(&mut subscription);
    let kinds: Vec<_> = requests
        .iter()
        .map(|r| Kind::of_type_url(&r.type_url).unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            Kind::AccessPolicy,
            Kind::Service,
            Kind::Route,
            Kind::Endpoint
        ]
    );
    assert_eq!(requests[0].node, Some(node()));
    assert!(requests[1..].iter().all(|r| r.node.is_none()));
    assert_eq!(requests[3].resource_names_subscribe, [KEY]);
    assert_eq!(sent(&mut subscription), []);
    subscription.disconnected(Instant::now(), 0.5);
    assert!(subscription.want_service("host:b") && sent(&mut subscription).is_empty());
    subscription.connected();
    let requests = sent(&mut subscription);
    assert!(requests[0].node.is_some());
    assert_eq!(requests[1].resource_names_subscribe, ["host:b", KEY]);
}

#[test]
fn a_refused_version_is_named_and_not_held() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    sent(&mut subscription);
    take(
        &mut subscription,
        response(Kind::Service, "1", vec![cart("v1")], &[]),
        &[],
    );
    let why = |name: &str, why: &str| Rejected {
        name: name.to_owned(),
        why: why.to_owned(),
    };
    let refused = [why(CART, "scope is\nnot set"), why("shop/b.shop", "x")];
    take(
        &mut subscription,
        response(Kind::Service, "2", vec![cart("v2")], &[]),
        &refused,
    );
    let requests = sent(&mut subscription);
    let [ack, nack] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(
        (ack.response_nonce.as_str(), &ack.error_detail),
        ("1", &None)
    );
    assert_eq!(nack.response_nonce, "2");
    let detail = nack.error_detail.as_ref().unwrap();
    assert_eq!(
        (detail.code, detail.message.as_str()),
        (3, "shop/cart.shop: scope is not set\nshop/b.shop: x")
    );
    subscription.connected();
    let again = sent(&mut subscription);
    assert_eq!(
        again[0].initial_resource_versions,
        HashMap::from([(CART.into(), "v1".into())])
    );
    let status = subscription
        .status()
        .find(|status| status.kind == Kind::Service)
        .unwrap();
    assert_eq!(
        (status.nacks, status.acked_version.as_str(), status.held),
        (1, "world-1", 1)
    );
}

#[test]
fn a_resource_without_content_or_of_another_type_is_refused_alone() {
    let mut subscription = subscription();
    subscription.want(Kind::AccessPolicy, "*");
    sent(&mut subscription);
    let mut empty = resource(policy("east/a"), "1");
    empty.resource = None;
    let mut foreign = resource(policy("east/b"), "1");
    foreign.resource.as_mut().unwrap().type_url = Kind::Service.type_url().to_owned();
    let good = resource(policy("east/c"), "1");
    let all = vec![empty, foreign, good];
    let updates = take(
        &mut subscription,
        response(Kind::AccessPolicy, "1", all, &[]),
        &[],
    );
    assert_eq!(updates.len(), 2, "{updates:?}");
    let nack = sent(&mut subscription)
        .remove(0)
        .error_detail
        .unwrap()
        .message;
    assert!(
        nack.starts_with("east/a: has no content\neast/b: its content is of type"),
        "{nack}"
    );
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let mut subscription = Subscription::new(node(), None);
    let now = Instant::now();
    let policies = |nonce| response(Kind::AccessPolicy, nonce, vec![], &[]);
    assert_eq!(
        subscription.handle(policies("1"), now),
        Err(ProtocolError::NotConnected)
    );
    subscription.connected();
    let error = subscription.handle(policies("1"), now).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a response of type AccessPolicy came before it was asked for"
    );
    subscription.want(Kind::AccessPolicy, "*");
    assert!(
        subscription.handle(policies("1"), now).is_err(),
        "wanted, but not asked for yet"
    );
    sent(&mut subscription);
    assert_eq!(
        subscription.handle(policies(""), now),
        Err(ProtocolError::NoNonce(Kind::AccessPolicy))
    );
    take(&mut subscription, policies("1"), &[]);
    let repeated = ProtocolError::RepeatedNonce {
        kind: Kind::AccessPolicy,
        nonce: "1".into(),
    };
    assert_eq!(subscription.handle(policies("1"), now), Err(repeated));
    let mut unknown = policies("2");
    unknown.type_url = "type.googleapis.com/x".into();
    let error = subscription.handle(unknown, now).unwrap_err().to_string();
    assert_eq!(
        error,
        "a response has the unknown type \"type.googleapis.com/x\""
    );
    let twice = vec![
        resource(policy("east/a"), "1"),
        resource(policy("east/a"), "2"),
    ];
    let error = subscription
        .handle(response(Kind::AccessPolicy, "2", twice, &[]), now)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a response of type AccessPolicy names \"east/a\" twice"
    );
    subscription.handle(policies("2"), now).unwrap();
    let missing = ProtocolError::VerdictMissing(Kind::AccessPolicy);
    assert_eq!(subscription.handle(policies("3"), now), Err(missing));
}

#[test]
fn what_is_given_up_is_forgotten_and_asked_for_again_in_order() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    sent(&mut subscription);
    take(
        &mut subscription,
        response(Kind::Service, "1", vec![cart("1")], &[]),
        &[],
    );
    take(
        &mut subscription,
        response(Kind::Endpoint, "2", vec![pod("east/shop/a")], &[]),
        &[],
    );
    sent(&mut subscription);
    let forgotten = subscription.unwant_service(KEY);
    let forget = |kind, name: &str| Update::Forget {
        kind,
        name: name.to_owned(),
    };
    assert_eq!(
        forgotten,
        [
            forget(Kind::Endpoint, "shop/cart.shop#east/shop/a"),
            forget(Kind::Endpoint, KEY),
            forget(Kind::Route, KEY),
            forget(Kind::Service, CART),
            forget(Kind::Service, KEY),
        ]
    );
    subscription.want_service(KEY);
    let requests = sent(&mut subscription);
    let service: Vec<_> = requests
        .iter()
        .filter(|r| r.type_url == Kind::Service.type_url())
        .collect();
    assert_eq!(service[0].resource_names_unsubscribe, [KEY]);
    assert_eq!(service[1].resource_names_subscribe, [KEY]);
    // What is still on its way for a key that was given up is not taken.
    subscription.unwant_service(KEY);
    let updates = take(
        &mut subscription,
        response(Kind::Service, "3", vec![cart("1")], &[]),
        &[],
    );
    assert_eq!(
        updates,
        [Update::Answered {
            kind: Kind::Service
        }]
    );
}

#[test]
fn what_was_handed_out_a_moment_ago_is_forgotten_too() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    sent(&mut subscription);
    let one = response(Kind::Service, "1", vec![cart("1")], &[]);
    subscription.handle(one, Instant::now()).unwrap();
    let forgotten = subscription.unwant_service(KEY);
    assert!(forgotten.contains(&Update::Forget {
        kind: Kind::Service,
        name: CART.to_owned()
    }));
    subscription.acked("1", &[]);
    assert_eq!(
        subscription
            .status()
            .map(|status| status.held)
            .sum::<usize>(),
        0
    );
}

#[test]
fn of_two_keys_one_is_enough() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    subscription.want_service("host:c");
    sent(&mut subscription);
    take(
        &mut subscription,
        response(Kind::Service, "1", vec![cart("1")], &[]),
        &[],
    );
    let mut again = cart("1");
    again.aliases = vec!["host:c".to_owned()];
    take(
        &mut subscription,
        response(Kind::Service, "2", vec![again], &[]),
        &[],
    );
    take(
        &mut subscription,
        response(Kind::Endpoint, "3", vec![pod("east/shop/a")], &[]),
        &[],
    );
    let forgotten = subscription.unwant_service(KEY);
    let kept = |update: &Update| !matches!(update, Update::Forget { name, .. } if name != KEY);
    assert!(forgotten.iter().all(kept), "{forgotten:?}");
}

/// Also where it is wanted by its name, and the server can't be told that it is not any more.
#[test]
fn a_service_stays_under_its_other_key_when_its_name_is_given_up() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    subscription.want_service(CART);
    sent(&mut subscription);
    take(
        &mut subscription,
        response(Kind::Service, "1", vec![cart("1")], &[]),
        &[],
    );
    subscription.disconnected(Instant::now(), 0.0);
    let forgotten = subscription.unwant_service(CART);
    let service =
        |update: &Update| matches!(update, Update::Forget { kind, .. } if *kind == Kind::Service);
    assert!(!forgotten.iter().any(service), "{forgotten:?}");
    let forgotten = subscription.unwant_service(KEY);
    assert!(forgotten.iter().any(service), "{forgotten:?}");
}

/// A server says no alias that is the service's name: then its name is what it came for.
#[test]
fn a_service_that_comes_by_its_name_after_that_was_given_up_is_not_taken() {
    let mut subscription = subscription();
    subscription.want_service(CART);
    sent(&mut subscription);
    subscription.unwant_service(CART);
    let mut late = cart("1");
    late.aliases.clear();
    let late = response(Kind::Service, "1", vec![late], &[]);
    let updates = subscription.handle(late, Instant::now()).unwrap();
    let service = |update: &Update| matches!(update, Update::Upsert { .. });
    assert!(!updates.iter().any(service), "{updates:?}");
}

/// The answer to a second key has only that one with it.
#[test]
fn children_that_come_for_a_key_that_was_given_up_are_taken_for_the_other() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    sent(&mut subscription);
    let service = response(Kind::Service, "1", vec![cart("1")], &[]);
    take(&mut subscription, service, &[]);
    subscription.want_service("vip:east-net/10.96.0.5");
    sent(&mut subscription);
    subscription.unwant_service("vip:east-net/10.96.0.5");
    let mut late = pod("west/shop/p1");
    late.aliases = vec!["vip:east-net/10.96.0.5".to_owned()];
    let late = response(Kind::Endpoint, "2", vec![late], &[]);
    let updates = subscription.handle(late, Instant::now()).unwrap();
    let endpoint = |update: &Update| matches!(update, Update::Upsert { .. });
    assert!(updates.iter().any(endpoint), "{updates:?}");
}

#[test]
fn a_key_that_leads_nowhere_takes_its_children_along() {
    let mut subscription = subscription();
    subscription.want_service(KEY);
    sent(&mut subscription);
    take(
        &mut subscription,
        response(Kind::Endpoint, "1", vec![pod("east/shop/a")], &[]),
        &[],
    );
    let updates = take(
        &mut subscription,
        response(Kind::Endpoint, "2", vec![], &[KEY]),
        &[],
    );
    let remove = |name: &str| Update::Remove {
        kind: Kind::Endpoint,
        name: name.to_owned(),
    };
    let answered = Update::Answered {
        kind: Kind::Endpoint,
    };
    assert_eq!(
        updates,
        [remove("shop/cart.shop#east/shop/a"), remove(KEY), answered]
    );
}

#[test]
fn a_nack_is_cut_where_it_gets_too_long() {
    let refused: Vec<Rejected> = (0..1_000)
        .map(|n| Rejected {
            name: format!("east/p{n}"),
            why: "x".repeat(100),
        })
        .collect();
    let text = nack_text(&refused);
    assert!(text.len() <= NACK_BYTES_MAX + 40);
    let shown = text.lines().count() - 1;
    assert!(
        text.ends_with(&format!("... and {} more", 1_000 - shown)),
        "{text}"
    );
}

#[test]
fn after_a_restart_the_saved_versions_and_keys_are_offered() {
    let mut subscription = subscription();
    let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
    subscription.want_service(KEY);
    sent(&mut subscription);
    for update in take(
        &mut subscription,
        response(Kind::Service, "1", vec![cart("v7")], &[]),
        &[],
    ) {
        builder.apply(update);
    }
    let keys = subscription.service_keys().map(ToOwned::to_owned).collect();
    let file = persist::encode(&builder.export("east/shop/web-1", keys));
    let saved = persist::decode(&file, "east/shop/web-1").unwrap();
    let mut next = Subscription::new(node(), Some(&saved));
    assert_eq!(saved.keys, BTreeSet::from([KEY.to_owned()]));
    for key in &saved.keys {
        next.want_service(key);
    }
    next.connected();
    let requests = sent(&mut next);
    assert_eq!(
        requests[0].initial_resource_versions,
        HashMap::from([(CART.into(), "v7".into())])
    );
    assert_eq!(requests[0].resource_names_subscribe, [KEY]);
}

#[test]
fn a_lost_stream_is_opened_again_after_a_while() {
    let mut subscription = Subscription::new(node(), None);
    assert_eq!(subscription.poll_timeout(), None, "at once");
    let now = Instant::now();
    subscription.disconnected(now, 1.0);
    assert_eq!(
        subscription.poll_timeout(),
        Some(now + Duration::from_millis(250))
    );
    subscription.connected();
    assert_eq!(subscription.poll_timeout(), None);
}

/// A stream may live for weeks: what is remembered of its responses must not grow with them.
#[test]
fn a_long_stream_remembers_only_its_latest_nonces() {
    let mut subscription = subscription();
    subscription.want(Kind::AccessPolicy, "*");
    sent(&mut subscription);
    for n in 0..1_000 {
        take(
            &mut subscription,
            response(Kind::AccessPolicy, &n.to_string(), vec![], &[]),
            &[],
        );
        assert!(subscription.nonces.len() <= NONCES_MAX, "after {n}");
    }
    let again = response(Kind::AccessPolicy, "999", vec![], &[]);
    assert!(
        matches!(
            subscription.handle(again, Instant::now()),
            Err(ProtocolError::RepeatedNonce { .. })
        ),
        "the latest ones are still told apart"
    );
}

#[test]
fn at_the_bound_one_key_makes_room_for_another() {
    let mut subscription = subscription();
    for number in 0..WANTED_MAX {
        assert!(subscription.want_service(&format!("host:h{number}")));
    }
    assert!(subscription.has_no_room_for("host:new"));
    assert!(!subscription.has_no_room_for("host:h1"), "it is wanted");
    assert!(!subscription.want_service("host:new"));
    subscription.unwant_service("host:h1");
    assert!(!subscription.has_no_room_for("host:new"));
    assert!(subscription.want_service("host:new"));
}
