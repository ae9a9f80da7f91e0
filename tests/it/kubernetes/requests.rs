//! Does anybody who calls notice what happens to clusters, their credentials and their API servers?

use std::collections::BTreeMap;
use std::time::Instant;

use isthmus_tests::load::Load;
use isthmus_tests::servers::{member, programs};
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Fault, Mesh};
use serde_json::Value;

use super::{NOTICED, account, kind_state, token};

/// How often an API server goes and comes back.
fn flaps() -> usize {
    if std::env::var_os("ISTHMUS_FULL").is_some() {
        30
    } else {
        4
    }
}

/// More than it costs to cross to another cluster.
const SLOW_MILLISECONDS: u64 = 200;
/// There are at most so many lists of a kind ...
const LISTS_MAX: usize = 2;
/// ... in so many seconds.
const LISTS_WINDOW: u64 = 60;

/// East has a client and a pod of the service `cart`, west two of them, and `books`.
async fn mesh() -> Option<Mesh> {
    let programs = programs()?;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .cluster("west", |c| c.service("cart", 2).service("books", 1))
        .joined()
        .fronted()
        .on_servers(programs);
    let mesh = Box::pin(mesh.start()).await;
    until_told(
        &mesh,
        &["east/shop/cart-1", "west/shop/cart-1", "west/shop/cart-2"],
    )
    .await;
    Some(mesh)
}

/// The healthy endpoints of the service `cart` that the client knows.
async fn known(mesh: &Mesh) -> Vec<String> {
    let config = mesh.proxy("east/web-1").json("/config").await;
    let services = config["services"].as_array().cloned().unwrap_or_default();
    let is_cart = |s: &Value| s["name"].as_str().is_some_and(|name| name.contains("cart"));
    let cart = services.into_iter().find(is_cart).unwrap_or_default();
    let endpoints = cart["endpoints"].as_array().cloned().unwrap_or_default();
    let healthy = endpoints.iter().filter(|e| e["health"] == "healthy");
    let mut names: Vec<String> = healthy
        .filter_map(|e| Some(e["name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Waits until the client knows exactly these. It knows the service when it has called it.
async fn until_told(mesh: &Mesh, wanted: &[&str]) {
    let client = mesh.client("east/web").http("cart");
    until_within(NOTICED, &format!("{wanted:?} are known"), async || {
        // Whether or not it is answered yet.
        let _called = client.try_get("/").await;
        let known = known(mesh).await;
        check(known == wanted, format!("{known:?}"))
    })
    .await;
}

/// Waits until a pod gets requests.
async fn until_called(mesh: &Mesh, pod: &str) {
    let record = &mesh.app(pod).record;
    let goal = record.requests() + 10;
    until_within(NOTICED, &format!("{pod} is called"), async || {
        check(record.requests() >= goal, record.requests())
    })
    .await;
}

/// Waits until the control plane says of west what is wanted; it is always synced, if that is `steady`.
async fn until_west(mesh: &Mesh, what: &str, steady: bool, wanted: impl Fn(&Value) -> bool) {
    until_within(NOTICED, what, async || {
        let said = mesh.control().cluster("west").await;
        assert!(!steady || said["state"] == "synced", "{said}");
        check(wanted(&said), &said)
    })
    .await;
}

/// Waits until a condition of west's MeshCluster has this reason.
async fn until_condition(mesh: &Mesh, kind: &str, reason: &str) {
    until_within(NOTICED, &format!("{kind} {reason}"), async || {
        let world = mesh.control().json("/world").await;
        let conditions = world["conditions"].as_array().cloned().unwrap_or_default();
        let of_west = |c: &Value| c["object"] == "east: MeshCluster west" && c["kind"] == kind;
        let found = conditions.into_iter().find(of_west).unwrap_or_default();
        check(found["reason"] == reason, found)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_and_its_credential_come_and_go_and_nobody_who_calls_notices() {
    let Some(mut mesh) = Box::pin(mesh()).await else {
        return;
    };
    let all = ["east/shop/cart-1", "west/shop/cart-1", "west/shop/cart-2"];
    // East's own is slow, so that west's are called.
    mesh.app("east/cart-1").behaviour.delay(SLOW_MILLISECONDS);
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("cart"), web.http("books")]);
    load.more(50).await;

    // Somebody else's credential, and by another way.
    let (east, west) = (mesh.server("east"), mesh.server("west"));
    west.apply(&account("")).await;
    let other = west.cluster.kubeconfig(&token(west).await);
    east.hand_in("west", &other).await;
    let origin = format!("https://{}/", west.cluster.server());
    let moved = |said: &Value| said["source"]["origin"] == origin.as_str();
    until_west(&mesh, "the new credential is in use", true, moved).await;
    load.more(50).await;

    // What is spoiled, refused or gone: the connection that there is goes on.
    for (kubeconfig, reason) in [
        ("{ clusters: [", "Refused"),
        ("{ users: [ { name: a, user: { exec: {} } } ] }", "Refused"),
    ] {
        east.hand_in("west", kubeconfig).await;
        until_condition(&mesh, "CredentialValid", reason).await;
        load.more(50).await;
    }
    let secret = "/api/v1/namespaces/isthmus-system/secrets/cluster-west";
    east.cluster.admin().delete_path(secret).await.unwrap();
    until_condition(&mesh, "CredentialValid", "SecretNotFound").await;
    mesh.mark_in_server("west/cart-2", false).await;
    until_told(&mesh, &all[..2]).await;
    mesh.mark_in_server("west/cart-2", true).await;
    until_told(&mesh, &all).await;
    mesh.server("east").hand_in("west", &other).await;
    until_condition(&mesh, "CredentialValid", "Valid").await;
    load.more(50).await;
    load.stop_without_failure().await;

    // The cluster leaves, and comes back. Only it has `books`.
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("cart")]);
    until_called(&mesh, "west/cart-1").await;
    let begun = Instant::now();
    mesh.server("east")
        .delete(&member("west", "west-net"))
        .await;
    until_told(&mesh, &all[..1]).await;
    println!("withdrawn after {:.2} s", begun.elapsed().as_secs_f64());
    load.more(50).await;
    mesh.server("east").apply(&member("west", "west-net")).await;
    until_told(&mesh, &all).await;
    until_called(&mesh, "west/cart-1").await;
    let tally = load.stop_without_failure().await;
    println!(
        "{} answers while west left and came back: {:?}",
        tally.good, tally.pods
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_flaps_costs_no_request_and_few_lists() {
    let begun = Instant::now();
    let Some(mut mesh) = Box::pin(mesh()).await else {
        return;
    };
    let all = ["east/shop/cart-1", "west/shop/cart-1", "west/shop/cart-2"];
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    for flap in 0..flaps() {
        mesh.server("west").link.set(Fault::Reset);
        let state = |state: &'static str| move |said: &Value| said["state"] == state;
        until_west(&mesh, "west is stale", false, state("stale")).await;
        // Every other time something has changed meanwhile.
        mesh.mark_in_server("west/cart-2", flap % 2 == 1).await;
        load.more(20).await;
        mesh.server("west").link.set(Fault::None);
        until_west(&mesh, "west is synced", false, state("synced")).await;
        let left = if flap % 2 == 1 { &all[..] } else { &all[..2] };
        until_told(&mesh, left).await;
    }
    load.stop_without_failure().await;

    let took = begun.elapsed().as_secs();
    let most = LISTS_MAX * usize::try_from(took / LISTS_WINDOW + 1).unwrap();
    let mut lists: BTreeMap<String, usize> = BTreeMap::new();
    for asked in mesh.server("west").front().asked() {
        if asked.begins_a_list() {
            *lists.entry(asked.path).or_default() += 1;
        }
    }
    assert!(lists.len() > 10, "{lists:?}");
    let few = lists.values().all(|count| *count <= most);
    assert!(few, "{most} in {took} s: {lists:?}");
    let most = lists.values().max().unwrap();
    println!(
        "{} flaps in {took} s: at most {most} lists of a kind",
        flaps()
    );
}

/// How often west's pods were listed.
fn lists_of_pods(mesh: &Mesh) -> usize {
    let asked = mesh.server("west").front().asked().into_iter();
    asked
        .filter(|asked| asked.begins_a_list() && asked.path == "/api/v1/pods")
        .count()
}

/// Behind a cache that has stood still, or an API server that was restored, there is again what had gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_gone_is_not_called_again_though_the_api_server_falls_back() {
    let Some(mut mesh) = Box::pin(mesh()).await else {
        return;
    };
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;
    let pod = "/api/v1/namespaces/shop/pods/cart-2";
    let admin = mesh.server("west").cluster.admin().clone();
    admin.delete_path(pod).await.unwrap();
    until_told(&mesh, &["east/shop/cart-1", "west/shop/cart-1"]).await;
    // Its application answers on: only nobody is to ask.
    let before = mesh.app("west/cart-2").record.requests();

    for round in 0..2 {
        mesh.server("west").front().set_past(true);
        let looked = lists_of_pods(&mesh);
        if round == 0 {
            mesh.server("west").link.set(Fault::Reset);
            mesh.server("west").link.set(Fault::None);
        } else {
            // The control plane starts anew, with what it kept.
            mesh.control_mut().kill();
            mesh.control_mut().start_unready().await;
        }
        until_within(NOTICED, "the past is told, and not believed", async || {
            let said = mesh.control().cluster("west").await;
            let lost = kind_state(&said, "Pod") != "watching";
            check(lost && lists_of_pods(&mesh) > looked, said)
        })
        .await;
        load.more(100).await;
        mesh.server("west").front().set_past(false);
        until_west(&mesh, "west is seen again", false, |said| {
            said["state"] == "synced" && kind_state(said, "Pod") == "watching"
        })
        .await;
        load.more(50).await;
        assert_eq!(known(&mesh).await, ["east/shop/cart-1", "west/shop/cart-1"]);
    }
    load.stop_without_failure().await;
    assert_eq!(mesh.app("west/cart-2").record.requests(), before);
}

/// The keys and the credentials are there: they were read before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_starts_without_its_home_serves_what_it_knew() {
    for fault in [Fault::Reset, Fault::Stall] {
        let Some(programs) = programs() else { return };
        let mesh = Mesh::builder()
            .cluster("east", |c| c.client("web").service("cart", 1))
            .cluster("west", |c| c.service("cart", 2).service("books", 1))
            .certificate_seconds(50)
            .joined()
            .on_servers(programs);
        let mut mesh = Box::pin(mesh.start()).await;
        let all = ["east/shop/cart-1", "west/shop/cart-1", "west/shop/cart-2"];
        until_told(&mesh, &all).await;
        let roots = || std::fs::read_to_string(mesh.control().roots_file()).unwrap();
        let before = roots();
        let saved = |said: &Value| said["saved"]["objects"].as_u64() > Some(0);
        until_west(&mesh, "west lies on disk", true, saved).await;
        until_within(NOTICED, "east lies on disk", async || {
            let said = mesh.control().cluster("east").await;
            check(saved(&said), said)
        })
        .await;
        let web = mesh.client("east/web");
        let load = Load::start(vec![web.http("cart"), web.http("books")]);
        load.more(50).await;

        mesh.control_mut().kill();
        mesh.server("east").link.set(fault);
        let begun = Instant::now();
        mesh.control_mut().start().await;
        println!("ready after {:.2} s", begun.elapsed().as_secs_f64());
        let said = mesh.control().cluster("east").await;
        assert_eq!(said["state"], "stale", "{said}");
        assert_eq!(
            std::fs::read_to_string(mesh.control().roots_file()).unwrap(),
            before
        );
        // West is seen, by the credential that lies in the home cluster.
        until_west(&mesh, "west is seen", false, |said| {
            said["state"] == "synced"
        })
        .await;
        mesh.mark_in_server("west/cart-2", false).await;
        until_told(&mesh, &all[..2]).await;
        mesh.mark_in_server("west/cart-2", true).await;
        until_told(&mesh, &all).await;
        // And its pods get certificates.
        let file = mesh.proxy("west/books-1").state_dir().join("identity.pem");
        let chain = || {
            let text = std::fs::read_to_string(&file).unwrap();
            let (leaf, above) = text.split_once("-----END CERTIFICATE-----").unwrap();
            (leaf.to_owned(), above.to_owned())
        };
        let old = chain();
        until_within(NOTICED, "a new certificate", async || {
            let new = chain();
            check(new.0 != old.0, "the old one is there").map(|()| assert_eq!(new.1, old.1))
        })
        .await;
        load.more(50).await;

        mesh.server("east").link.set(Fault::Reset);
        mesh.server("east").link.set(Fault::None);
        until_within(NOTICED, "east is seen again", async || {
            let said = mesh.control().cluster("east").await;
            check(said["state"] == "synced", said)
        })
        .await;
        load.more(50).await;
        load.stop_without_failure().await;
    }
}
