//! How does a connection of another network reach a pod of this one?
//!
//! The gateway reads the ClientHello, checks the handle in its SNI, looks the endpoint up among
//! those that are exported now, and relays bytes. It ends no TLS and holds no workload's key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::client_hello;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::handle::admit;
use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::snapshot::Snapshot;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::accept;
use crate::buffer;
use crate::connect::{self, Hop};
use crate::connections::Relayed;
use crate::exchange::Meters;
use crate::finish::{Failed, Open, finish_bytes, refused};
use crate::relay::{Duplex, Ended, duplex, unless};
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
/// Connections of one source address, in one worker.
const PER_SOURCE_MAX: usize = 256;

thread_local! {
    static SOURCES: RefCell<HashMap<IpAddr, usize>> = RefCell::default();
}

/// One connection, from accept to close. Start reading here.
pub async fn serve(worker: Rc<Worker>, conn: Accepted) {
    let Some(_source) = Source::enter(conn.peer.ip()) else {
        accept::reset(&conn.io);
        let why = format!("{} has {PER_SOURCE_MAX} connections", conn.peer.ip());
        let why = (Failure::Overflow, why);
        return refused(&worker, Direction::Gateway, why, conn.since);
    };
    let snapshot = worker.snapshot();
    let mut event = Event::new(Direction::Gateway, "tls", snapshot.generation);
    event.destination_cluster = Some(worker.shared.config.cluster.shared());
    let mut open = Open::begin(&worker, event, conn.since);
    let result = forward(&worker, conn.io, &mut open.event, &open.meters).await;
    finish_bytes(open, result);
}

async fn forward(
    worker: &Rc<Worker>,
    io: TcpStream,
    event: &mut Event,
    meters: &Meters,
) -> Result<(), Failed> {
    let refused = |why: String| Failed::new(Failure::NoHandle, why);
    let (first, name) = timeout(HELLO_TIMEOUT, hello(&io))
        .await
        .map_err(|_| refused("no ClientHello in time".to_owned()))?
        .map_err(refused)?;
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
    let relaying = {
        let meters = (&meters.sent, &meters.received);
        let relaying = pin!(duplex(&mut left, &mut right, meters, IDLE));
        unless(relaying, pin!(relayed.cut.wait())).await
    };
    match relaying {
        Ok(Ended::Clean) => Ok(()),
        Ok(Ended::Left(broken)) => Err(Failed::new(broken.downstream(), "the caller broke it off")),
        Ok(Ended::Right(broken)) => Err(Failed::new(broken.upstream(), "the pod broke it off")),
        Ok(Ended::Idle) => Err(Failed::new(Failure::IdleTimeout, "nothing moved")),
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

/// Reads a whole ClientHello: the bytes, and the name that it asks for.
async fn hello(io: &TcpStream) -> Result<(Vec<u8>, Option<String>), String> {
    let mut first = Vec::new();
    loop {
        io.readable().await.map_err(|e| e.to_string())?;
        let ended = buffer::with(|space| match io.try_read(space) {
            Ok(0) => Ok(true),
            Ok(n) => {
                first.extend_from_slice(space.get(..n).unwrap_or_default());
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.to_string()),
        })?;
        if ended {
            return Err("the connection ended before a ClientHello".to_owned());
        }
        if let Some(hello) = client_hello::read(&first).map_err(|e| e.to_string())? {
            if !hello.tls13 {
                return Err("the client does not offer TLS 1.3".to_owned());
            }
            return Ok((first, hello.server_name));
        }
    }
}

/// One connection of a source address.
struct Source(IpAddr);

impl Source {
    fn enter(address: IpAddr) -> Option<Self> {
        SOURCES.with_borrow_mut(|sources| {
            let count = sources.entry(address).or_default();
            if *count >= PER_SOURCE_MAX {
                return None;
            }
            *count += 1;
            Some(Self(address))
        })
    }
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
