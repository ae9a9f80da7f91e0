//! What of a port that declares nothing, where its server is not there or says the wrong thing first?

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_tests::app::Record;
use isthmus_tests::{App, Client, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::protocols::AT_ONCE;

const DENY: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: denied}]
  action: Deny
  rules: [{}]
";

/// How a connection ends whose client says nothing.
async fn end_in_silence(client: &Client) -> ErrorKind {
    let mut io = client.tcp().await.unwrap();
    let read = timeout(AT_ONCE, io.read(&mut [0])).await;
    let read = read.expect("nobody is left waiting");
    read.map_or_else(|error| error.kind(), |bytes| panic!("{bytes} bytes"))
}

/// Who waits for its server's greeting is told at once that none will come, and who speaks gets an answer.
#[tokio::test]
async fn a_silent_client_is_reset_where_its_server_can_not_be_had() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").manifest("deny.yaml", DENY))
        .cluster("west", |c| {
            let greeter = || App::Greeter("220 hello\r\n");
            c.manifest("deny.yaml", DENY)
                .service_with("gone", 1, |s| s.port("mail", 25, "", greeter()))
                .service_with("denied", 1, |s| s.port("mail", 25, "", greeter()))
        })
        .start()
        .await;
    mesh.app_mut("west/gone-1").stop().await;
    for (service, status) in [("gone", 503), ("denied", 403)] {
        let client = mesh.client("east/web").port(service, 25);
        assert_eq!(
            end_in_silence(&client).await,
            ErrorKind::ConnectionReset,
            "{service}"
        );
        assert_eq!(client.get("/").await.status, status, "{service}");
    }
}

/// Gives its first client up at once, as a server does whose time for a request is over, and answers others.
async fn impatient(mut io: TcpStream, record: Arc<Record>, first: bool) {
    if first {
        // The other side may be gone already.
        let _ = io.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await;
        return;
    }
    let mut head = [0; 1024];
    while let Ok(1..) = io.read(&mut head).await {
        record.request("GET".to_owned());
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        if io.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// What is behind the port is HTTP also after its server has given up a client that said nothing.
#[tokio::test]
async fn a_server_that_gives_up_with_an_http_answer_has_not_spoken_first() {
    let begun = Arc::new(AtomicBool::default());
    let app =
        App::custom(move |io, record| impatient(io, record, !begun.swap(true, Ordering::SeqCst)));
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service_with("cart", 1, |s| s.port("any", 80, "", app))
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut io = client.tcp().await.unwrap();
    let mut said = String::new();
    timeout(AT_ONCE, io.read_to_string(&mut said))
        .await
        .expect("its end travels")
        .unwrap();
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert_eq!(client.get("/after").await.status, 200);
    let web = mesh.proxy("east/web-1");
    web.logged("it as a request", |line| line["path"] == "/after")
        .await;
}
