//! How does a byte stream reach the application, and how long may it?

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use isthmus_proxy_core::authorize::{Permit, authorize};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::guard::Timeouts;
use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::message::{BodyLength, ResponseHead};

use super::{CONNECT_TIMEOUT, Inbound, note};
use crate::connect::{self, Hop, Upstream};
use crate::connections::{Live, Registered};
use crate::exchange::{Downstream, Meters, upgrade};
use crate::finish::{Failed, Open, finish_bytes};
use crate::relay::{Duplex, Ended, Lifetime, duplex, unless};
use crate::stream::is_unsure;
use crate::telemetry::Event;
use crate::worker::Accepted;

/// A request that became a stream of bytes. It stays under the permission that it had as a request.
pub(super) struct Upgraded<'a> {
    pub(super) upstream: Upstream,
    pub(super) live: Rc<Live>,
    pub(super) _registered: Registered<'a>,
}

/// A byte stream whose both sides are open.
pub(super) struct Opened<'a> {
    pub(super) open: Open,
    pub(super) left: Duplex,
    pub(super) right: Duplex,
    pub(super) live: Rc<Live>,
    pub(super) _registered: Registered<'a>,
}

/// Whose bytes are they?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// A client's, which was heard already.
    Captured,
    /// A peer's, to a port that declares that it speaks no HTTP.
    Peer,
    /// A peer's, to a port that declares nothing: they may be HTTP.
    PeerUnheard,
}

/// The application's side is open, and is judged again when policies change.
pub(super) struct Reached<'a> {
    pub(super) right: Duplex,
    permit: Permit,
    live: Rc<Live>,
    registered: Registered<'a>,
}

impl Inbound {
    pub(super) async fn captured_bytes(
        &self,
        conn: Accepted,
        first: Vec<u8>,
        reached: Option<Result<Reached<'_>, Failed>>,
    ) {
        let Some(port) = self.port else { return };
        let unsure = is_unsure(&first);
        let (rx, tx) = crate::tcp::split_with(conn.io, first);
        let rx = crate::stream::Rx::Tcp(rx);
        let left = Duplex {
            rx: if unsure { rx.worded(&[]) } else { rx },
            tx: crate::stream::Tx::Tcp(tx),
        };
        self.bytes(port, left, From::Captured, reached).await;
    }

    /// A byte stream to a port: judged, connected, relayed, and judged again when policies change.
    /// `from`: a peer is told that it is connected, and is heard before its bytes pass.
    pub(super) fn bytes<'a>(
        &'a self,
        port: u16,
        left: Duplex,
        from: From,
        reached: Option<Result<Reached<'a>, Failed>>,
    ) -> impl Future<Output = ()> + use<'a> {
        // In a box, which is gone when both sides are open: most connections are idle then.
        let opening = Box::pin(self.open_bytes(port, left, from != From::Captured, reached));
        async move {
            let Some(mut opened) = opening.await else {
                return;
            };
            if from == From::PeerUnheard {
                match Box::pin(self.hear(opened)).await {
                    Some(bytes) => opened = bytes,
                    None => return,
                }
            }
            let Opened {
                open,
                left,
                right,
                live,
                ..
            } = &mut *opened;
            let told = (&open.event, &open.meters);
            let result = self.relay((left, right), live, told).await;
            let Opened { open, .. } = *opened;
            finish_bytes(open, result);
        }
    }

    async fn open_bytes<'a>(
        &'a self,
        port: u16,
        mut left: Duplex,
        told: bool,
        reached: Option<Result<Reached<'a>, Failed>>,
    ) -> Option<Box<Opened<'a>>> {
        let event = self.event("tcp", self.worker.snapshot().generation);
        let mut open = Open::begin(&self.worker, event, Instant::now());
        let reached = match reached {
            Some(reached) => reached,
            None => self.reach(port).await,
        };
        let failed = match reached {
            Ok(reached) => {
                note(&mut open.event, &reached.permit);
                if !told || tell_opened(&mut left).await {
                    return Some(Box::new(Opened {
                        open,
                        left,
                        right: reached.right,
                        live: reached.live,
                        _registered: reached.registered,
                    }));
                }
                Failed::new(Failure::DownstreamReset, "the peer left")
            }
            Err(failed) => self.refuse(&mut left, failed).await,
        };
        finish_bytes(open, Err(failed));
        None
    }

    /// Connects to the application if that is allowed, and judges again from then on.
    pub(super) async fn reach(&self, port: u16) -> Result<Reached<'_>, Failed> {
        self.not_ours(port)?;
        let snapshot = self.worker.snapshot();
        self.proven(&snapshot)?;
        let permit = authorize(&snapshot.policies, &self.facts(port), None)?;
        // Before it is connected: a change of policy meanwhile is not missed.
        let live = self.live(port, None);
        let registered = self.worker.connections.register(&live);
        match self.open(&permit, port, &live).await {
            Ok(right) => Ok(Reached {
                right,
                permit,
                live,
                registered,
            }),
            Err(failed) => Err(Failed {
                policy: permit.rule.clone(),
                audit: permit.audit.to_vec().into(),
                ..failed
            }),
        }
    }

    /// Connects to the application, for as long as that is allowed.
    async fn open(&self, permit: &Permit, port: u16, live: &Live) -> Result<Duplex, Failed> {
        let hop = Hop::Application { port, http2: false };
        let address = SocketAddr::new(self.worker.shared.config.application, port);
        let connecting = connect::bytes(&self.worker, permit, &hop, address, CONNECT_TIMEOUT);
        match unless(pin!(connecting), pin!(live.cut.wait())).await {
            Ok(opened) => opened.map_err(|why| {
                Failed::not_opened(why, format!("connect to the application on {address}"))
            }),
            Err(()) => Err(self.revoked()),
        }
    }

    /// Tells the peer that its stream was not accepted, and under which id we know why.
    async fn refuse(&self, left: &mut Duplex, failed: Failed) -> Failed {
        let id = self.worker.recorder.reason_id();
        refuse_stream(left, status(failed.failure), &id).await;
        Failed {
            told: Some(id.into()),
            ..failed
        }
    }

    /// Relays both ways, for as long as that is allowed.
    async fn relay(
        &self,
        (left, right): (&mut Duplex, &mut Duplex),
        live: &Live,
        (event, meters): (&Event, &Meters),
    ) -> Result<(), Failed> {
        let bytes = (&meters.sent, &meters.received);
        self.worker.recorder.count_live(event, bytes.0, bytes.1);
        let relayed = {
            // How long it may live altogether is the caller's sidecar's to say.
            let lifetime = Lifetime::idle(self.idle(Timeouts::default().idle_tcp));
            let relaying = pin!(duplex(left, right, bytes, lifetime));
            unless(relaying, pin!(live.cut.wait())).await
        };
        relayed.map_or_else(
            |()| {
                left.tx.reset(ErrorCode::Cancel);
                right.tx.reset(ErrorCode::Cancel);
                Err(self.revoked())
            },
            ended_as,
        )
    }

    /// Relays what follows a switch of protocols.
    pub(super) async fn relay_upgraded(
        &self,
        down: Downstream,
        upgraded: Upgraded<'_>,
        told: (&Event, &Meters),
    ) -> Result<(), Failed> {
        let (mut left, mut right) = upgrade::halves(down, upgraded.upstream);
        self.relay((&mut left, &mut right), &upgraded.live, told)
            .await
    }

    /// What listens beside the application is not the application: admin trusts whoever reaches it,
    /// and a capture port would come back here.
    pub(super) fn not_ours(&self, port: u16) -> Result<(), Failed> {
        if self.worker.listens_on(port) {
            let why = format!("the proxy itself listens on port {port}");
            return Err(Failed::new(Failure::Denied, why));
        }
        Ok(())
    }

    /// Its permission ended. Counts it.
    pub(super) fn revoked(&self) -> Failed {
        self.worker.shared.telemetry.metrics.revoked.inc();
        Failed::new(Failure::Denied, "the permission ended while it was open")
    }
}

/// What a peer is told of a stream that was not accepted.
fn status(failure: Failure) -> u16 {
    match failure {
        Failure::ConnectTimeout => 504,
        other => other.status(),
    }
}

/// Tells a peer that its stream is connected. False: it has left.
pub(super) async fn tell_opened(left: &mut Duplex) -> bool {
    match &mut left.tx {
        crate::stream::Tx::H2(tx) => {
            let head = ResponseHead::new(200, BodyLength::Marked);
            tx.respond(&head, false).await.is_ok()
        }
        crate::stream::Tx::H1(_) | crate::stream::Tx::Tcp(_) => true,
    }
}

/// Ends a stream that was not accepted: a status where it has heads, a reset where not.
async fn refuse_stream(left: &mut Duplex, status: u16, reason: &str) {
    match &mut left.tx {
        crate::stream::Tx::H2(tx) => {
            let mut head = ResponseHead::new(status, BodyLength::Empty);
            head.fields.push(b"x-mesh-reason", reason.as_bytes());
            // A peer that is gone needs no answer.
            let _ = tx.respond(&head, true).await;
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
        Ended::Expired => Err(Failed::new(Failure::StreamDeadline, "its time was over")),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use isthmus_proxy_core::snapshot::Snapshot;
    use tokio::net::TcpListener;

    use super::*;
    use crate::worker::tests::{bench, pair, rest};

    #[test]
    fn an_idle_one_is_small() {
        // Of what a call returns, without making the call.
        fn size<A, B, F>(_: impl FnOnce(&'static Inbound, A, B) -> F) -> usize {
            size_of::<F>()
        }
        let relaying = size(|side, port, left| side.bytes(port, left, From::Captured, None));
        let opened = size_of::<Opened<'_>>();
        assert!(relaying <= 1536 && opened <= 1024, "{relaying}, {opened}");
    }

    #[tokio::test]
    async fn a_policy_that_changes_while_it_connects_counts() {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = application.local_addr().unwrap().port();
        let worker = bench().worker;
        let (mut client, io) = pair().await;
        let side = Inbound {
            worker: Rc::clone(&worker),
            peer: Some(isthmus_proxy_core::identify::PeerIdentity {
                id: "spiffe://east.mesh.internal/ns/shop/sa/web"
                    .parse()
                    .unwrap(),
            }),
            source_cluster: None,
            source: client.local_addr().unwrap(),
            port: Some(port),
            within: Rc::default(),
        };
        let (rx, tx) = crate::tcp::split(io);
        let left = Duplex {
            rx: crate::stream::Rx::Tcp(rx),
            tx: crate::stream::Tx::Tcp(tx),
        };
        let mut serving = pin!(side.bytes(port, left, From::Captured, None));
        let first = poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "it is connecting");
        // Knows no policies, so nothing is allowed any more.
        let closed = Snapshot::empty(worker.snapshot().me.clone());
        assert_eq!(worker.connections.judge(&closed), 1);
        serving.await;
        assert_eq!(rest(&mut client).await, b"");
        assert_eq!(worker.shared.telemetry.metrics.revoked.get(), 1);
    }
}
