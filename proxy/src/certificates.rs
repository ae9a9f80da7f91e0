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

use crate::config::Config;
use crate::control::{self, Replicas};
use crate::discovery::jitter;
use crate::files;
use crate::telemetry::Telemetry;
use crate::tls::{Held, TlsStore, identity, not_after};

/// Of a certificate's life: when the next one is asked for. Moved by up to a tenth of itself.
const RENEW_AT: f64 = 0.3;
/// When the root of ours is about to go, the next one is asked for after this, and up to ...
const RETIRED_MIN: Duration = Duration::from_secs(1);
/// ... this much later: not by all proxies at once.
const RETIRED_SPREAD: Duration = Duration::from_secs(5);
/// The longest sleep: the wall clock may jump, and a sleep does not see that.
const LOOK: Duration = Duration::from_secs(30);
/// Before the next try where a new certificate is as good as over: the clocks differ.
const DUE_AT_ONCE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

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
            if let Some(wait) = until(due, &held, now) {
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
                let is_due = renewal(&held) <= SystemTime::now();
                hold(&store, &telemetry, held);
                issued.send_modify(|n| *n += 1);
                pause = RETRY_MIN;
                if is_due {
                    tracing::warn!(
                        "the certificate is due again at once: look at this machine's clock"
                    );
                    sleep(DUE_AT_ONCE).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no certificate yet");
                replicas.leave();
                // Not all proxies at once.
                sleep(pause.mul_f64(0.5 + 0.5 * jitter())).await;
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

/// How long it is until the next one is due; `None`: it is. One from the future has no age: the clock was
/// ahead, or the file's time is made up.
fn until(due: SystemTime, held: &Held, now: SystemTime) -> Option<Duration> {
    let wait = due.duration_since(now).ok();
    wait.filter(|_| held.since <= now)
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
    let token = token(&config.token_file)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::new(Vec::new())?.serialize_request(&key)?;
    let request = IssueRequest {
        csr: csr.der().to_vec().into(),
        token,
        cluster: config.cluster.to_string(),
    };
    // The token says who we are. A certificate would be in the way if nobody believes it any more.
    let channel = replicas.connect(config, &Arc::default()).await?;
    let answer = control::answered(IdentityServiceClient::new(channel).issue(request))
        .await
        .with_context(|| {
            let file = config.token_file.display();
            format!("ask for a certificate with the token in {file}")
        })?;
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
    )
    .context("the certificate that was issued")?;
    if let Err(error) = save(config, &key, &chain) {
        // Traffic does not depend on it; the next start does.
        tracing::warn!(
            error = format!("{error:#}"),
            "the certificate is not on disk"
        );
    }
    Ok(held)
}

/// Whether it is a good one, the control plane says.
fn token(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read the token in {}", file.display()))?;
    let token = text.trim();
    if token.is_empty() {
        bail!("the token in {} is empty", file.display());
    }
    Ok(token.to_owned())
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
    let leaf = chain.first().ok_or_else(|| anyhow!("the chain is empty"))?;
    let not_after = not_after(leaf).map_err(|why| anyhow!("the certificate: {why}"))?;
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

/// Key and chain: one file, so that a crash leaves both of the same certificate.
fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.pem")
}

fn save(config: &Config, key: &KeyPair, chain: &[CertificateDer<'_>]) -> Result<()> {
    let chain = chain.iter().map(|der| files::pem("CERTIFICATE", der));
    let pem: String = std::iter::once(key.serialize_pem()).chain(chain).collect();
    files::write_private(&path(&config.state_dir), pem.as_bytes())
}

/// The certificate of an earlier life, if it is still good. Anything else is made anew.
fn load(config: &Config) -> Option<Held> {
    match on_disk(&config.state_dir, &config.identity) {
        Ok(held) => held.filter(|held| held.not_after > SystemTime::now()),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the certificate on disk is not used"
            );
            None
        }
    }
}

/// The certificate and the key that were saved. `None`: the file is not there.
///
/// # Errors
/// The file can't be read, or what it holds; the error names it, and shows nothing of the key.
fn on_disk(state_dir: &Path, identity: &SpiffeId) -> Result<Option<Held>> {
    let path = path(state_dir);
    let file = path.display();
    let Some(pem) = read(&path)? else {
        return Ok(None);
    };
    // The reader's own words may hold a line of the file.
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| anyhow!("{file} holds no private key in PEM"))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| anyhow!("{file}: what follows the key is no PEM"))?;
    if chain.is_empty() {
        bail!("{file} holds no certificate in PEM");
    }
    let since = std::fs::metadata(&path)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("the time of {file}"))?;
    assemble(identity, chain, &key, since)
        .map(Some)
        .with_context(|| file.to_string())
}

/// `None`: there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CART: &str = "spiffe://east.mesh.internal/ns/shop/sa/cart";

    fn made(uri: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        let leaf = params.self_signed(&key).unwrap();
        (key.serialize_pem(), files::pem("CERTIFICATE", leaf.der()))
    }

    #[test]
    fn what_is_wrong_with_a_saved_certificate_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let on_disk = || on_disk(dir.path(), &CART.parse().unwrap());
        let read = |key: &str, chain: &str| {
            std::fs::write(&path, format!("{key}{chain}")).unwrap();
            on_disk()
        };
        let (key, chain) = made(CART);
        let (other_key, foreign) = made("spiffe://west.mesh.internal/ns/shop/sa/cart");
        assert!(read(&key, &chain).unwrap().is_some());
        // As a tool that takes line ends away would leave it.
        let flat = key.replace('\n', " ");
        let (no_base64, in_chain) = (key.replace('M', "!"), chain.replace('M', "!"));
        let not_der = files::pem("CERTIFICATE", b"garbage");
        let bad = [
            ("garbage", chain.as_str()),
            (&flat, &chain),
            (&no_base64, &chain),
            (&other_key, &chain),
            (&key, ""),
            (&key, &in_chain),
            (&key, &not_der),
            (&other_key, &foreign),
        ];
        let secret = key.lines().nth(1).unwrap();
        let file = path.display().to_string();
        for (key, chain) in bad {
            let told = format!("{:#}", read(key, chain).unwrap_err());
            assert!(told.contains(&file) && !told.contains(secret), "{told}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(on_disk().unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        let told = format!("{:#}", on_disk().unwrap_err());
        assert!(
            told.contains(&file),
            "not there is one thing, not to be read another: {told}"
        );
    }

    /// The clock is ahead by more than a certificate lives.
    #[test]
    fn what_is_over_when_it_comes_is_due_at_once() {
        let (key, chain) = made(CART);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        let mut held = assemble(&CART.parse().unwrap(), chain, &key, SystemTime::now()).unwrap();
        assert!(renewal(&held) > held.since);
        let due = renewal(&held);
        let early = due - Duration::from_secs(1);
        assert_eq!(until(due, &held, early), Some(Duration::from_secs(1)));
        assert_eq!(until(due, &held, due + Duration::from_secs(1)), None);
        // And set right again.
        let before = held.since - Duration::from_secs(600);
        assert_eq!(until(due, &held, before), None);
        held.not_after = held.since - Duration::from_secs(3_600);
        assert_eq!(renewal(&held), held.since);
        assert_eq!(until(renewal(&held), &held, before), None);
    }

    #[test]
    fn a_token_that_is_none_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let told = || format!("{:#}", token(&file).unwrap_err());
        assert!(told().contains(&file.display().to_string()), "{}", told());
        std::fs::write(&file, " \n").unwrap();
        assert!(told().contains(&file.display().to_string()), "{}", told());
        std::fs::write(&file, "a.b.c\n").unwrap();
        assert_eq!(token(&file).unwrap(), "a.b.c");
    }
}
