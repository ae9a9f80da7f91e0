//! How does a connection of another network reach a pod of this one?
//!
//! The gateway reads the ClientHello, checks the handle in its SNI, looks the endpoint up among
//! those that are exported now, and relays bytes. It ends no TLS and holds no workload's key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use isthmus_proto::ids::ServiceName;
use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::handle::admit;
use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::snapshot::Snapshot;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::accept;
use crate::connect::{self, Hop};
use crate::connections::Relayed;
use crate::detect::hello;
use crate::exchange::Meters;
use crate::finish::{Failed, Open, finish_bytes, refused};
use crate::notify::Flag;
use crate::relay::{Duplex, Ended, Lifetime, Meter, duplex, unless};
use crate::stream::{Rx, Tx};
use crate::tcp;
use crate::telemetry::{Direction, Event};
use crate::worker::{Accepted, Worker};

/// From accept to the end of the ClientHello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// To a pod of our network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A tunnel without a byte either way; its own keepalive is far below.
const IDLE: Duration = Duration::from_secs(3600);
/// A pod ends within 5 s who can't say who it is: what is open after this has a peer.
const PROVEN_AFTER: Duration = Duration::from_secs(6);
/// ... and so has what the pod has answered so often. Who is refused hears it three times: that another key share is
/// needed, the pod's side of the handshake, and an alert (RFC 8446 §2); as much again for answers that come in
/// pieces with a word of the client's between them.
const PROVEN_ANSWERS: u32 = 6;
/// The source cluster in events: the gateway reads no certificate, and an address says nothing.
pub const UNKNOWN_CLUSTER: &str = "unknown";

thread_local! {
    static SOURCES: RefCell<HashMap<IpAddr, usize>> = RefCell::default();
}

/// One connection, from accept to close. Start reading here.
pub async fn serve(worker: Rc<Worker>, conn: Accepted) {
    let most = worker.shared.config.unproven_per_source;
    let Some(source) = Source::enter(conn.peer.ip(), most) else {
        accept::reset(&conn.io);
        let from = conn.peer.ip();
        let why = format!("{from} has {most} connections that no pod is known to have taken");
        let why = (Failure::Overflow, why);
        return refused(&worker, Direction::Gateway, why, conn.since);
    };
    let snapshot = worker.snapshot();
    let mut event = Event::new(Direction::Gateway, "tls", snapshot.generation);
    event.source_cluster = Some(UNKNOWN_CLUSTER.into());
    event.destination_cluster = Some(worker.shared.config.cluster.shared());
    let mut open = Open::begin(&worker, event, conn.since);
    let told = (&mut open.event, &open.meters);
    let result = forward(&worker, (conn.io, source), told).await;
    finish_bytes(open, result);
}

async fn forward(
    worker: &Rc<Worker>,
    (io, source): (TcpStream, Source),
    (event, meters): (&mut Event, &Meters),
) -> Result<(), Failed> {
    let refused = |why: String| Failed::new(Failure::NoHandle, why);
    let mut first = Vec::new();
    let hello = timeout(HELLO_TIMEOUT, hello(&io, &mut first))
        .await
        .map_err(|_| refused("no ClientHello in time".to_owned()))?
        .map_err(refused)?;
    if !hello.tls13 {
        return Err(refused("the client does not offer TLS 1.3".to_owned()));
    }
    let name = hello.server_name;
    // Looked up as things are now, not as they were when the connection was accepted.
    let snapshot = worker.snapshot();
    let export = admit(
        name.as_deref(),
        &domain(worker),
        &snapshot.handle_keys,
        &snapshot.exports,
    )
    .map_err(|why| refused(format!("{}: {why}", why.name())))?;
    event.endpoint = Some(export.workload.shared());
    event.service = export.service.as_ref().map(ServiceName::shared);
    let hop = Hop::Through(export.address);
    event.hop = "pod";
    let relayed = Relayed::new(name.unwrap_or_default(), export.id, export.address);
    let relayed = Rc::new(relayed);
    let _registered = worker.connections.register_relayed(&relayed);
    let permit = Permit::outbound(snapshot.generation);
    let mut right = connect::bytes(worker, &permit, &hop, export.address, CONNECT_TIMEOUT)
        .await
        .map_err(|why| {
            let detail = format!("connect to {} on {}", export.workload, export.address);
            Failed::not_opened(why, detail)
        })?;
    let (rx, tx) = tcp::split_with(io, first);
    let mut left = Duplex {
        rx: Rx::Tcp(rx),
        tx: Tx::Tcp(tx),
    };
    worker
        .recorder
        .count_live(event, &meters.sent, &meters.received);
    let meters = (&meters.sent, &meters.received);
    let relaying = {
        let relaying = pin!(duplex(&mut left, &mut right, meters, Lifetime::idle(IDLE)));
        unless(
            relaying,
            pin!(source.held_until_proven(meters, &relayed.cut, PROVEN_AFTER)),
        )
        .await
    };
    match relaying {
        Ok(Ended::Clean) => Ok(()),
        Ok(Ended::Left(broken)) => Err(Failed::new(broken.downstream(), "the caller broke it off")),
        Ok(Ended::Right(broken)) => Err(Failed::new(broken.upstream(), "the pod broke it off")),
        Ok(Ended::Idle) => Err(Failed::new(Failure::IdleTimeout, "nothing moved")),
        Ok(Ended::Expired) => Err(Failed::new(Failure::StreamDeadline, "its time was over")),
        Err(()) => {
            left.tx.reset(ErrorCode::Cancel);
            right.tx.reset(ErrorCode::Cancel);
            worker.shared.telemetry.metrics.revoked.inc();
            Err(refused("it is no longer exported".to_owned()))
        }
    }
}

/// Is what a relay leads to still exported, at the same place and under a handle that counts?
#[must_use]
pub fn may_go_on(worker: &Worker, snapshot: &Snapshot, relayed: &Relayed) -> bool {
    let (keys, exports) = (&snapshot.handle_keys, &snapshot.exports);
    let export = admit(Some(&relayed.server_name), &domain(worker), keys, exports);
    export.is_ok_and(|export| export.id == relayed.export && export.address == relayed.address)
}

/// What follows the handle in the names that lead to this cluster.
fn domain(worker: &Worker) -> String {
    let config = &worker.shared.config;
    format!("{}.{}", config.cluster, config.mesh_domain)
}

/// One connection of a source address that nobody has proven to be a peer's.
struct Source(IpAddr);

impl Source {
    fn enter(address: IpAddr, most: usize) -> Option<Self> {
        SOURCES.with_borrow_mut(|sources| {
            let count = sources.entry(address).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
            Some(Self(address))
        })
    }

    /// Waits for the flag, and counts no more when the connection has a peer: that is known `proven` from
    /// now, or when the two have talked. To be polled whenever what moves is.
    async fn held_until_proven(self, meters: (&Meter, &Meter), cut: &Flag, proven: Duration) {
        let known = {
            // Either way it is known.
            let talked = pin!(timeout(proven, talked(meters)));
            unless(talked, pin!(cut.wait())).await
        };
        if known.is_ok() {
            drop(self);
            cut.wait().await;
        }
    }
}

/// Ends when the pod has answered [`PROVEN_ANSWERS`] times: it has sent something, after the client had. What came between
/// two looks is taken as one.
async fn talked((sent, received): (&Meter, &Meter)) {
    let (mut asked, mut answers, mut seen) = (false, 0, (0, 0));
    poll_fn(|_| {
        let now = (sent.bytes(), received.bytes());
        if asked && now.1 > seen.1 {
            (asked, answers) = (false, answers + 1);
        }
        asked |= now.0 > seen.0;
        seen = now;
        if answers >= PROVEN_ANSWERS {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl Drop for Source {
    fn drop(&mut self) {
        SOURCES.with_borrow_mut(|sources| {
            if let Some(count) = sources.get_mut(&self.0) {
                *count -= 1;
                if *count == 0 {
                    sources.remove(&self.0);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn callers_that_share_an_address_are_limited_only_until_they_are_proven() {
        const MOST: usize = 2;
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let enter = || Source::enter(address, MOST);
        let (first, second) = (enter().unwrap(), enter().unwrap());
        assert!(enter().is_none(), "nobody has proven anything");
        assert!(Source::enter([127, 0, 0, 2].into(), MOST).is_some());
        let cut = Flag::default();
        let still = (&Meter::default(), &Meter::default());
        let mut young = pin!(second.held_until_proven(still, &cut, PROVEN_AFTER));
        assert!(timeout(Duration::ZERO, young.as_mut()).await.is_err());
        assert!(enter().is_none(), "it may still be a stranger");
        let other = Flag::default();
        let mut old = pin!(first.held_until_proven(still, &other, Duration::ZERO));
        let third = loop {
            assert!(
                timeout(Duration::ZERO, old.as_mut()).await.is_err(),
                "it is relayed"
            );
            if let Some(third) = enter() {
                break third;
            }
        };
        assert!(enter().is_none(), "only one has a peer");
        cut.set();
        young.await;
        drop(third);
        assert!(SOURCES.with_borrow(HashMap::is_empty), "all are given back");
    }

    /// After a restart all tunnels of a cluster come back at once, perhaps from one address.
    #[tokio::test]
    async fn who_has_talked_with_a_pod_is_no_stranger() {
        let address = IpAddr::from([127, 0, 0, 3]);
        let enter = || Source::enter(address, 1);
        let (sent, received, cut) = (Meter::default(), Meter::default(), Flag::default());
        let source = enter().unwrap();
        let mut held = pin!(source.held_until_proven((&sent, &received), &cut, PROVEN_AFTER));
        let mut look = async || {
            let over = timeout(Duration::ZERO, held.as_mut()).await;
            assert!(over.is_err(), "it is relayed");
        };
        // However much one side says alone, that is no answer.
        for meter in [&sent, &received, &received, &sent] {
            meter.add(100_000);
            look().await;
        }
        for _ in 2..PROVEN_ANSWERS {
            received.add(30);
            look().await;
            sent.add(30);
            look().await;
        }
        assert!(enter().is_none(), "a refusal may have been as long");
        received.add(30);
        look().await;
        assert!(enter().is_some(), "it is counted no more");
    }
}
