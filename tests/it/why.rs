//! Does the mesh say why?

use isthmus_tests::client::full;
use isthmus_tests::{App, Mesh, Reply, until};
use tokio::io::AsyncReadExt;

const DENY: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Deny
  rules:
  - from: [{serviceAccounts: [web]}]
    to: [{paths: [{prefix: /closed}]}]
";

#[tokio::test]
async fn a_replay_says_what_a_call_would_meet() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service("cart", 2).manifest("policy.yaml", DENY)
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/closed/door").await.status, 403);
    // The caller's side: which service, which endpoints, which way.
    let web = mesh.proxy("east/web-1");
    let out = web
        .json("/why?host=cart.shop.svc.clusterset.local&port=80&path=/&method=GET")
        .await;
    let text = out.to_string();
    assert!(
        text.contains("west/shop/cart-1") && text.contains("west/shop/cart-2"),
        "{out:#}"
    );
    assert!(text.contains("gateway"), "{out:#}");
    let [place] = out["places"].as_array().unwrap().as_slice() else {
        panic!("one place: {out:#}");
    };
    assert_eq!(place["healthy"], 2, "{place:#}");
    assert!(place["distance"].is_string() && place["cost_ms"].is_number());
    // The other side: which policy, for whom, and what would have to change.
    let cart = mesh.proxy("west/cart-1");
    let ask = async |account: &str, path: &str| {
        let identity = format!("spiffe://east.mesh.internal/ns/shop/sa/{account}");
        cart.json(&format!(
            "/why/inbound?identity={identity}&port=8080&path={path}&method=GET"
        ))
        .await
    };
    for (account, path, allowed) in [
        ("web", "/closed", false),
        ("web", "/", true),
        ("desk", "/closed", true),
    ] {
        let found = ask(account, path).await;
        assert_eq!(found["allowed"], allowed, "{account} {path}: {found:#}");
        assert!(found.to_string().contains("closed"), "{found:#}");
    }
    let denied = ask("web", "/closed").await;
    assert!(!denied["remedy"].is_null(), "{denied:#}");
}

const TCP_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 81}]
  rules:
  - backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: canary, port: 81}]
";

/// The replay of a port of bytes goes by the routes and policies of layer 4, as the call itself.
#[tokio::test]
async fn a_replay_of_a_tcp_call_says_what_the_connection_would_meet() {
    let bytes = |s: isthmus_tests::plan::ServicePlan| s.port("bytes", 81, "tcp", App::Tcp);
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest("route.yaml", TCP_ROUTE)
        })
        .cluster("west", |c| {
            c.service_with("cart", 1, bytes)
                .service_with("canary", 1, bytes)
                .manifest("policy.yaml", &DENY.replace("name: cart", "name: canary"))
        })
        .start()
        .await;
    let web = mesh.proxy("east/web-1");
    let client = mesh.client("east/web").port("cart", 81);
    // The first use makes the service known to the sidecar.
    let mut io = client.tcp().await.unwrap();
    let refused = io.read(&mut [0; 1]).await;
    assert!(!matches!(refused, Ok(1..)), "{refused:?}");
    let line = web
        .logged("the connection", |line| line["failure"] == "denied")
        .await;
    // A path is no property of bytes.
    for said in ["", "&path=/closed&method=GET", "&as=connection"] {
        let query = format!("/why?host=cart.shop.svc.clusterset.local&port=81{said}");
        let out = web.json(&query).await;
        assert_eq!(out["judged_as"], "connection", "{out:#}");
        let rule = out["route"]["rule"].as_str().unwrap();
        assert!(
            rule.starts_with("shop/split") && rule.ends_with("rule 0"),
            "{out:#}"
        );
        let endpoint = out["endpoint"].as_str().unwrap();
        let was = line["detail"].as_str().unwrap();
        assert!(
            was.contains(endpoint),
            "{endpoint} is not where it went: {was}"
        );
    }
    let canary = mesh.proxy("west/canary-1");
    let identity = "spiffe://east.mesh.internal/ns/shop/sa/web";
    let query = format!("/why/inbound?identity={identity}&port=8081");
    for said in ["", "&as=connection"] {
        let found = canary.json(&format!("{query}{said}")).await;
        assert_eq!(found["judged_as"], "connection", "{found:#}");
        assert_eq!(found["allowed"], false, "{found:#}");
    }
    // A peer that sends a request is judged by that.
    let found = canary.json(&format!("{query}&path=/")).await;
    assert_eq!(found["judged_as"], "request", "{found:#}");
    assert_eq!(found["allowed"], true, "{found:#}");
}

/// A TCP client can't be told an id: the log of its own sidecar says it, and leads to the policy.
#[tokio::test]
async fn a_denied_tcp_call_is_explained_at_both_ends() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("bytes", 81, "tcp", App::Tcp))
                .manifest(
                    "policy.yaml",
                    &DENY.replace("paths: [{prefix: /closed}]", "ports: [8081]"),
                )
        })
        .start()
        .await;
    let mut io = mesh
        .client("east/web")
        .port("cart", 81)
        .tcp()
        .await
        .unwrap();
    let refused = io.read(&mut [0; 1]).await;
    assert!(!matches!(refused, Ok(1..)), "{refused:?}");
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("west/cart-1"));
    let line = web
        .logged("the refusal", |line| line["failure"] == "denied")
        .await;
    let id = line["reason"].as_str().expect("an id in the log");
    let there = line["upstream_reason"].as_str().expect("the other id");
    assert!(id.starts_with("east/shop/web-1:"), "{line}");
    assert!(there.starts_with("west/shop/cart-1:"), "{line}");
    let why = web.why(id).await;
    assert!(
        why["event"]["detail"].as_str().unwrap().contains(there),
        "{why}"
    );
    let why = cart.why(there).await;
    assert!(
        why["event"]["policy"].to_string().contains("closed"),
        "{why}"
    );
    let line = cart
        .logged("the decision", |line| line["failure"] == "denied")
        .await;
    assert_eq!(line["reason"], there, "{line}");
}

/// The caller's proxy knows who knows more, and counts the refusal as what it was.
#[tokio::test]
async fn a_refused_request_is_explained_at_both_ends() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("grpc", 81, "grpc", App::Http2)
            })
            .manifest("policy.yaml", DENY)
        })
        .start()
        .await;
    let http = mesh.client("east/web").port("cart", 80);
    let grpc = mesh.client("east/web").port("cart", 81);
    let denied = http.get("/closed").await;
    assert_eq!(denied.status, 403, "{}", denied.text());
    let mut sender = grpc.http2().await.unwrap();
    let call = hyper::Request::post(format!("http://{}/closed/door", grpc.host()))
        .header("content-type", "application/grpc")
        .body(full(""))
        .unwrap();
    let called = Reply::read(sender.send_request(call).await.unwrap()).await;
    let called = called.unwrap();
    assert_eq!(called.field("grpc-status"), "7", "{:?}", called.headers);
    mesh.app_mut("west/cart-1").stop().await;
    let down = http.post("/", "x").await;
    assert_eq!(down.status, 503, "{}", down.text());
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("west/cart-1"));
    for (reply, flag, failure) in [
        (denied, "UAEX", "denied"),
        (called, "UAEX", "denied"),
        (down, "UF", "connect_failed"),
    ] {
        assert!(!reply.headers.contains_key("x-mesh-failure"));
        let there = reply.reason();
        assert!(there.starts_with("west/shop/cart-1:"), "{there}");
        let line = web
            .logged("the refusal", |line| line["upstream_reason"] == there)
            .await;
        assert_eq!(line["status"], reply.status, "{line}");
        assert_eq!(
            (&line["flag"], &line["failure"]),
            (&flag.into(), &failure.into())
        );
        assert_eq!(line["endpoint"], "west/shop/cart-1", "{line}");
        let why = web.why(line["reason"].as_str().unwrap()).await;
        assert_eq!(why["event"]["upstream_reason"], there, "{why}");
        let why = cart.why(there).await;
        assert_eq!(why["event"]["failure"], failure, "{why}");
    }
    let labels = ["direction=\"outbound\"", "destination_cluster=\"west\""];
    for (flag, count) in [("UAEX", 2.0), ("UF", 1.0)] {
        let flag = format!("flag=\"{flag}\"");
        let labels = [&labels[..], &[&flag]].concat();
        let counted = web.metric("requests_total", &labels).await;
        assert_eq!(counted, count, "{flag}");
    }
}

/// What is told of a failure is what was, also when it has healed.
#[tokio::test]
async fn a_call_that_found_nobody_is_explained_after_it_has_healed() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("cart", 2, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("bytes", 81, "tcp", App::Tcp)
            })
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let pods = ["west/cart-1", "west/cart-2"];
    assert_eq!(client.get("/").await.status, 200);
    for pod in pods {
        mesh.mark(pod, false);
    }
    let refused = until("nobody is ready", async || {
        let reply = client.get("/").await;
        match reply.status {
            503 => Ok(reply.reason().to_owned()),
            other => Err(other),
        }
    })
    .await;
    // It may be reset before it is told that it is connected.
    if let Ok(mut io) = mesh.client("east/web").port("cart", 81).tcp().await {
        let read = io.read(&mut [0; 1]).await;
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    let web = mesh.proxy("east/web-1");
    let is_bytes = |line: &serde_json::Value| {
        line["failure"] == "no_healthy_endpoint" && line["protocol"] == "tcp"
    };
    let line = web.logged("the connection", is_bytes).await;
    let of_bytes = line["reason"].as_str().unwrap().to_owned();
    for pod in pods {
        mesh.mark(pod, true);
    }
    until("it has healed", async || {
        let reply = client.get("/").await;
        isthmus_tests::wait::check(reply.status == 200, reply.status)
    })
    .await;
    let web = mesh.proxy("east/web-1");
    for reason in [refused, of_bytes] {
        let why = web.why(&reason).await;
        let then = &why["endpoints"];
        assert_eq!(why["event"]["failure"], "no_healthy_endpoint", "{why:#}");
        assert_eq!(then["total"], 2, "{why:#}");
        assert_eq!(then["reasons"]["it is not ready"], 2, "{why:#}");
        for pod in ["west/shop/cart-1", "west/shop/cart-2"] {
            assert!(then["named"].to_string().contains(pod), "{why:#}");
        }
        let now = web.json("/config").await["generation"].as_u64().unwrap();
        assert!(then["generation"].as_u64().unwrap() < now, "{why:#}");
    }
}

#[tokio::test]
async fn the_control_plane_knows_who_has_applied_what() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await;
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let proxies = until("every proxy is listed", async || {
        let proxies = mesh.control().json("/proxies").await;
        match proxies.as_array() {
            // The gateway, the client and the pod.
            Some(list) if list.len() == 3 => Ok(proxies),
            _ => Err(proxies.to_string()),
        }
    })
    .await
    .to_string();
    for name in [
        "east/shop/web-1",
        "east/shop/cart-1",
        "east/isthmus-system/gateway-1",
    ] {
        assert!(proxies.contains(name), "{proxies}");
    }
}

/// Both ends of a call are in its metrics, by configuration.
#[tokio::test]
async fn metrics_name_both_clusters_and_the_service() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    for _ in 0..5 {
        assert_eq!(client.get("/random-path").await.status, 200);
    }
    let both = ["source_cluster=\"east\"", "destination_cluster=\"west\""];
    for (proxy, direction) in [
        ("east/web-1", "direction=\"outbound\""),
        ("west/cart-1", "direction=\"inbound\""),
    ] {
        let proxy = mesh.proxy(proxy);
        until("five requests are counted", async || {
            let count = proxy
                .metric("requests_total", &[both[0], both[1], direction])
                .await;
            isthmus_tests::wait::check((count - 5.0).abs() < 0.5, count)
        })
        .await;
        let (_, text) = proxy.get("/metrics").await.unwrap();
        assert!(!text.contains("random-path"), "a label comes from traffic");
    }
}
