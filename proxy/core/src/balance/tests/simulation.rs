//! A small world: pods with workers and queues, proxies that measure, a clock that is an argument.
//! Every run is a seed.

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

const LOCAL: Pod =
    Pod { cluster: "east", workers: 4, service_ms: 20.0, spread: 1.0, state: State::Up };
const REMOTE: Pod = Pod { cluster: "west", ..LOCAL };
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
            world.proxies.push(Proxy { set: set(vec![]), stats, rng });
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
            let _ = call.attempt.finish(call.outcome, latency, Ticks(at), &policy);
            let latency_ms = latency.as_secs_f64() * 1e3;
            self.done.push(Done { began: call.began, pod: call.pod, latency_ms, ok });
        }
    }

    fn arrive(&mut self) {
        let which = self.rng.below(self.proxies.len());
        let spread = self.exponential();
        let proxy = &mut self.proxies[which];
        let now = Ticks(self.now);
        let policy = BalancePolicy::default();
        let chosen = pick(&proxy.set, &policy, &|_| true, &[], &mut proxy.rng, now).unwrap();
        let at = proxy.set.endpoints().iter().position(|e| e.id == chosen.id).unwrap();
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
        self.open.push(Some(Call { attempt, pod: at, began: self.now, outcome }));
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
        let away = done.iter().filter(|d| self.pods[d.pod].cluster != "east").count();
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

#[test]
fn explore() {
    for seed in 1..4 {
        for (rate, n) in [(50.0, 1), (500.0, 1), (200.0, 4)] {
            let mut w = World::new(&pods(0, 4), n, seed);
            w.run(rate, 10_000.0 / rate);
            eprintln!("even {seed} rate {rate}: cv {:.3} {:?}", variation(&w.counts(0)), w.counts(0));
        }
    }
    for rho in [0.3, 0.6, 0.8, 0.9, 1.0, 1.15, 1.3, 2.0] {
        for n in [1, 6] {
            let mut w = World::new(&pods(4, 12), n, 5);
            w.run(800.0 * rho, 10.0);
            let t = w.now;
            w.run(800.0 * rho, 20.0);
            let win: Vec<_> = (0..40).map(|i| w.away_between(t + i * SECOND/2, t + (i + 1) * SECOND/2)).collect();
            let m = win.iter().sum::<f64>() / 40.0;
            let sd = (win.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / 40.0).sqrt();
            eprintln!("rho {rho} n {n}: away {:.3} sd {:.3} mean {:.1} p50 {:.1} p99 {:.1}", w.away(t), sd,
              w.since(t).map(|d| d.latency_ms).sum::<f64>() / w.since(t).count() as f64, w.latency(t, 0.5), w.latency(t, 0.99));
        }
    }
    for rate in [50.0, 200.0, 400.0, 600.0] {
        let mut p = pods(0, 4);
        p[0].service_ms = 200.0;
        let mut w = World::new(&p, 1, 5);
        w.run(rate, 60.0);
        let t = 20*SECOND;
        let c = w.counts(t);
        eprintln!("slow rate {rate}: {:.4} {c:?} p50 {:.1} p99 {:.1}", c[0] / c.iter().sum::<f64>(), w.latency(t, 0.5), w.latency(t, 0.99));
    }
}
