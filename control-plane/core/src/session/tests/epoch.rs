//! Can a replica that has lost sight of a cluster take a client back in time?

use std::time::UNIX_EPOCH;

use isthmus_proto::discovery::{DeltaDiscoveryResponse, Node};
use isthmus_proto::positions::{self, Positions};
use isthmus_proto::resource::TrustBundle;
use prost_types::value::Kind as ValueKind;

use super::*;
use crate::model::{Kind, POSITIONED};
use crate::world::{NOT_ADMITTED, Standing, Standings};

/// Longer than two replicas may differ.
const LATER: u64 = 400;

fn value(kind: ValueKind) -> prost_types::Value {
    prost_types::Value { kind: Some(kind) }
}

/// What a client says of itself that has seen these clusters elsewhere, at these times.
fn seen(clusters: &[(&str, u64)]) -> Node {
    let of = |(cluster, seconds): &(&str, u64)| {
        let since = at(*seconds).duration_since(UNIX_EPOCH).unwrap();
        let number = ValueKind::NumberValue(since.as_secs_f64() * 1_000.0);
        ((*cluster).to_owned(), value(number))
    };
    let clusters = prost_types::Struct {
        fields: clusters.iter().map(of).collect(),
    };
    let clusters = value(ValueKind::StructValue(clusters));
    let metadata = prost_types::Struct {
        fields: [(SEEN.to_owned(), clusters)].into(),
    };
    Node {
        metadata: Some(metadata),
        ..Node::default()
    }
}

/// As [`seen`], of one that was told of west up to this position.
fn seen_up_to(clusters: &[(&str, u64)], position: u64) -> Node {
    let mut node = seen(clusters);
    let mut positions = Positions::default();
    for kind in POSITIONED {
        positions.set(&id("west"), kind.as_str(), position);
    }
    let text = value(ValueKind::StringValue(positions.to_string()));
    let metadata = node.metadata.as_mut().unwrap();
    metadata.fields.insert(positions::METADATA.to_owned(), text);
    node
}

fn reach(world: &mut World, kind: Kind, position: u64) {
    let cluster = id("west");
    let reached = Change::Reached {
        cluster,
        kind,
        position,
    };
    assert!(world.apply(reached, at(5)).is_empty());
}

fn policy(cluster: &str, name: &str) -> Object {
    let policy = allow(PolicyTarget::Namespace);
    object(cluster, "shop", name, Spec::AccessPolicy(policy))
}

/// What both replicas knew long ago.
fn long_ago() -> Vec<Object> {
    let mut objects = shop();
    objects.push(policy("east", "old"));
    objects
}

/// What is so: west's pod is another one, the services and policies of both, too.
fn now() -> Vec<Object> {
    let old = |o: &Object| {
        let west = o.cluster == id("west") && matches!(o.spec, Spec::Pod(_));
        west || matches!(o.spec, Spec::AccessPolicy(_))
    };
    let mut objects: Vec<Object> = long_ago().into_iter().filter(|o| !old(o)).collect();
    objects.extend([pod("west", "cart", 30), policy("east", "new")]);
    objects
}

fn replica(objects: &[Object]) -> World {
    let mut world = listed(objects);
    for cluster in ["east", "west"] {
        let domain = format!("{cluster}.mesh.internal");
        let bundle = TrustBundle {
            trust_domain: domain,
            cluster: cluster.to_owned(),
            sequence: 1,
            ..TrustBundle::default()
        };
        world.set_trust_bundle(bundle).unwrap();
    }
    world
}

/// A client that has all that is so, from a replica that knew it.
fn informed() -> Proxy {
    let fresh = replica(&now());
    let mut proxy = Proxy::sidecar(&web(&fresh), &[EVERYWHERE]);
    let mut session = proxy.connect(web(&fresh));
    proxy.settle(&mut session, &fresh);
    proxy
}

fn catch_up(world: &mut World, session: &mut Session, cluster: &str) {
    let init = Change::Init {
        cluster: id(cluster),
    };
    session.dirty(&world.apply(init, at(LATER)));
    for object in now().into_iter().filter(|o| o.cluster == id(cluster)) {
        session.dirty(&world.apply(Change::Apply(object), at(LATER)));
    }
    let done = Change::InitDone {
        cluster: id(cluster),
        kept: BTreeSet::new(),
    };
    session.dirty(&world.apply(done, at(LATER)));
}

#[test]
fn a_stale_replica_brings_nothing_back_and_takes_nothing_away() {
    let mut proxy = informed();
    let before = proxy.state();
    let mut stale = replica(&long_ago());
    let node = seen(&[("east", LATER), ("west", LATER)]);
    let mut session = proxy.connect_as(web(&stale), &node);
    let responses = proxy.settle(&mut session, &stale);
    assert_eq!(proxy.state(), before, "{responses:?}");
    let removed = |r: &DeltaDiscoveryResponse| !r.removed_resources.is_empty();
    assert!(!responses.iter().any(removed), "{responses:?}");

    for cluster in ["east", "west"] {
        catch_up(&mut stale, &mut session, cluster);
    }
    proxy.settle(&mut session, &stale);
    let mut other = Proxy::sidecar(&web(&stale), &[EVERYWHERE]);
    let mut fresh = other.connect(web(&stale));
    other.settle(&mut fresh, &stale);
    assert_eq!(proxy.state(), other.state(), "it has caught up");
}

#[test]
fn only_the_cluster_that_was_lost_is_held_back() {
    let mut proxy = informed();
    let mut half = replica(&long_ago());
    let node = seen(&[("east", LATER), ("west", LATER)]);
    let mut session = proxy.connect_as(web(&half), &node);
    catch_up(&mut half, &mut session, "east");
    proxy.settle(&mut session, &half);
    let policies = proxy.names(T::AccessPolicy);
    assert_eq!(policies.len(), 1, "{policies:?}");
    assert!(policies[0].ends_with("/new"), "{policies:?}");
    tell(
        &mut half,
        &mut session,
        Change::Apply(policy("east", "newest")),
    );
    tell(
        &mut half,
        &mut session,
        Change::Apply(pod("east", "cart", 31)),
    );
    proxy.settle(&mut session, &half);
    assert_eq!(proxy.names(T::AccessPolicy).len(), 2);
    let endpoints = proxy.names(T::Endpoint).join(" ");
    assert!(endpoints.contains("east/shop/cart-31"), "{endpoints}");
    assert!(endpoints.contains("west/shop/cart-30"), "{endpoints}");
    assert!(!endpoints.contains("west/shop/cart-12"), "{endpoints}");
}

#[test]
fn a_replica_that_is_as_new_holds_nothing_back() {
    let mut proxy = informed();
    let world = replica(&long_ago());
    // Both lost it at about the same time.
    let node = seen(&[("east", 50), ("west", 1), ("north", LATER)]);
    let mut session = proxy.connect_as(web(&world), &node);
    proxy.settle(&mut session, &world);
    let endpoints = proxy.names(T::Endpoint).join(" ");
    assert!(endpoints.contains("west/shop/cart-12"), "{endpoints}");
}

/// Less than a minute behind: no time could tell, and the position does.
#[test]
fn a_replica_that_has_not_come_as_far_brings_nothing_back() {
    let mut proxy = informed();
    let before = proxy.state();
    let mut behind = replica(&long_ago());
    for kind in POSITIONED {
        reach(&mut behind, kind, 900);
    }
    let node = seen_up_to(&[("east", 1), ("west", 1)], 901);
    let mut session = proxy.connect_as(web(&behind), &node);
    proxy.settle(&mut session, &behind);
    let west = |state: &BTreeMap<(T, String), String>| {
        let of_west = |(kind, name): &&(T, String)| *kind == T::Endpoint && name.contains("#west/");
        state.keys().filter(of_west).cloned().collect::<Vec<_>>()
    };
    assert_eq!(west(&proxy.state()), west(&before));
    assert!(session.holds_back());

    // It comes as far, kind by kind: what it says then counts.
    for change in [
        Change::Apply(pod("west", "cart", 30)),
        Change::Delete(pod("west", "cart", 12).reference()),
    ] {
        tell(&mut behind, &mut session, change);
    }
    proxy.settle(&mut session, &behind);
    for kind in POSITIONED {
        assert!(session.holds_back(), "{kind}");
        reach(&mut behind, kind, 950);
        proxy.settle(&mut session, &behind);
    }
    assert!(!session.holds_back());
    tell(
        &mut behind,
        &mut session,
        Change::Apply(pod("west", "cart", 40)),
    );
    proxy.settle(&mut session, &behind);
    let endpoints = proxy.names(T::Endpoint).join(" ");
    assert!(endpoints.contains("west/shop/cart-40"), "{endpoints}");
}

#[test]
fn a_store_that_was_made_anew_is_believed_by_its_time() {
    let mut proxy = informed();
    let mut world = replica(&long_ago());
    for kind in POSITIONED {
        reach(&mut world, kind, 12);
    }
    // Confirmed much later than what the client has seen.
    let confirmed = Change::Confirmed {
        cluster: id("west"),
        at: at(LATER),
    };
    world.apply(confirmed, at(LATER));
    let node = seen_up_to(&[("east", 1), ("west", 1)], 901);
    let mut session = proxy.connect_as(web(&world), &node);
    proxy.settle(&mut session, &world);
    assert!(!session.holds_back());
    let endpoints = proxy.names(T::Endpoint).join(" ");
    assert!(endpoints.contains("west/shop/cart-12"), "{endpoints}");
}

/// A response says how far what it is made of was told, once.
#[test]
fn a_client_is_told_how_new_its_endpoints_are() {
    let mut world = replica(&now());
    reach(&mut world, Kind::Pod, 7);
    reach(&mut world, Kind::AccessPolicy, 8);
    let client = web(&world);
    let mut proxy = Proxy::sidecar(&client, &[EVERYWHERE]);
    let mut session = proxy.connect(client);
    let told = |responses: &[DeltaDiscoveryResponse]| {
        let infos = responses.iter().map(|one| &one.system_version_info);
        let positions = infos.map(|info| Positions::of_version_info(info).1.to_string());
        positions
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
    };
    let first = proxy.settle(&mut session, &world);
    assert_eq!(told(&first), ["west/Pod=7"]);
    tell(
        &mut world,
        &mut session,
        Change::Apply(pod("west", "cart", 40)),
    );
    assert!(told(&proxy.settle(&mut session, &world)).is_empty());
    reach(&mut world, Kind::Pod, 9);
    let gone = Change::Delete(pod("west", "cart", 40).reference());
    tell(&mut world, &mut session, gone);
    let last = proxy.settle(&mut session, &world);
    assert_eq!(told(&last), ["west/Pod=9"]);
}

#[test]
fn what_is_asked_for_the_first_time_is_told_as_well_as_it_is_known() {
    let mut proxy = informed();
    let mut objects = long_ago();
    objects.extend([service("east", "pay", 6), pod("east", "pay", 13)]);
    let world = replica(&objects);
    let node = seen(&[("east", LATER)]);
    let mut session = proxy.connect_as(web(&world), &node);
    proxy.settle(&mut session, &world);
    for kind in [T::Service, T::Route, T::Endpoint] {
        let more = DeltaDiscoveryRequest {
            type_url: kind.type_url(),
            resource_names_subscribe: vec!["shop/pay.shop.svc.cluster.local".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        session.handle(&more).unwrap();
    }
    proxy.settle(&mut session, &world);
    let endpoints = proxy.names(T::Endpoint).join(" ");
    assert!(endpoints.contains("east/shop/pay-13"), "{endpoints}");
}

#[test]
fn nothing_of_a_cluster_that_may_still_join_is_taken_away() {
    let mut proxy = informed();
    let before = proxy.state();
    // A replica that has just started: home is listed, and what it names was not looked at yet.
    let mut world = world(&["east"]);
    world.set_mesh_authors(Some([id("east")].into()));
    list(&mut world, "east", &now());
    let bundle = |cluster: &str| TrustBundle {
        trust_domain: format!("{cluster}.mesh.internal"),
        cluster: cluster.to_owned(),
        sequence: 1,
        ..TrustBundle::default()
    };
    world.set_trust_bundle(bundle("east")).unwrap();
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    let kept = |state: &BTreeMap<(T, String), String>| {
        let kinds = [T::Endpoint, T::TrustBundle, T::Service];
        let all = state.keys().filter(|(kind, _)| kinds.contains(kind));
        all.cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(kept(&proxy.state()), kept(&before));

    // Its keys can't be had: it is a member all the same.
    let standing = |reason| {
        let refused = Standing {
            kind: "Accepted",
            holds: Some(false),
            reason,
            message: String::new(),
        };
        let object = (Kind::MeshCluster, "west".to_owned());
        Standings::from([(object, vec![refused])])
    };
    session.dirty(&world.set_standings(&id("east"), standing(NOT_ADMITTED)));
    proxy.settle(&mut session, &world);
    assert_eq!(kept(&proxy.state()), kept(&before));

    // It is none.
    session.dirty(&world.set_standings(&id("east"), standing("NoCredential")));
    proxy.settle(&mut session, &world);
    let left = proxy.state();
    let west = |(_, name): &(T, String)| name.contains("west");
    assert!(!kept(&left).iter().any(west), "{left:?}");
}
