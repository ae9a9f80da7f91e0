//! How does a connection of a peer reach this workload?

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::authorize::{ConnFacts, Denied, Permit, authorize};
use isthmus_proxy_core::detect::Detected;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::{ErrorCode, Role};
use isthmus_proxy_core::identify::PeerIdentity;
use isthmus_proxy_core::message::{BodyLength, Method, RequestHead, ResponseHead};
use isthmus_proxy_core::snapshot::{Generation, InboundMode, Snapshot};

use crate::accept;
use crate::connect::{self, Hop, Upstream};
use crate::connections::Live;
use crate::detect::detect;
use crate::exchange::{Done, Downstream, Meters, Request, forward, upgrade};
use crate::finish::{Failed, finish, finish_bytes};
use crate::h2::Session;
use crate::http::{Side, canonical, serve_h1, serve_h2, serve_h2_plain, version_name};
use crate::identify::identify;
use crate::notify::Flag;
use crate::relay::{Duplex, Ended, duplex, unless};
use crate::telemetry::{Direction, Event};
use crate::tunnel;
use crate::worker::{Accepted, Worker};

mod plan;

use plan::{Asked, ToApplication};

/// To reach the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An HTTP stream without a byte either way.
const HTTP_IDLE: Duration = Duration::from_secs(300);
/// A TCP connection without a byte either way.
const TCP_IDLE: Duration = Duration::from_secs(3600);

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
}

/// One connection to the mesh port, from accept to close. Start reading here.
pub async fn serve_mesh(worker: Rc<Worker>, conn: Accepted) {
    let source = conn.peer;
    let Some(identified) = identify(&worker, conn).await else {
        return;
    };
    let session = Session::start(identified.transport, Role::Server, tunnel::settings());
    worker.connections.believe(&session, identified.chain);
    let source_cluster = Some(Arc::from(identified.peer.id.trust_domain().cluster()));
    let side = Inbound {
        worker,
        peer: Some(identified.peer),
        source_cluster,
        source,
        port: None,
    };
    serve_h2(Rc::new(side), session).await;
}

/// One captured connection to a port of the workload.
pub async fn serve_captured(worker: Rc<Worker>, conn: Accepted) {
    let Some(original) = accept::original_destination(&conn.io) else {
        return;
    };
    if worker
        .shared
        .config
        .listen
        .mesh
        .is_some_and(|mesh| mesh.port() == original.port())
    {
        return serve_mesh(worker, conn).await;
    }
    let snapshot = worker.snapshot();
    let permissive = snapshot
        .own
        .as_ref()
        .is_some_and(|own| own.inbound_mode == InboundMode::Permissive);
    let source = conn.peer;
    let side = Inbound {
        worker,
        peer: None,
        source_cluster: None,
        source,
        port: Some(original.port()),
    };
    if !permissive {
        return side.refuse_plaintext(&conn.io, original.port());
    }
    side.worker.shared.telemetry.metrics.plaintext.inc();
    let protocol = snapshot
        .own
        .as_ref()
        .map_or(Protocol::Unspecified, |o| o.protocol_of(original.port()));
    let side = Rc::new(side);
    if matches!(protocol, Protocol::Tcp | Protocol::Tls) {
        return side.captured_bytes(conn, Vec::new()).await;
    }
    let Some((first, kind)) = detect(&conn.io).await else {
        return;
    };
    match kind {
        Detected::Http1 => Box::pin(serve_h1(side, conn.io, first)).await,
        Detected::Http2 => serve_h2_plain(side, conn.io, first).await,
        Detected::Tls | Detected::Opaque => side.captured_bytes(conn, first).await,
    }
}

impl Inbound {
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

    async fn captured_bytes(&self, conn: Accepted, first: Vec<u8>) {
        let Some(port) = self.port else { return };
        let (rx, tx) = crate::tcp::split_with(conn.io, first);
        let left = Duplex {
            rx: crate::stream::Rx::Tcp(rx),
            tx: crate::stream::Tx::Tcp(tx),
        };
        self.bytes(port, left, |_: &mut Duplex| true).await;
    }

    /// A byte stream to a port: judged, connected, relayed, and judged again when policies change.
    async fn bytes(&self, port: u16, mut left: Duplex, accept: impl FnOnce(&mut Duplex) -> bool) {
        let begun = Instant::now();
        let _active = self.worker.activity();
        let snapshot = self.worker.snapshot();
        let mut event = self.event("tcp", snapshot.generation);
        let meters = Meters::default();
        let permit = match authorize(&snapshot.policies, &self.facts(port), None) {
            Ok(permit) => permit,
            Err(denied) => {
                refuse_stream(&mut left, 403);
                let failed = Failed::from(denied);
                return finish_bytes(&self.worker, event, Err(failed), &meters, begun);
            }
        };
        note(&mut event, &permit);
        let hop = Hop::Application { port, http2: false };
        let address = SocketAddr::new(self.worker.shared.config.application, port);
        let result =
            match connect::bytes(&self.worker, &permit, &hop, address, CONNECT_TIMEOUT).await {
                Ok(mut right) if accept(&mut left) => {
                    let live = self.live(port, None);
                    let _registered = self.worker.connections.register(&live);
                    self.worker
                        .recorder
                        .count_live(&event, &meters.sent, &meters.received);
                    let bytes = (&meters.sent, &meters.received);
                    let relayed = {
                        let relaying = pin!(duplex(&mut left, &mut right, bytes, TCP_IDLE));
                        unless(relaying, pin!(live.cut.wait())).await
                    };
                    match relayed {
                        Ok(ended) => ended_as(ended),
                        Err(()) => {
                            left.tx.reset(ErrorCode::Cancel);
                            right.tx.reset(ErrorCode::Cancel);
                            self.worker.shared.telemetry.metrics.revoked.inc();
                            Err(Failed::new(
                                Failure::Denied,
                                "the permission ended while it was open",
                            ))
                        }
                    }
                }
                Ok(_) => Err(Failed::new(Failure::DownstreamReset, "the peer left")),
                Err(failure) => {
                    refuse_stream(
                        &mut left,
                        if failure == Failure::ConnectTimeout {
                            504
                        } else {
                            503
                        },
                    );
                    Err(Failed::new(
                        failure,
                        format!("connect to the application on {address}"),
                    ))
                }
            };
        finish_bytes(&self.worker, event, result, &meters, begun);
    }

    /// CONNECT: a TCP connection in a tunnel.
    async fn connect(&self, head: &RequestHead, down: Downstream) {
        let left = Duplex {
            rx: down.rx,
            tx: down.answer.tx,
        };
        let target = std::str::from_utf8(&head.authority)
            .ok()
            .and_then(|t| t.parse::<SocketAddr>().ok());
        let Some(target) = target.filter(|t| self.is_own(t.ip()) && t.port() != 0) else {
            let mut left = left;
            return refuse_stream(&mut left, 400);
        };
        self.bytes(target.port(), left, |left| match &mut left.tx {
            crate::stream::Tx::H2(tx) => tx
                .respond(&ResponseHead::new(200, BodyLength::Marked), false)
                .is_ok(),
            crate::stream::Tx::H1(_) | crate::stream::Tx::Tcp(_) => true,
        })
        .await;
    }

    /// A tunnel leads to this workload and nowhere else.
    fn is_own(&self, address: IpAddr) -> bool {
        let config = &self.worker.shared.config;
        config.addresses.is_empty() || config.addresses.contains(&address)
    }

    /// One request: the steps in the order of the journey.
    async fn exchange(
        &self,
        snapshot: &Snapshot,
        head: RequestHead,
        down: &mut Downstream,
        (event, meters): (&mut Event, &Meters),
    ) -> Result<Option<Upstream>, Failed> {
        let asked = Asked::read(&head, self.peer.is_some());
        let mut request =
            canonical(head).map_err(|f| Failed::new(f, "the request is ambiguous"))?;
        event.request = Some((
            request.head.method.clone(),
            request.path.as_str().to_owned(),
        ));
        let port = self.target_port(snapshot, &asked, &request)?;
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
        let _registered = self.worker.connections.register(&live);
        let mut plan = ToApplication {
            worker: &self.worker,
            permit,
            hop,
            head: &request.head,
            again: false,
        };
        let forwarding = pin!(forward(&self.worker, down, &request, &mut plan, meters));
        match unless(forwarding, pin!(live.cut.wait())).await {
            Ok(Ok(Done::Answered)) => Ok(None),
            Ok(Ok(Done::Upgraded(upstream))) => Ok(Some(upstream)),
            Ok(Err(failure)) => Err(Failed::new(
                failure,
                format!("the application on port {port}"),
            )),
            Err(()) => {
                self.worker.shared.telemetry.metrics.revoked.inc();
                Err(Failed::new(
                    Failure::Denied,
                    "the permission ended while it was open",
                ))
            }
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
        if head.method == Method::Connect && head.protocol.is_empty() {
            if self.peer.is_some() {
                self.connect(&head, down).await;
            } else {
                let mut left = Duplex {
                    rx: down.rx,
                    tx: down.answer.tx,
                };
                refuse_stream(&mut left, 405);
            }
            return None;
        }
        let begun = Instant::now();
        let _active = self.worker.activity();
        let snapshot = self.worker.snapshot();
        let mut event = self.event(version_name(head.version), snapshot.generation);
        let meters = Meters::default();
        let grpc = isthmus_proxy_core::route::grpc::is_grpc(&head);
        let result = self
            .exchange(&snapshot, head, &mut down, (&mut event, &meters))
            .await;
        let result = match result {
            Ok(Some(upstream)) => {
                let relaying = upgrade::relay(down, upstream, &meters, TCP_IDLE);
                let ended = Box::pin(relaying).await;
                event.status = 101;
                finish_bytes(&self.worker, event, ended_as(ended), &meters, begun);
                return None;
            }
            Ok(None) => Ok(()),
            Err(failed) => Err(failed),
        };
        finish(&self.worker, down, (event, &meters), result, (begun, grpc)).await
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn unreadable(&self, failure: Failure, version: &'static str) -> String {
        let mut event = self.event(version, self.worker.snapshot().generation);
        crate::finish::unreadable(&self.worker, &mut event, failure)
    }
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

/// Ends a stream that was not accepted: a status where it has heads, a reset where not.
fn refuse_stream(left: &mut Duplex, status: u16) {
    match &mut left.tx {
        crate::stream::Tx::H2(tx) => {
            // A peer that is gone needs no answer.
            let _ = tx.respond(&ResponseHead::new(status, BodyLength::Empty), true);
        }
        other => other.reset(ErrorCode::Cancel),
    }
}

/// How a relay's end reads in the log.
fn ended_as(ended: Ended) -> Result<(), Failed> {
    match ended {
        Ended::Clean => Ok(()),
        Ended::Left(broken) => Err(Failed::new(broken.downstream(), "the peer broke it off")),
        Ended::Right(broken) => Err(Failed::new(
            broken.upstream(),
            "the application broke it off",
        )),
        Ended::Idle => Err(Failed::new(Failure::IdleTimeout, "nothing moved")),
    }
}

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        Self {
            failure: denied.failure,
            detail: denied.reason,
            policy: denied.policy,
            audit: denied.audit.to_vec(),
        }
    }
}
