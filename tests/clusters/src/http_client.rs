//! How is one request asked of an API server? Over a connection of its own: the server may be
//! killed or stopped between any two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::pki::Certificate;

/// Longest time for one request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Asks one API server, as one user.
#[derive(Clone)]
pub(crate) struct Client {
    server: SocketAddr,
    tls: TlsConnector,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Client {
    /// # Errors
    /// The certificates can't be read.
    pub(crate) fn new(
        server: SocketAddr,
        authority: &str,
        user: &Certificate,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority.as_bytes());
        roots.add(authority.context("the cluster's authority")?)?;
        let chain = CertificateDer::pem_slice_iter(user.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("the user's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(user.key.as_bytes()).context("the user's key")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("versions of TLS")?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .context("the user's certificate")?;
        Ok(Self {
            server,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// One request; a status that is no success is an answer as well.
    ///
    /// # Errors
    /// Nothing, or no HTTP, came back in time.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> anyhow::Result<Answer> {
        let answered = timeout(REQUEST_TIMEOUT, self.exchange(method.clone(), path, body)).await;
        match answered {
            Ok(answer) => answer.with_context(|| format!("{method} {path}")),
            Err(_) => bail!(
                "{method} {path}: no answer within {} s",
                REQUEST_TIMEOUT.as_secs()
            ),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(self.server)
            .await
            .context("connecting")?;
        let name = ServerName::from(self.server.ip());
        let stream = self.tls.connect(name, stream).await.context("TLS")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.server.to_string());
        if let Some((kind, _)) = body {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let bytes = body.map_or_else(Bytes::new, |(_, body)| Bytes::from(body.to_string()));
        let request = request.body(Full::new(bytes))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
            let bytes = body.to_bytes();
            // `/readyz` answers with a word.
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
            Ok(Answer { status, body })
        };
        let connection = async {
            // The answer says more about a broken connection than its end does.
            let _ended = connection.await;
            std::future::pending::<()>().await;
        };
        // Both end here: one connection for one request.
        tokio::select! {
            answer = answer => answer,
            () = connection => bail!("the connection ended"),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.server)
    }
}
