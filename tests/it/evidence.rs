//! What does a call say of the pod that it went to?

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, Reply, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::protocols::AT_ONCE;

/// Each answer is looked at, and nothing is ejected.
const TWO_RETRIES: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}
  outlierDetection: {consecutiveFailures: 0}
  retries: {attempts: 2}
";

/// Of what the one caller has seen of the one pod.
async fn seen(mesh: &Mesh, what: &str) -> u64 {
    let config = mesh.proxy("east/web-1").json("/config").await;
    let services = config["services"].as_array().unwrap();
    let endpoints = services.iter().filter_map(|s| s["endpoints"].as_array());
    let counts = endpoints
        .flatten()
        .filter_map(|e| e["stats"][what].as_u64());
    counts.sum()
}

/// Three tries are three failures: the last one is not told twice.
#[tokio::test]
async fn each_failed_try_counts_once() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .manifest("traffic.yaml", TWO_RETRIES)
                .service("cart", 1)
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(seen(&mesh, "failures").await, 0);
    // Nobody is there to be connected to, so whatever was asked is asked again.
    mesh.proxy_mut("east/cart-1").stop().await;
    for requests in 1..=2 {
        assert_eq!(client.post("/", "x").await.status, 503);
        assert_eq!(seen(&mesh, "failures").await, 3 * requests);
        assert_eq!(seen(&mesh, "attempts").await, 1 + 3 * requests);
    }
}

/// Switches to whatever it is asked for, and says a word.
fn agreeable() -> App {
    App::custom(|mut io, record| async move {
        let mut head = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut head).await {
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            record.request(head.clone());
            let upgrade = head.lines().find_map(|l| l.strip_prefix("upgrade: "));
            let answer = match upgrade {
                Some(to) => format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {to}\r\n\r\nword"
                ),
                None => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            };
            if io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}

async fn upgrades(client: &Client, to: &str) {
    let mut io = timeout(AT_ONCE, client.upgrade(to)).await.unwrap().unwrap();
    let mut word = [0; 4];
    let read = timeout(AT_ONCE, io.read_exact(&mut word));
    read.await.expect("a word").unwrap();
    assert_eq!(&word, b"word", "{to}");
}

/// RFC 9110 §7.8: a protocol may have a version; and who asks for one harms no pod.
#[tokio::test]
async fn an_upgrade_to_a_version_of_a_protocol_travels_as_it_is() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("http", 80, "http", agreeable()))
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    for to in ["foo/1", "foo", "a.b/c.d"] {
        upgrades(&client, to).await;
        let heads = mesh.app("west/cart-1").record.heads();
        let upgrade = format!("upgrade: {to}\r\n");
        assert!(heads.last().unwrap().contains(&upgrade), "{heads:?}");
    }
    assert_eq!(seen(&mesh, "failures").await, 0);
}

/// A call of gRPC, and the status that came of it.
async fn called(client: &Client, path: &str) -> (Reply, String) {
    let mut sender = client.http2().await.unwrap();
    let request = Request::post(format!("http://{}{path}", client.host()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(full("\0\0\0\0\0"))
        .unwrap();
    let answer = timeout(AT_ONCE, sender.send_request(request)).await;
    let reply = Reply::read(answer.expect("an answer").unwrap())
        .await
        .unwrap();
    let fields = reply.headers.get("grpc-status");
    let status = fields.or(reply.trailers.get("grpc-status"));
    let status = status.map_or("none", |s| s.to_str().unwrap()).to_owned();
    (reply, status)
}

/// Answers 200 to each call. What came of it stands where gRPC says it, in the trailers or, where there is no
/// message, in the head: 14 at the failing address.
fn calls(failing: Arc<OnceLock<IpAddr>>) -> App {
    App::custom(move |io, record| {
        let here = io.local_addr().unwrap().ip();
        let failing = Arc::clone(&failing);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            record.request(request.uri().to_string());
            let status = if failing.get() == Some(&here) {
                "14"
            } else {
                "0"
            };
            async move {
                let head = Response::builder().header("content-type", "application/grpc");
                let (head, message) = match request.uri().path() {
                    "/shop.Cart/Head" => (head.header("grpc-status", status), ""),
                    _ => (head, "\0\0\0\0\0"),
                };
                let mut trailers = HeaderMap::new();
                if !message.is_empty() {
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                }
                let trailers = async move { Some(Ok::<_, Infallible>(trailers)) };
                let body = Full::new(Bytes::from(message)).with_trailers(trailers);
                Ok::<_, Infallible>(head.body(body).unwrap())
            }
        });
        async move {
            // A client that breaks off is its own affair.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(io), service)
                .await;
        }
    })
}

/// F12: each answer is a 200 that begins well; that it failed is its last word.
#[tokio::test]
async fn a_pod_whose_grpc_calls_fail_is_ejected() {
    for path in ["/shop.Cart/Trailers", "/shop.Cart/Head"] {
        let failing = Arc::new(OnceLock::new());
        let app = calls(Arc::clone(&failing));
        let mesh = Mesh::builder()
            .cluster("east", |c| c.client("web"))
            .cluster("west", |c| {
                c.service_with("cart", 2, |s| s.port("grpc", 80, "grpc", app.clone()))
            })
            .start()
            .await;
        let client = mesh.client("east/web").http("cart");
        assert_eq!(called(&client, path).await.1, "0");
        let bad = mesh.app("west/cart-1");
        failing.set(bad.address().ip()).unwrap();
        until("the failing pod is ejected", async || {
            let (reply, status) = called(&client, path).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(["0", "14"].contains(&&*status), "{status}");
            let ejections = seen(&mesh, "ejections_total").await;
            check(ejections == 1, format!("{ejections} {status}"))
        })
        .await;
        let before = bad.record.requests();
        for _ in 0..20 {
            assert_eq!(called(&client, path).await.1, "0", "{path}");
        }
        assert_eq!(bad.record.requests(), before, "{path}");
    }
}

/// Two pods, and the application of the first is down.
async fn half_down(protocol: &str, app: App) -> Mesh {
    let plan: MeshPlan = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest("traffic.yaml", TWO_RETRIES)
        })
        .cluster("west", |c| {
            c.service_with("cart", 2, |s| s.port("any", 80, protocol, app))
        });
    let mut mesh = plan.start().await;
    mesh.app_mut("west/cart-1").stop().await;
    mesh
}

/// Nothing of a request has reached an application that is down: it may be asked of another one, whatever it
/// asks for. That pod has failed all the same.
#[tokio::test]
async fn what_reached_no_application_is_asked_again() {
    let mesh = half_down("http", App::Http).await;
    let client = mesh.client("east/web").http("cart");
    until("the pod that is down was chosen", async || {
        let posted = client.post("/", "x").await;
        assert_eq!(posted.status, 200, "{}", posted.text());
        assert!(posted.field("x-mesh-untouched").is_empty());
        let failures = seen(&mesh, "failures").await;
        check(failures > 0, failures)
    })
    .await;
    let mesh = half_down("grpc", calls(Arc::default())).await;
    let client = mesh.client("east/web").http("cart");
    until("the pod that is down was chosen", async || {
        let (reply, status) = called(&client, "/shop.Cart/Get").await;
        assert_eq!(status, "0", "{:?}", reply.headers);
        let failures = seen(&mesh, "failures").await;
        check(failures > 0, failures)
    })
    .await;
}

/// Where there is no other one, the failure is told, and nothing of what proxies tell each other.
#[tokio::test]
async fn a_client_is_not_told_what_proxies_tell_each_other_of_a_failure() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest("traffic.yaml", TWO_RETRIES)
        })
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    mesh.app_mut("west/cart-1").stop().await;
    let client = mesh.client("east/web").http("cart");
    let posted = client.post("/", "x").await;
    assert_eq!(posted.status, 503, "{}", posted.text());
    assert!(!posted.reason().is_empty());
    assert!(!posted.headers.contains_key("x-mesh-untouched"));
    assert_eq!(seen(&mesh, "failures").await, 3, "and two more tries");
}
