//! What does this Secret of the home cluster say?

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_control_plane_core::model::CredentialRef;
use serde::Deserialize;

use crate::connect::Unusable;
use crate::kubernetes::Api;

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// The kubeconfig in a Secret. What is said about a Secret never holds a part of it.
pub(super) async fn read(
    api: &Api,
    namespace: &str,
    credential: &CredentialRef,
) -> Result<String, Unusable> {
    let (name, key) = (&credential.secret, &credential.key);
    // Both are names of DNS: the decoder of MeshClusters takes no others.
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    let answer = api.get(&path).await.map_err(|error| {
        let at = format!("Secret {namespace}/{name}");
        if error.is_not_found() {
            Unusable::new("SecretNotFound", format!("{at} is not there"))
        } else if error.is_forbidden() {
            Unusable::new("SecretForbidden", format!("{at} may not be read"))
        } else {
            Unusable::new("SecretNotRead", format!("{at}: {error}"))
        }
    })?;
    text(&answer, key).map_err(|why| {
        let at = format!("Secret {namespace}/{name}, key {key}");
        Unusable::new("SecretInvalid", format!("{at}: {why}"))
    })
}

fn text(answer: &[u8], key: &str) -> Result<String, &'static str> {
    let secret: Secret = serde_json::from_slice(answer).map_err(|_| "not a Secret")?;
    let value = secret.data.get(key).ok_or("there is no such key")?;
    let bytes = STANDARD.decode(value).map_err(|_| "not base64")?;
    String::from_utf8(bytes).map_err(|_| "not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_says_nothing_is_refused_without_its_content() {
        let read = |json: &str| text(json.as_bytes(), "kubeconfig");
        let good = format!(
            r#"{{"data":{{"kubeconfig":"{}"}}}}"#,
            STANDARD.encode("hello")
        );
        assert_eq!(read(&good).unwrap(), "hello");
        for (json, says) in [
            ("[]x", "not a Secret"),
            (r"{}", "no such key"),
            (r#"{"data":{"other":"aGVsbG8="}}"#, "no such key"),
            (r#"{"data":{"kubeconfig":"hunter2"}}"#, "not base64"),
            (r#"{"data":{"kubeconfig":"/w=="}}"#, "not text"),
        ] {
            let why = read(json).unwrap_err();
            assert!(why.contains(says) && !why.contains("hunter2"), "{why}");
        }
    }
}
