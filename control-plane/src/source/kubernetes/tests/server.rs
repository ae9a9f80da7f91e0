//! What does an API server say, in tests? Lists and watches over a store, until a script says else.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

pub(super) type Answer = Response<BoxBody<Bytes, Infallible>>;
/// What a test wants to be answered; `None`: what the store says.
type Script = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// How many times this was asked before: lists and watches of a path are counted apart.
    pub(super) before: usize,
}

impl Asked {
    pub(super) fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }

    pub(super) fn lists(&self, plural: &str) -> bool {
        !self.is_watch() && self.path.ends_with(&format!("/{plural}"))
    }

    pub(super) fn watches(&self, plural: &str) -> bool {
        self.is_watch() && self.path.ends_with(&format!("/{plural}"))
    }
}

/// What the server has.
#[derive(Default)]
struct Store {
    version: u64,
    served: BTreeSet<String>,
    objects: BTreeMap<(String, String), Value>,
    /// Version, collection, line.
    history: Vec<(u64, String, String)>,
    compacted: u64,
}

struct Shared {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    script: Mutex<Arc<Script>>,
    asked: Mutex<Vec<Asked>>,
}

/// A server that runs until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinSet<()>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let mut store = Store {
            version: 10,
            ..Store::default()
        };
        let core = ["nodes", "namespaces", "pods", "services", "configmaps"]
            .map(|p| format!("/api/v1/{p}"));
        store.served.extend(core);
        for path in [
            "discovery.k8s.io/v1/endpointslices",
            "isthmus.dev/v1alpha1/accesspolicies",
        ] {
            store.served.insert(format!("/apis/{path}"));
        }
        let shared = Arc::new(Shared {
            store: Mutex::new(store),
            changed: watch::Sender::new(0),
            script: Mutex::new(Arc::new(|_| None)),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Self {
            address,
            shared,
            serving: JoinSet::new(),
        };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
    }

    /// Cuts every connection, and takes no new ones.
    pub(super) async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// Is there again, at the same address.
    pub(super) async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    pub(super) fn script(&self, script: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Serves another collection, or none of this path any more.
    pub(super) fn serves(&self, path: &str, whether: bool) {
        let mut store = self.shared.store.lock().unwrap();
        if whether {
            store.served.insert(path.to_owned());
        } else {
            store.served.remove(path);
        }
    }

    /// Writes an object as a server does: with a version, and a uid if it is a new one.
    pub(super) fn put(&self, path: &str, mut object: Value) -> u64 {
        let mut store = self.shared.store.lock().unwrap();
        store.version += 1;
        let version = store.version;
        let key = (path.to_owned(), name(&object));
        let old = store
            .objects
            .get(&key)
            .map(|old| old["metadata"]["uid"].clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        object["metadata"]["uid"] = old.unwrap_or_else(|| json!(format!("uid-{version}")));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let line = json!({ "type": kind, "object": object }).to_string();
        store.history.push((version, path.to_owned(), line));
        store.objects.insert(key, object);
        drop(store);
        self.shared.changed.send_replace(version);
        version
    }

    pub(super) fn delete(&self, path: &str, name: &str) {
        let mut store = self.shared.store.lock().unwrap();
        store.version += 1;
        let version = store.version;
        let mut object = store
            .objects
            .remove(&(path.to_owned(), name.to_owned()))
            .unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let line = json!({ "type": "DELETED", "object": object }).to_string();
        store.history.push((version, path.to_owned(), line));
        drop(store);
        self.shared.changed.send_replace(version);
    }

    /// Forgets what was: whoever watches from before gets 410.
    pub(super) fn compact(&self) {
        let mut store = self.shared.store.lock().unwrap();
        store.compacted = store.version;
        store.history.clear();
    }

    pub(super) fn list_of(&self, path: &str) -> Value {
        self.shared.store.lock().unwrap().list(path, 0, usize::MAX)
    }
}

fn name(object: &Value) -> String {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    format!("{}/{}", text("namespace"), text("name"))
}

impl Store {
    fn list(&self, path: &str, from: usize, limit: usize) -> Value {
        let all = self
            .objects
            .iter()
            .filter(|((at, _), _)| at == path)
            .map(|(_, object)| object);
        let items: Vec<&Value> = all.clone().skip(from).take(limit).collect();
        let end = from + items.len();
        let token = if end < all.count() {
            end.to_string()
        } else {
            String::new()
        };
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": token });
        json!({ "metadata": metadata, "items": items })
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let query = request.uri().query().unwrap_or_default().split('&');
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut asked = Asked {
        path: request.uri().path().to_owned(),
        query: query.filter(|text| !text.is_empty()).map(pair).collect(),
        before: 0,
    };
    let script = {
        let mut all = shared.asked.lock().unwrap();
        let same = |old: &&Asked| old.path == asked.path && old.is_watch() == asked.is_watch();
        asked.before = all.iter().filter(same).count();
        all.push(asked.clone());
        Arc::clone(&shared.script.lock().unwrap())
    };
    if let Some(answer) = script(&asked) {
        return Ok(answer);
    }
    Ok(usual(&shared, &asked))
}

fn usual(shared: &Arc<Shared>, asked: &Asked) -> Answer {
    let store = shared.store.lock().unwrap();
    if !store.served.contains(&asked.path) {
        return status(404, "the server could not find the requested resource");
    }
    let number = |key: &str| {
        asked
            .query
            .get(key)
            .and_then(|text| text.parse::<u64>().ok())
    };
    if !asked.is_watch() {
        let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap());
        let (from, limit) = (
            usize::try_from(from).unwrap(),
            usize::try_from(limit).unwrap(),
        );
        return whole(200, store.list(&asked.path, from, limit).to_string());
    }
    let from = number("resourceVersion").unwrap();
    if from < store.compacted {
        let gone = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "old" });
        let line = json!({ "type": "ERROR", "object": gone });
        return whole(200, format!("{line}\n"));
    }
    let (send, answer) = stream();
    let (shared, path) = (Arc::clone(shared), asked.path.clone());
    tokio::spawn(follow(shared, path, from, send));
    answer
}

/// Sends what happens after a version, until nobody reads it.
async fn follow(shared: Arc<Shared>, path: String, mut from: u64, send: mpsc::Sender<Bytes>) {
    let mut changed = shared.changed.subscribe();
    loop {
        let lines: Vec<String> = {
            let store = shared.store.lock().unwrap();
            let news = store
                .history
                .iter()
                .filter(|(at, of, _)| *at > from && *of == path);
            let lines = news.map(|(_, _, line)| format!("{line}\n")).collect();
            from = store.version;
            lines
        };
        for line in lines {
            if send.send(Bytes::from(line)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = send.closed() => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// An answer that is whole.
pub(super) fn whole(code: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).boxed();
    Response::builder().status(code).body(body).unwrap()
}

pub(super) fn status(code: u16, message: &str) -> Answer {
    let body = json!({ "kind": "Status", "code": code, "message": message });
    whole(code, body.to_string())
}

/// An answer that comes as it is sent.
pub(super) fn stream() -> (mpsc::Sender<Bytes>, Answer) {
    let (send, receive) = mpsc::channel(4);
    let frames = ReceiverStream::new(receive).map(|data| Ok(Frame::data(data)));
    (send, Response::new(StreamBody::new(frames).boxed()))
}
