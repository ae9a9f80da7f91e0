//! What does a control plane ask of an API server, and what if it never hears the answer?
//!
//! An HTTP proxy in front of an API server, with a certificate of its authority; behind it everybody is
//! the administrator. It notes what is asked, falls silent after a write, and tells of the past.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_test_clusters::Cluster;
use isthmus_test_clusters::pki::Certificate;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes that wait for the reader of one answer, and of all of a connection: a watch that is not read
/// stops no other.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Watches of one control plane, and more.
const STREAMS_MAX: u32 = 500;

type Body = BoxBody<Bytes, hyper::Error>;
type Answer = anyhow::Result<Response<Body>>;

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query.
    pub query: String,
}

impl Asked {
    /// Is it the first page of a list?
    #[must_use]
    pub fn begins_a_list(&self) -> bool {
        self.method == Method::GET && self.has("limit=") && !self.has("continue=")
    }

    fn watches(&self) -> bool {
        self.method == Method::GET && self.has("watch=")
    }

    fn has(&self, key: &str) -> bool {
        self.query.split('&').any(|part| part.starts_with(key))
    }

    /// Does it change what the API server keeps? What is only asked by POST does not.
    fn writes(&self) -> bool {
        let asks = self.path.ends_with("reviews") || self.path.ends_with("/token");
        self.method != Method::GET && !asks && !self.has("dryRun=")
    }

    fn is_about_a_lease(&self) -> bool {
        self.path.starts_with("/apis/coordination.k8s.io/")
    }
}

/// Writes to all API servers of a mesh, counted together. After the last one that is allowed the API
/// servers answer nothing more: whoever wrote does not hear what became of it.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    inner: Arc<Mutex<Counted>>,
    cut: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Counted {
    /// What was written, in its order: method and path.
    done: Vec<String>,
    /// How many more may pass; `None`: all.
    left: Option<usize>,
    /// Those that have passed and are not answered yet.
    under_way: usize,
    leases: bool,
}

impl Writes {
    /// From now on so many pass, `None`: all. A Lease that is renewed again and again counts only if it
    /// is said to.
    pub fn allow(&self, left: Option<usize>, leases: bool) {
        let mut counted = self.lock();
        (counted.left, counted.leases) = (left, leases);
        self.cut.send_replace(false);
    }

    /// Waits until the last one that is allowed is answered. Cancel-safe.
    pub async fn are_cut(&self) {
        let mut cut = self.cut.subscribe();
        // We hold the sender.
        let _ = cut.wait_for(|cut| *cut).await;
    }

    /// All that were counted, in their order.
    #[must_use]
    pub fn done(&self) -> Vec<String> {
        self.lock().done.clone()
    }

    /// Begins a write. `None`: it is not counted; false: it may not pass.
    fn begin(&self, asked: &Asked) -> Option<bool> {
        let mut counted = self.lock();
        if !asked.writes() || (asked.is_about_a_lease() && !counted.leases) {
            return None;
        }
        if counted.left == Some(0) {
            return Some(false);
        }
        counted.left = counted.left.map(|left| left - 1);
        counted.under_way += 1;
        let Asked { method, path, .. } = asked;
        counted.done.push(format!("{method} {path}"));
        Some(true)
    }

    fn end(&self) {
        let mut counted = self.lock();
        counted.under_way -= 1;
        if counted.under_way == 0 && counted.left == Some(0) {
            self.cut.send_replace(true);
        }
    }

    fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands before an API server.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    writes: Writes,
    view: Mutex<View>,
}

#[derive(Debug, Default)]
struct View {
    asked: Vec<Asked>,
    /// Each list as it was last told, by its path.
    lists: BTreeMap<String, Bytes>,
    past: bool,
}

impl Front {
    /// Stands before a cluster's API server, on a port of loopback.
    ///
    /// # Panics
    /// It can't.
    pub async fn start(cluster: &Cluster, writes: &Writes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port of loopback");
        let address = listener.local_addr().expect("a bound address");
        let (accept, connect) = tls(cluster).expect("certificates of a cluster");
        let shared = Arc::new(Shared {
            to: cluster.server(),
            tls: connect,
            writes: writes.clone(),
            view: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, accept, Arc::clone(&shared)));
        Self {
            address,
            shared,
            serving,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.view().asked.clone()
    }

    /// True: each list is again what it was the last time, and no watch goes on, as behind a cache that
    /// has stood still. What is open stays open.
    pub fn set_past(&self, past: bool) {
        self.shared.view().past = past;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ours towards the control plane, and an administrator's towards the API server.
fn tls(cluster: &Cluster) -> anyhow::Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let parts = |one: &Certificate| -> anyhow::Result<_> {
        let chain = CertificateDer::from_pem_slice(one.certificate.as_bytes())?;
        Ok((
            vec![chain],
            PrivateKeyDer::from_pem_slice(one.key.as_bytes())?,
        ))
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13];
    let (chain, key) = parts(&cluster.pki().server()?)?;
    let mut accept = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(
        cluster.pki().authority().as_bytes(),
    )?)?;
    let (chain, key) = parts(&cluster.admin_certificate()?)?;
    let mut connect = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    accept.alpn_protocols = vec![b"h2".to_vec()];
    connect.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(accept), Arc::new(connect)))
}

async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((io, _)) = listener.accept().await else {
            continue;
        };
        let (tls, shared) = (TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&shared));
        connections.spawn(async move {
            // Whoever asked sees that it has ended, and asks again.
            if let Err(error) = connection(io, &tls, &shared).await {
                tracing::debug!(error = format!("{error:#}"), "a connection has ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(io: TcpStream, tls: &TlsAcceptor, shared: &Arc<Shared>) -> anyhow::Result<()> {
    io.set_nodelay(true)?;
    let near = tls.accept(io).await.context("the handshake")?;
    let far = TcpStream::connect(shared.to)
        .await
        .context("the API server")?;
    far.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let far = TlsConnector::from(Arc::clone(&shared.tls)).connect(name, far);
    let (sender, driver) = client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(far.await?))
        .await?;
    let asking = service_fn(|request| answer(request, sender.clone(), Arc::clone(shared)));
    let serving = server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(near), asking);
    tokio::select! {
        // One end is gone: so is the other.
        done = serving => done.context("towards the control plane"),
        done = driver => done.context("towards the API server"),
    }
}

async fn answer(
    request: Request<Incoming>,
    mut sender: client::conn::http2::SendRequest<Full<Bytes>>,
    shared: Arc<Shared>,
) -> Answer {
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
    };
    let past = {
        let mut view = shared.view();
        view.asked.push(asked.clone());
        view.past.then(|| view.lists.get(&asked.path).cloned())
    };
    let (parts, body) = request.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    if shared.writes.is_cut() {
        return std::future::pending().await;
    }
    if let Some(Some(list)) = past {
        if asked.watches() {
            let gone = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired",
                "message":"too old resource version","code":410}"#;
            return json(410, gone);
        }
        if asked.begins_a_list() {
            return json(200, list);
        }
    }
    let request = Request::from_parts(parts, body);
    match shared.writes.begin(&asked) {
        Some(true) => {}
        Some(false) => return std::future::pending().await,
        None => {
            let answer = sender.send_request(request).await?;
            if !asked.begins_a_list() || asked.watches() || !answer.status().is_success() {
                return Ok(answer.map(Incoming::boxed));
            }
            let (parts, body) = answer.into_parts();
            let list = body.collect().await?.to_bytes();
            shared.view().lists.insert(asked.path, list.clone());
            return Ok(Response::from_parts(parts, whole(list)));
        }
    }
    // It arrives, whether or not somebody waits for the answer.
    let writes = shared.writes.clone();
    let writing = tokio::spawn(async move {
        let answer = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Response::from_parts(parts, whole(body)))
        };
        let answer = answer.await;
        writes.end();
        answer
    });
    let answer = writing.await?;
    if shared.writes.is_cut() {
        return std::future::pending().await;
    }
    answer
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}

fn json(status: u16, body: impl Into<Bytes>) -> Answer {
    let answer = Response::builder().status(status);
    Ok(answer
        .header("content-type", "application/json")
        .body(whole(body.into()))?)
}
