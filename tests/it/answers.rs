//! Are the mesh's own answers whole, and in step with what was asked?

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_tests::{App, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::protocols::AT_ONCE;

const REDIRECT: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
  rules:
  - filters:
    - type: RequestRedirect
      requestRedirect: {statusCode: 301, hostname: other.example}
";

/// A client that takes its answers in small pieces gets all of them.
#[tokio::test]
async fn a_failure_is_told_to_its_end_through_a_small_window() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| {
                s.port("h2", 80, "kubernetes.io/h2c", App::Http2)
            })
        })
        .start()
        .await;
    // What a peer answers is relayed; here the client's own sidecar has to find the words.
    mesh.proxy_mut("west/cart-1").stop().await;
    let client = mesh.client("east/web").http("cart");
    let io = TokioIo::new(client.tcp().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/", client.host());
    let request = hyper::Request::get(uri)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 503);
    let length: usize = answer.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = timeout(AT_ONCE, answer.into_body().collect())
        .await
        .expect("all of it")
        .unwrap()
        .to_bytes();
    assert_eq!(body.len(), length);
    assert!(body.len() > 16, "{body:?}");
}

/// What is left of a request whose answer came early would be taken for the next one: the connection
/// ends, and the answer says so.
#[tokio::test]
async fn a_redirect_keeps_the_connection_only_if_the_request_was_read() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").manifest("route.yaml", REDIRECT))
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    for (request, closes) in [
        ("GET / HTTP/1.1\r\nhost: cart\r\n\r\n", false),
        (
            "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 9\r\n\r\nhalf",
            true,
        ),
    ] {
        let mut io = client.tcp().await.unwrap();
        io.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(AT_ONCE, io.read_u8()).await.expect("an answer");
            head.push(byte.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 301"), "{head}");
        assert_eq!(head.contains("connection: close"), closes, "{head}");
    }
}
