//! Does a proxy leave without anybody noticing? (SECURITY F5, F7)

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, until};

use crate::load::Load;

fn remote_pods() -> MeshPlan {
    Mesh::builder()
        .drain_seconds(10)
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.gateways(2).service("cart", 3))
}

/// F5: whatever is restarted, one after another, under load.
#[tokio::test]
async fn rolling_restarts_cost_no_request() {
    let mut mesh = remote_pods().start().await;
    let load = Load::start(
        (0..3)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    load.more(30).await;
    for proxy in [
        "west/cart-1",
        "west/gateway-1",
        "west/cart-2",
        "west/gateway-2",
        "west/cart-3",
    ] {
        mesh.proxy_mut(proxy).restart().await;
        load.more(30).await;
    }
    load.stop_without_failure().await;
}

#[tokio::test]
async fn what_is_in_flight_ends_before_the_proxy_does() {
    let mut mesh = remote_pods().start().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    for pod in 1..=3 {
        mesh.app(&format!("west/cart-{pod}")).behaviour.delay(1_500);
    }
    let slow = tokio::spawn(async move { client.get("/").await });
    until("the request is with an application", async || {
        let seen: usize = (1..=3)
            .map(|n| mesh.app(&format!("west/cart-{n}")).record.requests())
            .sum();
        check(seen >= 2, seen)
    })
    .await;
    let stopping: Vec<_> = (1..=3)
        .filter_map(|n| mesh.proxy_mut(&format!("west/cart-{n}")).ask_to_stop())
        .collect();
    let reply = slow.await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    for one in stopping {
        one.ended().await;
    }
}

#[tokio::test]
async fn a_draining_proxy_is_not_ready_and_ends_at_its_limit() {
    let mut mesh = Mesh::builder()
        .drain_seconds(2)
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut sender = client.http1().await.unwrap();
    let request = client.request("GET", "/ticks").body(full("")).unwrap();
    let mut ticks = sender.send_request(request).await.unwrap();
    ticks.frame().await.unwrap().unwrap();
    let begun = Instant::now();
    let stopping = mesh.proxy_mut("east/cart-1").ask_to_stop().unwrap();
    until("it says that it drains", async || {
        match mesh.proxy("east/cart-1").get("/ready").await {
            Ok((503, text)) if text.contains("draining") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // The stream goes on meanwhile, who comes late is served ...
    ticks.frame().await.unwrap().unwrap();
    assert_eq!(client.get("/").await.status, 200);
    // ... and is cut when the time is over.
    stopping.ended().await;
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let rest = async { while let Some(Ok(_)) = ticks.frame().await {} };
    tokio::time::timeout(isthmus_tests::wait::SOON, rest)
        .await
        .expect("cut");
}

#[tokio::test]
async fn an_idle_proxy_ends_at_once() {
    let mut mesh = remote_pods().start().await;
    let begun = Instant::now();
    mesh.proxy_mut("west/cart-1").stop().await;
    // A second, and the rest for a busy machine.
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}
