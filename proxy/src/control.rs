//! How does the control thread reach the control plane?

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use isthmus_proto::resource::TrustBundle;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use isthmus_proxy_core::identify::{TrustBundles, TrustRoots};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::config::Config;
use crate::tls::{TlsStore, client_config_of};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent control plane is asked for a sign of life, and left after twice that.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Opens a channel to the control plane, whose identity is checked against its own roots. Our
/// certificate is shown if we have one.
///
/// # Errors
/// The roots can't be read, or nobody answers.
pub async fn connect(config: &Config, store: &Arc<TlsStore>) -> Result<Channel> {
    let domain: TrustDomain = format!("control.{}", config.mesh_domain).parse()?;
    let expected = SpiffeId::new(&domain, "isthmus-system", "control-plane")?;
    let believed = Arc::new(TlsStore::default());
    believed.believe(Arc::new(roots(config, &domain)?));
    let tls = client_config_of(&believed, store, &expected)?;
    let name = ServerName::try_from(format!("control-plane.{}", config.mesh_domain))?;
    let address = config.control_plane.address.clone();
    let connector = service_fn(move |_: Uri| {
        let (tls, name, address) = (Arc::clone(&tls), name.clone(), address.clone());
        async move {
            let connecting = async {
                let io = TcpStream::connect(&address).await?;
                io.set_nodelay(true)?;
                TlsConnector::from(tls).connect(name, io).await
            };
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
                .map(TokioIo::new)
        }
    });
    // The URI is only a form: the connector knows where to go.
    Endpoint::from_static("http://control-plane")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE * 2)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .with_context(|| {
            format!(
                "connect to the control plane at {}",
                config.control_plane.address
            )
        })
}

/// Read anew each time: the file may be replaced while we run.
fn roots(config: &Config, domain: &TrustDomain) -> Result<TrustBundles> {
    let path = &config.control_plane.roots_file;
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("read the control plane's roots from {}", path.display()))?;
    let bundle = TrustBundle {
        trust_domain: domain.to_string(),
        roots: certificates.iter().map(|c| c.to_vec().into()).collect(),
        sequence: 1,
        cluster: "control".to_owned(),
        origin: None,
    };
    Ok(TrustBundles::new([Arc::new(TrustRoots::compile(&bundle)?)]))
}
