//! Does anybody who calls notice that an API server is dead, frozen or cut off, while the control plane is
//! killed again and again?

use std::path::Path;
use std::time::{Duration, Instant};

use isthmus_tests::load::Load;
use isthmus_tests::packets::{Fate, Rules, may_rule};
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Fault, Mesh, admin};
use serde_json::Value;

/// A watch that says nothing is noticed within a minute; then comes the backoff, at most 30 s.
const NOTICED: Duration = Duration::from_secs(120);

/// How often the control plane is killed in each outage, and how often a change of east is
/// measured before it and during it.
fn rounds() -> usize {
    if std::env::var_os("ISTHMUS_FULL").is_some() {
        20
    } else {
        2
    }
}

/// What happens to west's API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    Killed,
    Frozen,
    Cut,
    /// By the kernel, for whoever calls it.
    Packets(Fate),
}

/// Rules of the kernel, where it is they.
async fn begin(mesh: &mut Mesh, outage: Outage) -> Option<Rules> {
    let server = mesh.server_mut("west");
    match outage {
        Outage::Killed => server.cluster.api().kill().await.unwrap(),
        Outage::Frozen => server.cluster.api().stop().await.unwrap(),
        Outage::Cut => server.link.set(Fault::Stall),
        Outage::Packets(fate) => return Some(Rules::set(server.link.address().port(), fate)),
    }
    None
}

async fn end(mesh: &mut Mesh, outage: Outage, rules: Option<Rules>) {
    drop(rules);
    let server = mesh.server_mut("west");
    match outage {
        Outage::Packets(_) => {}
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

/// How many endpoints of a service the client's proxy takes for healthy.
fn healthy(config: &Value, service: &str) -> usize {
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let services = all(&config["services"]);
    let mut found = services.iter().filter(|s| {
        s["name"]
            .as_str()
            .is_some_and(|name| name.contains(service))
    });
    let endpoints = found.next().map(|s| all(&s["endpoints"]));
    let healthy = |e: &&Value| e["health"] == "healthy";
    endpoints.map_or(0, |all| all.iter().filter(healthy).count())
}

/// Waits until west is on disk: what is not is not known after a restart.
async fn until_saved(mesh: &Mesh) {
    until_within(NOTICED, "west is on disk", async || {
        let said = mesh.control().cluster("west").await;
        let saved = said["saved"]["objects"].as_u64().unwrap_or_default();
        check(saved > 0, said["saved"].to_string())
    })
    .await;
}

/// Waits until the client's proxy says this of west, and whether its slices are older than the rest.
async fn until_told(mesh: &Mesh, state: &str, older: bool) {
    let what = format!("west is told to be {state}");
    until_within(NOTICED, &what, async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        let clusters = config["clusters"].as_array().cloned().unwrap_or_default();
        let west = clusters.into_iter().find(|c| c["name"] == "west");
        let west = west.unwrap_or_default();
        let kinds = west["older_kinds"].as_array().cloned().unwrap_or_default();
        let aged = |kind: &Value| {
            kind["kind"] == "EndpointSlice"
                && kind["state"] == "stale"
                && kind["confirmed_at"].is_number()
        };
        check(
            west["state"] == state && kinds.iter().any(aged) == older,
            west,
        )
    })
    .await;
}

/// Waits until the client's proxy knows so many endpoints of a service to be healthy.
async fn until_healthy(mesh: &Mesh, service: &str, count: usize) {
    let what = format!("{count} of {service}");
    until_within(NOTICED, &what, async || {
        let config = mesh.proxy("east/web-1").json("/config").await;
        check(healthy(&config, service) == count, config)
    })
    .await;
}

/// The responses that have told clients of changes in east, and how long that took together, in
/// seconds.
async fn told_of_east(mesh: &Mesh) -> (f64, f64) {
    let (_, text) = admin::get(mesh.control().admin(), "/metrics")
        .await
        .unwrap();
    let of = |part| {
        let name = format!("isthmus_push_lag_seconds_{part}");
        admin::sum(&text, &name, &["cluster=\"east\""])
    };
    (of("count"), of("sum"))
}

/// Changes east again and again, each time until the client's proxy has heard: how long it took on
/// average from the change to the response that told it, in seconds.
async fn lag_of_east(mesh: &mut Mesh) -> f64 {
    until_within(NOTICED, "the client's proxy is connected", async || {
        let proxies = mesh.control().json("/proxies").await.to_string();
        check(proxies.contains("east/shop/web-1"), proxies)
    })
    .await;
    let (count, sum) = told_of_east(mesh).await;
    for _ in 0..rounds() {
        for (ready, left) in [(false, 1), (true, 2)] {
            mesh.mark_in_server("east/cart-2", ready).await;
            until_healthy(mesh, "cart", left).await;
        }
    }
    let (more, longer) = told_of_east(mesh).await;
    assert!(more > count, "nobody was told");
    (longer - sum) / (more - count)
}

/// Every call is answered, in both clusters, whatever happens to west's API server.
async fn nobody_notices(outage: Outage) {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.service("books", 2))
        .as_processes(Path::new(env!("CARGO_BIN_EXE_isthmus")))
        .on_servers(programs);
    let mut mesh = Box::pin(mesh.start()).await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    until_healthy(&mesh, "books", 2).await;
    until_healthy(&mesh, "cart", 2).await;
    let before = lag_of_east(&mut mesh).await;
    until_saved(&mesh).await;

    let rules = begin(&mut mesh, outage).await;
    let begun = Instant::now();
    until_west(&mesh, "stale").await;
    println!(
        "{outage:?}: noticed after {:.2} s",
        begun.elapsed().as_secs_f64()
    );
    until_told(&mesh, "stale", true).await;
    let mut ready = Duration::ZERO;
    for _ in 0..rounds() {
        // SIGKILL.
        mesh.control_mut().kill();
        load.more(50).await;
        let begun = Instant::now();
        mesh.control_mut().start().await;
        ready = ready.max(begun.elapsed());
        let said = mesh.control().cluster("west").await;
        assert_eq!(said["state"], "stale", "{said}");
        // Two of books, and the gateway.
        assert_eq!(said["objects"]["Pod"], 3, "{said}");
        load.more(50).await;
        let config = mesh.proxy("east/web-1").json("/config").await;
        assert_eq!(healthy(&config, "books"), 2, "{config}");
    }
    // East's changes arrive as ever.
    let during = lag_of_east(&mut mesh).await;
    let ratio = during / before.max(f64::EPSILON);
    println!(
        "{outage:?}: east's changes are told after {before:.4} s before and {during:.4} s during \
         the outage, {ratio:.2} times as long; killed {} times, ready again after {:.2} s at most",
        rounds(),
        ready.as_secs_f64()
    );

    // What went while nobody looked goes with the first look.
    if outage == Outage::Cut {
        mesh.mark_in_server("west/books-1", false).await;
    }
    end(&mut mesh, outage, rules).await;
    let back = Instant::now();
    until_west(&mesh, "synced").await;
    let seen = back.elapsed();
    if outage != Outage::Cut {
        mesh.mark_in_server("west/books-1", false).await;
    }
    until_healthy(&mesh, "books", 1).await;
    println!(
        "{outage:?}: west is seen {:.2} s after it was back, and the client has heard of what had \
         gone after {:.2} s",
        seen.as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    until_told(&mesh, "synced", false).await;
    mesh.mark_in_server("west/books-1", true).await;
    until_healthy(&mesh, "books", 2).await;
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

#[tokio::test]
async fn nobody_notices_that_packets_to_an_api_server_vanish() {
    if may_rule() {
        Box::pin(nobody_notices(Outage::Packets(Fate::Drop))).await;
    }
}

#[tokio::test]
async fn nobody_notices_that_packets_to_an_api_server_are_answered_by_resets() {
    if may_rule() {
        Box::pin(nobody_notices(Outage::Packets(Fate::Reset))).await;
    }
}
