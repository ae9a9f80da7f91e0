//! How is one kind listed and watched, on and on?

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_control_plane_core::model::{Change, Kind, POSITIONED};
use isthmus_control_plane_core::watch::{Ask, Failure, Feed, Name, State, Told, Version};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::collection::{Collection, What};
use super::held;
use super::hosts::misleading;
use super::read::{self, Raw};
use super::{Shared, Status};
use crate::kubernetes::{Api, ApiError, Watch};
use crate::manifest;

/// Pods wait so long for the first list of nodes, so that they are not told twice.
const NODES_WAIT: Duration = Duration::from_secs(5);

/// The task of one kind.
pub(super) struct Watcher {
    collection: &'static Collection,
    api: Api,
    feed: Feed,
    shared: Arc<Shared>,
    out: mpsc::Sender<Change>,
    /// Which of the collection's versions is asked for.
    version: usize,
    /// Versions in a row that the server does not know.
    absent: usize,
    /// When it was last looked whether a better version is served.
    looked: Instant,
    bytes: u64,
    /// Objects of lists that have no name to be told by.
    nameless: usize,
    /// The position that was last told.
    reached: Option<u64>,
    chance: RandomState,
    turns: u64,
}

/// Nobody listens any more.
struct Deaf;

/// What there is to do while a watch is open.
enum Heard {
    Line(Bytes),
    /// The watch is over.
    Failed(Failure),
    /// Pods are not where they were told to be.
    Moved,
}

impl From<mpsc::error::SendError<Change>> for Deaf {
    fn from(_: mpsc::error::SendError<Change>) -> Self {
        Self
    }
}

impl Watcher {
    pub(super) fn new(
        collection: &'static Collection,
        api: &Api,
        shared: &Arc<Shared>,
        out: &mpsc::Sender<Change>,
        seen: Option<Version>,
    ) -> Self {
        Self {
            collection,
            api: api.clone(),
            feed: Feed::resuming(seen).governing(collection.governs()),
            shared: Arc::clone(shared),
            out: out.clone(),
            version: 0,
            absent: 0,
            looked: Instant::now(),
            bytes: 0,
            nameless: 0,
            reached: None,
            chance: RandomState::new(),
            turns: 0,
        }
    }

    /// Tells until nobody listens.
    pub(super) async fn run(mut self) {
        self.publish();
        if self.collection.what == What::Objects(Kind::Pod) {
            let mut nodes = self.shared.nodes_asked.subscribe();
            // Late nodes move their pods.
            let _ = timeout(NODES_WAIT, nodes.wait_for(|asked| *asked)).await;
        }
        while let Ok(()) = Box::pin(self.turn()).await {
            self.publish();
        }
    }

    /// One question, and what follows from its answer.
    async fn turn(&mut self) -> Result<(), Deaf> {
        self.look_again();
        let jitter = self.jitter();
        match self.feed.next(Instant::now(), jitter) {
            Ask::Wait { until } => {
                tokio::select! {
                    // All are cancel-safe.
                    () = self.out.closed() => return Err(Deaf),
                    () = sleep_until(until.into()) => {}
                }
                Ok(())
            }
            Ask::List { token, limit } => self.list(token.as_deref(), limit).await,
            Ask::Watch {
                resource_version,
                timeout,
            } => self.watch(&resource_version, timeout).await,
        }
    }

    /// Is there a reason to list what was told already?
    fn look_again(&mut self) {
        let What::Objects(kind) = self.collection.what else {
            return;
        };
        // A list that is on its way may have told the first of them already.
        if self.feed.state() != State::Watching {
            return;
        }
        if kind == Kind::Pod && self.shared.take_misplaced() {
            self.feed.doubt_all();
            self.feed.list_again();
        }
        // What was refused is in doubt already.
        if self.shared.held().has_room(kind) {
            self.feed.list_again();
        }
    }

    async fn list(&mut self, token: Option<&str>, limit: usize) -> Result<(), Deaf> {
        let shared = Arc::clone(&self.shared);
        let Ok(_page) = shared.pages.acquire().await else {
            return Err(Deaf);
        };
        let limit = limit.to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(token.map(|token| ("continue", token)));
        let selector = self.collection.selector();
        query.extend(selector.iter().map(|(key, value)| (*key, value.as_str())));
        let path = self.collection.path(self.version);
        match self.api.list(&path, &query).await {
            Ok(bytes) => {
                self.absent = 0;
                self.count(&bytes);
                self.page(&bytes).await
            }
            Err(error) => self.refused(&error).await,
        }
    }

    async fn page(&mut self, bytes: &Bytes) -> Result<(), Deaf> {
        let (page, nameless) = match read::page(bytes) {
            Ok(read) => read,
            Err(why) => return self.failed(Failure::Malformed(why)).await,
        };
        self.nameless = self.nameless.saturating_add(nameless);
        match self.feed.page(page, Instant::now()) {
            Ok(told) => {
                for told in told {
                    self.tell(told).await?;
                }
                self.reach().await?;
            }
            Err(refused) => {
                let (cluster, kind) = (&self.shared.cluster, self.collection.name());
                tracing::warn!(%cluster, %kind, %refused, "a list is not used");
            }
        }
        Ok(())
    }

    async fn watch(&mut self, from: &str, until: Duration) -> Result<(), Deaf> {
        let seconds = until.as_secs().max(1).to_string();
        let mut query = vec![
            ("resourceVersion", from),
            ("timeoutSeconds", seconds.as_str()),
            ("allowWatchBookmarks", "true"),
        ];
        let selector = self.collection.selector();
        query.extend(selector.iter().map(|(key, value)| (*key, value.as_str())));
        let path = self.collection.path(self.version);
        let mut watch = match self.api.watch(&path, &query).await {
            Ok(watch) => watch,
            Err(error) => return self.refused(&error).await,
        };
        self.absent = 0;
        self.feed.opened(Instant::now());
        while self.feed.is_open() {
            self.publish();
            match self.heard(&mut watch).await? {
                Heard::Line(line) => {
                    self.count(&line);
                    self.event(&line).await?;
                }
                Heard::Failed(why) => self.failed(why).await?,
                Heard::Moved => {}
            }
            self.look_again();
        }
        self.look_for_better().await;
        Ok(())
    }

    /// A definition that was upgraded serves the older version on: now and then, between two watches, it is
    /// asked for the better ones. What an older one did not say is listed anew.
    async fn look_for_better(&mut self) {
        let current = self.version.checked_rem(self.collection.versions());
        let current = current.unwrap_or(0);
        if current == 0 || self.looked.elapsed() < self.shared.look_for_better {
            return;
        }
        self.looked = Instant::now();
        for better in 0..current {
            let path = self.collection.path(better);
            if self.api.list(&path, &[("limit", "1")]).await.is_ok() {
                let (cluster, version) =
                    (&self.shared.cluster, self.collection.api_version(better));
                let kind = self.collection.name();
                tracing::info!(%cluster, %kind, %version, "served in a better version");
                self.version = better;
                self.feed.doubt_all();
                self.feed.list_again();
                return;
            }
        }
    }

    /// The next line; in time, or not at all.
    async fn heard(&mut self, watch: &mut Watch) -> Result<Heard, Deaf> {
        let silence = self.shared.silence;
        let pods = self.collection.what == What::Objects(Kind::Pod);
        tokio::select! {
            // All are cancel-safe: a line that is not whole stays with the watch, and that pods
            // have moved stays noted.
            () = self.out.closed() => Err(Deaf),
            () = self.shared.moved.notified(), if pods => Ok(Heard::Moved),
            line = timeout(silence, watch.next()) => Ok(match line {
                Ok(Ok(Some(line))) => Heard::Line(line),
                Ok(Ok(None)) => Heard::Failed(Failure::Ended),
                Ok(Err(error)) => Heard::Failed(failure(&error)),
                Err(_) => {
                    let why = format!("the watch said nothing for {silence:?}");
                    Heard::Failed(Failure::Transport(why))
                }
            }),
        }
    }

    async fn event(&mut self, line: &Bytes) -> Result<(), Deaf> {
        match read::event(line) {
            Ok(event) => {
                if let Some(told) = self.feed.event(event, Instant::now()) {
                    self.tell(told).await?;
                }
                self.reach().await
            }
            Err(why) => self.failed(Failure::Malformed(why)).await,
        }
    }

    async fn tell(&mut self, told: Told<Raw<'_>>) -> Result<(), Deaf> {
        match self.collection.what {
            What::Nodes => self.tell_node(told).await,
            What::Objects(Kind::Pod) => {
                let shared = Arc::clone(&self.shared);
                let mut places = shared.places.lock().await;
                let changes = match &told {
                    Told::Apply(raw) => {
                        let json = raw.get().as_bytes();
                        let mut parsed = self.parse(json);
                        if let (Ok(name), Some(pod)) = (name_of(raw), parsed.objects.first_mut()) {
                            places.place(&name, pod);
                        }
                        self.take(Kind::Pod, raw, parsed)
                    }
                    Told::Delete(name) => {
                        places.forget(name);
                        shared.held().delete(Kind::Pod, name)
                    }
                };
                // Nodes wait: what they say of these pods comes after it.
                self.send(changes).await
            }
            What::Objects(kind) => {
                let changes = match &told {
                    Told::Apply(raw) => {
                        let parsed = self.parse(raw.get().as_bytes());
                        self.take(kind, raw, parsed)
                    }
                    Told::Delete(name) => self.shared.held().delete(kind, name),
                };
                self.send(changes).await
            }
        }
    }

    fn parse(&self, json: &[u8]) -> manifest::Parsed {
        let (version, kind) = (
            self.collection.api_version(self.version),
            self.collection.name(),
        );
        manifest::object(json, &version, kind, &self.shared.cluster)
    }

    fn take(&mut self, kind: Kind, raw: Raw<'_>, mut parsed: manifest::Parsed) -> Vec<Change> {
        let Ok(name) = name_of(raw) else {
            return Vec::new();
        };
        let mut specs = parsed.objects.iter().map(|object| &object.spec);
        if let Some(message) = specs.find_map(|spec| misleading(spec, self.shared.loopback)) {
            parsed.errors.push(manifest::Problem {
                line: 0,
                column: 0,
                object: held::title(&held::key(kind, &name)),
                message,
            });
        }
        let observed = || manifest::observed(raw.get().as_bytes(), kind);
        let taken = self.shared.held().apply(kind, &name, parsed, observed);
        if taken.refused {
            self.feed.doubt(name.namespace.as_deref(), &name.name);
        }
        taken.changes
    }

    async fn tell_node(&mut self, told: Told<Raw<'_>>) -> Result<(), Deaf> {
        let shared = Arc::clone(&self.shared);
        let mut places = shared.places.lock().await;
        let moved = match told {
            Told::Apply(raw) => {
                let place = manifest::place_of_node(raw.get().as_bytes());
                let (Ok(name), Ok(place)) = (name_of(raw), place) else {
                    return Ok(());
                };
                places.node(&name.name, place)
            }
            Told::Delete(name) => {
                places.remove_node(&name.name);
                return Ok(());
            }
        };
        if moved.others {
            self.shared.misplaced.store(true, Ordering::Release);
            self.shared.moved.notify_one();
        }
        let changes = moved.pods.into_iter().map(Change::Apply).collect();
        self.send(changes).await
    }

    /// Tells up to where everything was told, if that is further than before.
    async fn reach(&mut self) -> Result<(), Deaf> {
        let What::Objects(kind) = self.collection.what else {
            return Ok(());
        };
        let Some(position) = self.feed.position().and_then(Version::number) else {
            return Ok(());
        };
        if !POSITIONED.contains(&kind) || self.reached == Some(position) {
            return Ok(());
        }
        self.reached = Some(position);
        let cluster = self.shared.cluster.clone();
        let reached = Change::Reached {
            cluster,
            kind,
            position,
        };
        self.send(vec![reached]).await
    }

    async fn send(&mut self, changes: Vec<Change>) -> Result<(), Deaf> {
        for change in changes {
            self.out.send(change).await?;
        }
        Ok(())
    }

    /// The server has answered with something else, or not at all.
    async fn refused(&mut self, error: &ApiError) -> Result<(), Deaf> {
        if !error.is_not_found() {
            return self.failed(failure(error)).await;
        }
        // Another version of the kind may be there.
        self.absent = self.absent.saturating_add(1);
        self.version = self.version.wrapping_add(1);
        if self.absent < self.collection.versions() {
            self.feed.list_again();
            return Ok(());
        }
        self.absent = 0;
        // Something in between may answer that it knows nothing at all.
        if self.collection.always_there() || !self.shared.is_api_server() {
            let why = Failure::Status(404, format!("no API server: {error}"));
            return self.failed(why).await;
        }
        self.failed(Failure::NotFound).await
    }

    async fn failed(&mut self, why: Failure) -> Result<(), Deaf> {
        let (cluster, kind) = (&self.shared.cluster, self.collection.name());
        if why != Failure::Ended {
            tracing::debug!(%cluster, %kind, ?why, "asking again");
        }
        for name in self.feed.failed(why, Instant::now()) {
            self.tell(Told::Delete(name)).await?;
        }
        Ok(())
    }

    /// What is known of the kind now.
    fn publish(&self) {
        let status = Status {
            state: self.feed.state(),
            listed: self.feed.listed(),
            confirmed_at: self.feed.confirmed_at(),
            last_heard: self.feed.last_heard(),
            counts: self.feed.counts(),
            bytes: self.bytes,
            seen: self.feed.seen().cloned(),
            unauthorized: self.feed.is_unauthorized(),
            beyond: self.feed.beyond(),
            nameless: self.nameless,
        };
        if self.collection.what == What::Nodes {
            let asked = status.listed
                || matches!(
                    status.state,
                    State::Forbidden { .. } | State::Unserved | State::Absent
                );
            self.shared.nodes_asked.send_if_modified(|before| {
                let changed = *before != asked;
                *before = asked;
                changed
            });
        }
        let mut statuses = self.shared.statuses();
        let old = statuses.insert(self.collection.name(), status.clone());
        // Only these are worth a look at once.
        if old.is_none_or(|old| (old.state, old.listed) != (status.state, status.listed)) {
            self.shared.changed.notify_one();
        }
    }

    fn count(&mut self, bytes: &Bytes) {
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// From 0 to 1. Nothing depends on how good it is.
    fn jitter(&mut self) -> f64 {
        self.turns = self.turns.wrapping_add(1);
        let mut hasher = self.chance.build_hasher();
        hasher.write_u64(self.turns);
        let thousandths = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
        f64::from(thousandths) / 1000.0
    }
}

fn name_of(raw: Raw<'_>) -> Result<Name, String> {
    let meta = read::meta(raw)?;
    Ok(Name {
        namespace: meta.namespace,
        name: meta.name,
    })
}

/// What an error means for the kind.
fn failure(error: &ApiError) -> Failure {
    let text = error.to_string();
    match error {
        ApiError::Unreachable(_) => Failure::Transport(text),
        ApiError::Silent => Failure::Silent(text),
        ApiError::Cut(_) => Failure::Cut(text),
        ApiError::Credential(_) => Failure::Unauthorized(text),
        ApiError::Malformed(_) | ApiError::Redirect(_) => Failure::Malformed(text),
        ApiError::TooLarge { .. } => Failure::TooLarge(text),
        ApiError::Status { code, message, .. } => match error.retry_after() {
            Some(after) => Failure::RetryAfter(after),
            None => Failure::of_status(*code, message.clone()),
        },
    }
}
