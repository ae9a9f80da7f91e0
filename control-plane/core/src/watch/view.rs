//! How well is a kind known?

use std::time::Instant;

use super::step::{Sort, Step};
use super::{Counts, Feed, State, Version};

impl Feed {
    /// How well the kind is known.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.trouble, &self.step) {
            (Some(trouble), _) => {
                let why = trouble.why.clone();
                match trouble.sort {
                    Sort::Lost | Sort::Unauthorized => State::Lost {
                        since: trouble.since,
                        why,
                    },
                    Sort::Forbidden => State::Forbidden { why },
                    Sort::Absent if self.seen.is_some() && self.governs => State::Unserved,
                    // A server that starts, or something in between, says so of what it will know.
                    Sort::Absent if self.seen.is_some() => State::Lost {
                        since: trouble.since,
                        why,
                    },
                    Sort::Absent => State::Absent,
                }
            }
            (None, Step::Watch(_)) => State::Watching,
            (None, Step::List(_)) if self.last_heard.is_none() => State::Unknown,
            (None, Step::List(_)) => State::Listing,
        }
    }

    /// Does the server not know who we are?
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        let trouble = self.trouble.as_ref();
        trouble.is_some_and(|trouble| trouble.sort == Sort::Unauthorized)
    }

    /// The newest version that was seen.
    #[must_use]
    pub fn seen(&self) -> Option<&Version> {
        self.seen.as_ref()
    }

    /// Everything up to here was told; `None`: a list is on its way.
    #[must_use]
    pub fn position(&self) -> Option<&Version> {
        self.step.position()
    }

    /// Was it ever listed in full?
    #[must_use]
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// When what was told was last known to be what the server has.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<Instant> {
        self.confirmed_at
    }

    /// When the server last said something about the kind.
    #[must_use]
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// Objects that are kept in mind.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.known.len()
    }

    /// Objects beyond the most that are kept, that the last list had, or that came since.
    #[must_use]
    pub fn beyond(&self) -> usize {
        self.known.beyond()
    }

    /// What has been done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
