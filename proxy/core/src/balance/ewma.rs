//! How slow is an endpoint, and how much of that do we still believe?
//!
//! Two averages of the same samples. The *peak* one rises fast and falls slowly: it tells a pod that
//! has turned slow from its peers (Finagle's peak-EWMA, with two bounds: one sample can't raise it
//! without limit, and old evidence fades towards the peers, so a single slow answer never exiles for
//! ever). The *mean* is symmetric: places are compared by it, because a peak grows with the rate of
//! samples and would make the nearest place look slow for being used.

use super::ticks::{Ticks, float};

/// Time over which evidence is renewed (ours to tune).
const RENEW_MS: f32 = 2_000.0;
/// Least weight of a new sample: the averages remember about 64 (ours to tune).
const GAIN_MIN: f32 = 1.0 / 64.0;
/// Greatest weight of a new sample: one never decides alone (ours to tune).
const GAIN_MAX: f32 = 1.0 / 4.0;
/// Weight of a sample above the peak, or below half of it (ours to tune).
const PEAK_GAIN: f32 = 1.0 / 4.0;
/// A sample counts as at most so many times the peak (ours to tune).
const PEAK_SAMPLE_RATIO_MAX: f32 = 4.0;
/// Weight of a new result in the error rate (ours to tune).
const ERROR_GAIN: f32 = 1.0 / 8.0;
/// What it costs to call one that always fails, as latency in µs, beside four times its usual one
/// (ours to tune).
const FAILURE_COST_US: f32 = 500_000.0;
const FAILURE_COST_RATIO: f32 = 4.0;

/// What an endpoint's answers have shown. All times in µs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Evidence {
    /// Symmetric average. 0: never sampled.
    pub(super) mean: f32,
    /// Peak-sensitive average.
    pub(super) peak: f32,
    /// How many were in flight when the sampled ones began, on average.
    pub(super) usual: f32,
    /// Share of failures, 0 to 1.
    pub(super) errors: f32,
    /// When the last sample came.
    pub(super) stamp: Stamp,
}

/// One answer, or the want of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) latency_us: f32,
    /// In flight when it began, itself included.
    pub(super) in_flight: u32,
    pub(super) failed: bool,
}

impl Evidence {
    pub(super) fn is_empty(&self) -> bool {
        self.mean <= 0.0
    }

    /// The evidence after one more sample.
    pub(super) fn observe(self, sample: Sample, now: Stamp) -> Self {
        let failed = if sample.failed { 1.0 } else { 0.0 };
        let in_flight = float(sample.in_flight);
        if self.is_empty() {
            let latency = sample.latency_us.max(1.0);
            return Self {
                mean: latency,
                peak: latency,
                usual: in_flight,
                errors: failed * ERROR_GAIN,
                stamp: now,
            };
        }
        // A failure may come fast; it must not look fast.
        let latency = if sample.failed {
            sample.latency_us.max(self.mean)
        } else {
            sample.latency_us
        };
        let latency = latency.max(1.0);
        let age = now.ms_since(self.stamp);
        let gain = (age / (RENEW_MS + age)).clamp(GAIN_MIN, GAIN_MAX);
        // An answer far below the peak contradicts it: what was slow was an exception.
        let contradicts = latency > self.peak || latency < self.peak / 2.0;
        let peak_gain = if contradicts { PEAK_GAIN } else { gain };
        let bounded = latency.min(self.peak * PEAK_SAMPLE_RATIO_MAX);
        Self {
            mean: self.mean + (latency - self.mean) * gain,
            peak: self.peak + (bounded - self.peak) * peak_gain,
            usual: self.usual + (in_flight - self.usual) * gain,
            errors: self.errors + (failed - self.errors) * ERROR_GAIN,
            stamp: now,
        }
    }

    /// What a call is expected to cost, for a comparison with peers whose cost is `peers` µs on
    /// average. Without evidence it is theirs; old evidence moves towards theirs.
    pub(super) fn peak_cost(&self, peers: f32, now: Stamp) -> f32 {
        if self.is_empty() {
            return peers;
        }
        let age = now.ms_since(self.stamp);
        let latency = peers + (self.peak - peers) * forget(age, FORGET_MS);
        latency + failure_cost(self.errors * forget(age, FORGET_FAILURES_MS), latency)
    }

    /// What a call is expected to cost, for a comparison of places: the mean, as it would be with
    /// `in_flight` calls if the pod's speed is as usual (Little's law, bounded), and failures.
    pub(super) fn mean_cost(&self, in_flight: u32, now: Stamp) -> f32 {
        let growth = ((float(in_flight) + 1.0) / (self.usual + 1.0)).clamp(0.5, 2.0);
        let belief = forget(now.ms_since(self.stamp), FORGET_MS);
        self.mean * growth + failure_cost(self.errors * belief, self.mean)
    }
}

/// By the square: a single failure is noise, a streak is not.
fn failure_cost(errors: f32, latency: f32) -> f32 {
    errors * errors * (FAILURE_COST_US + FAILURE_COST_RATIO * latency)
}

/// Evidence about one endpoint fades within this time (ours to tune; LOAD-BALANCING's 5 s).
const FORGET_MS: f32 = 5_000.0;

/// Failures fade sooner in a comparison with peers: what goes on failing is ejected, and for that it has
/// to be asked again (ours to tune).
const FORGET_FAILURES_MS: f32 = 1_000.0;

/// How much of evidence of this age is still believed: about e^(-age/time), without the exponential.
pub(super) fn forget(age_ms: f32, time_ms: f32) -> f32 {
    let quarter = age_ms / (4.0 * time_ms);
    let grown = 1.0 + quarter + quarter * quarter / 2.0;
    1.0 / (grown * grown * grown * grown)
}

/// A time in steps of 2^20 ns, about a millisecond, in 32 bits. It wraps after 52 days: an endpoint
/// idle for exactly so long is believed once more, until its next sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp(u32);

impl Stamp {
    const MS_PER_STEP: f32 = 1.048_576;

    pub(super) fn of(now: Ticks) -> Self {
        Self(u32::try_from((now.0 >> 20) & u64::from(u32::MAX)).unwrap_or(0))
    }

    pub(super) fn ms_since(self, earlier: Self) -> f32 {
        let steps = self.0.wrapping_sub(earlier.0);
        // Another thread's sample may be newer than our `now`: that is no age, not 52 days.
        if steps > u32::MAX / 2 {
            0.0
        } else {
            float(steps) * Self::MS_PER_STEP
        }
    }
}

/// Two halves of a word, so that readers never see a value with another's time.
pub(super) fn pack(value: f32, other: u32) -> u64 {
    (u64::from(value.to_bits()) << 32) | u64::from(other)
}

pub(super) fn unpack(word: u64) -> (f32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    (f32::from_bits(half(word >> 32)), half(word))
}

impl Evidence {
    /// As two words and the error rate's bits.
    pub(super) fn to_words(self) -> (u64, u64, u32) {
        (
            pack(self.mean, self.stamp.0),
            pack(self.peak, self.usual.to_bits()),
            self.errors.to_bits(),
        )
    }

    pub(super) fn from_words(mean: u64, peak: u64, errors: u32) -> Self {
        let (mean, stamp) = unpack(mean);
        let (peak, usual) = unpack(peak);
        Self {
            mean,
            peak,
            usual: f32::from_bits(usual),
            errors: f32::from_bits(errors),
            stamp: Stamp(stamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Stamp {
        Stamp::of(Ticks(ms * 1_048_576))
    }

    fn ok(ms: f32) -> Sample {
        Sample {
            latency_us: ms * 1_000.0,
            in_flight: 1,
            failed: false,
        }
    }

    fn steady(ms: f32) -> Evidence {
        (0..200).fold(Evidence::default(), |e, i| e.observe(ok(ms), at(i * 10)))
    }

    #[test]
    fn one_slow_answer_does_not_exile() {
        let slow = steady(5.0).observe(ok(1_000.0), at(2_000));
        assert!(slow.peak <= 5_000.0 * 1.8, "{slow:?}");
        let later = slow.peak_cost(5_000.0, at(12_000));
        assert!(later < 6_500.0, "{later}");
    }

    #[test]
    fn a_pod_that_turned_slow_is_seen_after_a_few_answers() {
        let slow = (0..4).fold(steady(5.0), |e, i| e.observe(ok(50.0), at(2_000 + i * 50)));
        assert!(
            slow.peak_cost(5_000.0, at(2_200)) > 4.0 * 5_000.0,
            "{slow:?}"
        );
    }

    #[test]
    fn one_failure_does_not_exile() {
        let failed = Sample {
            latency_us: 1_000.0,
            in_flight: 1,
            failed: true,
        };
        let once = steady(5.0).observe(failed, at(2_000));
        assert!(once.peak_cost(5_000.0, at(2_010)) < 3.0 * 5_000.0);
        assert!(once.peak_cost(5_000.0, at(7_000)) < 1.3 * 5_000.0);
    }

    #[test]
    fn fast_errors_do_not_look_fast() {
        let failing = (0..20).fold(steady(5.0), |e, i| {
            let fast = Sample {
                latency_us: 100.0,
                in_flight: 1,
                failed: true,
            };
            e.observe(fast, at(2_000 + i))
        });
        assert!(failing.mean >= 4_900.0);
        assert!(failing.peak_cost(5_000.0, at(2_020)) > 200_000.0);
        assert!(
            failing.peak_cost(5_000.0, at(200_000)) < 10_000.0,
            "evidence must age"
        );
    }

    proptest! {
        #[test]
        fn estimates_stay_within_what_was_seen(
            samples in proptest::collection::vec((1.0f32..1e7, 0u64..10_000, any::<bool>()), 1..60)
        ) {
            let (mut e, mut now, mut low, mut high) = (Evidence::default(), 0, f32::MAX, 0f32);
            for (latency_us, wait, failed) in samples {
                now += wait;
                e = e.observe(Sample { latency_us, in_flight: 3, failed }, at(now));
                (low, high) = (low.min(latency_us), high.max(latency_us));
                prop_assert!(e.mean >= low * 0.99 && e.mean <= high * 1.01);
                prop_assert!(e.peak >= low * 0.99 && e.peak <= high * 1.01);
                prop_assert!((0.0..=1.0).contains(&e.errors));
                let (a, b, c) = e.to_words();
                prop_assert_eq!(Evidence::from_words(a, b, c), e);
            }
        }

        #[test]
        fn belief_only_falls(a in 0f32..1e6, b in 0f32..1e6) {
            let (new, old) = (a.min(b), a.max(b));
            prop_assert!(forget(old, 5e3) <= forget(new, 5e3));
            prop_assert!((0.0..=1.0).contains(&forget(a, 5e3)));
        }
    }
}
