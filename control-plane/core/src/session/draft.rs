//! What does the next response say, and how much of it has room?

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::session::channel::Told;
use crate::session::question::Subject;
use crate::translate::{Encoded, Version};

/// What the next response says.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) resources: Vec<(Encoded, Vec<String>)>,
    pub(crate) removed: BTreeSet<String>,
    bytes: usize,
    pub(super) set: Vec<(Subject, Arc<str>, Version)>,
    pub(super) gone: Vec<(Subject, Arc<str>)>,
    pub(super) healed: Vec<(Subject, Arc<str>)>,
    pub(super) told: Vec<(String, Told)>,
    pub(super) done: Vec<Subject>,
}

impl Draft {
    pub(crate) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    /// Room for this many bytes more? The first thing always fits.
    pub(super) fn takes(&mut self, bytes: usize, max: usize) -> bool {
        let sum = self.bytes.saturating_add(bytes);
        if sum > max && !self.is_empty() {
            return false;
        }
        self.bytes = sum;
        true
    }
}

/// Which part of a difference is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Only what is gone.
    Removals,
    /// All of it.
    All,
}
