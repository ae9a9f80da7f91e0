//! How does a connection of our application reach anywhere?

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::balance::Attempt;
use isthmus_proxy_core::detect::Detected;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::guard::{Ticket, Timeouts};
use isthmus_proxy_core::message::RequestHead;
use isthmus_proxy_core::route::filter::{Outcome as Filtered, apply_request};
use isthmus_proxy_core::route::{BackendRef, route_http, route_l4};
use isthmus_proxy_core::snapshot::Service;

use crate::accept;
use crate::config::Destination;
use crate::connect::Upstream;
use crate::detect::{FIRST_BYTE_TIMEOUT, detect_http};
use crate::exchange::{Done, Downstream, Meters, Request, forward, mirror, reply, upgrade};
use crate::finish::{Closing, Failed, Open, finish, finish_bytes, is_read, refused};
use crate::hands::Hands;
use crate::http::{Side, Task, canonical, redirect, serve_h1, serve_h2_plain, version_name};
use crate::relay::{Duplex, Ended, Lifetime, duplex};
use crate::stream::{Rx, Tx};
use crate::telemetry::{Direction, Event};
use crate::worker::{Accepted, Tables, Worker};

mod bytes;
mod excluded;
mod plan;
mod through;
mod undeclared;

pub use bytes::Opened;
pub use excluded::Looks;
use plan::ToService;

/// One outbound connection whose destination is a service.
#[derive(Debug)]
pub struct Outbound {
    worker: Rc<Worker>,
    service: Arc<Service>,
    port: u16,
}

/// One captured connection, from accept to close. Start reading here.
pub async fn serve_captured(worker: Rc<Worker>, conn: Accepted) {
    let Some(original) = accept::original_destination(&conn.io) else {
        let why = (Failure::NoDestination, "it was not captured".to_owned());
        return refused(&worker, Direction::Outbound, why, conn.since);
    };
    // Who connects to the capture port itself would be led back here, again and again.
    let local = conn.io.local_addr().ok().map(|local| local.ip());
    if worker.listens_at(original, local) {
        accept::reset(&conn.io);
        let why = format!("the proxy itself listens on {original}");
        let why = (Failure::NoDestination, why);
        return refused(&worker, Direction::Outbound, why, conn.since);
    }
    serve(worker, conn, Destination::Address(original)).await;
}

/// One connection to an explicit listener, which stands for one destination.
pub async fn serve_virtual(worker: Rc<Worker>, conn: Accepted, destination: Destination) {
    serve(worker, conn, destination).await;
}

/// What the client has said so far.
#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    /// The name that it asks for, where it speaks TLS and a route wants to know.
    server_name: Option<String>,
}

/// A byte stream whose both sides are open.
struct Relayed {
    open: Open,
    left: Duplex,
    right: Duplex,
    attempt: (Attempt, Ticket),
}

async fn serve(worker: Rc<Worker>, conn: Accepted, destination: Destination) {
    match locate(&worker, &destination).await {
        Ok((service, port)) => {
            let side = Rc::new(Outbound {
                worker,
                service,
                port,
            });
            side.serve(conn).await;
        }
        Err(known) => Box::pin(through::serve(worker, conn, &destination, known)).await,
    }
}

/// The service behind a destination. `Err(true)`: there is none. `Err(false)`: nobody could say.
async fn locate(worker: &Worker, destination: &Destination) -> Result<(Arc<Service>, u16), bool> {
    let network = &worker.shared.config.network;
    let (_, service, port) = match destination {
        Destination::Address(address) => {
            let key = || format!("vip:{network}/{}", address.ip());
            let (snapshot, service) = worker
                .service(key, |s| s.services.lookup_vip(address.ip(), address.port()))
                .await?;
            (snapshot, service, address.port())
        }
        Destination::Host(host, port) => {
            let key = || format!("host:{host}");
            let (snapshot, service) = worker
                .service(key, |s| s.services.lookup_host(host))
                .await?;
            (snapshot, service, *port)
        }
    };
    Ok((service, port))
}

fn event(worker: &Worker, protocol: &'static str) -> Event {
    let config = &worker.shared.config;
    let mut event = Event::new(Direction::Outbound, protocol, worker.snapshot().generation);
    event.peer = Some(config.identity.clone());
    event.source_cluster = Some(config.cluster.shared());
    event
}

impl Outbound {
    /// Each way on is boxed: an idle connection should not hold what another kind of one needs.
    ///
    /// By what the service's port declares, else by who speaks first and how.
    async fn serve(self: Rc<Self>, conn: Accepted) {
        let declared = self
            .service
            .port(self.port)
            .map_or(Protocol::Unspecified, |p| p.protocol);
        match declared {
            Protocol::Tcp | Protocol::Tls | Protocol::Unspecified if self.reads_names() => {
                Box::pin(self.by_name(conn, declared)).await;
            }
            Protocol::Tcp | Protocol::Tls => self.relay(conn, Said::default(), None).await,
            // Declared: nothing else is spoken there, and a wrong preface is one.
            Protocol::Http2 | Protocol::Grpc => self.http2(conn, Vec::new()).await,
            Protocol::Http1 => {
                let Some((first, kind)) = detect_http(&conn.io, FIRST_BYTE_TIMEOUT).await else {
                    return self.closing("tcp", &conn).silent();
                };
                match kind {
                    Detected::Http2 => self.http2(conn, first).await,
                    Detected::Http1 => self.http1(conn, first).await,
                    Detected::Tls | Detected::Opaque => self.closing("tcp", &conn).not_http(kind),
                }
            }
            Protocol::Unspecified => Box::pin(self.race(conn)).await,
        }
    }

    async fn http1(self: Rc<Self>, conn: Accepted, first: Vec<u8>) {
        let _closing = self.closing("http/1.1", &conn);
        Box::pin(serve_h1(self, conn.io, first)).await;
    }

    async fn http2(self: Rc<Self>, conn: Accepted, first: Vec<u8>) {
        let mut closing = self.closing("http/2", &conn);
        closing.failed_by(serve_h2_plain(self, conn.io, first).await);
    }

    /// The connection itself, when it ends.
    fn closing(&self, protocol: &'static str, conn: &Accepted) -> Closing {
        let mut event = event(&self.worker, protocol);
        event.service = Some(self.service.name.shared());
        Closing::new(&self.worker, event, conn.since)
    }

    /// A byte stream to an endpoint of the service.
    fn relay(
        self: Rc<Self>,
        conn: Accepted,
        said: Said,
        opened: Option<Result<Opened, Failed>>,
    ) -> Task {
        // In a box, which is gone when both sides are open: most connections are idle then.
        let opening = Box::pin(Rc::clone(&self).open_bytes(conn, said, opened));
        Box::pin(async move {
            let Some(mut relayed) = opening.await else {
                return;
            };
            let Relayed {
                open, left, right, ..
            } = &mut *relayed;
            let told = (&open.event, &open.meters);
            let lifetime = lifetime(&self.service.traffic.timeouts);
            let result = relay(&self.worker, (left, right), told, lifetime).await;
            let Relayed { open, attempt, .. } = *relayed;
            drop(attempt);
            finish_bytes(open, result);
        })
    }

    async fn open_bytes(
        self: Rc<Self>,
        conn: Accepted,
        said: Said,
        opened: Option<Result<Opened, Failed>>,
    ) -> Option<Box<Relayed>> {
        let mut event = event(&self.worker, "tcp");
        event.service = Some(self.service.name.shared());
        let mut open = Open::begin(&self.worker, event, conn.since);
        let opened = match opened {
            Some(opened) => opened,
            None => bytes::open(&self, said.server_name.as_deref()).await,
        };
        match opened {
            Ok(opened) => {
                let event = &mut open.event;
                event.endpoint = Some(opened.endpoint.name.shared());
                event.destination_cluster = Some(opened.endpoint.cluster.shared());
                event.hop = opened.hop;
                event.route = opened.route;
                let (rx, tx) = crate::tcp::split_with(conn.io, said.bytes);
                let left = Duplex {
                    rx: Rx::Tcp(rx),
                    tx: Tx::Tcp(tx),
                };
                Some(Box::new(Relayed {
                    open,
                    left,
                    right: opened.right,
                    attempt: opened.attempt,
                }))
            }
            Err(failed) => {
                accept::reset(&conn.io);
                finish_bytes(open, Err(failed));
                None
            }
        }
    }

    /// Where a connection goes by the routes of layer 4.
    async fn backend(
        &self,
        server_name: Option<&str>,
    ) -> Result<(Tables, Arc<Service>, u16, String), Failed> {
        let random = self.worker.rng(|rng| rng.bits());
        let choice = route_l4(
            Some(&self.service.routes),
            &self.service.name,
            self.port,
            server_name,
            random,
        )
        .map_err(|f| Failed::new(f, format!("routes of {}", self.service.name)))?;
        let (snapshot, service) = self.resolve(&choice.backend).await?;
        leads(&service, choice.rule.is_some(), &choice.backend)?;
        let route = choice.rule.map(|r| r.route.to_string()).unwrap_or_default();
        Ok((snapshot, service, choice.backend.port, route))
    }

    /// The service of a backend, as the newest snapshot has it.
    async fn resolve(&self, backend: &BackendRef) -> Result<(Tables, Arc<Service>), Failed> {
        let key = || backend.service.to_string();
        let found = self
            .worker
            .service(key, |s| s.services.lookup_name(&backend.service))
            .await;
        found.map_err(|known| {
            let failure = if known {
                Failure::InvalidBackend
            } else {
                Failure::EndpointsUnknown
            };
            Failed::new(failure, format!("service {}", backend.service))
        })
    }

    /// HTTP/1.0 may name no host; the tunnel needs one.
    fn complete(&self, request: &mut Request) {
        if request.head.authority.is_empty() {
            request.host = self.service.name.hostname().to_owned();
            request.head.authority = format!("{}:{}", request.host, self.port).into_bytes();
        }
    }

    /// One request: the steps in the order of the journey.
    async fn exchange(
        &self,
        head: RequestHead,
        down: &mut Downstream,
        (event, meters): (&mut Event, &Meters),
    ) -> Result<Option<Box<Upgraded>>, Failed> {
        let version = head.version;
        event.service = Some(self.service.name.shared());
        let mut request = canonical(head).map_err(|ambiguous| ambiguous.told(event))?;
        event.request = Some((request.head.asked_method().clone(), request.path.clone()));
        self.complete(&mut request);
        let to = BackendRef {
            service: self.service.name.clone(),
            port: self.port,
        };
        let random = self.worker.rng(|rng| rng.bits());
        let (snapshot, parent) = self.resolve(&to).await?;
        let chosen = route_http(
            Some(&parent.routes),
            &to,
            &request.host,
            &request.path,
            &request.head,
            random,
        )
        .map_err(|f| Failed::new(f, format!("routes of {}", to.service)))?;
        event.route = chosen
            .rule
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let random = self.worker.rng(|rng| rng.bits());
        let applied = apply_request(&chosen, &mut request.head, &request.path, self.port, random);
        let copies = match applied {
            Filtered::Redirect { status, location } => {
                down.answer.keep_alive &= is_read(&down.rx);
                reply::simple(&mut down.answer, redirect(status, &location), b"").await;
                return Ok(None);
            }
            Filtered::Forward(mirrors) => mirror::send(&self.worker, &mirrors, &request, version),
        };
        let (snapshot, service) = if chosen.backend.service == to.service {
            (snapshot, Arc::clone(&parent))
        } else {
            self.resolve(&chosen.backend).await?
        };
        leads(&service, chosen.rule.is_some(), &chosen.backend)?;
        let begun = service.guard.begin(&service.traffic, self.worker.now());
        let ticket =
            begun.map_err(|f| Failed::new(f, format!("{}: a circuit limit", service.name)))?;
        event.service = Some(service.name.shared());
        let at = (&**snapshot, &*service);
        let mut plan =
            ToService::new(&self.worker, at, &chosen, request.head, version).mirrored(copies);
        let result = forward(&self.worker, down, &mut plan, meters).await;
        plan.describe(event);
        match result {
            Ok(Done::Answered) => Ok(None),
            Ok(Done::Upgraded(upstream)) => Ok(Some(Box::new(Upgraded {
                upstream,
                lifetime: lifetime(&service.traffic.timeouts),
                _held: (ticket, plan.into_attempt()),
            }))),
            Err(failure) => {
                let failure = plan.named(failure);
                plan.ended(failure);
                Err(plan.told(failure))
            }
        }
    }
}

/// May a call go there, if it is a rule that leads it?
fn leads(service: &Service, by_rule: bool, backend: &BackendRef) -> Result<(), Failed> {
    let leads = match by_rule {
        true => service.as_backend(backend.port),
        false => Ok(()),
    };
    leads.map_err(|f| Failed::new(f, format!("{} has no port {}", service.name, backend.port)))
}

impl Side for Outbound {
    async fn take(self: Rc<Self>, head: RequestHead, mut down: Downstream) -> Option<Downstream> {
        let begun = Instant::now();
        let event = event(&self.worker, version_name(head.version));
        let mut open = Open::begin(&self.worker, event, begun);
        let to = reply::Listener {
            grpc: isthmus_proxy_core::route::grpc::is_grpc(&head),
            peer: false,
        };
        let result = self
            .exchange(head, &mut down, (&mut open.event, &open.meters))
            .await;
        let result = match result {
            Ok(Some(upgraded)) => {
                open.event.status = down.answer.status;
                let result = {
                    let told = (&open.event, &open.meters);
                    Box::pin(upgraded.relay(&self.worker, down, told)).await
                };
                finish_bytes(open, result);
                return None;
            }
            Ok(None) => Ok(()),
            Err(failed) => Err(failed),
        };
        finish(open, down, result, to).await
    }

    fn hands(&self) -> &Rc<Hands<Self>> {
        &self.worker.outbound
    }

    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn unreadable(&self, failure: Failure, version: &'static str, status: u16) -> String {
        let mut event = event(&self.worker, version);
        event.service = Some(self.service.name.shared());
        crate::finish::unreadable(&self.worker, &mut event, (failure, status))
    }
}

/// A request that became a stream of bytes. It is in flight, and counts against the service's limit,
/// for as long as it is open.
struct Upgraded {
    upstream: Upstream,
    lifetime: Lifetime,
    _held: (Ticket, Option<Attempt>),
}

impl Upgraded {
    async fn relay(
        self,
        worker: &Worker,
        down: Downstream,
        told: (&Event, &Meters),
    ) -> Result<(), Failed> {
        let (mut left, mut right) = upgrade::halves(down, self.upstream);
        relay(worker, (&mut left, &mut right), told, self.lifetime).await
    }
}

/// Of a stream of bytes.
fn lifetime(timeouts: &Timeouts) -> Lifetime {
    Lifetime {
        idle: timeouts.idle_tcp,
        whole: timeouts.stream,
    }
}

/// Relays both ways, and counts the bytes as they come.
async fn relay(
    worker: &Worker,
    (left, right): (&mut Duplex, &mut Duplex),
    (event, meters): (&Event, &Meters),
    lifetime: Lifetime,
) -> Result<(), Failed> {
    let bytes = (&meters.sent, &meters.received);
    worker.recorder.count_live(event, bytes.0, bytes.1);
    ended_as(duplex(left, right, bytes, lifetime).await)
}

/// How a relay's end reads in the log.
fn ended_as(ended: Ended) -> Result<(), Failed> {
    match ended {
        Ended::Clean => Ok(()),
        Ended::Left(broken) => Err(Failed::new(
            broken.downstream(),
            "the application broke it off",
        )),
        Ended::Right(broken) => Err(Failed::new(broken.upstream(), "the upstream broke it off")),
        Ended::Idle => Err(Failed::new(Failure::IdleTimeout, "nothing moved")),
        Ended::Expired => Err(Failed::new(
            Failure::StreamDeadline,
            "it lived as long as its service allows",
        )),
    }
}
