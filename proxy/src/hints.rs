//! What was spoken last on a port that declares nothing?

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Ports remembered, at most; then the one that was heard of longest ago makes room.
const HINTS_MAX: usize = 4096;
/// For that long what was heard is believed: what answers on a port may be another thing tomorrow.
const HINT_LIFE: Duration = Duration::from_secs(300);

/// What a connection turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The client spoke first, and it was HTTP.
    Http,
    /// The server spoke first.
    Bytes,
}

/// One worker's memory, by whatever tells one port from another.
#[derive(Debug)]
pub struct Hints<K>(RefCell<HashMap<K, (Hint, Instant)>>);

impl<K> Default for Hints<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Hash + Eq + Clone> Hints<K> {
    /// What was spoken there, if that was heard not long ago.
    #[must_use]
    pub fn get(&self, port: &K, now: Instant) -> Option<Hint> {
        let hints = self.0.borrow();
        let (hint, heard) = hints.get(port)?;
        (now.saturating_duration_since(*heard) < HINT_LIFE).then_some(*hint)
    }

    /// This was spoken there.
    pub fn set(&self, port: K, hint: Hint, now: Instant) {
        let mut hints = self.0.borrow_mut();
        if hints.len() >= HINTS_MAX && !hints.contains_key(&port) {
            let oldest = hints.iter().min_by_key(|(_, (_, heard))| *heard);
            if let Some(oldest) = oldest.map(|(port, _)| port.clone()) {
                hints.remove(&oldest);
            }
        }
        hints.insert(port, (hint, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_not_believed_for_ever() {
        let (hints, begun) = (Hints::default(), Instant::now());
        hints.set(80, Hint::Bytes, begun);
        let almost = begun + HINT_LIFE - Duration::from_millis(1);
        assert_eq!(hints.get(&80, almost), Some(Hint::Bytes));
        assert_eq!(hints.get(&80, begun + HINT_LIFE), None);
        hints.set(80, Hint::Http, begun + HINT_LIFE);
        assert_eq!(hints.get(&80, begun + HINT_LIFE), Some(Hint::Http));
    }

    #[test]
    fn the_oldest_makes_room_and_what_is_there_can_change() {
        let (hints, begun) = (Hints::default(), Instant::now());
        for port in 0..HINTS_MAX {
            let heard = begun + Duration::from_millis(u64::try_from(port).unwrap());
            hints.set(port, Hint::Http, heard);
        }
        let now = begun + Duration::from_secs(60);
        hints.set(0, Hint::Bytes, now);
        assert_eq!(hints.get(&0, now), Some(Hint::Bytes), "at the bound, too");
        hints.set(HINTS_MAX, Hint::Http, now);
        assert_eq!(hints.get(&HINTS_MAX, now), Some(Hint::Http));
        assert_eq!(hints.get(&1, now), None, "the oldest");
        assert_eq!(hints.0.borrow().len(), HINTS_MAX);
    }
}
