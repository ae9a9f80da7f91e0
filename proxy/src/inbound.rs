//! How does a connection of a peer reach this workload?

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::authorize::{ConnFacts, Denied, Permit};
use isthmus_proxy_core::detect::Detected;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::guard::{DURATION_MAX, Timeouts};
use isthmus_proxy_core::http2::Role;
use isthmus_proxy_core::identify::PeerIdentity;
use isthmus_proxy_core::message::{Method, RequestHead};
use isthmus_proxy_core::route::grpc::is_grpc;
use isthmus_proxy_core::snapshot::{Generation, Snapshot};

use crate::accept;
use crate::connect::Hop;
use crate::connections::Live;
use crate::detect::{FIRST_BYTE_TIMEOUT, detect_http};
use crate::exchange::reply::Listener;
use crate::exchange::{Done, Downstream, Meters, Request, forward};
use crate::finish::{Closing, Failed, Open, finish, finish_bytes, refused};
use crate::h2::Session;
use crate::hands::Hands;
use crate::hints::Hint;
use crate::http::{Side, Task, canonical, serve_h1, serve_h2, serve_h2_plain, version_name};
use crate::identify::identify;
use crate::keepalive::Keep;
use crate::notify::Flag;
use crate::race;
use crate::relay::unless;
use crate::telemetry::{Direction, Event};
use crate::tunnel;
use crate::worker::{Accepted, Worker};

mod bytes;
mod plan;
mod tunnelled;

use bytes::Upgraded;
use plan::{Asked, ToApplication};

/// To reach the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream of a peer without a byte either way: how long that may last is the caller's sidecar's
/// to say, by its policy; a dead tunnel is noticed by its PING.
const PEER_IDLE: Duration = DURATION_MAX;

/// One inbound connection.
#[derive(Debug)]
pub struct Inbound {
    worker: Rc<Worker>,
    /// Who it is. None: plaintext, where the workload permits it.
    peer: Option<PeerIdentity>,
    /// Its cluster.
    source_cluster: Option<Arc<str>>,
    source: SocketAddr,
    /// The port that a captured connection wanted.
    port: Option<u16>,
    /// Streams in it that carry requests.
    within: Rc<Cell<usize>>,
}

/// One connection to the mesh port, from accept to close. Start reading here.
pub async fn serve_mesh(worker: Rc<Worker>, conn: Accepted) {
    let (source, since) = (conn.peer, conn.since);
    let Some(identified) = identify(&worker, conn).await else {
        return;
    };
    let settings = tunnel::settings(worker.shared.config.streams_per_tunnel);
    let session = Session::start(identified.transport, Role::Server, settings);
    worker.connections.believe(&session, identified.chain);
    worker.keepalive.watch(&session, Keep::Peer);
    let source_cluster = Some(Arc::from(identified.peer.id.trust_domain().cluster()));
    let side = Inbound {
        worker,
        peer: Some(identified.peer),
        source_cluster,
        source,
        port: None,
        within: Rc::default(),
    };
    let mut closing = side.closing("http/2", since);
    closing.failed_by(serve_h2(Rc::new(side), session).await);
}

/// One captured connection to a port of the workload.
pub async fn serve_captured(worker: Rc<Worker>, conn: Accepted) {
    let Some(original) = accept::original_destination(&conn.io) else {
        let why = format!("from {}: it was not captured", conn.peer);
        let why = (Failure::NoDestination, why);
        return refused(&worker, Direction::Inbound, why, conn.since);
    };
    if worker
        .shared
        .config
        .listen
        .mesh
        .is_some_and(|mesh| mesh.port() == original.port())
    {
        if !worker.shared.config.accepts_on_mesh(conn.peer.ip()) {
            accept::reset(&conn.io);
            let why = format!("from {}: its network may not use the mesh port", conn.peer);
            let why = (Failure::Denied, why);
            return refused(&worker, Direction::Inbound, why, conn.since);
        }
        return serve_mesh(worker, conn).await;
    }
    let snapshot = worker.snapshot();
    let source = conn.peer;
    let side = Inbound {
        worker,
        peer: None,
        source_cluster: None,
        source,
        port: Some(original.port()),
        within: Rc::default(),
    };
    if !snapshot.takes_plaintext() {
        return side.refuse_plaintext(&conn.io, original.port());
    }
    side.worker.shared.telemetry.metrics.plaintext.inc();
    let protocol = side.protocol_of(original.port());
    Rc::new(side).declared(conn, protocol).await;
}

impl Inbound {
    /// What a port of the workload declares that it speaks.
    fn protocol_of(&self, port: u16) -> Protocol {
        let snapshot = self.worker.snapshot();
        let own = snapshot.own.as_ref();
        own.map_or(Protocol::Unspecified, |own| own.protocol_of(port))
    }

    /// The client speaks what its port declares, or is heard.
    async fn declared(self: Rc<Self>, conn: Accepted, protocol: Protocol) {
        let Some(port) = self.port else { return };
        match protocol {
            Protocol::Tcp | Protocol::Tls => self.captured_bytes(conn, Vec::new(), None).await,
            Protocol::Unspecified => Box::pin(self.race(conn, port)).await,
            // Declared: nothing else is spoken there, and a wrong preface is one.
            Protocol::Http2 | Protocol::Grpc => {
                let mut closing = self.closing("http/2", conn.since);
                closing.failed_by(serve_h2_plain(self, conn.io, Vec::new()).await);
            }
            Protocol::Http1 => {
                let Some((first, kind)) = detect_http(&conn.io, FIRST_BYTE_TIMEOUT).await else {
                    return self.closing("tcp", conn.since).silent();
                };
                match kind {
                    Detected::Http1 | Detected::Http2 => self.spoken(conn, (first, kind)).await,
                    Detected::Tls | Detected::Opaque => {
                        self.closing("tcp", conn.since).not_http(kind);
                    }
                }
            }
        }
    }

    /// How long nothing may come either way: for plaintext, what our own default says.
    fn idle(&self, default: Duration) -> Duration {
        self.peer.as_ref().map_or(default, |_| PEER_IDLE)
    }

    /// The client has spoken first.
    async fn spoken(self: Rc<Self>, conn: Accepted, (first, kind): (Vec<u8>, Detected)) {
        match kind {
            Detected::Http1 => {
                let _closing = self.closing("http/1.1", conn.since);
                Box::pin(serve_h1(self, conn.io, first)).await;
            }
            Detected::Http2 => {
                let mut closing = self.closing("http/2", conn.since);
                closing.failed_by(serve_h2_plain(self, conn.io, first).await);
            }
            Detected::Tls | Detected::Opaque => self.captured_bytes(conn, first, None).await,
        }
    }

    /// Nothing is declared: the client's first bytes and the application's race. Where bytes are not
    /// allowed the application is not called, and the client has to say what it wants.
    async fn race(self: Rc<Self>, conn: Accepted, port: u16) {
        let (hints, now) = (&self.worker.application_hints, Instant::now());
        let hint = hints.get(&port, now);
        if hint == Some(Hint::Bytes) {
            return self.captured_bytes(conn, Vec::new(), None).await;
        }
        let silence = Timeouts::default().idle_tcp;
        let reaching = self.reach(port);
        let first = race::first(&conn.io, (hint, silence), reaching, |r| &mut r.right.rx).await;
        let (bytes, reached) = match first {
            race::First::Client {
                bytes,
                kind: kind @ (Detected::Http1 | Detected::Http2),
                opened,
            } => {
                hints.set(port, Hint::Http, Instant::now());
                drop(opened);
                return Rc::clone(&self).spoken(conn, (bytes, kind)).await;
            }
            // What failed a while ago is judged anew.
            race::First::Client { bytes, opened, .. } => (bytes, opened.filter(Result::is_ok)),
            race::First::Server { opened, always } => {
                if always {
                    hints.set(port, Hint::Bytes, Instant::now());
                }
                (Vec::new(), Some(Ok(opened)))
            }
            race::First::Unreachable(failed) => (Vec::new(), Some(Err(failed))),
            race::First::Nobody => return self.closing("tcp", conn.since).silent(),
        };
        self.captured_bytes(conn, bytes, reached).await;
    }

    /// What was plaintext when it was allowed is refused once the workload is strict.
    fn proven(&self, snapshot: &Snapshot) -> Result<(), Failed> {
        if self.peer.is_some() || snapshot.takes_plaintext() {
            return Ok(());
        }
        let why = "no_mtls: plaintext, and the workload is strict now";
        Err(Failed::new(Failure::Unauthenticated, why))
    }

    fn refuse_plaintext(&self, io: &tokio::net::TcpStream, port: u16) {
        accept::reset(io);
        let generation = self.worker.snapshot().generation;
        let mut event = self.event("tcp", generation);
        event.failure = Some(Failure::Unauthenticated);
        event.detail = format!("no_mtls: plaintext to port {port}, and the workload is strict");
        self.worker.recorder.record(&event, None);
    }

    fn event(&self, protocol: &'static str, generation: Generation) -> Event {
        let mut event = Event::new(Direction::Inbound, protocol, generation);
        let config = &self.worker.shared.config;
        if let Some(peer) = &self.peer {
            event.source_cluster.clone_from(&self.source_cluster);
            event.peer = Some(peer.id.clone());
        }
        event.destination_cluster = Some(config.cluster.shared());
        event.endpoint = Some(config.workload.shared());
        event.hop = "application";
        event
    }

    /// The connection itself, when it ends.
    fn closing(&self, protocol: &'static str, since: Instant) -> Closing {
        let mut event = self.event(protocol, self.worker.snapshot().generation);
        event.hop = "";
        Closing::new(&self.worker, event, since)
    }

    fn facts(&self, port: u16) -> ConnFacts<'_> {
        ConnFacts {
            peer: self.peer.as_ref(),
            port,
            source: self.source.ip(),
        }
    }

    fn live(&self, port: u16, request: Option<Rc<Request>>) -> Rc<Live> {
        let (peer, source) = (self.peer.clone(), self.source.ip());
        Rc::new(Live {
            peer,
            source,
            port,
            request,
            cut: Flag::default(),
        })
    }

    /// One request: the steps in the order of the journey.
    async fn exchange<'a>(
        &'a self,
        snapshot: &Snapshot,
        (head, asked): (RequestHead, Asked),
        down: &mut Downstream,
        (event, meters): (&mut Event, &Meters),
    ) -> Result<Option<Box<Upgraded<'a>>>, Failed> {
        let mut request = canonical(head).map_err(|ambiguous| {
            let port = self.port.or(asked.port);
            event.service = port.and_then(|port| service_of(snapshot, port));
            ambiguous.told(event)
        })?;
        event.request = Some((request.head.asked_method().clone(), request.path.clone()));
        let port = self.target_port(snapshot, &asked, &request)?;
        self.not_ours(port)?;
        self.proven(snapshot)?;
        event.service = service_of(snapshot, port);
        let facts = self.facts(port);
        let permit = request
            .judge(&snapshot.policies, &facts)
            .map_err(Failed::from)?;
        note(event, &permit);
        if let Some(peer) = &self.peer {
            request
                .head
                .fields
                .push(b"x-mesh-peer", peer.id.as_str().as_bytes());
        }
        let http2 = asked.wants_http2(snapshot, port, &request.head);
        if !http2 {
            self.complete(&mut request.head);
        }
        let hop = Hop::Application { port, http2 };
        let request = Rc::new(request);
        let live = self.live(port, Some(Rc::clone(&request)));
        let registered = self.worker.connections.register(&live);
        let mut plan = ToApplication {
            idle: self.idle(Timeouts::default().idle_http),
            by_peer: asked.port.is_some(),
            worker: &self.worker,
            permit,
            hop,
            head: &request.head,
            again: false,
        };
        let forwarded = {
            let forwarding = pin!(forward(&self.worker, down, &mut plan, meters));
            unless(forwarding, pin!(live.cut.wait())).await
        };
        match forwarded {
            Ok(Ok(Done::Answered)) => Ok(None),
            Ok(Ok(Done::Upgraded(upstream))) => Ok(Some(Box::new(Upgraded {
                upstream,
                live,
                _registered: registered,
            }))),
            Ok(Err(failure)) => Err(Failed::new(
                failure,
                format!("the application on port {port}"),
            )),
            Err(()) => Err(self.revoked()),
        }
    }

    /// What HTTP/1.1 demands and the request did not bring along.
    fn complete(&self, head: &mut RequestHead) {
        if head.authority.is_empty() {
            head.authority = self
                .worker
                .shared
                .config
                .application
                .to_string()
                .into_bytes();
        }
        // RFC 8441 §5.1: a WebSocket that began on HTTP/2 has no key; RFC 6455 §4.1 asks for one.
        if head.protocol == b"websocket" && head.fields.get(b"sec-websocket-key").is_none() {
            let bits = self
                .worker
                .rng(|rng| [rng.bits().to_be_bytes(), rng.bits().to_be_bytes()]);
            head.fields.push(
                b"sec-websocket-key",
                crate::files::base64(&bits.concat()).as_bytes(),
            );
            if head.fields.get(b"sec-websocket-version").is_none() {
                head.fields.push(b"sec-websocket-version", b"13");
            }
        }
    }

    /// Which port of the workload is meant? A proxy says it; a standard client names the service.
    fn target_port(
        &self,
        snapshot: &Snapshot,
        asked: &Asked,
        request: &Request,
    ) -> Result<u16, Failed> {
        if let Some(port) = self.port.or(asked.port) {
            return Ok(port);
        }
        let own = snapshot.own.as_ref();
        let authority = String::from_utf8_lossy(&request.head.authority);
        let port = authority
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(if request.head.https { 443 } else { 80 });
        own.and_then(|own| own.target_port_of(&request.host, port))
            .ok_or_else(|| {
                Failed::new(
                    Failure::NoDestination,
                    format!("no port here serves {authority}"),
                )
            })
    }
}

impl Side for Inbound {
    async fn take(self: Rc<Self>, head: RequestHead, mut down: Downstream) -> Option<Downstream> {
        if is_connect(&head) {
            // A peer's is a stream (`carry`).
            return Some(self.refuse_foreign_connect(down).await);
        }
        let begun = Instant::now();
        let snapshot = self.worker.snapshot();
        let event = self.event(version_name(head.version), snapshot.generation);
        let mut open = Open::begin(&self.worker, event, begun);
        // Who is inside of a CONNECT is no proxy.
        let asked = Asked::read(&head, self.peer.is_some() && self.port.is_none());
        let to = Listener {
            grpc: is_grpc(&head),
            peer: asked.port.is_some(),
        };
        let counted = (&mut open.event, &open.meters);
        let result = self
            .exchange(&snapshot, (head, asked), &mut down, counted)
            .await;
        let result = match result {
            Ok(Some(upgraded)) => {
                open.event.status = down.answer.status;
                let relaying = self.relay_upgraded(down, *upgraded, (&open.event, &open.meters));
                let result = Box::pin(relaying).await;
                finish_bytes(open, result);
                return None;
            }
            Ok(None) => Ok(()),
            Err(failed) => Err(failed),
        };
        finish(open, down, result, to).await
    }

    fn is_bytes(&self, head: &RequestHead) -> bool {
        is_connect(head)
    }

    fn carry(self: Rc<Self>, head: RequestHead, down: Downstream) -> Task {
        self.connect(&head, down)
    }

    fn hands(&self) -> &Rc<Hands<Self>> {
        &self.worker.inbound
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn unreadable(&self, failure: Failure, version: &'static str, status: u16) -> String {
        let mut event = self.event(version, self.worker.snapshot().generation);
        crate::finish::unreadable(&self.worker, &mut event, (failure, status))
    }
}

fn is_connect(head: &RequestHead) -> bool {
    head.method == Method::Connect && head.protocol.is_empty()
}

fn note(event: &mut Event, permit: &Permit) {
    event.policy = permit.rule.clone();
    event.audit = permit.audit.to_vec();
}

/// The service that leads to a port of ours: for the metrics, from configuration.
fn service_of(snapshot: &Snapshot, port: u16) -> Option<Arc<str>> {
    let own = snapshot.own.as_ref();
    let first = own
        .and_then(|own| own.ports.get(&port))
        .and_then(|p| p.services.first());
    first.map(|(name, _)| name.shared())
}

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        Self {
            policy: denied.policy,
            audit: denied.audit.to_vec().into(),
            ..Self::new(denied.failure, denied.reason)
        }
    }
}
