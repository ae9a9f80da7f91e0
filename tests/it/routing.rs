//! Do requests go where the routes say?

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, Reply, tls, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
  rules:
";

/// A route of `cart` with these rules.
fn route(rules: &str) -> String {
    format!("{ROUTE}{rules}")
}

/// As a backend of a rule.
fn to(service: &str) -> String {
    format!("{{group: multicluster.x-k8s.io, kind: ServiceImport, name: {service}, port: 80}}")
}

fn with_route(rules: &str) -> MeshPlan {
    let route = route(rules);
    Mesh::builder()
        .cluster("east", |c| c.client("web").manifest("route.yaml", &route))
        .cluster("west", |c| c.service("cart", 1).service("canary", 1))
}

const MIRRORED: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}]
  rules:
  - filters:
    - type: RequestMirror
      requestMirror: {backendRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: canary, port: 80}}
    backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
";

/// What the copy says is what the request said, with its body.
#[tokio::test]
async fn a_request_with_a_body_is_mirrored_whole_or_not_at_all() {
    const BODY_BYTES: u64 = 50_000;
    for (protocol, app) in [("http", App::Http), ("grpc", App::Http2)] {
        let service =
            |s: isthmus_tests::plan::ServicePlan| s.port("main", 80, protocol, app.clone());
        let mesh = Mesh::builder()
            .cluster("east", |c| c.client("web").manifest("route.yaml", MIRRORED))
            .cluster("west", |c| {
                c.service_with("cart", 1, service)
                    .service_with("canary", 1, service)
            })
            .start()
            .await;
        let client = mesh.client("east/web").http("cart");
        let post = async |bytes: u64| {
            let body = vec![b'a'; usize::try_from(bytes).unwrap()];
            if protocol == "http" {
                return client.post("/whole", body).await;
            }
            let request = hyper::Request::post(format!("http://{}/whole", client.host()))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(full(body))
                .unwrap();
            let mut sender = client.http2().await.unwrap();
            Reply::read(sender.send_request(request).await.unwrap())
                .await
                .unwrap()
        };
        let reply = post(BODY_BYTES).await;
        assert_eq!(
            (reply.status, reply.pod()),
            (200, "west/cart-1"),
            "{protocol}"
        );
        let copied = &mesh.app("west/canary-1").record;
        until("the copy has arrived", async || {
            check(copied.bytes() == BODY_BYTES, copied.bytes())
        })
        .await;
        let head = copied.heads().pop().unwrap();
        assert!(
            head.starts_with("POST") && head.contains("/whole"),
            "{head}"
        );
        // Longer than is kept: answered, not copied, and counted.
        let reply = post(200_000).await;
        assert_eq!(
            (reply.status, reply.body.len()),
            (200, 200_000),
            "{protocol}"
        );
        let dropped = mesh
            .proxy("east/web-1")
            .metric("mirrors_dropped_total", &[])
            .await;
        assert!((dropped - 1.0).abs() < 0.5, "{dropped}");
        assert_eq!(
            (copied.requests(), copied.bytes()),
            (1, BODY_BYTES),
            "{protocol}"
        );
    }
}

async fn get(mesh: &Mesh, path: &str, fields: &[(&str, &str)]) -> Reply {
    let client = mesh.client("east/web").http("cart");
    let mut request = client.request("GET", path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client.send(request.body(full("")).unwrap()).await.unwrap()
}

#[tokio::test]
async fn path_header_and_query_choose_the_backend() {
    let mesh = with_route(&format!(
        "  - matches: [{{path: {{type: PathPrefix, value: /new}}}}]
    backendRefs: [{canary}]
  - matches: [{{headers: [{{name: x-canary, value: \"yes\"}}]}}]
    backendRefs: [{canary}]
  - matches: [{{queryParams: [{{name: v, value: \"2\"}}]}}]
    backendRefs: [{canary}]
  - backendRefs: [{cart}]
",
        canary = to("canary"),
        cart = to("cart"),
    ))
    .start()
    .await;
    let cases = [
        ("/", "", "west/cart-1"),
        ("/new", "", "west/canary-1"),
        ("/new/thing", "", "west/canary-1"),
        ("/newer", "", "west/cart-1"),
        ("/x/../new", "", "west/canary-1"),
        ("/", "yes", "west/canary-1"),
        ("/", "no", "west/cart-1"),
        ("/?v=2", "", "west/canary-1"),
    ];
    for (path, canary, pod) in cases {
        let reply = get(&mesh, path, &[("X-Canary", canary)]).await;
        assert_eq!(
            (reply.status, reply.pod()),
            (200, pod),
            "{path} {canary}: {}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn weights_divide_the_requests() {
    let canary = to("canary").replace('}', ", weight: 1}");
    let cart = to("cart").replace('}', ", weight: 3}");
    let mesh = with_route(&format!("  - backendRefs: [{canary}, {cart}]\n"))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let mut pods: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200);
        *pods.entry(reply.pod().to_owned()).or_default() += 1;
    }
    // 100 of 400; more than five standard deviations (8.7) away is no chance.
    let canary = pods["west/canary-1"];
    assert!((55..=145).contains(&canary), "{pods:?}");
}

#[tokio::test]
async fn filters_change_the_request_and_the_answer() {
    let mesh = with_route(&format!(
        "  - matches: [{{path: {{type: PathPrefix, value: /old}}}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{statusCode: 301, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}
  - matches: [{{path: {{type: PathPrefix, value: /api}}}}]
    filters:
    - type: URLRewrite
      urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}}
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x-set, value: mesh}}], remove: [x-secret]}}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{add: [{{name: x-added, value: here}}]}}
    backendRefs: [{cart}]
  - backendRefs: [{cart}]
",
        cart = to("cart"),
    ))
    .start()
    .await;
    let moved = get(&mesh, "/old/thing", &[]).await;
    assert_eq!(moved.status, 301);
    assert!(
        moved.field("location").ends_with("/new/thing"),
        "{:?}",
        moved.headers
    );
    let reply = get(
        &mesh,
        "/api/thing",
        &[("x-set", "client"), ("x-secret", "1")],
    )
    .await;
    assert_eq!(
        (reply.field("x-path"), reply.field("x-added")),
        ("/v1/thing", "here")
    );
    let heads = mesh.app("west/cart-1").record.heads();
    let head = heads.last().unwrap();
    assert!(
        head.contains("x-set: mesh") && !head.contains("client") && !head.contains("x-secret"),
        "{head}"
    );
}

#[tokio::test]
async fn a_request_that_no_rule_matches_is_404_and_one_to_nowhere_500() {
    let mesh = with_route(&format!(
        "  - matches: [{{path: {{type: Exact, value: /only}}}}]
    backendRefs: [{cart}]
  - matches: [{{path: {{type: Exact, value: /nowhere}}}}]
    backendRefs: [{nowhere}]
  - matches: [{{path: {{type: Exact, value: /no-port}}}}]
    backendRefs: [{no_port}]
  - matches: [{{path: {{type: Exact, value: /own}}}}]
    backendRefs: [{own}]
",
        cart = to("cart"),
        nowhere = to("nowhere"),
        no_port = to("canary").replace("80", "81"),
        own = to("cart").replace("80", "81"),
    ))
    .start()
    .await;
    assert_eq!(get(&mesh, "/only", &[]).await.status, 200);
    let none = get(&mesh, "/other", &[]).await;
    assert_eq!(none.status, 404, "{}", none.text());
    assert!(none.text().starts_with("NR "), "{}", none.text());
    let nowhere = get(&mesh, "/nowhere", &[]).await;
    assert_eq!(nowhere.status, 500, "{}", nowhere.text());
    // A port that the service does not have is nothing, too: no lack of endpoints.
    for path in ["/no-port", "/own"] {
        let no_port = get(&mesh, path, &[]).await;
        assert_eq!(no_port.status, 500, "{path}: {}", no_port.text());
        assert!(no_port.text().starts_with("NR "), "{}", no_port.text());
    }
}

#[tokio::test]
async fn a_route_changes_while_requests_go_on() {
    let mesh = with_route(&format!("  - backendRefs: [{}]\n", to("cart")))
        .start()
        .await;
    assert_eq!(get(&mesh, "/", &[]).await.pod(), "west/cart-1");
    let load = crate::load::Load::start(vec![mesh.client("east/web").http("cart")]);
    mesh.write(
        "east",
        "route.yaml",
        &route(&format!("  - backendRefs: [{}]\n", to("canary"))),
    );
    until("the other service answers", async || {
        let reply = get(&mesh, "/", &[]).await;
        check(reply.pod() == "west/canary-1", reply.pod())
    })
    .await;
    load.stop_without_failure().await;
}

#[tokio::test]
async fn services_are_reached_by_their_virtual_addresses() {
    let import = "apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceImport
metadata: {name: cart, namespace: shop}
spec: {type: ClusterSetIP, ips: [10.97.0.9], ports: [{name: http, port: 80}]}
";
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client_with("web", &["10.97.0.9:80", "10.96.0.10:80"])
                .service_with("near", 1, |s| {
                    s.port("http", 80, "http", App::Http).unexported()
                })
                .manifest("import.yaml", import)
        })
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let web = mesh.client("east/web");
    assert_eq!(
        web.destination("10.97.0.9:80").get("/").await.pod(),
        "west/cart-1"
    );
    assert_eq!(
        web.destination("10.96.0.10:80").get("/").await.pod(),
        "east/near-1"
    );
}

/// Shakes hands, and says who it is.
fn tls_server(name: &'static str) -> App {
    let identity = tls::self_signed(&["spiffe://test/server"]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    App::custom(move |io, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut io) = acceptor.accept(io).await else {
                return;
            };
            // The other side may be gone already.
            let _ = io.write_all(name.as_bytes()).await;
            let _ = io.shutdown().await;
        }
    })
}

fn tls_route(host: &str, service: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: {service}-{port}, namespace: shop}}
spec:
  parentRefs: [{{group: multicluster.x-k8s.io, kind: ServiceImport, name: front, port: {port}}}]
  hostnames: [{host}]
  rules:
  - backendRefs: [{{group: multicluster.x-k8s.io, kind: ServiceImport, name: {service}, port: 443}}]
"
    )
}

/// Who answers to this name on a port that only TLS routes are attached to.
async fn answers(mesh: &Mesh, port: u16, name: &str) -> anyhow::Result<String> {
    let io = mesh.client("east/web").port("front", port).tcp().await?;
    let mut io = tls::connect(io, name, None).await?;
    let mut text = String::new();
    io.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_tls_route_chooses_the_backend_by_the_name_that_the_client_asks_for() {
    const PORTS: [u16; 2] = [443, 444];
    let routes = PORTS.map(|port| {
        let green = tls_route("'*.green.example'", "green", port);
        tls_route("blue.example", "blue", port)
            + "---
" + &green
    });
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest(
                "tls.yaml",
                &routes.join(
                    "---
",
                ),
            )
        })
        .cluster("west", |c| {
            c.service_with("front", 1, |s| {
                s.port("tls", 443, "tls", tls_server("front")).port(
                    "any",
                    444,
                    "",
                    tls_server("front"),
                )
            })
            .service_with("blue", 1, |s| s.port("tls", 443, "tls", tls_server("blue")))
            .service_with("green", 1, |s| {
                s.port("tls", 443, "tls", tls_server("green"))
            })
        })
        .start()
        .await;
    for port in PORTS {
        for (name, pod) in [("blue.example", "blue"), ("a.green.example", "green")] {
            until(&format!("{name} is answered on {port}"), async || {
                let text = answers(&mesh, port, name)
                    .await
                    .map_err(|e| format!("{e:#}"))?;
                check(text == pod, text)
            })
            .await;
        }
        assert!(answers(&mesh, port, "red.example").await.is_err(), "{port}");
    }
}
