//! Are keys and certificates replaced without anybody noticing? (SECURITY F3, S7, S8)

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::tls::{self, Identity};
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{App, Mesh, admin, until};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
        let chain = mesh.proxy(name).state_dir().join("identity.pem");
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
    let mut mesh = two_clusters().certificate_seconds(10).start().await;
    let load = Load::start(
        (0..3)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    let names = ["east/web-1", "west/gateway-1", "west/cart-1", "west/cart-2"];
    let mut seen: Vec<Vec<Vec<u8>>> = vec![Vec::new(); names.len()];
    until("each proxy has had its certificates", async || {
        for (name, seen) in names.iter().zip(&mut seen) {
            let chain = mesh.proxy(name).state_dir().join("identity.pem");
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
    for name in ["east/web-1", "west/cart-1", "west/cart-2"] {
        until("new handshakes show the new certificate", async || {
            let shown = shown(&mesh, name).await.map_err(|e| format!("{e:#}"))?;
            let held = Identity::of_state_dir(mesh.proxy(name).state_dir());
            check(held.chain.first() == Some(&shown), name)
        })
        .await;
    }
    // And a caller's is shown: a session that is as old as the proxy would hide it.
    mesh.proxy_mut("east/web-1").stop().await;
    mesh.proxy_mut("east/web-1").start().await;
    mesh.proxy("east/web-1").ready().await;
    let reply = mesh.client("east/web").http("cart").get("/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// The leaf that a proxy shows to a caller of its own cluster.
async fn shown(mesh: &Mesh, name: &str) -> anyhow::Result<CertificateDer<'static>> {
    let proxy = mesh.proxy(name);
    let identity = Identity::of_state_dir(proxy.state_dir());
    let io = tls::dial(proxy.address(), proxy.mesh()).await?;
    let tls = tls::connect(io, "peer.mesh.internal", Some(identity)).await?;
    let chain = tls.get_ref().1.peer_certificates();
    let leaf = chain.and_then(<[_]>::first).context("no certificate")?;
    Ok(leaf.clone().into_owned())
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
    let key = proxy.state_dir().join("identity.pem");
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
    let control = mesh.control().admin();
    let proxy = mesh.proxy_mut("west/cart-1");
    let (token, chain) = (
        proxy.state_dir().parent().unwrap().join("token"),
        proxy.state_dir().join("identity.pem"),
    );
    let none = "a.b.c".to_owned();
    for bad in [foreign, other, good.replacen('e', "f", 1), none] {
        proxy.stop().await;
        std::fs::remove_file(&chain).unwrap();
        std::fs::write(&token, &bad).unwrap();
        let before = refused_tokens(control).await;
        proxy.start().await;
        // Nobody else asks with a bad one.
        until("it was refused", async || {
            let now = refused_tokens(control).await;
            check(now > before, format!("{now} refusals, {before} before"))
        })
        .await;
        let (status, text) = proxy.get("/ready").await.unwrap();
        assert!(status == 503 && text.contains("no certificate"), "{text}");
        assert!(!chain.exists());
        std::fs::write(&token, &good).unwrap();
        proxy.ready().await;
        assert!(chain.exists());
    }
}

/// How many requests for a certificate the control plane has refused for their token.
async fn refused_tokens(control: SocketAddr) -> f64 {
    let (_, metrics) = admin::get(control, "/metrics").await.unwrap();
    let name = "isthmus_certificates_refused_total";
    admin::sum(&metrics, name, &["reason=\"token\""])
}

/// Renewals are spread over seconds, and each step is looked for every second.
const ROTATED: Duration = Duration::from_secs(90);

/// Somebody wishes west another root.
fn wish(mesh: &Mesh, root: u32) {
    let text = format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\n\
         metadata: {{ name: west, annotations: {{ isthmus.dev/root: \"{root}\" }} }}\n\
         spec: {{ network: west-net, region: west-region, zone: west-a }}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{ name: isthmus-system }}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop }}\n"
    );
    mesh.write("west", "cluster.yaml", &text);
}

/// Waits until the rotation of west's root is as wanted.
async fn until_rotation(mesh: &Mesh, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until_within(ROTATED, what, async || {
        let west = mesh.control().json("/trust").await["west"].clone();
        check(wanted(&west), &west).map(|()| west)
    })
    .await
}

/// Says something and hears it again.
async fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").await.is_ok()
        && stream.read_exact(&mut back).await.is_ok()
        && back == *b"hello"
}

/// Each cluster calls the other one.
fn both_ways() -> MeshPlan {
    Mesh::builder()
        .drain_seconds(10)
        .cluster("east", |c| c.client("web").service("reviews", 1))
        .cluster("west", |c| {
            c.client("app")
                .service("cart", 2)
                .service_with("queue", 1, |s| s.port("main", 90, "tcp", App::Tcp))
        })
}

/// Hundreds of requests while a root is replaced, and streams that are open all the time.
/// `ISTHMUS_FULL`: as many as are promised.
fn size() -> (usize, usize) {
    match std::env::var_os("ISTHMUS_FULL") {
        Some(_) => (200, 20),
        None => (2, 3),
    }
}

/// F16, figure 7: both trust domains talk all the time, and no step is taken before every proxy is
/// ready for it.
#[tokio::test]
async fn a_root_is_replaced_under_load_without_a_failed_request() {
    let mut mesh = both_ways().start().await;
    let load = Load::start(vec![
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("cart"),
        mesh.client("west/app").http("reviews"),
        mesh.client("west/app").http("cart"),
    ]);
    let mut streams = Vec::new();
    let (hundreds, open) = size();
    for _ in 0..open {
        let queue = mesh.client("east/web").port("queue", 90);
        streams.push(queue.tcp().await.unwrap());
    }
    load.more(50).await;
    load.stop_without_failure().await;
    let old = std::fs::read(mesh.proxy("west/cart-1").state_dir().join("identity.pem")).unwrap();

    // A proxy that is away, and has a pod, may be talking to others all the same.
    mesh.proxy_mut("east/reviews-1").stop().await;
    wish(&mesh, 2);
    let waits = |west: &Value| {
        west["phase"] == "adding" && west["missing"] == serde_json::json!(["east/shop/reviews-1"])
    };
    until_rotation(&mesh, "only the one that is away is waited for", waits).await;
    let load = Load::start(vec![
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("cart"),
        mesh.client("west/app").http("cart"),
    ]);
    for _ in 0..hundreds / 2 {
        load.more(100).await;
    }
    until_rotation(&mesh, "it goes on waiting", waits).await;
    mesh.control_mut().kill();
    mesh.control_mut().start().await;
    until_rotation(&mesh, "a control plane that starts again waits, too", waits).await;

    mesh.proxy_mut("east/reviews-1").start().await;
    until_rotation(&mesh, "the new root signs", |west| {
        west["phase"] != "adding"
    })
    .await;
    for stream in &mut streams {
        assert!(
            echoes(stream).await,
            "a stream was cut before the last step"
        );
    }
    let west = until_rotation(&mesh, "the old root is gone", |west| {
        west["phase"] == "stable"
    })
    .await;
    assert_eq!(
        (&west["new_root"], &west["sequence"]),
        (&2.into(), &4.into())
    );
    for _ in 0..hundreds / 2 {
        load.more(100).await;
    }
    load.stop_without_failure().await;
    let new = std::fs::read(mesh.proxy("west/cart-1").state_dir().join("identity.pem")).unwrap();
    assert_ne!(old, new);
    // Streams of certificates that nobody believes any more are cut.
    until_within(Duration::from_secs(30), "the streams are cut", async || {
        let mut open = 0;
        for stream in &mut streams {
            open += usize::from(echoes(stream).await);
        }
        check(open == 0, open)
    })
    .await;
    let reviews = mesh.client("west/app").http("reviews");
    assert_eq!(reviews.get("/").await.status, 200);
}

/// F4: whoever has not renewed in time calls nobody and is called by nobody, and says why. What was open
/// before may go on for an hour.
#[tokio::test]
async fn an_expired_certificate_opens_nothing_until_it_is_renewed() {
    const SECONDS: u64 = 10;
    let mut mesh = two_clusters().certificate_seconds(SECONDS).start().await;
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(20).await;
    mesh.control_mut().kill();
    let names = ["east/web-1", "west/cart-1", "west/cart-2"];
    until("all certificates have ended", async || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs_f64();
        for name in names {
            let page = mesh.proxy(name).get("/metrics").await;
            let (_, page) = page.map_err(|e| format!("{e:#}"))?;
            let ends = admin::sum(&page, "isthmus_certificate_expires_seconds", &[]);
            check(ends > 0.0 && ends < now, format!("{name}: {ends} at {now}"))?;
        }
        Ok::<(), String>(())
    })
    .await;
    load.more(20).await;
    load.stop_without_failure().await;

    // Who is called shows none that has ended.
    assert!(shown(&mesh, "west/cart-1").await.is_err());
    // What was open is not any more.
    for name in names {
        mesh.proxy_mut(name).stop().await;
        mesh.proxy_mut(name).start().await;
    }
    let client = mesh.client("east/web").http("cart");
    let before = ["west/cart-1", "west/cart-2"].map(|pod| mesh.app(pod).record.requests());
    for _ in 0..5 {
        let reply = client.get("/").await;
        let said = reply.text();
        assert!(said.starts_with("UF no_certificate"), "{said}");
    }
    let after = ["west/cart-1", "west/cart-2"].map(|pod| mesh.app(pod).record.requests());
    assert_eq!(before, after);

    mesh.control_mut().start().await;
    until("it is renewed", async || {
        let reply = client.get("/").await;
        check(reply.status == 200, reply.text())
    })
    .await;
}
