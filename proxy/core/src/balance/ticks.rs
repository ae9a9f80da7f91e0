//! What time is it, and what does the die say?
//!
//! Both are arguments of every decision (a report of a bug is a seed), so both are plain values.

use std::time::Duration;

/// Nanoseconds since an origin that the driver chose. One origin a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// The time `after` an instant; stays at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long since `earlier`; zero if that is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A small, fast and seedable source of chance (SplitMix64). Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An even number in `0..below`; 0 if `below` is 0.
    pub fn below(&mut self, below: usize) -> usize {
        scale(self.bits(), below)
    }

    /// An even number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        unit(self.bits())
    }
}

/// Spreads 32 even bits (the upper ones) over `0..below` (Lemire's multiply-shift).
pub(super) fn scale(bits: u64, below: usize) -> usize {
    let below = u64::try_from(below)
        .unwrap_or(u64::MAX)
        .min(u64::from(u32::MAX));
    usize::try_from(((bits >> 32) * below) >> 32).unwrap_or(0)
}

/// 24 of the lower bits as a number in `[0, 1)`: as many as an `f32` holds exactly.
pub(super) fn unit(bits: u64) -> f32 {
    const STEP: f32 = 1.0 / 16_777_216.0;
    u32::try_from(bits & 0x00ff_ffff).map_or(0.0, float) * STEP
}

/// A count as a measure. There is no lossless way: above 2^24 it is rounded, which nobody minds.
pub(super) fn float(count: u32) -> f32 {
    count as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stops_at_its_ends() {
        assert_eq!(Ticks(u64::MAX).after(Duration::MAX), Ticks(u64::MAX));
        assert_eq!(Ticks(3).since(Ticks(5)), Duration::ZERO);
        assert_eq!(Ticks(5).after(Duration::from_nanos(2)), Ticks(7));
    }

    #[test]
    fn the_die_is_even_and_repeats() {
        let mut counts = [0u32; 7];
        let (mut a, mut b) = (Rng::new(9), Rng::new(9));
        for _ in 0..70_000 {
            let n = a.below(7);
            assert_eq!(n, b.below(7));
            counts[n] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_600..10_400).contains(c)),
            "{counts:?}"
        );
        assert_eq!(a.below(0), 0);
        let mean = (0..10_000).map(|_| a.unit()).sum::<f32>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean));
    }
}
