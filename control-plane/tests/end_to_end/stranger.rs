//! What does a caller get that is not who it says, or asks too much?

use isthmus_proto::discovery::DeltaDiscoveryRequest;
use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use isthmus_proto::resource::TrustBundle;
use tonic::Code;

use crate::mesh::Mesh;
use crate::{shop, synced};

#[tokio::test]
async fn only_good_tokens_become_certificates() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let good = mesh.token("east/shop/web-1", "web");
    let code = async |token: &str, cluster: &str| {
        let status = mesh.issue(token, cluster).await.err().unwrap();
        (status.code(), status.message().to_owned())
    };
    let (refused, why) = code(&good, "west").await;
    assert_eq!(refused, Code::Unauthenticated);
    assert!(why.contains("of cluster \"east\", not of west"), "{why}");
    let gone = mesh.token("east/shop/gone-1", "web");
    let (refused, why) = code(&gone, "east").await;
    assert_eq!(
        (refused, why.contains("its pod is gone")),
        (Code::Unauthenticated, true),
        "{why}"
    );
    let other = mesh.token("east/shop/web-1", "cart");
    let (refused, why) = code(&other, "east").await;
    assert_eq!(
        (refused, why.contains("another service account")),
        (Code::Unauthenticated, true)
    );
    assert_eq!(code("x.y.z", "east").await.0, Code::Unauthenticated);
    assert_eq!(code(&good, "north").await.0, Code::Unauthenticated);
    let bad = mesh
        .ask(b"no csr".to_vec(), &good, "east")
        .await
        .unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let large = mesh
        .ask(vec![0; 17 * 1024], &good, "east")
        .await
        .unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    let metrics = mesh.get("/metrics").await.1;
    assert!(
        metrics.contains("isthmus_certificates_refused_total{reason=\"csr\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_pod_that_asks_in_a_loop_is_throttled_and_others_are_not() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let token = mesh.token("east/shop/web-1", "web");
    let mut throttled = 0;
    for _ in 0..30 {
        match mesh.issue(&token, "east").await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                throttled += 1;
            }
        }
    }
    assert!(throttled >= 15, "{throttled}");
    mesh.proxy("east/shop/cart-1", "cart").await;
}

#[tokio::test]
async fn discovery_is_for_those_that_a_certificate_names() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    // No certificate.
    let channel = mesh.channel(None).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let none = client
        .delta_aggregated_resources(tokio_stream::empty())
        .await
        .err()
        .unwrap();
    assert_eq!(none.code(), Code::Unauthenticated);
    // Another pod's, namespace's, cluster's name.
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    for node in [
        "east/shop/cart-1",
        "east/bank/web-1",
        "west/shop/web-1",
        "north/shop/web-1",
    ] {
        let mut client = mesh.subscribe(&proxy, node).await;
        client.want::<TrustBundle>("*").await;
        assert_eq!(
            client.next().await.unwrap_err().code(),
            Code::PermissionDenied,
            "{node}"
        );
    }
    // Not a node at all, and a type that is none.
    let mut client = mesh.subscribe(&proxy, "web-1").await;
    client.want::<TrustBundle>("*").await;
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    let unknown = "type.googleapis.com/envoy.config.Secrets".to_owned();
    client
        .send(DeltaDiscoveryRequest {
            type_url: unknown,
            ..Default::default()
        })
        .await;
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_certificate_of_another_authority_does_not_connect() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let other = Mesh::start(&shop()).await;
    synced(&other).await;
    // The same trust domain, by name; another root.
    let foreign = other.proxy("east/shop/web-1", "web").await;
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    if let Ok(channel) = mesh.channel(Some(&foreign)).await {
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answer = client
            .delta_aggregated_resources(tokio_stream::empty())
            .await;
        assert!(answer.is_err(), "served");
    }
    mesh.until("/metrics", |_, body| {
        body.contains("isthmus_handshakes_total{result=\"failed\"}")
    })
    .await;
    let metrics = mesh.get("/metrics").await.1;
    assert!(
        metrics.contains("isthmus_discovery_sessions_opened_total 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn garbage_on_the_discovery_port_harms_nobody() {
    use tokio::io::AsyncWriteExt as _;
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let mut held = Vec::new();
    for n in 0..50u8 {
        let mut stream = tokio::net::TcpStream::connect(mesh.discovery)
            .await
            .unwrap();
        // Half a record, another protocol, or nothing at all.
        let bytes: &[u8] = match n % 3 {
            0 => b"\x16\x03\x01\x02\x00\x01",
            1 => b"GET / HTTP/1.1\r\n\r\n",
            _ => b"",
        };
        let _ = stream.write_all(bytes).await;
        held.push(stream);
    }
    mesh.proxy("east/shop/web-1", "web").await;
    drop(held);
    mesh.until("/metrics", |_, body| {
        body.contains("isthmus_handshakes_total{result=\"failed\"}")
    })
    .await;
}
