//! How much may one service be asked, how long, and how often again?

mod breaker;
mod budget;
mod policy;

pub use breaker::{Breaker, Ticket};
pub use budget::{FLOOR_PER_SECOND, RetryBudget, WINDOW_SECONDS};
pub(crate) use policy::bounded;
pub use policy::{
    ATTEMPTS_MAX, DURATION_MAX, Limits, PENALTY_MS_MAX, Retries, Timeouts, TrafficPolicy,
};

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::balance::Ticks;
use crate::failure::Failure;

/// What bounds the calls of this proxy to one service. Shared by all workers; outlives generations.
#[derive(Debug, Default)]
pub struct ServiceGuard {
    /// Retries, as a share of the first tries.
    pub budget: RetryBudget,
    /// Requests or connections in flight.
    pub in_flight: Breaker,
    /// Waiting for a connection.
    pub pending: Breaker,
    /// Retries in flight.
    pub retries: Breaker,
    used: AtomicU64,
}

/// How exactly the time of the last use is kept: workers share it, and need not write it each time.
pub const USED_GRAIN: Duration = Duration::from_secs(30);

impl ServiceGuard {
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody uses the service now.
    pub fn touch(&self, now: Ticks) {
        let used = Ticks(self.used.load(Ordering::Relaxed));
        if now.since(used) >= USED_GRAIN {
            self.used.store(now.0, Ordering::Relaxed);
        }
    }

    /// When the service was used last: now, as long as something is in flight; else to within
    /// [`USED_GRAIN`].
    #[must_use]
    pub fn used(&self, now: Ticks) -> Ticks {
        if self.in_flight.inside() > 0 {
            return now;
        }
        Ticks(self.used.load(Ordering::Relaxed))
    }

    /// A request or connection begins: counts as a first try. Hold the ticket until it is over.
    ///
    /// # Errors
    /// `Overflow`: as many as may be are in flight.
    pub fn begin(&self, policy: &TrafficPolicy, now: Ticks) -> Result<Ticket, Failure> {
        let ticket = self.in_flight.try_enter(policy.limits.max_in_flight);
        let ticket = ticket.ok_or(Failure::Overflow)?;
        self.budget.first_try(now);
        Ok(ticket)
    }

    /// A call has to wait for a connection. Hold the ticket while it waits.
    ///
    /// # Errors
    /// `Overflow`: as many as may be are waiting.
    pub fn wait(&self, policy: &TrafficPolicy) -> Result<Ticket, Failure> {
        self.pending
            .try_enter(policy.limits.max_pending)
            .ok_or(Failure::Overflow)
    }

    /// One more try of a request. Hold the ticket until that try is over. None: the request fails
    /// as it did.
    pub fn retry(&self, policy: &TrafficPolicy, now: Ticks) -> Option<Ticket> {
        let ticket = self.retries.try_enter(policy.limits.max_retries)?;
        self.budget
            .try_retry(policy.retries.budget_percent, now)
            .then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_needs_room_and_budget() {
        let guard = ServiceGuard::new();
        let mut policy = TrafficPolicy::default();
        policy.limits.max_retries = 1;
        let held = guard.retry(&policy, Ticks(0));
        assert!(held.is_some());
        assert!(guard.retry(&policy, Ticks(0)).is_none(), "no room");
        drop(held);
        let granted = (0..200)
            .filter(|_| guard.retry(&policy, Ticks(0)).is_some())
            .count();
        assert_eq!(granted, 99, "the floor's 100, one is gone");
        assert_eq!(guard.retries.inside(), 0);
    }

    #[test]
    fn a_service_is_in_use_while_something_is_in_flight_and_then_since_its_last_use() {
        let guard = ServiceGuard::new();
        let (first, later) = (Ticks(0).after(USED_GRAIN), Ticks(0).after(USED_GRAIN * 10));
        guard.touch(first);
        assert_eq!(guard.used(later), first);
        let held = guard.begin(&TrafficPolicy::default(), first).unwrap();
        assert_eq!(guard.used(later), later);
        drop(held);
        assert_eq!(guard.used(later), first);
        guard.touch(later);
        assert_eq!(guard.used(later), later);
    }

    #[test]
    fn limits_overflow() {
        let guard = ServiceGuard::new();
        let mut policy = TrafficPolicy::default();
        policy.limits.max_in_flight = 1;
        policy.limits.max_pending = 0;
        let held = guard.begin(&policy, Ticks(0)).unwrap();
        assert_eq!(
            guard.begin(&policy, Ticks(0)).unwrap_err(),
            Failure::Overflow
        );
        assert_eq!(guard.wait(&policy).unwrap_err(), Failure::Overflow);
        drop(held);
        assert!(guard.begin(&policy, Ticks(0)).is_ok());
        assert_eq!(guard.budget.sums(Ticks(0)).0, 2);
    }
}
