//! Does the world remember what it knows, and know what it does not?

use proptest::prelude::*;

use super::*;
use crate::model::{AccessPolicy, Observed, PolicyTarget, Spec, TrustPolicy};
use crate::sample::*;
use crate::session::{ResourceType as T, Session};

const EVERYWHERE: &str = "shop/cart.shop.svc.clusterset.local";

fn caller(world: &World) -> (Proxy, Session) {
    let client = client(world, "east/shop/web-1", "web", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &[EVERYWHERE, "shop/cart.shop.svc.cluster.local"]);
    let session = proxy.connect(client);
    (proxy, session)
}

fn shop_of(clusters: &[&str]) -> World {
    let mut world = world(clusters);
    for cluster in clusters {
        list(&mut world, cluster, &shop());
    }
    world
}

fn state(world: &World, cluster: &str) -> State {
    world
        .clusters()
        .find(|status| *status.cluster == id(cluster))
        .unwrap()
        .state
}

#[test]
fn a_cluster_is_unknown_until_its_list_is_complete_and_stale_when_it_is_lost() {
    let mut world = world(&["east"]);
    let lost = |reason: &str| Change::Lost {
        cluster: id("east"),
        reason: reason.into(),
    };
    assert_eq!(state(&world, "east"), State::Unknown);
    world.apply(lost("refused"), at(0));
    assert_eq!(state(&world, "east"), State::Unknown);
    assert_eq!(world.clusters().next().unwrap().reason, "refused");
    list(&mut world, "east", &shop());
    assert_eq!(state(&world, "east"), State::Synced);
    world.apply(lost("timed out"), at(9));
    assert_eq!(state(&world, "east"), State::Stale);
    // A list that has begun says nothing yet.
    world.apply(
        Change::Init {
            cluster: id("east"),
        },
        at(10),
    );
    assert_eq!(state(&world, "east"), State::Stale);
    world.apply(
        Change::InitDone {
            cluster: id("east"),
            kept: BTreeSet::new(),
        },
        at(11),
    );
    assert_eq!(state(&world, "east"), State::Synced);
}

#[test]
fn a_lost_cluster_keeps_what_it_had_and_says_how_old_it_is() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    let before = proxy.names(T::Endpoint).len();
    let dirty = world.apply(
        Change::Lost {
            cluster: id("west"),
            reason: "no route".into(),
        },
        at(60),
    );
    session.dirty(&dirty);
    let responses = proxy.settle(&mut session, &world);
    assert_eq!(responses.len(), 1);
    assert_eq!(proxy.names(T::Endpoint).len(), before);
    let west: resource::ClusterFreshness = proxy.get(T::ClusterFreshness, "west");
    assert_eq!(west.state(), resource::Freshness::Stale);
    assert_eq!(west.reason, "no route");
    assert_eq!(west.confirmed_at.unwrap(), at(1).into());
    // I4: not a word about the other cluster.
    assert!(responses[0].resources.iter().all(|one| one.name == "west"));
}

/// F27: it does not count for ever, at home it does, and it is back with the first look.
#[test]
fn a_cluster_that_is_lost_for_too_long_is_withdrawn_from_the_others() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    let before: Vec<String> = proxy
        .names(T::Endpoint)
        .iter()
        .map(|n| (*n).to_owned())
        .collect();
    let of = |names: &[String], cluster: &str| names.iter().any(|n| n.contains(cluster));
    assert!(of(&before, "#east/") && of(&before, "#west/"));
    let life = Duration::from_secs(3_600);
    let lost = |cluster: &str| Change::Lost {
        cluster: id(cluster),
        reason: "no route".into(),
    };
    for cluster in ["east", "west"] {
        session.dirty(&world.apply(lost(cluster), at(60)));
    }
    assert!(world.expire(life, at(3_601)).is_empty());
    session.dirty(&world.expire(life, at(3_602)));
    proxy.settle(&mut session, &world);
    let left: Vec<String> = proxy
        .names(T::Endpoint)
        .iter()
        .map(|n| (*n).to_owned())
        .collect();
    assert!(of(&left, "#east/") && !of(&left, "#west/"), "{left:?}");
    assert!(world.expire(life, at(9_999)).is_empty(), "said once");
    let done = Change::InitDone {
        cluster: id("west"),
        kept: Kind::ALL.into(),
    };
    session.dirty(&world.apply(done, at(10_000)));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::Endpoint), before);
}

/// The cluster is seen, and where its endpoints are is not: they are as old as that.
#[test]
fn endpoints_whose_pods_may_not_be_read_any_more_are_withdrawn_as_those_of_a_lost_cluster() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    let before = proxy.state();
    let old = |kind: Kind, seconds: Option<u64>| {
        let of = KindFreshness {
            confirmed_at: seconds.map(at),
            reason: "may not list".to_owned(),
        };
        Change::Older {
            cluster: id("west"),
            kinds: [(kind, of)].into(),
        }
    };
    let life = Duration::from_secs(3_600);
    let west = |proxy: &Proxy| {
        proxy
            .names(T::Endpoint)
            .iter()
            .any(|n| n.contains("#west/"))
    };
    // Policies that are old withdraw nothing.
    session.dirty(&world.apply(old(Kind::AccessPolicy, Some(10)), at(20)));
    assert!(world.expire(life, at(9_000)).is_empty());
    session.dirty(&world.apply(old(Kind::Pod, Some(10)), at(20)));
    assert!(world.expire(life, at(3_609)).is_empty());
    session.dirty(&world.expire(life, at(3_611)));
    proxy.settle(&mut session, &world);
    assert!(!west(&proxy));
    assert_eq!(state(&world, "west"), State::Synced);
    // They may be read again: back at once.
    let fresh = Change::Older {
        cluster: id("west"),
        kinds: BTreeMap::new(),
    };
    session.dirty(&world.apply(fresh, at(3_620)));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.state().len(), before.len());
    assert!(west(&proxy));
    // A source that has never seen them says nothing of their age: what is known is another one's.
    let objects: Vec<Object> = world.page(&id("west"), None, 1_000).unwrap();
    world.remove_cluster(&id("west"));
    world.add_cluster(&id("west")).unwrap();
    let (unknown, older) = (BTreeSet::new(), BTreeMap::new());
    let seen = LastSeen {
        at: at(4_000),
        unknown: &unknown,
        older: &older,
    };
    world.restore(&id("west"), &objects, seen, at(5_000));
    let done = Change::InitDone {
        cluster: id("west"),
        kept: [Kind::Pod].into(),
    };
    world.apply(done, at(5_000));
    world.apply(old(Kind::Pod, None), at(5_000));
    assert!(world.expire(life, at(7_599)).is_empty());
    assert!(!world.expire(life, at(7_601)).is_empty());
    let west = world.clusters().find(|c| *c.cluster == id("west"));
    assert!(west.unwrap().expired);
}

#[test]
fn a_list_in_which_no_kind_was_seen_is_none() {
    let mut world = world(&["east"]);
    let none = || Change::InitDone {
        cluster: id("east"),
        kept: Kind::ALL.into(),
    };
    world.apply(
        Change::Init {
            cluster: id("east"),
        },
        at(1),
    );
    world.apply(none(), at(1));
    assert_eq!(state(&world, "east"), State::Unknown);
    list(&mut world, "east", &[]);
    world.apply(none(), at(2));
    assert_eq!(state(&world, "east"), State::Synced);
}

#[test]
fn a_cluster_that_is_cut_off_is_called_no_more() {
    let mut world = shop_of(&["east", "west"]);
    world.set_mesh_authors(Some([id("east")].into()));
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    assert!(
        proxy
            .names(T::Endpoint)
            .iter()
            .any(|n| n.contains("#west/"))
    );
    let policy = TrustPolicy {
        distrusted: [id("west")].into(),
        observed: Observed::default(),
    };
    let mut policy = object("east", "shop", "cut-off", Spec::TrustPolicy(policy));
    policy.namespace = None;
    session.dirty(&world.apply(Change::Apply(policy.clone()), at(60)));
    proxy.settle(&mut session, &world);
    let left = proxy.names(T::Endpoint);
    assert!(
        !left.is_empty() && !left.iter().any(|n| n.contains("#west/")),
        "{left:?}"
    );
    session.dirty(&world.apply(Change::Delete(policy.reference()), at(61)));
    proxy.settle(&mut session, &world);
    assert!(
        proxy
            .names(T::Endpoint)
            .iter()
            .any(|n| n.contains("#west/"))
    );
}

/// What is forbidden or lost alone is as old as it is, and no other kind is.
#[test]
fn a_kind_that_is_older_than_its_cluster_is_told_with_its_age() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    let older = |kinds: &[(Kind, Option<u64>)]| Change::Older {
        cluster: id("west"),
        kinds: kinds
            .iter()
            .map(|(kind, confirmed)| {
                let of = KindFreshness {
                    confirmed_at: confirmed.map(at),
                    reason: "forbidden".into(),
                };
                (*kind, of)
            })
            .collect(),
    };
    let both = older(&[(Kind::HttpRoute, Some(40)), (Kind::TrustPolicy, None)]);
    session.dirty(&world.apply(both.clone(), at(60)));
    let responses = proxy.settle(&mut session, &world);
    assert_eq!(responses.len(), 1);
    let west: resource::ClusterFreshness = proxy.get(T::ClusterFreshness, "west");
    assert_eq!(west.state(), resource::Freshness::Synced);
    let told = west.kinds.iter().map(|of| {
        let confirmed = of.confirmed_at.map(|at| at.seconds);
        (of.kind.as_str(), of.state(), confirmed, of.reason.as_str())
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (
                "HTTPRoute",
                resource::Freshness::Stale,
                Some(prost_types::Timestamp::from(at(40)).seconds),
                "forbidden"
            ),
            (
                "TrustPolicy",
                resource::Freshness::Unknown,
                None,
                "forbidden"
            ),
        ]
    );
    assert!(world.apply(both, at(61)).is_empty(), "nothing new");
    session.dirty(&world.apply(older(&[]), at(62)));
    proxy.settle(&mut session, &world);
    let west: resource::ClusterFreshness = proxy.get(T::ClusterFreshness, "west");
    assert_eq!(west.kinds, vec![]);
}

#[test]
fn confirmations_are_told_in_steps() {
    let mut world = shop_of(&["east"]);
    let confirmed = |s| Change::Confirmed {
        cluster: id("east"),
        at: at(s),
    };
    let told = (2..=62)
        .filter(|s| !world.apply(confirmed(*s), at(*s)).is_empty())
        .count();
    assert_eq!(told, 1);
    assert!(world.apply(confirmed(3), at(63)).is_empty());
}

#[test]
fn a_new_list_removes_at_its_end_what_it_did_not_name_and_nothing_before() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    let mut steps = vec![Change::Init {
        cluster: id("west"),
    }];
    let kept = shop()
        .into_iter()
        .filter(|o| o.cluster == id("west") && o.name != "cart-12");
    steps.extend(kept.map(Change::Apply));
    steps.push(Change::Apply(pod("west", "cart", 13)));
    for step in steps {
        session.dirty(&world.apply(step, at(70)));
        let responses = proxy.settle(&mut session, &world);
        assert!(
            responses
                .iter()
                .all(|response| response.removed_resources.is_empty())
        );
    }
    session.dirty(&world.apply(
        Change::InitDone {
            cluster: id("west"),
            kept: BTreeSet::new(),
        },
        at(71),
    ));
    let responses = proxy.settle(&mut session, &world);
    assert_eq!(
        responses[0].removed_resources,
        [format!("{EVERYWHERE}#west/shop/cart-12")]
    );
}

#[test]
fn names_of_the_mesh_itself_are_no_clusters() {
    let mut world = World::new("mesh.internal").unwrap();
    assert!(world.add_cluster(&id("control")).is_err());
    assert!(world.add_cluster(&id("mesh")).is_err());
    assert!(world.add_cluster(&id("east")).is_ok());
    assert!(World::new("Mesh").is_err());
    // Nobody speaks for a cluster that was not added.
    assert!(
        world
            .apply(Change::Apply(pod("west", "cart", 1)), at(0))
            .is_empty()
    );
}

#[test]
fn the_generation_grows_over_restarts_and_with_a_clock_that_goes_back() {
    let mut world = shop_of(&["east"]);
    let before = world.generation();
    world.apply(Change::Apply(pod("east", "cart", 90)), at(0));
    assert!(world.generation() > before);
    let restarted = shop_of(&["east"]);
    assert!(restarted.generation() >= 1_800_000_000_000);
}

#[test]
fn a_removed_cluster_is_withdrawn_from_everybody() {
    let mut world = shop_of(&["east", "west"]);
    let (mut proxy, mut session) = caller(&world);
    proxy.settle(&mut session, &world);
    session.dirty(&world.remove_cluster(&id("west")));
    proxy.settle(&mut session, &world);
    assert!(
        proxy
            .names(T::Endpoint)
            .iter()
            .all(|name| !name.contains("#west/"))
    );
    assert_eq!(proxy.names(T::Gateway), ["east/isthmus-system/ew"]);
    assert_eq!(proxy.names(T::ClusterFreshness), ["east"]);
}

#[test]
fn what_did_not_change_is_not_dirty() {
    let mut world = shop_of(&["east", "west"]);
    for object in shop() {
        assert!(world.apply(Change::Apply(object), at(99)).is_empty());
    }
    let dirty = list(&mut world, "east", &shop());
    assert_eq!(
        dirty,
        Dirty {
            freshness: [id("east")].into(),
            ..Dirty::default()
        }
    );
    assert!(
        world
            .apply(Change::Delete(pod("east", "none", 1).reference()), at(99))
            .is_empty()
    );
}

#[test]
fn a_refused_object_leaves_the_last_good_one() {
    let mut world = shop_of(&["east"]);
    let mut broken = shop()
        .into_iter()
        .find(|o| o.name == "cart" && o.spec.kind() == Kind::Service);
    broken.as_mut().unwrap().namespace = None;
    let dirty = world.apply(Change::Apply(broken.unwrap()), at(5));
    assert!(dirty.services.is_empty() && dirty.objects.len() == 1);
    assert_eq!(
        world
            .conditions()
            .iter()
            .filter(|c| c.reason == "Refused")
            .count(),
        1
    );
    let policy = object(
        "east",
        "shop",
        "p",
        Spec::AccessPolicy(allow(PolicyTarget::Mesh)),
    );
    world.apply(Change::Apply(policy), at(6));
    let invalid = world
        .conditions()
        .into_iter()
        .find(|c| c.object.kind == Kind::AccessPolicy);
    assert!(invalid.unwrap().message.contains("system namespace"));
}

/// DESIGN 7: audit never changes the verdict.
#[test]
fn an_audit_that_is_not_understood_denies_nothing() {
    let mut world = shop_of(&["east"]);
    let client = client(&world, "east/shop/cart-11", "cart", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &[]);
    let mut session = proxy.connect(client);
    let mut audit = allow(PolicyTarget::Namespace);
    audit.body.as_mut().unwrap().action = resource::Action::Audit.into();
    let mut told = |written: AccessPolicy| {
        let name = format!("p-{}", written.invalid.is_some());
        let policy = object("east", "shop", &name, Spec::AccessPolicy(written));
        session.dirty(&world.apply(Change::Apply(policy), at(30)));
        proxy.settle(&mut session, &world);
        let of = |c: &Condition| c.object.kind == Kind::AccessPolicy;
        let found = world.conditions().into_iter().filter(of);
        let messages: Vec<String> = found.map(|c| c.message).collect();
        (proxy.names(T::AccessPolicy).len(), messages)
    };
    assert_eq!(told(audit.clone()), (1, vec![]));
    audit.invalid = Some("a bad expression".into());
    let (sent, messages) = told(audit.clone());
    assert_eq!(sent, 1);
    assert_eq!(
        messages,
        ["notes nothing, and changes no verdict: a bad expression"]
    );
    // Nobody knows what it would have been.
    audit.body = None;
    let (sent, messages) = told(audit);
    assert_eq!(sent, 2);
    assert_eq!(
        messages,
        ["denies everything in its scope: a bad expression"]
    );
}

/// F25: what it was, in whose place it stands, and for whom.
#[test]
fn a_policy_that_is_not_understood_any_more_counts_as_it_was() {
    let mut world = shop_of(&["east"]);
    let client = client(&world, "east/shop/cart-11", "cart", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &[]);
    let mut session = proxy.connect(client);
    let policy = |name: &str, written| object("east", "shop", name, Spec::AccessPolicy(written));
    let unread = |target| AccessPolicy {
        body: None,
        invalid: Some("unknown field `form`".into()),
        ..allow(target)
    };
    let mut senseless = allow(services(&["cart"]));
    senseless.body.as_mut().unwrap().action = 0;
    let good = policy("p", allow(services(&["cart", "pay"])));
    let mut tell = |world: &mut World, change| {
        session.dirty(&world.apply(change, at(30)));
        proxy.settle(&mut session, world);
        let told = proxy.names(T::AccessPolicy).into_iter().map(|name| {
            let sent: resource::AccessPolicy = proxy.get(T::AccessPolicy, name);
            (name.to_owned(), sent.scope, sent.invalid.is_empty())
        });
        told.collect::<Vec<_>>()
    };
    let counts = tell(&mut world, Change::Apply(good.clone()));
    let scope = "service east/shop/cart, east/shop/pay";
    assert_eq!(counts, [("east/shop/p".into(), scope.into(), true)]);
    let said = |world: &World| {
        let of = |c: &Condition| c.object.kind == Kind::AccessPolicy && c.kind == "Accepted";
        let found: Vec<_> = world.conditions().into_iter().filter(of).collect();
        found.into_iter().map(|c| c.message).collect::<Vec<_>>()
    };
    for (written, why) in [
        (unread(PolicyTarget::Namespace), "unknown field"),
        (unread(services(&["pay"])), "unknown field"),
        (senseless, "no action"),
        (allow(PolicyTarget::Mesh), "system namespace"),
    ] {
        let bad = policy("p", written);
        assert_eq!(
            tell(&mut world, Change::Apply(bad.clone())),
            counts,
            "{why}"
        );
        let [message] = &said(&world)[..] else {
            panic!("one condition")
        };
        assert!(message.starts_with("what it said before counts: ") && message.contains(why));
        // A list that has it so is no other word.
        let cluster = id("east");
        tell(
            &mut world,
            Change::Init {
                cluster: cluster.clone(),
            },
        );
        for object in shop().into_iter().filter(|o| o.cluster == cluster) {
            tell(&mut world, Change::Apply(object));
        }
        tell(&mut world, Change::Apply(bad));
        let kept = BTreeSet::new();
        assert_eq!(tell(&mut world, Change::InitDone { cluster, kept }), counts);
    }
    assert_eq!(tell(&mut world, Change::Apply(good.clone())), counts);
    assert_eq!(said(&world), Vec::<String>::new());
    // One that was made anew under its name never said anything else, nor has one that was deleted.
    let denies = [("east/shop/p".into(), "namespace east/shop".into(), false)];
    let mut anew = policy("p", unread(PolicyTarget::Namespace));
    anew.created = Some(at(29));
    assert_eq!(tell(&mut world, Change::Apply(anew)), denies);
    tell(&mut world, Change::Apply(good.clone()));
    assert_eq!(tell(&mut world, Change::Delete(good.reference())), []);
    let bad = policy("p", unread(PolicyTarget::Namespace));
    assert_eq!(tell(&mut world, Change::Apply(bad)), denies);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// F31, F34: lists that are cut short, repeated and repeated again end with the last list, and
    /// no pod that every list names is ever taken away.
    #[test]
    fn lists_in_any_state_never_remove_what_they_name(
        lists in proptest::collection::vec((proptest::collection::btree_set(20..30_u8, 0..6), 0..8_usize), 1..6),
    ) {
        let mut world = shop_of(&["east", "west"]);
        let (mut proxy, mut session) = caller(&world);
        proxy.settle(&mut session, &world);
        let always: Vec<_> = shop().into_iter().filter(|o| o.cluster == id("west")).collect();
        let constant = format!("{EVERYWHERE}#west/shop/cart-12");
        let count = lists.len();
        for (number, (pods, cut)) in lists.iter().enumerate() {
            let last = number + 1 == count;
            let mut steps = vec![Change::Init { cluster: id("west") }];
            steps.extend(always.iter().cloned().map(Change::Apply));
            steps.extend(pods.iter().map(|n| Change::Apply(pod("west", "cart", *n))));
            if last {
                steps.push(Change::InitDone { cluster: id("west"), kept: BTreeSet::new() });
            } else {
                steps.truncate(*cut);
                steps.push(Change::Lost { cluster: id("west"), reason: "cut".into() });
            }
            for step in steps {
                session.dirty(&world.apply(step, at(100)));
                proxy.settle(&mut session, &world);
                prop_assert!(proxy.names(T::Endpoint).contains(&constant.as_str()));
            }
        }
        let wanted = lists.last().unwrap().0.iter().map(|n| format!("{EVERYWHERE}#west/shop/cart-{n}"));
        let found: Vec<_> = proxy.names(T::Endpoint).into_iter()
            .filter(|n| n.contains("#west/") && **n != constant).map(str::to_owned).collect();
        prop_assert_eq!(found, wanted.collect::<Vec<_>>());
    }
}

#[test]
fn a_kind_that_could_not_be_listed_stays_until_it_is() {
    let mut world = shop_of(&["east"]);
    let count = |world: &World, kind| {
        let status = world.clusters().next().unwrap();
        status.objects.get(&kind).copied().unwrap_or(0)
    };
    let (pods, services) = (count(&world, Kind::Pod), count(&world, Kind::Service));
    assert!(pods > 1 && services > 0);
    let mut tell = |change| world.apply(change, at(20));
    tell(Change::Init {
        cluster: id("east"),
    });
    tell(Change::InitDone {
        cluster: id("east"),
        kept: [Kind::Pod].into(),
    });
    let listed = |world: &World| (count(world, Kind::Pod), count(world, Kind::Service));
    assert_eq!(listed(&world), (pods, 0));
    // Now the pods can be listed after all, and one is left.
    let one = shop().into_iter().find(|o| o.spec.kind() == Kind::Pod);
    let mut one = one.unwrap();
    one.cluster = id("east");
    world.apply(Change::Apply(one), at(21));
    assert_eq!(listed(&world), (pods, 0));
    world.apply(
        Change::Listed {
            cluster: id("east"),
            kind: Kind::Pod,
        },
        at(22),
    );
    assert_eq!(listed(&world), (1, 0));
}
