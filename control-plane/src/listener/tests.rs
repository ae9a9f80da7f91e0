//! Do connections end when they should, and only then?

use super::*;
use crate::authority::Authority;
use crate::authority::serving::{Serving, trust_domain};
use crate::state::StateDir;
use crate::store::KeyStore;
use crate::trust::Trust;
use rustls::{ClientConfig, RootCertStore};
use std::time::SystemTime;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

const LIMIT: Duration = Duration::from_secs(20);

struct Server {
    _folder: tempfile::TempDir,
    authority: Authority,
    address: SocketAddr,
    streams: mpsc::Receiver<io::Result<Stream>>,
    metrics: Arc<Metrics>,
}

async fn server() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let (own, now) = (trust_domain("mesh.internal").unwrap(), SystemTime::now());
    let authority = Authority::open(&store, &own, now).await.unwrap();
    let serving = Arc::new(Serving::new(&authority, "mesh.internal", now).unwrap());
    let trust = watch::Sender::new(Arc::new(Trust::default()));
    let tls = tls(Verifier::new(trust.subscribe()), serving).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, metrics) = (listener.local_addr().unwrap(), Arc::new(Metrics::default()));
    let (streams, accepting) = accept(listener, tls, Arc::clone(&metrics));
    tokio::spawn(accepting);
    Server {
        _folder: folder,
        authority,
        address,
        streams,
        metrics,
    }
}

impl Server {
    async fn connect(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        host: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in self.authority.roots() {
            roots.add(root).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).unwrap();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_at_once() {
    let mut server = server().await;
    let host = "control-plane.mesh.internal";
    let mut client = server
        .connect(&[&rustls::version::TLS13], host)
        .await
        .unwrap();
    let mut stream = timeout(LIMIT, server.streams.recv())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(stream.about.peer, None, "no certificate, no identity");
    let cut = Arc::clone(&stream.about.cut);
    let reading = tokio::spawn(async move {
        let error = stream.read_u8().await.unwrap_err();
        (stream, error)
    });
    cut.cut();
    let (mut stream, error) = timeout(LIMIT, reading).await.unwrap().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let write = tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await;
    assert_eq!(write.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    drop(stream);
    assert!(timeout(LIMIT, client.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn the_server_is_who_it_says_and_speaks_the_newest_only() {
    let server = server().await;
    let versions = [&rustls::version::TLS13];
    let stream = server
        .connect(&versions, "control-plane.mesh.internal")
        .await
        .unwrap();
    let group = stream
        .get_ref()
        .1
        .negotiated_key_exchange_group()
        .unwrap()
        .name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let id = identity_of(&leaf).unwrap().id;
    assert_eq!(
        id.as_str(),
        "spiffe://control.mesh.internal/ns/isthmus-system/sa/control-plane"
    );
    assert!(
        server
            .connect(&versions, "evil.mesh.internal")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_handshake_that_stands_still_stops_nobody() {
    let mut server = server().await;
    let mut idle = Vec::new();
    for _ in 0..HANDSHAKES_PER_SOURCE_MAX - 1 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let versions = [&rustls::version::TLS13];
    let good = server
        .connect(&versions, "control-plane.mesh.internal")
        .await;
    assert!(good.is_ok());
    timeout(LIMIT, server.streams.recv())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    // One address has its share; what is beyond it is closed.
    idle.push(TcpStream::connect(server.address).await.unwrap());
    let mut beyond = TcpStream::connect(server.address).await.unwrap();
    assert!(timeout(LIMIT, beyond.read_u8()).await.unwrap().is_err());
    let mut page = crate::metrics::Page::default();
    server.metrics.write(&mut page);
    let text = page.into_text();
    assert!(text.contains("result=\"too_many_handshakes\"} 1"), "{text}");
}
