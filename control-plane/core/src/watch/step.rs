//! Where does a feed stand?

use std::time::{Duration, Instant};

use super::Version;

/// A watch that ended before this is not opened again at once.
const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Step {
    List(Listing),
    Watch(Watching),
}

impl Step {
    /// Everything up to here was told.
    pub(super) fn position(&self) -> Option<&Version> {
        match self {
            Self::Watch(watch) => Some(&watch.position),
            Self::List(_) => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) token: Option<String>,
    /// That of the first page.
    pub(super) version: Option<Version>,
    pub(super) pages: usize,
    /// Objects so far, and more for pages that bring few.
    pub(super) objects: usize,
}

#[derive(Debug)]
pub(super) struct Watching {
    /// Everything up to here was told.
    pub(super) position: Version,
    /// Since when it is open.
    pub(super) open: Option<Instant>,
    /// It has said something.
    pub(super) spoke: bool,
    /// Watches before this one that ended badly at the same position.
    pub(super) stuck: u32,
    /// Watches before this one that the server failed to serve.
    pub(super) failures: u32,
}

/// Why the kind is not listed or watched.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) sort: Sort,
    pub(super) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Lost,
    /// Lost, because the server does not know who we are.
    Unauthorized,
    Forbidden,
    Absent,
}

impl Sort {
    /// Does a trouble of this sort go on in one of the other?
    pub(super) fn is_like(self, other: Self) -> bool {
        let plain = |sort| match sort {
            Self::Lost | Self::Unauthorized => Self::Lost,
            Self::Forbidden | Self::Absent => sort,
        };
        plain(self) == plain(other)
    }
}

impl Watching {
    pub(super) fn from(position: Version) -> Self {
        Self {
            position,
            open: None,
            spoke: false,
            stuck: 0,
            failures: 0,
        }
    }

    /// It has lived long enough to be taken for a good one.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        let open = |since: Instant| now.saturating_duration_since(since) >= WATCH_TIMEOUT_MIN;
        self.open.is_some_and(open)
    }
}
