//! How long to wait after a failure, and between lists?

use std::time::{Duration, Instant};

/// The first wait, at most; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait, where the server does not ask for a longer one.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest that a server can ask for (`Retry-After`), as writers have it.
pub(super) const ASKED_MAX: Duration = Duration::from_secs(300);
/// There are at most two lists ...
const LISTS_MAX: usize = 2;
/// ... in this time.
pub(super) const LISTS_WINDOW: Duration = Duration::from_secs(60);

/// When the next question may be asked.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Failures since something went well.
    attempt: u32,
    pause: Option<Pause>,
    /// The begins of the last lists, oldest first.
    lists: [Option<Instant>; LISTS_MAX],
}

#[derive(Debug)]
enum Pause {
    /// Failed then; the server asks for this wait.
    Failed(Instant, Option<Duration>),
    /// Until then.
    Until(Instant),
}

impl Pace {
    /// Until when to wait; `None`: no longer.
    pub(super) fn pause(&mut self, now: Instant, jitter: f64) -> Option<Instant> {
        let until = match self.pause.as_ref()? {
            Pause::Until(until) => *until,
            Pause::Failed(at, asked) => {
                let least = asked.unwrap_or_default().min(ASKED_MAX);
                let wait = self.backoff(jitter).max(least);
                at.checked_add(wait).unwrap_or(*at)
            }
        };
        if until <= now {
            self.pause = None;
            return None;
        }
        self.pause = Some(Pause::Until(until));
        Some(until)
    }

    fn backoff(&self, jitter: f64) -> Duration {
        let doublings = self.attempt.saturating_sub(1).min(16);
        let whole = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        whole.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// Something went wrong.
    pub(super) fn failed(&mut self, now: Instant, asked: Option<Duration>) {
        self.attempt = self.attempt.saturating_add(1);
        self.pause = Some(Pause::Failed(now, asked));
    }

    /// Something went well.
    pub(super) fn succeeded(&mut self) {
        self.attempt = 0;
        self.pause = None;
    }

    /// A list has begun, or has failed at its beginning.
    pub(super) fn listed(&mut self, now: Instant) {
        self.lists.rotate_left(1);
        if let Some(last) = self.lists.last_mut() {
            *last = Some(now);
        }
    }

    /// Until when the next list has to wait; `None`: it may begin.
    pub(super) fn list_due(&self, now: Instant) -> Option<Instant> {
        let oldest = (*self.lists.first()?)?;
        oldest.checked_add(LISTS_WINDOW).filter(|due| *due > now)
    }
}
