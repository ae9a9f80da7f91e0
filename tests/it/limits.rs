//! Is everything bounded that one caller can make another pay for? (SECURITY section 4)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_tests::client::{Reply, full};
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

const MIB: usize = 1024 * 1024;
/// Everything that runs here: both proxies, the gateway, the application and the client.
const GROWTH_MAX: usize = 32 * MIB;
/// Sockets of its own that a stream passes, there and back.
const SOCKETS: usize = 4;
/// What the windows on the way of one stream hold, there and back.
const WINDOWS_MAX: usize = 2 * MIB;
/// Whoever still takes something takes it within this.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);

fn bytes() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("echo", 1, |s| {
                s.port("bytes", 81, "tcp", App::Tcp)
                    .port("sink", 82, "tcp", App::Sink)
                    .port("http", 83, "http", App::Http)
                    .port(
                        "stuck",
                        84,
                        "tcp",
                        App::custom(|io, _| async move {
                            // Takes what is sent for a client that waits, and never reads a byte.
                            io.writable().await.unwrap();
                            std::future::pending::<()>().await;
                        }),
                    )
            })
        })
}

/// What the process holds in memory, in bytes.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// One GiB: what is promised of one stream.
const BULK: usize = 1024 * MIB;

#[tokio::test]
async fn bulk_passes_through_with_bounded_memory() {
    crate::alone("limits::bulk_alone").await;
}

#[tokio::test]
#[ignore = "runs in a process of its own, by bulk_passes_through_with_bounded_memory"]
async fn bulk_alone() {
    let mesh = bytes().start().await;
    let mut io = mesh
        .client("east/web")
        .port("echo", 82)
        .tcp()
        .await
        .unwrap();
    let piece = vec![7u8; MIB / 4];
    io.write_all(&piece).await.unwrap();
    let (begin, mut most) = (resident(), 0);
    for _ in 1..BULK / piece.len() {
        io.write_all(&piece).await.unwrap();
        most = most.max(resident());
    }
    io.shutdown().await.unwrap();
    let mut count = [0; 8];
    timeout(Duration::from_secs(60), io.read_exact(&mut count))
        .await
        .expect("all arrives")
        .unwrap();
    assert_eq!(u64::from_be_bytes(count), u64::try_from(BULK).unwrap());
    let growth = most.saturating_sub(begin);
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB);
}

/// How many tunnels lead through the one gateway of west: each is one connection there.
async fn tunnels(mesh: &Mesh) -> usize {
    let gateway = mesh.proxy("west/gateway-1");
    let open = gateway.metric("open_connections", &[]).await;
    format!("{open:.0}").parse().unwrap()
}

/// What the kernel takes for one socket, both ends.
fn socket_max() -> usize {
    let most = |file| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")).unwrap();
        text.split_whitespace()
            .last()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    most("tcp_rmem") + most("tcp_wmem")
}

/// Writes until nothing more is taken; how much that was.
async fn fill(io: &mut TcpStream) -> usize {
    let held_max = SOCKETS * socket_max() + WINDOWS_MAX;
    let (piece, mut taken) = (vec![1u8; MIB], 0);
    while let Ok(written) = timeout(TAKEN_WITHIN, io.write(&piece)).await {
        taken += written.unwrap();
        assert!(taken < held_max, "it was never held back: {taken}");
    }
    taken
}

/// An HTTP application that takes a request's body only when it is told to.
fn reads_at(gate: &Arc<Notify>, body: usize) -> App {
    let opened = Arc::clone(gate);
    App::custom(move |mut io, record| {
        let opened = Arc::clone(&opened);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await.unwrap());
            }
            record.request(String::from_utf8_lossy(&head).into_owned());
            opened.notified().await;
            let (mut space, mut left) = (vec![0; MIB], body);
            while left > 0 {
                let n = io.read(&mut space).await.unwrap();
                assert!(n > 0, "it breaks off");
                record.content(n);
                left -= n;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            io.write_all(answer).await.unwrap();
        }
    })
}

/// A body goes no faster than the application reads: what lies between the two is bounded.
#[tokio::test]
async fn an_upload_is_held_back_by_a_server_that_does_not_read() {
    const BODY: usize = 96 * MIB;
    /// What four pairs of sockets and three proxies hold.
    const BETWEEN_MAX: usize = 48 * MIB;
    let gate = Arc::new(Notify::new());
    let app = reads_at(&gate, BODY);
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("slow", 1, |s| s.port("http", 80, "http", app))
        })
        .start()
        .await;
    let mut io = mesh.client("east/web").http("slow").tcp().await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: slow\r\ncontent-length: {BODY}\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    let (mut rx, mut tx) = io.into_split();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let sending = tokio::spawn(async move {
        let piece = vec![3u8; MIB / 4];
        for _ in 0..BODY / piece.len() {
            tx.write_all(&piece).await.unwrap();
            counter.fetch_add(piece.len(), Ordering::SeqCst);
        }
        tx
    });
    let record = &mesh.app("west/slow-1").record;
    until("the request is there", async || {
        check(record.requests() == 1, "none")
    })
    .await;
    // Held back: for a while nothing more is taken.
    let mut seen = (usize::MAX, 0);
    until("nothing more is taken", async || {
        let now = taken.load(Ordering::SeqCst);
        seen = if now == seen.0 {
            (now, seen.1 + 1)
        } else {
            (now, 0)
        };
        check(seen.1 >= 100, format!("{} MiB", now / MIB))
    })
    .await;
    let held = taken.load(Ordering::SeqCst);
    assert!(held < BETWEEN_MAX, "{} MiB taken, none read", held / MIB);
    assert!(!sending.is_finished());
    gate.notify_one();
    let mut answer = [0; 12];
    timeout(Duration::from_secs(60), rx.read_exact(&mut answer))
        .await
        .expect("it goes on")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(record.bytes(), u64::try_from(BODY).unwrap());
}

/// One stream of a tunnel that nobody reads fills its own window, and nobody else's.
#[tokio::test]
async fn a_slow_reader_does_not_hold_up_its_neighbours_in_the_tunnel() {
    let mesh = bytes().start().await;
    let web = mesh.client("east/web");
    let mut stuck = Vec::new();
    for port in [81, 81, 84] {
        let mut io = web.port("echo", port).tcp().await.unwrap();
        let taken = fill(&mut io).await;
        assert!(taken > 0, "nothing was taken");
        stuck.push(io);
    }
    let http = web.port("echo", 83);
    for _ in 0..20 {
        let reply = timeout(Duration::from_secs(10), http.post("/", vec![b'n'; 20_000])).await;
        assert_eq!(reply.expect("not held up").body.len(), 20_000);
    }
    let mut io = web.port("echo", 82).tcp().await.unwrap();
    io.write_all(&vec![2u8; 4 * MIB]).await.unwrap();
    io.shutdown().await.unwrap();
    let mut count = [0; 8];
    timeout(Duration::from_secs(20), io.read_exact(&mut count))
        .await
        .expect("not held up")
        .unwrap();
    assert_eq!(u64::from_be_bytes(count), 4 * 1024 * 1024);
    assert_eq!(tunnels(&mesh).await, 1, "all of them share one");
}

#[tokio::test]
async fn a_hundred_unread_answers_hold_up_nobody_and_cost_little() {
    crate::alone("limits::unread_alone").await;
}

#[tokio::test]
#[ignore = "runs in a process of its own, by a_hundred_unread_answers_hold_up_nobody_and_cost_little"]
async fn unread_alone() {
    // More than a client's connection carries.
    const CONNECTIONS: usize = 2;
    const UNREAD: usize = 50;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("echo", 1, |s| s.port("http2", 80, "http2", App::Http2))
        })
        .start()
        .await;
    let client = mesh.client("east/web").port("echo", 80);
    let mut neighbour = client.http2().await.unwrap();
    let mut ask = async || {
        let request = client.request("POST", "/").body(full(vec![b'n'; 200_000]));
        let answer = neighbour.send_request(request.unwrap()).await.unwrap();
        Reply::read(answer).await.unwrap().body.len()
    };
    assert_eq!(ask().await, 200_000);
    let begin = resident();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let io = client.tcp().await.unwrap();
        let mut builder = h2::client::Builder::new();
        let (mut sender, connection) = builder
            .initial_window_size(1024)
            .handshake::<_, bytes::Bytes>(io)
            .await
            .unwrap();
        tokio::spawn(connection);
        for _ in 0..UNREAD {
            sender = sender.ready().await.unwrap();
            let uri = format!("http://{}/bytes/{}", client.host(), 4 * MIB);
            let request = http::Request::get(uri).body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            let answer = timeout(Duration::from_secs(20), answer).await;
            let mut body = answer.expect("a head").unwrap().into_body();
            // What is not released is never granted again.
            assert!(body.data().await.unwrap().unwrap().len() <= 1024);
            held.push((sender.clone(), body));
        }
    }
    // Each has filled what it may, on its way from the application.
    let moved = async || {
        let proxy = mesh.proxy("west/echo-1");
        proxy.metric("received_bytes_total", &[]).await
    };
    let mut before = -1.0;
    until("nothing more is taken", async || {
        let now = moved().await;
        let still = now <= before;
        before = now;
        check(still, now)
    })
    .await;
    for _ in 0..20 {
        let answered = timeout(Duration::from_secs(10), ask()).await;
        assert_eq!(answered.expect("not held up"), 200_000);
    }
    let growth = resident().saturating_sub(begin);
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB);
    assert_eq!(tunnels(&mesh).await, 1, "all of them share one");
    drop(held);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_by_its_status() {
    let mesh = bytes().start().await;
    let http = mesh.client("east/web").port("echo", 83);
    for bytes in [70_000, 100_000, 600_000] {
        let big = http.request("GET", "/").header("x-big", "a".repeat(bytes));
        let reply = http.send(big.body(full("")).unwrap()).await.unwrap();
        assert_eq!(reply.status, 431, "{bytes}: {}", reply.text());
    }
    let mut many = http.request("GET", "/");
    for n in 0..150 {
        many = many.header(format!("x-{n}"), "1");
    }
    let reply = http.send(many.body(full("")).unwrap()).await.unwrap();
    assert_eq!(reply.status, 431, "{}", reply.text());
    assert_eq!(mesh.app_on("west/echo-1", 83).record.requests(), 0);
    assert_eq!(http.get("/").await.status, 200);
}

/// More callers at once than one tunnel carries streams: further tunnels take them.
#[tokio::test]
async fn more_requests_at_once_than_a_tunnel_has_streams_are_all_answered() {
    const CALLERS: usize = 200;
    const STREAMS: usize = 40;
    let mesh = bytes().proxies("streams_per_tunnel", STREAMS).start().await;
    mesh.app_on("west/echo-1", 83).behaviour.delay(100);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let client = mesh.client("east/web").port("echo", 83);
        calls.spawn(async move { client.get("/").await });
    }
    let mut good = 0;
    while let Some(reply) = calls.join_next().await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        good += 1;
    }
    assert_eq!(good, CALLERS);
    let opened = tunnels(&mesh).await;
    assert!((2..=16).contains(&opened), "{opened} tunnels");
}

#[tokio::test]
async fn as_many_tunnels_as_are_allowed_share_the_streams() {
    const TUNNELS: usize = 3;
    let mesh = bytes().proxies("tunnels_per_peer", TUNNELS).start().await;
    let web = mesh.client("east/web");
    let mut held = Vec::new();
    for n in 1..=4 * TUNNELS {
        let mut io = web.port("echo", 81).tcp().await.unwrap();
        io.write_all(b"x").await.unwrap();
        io.read_exact(&mut [0; 1]).await.unwrap();
        held.push(io);
        // One more only while those that are there are busy.
        assert_eq!(tunnels(&mesh).await, n.min(TUNNELS), "{n} streams");
    }
}

/// What a client leaves behind is gone soon.
#[tokio::test]
async fn connections_that_are_broken_off_leave_nothing_open() {
    let mesh = bytes().start().await;
    let web = mesh.client("east/web");
    for _ in 0..50 {
        let mut io = web.port("echo", 81).tcp().await.unwrap();
        io.write_all(b"x").await.unwrap();
        let _ = io.read(&mut [0; 1]).await.unwrap();
        assert!(
            mesh.proxy("east/web-1")
                .metric("open_connections", &[])
                .await
                >= 1.0
        );
        drop(io);
        let mut half = web.port("echo", 83).tcp().await.unwrap();
        half.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf")
            .await
            .unwrap();
        drop(half);
    }
    for name in ["east/web-1", "west/echo-1"] {
        until("nothing is open", async || {
            let open = mesh.proxy(name).metric("open_connections", &[]).await;
            check(open < 1.0, format!("{name}: {open}"))
        })
        .await;
    }
}

/// A WebSocket is in flight for as long as it is open, not only for as long as its handshake takes.
#[tokio::test]
async fn an_upgraded_stream_counts_while_it_is_open() {
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service("cart", 1).manifest(
                "traffic.yaml",
                "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}
  limits: {maxInFlight: 1}
",
            )
        })
        .start()
        .await;
    let http = mesh.client("east/web").http("cart");
    let mut io = http.upgrade("echo").await.unwrap();
    io.write_all(b"seven b").await.unwrap();
    io.read_exact(&mut [0; 7]).await.unwrap();
    let full = http.get("/").await;
    assert_eq!(full.status, 503, "{}", full.text());
    assert!(full.text().starts_with("UO "), "{}", full.text());
    for (proxy, direction) in [("east/web-1", "outbound"), ("east/cart-1", "inbound")] {
        let labels = [format!("direction=\"{direction}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let proxy = mesh.proxy(proxy);
        let sent = proxy.metric("sent_bytes_total", &labels).await;
        assert!(sent >= 7.0, "{direction}: {sent} while it is open");
    }
    drop(io);
    until("there is room again", async || {
        let reply = http.get("/").await;
        check(reply.status == 200, reply.text())
    })
    .await;
}
