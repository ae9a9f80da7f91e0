//! A thousand proxies that do nothing but listen to the control plane.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_proto::identity::identity_service_client::IdentityServiceClient;
use isthmus_proto::identity::{IssueRequest, IssueResponse};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::Channel;

use crate::Outcome;
use crate::objects::{self, Size};
use crate::servers::Fleet;
use crate::subject::Subject;
use crate::subscriber::{Seen, Subscriber};

/// Proxies that ask for a certificate at once.
const AT_ONCE: usize = 16;
const HOST: &str = "control-plane.mesh.internal";

/// One of them; it goes on until the program ends.
#[derive(Debug)]
pub(crate) struct Proxy {
    read: Arc<AtomicU64>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) asks: Asks,
}

/// What a proxy wants to know.
#[derive(Debug, Clone)]
pub(crate) struct Asks {
    pub(crate) workload: String,
    pub(crate) called: Vec<String>,
    pub(crate) endpoints: usize,
}

impl Proxy {
    /// What its socket has read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// Connects those that call services, and those that don't; each has its own certificate, and has
/// heard of all that it asked for.
pub(crate) async fn connect(
    size: Size,
    control: &Subject,
    fleet: &Arc<Fleet>,
) -> Outcome<(Vec<Proxy>, Vec<Proxy>)> {
    let (mut callers, mut idle) = (Vec::new(), Vec::new());
    let numbers: Vec<usize> = (0..size.proxies + size.idle).collect();
    for some in numbers.chunks(AT_ONCE) {
        let connecting = some.iter().map(|number| {
            let (fleet, discovery) = (Arc::clone(fleet), control.discovery);
            let roots = control.roots.clone();
            let number = *number;
            tokio::spawn(async move { one(number, &fleet, (discovery, &roots)).await })
        });
        let connecting: Vec<_> = connecting.collect();
        for (number, task) in some.iter().zip(connecting) {
            let proxy = task.await??;
            let list = if *number < size.proxies {
                &mut callers
            } else {
                &mut idle
            };
            list.push(proxy);
        }
    }
    Ok((callers, idle))
}

/// Asks again as long as the control plane says that too many ask at once.
async fn issue(
    mut client: IdentityServiceClient<Channel>,
    request: IssueRequest,
) -> Outcome<IssueResponse> {
    loop {
        match client.issue(request.clone()).await {
            Ok(issued) => return Ok(issued.into_inner()),
            Err(status) if status.code() == Code::ResourceExhausted => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

async fn one(
    number: usize,
    fleet: &Arc<Fleet>,
    (address, roots): (SocketAddr, &str),
) -> Outcome<Proxy> {
    let size = fleet.size;
    let (cluster, service) = size.place(number);
    let pod = number / (size.services_each() * size.clusters);
    let pod_name = objects::pod_name(service, pod);
    let account = objects::service_name(cluster, service);
    let key = KeyPair::generate()?;
    let csr = CertificateParams::new([HOST.to_owned()])?.serialize_request(&key)?;
    let channel = channel(address, tls(roots, None)?, Arc::default()).await?;
    let token = fleet.token(cluster, (&account, &pod_name)).await?;
    let request = IssueRequest {
        csr: csr.der().to_vec().into(),
        token,
        cluster: objects::cluster_name(cluster),
    };
    let issued = issue(IdentityServiceClient::new(channel), request).await?;
    let chain: Vec<_> = issued
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let read = Arc::new(AtomicU64::new(0));
    let tls = tls(roots, Some((&key, chain)))?;
    let called: Vec<String> = if number < size.proxies {
        let mine = (0..size.each).map(|n| size.place(number * size.each + n));
        mine.map(|(cluster, service)| objects::subscription(cluster, service))
            .collect()
    } else {
        Vec::new()
    };
    let asks = Asks {
        workload: objects::workload(cluster, service, pod),
        endpoints: size.each * size.pods_each() * usize::from(!called.is_empty()),
        called,
    };
    let seen = Arc::new(Seen::default());
    let way = Way {
        control: fleet.control.subscribe(),
        tls,
        read: Arc::clone(&read),
    };
    let subscriber = Subscriber::new(&asks, (way, Arc::clone(&seen), Arc::clone(fleet)));
    tokio::spawn(subscriber.run());
    seen.settled().await?;
    Ok(Proxy { read, seen, asks })
}

/// How a proxy reaches the control plane, wherever that is.
#[derive(Debug)]
pub(crate) struct Way {
    control: watch::Receiver<SocketAddr>,
    tls: Arc<ClientConfig>,
    read: Arc<AtomicU64>,
}

impl Way {
    pub(crate) async fn channel(&self) -> Outcome<Channel> {
        let address = *self.control.borrow();
        channel(address, Arc::clone(&self.tls), Arc::clone(&self.read)).await
    }
}

fn tls(
    roots: &str,
    own: Option<(&KeyPair, Vec<CertificateDer<'static>>)>,
) -> Outcome<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((key, chain)) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

async fn channel(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    read: Arc<AtomicU64>,
) -> Outcome<Channel> {
    let connect = tower::service_fn(move |_| {
        let (tls, read) = (Arc::clone(&tls), Arc::clone(&read));
        async move {
            let stream = Counted {
                stream: TcpStream::connect(address).await?,
                read,
            };
            let name = ServerName::try_from(HOST).map_err(std::io::Error::other)?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("https://control-plane.mesh.internal");
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// A socket that counts what it reads.
struct Counted {
    stream: TcpStream,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = u64::try_from(buffer.filled().len() - before).unwrap_or(0);
        self.read.fetch_add(read, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
