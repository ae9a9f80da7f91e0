//! How does the control thread reach the control plane?

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use isthmus_proto::resource::TrustBundle;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use isthmus_proxy_core::identify::{TrustBundles, TrustRoots};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::config::Config;
use crate::tls::{TlsStore, client_config_of, read_root};

/// Addresses of the control plane that are tried in one go.
pub const ADDRESSES_MAX: usize = 16;
/// How long a name server may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// TCP and TLS together, for each address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent control plane is asked for a sign of life, and left after twice that.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long an answer may take, or a stream to open. A control plane that is stuck may still give
/// signs of life.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What a call is answered, if it is in time.
///
/// # Errors
/// The control plane refuses, or stays silent.
pub async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    within(ANSWER_TIMEOUT, call).await
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(anyhow!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err(anyhow!("no answer within {limit:?}")),
    }
}

/// The replicas of the control plane, as one user of them goes from one to the next.
#[derive(Debug)]
pub struct Replicas {
    /// With which of them it begins: each proxy with another one.
    spread: u64,
    /// The one that was used last.
    last: Option<SocketAddr>,
    /// The one that was no good: it comes last.
    left: Option<SocketAddr>,
}

impl Replicas {
    /// For this proxy.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut hasher = DefaultHasher::new();
        config.workload.as_str().hash(&mut hasher);
        Self {
            spread: hasher.finish(),
            last: None,
            left: None,
        }
    }

    /// The one that was connected last is no good: another one comes first the next time.
    pub fn leave(&mut self) {
        self.left = self.last.take().or(self.left);
    }

    /// The one that was connected last, for people.
    #[must_use]
    pub fn last(&self) -> Option<SocketAddr> {
        self.last
    }

    /// Opens a channel to the first replica that answers, whose identity is checked against the
    /// control plane's own roots. Our certificate is shown if we have one.
    ///
    /// # Errors
    /// The roots can't be read, no address is known, or none answers.
    pub async fn connect(&mut self, config: &Config, store: &Arc<TlsStore>) -> Result<Channel> {
        let (found, mut failed) = resolve(&config.control_plane.addresses).await;
        for address in order(found, self.spread, self.left) {
            self.last = Some(address);
            match connect(config, store, address).await {
                Ok(channel) => return Ok(channel),
                Err(error) => {
                    self.leave();
                    failed.push(format!("{address}: {error:#}"));
                }
            }
        }
        bail!("connect to the control plane: {}", failed.join("; "))
    }
}

/// Every address that a replica may have, and what is no name.
async fn resolve(hosts: &[String]) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for host in hosts {
        match tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host(host)).await {
            Ok(Ok(addresses)) => found.extend(addresses.take(ADDRESSES_MAX)),
            Ok(Err(error)) => failed.push(format!("{host}: {error}")),
            Err(_) => failed.push(format!("{host}: the name is not found in time")),
        }
    }
    (found, failed)
}

/// In which order they are tried. The same for the same addresses, in whatever order a name server
/// gives them; the one that was left comes last.
fn order(mut addresses: Vec<SocketAddr>, spread: u64, left: Option<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    let many = u64::try_from(addresses.len()).unwrap_or(1).max(1);
    addresses.rotate_left(usize::try_from(spread % many).unwrap_or(0));
    // Stable: the others keep their order.
    addresses.sort_by_key(|address| Some(*address) == left);
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

async fn connect(config: &Config, store: &Arc<TlsStore>, address: SocketAddr) -> Result<Channel> {
    let domain: TrustDomain = format!("control.{}", config.mesh_domain).parse()?;
    let expected = SpiffeId::new(&domain, "isthmus-system", "control-plane")?;
    let believed = Arc::new(TlsStore::default());
    believed.believe(Arc::new(roots(config, &domain)?));
    let tls = client_config_of(&believed, store, &expected)?;
    let name = ServerName::try_from(format!("control-plane.{}", config.mesh_domain))?;
    let connector = service_fn(move |_: Uri| {
        let (tls, name) = (Arc::clone(&tls), name.clone());
        async move {
            let connecting = async {
                let io = TcpStream::connect(address).await?;
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
    let channel = Endpoint::from_static("http://control-plane")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE * 2)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(channel)
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
        retiring: Vec::new(),
    };
    let roots = TrustRoots::compile(&bundle, read_root)
        .with_context(|| format!("the control plane's roots in {}", path.display()))?;
    Ok(TrustBundles::new([Arc::new(roots)]))
}

#[cfg(test)]
mod tests {
    use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use isthmus_proto::identity::IssueRequest;
    use isthmus_proto::identity::identity_service_client::IdentityServiceClient;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 15_012))
    }

    #[test]
    fn the_replica_that_was_left_comes_last_and_the_others_keep_their_order() {
        let all = || vec![at(3), at(1), at(2), at(1)];
        assert_eq!(order(all(), 0, None), [at(1), at(2), at(3)]);
        assert_eq!(order(all(), 4, None), [at(2), at(3), at(1)]);
        assert_eq!(order(all(), 4, Some(at(2))), [at(3), at(1), at(2)]);
        assert_eq!(order(all(), 4, Some(at(9))), [at(2), at(3), at(1)]);
        assert_eq!(
            order(vec![at(1)], 7, Some(at(1))),
            [at(1)],
            "one is better than none"
        );
        assert_eq!(order(Vec::new(), 7, None), []);
    }

    #[test]
    fn proxies_begin_with_different_replicas() {
        let first = |spread| order(vec![at(1), at(2)], spread, None).remove(0);
        assert_eq!((first(0), first(1)), (at(1), at(2)));
    }

    /// A channel to somebody who takes all that is said and says nothing.
    fn silent() -> Channel {
        Endpoint::from_static("http://silent").connect_with_connector_lazy(service_fn(|_: Uri| {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut space = [0; 1024];
                while matches!(theirs.read(&mut space).await, Ok(1..)) {}
            });
            async move { Ok::<_, std::io::Error>(TokioIo::new(ours)) }
        }))
    }

    #[tokio::test]
    async fn a_control_plane_that_accepts_and_stays_silent_is_left() {
        let limit = Duration::from_millis(20);
        let mut client = IdentityServiceClient::new(silent());
        let failed = within(limit, client.issue(IssueRequest::default())).await;
        let why = failed.unwrap_err().to_string();
        assert_eq!(why, "no answer within 20ms");
        let mut client = AggregatedDiscoveryServiceClient::new(silent());
        let requests = tokio_stream::pending();
        let failed = within(limit, client.delta_aggregated_resources(requests)).await;
        assert!(failed.is_err());
    }
}
