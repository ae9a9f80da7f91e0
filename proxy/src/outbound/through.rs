//! What becomes of a connection whose destination is no service?

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::ErrorCode;

use super::{event, relay};
use crate::accept;
use crate::config::{Destination, Passthrough};
use crate::connect::{self, Hop};
use crate::exchange::Meters;
use crate::finish::{Failed, Open, finish_bytes};
use crate::notify::Flag;
use crate::relay::{Duplex, Lifetime, unless};
use crate::stream::{Rx, Tx};
use crate::telemetry::Event;
use crate::worker::{Accepted, Worker};

/// To a destination that the mesh doesn't know.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a byte either way.
const IDLE: Duration = Duration::from_secs(3600);

/// `known`: discovery said that there is no service. Else nobody could say.
pub(super) async fn serve(
    worker: Rc<Worker>,
    conn: Accepted,
    destination: &Destination,
    known: bool,
) {
    match (destination, may_pass(&worker, destination, known)) {
        (Destination::Address(address), Ok(())) => pass(worker, conn, *address).await,
        // A name leads nowhere by itself.
        (Destination::Host(host, port), _) => {
            refuse(
                &worker,
                &conn,
                known,
                format!("{host}:{port} leads to no service"),
            );
        }
        (Destination::Address(address), Err(why)) => {
            let detail = format!("{address} leads to no service, and is not passed through: {why}");
            refuse(&worker, &conn, known, detail);
        }
    }
}

/// May something pass? The mesh has the last word; what nobody could say may be of the mesh, where
/// it would have been encrypted and judged.
fn may_pass(worker: &Worker, to: &Destination, known: bool) -> Result<(), &'static str> {
    if is_denied(worker) {
        return Err("the mesh denies it");
    }
    if let Destination::Address(address) = to
        && worker.snapshot().services.is_closed(address.ip())
    {
        return Err("a pod of the mesh is there, and it is not known to have this port");
    }
    match worker.shared.config.passthrough {
        Passthrough::Always => Ok(()),
        Passthrough::Known if known => Ok(()),
        Passthrough::Known => Err("nobody could say whether it is of the mesh"),
        Passthrough::Never => Err("this proxy passes nothing through"),
    }
}

fn is_denied(worker: &Worker) -> bool {
    let snapshot = worker.snapshot();
    snapshot
        .own
        .as_ref()
        .is_some_and(|own| own.passthrough_denied)
}

fn refuse(worker: &Worker, conn: &Accepted, known: bool, detail: String) {
    accept::reset(&conn.io);
    let mut event = event(worker, "tcp");
    event.failure = Some(if known {
        Failure::NoDestination
    } else {
        Failure::EndpointsUnknown
    });
    event.detail = detail;
    event.duration = conn.since.elapsed();
    worker.recorder.record(&event, None);
}

/// Untouched, and counted.
async fn pass(worker: Rc<Worker>, conn: Accepted, address: SocketAddr) {
    let mut event = event(&worker, "tcp");
    event.hop = Hop::Through(address).name();
    worker.shared.telemetry.metrics.passthrough.inc();
    let open = Open::begin(&worker, event, conn.since);
    let cut = Rc::new(Flag::default());
    let _registered = worker.connections.register_passing(&cut);
    let result = open_and_relay(&worker, conn, address, (&open.event, &open.meters, &cut)).await;
    finish_bytes(open, result);
}

async fn open_and_relay(
    worker: &Rc<Worker>,
    conn: Accepted,
    address: SocketAddr,
    (event, meters, cut): (&Event, &Meters, &Flag),
) -> Result<(), Failed> {
    let hop = Hop::Through(address);
    let permit = Permit::outbound(worker.snapshot().generation);
    let opened = {
        let opening = connect::bytes(worker, &permit, &hop, address, CONNECT_TIMEOUT);
        unless(pin!(opening), pin!(cut.wait())).await
    };
    let mut right = match opened {
        Ok(Ok(right)) => right,
        Ok(Err(why)) => {
            accept::reset(&conn.io);
            let detail = format!("connect to {address}, which is not of the mesh");
            return Err(Failed::not_opened(why, detail));
        }
        Err(()) => {
            accept::reset(&conn.io);
            return Err(revoked(worker));
        }
    };
    let (rx, tx) = crate::tcp::split(conn.io);
    let mut left = Duplex {
        rx: Rx::Tcp(rx),
        tx: Tx::Tcp(tx),
    };
    let relayed = {
        let relaying = relay(
            worker,
            (&mut left, &mut right),
            (event, meters),
            Lifetime::idle(IDLE),
        );
        unless(pin!(relaying), pin!(cut.wait())).await
    };
    relayed.unwrap_or_else(|()| {
        left.tx.reset(ErrorCode::Cancel);
        right.tx.reset(ErrorCode::Cancel);
        Err(revoked(worker))
    })
}

fn revoked(worker: &Worker) -> Failed {
    worker.shared.telemetry.metrics.revoked.inc();
    let why = "the mesh denied it while it was open";
    Failed::new(Failure::NoDestination, why)
}
