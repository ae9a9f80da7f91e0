//! What do callers cost who begin and do not go on? (SECURITY S24, O9, O10)

use std::time::{Duration, Instant};

use isthmus_tests::tls::{self, Identity};
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mtls::{one_cluster, status_of};

/// Of a head (O9), and for a busy machine.
const HEAD_WITHIN: Duration = Duration::from_secs(10 + 20);
/// Of a handshake (S24), and for a busy machine.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5 + 20);

/// O9: a thousand heads that do not come to their end.
#[tokio::test]
async fn a_thousand_slow_heads_hold_up_nobody_and_end() {
    const SLOW: usize = 1_000;
    let mesh = one_cluster().await;
    let client = mesh.client("east/web").http("cart");
    let mut slow = Vec::new();
    let begun = Instant::now();
    for _ in 0..SLOW {
        let mut io = client.tcp().await.unwrap();
        io.write_all(b"GET /slow HTTP/1.1\r\nhost: cart\r\nx: ")
            .await
            .unwrap();
        slow.push(io);
    }
    let web = mesh.proxy("east/web-1");
    until("all are open", async || {
        let open = slow_ones(web).await;
        check(open == 0.0, format!("{open} have ended already"))
    })
    .await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    for io in &mut slow {
        // A letter at a time is no progress.
        let _ = io.write_all(b"a").await;
        let mut said = String::new();
        timeout(HEAD_WITHIN, io.read_to_string(&mut said))
            .await
            .expect("it is ended")
            .unwrap();
        assert!(said.starts_with("HTTP/1.1 408 "), "{said:?}");
    }
    assert!(begun.elapsed() < HEAD_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(slow_ones(web).await, 1_000.0);
    assert!(
        mesh.app("east/cart-1")
            .record
            .heads()
            .iter()
            .all(|head| !head.contains("/slow"))
    );
}

/// Those that were too slow.
async fn slow_ones(proxy: &isthmus_tests::proxy::Proxy) -> f64 {
    proxy.metric("requests_total", &["flag=\"SI\""]).await
}

/// S24, O10: as many handshakes as may be under way, of somebody who does not go on.
#[tokio::test]
async fn handshakes_that_do_not_go_on_are_bounded_and_end() {
    let mesh = one_cluster().await;
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("east/cart-1"));
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    let open = async || {
        let mut io = tls::dial(web.address(), cart.mesh()).await.unwrap();
        // The beginning of a ClientHello, of 16 KiB.
        io.write_all(b"\x16\x03\x01\x40\x00\x01").await.unwrap();
        io
    };
    let begun = Instant::now();
    let mut held: Vec<TcpStream> = Vec::new();
    let is_full = |line: &serde_json::Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains("as many handshakes as may be are under way")
    };
    until("no more are taken", async || {
        for _ in 0..64 {
            held.push(open().await);
        }
        assert!(held.len() < 4_096, "{} are open", held.len());
        let full = cart.log().iter().any(is_full);
        check(full, format!("{} are open", held.len()))
    })
    .await;
    assert!(held.len() >= 1_024, "{}", held.len());
    // Who has a tunnel notices nothing.
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    for mut io in held {
        let mut rest = Vec::new();
        let _ = timeout(HANDSHAKE_WITHIN, io.read_to_end(&mut rest))
            .await
            .expect("it is ended");
        assert!(rest.len() < 64, "{rest:?}");
    }
    assert!(begun.elapsed() < HANDSHAKE_WITHIN, "{:?}", begun.elapsed());
    // And there is room again.
    let right = Identity::of_state_dir(web.state_dir());
    until("a peer is let in", async || {
        status_of(&mesh, cart, right.clone())
            .await
            .map_err(|e| format!("{e:#}"))
    })
    .await;
}

/// S32: nobody makes series by what he asks for.
#[tokio::test]
async fn random_hosts_and_paths_make_no_series() {
    let mesh: Mesh = one_cluster().await;
    let client = mesh.client("east/web").http("cart");
    let series = async || {
        let mut all = 0;
        for pod in ["east/web-1", "east/cart-1"] {
            let (_, text) = mesh.proxy(pod).get("/metrics").await.unwrap();
            all += text.lines().filter(|line| line.contains('{')).count();
        }
        all
    };
    let ask = async |number: usize| {
        let mut io = client.tcp().await.unwrap();
        let words = format!(
            "M{number} /p{number}?q={number} HTTP/1.1\r\nhost: h{number}.example\r\nuser-agent: a{number}\r\nconnection: close\r\n\r\n"
        );
        io.write_all(words.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(HEAD_WITHIN, io.read_to_string(&mut said))
            .await
            .expect("an answer")
            .unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    };
    ask(0).await;
    until("it is counted", async || {
        let web = mesh.proxy("east/web-1");
        let ended = web.metric("connections_total", &["http/1.1"]).await;
        check(ended >= 1.0, ended)
    })
    .await;
    let before = series().await;
    for number in 1..=1_000 {
        ask(number).await;
    }
    assert_eq!(series().await, before);
}
