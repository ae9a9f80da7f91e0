//! Are keys and certificates replaced without anybody noticing? (SECURITY F3, S7, S8)

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, until};

use crate::load::Load;

fn two_clusters() -> MeshPlan {
    Mesh::builder()
        .drain_seconds(10)
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 2))
}

/// The certificate's age is that of its file: one that is old is renewed at the next start, while
/// the proxy serves with it.
#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_failed_request() {
    let mut mesh = two_clusters().start().await;
    let load = Load::start(
        (0..2)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    load.more(30).await;
    for name in ["west/cart-1", "west/cart-2"] {
        let chain = mesh.proxy(name).state_dir().join("chain.pem");
        let old = std::fs::read(&chain).unwrap();
        mesh.proxy_mut(name).stop().await;
        let aged = SystemTime::now() - Duration::from_secs(30 * 3600);
        std::fs::File::options()
            .write(true)
            .open(&chain)
            .unwrap()
            .set_modified(aged)
            .unwrap();
        mesh.proxy_mut(name).start().await;
        until("the certificate is replaced", async || {
            let new = std::fs::read(&chain).map_err(|e| e.to_string())?;
            check(new != old, "the old one is there")
        })
        .await;
        mesh.proxy(name).ready().await;
        load.more(30).await;
    }
    load.stop_without_failure().await;
}

/// Every certificate, of callers, servers and gateways, in processes that go on: new ones are shown
/// in new handshakes, and nothing that is open suffers.
#[tokio::test]
async fn certificates_are_swapped_in_running_proxies_without_a_failed_request() {
    const ROUNDS: usize = 3;
    let mesh = two_clusters().certificate_seconds(10).start().await;
    let load = Load::start(
        (0..3)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    let names = ["east/web-1", "west/gateway-1", "west/cart-1", "west/cart-2"];
    let mut seen: Vec<Vec<Vec<u8>>> = vec![Vec::new(); names.len()];
    until("each proxy has had its certificates", async || {
        for (name, seen) in names.iter().zip(&mut seen) {
            let chain = mesh.proxy(name).state_dir().join("chain.pem");
            let chain = std::fs::read(chain).map_err(|e| e.to_string())?;
            if seen.last() != Some(&chain) {
                seen.push(chain);
            }
        }
        let least = seen.iter().map(Vec::len).min().unwrap_or(0);
        check(least > ROUNDS, least)
    })
    .await;
    load.more(100).await;
    load.stop_without_failure().await;
    // The first ones have ended by now.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    for name in names {
        let held = mesh.proxy(name).json("/config").await["certificate"].clone();
        let left = held["not_after"].as_u64().unwrap().saturating_sub(now);
        assert!((1..=10).contains(&left), "{name}: {held}");
    }
}

#[tokio::test]
async fn a_certificate_outlives_a_day_without_a_control_plane() {
    let mesh = two_clusters().start().await;
    let certificate = mesh.proxy("west/cart-1").json("/config").await["certificate"].clone();
    let until = certificate["not_after"].as_u64().unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(until > now + 24 * 3600, "{certificate}");
    assert_eq!(
        certificate["identity"],
        "spiffe://west.mesh.internal/ns/shop/sa/cart"
    );
}

/// S8
#[tokio::test]
async fn a_private_key_is_its_owners_and_in_no_dump() {
    let mesh = two_clusters().start().await;
    let proxy = mesh.proxy("west/cart-1");
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let key = proxy.state_dir().join("key.pem");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let key = std::fs::read_to_string(key).unwrap();
    let body = key.lines().nth(1).unwrap();
    for path in ["/config", "/metrics", "/listeners"] {
        let (_, text) = proxy.get(path).await.unwrap();
        assert!(!text.contains(body), "{path}");
    }
    let snapshot = std::fs::read(proxy.state_dir().join("snapshot.bin")).unwrap_or_default();
    assert!(!snapshot.windows(body.len()).any(|w| w == body.as_bytes()));
}

/// S9: a token of one pod is no token of another cluster's, and none at all is none.
#[tokio::test]
async fn a_foreign_token_gets_no_certificate() {
    let mut mesh = two_clusters().start().await;
    let good = mesh.control().token("west", "shop", "cart-1", "cart");
    let foreign = mesh.control().token("east", "shop", "cart-1", "cart");
    let other = mesh.control().token("west", "shop", "cart-1", "admin");
    let proxy = mesh.proxy_mut("west/cart-1");
    let (token, chain) = (
        proxy.state_dir().parent().unwrap().join("token"),
        proxy.state_dir().join("chain.pem"),
    );
    for bad in [foreign, other, good.replacen('e', "f", 1), String::new()] {
        proxy.stop().await;
        std::fs::remove_file(&chain).unwrap();
        std::fs::write(&token, &bad).unwrap();
        proxy.start().await;
        // It asks at once, and again and again; what it gets is a refusal.
        until("it was refused", async || {
            let (status, text) = proxy.get("/ready").await.map_err(|e| e.to_string())?;
            check(
                status == 503 && text.contains("no certificate"),
                format!("{status} {text}"),
            )
        })
        .await;
        assert!(!chain.exists());
        std::fs::write(&token, &good).unwrap();
        proxy.ready().await;
        assert!(chain.exists());
    }
}
