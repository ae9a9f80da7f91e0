//! Who writes, of all that could?
//!
//! Leader election by a Lease of Kubernetes. Nobody's wall clock is believed: how long ago a lease was
//! renewed is measured by whoever looks at it, with its own clock, from when it first saw that
//! renewal. A leader stops by itself when it could not renew, before anybody else may begin; that
//! holds as long as no clock runs half as fast again as another.

use std::time::{Duration, Instant};

/// The longest time that a lease in the cluster may claim for its holder.
const DURATION_MAX: Duration = Duration::from_secs(60);
/// So much later, at most, than planned: candidates should not ask in step.
const JITTER: f64 = 0.2;

/// How long what lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Nobody else takes a lease that was renewed more recently.
    pub duration: Duration,
    /// A leader that could not renew for so long leads no more; less than two thirds of `duration`.
    pub deadline: Duration,
    /// How often a leader renews and the others look.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A lease as it is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its resource version.
    pub version: String,
    /// Who has it; `None`: it was given back.
    pub holder: Option<String>,
    /// How long its holder has it without renewing.
    pub duration: Duration,
    /// How often it went from one to another.
    pub transitions: u32,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait(Instant),
    /// Look at the lease.
    Look,
    /// Write it.
    Write(Write),
}

/// A lease to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Only over this version; `None`: only if there is none.
    pub over: Option<String>,
    /// `None`: given back.
    pub holder: Option<String>,
    /// How often it went from one to another, with this time.
    pub transitions: u32,
    /// It was not ours before.
    pub acquired: bool,
}

/// What a look at the lease gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// It is there.
    Found(Record),
    /// There is none.
    Absent,
    /// Nobody answered.
    Failed,
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is so now.
    Done(Record),
    /// Somebody else was faster; nothing was written.
    Lost,
    /// It may have been written or not.
    Unknown,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    seen: Seen,
    /// When the last renewal that was heard of began.
    renewed: Option<Instant>,
    due: Option<Instant>,
}

#[derive(Debug)]
enum Seen {
    /// Look first; what was known before, to measure its age on.
    Unknown(Option<(Record, Instant)>),
    Absent,
    /// With the time at which this version was first seen.
    Record(Record, Instant),
}

impl Election {
    /// A candidate; its name is no other's, also not that of this process before its last start.
    #[must_use]
    pub fn new(me: &str, timing: Timing) -> Self {
        Self {
            me: me.to_owned(),
            timing,
            seen: Seen::Unknown(None),
            renewed: None,
            due: None,
        }
    }

    /// Until when it leads, if it does; that may be over.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.renewed?.checked_add(self.timing.deadline)
    }

    /// Does it lead?
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Instant) -> Step {
        if let Some(due) = self.due.filter(|due| *due > now) {
            return Step::Wait(due);
        }
        let claim = |over: Option<&Record>| Write {
            over: over.map(|record| record.version.clone()),
            holder: Some(self.me.clone()),
            transitions: over.map_or(0, |record| record.transitions.saturating_add(1)),
            acquired: true,
        };
        match &self.seen {
            Seen::Unknown(_) => Step::Look,
            Seen::Absent => Step::Write(claim(None)),
            Seen::Record(record, _) if self.is_mine(record) => Step::Write(Write {
                transitions: record.transitions,
                acquired: false,
                ..claim(Some(record))
            }),
            Seen::Record(record, since) if self.is_free(record, *since, now) => {
                Step::Write(claim(Some(record)))
            }
            Seen::Record(..) => Step::Look,
        }
    }

    /// It looked, as [`next`](Self::next) had said. `jitter` is from 0 to 1.
    pub fn looked(&mut self, looked: Looked, now: Instant, jitter: f64) {
        let soon = self.later(now, jitter);
        match looked {
            Looked::Failed => {
                self.forget();
                self.due = Some(soon);
            }
            Looked::Absent => {
                self.renewed = None;
                self.seen = Seen::Absent;
                self.due = None;
            }
            Looked::Found(record) => {
                let since = match &self.seen {
                    Seen::Record(old, since) | Seen::Unknown(Some((old, since)))
                        if old.version == record.version =>
                    {
                        *since
                    }
                    Seen::Record(..) | Seen::Unknown(_) | Seen::Absent => now,
                };
                let mine = self.is_mine(&record);
                if !mine {
                    self.renewed = None;
                }
                let act = mine || self.is_free(&record, since, now);
                self.due = (!act).then_some(soon);
                self.seen = Seen::Record(record, since);
            }
        }
    }

    /// It wrote, as [`next`](Self::next) had said, and began to at `begun`.
    pub fn written(&mut self, written: Written, begun: Instant, now: Instant, jitter: f64) {
        match written {
            Written::Done(record) => {
                // From its begin: others may have seen it from then on.
                self.renewed = self.is_mine(&record).then_some(begun);
                self.seen = Seen::Record(record, now);
                self.due = Some(self.later(begun, jitter));
            }
            // Also of an own lease somebody may have changed a label: whose it is, a look tells.
            Written::Lost | Written::Unknown => {
                self.forget();
                self.due = Some(self.later(now, jitter));
            }
        }
    }

    /// Leads no more, from this moment on; the write tells the others, who else would wait.
    #[must_use]
    pub fn release(&mut self) -> Option<Write> {
        self.renewed.take()?;
        match &self.seen {
            Seen::Record(record, _) if self.is_mine(record) => Some(Write {
                over: Some(record.version.clone()),
                holder: None,
                transitions: record.transitions,
                acquired: false,
            }),
            Seen::Record(..) | Seen::Unknown(_) | Seen::Absent => None,
        }
    }

    fn is_mine(&self, record: &Record) -> bool {
        record.holder.as_deref() == Some(self.me.as_str())
    }

    fn is_free(&self, record: &Record, since: Instant, now: Instant) -> bool {
        let lasts = record.duration.clamp(self.timing.duration, DURATION_MAX);
        record.holder.is_none() || now.saturating_duration_since(since) >= lasts
    }

    /// Look before the next write.
    fn forget(&mut self) {
        let known = match std::mem::replace(&mut self.seen, Seen::Absent) {
            Seen::Record(record, since) => Some((record, since)),
            Seen::Unknown(known) => known,
            Seen::Absent => None,
        };
        self.seen = Seen::Unknown(known);
    }

    fn later(&self, from: Instant, jitter: f64) -> Instant {
        let retry = self.timing.retry;
        let more = retry.mul_f64(jitter.clamp(0.0, 1.0) * JITTER);
        from.checked_add(retry.saturating_add(more)).unwrap_or(from)
    }
}

#[cfg(test)]
mod tests;
