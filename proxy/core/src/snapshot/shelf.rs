//! Which resources of one kind are held, and which version of each was accepted last?

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Rejected;

/// Most keys that are remembered of one resource.
pub(super) const ALIASES_MAX: usize = 256;

/// A resource as it came.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) version: String,
    pub(super) body: Bytes,
}

/// A resource as it was accepted: what is needed to use it, and to save it.
pub(super) struct Held<T> {
    pub(super) aliases: Arc<[Box<str>]>,
    pub(super) version: SmallVec<[u8; 16]>,
    pub(super) body: Bytes,
    pub(super) value: T,
    /// False for what stands in for a resource that was never accepted; it has no version.
    pub(super) accepted: bool,
}

/// The resources of one kind, by name. A refused one leaves its last good version in place.
pub(super) struct Shelf<T> {
    held: BTreeMap<Box<str>, Held<T>>,
    /// Those of the last resource. Siblings have the same, and share them.
    aliases: Arc<[Box<str>]>,
    /// Has there been an answer, even one that says that there is nothing?
    pub(super) answered: bool,
    /// Changed since it was last taken.
    dirty: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            aliases: Arc::default(),
            answered: false,
            dirty: false,
        }
    }
}

/// What storing a resource changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The content.
    Content,
    /// Only under which keys it is known.
    Aliases,
    /// Nothing that can be seen.
    Nothing,
}

impl<T> Shelf<T> {
    /// Stores a resource if it compiles; `compile` also gets the value that it replaces.
    pub(super) fn upsert(
        &mut self,
        item: Item,
        compile: impl FnOnce(&Item, Option<&T>) -> Result<T, String>,
    ) -> Result<Change, Rejected> {
        let name: Box<str> = item.name.as_str().into();
        let mut place = self.held.remove(&name);
        let result = accept(&mut place, item, compile);
        if let Some(mut held) = place {
            if held.aliases == self.aliases {
                held.aliases = self.aliases.clone();
            } else {
                self.aliases = held.aliases.clone();
            }
            self.held.insert(name, held);
        }
        if result == Ok(Change::Content) {
            self.dirty = true;
        }
        self.answered |= result.is_ok();
        result
    }

    /// Stores what stands in for a resource that was never accepted. An accepted one stays.
    pub(super) fn stand_in(&mut self, name: &str, body: Bytes, value: T) {
        if self.held.get(name).is_some_and(|held| held.accepted) {
            return;
        }
        let (aliases, version) = (Arc::default(), SmallVec::new());
        self.held.insert(
            name.into(),
            Held {
                aliases,
                version,
                body,
                value,
                accepted: false,
            },
        );
        self.dirty = true;
        self.answered = true;
    }

    /// Takes a resource away. True if it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let was = self.held.remove(name).is_some();
        self.dirty |= was;
        was
    }

    /// Notes that there has been an answer.
    pub(super) fn answer(&mut self) {
        self.dirty |= !self.answered;
        self.answered = true;
    }

    /// Changed since this was last called?
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Was the last resource an answer for this key?
    pub(super) fn is_aliased(&self, key: &str) -> bool {
        self.aliases.iter().any(|alias| **alias == *key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Held<T>)> {
        self.held.iter().map(|(name, held)| (&**name, held))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.held.values().map(|held| &held.value)
    }

    pub(super) fn clear(&mut self) {
        self.dirty |= !self.held.is_empty();
        self.held.clear();
    }
}

/// Puts a resource into its place if it compiles; otherwise what is there stays.
pub(super) fn accept<T>(
    place: &mut Option<Held<T>>,
    item: Item,
    compile: impl FnOnce(&Item, Option<&T>) -> Result<T, String>,
) -> Result<Change, Rejected> {
    let aliases = merged(place.as_ref().map(|held| &held.aliases), &item.aliases);
    if let Some(held) = place
        .as_mut()
        .filter(|held| held.accepted && held.body == item.body)
    {
        let change = if held.aliases == aliases {
            Change::Nothing
        } else {
            Change::Aliases
        };
        held.version = SmallVec::from_slice(item.version.as_bytes());
        held.aliases = aliases;
        return Ok(change);
    }
    let value = compile(&item, place.as_ref().map(|held| &held.value)).map_err(|why| Rejected {
        name: item.name.clone(),
        why,
    })?;
    let Item { version, body, .. } = item;
    *place = Some(Held {
        aliases,
        version: SmallVec::from_slice(version.as_bytes()),
        body,
        value,
        accepted: true,
    });
    Ok(Change::Content)
}

/// The old and the new keys: each answer names those that it is for, not all that were asked.
pub(super) fn merged(old: Option<&Arc<[Box<str>]>>, new: &[String]) -> Arc<[Box<str>]> {
    let holds = |old: &[Box<str>], alias: &str| old.iter().any(|o| **o == *alias);
    if let Some(old) = old.filter(|old| new.iter().all(|alias| holds(old, alias))) {
        return old.clone();
    }
    let mut all: Vec<Box<str>> = old.map(|old| old.to_vec()).unwrap_or_default();
    all.extend(new.iter().map(|alias| alias.as_str().into()));
    all.sort_unstable();
    all.dedup();
    all.truncate(ALIASES_MAX);
    all.into()
}

/// The table anew if its resources changed, else the last one.
pub(super) fn changed<T, U>(
    shelf: &mut Shelf<T>,
    last: &Arc<U>,
    make: impl FnOnce(&Shelf<T>) -> U,
) -> Arc<U> {
    if shelf.take_dirty() {
        Arc::new(make(shelf))
    } else {
        last.clone()
    }
}
