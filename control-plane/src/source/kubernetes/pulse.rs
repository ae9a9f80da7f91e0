//! Is the cluster listed, lost or confirmed, all kinds together?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::model::{Change, Kind, KindFreshness};
use isthmus_control_plane_core::watch::State;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::collection::{COLLECTIONS, Collection, What};
use super::{Shared, Status};
use crate::manifest::Problem;
use crate::source::{KindReport, KindState, Report};

/// All kinds are looked at this often, and when one of them has changed.
const LOOK: Duration = Duration::from_millis(500);
/// A kind that fails for so long is lost; shorter, it is only asked again.
const LOST: Duration = Duration::from_secs(3);
/// A kind of which nothing is heard for so long is lost, whatever it says of itself.
const UNHEARD: Duration = Duration::from_secs(60);
/// A cluster is not kept waiting longer by a kind that fails, if it can do without it.
const DISPENSABLE: Duration = Duration::from_secs(30);
/// A confirmation is worth telling when it is so much newer.
const CONFIRM: Duration = Duration::from_secs(5);

/// Problems that are logged at one look.
const LOGGED_MAX: usize = 10;
/// Why a kind is old whose definition is gone.
const UNSERVED: &str = "its definition is not served any more: what was known of it counts on";

type Statuses = BTreeMap<&'static str, Status>;

/// The task that looks at all kinds of a cluster.
pub(super) struct Pulse {
    shared: Arc<Shared>,
    out: mpsc::Sender<Change>,
    report: watch::Sender<Report>,
    stage: Stage,
    /// Kinds that were not listed when the cluster was told to be.
    kept: BTreeSet<Kind>,
    /// What was last confirmed.
    confirmed: Option<Instant>,
    /// The kinds that were told to be less fresh than the cluster; `None`: nothing was told, and what
    /// was known before still counts.
    older: Option<Older>,
}

/// When a kind was last confirmed, and why not since.
type Older = BTreeMap<Kind, (Option<Instant>, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// The first lists are on their way. What keeps them was told.
    First(Option<String>),
    Synced,
    /// Not seen, for this reason.
    Lost(String),
}

impl Pulse {
    pub(super) fn new(
        shared: Arc<Shared>,
        out: mpsc::Sender<Change>,
        report: watch::Sender<Report>,
    ) -> Self {
        Self {
            shared,
            out,
            report,
            stage: Stage::First(None),
            kept: BTreeSet::new(),
            confirmed: None,
            older: None,
        }
    }

    /// Looks until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let statuses = self.shared.statuses().clone();
            let now = Instant::now();
            self.tell(&statuses, now);
            let mut changes = self.judge(&statuses, now);
            changes.extend(self.age(&statuses, now));
            for change in changes {
                if self.out.send(change).await.is_err() {
                    return;
                }
            }
            let _ = timeout(LOOK, self.shared.changed.notified()).await;
        }
    }

    /// What there is to say of the cluster as a whole.
    fn judge(&mut self, statuses: &Statuses, now: Instant) -> Vec<Change> {
        let cluster = self.shared.cluster.clone();
        let trouble = trouble(statuses, now);
        match (&self.stage, trouble) {
            (Stage::First(told), trouble) => {
                if let Some(kept) =
                    listed(statuses, now.saturating_duration_since(self.shared.started))
                {
                    (self.stage, self.kept) = (Stage::Synced, kept.clone());
                    return vec![Change::InitDone { cluster, kept }];
                }
                let Some(reason) = trouble.filter(|why| told.as_ref() != Some(why)) else {
                    return Vec::new();
                };
                self.stage = Stage::First(Some(reason.clone()));
                vec![Change::Lost { cluster, reason }]
            }
            (Stage::Lost(told), Some(reason)) if *told == reason => Vec::new(),
            (Stage::Synced | Stage::Lost(_), Some(reason)) => {
                self.stage = Stage::Lost(reason.clone());
                vec![Change::Lost { cluster, reason }]
            }
            (Stage::Lost(_), None) => {
                // Everything that was told stays: the watches have told what is different. Kinds
                // that are not seen yet are told as they come back: nobody judges by them before.
                let kept = unseen(statuses);
                (self.stage, self.kept) = (Stage::Synced, kept.clone());
                vec![Change::InitDone { cluster, kept }]
            }
            (Stage::Synced, None) => self.confirm(statuses, now),
        }
    }

    /// Which kinds are not as fresh as the cluster, if that is different now.
    fn age(&mut self, statuses: &Statuses, now: Instant) -> Option<Change> {
        // Before the first list is whole nothing is said of any kind.
        if matches!(self.stage, Stage::First(_)) {
            return None;
        }
        let mut older = older(statuses, now);
        // What each try says is not news: the first reason stays as long as the kind is as old.
        for (kind, (confirmed, reason)) in &mut older {
            let told = self.older.as_ref().and_then(|told| told.get(kind));
            if let Some((_, first)) = told.filter(|(since, _)| since == confirmed) {
                reason.clone_from(first);
            }
        }
        if self.older.as_ref() == Some(&older) {
            return None;
        }
        let kinds = older.iter().map(|(kind, (confirmed, reason))| {
            let of = KindFreshness {
                confirmed_at: confirmed.map(|at| time_of(at, now)),
                reason: reason.clone(),
            };
            (*kind, of)
        });
        let change = Change::Older {
            cluster: self.shared.cluster.clone(),
            kinds: kinds.collect(),
        };
        self.older = Some(older);
        Some(change)
    }

    fn confirm(&mut self, statuses: &Statuses, now: Instant) -> Vec<Change> {
        let cluster = &self.shared.cluster;
        let mut changes = Vec::new();
        self.kept.retain(|kind| {
            let seen = statuses.get(kind.as_str()).is_some_and(is_seen);
            if seen {
                let (cluster, kind) = (cluster.clone(), *kind);
                changes.push(Change::Listed { cluster, kind });
            }
            !seen
        });
        let least = essential(statuses)
            .filter(|(_, status)| !is_shut(&status.state))
            .map(|(_, status)| status.confirmed_at)
            .min()
            .flatten();
        let newer = |at: &Instant| {
            let step = |last: Instant| at.saturating_duration_since(last) >= CONFIRM;
            self.confirmed.is_none_or(step)
        };
        if let Some(at) = least.filter(newer) {
            self.confirmed = Some(at);
            changes.push(Change::Confirmed {
                cluster: cluster.clone(),
                at: time_of(at, now),
            });
        }
        changes
    }

    /// Publishes what is known and what is wrong, and logs what is wrong anew.
    fn tell(&self, statuses: &Statuses, now: Instant) {
        let (errors, invalid, more) = self.shared.held().problems();
        // Also what is not even kept in mind has no room.
        let beyond = statuses.values().any(|status| status.beyond > 0);
        let over_quota = beyond || self.shared.held().is_over();
        let mut report = Report {
            over_quota,
            origin: self.report.borrow().origin.clone(),
            errors,
            invalid,
            ..Report::default()
        };
        if let Some(more) = more {
            let problem = problem(more);
            report.errors.insert("more".to_owned(), vec![problem]);
        }
        for (name, status) in statuses {
            let counted = [
                (status.beyond, "objects are more than are kept in mind"),
                (status.nameless, "objects of lists have no name"),
            ];
            let said = counted.into_iter().filter(|(count, _)| *count > 0);
            let problems: Vec<Problem> = said
                .map(|(count, what)| problem(format!("{count} {what}")))
                .collect();
            if !problems.is_empty() {
                report.errors.insert((*name).to_owned(), problems);
            }
            report.kinds.insert(name, kind_report(status, now));
        }
        self.report.send_if_modified(|old| {
            let known = |object: &String, problem: &Problem| {
                let known = [old.errors.get(object), old.invalid.get(object)];
                known
                    .into_iter()
                    .flatten()
                    .any(|list| list.contains(problem))
            };
            let all = report.errors.iter().chain(&report.invalid);
            let all = all.flat_map(|(object, list)| list.iter().map(move |one| (object, one)));
            // A cluster does not fill our log: the report has them all.
            let news = all.filter(|(object, problem)| !known(object, problem));
            for (object, problem) in news.take(LOGGED_MAX) {
                tracing::warn!(cluster = %self.shared.cluster, %object, "{problem}");
            }
            let changed = *old != report;
            *old = report;
            changed
        });
    }
}

fn problem(message: String) -> Problem {
    Problem {
        line: 0,
        column: 0,
        object: String::new(),
        message,
    }
}

fn kind_report(status: &Status, now: Instant) -> KindReport {
    let (state, reason) = match &status.state {
        State::Unknown => (KindState::Unknown, String::new()),
        State::Listing => (KindState::Listing, String::new()),
        State::Watching => (KindState::Watching, String::new()),
        State::Lost { why, .. } => (KindState::Lost, why.clone()),
        State::Forbidden { why } => (KindState::Forbidden, why.clone()),
        State::Unserved => (KindState::Unserved, UNSERVED.to_owned()),
        State::Absent => (KindState::Absent, String::new()),
    };
    KindReport {
        state,
        reason,
        confirmed_at: status.confirmed_at.map(|at| time_of(at, now)),
        lists: status.counts.lists,
        restarts: status.counts.watches.saturating_sub(1),
        bytes: status.bytes,
        resource_version: status
            .seen
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        unauthorized: status.unauthorized,
    }
}

/// The time of day of a moment.
fn time_of(at: Instant, now: Instant) -> SystemTime {
    let age = now.saturating_duration_since(at);
    let time = SystemTime::now();
    // Whole seconds: the same moment stays the same time, however often it is asked.
    let time = time.checked_sub(age).unwrap_or(time);
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let whole = Duration::from_secs(since.as_secs());
    SystemTime::UNIX_EPOCH.checked_add(whole).unwrap_or(time)
}

/// Is what was told of the kind what the server has? That there is no such kind is known, too.
fn is_seen(status: &Status) -> bool {
    match status.state {
        State::Watching => status.listed,
        State::Absent => true,
        State::Unknown
        | State::Listing
        | State::Lost { .. }
        | State::Forbidden { .. }
        | State::Unserved => false,
    }
}

/// The kinds that are not seen now.
fn unseen(statuses: &Statuses) -> BTreeSet<Kind> {
    let unseen = |collection: &&Collection| !statuses.get(collection.name()).is_some_and(is_seen);
    COLLECTIONS
        .iter()
        .filter(unseen)
        .filter_map(kind_of)
        .collect()
}

/// The kinds that can't be seen, or of which nothing was heard for long.
fn older(statuses: &Statuses, now: Instant) -> Older {
    let older = |collection: &&Collection| {
        let (kind, status) = (kind_of(collection)?, statuses.get(collection.name())?);
        let since = |at: Instant| now.saturating_duration_since(at);
        let why = match &status.state {
            State::Absent => return None,
            State::Forbidden { why } => why.clone(),
            State::Unserved => UNSERVED.to_owned(),
            // Shorter than this it is only asked again.
            State::Lost { since: lost, why } if since(*lost) >= LOST => why.clone(),
            State::Unknown | State::Listing | State::Lost { .. } if !status.listed => {
                "not listed yet".to_owned()
            }
            State::Unknown | State::Listing | State::Watching | State::Lost { .. } => {
                let heard = status.last_heard?;
                if since(heard) < UNHEARD {
                    return None;
                }
                format!("nothing was heard for {} s", UNHEARD.as_secs())
            }
        };
        let confirmed = status.confirmed_at.filter(|_| status.listed);
        Some((kind, (confirmed, why)))
    };
    COLLECTIONS.iter().filter_map(|one| older(&one)).collect()
}

fn kind_of(collection: &Collection) -> Option<Kind> {
    match collection.what {
        What::Nodes => None,
        What::Objects(kind) => Some(kind),
    }
}

fn essential(statuses: &Statuses) -> impl Iterator<Item = (&'static str, &Status)> {
    let kinds = COLLECTIONS.iter().filter(|collection| collection.essential);
    kinds.filter_map(|collection| {
        let name = collection.name();
        Some((name, statuses.get(name)?))
    })
}

/// Is the first list of the cluster complete? Then these kinds are not in it.
fn listed(statuses: &Statuses, since: Duration) -> Option<BTreeSet<Kind>> {
    let mut kept = BTreeSet::new();
    for collection in COLLECTIONS {
        let status = statuses.get(collection.name())?;
        if status.listed {
            continue;
        }
        let dispensable = !collection.essential;
        // What was known before the control plane started counts on.
        let was_known = status.seen.is_some();
        match &status.state {
            State::Absent => {}
            State::Forbidden { .. } | State::Unserved if dispensable || was_known => {
                kept.extend(kind_of(collection));
            }
            State::Lost { .. } if dispensable && since >= DISPENSABLE => {
                kept.extend(kind_of(collection));
            }
            State::Unknown
            | State::Listing
            | State::Watching
            | State::Forbidden { .. }
            | State::Unserved
            | State::Lost { .. } => return None,
        }
    }
    let sees = essential(statuses).any(|(_, status)| status.listed);
    sees.then_some(kept)
}

/// Is it said that there is nothing to be had of the kind? That is no word about the cluster: the kind
/// is as old as it is, and the others go on.
fn is_shut(state: &State) -> bool {
    match state {
        State::Absent | State::Forbidden { .. } | State::Unserved => true,
        State::Unknown | State::Listing | State::Watching | State::Lost { .. } => false,
    }
}

/// Why the cluster can't be seen; `None`: it can.
fn trouble(statuses: &Statuses, now: Instant) -> Option<String> {
    // Who may see nothing at all sees no cluster.
    let mut all = essential(statuses);
    if let Some((name, why)) = essential(statuses).find_map(forbidden)
        && all.all(|(_, status)| is_shut(&status.state))
    {
        return Some(format!("{name}: {why}"));
    }
    essential(statuses).find_map(|(name, status)| match &status.state {
        State::Absent | State::Forbidden { .. } | State::Unserved => None,
        State::Lost { since, why } if now.saturating_duration_since(*since) >= LOST => {
            Some(format!("{name}: {why}"))
        }
        State::Unknown | State::Listing | State::Watching | State::Lost { .. } => {
            let heard = status.last_heard?;
            let unheard = now.saturating_duration_since(heard) >= UNHEARD;
            unheard.then(|| format!("{name}: nothing was heard for {} s", UNHEARD.as_secs()))
        }
    })
}

fn forbidden<'a>((name, status): (&'static str, &'a Status)) -> Option<(&'static str, &'a str)> {
    match &status.state {
        State::Forbidden { why } => Some((name, why)),
        State::Unknown
        | State::Listing
        | State::Watching
        | State::Lost { .. }
        | State::Unserved
        | State::Absent => None,
    }
}

#[cfg(test)]
mod tests;
