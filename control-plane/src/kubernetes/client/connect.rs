//! How do we get a connection to an API server, and when a new one?

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Inner;
use crate::kubernetes::access::{Access, Certificate, Roots, certificates, read, unfit};
use crate::kubernetes::credential::Held;
use crate::kubernetes::error::{ApiError, tame};

mod unverified;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// One address has so long, if there are others.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that wait for the reader of one answer. All watches of a cluster together fit into the
/// connection's window, so that one that is not read stops no other.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Decoded headers of an answer, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

pub(super) type Sender = http2::SendRequest<Full<Bytes>>;

/// A connection that many questions share.
#[derive(Debug, Default)]
pub(super) struct Line {
    slot: Mutex<Slot>,
    /// Attempts to connect that have ended.
    attempts: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<Open>,
    failed: Option<ApiError>,
}

#[derive(Debug)]
struct Open {
    sender: Sender,
    /// Which attempt it came from.
    number: u64,
    /// The certificate that it shows.
    identity: u64,
}

/// A connection to ask on.
pub(super) struct Taken {
    pub(super) sender: Sender,
    pub(super) number: u64,
    /// Nothing was asked on it yet.
    pub(super) fresh: bool,
}

impl Line {
    /// The connection; a new one if there is none, or if it shows an old certificate.
    pub(super) async fn take(&self, inner: &Inner, held: &Held) -> Result<Taken, ApiError> {
        let before = self.attempts.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if let Some(open) = &slot.open
            && !open.sender.is_closed()
            && open.identity == held.identity
        {
            return Ok(Taken {
                sender: open.sender.clone(),
                number: open.number,
                fresh: false,
            });
        }
        // Whoever waited while somebody else tried takes what came of it: a server that is away
        // costs one timeout, not one for each watch.
        if let Some(error) = &slot.failed
            && self.attempts.load(Ordering::Acquire) != before
        {
            return Err(error.clone());
        }
        let dialed = timeout(inner.settings.connect_timeout, Box::pin(dial(inner, held)))
            .await
            .unwrap_or(Err(ApiError::Silent));
        let number = self.attempts.fetch_add(1, Ordering::AcqRel);
        let (identity, fresh) = (held.identity, true);
        // What an older connection carries, it goes on to carry.
        match dialed {
            Ok(sender) => {
                inner.traffic.connected();
                slot.failed = None;
                slot.open = Some(Open {
                    sender: sender.clone(),
                    number,
                    identity,
                });
                Ok(Taken {
                    sender,
                    number,
                    fresh,
                })
            }
            Err(error) => {
                slot.open = None;
                slot.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Forgets a connection on which a question was lost.
    pub(super) async fn forget(&self, number: u64) {
        let mut slot = self.slot.lock().await;
        if slot.open.as_ref().is_some_and(|open| open.number == number) {
            slot.open = None;
        }
    }
}

async fn dial(inner: &Inner, held: &Held) -> Result<Sender, ApiError> {
    let access = &inner.access;
    let secure = access.server.scheme_str() != Some("http");
    let host = access.server.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let port = access
        .server
        .port_u16()
        .unwrap_or(if secure { 443 } else { 80 });
    let stream = reach(host, port, access.loopback).await?;
    // Small frames should go at once; where that can't be set they go a little later.
    let _ = stream.set_nodelay(true);
    if !secure {
        return speak(inner, stream).await;
    }
    let name = access.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name)
        .map_err(|_| ApiError::Unreachable("the server's name is no name".to_owned()))?;
    let config = tls(access, held.certificate.as_deref()).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| ApiError::Unreachable(format!("TLS: {}", tame(&error.to_string()))))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ApiError::Unreachable("it does not speak HTTP/2".to_owned()));
    }
    speak(inner, stream).await
}

/// A connection to one of the addresses that a name has.
async fn reach(host: &str, port: u16, loopback: bool) -> Result<TcpStream, ApiError> {
    let found = lookup_host((host, port))
        .await
        .map_err(|error| ApiError::Unreachable(format!("{host}: {error}")))?;
    let found: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let mut why = format!("{host} has no address");
    for address in &found {
        // A name is as good as what it is resolved to, each time.
        if let Some(what) = unfit(address.ip(), loopback) {
            why = format!("{host} is {}: {what}, which is not taken", address.ip());
            continue;
        }
        let connecting = TcpStream::connect(address);
        let connected = if found.len() == 1 {
            connecting.await
        } else {
            match timeout(ADDRESS_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    why = format!("{address}: no answer");
                    continue;
                }
            }
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(ApiError::Unreachable(why))
}

/// HTTP/2 on a stream. What drives it ends with the connection, and that with its last user.
async fn speak<T>(inner: &Inner, stream: T) -> Result<Sender, ApiError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let settings = &inner.settings;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(settings.ping_every)
        .keep_alive_timeout(settings.ping_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| lost(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to an API server ended");
        }
    });
    Ok(sender)
}

/// TLS 1.3 with the roots and the certificate of now.
async fn tls(access: &Access, certificate: Option<&Certificate>) -> Result<ClientConfig, ApiError> {
    let broken = |error: &dyn std::fmt::Display| ApiError::Credential(tame(&error.to_string()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(&error))?;
    let given = match &access.roots {
        Roots::Given(roots) => Some(roots.clone()),
        Roots::File(path) => {
            let path = path.clone();
            let reading =
                tokio::task::spawn_blocking(move || read(&path).and_then(|pem| certificates(&pem)));
            let roots = reading.await.map_err(|error| broken(&error))?;
            Some(roots.map_err(ApiError::Credential)?)
        }
        Roots::Unverified => None,
    };
    let builder = match given {
        Some(given) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(given);
            if roots.is_empty() {
                let why = "no root is usable".to_owned();
                return Err(ApiError::Credential(why));
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(unverified::Anybody::new(provider))),
    };
    let mut config = match certificate {
        Some(Certificate { chain, key }) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| broken(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection shows who it is anew.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What a connection's end means.
pub(super) fn lost(error: &hyper::Error) -> ApiError {
    if error.is_timeout() {
        return ApiError::Silent;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    ApiError::Unreachable(tame(&text))
}
