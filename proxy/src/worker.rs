//! What does one worker thread have?
//!
//! A worker is one thread with one single-threaded runtime. What it owns is `Rc` and `Cell`; what
//! all of them share is in `Shared`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use isthmus_proto::ids::ServiceName;
use isthmus_proxy_core::balance::{EndpointSet, Rng, Ticks};
use isthmus_proxy_core::hop::{GatewayTable, reachable};
use isthmus_proxy_core::snapshot::{Lookup, Service, Snapshot};
use rustls::ServerConfig;
use smallvec::SmallVec;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;

use crate::config::Config;
use crate::connect::Names;
use crate::connections::Connections;
use crate::hands::Hands;
use crate::hints::Hints;
use crate::inbound::Inbound;
use crate::keepalive::Keepalive;
use crate::outbound::{Looks, Outbound};
use crate::pool::AppPool;
use crate::runtime::Bound;
use crate::telemetry::{Recorder, Telemetry};
use crate::tls::TlsStore;
use crate::tunnel::Tunnels;

/// How long the first call to a service waits until discovery has answered.
pub const FIRST_USE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a service whose endpoints are known waits for a way to any of them.
const GATEWAYS_TIMEOUT: Duration = Duration::from_millis(500);

/// Services for which that was waited in vain, remembered at most.
const IN_VAIN_MAX: usize = 1024;

/// What was known when a way to a service was waited for in vain. While nothing of it changes, the
/// next call need not wait again.
#[derive(Debug)]
struct InVain {
    service: Weak<Service>,
    gateways: Weak<GatewayTable>,
}

/// Is everything known that a call needs, and is there a way to any endpoint, if there are some?
fn is_ready(snapshot: &Snapshot, service: &Service) -> bool {
    let leads = |set: &EndpointSet| {
        set.is_empty()
            || set
                .endpoints()
                .iter()
                .any(|e| reachable(e, &snapshot.me, &snapshot.gateways))
    };
    service.is_complete() && service.endpoints.known().is_some_and(|set| leads(set))
}

/// The tables, as a worker holds them: workers count who shares them, requests only who has them here.
pub type Tables = Rc<Arc<Snapshot>>;

/// What all workers and the control thread share.
#[derive(Debug)]
pub struct Shared {
    /// What the proxy was told at its start.
    pub config: Config,
    /// Where it listens. Set before anything is accepted.
    pub bound: OnceLock<Bound>,
    /// Certificates and roots.
    pub tls: Arc<TlsStore>,
    /// The TLS of the mesh listener.
    pub server: Arc<ServerConfig>,
    /// Counters, log, reasons.
    pub telemetry: Arc<Telemetry>,
    /// The tables, newest first.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Services that somebody wants to call: keys for discovery.
    pub wants: mpsc::Sender<String>,
    /// True: no new work, end what is open.
    pub draining: watch::Receiver<bool>,
    /// True: the time for that is over.
    pub cut: watch::Receiver<bool>,
    /// Ticks count from here.
    pub origin: Instant,
}

impl Shared {
    /// How long the proxy has run.
    #[must_use]
    pub fn now(&self) -> Ticks {
        Ticks(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// One worker thread's own.
#[derive(Debug)]
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    snapshots: RefCell<watch::Receiver<Arc<Snapshot>>>,
    current: RefCell<Tables>,
    rng: RefCell<Rng>,
    /// Tunnels to other proxies.
    pub tunnels: Tunnels,
    /// Connections to applications.
    pub apps: AppPool,
    /// Where gateways' names lead.
    pub names: Names,
    /// Sessions whose peers may vanish.
    pub keepalive: Keepalive,
    in_vain: RefCell<HashMap<ServiceName, InVain>>,
    /// What is open, for judging it again.
    pub connections: Connections,
    /// The counters, without a lock.
    pub recorder: Recorder,
    /// What was spoken last on services' ports that declare nothing.
    pub hints: Hints<(ServiceName, u16)>,
    /// What was spoken last on the application's ports that declare nothing.
    pub application_hints: Hints<u16>,
    /// Why services had nobody, of the moment.
    pub looks: Looks,
    /// Open connections and requests: a drain waits for none.
    pub active: Cell<usize>,
    /// Copies of requests under way to mirrors.
    pub copies: Cell<usize>,
    /// Tasks that take peers' requests.
    pub inbound: Rc<Hands<Inbound>>,
    /// Tasks that take our applications' requests.
    pub outbound: Rc<Hands<Outbound>>,
}

impl Worker {
    /// A worker; `seed` tells its random choices from others'.
    #[must_use]
    pub fn new(shared: Arc<Shared>, seed: u64) -> Rc<Self> {
        let snapshots = shared.snapshots.clone();
        let current = Rc::new(Arc::clone(&snapshots.borrow()));
        Rc::new(Self {
            snapshots: RefCell::new(snapshots),
            current: RefCell::new(current),
            rng: RefCell::new(Rng::new(seed)),
            tunnels: Tunnels::new(shared.config.tunnels_per_peer),
            apps: AppPool::default(),
            names: Names::default(),
            keepalive: Keepalive::default(),
            in_vain: RefCell::default(),
            connections: Connections::default(),
            recorder: Recorder::new(Arc::clone(&shared.telemetry)),
            hints: Hints::default(),
            application_hints: Hints::default(),
            looks: Looks::default(),
            active: Cell::new(0),
            copies: Cell::new(0),
            inbound: Rc::default(),
            outbound: Rc::default(),
            shared,
        })
    }

    /// The newest tables: one atomic load, and a clone only after a change.
    #[must_use]
    pub fn snapshot(&self) -> Tables {
        let mut snapshots = self.snapshots.borrow_mut();
        // Err: the publisher is gone; what we have stays.
        if snapshots.has_changed().unwrap_or(false) {
            *self.current.borrow_mut() = Rc::new(Arc::clone(&snapshots.borrow_and_update()));
        }
        Rc::clone(&self.current.borrow())
    }

    /// Does the proxy itself listen on this port?
    #[must_use]
    pub fn listens_on(&self, port: u16) -> bool {
        let bound = self.shared.bound.get();
        bound.is_some_and(|bound| bound.has_port(port))
    }

    /// Does this address lead to the proxy itself? `local`: an address of this host.
    #[must_use]
    pub fn listens_at(&self, address: SocketAddr, local: Option<IpAddr>) -> bool {
        let ours = self.shared.config.addresses.iter().copied().chain(local);
        let ours: SmallVec<[IpAddr; 4]> = ours.collect();
        let bound = self.shared.bound.get();
        bound.is_some_and(|bound| bound.is_at(address, &ours))
    }

    /// Time for the balancer.
    #[must_use]
    pub fn now(&self) -> Ticks {
        self.shared.now()
    }

    /// Chance for the balancer.
    pub fn rng<R>(&self, f: impl FnOnce(&mut Rng) -> R) -> R {
        f(&mut self.rng.borrow_mut())
    }

    /// Is the proxy going away?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.shared.draining.borrow()
    }

    /// Counts as active until dropped.
    #[must_use]
    pub fn activity(self: &Rc<Self>) -> Activity {
        self.active.set(self.active.get() + 1);
        self.shared.telemetry.metrics.open.inc();
        Activity(Rc::clone(self))
    }

    /// The service that `find` finds; the first use asks discovery under `key`, and waits.
    /// `Err(true)`: there is none. `Err(false)`: nobody could say.
    ///
    /// # Errors
    /// See above.
    pub async fn service(
        &self,
        key: impl Fn() -> String,
        find: impl Fn(&Snapshot) -> Lookup<'_>,
    ) -> Result<(Tables, Arc<Service>), bool> {
        let snapshot = self.snapshot();
        if let Lookup::Found(service) = find(&snapshot)
            && (is_ready(&snapshot, service) || self.is_in_vain(&snapshot, service))
        {
            let service = Arc::clone(service);
            service.guard.touch(self.now());
            return Ok((snapshot, service));
        }
        // Seldom: the task of each request must not have room for it.
        Box::pin(self.first_use(key, find)).await
    }

    fn is_in_vain(&self, snapshot: &Snapshot, service: &Arc<Service>) -> bool {
        let in_vain = self.in_vain.borrow();
        in_vain.get(&service.name).is_some_and(|known| {
            std::ptr::eq(known.service.as_ptr(), Arc::as_ptr(service))
                && std::ptr::eq(known.gateways.as_ptr(), Arc::as_ptr(&snapshot.gateways))
        })
    }

    /// Only where everything is known but a way: what is not known is asked for again.
    fn waited_in_vain(&self, snapshot: &Snapshot, service: &Arc<Service>) {
        if !service.is_complete() {
            return;
        }
        let mut in_vain = self.in_vain.borrow_mut();
        if in_vain.len() >= IN_VAIN_MAX {
            in_vain.clear();
        }
        let known = InVain {
            service: Arc::downgrade(service),
            gateways: Arc::downgrade(&snapshot.gateways),
        };
        in_vain.insert(service.name.clone(), known);
    }

    async fn first_use(
        &self,
        key: impl Fn() -> String,
        find: impl Fn(&Snapshot) -> Lookup<'_>,
    ) -> Result<(Tables, Arc<Service>), bool> {
        let mut changes = None;
        let begun = tokio::time::Instant::now();
        loop {
            let snapshot = self.snapshot();
            match find(&snapshot) {
                Lookup::Found(service) if is_ready(&snapshot, service) => {
                    return Ok((Rc::clone(&snapshot), Arc::clone(service)));
                }
                Lookup::Absent => return Err(true),
                Lookup::Found(_) | Lookup::Unknown => {}
            }
            let changes = changes.get_or_insert_with(|| {
                // Full: so many first uses at once that discovery is far behind; ask again later.
                let _ = self.shared.wants.try_send(key());
                let mut changes = self.shared.snapshots.clone();
                changes.mark_unchanged();
                changes
            });
            // A change between the look and here is not missed: `snapshot()` looks first.
            if self.snapshots.borrow().has_changed().unwrap_or(false) {
                continue;
            }
            // Its gateways come a moment after its endpoints; a service that has none fails soon.
            let known = find(&snapshot).found().is_some_and(|s| s.is_complete());
            let limit = if known {
                GATEWAYS_TIMEOUT
            } else {
                FIRST_USE_TIMEOUT
            };
            match timeout_at(begun + limit, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    let snapshot = self.snapshot();
                    return match find(&snapshot) {
                        Lookup::Found(service) => {
                            self.waited_in_vain(&snapshot, service);
                            Ok((Rc::clone(&snapshot), Arc::clone(service)))
                        }
                        Lookup::Absent => Err(true),
                        Lookup::Unknown => Err(false),
                    };
                }
            }
        }
    }
}

/// Something that is open.
#[derive(Debug)]
pub struct Activity(Rc<Worker>);

impl Drop for Activity {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.shared.telemetry.metrics.open.dec();
    }
}

/// A connection that was just accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub io: tokio::net::TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// When.
    pub since: Instant,
}

#[cfg(test)]
pub(crate) mod tests;
