//! Which secrets does each cluster have, besides its authority?

use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::ClusterId;

use crate::state::{StateDir, StateError, random};

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
        secret(state, &format!("tokens/{cluster}.key")).map(Self)
    }

    /// The secret, for HMAC.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }
}

/// The handle keys of a cluster, newest first; the first is made if there is none.
///
/// # Errors
/// The state folder can't be used, or a file in it has another length.
pub fn handle_keys(state: &StateDir, cluster: &ClusterId) -> Result<Vec<HandleKey>, StateError> {
    let file = |epoch: u8| format!("handles/{cluster}.{epoch}.key");
    let mut keys = vec![HandleKey::new(
        FIRST_EPOCH,
        secret(state, &file(FIRST_EPOCH))?,
    )];
    for epoch in FIRST_EPOCH.saturating_add(1)..=u8::MAX {
        let name = file(epoch);
        let Some(bytes) = state.read(&name)? else {
            break;
        };
        keys.insert(0, HandleKey::new(epoch, whole(state, &name, &bytes)?));
    }
    Ok(keys)
}

fn secret(state: &StateDir, name: &str) -> Result<[u8; SECRET_BYTES], StateError> {
    let bytes = state.read_or_create(name, || Ok(random::<SECRET_BYTES>()?.to_vec()))?;
    whole(state, name, &bytes)
}

fn whole(state: &StateDir, name: &str, bytes: &[u8]) -> Result<[u8; SECRET_BYTES], StateError> {
    bytes.try_into().map_err(|_| StateError::Invalid {
        path: state.path(name),
        why: format!("has {} bytes, not {SECRET_BYTES}", bytes.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_are_each_clusters_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let (east, west) = ("east".parse().unwrap(), "west".parse().unwrap());
        let key = TokenKey::open(&state, &east).unwrap();
        assert_eq!(key, TokenKey::open(&state, &east).unwrap());
        assert_ne!(key, TokenKey::open(&state, &west).unwrap());
        let handles = handle_keys(&state, &east).unwrap();
        assert_eq!(handles, handle_keys(&state, &east).unwrap());
        assert_ne!(handles, handle_keys(&state, &west).unwrap());
        assert_eq!(handles[0].epoch(), FIRST_EPOCH);
    }

    #[test]
    fn a_newer_epoch_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let east = "east".parse().unwrap();
        handle_keys(&state, &east).unwrap();
        assert!(state.create("handles/east.2.key", &[2; 32]).unwrap());
        let epochs: Vec<u8> = handle_keys(&state, &east)
            .unwrap()
            .iter()
            .map(HandleKey::epoch)
            .collect();
        assert_eq!(epochs, [2, 1]);
        assert!(state.create("handles/east.3.key", b"short").unwrap());
        assert!(handle_keys(&state, &east).is_err());
    }
}
