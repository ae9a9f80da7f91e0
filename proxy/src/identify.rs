//! Who is the peer? Mutual TLS, bounded in time and number.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::identify::PeerIdentity;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::telemetry::{Direction, Event};
use crate::tls;
use crate::transport::Transport;
use crate::transport::tls::Tls;
use crate::worker::{Accepted, Worker};

/// From accept to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way in one worker; who comes then is closed.
const HANDSHAKES_MAX: usize = 1024;

thread_local! {
    static HANDSHAKES: Cell<usize> = const { Cell::new(0) };
}

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Identified {
    /// The encrypted connection.
    pub transport: Transport,
    /// Who it is.
    pub peer: PeerIdentity,
    /// By which certificates.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Shakes hands. `None`: it failed, and that was recorded.
pub async fn identify(worker: &Worker, conn: Accepted) -> Option<Identified> {
    let (peer, since) = (conn.peer, conn.since);
    let Some(slot) = Slot::take() else {
        let why = "as many handshakes as may be are under way";
        refused(worker, peer, since, (Failure::Overflow, why));
        return None;
    };
    let shaking = Tls::accept(&conn.io, worker.shared.server.clone());
    let why = match timeout(HANDSHAKE_TIMEOUT, shaking).await {
        Ok(Ok(tls)) => {
            drop(slot);
            let chain = tls.chain();
            match tls::identity(&chain) {
                Ok(peer) if tls.alpn() == Some(b"h2") => {
                    let transport = Transport::Tls(conn.io, tls.into());
                    return Some(Identified {
                        transport,
                        peer,
                        chain,
                    });
                }
                Ok(_) => "the peer does not speak h2".to_owned(),
                Err(error) => format!("the peer showed no identity: {error}"),
            }
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the handshake took too long".to_owned(),
    };
    worker.shared.telemetry.metrics.handshakes_failed.inc();
    refused(worker, peer, since, (Failure::Unauthenticated, &why));
    None
}

fn refused(worker: &Worker, peer: SocketAddr, since: Instant, (failure, why): (Failure, &str)) {
    let mut event = Event::new(Direction::Inbound, "tls", worker.snapshot().generation);
    event.destination_cluster = Some(worker.shared.config.cluster.shared());
    event.failure = Some(failure);
    event.detail = format!("handshake with {peer}: {why}");
    event.duration = since.elapsed();
    worker.recorder.record(&event, None);
}

/// One of the handshakes that may be under way.
struct Slot;

impl Slot {
    fn take() -> Option<Self> {
        HANDSHAKES.with(|count| {
            if count.get() >= HANDSHAKES_MAX {
                return None;
            }
            count.set(count.get() + 1);
            Some(Self)
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        HANDSHAKES.with(|count| count.set(count.get().saturating_sub(1)));
    }
}
