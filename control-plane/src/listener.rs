//! How do proxies connect, and what is known of a connection?
//!
//! TLS 1.3 only. A client certificate is verified if there is one; without one a client can ask for a
//! certificate, and for nothing else. Nobody waits for somebody else's handshake.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::metrics::{Metric, Metrics};
use crate::trust::{Peer, Verifier, identity_of};

/// A handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes that are under way at once ...
const HANDSHAKES_MAX: usize = 1_024;
/// ... and those of one address.
const HANDSHAKES_PER_SOURCE_MAX: usize = 256;
/// Connections at once.
const CONNECTIONS_MAX: usize = 16_384;
/// Connections whose handshake is done and that nobody has taken yet.
const READY_MAX: usize = 64;
/// How long nothing is accepted when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the control plane speaks TLS.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn tls(
    verifier: Verifier,
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    // X25519MLKEM768 is the first of its groups.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed connection would not be verified again: after its root is gone it must not be.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What is known of a connection, for whoever handles its requests.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Who it is, if it showed a certificate.
    pub peer: Option<Peer>,
    /// The certificate above its own.
    pub issuer: Option<CertificateDer<'static>>,
    /// From where.
    pub remote: SocketAddr,
    /// By which it is ended.
    pub cut: Arc<Cut>,
}

/// Ends a connection, whatever it is doing.
#[derive(Debug, Default)]
pub struct Cut {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Cut {
    /// Ends it.
    pub fn cut(&self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        // First leave word, then look: a cut in between is seen by one of the two.
        self.waker.register(cx.waker());
        if self.done.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "cut by the control plane",
            ));
        }
        Ok(())
    }
}

/// A connection that has been verified.
#[derive(Debug)]
pub struct Stream {
    tls: Box<TlsStream<TcpStream>>,
    about: Connection,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Stream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.about.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.about.cut.check(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.about.cut.check(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.about.cut.check(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.about.cut.check(cx)?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Accepts until nobody takes the connections any more. Errors are counted, and never end it.
pub fn accept(
    listener: TcpListener,
    tls: ServerConfig,
    metrics: Arc<Metrics>,
) -> (
    mpsc::Receiver<io::Result<Stream>>,
    impl Future<Output = ()> + Send,
) {
    let (ready, streams) = mpsc::channel(READY_MAX);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(Arc::new(tls)),
        slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        handshakes: JoinSet::new(),
        sources: HashMap::new(),
        ready,
        metrics,
    };
    (streams, acceptor.run(listener))
}

struct Acceptor {
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    /// Each gives back the address that it counts for.
    handshakes: JoinSet<IpAddr>,
    sources: HashMap<IpAddr, usize>,
    ready: mpsc::Sender<io::Result<Stream>>,
    metrics: Arc<Metrics>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        loop {
            let room = self.handshakes.len() < HANDSHAKES_MAX;
            tokio::select! {
                // All are cancel-safe: a connection that is accepted is returned.
                () = self.ready.closed() => return,
                Some(done) = self.handshakes.join_next() => self.done(&done),
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, remote)) => self.begin(stream, remote),
                    Err(error) => self.pause(&error).await,
                },
            }
        }
    }

    /// Some errors are about one connection that is gone already; the others (no file descriptors,
    /// no memory) pass when others end.
    async fn pause(&self, error: &io::Error) {
        self.metrics.count(Metric::AcceptErrors, "");
        let of_one = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
        ];
        if !of_one.contains(&error.kind()) {
            tracing::warn!(%error, "no connection can be accepted for now");
            sleep(ACCEPT_PAUSE).await;
        }
    }

    fn begin(&mut self, stream: TcpStream, remote: SocketAddr) {
        let source = remote.ip().to_canonical();
        let of_source = self.sources.entry(source).or_default();
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return self
                .metrics
                .count(Metric::Handshakes, "too_many_connections");
        };
        if *of_source >= HANDSHAKES_PER_SOURCE_MAX {
            return self
                .metrics
                .count(Metric::Handshakes, "too_many_handshakes");
        }
        *of_source += 1;
        let (tls, ready) = (self.tls.clone(), self.ready.clone());
        let metrics = Arc::clone(&self.metrics);
        self.handshakes.spawn(async move {
            let _ = stream.set_nodelay(true);
            let result = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Err(_) => "timeout",
                Ok(Err(error)) => {
                    tracing::debug!(%remote, %error, "handshake failed");
                    "failed"
                }
                Ok(Ok(stream)) => match verified(stream, remote, slot) {
                    Some(stream) => {
                        // Whoever waits here keeps its place; nobody takes: the process ends.
                        let _ = ready.send(Ok(stream)).await;
                        "done"
                    }
                    None => "failed",
                },
            };
            metrics.count(Metric::Handshakes, result);
            source
        });
    }

    fn done(&mut self, done: &Result<IpAddr, tokio::task::JoinError>) {
        let Ok(source) = done else {
            // A panic is a bug in one handshake; its address keeps the place that it had.
            return tracing::error!("a handshake panicked");
        };
        if let Some(count) = self.sources.get_mut(source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.sources.remove(source);
            }
        }
    }
}

/// Who is behind a connection whose handshake is done.
fn verified(
    tls: TlsStream<TcpStream>,
    remote: SocketAddr,
    slot: OwnedSemaphorePermit,
) -> Option<Stream> {
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match certificates.first() {
        None => None,
        // The verifier has read it already: this can't fail.
        Some(leaf) => Some(identity_of(leaf).ok()?),
    };
    let about = Connection {
        peer,
        issuer: certificates
            .get(1)
            .map(|issuer| issuer.clone().into_owned()),
        remote,
        cut: Arc::default(),
    };
    Some(Stream {
        tls: Box::new(tls),
        about,
        _slot: slot,
    })
}

#[cfg(test)]
mod tests;
