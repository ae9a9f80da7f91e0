//! How does a unit test get a worker without a mesh around it?

use isthmus_proto::locality::Locality;
use isthmus_proxy_core::authorize::{PolicySet, PolicyTable};
use isthmus_proxy_core::balance::Me;
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, Version};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::RawConfig;
use crate::tls::{provider, server_config};

/// What a test holds of a worker's surroundings.
pub(crate) struct Bench {
    pub(crate) worker: Rc<Worker>,
    pub(crate) _snapshots: watch::Sender<Arc<Snapshot>>,
    /// The time of its drain is over.
    pub(crate) cut: watch::Sender<bool>,
}

/// A worker beside an application on 127.0.0.1 that anybody may call.
pub(crate) fn bench() -> Bench {
    bench_with(&json!({}))
}

/// The same with keys of its configuration.
pub(crate) fn bench_with(more: &Value) -> Bench {
    // Somebody else in this process may have been first, with the same.
    let _ = rustls::crypto::CryptoProvider::install_default((*provider()).clone());
    let mut raw = json!({
        "role": "sidecar", "cluster": "east", "network": "east-net", "namespace": "shop",
        "pod": "cart-1", "service_account": "cart", "token_file": "t", "state_dir": "s",
        "control_plane": { "address": "127.0.0.1:1", "roots_file": "r" }, "listen": {},
    });
    let more = more.as_object().cloned().unwrap_or_default();
    raw.as_object_mut().unwrap().extend(more);
    let raw: RawConfig = serde_json::from_value(raw).unwrap();
    let config = raw.build().unwrap();
    let me = Me {
        cluster: config.cluster.clone(),
        network: config.network.clone(),
        locality: Locality::default(),
    };
    let open = Snapshot {
        policies: Arc::new(PolicySet::Known(PolicyTable::default())),
        ..Snapshot::empty(me)
    };
    let (sender, snapshots) = watch::channel(Arc::new(open));
    let tls = Arc::new(TlsStore::default());
    let (cut, cut_seen) = watch::channel(false);
    let shared = Shared {
        server: server_config(&tls).unwrap(),
        telemetry: Arc::new(Telemetry::new(config.workload.to_string(), None)),
        config,
        bound: OnceLock::new(),
        tls,
        snapshots,
        wants: mpsc::channel(1).0,
        draining: watch::channel(false).1,
        cut: cut_seen,
        origin: Instant::now(),
    };
    Bench {
        worker: Worker::new(Arc::new(shared), 1),
        _snapshots: sender,
        cut,
    }
}

/// Both ends of a connection.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// The head of a request over HTTP/2 with a body, and with these fields.
pub(crate) fn post(fields: Fields) -> RequestHead {
    RequestHead {
        method: Method::Post,
        version: Version::Http2,
        https: false,
        authority: b"cart".to_vec(),
        path: b"/".to_vec(),
        protocol: Vec::new(),
        fields,
        body: BodyLength::Marked,
        keep_alive: true,
        expects_continue: false,
    }
}

/// What is read until the connection ends, however it ends.
pub(crate) async fn rest(io: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    // A reset is an end, too.
    let _ = io.read_to_end(&mut seen).await;
    seen
}

/// `cargo test --release -p isthmus-proxy --lib -- --ignored --nocapture measure_a_read`
#[test]
#[ignore = "a measurement"]
fn measure_a_read_of_the_tables() {
    const READS: u32 = 10_000_000;
    let bench = bench();
    let begun = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(bench.worker.snapshot());
    }
    println!(
        "{:.1} ns",
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
    );
}
