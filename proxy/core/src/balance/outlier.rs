//! Is an endpoint so bad that it gets nothing for a while?

use std::time::Duration;

use super::ticks::Ticks;
use crate::failure::{Blame, Failure};
use crate::message::Fields;

/// Healthy time that takes one ejection off an endpoint's record (ours to tune).
pub const FORGIVE_EJECTION: Duration = Duration::from_secs(60);

/// A row of failures that lasts so long ejects at fewer of them (ours to tune).
const ROW_IS_LONG: Duration = Duration::from_millis(500);
/// At two fifths of the limit, and two at least: a pod that failed twice is hardly asked again, so where
/// little is asked the rest of five would take seconds to come (ours to tune).
const LONG_ROW_FIFTHS: u32 = 2;
const LONG_ROW_MIN: u32 = 2;

/// How a call ended, as far as it says something of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer that is not a server error, or a connection that was established.
    Success,
    /// A good answer has begun whose status comes at its end.
    Begun,
    /// An answer with a 5xx status, or with a status of gRPC that stands for one.
    ServerError,
    /// No answer: connecting failed or took too long, the answer was broken off, malformed or late.
    NoAnswer,
    /// Refused unprocessed: overload, not illness. Makes the endpoint dearer, ejects it never.
    Refused,
    /// Nothing follows: the caller went away, or the mesh itself said no.
    Void,
}

impl Outcome {
    /// What an HTTP status says of the endpoint.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if (500..=599).contains(&status) {
            Self::ServerError
        } else {
            Self::Success
        }
    }

    /// What a gRPC answer says of the endpoint, by its head or its trailers. `None`: its status is not there.
    ///
    /// By the HTTP status that stands for each code (google/rpc/code.proto), as Envoy's outlier detection
    /// counts them; but UNIMPLEMENTED (501) speaks of what was asked for.
    #[must_use]
    pub fn of_grpc(fields: &Fields) -> Option<Self> {
        Some(match fields.get(b"grpc-status")? {
            // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            b"2" | b"4" | b"13" | b"14" | b"15" => Self::ServerError,
            _ => Self::Success,
        })
    }

    /// What a failure says of the endpoint.
    #[must_use]
    pub fn of_failure(failure: Failure) -> Self {
        match (failure, failure.blame()) {
            (Failure::UpstreamRefused, _) => Self::Refused,
            // An idle connection is nobody's illness.
            (Failure::IdleTimeout, _) | (_, Blame::Downstream | Blame::Mesh) => Self::Void,
            (_, Blame::Upstream) => Self::NoAnswer,
        }
    }

    /// Does it count towards ejection?
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::ServerError | Self::NoAnswer => true,
            Self::Success | Self::Begun | Self::Refused | Self::Void => false,
        }
    }
}

/// What follows from an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// This outcome ejected the endpoint; told once. Whether picks honour it is bounded by
    /// [`BalancePolicy::max_ejected_percent`](super::BalancePolicy).
    Eject {
        /// Until then.
        until: Ticks,
    },
}

/// When to eject, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Failures in a row that eject. 0: never. Two fifths of it, and two at least, if nothing else came for
    /// half a second.
    pub consecutive_failures: u32,
    /// The first ejection; the nth is n times as long.
    pub base_ejection: Duration,
    /// The longest.
    pub max_ejection: Duration,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
        }
    }
}

impl OutlierPolicy {
    /// Do so many failures in a row eject, if the first of them was `lasted` ago?
    #[must_use]
    pub fn ejects(&self, failures: u32, lasted: Duration) -> bool {
        let limit = self.consecutive_failures;
        let needed = if lasted < ROW_IS_LONG {
            limit
        } else {
            let fewer = limit.saturating_mul(LONG_ROW_FIFTHS).div_ceil(5);
            fewer.max(LONG_ROW_MIN).min(limit)
        };
        limit != 0 && failures >= needed
    }

    /// Which ejection in a row this is, and when it ends, if the last one was the `past`th and ended
    /// at `ended`. Healthy time since then is forgiven for.
    #[must_use]
    pub fn sentence(&self, past: u32, ended: Ticks, now: Ticks) -> (u32, Ticks) {
        let healthy = now.since(ended).as_nanos() / FORGIVE_EJECTION.as_nanos();
        let past = past.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
        let count = past.saturating_add(1);
        let length = self
            .base_ejection
            .saturating_mul(count)
            .min(self.max_ejection);
        (count, now.after(length))
    }
}

/// How many of `usable` endpoints may be ejected at once: the percentage, rounded down, but one of
/// two or more (if any), and never the only one.
#[must_use]
pub fn ejected_max(usable: usize, percent: u32) -> usize {
    if percent == 0 || (usable < 2 && percent < 100) {
        return 0;
    }
    let percent = usize::try_from(percent.min(100)).unwrap_or(100);
    (usable.saturating_mul(percent) / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sentences_grow_end_and_are_forgiven() {
        let policy = OutlierPolicy::default();
        let second = |s: u64| Ticks(s * 1_000_000_000);
        assert_eq!(policy.sentence(0, Ticks(0), second(5)), (1, second(15)));
        assert_eq!(policy.sentence(1, second(15), second(16)), (2, second(36)));
        assert_eq!(
            policy.sentence(40, second(15), second(16)),
            (41, second(316))
        );
        assert_eq!(policy.sentence(2, second(10), second(75)), (2, second(95)));
        assert_eq!(
            policy.sentence(2, second(10), second(1_000)),
            (1, second(1_010))
        );
    }

    #[test]
    fn a_status_of_grpc_counts_like_the_http_status_that_stands_for_it() {
        let outcome = |status: &str| {
            let mut fields = Fields::default();
            fields.push(b"grpc-status", status.as_bytes());
            Outcome::of_grpc(&fields)
        };
        for bad in ["2", "4", "13", "14", "15"] {
            assert_eq!(outcome(bad), Some(Outcome::ServerError), "{bad}");
        }
        for good in ["0", "1", "3", "5", "7", "8", "9", "12", "16", "99", "x"] {
            assert_eq!(outcome(good), Some(Outcome::Success), "{good}");
        }
        assert_eq!(Outcome::of_grpc(&Fields::default()), None);
    }

    #[test]
    fn a_row_that_lasts_needs_fewer_failures() {
        let (short, long) = (ROW_IS_LONG - Duration::from_nanos(1), ROW_IS_LONG);
        // The limit, and how many eject in a row that lasts.
        for (limit, fewer) in [(1, 1), (2, 2), (3, 2), (5, 2), (6, 3), (10, 4), (100, 40)] {
            let policy = OutlierPolicy {
                consecutive_failures: limit,
                ..OutlierPolicy::default()
            };
            assert!(policy.ejects(limit, short), "{limit}");
            assert!(!policy.ejects(limit - 1, short), "{limit}");
            assert!(policy.ejects(fewer, long), "{limit}");
            assert!(!policy.ejects(fewer - 1, long), "{limit}");
        }
        let never = OutlierPolicy {
            consecutive_failures: 0,
            ..OutlierPolicy::default()
        };
        assert!(!never.ejects(u32::MAX, Duration::MAX));
    }

    #[test]
    fn only_what_the_endpoint_did_counts() {
        assert_eq!(Outcome::of_status(503), Outcome::ServerError);
        assert_eq!(Outcome::of_status(404), Outcome::Success);
        for (failure, outcome) in [
            (Failure::ConnectFailed, Outcome::NoAnswer),
            (Failure::ConnectTimeout, Outcome::NoAnswer),
            (Failure::IdentityMismatch, Outcome::NoAnswer),
            (Failure::UpstreamReset, Outcome::NoAnswer),
            (Failure::RequestDeadline, Outcome::NoAnswer),
            (Failure::UpstreamRefused, Outcome::Refused),
            (Failure::DownstreamReset, Outcome::Void),
            (Failure::IdleTimeout, Outcome::Void),
            (Failure::Overflow, Outcome::Void),
            (Failure::Denied, Outcome::Void),
        ] {
            assert_eq!(Outcome::of_failure(failure), outcome, "{failure}");
        }
    }

    proptest! {
        #[test]
        fn something_is_always_left(usable in 0usize..10_000, percent in 0u32..100) {
            let max = ejected_max(usable, percent);
            prop_assert!(usable == 0 || max < usable);
            prop_assert!(percent == 0 || usable < 2 || max >= 1);
        }
    }
}
