//! Does the mesh do what the Gateway API asks of one, case by case?
//!
//! After the mesh conformance tests of the API, and what its types and GEP-1294 say of cases that
//! those have not. What is not here is in `routing` and `traffic`.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Request;
use isthmus_tests::client::full;
use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, Reply, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// An answer comes within this, also on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A route of this kind for a port of `cart`, with these rules.
fn route(kind: &str, port: u16, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: {port}}}]
  rules:
{rules}"
    )
}

/// As a backend of a rule.
fn to(service: &str, port: u16) -> String {
    format!("{{group: multicluster.x-k8s.io, kind: ServiceImport, name: {service}, port: {port}}}")
}

fn weighted(service: &str, port: u16, weight: u32) -> String {
    to(service, port).replace('}', &format!(", weight: {weight}}}"))
}

/// `cart` and `canary` in another network, each with a port for HTTP, gRPC and bytes.
fn shops(manifests: &[&str]) -> MeshPlan {
    let manifests: Vec<String> = manifests.iter().map(|text| (*text).to_owned()).collect();
    Mesh::builder()
        .cluster("east", |mut c| {
            for (number, text) in manifests.iter().enumerate() {
                c = c.manifest(&format!("own-{number}.yaml"), text);
            }
            c.client("web")
        })
        .cluster("west", |c| {
            let ports = |name: &'static str| {
                move |s: isthmus_tests::plan::ServicePlan| {
                    s.port("http", 80, "http", App::Http)
                        .port("grpc", 82, "grpc", App::Http2)
                        .port("bytes", 83, "tcp", App::Greeter(name))
                }
            };
            c.service_with("cart", 1, ports("cart\n"))
                .service_with("canary", 1, ports("canary\n"))
        })
}

/// One call of gRPC.
async fn call(client: &Client, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut sender = client.http2().await.unwrap();
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://cart{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let sending = sender.send_request(request.body(full("")).unwrap());
    let answer = timeout(AT_ONCE, sending).await.expect("an answer").unwrap();
    Reply::read(answer).await.unwrap()
}

/// `GRPCRouteRule.matches`: service and method, then headers.
#[tokio::test]
async fn a_grpc_route_chooses_by_service_method_and_header() {
    let canary = to("canary", 82);
    let rules = format!(
        "  - matches: [{{method: {{service: shop.Cart, method: Pay}}}}]
    backendRefs: [{canary}]
  - matches: [{{method: {{method: Refund}}}}]
    backendRefs: [{canary}]
  - matches: [{{headers: [{{name: version, value: two}}]}}]
    backendRefs: [{canary}]
  - matches: [{{method: {{service: shop.Cart}}}}]
    backendRefs: [{cart}]
",
        cart = to("cart", 82),
    );
    let mesh = shops(&[&route("GRPCRoute", 82, &rules)]).start().await;
    let client = mesh.client("east/web").port("cart", 82);
    let two = [("version", "two")];
    for (path, fields, pod) in [
        ("/shop.Cart/Get", &[][..], "west/cart-1"),
        ("/shop.Cart/Pay", &[], "west/canary-1"),
        ("/bank.Pay/Refund", &[], "west/canary-1"),
        // A service that is named goes before a method alone, and before a header.
        ("/shop.Cart/Refund", &[], "west/cart-1"),
        ("/shop.Cart/Get", &two, "west/cart-1"),
        ("/shop.Bill/Get", &two, "west/canary-1"),
    ] {
        let reply = call(&client, path, fields).await;
        assert_eq!((reply.status, reply.pod()), (200, pod), "{path} {fields:?}");
    }
    let none = call(&client, "/shop.Bill/Get", &[]).await;
    assert_eq!(none.field("grpc-status"), "12", "{:?}", none.headers);
}

/// `GRPCRouteRule.backendRefs`: "`UNAVAILABLE` statuses MUST be returned".
#[tokio::test]
async fn a_grpc_call_that_leads_nowhere_is_unavailable() {
    let rules = format!(
        "  - matches: [{{method: {{service: shop.Cart, method: Gone}}}}]
    backendRefs: [{gone}]
  - matches: [{{method: {{service: shop.Cart, method: Weightless}}}}]
    backendRefs: [{weightless}]
",
        gone = to("gone", 82),
        weightless = weighted("cart", 82, 0),
    );
    let mesh = shops(&[&route("GRPCRoute", 82, &rules)]).start().await;
    let client = mesh.client("east/web").port("cart", 82);
    for method in ["Gone", "Weightless"] {
        let reply = call(&client, &format!("/shop.Cart/{method}"), &[]).await;
        assert_eq!(
            reply.field("grpc-status"),
            "14",
            "{method}: {:?}",
            reply.headers
        );
    }
}

/// GEP-1294: "only a single route type should be applied".
#[tokio::test]
async fn beside_a_grpc_route_an_http_route_has_no_say() {
    let rules = |service: &str| format!("  - backendRefs: [{}]\n", to(service, 82));
    let grpc = route("GRPCRoute", 82, &rules("cart"));
    let http = route("HTTPRoute", 82, &rules("canary"));
    let mesh = shops(&[&http, &grpc]).start().await;
    let client = mesh.client("east/web").port("cart", 82);
    assert_eq!(call(&client, "/a/b", &[]).await.pod(), "west/cart-1");
    mesh.remove("east", "own-1.yaml");
    until("the HTTPRoute applies", async || {
        let reply = call(&client, "/a/b", &[]).await;
        check(reply.pod() == "west/canary-1", reply.pod())
    })
    .await;
}

#[tokio::test]
async fn a_tcp_route_divides_connections_by_weight() {
    let rules = format!(
        "  - backendRefs: [{}, {}]\n",
        weighted("cart", 83, 1),
        weighted("canary", 83, 3)
    );
    let mesh = shops(&[&route("TCPRoute", 83, &rules)]).start().await;
    let client = mesh.client("east/web").port("cart", 83);
    let mut said: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..100 {
        let mut io = client.tcp().await.unwrap();
        io.shutdown().await.unwrap();
        let mut word = String::new();
        let reading = io.read_to_string(&mut word);
        timeout(AT_ONCE, reading)
            .await
            .expect("a greeting")
            .unwrap();
        *said.entry(word).or_default() += 1;
    }
    // 25 of 100; more than five standard deviations (4.3) away is no chance.
    let cart = said["cart\n"];
    assert!((3..=47).contains(&cart), "{said:?}");
    assert_eq!(cart + said["canary\n"], 100, "{said:?}");
}

#[tokio::test]
async fn a_mirror_sees_its_part_of_the_requests() {
    let mirror = |path: &str, part: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: RequestMirror, requestMirror: {{backendRef: {}, {part}}}}}]
    backendRefs: [{}]
",
            to("canary", 80),
            to("cart", 80)
        )
    };
    let rules = [
        mirror("/none", "percent: 0"),
        mirror("/some", "fraction: {numerator: 1, denominator: 2}"),
        mirror("/all", "percent: 100"),
    ];
    let mesh = shops(&[&route("HTTPRoute", 80, &rules.concat())])
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let record = &mesh.app("west/canary-1").record;
    let seen = |path: &str| {
        let heads = record.heads();
        heads.iter().filter(|head| head.contains(path)).count()
    };
    for path in ["/none", "/some", "/all"] {
        for _ in 0..100 {
            assert_eq!(client.get(path).await.pod(), "west/cart-1");
        }
    }
    // Those of `/all` were sent last: what came before them is there, too.
    until("all of /all are mirrored", async || {
        check(seen("/all") == 100, seen("/all"))
    })
    .await;
    assert_eq!(seen("/none"), 0);
    // 50 of 100; more than five standard deviations (5) away is no chance.
    assert!((25..=75).contains(&seen("/some")), "{}", seen("/some"));
}

/// `HTTPRouteRule.filters`: a filter that is not supported "MUST NOT be skipped", its requests
/// "MUST receive a HTTP error response".
#[tokio::test]
async fn a_filter_that_is_not_supported_is_never_passed_by() {
    let rules = format!(
        "  - filters: [{{type: ExtensionRef, extensionRef: {{group: a.b, kind: C, name: d}}}}]
    backendRefs: [{}]
",
        to("cart", 80)
    );
    let mesh = shops(&[&route("HTTPRoute", 80, &rules)]).start().await;
    let reply = mesh.client("east/web").http("cart").get("/").await;
    assert_eq!(reply.status, 500, "{}", reply.text());
    assert_eq!(mesh.app("west/cart-1").record.requests(), 0);
}

/// GEP-1294: "SHOULD NOT infer any functionality from the `hostnames` field".
#[tokio::test]
async fn host_names_of_a_route_are_a_gateways_and_do_not_narrow_it() {
    let rules = format!("  - backendRefs: [{}]\n", to("canary", 80));
    let text = route("HTTPRoute", 80, &rules);
    let text = text.replace("  rules:\n", "  hostnames: [shop.example]\n  rules:\n");
    let mesh = shops(&[&text]).start().await;
    let reply = mesh.client("east/web").http("cart").get("/").await;
    assert_eq!((reply.status, reply.pod()), (200, "west/canary-1"));
}

const BANK: &str = "apiVersion: v1
kind: Service
metadata: {name: pay, namespace: bank}
spec: {clusterIP: 10.96.7.7, selector: {app: pay}, ports: [{name: http, port: 80}]}
";
const GRANT: &str = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: bank}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: \"\", kind: Service}]
";

/// `HTTPBackendRef`: without a ReferenceGrant 500; with one it is a service without endpoints: 503.
#[tokio::test]
async fn a_backend_of_another_namespace_is_called_where_it_is_granted() {
    let rules = "  - backendRefs: [{name: pay, namespace: bank, port: 80}]\n";
    let mesh = shops(&[&route("HTTPRoute", 80, rules), BANK]).start().await;
    let client = mesh.client("east/web").http("cart");
    let reply = client.get("/").await;
    assert_eq!(reply.status, 500, "{}", reply.text());
    mesh.write("east", "grant.yaml", GRANT);
    until("the grant counts", async || {
        let reply = client.get("/").await;
        check(reply.status == 503, reply.text())
    })
    .await;
}
