//! Do real protocols over HTTP keep their manners: WebSocket, gRPC, resets with their codes?

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Long enough for a busy machine, short enough to tell that something hangs.
const SOON: Duration = Duration::from_secs(20);
/// RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLBMmiTxaQ9kYGzzhZRbK+xOo=";
/// A masked text frame, "Hello" (RFC 6455 §5.7), and what the server says to it.
const FRAME: &[u8] = &[
    0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
];
const BACK: &[u8] = &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];

/// A WebSocket server that knows one key, and says back what it is told.
fn websocket() -> App {
    App::custom(|mut io, record| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = io.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        record.request(head.clone());
        let ours = head.contains(&format!("sec-websocket-key: {}", KEY.to_lowercase()));
        let answer = if head.contains("upgrade: websocket") && ours {
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
            )
        } else {
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_owned()
        };
        io.write_all(answer.as_bytes()).await.unwrap();
        let mut frame = [0; FRAME.len()];
        while io.read_exact(&mut frame).await.is_ok() && frame == FRAME {
            io.write_all(BACK).await.unwrap();
        }
    })
}

/// The caller's side of HTTP/2, by a foreign implementation.
async fn dial(io: TcpStream) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// A connection whose server allows it, and a request for another protocol (RFC 8441).
async fn extended_connect(
    client: &Client,
    protocol: &'static str,
    path: &str,
) -> (SendRequest<Bytes>, Request<()>) {
    let sender = dial(client.tcp().await.unwrap()).await;
    until("the sidecar allows it", async || {
        let allowed = sender.is_extended_connect_protocol_enabled();
        check(allowed, allowed)
    })
    .await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://echo{path}"))
        .body(())
        .unwrap();
    let protocol = h2::ext::Protocol::from_static(protocol);
    request.extensions_mut().insert(protocol);
    (sender, request)
}

async fn mesh_with(protocol: &'static str, app: App) -> Mesh {
    Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("echo", 1, |s| s.port("main", 80, protocol, app))
        })
        .start()
        .await
}

#[tokio::test]
async fn a_websocket_is_opened_by_its_handshake_and_carries_frames() {
    let mesh = mesh_with("http", websocket()).await;
    let mut io = mesh.client("east/web").http("echo").tcp().await.unwrap();
    let ask = format!(
        "GET /chat HTTP/1.1\r\nhost: echo\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
    );
    io.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, io.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains(ACCEPT), "{head}");
    for _ in 0..3 {
        io.write_all(FRAME).await.unwrap();
        let mut back = [0; BACK.len()];
        timeout(SOON, io.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(back, BACK);
    }
}

/// RFC 8441: the client speaks HTTP/2, the application HTTP/1.1.
#[tokio::test]
async fn a_websocket_over_http2_reaches_an_http1_application() {
    let mesh = mesh_with("http", websocket()).await;
    let client = mesh.client("east/web").http("echo");
    let (mut sender, mut request) = extended_connect(&client, "websocket", "/chat").await;
    let fields = request.headers_mut();
    fields.insert("sec-websocket-version", "13".parse().unwrap());
    fields.insert("sec-websocket-key", KEY.parse().unwrap());
    let (answer, mut to) = sender.send_request(request, false).unwrap();
    let answer = timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let mut from = answer.into_body();
    for _ in 0..3 {
        to.send_data(Bytes::from_static(FRAME), false).unwrap();
        let back = timeout(SOON, from.data()).await.unwrap().unwrap().unwrap();
        assert_eq!(&back[..], BACK);
    }
    drop((from, to, sender));
    // What its client was told: 101 is of HTTP/1.1.
    let asked = |line: &serde_json::Value| line["path"] == "/chat";
    let line = mesh.proxy("east/web-1").logged("the call", asked).await;
    assert_eq!(line["status"], 200, "{line}");
}

/// A client in east, and the same HTTP/1.1 application beside it and behind a gateway.
async fn near_and_far() -> Mesh {
    Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service_with("near", 1, |s| s.port("http", 80, "http", App::Http))
        })
        .cluster("west", |c| {
            c.service_with("far", 1, |s| s.port("http", 80, "http", App::Http))
        })
        .start()
        .await
}

/// S18: an application that does not know the protocol answers the request, as RFC 9110 §7.8 allows.
#[tokio::test]
async fn an_upgrade_that_is_ignored_is_answered_as_an_ordinary_request() {
    let mesh = near_and_far().await;
    for (service, pod) in [("near", "east/near-1"), ("far", "west/far-1")] {
        let client = mesh.client("east/web").http(service);
        let mut io = client.tcp().await.unwrap();
        let request =
            "GET /heads HTTP/1.1\r\nhost: echo\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\n";
        io.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(SOON, io.read_to_string(&mut said))
            .await
            .expect("it ends")
            .unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.contains(&format!("x-pod: {pod}\r\n")), "{said}");
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(
            body.starts_with("GET /heads") && !head.contains("x-mesh-"),
            "{said}"
        );
        // RFC 8441 §5: any 2xx would open the stream.
        let (mut sender, request) = extended_connect(&client, "foo", "/heads").await;
        let (answer, _to) = sender.send_request(request, false).unwrap();
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 501);
        assert_eq!(answer.headers()["x-pod"], pod);
        assert!(!answer.headers().contains_key("x-mesh-status"));
        let mut body = answer.into_body();
        let told = timeout(SOON, body.data()).await.unwrap().unwrap().unwrap();
        assert!(told.starts_with(b"GET /heads"), "{told:?}");
    }
}

/// S18: what was said in the other protocol is no request.
#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_no_request() {
    let mut mesh = near_and_far().await;
    let words = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: echo\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: echo\r\n\r\n"
        )
    };
    let answers = async |mesh: &Mesh, service: &str, path: &str| {
        let client = mesh.client("east/web").http(service);
        let mut io = client.tcp().await.unwrap();
        io.write_all(words(path).as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(SOON, io.read_to_string(&mut said))
            .await
            .expect("the connection is closed")
            .unwrap();
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
        said
    };
    for service in ["near", "far"] {
        for status in ["200", "426", "500"] {
            let said = answers(&mesh, service, &format!("/status/{status}")).await;
            assert!(said.contains(&format!("HTTP/1.1 {status} ")), "{said}");
        }
    }
    for pod in ["east/near-1", "west/far-1"] {
        let heads = mesh.app(pod).record.heads();
        assert!(!heads.iter().any(|h| h.contains("smuggled")), "{heads:?}");
    }
    // What the mesh itself says, too.
    mesh.app_mut("west/far-1").stop().await;
    let said = answers(&mesh, "far", "/").await;
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
}

/// Switches protocols when the test says so. The answer tells how many bytes stood behind the head
/// until then; those that come afterwards go back.
fn careful(may_switch: watch::Receiver<bool>) -> App {
    App::custom(move |mut io, record| {
        let mut may_switch = may_switch.clone();
        async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    // One byte at a time: what is behind the head stays in the socket.
                    let Ok(byte) = io.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                record.request(head.clone());
                if head.contains("upgrade: foo") {
                    break;
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if io.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            may_switch.wait_for(|may| *may).await.unwrap();
            let io = io.into_std().unwrap();
            let early = io.peek(&mut [0; 4096]).unwrap_or_default();
            let mut io = TcpStream::from_std(io).unwrap();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\nx-early: {early}\r\n\r\n"
            );
            io.write_all(answer.as_bytes()).await.unwrap();
            let mut space = [0; 4096];
            while let Ok(n @ 1..) = io.read(&mut space).await {
                io.write_all(&space[..n]).await.unwrap();
            }
        }
    })
}

/// One careful application beside the client and one behind a gateway, and what lets them switch.
async fn careful_ones() -> (Mesh, watch::Sender<bool>) {
    let (switch, may_switch) = watch::channel(false);
    let (near, far) = (may_switch.clone(), may_switch);
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service_with("near", 1, |s| s.port("http", 80, "http", careful(near)))
        })
        .cluster("west", |c| {
            c.service_with("far", 1, |s| s.port("http", 80, "http", careful(far)))
        })
        .start()
        .await;
    (mesh, switch)
}

/// The application has the head; then what was sent before these calls by the same way has arrived.
async fn has_the_head(mesh: &Mesh, pod: &str, client: &Client) {
    let record = &mesh.app(pod).record;
    until("the application has the head", async || {
        let heads = record.heads();
        check(heads.iter().any(|h| h.contains("upgrade: foo")), "not yet")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
}

/// S18: who asks for another protocol may say the first words of it at once.
#[tokio::test]
async fn no_byte_reaches_the_application_before_its_101() {
    for (service, pod) in [("near", "east/near-1"), ("far", "west/far-1")] {
        let (mesh, switch) = careful_ones().await;
        let client = mesh.client("east/web").http(service);
        let mut io = client.tcp().await.unwrap();
        let ask =
            "GET /chat HTTP/1.1\r\nhost: echo\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\nbehind";
        io.write_all(ask.as_bytes()).await.unwrap();
        let record = &mesh.app(pod).record;
        until("the application is asked", async || {
            check(record.requests() > 0, "not yet")
        })
        .await;
        io.write_all(b" and after").await.unwrap();
        has_the_head(&mesh, pod, &client).await;
        switch.send(true).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(SOON, io.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("x-early: 0\r\n"), "{service}: {head}");
        let mut back = [0; 16];
        timeout(SOON, io.read_exact(&mut back))
            .await
            .expect("nothing was lost")
            .unwrap();
        assert_eq!(&back, b"behind and after");
    }
}

/// S18: the same by an extended CONNECT (RFC 8441), whose client may send DATA before it is answered.
#[tokio::test]
async fn no_data_of_an_extended_connect_reaches_the_application_before_its_101() {
    for (service, pod) in [("near", "east/near-1"), ("far", "west/far-1")] {
        let (mesh, switch) = careful_ones().await;
        let client = mesh.client("east/web").http(service);
        let (mut sender, request) = extended_connect(&client, "foo", "/chat").await;
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        to.send_data(Bytes::from_static(b"before"), false).unwrap();
        has_the_head(&mesh, pod, &client).await;
        switch.send(true).unwrap();
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-early"], "0", "{service}");
        let back = timeout(SOON, answer.into_body().data()).await.unwrap();
        assert_eq!(back.unwrap().unwrap(), "before");
    }
}

/// S18: a sidecar is nobody's forward proxy; what is behind a refused CONNECT is no request either.
#[tokio::test]
async fn bytes_behind_a_connect_reach_no_application() {
    let mesh = near_and_far().await;
    for (service, pod) in [("near", "east/near-1"), ("far", "west/far-1")] {
        let client = mesh.client("east/web").http(service);
        let mut io = client.tcp().await.unwrap();
        let words = "CONNECT echo:80 HTTP/1.1\r\nhost: echo:80\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: echo\r\n\r\n";
        io.write_all(words.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let closed = timeout(SOON, io.read_to_end(&mut bytes)).await;
        let said = String::from_utf8_lossy(&bytes);
        assert!(closed.is_ok(), "the connection is not closed after {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
        let mut sender = dial(client.tcp().await.unwrap()).await;
        let request = Request::connect("echo:80").body(()).unwrap();
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        // It may be refused before all is said.
        let _ = to.send_data(Bytes::from_static(b"GET /smuggled"), false);
        if let Ok(answer) = timeout(SOON, answer).await.expect("an answer") {
            assert!(answer.status().is_client_error(), "{answer:?}");
        }
        assert_eq!(client.get("/").await.status, 200);
        let heads = mesh.app(pod).record.heads();
        assert_eq!(heads.len(), 1, "{heads:?}");
    }
}

/// An application that speaks HTTP/2 by a foreign implementation, a task for each stream.
fn h2_app<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F
    + Send
    + Sync
    + 'static,
) -> App {
    let serve = Arc::new(serve);
    App::custom(move |io, _| {
        let serve = Arc::clone(&serve);
        async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        }
    })
}

/// gRPC over HTTP/2: a flag, a length, a message; the status stands in the trailers.
#[tokio::test]
async fn a_grpc_stream_has_its_messages_and_its_status() {
    let echo = h2_app(|request, mut respond| async move {
        let mut body = request.into_body();
        let head = Response::builder().header("content-type", "application/grpc");
        let mut to = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            to.send_data(data, false).unwrap();
        }
        let mut status = HeaderMap::new();
        status.insert("grpc-status", "5".parse().unwrap());
        status.insert("grpc-message", "not%20there".parse().unwrap());
        to.send_trailers(status).unwrap();
    });
    let mesh = mesh_with("grpc", echo).await;
    let io = mesh.client("east/web").http("echo").tcp().await.unwrap();
    let mut sender = dial(io).await;
    let request = Request::post("http://echo/echo.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut to) = sender.send_request(request, false).unwrap();
    let answer = timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    let mut from = answer.into_body();
    for n in 0..20u8 {
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, b'm', n]);
        to.send_data(message.clone(), false).unwrap();
        let back = timeout(SOON, from.data()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, message);
    }
    to.send_data(Bytes::new(), true).unwrap();
    let trailers = timeout(SOON, from.trailers())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"5".parse().unwrap(), &"not%20there".parse().unwrap())
    );
}

/// What one side says when it breaks off is what the other side hears.
#[tokio::test]
async fn resets_carry_their_codes_both_ways() {
    const CODES: [Reason; 5] = [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
        Reason::PROTOCOL_ERROR,
        Reason::INADEQUATE_SECURITY,
    ];
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let app = h2_app(move |request, mut respond| {
        let heard = Arc::clone(&hears);
        async move {
            let path = request.uri().path().to_owned();
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            to.send_data(Bytes::from_static(b"half"), false).unwrap();
            match path.strip_prefix("/reset/") {
                Some(code) => {
                    // Whoever asked has seen the half before it is broken off.
                    let mut body = request.into_body();
                    let _ = body.data().await;
                    to.send_reset(code.parse::<u32>().unwrap().into());
                }
                None => {
                    let reason = poll_fn(|cx| to.poll_reset(cx)).await;
                    heard.lock().unwrap().push(reason.unwrap());
                }
            }
        }
    });
    let mesh = mesh_with("http2", app).await;
    let io = mesh.client("east/web").http("echo").tcp().await.unwrap();
    let mut sender = dial(io).await;
    for code in CODES {
        let path = format!("http://echo/reset/{}", u32::from(code));
        let request = Request::post(path).body(()).unwrap();
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        to.send_data(Bytes::from_static(b"seen"), false).unwrap();
        let error = timeout(SOON, body.data())
            .await
            .unwrap()
            .unwrap()
            .unwrap_err();
        assert_eq!(error.reason(), Some(code), "from the application");

        let request = Request::post("http://echo/listen").body(()).unwrap();
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        to.send_reset(code);
        until("the application hears the code", async || {
            let heard = heard.lock().unwrap().last().copied();
            check(heard == Some(code), format!("{heard:?}"))
        })
        .await;
    }
}
