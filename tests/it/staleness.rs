//! Does what is known outlive what tells it? (SECURITY F1, F2, F25, F28)

use std::time::{Duration, Instant};

use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{Client, Mesh, until};

use crate::load::Load;

fn two_clusters() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.service("books", 2))
}

/// Waits until what a proxy knows is on its disk.
async fn saved(mesh: &Mesh, proxy: &str) {
    let file = mesh.proxy(proxy).state_dir().join("snapshot.bin");
    until("a snapshot on disk", async || {
        let meta = std::fs::metadata(&file).map_err(|e| e.to_string())?;
        check(meta.len() > 0, "it is empty")
    })
    .await;
}

async fn answers(client: &Client) {
    for _ in 0..10 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

/// F1
#[tokio::test]
async fn calls_go_on_without_a_control_plane() {
    let mut mesh = two_clusters().start().await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    mesh.control_mut().kill();
    let web = mesh.proxy("east/web-1");
    until("the proxy knows that it is alone", async || {
        let connected = web.json("/config").await["subscription"]["connected"].clone();
        check(connected == false, connected)
    })
    .await;
    load.more(100).await;
    mesh.control_mut().start().await;
    let web = mesh.proxy("east/web-1");
    until("it is found again", async || {
        let connected = web.json("/config").await["subscription"]["connected"].clone();
        check(connected == true, connected)
    })
    .await;
    load.more(50).await;
    load.stop_without_failure().await;
}

/// F2
#[tokio::test]
async fn a_proxy_restarted_without_a_control_plane_serves_from_its_snapshot() {
    let mut mesh = two_clusters().start().await;
    for service in ["cart", "books"] {
        answers(&mesh.client("east/web").http(service)).await;
    }
    let config = mesh.proxy("east/web-1").json("/config").await;
    assert_eq!(
        config["services"].as_array().map(Vec::len),
        Some(2),
        "{config}"
    );
    for proxy in ["east/web-1", "west/books-1", "west/gateway-1"] {
        saved(&mesh, proxy).await;
    }
    // The newest changes reach the disk within a second.
    until("both services are on disk", async || {
        let file = mesh.proxy("east/web-1").state_dir().join("snapshot.bin");
        let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
        let has = |name: &[u8]| bytes.windows(name.len()).any(|w| w == name);
        check(
            has(b"west/shop/books-2") && has(b"east/shop/cart-2"),
            "not yet",
        )
    })
    .await;
    mesh.control_mut().kill();
    for proxy in ["east/web-1", "west/books-1", "west/gateway-1"] {
        let proxy = mesh.proxy_mut(proxy);
        proxy.stop().await;
        let begun = Instant::now();
        proxy.start().await;
        proxy.ready().await;
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(
            proxy.json("/config").await["subscription"]["restored_from_disk"],
            true
        );
    }
    for service in ["cart", "books"] {
        answers(&mesh.client("east/web").http(service)).await;
    }
}

/// F21: a snapshot that was changed on disk is not believed.
#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let mut mesh = two_clusters().start().await;
    answers(&mesh.client("east/web").http("cart")).await;
    saved(&mesh, "east/web-1").await;
    mesh.proxy_mut("east/web-1").stop().await;
    let file = mesh.proxy("east/web-1").state_dir().join("snapshot.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&file, bytes).unwrap();
    let web = mesh.proxy_mut("east/web-1");
    web.start().await;
    assert_eq!(
        web.json("/config").await["subscription"]["restored_from_disk"],
        false
    );
    web.ready().await;
    answers(&mesh.client("east/web").http("cart")).await;
}

/// F25
#[tokio::test]
async fn a_malformed_manifest_is_named_and_the_last_good_one_stays() {
    let mesh = two_clusters().start().await;
    let (cart, books) = (
        mesh.client("east/web").http("cart"),
        mesh.client("east/web").http("books"),
    );
    answers(&books).await;
    let load = Load::start(vec![cart, books]);
    mesh.write(
        "west",
        "service-books.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: books\n",
    );
    mesh.write("east", "pod-cart-1.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: cart-1, namespace: shop}\nstatus: {podIP: nowhere}\n");
    until("both files are named", async || {
        let line = async |cluster: &str, file: &str| {
            let cluster = mesh.control().cluster(cluster).await;
            cluster["source"]["errors"][file][0]["line"].clone()
        };
        let books = line("west", "service-books.yaml").await;
        let cart = line("east", "pod-cart-1.yaml").await;
        check(books == 3 && cart == 4, format!("{books}, {cart}"))
    })
    .await;
    load.stop_without_failure().await;
    // What is called from now on is what the last good ones said.
    let web = mesh.client("east/web");
    let after = Load::start(vec![web.http("cart"), web.http("books")]);
    after.more(60).await;
    let tally = after.stop_without_failure().await;
    assert!(tally.pods.contains_key("east/cart-1"), "{:?}", tally.pods);
    assert!(tally.pods.contains_key("west/books-1"), "{:?}", tally.pods);
}

/// F25: what governs calls becomes nonsense under load, and goes on as it was.
#[tokio::test]
async fn what_is_not_understood_is_named_and_changes_nothing_for_callers() {
    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: books, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: books}]
  rules:
  - filters:
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: there}]}}
    backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: books, port: 80}]
";
    const TRAFFIC: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: books, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: books}
  timeouts: {connect: 2s}
";
    const LARGER_THAN_MAY_BE: usize = 9 * 1024 * 1024;
    let mesh = two_clusters().start().await;
    let books = mesh.client("east/web").http("books");
    mesh.write("east", "traffic.yaml", TRAFFIC);
    mesh.write("east", "route.yaml", ROUTE);
    until("the route is in force", async || {
        let reply = books.get("/").await;
        check(reply.field("x-route") == "there", reply.text())
    })
    .await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    let large = "#".repeat(LARGER_THAN_MAY_BE);
    for route in [
        &ROUTE.replace("parentRefs: [", "parentRefs: 7 # ["),
        "{",
        &large,
    ] {
        mesh.write("east", "route.yaml", route);
        mesh.write("east", "traffic.yaml", &TRAFFIC.replace("2s", "soon"));
        until("both are named", async || {
            let world = mesh.control().json("/world").await;
            let problems = world["conditions"].to_string();
            let errors = mesh.control().cluster("east").await["source"]["errors"].clone();
            let named =
                |file: &str, object: &str| errors[file].is_array() || problems.contains(object);
            let both = named("route.yaml", "HTTPRoute shop/books")
                && named("traffic.yaml", "TrafficPolicy shop/books");
            check(both, format!("{errors} {problems}"))
        })
        .await;
        load.more(50).await;
        let reply = books.get("/").await;
        assert_eq!(reply.field("x-route"), "there", "{}", reply.text());
        mesh.write("east", "route.yaml", ROUTE);
        mesh.write("east", "traffic.yaml", TRAFFIC);
        until("nothing is wrong any more", async || {
            let errors = mesh.control().cluster("east").await["source"]["errors"].clone();
            check(
                errors.as_object().is_none_or(serde_json::Map::is_empty),
                errors,
            )
        })
        .await;
    }
    load.stop_without_failure().await;
}

/// What happens while nobody watches is learned afterwards, and nothing else.
#[tokio::test]
async fn changes_during_an_outage_are_learned_after_it() {
    let mut mesh = two_clusters().start().await;
    let books = mesh.client("east/web").http("books");
    answers(&books).await;
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    mesh.control_mut().kill();
    mesh.mark("west/books-1", false);
    answers(&books).await;
    mesh.control_mut().start().await;
    until("only the other pod serves", async || {
        for _ in 0..8 {
            let pod = books.get("/").await.pod().to_owned();
            check(pod == "west/books-2", pod)?;
        }
        Ok::<_, String>(())
    })
    .await;
    load.stop_without_failure().await;
}

/// Unknown is not empty: a service that no cluster has is refused at once, not waited for.
#[tokio::test]
async fn a_service_that_does_not_exist_is_refused_at_once() {
    let nobody = "nobody.shop.svc.clusterset.local:80";
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client_with("web", &[nobody]))
        .start()
        .await;
    let begun = Instant::now();
    let reply = mesh
        .client("east/web")
        .destination(nobody)
        .try_get("/")
        .await;
    assert!(reply.is_err(), "{reply:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
