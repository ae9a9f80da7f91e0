//! Does a change reach those whom it concerns, and nobody else?

use super::*;
use crate::session::SessionNumber;

/// A client that asks by names, and has been answered.
fn enter(
    interests: &mut Interests,
    world: &World,
    client: Client,
    keys: &[&'static str],
) -> (SessionNumber, Session) {
    let mut proxy = Proxy::sidecar(&client, keys);
    let mut session = proxy.connect(client);
    let number = interests.enter(session.client());
    proxy.settle(&mut session, world);
    if let Some(moved) = session.moved() {
        interests.follow(number, moved);
    }
    proxy.settle(&mut session, world);
    (number, session)
}

/// Whom a change concerns.
fn told(world: &mut World, interests: &Interests, change: Change) -> Vec<SessionNumber> {
    let dirty = world.apply(change, at(5));
    interests.concerned(&dirty).into_iter().collect()
}

fn by(type_url: String, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url,
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn endpoints_are_told_to_those_who_call_the_service() {
    let mut objects = shop();
    objects.push(service("east", "pay", 6));
    let mut world = listed(&objects);
    let mut interests = Interests::default();
    let (calls, idle) = (web(&world), web(&world));
    let (caller, _session) = enter(&mut interests, &world, calls, &[EVERYWHERE]);
    let (_idle, _none) = enter(&mut interests, &world, idle, &[]);
    let unready = |name: &str, number: u8| {
        let mut pod = pod("east", name, number);
        if let Spec::Pod(pod) = &mut pod.spec {
            pod.ready = !pod.ready;
        }
        Change::Apply(pod)
    };
    assert_eq!(told(&mut world, &interests, unready("cart", 11)), [caller]);
    assert!(told(&mut world, &interests, unready("pay", 13)).is_empty());
    interests.leave(caller);
    let again = Change::Apply(pod("east", "cart", 11));
    assert!(told(&mut world, &interests, again).is_empty());
}

/// Whoever asked about an address hears who has it, and nobody else does.
#[test]
fn who_has_an_address_is_told_to_those_who_asked_about_it() {
    let mut world = listed(&shop());
    let mut interests = Interests::default();
    let (calls, idle) = (web(&world), web(&world));
    let key = "vip:east-net/10.1.0.77";
    let (caller, mut session) = enter(&mut interests, &world, calls, &[key]);
    let (_idle, _none) = enter(&mut interests, &world, idle, &[]);
    let named = |name: &str| Change::Apply(pod("east", name, 77));
    let answer = |session: &mut Session, world: &World| {
        let responses = std::iter::from_fn(|| session.poll(world));
        let told = responses.filter(|r| r.type_url == T::Service.type_url());
        told.flat_map(|r| r.resources)
            .map(|r| r.name)
            .collect::<Vec<_>>()
    };
    let dirty = world.apply(named("pay"), at(5));
    assert_eq!(interests.concerned(&dirty), [caller].into());
    session.dirty(&dirty);
    assert_eq!(
        answer(&mut session, &world),
        ["shop/pay-77.shop.pod.east.local"]
    );
    assert!(
        told(
            &mut world,
            &interests,
            Change::Apply(pod("east", "pay", 78))
        )
        .is_empty()
    );
    // A service that says what is spoken there is a definition, which is told to the cluster.
    interests.leave(caller);
    assert!(told(&mut world, &interests, named("cart")).is_empty());
}

#[test]
fn a_definition_and_a_policy_are_told_within_their_cluster() {
    let mut world = listed(&shop());
    let mut interests = Interests::default();
    let (east, west) = (
        web(&world),
        client(&world, "west/shop/cart-12", "cart", "sidecar"),
    );
    let (east, _one) = enter(&mut interests, &world, east, &[]);
    let (west, _other) = enter(&mut interests, &world, west, &[]);
    let local = Change::Apply(service("east", "pay", 6));
    assert_eq!(told(&mut world, &interests, local), [east]);
    let policy = Spec::AccessPolicy(allow(PolicyTarget::Namespace));
    let policy = object("west", "shop", "closed", policy);
    assert_eq!(told(&mut world, &interests, Change::Apply(policy)), [west]);
}

/// The world moves after a name was looked up, and before the session is followed there.
#[test]
fn what_changes_before_a_session_is_followed_is_looked_at() {
    let mut world = listed(&shop());
    let mut interests = Interests::default();
    let client = web(&world);
    let mut proxy = Proxy::sidecar(&client, &[EVERYWHERE]);
    let mut session = proxy.connect(client);
    let number = interests.enter(session.client());
    proxy.settle(&mut session, &world);
    let gone = Change::Delete(pod("west", "cart", 12).reference());
    assert!(told(&mut world, &interests, gone).is_empty());
    interests.follow(number, session.moved().unwrap());
    proxy.settle(&mut session, &world);
    let left = ["shop/cart.shop.svc.clusterset.local#east/shop/cart-11"];
    assert_eq!(proxy.names(T::Endpoint), left);
}

#[test]
fn what_was_wanted_once_is_forgotten() {
    let mut world = listed(&shop());
    let mut interests = Interests::default();
    let client = web(&world);
    let (number, mut session) = enter(&mut interests, &world, client, &[EVERYWHERE]);
    for turn in 0..1_000 {
        let name = format!("shop/s{turn}.shop.svc.clusterset.local");
        let url = T::Endpoint.type_url();
        session.handle(&by(url.clone(), &[&name], &[])).unwrap();
        let _ = session.poll(&world);
        session.handle(&by(url, &[], &[&name])).unwrap();
        if let Some(moved) = session.moved() {
            interests.follow(number, moved);
        }
    }
    let wanted = interests.wanted(number);
    assert!((1..100).contains(&wanted), "{wanted} services are followed");
    let gone = Change::Delete(pod("west", "cart", 12).reference());
    assert_eq!(told(&mut world, &interests, gone), [number]);
}
