//! What is wanted, held and still to be said of one kind of resource?

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use isthmus_proto::discovery::Resource;

use super::WANTED_MAX;
use super::held::{Entry, Held};
use crate::snapshot::{Kind, Rejected, Update};

/// How one kind of resource stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindStatus {
    /// Which kind.
    pub kind: Kind,
    /// How many names and keys are wanted.
    pub wanted: usize,
    /// How many resources were accepted and are there.
    pub held: usize,
    /// Did the server ever answer?
    pub answered: bool,
    /// The server's generation of the last response that was accepted in full.
    pub acked_version: String,
    /// Responses that were refused, at least in part.
    pub nacks: u64,
    /// What was refused last: one line for each resource.
    pub last_nack: Option<String>,
    /// When the server answered last.
    pub last_contact: Option<Instant>,
}

/// Which services a key means, and under which keys else they are known.
#[derive(Debug, Default)]
pub(super) struct Kin {
    pub(super) services: Vec<String>,
    pub(super) keys: Vec<String>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    pub(super) initial: HashMap<String, String>,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

/// The books of one kind.
pub(super) struct Ledger {
    pub(super) kind: Kind,
    pub(super) held: Held,
    wanted: BTreeSet<Box<str>>,
    /// Was the first request of this stream sent?
    subscribed: bool,
    /// To be said on this stream.
    subscribe: BTreeSet<Box<str>>,
    unsubscribe: BTreeSet<Box<str>>,
    acks: VecDeque<(String, Option<String>)>,
    acked_version: String,
    nacks: u64,
    last_nack: Option<String>,
    last_contact: Option<Instant>,
}

impl Ledger {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: Held::default(),
            wanted: BTreeSet::new(),
            subscribed: false,
            subscribe: BTreeSet::new(),
            unsubscribe: BTreeSet::new(),
            acks: VecDeque::new(),
            acked_version: String::new(),
            nacks: 0,
            last_nack: None,
            last_contact: None,
        }
    }

    pub(super) fn wanted(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(|name| &**name)
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    pub(super) fn want(&mut self, name: &str) -> bool {
        let news = self.wanted.len() < WANTED_MAX && self.wanted.insert(name.into());
        if news {
            // A pending unsubscription stays: what was held is forgotten, so the server must
            // send it again, which it does for a name that was given up in between.
            self.subscribe.insert(name.into());
        }
        news
    }

    pub(super) fn has_no_room_for(&self, name: &str) -> bool {
        self.wanted.len() >= WANTED_MAX && !self.wanted.contains(name)
    }

    pub(super) fn unwant(&mut self, key: &str, kin: &Kin) -> Vec<Update> {
        if !self.wanted.remove(key) {
            return Vec::new();
        }
        if !self.subscribe.remove(key) {
            self.unsubscribe.insert(key.into());
        }
        let kind = self.kind;
        let forget = |name: &str| Update::Forget {
            kind,
            name: name.to_owned(),
        };
        let mut updates = self.drop_under(key, kin, forget);
        // A service's own name is a key, too: under another one it is wanted still.
        if !self.held.contains(key) {
            updates.push(forget(key));
        }
        updates
    }

    /// The server says that a resource is gone, or that there is nothing under a key.
    pub(super) fn removed(&mut self, name: &str, kin: &Kin, updates: &mut Vec<Update>) {
        let kind = self.kind;
        let remove = |name: &str| Update::Remove {
            kind,
            name: name.to_owned(),
        };
        if !self.held.remove(name) {
            if name == "*" {
                self.held.clear();
            } else if kind == Kind::Service {
                // It may still exist under other names; nobody wants to know.
                let forget = |name: &str| Update::Forget {
                    kind,
                    name: name.to_owned(),
                };
                updates.extend(self.drop_under(name, kin, forget));
            } else if kind.parent(name).is_none() {
                updates.extend(self.drop_under(name, kin, remove));
            }
        }
        updates.push(remove(name));
    }

    /// Takes a key off everything that is held under it, and drops what no other wanted key
    /// covers.
    fn drop_under(&mut self, key: &str, kin: &Kin, say: impl Fn(&str) -> Update) -> Vec<Update> {
        let under = |name: &&str| {
            *name == key
                || key == "*"
                || self.held.aliases(name).iter().any(|alias| **alias == *key)
                || self.is_child_of(name, kin)
        };
        let names: Vec<String> = self
            .held
            .names()
            .filter(under)
            .map(ToOwned::to_owned)
            .collect();
        let mut updates = Vec::new();
        for name in names {
            self.held.lose_alias(&name, key);
            if !self.covers(&name, self.held.aliases(&name), key, kin) {
                self.held.remove(&name);
                updates.push(say(&name));
            }
        }
        updates
    }

    fn is_child_of(&self, name: &str, kin: &Kin) -> bool {
        let parent = self.kind.parent(name);
        parent.is_some_and(|parent| kin.services.iter().any(|service| service == parent))
    }

    /// Is a resource wanted, under any key but this one?
    pub(super) fn covers(&self, name: &str, aliases: &[Box<str>], but: &str, kin: &Kin) -> bool {
        let wanted = |key: &str| key != but && self.wanted.contains(key);
        wanted("*")
            || wanted(name)
            || aliases.iter().any(|alias| wanted(alias))
            || self.kind.parent(name).is_some_and(wanted)
            || (self.is_child_of(name, kin) && kin.keys.iter().any(|key| wanted(key)))
    }

    /// A resource of a response. `Ok(None)`: nobody wants it any more. `kin`: of the service that it
    /// belongs to.
    pub(super) fn offered(
        &self,
        resource: Resource,
        kin: impl FnOnce(&str) -> Kin,
    ) -> Result<Option<(Update, Entry)>, Rejected> {
        let Resource {
            version,
            resource,
            name,
            aliases,
        } = resource;
        let refuse = |why: &str| Rejected {
            name: name.clone(),
            why: why.to_owned(),
        };
        if name.is_empty() {
            return Err(refuse("a resource has no name"));
        }
        let content = resource.ok_or_else(|| refuse("has no content"))?;
        if content.type_url != self.kind.type_url() {
            return Err(refuse(&format!(
                "its content is of type {:?}",
                content.type_url
            )));
        }
        let entry = Entry::new(&version, &aliases);
        // Without aliases there is no telling why it came; with them there is. A service comes with
        // all of its keys but its name, a child with those only that are new.
        let says_why = !aliases.is_empty() || self.kind == Kind::Service;
        let service = self.kind.parent(&name).unwrap_or(&name);
        if says_why
            && !self.covers(&name, entry.aliases(), "", &Kin::default())
            && !self.covers(&name, self.held.aliases(&name), "", &kin(service))
        {
            return Ok(None);
        }
        let kind = self.kind;
        let body = content.value.into();
        Ok(Some((
            Update::Upsert {
                kind,
                name,
                aliases,
                version,
                body,
            },
            entry,
        )))
    }

    /// A policy that was never accepted still denies. It is listed as held, in no version, so
    /// that after a reconnect the server says whether it is gone.
    pub(super) fn refused(&mut self, name: &str) {
        if self.kind == Kind::AccessPolicy && !self.held.contains(name) {
            self.held.put(name, Entry::new("", &[]));
        }
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.last_contact = Some(now);
    }

    pub(super) fn acknowledge(&mut self, nonce: String, version: String, error: Option<String>) {
        match &error {
            Some(_) => {
                self.nacks = self.nacks.saturating_add(1);
                self.last_nack.clone_from(&error);
            }
            None => self.acked_version = version,
        }
        self.acks.push_back((nonce, error));
    }

    /// A new stream: everything is to be said again.
    pub(super) fn restart(&mut self) {
        self.subscribed = false;
        self.subscribe = self.wanted.clone();
        self.unsubscribe.clear();
        self.acks.clear();
    }

    /// The next request.
    pub(super) fn transmit(&mut self) -> Option<Outgoing> {
        let mut request = Outgoing {
            kind: self.kind,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial: HashMap::new(),
            nonce: String::new(),
            error: None,
        };
        let names = |set: &mut BTreeSet<Box<str>>| {
            std::mem::take(set).into_iter().map(String::from).collect()
        };
        if let Some((nonce, error)) = self.acks.pop_front() {
            request.nonce = nonce;
            request.error = error;
        } else if !self.unsubscribe.is_empty() {
            request.unsubscribe = names(&mut self.unsubscribe);
        } else if !self.subscribe.is_empty() {
            request.subscribe = if self.subscribed {
                names(&mut self.subscribe)
            } else {
                self.resume(&mut request.initial)
            };
            self.subscribed = true;
        } else {
            return None;
        }
        Some(request)
    }

    /// The names of a stream's first request. Held versions go along only with the keys under
    /// which they were answered; keys that are new wait for the next request. Otherwise the
    /// server would see that we hold what a new key means, be silent, and we would never learn
    /// that the key means it.
    fn resume(&mut self, initial: &mut HashMap<String, String>) -> Vec<String> {
        let all = std::mem::take(&mut self.subscribe);
        let mut known = self.held.keys();
        known.extend(self.held.names().filter_map(|name| self.kind.parent(name)));
        known.insert("*");
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            all.into_iter().partition(|name| known.contains(&**name));
        let first = if old.is_empty() {
            new
        } else {
            *initial = self.held.versions();
            self.subscribe = new;
            old
        };
        first.into_iter().map(String::from).collect()
    }

    pub(super) fn status(&self) -> KindStatus {
        KindStatus {
            kind: self.kind,
            wanted: self.wanted.len(),
            held: self.held.len(),
            answered: self.last_contact.is_some(),
            acked_version: self.acked_version.clone(),
            nacks: self.nacks,
            last_nack: self.last_nack.clone(),
            last_contact: self.last_contact,
        }
    }
}
