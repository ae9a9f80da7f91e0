//! How do API servers behave that have a hundred thousand pods and no etcd?
//!
//! Lists in pages and watches with bookmarks over HTTP/2, without TLS; tokens of pods are accepted as
//! they are written.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::time::interval;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::Outcome;
use crate::hostile::{self, Hostile};
use crate::objects::{self, Size, Slice};
use crate::real::Real;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Every watch hears of the version so often.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// Events that a slow watch may be behind.
const EVENTS_MAX: usize = 65_536;
/// Where the slices are.
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// All API servers.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) size: Size,
    pub(crate) servers: Vec<Server>,
    paused: watch::Sender<bool>,
    /// Real ones, in the place of ours.
    real: Option<Real>,
    /// Those that mean harm.
    hostile: tokio::sync::Mutex<Vec<Hostile>>,
    /// Changes under way: the endpoint's name, and since when.
    pub(crate) waiting: Mutex<BTreeMap<String, Instant>>,
    /// How long the others took.
    pub(crate) arrived: Mutex<Vec<Duration>>,
    /// When the first of them was told something.
    first: Mutex<Option<Instant>>,
    /// Where proxies find the control plane.
    pub(crate) control: watch::Sender<SocketAddr>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kubeconfig: String,
    version: AtomicU64,
    /// The slices that have changed, by service.
    slices: Mutex<BTreeMap<usize, Slice>>,
    /// Lines of the watch of slices.
    events: broadcast::Sender<Bytes>,
}

impl Server {
    fn new(kubeconfig: String) -> Self {
        Self {
            kubeconfig,
            version: AtomicU64::new(2),
            slices: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
        }
    }

    fn slice(&self, service: usize) -> Slice {
        let slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        slices.get(&service).cloned().unwrap_or_default()
    }

    /// A pod is ready if it was not, and the other way round.
    fn turn(&self, service: usize, pod: usize) -> Slice {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let slice = slices.entry(service).or_default();
        slice.version = version;
        if !slice.down.remove(&pod) {
            slice.down.insert(pod);
        }
        slice.clone()
    }
}

impl Fleet {
    /// Of a process that plays a part only.
    pub(crate) fn alone(size: Size) -> Arc<Self> {
        Arc::new(Self::new(size, Vec::new(), (None, Vec::new())))
    }

    fn new(size: Size, servers: Vec<Server>, others: (Option<Real>, Vec<Hostile>)) -> Self {
        Self {
            size,
            servers,
            paused: watch::Sender::new(false),
            real: others.0,
            hostile: others.1.into(),
            waiting: Mutex::default(),
            arrived: Mutex::default(),
            first: Mutex::default(),
            control: watch::Sender::new(([127, 0, 0, 1], 1).into()),
        }
    }

    /// They do not answer any more, as far as anybody sees.
    pub(crate) async fn pause(&self) -> Outcome {
        self.set_paused(true);
        self.pause_hostile(true).await?;
        match &self.real {
            Some(real) => real.stop().await,
            None => Ok(()),
        }
    }

    /// They are there again.
    pub(crate) async fn resume(&self) -> Outcome {
        self.set_paused(false);
        self.pause_hostile(false).await?;
        match &self.real {
            Some(real) => real.resume().await,
            None => Ok(()),
        }
    }

    async fn pause_hostile(&self, paused: bool) -> Outcome {
        for one in self.hostile.lock().await.iter_mut() {
            one.pause(paused).await?;
        }
        Ok(())
    }

    /// Those of this process.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Turns a pod; of a slice only one at a time. False: it was turned before, and that has not arrived: the
    /// two would be one change to the proxy, or none.
    pub(crate) async fn change(&self, (service, pod): (usize, usize)) -> Outcome<bool> {
        let (cluster, number) = self.size.place(service);
        let server = self.servers.get(cluster).ok_or("no such cluster")?;
        let name = format!(
            "{}#{}",
            objects::subscription(cluster, number),
            objects::workload(cluster, number, pod)
        );
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.contains_key(&name) {
                return Ok(false);
            }
            waiting.insert(name, Instant::now());
        }
        let state = server.turn(number, pod);
        let object = objects::slice(self.size, (cluster, number), &state);
        if let Some(real) = &self.real {
            real.write(cluster, SLICES, object).await?;
        } else {
            let line = json!({ "type": "MODIFIED", "object": object });
            // Nobody watches: nobody is told.
            let _ = server.events.send(Bytes::from(format!("{line}\n")));
        }
        Ok(true)
    }

    /// How many changes have not arrived yet.
    pub(crate) fn waiting(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.len()
    }

    /// A token of a pod.
    pub(crate) async fn token(
        &self,
        cluster: usize,
        (account, pod): (&str, &str),
    ) -> Outcome<String> {
        match &self.real {
            Some(real) => real.token(cluster, (account, pod)).await,
            None => Ok(token(account, pod)),
        }
    }

    pub(crate) fn is_real(&self) -> bool {
        self.real.is_some()
    }

    /// Ends real ones.
    pub(crate) async fn end(&self) -> Outcome {
        match &self.real {
            Some(real) => real.end().await,
            None => Ok(()),
        }
    }

    /// A proxy was told something.
    pub(crate) fn told(&self) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(Instant::now);
    }

    /// When the first proxy was told something since the last time that this was asked.
    pub(crate) fn first_told(&self) -> Option<Instant> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take()
    }

    /// Notes that a change has arrived at a proxy.
    pub(crate) fn arrive(&self, endpoint: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = waiting.remove(endpoint) {
            drop(waiting);
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            arrived.push(since.elapsed());
        }
    }
}

/// Starts them, each on a port of its own. `None`, and said: real ones are wanted, and their programs are not here.
pub(crate) async fn start(size: Size) -> Outcome<Option<Arc<Fleet>>> {
    let (mut listeners, mut servers, mut hostile) = (Vec::new(), Vec::new(), Vec::new());
    let mut real = None;
    if size.real {
        let Some(started) = Real::start(size).await? else {
            return Ok(None);
        };
        servers.extend(started.kubeconfigs().await?.into_iter().map(Server::new));
        real = Some(started);
    } else {
        for _ in 0..size.clusters {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            servers.push(Server::new(kubeconfig(listener.local_addr()?)));
            listeners.push(listener);
        }
        for _ in 0..size.hostile {
            let one = Hostile::start(size).await?;
            servers.push(Server::new(kubeconfig(one.address)));
            hostile.push(one);
        }
    }
    let fleet = Arc::new(Fleet::new(size, servers, (real, hostile)));
    for (cluster, listener) in listeners.into_iter().enumerate() {
        tokio::spawn(accept(Arc::clone(&fleet), cluster, listener));
    }
    Ok(Some(fleet))
}

fn kubeconfig(server: SocketAddr) -> String {
    let all = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": format!("http://{server}") } }],
        "users": [{ "name": "it", "user": {} }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    all.to_string()
}

pub(crate) async fn accept(fleet: Arc<Fleet>, cluster: usize, listener: TcpListener) {
    let mut paused = fleet.paused.subscribe();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        if *paused.borrow_and_update() {
            continue;
        }
        let (of_service, mut paused) = (Arc::clone(&fleet), paused.clone());
        let service = service_fn(move |request| {
            let fleet = Arc::clone(&of_service);
            async move { Ok::<_, Infallible>(answer(&fleet, cluster, request).await) }
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let gone = AtomicBool::new(false);
            tokio::select! {
                // Dropped: the connection is cut.
                _ = serving => {}
                _ = paused.wait_for(|paused| *paused) => gone.store(true, Ordering::SeqCst),
            }
        });
    }
}

async fn answer(fleet: &Arc<Fleet>, cluster: usize, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    if head.method == Method::POST && path.ends_with("/tokenreviews") {
        let body = body.collect().await.map(|all| all.to_bytes());
        return review(&body.unwrap_or_default());
    }
    if path == "/api/v1/namespaces/kube-system" {
        let uid = format!("kube-system-{cluster}");
        return whole(
            StatusCode::OK,
            &json!({ "metadata": { "name": "kube-system", "uid": uid } }),
        );
    }
    let number = |key: &str| -> Option<usize> {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key)?.1.parse().ok()
    };
    let from = number("continue").unwrap_or(0);
    if cluster >= fleet.size.clusters {
        return hostile::answer(fleet, path, query, from);
    }
    let collections = objects::collections(fleet.size);
    let Some((path, count)) = collections.into_iter().find(|(at, _)| *at == path) else {
        let status = json!({ "kind": "Status", "code": 404, "reason": "NotFound", "message": "no such kind" });
        return whole(StatusCode::NOT_FOUND, &status);
    };
    if query.contains("watch=") {
        return watching(fleet, cluster, path);
    }
    let limit = number("limit").unwrap_or(500);
    list(
        fleet,
        (cluster, path),
        (from, limit.min(count - from.min(count))),
        count,
    )
}

/// One page.
fn list(
    fleet: &Fleet,
    (cluster, path): (usize, &str),
    (from, limit): (usize, usize),
    count: usize,
) -> Response<Body> {
    let end = from + limit;
    let more = if end < count {
        end.to_string()
    } else {
        String::new()
    };
    let server = fleet.servers.get(cluster);
    let version = server.map_or(1, |server| server.version.load(Ordering::SeqCst));
    let item = |number| match server.filter(|_| path == SLICES) {
        Some(server) => objects::slice(fleet.size, (cluster, number), &server.slice(number)),
        None => objects::object(fleet.size, path, cluster, number),
    };
    let items: Vec<Value> = (from..end).map(item).collect();
    let metadata = json!({ "resourceVersion": version.to_string(), "continue": more });
    whole(
        StatusCode::OK,
        &json!({ "metadata": metadata, "items": items }),
    )
}

fn watching(fleet: &Arc<Fleet>, cluster: usize, path: &'static str) -> Response<Body> {
    let (send, receive) = tokio::sync::mpsc::channel(64);
    let fleet = Arc::clone(fleet);
    tokio::spawn(async move {
        let Some(server) = fleet.servers.get(cluster) else {
            return;
        };
        let mut events = server.events.subscribe();
        let mut bookmarks = interval(BOOKMARK_EVERY);
        loop {
            let line = tokio::select! {
                _ = bookmarks.tick() => bookmark(server.version.load(Ordering::SeqCst)),
                line = events.recv(), if path == SLICES => match line {
                    Ok(line) => line,
                    Err(_) => return,
                },
            };
            if send.send(line).await.is_err() {
                return;
            }
        }
    });
    let frames = ReceiverStream::new(receive).map(|line| Ok(Frame::data(line)));
    Response::new(BoxBody::new(StreamBody::new(frames)))
}

fn bookmark(version: u64) -> Bytes {
    let meta = json!({ "metadata": { "resourceVersion": version.to_string() } });
    Bytes::from(format!(
        "{}\n",
        json!({ "type": "BOOKMARK", "object": meta })
    ))
}

/// The token says who it is; see [`token`].
fn review(body: &[u8]) -> Response<Body> {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let token = asked.pointer("/spec/token").and_then(Value::as_str);
    let payload = token.and_then(|token| URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok());
    let said: Value = serde_json::from_slice(&payload.unwrap_or_default()).unwrap_or_default();
    let status = json!({
        "authenticated": true, "audiences": asked.pointer("/spec/audiences"),
        "user": {
            "username": said["username"],
            "extra": { "authentication.kubernetes.io/pod-name": [said["pod"]] },
        },
    });
    whole(StatusCode::CREATED, &json!({ "status": status }))
}

/// A token that is accepted.
fn token(account: &str, pod: &str) -> String {
    // 2100-01-01.
    let payload = json!({
        "exp": 4_102_444_800_u64, "pod": pod,
        "username": format!("system:serviceaccount:shop:{account}"),
    });
    format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

pub(crate) fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = status;
    response
}
