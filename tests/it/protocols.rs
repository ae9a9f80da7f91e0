//! Does what applications speak arrive as it was meant? (SECURITY S17, S18)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Frame;
use isthmus_tests::app::Record;
use isthmus_tests::client::{Content, full, pieces};
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, Reply, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What must come at once comes within this, also on a busy machine.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
/// A server with little patience.
const HASTE: Duration = Duration::from_millis(300);

/// One service in another network, with every protocol.
pub(crate) fn all_protocols() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("echo", 1, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("h2", 81, "kubernetes.io/h2c", App::Http2)
                    .port("grpc", 82, "grpc", App::Http2)
                    .port("bytes", 83, "tcp", App::Tcp)
                    .port("undeclared", 85, "", App::Http)
            })
        })
}

/// Reads until this many answers, as text, have come, or the connection ends.
async fn raw(client: &Client, words: &str) -> String {
    let mut io = client.tcp().await.unwrap();
    io.write_all(words.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    timeout(AT_ONCE, io.read_to_end(&mut said))
        .await
        .expect("it ends")
        .unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

async fn head(io: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let byte = timeout(AT_ONCE, io.read_u8())
            .await
            .expect("an answer at once")
            .expect("an answer");
        said.push(byte);
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn http1_keeps_its_connection_and_its_order() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let request = |n: u32, last: &str| format!("GET /{n} HTTP/1.1\r\nhost: echo\r\n{last}\r\n");
    let mut words: String = (0..9).map(|n| request(n, "")).collect();
    words += &request(9, "connection: close\r\n");
    let said = raw(&client, &words).await;
    let paths: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("x-path: /"))
        .collect();
    assert_eq!(
        paths,
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "{said}"
    );
    assert!(said.contains("connection: close"), "{said}");
    assert!(mesh.app("west/echo-1").record.requests() == 10);
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_framed() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let reply = client.post("/", vec![b'a'; 300_000]).await;
    assert_eq!((reply.status, reply.body.len()), (200, 300_000));
    // Chunked, with extensions and a trailer, in small pieces.
    let chunked = "POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\nte: trailers\r\ntrailer: x-check\r\n\
                   connection: close, te\r\n\r\n4;name=value\r\nWiki\r\n5\r\npedia\r\n0\r\nx-check: 9\r\n\r\n";
    let said = raw(&client, chunked).await;
    assert!(said.contains("Wiki") && said.contains("pedia"), "{said}");
    assert!(said.contains("x-check: 9"), "the trailer came back: {said}");
    let answer = client.get("/bytes/1000000").await;
    assert_eq!((answer.status, answer.body.len()), (200, 1_000_000));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    for status in [204u16, 304] {
        let reply = client.get(&format!("/status/{status}")).await;
        assert_eq!((reply.status, reply.body.len()), (status, 0));
    }
    let head = client
        .request("HEAD", "/bytes/70000")
        .body(full(""))
        .unwrap();
    let reply = client.send(head).await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    // The connection is still in step.
    assert_eq!(client.get("/").await.text(), "west/echo-1\n");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let mut io = client.tcp().await.unwrap();
    for word in ["hello", "again"] {
        let words = "POST /whole HTTP/1.1\r\nhost: echo\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
        io.write_all(words.as_bytes()).await.unwrap();
        let told = head(&mut io).await;
        assert!(told.starts_with("HTTP/1.1 100"), "{told}");
        io.write_all(word.as_bytes()).await.unwrap();
        let answer = head(&mut io).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut back = [0; 5];
        timeout(AT_ONCE, io.read_exact(&mut back))
            .await
            .expect("an echo")
            .unwrap();
        assert_eq!(&back, word.as_bytes());
    }
}

/// S16: what a client says for the mesh is taken off.
#[tokio::test]
async fn a_client_cannot_speak_for_the_mesh() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let request = client
        .request("GET", "/heads")
        .header(
            "x-mesh-peer",
            "spiffe://east.mesh.internal/ns/shop/sa/admin",
        )
        .header("x-mesh-port", "8083")
        .header("x-forwarded-client-cert", "By=me")
        .header("x-own", "stays")
        .body(full(""))
        .unwrap();
    let head = client.send(request).await.unwrap().text();
    assert!(
        head.contains("x-own: stays") && !head.contains("x-forwarded-client-cert"),
        "{head}"
    );
    assert!(
        !head.contains("sa/admin") && head.contains("sa/web"),
        "{head}"
    );
    assert!(!head.contains("x-mesh-port"), "{head}");
}

/// S18: WebSocket and the like.
#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let mut sender = client.http1().await.unwrap();
    let request = client
        .request("GET", "/chat")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(full(""))
        .unwrap();
    let answer = timeout(AT_ONCE, sender.send_request(request))
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(answer.status(), 101);
    let mut io = hyper_util::rt::TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    for word in ["one", "two", "three"] {
        io.write_all(word.as_bytes()).await.unwrap();
        let mut back = vec![0; word.len()];
        timeout(AT_ONCE, io.read_exact(&mut back))
            .await
            .expect("an echo")
            .unwrap();
        assert_eq!(back, word.as_bytes());
    }
    io.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(AT_ONCE, io.read_to_end(&mut rest))
        .await
        .expect("the end is passed on")
        .unwrap();
    assert!(rest.is_empty());
    // A refused upgrade is an ordinary answer.
    let refused = client
        .request("GET", "/status/426")
        .header("connection", "upgrade")
        .header("upgrade", "other")
        .body(full(""))
        .unwrap();
    assert_eq!(client.send(refused).await.unwrap().status, 426);
    let asked = |line: &serde_json::Value| line["path"] == "/chat";
    let line = mesh.proxy("east/web-1").logged("the call", asked).await;
    assert_eq!(line["status"], 101, "{line}");
}

/// As gRPC does: messages both ways at once, the status at the end.
#[tokio::test]
async fn streams_go_both_ways_at_once_and_end_with_trailers() {
    let mesh = all_protocols().start().await;
    for port in [81, 82] {
        let client = mesh.client("east/web").port("echo", port);
        let mut sender = client.http2().await.unwrap();
        let (to, body) = pieces();
        let request = request(&client, "/talk", body);
        to.send(Frame::data(Bytes::from_static(b"0")))
            .await
            .unwrap();
        let mut answer = timeout(AT_ONCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.status(), 200);
        // Each message comes back before the next one is sent.
        for n in 0..20u8 {
            let frame = timeout(AT_ONCE, answer.frame())
                .await
                .expect("at once")
                .unwrap()
                .unwrap();
            assert_eq!(frame.into_data().unwrap(), n.to_string());
            to.send(Frame::data((n + 1).to_string().into()))
                .await
                .unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-check", "7".parse().unwrap());
        to.send(Frame::trailers(trailers)).await.unwrap();
        drop(to);
        let rest = timeout(AT_ONCE, Reply::read(answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (rest.text().as_str(), &rest.trailers["x-check"]),
            ("20", &"7".parse().unwrap())
        );
    }
}

fn request(client: &Client, path: &str, body: Content) -> hyper::Request<Content> {
    let uri = format!("http://{}{path}", client.host());
    hyper::Request::post(uri)
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn an_answer_may_come_before_the_requests_end() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 81);
    let mut sender = client.http2().await.unwrap();
    let (to, body) = pieces();
    let sending = sender.send_request(request(&client, "/early", body));
    let answer = timeout(AT_ONCE, sending)
        .await
        .expect("not held back")
        .unwrap();
    assert_eq!(Reply::read(answer).await.unwrap().text(), "early\n");
    drop(to);
    // Its neighbour on the same connection does not suffer.
    let next = sender
        .send_request(request(&client, "/", full("")))
        .await
        .unwrap();
    assert_eq!(next.status(), 200);
}

#[tokio::test]
async fn a_reset_is_passed_on_and_hurts_no_neighbour() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 81);
    let mut sender = client.http2().await.unwrap();
    let ticks = sender
        .send_request(request(&client, "/ticks", full("")))
        .await
        .unwrap();
    let answer = sender
        .send_request(request(&client, "/reset", full("")))
        .await
        .unwrap();
    let error = Reply::read(answer).await.unwrap_err();
    let reason = error
        .chain()
        .filter_map(|e| e.downcast_ref::<h2::Error>())
        .find_map(h2::Error::reason);
    // What hyper sends for a body that fails.
    assert_eq!(reason, Some(h2::Reason::INTERNAL_ERROR), "{error:#}");
    let mut ticks = ticks.into_body();
    for _ in 0..3 {
        timeout(AT_ONCE, ticks.frame())
            .await
            .expect("the neighbour goes on")
            .unwrap()
            .unwrap();
    }
    // And the other way: the client leaves, and the application hears of it.
    let record = &mesh.app_on("west/echo-1", 81).record;
    assert_eq!(record.left(), 0);
    drop(ticks);
    until("the application hears of it", async || {
        check(record.left() == 1, record.left())
    })
    .await;
    let again = sender
        .send_request(request(&client, "/", full("")))
        .await
        .unwrap();
    assert_eq!(again.status(), 200);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_be_broken() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let mut sender = client.http1().await.unwrap();
    let request = client.request("GET", "/reset").body(full("")).unwrap();
    // The end may be heard before the head is.
    let whole = match sender.send_request(request).await {
        Ok(answer) => Reply::read(answer).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole, "half an answer looked like a whole one");
}

/// A proxy that waited for the client before it asks the server would wait on every one of these
/// ports; a busy machine is not slow on all of them.
#[tokio::test]
async fn a_server_that_speaks_first_on_an_undeclared_port_is_heard_at_once() {
    /// Any time for which a client's first bytes are waited for is longer.
    const SNIFFING: Duration = Duration::from_millis(500);
    let ports = 90..96u16;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("echo", 1, |mut s| {
                for port in ports.clone() {
                    s = s.port(&format!("p{port}"), port, "", App::Greeter("220 hello\r\n"));
                }
                s.port("bytes", 83, "tcp", App::Tcp)
            })
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    // The service is known and the tunnel is open before anything is measured.
    let mut io = web.port("echo", 83).tcp().await.unwrap();
    io.write_all(b"x").await.unwrap();
    io.read_u8().await.unwrap();
    let mut soonest = Duration::MAX;
    for port in ports {
        // What a port spoke is remembered: the second call is relayed without a race.
        for is_raced in [true, false] {
            let begun = std::time::Instant::now();
            let mut io = web.port("echo", port).tcp().await.unwrap();
            let mut hello = [0; 11];
            timeout(AT_ONCE, io.read_exact(&mut hello))
                .await
                .expect("a greeting to a client that says nothing")
                .unwrap();
            if is_raced {
                soonest = soonest.min(begun.elapsed());
            }
            assert_eq!(&hello, b"220 hello\r\n");
            io.write_all(b"quit").await.unwrap();
            let mut back = [0; 4];
            timeout(AT_ONCE, io.read_exact(&mut back))
                .await
                .expect("an echo")
                .unwrap();
            assert_eq!(&back, b"quit");
        }
    }
    assert!(soonest < SNIFFING, "the soonest greeting took {soonest:?}");
}

#[tokio::test]
async fn http_on_an_undeclared_port_is_understood() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 85);
    let reply = client.get("/heads").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply.text().contains("x-mesh-peer"),
        "it went as a request: {}",
        reply.text()
    );
}

#[tokio::test]
async fn tcp_is_half_closed_and_closed_as_at_home() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 83);
    let mut io = client.tcp().await.unwrap();
    io.write_all(b"all that there is").await.unwrap();
    io.shutdown().await.unwrap();
    let mut back = Vec::new();
    timeout(AT_ONCE, io.read_to_end(&mut back))
        .await
        .expect("the end comes back")
        .unwrap();
    assert_eq!(back, b"all that there is");
}

#[tokio::test]
async fn an_unknown_destination_is_passed_through_untouched() {
    let outside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = outside.local_addr().unwrap().to_string();
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client_with("web", &[&address]))
        .start()
        .await;
    let serving = tokio::spawn(async move {
        let (mut io, _): (TcpStream, _) = outside.accept().await.unwrap();
        let mut word = [0; 7];
        io.read_exact(&mut word).await.unwrap();
        io.write_all(b"\x00raw").await.unwrap();
        word
    });
    let mut io = mesh
        .client("east/web")
        .destination(&address)
        .tcp()
        .await
        .unwrap();
    io.write_all(b"\x16\xffGET \r").await.unwrap();
    let mut back = [0; 4];
    timeout(AT_ONCE, io.read_exact(&mut back))
        .await
        .expect("it passes")
        .unwrap();
    assert_eq!(
        (&serving.await.unwrap(), &back),
        (b"\x16\xffGET \r", b"\x00raw")
    );
    let web = mesh.proxy("east/web-1");
    let counted = web.metric("passthrough_connections_total", &[]).await;
    assert!((counted - 1.0).abs() < 0.5, "{counted}");
}

/// A port that declares HTTP/1.1 may be called with either version; one that declares HTTP/2 speaks
/// nothing else.
#[tokio::test]
async fn a_client_may_speak_http2_to_an_http1_application() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let reply = client.post("/", "from 1.1").await;
    assert_eq!(
        (reply.text().as_str(), reply.field("x-version")),
        ("from 1.1", "HTTP/1.1")
    );
    let mut sender = client.http2().await.unwrap();
    let sending = sender.send_request(request(&client, "/", full("from 2")));
    let reply = Reply::read(sending.await.unwrap()).await.unwrap();
    assert_eq!(
        (reply.text().as_str(), reply.field("x-version")),
        ("from 2", "HTTP/1.1")
    );
}

/// Answers one request; a client that is silent for a moment is left without a word.
async fn hasty(mut io: TcpStream, record: Arc<Record>) {
    let mut head = [0; 1024];
    if let Ok(Ok(1..)) = timeout(HASTE, io.read(&mut head)).await {
        record.request("GET".to_owned());
        // The other side may be gone already.
        let _ = io
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            .await;
    }
}

/// What is behind an undeclared port is HTTP also after its server has closed an idle connection.
#[tokio::test]
async fn a_server_that_ends_without_a_word_has_not_spoken() {
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service_with("hasty", 1, |s| s.port("any", 80, "", App::custom(hasty)))
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("hasty");
    let mut io = client.tcp().await.unwrap();
    let ended = timeout(AT_ONCE, io.read(&mut [0])).await;
    assert_eq!(ended.expect("its end travels").unwrap(), 0);
    assert_eq!(client.get("/after").await.status, 200);
    let web = mesh.proxy("east/web-1");
    web.logged("it as a request", |line| line["path"] == "/after")
        .await;
}

/// As `printf … | nc -N` does it: two requests, and the end of the client's side.
#[tokio::test]
async fn what_was_asked_for_is_answered_after_a_half_close() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    assert_eq!(client.get("/").await.status, 200);
    // Longer than a client that ends its side is waited for.
    mesh.app_on("west/echo-1", 80).behaviour.delay(600);
    let mut io = client.tcp().await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", client.host());
    io.write_all(request.repeat(2).as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    let mut text = String::new();
    timeout(AT_ONCE, io.read_to_string(&mut text))
        .await
        .expect("closed when all is said")
        .unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
}
