//! How does a trust domain come from one root to the next, and may it go on?
//!
//! ```text
//! Stable(old) ─► Adding ─────────► Issuing ──────────► Removing ─────► Stable(new)
//!    ▲           believe both,     sign with the new   believe the
//!    └─ abort ── sign with the old one, old retires    new one only
//! ```
//! A step is taken when every proxy has done what the one before asks for, and never by the clock:
//! before the new root signs, all believe it; before the old one goes, nobody shows a certificate of
//! it. Each replica reports of the proxies that it knows; all replicas share one [`Rotation`], which
//! is kept, so that it goes on after a restart with the same proxies in mind.

mod roster;
#[cfg(test)]
mod tests;

pub use roster::{Report, Roster, Seen, UNSEEN_LOOKS};

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::ids::WorkloadName;
use serde::{Deserialize, Serialize};

/// Names of proxies in a text for people.
const NAMED_MAX: usize = 10;

/// A root of a trust domain, by its number from 1.
pub type RootNumber = u32;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// One root, and no other wanted.
    Stable,
    /// Both are believed, the old one signs.
    Adding,
    /// Both are believed, the new one signs; who has a certificate of the old one renews it.
    Issuing,
    /// The new one is believed; not every proxy has heard yet that the old one is not.
    Removing,
}

/// What the replicas agree on about one trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// Grows whenever proxies are told something else: the sequence of their bundle.
    pub sequence: u64,
    /// The root that goes; the same as `new` while there is one only.
    pub old: RootNumber,
    /// The root that comes, or is there.
    pub new: RootNumber,
    /// What each replica says of the proxies that it knows, by its name.
    pub replicas: BTreeMap<String, Report>,
}

/// What follows from a rotation for whoever signs and tells whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// How far it is.
    pub phase: Phase,
    /// Of the bundle.
    pub sequence: u64,
    /// The roots that are believed.
    pub roots: Vec<RootNumber>,
    /// The one that signs.
    pub signs: RootNumber,
    /// Who has a certificate of this one renews it now.
    pub retiring: Option<RootNumber>,
    /// The root that comes, or is there.
    pub new: RootNumber,
}

impl Default for Stage {
    fn default() -> Self {
        Rotation::default().stage()
    }
}

/// Why it does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is on its way.
    #[error("no root is being replaced")]
    Stable,
    /// These proxies have not done yet what is asked for.
    #[error("{} proxies are waited for: {}", .0.len(), listed(.0))]
    Missing(BTreeSet<WorkloadName>),
    /// Replicas have not seen yet what is asked for.
    #[error("replicas of the control plane are waited for: {}", .0.join(", "))]
    Replicas(Vec<String>),
    /// Roots come one after the other.
    #[error("root {asked} can't follow root {now}: the next one is {}", .now.saturating_add(1))]
    NotNext {
        /// Which was asked for.
        asked: RootNumber,
        /// Which is there.
        now: RootNumber,
    },
    /// The new root signs already.
    #[error("root {old} can't stay: root {new} signs already")]
    TooLate {
        /// Which was asked for.
        old: RootNumber,
        /// Which takes its place.
        new: RootNumber,
    },
}

impl Default for Rotation {
    /// The first root.
    fn default() -> Self {
        Self {
            phase: Phase::Stable,
            sequence: 1,
            old: 1,
            new: 1,
            replicas: BTreeMap::new(),
        }
    }
}

impl Rotation {
    /// What follows for whoever signs and tells whom to believe.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage {
            phase: self.phase,
            sequence: self.sequence,
            roots: self.roots(),
            signs: self.signs(),
            retiring: self.retiring(),
            new: self.new,
        }
    }

    /// The roots that proxies believe.
    #[must_use]
    pub fn roots(&self) -> Vec<RootNumber> {
        match self.phase {
            Phase::Stable | Phase::Removing => vec![self.new],
            Phase::Adding | Phase::Issuing => vec![self.old, self.new],
        }
    }

    /// The root that signs.
    #[must_use]
    pub fn signs(&self) -> RootNumber {
        match self.phase {
            Phase::Adding => self.old,
            Phase::Stable | Phase::Issuing | Phase::Removing => self.new,
        }
    }

    /// Who has a certificate of this root renews it now.
    #[must_use]
    pub fn retiring(&self) -> Option<RootNumber> {
        (self.phase == Phase::Issuing).then_some(self.old)
    }

    /// What follows from somebody's wish for this root. `None`: nothing, it is there or on its way.
    ///
    /// # Errors
    /// It can't be, or not any more.
    pub fn wish(&self, root: RootNumber) -> Result<Option<Self>, Refused> {
        let (old, new) = (self.old, self.new);
        match self.phase {
            _ if root == new => Ok(None),
            Phase::Stable if Some(root) == new.checked_add(1) => {
                Ok(Some(self.told(Phase::Adding, new, root)))
            }
            // Nobody has a certificate of the new one yet.
            Phase::Adding if root == old => Ok(Some(self.told(Phase::Stable, old, old))),
            Phase::Issuing | Phase::Removing if root == old => Err(Refused::TooLate { old, new }),
            Phase::Stable | Phase::Adding | Phase::Issuing | Phase::Removing => {
                Err(Refused::NotNext {
                    asked: root,
                    now: new,
                })
            }
        }
    }

    /// The next phase, if every proxy has done what this one asks for.
    ///
    /// # Errors
    /// Who is waited for.
    pub fn advance(&self) -> Result<Self, Refused> {
        if self.phase == Phase::Stable {
            return Err(Refused::Stable);
        }
        let behind = self.replicas.iter();
        let behind = behind.filter(|(_, report)| report.sequence != self.sequence);
        let behind: Vec<String> = behind.map(|(name, _)| name.clone()).collect();
        if !behind.is_empty() || self.replicas.is_empty() {
            return Err(Refused::Replicas(behind));
        }
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(Refused::Missing(missing));
        }
        let (old, new) = (self.old, self.new);
        Ok(match self.phase {
            Phase::Adding => self.told(Phase::Issuing, old, new),
            Phase::Issuing => self.told(Phase::Removing, old, new),
            // Proxies have been told so already.
            Phase::Stable | Phase::Removing => Self {
                phase: Phase::Stable,
                old: new,
                ..self.clone()
            },
        })
    }

    /// The proxies that are waited for. One that has gone over to another replica has done there what
    /// the first one waits for.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<WorkloadName> {
        let now = |report: &&Report| report.sequence == self.sequence;
        let reports = || self.replicas.values().filter(now);
        let mut missing: BTreeSet<_> = reports().flat_map(|r| r.missing.iter().cloned()).collect();
        for done in reports().flat_map(|report| &report.done) {
            missing.remove(done);
        }
        missing
    }

    /// A replica is gone for good; whoever takes its report takes over whom it has waited for.
    pub fn forget(&mut self, replica: &str) -> Option<Report> {
        self.replicas.remove(replica)
    }

    fn told(&self, phase: Phase, old: RootNumber, new: RootNumber) -> Self {
        Self {
            phase,
            sequence: self.sequence.saturating_add(1),
            old,
            new,
            // What was reported answers another question, but names who is to answer this one.
            replicas: self.replicas.clone(),
        }
    }
}

fn listed(names: &BTreeSet<WorkloadName>) -> String {
    let mut text: Vec<&str> = names
        .iter()
        .take(NAMED_MAX)
        .map(WorkloadName::as_str)
        .collect();
    if names.len() > NAMED_MAX {
        text.push("...");
    }
    text.join(", ")
}
