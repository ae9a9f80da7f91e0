//! In which words do a feed and its shell speak?

use std::time::{Duration, Instant};

use super::Version;

/// What an object is called, and which state of it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.namespace`; `None` for kinds that have none.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`. Two objects of one name have two.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// What to ask the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A page of a list, as the server has it now (no `resourceVersion`: nobody's cache).
    List {
        /// `continue`; `None`: the first page.
        token: Option<String>,
        /// `limit`.
        limit: usize,
    },
    /// A watch from this version on, with bookmarks.
    Watch {
        /// `resourceVersion`.
        resource_version: String,
        /// `timeoutSeconds`.
        timeout: Duration,
    },
    /// Nothing until then.
    Wait {
        /// Then.
        until: Instant,
    },
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Its objects.
    pub items: Vec<(Meta, T)>,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.continue`; `None` or empty: the last page.
    pub token: Option<String>,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// ADDED or MODIFIED: which of them it is depends on who asks, and says nothing.
    Put(Meta, T),
    /// DELETED.
    Deleted(Meta),
    /// BOOKMARK: everything up to this version was told.
    Bookmark(String),
    /// ERROR: the watch is over.
    Error {
        /// `code` of the status.
        code: u16,
        /// For people.
        message: String,
    },
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<T> {
    /// The object is there, or is different.
    Apply(T),
    /// It is gone.
    Delete(Name),
}

/// Which object of the kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its namespace; `None` for kinds that have none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// Why there was no answer, or not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server has ended the watch in order.
    Ended,
    /// 410: what was asked for is too old, and forgotten.
    Gone,
    /// 429, or 503 with a time: not before then.
    RetryAfter(Duration),
    /// 403.
    Forbidden(String),
    /// 404: the kind is not served.
    NotFound,
    /// 401.
    Unauthorized(String),
    /// The page has more bytes than are read.
    TooLarge(String),
    /// The answer can't be read.
    Malformed(String),
    /// Another status.
    Status(u16, String),
    /// No connection, or no word in time.
    Transport(String),
    /// A connection, and no answer in time.
    Silent(String),
    /// The answer broke off: the server has done its work, and nothing is to be had of it.
    Cut(String),
}

/// Why a page does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Time travel.
    #[error("the list is of {got}, and {seen} was seen")]
    Older {
        /// The newest version that was seen.
        seen: Version,
        /// That of the list.
        got: Version,
    },
    /// Nothing that would end was asked for.
    #[error("the list does not end")]
    Endless,
    /// There is nothing to watch from.
    #[error("the list has no resourceVersion")]
    NoVersion,
    /// It is no answer to what was asked last.
    #[error("no page was asked for")]
    NotAsked,
}

/// How well the kind is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing was heard yet.
    Unknown,
    /// A list is on its way.
    Listing,
    /// What was told is what the server has.
    Watching,
    /// What was told is what the server had.
    Lost {
        /// Since then.
        since: Instant,
        /// For people.
        why: String,
    },
    /// We may not see it (any more).
    Forbidden {
        /// For people.
        why: String,
    },
    /// The server does not know the kind any more. What was told of its objects counts on.
    Unserved,
    /// The server does not know the kind, and has not known it for long.
    Absent,
}

/// What has been done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lists that were begun.
    pub lists: u64,
    /// Watches that were opened.
    pub watches: u64,
    /// Lines of watches that said something.
    pub events: u64,
    /// Objects that were known already, or were of the past.
    pub ignored: u64,
}

impl Name {
    pub(super) fn of(meta: Meta) -> Self {
        Self {
            namespace: meta.namespace,
            name: meta.name,
        }
    }
}

impl Failure {
    /// What a status that is no success means, where it says nothing of when to come back.
    #[must_use]
    pub fn of_status(code: u16, message: String) -> Self {
        match code {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden(message),
            404 => Self::NotFound,
            410 => Self::Gone,
            _ => Self::Status(code, format!("{code}: {message}")),
        }
    }
}
