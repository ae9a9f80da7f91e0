//! What leaves a pod as it is? (ADR-0006)

use std::time::Duration;

use isthmus_tests::manifest;
use isthmus_tests::wait::check;
use isthmus_tests::{Client, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// The proxy asks discovery for 3 s; this is for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Something outside of the mesh that sends back what it gets.
async fn outside(ip: &str) -> String {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = io.split();
                // It may be cut.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

/// Does a word come back?
async fn echoes(client: &Client) -> bool {
    // What is refused may be reset before it is seen to be connected.
    let Ok(mut io) = client.tcp().await else {
        return false;
    };
    let (_, mut back) = (io.write_all(b"word").await, [0; 4]);
    let answered = timeout(ANSWERED_WITHIN, io.read_exact(&mut back))
        .await
        .expect("an answer or an end");
    answered.is_ok()
}

#[tokio::test]
async fn what_nobody_can_say_anything_about_is_not_passed_through() {
    let (known, unknown) = (outside("127.0.0.1").await, outside("127.0.0.2").await);
    // Discovery speaks of addresses, not of ports.
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client_with("web", &[&known, &unknown]).service("cart", 1)
        })
        .start()
        .await;
    let to = |mesh: &Mesh, address: &str| mesh.client("east/web").destination(address);
    assert!(echoes(&to(&mesh, &known)).await, "discovery knew it");
    mesh.control_mut().kill();
    let web = mesh.proxy("east/web-1");
    until("the proxy knows that it is alone", async || {
        let connected = web.json("/config").await["subscription"]["connected"].clone();
        check(connected == false, connected)
    })
    .await;
    assert!(!echoes(&to(&mesh, &unknown)).await, "it passed");
    let line = web.logged("the refusal", |line| line["flag"] == "UH").await;
    let why = web.why(line["reason"].as_str().unwrap()).await;
    let detail = why["event"]["detail"].as_str().unwrap();
    assert!(detail.contains("nobody could say"), "{why}");
    assert_eq!(why["event"]["failure"], "endpoints_unknown", "{why}");
    // What discovery said before is still true.
    assert!(echoes(&to(&mesh, &known)).await, "it is known");
    // Who wants it otherwise says so.
    let web = mesh.proxy_mut("east/web-1");
    web.configure("passthrough", "always".into());
    web.restart().await;
    assert!(echoes(&to(&mesh, &unknown)).await, "it was told to");
}

#[tokio::test]
async fn the_mesh_can_deny_what_passes_through_and_allow_it_again() {
    let address = outside("127.0.0.1").await;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client_with("web", &[&address]))
        .start()
        .await;
    let client = mesh.client("east/web").destination(&address);
    let mut open = client.tcp().await.unwrap();
    open.write_all(b"word").await.unwrap();
    open.read_exact(&mut [0; 4]).await.unwrap();
    let text = manifest::cluster("east", "east-net");
    let zone = "  zone: east-a\n";
    assert!(text.contains(zone), "{text}");
    let denied = text.replace(zone, &format!("{zone}  passthrough: Deny\n"));
    mesh.write("east", "cluster.yaml", &denied);
    let cut = timeout(isthmus_tests::wait::SOON, open.read(&mut [0; 4]))
        .await
        .expect("what is open is cut");
    assert!(!matches!(cut, Ok(1..)), "{cut:?}");
    assert!(!echoes(&client).await, "new ones are refused");
    let web = mesh.proxy("east/web-1");
    let denied = |line: &serde_json::Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        line["flag"] == "NR" && detail.ends_with("the mesh denies it")
    };
    web.logged("the refusal", denied).await;
    mesh.write("east", "cluster.yaml", &text);
    until("it passes again", async || {
        check(echoes(&client).await, "it does not")
    })
    .await;
}
