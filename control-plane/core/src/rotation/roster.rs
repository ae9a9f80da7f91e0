//! Which proxies does a replica know, and which of them have done what a rotation asks for?

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::ids::WorkloadName;
use serde::{Deserialize, Serialize};

use super::{Phase, RootNumber, Rotation};

/// A pod that was never seen is looked for so often, in a cluster that is seen: a watch that is open
/// has told of it long before.
pub const UNSEEN_LOOKS: u8 = 90;

/// What one replica says of the proxies that it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of this [`Rotation::sequence`].
    pub sequence: u64,
    /// They have not done yet what is asked for.
    pub missing: BTreeSet<WorkloadName>,
    /// They have.
    pub done: BTreeSet<WorkloadName>,
}

/// A proxy that is connected, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// It has acknowledged the bundle of the trust domain as it is now.
    pub holds_bundle: bool,
    /// The root of the certificate that it shows, if that is of this trust domain.
    pub shows: Option<RootNumber>,
}

/// The proxies that a replica knows of: whoever is connected, was, or has asked for a certificate,
/// until its pod is gone. A proxy that is not connected now may still talk to others.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// How often its pod may be looked for in vain before it is gone. One that asks may be known here
    /// before its pod is; of a pod that was there absence is believed at once.
    proxies: BTreeMap<WorkloadName, u8>,
}

impl Roster {
    /// A proxy is there. Of one that is about to get a certificate it is said before it is decided
    /// who signs it.
    pub fn note(&mut self, name: &WorkloadName) {
        self.proxies.entry(name.clone()).or_insert(UNSEEN_LOOKS);
    }

    /// Takes over whom a report names: its own of an earlier life, or that of a replica that is gone.
    pub fn adopt(&mut self, report: &Report) {
        for name in report.missing.iter().chain(&report.done) {
            self.proxies.entry(name.clone()).or_insert(0);
        }
    }

    /// Forgets those whose pods are gone: `there` says of a pod whether it is there; `None`: nobody
    /// can say now.
    pub fn sweep(&mut self, there: impl Fn(&WorkloadName) -> Option<bool>) {
        self.proxies.retain(|name, looks| match there(name) {
            Some(true) => {
                *looks = 0;
                true
            }
            Some(false) => {
                let may_come = *looks > 0;
                *looks = looks.saturating_sub(1);
                may_come
            }
            None => true,
        });
    }
}

impl Report {
    /// Takes over what proxies have done from a replica that is gone. To another question it is no
    /// answer.
    pub fn adopt(&mut self, other: &Self) {
        if other.sequence == self.sequence {
            self.done.extend(other.done.iter().cloned());
        }
    }

    /// Is the proxy among those that are reported?
    #[must_use]
    pub fn names(&self, name: &WorkloadName) -> bool {
        self.missing.contains(name) || self.done.contains(name)
    }

    /// The report that follows this one, by what the proxies that are connected do now. What one has
    /// done stays done while it is away.
    #[must_use]
    pub fn next(
        &self,
        rotation: &Rotation,
        roster: &Roster,
        connected: &BTreeMap<WorkloadName, Seen>,
    ) -> Self {
        let known = || roster.proxies.keys().chain(connected.keys());
        let before =
            |name: &WorkloadName| self.sequence == rotation.sequence && self.done.contains(name);
        let is_done = |name: &&WorkloadName| match connected.get(*name) {
            Some(seen) => is_done(rotation, *seen),
            None => before(name),
        };
        Self {
            sequence: rotation.sequence,
            missing: known().filter(|name| !is_done(name)).cloned().collect(),
            done: known().filter(is_done).cloned().collect(),
        }
    }
}

/// Has a proxy done what is asked for?
fn is_done(rotation: &Rotation, seen: Seen) -> bool {
    let shows_old = seen.shows.is_some_and(|root| root != rotation.new);
    match rotation.phase {
        Phase::Stable => true,
        Phase::Adding => seen.holds_bundle,
        Phase::Issuing | Phase::Removing => seen.holds_bundle && !shows_old,
    }
}
