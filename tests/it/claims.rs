//! Can a client's words pass for the mesh's? (SECURITY S16)
//!
//! A client names the fields of the mesh in `Connection`, so that a proxy would strip them, and says
//! them itself, in every spelling: it is refused, or the application sees what the mesh says alone.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_tests::app::Record;
use isthmus_tests::tls::{self, Identity};
use isthmus_tests::wait::check;
use isthmus_tests::{Client, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::ambiguous::{dial, outcome};
use crate::protocols::{AT_ONCE, all_protocols};

/// Who calls in truth.
const CALLER: &str = "spiffe://east.mesh.internal/ns/shop/sa/web";
/// What is claimed.
const CLAIM: &str = "spiffe://east.mesh.internal/ns/shop/sa/admin";

/// Lines that ask a proxy to take fields away.
const OPTIONS: [&str; 22] = [
    "",
    "connection: x-mesh-peer\r\n",
    "Connection: X-Mesh-Peer\r\n",
    "connection: X-MESH-PEER, x-mesh-port, x-mesh-version\r\n",
    "connection: x-mesh-port\r\n",
    "connection: close, x-mesh-peer\r\n",
    "connection: ,,x-mesh-peer,,\r\n",
    "connection: keep-alive\r\nconnection: x-mesh-peer\r\n",
    "connection: x-mesh-peer\r\nConnection: x-mesh-peer\r\n",
    "connection:\tx-mesh-peer\t,\tx-mesh-port\r\n",
    "connection: te, x-mesh-peer\r\nte: trailers\r\n",
    "connection: upgrade, x-mesh-peer\r\nupgrade: foo\r\n",
    "connection: x_mesh_peer\r\n",
    "connection: x-mesh_peer, X_Mesh-Port\r\n",
    "connection: x-forwarded-client-cert\r\n",
    "connection: X-Forwarded-Client-Cert, x-mesh-peer\r\n",
    "connection: x_forwarded_client_cert\r\n",
    "connection: \"x-mesh-peer\"\r\n",
    "connection: x-mesh-peer;q=1\r\n",
    "connection: x-mesh-\r\n",
    "proxy-connection: x-mesh-peer\r\n",
    "keep-alive: x-mesh-peer\r\n",
];
/// Names under which an application may look for who calls, also one that reads them from its
/// environment.
const NAMES: [&str; 10] = [
    "x-mesh-peer",
    "X-Mesh-Peer",
    "X_MESH_PEER",
    "x_mesh-peer",
    "x-mesh_peer",
    "x-forwarded-client-cert",
    "X-FORWARDED-CLIENT-CERT",
    "x_forwarded_client_cert",
    "x-forwarded_client-cert",
    "x-mesh-version",
];

/// What the application saw of the mesh, however it spells: the caller's name once, and no claim.
fn judge(record: &Record, what: &str) {
    let head = record.heads().pop().expect("a request");
    let mesh: Vec<String> = head
        .lines()
        .skip(1)
        .map(|line| line.to_lowercase())
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default().replace('_', "-");
            name.starts_with("x-mesh-") || name == "x-forwarded-client-cert"
        })
        .collect();
    assert_eq!(mesh, [format!("x-mesh-peer: {CALLER}")], "{what}: {head}");
    assert!(!head.contains(CLAIM), "{what}: {head}");
}

/// What an HTTP/1.1 request with these lines comes to.
async fn asked(client: &Client, lines: &str) -> String {
    let mut io = client.tcp().await.unwrap();
    let words = format!("GET /heads HTTP/1.1\r\nhost: echo\r\n{lines}\r\n");
    io.write_all(words.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(AT_ONCE, io.read_to_string(&mut said))
        .await
        .expect("an answer")
        .unwrap();
    said.split(' ').nth(1).unwrap_or("gone").to_owned()
}

#[tokio::test]
async fn no_connection_option_and_no_spelling_makes_a_caller_another() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let record = &mesh.app_on("west/echo-1", 80).record;
    let (mut passed, mut refused) = (0, 0);
    for options in OPTIONS {
        for name in NAMES {
            for lines in [
                format!("{name}: {CLAIM}\r\n{options}"),
                format!("{options}{name}: {CALLER}, {CLAIM}\r\n{name}: {CLAIM}\r\n"),
            ] {
                let seen = record.requests();
                match asked(&client, &lines).await.as_str() {
                    "200" => {
                        assert_eq!(record.requests(), seen + 1, "{lines}");
                        judge(record, &lines);
                        passed += 1;
                    }
                    status => {
                        assert_eq!((status, record.requests()), ("400", seen), "{lines}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(passed > 50 && refused > 300, "{passed}, {refused}");
}

/// On the listener of applications, and on the mesh port, as a peer that is believed about itself alone.
#[tokio::test]
async fn no_http2_field_makes_a_caller_another() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 81);
    let state = mesh.proxy("east/web-1").state_dir().to_owned();
    let (from, to) = (
        mesh.proxy("west/echo-1").address(),
        mesh.proxy("west/echo-1").mesh(),
    );
    let record = &mesh.app_on("west/echo-1", 81).record;
    let get = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/heads"),
        (":authority", "echo"),
    ];
    let mut passed = 0;
    for name in NAMES {
        for options in [None, Some("x-mesh-peer"), Some("close")] {
            let mut fields = get.to_vec();
            fields.extend(options.map(|options| ("connection", options)));
            fields.extend([(name, CLAIM), (name, CALLER)]);
            let peer = [&fields[..], &[("x-mesh-port", "8081")]].concat();
            for by_peer in [false, true] {
                let seen = record.requests();
                let outcome = if by_peer {
                    outcome(dial(from, to, &state).await, &peer).await
                } else {
                    outcome(client.tcp().await.unwrap(), &fields).await
                };
                let lower = !name.bytes().any(|b| b.is_ascii_uppercase());
                if lower && options.is_none() {
                    assert_eq!(outcome, "200", "{name}");
                    judge(record, name);
                    passed += 1;
                } else {
                    // RFC 9113 §8.2: a name in capitals and a field of the connection are malformed.
                    assert_ne!(outcome, "200", "{name} {options:?}");
                    assert_eq!(record.requests(), seen, "{name} {options:?}");
                }
            }
        }
    }
    assert_eq!(passed, 14);
}

/// A field behind the content is a field all the same.
#[tokio::test]
async fn no_trailer_speaks_for_the_mesh() {
    let mesh = all_protocols().start().await;
    for port in [80, 81] {
        let io = mesh.client("east/web").port("echo", port).tcp().await;
        let (sender, connection) = h2::client::handshake(io.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::post("http://echo/").header("te", "trailers");
        let request = request.body(()).unwrap();
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        to.send_data(Bytes::from_static(b"content"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-check", "7".parse().unwrap());
        for name in NAMES {
            trailers.append(
                name.to_lowercase().parse::<http::HeaderName>().unwrap(),
                CLAIM.parse().unwrap(),
            );
        }
        to.send_trailers(trailers).unwrap();
        let answer = timeout(AT_ONCE, answer).await.unwrap().unwrap();
        let mut body = answer.into_body();
        while let Some(data) = timeout(AT_ONCE, body.data()).await.unwrap() {
            assert_eq!(data.unwrap(), "content");
        }
        // They come back as the application has seen them.
        let back = timeout(AT_ONCE, body.trailers()).await.unwrap().unwrap();
        let back = back.unwrap();
        let names: Vec<&str> = back.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-check"], "port {port}");
    }
}

/// A peer's CONNECT to a port of the application: what travels in it.
async fn tunnelled(mesh: &Mesh, port: u16) -> TokioIo<Upgraded> {
    let (web, echo) = (mesh.proxy("east/web-1"), mesh.proxy("west/echo-1"));
    let identity = Identity::of_state_dir(web.state_dir());
    let io = tls::dial(echo.address(), echo.mesh()).await.unwrap();
    let io = tls::connect(io, "echo", Some(identity)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    let target = SocketAddr::new(echo.address(), port);
    let connect = Request::connect(target.to_string());
    let connect = connect.body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(connect).await.unwrap();
    assert_eq!(answer.status(), 200, "{port}");
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

/// What comes of these words in a stream of bytes, to its end.
async fn said(mesh: &Mesh, port: u16, words: &str) -> String {
    let mut io = tunnelled(mesh, port).await;
    // Whoever refuses may do so before all was said.
    let _ = io.write_all(words.as_bytes()).await;
    let _ = io.shutdown().await;
    let mut said = Vec::new();
    let reading = timeout(AT_ONCE, io.read_to_end(&mut said));
    // It may be reset.
    let _ = reading.await.expect("an end");
    String::from_utf8_lossy(&said).into_owned()
}

/// Whoever may send bytes to a port that speaks HTTP, and sends requests, sends requests: declared or not.
#[tokio::test]
async fn no_stream_of_bytes_speaks_for_the_mesh() {
    let mesh = all_protocols().start().await;
    for port in [8080, 8085] {
        let record = &mesh.app_on("west/echo-1", port - 8000).record;
        for name in NAMES {
            let seen = record.requests();
            let claim = format!("{name}: {CLAIM}\r\n{name}: {CALLER}\r\nx-mesh-port: 8083\r\n");
            let ask =
                |rest: &str| format!("GET /heads HTTP/1.1\r\nhost: echo\r\n{claim}{rest}\r\n");
            let answers = said(&mesh, port, &(ask("") + &ask("connection: close\r\n"))).await;
            let answered = answers.matches("HTTP/1.1 ").count();
            if answers.starts_with("HTTP/1.1 200 ") {
                assert_eq!((answered, record.requests()), (2, seen + 2), "{answers}");
                judge(record, name);
            } else {
                assert!(answers.starts_with("HTTP/1.1 400 "), "{port} {answers}");
                assert_eq!((answered, record.requests()), (1, seen), "{answers}");
            }
        }
        // A tunnel in the tunnel leads nowhere.
        let again = "CONNECT 127.0.0.1:8083 HTTP/1.1\r\nhost: 127.0.0.1:8083\r\n\r\n";
        let answer = said(&mesh, port, again).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }
    for port in [8080, 8081, 8082] {
        let record = &mesh.app_on("west/echo-1", port - 8000).record;
        let io = tunnelled(&mesh, port).await;
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::get("http://echo/heads").header("x-mesh-peer", CLAIM);
        let (answer, _) = sender
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        assert_eq!(
            timeout(AT_ONCE, answer).await.unwrap().unwrap().status(),
            200
        );
        judge(record, &format!("HTTP/2 to {port}"));
    }
    // Where HTTP is declared, nothing else passes.
    for port in [8080, 8081] {
        let record = &mesh.app_on("west/echo-1", port - 8000).record;
        let seen = (record.accepts(), record.bytes());
        for words in [
            format!("\r\n\r\nGET  /heads HTTP/1.1\r\nx-mesh-peer: {CLAIM}\r\n\r\n"),
            format!("PING\r\nGET /heads HTTP/1.1\r\nx-mesh-peer: {CLAIM}\r\n\r\n"),
            "\u{16}\u{3}\u{1}\0\u{5}hello".to_owned(),
        ] {
            said(&mesh, port, &words).await;
        }
        assert_eq!((record.accepts(), record.bytes()), seen, "{port}");
    }
    // What is no HTTP goes as it is where nothing is declared, or bytes are.
    let words = "PING\r\n";
    assert_eq!(said(&mesh, 8083, words).await, words);
    let seen = mesh.app_on("west/echo-1", 85).record.accepts();
    said(&mesh, 8085, words).await;
    assert_eq!(mesh.app_on("west/echo-1", 85).record.accepts(), seen + 1);
}

/// What a peer holds in a tunnel by streams that carry requests, and for how long.
#[tokio::test]
async fn streams_that_carry_requests_are_few_and_end_with_their_peer() {
    const MOST: usize = 64;
    let mesh = all_protocols().start().await;
    let (web, echo) = (mesh.proxy("east/web-1"), mesh.proxy("west/echo-1"));
    let identity = Identity::of_state_dir(web.state_dir());
    let io = tls::dial(echo.address(), echo.mesh()).await.unwrap();
    let io = tls::connect(io, "echo", Some(identity)).await.unwrap();
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    let tunnel = tokio::spawn(connection);
    for port in [8080, 8085] {
        let open = async || {
            let target = SocketAddr::new(echo.address(), port);
            let connect = Request::connect(target.to_string()).body(()).unwrap();
            let mut sender = sender.clone().ready().await.unwrap();
            let (answer, to) = sender.send_request(connect, false).unwrap();
            let answer = timeout(AT_ONCE, answer).await.unwrap().unwrap();
            (answer, to)
        };
        // A request's beginning.
        let begin = |to: &mut h2::SendStream<Bytes>| {
            let _ = to.send_data(Bytes::from_static(b"GET /heads HTTP/1.1\r\n"), false);
        };
        let is_full = |answer: &http::Response<h2::RecvStream>| answer.status() == 503;
        let mut held = Vec::new();
        // Silent ones hold nothing; then all of them begin at once.
        for _ in 0..=MOST {
            held.push(open().await);
        }
        assert!(!held.iter().any(|(answer, _)| is_full(answer)));
        for (_, to) in &mut held {
            begin(to);
        }
        until("there are as many as may be", async || {
            let mut one = open().await;
            begin(&mut one.1);
            held.push(one);
            let refused = held.iter().any(|(answer, _)| is_full(answer));
            // Where nothing is declared, it is heard first.
            let broken = held.iter_mut().filter_map(|(answer, _)| {
                let mut context = Context::from_waker(Waker::noop());
                let said = answer.body_mut().poll_data(&mut context);
                matches!(said, Poll::Ready(Some(Err(_)))).then_some(())
            });
            let broken = broken.count() > 0;
            let many = held.len();
            check(refused || broken, many).map(|()| assert!(many > MOST, "{many}"))
        })
        .await;
        // Reset by their peer, all of them.
        held.clear();
        until("there is room again", async || {
            let (answer, mut to) = open().await;
            begin(&mut to);
            let _ = to.send_data(Bytes::from_static(b"host: echo\r\n\r\n"), false);
            let said = timeout(AT_ONCE, answer.into_body().data()).await;
            let said = said.map_err(|_| "nothing is said")?;
            let said = said.ok_or("it ended")?.map_err(|error| error.to_string())?;
            check(said.starts_with(b"HTTP/1.1 200 "), format!("{said:?}"))
        })
        .await;
    }
    tunnel.abort();
}
