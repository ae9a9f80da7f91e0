//! Is this state of an object news, or of the past?

use std::collections::{BTreeMap, HashSet, VecDeque};

use sha2::{Digest as _, Sha256};

use super::{Meta, Name, OBJECTS_MAX, Version};

/// Deleted objects of one kind that are kept in mind.
const TOMBSTONES_MAX: usize = 16_384;
/// Names of one kind that are kept in mind, with their namespaces, in bytes.
const NAMES_BYTES_MAX: usize = 16 << 20;
/// What a namespace takes besides its name: a node of the map of its objects, which has room for eleven.
const SPACE_BYTES: usize = 11 * (size_of::<Entry>() + size_of::<Box<str>>());

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
    version: Option<Mark>,
    /// The last list that named it.
    list: u64,
}

/// A UUID, or a hash of what is none: as long as a server makes it, no more is kept. 0: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Uid(u128);

/// A version, or a hash of one that is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Number(u128),
    Opaque(u128),
}

/// Objects that are gone for good.
#[derive(Debug, Default)]
struct Graves {
    uids: HashSet<Uid>,
    /// In the order of their deletion, with its version.
    order: VecDeque<(Uid, Option<Mark>)>,
    /// Some in `order` are not dead after all.
    opened: bool,
    /// Of what was forgotten or never seen: an unknown object up to this version may be a dead one.
    floor: Option<Mark>,
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
        self.graves.open(uid);
        self.take(meta, uid, (list, true))
    }

    /// The list is complete. What it did not name is gone.
    pub(super) fn end_list(&mut self, version: &Version) -> Vec<Name> {
        let version = Mark::of(version);
        let (list, mut gone) = (self.list, Vec::new());
        for (namespace, names) in &mut self.spaces {
            names.retain(|name, entry| {
                if entry.list == list {
                    return true;
                }
                self.graves.bury(entry.uid, Some(version));
                self.bytes = self.bytes.saturating_sub(name.len());
                gone.push(called(namespace, name));
                false
            });
        }
        self.spaces.retain(|namespace, names| {
            let stays = !names.is_empty();
            if !stays {
                self.bytes = self.bytes.saturating_sub(space(namespace));
            }
            stays
        });
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
        let version = Mark::read(&meta.resource_version);
        if let Some(entry) = self.entry(meta.namespace.as_deref(), &meta.name) {
            entry.list = list;
            let same = entry.uid == uid;
            let sight = match (&version, &entry.version) {
                (Some(new), Some(old)) if same && new == old => Sight::Same,
                (Some(new), Some(old)) if !goes_back && new.is_before(*old) => Sight::Past,
                _ => Sight::New,
            };
            if sight == Sight::New {
                let old = std::mem::replace(&mut entry.uid, uid);
                entry.version = version;
                if !same {
                    self.graves.bury(old, version);
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
            self.bytes = self.bytes.saturating_add(space(namespace));
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
        let version = Mark::read(&meta.resource_version);
        let dead = !self.graves.bury(uid, version);
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
            self.bytes = self.bytes.saturating_sub(space(namespace));
            self.spaces.remove(namespace);
        }
    }

    /// Everything is gone.
    pub(super) fn clear(&mut self) -> Vec<Name> {
        let mut gone = Vec::with_capacity(self.objects);
        for (namespace, names) in std::mem::take(&mut self.spaces) {
            for (name, entry) in names {
                self.graves.bury(entry.uid, entry.version);
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
    fn bury(&mut self, uid: Uid, version: Option<Mark>) -> bool {
        // Objects without a uid can't be told apart: versions have to do.
        if uid == Uid::NONE {
            return true;
        }
        if self.uids.contains(&uid) {
            return false;
        }
        // Once for all of them: a list may open as many as there are.
        if std::mem::take(&mut self.opened) {
            let uids = &self.uids;
            self.order.retain(|(dead, _)| uids.contains(dead));
        }
        self.uids.insert(uid);
        self.order.push_back((uid, version));
        if self.order.len() > TOMBSTONES_MAX
            && let Some((forgotten, version)) = self.order.pop_front()
        {
            self.uids.remove(&forgotten);
            if let Some(version) = version {
                self.raise(version);
            }
        }
        true
    }

    /// It is not dead after all.
    fn open(&mut self, uid: Uid) {
        self.opened |= self.uids.remove(&uid);
    }

    fn raise(&mut self, version: Mark) {
        if self.floor.is_none_or(|old| old.is_before(version)) {
            self.floor = Some(version);
        }
    }

    /// May an object of this version be one that is dead and forgotten? Where versions are no numbers nobody
    /// knows: then what a watch shows is news.
    fn may_hold(&self, version: &str) -> bool {
        match (self.floor, Mark::read(version)) {
            (Some(Mark::Number(floor)), Some(Mark::Number(version))) => version <= floor,
            (Some(Mark::Opaque(_) | Mark::Number(_)) | None, _) => false,
        }
    }
}

impl Uid {
    const NONE: Self = Self(0);

    fn read(text: &str) -> Self {
        let dashes = [8, 13, 18, 23];
        let usual = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match b {
                b'-' => dashes.contains(&at),
                _ => !dashes.contains(&at) && matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        let digits = |text: &str| u128::from_str_radix(&text.replace('-', ""), 16).ok();
        match text {
            "" => Self::NONE,
            text if usual => digits(text).map_or(Self::NONE, Self),
            text => Self(hash(text)),
        }
    }
}

impl Mark {
    fn of(version: &Version) -> Self {
        match version {
            Version::Number(number) => Self::Number(*number),
            Version::Opaque(text) => Self::Opaque(hash(text)),
        }
    }

    fn read(text: &str) -> Option<Self> {
        Version::read(text).as_ref().map(Self::of)
    }

    /// As of versions: what is no number can only be equal.
    fn is_before(self, other: Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one < other,
            (Self::Opaque(_), _) | (_, Self::Opaque(_)) => false,
        }
    }
}

/// The first 128 bits of SHA-256: nobody finds a second text for them.
fn hash(text: &str) -> u128 {
    let digest: [u8; 32] = Sha256::digest(text).into();
    digest
        .first_chunk()
        .map_or(0, |first| u128::from_be_bytes(*first))
}

/// What a namespace takes.
fn space(namespace: &str) -> usize {
    SPACE_BYTES.saturating_add(namespace.len())
}

fn called(namespace: &str, name: &str) -> Name {
    Name {
        namespace: Some(namespace.to_owned()).filter(|text| !text.is_empty()),
        name: name.to_owned(),
    }
}
