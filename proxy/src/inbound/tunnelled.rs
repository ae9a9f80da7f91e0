//! What does a peer's CONNECT carry?
//!
//! A proxy sends requests as requests, and by CONNECT what is none. But any peer may CONNECT, and whoever
//! may send bytes to an application that speaks HTTP could write into them what only the mesh says of a
//! caller. So HTTP in a stream is served as if it were a connection of its own.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::detect::{Detected, Greeting, detect};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::{BodyLength, RequestHead, ResponseHead};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::bytes::{From, Opened, tell_opened};
use super::{Inbound, PEER_IDLE};
use crate::detect::{DETECT_TIMEOUT, FIRST_BYTE_TIMEOUT, FIRST_BYTES_MAX, limit};
use crate::exchange::{Downstream, Meters, reply};
use crate::finish::{Failed, Open, finish_bytes};
use crate::hints::Hint;
use crate::http::Task;
use crate::relay::{Duplex, Lifetime, Meter, duplex, unless};
use crate::stream::{Broken, Pull, Rx, Tx, is_unsure};
use crate::worker::Accepted;

/// Streams of one tunnel that carry requests: a proxy makes none, and each holds two descriptors.
const WITHIN_MAX: usize = 64;
/// When one of its two sides has ended, the other one ends within this.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of a stream that carries requests.
enum Within {
    /// Its port declares it.
    Declared(Protocol),
    /// It was heard: the first bytes, and what they are.
    Heard(Vec<u8>, Detected),
}

/// One of the streams that a tunnel may have.
struct Place(Rc<Cell<usize>>);

impl Place {
    /// `None`: there are as many as may be.
    fn take(count: &Rc<Cell<usize>>) -> Option<Self> {
        let now = count.get();
        (now < WITHIN_MAX).then(|| {
            count.set(now.saturating_add(1));
            Self(Rc::clone(count))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Inbound {
    /// CONNECT: a TCP connection in a tunnel. The head is not kept with it.
    pub(super) fn connect(self: Rc<Self>, head: &RequestHead, down: Downstream) -> Task {
        if self.peer.is_none() || self.port.is_some() {
            return Box::pin(async move { drop(self.refuse_foreign_connect(down).await) });
        }
        let target = std::str::from_utf8(&head.authority)
            .ok()
            .and_then(|t| t.parse::<SocketAddr>().ok());
        let own = target.filter(|t| self.is_own(t.ip()) && t.port() != 0);
        let Some(own) = own else {
            let to = target.map_or("what is no address".to_owned(), |t| t.to_string());
            let why = format!("CONNECT to {to}, and that is not this workload");
            let failed = Failed::new(Failure::NoDestination, why);
            return Box::pin(async move { drop(self.refuse_connect(down, 400, failed).await) });
        };
        let port = own.port();
        let from = match self.protocol_of(port) {
            protocol @ (Protocol::Http1 | Protocol::Http2 | Protocol::Grpc) => {
                return Box::pin(self.declared_requests(port, protocol, down));
            }
            Protocol::Tcp | Protocol::Tls => From::Peer,
            Protocol::Unspecified => From::PeerUnheard,
        };
        let left = Duplex {
            rx: down.rx,
            tx: down.answer.tx,
        };
        Box::pin(async move { self.bytes(port, left, from, None).await })
    }

    /// What is declared is what is spoken: the peer's own bytes are requests, each judged as one.
    async fn declared_requests(self: Rc<Self>, port: u16, protocol: Protocol, down: Downstream) {
        if let Err(failed) = self.place() {
            return drop(self.refuse_connect(down, 503, failed).await);
        }
        let mut left = Duplex {
            rx: down.rx,
            tx: down.answer.tx,
        };
        // It holds a place, and a socket, from its first byte on.
        let told = tell_opened(&mut left).await;
        let heard = timeout(FIRST_BYTE_TIMEOUT, left.rx.wait()).await;
        if !told || !matches!(heard, Ok(Ok(()))) {
            return;
        }
        match self.place() {
            Ok(place) => {
                let within = Within::Declared(protocol);
                self.requests(port, left, (within, place)).await;
            }
            Err(failed) => {
                let event = self.event("tcp", self.worker.snapshot().generation);
                let open = Open::begin(&self.worker, event, StdInstant::now());
                finish_bytes(open, Err(failed));
            }
        }
    }

    /// One of the places for streams that carry requests.
    fn place(&self) -> Result<Place, Failed> {
        Place::take(&self.within).ok_or_else(|| {
            let why = format!("{WITHIN_MAX} streams of this tunnel carry requests already");
            Failed::new(Failure::Overflow, why)
        })
    }

    /// A CONNECT of somebody who is no peer, or not as one: the workload is nobody's forward proxy.
    pub(super) async fn refuse_foreign_connect(&self, down: Downstream) -> Downstream {
        let why = "only peers of the mesh may CONNECT, and only in their tunnel";
        let failed = Failed::new(Failure::Unauthenticated, why);
        self.refuse_connect(down, 405, failed).await
    }

    /// A CONNECT that could lead nowhere.
    async fn refuse_connect(
        &self,
        mut down: Downstream,
        status: u16,
        failed: Failed,
    ) -> Downstream {
        let id = self.worker.recorder.reason_id();
        let mut head = ResponseHead::new(status, BodyLength::Exact(0));
        head.fields.push(b"x-mesh-reason", id.as_bytes());
        head.fields.push(b"content-length", b"0");
        reply::simple(&mut down.answer, head, b"").await;
        let event = self.event("tcp", self.worker.snapshot().generation);
        let result = Err(Failed {
            told: Some(id.into()),
            ..failed
        });
        finish_bytes(Open::begin(&self.worker, event, StdInstant::now()), result);
        down
    }

    /// A tunnel leads to this workload and nowhere else.
    fn is_own(&self, address: IpAddr) -> bool {
        let config = &self.worker.shared.config;
        config.addresses.is_empty() || config.addresses.contains(&address)
    }

    /// Listens to who speaks first in a stream, and how: HTTP is served as such, and what is left comes
    /// back, to be relayed as bytes.
    pub(super) async fn hear<'a>(&self, mut opened: Box<Opened<'a>>) -> Option<Box<Opened<'a>>> {
        let port = opened.live.port;
        if self.worker.application_hints.get(&port, StdInstant::now()) == Some(Hint::Bytes) {
            return Some(opened);
        }
        let heard = {
            let Opened {
                left, right, live, ..
            } = &mut *opened;
            let hearing = pin!(first_words(&mut left.rx, &mut right.rx));
            unless(hearing, pin!(live.cut.wait())).await
        };
        let passed = match heard {
            Ok(Ok((first, kind @ (Detected::Http1 | Detected::Http2)))) => {
                let Opened { open, left, .. } = *opened;
                match self.place() {
                    Ok(place) => {
                        finish_bytes(open, Ok(()));
                        let within = Within::Heard(first, kind);
                        self.requests(port, left, (within, place)).await;
                    }
                    Err(failed) => finish_bytes(open, Err(failed)),
                }
                return None;
            }
            Ok(Ok((first, Detected::Tls | Detected::Opaque))) => {
                if is_unsure(&first) {
                    opened.left.rx = opened.left.rx.worded(&first);
                }
                pass(&first, &mut opened.right.tx, &opened.open.meters).await
            }
            Ok(Err(broken)) => {
                let why = "the peer broke it off";
                Err(Failed::new(broken.downstream(), why))
            }
            Err(()) => Err(self.revoked()),
        };
        match passed {
            Ok(()) => Some(opened),
            Err(failed) => {
                finish_bytes(opened.open, Err(failed));
                None
            }
        }
    }

    /// Serves the requests in a stream, as those of a captured connection are: who asks is the peer of the
    /// tunnel, and what it says of itself does not count.
    fn requests(&self, port: u16, mut left: Duplex, (within, place): (Within, Place)) -> Task {
        let side = Rc::new(Self {
            worker: Rc::clone(&self.worker),
            peer: self.peer.clone(),
            source_cluster: self.source_cluster.clone(),
            source: self.source,
            port: Some(port),
            within: Rc::default(),
        });
        Box::pin(async move {
            let Ok((near, far)) = pair() else {
                // No descriptors are left. Dropped, it is reset.
                return;
            };
            let conn = Accepted {
                io: far,
                peer: side.source,
                since: StdInstant::now(),
            };
            let (rx, tx) = crate::tcp::split(near);
            let mut right = Duplex {
                rx: Rx::Tcp(rx),
                tx: Tx::Tcp(tx),
            };
            let meters = (Meter::default(), Meter::default());
            let counted = (&meters.0, &meters.1);
            // Both ends are closed when it has ended: who serves sees that, and the peer does.
            let mut carrying = pin!(async move {
                duplex(&mut left, &mut right, counted, Lifetime::idle(PEER_IDLE)).await
            });
            let mut serving = pin!(async move {
                match within {
                    Within::Declared(protocol) => side.declared(conn, protocol).await,
                    Within::Heard(first, kind) => side.spoken(conn, (first, kind)).await,
                }
            });
            // What is left after that is dropped: the last bytes of an answer, or an exchange whose caller has left.
            let _ = tokio::select! {
                () = &mut serving => timeout(END_TIMEOUT, carrying).await.map(drop),
                _ = &mut carrying => timeout(END_TIMEOUT, serving).await,
            };
            drop(place);
        })
    }
}

/// What the peer says first; nothing, if the application is the first to speak. The application's words
/// are only looked at.
async fn first_words(left: &mut Rx, right: &mut Rx) -> Result<(Vec<u8>, Detected), Broken> {
    let mut greeted = false;
    loop {
        tokio::select! {
            biased;
            more = left.wait() => {
                more?;
                break;
            }
            spoke = right.spoke(), if !greeted => match spoke {
                Ok(Some(Greeting::Http2)) => greeted = true,
                // How it has ended is seen again by who relays it.
                Ok(Some(Greeting::Http1 | Greeting::Bytes) | None) | Err(_) => {
                    return Ok((Vec::new(), Detected::Opaque));
                }
            },
        }
    }
    let mut first = Vec::new();
    let until = Instant::now() + DETECT_TIMEOUT;
    loop {
        let room = FIRST_BYTES_MAX.saturating_sub(first.len());
        match left.try_pull(room, &mut |data| first.extend_from_slice(data))? {
            Pull::Data => {
                if let Some(kind) = detect(&first) {
                    return Ok((first, kind));
                }
            }
            Pull::Empty => match timeout_at(limit(&first, until), left.wait()).await {
                Ok(waited) => waited?,
                // A few bytes and then silence: whatever it is, it is not HTTP.
                Err(_) => return Ok((first, Detected::Opaque)),
            },
            // What came before the end is all there will be.
            Pull::End(_) => return Ok((first, Detected::Opaque)),
        }
    }
}

/// Hands on what was read to know what it is.
async fn pass(first: &[u8], tx: &mut Tx, meters: &Meters) -> Result<(), Failed> {
    let broke = |broken: Broken| {
        let why = "the application broke it off";
        Failed::new(broken.upstream(), why)
    };
    let mut rest = first;
    while !rest.is_empty() {
        let room = tx.ready().await.map_err(broke)?;
        let (now, later) = rest.split_at(room.min(rest.len()));
        tx.push(now);
        tx.flush();
        meters.sent.add(now.len());
        rest = later;
    }
    Ok(())
}

/// Two ends of a connection inside this process, which no address leads to.
fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let end = |io: UnixStream| {
        io.set_nonblocking(true)?;
        TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(io)))
    };
    let (near, far) = UnixStream::pair()?;
    Ok((end(near)?, end(far)?))
}
