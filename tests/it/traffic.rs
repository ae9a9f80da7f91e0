//! Do the limits that a policy or a route sets hold on the wire?

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::load::Load;

const POLICY: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}
  outlierDetection: {consecutiveFailures: 0}
";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
  rules:
  - backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
";

/// `pods` pods of `cart` in the other cluster, under this policy and this rest of a route's rule.
fn carts(pods: usize, policy: &str, rule: &str) -> MeshPlan {
    let (policy, route) = (format!("{POLICY}{policy}"), format!("{ROUTE}{rule}"));
    Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .manifest("traffic.yaml", &policy)
                .manifest("route.yaml", &route)
        })
        .cluster("west", |c| c.service("cart", pods))
}

#[tokio::test]
async fn beyond_the_limit_of_requests_in_flight_is_an_answer_at_once() {
    let mesh = carts(1, "  limits: {maxInFlight: 1}\n", "").start().await;
    let client = mesh.client("east/web");
    assert_eq!(client.http("cart").get("/").await.status, 200);
    mesh.app("west/cart-1").behaviour.delay(3_000);
    let first = client.http("cart");
    let first = tokio::spawn(async move { first.get("/").await });
    until("the first is with the application", async || {
        let seen = mesh.app("west/cart-1").record.requests();
        check(seen == 2, seen)
    })
    .await;
    let second = client.http("cart").get("/").await;
    assert_eq!(second.status, 503);
    assert!(second.text().starts_with("UO "), "{}", second.text());
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_again_elsewhere_if_that_is_safe() {
    let mesh = carts(2, "", "    timeouts: {backendRequest: 500ms}\n")
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    mesh.app("west/cart-1").behaviour.delay(60_000);
    let mut late = 0;
    for _ in 0..8 {
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.pod()), (200, "west/cart-2"));
        let posted = client.post("/", "x").await;
        if posted.status != 200 {
            assert_eq!(posted.status, 504, "{}", posted.text());
            assert!(posted.text().starts_with("UT "), "{}", posted.text());
            late += 1;
        }
    }
    mesh.app("west/cart-2").behaviour.delay(60_000);
    let posted = client.post("/", "x").await;
    assert_eq!(posted.status, 504, "{late} before");
}

#[tokio::test]
async fn a_request_has_a_time_limit_over_all_its_tries() {
    let mesh = carts(2, "", "    timeouts: {request: 1s}\n").start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    for pod in ["west/cart-1", "west/cart-2"] {
        mesh.app(pod).behaviour.delay(60_000);
    }
    let begun = Instant::now();
    let reply = client.get("/").await;
    assert_eq!(reply.status, 504);
    assert!(reply.text().starts_with("UT "), "{}", reply.text());
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_exchange_ends_at_the_idle_limit() {
    let mesh = carts(1, "  timeouts: {idle: 1s}\n", "").start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    mesh.app("west/cart-1").behaviour.delay(60_000);
    let reply = client.get("/").await;
    assert_eq!(reply.status, 504);
    assert!(reply.text().starts_with("SI "), "{}", reply.text());
}

/// How a connection to an echo ends, which is used for as long as it lives.
async fn broken(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> ErrorKind {
    loop {
        let echoed = match io.write_all(b"x").await {
            Ok(()) => io.read_exact(&mut [0]).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = echoed {
            return error.kind();
        }
    }
}

/// Half of what was sent must not look whole, so it is a reset on both sides, never an end.
#[tokio::test]
async fn an_idle_tcp_connection_and_one_that_a_drain_cuts_are_reset() {
    let (to, mut ends) = tokio::sync::mpsc::channel(2);
    let app = App::custom(move |mut io, _| {
        let to = to.clone();
        async move {
            // Nobody may wait for it any more.
            let _ = io.write_all(b"half").await;
            let ended = io.read(&mut [0]).await.map_err(|error| error.kind());
            let _ = to.send(ended).await;
        }
    });
    let policy = format!("{POLICY}  timeouts: {{idle: 1s}}\n");
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .manifest("traffic.yaml", &policy)
                .service_with("other", 1, |s| s.port("bytes", 81, "tcp", app.clone()))
        })
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("bytes", 81, "tcp", app.clone()))
        })
        .start()
        .await;
    for service in ["cart", "other"] {
        let mut io = mesh
            .client("east/web")
            .port(service, 81)
            .tcp()
            .await
            .unwrap();
        let mut half = [0; 4];
        io.read_exact(&mut half).await.unwrap();
        if service == "other" {
            mesh.proxy_mut("east/web-1").stop().await;
        }
        let ended = io.read(&mut half).await.map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{service}");
        let ended = ends.recv().await.unwrap();
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{service}");
    }
}

/// However much still moves: a request, a WebSocket, and below a TCP connection.
#[tokio::test]
async fn a_stream_ends_when_it_has_lived_as_long_as_it_may() {
    let mesh = carts(1, "  timeouts: {stream: 1s}\n", "").start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    let begun = Instant::now();
    // Lines come for as long as the connection is open.
    let ticking = client.try_get("/ticks").await;
    assert!(ticking.is_err(), "{ticking:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let mut io = client.upgrade("echo").await.unwrap();
    let begun = Instant::now();
    assert_eq!(broken(&mut io).await, ErrorKind::ConnectionReset);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    mesh.app("west/cart-1").behaviour.delay(60_000);
    let reply = client.get("/").await;
    assert_eq!(reply.status, 504);
    assert!(reply.text().starts_with("DT "), "{}", reply.text());
}

#[tokio::test]
async fn a_tcp_connection_ends_when_it_has_lived_as_long_as_it_may() {
    let policy = format!("{POLICY}  timeouts: {{stream: 1s}}\n");
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest("traffic.yaml", &policy)
        })
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("bytes", 81, "tcp", App::Tcp))
        })
        .start()
        .await;
    let client = mesh.client("east/web").port("cart", 81);
    let mut io = client.tcp().await.unwrap();
    let begun = Instant::now();
    assert_eq!(broken(&mut io).await, ErrorKind::ConnectionReset);
    let lived = begun.elapsed();
    assert!(lived >= Duration::from_millis(900), "{lived:?}");
}

/// The route's word on retries stands over the policy's.
#[tokio::test]
async fn a_route_says_how_often_and_how_soon_a_request_is_tried_again() {
    let rule = "    retry: {codes: [503], attempts: 4, backoff: 200ms}\n";
    let mesh = carts(1, "  retries: {attempts: 0}\n", rule).start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    let app = mesh.app("west/cart-1");
    app.behaviour.fail_with(503);
    let (before, begun) = (app.record.requests(), Instant::now());
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(app.record.requests() - before, 5);
    assert!(begun.elapsed() >= Duration::from_millis(800));
    let before = app.record.requests();
    // The route's author has said so, of every method (GEP-1731).
    assert_eq!(client.post("/", "x").await.status, 503);
    assert_eq!(app.record.requests() - before, 5);
}

#[tokio::test]
async fn a_wait_between_two_tries_is_no_idleness() {
    let rule = "    retry: {codes: [503], attempts: 1, backoff: 1200ms}\n";
    let mesh = carts(1, "  timeouts: {idle: 1s}\n", rule).start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    let app = mesh.app("west/cart-1");
    app.behaviour.fail_with(503);
    let before = app.record.requests();
    // The second try's own answer, not that nothing came.
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(app.record.requests() - before, 2);
}

#[tokio::test]
async fn a_post_is_sent_once_unless_a_route_says_otherwise() {
    for rule in ["", "    retry: {attempts: 4}\n"] {
        let mesh = carts(1, "", rule).start().await;
        let client = mesh.client("east/web").http("cart");
        assert_eq!(client.get("/").await.status, 200);
        let app = mesh.app("west/cart-1");
        app.behaviour.fail_with(503);
        let before = app.record.requests();
        assert_eq!(client.post("/", "x").await.status, 503);
        assert_eq!(app.record.requests() - before, 1, "{rule}");
    }
}

/// O15: who sees nothing but failures adds a fifth to the load, and ten tries a second, and not a try to each.
#[tokio::test]
async fn an_upstream_that_always_fails_is_asked_a_fifth_more_often() {
    const REQUESTS: usize = 3_000;
    const WINDOW_SECONDS: f64 = 10.0;
    let mesh = carts(3, "", "").start().await;
    let pods = ["west/cart-1", "west/cart-2", "west/cart-3"].map(|pod| mesh.app(pod));
    for pod in &pods {
        pod.behaviour.fail_with(503);
    }
    let asked = || pods.iter().map(|pod| pod.record.requests()).sum::<usize>();
    let (before, begun) = (asked(), Instant::now());
    let clients = (0..16).map(|_| mesh.client("east/web").http("cart"));
    let load = Load::start(clients.collect());
    load.more(REQUESTS).await;
    let tally = load.stop().await;
    assert_eq!(tally.good, 0);
    let seconds = begun.elapsed().as_secs_f64();
    let of = |count: usize| f64::from(u32::try_from(count).unwrap());
    let (tries, all) = (of(tally.bad.len()), of(asked() - before));
    let most = tries * 1.2 + 10.0 * (seconds + WINDOW_SECONDS);
    assert!(all <= most, "{all} tries for {tries} in {seconds} s");
    assert!(all > tries, "{all} tries for {tries}: none was made again");
}

#[tokio::test]
async fn informational_answers_pass_and_a_flood_of_them_does_not() {
    let hints = |count: usize| "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(count);
    let talkative = App::custom(move |mut io, _| async move {
        let mut space = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut space).await {
            let count = if space[..n].starts_with(b"GET /flood") {
                200
            } else {
                2
            };
            let answer = hints(count) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("http", 80, "http", talkative))
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut io = client.tcp().await.unwrap();
    let mut words = async |path: &str| {
        let ask = format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
        io.write_all(ask.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        String::from_utf8_lossy(&all).into_owned()
    };
    let told = words("/").await;
    assert_eq!(told.matches("HTTP/1.1 103").count(), 2, "{told}");
    assert!(told.ends_with("ok"), "{told}");
    let flooded = client.get("/flood").await;
    assert_eq!(flooded.status, 502, "{}", flooded.text());
}

/// The caller's own sidecar leaves: each answer is whole, and the last one says so.
#[tokio::test]
async fn a_sidecar_that_leaves_tells_its_clients_to_go_elsewhere() {
    let mut mesh = Mesh::builder()
        .drain_seconds(20)
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut sender = client.http1().await.unwrap();
    let ask = || client.request("GET", "/").body(full("")).unwrap();
    let first = sender.send_request(ask()).await.unwrap();
    assert!(!first.headers().contains_key("connection"));
    mesh.app("west/cart-1").behaviour.delay(2_000);
    drop(first);
    sender.ready().await.unwrap();
    let under_way = sender.send_request(ask());
    let under_way = tokio::spawn(under_way);
    let (mut streams, conn) = h2::client::handshake(client.tcp().await.unwrap())
        .await
        .unwrap();
    let conn = tokio::spawn(conn);
    let request = http::Request::get(format!("http://{}/", client.host()));
    let request = request.body(()).unwrap();
    let (stream, _) = streams.send_request(request, true).unwrap();
    until("both requests are with the application", async || {
        let seen = mesh.app("west/cart-1").record.requests();
        check(seen == 3, seen)
    })
    .await;
    let stopping = mesh.proxy_mut("east/web-1").ask_to_stop().unwrap();
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().get("connection").unwrap(), "close");
    assert_eq!(stream.await.unwrap().status(), 200);
    let refused = until(
        "HTTP/2 says it as well",
        async || match std::future::poll_fn(|cx| streams.poll_ready(cx)).await {
            Ok(()) => Err("new streams are welcome"),
            Err(error) => Ok(error),
        },
    )
    .await;
    assert!(refused.is_go_away() && refused.is_remote(), "{refused}");
    stopping.ended().await;
    drop(conn);
}

/// A connection between two requests is not closed under the client's next one.
#[tokio::test]
async fn an_idle_connection_may_ask_once_more() {
    let mut mesh = Mesh::builder()
        .drain_seconds(20)
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut sender = client.http1().await.unwrap();
    let mut stopping = None;
    for number in 0.. {
        sender.ready().await.unwrap();
        let request = client.request("GET", "/").body(full("")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "request {number}");
        let last = answer.headers().contains_key("connection");
        drop(isthmus_tests::Reply::read(answer).await.unwrap());
        if last {
            break;
        }
        if number == 3 {
            stopping = mesh.proxy_mut("east/web-1").ask_to_stop();
        }
    }
    stopping.expect("it was asked to").ended().await;
}
