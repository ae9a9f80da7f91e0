//! What of a cluster is held, and what is there to tell?
//!
//! What is not understood, or has no room, leaves its last good state in place, and is reported by its
//! name.

mod denied;
mod room;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use isthmus_control_plane_core::model::{
    Change, Kind, Object, ObjectRef, Observed, PolicyTarget, Refusal, Spec,
};
use isthmus_control_plane_core::quota::{Cost, Quota};
use isthmus_control_plane_core::watch::Name;
use isthmus_control_plane_core::world::weight;
use isthmus_proto::ids::ClusterId;

use denied::Denied;
use room::Rooms;

use crate::manifest::{Parsed, Problem};

/// Objects with a problem that are remembered by name; more are only counted.
const PROBLEMS_MAX: usize = 500;
/// More are not even counted.
const MORE_MAX: usize = 100_000;
/// Errors of one object that its author is told in its status.
const ERRORS_TOLD_MAX: usize = 3;
/// Namespaces that are named of those that have more of them.
const MORE_TOLD_MAX: usize = 5;
/// What is told of a policy that is not taken, besides why.
const DENIED: &str = "; where it would apply, everything is denied until it is taken";

/// Kind, namespace (empty: none), name.
pub(super) type Key = (Kind, String, String);

/// What one cluster's API server has made of the world.
#[derive(Debug)]
pub(super) struct Held {
    cluster: ClusterId,
    rooms: Rooms,
    denied: Denied,
    /// What governs first.
    problems: BTreeMap<(u8, Key), Trouble>,
    /// Objects with a problem that are not remembered by name: their hashes.
    more: HashSet<u64>,
    hasher: RandomState,
    /// Kinds and namespaces with refused objects among them.
    more_refused: BTreeSet<(Kind, String)>,
}

/// Why an object is not held as the server has it.
#[derive(Debug, Clone)]
enum Trouble {
    /// It is not understood.
    Error(Vec<Problem>),
    /// It is understood in part.
    Invalid(Vec<Problem>),
    /// There is no room for it.
    Refused(Cost, Vec<Problem>),
}

/// What came of an object.
pub(super) struct Taken {
    /// To tell.
    pub(super) changes: Vec<Change>,
    /// There was no room: it has to be seen once more when there is.
    pub(super) refused: bool,
}

impl Held {
    pub(super) fn new(cluster: &ClusterId, quota: Quota) -> Self {
        Self {
            cluster: cluster.clone(),
            rooms: Rooms::new(quota),
            denied: Denied::default(),
            problems: BTreeMap::new(),
            more: HashSet::new(),
            hasher: RandomState::new(),
            more_refused: BTreeSet::new(),
        }
    }

    /// An object is there, or is different. `observed`: what stands in its status.
    pub(super) fn apply(
        &mut self,
        kind: Kind,
        name: &Name,
        parsed: Parsed,
        observed: impl FnOnce() -> Observed,
    ) -> Taken {
        let key = key(kind, name);
        if !parsed.errors.is_empty() {
            let told = parsed.errors.iter().take(ERRORS_TOLD_MAX);
            let told: Vec<&str> = told.map(|problem| problem.message.as_str()).collect();
            let why = ("Invalid", told.join("; "));
            let changes = self.refuse(&key, parsed.objects.first(), why, observed);
            self.note(&key, Some(Trouble::Error(parsed.errors)));
            return Taken {
                changes,
                refused: false,
            };
        }
        if parsed.objects.is_empty() {
            // It says something now that is of no interest.
            return Taken {
                changes: self.delete(kind, name),
                refused: false,
            };
        }
        let costs = parsed.objects.iter().map(Cost::of);
        let cost = costs.fold(Cost::default(), Cost::and);
        if let Err(over) = self.rooms.admit(key.clone(), cost) {
            let problem = Problem {
                line: 0,
                column: 0,
                object: title(&key),
                message: format!("{over}; it takes {cost}"),
            };
            let why = ("QuotaExceeded", problem.message.clone());
            let changes = self.refuse(&key, parsed.objects.first(), why, observed);
            self.note(&key, Some(Trouble::Refused(cost, vec![problem])));
            return Taken {
                changes,
                refused: true,
            };
        }
        let invalid = Some(parsed.invalid).filter(|list| !list.is_empty());
        // First it counts, then nothing stands in its place any more.
        let open = self.open(&key);
        self.note(&key, invalid.map(Trouble::Invalid));
        let changes = parsed.objects.into_iter().map(Change::Apply);
        Taken {
            changes: changes.chain(open).collect(),
            refused: false,
        }
    }

    /// An object is not taken. If it is an access policy that never was, nothing of it is in force: where it
    /// would apply, everything is denied.
    fn refuse(
        &mut self,
        key: &Key,
        object: Option<&Object>,
        (reason, mut message): (&'static str, String),
        observed: impl FnOnce() -> Observed,
    ) -> Vec<Change> {
        let never = key.0 == Kind::AccessPolicy && !self.rooms.holds(key);
        let reach = match object.map(|object| &object.spec) {
            Some(Spec::AccessPolicy(policy)) => denied::reach(policy),
            Some(_) | None => Some(PolicyTarget::Namespace),
        };
        let denied = match reach.filter(|_| never) {
            Some(target) => {
                message.push_str(DENIED);
                let hash = self.hasher.hash_one(key);
                self.denied.add(&key.1, hash, target);
                self.denied.news(&self.cluster, &key.1)
            }
            None => self.open(key),
        };
        let refusal = self.refusal(key, (reason, message), observed);
        refusal.into_iter().chain(denied).collect()
    }

    /// Nothing stands in its place any more.
    fn open(&mut self, key: &Key) -> Option<Change> {
        if key.0 != Kind::AccessPolicy {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        self.denied.remove(&key.1, hash);
        self.denied.news(&self.cluster, &key.1)
    }

    /// The object is there, and is not taken as it is.
    fn refusal(
        &self,
        key: &Key,
        (reason, message): (&'static str, String),
        observed: impl FnOnce() -> Observed,
    ) -> Option<Change> {
        let at = self.reference(key);
        let why = |at| Change::Refused {
            at,
            why: Refusal {
                reason,
                message,
                observed: observed(),
            },
        };
        at.map(why)
    }

    /// Is there anything that has no room?
    pub(super) fn is_over(&self) -> bool {
        let mut troubles = self.problems.values();
        !self.more_refused.is_empty()
            || troubles.any(|trouble| matches!(trouble, Trouble::Refused(..)))
    }

    /// An object is gone, with all that it has made.
    pub(super) fn delete(&mut self, kind: Kind, name: &Name) -> Vec<Change> {
        let key = key(kind, name);
        // What was told to be refused is gone, too.
        let unnamed = self.more.contains(&self.hasher.hash_one(&key));
        let refused = unnamed || self.problems.contains_key(&ranked(&key));
        self.note(&key, None);
        let open = self.open(&key);
        if !self.rooms.release(&key) && !refused {
            return open.into_iter().collect();
        }
        // What has no name in the world was never there.
        let at = self.reference(&key).map(Change::Delete);
        at.into_iter().chain(open).collect()
    }

    /// Is there room now for an object of this kind that was refused?
    pub(super) fn has_room(&mut self, kind: Kind) -> bool {
        // Of those that are not remembered nobody knows what they take.
        let some = self.rooms.some(kind);
        let roomy = |(_, namespace): &&(Kind, String)| self.rooms.has_room(kind, namespace, some);
        let all = (kind, String::new())..;
        let of_kind = self
            .more_refused
            .range(all)
            .take_while(|(of, _)| *of == kind);
        if let Some(found) = of_kind.into_iter().find(roomy).cloned() {
            self.more_refused.remove(&found);
            return true;
        }
        let from = (weight(kind), (kind, String::new(), String::new()));
        let troubles = self.problems.range(from..);
        let mut of_kind = troubles.take_while(|((_, key), _)| key.0 == kind);
        of_kind.any(|((_, key), trouble)| match trouble {
            Trouble::Refused(cost, _) => self.rooms.has_room(kind, &key.1, *cost),
            Trouble::Error(_) | Trouble::Invalid(_) => false,
        })
    }

    /// What is not understood or has no room, what is understood in part, and how many more.
    pub(super) fn problems(&self) -> (Problems, Problems, Option<String>) {
        let (mut errors, mut invalid) = (Problems::new(), Problems::new());
        for ((_, key), trouble) in &self.problems {
            match trouble {
                Trouble::Error(list) | Trouble::Refused(_, list) => {
                    errors.insert(title(key), list.clone());
                }
                Trouble::Invalid(list) => {
                    invalid.insert(title(key), list.clone());
                }
            }
        }
        (errors, invalid, self.more())
    }

    /// How many have problems besides those that are named, and where, for people.
    fn more(&self) -> Option<String> {
        let count = self.more.len();
        let of = |(kind, namespace): &(Kind, String)| match namespace.as_str() {
            "" => kind.to_string(),
            namespace => format!("{kind} of {namespace}"),
        };
        let refused = self.more_refused.iter();
        let mut refused: Vec<_> = refused.map(|at| (weight(at.0), at)).collect();
        refused.sort_unstable();
        let told: Vec<String> = refused
            .iter()
            .take(MORE_TOLD_MAX)
            .map(|(_, at)| of(at))
            .collect();
        let told = match told.as_slice() {
            [] => String::new(),
            told => format!("; some have no room: {}", told.join(", ")),
        };
        (count > 0).then(|| format!("{count} more objects have problems{told}"))
    }

    fn note(&mut self, key: &Key, trouble: Option<Trouble>) {
        let at = ranked(key);
        let Some(trouble) = trouble else {
            self.problems.remove(&at);
            self.more.remove(&self.hasher.hash_one(&at.1));
            return;
        };
        self.more.remove(&self.hasher.hash_one(&at.1));
        let before = self.problems.insert(at, trouble);
        if before.is_some() || self.problems.len() <= PROBLEMS_MAX {
            return;
        }
        // What matters least is only counted.
        let Some(((_, least), trouble)) = self.problems.pop_last() else {
            return;
        };
        if self.more.len() < MORE_MAX {
            self.more.insert(self.hasher.hash_one(&least));
        }
        if matches!(trouble, Trouble::Refused(..)) && self.more_refused.len() < MORE_MAX {
            self.more_refused.insert((least.0, least.1));
        }
    }

    fn reference(&self, (kind, namespace, name): &Key) -> Option<ObjectRef> {
        let namespace = match namespace.as_str() {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        Some(ObjectRef {
            cluster: self.cluster.clone(),
            kind: *kind,
            namespace,
            name: name.clone(),
        })
    }
}

/// Problems by the object that they are about.
pub(super) type Problems = BTreeMap<String, Vec<Problem>>;

pub(super) fn key(kind: Kind, name: &Name) -> Key {
    let namespace = name.namespace.clone().unwrap_or_default();
    (kind, namespace, name.name.clone())
}

/// In the order in which they are remembered.
fn ranked(key: &Key) -> (u8, Key) {
    (weight(key.0), key.clone())
}

/// `AccessPolicy shop/cart`
pub(super) fn title((kind, namespace, name): &Key) -> String {
    match namespace.as_str() {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}
