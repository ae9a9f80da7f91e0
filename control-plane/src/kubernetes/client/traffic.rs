//! What was asked of one cluster's API server, and with which success?

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::kubernetes::error::ApiError;
use crate::kubernetes::timestamp;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// A page of a collection.
    List,
    /// The events of a collection.
    Watch,
    /// Server-side apply.
    Apply,
    /// A new object, or a review.
    Create,
    /// A whole object, over the old one.
    Replace,
    /// One object's end.
    Delete,
}

impl Verb {
    /// As a label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Apply => "apply",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An answer.
    Ok,
    /// 401 or 403.
    Denied,
    /// 409.
    Conflict,
    /// 429.
    Throttled,
    /// Another refusal of ours to ask so.
    Refused,
    /// 5xx.
    Failed,
    /// No answer.
    Unreachable,
    /// An answer that is not used: too large, not understood, a redirect.
    Unusable,
}

impl Outcome {
    /// As a label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Unusable => "unusable",
        }
    }

    fn of<T>(result: &Result<T, ApiError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(ApiError::Status { code, .. }) => match code {
                401 | 403 => Self::Denied,
                409 => Self::Conflict,
                429 => Self::Throttled,
                500.. => Self::Failed,
                _ => Self::Refused,
            },
            Err(
                ApiError::Unreachable(_)
                | ApiError::Cut(_)
                | ApiError::Silent
                | ApiError::Credential(_),
            ) => Self::Unreachable,
            Err(ApiError::Malformed(_) | ApiError::TooLarge { .. } | ApiError::Redirect(_)) => {
                Self::Unusable
            }
        }
    }
}

/// Counters of one cluster's client, since it was made.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: Mutex<BTreeMap<(Verb, Outcome), u64>>,
    bytes: AtomicU64,
    connections: AtomicU64,
    clock: Mutex<Option<i64>>,
}

impl Traffic {
    /// Questions by what was asked and how it went.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<(Verb, Outcome), u64> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bytes of bodies that were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// How far the server's clock was ahead of ours at its last answer, in seconds; `None`: it has not
    /// said.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<i64> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what time it is by an answer to what was asked then.
    pub(super) fn dated(&self, date: &str, asked: SystemTime) {
        let Some(theirs) = timestamp::http_date(date) else {
            return;
        };
        // Half of the way there and back.
        let ours = asked + asked.elapsed().unwrap_or_default() / 2;
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = Some(timestamp::ahead(theirs, ours));
    }

    pub(super) fn read(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn counted<T>(
        &self,
        verb: Verb,
        asking: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let result = asking.await;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = requests.entry((verb, Outcome::of(&result))).or_default();
        *count = count.saturating_add(1);
        result
    }
}
