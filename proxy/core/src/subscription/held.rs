//! Which version of which resource was accepted, and under which keys?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

/// An accepted version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    version: SmallVec<[u8; 16]>,
    /// Sorted. Shared by siblings.
    aliases: Arc<[Box<str>]>,
}

impl Entry {
    pub(super) fn new(version: &str, aliases: &[String]) -> Self {
        let mut aliases: Vec<Box<str>> = aliases.iter().map(|a| a.as_str().into()).collect();
        aliases.sort_unstable();
        aliases.dedup();
        Self {
            version: SmallVec::from_slice(version.as_bytes()),
            aliases: aliases.into(),
        }
    }

    pub(super) fn aliases(&self) -> &[Box<str>] {
        &self.aliases
    }
}

/// The accepted resources of one kind, by name.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<Box<str>, Entry>,
    /// Those of the last one that came: siblings mostly have the same.
    recent: Arc<[Box<str>]>,
}

impl Held {
    /// Puts a version in the place of the one before. Keys add up: an answer names those that
    /// it is for, not all under which the resource was asked for.
    pub(super) fn put(&mut self, name: &str, mut entry: Entry) {
        if let Some(old) = self
            .entries
            .get(name)
            .filter(|old| *old.aliases != *entry.aliases)
        {
            let mut all = [&*old.aliases, &*entry.aliases].concat();
            all.sort_unstable();
            all.dedup();
            entry.aliases = all.into();
        }
        if entry.aliases == self.recent {
            entry.aliases = self.recent.clone();
        } else {
            self.recent = entry.aliases.clone();
        }
        self.entries.insert(name.into(), entry);
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.entries.remove(name).is_some()
    }

    /// The keys under which a resource was answered.
    pub(super) fn aliases(&self, name: &str) -> &[Box<str>] {
        self.entries
            .get(name)
            .map(|entry| &*entry.aliases)
            .unwrap_or_default()
    }

    /// Takes a key off a resource.
    pub(super) fn lose_alias(&mut self, name: &str, key: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.aliases = entry
                .aliases
                .iter()
                .filter(|a| ***a != *key)
                .cloned()
                .collect();
        }
    }

    /// The resources that this key or name means.
    pub(super) fn named<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.entries
            .iter()
            .filter(move |(name, entry)| {
                ***name == *key || entry.aliases.iter().any(|alias| **alias == *key)
            })
            .map(|(name, _)| &**name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|name| &**name)
    }

    /// Every name and key that something is held under.
    pub(super) fn keys(&self) -> HashSet<&str> {
        let aliases = self.entries.values().flat_map(|entry| entry.aliases.iter());
        self.entries
            .keys()
            .chain(aliases)
            .map(|key| &**key)
            .collect()
    }

    /// Name to version, for the wire.
    pub(super) fn versions(&self) -> HashMap<String, String> {
        self.entries
            .iter()
            .map(|(name, entry)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(&entry.version).into_owned(),
                )
            })
            .collect()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
