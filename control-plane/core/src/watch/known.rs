//! Is this state of an object news, or of the past?

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::{Meta, Name, OBJECTS_MAX, Version};

/// Deleted objects of one kind that are kept in mind.
const TOMBSTONES_MAX: usize = 16_384;
/// Names of one kind that are kept in mind, in bytes.
const NAMES_BYTES_MAX: usize = 16 << 20;

/// What the server has shown of one kind.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By namespace (empty where there is none) and name.
    spaces: BTreeMap<Box<str>, BTreeMap<Box<str>, Entry>>,
    objects: usize,
    /// Of all names.
    bytes: usize,
    beyond: usize,
    /// Counts the lists.
    list: u64,
    graves: Graves,
}

/// What a state of an object is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// To be told.
    New,
    /// Told already.
    Same,
    /// Not to be told: something newer was, or there are too many.
    Past,
}

#[derive(Debug)]
struct Entry {
    uid: Uid,
    /// `None`: to be told again whatever it is.
    version: Option<Version>,
    /// The last list that named it.
    list: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Uid {
    Uuid(u128),
    Other(Box<str>),
}

/// Objects that are gone for good.
#[derive(Debug, Default)]
struct Graves {
    uids: HashSet<Uid>,
    /// In the order of their deletion, with its version.
    order: VecDeque<(Uid, Option<Version>)>,
    /// Some in `order` are not dead after all.
    opened: bool,
    /// Of what was forgotten or never seen: an unknown object up to this version may be a dead one.
    floor: Option<Version>,
}

impl Known {
    /// A list begins: what it does not name will be gone at its end.
    pub(super) fn begin_list(&mut self) {
        self.list = self.list.saturating_add(1);
        self.beyond = 0;
    }

    /// A list names an object. The list is not older than anything that was seen: what it says counts, also
    /// where it contradicts that. A store that was restored from a backup, its revision raised, has
    /// objects again that were deleted, and others as they were.
    pub(super) fn listed(&mut self, meta: &Meta) -> Sight {
        let list = self.list;
        let uid = Uid::read(&meta.uid);
        self.graves.open(&uid);
        self.take(meta, uid, (list, true))
    }

    /// The list is complete. What it did not name is gone.
    pub(super) fn end_list(&mut self, version: &Version) -> Vec<Name> {
        let (list, mut gone) = (self.list, Vec::new());
        for (namespace, names) in &mut self.spaces {
            names.retain(|name, entry| {
                if entry.list == list {
                    return true;
                }
                self.graves.bury(&entry.uid, Some(version.clone()));
                self.bytes = self.bytes.saturating_sub(name.len());
                gone.push(called(namespace, name));
                false
            });
        }
        self.spaces.retain(|_, names| !names.is_empty());
        self.objects = self.objects.saturating_sub(gone.len());
        // What is as old as this list and was not in it has been dead by then.
        self.graves.raise(version);
        gone
    }

    /// A watch shows an object.
    pub(super) fn put(&mut self, meta: &Meta) -> Sight {
        let uid = Uid::read(&meta.uid);
        if self.graves.uids.contains(&uid) {
            return Sight::Past;
        }
        let known = self.entry(meta.namespace.as_deref(), &meta.name).is_some();
        if !known && self.graves.may_hold(&meta.resource_version) {
            return Sight::Past;
        }
        let list = self.list;
        self.take(meta, uid, (list, false))
    }

    /// `goes_back`: an older version is one, too.
    fn take(&mut self, meta: &Meta, uid: Uid, (list, goes_back): (u64, bool)) -> Sight {
        let version = Version::read(&meta.resource_version);
        if let Some(entry) = self.entry(meta.namespace.as_deref(), &meta.name) {
            entry.list = list;
            let same = entry.uid == uid;
            let sight = match (&version, &entry.version) {
                (Some(new), Some(old)) if same && new == old => Sight::Same,
                (Some(new), Some(old)) if !goes_back && new.is_before(old) => Sight::Past,
                _ => Sight::New,
            };
            if sight == Sight::New {
                let old = std::mem::replace(&mut entry.uid, uid);
                entry.version = version.clone();
                if !same {
                    self.graves.bury(&old, version);
                }
            }
            return sight;
        }
        if self.objects >= OBJECTS_MAX || self.bytes >= NAMES_BYTES_MAX {
            self.beyond = self.beyond.saturating_add(1);
            return Sight::Past;
        }
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        if !self.spaces.contains_key(namespace) {
            self.spaces.insert(namespace.into(), BTreeMap::new());
        }
        if let Some(names) = self.spaces.get_mut(namespace) {
            names.insert(meta.name.as_str().into(), Entry { uid, version, list });
            self.objects = self.objects.saturating_add(1);
            self.bytes = self.bytes.saturating_add(meta.name.len());
        }
        Sight::New
    }

    /// A watch says that an object is gone. Of an unknown one too that is told: it costs nothing.
    pub(super) fn deleted(&mut self, meta: &Meta) -> Sight {
        let uid = Uid::read(&meta.uid);
        let version = Version::read(&meta.resource_version);
        let dead = !self.graves.bury(&uid, version);
        let namespace = meta.namespace.as_deref();
        match self.entry(namespace, &meta.name) {
            // Another object has the name now.
            Some(entry) if entry.uid != uid => Sight::Past,
            Some(_) => {
                self.remove(namespace.unwrap_or_default(), &meta.name);
                Sight::New
            }
            None if dead => Sight::Past,
            None => Sight::New,
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.spaces.get_mut(namespace) else {
            return;
        };
        if names.remove(name).is_some() {
            self.objects = self.objects.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(name.len());
        }
        if names.is_empty() {
            self.spaces.remove(namespace);
        }
    }

    /// Everything is gone.
    pub(super) fn clear(&mut self) -> Vec<Name> {
        let mut gone = Vec::with_capacity(self.objects);
        for (namespace, names) in std::mem::take(&mut self.spaces) {
            for (name, entry) in names {
                self.graves.bury(&entry.uid, entry.version);
                gone.push(called(&namespace, &name));
            }
        }
        (self.objects, self.bytes) = (0, 0);
        gone
    }

    /// What was told of an object did not count.
    pub(super) fn doubt(&mut self, namespace: Option<&str>, name: &str) {
        if let Some(entry) = self.entry(namespace, name) {
            entry.version = None;
        }
    }

    /// Nothing that was told did count.
    pub(super) fn doubt_all(&mut self) {
        for entry in self.spaces.values_mut().flat_map(BTreeMap::values_mut) {
            entry.version = None;
        }
    }

    /// No version that is known can be compared with those that come.
    pub(super) fn begin_anew(&mut self) {
        self.doubt_all();
        self.graves = Graves::default();
    }

    pub(super) fn len(&self) -> usize {
        self.objects
    }

    pub(super) fn beyond(&self) -> usize {
        self.beyond
    }

    fn entry(&mut self, namespace: Option<&str>, name: &str) -> Option<&mut Entry> {
        self.spaces
            .get_mut(namespace.unwrap_or_default())?
            .get_mut(name)
    }
}

impl Graves {
    /// `false`: it was dead already.
    fn bury(&mut self, uid: &Uid, version: Option<Version>) -> bool {
        // Objects without a uid can't be told apart: versions have to do.
        if *uid == Uid::Other("".into()) {
            return true;
        }
        if self.uids.contains(uid) {
            return false;
        }
        // Once for all of them: a list may open as many as there are.
        if std::mem::take(&mut self.opened) {
            let uids = &self.uids;
            self.order.retain(|(dead, _)| uids.contains(dead));
        }
        self.uids.insert(uid.clone());
        self.order.push_back((uid.clone(), version));
        if self.order.len() > TOMBSTONES_MAX
            && let Some((forgotten, version)) = self.order.pop_front()
        {
            self.uids.remove(&forgotten);
            if let Some(version) = version {
                self.raise(&version);
            }
        }
        true
    }

    /// It is not dead after all.
    fn open(&mut self, uid: &Uid) {
        self.opened |= self.uids.remove(uid);
    }

    fn raise(&mut self, version: &Version) {
        if self.floor.as_ref().is_none_or(|old| old.is_before(version)) {
            self.floor = Some(version.clone());
        }
    }

    /// May an object of this version be one that is dead and forgotten?
    fn may_hold(&self, version: &str) -> bool {
        match (&self.floor, Version::read(version)) {
            (Some(floor), Some(version)) => !floor.is_before(&version),
            (None, _) | (_, None) => false,
        }
    }
}

impl Uid {
    /// As a number where it is a UUID in its usual form: half of the memory.
    fn read(text: &str) -> Self {
        let dashes = [8, 13, 18, 23];
        let usual = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match b {
                b'-' => dashes.contains(&at),
                _ => !dashes.contains(&at) && matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        let digits = |text: &str| u128::from_str_radix(&text.replace('-', ""), 16).ok();
        match digits(text).filter(|_| usual) {
            Some(number) => Self::Uuid(number),
            None => Self::Other(text.into()),
        }
    }
}

fn called(namespace: &str, name: &str) -> Name {
    Name {
        namespace: Some(namespace.to_owned()).filter(|text| !text.is_empty()),
        name: name.to_owned(),
    }
}
