//! Which secrets does each cluster have, besides its authority?

use std::fs;
use std::path::{Path, PathBuf};

use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::ClusterId;

use crate::state::{StateDir, StateError, random};
use crate::store::{Item, KeyError, KeyStore};

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The first epoch of handle keys.
const FIRST_EPOCH: u8 = 1;

/// By which tokens of a cluster that has no API server are signed; prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey([u8; SECRET_BYTES]);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// The token key of a cluster; made if there is none.
    ///
    /// # Errors
    /// The state folder can't be used, or the file in it has another length.
    pub fn open(state: &StateDir, cluster: &ClusterId) -> Result<Self, StateError> {
        secret(state, &name(cluster)).map(Self)
    }

    /// The token key that somebody else has made in this folder.
    ///
    /// # Errors
    /// There is none, or it can't be read, or has another length.
    pub fn read(folder: &Path, cluster: &ClusterId) -> Result<Self, StateError> {
        let path = folder.join(name(cluster));
        let bytes = fs::read(&path).map_err(|cause| StateError::Io {
            act: "reading",
            path: path.clone(),
            cause,
        })?;
        sized(bytes, path).map(Self)
    }

    /// The secret, for HMAC.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }
}

/// The handle keys of a cluster, newest first; the first is made if there is none.
///
/// # Errors
/// One can't be read or made, or has another length.
pub async fn handle_keys(
    store: &KeyStore,
    cluster: &ClusterId,
) -> Result<Vec<HandleKey>, KeyError> {
    let item = |epoch| Item::Handle(cluster.clone(), epoch);
    let first = item(FIRST_EPOCH);
    let make = || Ok::<_, KeyError>(random::<SECRET_BYTES>()?.to_vec());
    let bytes = store.read_or_create(&first, make).await?;
    let mut keys = vec![handle_key(store, FIRST_EPOCH, &first, &bytes)?];
    for epoch in FIRST_EPOCH.saturating_add(1)..=u8::MAX {
        let item = item(epoch);
        let Some(bytes) = store.read(&item).await? else {
            break;
        };
        keys.insert(0, handle_key(store, epoch, &item, &bytes)?);
    }
    Ok(keys)
}

fn handle_key(
    store: &KeyStore,
    epoch: u8,
    item: &Item,
    bytes: &[u8],
) -> Result<HandleKey, KeyError> {
    let secret = bytes.try_into().map_err(|_| KeyError::Invalid {
        place: store.place(item),
        why: format!("has {} bytes, not {SECRET_BYTES}", bytes.len()),
    })?;
    Ok(HandleKey::new(epoch, secret))
}

fn secret(state: &StateDir, name: &str) -> Result<[u8; SECRET_BYTES], StateError> {
    let bytes = state.read_or_create(name, || Ok(random::<SECRET_BYTES>()?.to_vec()))?;
    sized(bytes, state.path(name))
}

fn sized(bytes: Vec<u8>, path: PathBuf) -> Result<[u8; SECRET_BYTES], StateError> {
    let length = bytes.len();
    bytes.try_into().map_err(|_| StateError::Invalid {
        path,
        why: format!("has {length} bytes, not {SECRET_BYTES}"),
    })
}

/// Of a cluster's token key, in the state folder.
fn name(cluster: &ClusterId) -> String {
    format!("tokens/{cluster}.key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_made_once_and_are_each_clusters_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let store = KeyStore::Files(state.clone());
        let (east, west) = ("east".parse().unwrap(), "west".parse().unwrap());
        let key = TokenKey::open(&state, &east).unwrap();
        assert_eq!(key, TokenKey::open(&state, &east).unwrap());
        assert_ne!(key, TokenKey::open(&state, &west).unwrap());
        let handles = handle_keys(&store, &east).await.unwrap();
        assert_eq!(handles, handle_keys(&store, &east).await.unwrap());
        assert_ne!(handles, handle_keys(&store, &west).await.unwrap());
        assert_eq!(handles[0].epoch(), FIRST_EPOCH);
    }

    #[tokio::test]
    async fn a_newer_epoch_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
        let east: ClusterId = "east".parse().unwrap();
        handle_keys(&store, &east).await.unwrap();
        let epoch = |epoch| Item::Handle(east.clone(), epoch);
        assert!(store.create(&epoch(2), &[2; 32]).await.unwrap());
        let keys = handle_keys(&store, &east).await.unwrap();
        let epochs: Vec<u8> = keys.iter().map(HandleKey::epoch).collect();
        assert_eq!(epochs, [2, 1]);
        assert!(store.create(&epoch(3), b"short").await.unwrap());
        assert!(handle_keys(&store, &east).await.is_err());
    }
}
