//! What does a call say of the pod that it went to?

use isthmus_tests::Mesh;

/// Each answer is looked at, and nothing is ejected.
const TWO_RETRIES: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}
  outlierDetection: {consecutiveFailures: 0}
  retries: {attempts: 2}
";

/// Of what the one caller has seen of the one pod.
async fn seen(mesh: &Mesh, what: &str) -> u64 {
    let config = mesh.proxy("east/web-1").json("/config").await;
    let services = config["services"].as_array().unwrap();
    let endpoints = services.iter().filter_map(|s| s["endpoints"].as_array());
    let counts = endpoints
        .flatten()
        .filter_map(|e| e["stats"][what].as_u64());
    counts.sum()
}

/// Three tries are three failures: the last one is not told twice.
#[tokio::test]
async fn each_failed_try_counts_once() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .manifest("traffic.yaml", TWO_RETRIES)
                .service("cart", 1)
        })
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(seen(&mesh, "failures").await, 0);
    // Nobody is there to be connected to, so whatever was asked is asked again.
    mesh.proxy_mut("east/cart-1").stop().await;
    for requests in 1..=2 {
        assert_eq!(client.post("/", "x").await.status, 503);
        assert_eq!(seen(&mesh, "failures").await, 3 * requests);
        assert_eq!(seen(&mesh, "attempts").await, 1 + 3 * requests);
    }
}
