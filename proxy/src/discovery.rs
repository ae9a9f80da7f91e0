//! How does the proxy stay informed? Drives the core's `Subscription` over the wire, publishes each
//! new snapshot, and keeps the last one on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use isthmus_proto::discovery::{DeltaDiscoveryResponse, Node};
use isthmus_proto::ids::ClusterId;
use isthmus_proto::positions::{self, Positions};
use isthmus_proxy_core::balance::{Me, Ticks};
use isthmus_proxy_core::snapshot::{
    ClusterFreshness, Hosts, Kind, Snapshot, SnapshotBuilder, Update, persist,
};
use isthmus_proxy_core::subscription::{Asked, Subscription};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::config::Role;
use crate::control::{self, Replicas};
use crate::files;
use crate::worker::Shared;

/// Requests that wait for the stream, at most; beyond, the state machine keeps them.
pub const OUT_REQUESTS_MAX: usize = 64;
/// Changes are collected for that long before they are published: a resource seldom comes alone.
const SETTLE: Duration = Duration::from_millis(5);
/// The snapshot on disk is at most this old.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// What admin can see of discovery.
#[derive(Debug, Default)]
pub struct State {
    connected: bool,
    since: Option<SystemTime>,
    error: String,
    kinds: Vec<Value>,
    keys: Vec<String>,
    restored: bool,
}

impl State {
    /// As JSON.
    #[must_use]
    pub fn describe(&self) -> Value {
        let since = self.since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        json!({
            "connected": self.connected,
            "since": since.map(|at| at.as_secs_f64()),
            "error": self.error,
            "kinds": self.kinds,
            "services": self.keys,
            "restored_from_disk": self.restored,
        })
    }
}

/// The client side of discovery, over all streams.
pub struct Discovery {
    shared: Arc<Shared>,
    replicas: Replicas,
    subscription: Subscription,
    builder: SnapshotBuilder,
    publish: watch::Sender<Arc<Snapshot>>,
    state: Arc<Mutex<State>>,
    file: PathBuf,
    /// When the oldest change that is not on disk came.
    unsaved: Option<Instant>,
    /// A whole snapshot lies there.
    on_disk: bool,
    asked: Asked,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Discovery {
    /// Discovery that starts from what is on disk, if that is ours and whole.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, me: Me, publish: watch::Sender<Arc<Snapshot>>) -> Self {
        let file = shared.config.state_dir.join("snapshot.bin");
        let hosts = Hosts::beside(&shared.config.addresses);
        let mut builder = SnapshotBuilder::new(me, crate::tls::read_root).among(hosts);
        let saved = restore(&file, shared.config.workload.as_str());
        let unknown = node(shared, &BTreeMap::new(), &Positions::default());
        let mut subscription = Subscription::new(unknown, saved.as_ref());
        for kind in standing(shared.config.role) {
            subscription.want(*kind, "*");
        }
        subscription.want(Kind::Workload, shared.config.workload.as_str());
        let (mut state, mut asked) = (State::default(), Asked::default());
        if let Some(saved) = &saved {
            for key in &saved.keys {
                if subscription.want_service(key) {
                    asked.note(key, shared.now());
                }
            }
            for rejected in builder.import(saved) {
                tracing::warn!(%rejected, "a saved resource is not used");
            }
            state.restored = true;
            publish_now(shared, &mut builder, &publish);
        }
        Self {
            shared: Arc::clone(shared),
            replicas: Replicas::new(&shared.config),
            subscription,
            builder,
            publish,
            state: Arc::new(Mutex::new(state)),
            file,
            unsaved: None,
            on_disk: saved.is_some(),
            asked,
        }
    }

    /// What admin looks at.
    #[must_use]
    pub fn state(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.state)
    }

    /// Somebody wants to call what is behind this key.
    fn want(&mut self, key: &str) {
        let now = self.shared.now();
        // Without the control plane nothing comes for what is given up.
        if self.subscription.has_no_room_for(key) && self.subscription.is_connected() {
            let snapshot = Arc::clone(&self.publish.borrow());
            let old = self.asked.least_used(now, |key| used(&snapshot, key, now));
            old.into_iter().for_each(|old| self.give_up(&old));
        }
        if self.subscription.want_service(key) {
            self.asked.note(key, now);
        }
        while let Some(old) = self.asked.release(|key| self.builder.is_absent(key)) {
            self.give_up(&old);
        }
    }

    /// Gives up services that nobody has called for long. True: there were some.
    fn give_up_unused(&mut self) -> bool {
        let (now, snapshot) = (self.shared.now(), Arc::clone(&self.publish.borrow()));
        let old = self.asked.unused(now, |key| used(&snapshot, key, now));
        old.as_deref().is_some_and(|old| {
            self.give_up(old);
            true
        })
    }

    fn give_up(&mut self, key: &str) {
        let updates = self.subscription.unwant_service(key);
        // Nothing is refused of what is only forgotten.
        let _none = self.apply(updates);
    }

    /// Applies a response; what is refused is refused by name, and the rest counts.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> Result<()> {
        let nonce = response.nonce.clone();
        let roots = response.type_url == Kind::TrustBundle.type_url();
        let updates = self.subscription.handle(response, Instant::now())?;
        let rejected = self.apply(updates);
        if roots {
            // Whoever hears that we have them counts on it, also over a crash.
            // Once a whole snapshot lies there: a part alone would be taken for all there is.
            if self.on_disk {
                self.publish();
                self.write();
            }
        }
        self.subscription.acked(&nonce, &rejected);
        self.shared
            .telemetry
            .metrics
            .rejected
            .inc_by(u64::try_from(rejected.len()).unwrap_or(0));
        for rejected in rejected {
            tracing::warn!(%rejected, "resource refused, the last good one stays");
        }
        Ok(())
    }

    fn apply(&mut self, updates: Vec<Update>) -> Vec<isthmus_proxy_core::snapshot::Rejected> {
        updates
            .into_iter()
            .flat_map(|update| self.builder.apply(update))
            .collect()
    }

    fn publish(&mut self) {
        if self.builder.is_dirty() {
            publish_now(&self.shared, &mut self.builder, &self.publish);
            self.unsaved.get_or_insert_with(Instant::now);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.keys = self
            .subscription
            .service_keys()
            .map(ToOwned::to_owned)
            .collect();
        state.kinds = self
            .subscription
            .status()
            .filter(|status| status.wanted > 0)
            .map(|status| {
                json!({
                    "kind": status.kind.name(),
                    "wanted": status.wanted,
                    "held": status.held,
                    "acknowledged": status.acked_version,
                    "nacks": status.nacks,
                    "last_nack": status.last_nack,
                })
            })
            .collect();
    }

    /// Writes the snapshot to disk if that is due.
    fn save(&mut self) {
        if self
            .unsaved
            .is_none_or(|since| since.elapsed() < SAVE_AFTER)
        {
            return;
        }
        self.on_disk = true;
        self.write();
    }

    fn write(&mut self) {
        self.unsaved = None;
        let keys = self
            .subscription
            .service_keys()
            .map(ToOwned::to_owned)
            .collect();
        let mut saved = self
            .builder
            .export(self.shared.config.workload.as_str(), keys);
        saved.positions = self.subscription.positions().clone();
        if let Err(error) = files::write_private(&self.file, &persist::encode(&saved)) {
            // Traffic does not depend on it; the next start does.
            tracing::warn!(error = format!("{error:#}"), "the snapshot is not on disk");
        }
    }

    fn up(&self, connected: bool, error: String) {
        self.shared
            .telemetry
            .metrics
            .discovery_up
            .set(i64::from(connected));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.connected = connected;
        state.since = Some(SystemTime::now());
        state.error = error;
    }
}

/// When what this key means was called last.
fn used(snapshot: &Snapshot, key: &str, now: Ticks) -> Option<Ticks> {
    snapshot.services.used(&key.parse().ok()?, now)
}

/// What a proxy is always told.
fn standing(role: Role) -> &'static [Kind] {
    match role {
        Role::Sidecar => &[
            Kind::AccessPolicy,
            Kind::TrustBundle,
            Kind::Gateway,
            Kind::ClusterFreshness,
        ],
        Role::Gateway => &[
            Kind::AccessPolicy,
            Kind::TrustBundle,
            Kind::ClusterFreshness,
            Kind::ExportedEndpoint,
            Kind::HandleKeys,
        ],
    }
}

/// Who we are, and how new what we have of each cluster is: a control plane that has lost sight of one
/// must not take us back.
fn node(
    shared: &Shared,
    clusters: &BTreeMap<ClusterId, ClusterFreshness>,
    positions: &Positions,
) -> Node {
    let config = &shared.config;
    let role = match config.role {
        Role::Sidecar => "sidecar",
        Role::Gateway => "gateway",
    };
    let text = |value: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(value.to_owned())),
    };
    let seen = |(cluster, freshness): (&ClusterId, &ClusterFreshness)| {
        let since = freshness.confirmed_at?.duration_since(UNIX_EPOCH).ok()?;
        let kind = prost_types::value::Kind::NumberValue(since.as_secs_f64() * 1_000.0);
        Some((cluster.to_string(), prost_types::Value { kind: Some(kind) }))
    };
    let seen = prost_types::Struct {
        fields: clusters.iter().filter_map(seen).collect(),
    };
    let seen = prost_types::Value {
        kind: Some(prost_types::value::Kind::StructValue(seen)),
    };
    let metadata = prost_types::Struct {
        fields: [
            ("seen".to_owned(), seen),
            (positions::METADATA.to_owned(), text(&positions.to_string())),
            ("role".to_owned(), text(role)),
            ("network".to_owned(), text(config.network.as_str())),
            ("version".to_owned(), text(env!("CARGO_PKG_VERSION"))),
        ]
        .into(),
    };
    Node {
        id: config.workload.to_string(),
        cluster: config.cluster.to_string(),
        metadata: Some(metadata),
    }
}

fn publish_now(
    shared: &Shared,
    builder: &mut SnapshotBuilder,
    publish: &watch::Sender<Arc<Snapshot>>,
) {
    let snapshot = builder.build();
    // Before the workers hear of it: a handshake that follows must find the new roots.
    shared.tls.believe(Arc::clone(&snapshot.trust));
    publish.send_replace(snapshot);
    shared.telemetry.metrics.generations.inc();
}

fn restore(file: &PathBuf, owner: &str) -> Option<persist::Saved> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "read the snapshot");
            return None;
        }
    };
    match persist::decode(&bytes, owner) {
        Ok(saved) => Some(saved),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the snapshot on disk is not used");
            None
        }
    }
}

/// Keeps a stream open, for ever. `wanted`: keys of services that somebody wants to call.
pub async fn run(
    mut discovery: Discovery,
    mut wanted: mpsc::Receiver<String>,
    mut certificates: watch::Receiver<u64>,
) {
    // The control plane takes only who can say who it is.
    if certificates.wait_for(|issued| *issued > 0).await.is_err() {
        return;
    }
    loop {
        certificates.mark_unchanged();
        let ended = tokio::select! {
            ended = stream(&mut discovery, &mut wanted) => ended,
            // What is not acknowledged is asked for again. Whoever counts who has which certificate
            // sees the new one, and no stream outlives the one that it was opened with.
            Ok(()) = certificates.changed() => {
                discovery.subscription.disconnected(Instant::now(), 0.0);
                tracing::info!("discovery is opened anew with the new certificate");
                continue;
            }
        };
        let error = match ended {
            Ok(()) => "the control plane ended the stream".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!(error, "discovery is down; what is known stays");
        discovery.up(false, error);
        discovery.replicas.leave();
        discovery
            .subscription
            .disconnected(Instant::now(), jitter());
        pause(&mut discovery, &mut wanted).await;
    }
}

/// Waits until it is time to connect again; what is wanted meanwhile is remembered.
async fn pause(discovery: &mut Discovery, wanted: &mut mpsc::Receiver<String>) {
    let until = discovery
        .subscription
        .poll_timeout()
        .unwrap_or_else(Instant::now);
    let mut waiting = std::pin::pin!(tokio::time::sleep_until(until.into()));
    loop {
        tokio::select! {
            () = waiting.as_mut() => break,
            Some(key) = wanted.recv() => {
                discovery.want(&key);
            }
        }
    }
    discovery.publish();
    discovery.save();
}

/// One stream, until it breaks.
async fn stream(discovery: &mut Discovery, wanted: &mut mpsc::Receiver<String>) -> Result<()> {
    let shared = Arc::clone(&discovery.shared);
    let connecting = discovery.replicas.connect(&shared.config, &shared.tls);
    let channel = connecting.await?;
    let (out, requests) = mpsc::channel(OUT_REQUESTS_MAX);
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let positions = discovery.subscription.positions();
    let node = node(&shared, &discovery.publish.borrow().clusters, positions);
    discovery.subscription.introduce(node);
    discovery.subscription.connected();
    // The first request goes out with the call: the server may wait for it before it answers.
    transmit(&mut discovery.subscription, &out);
    let opening = client.delta_aggregated_resources(ReceiverStream::new(requests));
    let mut responses = control::answered(opening)
        .await
        .context("open the discovery stream")?;
    discovery.up(true, String::new());
    let control_plane = discovery.replicas.last();
    tracing::info!(?control_plane, "discovery is up");
    let mut settle = None;
    let mut ticks = tokio::time::interval(SAVE_AFTER);
    loop {
        transmit(&mut discovery.subscription, &out);
        tokio::select! {
            biased;
            response = responses.message() => {
                let Some(response) = response? else { return Ok(()) };
                discovery.take(response)?;
                settle.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
            }
            Some(key) = wanted.recv() => {
                discovery.want(&key);
            }
            () = tokio::time::sleep_until(settle.unwrap_or_else(tokio::time::Instant::now)), if settle.is_some() => {
                settle = None;
                discovery.publish();
            }
            _ = ticks.tick() => {
                if discovery.give_up_unused() {
                    settle.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
                }
                discovery.save();
            }
        }
        // News without a pause must not put publishing off.
        if settle.is_some_and(|at| tokio::time::Instant::now() >= at) {
            settle = None;
            discovery.publish();
        }
    }
}

/// Sends what the state machine has to say, as far as there is room; the rest follows later.
pub fn transmit(
    subscription: &mut Subscription,
    out: &mpsc::Sender<isthmus_proto::discovery::DeltaDiscoveryRequest>,
) {
    while let Ok(permit) = out.try_reserve() {
        let Some(request) = subscription.poll_transmit() else {
            return;
        };
        permit.send(request);
    }
}

/// From 0 to 1: proxies that lost the same control plane come back one after another.
#[must_use]
pub fn jitter() -> f64 {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    f64::from(nanos % 1_000_003) / 1_000_003.0
}
