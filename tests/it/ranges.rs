//! Whose pod has an address, where clusters share a network?

use isthmus_tests::manifest;
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, until};
use serde_json::{Value, json};

/// Two clusters on one network, where every pod reaches every other one.
async fn flat() -> Mesh {
    Mesh::builder()
        .proxies("mesh_accept_from", json!([]))
        .cluster("east", |c| c.network("flat").client("web"))
        .cluster("west", |c| c.network("flat").service("cart", 1))
        .start()
        .await
}

/// Says where pods of a cluster are: what is on the /24 of this address.
fn declare(mesh: &Mesh, cluster: &str, like: std::net::IpAddr) {
    let text = manifest::cluster(cluster, "flat");
    let network = "  network: flat\n";
    assert!(text.contains(network), "{text}");
    let range = like.to_string();
    let (prefix, _) = range.rsplit_once('.').unwrap();
    let with = text.replace(network, &format!("{network}  podRanges: [{prefix}.0/24]\n"));
    mesh.write(cluster, "cluster.yaml", &with);
}

/// What is said of the ranges of a cluster.
async fn condition(mesh: &Mesh, object: &str) -> Value {
    let world = mesh.control().json("/world").await;
    let all = world["conditions"].as_array().cloned().unwrap_or_default();
    let ours = |said: &Value| said["kind"] == "PodRangesValid" && said["object"] == object;
    let found = all.into_iter().find(ours);
    found.unwrap_or_default()
}

/// Issue 3: before ranges were declared such a call passed in the clear, and a strict pod refused it.
#[tokio::test]
async fn a_pod_of_another_cluster_is_called_by_its_address_with_mutual_tls() {
    let mut mesh = flat().await;
    let pod = mesh.app("west/cart-1").address();
    let west = mesh.proxy("west/cart-1").address();
    let east = mesh.proxy("east/web-1").address();
    declare(&mesh, "west", west);
    declare(&mesh, "east", east);
    let destination = pod.to_string();
    mesh.also_calls("east/web", &destination).await;
    let client = mesh.client("east/web").destination(&destination);
    let peer = "x-mesh-peer: spiffe://east.mesh.internal/ns/shop/sa/web";
    until("it is called as a pod of the mesh", async || {
        let reply = client.try_get("/heads").await.map_err(|e| e.to_string())?;
        check(reply.text().contains(peer), reply.text())
    })
    .await;
    let as_itself = |line: &Value| line["service"] == "shop/cart-1.shop.pod.west.local";
    let line = mesh.proxy("east/web-1").logged("the pod", as_itself).await;
    assert_eq!(line["destination_cluster"], "west", "{line}");

    // S1: at a port that the pod is not known to have nothing of the application leaves in the clear.
    let other = tokio::net::TcpListener::bind((west, 0)).await.unwrap();
    let destination = other.local_addr().unwrap().to_string();
    mesh.also_calls("east/web", &destination).await;
    let refused = mesh.client("east/web").destination(&destination);
    assert!(refused.try_get("/").await.is_err());
    let closed = |line: &Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains(&destination) && detail.contains("a pod of the mesh is there")
    };
    mesh.proxy("east/web-1").logged("the refusal", closed).await;

    // The same where nobody is known to be; and outside of all ranges it passes as it is.
    let nobody = {
        let text = west.to_string();
        let (prefix, _) = text.rsplit_once('.').unwrap();
        format!("{prefix}.222")
    };
    let unknown = tokio::net::TcpListener::bind((nobody.as_str(), 0))
        .await
        .unwrap();
    let destination = unknown.local_addr().unwrap().to_string();
    mesh.also_calls("east/web", &destination).await;
    let refused = mesh.client("east/web").destination(&destination);
    assert!(refused.try_get("/").await.is_err());
    let unsaid = |line: &Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        line["flag"] == "UH" && detail.starts_with(&destination)
    };
    mesh.proxy("east/web-1")
        .logged("nobody can say", unsaid)
        .await;
    for listener in [other, unknown] {
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(true).unwrap();
        let came = listener.accept().map_err(|error| error.kind());
        assert_eq!(
            came.unwrap_err(),
            std::io::ErrorKind::WouldBlock,
            "nothing came"
        );
    }
}

/// S26: an endpoint outside of its cluster's ranges is told to nobody else, and is said.
#[tokio::test]
async fn an_endpoint_outside_of_the_declared_ranges_serves_its_own_cluster_only() {
    let mesh = flat().await;
    let client = mesh.client("east/web").http("cart");
    until("it is served", async || {
        let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
        check(reply.status == 200, reply.status)
    })
    .await;
    // West's pods should be where east's are, and are not.
    declare(&mesh, "west", mesh.proxy("east/web-1").address());
    until("nobody is left", async || {
        let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
        check(reply.status == 503, reply.status)
    })
    .await;
    let said = condition(&mesh, "west: MeshCluster west").await;
    assert_eq!(said["reason"], "EndpointsOutside", "{said}");
    let west = mesh.control().cluster("west").await;
    // The service's pod, and that of the gateway.
    assert_eq!(west["withheld_addresses"], 2, "{west}");
    declare(&mesh, "west", mesh.proxy("west/cart-1").address());
    until("it is served again", async || {
        let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
        check(reply.status == 200, reply.status)
    })
    .await;
}
