//! Does a service outlive the loss of its pods, its gateway, its cluster? (SECURITY F6 to F10)

use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{Client, Fault, Mesh, until};

use crate::faults::EVERY_ANSWER;
use crate::load::Load;

fn in_both_clusters() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.linked().gateways(2).service("cart", 2))
}

async fn served_by(client: &Client, cluster: &str) {
    // Ten in a row: not one by chance.
    until(&format!("{cluster} serves"), async || {
        for _ in 0..10 {
            let reply = client.get("/").await;
            if reply.status != 200 || !reply.pod().starts_with(cluster) {
                return Err(format!("{} {}", reply.status, reply.pod()));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn unready_pods_are_replaced_by_another_clusters_and_come_back() {
    let mut mesh = in_both_clusters().start().await;
    let client = mesh.client("east/web").http("cart");
    served_by(&client, "east").await;
    let load = Load::start(vec![
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("cart"),
    ]);
    load.more(20).await;
    for pod in ["east/cart-1", "east/cart-2"] {
        mesh.mark(pod, false);
    }
    served_by(&client, "west").await;
    load.more(50).await;
    for pod in ["east/cart-1", "east/cart-2"] {
        mesh.mark(pod, true);
    }
    served_by(&client, "east").await;
    load.more(20).await;
    let tally = load.stop_without_failure().await;
    assert!(
        tally.pods.keys().any(|pod| pod.starts_with("west")),
        "{:?}",
        tally.pods
    );
}

/// Nobody tells the mesh: connections are refused, and that is all there is to see.
#[tokio::test]
async fn crashed_applications_cost_no_idempotent_request() {
    let mut mesh = in_both_clusters().start().await;
    let client = mesh.client("east/web").http("cart");
    served_by(&client, "east").await;
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(20).await;
    for pod in ["east/cart-1", "east/cart-2"] {
        mesh.app_mut(pod).stop().await;
    }
    served_by(&client, "west").await;
    load.more(50).await;
    let tally = load.stop_without_failure().await;
    assert!(tally.good >= 70, "{}", tally.good);
}

/// ... and neither does their return: what is well again is used again, without a word from anybody.
#[tokio::test]
async fn applications_that_come_back_get_their_traffic_back() {
    let mut mesh = in_both_clusters().start().await;
    let client = mesh.client("east/web").http("cart");
    served_by(&client, "east").await;
    let load = Load::start(vec![
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("cart"),
    ]);
    load.more(20).await;
    for pod in ["east/cart-1", "east/cart-2"] {
        mesh.app_mut(pod).stop().await;
    }
    served_by(&client, "west").await;
    load.more(50).await;
    for pod in ["east/cart-1", "east/cart-2"] {
        mesh.app_mut(pod).resume().await;
    }
    served_by(&client, "east").await;
    load.more(50).await;
    let tally = load.stop_without_failure().await;
    let of = |cluster: &str| {
        tally
            .pods
            .keys()
            .filter(|pod| pod.starts_with(cluster))
            .count()
    };
    assert_eq!((of("east"), of("west")), (2, 2), "{:?}", tally.pods);
}

/// F8: one of two gateways breaks every connection off, and takes none.
#[tokio::test]
async fn one_of_two_gateways_may_die() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().gateways(2).service("cart", 3))
        .start()
        .await;
    let clients = (0..4).map(|_| mesh.client("east/web").http("cart"));
    let load = Load::start(clients.collect());
    load.more(50).await;
    let gateways = ["west/gateway-1", "west/gateway-2"].map(|name| mesh.link(name));
    for dead in gateways.iter().cycle().take(4) {
        for gateway in gateways {
            gateway.set(Fault::None);
        }
        load.more(50).await;
        dead.set(Fault::Reset);
        load.more(100).await;
    }
    load.stop_without_failure().await;
}

/// F11: what is new goes to the new address, what is open goes on, until the old one is gone.
#[tokio::test]
async fn a_gateway_may_move_to_another_address() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().gateways(2).service("cart", 3))
        .start()
        .await;
    // One gateway, that will move to where the other one is.
    mesh.remove("west", "gateway-2.yaml");
    let addresses = async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        let gateways = config["gateways"].as_array().cloned().unwrap_or_default();
        let west = gateways.into_iter().filter(|g| g["cluster"] == "west");
        west.map(|g| g["addresses"].to_string()).collect::<Vec<_>>()
    };
    let [old, new] = ["west/gateway-1", "west/gateway-2"].map(|name| mesh.link(name));
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(50).await;
    let is_at = async |ip: String| {
        until("the gateway is there, and nowhere else", async || {
            let known = addresses().await;
            check(
                known.len() == 1 && known[0].contains(&ip),
                format!("{known:?}"),
            )
        })
        .await;
    };
    is_at(old.address().ip().to_string()).await;
    let before = new.accepts();
    let to = new.address();
    let moved = isthmus_tests::manifest::gateway("gateway-1", to.ip(), to.port());
    mesh.write("west", "gateway-1.yaml", &moved);
    is_at(to.ip().to_string()).await;
    load.more(50).await;
    old.set(Fault::Reset);
    load.more(100).await;
    assert!(new.accepts() > before, "nobody went to the new address");
    load.stop_without_failure().await;
}

/// Whose fault a silence is can't be seen on one connection: the gateway is not ejected for its pods.
#[tokio::test]
async fn a_dead_pod_ejects_no_gateway_that_leads_to_it() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.gateways(2).service("cart", 1).service("other", 1)
        })
        .start()
        .await;
    // What is ejected itself is not tried, and here every call is to go through a gateway.
    mesh.write("east", "traffic.yaml", EVERY_ANSWER);
    let cart = mesh.client("east/web").http("cart");
    assert_eq!(cart.get("/").await.status, 200);
    mesh.proxy_mut("west/cart-1").stop().await;
    let gateways = async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        let mut gateways = config["gateways"].as_array().unwrap().clone();
        gateways.retain(|gateway| gateway["cluster"] == "west");
        gateways
    };
    let attempts = |gateways: &[serde_json::Value]| -> Vec<u64> {
        let of = |g: &serde_json::Value| g["stats"]["attempts"].as_u64().unwrap();
        gateways.iter().map(of).collect()
    };
    let before = attempts(&gateways().await);
    until("both gateways were tried often enough", async || {
        let reply = cart.get("/").await;
        let now = attempts(&gateways().await);
        // More than eject anything by default.
        let tried = now
            .iter()
            .zip(&before)
            .all(|(now, before)| now - before > 10);
        check(
            reply.status >= 500 && tried,
            format!("{} {now:?}", reply.status),
        )
    })
    .await;
    for gateway in gateways().await {
        assert_eq!(gateway["stats"]["ejected"], false, "{gateway:#}");
        assert_eq!(gateway["stats"]["ejections_total"], 0, "{gateway:#}");
    }
    let other = mesh.client("east/web").http("other");
    assert_eq!(other.get("/").await.status, 200);
}

/// F10: all of them are gone. Failures are told at once and by name; when they are back, so is the
/// service.
#[tokio::test]
async fn without_any_gateway_failures_are_told_at_once() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 2))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    mesh.link("west/gateway-1").set(Fault::Reset);
    let begun = std::time::Instant::now();
    let reply = client.get("/").await;
    assert_eq!(reply.status, 503);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(!reply.reason().is_empty());
    mesh.link("west/gateway-1").set(Fault::None);
    served_by(&client, "west").await;
}

/// F6: a proxy ends at once, without a word to its peers' requests. With another try each request
/// is answered.
#[tokio::test]
async fn a_lost_server_proxy_costs_no_idempotent_request() {
    let mut mesh = in_both_clusters().drain_seconds(0).start().await;
    let load = Load::start(vec![
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("cart"),
    ]);
    load.more(50).await;
    mesh.proxy_mut("east/cart-1").stop().await;
    load.more(100).await;
    mesh.proxy_mut("east/cart-1").start().await;
    load.more(50).await;
    load.stop_without_failure().await;
}
