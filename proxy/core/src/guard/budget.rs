//! May this request be tried again, or would that be a storm?
//!
//! Retries in the last ten seconds are at most a share of the first tries in the same time, plus a
//! floor (Finagle's RetryBudget: 20 %, 10 a second, 10 s). A client that sees nothing but failures
//! then adds a fifth to the load, not a multiple of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::balance::Ticks;

/// Over how many seconds tries are counted.
pub const WINDOW_SECONDS: u64 = 10;
/// Retries a second that a budget above 0 % always allows, on average over the window.
pub const FLOOR_PER_SECOND: u64 = 10;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// First tries and retries of one service, by the second; shared by all workers.
#[derive(Debug, Default)]
pub struct RetryBudget {
    /// One more than the window, so that the second that is filled is not one that is summed.
    seconds: [AtomicU64; 11],
}

/// One second's counts, in one word so that none is ever seen with another second's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Second {
    /// Which second; wraps after 12 days, long after the window.
    epoch: u64,
    tries: u64,
    retries: u64,
}

impl Second {
    const EPOCH_BITS: u32 = 20;
    const TRIES_BITS: u32 = 24;
    const RETRIES_BITS: u32 = 20;

    fn unpack(word: u64) -> Self {
        let low = |bits: u32, word: u64| word & ((1 << bits) - 1);
        Self {
            epoch: low(
                Self::EPOCH_BITS,
                word >> (Self::TRIES_BITS + Self::RETRIES_BITS),
            ),
            tries: low(Self::TRIES_BITS, word >> Self::RETRIES_BITS),
            retries: low(Self::RETRIES_BITS, word),
        }
    }

    fn pack(self) -> u64 {
        // Counts stop at their ends: 16 million tries and a million retries a second.
        let tries = self.tries.min((1 << Self::TRIES_BITS) - 1);
        let retries = self.retries.min((1 << Self::RETRIES_BITS) - 1);
        (((self.epoch << Self::TRIES_BITS) | tries) << Self::RETRIES_BITS) | retries
    }

    fn epoch_of(now: Ticks) -> u64 {
        // The epoch of an untouched word is 0; no second has it.
        (now.0 / NANOS_PER_SECOND + 1) & ((1 << Self::EPOCH_BITS) - 1)
    }

    fn age(self, epoch: u64) -> u64 {
        epoch.wrapping_sub(self.epoch) & ((1 << Self::EPOCH_BITS) - 1)
    }
}

impl RetryBudget {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request is tried for the first time.
    pub fn first_try(&self, now: Ticks) {
        self.count(now, |second| second.tries = second.tries.saturating_add(1));
    }

    /// Takes a retry out of the budget. False: there is none. 0 percent allows none at all.
    /// Threads that ask at the same instant may each get the last one.
    #[must_use]
    pub fn try_retry(&self, percent: u32, now: Ticks) -> bool {
        let (tries, retries) = self.sums(now);
        let share = tries.saturating_mul(u64::from(percent));
        let floor = if percent == 0 {
            0
        } else {
            FLOOR_PER_SECOND * WINDOW_SECONDS * 100
        };
        let allowed = share.saturating_add(floor) / 100;
        if retries >= allowed {
            return false;
        }
        self.count(now, |second| {
            second.retries = second.retries.saturating_add(1)
        });
        true
    }

    /// First tries and retries within the window.
    #[must_use]
    pub fn sums(&self, now: Ticks) -> (u64, u64) {
        let epoch = Second::epoch_of(now);
        self.seconds
            .iter()
            .map(|word| Second::unpack(word.load(Relaxed)))
            .filter(|second| second.epoch != 0 && second.age(epoch) < WINDOW_SECONDS)
            .fold((0, 0), |(tries, retries), s| {
                (tries + s.tries, retries + s.retries)
            })
    }

    fn count(&self, now: Ticks, change: impl Fn(&mut Second)) {
        let epoch = Second::epoch_of(now);
        let at = usize::try_from(epoch % (WINDOW_SECONDS + 1)).unwrap_or(0);
        let Some(word) = self.seconds.get(at) else {
            return;
        };
        let counted = word.try_update(Relaxed, Relaxed, |word| {
            let mut second = Second::unpack(word);
            if second.epoch != epoch {
                second = Second {
                    epoch,
                    ..Second::default()
                };
            }
            change(&mut second);
            Some(second.pack())
        });
        debug_assert!(counted.is_ok(), "the change is never refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second(s: u64) -> Ticks {
        Ticks(s * NANOS_PER_SECOND)
    }

    #[test]
    fn a_fifth_and_the_floor() {
        let budget = RetryBudget::new();
        for _ in 0..1_000 {
            budget.first_try(second(1));
        }
        let retries = (0..1_000)
            .filter(|_| budget.try_retry(20, second(2)))
            .count();
        assert_eq!(retries, 200 + 100);
        assert!(!budget.try_retry(20, second(10)));
        // The tries have left the window; what was retried has not.
        assert!(!budget.try_retry(20, second(11)));
        assert!(budget.try_retry(20, second(12)));
    }

    #[test]
    fn a_quiet_service_may_retry_and_none_means_none() {
        let budget = RetryBudget::new();
        assert!(budget.try_retry(20, second(0)));
        budget.first_try(second(0));
        assert!(!budget.try_retry(0, second(0)));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share(
            steps in proptest::collection::vec((0u64..1_500, 0u32..20, 0u32..40), 1..60),
            percent in 1u32..100,
        ) {
            let (budget, mut now) = (RetryBudget::new(), Ticks(0));
            for (wait_ms, tries, retries) in steps {
                now = Ticks(now.0 + wait_ms * 1_000_000);
                (0..tries).for_each(|_| budget.first_try(now));
                for _ in 0..retries {
                    if budget.try_retry(percent, now) {
                        let (tries, retries) = budget.sums(now);
                        prop_assert!(retries <= tries * u64::from(percent) / 100 + 100);
                    }
                }
            }
        }

        #[test]
        fn words_hold_what_they_are_given(epoch in 1u64..1 << 20, tries in 0u64..1 << 24, retries in 0u64..1 << 20) {
            let second = Second { epoch, tries, retries };
            prop_assert_eq!(Second::unpack(second.pack()), second);
        }
    }
}
