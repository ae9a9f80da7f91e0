//! What must be asked of an API server next, and what has changed in one kind of its objects?
//!
//! List, watch, and what goes wrong in between, as a state machine: [`Feed::next`] says what to ask;
//! the shell asks, and hands the answer back. Whatever the server repeats, swaps, cuts or brings up
//! from the past, what was told adds up to what the server has.
//!
//! ```text
//! next ─► List ─ page, page ... ─► Watch ─ event, event ... ─► (ended) ─► Watch
//!           ▲                        │ 410, a stream that goes back
//!           └────────────────────────┘
//! ```
//!
//! Nothing is deleted before a list is complete. A list that is older than what was seen is refused
//! whole, and an object that was seen to be deleted never comes back.

mod words;
mod version;
mod known;
mod pace;
mod step;
mod view;

use std::time::{Duration, Instant};

pub use version::Version;
pub use words::{Ask, Counts, Event, Failure, Meta, Name, Page, Refused, State, Told};

use known::{Known, Sight};
use pace::Pace;
use step::{Listing, Sort, Step, Trouble, Watching};

/// Objects of one kind that are kept in mind.
pub const OBJECTS_MAX: usize = 100_000;
/// A list of more objects does not end.
pub const LIST_OBJECTS_MAX: usize = 1_250_000;
/// Objects that are asked for at once; a page that is too large is asked for again with fewer.
pub const PAGE_OBJECTS: usize = 500;
/// Fewer than these no server takes longer for.
const PAGE_OBJECTS_MIN: usize = 25;
/// A watch is asked to end after this long, or a little earlier: an API server sends a bookmark just
/// before the end (and every minute, which is too late to tell silence from quiet).
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(45);
/// A kind that is not served for this long was removed, with its objects.
pub const ABSENT: Duration = Duration::from_secs(60);
/// Where every list is older than what was seen for this long, the store was restored from a backup.
pub const RESTORED: Duration = Duration::from_secs(600);
/// Watches that the server refuses or breaks off at the same place before it is listed anew.
const STUCK_MAX: u32 = 5;
/// Watches that failed for the server's own reasons at the same place before it is listed anew: at the
/// longest wait, a quarter of an hour.
const FAILURES_MAX: u32 = 40;
/// The status of a server that is asked too much, and the first of those that blame it.
const TOO_MANY: u16 = 429;
const SERVER_ERROR: u16 = 500;
/// Longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 300;

/// What of one kind was told, and what comes next.
#[derive(Debug)]
pub struct Feed {
    known: Known,
    pace: Pace,
    step: Step,
    /// Of pages.
    limit: usize,
    /// The newest version that was heard of.
    seen: Option<Version>,
    trouble: Option<Trouble>,
    /// Since when all lists are older than what was seen.
    older_since: Option<Instant>,
    listed: bool,
    confirmed_at: Option<Instant>,
    last_heard: Option<Instant>,
    counts: Counts,
    /// Its objects say who may do what, and who belongs to the mesh.
    governs: bool,
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// Of a kind of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::resuming(None)
    }

    /// Of a kind that another feed of the same store has seen up to this version: older lists are past.
    #[must_use]
    pub fn resuming(seen: Option<Version>) -> Self {
        Self {
            known: Known::default(),
            pace: Pace::default(),
            step: Step::List(Listing::default()),
            limit: PAGE_OBJECTS,
            seen,
            trouble: None,
            older_since: None,
            listed: false,
            confirmed_at: None,
            last_heard: None,
            counts: Counts::default(),
            governs: false,
        }
    }

    /// Of a kind that governs: where its definition is gone and nobody has said that its objects are,
    /// they count on. Whoever deletes a definition may not mean that everybody leaves the mesh.
    #[must_use]
    pub fn governing(self, governs: bool) -> Self {
        Self { governs, ..self }
    }

    /// What to ask now. `jitter` is from 0 to 1.
    pub fn next(&mut self, now: Instant, jitter: f64) -> Ask {
        if let Some(until) = self.pace.pause(now, jitter) {
            return Ask::Wait { until };
        }
        match &self.step {
            Step::List(list) if list.token.is_none() => match self.pace.list_due(now) {
                Some(until) => Ask::Wait { until },
                None => Ask::List {
                    token: None,
                    limit: self.limit,
                },
            },
            Step::List(list) => Ask::List {
                token: list.token.clone(),
                limit: self.limit,
            },
            Step::Watch(watch) => Ask::Watch {
                resource_version: watch.position.to_string(),
                // Not all kinds of all clusters at once.
                timeout: WATCH_TIMEOUT.mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0)),
            },
        }
    }

    /// Takes a page of the list that was asked for. Deletions come with the last one.
    ///
    /// # Errors
    /// The page does not count; what to do instead is what [`Feed::next`] says.
    pub fn page<T>(&mut self, page: Page<T>, now: Instant) -> Result<Vec<Told<T>>, Refused> {
        let version = match self.check(&page, now) {
            Ok(version) => version,
            Err(Refused::NotAsked) => return Err(Refused::NotAsked),
            Err(refused) => {
                self.step = Step::List(Listing::default());
                self.trouble(Sort::Lost, &refused.to_string(), now);
                self.pace.failed(now, None);
                return Err(refused);
            }
        };
        self.last_heard = Some(now);
        self.pace.succeeded();
        let mut told = Vec::with_capacity(page.items.len());
        for (meta, item) in page.items {
            match self.known.listed(&meta) {
                Sight::New => told.push(Told::Apply(item)),
                Sight::Same => {}
                Sight::Past => self.counts.ignored = self.counts.ignored.saturating_add(1),
            }
        }
        let Step::List(list) = &mut self.step else {
            return Err(Refused::NotAsked);
        };
        list.token = page.token.filter(|token| !token.is_empty());
        if list.token.is_none() {
            told.extend(self.known.end_list(&version).into_iter().map(Told::Delete));
            self.step = Step::Watch(Watching::from(version));
            self.trouble = None;
            self.limit = self.limit.saturating_mul(2).min(PAGE_OBJECTS);
            (self.listed, self.confirmed_at) = (true, Some(now));
        }
        Ok(told)
    }

    /// Does the page belong to a list that we want? Returns the version of the list.
    fn check<T>(&mut self, page: &Page<T>, now: Instant) -> Result<Version, Refused> {
        self.spent(now);
        let Step::List(list) = &mut self.step else {
            return Err(Refused::NotAsked);
        };
        let first = list.pages == 0;
        list.pages = list.pages.saturating_add(1);
        // Pages that bring little cost more: they are not what was asked for.
        let full = page.items.len() >= self.limit / 2;
        let cost = page
            .items
            .len()
            .max(if full { 50 } else { PAGE_OBJECTS * 5 });
        list.objects = list.objects.saturating_add(cost);
        let last = page.token.as_ref().is_none_or(String::is_empty);
        if list.objects > LIST_OBJECTS_MAX && !last {
            return Err(Refused::Endless);
        }
        let got = Version::read(&page.resource_version).ok_or(Refused::NoVersion)?;
        if first {
            self.known.begin_list();
        }
        if let Some(seen) = self.seen.clone().filter(|seen| got.is_before(seen)) {
            let since = *self.older_since.get_or_insert(now);
            if list.pages > 1 || now.saturating_duration_since(since) < RESTORED {
                return Err(Refused::Older { seen, got });
            }
            // Versions begin anew: none that is known can be compared.
            self.known.begin_anew();
            self.seen = None;
        }
        self.older_since = None;
        let seen = &mut self.seen;
        if seen.as_ref().is_none_or(|seen| !got.is_before(seen)) {
            *seen = Some(got.clone());
        }
        Ok(list.version.get_or_insert(got).clone())
    }

    /// The watch that was asked for is open.
    pub fn opened(&mut self, now: Instant) {
        self.last_heard = Some(now);
        self.trouble = None;
        self.counts.watches = self.counts.watches.saturating_add(1);
        if let Step::Watch(watch) = &mut self.step {
            (watch.open, watch.spoke) = (Some(now), false);
        }
    }

    /// Takes one line of the watch. Afterwards [`Feed::is_open`] says whether it goes on.
    pub fn event<T>(&mut self, event: Event<T>, now: Instant) -> Option<Told<T>> {
        if !self.is_open() {
            return None;
        }
        self.counts.events = self.counts.events.saturating_add(1);
        let (sight, version, told) = match event {
            Event::Put(meta, item) => {
                let version = Version::read(&meta.resource_version);
                (self.known.put(&meta), version, Some(Told::Apply(item)))
            }
            Event::Deleted(meta) => {
                let version = Version::read(&meta.resource_version);
                let sight = self.known.deleted(&meta);
                (sight, version, Some(Told::Delete(Name::of(meta))))
            }
            Event::Bookmark(version) => (Sight::Same, Version::read(&version), None),
            Event::Error { code, message } => {
                self.failed(Failure::of_status(code, message), now);
                return None;
            }
        };
        self.heard(now);
        if sight == Sight::Past {
            self.counts.ignored = self.counts.ignored.saturating_add(1);
        }
        match version {
            Some(version) if told.is_none() => self.bookmark(version),
            Some(version) => self.advance(version),
            None => {}
        }
        told.filter(|_| sight == Sight::New)
    }

    /// A bookmark from before what was seen: the server has gone back, or we talk to another one.
    fn bookmark(&mut self, version: Version) {
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| version.is_before(seen))
        {
            self.list_again();
        } else {
            self.advance(version);
        }
    }

    fn advance(&mut self, version: Version) {
        self.saw(&version);
        if let Step::Watch(watch) = &mut self.step {
            (watch.spoke, watch.stuck, watch.failures) = (true, 0, 0);
            if !version.is_before(&watch.position) {
                watch.position = version;
            }
        }
    }

    /// There was no answer, or the watch is over. Returns what is gone: with a kind that is not
    /// served any more, its objects.
    pub fn failed(&mut self, why: Failure, now: Instant) -> Vec<Name> {
        if why == Failure::Ended {
            self.ended(now);
            return Vec::new();
        }
        self.close();
        match why {
            Failure::Ended => {}
            Failure::Gone => self.gone(now),
            Failure::RetryAfter(time) => {
                self.trouble(Sort::Lost, "the server asks to wait", now);
                self.pace.failed(now, Some(time));
            }
            Failure::Forbidden(why) => self.shut(Sort::Forbidden, &why, now),
            Failure::NotFound => {
                self.shut(Sort::Absent, "not served", now);
                let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
                if now.saturating_duration_since(since) >= ABSENT && !self.outlives_its_definition()
                {
                    self.seen = None;
                    return self.known.clear();
                }
            }
            Failure::TooLarge(why) => {
                self.limit = (self.limit / 2).max(1);
                self.fail(&why, now);
                if let Step::List(list) = &mut self.step {
                    *list = Listing::default();
                }
            }
            Failure::Unauthorized(why) => {
                self.trouble(Sort::Unauthorized, &why, now);
                self.pace.failed(now, None);
            }
            Failure::Transport(why) => {
                self.trouble(Sort::Lost, &why, now);
                self.pace.failed(now, None);
            }
            Failure::Silent(why) => {
                // A smaller page may be ready in time.
                if let Step::List(_) = &self.step {
                    self.limit = (self.limit / 2).max(PAGE_OBJECTS_MIN);
                }
                self.trouble(Sort::Lost, &why, now);
                self.pace.failed(now, None);
            }
            Failure::Cut(why) => {
                self.spent(now);
                self.trouble(Sort::Lost, &why, now);
                self.pace.failed(now, None);
            }
            Failure::Malformed(why) => {
                self.spent(now);
                self.fail(&why, now);
            }
            // It has trouble of its own, wherever the watch begins.
            Failure::Status(TOO_MANY | SERVER_ERROR.., why) => {
                self.trouble(Sort::Lost, &why, now);
                self.failing();
                self.pace.failed(now, None);
            }
            Failure::Status(_, why) => self.fail(&why, now),
        }
        Vec::new()
    }

    /// A list answers it, and how many there are is bounded: what failed before does not count. Only where a
    /// list has not even begun it is a failure like any other.
    fn gone(&mut self, now: Instant) {
        let unbegun = matches!(&self.step, Step::List(list) if list.pages == 0);
        if !unbegun {
            self.pace.succeeded();
        }
        self.step = Step::List(Listing::default());
        self.pace.failed(now, None);
    }

    /// Is there anything that its definition's end does not take away? Of another feed's objects, which were
    /// seen up to a version, this one knows nothing before its first list.
    fn outlives_its_definition(&self) -> bool {
        let inherits = self.seen.is_some() && !self.listed;
        self.governs && (inherits || self.known.len() > 0)
    }

    /// The server has answered, but not with what was asked for.
    fn fail(&mut self, why: &str, now: Instant) {
        self.trouble(Sort::Lost, why, now);
        self.stuck();
        self.pace.failed(now, None);
    }

    /// Counts a list, at its first page: one that comes to nothing costs the server as much as a good one. Not so
    /// a refusal; and a page that is too large is asked for again at half its size, which ends by itself.
    fn spent(&mut self, now: Instant) {
        if let Step::List(list) = &self.step
            && list.pages == 0
        {
            self.pace.listed(now);
            self.counts.lists = self.counts.lists.saturating_add(1);
        }
    }

    /// The server will answer so until somebody changes something.
    fn shut(&mut self, sort: Sort, why: &str, now: Instant) {
        self.trouble(sort, why, now);
        self.step = Step::List(Listing::default());
        self.pace.failed(now, None);
    }

    fn ended(&mut self, now: Instant) {
        let (long, spoke) = match &self.step {
            Step::Watch(watch) => (watch.is_old(now), watch.spoke),
            Step::List(_) => (false, false),
        };
        if long || spoke {
            // Nothing is missing up to the end that the server has chosen.
            self.heard(now);
        }
        self.close();
        if !long {
            self.pace.failed(now, None);
        }
        if !long && !spoke {
            self.stuck();
        }
    }

    fn close(&mut self) {
        if let Step::Watch(watch) = &mut self.step {
            watch.open = None;
        }
    }

    /// A server that has failed for very long may do so because of the position.
    fn failing(&mut self) {
        if let Step::Watch(watch) = &mut self.step {
            watch.failures = watch.failures.saturating_add(1);
            if watch.failures >= FAILURES_MAX {
                self.step = Step::List(Listing::default());
            }
        }
    }

    /// The position may be one at which nothing can be had: not tried forever.
    fn stuck(&mut self) {
        if let Step::Watch(watch) = &mut self.step {
            watch.stuck = watch.stuck.saturating_add(1);
            if watch.stuck >= STUCK_MAX {
                self.step = Step::List(Listing::default());
            }
        }
    }

    fn trouble(&mut self, sort: Sort, why: &str, now: Instant) {
        let since = match &self.trouble {
            Some(old) if old.sort.is_like(sort) => old.since,
            Some(_) | None => now,
        };
        let why = why.chars().take(REASON_CHARS_MAX).collect();
        self.trouble = Some(Trouble { since, sort, why });
    }

    /// The watch has said something.
    fn heard(&mut self, now: Instant) {
        (self.last_heard, self.confirmed_at) = (Some(now), Some(now));
        // A server that greets and hangs up is not asked faster for it.
        if matches!(&self.step, Step::Watch(watch) if watch.is_old(now)) {
            self.pace.succeeded();
        }
    }

    fn saw(&mut self, version: &Version) {
        if self
            .seen
            .as_ref()
            .is_none_or(|seen| !version.is_before(seen))
        {
            self.seen = Some(version.clone());
        }
    }

    /// Does the watch go on?
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(&self.step, Step::Watch(watch) if watch.open.is_some())
    }

    /// The kind is listed once more as soon as that may be; a watch that is open is to be ended.
    pub fn list_again(&mut self) {
        if matches!(self.step, Step::Watch(_)) {
            self.step = Step::List(Listing::default());
        }
    }

    /// What was told of this object did not count: told again when it is seen again.
    pub fn doubt(&mut self, namespace: Option<&str>, name: &str) {
        self.known.doubt(namespace, name);
    }

    /// [`Feed::doubt`] of every object.
    pub fn doubt_all(&mut self) {
        self.known.doubt_all();
    }
}

#[cfg(test)]
mod tests;
