//! A small world: pods with workers and queues, proxies that measure, a clock that is an argument.
//! Every run is a seed.
#![expect(clippy::cast_possible_truncation, reason = "simulated times are small")]

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

#[derive(Clone, Copy)]
struct Pod {
    cluster: &'static str,
    workers: usize,
    service_ms: f64,
    /// Spread of the service time: 0 is constant, 1 exponential.
    spread: f64,
    state: State,
    /// What its cluster is charged, in ms.
    charge: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Up,
    /// Answers 503 after a millisecond.
    Failing,
    /// Never answers; the caller gives up after a second.
    Hanging,
    /// Discovery says so.
    Unready,
}

const LOCAL: Pod = Pod {
    cluster: "east",
    workers: 4,
    service_ms: 20.0,
    spread: 1.0,
    state: State::Up,
    charge: 0,
};
const REMOTE: Pod = Pod {
    cluster: "west",
    ..LOCAL
};
const RTT: u64 = 20 * MS;

struct Proxy {
    set: EndpointSet,
    stats: Vec<Arc<EndpointStats>>,
    rng: Rng,
}

struct World {
    now: u64,
    pods: Vec<Pod>,
    free_at: Vec<Vec<u64>>,
    proxies: Vec<Proxy>,
    rng: Rng,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    open: Vec<Option<Call>>,
    done: Vec<Done>,
}

struct Call {
    attempt: Attempt,
    pod: usize,
    began: u64,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
struct Done {
    began: u64,
    pod: usize,
    latency_ms: f64,
    ok: bool,
}

impl World {
    fn new(pods: &[Pod], proxies: usize, seed: u64) -> Self {
        let mut world = Self {
            now: SECOND,
            pods: pods.to_vec(),
            free_at: pods.iter().map(|p| vec![0; p.workers]).collect(),
            proxies: Vec::new(),
            rng: Rng::new(seed),
            events: BinaryHeap::new(),
            open: Vec::new(),
            done: Vec::new(),
        };
        for at in 0..proxies {
            let stats: Vec<_> = pods.iter().map(|_| Arc::default()).collect();
            let rng = Rng::new(seed.wrapping_mul(31).wrapping_add(at as u64));
            world.proxies.push(Proxy {
                set: set(vec![]),
                stats,
                rng,
            });
        }
        world.discover();
        world
    }

    /// Every proxy gets a new generation of the set, as the pods are now.
    fn discover(&mut self) {
        for proxy in &mut self.proxies {
            let endpoints = self.pods.iter().zip(&proxy.stats).enumerate();
            let compile = |(at, (pod, stats)): (usize, (&Pod, &Arc<EndpointStats>))| {
                endpoint_with(pod.cluster, at, Arc::clone(stats), |e| {
                    e.charge_ms = pod.charge;
                    if pod.state == State::Unready {
                        e.health = resource::Health::Unhealthy.into();
                    }
                })
            };
            proxy.set = set(endpoints.map(compile).collect());
        }
    }

    /// Poisson arrivals at `rate` a second, for `seconds`.
    fn run(&mut self, rate: f64, seconds: f64) {
        let end = self.now + (seconds * 1e9) as u64;
        let mut next = self.now;
        loop {
            next += (self.exponential() * 1e9 / rate) as u64;
            if next >= end {
                break;
            }
            self.finish_until(next);
            self.now = next;
            self.arrive();
        }
        self.finish_until(end);
        self.now = end;
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - f64::from(self.rng.unit())).max(1e-9).ln()
    }

    fn finish_until(&mut self, time: u64) {
        while let Some(Reverse((at, _, call))) = self.events.peek().copied() {
            if at > time {
                return;
            }
            self.events.pop();
            let call = self.open[call].take().unwrap();
            let latency = Duration::from_nanos(at - call.began);
            let ok = call.outcome == Outcome::Success;
            let policy = OutlierPolicy::default();
            let _ = call
                .attempt
                .finish(call.outcome, latency, Ticks(at), &policy);
            let latency_ms = latency.as_secs_f64() * 1e3;
            self.done.push(Done {
                began: call.began,
                pod: call.pod,
                latency_ms,
                ok,
            });
        }
    }

    fn arrive(&mut self) {
        let which = self.rng.below(self.proxies.len());
        let spread = self.exponential();
        let proxy = &mut self.proxies[which];
        let now = Ticks(self.now);
        let policy = BalancePolicy::default();
        let chosen = pick(
            &proxy.set,
            &policy,
            &|_| true,
            &to(&[]),
            &mut proxy.rng,
            now,
        )
        .unwrap();
        let at = proxy
            .set
            .endpoints()
            .iter()
            .position(|e| e.id == chosen.id)
            .unwrap();
        let pod = self.pods[at];
        let way = if pod.cluster == "east" { MS / 2 } else { RTT };
        let (end, outcome) = match pod.state {
            State::Failing => (self.now + way + MS, Outcome::ServerError),
            State::Hanging => (self.now + SECOND, Outcome::NoAnswer),
            State::Up | State::Unready => {
                let factor = 1.0 - pod.spread + pod.spread * spread;
                let service = (pod.service_ms * factor * 1e6) as u64;
                let worker = self.free_at[at].iter_mut().min().unwrap();
                *worker = (*worker).max(self.now + way / 2) + service;
                (*worker + way / 2, Outcome::Success)
            }
        };
        let attempt = chosen.stats.begin(now);
        self.open.push(Some(Call {
            attempt,
            pod: at,
            began: self.now,
            outcome,
        }));
        let call = self.open.len() - 1;
        self.events.push(Reverse((end, call as u64, call)));
    }

    fn since(&self, from: u64) -> impl Iterator<Item = &Done> {
        self.done.iter().filter(move |d| d.began >= from)
    }

    fn counts(&self, from: u64) -> Vec<f64> {
        let mut counts = vec![0.0; self.pods.len()];
        self.since(from).for_each(|d| counts[d.pod] += 1.0);
        counts
    }

    /// The share that left the local cluster, since a time.
    fn away(&self, from: u64) -> f64 {
        self.away_between(from, u64::MAX)
    }

    fn away_between(&self, from: u64, to: u64) -> f64 {
        let done: Vec<_> = self.since(from).filter(|d| d.began < to).collect();
        let away = done
            .iter()
            .filter(|d| self.pods[d.pod].cluster != "east")
            .count();
        away as f64 / (done.len() as f64).max(1.0)
    }

    fn latency(&self, from: u64, quantile: f64) -> f64 {
        let mut all: Vec<_> = self.since(from).map(|d| d.latency_ms).collect();
        all.sort_by(f64::total_cmp);
        all[((all.len() - 1) as f64 * quantile) as usize]
    }
}

fn variation(counts: &[f64]) -> f64 {
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<f64>() / n;
    let variance = counts.iter().map(|c| (c - mean) * (c - mean)).sum::<f64>() / n;
    variance.sqrt() / mean
}

fn pods(local: usize, remote: usize) -> Vec<Pod> {
    let mut pods = vec![LOCAL; local];
    pods.extend(vec![REMOTE; remote]);
    pods
}

/// A second's worth of load for `local` pods at this utilisation.
fn rate(local: f64, utilisation: f64) -> f64 {
    local * 4.0 * 50.0 * utilisation
}

fn failures(world: &World, from: u64) -> usize {
    world.since(from).filter(|d| !d.ok).count()
}

/// The share that left in each second since `from`.
fn seconds_away(world: &World, from: u64) -> Vec<f64> {
    let seconds = (world.now - from) / SECOND;
    let second = |i| world.away_between(from + i * SECOND, from + (i + 1) * SECOND);
    (0..seconds).map(second).collect()
}

/// So many pods in each of two other clusters, equally far; the second one is charged.
fn elsewhere(pods: usize, charge: u32) -> World {
    let dearer = Pod {
        cluster: "north",
        charge,
        ..REMOTE
    };
    let mut all = vec![REMOTE; pods];
    all.extend(vec![dearer; pods]);
    World::new(&all, 4, 7)
}

/// The share of the second cluster since a time.
fn dearer(world: &World, from: u64) -> f64 {
    let counts = world.counts(from);
    let (cheap, dear) = counts.split_at(counts.len() / 2);
    let (cheap, dear): (f64, f64) = (cheap.iter().sum(), dear.iter().sum());
    dear / (cheap + dear)
}

#[test]
fn of_clusters_that_are_equally_far_the_cheaper_one_is_called_until_it_is_full() {
    let mut world = elsewhere(8, 10);
    world.run(rate(8.0, 0.5), 20.0);
    let share = dearer(&world, 0);
    assert!(share < 0.02, "at half load {share} pay more");
    // More than the cheaper one can do.
    let full = world.now;
    world.run(rate(8.0, 1.3), 30.0);
    let settled = full + 10 * SECOND;
    let share = dearer(&world, settled);
    assert!(
        (0.15..0.6).contains(&share),
        "at 130 % load {share} pay more"
    );
    assert!(
        world.latency(settled, 0.99) < 400.0,
        "{}",
        world.latency(settled, 0.99)
    );
    // Without a price both are one place.
    let mut equal = elsewhere(8, 0);
    equal.run(rate(8.0, 0.5), 10.0);
    let share = dearer(&equal, 0);
    assert!((0.45..0.55).contains(&share), "{share}");
}

#[test]
fn a_lower_tier_is_left_in_proportion_to_what_it_loses() {
    let mut shares = Vec::new();
    for lost in [0, 2, 4, 6, 8] {
        let mut world = elsewhere(8, 100);
        world.run(rate(8.0, 0.2), 5.0);
        for pod in world.pods.iter_mut().take(lost) {
            pod.state = State::Unready;
        }
        world.discover();
        let after = world.now;
        world.run(rate(8.0, 0.2), 10.0);
        shares.push(dearer(&world, after));
    }
    assert!(shares[0] < 0.02, "{shares:?}");
    assert!(shares.is_sorted(), "{shares:?}");
    // No cliff: half of it carries more than half.
    assert!((0.2..0.5).contains(&shares[2]), "{shares:?}");
    assert!(shares[4] >= 1.0, "{shares:?}");
}

#[test]
fn a_service_elsewhere_is_spread_evenly_over_its_pods() {
    for (seed, per_second, proxies) in [(1, 50.0, 1), (2, 500.0, 1), (3, 200.0, 4)] {
        let mut world = World::new(&pods(0, 4), proxies, seed);
        world.run(per_second, 10_000.0 / per_second);
        let counts = world.counts(0);
        assert!(variation(&counts) < 0.05, "seed {seed}: {counts:?}");
    }
}

#[test]
fn while_there_is_room_traffic_stays() {
    for (seed, utilisation) in [(1, 0.1), (2, 0.5), (3, 0.8)] {
        let mut world = World::new(&pods(4, 12), 3, seed);
        world.run(rate(4.0, utilisation), 10.0);
        assert!(world.away(0) < 0.01, "at {utilisation}: {}", world.away(0));
    }
}

#[test]
fn what_is_too_much_leaves_and_no_more() {
    for (utilisation, proxies) in [(1.3, 1), (1.3, 6), (2.0, 3)] {
        let mut world = World::new(&pods(4, 12), proxies, 5);
        world.run(rate(4.0, utilisation), 5.0);
        let settled = world.now;
        world.run(rate(4.0, utilisation), 10.0);
        let due = 1.0 - 1.0 / utilisation;
        let away = world.away(settled);
        assert!(
            (due - 0.03..due + 0.06).contains(&away),
            "at {utilisation}: {away}"
        );
        // Steady: no second is far from the others.
        let seconds = seconds_away(&world, settled);
        assert!(
            seconds.iter().all(|s| (s - away).abs() < 0.15),
            "{seconds:?}"
        );
        assert!(
            world.latency(settled, 0.5) < 80.0,
            "{}",
            world.latency(settled, 0.5)
        );
    }
}

#[test]
fn lost_pods_send_their_share_away_and_take_it_back_smoothly() {
    for (lost, due) in [
        (1, 0.0..0.02),
        (2, 0.25..0.35),
        (3, 0.6..0.7),
        (4, 1.0..1.1),
    ] {
        let mut world = World::new(&pods(4, 12), 2, 7);
        world.run(rate(4.0, 0.2), 3.0);
        (0..lost).for_each(|pod| world.pods[pod].state = State::Unready);
        world.discover();
        let broken = world.now;
        world.run(rate(4.0, 0.2), 6.0);
        let away = world.away(broken);
        assert!(due.contains(&away), "{lost} lost: {away}");
        (0..lost).for_each(|pod| world.pods[pod].state = State::Up);
        world.discover();
        let mended = world.now;
        world.run(rate(4.0, 0.2), 12.0);
        let back = seconds_away(&world, mended);
        let jump = back
            .windows(2)
            .map(|w| (w[0] - w[1]).abs())
            .fold(away - back[0], f64::max);
        assert!(jump < 0.3, "{lost} lost: {back:?}");
        assert!(back[10] < 0.02, "{lost} lost: {back:?}");
    }
}

#[test]
fn a_full_place_that_loses_a_pod_sheds_just_that() {
    let mut world = World::new(&pods(4, 12), 2, 8);
    world.run(rate(4.0, 0.9), 5.0);
    world.pods[0].state = State::Unready;
    world.discover();
    world.run(rate(4.0, 0.9), 3.0);
    let settled = world.now;
    world.run(rate(4.0, 0.9), 8.0);
    // 0.9 of four pods on three: a sixth is too much.
    assert!(
        (0.13..0.24).contains(&world.away(settled)),
        "{}",
        world.away(settled)
    );
}

#[test]
fn a_failing_pod_is_ejected_within_five_failures_of_each_proxy() {
    let mut world = World::new(&pods(0, 4), 2, 9);
    world.run(100.0, 2.0);
    world.pods[0].state = State::Failing;
    let broken = world.now;
    world.run(100.0, 9.0);
    // Five each, and the few that were in flight by then.
    assert!(
        failures(&world, broken) <= 14,
        "{}",
        failures(&world, broken)
    );
    for proxy in &world.proxies {
        assert_eq!(proxy.stats[0].view(Ticks(world.now)).ejections_total, 1);
    }
    world.pods[0].state = State::Up;
    world.run(100.0, 25.0);
    let mended = world.now;
    world.run(100.0, 10.0);
    assert!(
        variation(&world.counts(mended)) < 0.12,
        "{:?}",
        world.counts(mended)
    );
}

/// How long one proxy that sends so much asks a pod of three that turned bad, until it is ejected.
fn ejected_after(of: Pod, rate: f64, seed: u64) -> Duration {
    let quick = Pod {
        service_ms: 1.0,
        ..of
    };
    let mut world = World::new(&[quick; 3], 1, seed);
    world.run(rate, 10.0);
    world.pods[1].state = State::Failing;
    let begun = world.now;
    while !world.proxies[0].stats[1].is_ejected(Ticks(world.now)) {
        world.run(rate, 0.02);
    }
    Ticks(world.now).since(Ticks(begun))
}

/// Also where so little is asked that a pod which failed is avoided long before it failed five times.
#[test]
fn a_failing_pod_is_ejected_in_two_seconds_at_any_rate() {
    for of in [LOCAL, REMOTE] {
        for rate in [20.0, 100.0, 500.0, 2_000.0] {
            for seed in 0..8 {
                let took = ejected_after(of, rate, seed);
                let what = format!("{} at {rate} a second, seed {seed}: {took:?}", of.cluster);
                assert!(took <= Duration::from_secs(2), "{what}");
            }
        }
    }
}

#[test]
fn a_local_cluster_that_fails_or_hangs_is_left_and_found_again() {
    for state in [State::Failing, State::Hanging] {
        let mut world = World::new(&pods(4, 8), 2, 10);
        world.run(rate(4.0, 0.4), 3.0);
        (0..4).for_each(|pod| world.pods[pod].state = state);
        let broken = world.now;
        world.run(rate(4.0, 0.4), 10.0);
        let failed = failures(&world, broken) as f64 / world.since(broken).count() as f64;
        assert!(failed < 0.03, "{failed}");
        assert!(world.away(broken + SECOND) > 0.95);
        (0..4).for_each(|pod| world.pods[pod].state = State::Up);
        world.run(rate(4.0, 0.4), 30.0);
        let mended = world.now;
        world.run(rate(4.0, 0.4), 5.0);
        assert!(world.away(mended) < 0.03, "{}", world.away(mended));
    }
}

#[test]
fn a_hanging_pod_takes_no_others_traffic_along() {
    let mut world = World::new(&pods(4, 8), 2, 11);
    world.run(rate(4.0, 0.4), 3.0);
    world.pods[1].state = State::Hanging;
    let broken = world.now;
    world.run(rate(4.0, 0.4), 10.0);
    assert!(world.away(broken) < 0.05, "{}", world.away(broken));
    assert!(
        failures(&world, broken) < 40,
        "{}",
        failures(&world, broken)
    );
}

#[test]
fn a_slow_pod_gets_its_small_share() {
    for per_second in [50.0, 400.0] {
        let mut pods = pods(0, 4);
        pods[0].service_ms = 200.0;
        let mut world = World::new(&pods, 1, 12);
        world.run(per_second, 5.0);
        let settled = world.now;
        world.run(per_second, 20.0);
        let counts = world.counts(settled);
        let share = counts[0] / counts.iter().sum::<f64>();
        // By speed it is due 1 of 31.
        assert!((0.005..0.05).contains(&share), "{per_second}: {counts:?}");
        assert!(variation(&counts[1..]) < 0.08, "{counts:?}");
    }
}

#[test]
fn a_pod_that_recovers_its_speed_recovers_its_share() {
    let mut world = World::new(&pods(0, 4), 1, 13);
    world.pods[0].service_ms = 400.0;
    world.run(100.0, 10.0);
    world.pods[0].service_ms = 20.0;
    world.run(100.0, 20.0);
    let mended = world.now;
    world.run(100.0, 20.0);
    assert!(
        variation(&world.counts(mended)) < 0.08,
        "{:?}",
        world.counts(mended)
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || {
        let mut world = World::new(&pods(2, 2), 2, 99);
        world.run(300.0, 3.0);
        world
            .done
            .iter()
            .map(|d| (d.began, d.pod))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
