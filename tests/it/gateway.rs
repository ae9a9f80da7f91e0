//! Does a gateway let in what is exported, and nothing else? (SECURITY S23, S25)

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_proxy_core::balance::Rng;
use isthmus_proxy_core::client_hello;
use isthmus_tests::app::AppServer;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, manifest, tls, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const GATEWAY: &str = "west/gateway-1";
/// S23 says 1 s; the rest is for a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(4);
/// S25 says 30 s; the rest is for a busy machine.
const DRAINED_WITHIN: Duration = Duration::from_secs(45);

/// A mesh in whose first pod of `cart` something that counts answers on the mesh port, and the name
/// that a caller asks the gateway for to reach it.
async fn recorded() -> (Mesh, AppServer, String) {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.linked().service("cart", 1).service_with("vault", 1, |s| {
                s.port("http", 80, "http", App::Http).unexported()
            })
        })
        .start()
        .await;
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let hello = mesh.link(GATEWAY).hello();
    let name = client_hello::read(&hello)
        .unwrap()
        .unwrap()
        .server_name
        .unwrap();
    let cart = mesh.proxy_mut("west/cart-1");
    cart.stop().await;
    let recorder = AppServer::start("recorder", cart.mesh(), App::Tcp).await;
    (mesh, recorder, name)
}

fn gateway(mesh: &Mesh) -> SocketAddr {
    SocketAddr::new(
        mesh.proxy(GATEWAY).address(),
        isthmus_tests::proxy::GATEWAY_PORT,
    )
}

/// Says something, and waits until the gateway closes.
async fn expect_closed(to: SocketAddr, what: &str, words: &[u8]) {
    let begun = Instant::now();
    let mut io = TcpStream::connect(to).await.unwrap();
    // It may be closed before all is said.
    let _ = io.write_all(words).await;
    let mut said = Vec::new();
    let read = timeout(CLOSED_WITHIN * 2, io.read_to_end(&mut said)).await;
    assert!(
        read.is_ok() && begun.elapsed() < CLOSED_WITHIN,
        "{what}: open for {:?}",
        begun.elapsed()
    );
    assert!(
        said.len() < 64,
        "{what}: {}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn no_backend_is_touched_without_a_valid_handle() {
    let (mesh, recorder, name) = recorded().await;
    let to = gateway(&mesh);
    let (handle, domain) = name.split_once('.').unwrap();
    let flipped = |at: usize| {
        let mut bytes = handle.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        format!("{}.{domain}", String::from_utf8(bytes).unwrap())
    };
    let mut names: Vec<String> = (0..handle.len()).map(flipped).collect();
    names.extend([
        format!("{handle}.east.mesh.internal"),
        format!("{handle}.{domain}.evil.example"),
        format!("x.{name}"),
        domain.to_owned(),
        "cart.shop.svc.clusterset.local".to_owned(),
        format!("{}.{domain}", &handle[..handle.len() - 1]),
        format!("{handle}a.{domain}"),
    ]);
    for name in names {
        let knocking = tls::connect(TcpStream::connect(to).await.unwrap(), &name, None);
        let refused = timeout(CLOSED_WITHIN, knocking)
            .await
            .expect("closed in time");
        assert!(refused.is_err(), "{name}");
    }
    let hello = hello_for(&name).await;
    expect_closed(to, "plaintext", b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    expect_closed(to, "no SNI", &hello_for("127.0.0.1").await).await;
    expect_closed(
        to,
        "upper case",
        &replaced(&hello, handle, &handle.to_uppercase()),
    )
    .await;
    expect_closed(
        to,
        "NUL",
        &replaced(&hello, handle, &handle.replacen(&handle[..1], "\0", 1)),
    )
    .await;
    expect_closed(to, "half a ClientHello", &hello[..hello.len() / 2]).await;
    expect_closed(to, "64 KiB", &[0x16, 3, 1, 0xff, 0xff].repeat(13_000)).await;
    expect_closed(to, "silence", b"").await;
    assert_eq!(recorder.record.accepts(), 0, "a backend was touched");
    assert_eq!(mesh.app("west/vault-1").record.accepts(), 0);
    // The same words with the right name pass.
    let mut io = TcpStream::connect(to).await.unwrap();
    io.write_all(&hello).await.unwrap();
    let mut back = vec![0; hello.len()];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!((recorder.record.accepts(), back), (1, hello));
}

/// S23
#[tokio::test]
async fn ten_thousand_made_up_names_touch_no_backend() {
    const NAMES: usize = 10_000;
    const AT_ONCE: usize = 32;
    const SIGNS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mesh, recorder, name) = recorded().await;
    let to = gateway(&mesh);
    let (handle, _) = name.split_once('.').unwrap();
    let (hello, handle) = (hello_for(&name).await, handle.to_owned());
    let mut knocking = tokio::task::JoinSet::new();
    let mut rng = Rng::new(23);
    for k in 0..NAMES {
        // Half of them are all made up, half are the right one but for a few characters.
        let changed = if k % 2 == 0 { handle.len() } else { k % 8 + 1 };
        let mut made_up = handle.clone().into_bytes();
        for _ in 0..changed {
            let (at, sign) = (rng.below(made_up.len()), rng.below(SIGNS.len()));
            made_up[at] = SIGNS[sign];
        }
        let made_up = String::from_utf8(made_up).unwrap();
        if made_up == handle {
            continue;
        }
        let words = replaced(&hello, &handle, &made_up);
        knocking.spawn(async move { expect_closed(to, &made_up, &words).await });
        if knocking.len() >= AT_ONCE {
            knocking.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(knocked) = knocking.join_next().await {
        knocked.unwrap();
    }
    assert_eq!(recorder.record.accepts(), 0, "a backend was touched");
    assert_eq!(mesh.app("west/vault-1").record.accepts(), 0);
}

/// S23: 1-byte segments are no way around it, and no reason to fail.
#[tokio::test]
async fn a_client_hello_in_many_segments_is_read_as_one() {
    let (mesh, recorder, name) = recorded().await;
    let hello = hello_for(&name).await;
    let mut io = TcpStream::connect(gateway(&mesh)).await.unwrap();
    io.set_nodelay(true).unwrap();
    for byte in &hello {
        io.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut back = vec![0; hello.len()];
    timeout(CLOSED_WITHIN, io.read_exact(&mut back))
        .await
        .expect("relayed")
        .unwrap();
    assert_eq!((recorder.record.accepts(), back), (1, hello));
}

/// S25
#[tokio::test]
async fn what_is_no_longer_exported_is_refused() {
    let (mesh, recorder, name) = recorded().await;
    let to = gateway(&mesh);
    let text = manifest::service(&service("cart"), "10.96.0.10");
    mesh.write(
        "west",
        "service-cart.yaml",
        text.split("---").next().unwrap(),
    );
    let hello = hello_for(&name).await;
    until("the gateway refuses it", async || {
        let mut io = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        io.write_all(&hello).await.map_err(|e| e.to_string())?;
        let mut back = [0];
        // One byte back: it was relayed to the recorder.
        check(!matches!(io.read(&mut back).await, Ok(1)), "it is relayed")
    })
    .await;
    let before = recorder.record.accepts();
    expect_closed(to, "unexported", &hello).await;
    assert_eq!(recorder.record.accepts(), before);
}

/// S25: what is open ends within 30 s, and what is under way may end before that.
#[tokio::test]
async fn what_is_open_to_an_unexported_service_is_drained() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service("cart", 1)
                .service_with("queue", 1, |s| s.port("tcp", 90, "tcp", App::Tcp))
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    let mut stream = web.port("queue", 90).tcp().await.unwrap();
    let (mut back, word) = ([0; 4], b"word");
    stream.write_all(word).await.unwrap();
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, word);
    // A request that is under way while its service is withdrawn: its answer takes that long.
    let cart = web.http("cart");
    assert_eq!(cart.get("/").await.status, 200);
    mesh.app("west/cart-1").behaviour.delay(3_000);
    let asked = mesh.app("west/cart-1").record.requests();
    let asking = tokio::spawn(async move { cart.get("/").await.status });
    until("the request has arrived", async || {
        check(
            mesh.app("west/cart-1").record.requests() > asked,
            "it has not",
        )
    })
    .await;
    for (name, port, protocol) in [("cart", 80, "http"), ("queue", 90, "tcp")] {
        let plan =
            isthmus_tests::plan::ServicePlan::new(name, 1).port("p", port, protocol, App::Tcp);
        let text = manifest::service(
            &plan,
            if port == 80 {
                "10.96.0.10"
            } else {
                "10.96.0.11"
            },
        );
        let file = format!("service-{name}.yaml");
        mesh.write("west", &file, text.split("---").next().unwrap());
    }
    let begun = Instant::now();
    assert_eq!(asking.await.unwrap(), 200, "it was under way");
    let gateway = mesh.proxy(GATEWAY);
    // Its caller let go of it: a clean end.
    let about = |line: &serde_json::Value, pod: &str| {
        line["endpoint"]
            .as_str()
            .is_some_and(|name| name.ends_with(pod))
    };
    let line = gateway.logged("the end of the tunnel to cart", |line| {
        about(line, "cart-1")
    });
    let line = line.await;
    assert!(line["flag"].is_null(), "{line}");
    // What a gateway can know of a connection whose TLS it does not end.
    assert_eq!(line["service"], "shop/cart.shop.svc.clusterset.local");
    assert_eq!(line["destination_cluster"], "west");
    assert_eq!(line["source_cluster"], "unknown");
    // Nobody lets go of an open stream: the gateway does.
    let cut = timeout(DRAINED_WITHIN, stream.read(&mut back)).await;
    let cut = cut.expect("drained in time");
    assert!(!matches!(cut, Ok(1..)), "{cut:?}");
    assert!(begun.elapsed() < DRAINED_WITHIN, "{:?}", begun.elapsed());
    let line = gateway
        .logged("the cut", |line| about(line, "queue-1"))
        .await;
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no longer exported"), "{line}");
}

/// The gateway ends no TLS: what it relays, it can't read, and a stranger with a good name meets
/// the pod's own proxy, which wants a certificate (S24).
#[tokio::test]
async fn a_good_handle_is_no_identity() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 1))
        .start()
        .await;
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let hello = mesh.link(GATEWAY).hello();
    let name = client_hello::read(&hello)
        .unwrap()
        .unwrap()
        .server_name
        .unwrap();
    let seen = mesh.app("west/cart-1").record.accepts();
    let io = TcpStream::connect(gateway(&mesh)).await.unwrap();
    let mut io = tls::connect(io, &name, None)
        .await
        .expect("TLS 1.3 refuses a client afterwards");
    let _ = io
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let read = timeout(CLOSED_WITHIN, io.read(&mut [0; 64]))
        .await
        .expect("refused in time");
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    assert_eq!(mesh.app("west/cart-1").record.accepts(), seen);
}

fn service(name: &str) -> isthmus_tests::plan::ServicePlan {
    isthmus_tests::plan::ServicePlan::new(name, 1).port("http", 80, "http", App::Http)
}

/// The ClientHello of a real client that asks for this name.
async fn hello_for(name: &str) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let name = name.to_owned();
    let knocking = tokio::spawn(async move { tls::connect(io, &name, None).await.map(drop) });
    let (mut io, _) = listener.accept().await.unwrap();
    let mut hello = Vec::new();
    while hello.len() < 5 || hello.len() < 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]))
    {
        assert!(io.read_buf(&mut hello).await.unwrap() > 0);
    }
    drop(io);
    assert!(knocking.await.unwrap().is_err());
    hello
}

/// The words with a text in them replaced by one of the same length.
fn replaced(words: &[u8], old: &str, new: &str) -> Vec<u8> {
    let at = words
        .windows(old.len())
        .rposition(|w| w == old.as_bytes())
        .expect("the name is in it");
    let mut changed = words.to_vec();
    changed[at..at + old.len()].copy_from_slice(new.as_bytes());
    changed
}

/// What has no way to any endpoint fails at once, not each time after a wait for a way.
#[tokio::test]
async fn a_service_without_a_way_is_waited_for_once() {
    const CALLS: u32 = 10;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 1).gateways(0))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let first = client.get("/").await;
    assert!(first.text().starts_with("UH "), "{}", first.text());
    let begun = Instant::now();
    for _ in 0..CALLS {
        assert_eq!(client.get("/").await.status, 503);
    }
    // A wait takes half a second.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(250) * CALLS, "{took:?}");
}
