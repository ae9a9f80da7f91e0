//! Which threads are there, and what runs where?
//!
//! The thread that was started is the control thread: discovery, certificates, admin. Each worker
//! is one more thread with a runtime of its own; the listeners are shared by `SO_REUSEPORT`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::{ClusterId, ServiceName};
use isthmus_proxy_core::authorize::PolicySet;
use isthmus_proxy_core::handle::ExportTable;
use isthmus_proxy_core::snapshot::Snapshot;
use rustls::pki_types::UnixTime;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;

use crate::accept::{ENDING, accept_loop, bind, unshared};
use crate::config::{Config, Destination, Role};
use crate::connections::{Relayed, WITHDRAWN_GRACE};
use crate::telemetry::Direction;
use crate::telemetry::metrics::Ends;
use crate::tls::Verifier;
use crate::worker::{Shared, Worker};
use crate::{gateway, inbound, keepalive, outbound};

/// Idle connections are looked at that often.
const SWEEP: Duration = Duration::from_secs(10);
/// How often a drain looks whether all is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// One worker's listening sockets.
#[derive(Debug, Default)]
pub struct Listeners {
    mesh: Option<std::net::TcpListener>,
    inbound: Option<std::net::TcpListener>,
    outbound: Option<std::net::TcpListener>,
    gateway: Option<std::net::TcpListener>,
    virtuals: Vec<(std::net::TcpListener, Destination)>,
}

/// The addresses that the listeners really have.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Bound {
    /// Mutual TLS from other proxies.
    pub mesh: Option<SocketAddr>,
    /// Captured inbound.
    pub inbound: Option<SocketAddr>,
    /// Captured outbound.
    pub outbound: Option<SocketAddr>,
    /// From other networks.
    pub gateway: Option<SocketAddr>,
    /// The explicit ones, in their order.
    #[serde(rename = "virtual")]
    pub virtuals: Vec<SocketAddr>,
    /// Admin.
    pub admin: Option<SocketAddr>,
    /// Ready and metrics.
    pub ready: Option<SocketAddr>,
}

impl Bound {
    /// Does the proxy itself listen there, at whatever address?
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.all().any(|address| address.port() == port)
    }

    /// Does this address lead to the proxy itself? `ours`: addresses of this host beside loopback.
    #[must_use]
    pub fn is_at(&self, to: SocketAddr, ours: &[IpAddr]) -> bool {
        let here = to.ip().is_loopback() || ours.contains(&to.ip());
        self.all().any(|bound| {
            let any = bound.ip().is_unspecified() && here;
            bound.port() == to.port() && (any || bound.ip() == to.ip())
        })
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> {
        let own = [
            self.mesh,
            self.inbound,
            self.outbound,
            self.gateway,
            self.admin,
            self.ready,
        ];
        own.into_iter()
            .flatten()
            .chain(self.virtuals.iter().copied())
    }
}

impl Listeners {
    /// Binds one set of listeners for each worker.
    ///
    /// # Errors
    /// An address is taken or not ours; the message names it.
    pub fn bind(config: &Config) -> Result<(Vec<Self>, Bound)> {
        let mut bound = Bound::default();
        let mut sets: Vec<Self> = Vec::new();
        for worker in 0..config.workers {
            let mut set = Self::default();
            let listen = &config.listen;
            // The second worker takes the port that the first one got.
            let first = worker == 0;
            bind_one(listen.mesh, &mut bound.mesh, &mut set.mesh, first).context("listen.mesh")?;
            bind_one(listen.inbound, &mut bound.inbound, &mut set.inbound, first)
                .context("listen.inbound")?;
            bind_one(
                listen.outbound,
                &mut bound.outbound,
                &mut set.outbound,
                first,
            )
            .context("listen.outbound")?;
            bind_one(listen.gateway, &mut bound.gateway, &mut set.gateway, first)
                .context("listen.gateway")?;
            for (at, (entry, destination)) in
                listen.virtuals.iter().zip(&config.destinations).enumerate()
            {
                let mut address = bound.virtuals.get(at).copied();
                let mut socket = None;
                bind_one(Some(entry.listen), &mut address, &mut socket, first)
                    .context("listen.virtual")?;
                if first {
                    bound.virtuals.extend(address);
                }
                set.virtuals
                    .extend(socket.map(|s| (s, destination.clone())));
            }
            sets.push(set);
        }
        Ok((sets, bound))
    }
}

fn bind_one(
    wanted: Option<SocketAddr>,
    bound: &mut Option<SocketAddr>,
    listener: &mut Option<std::net::TcpListener>,
    first: bool,
) -> Result<()> {
    let address = if first { wanted } else { *bound };
    if let Some(address) = address {
        if first {
            unshared(address).with_context(|| format!("listen on {address}"))?;
        }
        let socket = bind(address).with_context(|| format!("listen on {address}"))?;
        *bound = Some(socket.local_addr()?);
        *listener = Some(socket);
    }
    Ok(())
}

/// Starts the worker threads; each ends when the proxy has drained.
///
/// # Errors
/// A thread can't be started.
pub fn start(shared: &Arc<Shared>, sets: Vec<Listeners>) -> Result<Vec<JoinHandle<()>>> {
    sets.into_iter()
        .enumerate()
        .map(|(number, listeners)| {
            let shared = Arc::clone(shared);
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || run(shared, listeners, number))
                .context("start a worker thread")
        })
        .collect()
}

fn run(shared: Arc<Shared>, listeners: Listeners, number: usize) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "start a worker's runtime"),
    };
    runtime.block_on(async move {
        let seed = u64::try_from(number).unwrap_or(0);
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let time = u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let worker = Worker::new(shared, time.wrapping_add(seed.wrapping_mul(0x9E37_79B9)));
        listen(&worker, listeners);
        tokio::task::spawn_local(judge(Rc::clone(&worker)));
        tokio::task::spawn_local(sweep(Rc::clone(&worker), number == 0));
        tokio::task::spawn_local(keepalive::run(Rc::clone(&worker)));
        drained(&worker).await;
    });
}

fn listen(worker: &Rc<Worker>, listeners: Listeners) {
    let all = |_: IpAddr| true;
    if let Some(listener) = listeners.mesh {
        let shared = Arc::clone(&worker.shared);
        let allowed = move |source: IpAddr| shared.config.accepts_on_mesh(source);
        let listener = (listener, Direction::Inbound);
        let serving = accept_loop(Rc::clone(worker), listener, allowed, inbound::serve_mesh);
        tokio::task::spawn_local(serving);
    }
    if let Some(listener) = listeners.inbound {
        let listener = (listener, Direction::Inbound);
        let serving = accept_loop(Rc::clone(worker), listener, all, inbound::serve_captured);
        tokio::task::spawn_local(serving);
    }
    if let Some(listener) = listeners.outbound {
        let listener = (listener, Direction::Outbound);
        let serving = accept_loop(Rc::clone(worker), listener, all, outbound::serve_captured);
        tokio::task::spawn_local(serving);
    }
    if let Some(listener) = listeners.gateway {
        let listener = (listener, Direction::Gateway);
        let serving = accept_loop(Rc::clone(worker), listener, all, gateway::serve);
        tokio::task::spawn_local(serving);
    }
    for (listener, destination) in listeners.virtuals {
        let serve = move |worker, conn| outbound::serve_virtual(worker, conn, destination.clone());
        let listener = (listener, Direction::Outbound);
        tokio::task::spawn_local(accept_loop(Rc::clone(worker), listener, all, serve));
    }
}

/// Judges what is open again whenever the tables move.
async fn judge(worker: Rc<Worker>) {
    let mut snapshots = worker.shared.snapshots.clone();
    let mut trust = Arc::clone(&snapshots.borrow().trust);
    let mut policies = Arc::clone(&snapshots.borrow().policies);
    let mut plaintext = snapshots.borrow().takes_plaintext();
    let mut exports = Exports::of(&snapshots.borrow());
    let mut moved = worker.shared.tls.moved();
    loop {
        tokio::select! {
            // Both are cancel-safe.
            changed = snapshots.changed() => if changed.is_err() { return },
            Ok(()) = moved.changed() => {
                // While both roots are believed there is time for the last streams to end.
                worker.connections.go_away();
                continue;
            }
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let revoked = &worker.shared.telemetry.metrics.revoked;
        exports.look(&worker, &snapshot);
        let was_taken = std::mem::replace(&mut plaintext, snapshot.takes_plaintext());
        if !Arc::ptr_eq(&policies, &snapshot.policies) || (was_taken && !plaintext) {
            policies = Arc::clone(&snapshot.policies);
            // Each of them counts itself when it is cut.
            worker.connections.judge(&snapshot);
        }
        if snapshot
            .own
            .as_ref()
            .is_some_and(|own| own.passthrough_denied)
        {
            worker.connections.stop_passing();
        }
        if !Arc::ptr_eq(&trust, &snapshot.trust) {
            trust = Arc::clone(&snapshot.trust);
            worker.shared.tls.believe(Arc::clone(&trust));
            let verifier = Verifier::new(Arc::clone(&worker.shared.tls), None);
            revoked.inc_by(
                worker
                    .connections
                    .doubt(|chain| verifier.believes(chain, UnixTime::now())),
            );
            // Ours was renewed before we heard that the root of the last one goes.
            if worker.shared.tls.is_retiring() == Some(false) {
                worker.connections.go_away();
            }
        }
    }
}

/// What a gateway may relay to, as it was at the last look.
struct Exports(Arc<ExportTable>, Arc<Vec<HandleKey>>);

impl Exports {
    fn of(snapshot: &Snapshot) -> Self {
        let (exports, keys) = (&snapshot.exports, &snapshot.handle_keys);
        Self(Arc::clone(exports), Arc::clone(keys))
    }

    /// Sees to it that what is no longer exported is cut in time.
    fn look(&mut self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        let same_keys = Arc::ptr_eq(&self.1, &snapshot.handle_keys);
        if same_keys && Arc::ptr_eq(&self.0, &snapshot.exports) {
            return;
        }
        *self = Self::of(snapshot);
        let is_exported = |relayed: &Relayed| gateway::may_go_on(worker, snapshot, relayed);
        if worker.connections.withdraw(is_exported, Instant::now()) {
            let worker = Rc::clone(worker);
            // Ends by itself, or with the worker.
            tokio::task::spawn_local(async move {
                tokio::time::sleep(WITHDRAWN_GRACE).await;
                worker.connections.cut_withdrawn(Instant::now());
            });
        }
    }
}

/// Looks at what is idle. `first`: also at what all workers share.
async fn sweep(worker: Rc<Worker>, first: bool) {
    let mut services = Arc::clone(&worker.snapshot().services);
    loop {
        tokio::time::sleep(SWEEP).await;
        worker.apps.sweep();
        worker.inbound.sweep();
        worker.outbound.sweep();
        let expired = worker.connections.expire(std::time::SystemTime::now());
        worker.shared.telemetry.metrics.revoked.inc_by(expired);
        let snapshot = worker.snapshot();
        if !Arc::ptr_eq(&services, &snapshot.services) {
            services = Arc::clone(&snapshot.services);
            worker
                .tunnels
                .leave(&snapshot, &worker.shared.config.mesh_domain);
        }
        worker.tunnels.sweep();
        if first {
            retire(&worker, &snapshot);
        }
    }
}

/// Removes series of services and clusters that are in no table any more.
fn retire(worker: &Worker, snapshot: &Snapshot) {
    let own = worker.shared.config.cluster.as_str();
    let services = snapshot
        .services
        .iter()
        .map(|service| service.name.as_str());
    let ports = snapshot.own.iter().flat_map(|own| own.ports.values());
    let ours = ports.flat_map(|port| port.services.iter().map(|(name, _)| name.as_str()));
    let exports = snapshot
        .exports
        .iter()
        .filter_map(|export| export.service.as_ref());
    let exported = exports.map(ServiceName::as_str);
    let services: HashSet<&str> = services.chain(ours).chain(exported).collect();
    let clusters: HashSet<&str> = snapshot.clusters.keys().map(ClusterId::as_str).collect();
    let cluster = |name: &str| {
        name.is_empty()
            || name == own
            || name == gateway::UNKNOWN_CLUSTER
            || clusters.contains(name)
    };
    let is_known = |ends: &Ends| {
        cluster(&ends.source_cluster)
            && cluster(&ends.destination_cluster)
            && (ends.service.is_empty() || services.contains(&*ends.service))
    };
    let metrics = &worker.shared.telemetry.metrics;
    let now = std::time::Instant::now();
    metrics.retire(is_known, now);
    if let PolicySet::Known(table) = &*snapshot.policies {
        let names = table.policies().iter().map(|policy| policy.name());
        let names: HashSet<&str> = names.collect();
        metrics.retire_audited(|name| names.contains(name), now);
    }
}

/// Ends when the proxy drains and nothing is open any more, or its time is over.
async fn drained(worker: &Rc<Worker>) {
    let mut draining = worker.shared.draining.clone();
    // Err: the control thread is gone, and so is everything.
    let _ = draining.wait_for(|draining| *draining).await;
    worker.connections.go_away();
    let mut cut = worker.shared.cut.clone();
    let idle = async {
        while worker.active.get() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    let cut = async {
        let _ = cut.wait_for(|cut| *cut).await;
        if worker.shared.config.role == Role::Gateway {
            tokio::time::sleep(ENDING).await;
        }
    };
    tokio::select! {
        () = idle => {}
        () = cut => {}
    }
    worker.tunnels.go_away();
    worker.apps.go_away();
    // The last frames (GOAWAY, the end of the last answer) go out.
    tokio::time::sleep(DRAIN_LOOK * 2).await;
}
