//! Which key was asked for longest ago, and can be given up?
//!
//! Every address that an application calls is asked for once. Most of them are no service, and there
//! is no end of them; what is known to be no service makes room for the next one.

use std::collections::VecDeque;

/// Keys that are kept while there is room for more: an answer that is kept is not waited for again.
pub const ASKED_MAX: usize = 4_096;
/// Keys that are looked at for one that can be given up, each time.
const LOOKS: usize = 64;

/// Keys in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Asked {
    order: VecDeque<Box<str>>,
}

impl Asked {
    /// A key was asked for, for the first time.
    pub fn note(&mut self, key: &str) {
        self.order.push_back(key.into());
    }

    /// A key to be given up, if there are more than [`ASKED_MAX`]: an old one that is known to be no
    /// service. Ask until there is none.
    pub fn release(&mut self, absent: impl Fn(&str) -> bool) -> Option<Box<str>> {
        let over = self.order.len().saturating_sub(ASKED_MAX);
        for _ in 0..LOOKS.min(over.saturating_mul(LOOKS)) {
            let key = self.order.pop_front()?;
            if absent(&key) {
                return Some(key);
            }
            self.order.push_back(key);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_no_service_makes_room() {
        let mut asked = Asked::default();
        for number in 0..ASKED_MAX {
            asked.note(&number.to_string());
            assert_eq!(asked.release(|_| true), None, "there is room");
        }
        let service = |key: &str| key == "0" || key == "2";
        for (more, gone) in [("a", "1"), ("b", "3"), ("c", "4")] {
            asked.note(more);
            let given_up = asked.release(|key| !service(key));
            assert_eq!(given_up.as_deref(), Some(gone));
            assert_eq!(asked.release(|key| !service(key)), None);
        }
    }

    #[test]
    fn services_are_never_given_up() {
        let mut asked = Asked::default();
        for number in 0..ASKED_MAX + 100 {
            asked.note(&number.to_string());
            assert_eq!(asked.release(|_| false), None);
        }
    }
}
