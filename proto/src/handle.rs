//! What does an endpoint handle look like, and who made it?
//!
//! A handle is the first label of the SNI by which a gateway is told which pod is meant:
//! `base32(version, key epoch, endpoint id, MAC)`, 40 characters. The control plane makes it with the
//! key of the endpoint's cluster; the gateway of that cluster checks it before it looks anything up,
//! so that nobody can ask for endpoints by guessing.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// The only version yet.
pub const VERSION: u8 = 1;
/// Characters of a handle: 25 bytes in base32.
pub const HANDLE_CHARS: usize = 40;
/// Bytes of the truncated HMAC-SHA-256: 120 bits.
const MAC_BYTES: usize = 15;
const BYTES: usize = 1 + 1 + 8 + MAC_BYTES;
/// RFC 4648 §6 in lower case, as host names are compared.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A secret that makes and checks handles; prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct HandleKey {
    epoch: u8,
    secret: [u8; 32],
}

impl fmt::Debug for HandleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleKey(epoch {})", self.epoch)
    }
}

/// Why a label is no valid handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHandle {
    /// Wrong length or a character outside of base32.
    #[error("not 40 characters of base32")]
    Shape,
    /// A version that this proxy does not know.
    #[error("handle version {0} is not known")]
    Version(u8),
    /// No key of this epoch.
    #[error("no key of epoch {0}")]
    Epoch(u8),
    /// The MAC is not ours: forged, or made for another cluster.
    #[error("the MAC is wrong")]
    Mac,
}

impl HandleKey {
    /// A key of an epoch.
    #[must_use]
    pub fn new(epoch: u8, secret: [u8; 32]) -> Self {
        Self { epoch, secret }
    }

    /// The epoch, which stands in each handle.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    /// The secret itself, for the wire to a gateway.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The handle of an endpoint.
    #[must_use]
    pub fn encode(&self, endpoint: u64) -> String {
        let mut bytes = [0u8; BYTES];
        let (head, mac) = bytes.split_at_mut(BYTES - MAC_BYTES);
        head.copy_from_slice(&self.head(endpoint));
        mac.copy_from_slice(&self.mac(head));
        to_base32(&bytes)
    }

    fn head(&self, endpoint: u64) -> [u8; BYTES - MAC_BYTES] {
        let mut head = [0u8; BYTES - MAC_BYTES];
        let [version, epoch, id @ ..] = &mut head;
        *version = VERSION;
        *epoch = self.epoch;
        id.copy_from_slice(&endpoint.to_be_bytes());
        head
    }

    fn mac(&self, head: &[u8]) -> [u8; MAC_BYTES] {
        let mut tag = [0u8; MAC_BYTES];
        if let Some(full) = self.hmac(head).finalize().into_bytes().first_chunk() {
            tag = *full;
        }
        tag
    }

    fn hmac(&self, head: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.secret)
            .expect("HMAC takes keys of every length (RFC 2104 §2)");
        mac.update(head);
        mac
    }
}

/// The endpoint id of a handle that one of `keys` made.
///
/// # Errors
/// The label is malformed, its key is not among `keys`, or its MAC is wrong.
pub fn verify(label: &[u8], keys: &[HandleKey]) -> Result<u64, InvalidHandle> {
    let bytes = from_base32(label).ok_or(InvalidHandle::Shape)?;
    let (head, tag) = bytes.split_at(BYTES - MAC_BYTES);
    let [version, epoch, id @ ..] = head else {
        return Err(InvalidHandle::Shape);
    };
    if *version != VERSION {
        return Err(InvalidHandle::Version(*version));
    }
    let key = keys
        .iter()
        .find(|k| k.epoch == *epoch)
        .ok_or(InvalidHandle::Epoch(*epoch))?;
    // Constant time: a MAC is not compared byte by byte.
    key.hmac(head)
        .verify_truncated_left(tag)
        .map_err(|_| InvalidHandle::Mac)?;
    Ok(id.iter().fold(0u64, |sum, b| (sum << 8) | u64::from(*b)))
}

fn to_base32(bytes: &[u8; BYTES]) -> String {
    let mut text = String::with_capacity(HANDLE_CHARS);
    for group in bytes.chunks(5) {
        let bits = group.iter().fold(0u64, |sum, b| (sum << 8) | u64::from(*b));
        for shift in (0..8).rev() {
            let index = usize::try_from((bits >> (shift * 5)) & 31).unwrap_or(0);
            text.push(char::from(*ALPHABET.get(index).unwrap_or(&b'a')));
        }
    }
    text
}

fn from_base32(label: &[u8]) -> Option<[u8; BYTES]> {
    if label.len() != HANDLE_CHARS {
        return None;
    }
    let mut bytes = [0u8; BYTES];
    for (group, out) in label.chunks(8).zip(bytes.chunks_mut(5)) {
        let mut bits = 0u64;
        for c in group {
            let value = match c {
                b'a'..=b'z' => c - b'a',
                b'2'..=b'7' => c - b'2' + 26,
                _ => return None,
            };
            bits = (bits << 5) | u64::from(value);
        }
        let [_, _, _, low @ ..] = bits.to_be_bytes();
        out.copy_from_slice(&low);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(epoch: u8) -> HandleKey {
        HandleKey::new(epoch, [epoch.wrapping_add(7); 32])
    }

    #[test]
    fn a_handle_is_one_dns_label() {
        let handle = key(3).encode(u64::MAX);
        assert_eq!(handle.len(), HANDLE_CHARS);
        assert!(crate::ids::is_label(&handle), "{handle}");
    }

    #[test]
    fn another_clusters_key_is_refused() {
        let foreign = HandleKey::new(1, [9; 32]).encode(5);
        assert_eq!(
            verify(foreign.as_bytes(), &[key(1)]),
            Err(InvalidHandle::Mac)
        );
        assert_eq!(
            verify(foreign.as_bytes(), &[key(2)]),
            Err(InvalidHandle::Epoch(1))
        );
        assert_eq!(verify(b"short", &[key(2)]), Err(InvalidHandle::Shape));
        let upper = foreign.to_uppercase();
        assert_eq!(
            verify(upper.as_bytes(), &[key(1)]),
            Err(InvalidHandle::Shape)
        );
    }

    proptest! {
        #[test]
        fn the_id_comes_back(id: u64, epoch: u8) {
            let handle = key(epoch).encode(id);
            prop_assert_eq!(verify(handle.as_bytes(), &[key(epoch.wrapping_add(1)), key(epoch)]), Ok(id));
        }

        #[test]
        fn one_changed_character_is_refused(id: u64, at in 0..HANDLE_CHARS, by in 1..31usize) {
            let mut handle = key(1).encode(id).into_bytes();
            let old = ALPHABET.iter().position(|c| *c == handle[at]).unwrap();
            handle[at] = ALPHABET[(old + by) % 32];
            prop_assert!(verify(&handle, &[key(1)]).is_err());
        }

        #[test]
        fn no_bytes_panic(label in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = verify(&label, &[key(0)]);
        }
    }
}
