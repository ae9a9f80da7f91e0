//! How is the next hop reached?
//!
//! Every function here takes a `Permit`: what nobody allowed can't be connected.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::hop::NextHop;
use isthmus_proxy_core::http2::{self, Settings};
use isthmus_proxy_core::identify::NotIdentified;
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, Version};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::config::Role;
use crate::h1;
use crate::h2::Session;
use crate::keepalive::{self, Keep};
use crate::relay::Duplex;
use crate::stream::{Broken, Rx, Tx};
use crate::tcp;
use crate::tls::{client_config, not_identified};
use crate::transport::Transport;
use crate::transport::tls::Tls;
use crate::tunnel::{self, Peer};
use crate::worker::Worker;

mod gateways;
mod names;
mod refused;

pub use self::names::Names;
use gateways::through_gateway;
pub use refused::{NotOpened, reason};

/// Where a request or connection goes next.
#[derive(Debug, Clone)]
pub enum Hop {
    /// Another workload, as discovery describes it.
    Next {
        /// The way to it.
        hop: NextHop,
        /// Does it get HTTP/2, if there is no tunnel?
        http2: bool,
    },
    /// The application beside us.
    Application {
        /// Its port.
        port: u16,
        /// Does it get HTTP/2?
        http2: bool,
    },
    /// A destination that the mesh doesn't know, as it is.
    Through(SocketAddr),
}

impl Hop {
    /// For the access log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Next {
                hop: NextHop::Plain { .. },
                ..
            } => "plain",
            Self::Next {
                hop: NextHop::Tunnel { .. },
                ..
            } => "tunnel",
            Self::Next {
                hop: NextHop::ViaGateway { .. },
                ..
            } => "gateway",
            Self::Application { .. } => "application",
            Self::Through(_) => "passthrough",
        }
    }
}

/// A request that is on its way: its head is sent.
#[derive(Debug)]
pub struct Upstream {
    /// What comes back.
    pub rx: Rx,
    /// Where the body goes.
    pub tx: Tx,
    /// It is a kept connection: its server may have closed it just now.
    pub reused: bool,
    /// Where the connection is kept for the next request.
    pub home: Option<SocketAddr>,
    /// A proxy of the mesh is at its other end: what it says for the mesh counts.
    pub peer: bool,
}

/// Sends a request's head to the hop. `end`: there is no body.
///
/// # Errors
/// The hop could not be reached.
pub async fn request(
    worker: &Rc<Worker>,
    permit: &Permit,
    hop: &Hop,
    (head, end): (&RequestHead, bool),
    limit: Duration,
) -> Result<Upstream, Failure> {
    match hop {
        Hop::Next {
            hop: NextHop::Plain { address },
            http2,
        } => application(worker, permit, (*address, *http2), (head, end), limit).await,
        Hop::Through(address) => {
            application(worker, permit, (*address, false), (head, end), limit).await
        }
        Hop::Application { port, http2 } => {
            let address = SocketAddr::new(worker.shared.config.application, *port);
            application(worker, permit, (address, *http2), (head, end), limit).await
        }
        Hop::Next { hop: next, .. } => {
            // A tunnel may go away between finding and using it.
            for _ in 0..2 {
                let session = tunnel_to(worker, permit, next, limit).await?;
                match session.open(head, end, limit).await {
                    Ok((rx, tx)) => {
                        return Ok(Upstream {
                            rx: Rx::H2(rx),
                            tx: Tx::H2(tx),
                            reused: false,
                            home: None,
                            peer: true,
                        });
                    }
                    Err(Broken::Refused) => {}
                    Err(broken) => return Err(not_opened(broken)),
                }
            }
            Err(Failure::UpstreamRefused)
        }
    }
}

/// Why there is no stream for a request.
fn not_opened(broken: Broken) -> Failure {
    match broken {
        // As many streams as the peer allows, for as long as a connection may take.
        Broken::Timeout => Failure::Overflow,
        Broken::Reset(_) | Broken::Refused | Broken::Malformed(_) => broken.upstream(),
    }
}

/// A request to an address without a tunnel.
async fn application(
    worker: &Rc<Worker>,
    permit: &Permit,
    (address, http2): (SocketAddr, bool),
    (head, end): (&RequestHead, bool),
    limit: Duration,
) -> Result<Upstream, Failure> {
    if http2 {
        for _ in 0..2 {
            let open = async || plain_session(worker, permit, address, limit).await;
            let session = worker.apps.session(address, open).await?;
            match session.open(head, end, limit).await {
                Ok((rx, tx)) => {
                    return Ok(Upstream {
                        rx: Rx::H2(rx),
                        tx: Tx::H2(tx),
                        reused: false,
                        home: None,
                        peer: false,
                    });
                }
                Err(Broken::Refused) => {}
                Err(broken) => return Err(not_opened(broken)),
            }
        }
        return Err(Failure::UpstreamRefused);
    }
    let (kept, reused) = (worker.apps.take(address), true);
    let ((rx, mut tx), reused) = match kept {
        Some(halves) => (halves, reused),
        None => (
            h1::split(
                Box::pin(dial(permit, address, None, limit)).await?,
                Vec::new(),
            ),
            false,
        ),
    };
    tx.request(head);
    let mut tx = Tx::H1(tx);
    if end {
        tx.finish(&Fields::default());
    }
    Ok(Upstream {
        rx: Rx::H1(rx),
        tx,
        reused,
        home: Some(address),
        peer: false,
    })
}

/// HTTP/2 in the clear: to the application beside us, or to a host without a proxy.
async fn plain_session(
    worker: &Rc<Worker>,
    permit: &Permit,
    address: SocketAddr,
    limit: Duration,
) -> Result<Rc<Session>, Failure> {
    let io = dial(permit, address, None, limit).await?;
    if address.ip() != worker.shared.config.application {
        keepalive::ask_by_tcp(&io);
    }
    let transport = Transport::Plain(io);
    let session = Session::start(transport, http2::Role::Client, Settings::default());
    session.count_in(&worker.shared.telemetry);
    worker.keepalive.watch(&session, Keep::Upstream);
    Ok(session)
}

/// Opens a byte stream to the hop. `target`: the pod's address and port.
///
/// # Errors
/// The hop could not be reached, or refused.
pub async fn bytes(
    worker: &Rc<Worker>,
    permit: &Permit,
    hop: &Hop,
    target: SocketAddr,
    limit: Duration,
) -> Result<Duplex, NotOpened> {
    let address = match hop {
        Hop::Next {
            hop: NextHop::Plain { address },
            ..
        }
        | Hop::Through(address) => *address,
        Hop::Application { port, .. } => SocketAddr::new(worker.shared.config.application, *port),
        Hop::Next { hop, .. } => return connect_stream(worker, permit, hop, target, limit).await,
    };
    // A gateway speaks for itself; a sidecar's plain connections leave as the system chooses.
    let source = worker
        .shared
        .config
        .source
        .filter(|_| worker.shared.config.role == Role::Gateway);
    let (rx, tx) = tcp::split(dial(permit, address, source, limit).await?);
    Ok(Duplex {
        rx: Rx::Tcp(rx),
        tx: Tx::Tcp(tx),
    })
}

/// CONNECT through a tunnel (RFC 9113 §8.5, HBONE).
async fn connect_stream(
    worker: &Rc<Worker>,
    permit: &Permit,
    next: &NextHop,
    target: SocketAddr,
    limit: Duration,
) -> Result<Duplex, NotOpened> {
    let head = RequestHead {
        method: Method::Connect,
        version: Version::Http2,
        https: false,
        authority: target.to_string().into_bytes(),
        path: Vec::new(),
        protocol: Vec::new(),
        fields: Fields::default(),
        body: BodyLength::Marked,
        keep_alive: true,
        expects_continue: false,
    };
    let hop = Hop::Next {
        hop: next.clone(),
        http2: false,
    };
    let upstream = request(worker, permit, &hop, (&head, false), limit).await?;
    let Rx::H2(mut rx) = upstream.rx else {
        return Err(Failure::Internal.into());
    };
    let answer = timeout(limit, rx.head())
        .await
        .map_err(|_| Failure::ConnectTimeout)?
        .map_err(Broken::upstream)?;
    let failure = match answer.status {
        200..=299 => {
            return Ok(Duplex {
                rx: Rx::H2(rx),
                tx: upstream.tx,
            });
        }
        403 => Failure::Denied,
        504 => Failure::ConnectTimeout,
        _ => Failure::ConnectFailed,
    };
    Err(NotOpened::by(failure, &answer))
}

/// The tunnel to a hop.
async fn tunnel_to(
    worker: &Rc<Worker>,
    permit: &Permit,
    next: &NextHop,
    limit: Duration,
) -> Result<Rc<Session>, Failure> {
    match next {
        NextHop::Plain { .. } => Err(Failure::Internal),
        NextHop::Tunnel {
            address,
            sni,
            identity,
        } => {
            let peer = Peer::Direct(*address);
            let open = async || {
                certificate(worker)?;
                let name = sni
                    .clone()
                    .unwrap_or_else(|| identity.trust_domain().as_str().into());
                let io = dial(permit, *address, worker.shared.config.source, limit).await?;
                handshake(worker, io, &name, identity, limit).await
            };
            worker.tunnels.get(peer, identity, open).await
        }
        NextHop::ViaGateway {
            gateways,
            sni,
            identity,
        } => {
            let peer = Peer::Behind(Arc::clone(sni));
            let open = async || {
                certificate(worker)?;
                through_gateway(worker, permit, gateways, (sni, identity), limit).await
            };
            worker.tunnels.get(peer, identity, open).await
        }
    }
}

/// Without one no peer takes us: that says nothing of the peer.
fn certificate(worker: &Worker) -> Result<(), Failure> {
    match worker.shared.tls.shown() {
        Some(_) => Ok(()),
        None => Err(Failure::NoCertificate),
    }
}

async fn dial(
    _permit: &Permit,
    address: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let connect = async {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source.filter(|s| s.is_ipv4() == address.is_ipv4()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.set_nodelay(true)?;
        socket.connect(address).await
    };
    match timeout(limit, connect).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(_)) => Err(Failure::ConnectFailed),
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

/// TLS to exactly this identity, then HTTP/2.
async fn handshake(
    worker: &Rc<Worker>,
    io: TcpStream,
    name: &str,
    identity: &SpiffeId,
    limit: Duration,
) -> Result<Rc<Session>, Failure> {
    let config = client_config(&worker.shared.tls, identity).map_err(|_| Failure::Internal)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Failure::Internal)?;
    // Two round trips and two signatures: more than a bare connect, so twice its time.
    let tls = match timeout(limit * 2, Tls::connect(&io, config, name)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            worker.shared.telemetry.metrics.handshakes_failed.inc();
            tracing::debug!(%error, %identity, "handshake with an upstream failed");
            return Err(blame(&error));
        }
        Err(_) => return Err(Failure::ConnectTimeout),
    };
    if tls.alpn() != Some(b"h2") {
        return Err(Failure::UpstreamProtocol("TLS without the protocol h2"));
    }
    let chain = tls.chain();
    let transport = Transport::Tls(io, tls.into());
    let settings = tunnel::settings(worker.shared.config.streams_per_tunnel);
    let session = Session::start(transport, http2::Role::Client, settings);
    session.count_in(&worker.shared.telemetry);
    worker.connections.believe(&session, chain);
    worker.keepalive.watch(&session, Keep::Tunnel);
    Ok(session)
}

fn blame(error: &std::io::Error) -> Failure {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner.and_then(not_identified) {
        Some(NotIdentified::Unexpected { .. }) => Failure::IdentityMismatch,
        Some(_) | None => Failure::ConnectFailed,
    }
}
