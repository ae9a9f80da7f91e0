//! How fast may one cluster be written to, and when again after it refused?
//!
//! Every cluster has a lane of its own: one that is slow, or refuses everything, keeps no other
//! waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isthmus_control_plane_core::model::{Kind, ObjectRef};
use isthmus_control_plane_core::write::Write;
use tokio::time::Instant;

use super::Limits;
use super::queue::{Key, Queue};
use super::server::is_kind_absent;
use crate::kubernetes::ApiError;

/// Writes under way to one cluster: enough for a hundred a second where an answer takes 80 ms.
const AT_ONCE: usize = 8;
/// How many of them may be about objects that failed before: each may take as long as an admission
/// webhook that hangs.
const AGAIN_AT_ONCE: usize = 2;
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
    /// It could not be taken now, for a reason of this object's: an admission webhook has failed.
    Failed,
    /// It did not arrive, or the API server takes nothing now.
    Unreached,
}

impl Outcome {
    pub(super) fn of(result: &Result<(), ApiError>) -> Self {
        match result {
            Ok(()) => Self::Applied,
            Err(error) if error.is_conflict() => Self::Conflict,
            Err(error) => match error.code() {
                Some(500..) if error.is_about_one_object() => Self::Failed,
                None | Some(401 | 408 | 429 | 500..) => Self::Unreached,
                Some(_) => Self::Refused,
            },
        }
    }
}

/// One cluster's writes.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Each of them is in `waiting`, once.
    queue: Queue,
    /// As `queue`, of objects that failed before.
    again: Queue,
    waiting: BTreeMap<Key, Write>,
    under_way: usize,
    /// Those under way that are from `again`.
    again_under_way: BTreeSet<Key>,
    /// Is it their turn?
    turn: bool,
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
        if !self.waiting.contains_key(&key) {
            let queue = if self.refusals.contains_key(&key.0) {
                &mut self.again
            } else {
                &mut self.queue
            };
            queue.push(key.clone(), &write);
        }
        self.waiting.insert(key, write);
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
        // By turns: neither keeps the other waiting.
        self.turn = !self.turn;
        let again = self.may_try_again() && (self.turn || self.queue.is_empty());
        let key = if again {
            let key = self.again.pop()?;
            self.again_under_way.insert(key.clone());
            key
        } else {
            self.queue.pop()?
        };
        let write = self.waiting.remove(&key)?;
        self.tokens -= 1_000;
        self.under_way += 1;
        Some(write)
    }

    fn may_try_again(&self) -> bool {
        !self.again.is_empty() && self.again_under_way.len() < AGAIN_AT_ONCE
    }

    /// When it is worth asking again, if something waits only for time.
    pub(super) fn due(&self, now: Instant, limits: Limits) -> Option<Instant> {
        let waits = !self.queue.is_empty() || self.may_try_again();
        if !waits || self.under_way >= AT_ONCE {
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
        self.arrived(write);
        let asked = result.as_ref().err().and_then(ApiError::retry_after);
        match Outcome::of(result) {
            Outcome::Applied => {
                self.failures = 0;
                self.paused = None;
                self.refusals.remove(&write.object);
                self.absent.remove(&write.object.kind);
                None
            }
            Outcome::Unreached => {
                let until = self.paused.filter(|until| *until > now);
                // Several that were under way together have failed once.
                let wait = until.map_or_else(
                    || {
                        self.failures = self.failures.saturating_add(1);
                        pause(self.failures - 1, PAUSE_MAX, jitter)
                    },
                    |until| until - now,
                );
                let wait = asked.map_or(wait, |asked| asked.max(wait));
                self.paused = Some(now + wait);
                Some(wait)
            }
            Outcome::Failed => {
                self.failures = 0;
                Some(self.refused(write, (asked, PAUSE_MAX), jitter))
            }
            Outcome::Conflict | Outcome::Refused => {
                self.failures = 0;
                if is_kind_absent(result) {
                    self.absent.insert(write.object.kind, now + ABSENT);
                    return Some(ABSENT);
                }
                Some(self.refused(write, (asked, REFUSED_PAUSE_MAX), jitter))
            }
        }
    }

    /// How long to leave alone an object that was not taken.
    fn refused(
        &mut self,
        write: &Write,
        (asked, most): (Option<Duration>, Duration),
        jitter: f64,
    ) -> Duration {
        let count = self.refusals.entry(write.object.clone()).or_default();
        let wait = pause(*count, most, jitter);
        *count = count.saturating_add(1);
        asked.map_or(wait, |asked| asked.max(wait))
    }

    fn arrived(&mut self, write: &Write) {
        self.under_way = self.under_way.saturating_sub(1);
        let key = (write.object.clone(), write.body.what());
        self.again_under_way.remove(&key);
    }

    /// A write has come back, and its object is not there any more.
    pub(super) fn came_to_nothing(&mut self, write: &Write) {
        self.arrived(write);
        self.failures = 0;
        self.refusals.remove(&write.object);
    }

    /// Takes out all that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Write> {
        self.queue.clear();
        self.again.clear();
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
