//! Which credential is good now?
//!
//! Files are read again, and plugins are run again, when what they gave is old or was refused.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::access::{Certificate, Credential, Exec, read};
use super::error::{ApiError, tame};
use super::timestamp;

/// What a file said counts for so long. The kubelet renews tokens at four fifths of their life.
const FILE_FRESH: Duration = Duration::from_secs(60);
/// A plugin takes no longer.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// A plugin says no more, in bytes.
const EXEC_BYTES_MAX: u64 = 1 << 20;
/// A plugin is not run again sooner than this after it failed.
const EXEC_PAUSE: Duration = Duration::from_secs(5);
/// A credential is not used in its last moments: it has to arrive, and clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);

/// A credential as it is used.
#[derive(Clone)]
pub(super) struct Held {
    /// Moves whenever it was got anew.
    pub(super) stamp: u64,
    /// Moves whenever connections have to be made anew: another certificate.
    pub(super) identity: u64,
    pub(super) bearer: Option<HeaderValue>,
    pub(super) certificate: Option<Arc<Certificate>>,
    got: Instant,
    expires: Option<SystemTime>,
}

/// Keeps the credential of one cluster.
pub(super) struct Keeper {
    credential: Credential,
    held: Mutex<State>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keeper({:?})", self.credential)
    }
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<(Instant, ApiError)>,
}

/// What was read, or said by a plugin.
struct Got {
    token: Option<String>,
    certificate: Option<Certificate>,
    expires: Option<SystemTime>,
}

impl Got {
    fn token(token: String) -> Self {
        Self {
            token: Some(token),
            certificate: None,
            expires: None,
        }
    }

    fn certificate(certificate: Certificate) -> Self {
        Self {
            token: None,
            certificate: Some(certificate),
            expires: None,
        }
    }
}

impl Keeper {
    pub(super) fn new(credential: Credential) -> Self {
        Self {
            credential,
            held: Mutex::default(),
        }
    }

    /// Could another try give another credential?
    pub(super) fn renewable(&self) -> bool {
        match self.credential {
            Credential::Anonymous | Credential::Token(_) | Credential::Certificate(_) => false,
            Credential::TokenFile(_)
            | Credential::CertificateFiles { .. }
            | Credential::Exec(_) => true,
        }
    }

    /// The credential; not the one with the stamp `refused`, if there can be another.
    pub(super) async fn current(&self, refused: Option<u64>) -> Result<Held, ApiError> {
        let mut state = self.held.lock().await;
        if let Some(held) = &state.held
            && Some(held.stamp) != refused
            && self.fresh(held)
        {
            return Ok(held.clone());
        }
        let paused = state.failed.clone();
        let error = match paused.filter(|(at, _)| at.elapsed() < EXEC_PAUSE) {
            Some((_, error)) => error,
            None => match self
                .get()
                .await
                .and_then(|got| next(state.held.as_ref(), got))
            {
                Ok(held) => {
                    state.held = Some(held.clone());
                    state.failed = None;
                    return Ok(held);
                }
                Err(error) => {
                    if let Credential::Exec(_) = self.credential {
                        state.failed = Some((Instant::now(), error.clone()));
                    }
                    error
                }
            },
        };
        // The last one may still be good; whoever knows is the server.
        match &state.held {
            Some(held) if Some(held.stamp) != refused => Ok(held.clone()),
            Some(_) | None => Err(error),
        }
    }

    fn fresh(&self, held: &Held) -> bool {
        match &self.credential {
            Credential::Anonymous | Credential::Token(_) | Credential::Certificate(_) => true,
            Credential::TokenFile(_) | Credential::CertificateFiles { .. } => {
                held.got.elapsed() < FILE_FRESH
            }
            Credential::Exec(_) => held
                .expires
                .is_none_or(|end| SystemTime::now() + EXPIRY_MARGIN < end),
        }
    }

    /// From now on another token of the same account: connections and what goes on in them stay.
    pub(super) async fn renew(&self, token: &str) -> Result<(), ApiError> {
        let mut state = self.held.lock().await;
        let held = next(state.held.as_ref(), Got::token(token.to_owned()))?;
        state.held = Some(held);
        Ok(())
    }

    async fn get(&self) -> Result<Got, ApiError> {
        match &self.credential {
            Credential::Anonymous => Ok(Got {
                token: None,
                certificate: None,
                expires: None,
            }),
            Credential::Token(token) => Ok(Got::token(token.clone())),
            Credential::Certificate(certificate) => Ok(Got::certificate(certificate.clone())),
            Credential::TokenFile(path) => {
                let path = path.clone();
                let text = blocking(move || read(&path)).await?;
                let text = String::from_utf8(text)
                    .map_err(|_| ApiError::Credential("the token file is not text".to_owned()))?;
                Ok(Got::token(text))
            }
            Credential::CertificateFiles { chain, key } => {
                let (chain, key) = (chain.clone(), key.clone());
                let both = move || Certificate::read(&chain, &key).map_err(|e| e.to_string());
                Ok(Got::certificate(blocking(both).await?))
            }
            Credential::Exec(exec) => match timeout(EXEC_TIMEOUT, run(exec)).await {
                Ok(Ok(got)) => Ok(got),
                Ok(Err(why)) => Err(failed(exec, &why)),
                Err(_) => Err(failed(exec, "no answer in time")),
            },
        }
    }
}

fn failed(exec: &Exec, why: &str) -> ApiError {
    ApiError::Credential(format!("{}: {why}", tame(&exec.command)))
}

/// A path may be a pipe that nobody writes to: never on a thread that serves others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ApiError> {
    match timeout(EXEC_TIMEOUT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result.map_err(ApiError::Credential),
        Ok(Err(_)) => Err(ApiError::Credential("reading it panicked".to_owned())),
        Err(_) => Err(ApiError::Credential(
            "the file can't be read in time".to_owned(),
        )),
    }
}

fn next(before: Option<&Held>, got: Got) -> Result<Held, ApiError> {
    let bearer = match got.token.as_deref().map(str::trim) {
        Some("") => return Err(ApiError::Credential("the token is empty".to_owned())),
        Some(token) => {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| ApiError::Credential("the token is not a token".to_owned()))?;
            value.set_sensitive(true);
            Some(value)
        }
        None => None,
    };
    let same = match (
        before.and_then(|b| b.certificate.as_ref()),
        &got.certificate,
    ) {
        (Some(old), Some(new)) => old.chain == new.chain,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let (stamp, identity) = before.map_or((0, 0), |b| (b.stamp, b.identity));
    Ok(Held {
        stamp: stamp.wrapping_add(1),
        identity: identity.wrapping_add(u64::from(!same)),
        bearer,
        certificate: got.certificate.map(Arc::new),
        got: Instant::now(),
        expires: got.expires,
    })
}

/// Runs a plugin once.
async fn run(exec: &Exec) -> Result<Got, String> {
    let mut spec = json!({ "interactive": false });
    if let (Some(cluster), Some(spec)) = (&exec.cluster, spec.as_object_mut()) {
        spec.insert("cluster".to_owned(), cluster.clone());
    }
    let info = json!({
        "apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec,
    });
    let mut child = Command::new(&exec.command)
        .args(&exec.args)
        .envs(exec.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says there may be secret, and is for a person at a terminal.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("can't be run: {error}"))?;
    let mut said = Vec::new();
    let stdout = child.stdout.take().ok_or("has no output")?;
    let mut stdout = stdout.take(EXEC_BYTES_MAX + 1);
    stdout
        .read_to_end(&mut said)
        .await
        .map_err(|error| format!("can't be heard: {error}"))?;
    if u64::try_from(said.len()).is_ok_and(|length| length > EXEC_BYTES_MAX) {
        return Err("says more than 1 MiB".to_owned());
    }
    let status = child
        .wait()
        .await
        .map_err(|error| format!("is lost: {error}"))?;
    if !status.success() {
        return Err(format!("ended with {status}"));
    }
    understand(exec, &said)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    kind: String,
    status: Option<ExecStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

fn understand(exec: &Exec, said: &[u8]) -> Result<Got, String> {
    // The error could repeat what was said, and that is secret.
    let said: ExecCredential =
        serde_json::from_slice(said).map_err(|_| "does not say an ExecCredential".to_owned())?;
    if said.kind != "ExecCredential" || said.api_version != exec.api_version {
        return Err(format!(
            "does not say an ExecCredential of {}",
            exec.api_version
        ));
    }
    let status = said.status.ok_or("says no status")?;
    let certificate = match (status.client_certificate_data, status.client_key_data) {
        (Some(chain), Some(key)) => {
            Some(Certificate::of_pem(chain.as_bytes(), key.as_bytes()).map_err(|e| e.to_string())?)
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err("says half of a certificate and its key".to_owned());
        }
    };
    if certificate.is_none() && status.token.is_none() {
        return Err("says no credential".to_owned());
    }
    let expires = match status.expiration_timestamp {
        None => None,
        Some(text) => Some(timestamp::parse(&text).ok_or("says an end that is no time")?),
    };
    Ok(Got {
        token: status.token,
        certificate,
        expires,
    })
}

#[cfg(test)]
mod tests;
