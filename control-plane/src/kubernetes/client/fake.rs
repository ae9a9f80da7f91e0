//! An API server of a few lines, for tests: HTTP/2 on loopback, with TLS or without.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::kubernetes::access::{Access, Certificate, Credential, Roots};

pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The client's certificate, if it showed one.
    pub(crate) certificate: Option<Vec<u8>>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer that is whole.
pub(crate) fn answer(code: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).boxed();
    Response::builder().status(code).body(body).unwrap()
}

/// An answer that comes as it is sent.
pub(crate) fn stream() -> (mpsc::Sender<Bytes>, Answer) {
    let (send, receive) = mpsc::channel(4);
    let frames = ReceiverStream::new(receive).map(|data| Ok(Frame::data(data)));
    (send, Response::new(BoxBody::new(StreamBody::new(frames))))
}

/// Who signs in a test.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::of_pem("ca", self.pem().as_bytes()).unwrap()
    }

    /// A chain and a key, in PEM.
    pub(crate) fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// TLS of a server with this name; clients may show certificates of this authority.
    pub(crate) fn serving(&self, name: &str) -> ServerConfig {
        let (chain, key) = self.leaf(name);
        let leaf = Certificate::of_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let key: PrivateKeyDer<'static> = leaf.key;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(leaf.chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server that runs until it is dropped.
pub(crate) struct Fake {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    handler: Box<Handler>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    frozen: Arc<AtomicBool>,
    serving: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Fake {
    /// Without TLS.
    pub(crate) async fn plain(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, handler).await
    }

    /// With TLS if there is a configuration.
    pub(crate) async fn start(
        tls: Option<ServerConfig>,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            asked: Mutex::default(),
            connections: AtomicUsize::new(0),
            frozen: Arc::default(),
            serving: Mutex::default(),
        });
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self {
            port,
            shared,
            accepting,
        }
    }

    /// The way to it, as nobody.
    pub(crate) fn access(&self) -> Access {
        Access {
            server: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
            roots: Roots::Unverified,
            server_name: None,
            credential: Credential::Anonymous,
            loopback: true,
            namespace: None,
        }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Connections that were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends all connections without a word.
    pub(crate) fn cut(&self) {
        for task in self.shared.serving.lock().unwrap().drain(..) {
            task.abort();
        }
    }

    /// Says and hears nothing any more, and ends nothing.
    pub(crate) fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let stream = Freezable {
            stream,
            frozen: Arc::clone(&shared.frozen),
        };
        let (tls, of_task) = (tls.clone(), Arc::clone(&shared));
        let task = tokio::spawn(async move {
            match tls {
                None => serve(stream, None, of_task).await,
                Some(tls) => {
                    // The client does not believe us: that is what it was asked.
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let leaf = certificates.and_then(|chain| chain.first());
                    let leaf = leaf.map(|der| der.to_vec());
                    serve(stream, leaf, of_task).await;
                }
            }
        });
        shared.serving.lock().unwrap().push(task);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    certificate: Option<Vec<u8>>,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, certificate) = (Arc::clone(&shared), certificate.clone());
        async move {
            let (head, body) = request.into_parts();
            let asked = Asked {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
                body: body
                    .collect()
                    .await
                    .map(|all| all.to_bytes())
                    .unwrap_or_default(),
                certificate,
            };
            shared.asked.lock().unwrap().push(asked.clone());
            Ok::<_, Infallible>((shared.handler)(&asked))
        }
    });
    // How it ends is for the client to notice.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A stream on which, from some moment on, nothing moves.
struct Freezable {
    stream: TcpStream,
    frozen: Arc<AtomicBool>,
}

impl AsyncRead for Freezable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = [0; 4096];
        let mut own = ReadBuf::new(inner.get_mut(..buffer.remaining().min(4096)).unwrap());
        match Pin::new(&mut self.stream).poll_read(cx, &mut own) {
            // What came in the meantime is not heard either.
            Poll::Ready(_) if self.frozen.load(Ordering::SeqCst) => Poll::Pending,
            Poll::Ready(Ok(())) => {
                buffer.put_slice(own.filled());
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Freezable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.frozen.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
