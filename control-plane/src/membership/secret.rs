//! What does this Secret of the home cluster say?

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_control_plane_core::model::{AccessProvider, CredentialRef};
use serde::Deserialize;

use crate::connect::Unusable;
use crate::copies::Copies;
use crate::kubernetes::{Api, ApiError};

/// Where a cluster's kubeconfig lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Where a MeshCluster says.
    Named(CredentialRef),
    /// As this ClusterProfile says, by the plugin that is configured for one of its providers
    /// (KEP-5339); else in the Secret whose label names the profile.
    OfProfile(String, Vec<AccessProvider>),
}

/// The label of a Secret that names a ClusterProfile.
const PROFILE_LABEL: &str = "x-k8s.io/cluster-profile";
/// The keys under which cluster managers put a kubeconfig, the KEP's first.
const PROFILE_KEYS: [&str; 3] = ["Config", "config", "kubeconfig"];

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Secrets {
    #[serde(default)]
    items: Vec<Secret>,
}

/// Where Secrets of the home cluster are read.
type Home<'a> = (&'a Copies, Option<&'a Api>);

/// The kubeconfig of a cluster.
pub(super) async fn of(
    home: Home<'_>,
    namespace: &str,
    credential: &Credential,
) -> Result<String, Unusable> {
    match credential {
        Credential::Named(named) => read(home, namespace, named).await,
        Credential::OfProfile(profile, _) => labelled(home, namespace, profile).await,
    }
}

fn not_read((_, api): Home<'_>, at: &str, error: &ApiError) -> Unusable {
    if api.is_none() {
        let why = "the home cluster, which has the credential, was not reached yet";
        return Unusable::new("HomeNotSeen", why);
    }
    Unusable::new("SecretNotRead", format!("{at}: {error}"))
}

async fn labelled(home: Home<'_>, namespace: &str, profile: &str) -> Result<String, Unusable> {
    // The profile's name is one of DNS: objects with others are not taken in.
    let selector = format!("{PROFILE_LABEL}={profile}");
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let at = format!("Secret {namespace}/ with the label {selector}");
    let query = [("labelSelector", selector.as_str()), ("limit", "2")];
    let (copies, api) = home;
    let answer = copies.get(api, &path, &query).await.map_err(|error| {
        if error.is_forbidden() {
            Unusable::new("SecretForbidden", format!("{at} may not be looked for"))
        } else {
            not_read(home, &at, &error)
        }
    })?;
    only(&answer).map_err(|(reason, why)| Unusable::new(reason, format!("{at}: {why}")))
}

/// The kubeconfig in the only Secret of a list.
fn only(answer: &[u8]) -> Result<String, (&'static str, &'static str)> {
    let invalid = |why| ("SecretInvalid", why);
    let found: Secrets =
        serde_json::from_slice(answer).map_err(|_| invalid("not a list of Secrets"))?;
    let secret = match found.items.as_slice() {
        [one] => one,
        [] => return Err(("SecretNotFound", "there is none")),
        [..] => return Err(("SecretAmbiguous", "there are several")),
    };
    let mut keys = PROFILE_KEYS.iter();
    let value = keys.find_map(|key| secret.data.get(*key));
    decoded(value.ok_or_else(|| invalid("no key Config"))?).map_err(invalid)
}

/// The kubeconfig in a Secret. What is said about a Secret never holds a part of it.
async fn read(
    home: Home<'_>,
    namespace: &str,
    credential: &CredentialRef,
) -> Result<String, Unusable> {
    let (name, key) = (&credential.secret, &credential.key);
    // Both are names of DNS: the decoder of MeshClusters takes no others.
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    let (copies, api) = home;
    let answer = copies.get(api, &path, &[]).await.map_err(|error| {
        let at = format!("Secret {namespace}/{name}");
        if error.is_not_found() {
            Unusable::new("SecretNotFound", format!("{at} is not there"))
        } else if error.is_forbidden() {
            Unusable::new("SecretForbidden", format!("{at} may not be read"))
        } else {
            not_read(home, &at, &error)
        }
    })?;
    text(&answer, key).map_err(|why| {
        let at = format!("Secret {namespace}/{name}, key {key}");
        Unusable::new("SecretInvalid", format!("{at}: {why}"))
    })
}

fn text(answer: &[u8], key: &str) -> Result<String, &'static str> {
    let secret: Secret = serde_json::from_slice(answer).map_err(|_| "not a Secret")?;
    decoded(secret.data.get(key).ok_or("there is no such key")?)
}

fn decoded(value: &str) -> Result<String, &'static str> {
    let bytes = STANDARD.decode(value).map_err(|_| "not base64")?;
    String::from_utf8(bytes).map_err(|_| "not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_exactly_one_secret() {
        let good = STANDARD.encode("hello");
        let list = |items: &str| only(format!(r#"{{"items":[{items}]}}"#).as_bytes());
        let one = format!(r#"{{"data":{{"Config":"{good}"}}}}"#);
        assert_eq!(list(&one).unwrap(), "hello");
        let reason = |items: &str| list(items).unwrap_err().0;
        assert_eq!(reason(""), "SecretNotFound");
        assert_eq!(reason(&format!("{one},{one}")), "SecretAmbiguous");
        assert_eq!(reason(r#"{"data":{"token":"aGVsbG8="}}"#), "SecretInvalid");
    }

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
