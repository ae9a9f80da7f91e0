//! Is this token what a cluster gave to one of its pods?
//!
//! A cluster with an API server asks that (TokenReview). A cluster that is only a folder of
//! manifests has a token key here: its tokens are compact JWS with HMAC-SHA-256 (RFC 7515), with the
//! claims of a Kubernetes service-account token.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
pub use isthmus_control_plane_core::issue::AUDIENCE;
use isthmus_control_plane_core::issue::Claims as Reviewed;
use isthmus_proto::ids::{ClusterId, Namespace, WorkloadName, is_object_name};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::keys::TokenKey;
use crate::state::{StateDir, StateError};

/// How long a token of `isthmus token` is valid.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Largest token, in bytes. Tokens of API servers have about 1,200.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The only algorithm that is believed.
const ALGORITHM: &str = "HS256";
/// What a service account's subject begins with.
const SUBJECT: &str = "system:serviceaccount:";

/// What a token of a pod says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The cluster that gave it.
    pub cluster: ClusterId,
    /// The pod's namespace.
    pub namespace: Namespace,
    /// The pod's service account: a DNS name.
    pub service_account: String,
    /// The pod.
    pub pod: String,
    /// When it ends; whole seconds.
    pub expires: SystemTime,
}

impl Claims {
    /// The claims of a pod's token.
    ///
    /// # Errors
    /// The account or the pod is no Kubernetes name.
    pub fn new(
        workload: &WorkloadName,
        service_account: &str,
        expires: SystemTime,
    ) -> Result<Self, Refused> {
        let names = (
            workload.cluster().parse().ok(),
            workload.namespace().parse().ok(),
        );
        let (Some(cluster), Some(namespace)) = names else {
            return Err(Refused::Subject);
        };
        if !is_object_name(service_account) {
            return Err(Refused::Subject);
        }
        let (service_account, pod) = (service_account.to_owned(), workload.pod().to_owned());
        Ok(Self {
            cluster,
            namespace,
            service_account,
            pod,
            expires,
        })
    }
}

impl From<Claims> for Reviewed {
    fn from(claims: Claims) -> Self {
        Self {
            cluster: claims.cluster,
            namespace: claims.namespace.to_string(),
            service_account: claims.service_account,
            pod: Some(claims.pod),
            pod_uid: None,
            node: None,
            node_uid: None,
            audiences: vec![AUDIENCE.to_owned()],
            not_before: None,
            expires: claims.expires,
        }
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The cluster is not of this mesh.
    #[error("the mesh has no cluster {0:?}")]
    UnknownCluster(String),
    /// Not a compact JWS of ours.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// `none`, or another algorithm than the key is for.
    #[error("the token's algorithm is not HS256")]
    Algorithm,
    /// Not signed by that cluster.
    #[error("the token is not signed by cluster {0}")]
    Signature(ClusterId),
    /// It is another cluster's, by its own words.
    #[error("the token is of cluster {issuer:?}, not of {cluster}")]
    Foreign {
        /// Whose token it was said to be.
        cluster: ClusterId,
        /// Whose it says to be.
        issuer: String,
    },
    /// For somebody else.
    #[error("the token's audience is not \"isthmus\"")]
    Audience,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// Not a service account and a pod.
    #[error("the token's subject is not a service account of a pod")]
    Subject,
    /// The cluster's API server was asked, and said no.
    #[error("cluster {cluster} does not accept the token: {why}")]
    Rejected {
        /// The cluster.
        cluster: ClusterId,
        /// In its own words.
        why: String,
    },
    /// Whoever knows could not be asked; worth another try.
    #[error("the token could not be reviewed: {0}")]
    Unavailable(String),
}

/// Who can tell whether a token is good: the seam for TokenReview of Kubernetes.
pub trait TokenReviewer: Send + Sync + 'static {
    /// Asks the cluster that the token is said to belong to.
    ///
    /// # Errors
    /// Why the token says nothing.
    fn review(
        &self,
        cluster: &str,
        token: &str,
    ) -> impl Future<Output = Result<Reviewed, Refused>> + Send;
}

/// The reviewer of clusters that are folders: by their token keys.
#[derive(Debug)]
pub struct KeyReviewer {
    keys: BTreeMap<ClusterId, TokenKey>,
}

impl KeyReviewer {
    /// Opens, or makes, the token key of each cluster.
    ///
    /// # Errors
    /// The state folder can't be used.
    pub fn open<'a>(
        state: &StateDir,
        clusters: impl IntoIterator<Item = &'a ClusterId>,
    ) -> Result<Self, StateError> {
        let open = |cluster: &ClusterId| Ok((cluster.clone(), TokenKey::open(state, cluster)?));
        Ok(Self {
            keys: clusters
                .into_iter()
                .map(open)
                .collect::<Result<_, StateError>>()?,
        })
    }
}

impl TokenReviewer for KeyReviewer {
    fn review(
        &self,
        cluster: &str,
        token: &str,
    ) -> impl Future<Output = Result<Reviewed, Refused>> + Send {
        ready(match self.keys.get_key_value(cluster) {
            Some((cluster, key)) => {
                verify(key, cluster, token, SystemTime::now()).map(Reviewed::from)
            }
            None => Err(Refused::UnknownCluster(cluster.chars().take(64).collect())),
        })
    }
}

impl<R: TokenReviewer> TokenReviewer for Arc<R> {
    fn review(
        &self,
        cluster: &str,
        token: &str,
    ) -> impl Future<Output = Result<Reviewed, Refused>> + Send {
        R::review(self, cluster, token)
    }
}

/// Makes a token with the token key in `state_dir`.
///
/// # Errors
/// There is no such key: no control plane has started there with this cluster. Or it can't be read.
pub fn mint(state_dir: &Path, claims: &Claims) -> Result<String, StateError> {
    let key = TokenKey::read(state_dir, &claims.cluster)?;
    Ok(sign(&key, claims))
}

/// JOSE header. An unknown field, also `crit`, is refused: what it asks for would not be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    #[serde(rename = "typ")]
    _type: Option<String>,
    #[serde(rename = "kid")]
    _key: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// RFC 7519 §4.1.3: one, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    pod: Named,
    serviceaccount: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

fn sign(key: &TokenKey, claims: &Claims) -> String {
    let (namespace, account) = (&claims.namespace, &claims.service_account);
    let expires = claims
        .expires
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // As `Header` and `Payload` read it.
    let header = json!({ "alg": ALGORITHM, "typ": "JWT" });
    let payload = json!({
        "iss": claims.cluster.as_str(),
        "sub": format!("{SUBJECT}{namespace}:{account}"),
        "aud": [AUDIENCE],
        "exp": expires.as_secs(),
        "kubernetes.io": {
            "namespace": namespace.as_str(),
            "pod": { "name": claims.pod },
            "serviceaccount": { "name": account },
        },
    });
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(header), part(payload));
    let tag = mac(key, signed.as_bytes()).finalize().into_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// What the token says, if `cluster` signed it, it is for us, and it has not ended.
fn verify(
    key: &TokenKey,
    cluster: &ClusterId,
    token: &str,
    now: SystemTime,
) -> Result<Claims, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::Malformed("larger than 16 KiB"));
    }
    let shape = Refused::Malformed("not three parts");
    let (signed, tag) = token.rsplit_once('.').ok_or_else(|| shape.clone())?;
    let (header, payload) = signed.split_once('.').ok_or(shape)?;
    let bytes = |text: &str| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Refused::Malformed("not base64url"))
    };
    let header: Header = serde_json::from_slice(&bytes(header)?)
        .map_err(|_| Refused::Malformed("the header is not understood"))?;
    // The key decides the algorithm, never the token (RFC 8725 §3.1).
    if header.alg != ALGORITHM {
        return Err(Refused::Algorithm);
    }
    let payload: Result<Payload, _> = serde_json::from_slice(&bytes(payload)?);
    // Constant time.
    if mac(key, signed.as_bytes())
        .verify_slice(&bytes(tag)?)
        .is_err()
    {
        // Nothing of it is believed; the issuer that it names only makes the refusal clearer.
        return Err(match payload {
            Ok(payload) if payload.iss != cluster.as_str() => {
                let issuer = payload.iss.chars().take(64).collect();
                Refused::Foreign {
                    cluster: cluster.clone(),
                    issuer,
                }
            }
            Ok(_) | Err(_) => Refused::Signature(cluster.clone()),
        });
    }
    let payload = payload.map_err(|_| Refused::Malformed("the claims are not understood"))?;
    judge(&payload, cluster, now)
}

/// The claims of a token whose signature is right.
fn judge(payload: &Payload, cluster: &ClusterId, now: SystemTime) -> Result<Claims, Refused> {
    if payload.iss != cluster.as_str() {
        let issuer = payload.iss.chars().take(64).collect();
        return Err(Refused::Foreign {
            cluster: cluster.clone(),
            issuer,
        });
    }
    let for_us = match &payload.aud {
        Audience::One(one) => one == AUDIENCE,
        Audience::Many(many) => many.iter().any(|one| one == AUDIENCE),
    };
    if !for_us {
        return Err(Refused::Audience);
    }
    let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let expires = at(payload.exp).ok_or(Refused::Malformed("it never ends"))?;
    if expires <= now {
        return Err(Refused::Expired);
    }
    if payload
        .nbf
        .is_some_and(|from| at(from).is_none_or(|from| from > now))
    {
        return Err(Refused::Malformed("it is not valid yet"));
    }
    let kubernetes = &payload.kubernetes;
    let subject = format!(
        "{SUBJECT}{}:{}",
        kubernetes.namespace, kubernetes.serviceaccount.name
    );
    if payload.sub != subject {
        return Err(Refused::Subject);
    }
    let workload = format!("{cluster}/{}/{}", kubernetes.namespace, kubernetes.pod.name);
    let workload = workload.parse().map_err(|_| Refused::Subject)?;
    Claims::new(&workload, &kubernetes.serviceaccount.name, expires)
}

fn mac(key: &TokenKey, bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key.secret())
        .expect("HMAC takes keys of every length (RFC 2104 §2)");
    mac.update(bytes);
    mac
}

#[cfg(test)]
mod tests;
