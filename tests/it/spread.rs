//! Does a client see every pod, also behind a gateway?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isthmus_tests::{Mesh, until};

use crate::load::Load;

#[tokio::test]
async fn requests_on_one_connection_are_spread_over_every_remote_pod() {
    const REQUESTS: u32 = 1_200;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 4))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut pods: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        *pods.entry(reply.pod().to_owned()).or_default() += 1;
    }
    assert_eq!(pods.len(), 4, "{pods:?}");
    let mean = f64::from(REQUESTS) / 4.0;
    let variance = pods.values().map(|n| (f64::from(*n) - mean).powi(2)).sum::<f64>() / 4.0;
    let variation = variance.sqrt() / mean;
    assert!(variation < 0.05, "CV {variation:.3}: {pods:?}");
    // One tunnel to each pod, all through the gateway, and kept.
    assert_eq!(mesh.link("west/gateway-1").accepts(), 4);
}

#[tokio::test]
async fn one_bad_remote_pod_is_ejected_while_its_neighbours_serve() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 3))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
    }
    mesh.app("west/cart-2").behaviour.fail_with(500);
    let begun = Instant::now();
    let web = mesh.proxy("east/web-1");
    until("the pod is ejected", async || {
        let reply = client.get("/").await;
        let config = web.json("/config").await;
        let ejected = endpoint(&config, "west/shop/cart-2")["stats"]["ejected"].clone();
        if ejected == true { Ok(()) } else { Err(format!("{ejected}, {}", reply.status)) }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for _ in 0..100 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200, "{} of {}", reply.status, reply.pod());
    }
    let config = web.json("/config").await;
    for neighbour in ["west/shop/cart-1", "west/shop/cart-3"] {
        assert_eq!(endpoint(&config, neighbour)["stats"]["ejected"], false, "{neighbour}");
    }
}

/// A pod that joins takes its share, one that leaves gets nothing more; nobody notices.
#[tokio::test]
async fn pods_come_and_go_without_a_failed_request() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 3))
        .start()
        .await;
    mesh.mark("west/cart-3", false);
    let client = mesh.client("east/web").http("cart");
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(50).await;
    mesh.mark("west/cart-3", true);
    until("the new pod serves", async || {
        let reply = client.get("/").await;
        isthmus_tests::wait::check(reply.pod() == "west/cart-3", reply.pod())
    })
    .await;
    mesh.mark("west/cart-1", false);
    let web = mesh.proxy("east/web-1");
    until("the pod is known to be unready", async || {
        let config = web.json("/config").await;
        let health = endpoint(&config, "west/shop/cart-1")["health"].clone();
        isthmus_tests::wait::check(health != "healthy", health)
    })
    .await;
    for _ in 0..50 {
        let reply = client.get("/").await;
        assert_ne!(reply.pod(), "west/cart-1");
    }
    load.stop_without_failure().await;
}

/// An endpoint in a proxy's `/config`; null if it is not there.
fn endpoint(config: &serde_json::Value, name: &str) -> serde_json::Value {
    let services = config["services"].as_array().cloned().unwrap_or_default();
    let endpoints = services.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
    let mut found = endpoints.filter(|e| e["name"] == name);
    found.next().unwrap_or_default()
}
