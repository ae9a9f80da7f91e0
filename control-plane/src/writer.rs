//! Who writes into the clusters what they lack?
//!
//! One task, and only in the replica that leads. It looks at the world when that has changed, sends
//! what differs, and looks again at what was refused. A write that arrived is not sent again before
//! its echo has had time to come back through the watch.
//!
//! ```text
//! hub ─ Dirty ─► planner (core) ─ Write ─► lane of the cluster ─► API server
//!         ▲                                    │ refused: later
//!         └──────────── watch ◄────────────────┘
//! ```

mod document;
mod lane;
mod queue;
mod server;
pub mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::model::ObjectRef;
use isthmus_control_plane_core::world::World;
use isthmus_control_plane_core::write::{Body, Planner, Settings, Subject, Write};
use isthmus_proto::ids::ClusterId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::hub::{Hub, Inbox};
use crate::kubernetes::ApiError;
use crate::metrics::{Metric, Metrics};
use lane::{Lane, Outcome};
pub use server::Server;
use server::is_gone;

/// Things that are looked at before the world's writer gets its turn.
const CHUNK: usize = 256;
/// How long the watch may take to tell what was written.
const ECHO: Duration = Duration::from_secs(10);
/// Even if nothing is heard, everything is looked at so often.
const RESYNC: Duration = Duration::from_secs(600);
/// Writes to one cluster each second. An import takes five, so 1,000 new ones are there in 50 s.
pub const PER_SECOND: u32 = 100;
/// Writes to one cluster in a moment, after a time of quiet.
pub const BURST: u32 = 200;
/// What failed is looked at so long after what waited behind it.
const BEHIND: Duration = Duration::from_millis(1);
/// A cluster that is not known yet after so long is no member, to whoever begins to lead.
pub const REMOVALS_AFTER: Duration = Duration::from_secs(30);
/// Problems that are remembered for people.
const PROBLEMS_MAX: usize = 1_000;

/// How much may be written.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Writes to one cluster each second, in the long run ...
    pub per_second: u32,
    /// ... and at once.
    pub burst: u32,
    /// Changes of the world are waited for so long, to be looked at together.
    pub debounce: Duration,
    /// Nothing is deleted before the replica has led for so long: which clusters belong to the mesh
    /// has to be known first.
    pub removals_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_second: PER_SECOND,
            burst: BURST,
            debounce: Duration::from_millis(100),
            removals_after: REMOVALS_AFTER,
        }
    }
}

/// The clusters that can be written to, as they come and go.
pub type Servers<S> = watch::Receiver<BTreeMap<ClusterId, S>>;

/// What could not be written, and why.
#[derive(Debug, Default)]
pub struct Problems {
    found: Mutex<BTreeMap<ObjectRef, (Subject, String)>>,
}

impl Problems {
    /// All that are not over.
    #[must_use]
    pub fn list(&self) -> Vec<(ObjectRef, String)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .iter()
            .map(|(at, (_, why))| (at.clone(), why.clone()))
            .collect()
    }

    /// Is it another one than before?
    fn note(&self, (at, subject): (&ObjectRef, &Subject), why: &str) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= PROBLEMS_MAX && !found.contains_key(at) {
            return false;
        }
        let before = found.insert(at.clone(), (subject.clone(), why.to_owned()));
        before.is_none_or(|(_, before)| before != why)
    }

    /// Forgets what is not amiss any more with what was looked at.
    fn settle(&self, amiss: &BTreeMap<Subject, BTreeSet<ObjectRef>>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|at, (subject, _)| amiss.get(subject).is_none_or(|still| still.contains(at)));
    }

    fn over(&self, at: &ObjectRef) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.remove(at);
    }

    fn clear(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clear();
    }
}

/// The writer.
#[derive(Debug)]
pub struct Writer<S> {
    /// The world.
    pub hub: Arc<Hub>,
    /// Whom it writes to.
    pub servers: Servers<S>,
    /// Does this replica lead?
    pub leads: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What people are told.
    pub problems: Arc<Problems>,
    /// How much may be written.
    pub limits: Limits,
}

impl<S: Server> Writer<S> {
    /// Writes while this replica leads, until nobody says any more whether it does.
    pub async fn run(mut self) {
        while self.leads.wait_for(|leads| *leads).await.is_ok() {
            let mut lead = Lead::new(&self);
            let mut leads = self.leads.clone();
            tokio::select! {
                // What is under way when it ends is given up; the next leader looks for itself.
                () = lead.run() => {}
                _ = leads.wait_for(|leads| !*leads) => {}
            }
            self.problems.clear();
        }
    }
}

type Sent = (Write, Result<(), ApiError>);

/// One time of leading.
struct Lead<'a, S> {
    writer: &'a Writer<S>,
    servers: Servers<S>,
    inbox: Arc<Inbox>,
    planner: Planner,
    lanes: BTreeMap<ClusterId, Lane>,
    sending: JoinSet<Sent>,
    /// What was written, and when: until its echo is there.
    echoes: BTreeMap<(ObjectRef, &'static str), (Body, Instant)>,
    /// What to look at again, and when.
    later: BTreeMap<Instant, BTreeSet<Subject>>,
    /// When to look, if anything is to be looked at.
    look: Option<Instant>,
    everything: Instant,
    /// The home cluster was seen. Before, a cluster that has left meanwhile may still be taken for a member: what
    /// is written there nobody takes away.
    heard: bool,
    /// Nothing is deleted before; `None`: that is over.
    removals: Option<Instant>,
    jitter: RandomState,
    drawn: u64,
}

impl<'a, S: Server> Lead<'a, S> {
    fn new(writer: &'a Writer<S>) -> Self {
        let now = Instant::now();
        let mut planner = Planner::default();
        // First the ear, then the look: nothing falls in between.
        let inbox = writer.hub.subscribe();
        writer.hub.read(|world| planner.everything(world));
        Self {
            writer,
            servers: writer.servers.clone(),
            inbox,
            planner,
            lanes: BTreeMap::new(),
            sending: JoinSet::new(),
            echoes: BTreeMap::new(),
            later: BTreeMap::new(),
            look: Some(now),
            everything: now + RESYNC,
            heard: false,
            removals: Some(now + writer.limits.removals_after),
            jitter: RandomState::new(),
            drawn: 0,
        }
    }

    async fn run(&mut self) {
        let inbox = Arc::clone(&self.inbox);
        let mut gone = false;
        loop {
            self.send();
            let due = self.due();
            tokio::select! {
                // Cancel-safe, all of them: what is not returned stays where it is.
                news = inbox.next() => {
                    let planner = &mut self.planner;
                    let note = |world: &World| news.iter().for_each(|one| planner.note(world, &one.dirty));
                    self.writer.hub.read(note);
                    self.look_soon();
                }
                changed = self.servers.changed(), if !gone => {
                    gone = changed.is_err();
                    self.look_at_everything();
                }
                Some(sent) = self.sending.join_next() => {
                    if let Ok((write, result)) = sent {
                        self.back(&write, &result);
                    }
                }
                () = sleep_until(due) => self.tick(),
            }
        }
    }

    /// When something is to be done, even if nothing is heard.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let limits = self.writer.limits;
        let lanes = self.lanes.values().filter_map(|lane| lane.due(now, limits));
        let later = self.later.keys().next().copied();
        let all = lanes.chain(later).chain(self.look).chain(self.removals);
        all.fold(self.everything, Instant::min)
    }

    fn look_soon(&mut self) {
        let soon = Instant::now() + self.writer.limits.debounce;
        self.look.get_or_insert(soon);
    }

    fn look_at_everything(&mut self) {
        let planner = &mut self.planner;
        self.writer.hub.read(|world| planner.everything(world));
        self.look_soon();
    }

    fn tick(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry() {
            if *entry.key() > now {
                break;
            }
            for subject in entry.remove() {
                self.planner.again(subject);
            }
            self.look.get_or_insert(now);
        }
        if self.everything <= now {
            self.everything = now + RESYNC;
            self.look_at_everything();
        }
        if self.removals.is_some_and(|at| at <= now) {
            self.removals = None;
            self.look_at_everything();
        }
        if self.look.is_some_and(|at| at <= now) {
            self.plan(now);
        }
    }

    fn plan(&mut self, now: Instant) {
        self.heard = self.heard || self.writer.hub.read(World::mesh_authors_are_seen);
        if !self.heard {
            // What is noted is looked at with the news that it was.
            self.look = None;
            return;
        }
        let writable: BTreeSet<ClusterId> = self.servers.borrow().keys().cloned().collect();
        let settings = Settings {
            now: SystemTime::now(),
            writable: &writable,
            removals: self.removals.is_none(),
        };
        let planner = &mut self.planner;
        let look = |world: &World| planner.plan(world, settings, CHUNK);
        let plan = self.writer.hub.read(look);
        self.look = (!self.planner.is_idle()).then_some(now);
        for (what, count) in plan.unchanged {
            self.writer
                .metrics
                .add(Metric::WritesUnchanged, what, count);
        }
        self.writer.problems.settle(&plan.amiss);
        for (at, subject, why) in plan.refused {
            if self.writer.problems.note((&at, &subject), why) {
                tracing::warn!(object = %at, "{why}");
            }
        }
        self.echoes.retain(|_, (_, at)| *at + ECHO > now);
        for write in plan.writes {
            self.queue(write, now);
        }
    }

    fn queue(&mut self, write: Write, now: Instant) {
        let key = (write.object.clone(), write.body.what());
        if let Some((body, at)) = self.echoes.get(&key)
            && body.same(&write.body)
        {
            // It has just arrived there. If the watch does not tell, it is looked at again.
            self.later(*at + ECHO, write.subject);
            return;
        }
        let lane = self.lanes.entry(write.object.cluster.clone()).or_default();
        match lane.held(&write, now) {
            Some(until) => self.later(until, write.subject),
            None => lane.push(write),
        }
    }

    fn later(&mut self, at: Instant, subject: Subject) {
        self.later.entry(at).or_default().insert(subject);
    }

    fn send(&mut self) {
        let (now, limits) = (Instant::now(), self.writer.limits);
        let servers = self.servers.borrow().clone();
        self.lanes
            .retain(|cluster, _| servers.contains_key(cluster));
        for (cluster, lane) in &mut self.lanes {
            let Some(server) = servers.get(cluster) else {
                continue;
            };
            while let Some(write) = lane.next(now, limits) {
                let server = server.clone();
                self.sending.spawn(async move {
                    let result = server::send(&server, &write).await;
                    (write, result)
                });
            }
        }
    }

    /// What became of a write.
    fn back(&mut self, write: &Write, result: &Result<(), ApiError>) {
        let now = Instant::now();
        let outcome = Outcome::of(result);
        let what = write.body.what();
        if is_gone(write, result) {
            // There is nothing left to say it of; what was said before is not true of a new one.
            self.writer.problems.over(&write.object);
            self.echoes.remove(&(write.object.clone(), what));
            if let Some(lane) = self.lanes.get_mut(&write.object.cluster) {
                lane.came_to_nothing(write);
            }
            return;
        }
        let metric = match outcome {
            Outcome::Applied => Metric::WritesApplied,
            Outcome::Conflict => Metric::WritesConflicting,
            Outcome::Refused => Metric::WritesRefused,
            Outcome::Failed | Outcome::Unreached => Metric::WritesFailed,
        };
        self.writer.metrics.count(metric, what);
        match result {
            Ok(()) => {
                self.writer.problems.over(&write.object);
                let key = (write.object.clone(), what);
                self.echoes.insert(key, (write.body.clone(), now));
            }
            Err(error) => {
                let why = format!("{what}: {error}");
                let about = (&write.object, &write.subject);
                if self.writer.problems.note(about, &why) {
                    tracing::warn!(object = %write.object, what, %error, "not written");
                }
            }
        }
        self.drawn = self.drawn.wrapping_add(1);
        let random = u32::try_from(self.jitter.hash_one(self.drawn) >> 32).unwrap_or(0);
        let jitter = f64::from(random) / f64::from(u32::MAX);
        let Some(lane) = self.lanes.get_mut(&write.object.cluster) else {
            return;
        };
        let wait = lane.back(write, result, (now, jitter));
        let Some(wait) = wait else { return };
        let mut others: Vec<Subject> = Vec::new();
        // What waits behind a cluster that does not answer may be out of date when it does.
        if outcome == Outcome::Unreached {
            others.extend(lane.drain().map(|write| write.subject));
        }
        for subject in others {
            self.later(now + wait, subject);
        }
        // Behind all that was not tried: if it fails again, they were not kept waiting for it.
        self.later(now + wait + BEHIND, write.subject.clone());
    }
}

#[cfg(test)]
mod tests;
