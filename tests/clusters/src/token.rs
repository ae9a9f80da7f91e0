//! How does a test get a token that ends in seconds? The API server's own shortest is ten minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

/// The API server takes a token for this long after its end (go-jose's leeway).
const LEEWAY_SECONDS: u64 = 60;
/// Half of an ECDSA P-256 signature.
const SCALAR_BYTES: usize = 32;

/// Whom a token is for.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The account's namespace.
    pub namespace: String,
    /// Its name.
    pub account: String,
    /// The account's uid: a token of an account that was made anew is refused.
    pub uid: String,
}

/// A JWT as the API server makes them, signed with the same key. It is taken for `lifetime`.
pub(crate) fn mint(
    key: &KeyPair,
    issuer: &str,
    subject: &Subject,
    lifetime: Duration,
) -> anyhow::Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock")?
        .as_secs();
    let Subject {
        namespace,
        account,
        uid,
    } = subject;
    let claims = json!({
        "iss": issuer,
        "aud": [issuer],
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "iat": now - LEEWAY_SECONDS, "nbf": now - LEEWAY_SECONDS,
        "exp": now + lifetime.as_secs() - LEEWAY_SECONDS,
        "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": account, "uid": uid } },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        part(&json!({ "alg": "ES256", "typ": "JWT" })),
        part(&claims)
    );
    let signature = key.sign(signed.as_bytes()).context("signing a token")?;
    let raw = raw(&signature).context("the form of a signature")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(raw)))
}

/// RFC 7518 §3.4: the two numbers, each in 32 bytes; X.509 has them as a sequence in DER.
fn raw(der: &[u8]) -> Option<Vec<u8>> {
    let rest = match der {
        [0x30, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        _ => return None,
    };
    let (r, rest) = integer(rest)?;
    let (s, rest) = integer(rest)?;
    rest.is_empty().then(|| [r, s].concat())
}

fn integer(der: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let [0x02, length, rest @ ..] = der else {
        return None;
    };
    let (number, rest) = rest.split_at_checked(usize::from(*length))?;
    // A leading zero keeps it positive.
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = number.get(zeros..)?;
    let mut fixed = vec![0; SCALAR_BYTES.checked_sub(digits.len())?];
    fixed.extend(digits);
    Some((fixed, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_filled_and_cut_to_their_width() {
        let mut long = vec![0x02, 33, 0];
        long.extend([0xff; 32]);
        let der = [[0x30, 38].to_vec(), long, vec![0x02, 1, 7]].concat();
        let raw = raw(&der).unwrap();
        assert_eq!(raw.len(), 64);
        assert_eq!((raw[0], raw[31], raw[32], raw[63]), (0xff, 0xff, 0, 7));
        for cut in 0..der.len() {
            assert!(super::raw(&der[..cut]).is_none());
        }
    }
}
