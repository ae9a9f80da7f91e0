//! Is access policy enforced the same on every path, also on what is open? (SECURITY S4, S13)

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::servers::programs;
use isthmus_tests::tls::Identity;
use isthmus_tests::wait::{SOON, check, until, until_within};
use isthmus_tests::{App, Client, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::mtls::ask_directly;

/// What "within seconds" means.
const SECONDS: Duration = Duration::from_secs(5);
const DENY_WEB_OF_EAST: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-web-of-east, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Deny
  rules:
  - from: [{clusters: [east], namespaces: [shop], serviceAccounts: [web]}]
";

fn two_clusters() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web").client("desk"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("bytes", 81, "tcp", App::Tcp)
            })
        })
}

#[tokio::test]
async fn a_policy_about_a_remote_caller_is_enforced_within_seconds_and_lifted_again() {
    let mesh = two_clusters().start().await;
    let (web, desk) = (
        mesh.client("east/web").http("cart"),
        mesh.client("east/desk").http("cart"),
    );
    assert_eq!(web.get("/").await.status, 200);
    mesh.write("west", "policy.yaml", DENY_WEB_OF_EAST);
    let denied = becomes_within(SECONDS, &web, 403).await;
    assert_eq!(desk.get("/").await.status, 200, "the policy names web only");
    let seen = mesh.app("west/cart-1").record.requests();
    assert_eq!(web.get("/").await.status, 403);
    assert_eq!(
        mesh.app("west/cart-1").record.requests(),
        seen,
        "a denied request was forwarded"
    );
    // The id names the proxy that decided; there `why` tells which policy it was.
    let id = denied.reason();
    assert!(
        id.starts_with("west/shop/cart-1:"),
        "{id:?}: {}",
        denied.text()
    );
    let why = mesh.proxy("west/cart-1").why(id).await;
    assert!(why.to_string().contains("no-web-of-east"), "{why}");
    assert_eq!(why["event"]["flag"], "UAEX", "{why}");
    mesh.remove("west", "policy.yaml");
    becomes_within(SECONDS, &web, 200).await;
}

/// S4: not 99 of 100 times, but each.
#[tokio::test]
async fn a_change_of_a_policy_counts_within_two_seconds() {
    let mesh = two_clusters().start().await;
    let write = async || mesh.write("west", "policy.yaml", DENY_WEB_OF_EAST);
    let remove = async || mesh.remove("west", "policy.yaml");
    counts_in_time(&mesh, write, remove).await;
}

/// S4: the same in an API server, from its answer on.
#[tokio::test]
async fn a_change_in_an_api_server_counts_within_two_seconds() {
    let Some(programs) = programs() else { return };
    let mesh = Box::pin(two_clusters().on_servers(programs).start()).await;
    let west = mesh.server("west");
    let write = async || west.apply(DENY_WEB_OF_EAST).await;
    let remove = async || west.delete(DENY_WEB_OF_EAST).await;
    counts_in_time(&mesh, write, remove).await;
}

async fn counts_in_time(mesh: &Mesh, write: impl AsyncFn(), remove: impl AsyncFn()) {
    const PROMISED: Duration = Duration::from_secs(2);
    let full = std::env::var_os("ISTHMUS_FULL").is_some();
    let web = mesh.client("east/web").http("cart");
    becomes(&web, 200).await;
    let mut took = Vec::new();
    for _ in 0..if full { 100 } else { 20 } {
        write().await;
        let begun = Instant::now();
        becomes(&web, 403).await;
        took.push(begun.elapsed());
        remove().await;
        becomes(&web, 200).await;
    }
    let most = took.iter().max().unwrap();
    assert!(*most <= PROMISED, "{took:?}");
}

#[tokio::test]
async fn what_is_open_is_cut_when_its_permission_ends() {
    let mesh = two_clusters().start().await;
    let web = mesh.client("east/web");
    let (http, bytes) = (web.http("cart"), web.port("cart", 81));
    let mut stream = bytes.tcp().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    let mut sender = http.http1().await.unwrap();
    let ticks = http.request("GET", "/ticks").body(full("")).unwrap();
    let mut answer = sender.send_request(ticks).await.unwrap();
    assert!(answer.frame().await.unwrap().is_ok());
    mesh.write("west", "policy.yaml", DENY_WEB_OF_EAST);
    // Both end, and not by their own will: the application never ends them.
    let limit = SOON;
    let tcp = timeout(limit, stream.read(&mut back))
        .await
        .expect("the stream is cut");
    assert!(!matches!(tcp, Ok(1..)), "{tcp:?}");
    let cut = async { while let Some(Ok(_)) = answer.frame().await {} };
    timeout(limit, cut).await.expect("the answer is cut");
    // New ones are refused.
    becomes(&http, 403).await;
    let mut stream = bytes.tcp().await.unwrap();
    let refused = stream.read(&mut back).await;
    assert!(!matches!(refused, Ok(1..)), "{refused:?}");
    assert!(
        mesh.proxy("west/cart-1")
            .metric("revoked_connections_total", &[])
            .await
            >= 2.0
    );
}

/// A WebSocket was a request when it was allowed; it is no less open than one.
#[tokio::test]
async fn an_upgraded_stream_is_cut_when_its_permission_ends() {
    let mesh = two_clusters().start().await;
    let http = mesh.client("east/web").http("cart");
    let other = mesh.client("east/desk").http("cart");
    let mut cut = http.upgrade("echo").await.unwrap();
    let mut kept = other.upgrade("echo").await.unwrap();
    let mut back = [0; 4];
    for io in [&mut cut, &mut kept] {
        io.write_all(b"ping").await.unwrap();
        io.read_exact(&mut back).await.unwrap();
    }
    mesh.write("west", "policy.yaml", DENY_WEB_OF_EAST);
    let ended = timeout(SOON, cut.read(&mut back))
        .await
        .expect("the stream is cut");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    becomes(&http, 403).await;
    kept.write_all(b"pong").await.unwrap();
    kept.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"pong", "the policy names web only");
    let revoked = mesh
        .proxy("west/cart-1")
        .metric("revoked_connections_total", &[])
        .await;
    assert!(revoked >= 1.0, "{revoked}");
}

/// What asks for another protocol is a GET all the same, also where it travels as an extended CONNECT.
#[tokio::test]
async fn a_policy_about_a_method_is_not_got_around_by_an_upgrade() {
    const DENY_GET: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-get, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Deny
  rules:
  - to: [{methods: [GET]}]
";
    let mesh = two_clusters().start().await;
    let http = mesh.client("east/web").http("cart");
    assert!(http.upgrade("echo").await.is_ok());
    mesh.write("west", "policy.yaml", DENY_GET);
    becomes(&http, 403).await;
    let record = &mesh.app("west/cart-1").record;
    let seen = record.requests();
    let mut io = http.tcp().await.unwrap();
    let words =
        b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade, close\r\nupgrade: echo\r\n\r\n";
    io.write_all(words).await.unwrap();
    let mut said = Vec::new();
    let reading = io.read_to_end(&mut said);
    let _ = timeout(SOON, reading).await.expect("an answer");
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    assert_eq!(record.requests(), seen, "it was forwarded");
}

#[tokio::test]
async fn an_allow_policy_denies_everything_that_it_does_not_name() {
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").client("desk").service("cart", 1).manifest(
                "policy.yaml",
                "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Allow
  rules:
  - from: [{serviceAccounts: [web]}]
    to: [{methods: [GET], paths: [{prefix: /open}]}]
  - from: [{serviceAccounts: [web]}]
    headers: [{name: x-key, exact: \"7\"}]
",
            )
        })
        .start()
        .await;
    let web = mesh.client("east/web").http("cart");
    assert_eq!(web.get("/open/1").await.status, 200);
    for path in [
        "/",
        "/closed",
        "/open/../closed",
        "/open/%2e%2e/closed",
        "//closed",
    ] {
        assert_eq!(web.get(path).await.status, 403, "{path}");
    }
    assert_eq!(
        web.get("/open/%2f..%2fclosed").await.status,
        400,
        "an ambiguous path"
    );
    assert_eq!(web.post("/open/1", "x").await.status, 403);
    let keyed = web
        .request("POST", "/")
        .header("x-key", "7")
        .body(full("x"))
        .unwrap();
    assert_eq!(web.send(keyed).await.unwrap().status, 200);
    let wrong = web
        .request("POST", "/")
        .header("x-key", "77")
        .body(full("x"))
        .unwrap();
    assert_eq!(web.send(wrong).await.unwrap().status, 403);
    assert_eq!(
        mesh.client("east/desk")
            .http("cart")
            .get("/open/1")
            .await
            .status,
        403
    );
}

/// Audit looks and does not decide.
#[tokio::test]
async fn an_audit_policy_is_counted_and_logged_and_changes_no_verdict() {
    let audit = |name: &str, prefix: &str| {
        format!(
            "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: cart}}]
  action: Audit
  rules:
  - to: [{{paths: [{{prefix: {prefix}}}]}}]
"
        )
    };
    let deny = audit("shut", "/seen/shut").replace("Audit", "Deny");
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service("cart", 1)
                .manifest("audit.yaml", &audit("watch", "/seen"))
                .manifest("deny.yaml", &deny)
        })
        .start()
        .await;
    let web = mesh.client("east/web").http("cart");
    let cart = mesh.proxy("east/cart-1");
    let matches = async || cart.metric("audit_matches_total", &["watch"]).await;
    assert_eq!(web.get("/other").await.status, 200);
    assert!(matches().await < 0.5, "it matched what it does not name");
    assert_eq!(web.get("/seen/1").await.status, 200, "it is no verdict");
    assert_eq!(web.get("/seen/shut").await.status, 403, "and lifts none");
    let is = |path: &'static str| {
        move |line: &serde_json::Value| line["path"] == path && line["direction"] == "inbound"
    };
    for (path, status) in [("/seen/1", 200), ("/seen/shut", 403)] {
        let line = cart.logged(path, is(path)).await;
        assert!(line["audit"].to_string().contains("watch"), "{line}");
        assert_eq!(line["status"], status, "{line}");
    }
    let line = cart.logged("/other", is("/other")).await;
    assert!(line["audit"].is_null(), "{line}");
    let counted = matches().await;
    assert!((counted - 2.0).abs() < 0.5, "{counted}");
}

/// S13: what was never understood denies. F25: what was understood once counts as it was.
#[tokio::test]
async fn a_policy_that_is_not_understood_denies_where_it_applies() {
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service("cart", 1).service("books", 1)
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    assert_eq!(web.http("cart").get("/").await.status, 200);
    let text = DENY_WEB_OF_EAST.replace("serviceAccounts: [web]", "serviceAcounts: [web]");
    mesh.write("east", "policy.yaml", &text);
    becomes(&web.http("cart"), 403).await;
    assert_eq!(
        web.http("books").get("/").await.status,
        200,
        "elsewhere nothing changes"
    );
    let books = DENY_WEB_OF_EAST
        .replace("no-web-of-east", "web-only")
        .replace("action: Deny", "action: Allow")
        .replace("name: cart", "name: books");
    let desk_only = books.replace("[web]", "[desk]");
    mesh.write("east", "books.yaml", &desk_only);
    becomes(&web.http("books"), 403).await;
    mesh.write("east", "books.yaml", &books);
    becomes(&web.http("books"), 200).await;
    for typo in [
        desk_only.replace("action: Allow", "acton: Allow"),
        books.replace("targetRefs", "targetRef"),
        books.replace("v1alpha1", "v9"),
    ] {
        mesh.write("east", "books.yaml", &typo);
        until("it is named", async || {
            let world = mesh.control().json("/world").await;
            let problems = world["conditions"].to_string();
            check(problems.contains("AccessPolicy shop/web-only"), problems)
        })
        .await;
        let reply = web.http("books").get("/").await;
        assert_eq!(reply.status, 200, "{typo}: {}", reply.text());
        mesh.write("east", "books.yaml", &books);
        until("it is well again", async || {
            let world = mesh.control().json("/world").await;
            let problems = world["conditions"].to_string();
            check(!problems.contains("AccessPolicy shop/web-only"), problems)
        })
        .await;
    }
}

async fn becomes(client: &Client, status: u16) -> isthmus_tests::Reply {
    becomes_within(SOON, client, status).await
}

async fn becomes_within(limit: Duration, client: &Client, status: u16) -> isthmus_tests::Reply {
    until_within(limit, &format!("the answer is {status}"), async || {
        let reply = client.get("/").await;
        if reply.status == status {
            Ok(reply)
        } else {
            Err(format!("{} {}", reply.status, reply.text()))
        }
    })
    .await
}

/// S13: proxies that start with nothing, while somebody calls who is not allowed to. They take turns, because a
/// pod that asks for certificates again and again has to wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_start_lets_a_caller_in_before_its_policies_are_there() {
    const PODS: usize = 4;
    let starts = if std::env::var_os("ISTHMUS_FULL").is_some() {
        500
    } else {
        20
    };
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").client("desk").service("cart", PODS)
        })
        .drain_seconds(0)
        .start()
        .await;
    let desk_only = DENY_WEB_OF_EAST
        .replace("action: Deny", "action: Allow")
        .replace("[web]", "[desk]");
    mesh.write("east", "policy.yaml", &desk_only);
    let pods: Vec<String> = (1..=PODS).map(|at| format!("east/cart-{at}")).collect();
    // Without a sidecar of its own, which would leave a pod alone that has just failed.
    let identity = Identity::of_state_dir(mesh.proxy("east/web-1").state_dir());
    let from = mesh.proxy("east/web-1").address();
    for pod in &pods {
        let to = mesh.proxy(pod).mesh();
        until("the policy is there", async || {
            let status = ask_directly(from, to, identity.clone()).await;
            let status = status.map_err(|error| error.to_string())?;
            check(status == 403, status)
        })
        .await;
    }
    let seen = |mesh: &Mesh| -> usize {
        let pods = pods.iter().map(|pod| mesh.app(pod).record.requests());
        pods.sum()
    };
    let before = seen(&mesh);
    let denied: Vec<_> = pods.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let callers: Vec<_> = pods
        .iter()
        .zip(&denied)
        .map(|(pod, denied)| {
            let (to, identity) = (mesh.proxy(pod).mesh(), identity.clone());
            tokio::spawn(call_on(from, to, identity, Arc::clone(denied)))
        })
        .collect();
    for (pod, denied) in pods.iter().zip(&denied).cycle().take(starts) {
        let cart = mesh.proxy_mut(pod);
        cart.stop().await;
        std::fs::remove_dir_all(cart.state_dir()).unwrap();
        let count = denied.load(Ordering::SeqCst);
        cart.start().await;
        cart.ready().await;
        until("its first callers are denied", async || {
            let now = denied.load(Ordering::SeqCst);
            check(now > count, now)
        })
        .await;
    }
    for caller in callers {
        caller.abort();
        // One that has seen another answer has ended by itself.
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    assert_eq!(seen(&mesh), before);
    becomes(&mesh.client("east/desk").http("cart"), 200).await;
}

/// Calls without an end, and counts how often that was denied.
async fn call_on(from: IpAddr, to: SocketAddr, identity: Identity, denied: Arc<AtomicUsize>) {
    /// Who called the one before may never hear.
    const ONCE: Duration = Duration::from_secs(1);
    loop {
        // While it starts, nobody is there.
        let asked = ask_directly(from, to, identity.clone());
        if let Ok(Ok(status)) = timeout(ONCE, asked).await {
            assert_eq!(status, 403);
            denied.fetch_add(1, Ordering::SeqCst);
        }
    }
}
