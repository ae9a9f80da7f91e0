//! Where do declared objects of one kind lie?

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::SystemTime;

/// When the control plane saw an object as it is now for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The time that came with the change.
    pub(crate) at: SystemTime,
    /// The world's generation.
    pub(crate) generation: u64,
}

/// How old an object is: the older is smaller; without a time it is the youngest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    unknown: bool,
    created: Option<SystemTime>,
}

impl Age {
    /// The age of what was created then.
    pub(crate) fn of(created: Option<SystemTime>) -> Self {
        Self {
            unknown: created.is_none(),
            created,
        }
    }
}

/// An object with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<T> {
    /// What it says.
    pub(crate) value: T,
    /// When it was created.
    pub(crate) created: Option<SystemTime>,
    /// When it became so.
    pub(crate) stamp: Stamp,
    /// The last list that named it.
    pub(crate) list: u64,
}

impl<T> Entry<T> {
    /// Its age.
    pub(crate) fn age(&self) -> Age {
        Age::of(self.created)
    }
}

/// Objects of one kind in one cluster, by namespace and name. Objects without a namespace lie
/// under the empty one.
#[derive(Debug, Clone)]
pub(crate) struct Table<T> {
    /// Boxed: a node has room for eleven, is half full where names come in their order, and is there for one.
    spaces: BTreeMap<String, BTreeMap<String, Box<Entry<T>>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> Table<T> {
    /// No object.
    pub(crate) const NONE: Self = Self {
        spaces: BTreeMap::new(),
    };

    /// The objects behind this one, or all of them: namespace, name, entry.
    pub(crate) fn behind(
        &self,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = (&str, &str, &Entry<T>)> {
        let (namespace, name) = after.unzip();
        let from = namespace.map_or(Bound::Unbounded, Bound::Included);
        let spaces = self.spaces.range::<str, _>((from, Bound::Unbounded));
        spaces.flat_map(move |(space, inner)| {
            let within = name.filter(|_| namespace == Some(space.as_str()));
            let from = within.map_or(Bound::Unbounded, Bound::Excluded);
            let entries = inner.range::<str, _>((from, Bound::Unbounded));
            entries.map(|(name, entry)| (space.as_str(), name.as_str(), &**entry))
        })
    }
}

impl<T: PartialEq> Table<T> {
    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Entry<T>> {
        self.spaces.get(namespace)?.get(name).map(Box::as_ref)
    }

    /// One object, with the name as it lies here.
    pub(crate) fn entry(&self, namespace: &str, name: &str) -> Option<(&str, &Entry<T>)> {
        self.spaces
            .get(namespace)?
            .get_key_value(name)
            .map(|(name, entry)| (name.as_str(), entry.as_ref()))
    }

    /// The objects of a namespace, by name.
    pub(crate) fn within<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Entry<T>)> + use<'a, T> {
        self.spaces
            .get(namespace)
            .into_iter()
            .flatten()
            .map(|(name, e)| (name.as_str(), e.as_ref()))
    }

    /// The namespaces that have any.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &str> {
        self.spaces.keys().map(String::as_str)
    }

    /// All objects: namespace, name, entry.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &Entry<T>)> {
        self.spaces.iter().flat_map(|(ns, inner)| {
            inner
                .iter()
                .map(|(n, e)| (ns.as_str(), n.as_str(), e.as_ref()))
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.spaces.values().map(BTreeMap::len).sum()
    }

    /// Is it there already, saying the same? Then the list has named it.
    pub(crate) fn confirm(
        &mut self,
        at: (&str, &str),
        same: (&T, Option<SystemTime>),
        list: u64,
    ) -> bool {
        let found = self
            .spaces
            .get_mut(at.0)
            .and_then(|inner| inner.get_mut(at.1));
        let Some(entry) = found.filter(|e| e.value == *same.0 && e.created == same.1) else {
            return false;
        };
        entry.list = list;
        true
    }

    /// The list has named it, whatever it said.
    pub(crate) fn keep(&mut self, namespace: &str, name: &str, list: u64) {
        if let Some(entry) = self
            .spaces
            .get_mut(namespace)
            .and_then(|inner| inner.get_mut(name))
        {
            entry.list = list;
        }
    }

    /// Puts an object in, or another in its place.
    pub(crate) fn put(&mut self, namespace: &str, name: &str, entry: Entry<T>) {
        let names = match self.spaces.get_mut(namespace) {
            Some(names) => names,
            None => self.spaces.entry(namespace.to_owned()).or_default(),
        };
        match names.get_mut(name) {
            Some(before) => **before = entry,
            None => {
                names.insert(name.to_owned(), Box::new(entry));
            }
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str) -> Option<Entry<T>> {
        let inner = self.spaces.get_mut(namespace)?;
        let entry = inner.remove(name);
        if inner.is_empty() {
            self.spaces.remove(namespace);
        }
        entry.map(|entry| *entry)
    }

    /// What the list of this number has not named.
    pub(crate) fn unnamed(&self, list: u64) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter(move |(_, _, e)| e.list != list)
            .map(|(ns, name, _)| (ns, name))
    }
}
