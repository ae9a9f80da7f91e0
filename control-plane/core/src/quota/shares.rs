//! How much may each namespace have of what all of them share?
//!
//! Whoever may write policies in one namespace must not keep those of another one out. No namespace has
//! more than a part of the whole, and when others have used up the whole there still is room for a
//! little of each: so much again, for all of those together.

use std::collections::BTreeMap;

use super::{Cost, Over};

/// Which part of the whole one namespace may have.
const PART: usize = 4;
/// A namespace may have as much, in bytes, however small the whole is.
const LEAST: usize = 64 * 1024;
/// Which part of the whole a namespace has room for when others have used the whole up.
const LITTLE: usize = 128;

/// What objects take, one by one and in each namespace.
#[derive(Debug)]
pub struct Shares<K> {
    /// In bytes.
    whole: usize,
    used: usize,
    /// By namespace, what each of its objects takes, and all of them.
    spaces: BTreeMap<String, Space<K>>,
}

#[derive(Debug)]
struct Space<K> {
    used: usize,
    held: BTreeMap<K, usize>,
}

impl<K: Ord> Shares<K> {
    /// Nothing is held yet. `whole` is in bytes.
    #[must_use]
    pub fn new(whole: usize) -> Self {
        Self {
            whole,
            used: 0,
            spaces: BTreeMap::new(),
        }
    }

    /// Takes an object of a namespace in, or in the place of what was held under its key.
    ///
    /// # Errors
    /// There is no room; what was held under the key is still held. What becomes smaller, or stays as
    /// large as it was, always has room.
    pub fn admit(&mut self, space: &str, key: K, cost: Cost) -> Result<(), Over> {
        let held = self.spaces.get(space).and_then(|of| of.held.get(&key));
        let old = held.copied().unwrap_or_default();
        let more = cost.bytes.saturating_sub(old);
        if more > 0 {
            self.fits(space, more)?;
        }
        self.release(space, &key);
        let of = self
            .spaces
            .entry(space.to_owned())
            .or_insert_with(|| Space {
                used: 0,
                held: BTreeMap::new(),
            });
        of.used = of.used.saturating_add(cost.bytes);
        of.held.insert(key, cost.bytes);
        self.used = self.used.saturating_add(cost.bytes);
        Ok(())
    }

    /// The object is gone. `false`: it was not held.
    pub fn release(&mut self, space: &str, key: &K) -> bool {
        let Some(of) = self.spaces.get_mut(space) else {
            return false;
        };
        let Some(bytes) = of.held.remove(key) else {
            return false;
        };
        of.used = of.used.saturating_sub(bytes);
        self.used = self.used.saturating_sub(bytes);
        if of.held.is_empty() {
            self.spaces.remove(space);
        }
        true
    }

    /// Is anything held under this key?
    #[must_use]
    pub fn holds(&self, space: &str, key: &K) -> bool {
        let of = self.spaces.get(space);
        of.is_some_and(|of| of.held.contains_key(key))
    }

    /// Is there room in the namespace for what takes this much?
    #[must_use]
    pub fn has_room(&self, space: &str, cost: Cost) -> bool {
        self.fits(space, cost.bytes).is_ok()
    }

    /// The most that one namespace may have, in bytes.
    #[must_use]
    pub fn share(&self) -> usize {
        (self.whole / PART).max(LEAST).min(self.whole)
    }

    fn fits(&self, space: &str, more: usize) -> Result<(), Over> {
        let own = self.spaces.get(space).map_or(0, |of| of.used);
        let own = own.saturating_add(more);
        if own > self.share() {
            return Err(Over::Share(self.share()));
        }
        let all = self.used.saturating_add(more);
        let is_little = own <= self.whole / LITTLE && all <= self.whole.saturating_mul(2);
        if all > self.whole && !is_little {
            return Err(Over::Bytes(self.whole));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1024 * 1024;

    fn bytes(bytes: usize) -> Cost {
        Cost {
            endpoints: 0,
            bytes,
        }
    }

    #[test]
    fn no_namespace_uses_up_what_the_others_need() {
        let mut shares = Shares::new(8 * MIB);
        let fill = |shares: &mut Shares<usize>, space: &str, each: usize| {
            let taken = (0..100_000).take_while(|at| shares.admit(space, *at, bytes(each)).is_ok());
            taken.count()
        };
        assert_eq!(fill(&mut shares, "a", 1024), 2048);
        assert_eq!(
            shares.admit("a", 9_999, bytes(1)),
            Err(Over::Share(2 * MIB))
        );
        // Together they may have all of it.
        for space in ["b", "c", "d"] {
            assert_eq!(fill(&mut shares, space, 1024), 2048);
        }
        // And whoever comes then has a little.
        assert_eq!(fill(&mut shares, "late", 1024), 64);
        assert_eq!(
            shares.admit("late", 9_999, bytes(1)),
            Err(Over::Bytes(8 * MIB))
        );
        assert!(!shares.has_room("late", bytes(1)) && shares.has_room("later", bytes(1024)));
        let many = (0..1_000).map(|at| fill(&mut shares, &format!("n{at}"), 1024));
        assert_eq!(many.sum::<usize>(), 8 * 1024 - 64, "that, too, has an end");
        assert!(shares.release("a", &0) && !shares.release("a", &0));
        assert_eq!(shares.admit("a", 1, bytes(1024)), Ok(()), "it is no larger");
    }

    proptest! {
        #[test]
        fn what_is_used_is_what_is_held(
            steps in proptest::collection::vec((0..4usize, 0..6usize, 0..400usize, any::<bool>()), 0..200)
        ) {
            let mut shares = Shares::new(2_000);
            let mut model: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for (space, key, cost, goes) in steps {
                let name = space.to_string();
                if goes {
                    prop_assert_eq!(
                        shares.release(&name, &key),
                        model.remove(&(space, key)).is_some()
                    );
                } else if shares.admit(&name, key, bytes(cost)).is_ok() {
                    model.insert((space, key), cost);
                } else {
                    prop_assert!(cost > model.get(&(space, key)).copied().unwrap_or(0));
                }
                prop_assert_eq!(shares.used, model.values().sum::<usize>());
                prop_assert_eq!(shares.holds(&name, &key), model.contains_key(&(space, key)));
                prop_assert!(shares.used <= 4_000);
            }
        }
    }
}
