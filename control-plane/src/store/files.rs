//! How are keys kept in the state folder?

use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use super::{Item, Kept, KeyError};
use crate::state::{StateDir, StateError};

pub(super) async fn look(state: &StateDir, item: &Item) -> Result<Option<Kept>, KeyError> {
    let name = item.file();
    let read = apart(state, move |state| state.read(&name)).await?;
    Ok(read.map(|bytes| Kept {
        version: version(&bytes),
        bytes,
    }))
}

pub(super) async fn create(state: &StateDir, item: &Item, bytes: &[u8]) -> Result<bool, KeyError> {
    let (name, bytes) = (item.file(), bytes.to_vec());
    apart(state, move |state| state.create(&name, &bytes)).await
}

/// Compared and written under a lock: another process may do the same.
pub(super) async fn replace(
    state: &StateDir,
    item: &Item,
    bytes: &[u8],
    over: &str,
) -> Result<bool, KeyError> {
    let (name, bytes, over) = (item.file(), bytes.to_vec(), over.to_owned());
    apart(state, move |state| {
        let _alone = state.lock(&name)?;
        let old = state.read(&name)?;
        if old.is_none_or(|old| version(&old) != over) {
            return Ok(false);
        }
        state.replace(&name, |file| file.write_all(&bytes))?;
        Ok(true)
    })
    .await
}

fn version(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// On a thread that may wait for a disk.
async fn apart<T: Send + 'static>(
    state: &StateDir,
    work: impl FnOnce(&StateDir) -> Result<T, StateError> + Send + 'static,
) -> Result<T, KeyError> {
    let (state, root) = (state.clone(), state.path(""));
    match spawn_blocking(move || work(&state)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(KeyError::Invalid {
            place: format!("folder {}", root.display()),
            why: "working with it panicked".to_owned(),
        }),
    }
}
