//! Which key was asked for or used longest ago, and can be given up?
//!
//! Every address that an application calls is asked for once. Most of them are no service, and there
//! is no end of them; what is known to be no service makes room for the next one. So does a service
//! that nobody calls any more.

use std::collections::VecDeque;
use std::time::Duration;

use crate::balance::Ticks;

/// Keys that are kept while there is room for more: an answer that is kept is not waited for again.
pub const ASKED_MAX: usize = 4_096;
/// Keys that are looked at for one that can be given up, each time.
const LOOKS: usize = 64;
/// A service that was not called for that long is given up; the next call asks anew.
pub const UNUSED_LIFE: Duration = Duration::from_secs(24 * 3600);
/// One that was called since then makes no room for another.
pub const UNUSED_MIN: Duration = Duration::from_secs(600);

/// A key, and when it was asked for.
type Key = (Box<str>, Ticks);

/// Keys in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Asked {
    order: VecDeque<Key>,
    /// Where the next look for unused ones begins.
    looked: usize,
}

impl Asked {
    /// A key was asked for, for the first time.
    pub fn note(&mut self, key: &str, now: Ticks) {
        self.order.push_back((key.into(), now));
    }

    /// A key to be given up, if there are more than [`ASKED_MAX`]: an old one that is known to be no
    /// service. Ask until there is none.
    pub fn release(&mut self, absent: impl Fn(&str) -> bool) -> Option<Box<str>> {
        let over = self.order.len().saturating_sub(ASKED_MAX);
        for _ in 0..LOOKS.min(over.saturating_mul(LOOKS)) {
            let (key, asked) = self.order.pop_front()?;
            if absent(&key) {
                return Some(key);
            }
            self.order.push_back((key, asked));
        }
        None
    }

    /// A key to be given up because its service was not called for [`UNUSED_LIFE`]. Looks at a few of
    /// them each time. `used`: when it was called last; `None`: it is no service, or never was called.
    pub fn unused(&mut self, now: Ticks, used: impl Fn(&str) -> Option<Ticks>) -> Option<Box<str>> {
        for _ in 0..LOOKS.min(self.order.len()) {
            if self.looked >= self.order.len() {
                self.looked = 0;
            }
            let key = self.order.get(self.looked)?;
            if now.since(last(key, &used)) >= UNUSED_LIFE {
                return self.order.remove(self.looked).map(|(key, _)| key);
            }
            self.looked = self.looked.saturating_add(1);
        }
        None
    }

    /// The key whose service was called longest ago, if that is [`UNUSED_MIN`] at least: to make room
    /// where no more may be asked for. `used` as for [`Self::unused`].
    pub fn least_used(
        &mut self,
        now: Ticks,
        used: impl Fn(&str) -> Option<Ticks>,
    ) -> Option<Box<str>> {
        let ages = self.order.iter().map(|key| last(key, &used)).enumerate();
        let (place, at) = ages.min_by_key(|(_, at)| *at)?;
        if now.since(at) < UNUSED_MIN {
            return None;
        }
        self.order.remove(place).map(|(key, _)| key)
    }
}

fn last((key, asked): &Key, used: impl Fn(&str) -> Option<Ticks>) -> Ticks {
    used(key).map_or(*asked, |used| used.max(*asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: Ticks = Ticks(0);

    fn many(count: usize) -> Asked {
        let mut asked = Asked::default();
        for number in 0..count {
            asked.note(&number.to_string(), BEGUN);
        }
        asked
    }

    #[test]
    fn the_oldest_that_is_no_service_makes_room() {
        let mut asked = Asked::default();
        for number in 0..ASKED_MAX {
            asked.note(&number.to_string(), BEGUN);
            assert_eq!(asked.release(|_| true), None, "there is room");
        }
        let service = |key: &str| key == "0" || key == "2";
        for (more, gone) in [("a", "1"), ("b", "3"), ("c", "4")] {
            asked.note(more, BEGUN);
            let given_up = asked.release(|key| !service(key));
            assert_eq!(given_up.as_deref(), Some(gone));
            assert_eq!(asked.release(|key| !service(key)), None);
        }
    }

    #[test]
    fn services_make_no_room_for_addresses() {
        let mut asked = Asked::default();
        for number in 0..ASKED_MAX + 100 {
            asked.note(&number.to_string(), BEGUN);
            assert_eq!(asked.release(|_| false), None);
        }
    }

    #[test]
    fn what_nobody_calls_for_a_day_is_given_up_and_nothing_else() {
        let mut asked = many(3 * LOOKS);
        let now = BEGUN.after(UNUSED_LIFE);
        asked.note("new", now);
        // Each even one was called a moment after it was asked for.
        let called = BEGUN.after(Duration::from_nanos(1));
        let used = |key: &str| {
            let number = key.parse::<usize>().ok()?;
            number.is_multiple_of(2).then_some(called)
        };
        let mut given_up = Vec::new();
        // More looks than keys: all of them are looked at.
        for _ in 0..4 * LOOKS {
            given_up.extend(asked.unused(now, used));
        }
        let odd: Vec<Box<str>> = (0..3 * LOOKS)
            .filter(|number| !number.is_multiple_of(2))
            .map(|number| number.to_string().into())
            .collect();
        assert_eq!(given_up, odd);
        assert_eq!(asked.unused(BEGUN, used), None);
    }

    #[test]
    fn the_least_recently_used_makes_room_if_it_is_not_in_use() {
        let mut asked = many(3);
        let early = BEGUN.after(UNUSED_MIN / 2);
        let used = |key: &str| (key != "1").then_some(early);
        assert_eq!(
            asked.least_used(early, used),
            None,
            "all were just asked for"
        );
        let now = BEGUN.after(UNUSED_MIN);
        assert_eq!(asked.least_used(now, used).as_deref(), Some("1"));
        assert_eq!(asked.least_used(now, used), None, "the others are in use");
        let late = early.after(UNUSED_MIN);
        assert_eq!(asked.least_used(late, used).as_deref(), Some("0"));
    }
}
