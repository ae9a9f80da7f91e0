//! Which of these peers is the cheapest, without looking at more than two?
//!
//! Power of two choices over *peak latency x calls in flight*. Latency counts only beyond a random
//! allowance of up to twice, and beyond what is a scheduler's noise: equal pods, whose estimates differ by noise, share evenly; a pod that is
//! a little slower gets a little less; one that is far slower gets what is left. Among equal costs
//! it is the turn of the one that was used longer ago, so that calls one after another spread more
//! evenly than by lot. The draw is proportional to the weights.

use std::sync::Arc;

use super::endpoint::{Endpoint, EndpointId};
use super::ewma::{Evidence, Stamp};
use super::stats::EndpointStats;
use super::ticks::{Rng, Ticks, float, scale, unit};

/// Peaks below this are a scheduler's noise, not a pod's (ours to tune).
const NOISE_US: f32 = 4_000.0;
/// Pairs that are drawn before every peer is looked at (ours to tune).
const PAIRS_MAX: u32 = 4;

/// Peers of one kind in one place, with what a draw needs side by side.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    /// All weights equal: a draw is an index, and a pair is two different ones.
    even: bool,
    /// The mean weight; 1 if nobody is here.
    mean: f64,
}

/// Half a cache line, so that a draw touches one.
#[derive(Debug)]
#[repr(align(32))]
pub(super) struct Slot {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) stats: Arc<EndpointStats>,
    /// Relative to the table's mean.
    pub(super) weight: f32,
    /// Walker's alias method: below `keep` this slot, else the `alias`.
    keep: f32,
    alias: u32,
}

/// What one pick knows while it looks at endpoints.
pub(super) struct Looking<'a> {
    pub(super) reachable: &'a dyn Fn(&Endpoint) -> bool,
    /// Of the service.
    pub(super) port: u16,
    pub(super) exclude: &'a [EndpointId],
    pub(super) now: Ticks,
    /// Ejections that end before this are not honoured (too many are ejected).
    pub(super) horizon: Ticks,
    /// What the peers cost on average, in µs.
    pub(super) peers_us: f32,
}

impl Looking<'_> {
    pub(super) fn allows(&self, slot: &Slot) -> bool {
        !is_out(slot.stats.ejected_until(), self.horizon, self.now)
            && (self.exclude.is_empty() || !self.exclude.contains(&slot.endpoint.id))
    }

    /// Does it have the port, and is there a way? Looks at what stands outside of the slot.
    pub(super) fn reaches(&self, slot: &Slot) -> bool {
        slot.endpoint.target_port(self.port).is_some() && (self.reachable)(&slot.endpoint)
    }

    fn latency(&self, slot: &Slot) -> f32 {
        // The first answers of a pod say more of cold caches and new connections than of the pod.
        let cost = if slot.stats.is_hardly_known() {
            self.peers_us
        } else {
            slot.stats
                .evidence()
                .peak_cost(self.peers_us, Stamp::of(self.now))
        };
        cost.max(NOISE_US) * slot.stats.surcharge(self.now)
    }

    /// The cheaper one first.
    fn rank<'t>(&self, a: &'t Slot, b: &'t Slot, bits: u64) -> (&'t Slot, &'t Slot) {
        let side = |slot: &Slot| Side {
            latency: self.latency(slot),
            in_flight: slot.stats.in_flight(),
            weight: slot.weight,
            used: slot.stats.used(),
        };
        if a_is_cheaper(&side(a), &side(b), bits) {
            (a, b)
        } else {
            (b, a)
        }
    }
}

struct Side {
    latency: f32,
    in_flight: u32,
    weight: f32,
    /// When it was chosen last.
    used: Ticks,
}

fn a_is_cheaper(a: &Side, b: &Side, bits: u64) -> bool {
    let allowance = 1.0 + unit(bits);
    let (a_us, b_us) = (a.latency, b.latency);
    let (a_us, b_us) = if a_us > b_us * allowance {
        (a_us / allowance, b_us)
    } else if b_us > a_us * allowance {
        (a_us, b_us / allowance)
    } else {
        (1.0, 1.0)
    };
    let a_load = load(a_us, a.in_flight, a.weight);
    let b_load = load(b_us, b.in_flight, b.weight);
    if a_load < b_load || b_load < a_load {
        a_load < b_load
    } else if a.used != b.used {
        a.used < b.used
    } else {
        // A coin's toss, by bit 63: not one of those that `unit` takes.
        bits >> 63 == 0
    }
}

impl EndpointStats {
    /// Is `a` the cheaper of two peers of equal weight?
    pub(crate) fn cheaper(a: &Self, b: &Self, rng: &mut Rng, now: Ticks) -> bool {
        let (a_seen, b_seen) = (a.evidence(), b.evidence());
        // Whoever was never used is as the other one.
        let peers = match (a_seen.is_empty(), b_seen.is_empty()) {
            (false, false) => f32::midpoint(a_seen.peak, b_seen.peak),
            _ => a_seen.peak.max(b_seen.peak),
        };
        let side = |stats: &Self, seen: &Evidence| Side {
            latency: seen.peak_cost(peers, Stamp::of(now)).max(NOISE_US) * stats.surcharge(now),
            in_flight: stats.in_flight(),
            weight: 1.0,
            used: stats.used(),
        };
        a_is_cheaper(&side(a, &a_seen), &side(b, &b_seen), rng.bits())
    }
}

/// A measure of load: the cost of one more call on top of those in flight, for a weight.
fn load(latency: f32, in_flight: u32, weight: f32) -> f32 {
    latency * (1.0 + float(in_flight) / weight)
}

/// Is an ejection in force?
pub(super) fn is_out(until: Ticks, horizon: Ticks, now: Ticks) -> bool {
    until > now && until >= horizon
}

impl Table {
    /// Endpoints of weight 0 are left out.
    pub(super) fn new(endpoints: impl Iterator<Item = Arc<Endpoint>>) -> Self {
        let endpoints: Vec<_> = endpoints.filter(|e| e.weight > 0).collect();
        let sum: f64 = endpoints.iter().map(|e| f64::from(e.weight)).sum();
        let count = f64::from(u32::try_from(endpoints.len()).unwrap_or(u32::MAX));
        let mean = if sum > 0.0 { sum / count } else { 1.0 };
        let even = endpoints.windows(2).all(|pair| match pair {
            [a, b] => a.weight == b.weight,
            _ => true,
        });
        let slots = endpoints.into_iter().map(|endpoint| {
            let weight = relative(endpoint.weight, mean);
            Slot {
                stats: Arc::clone(&endpoint.stats),
                weight,
                keep: 1.0,
                alias: 0,
                endpoint,
            }
        });
        let mut table = Self {
            slots: slots.collect(),
            even,
            mean,
        };
        if !even {
            table.alias();
        }
        table
    }

    /// A weight in the measure of this table's.
    pub(super) fn relative(&self, weight: u32) -> f32 {
        relative(weight, self.mean)
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The cheaper of two that are allowed, or the only one. None: nobody is.
    pub(super) fn choose(&self, looking: &Looking<'_>, rng: &mut Rng) -> Option<&Arc<Endpoint>> {
        if let [only] = &*self.slots {
            return Some(only)
                .filter(|slot| looking.allows(slot) && looking.reaches(slot))
                .map(|slot| &slot.endpoint);
        }
        for _ in 0..PAIRS_MAX {
            let (a, b) = self.draw(rng)?;
            let (first, second) = match (looking.allows(a), looking.allows(b)) {
                (true, true) if !std::ptr::eq(a, b) => {
                    let (first, second) = looking.rank(a, b, rng.bits());
                    (first, Some(second))
                }
                (true, _) => (a, None),
                (false, true) => (b, None),
                (false, false) => continue,
            };
            if looking.reaches(first) {
                return Some(&first.endpoint);
            }
            if let Some(second) = second.filter(|s| looking.reaches(s)) {
                return Some(&second.endpoint);
            }
        }
        self.search(looking, rng)
    }

    /// Two by weight: different ones if the weights are equal, else independent draws, because
    /// to insist on a difference would favour the light ones.
    fn draw(&self, rng: &mut Rng) -> Option<(&Slot, &Slot)> {
        let n = self.slots.len();
        let bits = rng.bits();
        if self.even {
            let a = scale(bits, n);
            let step = scale(bits << 32, n.saturating_sub(1)).saturating_add(1);
            let b = a.saturating_add(step);
            let b = if b >= n { b.saturating_sub(n) } else { b };
            return self.slots.get(a).zip(self.slots.get(b));
        }
        self.draw_one(bits).zip(self.draw_one(rng.bits()))
    }

    fn draw_one(&self, bits: u64) -> Option<&Slot> {
        let slot = self.slots.get(scale(bits, self.slots.len()))?;
        if unit(bits) < slot.keep {
            Some(slot)
        } else {
            self.slots.get(usize::try_from(slot.alias).ok()?)
        }
    }

    /// Looks at all, for when few are allowed: draws two of them by weight in one walk.
    fn search(&self, looking: &Looking<'_>, rng: &mut Rng) -> Option<&Arc<Endpoint>> {
        let (mut sum, mut a, mut b) = (0.0f32, None, None);
        let allowed = |slot: &&Slot| looking.allows(slot) && looking.reaches(slot);
        for slot in self.slots.iter().filter(allowed) {
            sum += slot.weight;
            if rng.unit() * sum < slot.weight {
                a = Some(slot);
            }
            if rng.unit() * sum < slot.weight {
                b = Some(slot);
            }
        }
        let (a, b) = a.zip(b)?;
        Some(&looking.rank(a, b, rng.bits()).0.endpoint)
    }

    /// Vose's construction: every slot keeps up to its own weight and lends the rest to one other.
    fn alias(&mut self) {
        let (mut light, mut heavy) = (Vec::new(), Vec::new());
        let mut left: Vec<f32> = self.slots.iter().map(|s| s.weight).collect();
        for (at, weight) in left.iter().enumerate() {
            if *weight < 1.0 {
                light.push(at)
            } else {
                heavy.push(at)
            }
        }
        while let (Some(poor), Some(rich)) = (light.pop(), heavy.pop()) {
            let has = left.get(poor).copied().unwrap_or(1.0);
            if let Some(slot) = self.slots.get_mut(poor) {
                // Beyond 2^32 endpoints there would be no alias; the draw finds none and searches.
                (slot.keep, slot.alias) = (has, u32::try_from(rich).unwrap_or(u32::MAX));
            }
            if let Some(rest) = left.get_mut(rich) {
                *rest -= 1.0 - has;
                if *rest < 1.0 {
                    light.push(rich)
                } else {
                    heavy.push(rich)
                }
            }
        }
        // What remains differs from 1 by rounding only: it keeps all, as it was made.
    }
}

/// At least a trace, so that no division is by zero however the weights are spread.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding a ratio of weights is meant"
)]
fn relative(weight: u32, mean: f64) -> f32 {
    (f64::from(weight) / mean).max(1e-9) as f32
}
