//! Which objects does a cluster have that are not taken as they are?

use crate::model::{Kind, ObjectRef, Refusal};
use crate::world::cluster::{Cluster, key};

/// Refused objects that are remembered for people, each cluster.
const REFUSED_MAX: usize = 1_000;

/// An object that is not taken as it is.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    /// The last list that named it.
    list: u64,
}

impl Cluster {
    /// Notes an object that was not admitted; what was known under its name stays. False: that was
    /// noted already.
    pub(crate) fn refuse(&mut self, at: ObjectRef, why: Refusal) -> bool {
        let list = self.list;
        let (namespace, name) = key(at.namespace.as_ref(), &at.name);
        self.keep(at.kind, namespace, name);
        // All of what was one object where it comes from.
        let parts = (2_usize..).map(|part| format!("{name}#{part}"));
        for part in parts
            .take_while(|part| self.has(at.kind, namespace, part))
            .collect::<Vec<_>>()
        {
            self.keep(at.kind, namespace, &part);
        }
        if let Some(before) = self.refused.get_mut(&at) {
            before.list = list;
            let new = before.why != why;
            before.why = why;
            return new;
        }
        if self.refused.len() >= REFUSED_MAX {
            return false;
        }
        self.refused.insert(at, Refused { why, list });
        true
    }

    /// What the whole list of these kinds has not named is refused no more.
    pub(crate) fn forget_refused(&mut self, asked: impl Fn(Kind) -> bool) {
        let list = self.list;
        self.refused
            .retain(|at, refused| refused.list == list || !asked(at.kind));
    }
}
