//! Is there room for one more?

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Counts what is inside, up to a limit that is given at each entry (it may change).
#[derive(Debug, Default)]
pub struct Breaker {
    inside: Arc<AtomicU32>,
    refused_total: AtomicU64,
}

/// A place inside; left when dropped. May move to another thread.
#[derive(Debug)]
#[must_use = "dropping the ticket leaves at once"]
pub struct Ticket {
    inside: Arc<AtomicU32>,
}

impl Breaker {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters unless `limit` are inside. Exact, however many threads ask.
    pub fn try_enter(&self, limit: u32) -> Option<Ticket> {
        let enter = |inside: u32| inside.checked_add(1).filter(|after| *after <= limit);
        match self.inside.try_update(Relaxed, Relaxed, enter) {
            Ok(_) => Some(Ticket {
                inside: Arc::clone(&self.inside),
            }),
            Err(_) => {
                self.refused_total.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> u32 {
        self.inside.load(Relaxed)
    }

    /// How many were refused since the beginning.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused_total.load(Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inside.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_frees_its_place() {
        let breaker = Breaker::new();
        let first = breaker.try_enter(2).unwrap();
        let second = breaker.try_enter(2).unwrap();
        assert!(breaker.try_enter(2).is_none());
        assert!(
            breaker.try_enter(1).is_none(),
            "a lower limit holds at once"
        );
        drop(first);
        let third = breaker.try_enter(2).unwrap();
        drop((second, third));
        assert_eq!((breaker.inside(), breaker.refused_total()), (0, 2));
        assert!(breaker.try_enter(0).is_none());
    }

    #[test]
    fn the_limit_holds_among_threads() {
        let breaker = Breaker::new();
        let most = std::thread::scope(|scope| {
            let worker = || {
                let mut most = 0;
                for _ in 0..2_000 {
                    let ticket = breaker.try_enter(2);
                    most = most.max(breaker.inside());
                    drop(ticket);
                }
                most
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|w| w.join().unwrap())
                .max()
                .unwrap()
        });
        assert!(most <= 2);
        assert_eq!(breaker.inside(), 0);
    }
}
