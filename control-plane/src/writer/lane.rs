//! How fast may one cluster be written to, and when again after it refused?
//!
//! Every cluster has a lane of its own: one that is slow, or refuses everything, keeps no other
//! waiting.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isthmus_control_plane_core::model::{Kind, ObjectRef};
use isthmus_control_plane_core::write::Write;
use tokio::time::Instant;

use super::Limits;
use super::server::is_kind_absent;
use crate::kubernetes::ApiError;

/// Writes under way to one cluster: enough for a hundred a second where an answer takes 80 ms.
const AT_ONCE: usize = 8;
/// The first pause after a refusal.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause while a cluster can't be reached.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause for an object that is refused.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long a kind that is not there is left alone.
const ABSENT: Duration = Duration::from_secs(30);

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied,
    /// Somebody else owns the field, or the object is another one.
    Conflict,
    /// The API server does not take it.
    Refused,
    /// It did not arrive, or could not be taken now.
    Failed,
}

impl Outcome {
    pub(super) fn of(result: &Result<(), ApiError>) -> Self {
        match result {
            Ok(()) => Self::Applied,
            Err(error) if error.is_conflict() => Self::Conflict,
            Err(error) => match error.code() {
                None | Some(401 | 408 | 429 | 500..) => Self::Failed,
                Some(_) => Self::Refused,
            },
        }
    }
}

/// Which object, and what of it.
type Key = (ObjectRef, &'static str);

/// One cluster's writes.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// In the order in which they are sent; each of them is in `waiting`, once.
    queue: VecDeque<Key>,
    waiting: BTreeMap<Key, Write>,
    under_way: usize,
    /// Writes that may be sent at once; in thousandths.
    tokens: u64,
    filled: Option<Instant>,
    /// Nothing is sent before.
    paused: Option<Instant>,
    failures: u32,
    refusals: BTreeMap<ObjectRef, u32>,
    absent: BTreeMap<Kind, Instant>,
}

impl Lane {
    /// Takes a write in, in the place of an older one of the same sort about the same object.
    pub(super) fn push(&mut self, write: Write) {
        let key = (write.object.clone(), write.body.what());
        if self.waiting.insert(key.clone(), write).is_none() {
            self.queue.push_back(key);
        }
    }

    /// Until when this write is not worth sending.
    pub(super) fn held(&self, write: &Write, now: Instant) -> Option<Instant> {
        let absent = self.absent.get(&write.object.kind).copied();
        absent.max(self.paused).filter(|until| *until > now)
    }

    /// The next write that may be sent now.
    pub(super) fn next(&mut self, now: Instant, limits: Limits) -> Option<Write> {
        self.fill(now, limits);
        let may = self.under_way < AT_ONCE
            && self.tokens >= 1_000
            && self.paused.is_none_or(|until| until <= now);
        if !may {
            return None;
        }
        let key = self.queue.pop_front()?;
        let write = self.waiting.remove(&key)?;
        self.tokens -= 1_000;
        self.under_way += 1;
        Some(write)
    }

    /// When it is worth asking again, if something waits only for time.
    pub(super) fn due(&self, now: Instant, limits: Limits) -> Option<Instant> {
        if self.queue.is_empty() || self.under_way >= AT_ONCE {
            return None;
        }
        let missing = 1_000_u64.saturating_sub(self.tokens);
        let wait = Duration::from_millis(missing / u64::from(limits.per_second.max(1)) + 1);
        let filled = if missing == 0 { now } else { now + wait };
        Some(self.paused.map_or(filled, |until| until.max(filled)))
    }

    fn fill(&mut self, now: Instant, limits: Limits) {
        let most = u64::from(limits.burst.max(1)) * 1_000;
        let Some(since) = self.filled.replace(now) else {
            self.tokens = most;
            return;
        };
        // Thousandths each millisecond are whole ones each second.
        let millis = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        let gained = millis.saturating_mul(u64::from(limits.per_second));
        if gained == 0 {
            self.filled = Some(since);
        }
        self.tokens = self.tokens.saturating_add(gained).min(most);
    }

    /// A write has come back; how long to leave its subject alone, if it has to be tried again.
    /// `jitter` is between 0 and 1.
    pub(super) fn back(
        &mut self,
        write: &Write,
        result: &Result<(), ApiError>,
        (now, jitter): (Instant, f64),
    ) -> Option<Duration> {
        self.under_way = self.under_way.saturating_sub(1);
        let asked = result.as_ref().err().and_then(ApiError::retry_after);
        match Outcome::of(result) {
            Outcome::Applied => {
                self.failures = 0;
                self.paused = None;
                self.refusals.remove(&write.object);
                self.absent.remove(&write.object.kind);
                None
            }
            Outcome::Failed => {
                let wait = pause(self.failures, PAUSE_MAX, jitter);
                let wait = asked.map_or(wait, |asked| asked.max(wait));
                self.failures = self.failures.saturating_add(1);
                self.paused = Some(now + wait);
                Some(wait)
            }
            Outcome::Conflict | Outcome::Refused => {
                self.failures = 0;
                if is_kind_absent(result) {
                    self.absent.insert(write.object.kind, now + ABSENT);
                    return Some(ABSENT);
                }
                let count = self.refusals.entry(write.object.clone()).or_default();
                let wait = pause(*count, REFUSED_PAUSE_MAX, jitter);
                *count = count.saturating_add(1);
                Some(asked.map_or(wait, |asked| asked.max(wait)))
            }
        }
    }

    /// A write has come back, and its object is not there any more.
    pub(super) fn came_to_nothing(&mut self, write: &Write) {
        self.under_way = self.under_way.saturating_sub(1);
        self.failures = 0;
        self.refusals.remove(&write.object);
    }

    /// Takes out all that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Write> {
        self.queue.clear();
        std::mem::take(&mut self.waiting).into_values()
    }
}

/// Doubles with every failure, between half of it and all of it.
fn pause(failures: u32, most: Duration, jitter: f64) -> Duration {
    let doubled = PAUSE.saturating_mul(1_u32 << failures.min(16));
    doubled
        .min(most)
        .mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
