//! Is every hop authenticated at both ends?

use isthmus_tests::Mesh;

#[tokio::test]
async fn a_request_crosses_networks_with_the_callers_identity() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 2))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let reply = client.get("/heads").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.pod().starts_with("west/cart-"), "{}", reply.pod());
    let head = reply.text();
    assert!(head.contains("x-mesh-peer: spiffe://east.mesh.internal/ns/shop/sa/web"), "{head}");
}
