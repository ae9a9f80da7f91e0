//! When should a lost stream be opened again?

use std::time::{Duration, Instant};

/// The first wait, at most.
pub const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// Each wait is so many times as long as the one before.
pub const BACKOFF_FACTOR: f64 = 1.6;
/// The longest wait, after an outage of minutes, too: so long at most a control plane that is back is missed
/// (SECURITY F23: a thousand proxies are back within 10 s). A try at one that is away costs next to nothing.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Waits longer after each failure, until the server answers something.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    retry_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: BACKOFF_BASE,
            retry_at: None,
        }
    }
}

impl Backoff {
    /// The stream is up; whether the server is any good is seen when it answers.
    pub(super) fn connected(&mut self) {
        self.retry_at = None;
    }

    pub(super) fn answered(&mut self) {
        self.next = BACKOFF_BASE;
    }

    /// Waits between half and all of the next duration: proxies that lost the same server at
    /// the same moment come back spread over time.
    pub(super) fn disconnected(&mut self, now: Instant, jitter: f64) {
        let share = if jitter.is_finite() {
            0.5 + jitter.clamp(0.0, 1.0) / 2.0
        } else {
            1.0
        };
        self.retry_at = now.checked_add(self.next.mul_f64(share));
        self.next = self.next.mul_f64(BACKOFF_FACTOR).min(BACKOFF_MAX);
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let wait = |backoff: &mut Backoff, jitter| {
            backoff.disconnected(now, jitter);
            backoff.retry_at().unwrap() - now
        };
        assert_eq!(wait(&mut backoff, 1.0), BACKOFF_BASE);
        assert_eq!(wait(&mut backoff, 0.0), Duration::from_millis(200));
        for _ in 0..20 {
            wait(&mut backoff, 1.0);
        }
        assert_eq!(wait(&mut backoff, 1.0), BACKOFF_MAX);
        backoff.connected();
        assert_eq!(backoff.retry_at(), None);
        assert_eq!(
            wait(&mut backoff, f64::NAN),
            BACKOFF_MAX,
            "it was up and never answered"
        );
        backoff.answered();
        assert_eq!(wait(&mut backoff, 7.0), BACKOFF_BASE);
    }
}
