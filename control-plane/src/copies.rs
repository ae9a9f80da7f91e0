//! What did the home cluster's Secrets say when they were last read?
//!
//! The mesh's keys and the credentials of the other clusters are Secrets of the home cluster. A control
//! plane that starts while its API server is away would have none of them, and serve nobody. Where the
//! operator gives a folder for it, in memory, each Secret that was read lies there as it was, and counts as
//! long as the API server does not answer. What it answers counts before: also that there is no such Secret.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::kubernetes::{Api, ApiError};
use crate::state::StateDir;

/// One question takes no longer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// An API server that did not answer is not asked for so long, if there is a copy.
const AWAY: Duration = Duration::from_secs(10);

/// Secrets of the home cluster as they were.
#[derive(Debug, Default)]
pub struct Copies {
    folder: Option<StateDir>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the API server did not answer.
    away: Option<Instant>,
    /// What lies in the folder, by digests.
    kept: BTreeMap<String, [u8; 32]>,
}

impl Copies {
    /// In this folder; `None`: nothing is kept.
    #[must_use]
    pub fn new(folder: Option<StateDir>) -> Self {
        Self {
            folder,
            state: Mutex::default(),
        }
    }

    /// A Secret, or with a query a list of some; as it was if the API server is away.
    ///
    /// # Errors
    /// It is not there, or the API server does not give it, and there is no copy.
    pub async fn get(
        &self,
        api: Option<&Api>,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Bytes, ApiError> {
        let name = name(path, query);
        if self.is_away()
            && let Some(copy) = self.copy(&name)
        {
            return copy;
        }
        let error = match ask(api, path, query).await {
            Ok(body) => {
                self.keep(&name, &body);
                return Ok(body);
            }
            Err(error) => error,
        };
        if error.is_not_found() {
            self.keep(&name, b"");
        }
        if !error.is_trouble() {
            return Err(error);
        }
        self.state().away = Some(Instant::now());
        let copy = self.copy(&name);
        if copy.is_some() {
            tracing::warn!(path, %error, "the home cluster is away: its Secret counts as it was");
        }
        copy.unwrap_or(Err(error))
    }

    /// What was just written, as the API server has it now.
    pub fn wrote(&self, path: &str, body: &[u8]) {
        self.keep(&name(path, &[]), body);
    }

    fn is_away(&self) -> bool {
        let away = self.state().away;
        away.is_some_and(|since| since.elapsed() < AWAY)
    }

    /// Nothing in it: it is known that there was no such Secret.
    fn copy(&self, name: &str) -> Option<Result<Bytes, ApiError>> {
        let bytes = match self.folder.as_ref()?.read(name) {
            Ok(bytes) => bytes?,
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("the copy of a Secret can't be read: {error:#}");
                return None;
            }
        };
        if bytes.is_empty() {
            return Some(Err(ApiError::not_found(
                "it was not there when it was last asked for",
            )));
        }
        Some(Ok(bytes.into()))
    }

    /// The API server has answered.
    fn keep(&self, name: &str, body: &[u8]) {
        let mut state = self.state();
        state.away = None;
        let Some(folder) = &self.folder else { return };
        let digest: [u8; 32] = Sha256::digest(body).into();
        if state.kept.get(name) == Some(&digest) {
            return;
        }
        match folder.replace(name, |file| file.write_all(body)) {
            Ok(()) => {
                state.kept.insert(name.to_owned(), digest);
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("no copy of a Secret is kept: {error:#}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(api: Option<&Api>, path: &str, query: &[(&str, &str)]) -> Result<Bytes, ApiError> {
    let Some(api) = api else {
        let why = "the home cluster was not reached yet";
        return Err(ApiError::Unreachable(why.to_owned()));
    };
    asked(async {
        match query {
            [] => api.get(path).await,
            query => Ok(api.list(path, query).await?.into_bytes()),
        }
    })
    .await
}

/// What an API server answers in time.
pub(crate) async fn asked<T>(
    asking: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout(ASK_TIMEOUT, asking)
        .await
        .unwrap_or(Err(ApiError::Silent))
}

/// A file's: names of Secrets, labels and paths have no underscore where a slash could be.
fn name(path: &str, query: &[(&str, &str)]) -> String {
    let plain = |text: &str| text.trim_start_matches('/').replace('/', "_");
    let mut name = plain(path);
    for (key, value) in query {
        name = format!("{name}&{key}={}", plain(value));
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;
    use crate::kubernetes::client::fake::{Fake, answer};

    const PATH: &str = "/api/v1/namespaces/isthmus-system/secrets/key";

    /// Says what is set: a status, with a body that names it.
    async fn server() -> (Fake, Api, Arc<AtomicU16>) {
        let says = Arc::new(AtomicU16::new(200));
        let said = Arc::clone(&says);
        let server = Fake::plain(move |_| {
            let code = said.load(Ordering::SeqCst);
            answer(code, format!("{{\"code\":{code}}}"))
        });
        let server = server.await;
        let api = Api::new(server.access()).unwrap();
        (server, api, says)
    }

    #[tokio::test]
    async fn a_secret_counts_as_it_was_while_its_server_is_away_and_not_when_it_is_gone() {
        let (_server, api, says) = server().await;
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("copies");
        // Each start knows what lies there, and asks first.
        let copies = || Copies::new(Some(StateDir::open(&at).unwrap()));
        let get = async |copies: Copies| copies.get(Some(&api), PATH, &[]).await;
        let is_absent = |got: Result<Bytes, ApiError>| got.unwrap_err().is_not_found();

        says.store(503, Ordering::SeqCst);
        assert_eq!(get(copies()).await.unwrap_err().code(), Some(503));
        says.store(200, Ordering::SeqCst);
        let good = get(copies()).await.unwrap();
        says.store(503, Ordering::SeqCst);
        assert_eq!(get(copies()).await.unwrap(), good);
        assert_eq!(copies().get(None, PATH, &[]).await.unwrap(), good);
        // To be refused is an answer, and says nothing of the Secret.
        says.store(403, Ordering::SeqCst);
        assert!(get(copies()).await.unwrap_err().is_forbidden());
        says.store(404, Ordering::SeqCst);
        assert!(is_absent(get(copies()).await));
        says.store(503, Ordering::SeqCst);
        assert!(is_absent(get(copies()).await));

        copies().wrote(PATH, b"written");
        assert_eq!(get(copies()).await.unwrap(), "written");
        let label = [("labelSelector", "a/b=c")];
        assert!(copies().get(Some(&api), PATH, &label).await.is_err());
        assert!(Copies::default().get(Some(&api), PATH, &[]).await.is_err());
        for file in std::fs::read_dir(&at).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mode = std::fs::metadata(&at).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
