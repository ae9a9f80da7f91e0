//! Who changes the world, and who hears of it?
//!
//! One task writes: it takes the sources' changes, one cluster's as fairly as another's, and tells
//! those whom it may concern what may be different. They share what they are told; what somebody has
//! not looked at for long is merged, so a slow client costs one set of names and not a queue.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::model::{Change, Kind, Spec};
use isthmus_control_plane_core::session::{Client, Interests, Moved, SessionNumber};
use isthmus_control_plane_core::world::{Dirty, World};
use isthmus_proto::ids::ClusterId;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _, StreamMap};

/// Changes of one cluster that wait for the world.
pub const CHANGES_MAX: usize = 1_024;
/// Changes that the world takes in one go; readers get their turn in between.
const BATCH_MAX: usize = 256;
/// Sessions are told when nothing came for this long ...
const DEBOUNCE: Duration = Duration::from_millis(20);
/// ... and at the latest after this.
const DEBOUNCE_MAX: Duration = Duration::from_millis(200);
/// It is looked so often whether a cluster was not seen for too long.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// Pieces of news that lie in an inbox one by one; more are merged.
const NEWS_MAX: usize = 64;

/// The world, its one writer and its many readers.
#[derive(Debug)]
pub struct Hub {
    world: watch::Sender<World>,
    listeners: Mutex<Listeners>,
    /// Sources that come and go, in their order, until the writer has taken them.
    seats: Mutex<Vec<(ClusterId, Option<Seat>)>>,
    seated: Notify,
}

/// Who hears what.
#[derive(Debug, Default)]
struct Listeners {
    /// Of everything.
    all: Vec<Weak<Inbox>>,
    /// Of what concerns them.
    sessions: BTreeMap<SessionNumber, Arc<Inbox>>,
    interests: Interests,
}

/// What a source has told, and where it tells more.
type Seat = (Vec<Change>, mpsc::Receiver<Change>);

/// Where the sources' changes come from, cluster by cluster. `None` is the end of a source.
type Changes = StreamMap<ClusterId, Pin<Box<dyn Stream<Item = Option<Change>> + Send>>>;

/// Since when each cluster has something new.
pub type Heard = BTreeMap<ClusterId, Instant>;

/// What may be different, and since when.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// What it is.
    pub dirty: Dirty,
    /// Whose change it was.
    pub heard: Heard,
}

impl News {
    fn merge(&mut self, newer: &Self) {
        self.dirty.merge(&newer.dirty);
        newer.add_heard(&mut self.heard);
    }

    /// Adds since when there is something new. What is there already is older, and stays.
    pub fn add_heard(&self, known: &mut Heard) {
        for (cluster, since) in &self.heard {
            known.entry(cluster.clone()).or_insert(*since);
        }
    }
}

/// What somebody has not looked at yet.
#[derive(Debug, Default)]
pub struct Inbox {
    news: Mutex<Vec<Arc<News>>>,
    wake: Notify,
}

impl Inbox {
    /// Waits until something is different, and takes it, oldest first. Cancel-safe: what is not
    /// returned stays.
    pub async fn next(&self) -> Vec<Arc<News>> {
        loop {
            let news = std::mem::take(&mut *self.lock());
            if !news.is_empty() {
                return news;
            }
            self.wake.notified().await;
        }
    }

    fn put(&self, one: &Arc<News>) {
        let mut news = self.lock();
        if news.len() >= NEWS_MAX {
            let mut merged = News::default();
            for older in news.drain(..) {
                merged.merge(&older);
            }
            news.push(Arc::new(merged));
        }
        news.push(Arc::clone(one));
        drop(news);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<News>>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among the listeners, given back when dropped.
#[derive(Debug)]
pub struct Listener {
    hub: Arc<Hub>,
    number: SessionNumber,
    inbox: Arc<Inbox>,
}

impl Listener {
    /// As [`Inbox::next`]: of what concerns the session.
    pub async fn next(&self) -> Vec<Arc<News>> {
        self.inbox.next().await
    }

    /// The session wants other services than before. What changes from now on is heard.
    pub fn follow(&self, moved: Moved) {
        self.hub.listeners().interests.follow(self.number, moved);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.hub.listeners();
        listeners.sessions.remove(&self.number);
        listeners.interests.leave(self.number);
    }
}

impl Hub {
    /// A hub around a world that knows its clusters, keys and roots.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            world: watch::Sender::new(world),
            listeners: Mutex::default(),
            seats: Mutex::default(),
            seated: Notify::new(),
        }
    }

    /// Listens to a source from now on; to another one of the same cluster no more. What that one
    /// has told and was not taken yet is dropped: the new one begins with a list.
    pub fn join(&self, cluster: &ClusterId, changes: mpsc::Receiver<Change>) {
        self.take_seat(cluster, Vec::new(), changes);
    }

    /// As [`Self::join`], for a source that has told something to somebody else before.
    pub fn take_seat(
        &self,
        cluster: &ClusterId,
        told: Vec<Change>,
        changes: mpsc::Receiver<Change>,
    ) {
        self.seat(cluster, Some((told, changes)));
    }

    /// Listens to this cluster's source no more; the source sees that nobody listens.
    pub fn leave(&self, cluster: &ClusterId) {
        self.seat(cluster, None);
    }

    fn seat(&self, cluster: &ClusterId, changes: Option<Seat>) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.push((cluster.clone(), changes));
        self.seated.notify_one();
    }

    /// Withdraws what was not seen for longer than `life`, now and then. Does not end by itself.
    pub async fn expire(&self, life: Duration) {
        loop {
            sleep(EXPIRE_EVERY).await;
            self.change(|world| world.expire(life, SystemTime::now()));
        }
    }

    fn reseat(&self, changes: &mut Changes) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        for (cluster, seat) in seats.drain(..) {
            changes.remove(&cluster);
            if let Some((told, receiver)) = seat {
                let told = tokio_stream::iter(told).chain(ReceiverStream::new(receiver));
                // The end of a source is the last thing that it says.
                let told = told.map(Some).chain(tokio_stream::once(None));
                changes.insert(cluster, Box::pin(told));
            }
        }
    }

    /// Looks at the world. The writer waits meanwhile: look, don't work.
    pub fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.borrow())
    }

    /// Changes the world by other means than a source.
    pub fn change(&self, change: impl FnOnce(&mut World) -> Dirty) {
        let mut dirty = Dirty::default();
        self.world.send_modify(|world| dirty = change(world));
        let heard = Heard::new();
        self.publish(News { dirty, heard });
    }

    /// A place to hear of everything that is different from now on.
    #[must_use]
    pub fn subscribe(&self) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        let all = &mut self.listeners().all;
        all.retain(|listener| listener.strong_count() > 0);
        all.push(Arc::downgrade(&inbox));
        inbox
    }

    /// A place to hear of what concerns a client from now on, and what it [follows](Listener::follow).
    #[must_use]
    pub fn listen(self: &Arc<Self>, client: &Client) -> Listener {
        let inbox = Arc::new(Inbox::default());
        let mut listeners = self.listeners();
        let number = listeners.interests.enter(client);
        listeners.sessions.insert(number, Arc::clone(&inbox));
        drop(listeners);
        let hub = Arc::clone(self);
        Listener { hub, number, inbox }
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the changes of all sources, as they come and go. Does not end by itself.
    pub async fn run(&self) {
        let mut changes = Changes::new();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut pending = Pending::default();
        loop {
            self.reseat(&mut changes);
            let far = Instant::now() + DEBOUNCE_MAX;
            let due = pending.due();
            tokio::select! {
                // All are cancel-safe: a change that is taken is in `batch`, a seat in `seats`.
                () = self.seated.notified() => {}
                () = sleep_until(due.unwrap_or(far)), if due.is_some() => {
                    self.publish(pending.take());
                }
                _ = changes.next_many(&mut batch, BATCH_MAX), if !changes.is_empty() => {
                    self.take(&mut batch, &mut pending);
                }
            }
        }
    }

    /// The world takes a batch.
    fn take(&self, batch: &mut Vec<(ClusterId, Option<Change>)>, pending: &mut Pending) {
        let now = SystemTime::now();
        self.world.send_modify(|world| {
            for (source, change) in batch.drain(..) {
                let change = change.unwrap_or_else(|| {
                    tracing::error!(%source, "the source has ended");
                    let reason = "the source has ended".to_owned();
                    Change::Lost {
                        cluster: source.clone(),
                        reason,
                    }
                });
                // A source speaks for its own cluster, whatever its objects say.
                if *cluster_of(&change) != source {
                    tracing::error!(%source, cluster = %cluster_of(&change), "a foreign change");
                    continue;
                }
                pending.urgent |= is_urgent(&change);
                pending.add(&source, &world.apply(change, now));
            }
        });
        if pending.urgent {
            self.publish(pending.take());
        }
    }

    fn publish(&self, news: News) {
        if news.dirty.is_empty() {
            return;
        }
        let news = Arc::new(news);
        let listeners = self.listeners();
        for inbox in listeners.all.iter().filter_map(Weak::upgrade) {
            inbox.put(&news);
        }
        let concerned = listeners.interests.concerned(&news.dirty);
        let sessions = concerned.iter().filter_map(|at| listeners.sessions.get(at));
        sessions.for_each(|inbox| inbox.put(&news));
    }
}

/// What the sessions will be told.
#[derive(Default)]
struct Pending {
    news: News,
    first: Option<Instant>,
    last: Option<Instant>,
    urgent: bool,
}

impl Pending {
    fn add(&mut self, source: &ClusterId, dirty: &Dirty) {
        if dirty.is_empty() {
            return;
        }
        let now = Instant::now();
        self.news.dirty.merge(dirty);
        if !self.news.heard.contains_key(source) {
            self.news.heard.insert(source.clone(), now);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn due(&self) -> Option<Instant> {
        Some((self.last? + DEBOUNCE).min(self.first? + DEBOUNCE_MAX))
    }

    fn take(&mut self) -> News {
        std::mem::take(self).news
    }
}

fn cluster_of(change: &Change) -> &ClusterId {
    match change {
        Change::Init { cluster }
        | Change::InitDone { cluster, .. }
        | Change::Listed { cluster, .. }
        | Change::Lost { cluster, .. }
        | Change::Older { cluster, .. }
        | Change::Confirmed { cluster, .. }
        | Change::Reached { cluster, .. } => cluster,
        Change::Apply(object) => &object.cluster,
        Change::Delete(at) | Change::Refused { at, .. } => &at.cluster,
    }
}

/// Does an endpoint go away, or is it about who may come in? That is not kept back: each moment
/// somebody is sent to it, or comes in who should not.
fn is_urgent(change: &Change) -> bool {
    match change {
        Change::Delete(at) => {
            matches!(
                at.kind,
                Kind::Pod
                    | Kind::EndpointSlice
                    | Kind::Service
                    | Kind::ServiceExport
                    | Kind::AccessPolicy
                    | Kind::TrustPolicy
            )
        }
        Change::Apply(object) => match &object.spec {
            Spec::Pod(pod) => !pod.ready || pod.terminating || pod.finished,
            Spec::EndpointSlice(slice) => slice.endpoints.iter().any(|e| !e.ready || e.terminating),
            Spec::Namespace(_)
            | Spec::ServiceAccount
            | Spec::Deployment
            | Spec::Service(_)
            | Spec::ServiceExport(_)
            | Spec::ServiceImport(_)
            | Spec::Route(_)
            | Spec::ReferenceGrant(_)
            | Spec::Gateway(_)
            | Spec::GatewayClass(_)
            | Spec::ClusterProperty(_)
            | Spec::MeshCluster(_)
            | Spec::ClusterProfile(_)
            | Spec::TrafficPolicy(_)
            | Spec::ConfigMap(_) => false,
            Spec::AccessPolicy(_) | Spec::TrustPolicy(_) => true,
        },
        Change::Init { .. }
        | Change::Refused { .. }
        | Change::InitDone { .. }
        | Change::Listed { .. }
        | Change::Lost { .. }
        | Change::Older { .. }
        | Change::Confirmed { .. }
        | Change::Reached { .. } => false,
    }
}

#[cfg(test)]
mod tests;
