//! How does the proxy get its certificate, and the next one in time?
//!
//! The key is made here and never leaves. A certificate is renewed when three tenths of its life
//! are over, so that a control plane may be away for a day.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use isthmus_proto::identity::IssueRequest;
use isthmus_proto::identity::identity_service_client::IdentityServiceClient;
use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::snapshot::Snapshot;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Config;
use crate::control::{self, Replicas};
use crate::files;
use crate::telemetry::Telemetry;
use crate::tls::{Held, TlsStore, identity};

/// Of a certificate's life: when the next one is asked for. Moved by up to a tenth of itself.
const RENEW_AT: f64 = 0.3;
/// When the root of ours is about to go, the next one is asked for after this, and up to ...
const RETIRED_MIN: Duration = Duration::from_secs(1);
/// ... this much later: not by all proxies at once.
const RETIRED_SPREAD: Duration = Duration::from_secs(5);
/// The longest sleep: the wall clock may jump, and a sleep does not see that.
const LOOK: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Keeps the store's certificate fresh, for ever.
pub async fn keep(
    config: Arc<Config>,
    store: Arc<TlsStore>,
    telemetry: Arc<Telemetry>,
    (issued, mut snapshots): (watch::Sender<u64>, watch::Receiver<Arc<Snapshot>>),
) {
    if let Some(held) = load(&config) {
        tracing::info!(identity = %config.identity, "certificate from disk");
        hold(&store, &telemetry, held);
        issued.send_modify(|n| *n += 1);
    }
    let (mut pause, mut replicas) = (RETRY_MIN, Replicas::new(&config));
    // Since when the root of our certificate is about to go.
    let mut retiring: Option<SystemTime> = None;
    loop {
        if let Some(held) = store.held() {
            let now = SystemTime::now();
            let retires = store.is_retiring() == Some(true);
            retiring = retires.then(|| retiring.unwrap_or(now));
            let due = retiring.map_or(renewal(&held), |since| {
                let soon = since + RETIRED_MIN + RETIRED_SPREAD.mul_f64(spread(&held));
                soon.min(renewal(&held))
            });
            if let Ok(wait) = due.duration_since(now) {
                // Cancel-safe. What is believed may have changed; the publisher may be gone.
                let news = timeout(wait.min(LOOK), snapshots.changed());
                if let Ok(Err(_)) = news.await {
                    sleep(wait.min(LOOK)).await;
                }
                continue;
            }
        }
        retiring = None;
        match issue(&config, &mut replicas).await {
            Ok(held) => {
                tracing::info!(identity = %config.identity, not_after = ?held.not_after, "certificate issued");
                hold(&store, &telemetry, held);
                issued.send_modify(|n| *n += 1);
                pause = RETRY_MIN;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no certificate yet");
                replicas.leave();
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

fn hold(store: &TlsStore, telemetry: &Telemetry, held: Held) {
    let expires = held
        .not_after
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    telemetry
        .metrics
        .certificate_expires
        .set(i64::try_from(expires).unwrap_or(i64::MAX));
    store.hold(held);
}

/// When the next certificate is due: each proxy a little elsewhere, by its own certificate.
fn renewal(held: &Held) -> SystemTime {
    let life = held
        .not_after
        .duration_since(held.since)
        .unwrap_or_default();
    let moved = 0.9 + 0.2 * spread(held);
    held.since + life.mul_f64(RENEW_AT * moved)
}

/// From 0 to 1, by the last bytes of a signature.
fn spread(held: &Held) -> f64 {
    let bytes = held.key.cert.first().map_or(0, |leaf| {
        leaf.iter()
            .rev()
            .take(2)
            .fold(0u16, |n, b| (n << 8) | u16::from(*b))
    });
    f64::from(bytes) / f64::from(u16::MAX)
}

async fn issue(config: &Config, replicas: &mut Replicas) -> Result<Held> {
    let token = std::fs::read_to_string(&config.token_file)
        .with_context(|| format!("read the token {}", config.token_file.display()))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::new(Vec::new())?.serialize_request(&key)?;
    let request = IssueRequest {
        csr: csr.der().to_vec().into(),
        token: token.trim().to_owned(),
        cluster: config.cluster.to_string(),
    };
    // The token says who we are. A certificate would be in the way if nobody believes it any more.
    let channel = replicas.connect(config, &Arc::default()).await?;
    let answer = control::answered(IdentityServiceClient::new(channel).issue(request))
        .await
        .context("ask for a certificate")?;
    let chain: Vec<_> = answer
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let key_der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let held = assemble(
        &config.identity,
        chain.clone(),
        &key_der.into(),
        SystemTime::now(),
    )?;
    if let Err(error) = save(config, &key, &chain) {
        // Traffic does not depend on it; the next start does.
        tracing::warn!(
            error = format!("{error:#}"),
            "the certificate is not on disk"
        );
    }
    Ok(held)
}

/// Puts chain and key together, if they are ours and belong to each other.
fn assemble(
    expected: &SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    since: SystemTime,
) -> Result<Held> {
    let found = identity(&chain).context("the certificate's identity")?.id;
    if found != *expected {
        bail!("the certificate is {found}'s, not {expected}'s");
    }
    let not_after = {
        let leaf = chain.first().ok_or_else(|| anyhow!("the chain is empty"))?;
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|e| anyhow!("the certificate: {e}"))?;
        let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
        UNIX_EPOCH + Duration::from_secs(seconds)
    };
    let key = any_supported_type(key)?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match()
        .context("the key is not the certificate's")?;
    Ok(Held {
        key: Arc::new(key),
        not_after,
        since,
    })
}

fn paths(config: &Config) -> (PathBuf, PathBuf) {
    (
        config.state_dir.join("key.pem"),
        config.state_dir.join("chain.pem"),
    )
}

fn save(config: &Config, key: &KeyPair, chain: &[CertificateDer<'_>]) -> Result<()> {
    let (key_path, chain_path) = paths(config);
    let pem: String = chain
        .iter()
        .map(|der| files::pem("CERTIFICATE", der))
        .collect();
    files::write_private(&key_path, key.serialize_pem().as_bytes())?;
    files::write_private(&chain_path, pem.as_bytes())
}

/// The certificate of an earlier life, if it is still good. Anything else is made anew.
fn load(config: &Config) -> Option<Held> {
    let (key_path, chain_path) = paths(config);
    let read = |path: &Path| std::fs::read(path).ok();
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?).ok()?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&chain_path)?)
        .collect::<Result<_, _>>()
        .ok()?;
    let since = std::fs::metadata(&chain_path)
        .and_then(|m| m.modified())
        .ok()?;
    match assemble(&config.identity, chain, &key, since) {
        Ok(held) if held.not_after > SystemTime::now() => Some(held),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the certificate on disk is not used"
            );
            None
        }
    }
}
