//! What picking promises, on a still clock; `simulation` lets the clock run.

mod simulation;

use super::Rng;
use super::*;
use isthmus_proto::resource;
use proptest::prelude::*;
use std::time::Duration;

const NOW: Ticks = Ticks(1_000_000_000_000);

pub(super) fn me() -> Me {
    Me {
        cluster: "east".parse().unwrap(),
        network: "net".parse().unwrap(),
        locality: isthmus_proto::locality::Locality {
            region: "r1".into(),
            zone: "a".into(),
        },
    }
}

pub(super) fn endpoint_with(
    cluster: &str,
    pod: usize,
    stats: Arc<EndpointStats>,
    change: impl Fn(&mut resource::Endpoint),
) -> Arc<Endpoint> {
    let mut from = resource::Endpoint {
        name: format!("{cluster}/shop/cart-{pod}"),
        service: "shop/cart.shop.svc.clusterset.local".into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        network: "net".into(),
        health: resource::Health::Healthy.into(),
        origin: Some(resource::Origin {
            cluster: cluster.into(),
            ..Default::default()
        }),
        ports: vec![resource::PortMapping {
            service_port: 80,
            target_port: 8080,
        }],
        ..Default::default()
    };
    change(&mut from);
    Arc::new(Endpoint::compile(&from, stats).unwrap())
}

fn endpoint(cluster: &str, pod: usize, change: impl Fn(&mut resource::Endpoint)) -> Arc<Endpoint> {
    endpoint_with(cluster, pod, Arc::default(), change)
}

fn healthy(cluster: &str, pods: usize) -> Vec<Arc<Endpoint>> {
    (0..pods)
        .map(|pod| endpoint(cluster, pod, |_| ()))
        .collect()
}

fn set(endpoints: Vec<Arc<Endpoint>>) -> EndpointSet {
    EndpointSet::new(endpoints, &me())
}

/// Picks without anything ever being in flight; counts by endpoint.
fn counts(set: &EndpointSet, picks: usize, now: Ticks) -> Vec<usize> {
    let mut rng = Rng::new(11);
    let mut counts = vec![0; set.len()];
    for _ in 0..picks {
        let chosen = choose(set, &[], &mut rng, now).unwrap();
        // Used, and at once over: its turn has been.
        drop(chosen.stats.begin(now));
        let at = set
            .endpoints()
            .iter()
            .position(|e| e.id == chosen.id)
            .unwrap();
        counts[at] += 1;
    }
    counts
}

/// A call to the port that all have.
fn to(tried: &[EndpointId]) -> Call<'_> {
    Call { port: 80, tried }
}

fn choose(
    set: &EndpointSet,
    exclude: &[EndpointId],
    rng: &mut Rng,
    now: Ticks,
) -> Result<Arc<Endpoint>, Failure> {
    pick(
        set,
        &BalancePolicy::default(),
        &|_| true,
        &to(exclude),
        rng,
        now,
    )
}

fn eject(endpoint: &Endpoint, now: Ticks) -> Ticks {
    for _ in 0..5 {
        let call = endpoint.stats.begin(now);
        let latency = Duration::from_millis(1);
        if let Verdict::Eject { until } =
            call.finish(Outcome::NoAnswer, latency, now, &OutlierPolicy::default())
        {
            return until;
        }
    }
    panic!("five failures must eject");
}

#[test]
fn places_are_bounded_however_clusters_are_charged_and_ones_own_is_free() {
    let charged = |cluster: &str, ms: u32| endpoint(cluster, 1, |e| e.charge_ms = ms);
    let mut all = vec![charged("east", 500)];
    all.extend((0..40).map(|n| charged(&format!("c{n}"), n + 1)));
    let set = set(all);
    let mut rng = Rng::new(1);
    choose(&set, &[], &mut rng, NOW).unwrap();
    let view = set.view();
    assert_eq!(view.len(), 16);
    assert_eq!(
        view[0].penalty,
        Duration::from_millis(2),
        "its zone is not known"
    );
    assert_eq!(view[1].penalty, Duration::from_millis(21));
    assert_eq!(view.iter().map(|place| place.healthy).sum::<usize>(), 41);
}

#[test]
fn an_empty_set_and_an_unusable_one_differ() {
    let mut rng = Rng::new(1);
    assert_eq!(
        choose(&set(vec![]), &[], &mut rng, NOW).unwrap_err(),
        Failure::NoEndpoint
    );
    for change in [
        |e: &mut resource::Endpoint| e.health = resource::Health::Unhealthy.into(),
        |e: &mut resource::Endpoint| e.weight = Some(0),
    ] {
        let set = set(vec![endpoint("east", 0, change)]);
        let failure = choose(&set, &[], &mut rng, NOW).unwrap_err();
        assert_eq!(failure, Failure::NoHealthyEndpoint);
    }
    let set = set(healthy("east", 3));
    let unreachable = pick(
        &set,
        &BalancePolicy::default(),
        &|_| false,
        &to(&[]),
        &mut rng,
        NOW,
    );
    assert_eq!(unreachable.unwrap_err(), Failure::NoHealthyEndpoint);
}

#[test]
fn places_are_sorted_by_distance() {
    let locality = |region: &str, zone: &str| {
        let locality = resource::Locality {
            region: region.into(),
            zone: zone.into(),
        };
        move |e: &mut resource::Endpoint| e.locality = Some(locality.clone())
    };
    let set = set(vec![
        endpoint("west", 0, locality("r2", "a")),
        endpoint("west", 1, locality("r1", "a")),
        endpoint("east", 2, locality("r1", "b")),
        endpoint("east", 3, locality("r1", "a")),
        endpoint("east", 4, |_| ()),
    ]);
    let distances: Vec<_> = set.endpoints().iter().map(|e| me().distance(e)).collect();
    use Distance::{Cluster, Region, World, Zone};
    assert_eq!(distances, [World, Region, Cluster, Zone, Cluster]);
    assert_eq!(
        counts(&set, 1_000, NOW),
        [0, 0, 0, 1_000, 0],
        "the nearest place keeps all"
    );
    let shown: Vec<_> = set.view().iter().map(|p| (p.distance, p.healthy)).collect();
    assert_eq!(shown, [(Zone, 1), (Cluster, 2), (Region, 1), (World, 1)]);
}

#[test]
fn equal_endpoints_share_evenly_and_weights_are_kept() {
    let even = counts(&set(healthy("west", 4)), 10_000, NOW);
    assert!(even.iter().all(|c| (2_350..2_650).contains(c)), "{even:?}");
    let weights = [1u32, 2, 5, 0, 12];
    let pods = weights.iter().enumerate();
    let set = set(pods
        .map(|(i, w)| endpoint("west", i, |e| e.weight = Some(*w)))
        .collect());
    let shares = counts(&set, 20_000, NOW);
    for (count, weight) in shares.iter().zip(weights) {
        let due = 1_000.0 * f64::from(weight);
        assert!((*count as f64 - due).abs() <= 0.1 * due, "{shares:?}");
    }
}

#[test]
fn the_busy_one_gets_less() {
    let set = set(healthy("east", 2));
    let held: Vec<_> = (0..3)
        .map(|_| set.endpoints()[0].stats.begin(NOW))
        .collect();
    assert_eq!(counts(&set, 100, NOW), [0, 100]);
    drop(held);
    assert!(counts(&set, 100, NOW).iter().all(|c| *c > 20));
}

#[test]
fn what_was_tried_is_avoided_while_others_are_left() {
    let mut rng = Rng::new(5);
    let mut endpoints = healthy("east", 3);
    endpoints.extend(healthy("west", 1));
    let ids: Vec<_> = endpoints.iter().map(|e| e.id).collect();
    let set = set(endpoints);
    for _ in 0..200 {
        let second = choose(&set, &ids[..2], &mut rng, NOW).unwrap();
        assert_eq!(second.id, ids[2]);
        let other_cluster = choose(&set, &ids[..3], &mut rng, NOW).unwrap();
        assert_eq!(other_cluster.id, ids[3]);
        assert!(
            choose(&set, &ids, &mut rng, NOW).is_ok(),
            "nobody else is left"
        );
    }
}

#[test]
fn draining_ones_are_the_last_resort_and_unhealthy_ones_none() {
    let draining = |e: &mut resource::Endpoint| e.health = resource::Health::Draining.into();
    let unhealthy = |e: &mut resource::Endpoint| e.health = resource::Health::Unhealthy.into();
    let mut endpoints = vec![
        endpoint("east", 0, draining),
        endpoint("east", 1, unhealthy),
    ];
    assert_eq!(counts(&set(endpoints.clone()), 100, NOW), [100, 0]);
    endpoints.push(endpoint("west", 2, |_| ()));
    assert_eq!(counts(&set(endpoints), 100, NOW), [0, 0, 100]);
}

#[test]
fn an_ejected_one_gets_nothing_until_its_time() {
    let set = set(healthy("west", 4));
    counts(&set, 10, NOW);
    let until = eject(&set.endpoints()[1], NOW);
    assert_eq!(until, NOW.after(Duration::from_secs(10)));
    assert!(set.is_out(&set.endpoints()[1], NOW));
    for now in [NOW, NOW.after(Duration::from_secs(5)), Ticks(until.0 - 1)] {
        assert_eq!(counts(&set, 1_000, now)[1], 0);
    }
    let back = counts(&set, 1_000, until.after(WARM_UP));
    assert!(back[1] > 100, "{back:?}");
}

#[test]
fn ejections_stop_at_the_limit_in_stages() {
    let set = set(healthy("east", 10));
    counts(&set, 10, NOW);
    // Ejected one after another: those at the front return first.
    for (i, endpoint) in set.endpoints().iter().enumerate() {
        eject(endpoint, Ticks(NOW.0 + i as u64));
    }
    let now = NOW.after(Duration::from_secs(1));
    let counts = counts(&set, 2_000, now);
    let used = counts.iter().filter(|c| **c > 0).count();
    assert_eq!(used, 5, "half stay out: {counts:?}");
    assert!(
        counts[..5].iter().all(|c| *c > 0),
        "those that return first: {counts:?}"
    );
}

#[test]
fn a_single_endpoint_is_never_ejected_into_nothing() {
    let set = set(healthy("west", 1));
    eject(&set.endpoints()[0], NOW);
    assert_eq!(counts(&set, 10, NOW), [10]);
    let all = BalancePolicy {
        max_ejected_percent: 100,
        ..BalancePolicy::default()
    };
    let picked = pick(
        &set,
        &all,
        &|_| true,
        &to(&[]),
        &mut Rng::new(1),
        NOW.after(WARM_UP / 2),
    );
    assert_eq!(
        picked.unwrap_err(),
        Failure::NoHealthyEndpoint,
        "who says 100 means it"
    );
}

#[test]
fn a_client_keeps_to_its_pod_while_that_can_be_used_and_not_longer_than_asked() {
    let span = Duration::from_secs(60);
    let policy = BalancePolicy {
        client_affinity: Some(span),
        ..BalancePolicy::default()
    };
    let set = set([healthy("east", 5), healthy("west", 5)].concat());
    let mut rng = Rng::new(7);
    let mut call = |exclude: &[EndpointId], now: Ticks| {
        let found = pick(&set, &policy, &|_| true, &to(exclude), &mut rng, now).unwrap();
        drop(found.stats.begin(now));
        found
    };
    let first = call(&[], NOW);
    let mut now = NOW;
    for _ in 0..200 {
        // Each call begins the time anew.
        now = now.after(span);
        assert_eq!(call(&[], now).id, first.id);
    }
    // A try that failed there goes elsewhere, and the client stays where it came to.
    let second = call(&[first.id], now.after(Duration::from_secs(1)));
    assert_ne!(second.id, first.id);
    now = now.after(Duration::from_secs(2));
    assert_eq!(call(&[], now).id, second.id);
    eject(&second, now);
    now = now.after(Duration::from_millis(1));
    let third = call(&[], now);
    assert_ne!(third.id, second.id);
    // Later than asked, everybody is drawn again.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        now = now.after(span + Duration::from_secs(1));
        seen.insert(call(&[], now).name.to_string());
    }
    assert!(seen.len() > 2, "{seen:?}");
}

#[test]
fn a_large_set_is_surveyed_in_steps() {
    let mut endpoints = healthy("east", 400);
    endpoints.extend(healthy("west", 10));
    let set = set(endpoints);
    counts(&set, 1, NOW);
    for endpoint in &set.endpoints()[..200] {
        eject(endpoint, NOW);
    }
    let mut rng = Rng::new(2);
    for step in 0..20 {
        let _ = choose(
            &set,
            &[],
            &mut rng,
            NOW.after(Duration::from_millis(step * 2)),
        );
    }
    let share = set.view()[1].share;
    assert!((0.25..0.35).contains(&share), "{share}");
}

#[test]
fn stats_outlive_generations() {
    let stats: Vec<Arc<EndpointStats>> = (0..3).map(|_| Arc::default()).collect();
    let generation = || {
        let pods = stats.iter().enumerate();
        set(pods
            .map(|(i, s)| endpoint_with("west", i, Arc::clone(s), |_| ()))
            .collect())
    };
    let (first, second) = (generation(), generation());
    counts(&first, 10, NOW);
    eject(&first.endpoints()[2], NOW);
    assert_eq!(counts(&second, 300, NOW)[2], 0);
    assert_eq!(first.endpoints()[2].id, second.endpoints()[2].id);
}

#[test]
fn a_new_pod_warms_up_beside_known_ones() {
    let old = healthy("west", 3);
    counts(&set(old.clone()), 100, NOW);
    let mut all = old;
    all.push(endpoint("west", 3, |_| ()));
    let set = set(all);
    let at = |seconds| NOW.after(Duration::from_secs(seconds));
    let share = |seconds| counts(&set, 4_000, at(seconds))[3];
    let shares = [share(0), share(4), share(7), share(10)];
    assert!(shares[0] <= 40, "{shares:?}");
    assert!(shares.windows(2).all(|s| s[0] < s[1]), "{shares:?}");
    assert!((900..1_100).contains(&shares[3]), "{shares:?}");
    assert!(set.view()[0].available >= 1.0, "a newcomer is no loss");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_share_that_leaves_grows_with_lost_capacity(pods in 1usize..12, seed: u64) {
        let mut before = 0.0f64;
        for lost in 0..=pods {
            let unhealthy = |at: usize| move |e: &mut resource::Endpoint| {
                if at < lost { e.health = resource::Health::Unhealthy.into(); }
            };
            let mut endpoints: Vec<_> =
                (0..pods).map(|at| endpoint("east", at, unhealthy(at))).collect();
            endpoints.extend(healthy("west", 4));
            let set = set(endpoints);
            let mut rng = Rng::new(seed);
            let away = (0..2_000)
                .filter(|_| choose(&set, &[], &mut rng, NOW).unwrap().cluster.as_str() == "west")
                .count() as f64 / 2_000.0;
            // Never more than what was lost, never less than last time, no step above 1.4 pods.
            prop_assert!(away <= lost as f64 / pods as f64 + 0.05, "{lost}/{pods}: {away}");
            prop_assert!(away >= before - 0.05);
            prop_assert!(away - before <= 1.4 / pods as f64 + 0.05);
            before = away;
        }
        prop_assert!(before >= 1.0);
    }

    #[test]
    fn whoever_is_picked_may_be_picked(
        pods in proptest::collection::vec((0u32..3, 1i32..4, any::<bool>(), any::<bool>(), any::<bool>()), 1..20),
        seed: u64, percent in 0u32..=100,
    ) {
        let endpoints: Vec<_> = pods.iter().enumerate().map(|(i, (weight, health, far, ..))| {
            endpoint(if *far { "west" } else { "east" }, i, |e| {
                e.weight = Some(*weight);
                e.health = *health;
            })
        }).collect();
        let open: Vec<_> = endpoints.iter().zip(&pods).filter(|(_, p)| p.3).map(|(e, _)| e.id).collect();
        let set = set(endpoints);
        for (endpoint, pod) in set.endpoints().iter().zip(&pods) {
            if pod.4 { eject(endpoint, NOW); }
        }
        let policy = BalancePolicy { max_ejected_percent: percent, ..BalancePolicy::default() };
        let reachable = |e: &Endpoint| open.contains(&e.id);
        let mut rng = Rng::new(seed);
        let usable = |e: &Endpoint| e.weight > 0 && e.health != Health::Unhealthy && reachable(e);
        for _ in 0..20 {
            match pick(&set, &policy, &reachable, &to(&[]), &mut rng, NOW) {
                Ok(chosen) => {
                    prop_assert!(usable(&chosen));
                    let better = set.endpoints().iter().any(|e| {
                        usable(e) && e.health == Health::Healthy && !set.is_out(e, NOW)
                    });
                    prop_assert!(!better || chosen.health == Health::Healthy);
                }
                Err(failure) => {
                    prop_assert_eq!(failure, Failure::NoHealthyEndpoint);
                    let left = set.endpoints().iter().any(|e| usable(e) && !set.is_out(e, NOW));
                    prop_assert!(!left);
                }
            }
        }
    }
}
