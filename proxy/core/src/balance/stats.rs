//! What has this proxy seen of one endpoint?
//!
//! Plain atomics, relaxed: worker threads share them, and they stand beside the snapshots, so a new
//! generation forgets nothing. Two threads that finish at once may lose one sample of an average;
//! counts are exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::ewma::{Evidence, Sample, Stamp};
use super::outlier::{Outcome, OutlierPolicy, Verdict};
use super::ticks::Ticks;

/// A new or returning endpoint takes this long to get its full share (ours to tune).
pub const WARM_UP: Duration = Duration::from_secs(10);
/// The share of its capacity with which a cold endpoint starts (ours to tune).
const COLD_CAPACITY: f32 = 0.1;

/// Calls before a pod's latency counts against it (ours to tune).
const HARDLY_KNOWN_ATTEMPTS: u64 = 8;
/// Never looked at by a pick.
const UNSEEN: u32 = 0;
/// In its first warm-up: what it can do is a gain, not a part of what there was.
const FRESH: u32 = 1;
/// Was at full share once.
const KNOWN: u32 = 2;
/// Known, and gone from among the healthy.
const LOST: u32 = 3;

/// Measurements of one endpoint, shared by all workers. The fields keep their order (`repr(C)`), so
/// that all that a pick reads is in the first cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EndpointStats {
    in_flight: AtomicU32,
    /// In flight and not answered yet.
    waiting: AtomicU32,
    /// Mean latency and stamp, see `ewma`.
    mean: AtomicU64,
    /// Peak latency and the usual number in flight.
    peak: AtomicU64,
    errors: AtomicU32,
    consecutive_failures: AtomicU32,
    ejected_until: AtomicU64,
    /// When the warm-up ends.
    warm_at: AtomicU64,
    /// When the first of those that wait began.
    waiting_since: AtomicU64,
    ejections: AtomicU32,
    /// One of UNSEEN, FRESH, KNOWN, LOST.
    phase: AtomicU32,
    /// When the first of the failures in a row came.
    failing_since: AtomicU64,
    // Totals, for people.
    attempts_total: AtomicU64,
    /// When it was chosen last.
    used: AtomicU64,
    failures_total: AtomicU64,
    ejections_total: AtomicU64,
}

/// What people are shown of an endpoint's measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatsView {
    /// Calls or connections now.
    pub in_flight: u32,
    /// Symmetric average. Zero: never sampled.
    pub latency_mean: Duration,
    /// Peak-sensitive average.
    pub latency_peak: Duration,
    /// Share of failures among the last calls, 0 to 1.
    pub error_rate: f32,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Until when it is ejected. None: it is not.
    pub ejected_until: Option<Ticks>,
    /// Ejections on its record.
    pub ejections: u32,
    /// Calls since it was first seen.
    pub attempts_total: u64,
    /// ... that failed.
    pub failures_total: u64,
    /// Ejections since it was first seen.
    pub ejections_total: u64,
}

/// One call or connection in flight; ends when dropped.
#[derive(Debug)]
pub struct Attempt {
    stats: Arc<EndpointStats>,
    /// In flight when it began, itself included.
    in_flight: u32,
    answered: bool,
    /// How soon its answer began is measured.
    begun: bool,
    /// Its failure is counted.
    failed: bool,
}

impl EndpointStats {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A call or connection begins. It is in flight until the [`Attempt`] is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>, now: Ticks) -> Attempt {
        let in_flight = self.in_flight.fetch_add(1, Relaxed).saturating_add(1);
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.waiting_since.store(now.0, Relaxed);
        }
        self.attempts_total.fetch_add(1, Relaxed);
        self.used.store(now.0, Relaxed);
        Attempt {
            stats: Arc::clone(self),
            in_flight,
            answered: false,
            begun: false,
            failed: false,
        }
    }

    /// Too few calls yet to tell it from its peers, and none of them failed.
    pub(super) fn is_hardly_known(&self) -> bool {
        self.attempts_total.load(Relaxed) < HARDLY_KNOWN_ATTEMPTS
            && self.failures_total.load(Relaxed) == 0
    }

    pub(super) fn used(&self) -> Ticks {
        Ticks(self.used.load(Relaxed))
    }

    /// Calls or connections in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Is it under ejection, whether or not picks honour it?
    #[must_use]
    pub fn is_ejected(&self, now: Ticks) -> bool {
        self.ejected_until() > now
    }

    /// For people: admin pages and metrics.
    #[must_use]
    pub fn view(&self, now: Ticks) -> StatsView {
        let evidence = self.evidence();
        let micros = |us: f32| Duration::try_from_secs_f32(us / 1e6).unwrap_or_default();
        StatsView {
            in_flight: self.in_flight(),
            latency_mean: micros(evidence.mean),
            latency_peak: micros(evidence.peak),
            error_rate: evidence.errors,
            consecutive_failures: self.consecutive_failures.load(Relaxed),
            ejected_until: Some(self.ejected_until()).filter(|until| *until > now),
            ejections: self.ejections.load(Relaxed),
            attempts_total: self.attempts_total.load(Relaxed),
            failures_total: self.failures_total.load(Relaxed),
            ejections_total: self.ejections_total.load(Relaxed),
        }
    }

    pub(crate) fn ejected_until(&self) -> Ticks {
        Ticks(self.ejected_until.load(Relaxed))
    }

    pub(super) fn evidence(&self) -> Evidence {
        Evidence::from_words(
            self.mean.load(Relaxed),
            self.peak.load(Relaxed),
            self.errors.load(Relaxed),
        )
    }

    /// How long calls have waited without any answer coming, in µs.
    pub(super) fn silence_us(&self, evidence: &Evidence, now: Ticks) -> f32 {
        if self.waiting.load(Relaxed) == 0 {
            return 0.0;
        }
        let waited = now
            .since(Ticks(self.waiting_since.load(Relaxed)))
            .as_secs_f32()
            * 1e6;
        if evidence.is_empty() {
            return waited;
        }
        waited.min(Stamp::of(now).ms_since(evidence.stamp) * 1e3)
    }

    /// The factor by which it is dearer while it warms up: 2 falling to 1.
    pub(super) fn surcharge(&self, now: Ticks) -> f32 {
        2.0 - self.warmth(now)
    }

    /// 0 at the beginning of the warm-up, 1 from its end on.
    fn warmth(&self, now: Ticks) -> f32 {
        let left = Ticks(self.warm_at.load(Relaxed)).since(now);
        if left.is_zero() {
            return 1.0;
        }
        1.0 - left.min(WARM_UP).as_secs_f32() / WARM_UP.as_secs_f32()
    }

    /// A pick's survey saw it among the healthy. `first`: nothing of the service was seen before, so
    /// there is nobody to whom this one is new.
    pub(super) fn seen_healthy(&self, first: bool, now: Ticks) -> Standing {
        let phase = match self.phase.load(Relaxed) {
            UNSEEN if first => self.enter(KNOWN),
            UNSEEN => {
                self.warm_at.store(now.after(WARM_UP).0, Relaxed);
                self.enter(FRESH)
            }
            LOST => {
                self.warm_at.store(now.after(WARM_UP).0, Relaxed);
                self.enter(KNOWN)
            }
            FRESH if self.warmth(now) >= 1.0 => self.enter(KNOWN),
            phase => phase,
        };
        let capacity = COLD_CAPACITY + (1.0 - COLD_CAPACITY) * self.warmth(now);
        Standing {
            capacity,
            fresh: phase == FRESH,
        }
    }

    /// A survey saw it among those that are not healthy. False: it never was (a pod that starts), so
    /// nothing is missing. At the `first` look nobody can tell; then it counts.
    pub(super) fn seen_unusable(&self, first: bool) -> bool {
        match self.phase.load(Relaxed) {
            UNSEEN if !first => false,
            LOST => true,
            _ => self.enter(LOST) == LOST,
        }
    }

    pub(super) fn is_unseen(&self) -> bool {
        self.phase.load(Relaxed) == UNSEEN
    }

    fn enter(&self, phase: u32) -> u32 {
        self.phase.store(phase, Relaxed);
        phase
    }

    fn observe(&self, sample: Sample, now: Ticks) {
        let (mean, peak, errors) = self.evidence().observe(sample, Stamp::of(now)).to_words();
        self.mean.store(mean, Relaxed);
        self.peak.store(peak, Relaxed);
        self.errors.store(errors, Relaxed);
    }

    fn failed(&self, policy: &OutlierPolicy, now: Ticks) -> Verdict {
        self.failures_total.fetch_add(1, Relaxed);
        let before = self.ejected_until.load(Relaxed);
        // What was in flight when it was ejected may fail too; that is no new offence.
        if before > now.0 {
            return Verdict::Keep;
        }
        let failures = self
            .consecutive_failures
            .fetch_add(1, Relaxed)
            .saturating_add(1);
        if failures == 1 {
            self.failing_since.store(now.0, Relaxed);
        }
        let lasted = now.since(Ticks(self.failing_since.load(Relaxed)));
        if !policy.ejects(failures, lasted) {
            return Verdict::Keep;
        }
        let (count, until) = policy.sentence(self.ejections.load(Relaxed), Ticks(before), now);
        // Of several threads one ejects.
        if self
            .ejected_until
            .compare_exchange(before, until.0, Relaxed, Relaxed)
            .is_err()
        {
            return Verdict::Keep;
        }
        self.ejections.store(count, Relaxed);
        self.consecutive_failures.store(0, Relaxed);
        self.warm_at.store(until.after(WARM_UP).0, Relaxed);
        self.phase.store(KNOWN, Relaxed);
        self.ejections_total.fetch_add(1, Relaxed);
        Verdict::Eject { until }
    }
}

/// What an endpoint is worth now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Share of its capacity that counts, 0.1 to 1.
    pub(super) capacity: f32,
    /// In its first warm-up.
    pub(super) fresh: bool,
}

impl Attempt {
    /// The call was answered (its head came, or the connection was established), or failed. May be
    /// told once more when it has ended, or fails after it was answered; a failure counts once, however often it is
    /// told. It stays in flight.
    pub fn record(
        &mut self,
        outcome: Outcome,
        latency: Duration,
        now: Ticks,
        policy: &OutlierPolicy,
    ) -> Verdict {
        self.answer();
        let bad = outcome.is_failure() || outcome == Outcome::Refused;
        if bad && std::mem::replace(&mut self.failed, true) {
            return Verdict::Keep;
        }
        let latency_us = latency.as_secs_f32() * 1e6;
        let sample = |failed| Sample {
            latency_us,
            in_flight: self.in_flight,
            failed,
        };
        match outcome {
            Outcome::Void => Verdict::Keep,
            Outcome::Begun => {
                self.begun = true;
                self.stats.observe(sample(false), now);
                Verdict::Keep
            }
            Outcome::Success => {
                self.stats.consecutive_failures.store(0, Relaxed);
                if !self.begun {
                    self.stats.observe(sample(false), now);
                }
                Verdict::Keep
            }
            Outcome::Refused => {
                self.stats.failures_total.fetch_add(1, Relaxed);
                self.stats.observe(sample(true), now);
                Verdict::Keep
            }
            Outcome::ServerError | Outcome::NoAnswer => {
                self.stats.observe(sample(true), now);
                self.stats.failed(policy, now)
            }
        }
    }

    /// [`record`](Self::record), and the call is over.
    pub fn finish(
        mut self,
        outcome: Outcome,
        latency: Duration,
        now: Ticks,
        policy: &OutlierPolicy,
    ) -> Verdict {
        self.record(outcome, latency, now, policy)
    }

    fn answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.stats.waiting.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.answer();
        self.stats.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
