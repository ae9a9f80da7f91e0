//! What of a cluster is held, and what is there to tell?
//!
//! What is not understood, or has no room, leaves its last good state in place, and is reported by its
//! name.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use isthmus_control_plane_core::model::{Change, Kind, ObjectRef, Observed, Refusal};
use isthmus_control_plane_core::quota::{Cost, Ledger, Quota};
use isthmus_control_plane_core::watch::Name;
use isthmus_proto::ids::ClusterId;

use crate::manifest::{Parsed, Problem};

/// Objects with a problem that are remembered by name; more are only counted.
const PROBLEMS_MAX: usize = 500;
/// More are not even counted.
const MORE_MAX: usize = 100_000;
/// Errors of one object that its author is told in its status.
const ERRORS_TOLD_MAX: usize = 3;

/// What governs may have this part of the quota, besides the quota.
const GOVERNING_SHARE: usize = 8;

/// Does an object of this kind say who may do what, and who belongs to the mesh?
pub(super) fn governs(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::AccessPolicy | Kind::TrustPolicy | Kind::TrafficPolicy | Kind::MeshCluster
    )
}

/// Kind, namespace (empty: none), name.
pub(super) type Key = (Kind, String, String);

/// What one cluster's API server has made of the world.
#[derive(Debug)]
pub(super) struct Held {
    cluster: ClusterId,
    ledger: Ledger<Key>,
    /// Of what governs, apart, and besides: nothing else that fills up the cluster's quota keeps a policy
    /// out, nor what cuts a cluster off.
    governing: Ledger<Key>,
    problems: BTreeMap<Key, Trouble>,
    /// Objects with a problem that are not remembered by name: their hashes.
    more: HashSet<u64>,
    hasher: RandomState,
    /// Kinds with refused objects among them.
    more_refused: BTreeSet<Kind>,
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
            ledger: Ledger::new(quota),
            governing: Ledger::new(Quota {
                bytes: quota.bytes / GOVERNING_SHARE,
                ..quota
            }),
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
            let changes = self.refusal(&key, ("Invalid", told.join("; ")), observed);
            self.note(key, Some(Trouble::Error(parsed.errors)));
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
        if let Err(over) = self.ledger_of(kind).admit(key.clone(), cost) {
            let problem = Problem {
                line: 0,
                column: 0,
                object: title(&key),
                message: format!("{over}; it takes {cost}"),
            };
            let why = ("QuotaExceeded", problem.message.clone());
            let changes = self.refusal(&key, why, observed);
            self.note(key, Some(Trouble::Refused(cost, vec![problem])));
            return Taken {
                changes,
                refused: true,
            };
        }
        let invalid = Some(parsed.invalid).filter(|list| !list.is_empty());
        self.note(key, invalid.map(Trouble::Invalid));
        Taken {
            changes: parsed.objects.into_iter().map(Change::Apply).collect(),
            refused: false,
        }
    }

    /// The object is there, and is not taken as it is.
    fn refusal(
        &self,
        key: &Key,
        (reason, message): (&'static str, String),
        observed: impl FnOnce() -> Observed,
    ) -> Vec<Change> {
        let at = self.reference(key);
        let why = |at| Change::Refused {
            at,
            why: Refusal {
                reason,
                message,
                observed: observed(),
            },
        };
        at.map(why).into_iter().collect()
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
        let refused = unnamed || self.problems.contains_key(&key);
        self.note(key.clone(), None);
        if !self.ledger_of(kind).release(&key) && !refused {
            return Vec::new();
        }
        // What has no name in the world was never there.
        let at = self.reference(&key).map(Change::Delete);
        at.into_iter().collect()
    }

    /// Is there room now for an object of this kind that was refused?
    pub(super) fn has_room(&mut self, kind: Kind) -> bool {
        let ledger = if governs(kind) {
            &self.governing
        } else {
            &self.ledger
        };
        // Of those that are not remembered nobody knows what they take.
        let quota = ledger.quota();
        let some = Cost {
            endpoints: quota.endpoints / 10,
            bytes: quota.bytes / 10,
        };
        if self.more_refused.contains(&kind) && ledger.has_room(some) {
            self.more_refused.remove(&kind);
            return true;
        }
        let mut troubles = self.problems.iter().filter(|(key, _)| key.0 == kind);
        troubles.any(|(_, trouble)| match trouble {
            Trouble::Refused(cost, _) => ledger.has_room(*cost),
            Trouble::Error(_) | Trouble::Invalid(_) => false,
        })
    }

    /// What is not understood or has no room, what is understood in part, and how many more.
    pub(super) fn problems(&self) -> (Problems, Problems, usize) {
        let (mut errors, mut invalid) = (Problems::new(), Problems::new());
        for (key, trouble) in &self.problems {
            match trouble {
                Trouble::Error(list) | Trouble::Refused(_, list) => {
                    errors.insert(title(key), list.clone());
                }
                Trouble::Invalid(list) => {
                    invalid.insert(title(key), list.clone());
                }
            }
        }
        (errors, invalid, self.more.len())
    }

    fn ledger_of(&mut self, kind: Kind) -> &mut Ledger<Key> {
        if governs(kind) {
            &mut self.governing
        } else {
            &mut self.ledger
        }
    }

    fn note(&mut self, key: Key, trouble: Option<Trouble>) {
        let hash = self.hasher.hash_one(&key);
        match trouble {
            None => {
                self.problems.remove(&key);
                self.more.remove(&hash);
            }
            Some(trouble) => {
                if self.problems.len() < PROBLEMS_MAX || self.problems.contains_key(&key) {
                    self.more.remove(&hash);
                    self.problems.insert(key, trouble);
                } else {
                    if self.more.len() < MORE_MAX {
                        self.more.insert(hash);
                    }
                    if matches!(trouble, Trouble::Refused(..)) {
                        self.more_refused.insert(key.0);
                    }
                }
            }
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

/// `AccessPolicy shop/cart`
pub(super) fn title((kind, namespace, name): &Key) -> String {
    match namespace.as_str() {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}
