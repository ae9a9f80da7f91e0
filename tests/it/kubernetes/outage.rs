//! Does anybody who calls notice that an API server is dead, frozen or cut off?

use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Fault, Mesh};

use super::{NOTICED, count};
use crate::load::Load;

/// How often the control plane is restarted in each outage.
fn restarts() -> usize {
    if std::env::var_os("ISTHMUS_FULL").is_some() {
        20
    } else {
        2
    }
}

/// What happens to west's API server.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Killed,
    Frozen,
    Cut,
}

async fn begin(mesh: &mut Mesh, outage: Outage) {
    let server = mesh.server_mut("west");
    match outage {
        Outage::Killed => server.cluster.api().kill().await.unwrap(),
        Outage::Frozen => server.cluster.api().stop().await.unwrap(),
        Outage::Cut => server.link.set(Fault::Stall),
    }
}

async fn end(mesh: &mut Mesh, outage: Outage) {
    let server = mesh.server_mut("west");
    match outage {
        Outage::Killed | Outage::Frozen => server.cluster.revive().await.unwrap(),
        // What was in flight is lost, as when a route comes back elsewhere.
        Outage::Cut => {
            server.link.set(Fault::Reset);
            server.link.set(Fault::None);
        }
    }
}

async fn until_west(mesh: &Mesh, state: &str) {
    until_within(NOTICED, &format!("west is {state}"), async || {
        let said = mesh.control().cluster("west").await;
        check(said["state"] == state, said)
    })
    .await;
}

/// Waits until the client's proxy knows so many endpoints of `books` to be healthy.
async fn until_books(mesh: &Mesh, healthy: usize) {
    until_within(NOTICED, "the change has arrived", async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        let services = config["services"].as_array().cloned().unwrap_or_default();
        let books = services.iter().find(|s| {
            let name = s["name"].as_str().unwrap_or_default();
            name.contains("books")
        });
        let endpoints = books.and_then(|s| s["endpoints"].as_array().cloned());
        let endpoints = endpoints.unwrap_or_default();
        let good = endpoints
            .iter()
            .filter(|e| e["health"] == "healthy")
            .count();
        check(good == healthy, config)
    })
    .await;
}

/// Every call is answered, in both clusters, whatever happens to west's API server.
async fn nobody_notices(outage: Outage) {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.service("books", 2))
        .on_servers(programs);
    let mut mesh = Box::pin(mesh.start()).await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    until_books(&mesh, 2).await;

    begin(&mut mesh, outage).await;
    until_west(&mesh, "stale").await;
    for _ in 0..restarts() {
        mesh.control_mut().kill();
        load.more(50).await;
        mesh.control_mut().start().await;
        let said = mesh.control().cluster("west").await;
        assert_eq!(said["state"], "stale", "{said}");
        // Two of books, and the gateway.
        assert_eq!(count(&said, "Pod"), 3, "{said}");
        load.more(50).await;
    }
    // East's changes arrive as ever.
    mesh.mark_in_server("east/cart-2", false).await;
    until_within(NOTICED, "east is followed", async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        let services = config["services"].as_array().cloned().unwrap_or_default();
        let unready = services.iter().any(|s| {
            let endpoints = s["endpoints"].as_array().into_iter().flatten();
            let mut endpoints = endpoints.into_iter();
            endpoints.any(|e| e["health"] != "healthy")
                || s["name"].as_str().unwrap_or_default().contains("cart")
                    && s["endpoints"].as_array().map_or(0, Vec::len) == 1
        });
        check(unready, config)
    })
    .await;

    end(&mut mesh, outage).await;
    until_west(&mesh, "synced").await;
    mesh.mark_in_server("west/books-1", false).await;
    until_books(&mesh, 1).await;
    mesh.mark_in_server("west/books-1", true).await;
    until_books(&mesh, 2).await;
    load.more(50).await;
    load.stop_without_failure().await;
}

#[tokio::test]
async fn nobody_notices_that_an_api_server_is_killed() {
    Box::pin(nobody_notices(Outage::Killed)).await;
}

#[tokio::test]
async fn nobody_notices_that_an_api_server_is_frozen() {
    Box::pin(nobody_notices(Outage::Frozen)).await;
}

#[tokio::test]
async fn nobody_notices_that_an_api_server_is_cut_off() {
    Box::pin(nobody_notices(Outage::Cut)).await;
}
