//! Does it harm anybody what strangers send to the control plane? (SECURITY S12)

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use isthmus_proxy_core::balance::Rng;
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, admin, tls, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ambiguous::{PREFACE, frame};
use crate::faults::{DESCRIPTORS, descriptors, starve, used_up};
use crate::limits::resident;
use crate::load::Load;

const MIB: usize = 1024 * 1024;
/// Of the whole mesh and of those who send.
const GROWTH_MAX: usize = 64 * MIB;
const SENDERS: usize = 8;
const ISSUE: &str = "/isthmus.identity.v1.IdentityService/Issue";

#[tokio::test]
async fn garbage_in_every_layer_harms_nobody_and_costs_little() {
    crate::alone("garbage::alone").await;
}

#[tokio::test]
#[ignore = "runs in a process of its own, by garbage_in_every_layer_harms_nobody_and_costs_little"]
async fn alone() {
    // Ten minutes are what is promised.
    let full = std::env::var_os("ISTHMUS_FULL").is_some();
    let lasts = Duration::from_secs(if full { 600 } else { 5 });
    let mut mesh = mesh().await;
    let (to, admin) = (mesh.control().discovery(), mesh.control().admin());
    let sent = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..SENDERS)
        .map(|seed| tokio::spawn(send(to, Arc::clone(&sent), seed)))
        .collect();
    until("each layer has had its share", async || {
        check(
            sent.load(Ordering::SeqCst) > 200,
            sent.load(Ordering::SeqCst),
        )
    })
    .await;
    let (begun, begin, mut most) = (Instant::now(), resident(), 0);
    while begun.elapsed() < lasts {
        let (status, text) = admin::get(admin, "/ready").await.unwrap();
        assert_eq!(status, 200, "{text}");
        most = most.max(resident());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    renewed(&mut mesh).await;
    for sender in senders {
        assert!(!sender.is_finished(), "it goes on");
        sender.abort();
    }
    let growth = most.saturating_sub(begin);
    let sent = sent.load(Ordering::SeqCst);
    assert!(growth < GROWTH_MAX, "{} MiB by {sent}", growth / MIB);
}

/// S12: `accept` itself fails.
#[tokio::test]
async fn a_control_plane_without_descriptors_goes_on_as_soon_as_there_are_some() {
    starve("garbage::descriptors_alone").await;
}

#[tokio::test]
#[ignore = "runs in a process of its own, by a_control_plane_without_descriptors_goes_on_as_soon_as_there_are_some"]
async fn descriptors_alone() {
    let mut mesh = mesh().await;
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(20).await;
    println!("{} of {DESCRIPTORS}", descriptors());
    println!("flood {}", mesh.control().discovery());
    used_up().await;
    load.more(100).await;
    println!("held");
    let admin = mesh.control().admin();
    until("it could not accept", async || {
        let (_, metrics) = admin::get(admin, "/metrics")
            .await
            .map_err(|e| e.to_string())?;
        let failed = admin::sum(&metrics, "isthmus_accept_errors_total", &[]);
        check(failed >= 1.0, failed)
    })
    .await;
    load.stop_without_failure().await;
    renewed(&mut mesh).await;
}

async fn mesh() -> Mesh {
    Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await
}

/// A proxy that has nothing gets its certificate and its configuration all the same.
async fn renewed(mesh: &mut Mesh) {
    let web = mesh.proxy_mut("east/web-1");
    web.stop().await;
    std::fs::remove_dir_all(web.state_dir()).unwrap();
    web.start().await;
    web.ready().await;
    let reply = mesh.client("east/web").http("cart").get("/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// Sends garbage, one connection after another.
async fn send(to: SocketAddr, sent: Arc<AtomicUsize>, seed: usize) {
    let mut rng = Rng::new(u64::try_from(seed).unwrap());
    loop {
        if let Ok(io) = TcpStream::connect(to).await {
            // Whether it is taken, refused or broken off is all the same.
            let _ = timeout(Duration::from_secs(1), one(io, &mut rng)).await;
            sent.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// One of the layers, up to which all is well.
async fn one(mut io: TcpStream, rng: &mut Rng) -> anyhow::Result<()> {
    let layer = rng.bits() % 5;
    if layer == 0 {
        return ended(io, &bytes(rng, 2_000)).await;
    }
    if layer == 1 {
        // A record, and a ClientHello in it as far as its head goes.
        io.write_all(b"\x16\x03\x01\x04\x00\x01\x00\x03\xfc\x03\x03")
            .await?;
        return ended(io, &bytes(rng, 2_000)).await;
    }
    let mut io = tls::connect(io, "control.mesh.internal", None).await?;
    if layer == 2 {
        return ended(io, &bytes(rng, 2_000)).await;
    }
    if layer == 3 {
        io.write_all(PREFACE).await?;
        io.write_all(&frame(4, 0, 0, &[])).await?;
        let mut words = Vec::new();
        for _ in 0..20 {
            let [kind, flags, stream, ..] = rng.bits().to_be_bytes();
            words.extend(frame(
                kind % 11,
                flags,
                u32::from(stream % 8),
                &bytes(rng, 100),
            ));
        }
        return ended(io, &words).await;
    }
    let (sender, connection) = h2::client::handshake(io).await?;
    let going = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let path = [
        ISSUE,
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "/a/b",
    ];
    let path = path[usize::try_from(rng.bits() % 3)?];
    let request = Request::post(format!("https://control{path}"))
        .header("content-type", "application/grpc")
        .body(())?;
    let (answer, mut body) = sender.send_request(request, false)?;
    // A message that says its length, right or wrong.
    let message = bytes(rng, 500);
    let length = u8::try_from(message.len() % 256)?;
    let head = [0, 0, 0, 0, length];
    body.send_data(Bytes::from([&head, message.as_slice()].concat()), true)?;
    let _ = answer.await;
    going.abort();
    Ok(())
}

/// Says it, and listens to the end.
async fn ended(mut io: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) -> anyhow::Result<()> {
    io.write_all(words).await?;
    io.shutdown().await?;
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await?;
    Ok(())
}

fn bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    let length = rng.bits() % most;
    (0..length).map(|_| rng.bits().to_be_bytes()[0]).collect()
}
