//! When does the credential of a cluster that joined end, and how is it renewed before?
//!
//! `isthmus cluster join` writes a Secret with a kubeconfig whose user has a bound token. The token
//! says itself when it ends and whose it is, and its own service account may ask for the next one: no
//! more permission is needed than for that account's name (TokenRequest). The new token is tried
//! before it is written, and written only over the Secret that was read.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use crate::kubernetes::{Access, Allow, Api, ApiError, Credential, Refused, Roots, kubeconfig};
use crate::manifest::yaml;

/// API servers give no shorter ones.
const LIFETIME_MIN: Duration = Duration::from_secs(600);
/// The annotation of a credential's Secret that says when it ends, in seconds since 1970.
pub const EXPIRES_ANNOTATION: &str = "isthmus.dev/expires";
/// What a service account is called as a user.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The ConfigMap of every namespace that has the roots of its cluster's API server.
const ROOT_CA: &str = "kube-root-ca.crt";
/// More of it is not taken, in bytes.
const ROOTS_BYTES_MAX: usize = 64 << 10;
/// Longest token that is looked into, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Where a credential lies: a Secret of the home cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The Secret's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key that has the kubeconfig.
    pub key: String,
}

/// A bound token's own word. It is not verified here: who accepts the token does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The namespace of its service account.
    pub namespace: String,
    /// Its service account.
    pub account: String,
    /// When it was issued.
    pub issued: SystemTime,
    /// When it ends.
    pub expires: SystemTime,
}

/// What came of a look at a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tended {
    /// It is not time yet: look again then.
    Until(SystemTime),
    /// There is a new one, which ends then.
    Renewed(SystemTime),
    /// It does not end, or is not a service account's: somebody else looks after it.
    NotOurs,
}

/// Why a credential is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The Secret is not what a MeshCluster's is.
    #[error("the Secret {place}: {why}")]
    Secret {
        /// `namespace/name`.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kubeconfig is not taken.
    #[error("the kubeconfig is refused")]
    Kubeconfig(#[from] Refused),
    /// The home cluster does not give or take the Secret.
    #[error("the home cluster")]
    Home(#[source] ApiError),
    /// The cluster does not give a token.
    #[error("asking the cluster for a token")]
    Request(#[source] ApiError),
    /// The cluster does not take the token that it gave.
    #[error("trying the new token")]
    Try(#[source] ApiError),
}

impl Life {
    /// Of a token; `None`: it is no bound token of a service account.
    #[must_use]
    pub fn of(token: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
            iat: u64,
            exp: u64,
        }
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let (namespace, account) = claims.sub.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Some(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issued: at(claims.iat)?,
            expires: at(claims.exp)?,
        })
    }

    /// How long it lives.
    #[must_use]
    pub fn whole(&self) -> Duration {
        self.expires.duration_since(self.issued).unwrap_or_default()
    }

    /// When it should be renewed: two thirds of its life are left, for clusters that are away and for a
    /// control plane that is.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.issued + self.whole() / 3
    }
}

/// Looks at a credential, and renews it if it is time. For one replica at a time: the leader's.
///
/// # Errors
/// It can't be read, or is due and not renewed. What there is stays.
pub async fn tend(
    home: &Api,
    place: &Place,
    allow: &Allow,
    now: SystemTime,
) -> Result<Tended, CredentialError> {
    let path = format!(
        "/api/v1/namespaces/{}/secrets/{}",
        place.namespace, place.name
    );
    let body = home.get(&path).await.map_err(CredentialError::Home)?;
    let (mut secret, text) = place.read(&body)?;
    let access = kubeconfig(&text, None, allow)?;
    let Credential::Token(token) = &access.credential else {
        return Ok(Tended::NotOurs);
    };
    let Some(life) = Life::of(token) else {
        return Ok(Tended::NotOurs);
    };
    if now < life.due() {
        return Ok(Tended::Until(life.due()));
    }
    // As long as whoever joined the cluster has chosen. The server may give less.
    let lifetime = life.whole().max(LIFETIME_MIN);
    let issued = Api::new(access.clone())?
        .token((&life.namespace, &life.account), &[], None, lifetime)
        .await
        .map_err(CredentialError::Request)?;
    let renewed = Access {
        credential: Credential::Token(issued.token.clone()),
        ..access
    };
    let by = tried(renewed).await.map_err(CredentialError::Try)?;
    let roots = told_roots(&by, &life.namespace).await;
    let renewed = with(&text, &issued.token, roots.as_deref());
    let renewed = renewed.ok_or_else(|| place.wrong("no user with a token"))?;
    secret["data"][&place.key] = STANDARD.encode(renewed).into();
    let expires = issued.expires.duration_since(SystemTime::UNIX_EPOCH);
    if let (Ok(expires), Some(annotations)) = (expires, annotations(&mut secret)) {
        let seconds = expires.as_secs().to_string();
        annotations.insert(EXPIRES_ANNOTATION.to_owned(), seconds.into());
    }
    // With its resource version: over the Secret that was read, or not at all, because a person may
    // have replaced it meanwhile.
    home.replace(&path, &secret)
        .await
        .map_err(CredentialError::Home)?;
    Ok(Tended::Renewed(issued.expires))
}

fn annotations(secret: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    secret.pointer_mut("/metadata/annotations")?.as_object_mut()
}

/// Does it open the door?
async fn tried(access: Access) -> Result<Api, ApiError> {
    let api = Api::new(access);
    let api = api.map_err(|refused| ApiError::Malformed(refused.to_string()))?;
    api.is_let_in().await?;
    Ok(api)
}

/// The roots that the cluster gives its own pods, where they are others than ours: while a CA is
/// replaced, the old and the new one. They are asked for while the old one still vouches for who answers, and taken only
/// if they vouch for it, too: what stands before an API server may have a certificate of somebody else.
async fn told_roots(api: &Api, namespace: &str) -> Option<String> {
    let Roots::Given(ours) = &api.access().roots else {
        return None;
    };
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{ROOT_CA}");
    // Not there, or not ours to read: as it was before.
    let told = api.get(&path).await.ok()?;
    let told: Value = serde_json::from_slice(&told).ok()?;
    let pem = told["data"]["ca.crt"].as_str()?;
    if pem.len() > ROOTS_BYTES_MAX {
        return None;
    }
    let roots = Roots::of_pem(ROOT_CA, pem.as_bytes()).ok()?;
    let Roots::Given(theirs) = &roots else {
        return None;
    };
    if theirs.iter().all(|root| ours.contains(root)) {
        return None;
    }
    let through = Access {
        roots,
        ..api.access().clone()
    };
    tried(through).await.ok()?;
    Some(pem.to_owned())
}

impl Place {
    /// The Secret, and the kubeconfig in it.
    fn read(&self, body: &[u8]) -> Result<(Value, String), CredentialError> {
        let secret: Value = serde_json::from_slice(body).map_err(|_| self.wrong("not JSON"))?;
        if !secret["metadata"]["resourceVersion"].is_string() {
            return Err(self.wrong("it has no resource version"));
        }
        let data = secret["data"][&self.key].as_str();
        let data = data.ok_or_else(|| self.wrong("it has not the key"))?;
        let bytes = STANDARD
            .decode(data)
            .map_err(|_| self.wrong("it is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| self.wrong("it is no text"))?;
        Ok((secret, text))
    }

    fn wrong(&self, why: &str) -> CredentialError {
        CredentialError::Secret {
            place: format!("{}/{}, key {}", self.namespace, self.name, self.key),
            why: why.to_owned(),
        }
    }
}

/// The kubeconfig with another token for the user of its current context, and with these roots, if
/// any, for its cluster.
fn with(text: &str, token: &str, roots: Option<&str>) -> Option<String> {
    let mut config: Value = serde_saphyr::from_str(text).ok()?;
    let named = |list: &str, name: &str| {
        let all = config.get(list)?.as_array()?;
        all.iter().position(|entry| entry["name"] == name)
    };
    let context = named("contexts", config["current-context"].as_str()?)?;
    let user = config["contexts"][context]["context"]["user"].as_str()?;
    let user = named("users", user)?;
    let cluster = config["contexts"][context]["context"]["cluster"].as_str();
    if let (Some(roots), Some(cluster)) = (roots, cluster.and_then(|at| named("clusters", at))) {
        let cluster = config.get_mut("clusters")?.get_mut(cluster)?;
        let held = cluster.pointer_mut("/cluster/certificate-authority-data")?;
        *held = STANDARD.encode(roots).into();
    }
    let user = config.get_mut("users")?.get_mut(user)?.get_mut("user")?;
    *user.get_mut("token")? = token.into();
    Some(yaml::text(&config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_token_says_whose_it_is_and_when_a_third_of_it_is_over() {
        let claims = json!({ "sub": "system:serviceaccount:isthmus-system:isthmus-control-plane",
            "iat": 1_000, "exp": 4_000, "aud": ["x"] });
        let life = Life::of(&token(&claims)).unwrap();
        assert_eq!(
            (life.namespace.as_str(), life.account.as_str()),
            ("isthmus-system", "isthmus-control-plane")
        );
        assert_eq!(
            life.due(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(2_000)
        );
    }

    #[test]
    fn what_is_no_bound_token_is_left_alone() {
        for claims in [
            json!({ "sub": "system:serviceaccount:a:b", "iat": 1 }),
            json!({ "sub": "admin", "iat": 1, "exp": 2 }),
            json!({ "sub": "system:serviceaccount:a:b", "iat": 1, "exp": -2 }),
            json!([]),
        ] {
            assert_eq!(Life::of(&token(&claims)), None, "{claims}");
        }
        for text in [
            "",
            "admintoken",
            "a.b",
            "a.%.c",
            &"a".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert_eq!(Life::of(text), None, "{text:.20}");
        }
        // One that ends before it begins is due at once.
        let claims = json!({ "sub": "system:serviceaccount:a:b", "iat": 9, "exp": 5 });
        assert_eq!(
            Life::of(&token(&claims)).unwrap().due(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(9)
        );
    }

    #[test]
    fn only_the_roots_of_the_current_cluster_are_others() {
        let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
                    clusters: [{name: b, cluster: {certificate-authority-data: b2xk}}, \
                    {name: c, cluster: {certificate-authority-data: b2xk}}]\n\
                    users: [{name: u, user: {token: old}}]\n";
        let renewed = with(text, "new", Some("PEM")).unwrap();
        let renewed: Value = serde_saphyr::from_str(&renewed).unwrap();
        let of = |at: usize| &renewed["clusters"][at]["cluster"]["certificate-authority-data"];
        assert_eq!((of(0), of(1)), (&json!("b2xk"), &json!("UEVN")));
    }

    #[test]
    fn only_the_token_of_the_current_user_is_another() {
        let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
                    users: [{name: v, user: {token: other}}, {name: u, user: {token: old}}]\n";
        let renewed = |roots| with(text, "new", roots);
        let renewed: Value = serde_saphyr::from_str(&renewed(None).unwrap()).unwrap();
        assert_eq!(renewed["users"][0]["user"]["token"], "other");
        assert_eq!(renewed["users"][1]["user"]["token"], "new");
        assert_eq!(renewed["contexts"][0]["context"]["cluster"], "c");
        assert_eq!(
            with("current-context: b\ncontexts: []\nusers: []\n", "new", None),
            None
        );
    }
}
