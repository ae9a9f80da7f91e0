//! What does a cluster's API server say, now and from now on?
//!
//! One task for each kind of objects asks what its feed wants to know (`Feed`, of the core's watch) and hands on what
//! that tells; one more looks at them all, and says when the cluster is listed, lost and confirmed.
//! They share one client with few connections, and nothing with other clusters.
//!
//! ```text
//! collection ─► kind (list, watch ─ read ─► Feed) ─► held (decode, quota) ─ Change ─► hub
//!                 │                                    ▲
//!                 └ status ─► pulse ─ InitDone, Lost   └ places (nodes of pods)
//! ```

mod collection;
mod read;
mod held;
pub(super) mod hosts;
mod places;
mod kind;
mod pulse;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isthmus_control_plane_core::model::{Change, Kind};
use isthmus_control_plane_core::quota::Quota;
use isthmus_control_plane_core::watch::{Counts, State, Version};
use isthmus_proto::ids::ClusterId;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::{Report, Source};
use crate::kubernetes::{Access, Api};
use collection::COLLECTIONS;
use held::Held;
use kind::Watcher;
use places::Places;
use pulse::Pulse;

/// A watch that says nothing for so long has lost its server: each is asked to end before, and
/// the server says something just before the end.
const SILENCE_MAX: Duration = Duration::from_secs(55);
/// Pages of one cluster's lists that are in memory at once.
const PAGES_MAX: usize = 2;
/// How often it is looked whether a kind is served in a better version.
const LOOK_FOR_BETTER: Duration = Duration::from_secs(600);

/// An API server per cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    cluster: ClusterId,
    api: Api,
    quota: Quota,
    /// A watch that says nothing for so long has lost its server.
    silence: Duration,
    /// How often it is looked whether a kind is served in a better version.
    look_for_better: Duration,
    /// What was seen of each kind before: an API server that is behind it is not believed.
    seen: Versions,
    report: watch::Sender<Report>,
}

/// The newest `resourceVersion` of each kind that was seen.
pub type Versions = BTreeMap<String, String>;

impl KubernetesSource {
    /// A source that watches what `api` leads to, and keeps no more of it than `quota`.
    #[must_use]
    pub fn new(cluster: &ClusterId, api: &Api, quota: Quota) -> Self {
        let report = watch::Sender::new(Report {
            origin: api.access().server.to_string(),
            ..Report::default()
        });
        Self {
            cluster: cluster.clone(),
            api: api.clone(),
            quota,
            silence: SILENCE_MAX,
            look_for_better: LOOK_FOR_BETTER,
            seen: Versions::new(),
            report,
        }
    }

    /// Goes on where another source of the same cluster has ended: what is older than that is of
    /// the past.
    #[must_use]
    pub fn resuming(self, seen: Versions) -> Self {
        Self { seen, ..self }
    }
}

impl Source for KubernetesSource {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    async fn run(self, out: mpsc::Sender<Change>) {
        let cluster = self.cluster.clone();
        if out.send(Change::Init { cluster }).await.is_err() {
            return;
        }
        let shared = Shared {
            look_for_better: self.look_for_better,
            ..Shared::new(&self.cluster, self.quota, self.silence)
        };
        let shared = Arc::new(shared.among(self.api.access()));
        // They end with this future.
        let mut tasks = JoinSet::new();
        for collection in COLLECTIONS {
            let seen = self.seen.get(collection.name());
            let seen = seen.and_then(|text| Version::read(text));
            let watcher = Watcher::new(collection, &self.api, &shared, &out, seen);
            tasks.spawn(watcher.run());
        }
        let pulse = Pulse::new(Arc::clone(&shared), out.clone(), self.report);
        tokio::select! {
            // All are cancel-safe: nobody listens any more, or the whole source has failed.
            () = out.closed() => {}
            () = Box::pin(pulse.run()) => {}
            ended = tasks.join_next() => {
                tracing::error!(cluster = %self.cluster, ?ended, "the watch of a kind has ended");
            }
        }
    }
}

/// What the tasks of one cluster share.
#[derive(Debug)]
struct Shared {
    cluster: ClusterId,
    /// Pods may be on loopback addresses.
    loopback: bool,
    silence: Duration,
    /// How often it is looked whether a kind is served in a better version.
    look_for_better: Duration,
    started: Instant,
    held: Mutex<Held>,
    statuses: Mutex<BTreeMap<&'static str, Status>>,
    /// Something of a status is different.
    changed: Notify,
    /// Whoever tells of pods holds it until that is told.
    places: tokio::sync::Mutex<Places>,
    /// Nodes are listed, or will not be.
    nodes_asked: watch::Sender<bool>,
    /// Pods have to be listed again: the places of some are not known to be right.
    misplaced: AtomicBool,
    /// `misplaced` was set.
    moved: Notify,
    pages: Semaphore,
}

/// How well one kind is known.
#[derive(Debug, Clone)]
struct Status {
    state: State,
    listed: bool,
    confirmed_at: Option<Instant>,
    last_heard: Option<Instant>,
    counts: Counts,
    bytes: u64,
    /// The newest version that was seen.
    seen: Option<Version>,
    /// The server does not know us.
    unauthorized: bool,
    /// Objects that are too many to be kept in mind.
    beyond: usize,
    /// Objects that have no name, in all lists.
    nameless: usize,
}

impl Shared {
    fn new(cluster: &ClusterId, quota: Quota, silence: Duration) -> Self {
        Self {
            cluster: cluster.clone(),
            loopback: false,
            silence,
            look_for_better: LOOK_FOR_BETTER,
            started: Instant::now(),
            held: Mutex::new(Held::new(cluster, quota)),
            statuses: Mutex::default(),
            changed: Notify::new(),
            places: tokio::sync::Mutex::default(),
            nodes_asked: watch::Sender::new(false),
            misplaced: AtomicBool::new(false),
            moved: Notify::new(),
            pages: Semaphore::new(PAGES_MAX),
        }
    }

    fn among(self, access: &Access) -> Self {
        Self {
            loopback: access.is_here(),
            ..self
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statuses(&self) -> MutexGuard<'_, BTreeMap<&'static str, Status>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does who answers serve what every API server does?
    fn is_api_server(&self) -> bool {
        let statuses = self.statuses();
        let namespaces = statuses.get(Kind::Namespace.as_str());
        namespaces.is_some_and(|status| matches!(status.state, State::Watching | State::Listing))
    }

    /// Takes the order to list pods again, if there is one.
    fn take_misplaced(&self) -> bool {
        self.misplaced.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests;
