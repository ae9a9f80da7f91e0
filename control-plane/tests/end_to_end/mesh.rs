//! A control plane on ports of its own, and clients as proxies are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use isthmus_control_plane::token::{self, Claims};
use isthmus_control_plane::{Config, run};
use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use isthmus_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as Detail,
};
use isthmus_proto::identity::identity_service_client::IdentityServiceClient;
use isthmus_proto::identity::{IssueRequest, IssueResponse};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// A test that waits longer than this has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked for a state that nobody announces.
const LOOK: Duration = Duration::from_millis(5);

/// A running control plane.
pub(crate) struct Mesh {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) discovery: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Mesh {
    /// Starts one with the clusters east and west.
    pub(crate) async fn start(files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for cluster in ["east", "west"] {
            std::fs::create_dir(folder.path().join(cluster)).unwrap();
        }
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self::over(folder).await
    }

    /// Starts one over what is there.
    pub(crate) async fn over(folder: tempfile::TempDir) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let _ = std::fs::remove_file(path("state/listeners.json"));
        let config = serde_json::json!({
            "mesh_domain": "mesh.internal", "state_dir": path("state"),
            "listen": { "discovery": "127.0.0.1:0", "admin": "127.0.0.1:0" },
            "clusters": [
                { "name": "east", "files": path("east") },
                { "name": "west", "files": path("west") },
            ],
        });
        let config = Config::parse(&config.to_string()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let mut running = tokio::spawn(run(config, shutdown));
        let listeners = folder.path().join("state/listeners.json");
        let text = timeout(LIMIT, async {
            loop {
                if let Ok(text) = std::fs::read_to_string(&listeners) {
                    return text;
                }
                tokio::select! {
                    ended = &mut running => panic!("it has ended: {ended:?}"),
                    () = sleep(LOOK) => {}
                }
            }
        });
        let json: serde_json::Value = serde_json::from_str(&text.await.unwrap()).unwrap();
        let address = |key: &str| json[key].as_str().unwrap().parse().unwrap();
        let (discovery, admin) = (address("discovery"), address("admin"));
        Self {
            folder,
            discovery,
            admin,
            stop: Some(stop),
            running,
        }
    }

    /// Stops it, and gives back what it was over.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        timeout(LIMIT, self.running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        self.folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As an editor writes it: beside, then over.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let draft = self.path(&format!("{name}~"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.path(name)).unwrap();
    }

    /// A page of admin: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let token = std::fs::read_to_string(self.folder.path().join("state/admin-token")).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            token.trim_end()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(path).await.1).unwrap()
    }

    /// Looks at a page until it is as it should be.
    pub(crate) async fn until(&self, path: &str, good: impl Fn(u16, &str) -> bool) -> String {
        timeout(LIMIT, async {
            loop {
                let (status, body) = self.get(path).await;
                if good(status, &body) {
                    return body;
                }
                sleep(LOOK).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{path} never became what it should be"))
    }

    pub(crate) fn token(&self, workload: &str, account: &str) -> String {
        let expires = SystemTime::now() + token::TOKEN_LIFETIME;
        let claims = Claims::new(&workload.parse().unwrap(), account, expires).unwrap();
        token::mint(&self.path("state"), &claims).unwrap()
    }

    /// A connection with or without a certificate; the chain goes leaf first.
    pub(crate) async fn channel(&self, own: Option<&Proxy>) -> Result<Channel, String> {
        let tls = client_tls(&self.path("state/roots.pem"), own);
        let address = self.discovery;
        let connect = tower::service_fn(move |_| {
            let tls = Arc::clone(&tls);
            async move { Ok::<_, std::io::Error>(TokioIo::new(handshake(address, tls).await?)) }
        });
        Endpoint::from_static("https://control-plane.mesh.internal")
            .connect_with_connector(connect)
            .await
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    pub(crate) async fn issue(&self, token: &str, cluster: &str) -> Result<Proxy, Status> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
        let csr = params.serialize_request(&key).unwrap().der().to_vec();
        let response = self.ask(csr, token, cluster).await?;
        let chain = response
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        Ok(Proxy {
            key,
            chain,
            response,
        })
    }

    pub(crate) async fn ask(
        &self,
        csr: Vec<u8>,
        token: &str,
        cluster: &str,
    ) -> Result<IssueResponse, Status> {
        let channel = self.channel(None).await.unwrap();
        let (token, cluster) = (token.to_owned(), cluster.to_owned());
        let request = IssueRequest {
            csr: csr.into(),
            token,
            cluster,
        };
        IdentityServiceClient::new(channel)
            .issue(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A proxy with its certificate.
    pub(crate) async fn proxy(&self, workload: &str, account: &str) -> Proxy {
        let cluster = workload.split('/').next().unwrap();
        self.issue(&self.token(workload, account), cluster)
            .await
            .unwrap()
    }

    /// A discovery stream of this proxy.
    pub(crate) async fn subscribe(&self, proxy: &Proxy, node: &str) -> Client {
        let channel = self.channel(Some(proxy)).await.unwrap();
        let (requests, queue) = mpsc::channel(16);
        let node = Node {
            id: node.to_owned(),
            cluster: String::new(),
            metadata: None,
        };
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(queue))
            .await;
        Client {
            node: Some(node),
            requests,
            responses: responses.unwrap().into_inner(),
        }
    }
}

fn client_tls(roots_file: &std::path::Path, own: Option<&Proxy>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots_file).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(proxy) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(proxy.key.serialize_der()));
            builder
                .with_client_auth_cert(proxy.chain.clone(), key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn handshake(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("control-plane.mesh.internal").unwrap();
    let stream = TlsConnector::from(tls)
        .connect(name, TcpStream::connect(address).await?)
        .await?;
    let group = stream
        .get_ref()
        .1
        .negotiated_key_exchange_group()
        .unwrap()
        .name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    Ok(stream)
}

/// What a proxy has.
pub(crate) struct Proxy {
    pub(crate) key: KeyPair,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) response: IssueResponse,
}

/// One discovery stream.
pub(crate) struct Client {
    node: Option<Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    pub(crate) async fn want<T: prost::Name>(&mut self, name: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: T::type_url(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.unwrap();
    }

    /// The next response, which is neither acknowledged nor refused yet.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        match timeout(LIMIT, self.responses.message())
            .await
            .expect("a response")
        {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Status::cancelled("the stream has ended")),
            Err(status) => Err(status),
        }
    }

    /// Takes responses of this type until one is as it should be; acknowledges all.
    pub(crate) async fn until<T: prost::Name>(
        &mut self,
        good: impl Fn(&DeltaDiscoveryResponse) -> bool,
    ) -> DeltaDiscoveryResponse {
        timeout(LIMIT, async {
            loop {
                let response = self.next().await.unwrap();
                self.answer(&response, None).await;
                if response.type_url == T::type_url() && good(&response) {
                    return response;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no {} as it should be", T::type_url()))
    }

    pub(crate) async fn answer(
        &mut self,
        response: &DeltaDiscoveryResponse,
        refused: Option<&str>,
    ) {
        let detail = |why: &str| Detail {
            code: 3,
            message: why.to_owned(),
        };
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refused.map(detail),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

/// The one resource of this name.
pub(crate) fn resource<T: prost::Name + Default>(
    response: &DeltaDiscoveryResponse,
    name: &str,
) -> T {
    let found = response.resources.iter().find(|r| r.name == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not in {:?}", names(response)));
    T::decode(found.resource.as_ref().unwrap().value.as_slice()).unwrap()
}

pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}
