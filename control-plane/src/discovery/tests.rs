//! Does a stream end when its client should have none?

use super::*;
use crate::metrics::Page;
use isthmus_control_plane_core::model::Change;
use isthmus_control_plane_core::world::World;
use isthmus_proto::discovery::Node;
use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use isthmus_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use isthmus_proto::resource::{AccessPolicy, ClusterFreshness, Gateway, TrustBundle};
use prost::Name as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

const LIMIT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    metrics: Arc<Metrics>,
    clients: Arc<Clients>,
    client: AggregatedDiscoveryServiceClient<Channel>,
    _stop: watch::Sender<bool>,
}

/// A server whose clients are all east's shop/web, with a bundle that no window holds.
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn fixture(unread_max: Duration, not_after: SystemTime) -> Fixture {
    let mut world = World::new("mesh.internal").unwrap();
    let cluster: isthmus_proto::ids::ClusterId = "east".parse().unwrap();
    world.add_cluster(&cluster).unwrap();
    for change in [
        Change::Init {
            cluster: cluster.clone(),
        },
        Change::InitDone {
            cluster,
            kept: std::collections::BTreeSet::new(),
        },
    ] {
        world.apply(change, SystemTime::now());
    }
    world
        .set_trust_bundle(TrustBundle {
            trust_domain: "east.mesh.internal".to_owned(),
            roots: vec![vec![7; 2 * 1024 * 1024].into()],
            sequence: 1,
            cluster: "east".to_owned(),
            origin: None,
            retiring: Vec::new(),
        })
        .unwrap();
    let (hub, clients, metrics): (Arc<Hub>, Arc<Clients>, Arc<Metrics>) =
        (Arc::new(Hub::new(world)), Arc::default(), Arc::default());
    let (stop, stopped) = watch::channel(false);
    let discovery = Discovery::new(
        Arc::clone(&hub),
        Arc::clone(&clients),
        Arc::clone(&metrics),
        stopped,
        unread_max,
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let id = "spiffe://east.mesh.internal/ns/shop/sa/web"
        .parse()
        .unwrap();
    let peer = Some(Peer { id, not_after });
    let connection = Connection {
        issuer: None,
        peer,
        remote: address,
        cut: Arc::default(),
    };
    // In place of TLS: who is connected.
    let service = AggregatedDiscoveryServiceServer::with_interceptor(
        discovery,
        move |mut request: Request<()>| {
            request.extensions_mut().insert(connection.clone());
            Ok(request)
        },
    );
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .initial_stream_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let client = AggregatedDiscoveryServiceClient::new(channel);
    Fixture {
        metrics,
        clients,
        client,
        _stop: stop,
    }
}

impl Fixture {
    /// Asks for these types, and gives back the stream unread.
    async fn ask(
        &mut self,
        types: &[String],
    ) -> (
        Streaming<DeltaDiscoveryResponse>,
        mpsc::Sender<DeltaDiscoveryRequest>,
    ) {
        let (send, requests) = mpsc::channel(16);
        for (at, type_url) in types.iter().enumerate() {
            let id = "east/shop/web-1".to_owned();
            let node = Node {
                id,
                cluster: String::new(),
                metadata: None,
            };
            let request = DeltaDiscoveryRequest {
                node: (at == 0).then_some(node),
                type_url: type_url.clone(),
                resource_names_subscribe: vec!["*".to_owned()],
                ..DeltaDiscoveryRequest::default()
            };
            send.send(request).await.unwrap();
        }
        let requests = ReceiverStream::new(requests);
        let responses = self
            .client
            .delta_aggregated_resources(requests)
            .await
            .unwrap();
        (responses.into_inner(), send)
    }

    async fn until(&self, what: &str, good: impl Fn(&str) -> bool) {
        let wait = async {
            loop {
                let mut page = Page::default();
                self.metrics.write(&mut page);
                if good(&page.into_text()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let mut f = fixture(Duration::from_millis(50), SystemTime::now() + HOUR).await;
    let types = [
        TrustBundle::type_url(),
        ClusterFreshness::type_url(),
        AccessPolicy::type_url(),
        Gateway::type_url(),
    ];
    // The first is larger than the window; the others wait behind it.
    let (_unread, _requests) = f.ask(&types).await;
    f.until("cut", |text| {
        text.contains("ended_total{reason=\"unread\"} 1")
    })
    .await;
    timeout(LIMIT, async {
        while f.clients.count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let mut f = fixture(LIMIT, SystemTime::now()).await;
    let (mut responses, _requests) = f.ask(&[AccessPolicy::type_url()]).await;
    let ended = timeout(LIMIT, responses.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unauthenticated);
    assert_eq!(ended.message(), "the client certificate has ended");
}

#[tokio::test]
async fn a_pod_has_a_few_streams_at_most() {
    let mut f = fixture(LIMIT, SystemTime::now() + HOUR).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(f.ask(&[TrustBundle::type_url()]).await);
    }
    f.until("opened", |text| text.contains("sessions_opened_total 4"))
        .await;
    let (mut responses, _requests) = f.ask(&[TrustBundle::type_url()]).await;
    let ended = timeout(LIMIT, responses.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(ended.code(), tonic::Code::ResourceExhausted);
}
