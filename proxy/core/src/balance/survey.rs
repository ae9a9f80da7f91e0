//! How are the places of a service, taken together?
//!
//! A pick must not look at all endpoints, but its shares depend on all of them. So picks survey the
//! set in small steps on the side: at most [`STEP_ENDPOINTS`] of them in a millisecond, by whichever
//! thread comes first; nobody waits. What decides about a single endpoint (its ejection, is it
//! reachable, was it tried) is looked at freshly in every pick.

use std::sync::TryLockError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::ewma::{Stamp, forget};
use super::locality::{BalancePolicy, Places, View, shares};
use super::outlier::ejected_max;
use super::p2c::{Slot, is_out};
use super::set::{EndpointSet, Place, write};
use super::stats::EndpointStats;
use super::ticks::Ticks;

/// Endpoints that one pick looks at for the survey (ours to tune: about 2 µs).
const STEP_ENDPOINTS: usize = 64;
/// Time between two steps (ours to tune).
const STEP_INTERVAL: Duration = Duration::from_millis(1);
/// A survey of this age is good enough to say that nobody can be used.
const FRESH_ENOUGH: Duration = Duration::from_millis(5);
/// Evidence about a place fades within this time (ours to tune).
const FORGET_PLACE_MS: f32 = 30_000.0;
/// What a call is thought to cost where none was ever answered (ours to tune).
const UNKNOWN_LATENCY_US: f32 = 10_000.0;

/// What a survey is told.
pub(super) struct Surveyor<'a> {
    pub(super) policy: &'a BalancePolicy,
    pub(super) reachable: &'a dyn Fn(&Endpoint) -> bool,
    pub(super) now: Ticks,
}

/// A survey under way.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Which place and which of its endpoints is next.
    place: usize,
    next: usize,
    sums: Places<Sums>,
    /// Who is ejected; bounded by the set.
    ejected: Vec<Ejected>,
    usable: usize,
    /// Nobody of this service was seen before this survey.
    first: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Weight that can be used now.
    usable: f32,
    /// Weight that was there before, in whatever state it is now.
    known: f32,
    /// Weight that can be reached.
    all: f32,
    /// Weight times belief; and this by the costs: their harmonic mean is what a call meets, because
    /// picks avoid the dear ones. One pod that hangs makes no place dear.
    believed: f32,
    by_cost: f32,
    by_usual: f32,
    by_peak: f32,
    belief_max: f32,
}

#[derive(Debug)]
struct Ejected {
    until: Ticks,
    place: usize,
    weight: f32,
}

impl EndpointSet {
    /// Takes a step if one is due. A set's first survey is complete at once.
    pub(super) fn survey(&self, by: &Surveyor<'_>) {
        if by.now.0 >= self.due.load(Relaxed) {
            let whole = self.surveyed.load(Relaxed) == 0;
            self.step(by, if whole { usize::MAX } else { STEP_ENDPOINTS });
        }
    }

    /// Makes sure of a fresh survey: before it is said that there is nobody.
    pub(super) fn survey_now(&self, by: &Surveyor<'_>) {
        if by.now.since(Ticks(self.surveyed.load(Relaxed))) > FRESH_ENOUGH {
            self.step(by, usize::MAX);
        }
    }

    fn step(&self, by: &Surveyor<'_>, endpoints: usize) {
        let mut survey = match self.survey.try_lock() {
            Ok(survey) => survey,
            // Another thread surveys; its result will do.
            Err(TryLockError::WouldBlock) => return,
            // A survey only sums up; what is half done is finished.
            Err(TryLockError::Poisoned(left)) => left.into_inner(),
        };
        self.due.store(by.now.after(STEP_INTERVAL).0, Relaxed);
        if endpoints == usize::MAX {
            *survey = Survey::default();
        }
        if survey.advance(self, by, endpoints) {
            survey.publish(self, by);
            *survey = Survey {
                ejected: std::mem::take(&mut survey.ejected),
                ..Survey::default()
            };
            survey.ejected.clear();
            self.surveyed.store(by.now.0.max(1), Relaxed);
        }
    }
}

impl Survey {
    /// Looks at some more. True: all were looked at.
    fn advance(&mut self, set: &EndpointSet, by: &Surveyor<'_>, mut budget: usize) -> bool {
        if (self.place, self.next) == (0, 0) {
            self.first = set.endpoints().iter().all(|e| e.stats.is_unseen());
            self.sums = set.places.iter().map(|_| Sums::default()).collect();
        }
        while let Some(place) = set.places.get(self.place) {
            let healthy = place.healthy.slots();
            while let Some(slot) = healthy.get(self.next) {
                if budget == 0 {
                    return false;
                }
                budget = budget.saturating_sub(1);
                self.next = self.next.saturating_add(1);
                self.look_at(slot, by);
            }
            // Not counted against the budget: two words each, and rarely many.
            for missing in &place.missing {
                let counts = missing.stats.seen_unusable(self.first);
                let weight = if counts { missing.weight } else { 0.0 };
                self.add(|sums| (sums.known, sums.all) = (sums.known + weight, sums.all + weight));
            }
            (self.place, self.next) = (self.place.saturating_add(1), 0);
        }
        true
    }

    fn look_at(&mut self, slot: &Slot, by: &Surveyor<'_>) {
        if !(by.reachable)(&slot.endpoint) {
            return;
        }
        self.usable = self.usable.saturating_add(1);
        let stats: &EndpointStats = &slot.stats;
        let until = stats.ejected_until();
        if until > by.now {
            self.ejected.push(Ejected {
                until,
                place: self.place,
                weight: slot.weight,
            });
            self.add(|sums| {
                (sums.known, sums.all) = (sums.known + slot.weight, sums.all + slot.weight)
            });
            return;
        }
        let standing = stats.seen_healthy(self.first, by.now);
        let measured = Measured::of(stats, by.now);
        self.add(|sums| {
            sums.all += slot.weight;
            sums.known += if standing.fresh { 0.0 } else { slot.weight };
            sums.usable += slot.weight * standing.capacity;
            if let Some(measured) = measured {
                sums.add(slot.weight, &measured);
            }
        });
    }

    fn add(&mut self, change: impl FnOnce(&mut Sums)) {
        if let Some(sums) = self.sums.get_mut(self.place) {
            change(sums);
        }
    }

    fn publish(&mut self, set: &EndpointSet, by: &Surveyor<'_>) {
        let horizon = self.readmit(by);
        set.horizon.store(horizon.0, Relaxed);
        let places = set.places.iter().zip(&self.sums);
        let view = |(place, sums): (&Place, &Sums)| sums.view(by.policy.penalty_us(place.rank));
        let views: Places<View> = places.clone().map(view).collect();
        let mut up_to = 0.0;
        for ((place, sums), (view, share)) in places.zip(views.iter().zip(shares(&views))) {
            up_to += share;
            tell(place, sums, up_to);
            write(&place.digest.penalty_us, view.penalty_us);
        }
    }

    /// If more are ejected than may be, those that would return first stay in. Returns the horizon:
    /// who is ejected for less long is in.
    fn readmit(&mut self, by: &Surveyor<'_>) -> Ticks {
        let max = ejected_max(self.usable, by.policy.max_ejected_percent);
        self.ejected
            .sort_unstable_by_key(|ejected| std::cmp::Reverse(ejected.until));
        let Some(first_in) = self.ejected.get(max) else {
            return Ticks(0);
        };
        // Whoever returns at the same instant is in too: at most, not exactly, `max` stay out.
        let horizon = Ticks(first_in.until.0.saturating_add(1));
        for ejected in &self.ejected {
            if !is_out(ejected.until, horizon, by.now)
                && let Some(sums) = self.sums.get_mut(ejected.place)
            {
                sums.usable += ejected.weight;
            }
        }
        horizon
    }
}

/// What one endpoint says of its place, in µs.
struct Measured {
    cost: f32,
    usual: f32,
    peak: f32,
    belief: f32,
}

impl Measured {
    fn of(stats: &EndpointStats, now: Ticks) -> Option<Self> {
        let evidence = stats.evidence();
        // Waiting without an answer is evidence of at least as much latency.
        let silence = stats.silence_us(&evidence, now);
        if evidence.is_empty() {
            let (cost, peak, usual) = (silence, silence, UNKNOWN_LATENCY_US);
            return (silence > usual).then_some(Self {
                cost,
                usual,
                peak,
                belief: 1.0,
            });
        }
        let stamp = Stamp::of(now);
        let fading = forget(stamp.ms_since(evidence.stamp), FORGET_PLACE_MS);
        Some(Self {
            cost: evidence.mean_cost(stats.in_flight(), stamp).max(silence),
            usual: evidence.mean,
            peak: evidence.peak,
            belief: if silence > evidence.mean { 1.0 } else { fading },
        })
    }
}

impl Sums {
    fn add(&mut self, weight: f32, measured: &Measured) {
        let weight = weight * measured.belief;
        self.believed += weight;
        self.by_cost += weight / measured.cost.max(1.0);
        self.by_usual += weight / measured.usual.max(1.0);
        self.by_peak += weight / measured.peak.max(1.0);
        self.belief_max = self.belief_max.max(measured.belief);
    }

    /// A harmonic mean; 0 if nothing was measured.
    fn mean(&self, by: f32) -> f32 {
        if by > 0.0 { self.believed / by } else { 0.0 }
    }

    fn view(&self, penalty_us: f32) -> View {
        // What was there before is the measure; newcomers only add to what is left of it.
        let whole = if self.known > 0.0 {
            self.known
        } else {
            self.all
        };
        View {
            available: if whole > 0.0 {
                (self.usable / whole).min(1.0)
            } else {
                0.0
            },
            cost_us: self.mean(self.by_cost),
            usual_us: self.mean(self.by_usual),
            belief: self.belief_max,
            penalty_us,
        }
    }
}

fn tell(place: &Place, sums: &Sums, share_up_to: f32) {
    let view = sums.view(0.0);
    let peers = sums.mean(sums.by_peak);
    let peers = if peers > 0.0 {
        peers
    } else {
        UNKNOWN_LATENCY_US
    };
    write(&place.digest.share_up_to, share_up_to);
    write(&place.digest.available, view.available);
    write(&place.digest.cost_us, view.cost_us);
    write(&place.digest.peers_us, peers);
}
