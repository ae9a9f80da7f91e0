//! Does the cluster itself say that this token is one of its pods'?
//!
//! TokenReview of the cluster that the token is said to belong to, and of no other (SECURITY S9). The
//! cluster says who it is; only the end of the token is read from the token, after the cluster has
//! accepted it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_control_plane_core::issue::Claims as Reviewed;
use isthmus_proto::ids::{ClusterId, Namespace, is_object_name};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::client::Api;
use super::error::tame;
use crate::hub::Hub;
use crate::token::{AUDIENCE, KeyReviewer, Refused, TOKEN_BYTES_MAX, TokenReviewer};

/// Where reviews are asked for.
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// A proxy waits for its certificate so long at most.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// What a service account's name begins with.
const ACCOUNT: &str = "system:serviceaccount:";
/// Where the pod is named that a token is bound to.
const POD: &str = "authentication.kubernetes.io/pod-name";
/// Where its UID is, and the node that it runs on.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Asks whoever knows the tokens of a cluster: its API server, or for a folder its key.
#[derive(Debug)]
pub struct Reviewer {
    keys: KeyReviewer,
    apis: watch::Receiver<BTreeMap<ClusterId, Api>>,
    hub: Arc<Hub>,
}

impl Reviewer {
    /// The reviewer of clusters of both kinds; there are keys of folders only, and `hub` knows who
    /// belongs to the mesh.
    #[must_use]
    pub fn new(
        keys: KeyReviewer,
        apis: watch::Receiver<BTreeMap<ClusterId, Api>>,
        hub: Arc<Hub>,
    ) -> Self {
        Self { keys, apis, hub }
    }
}

impl TokenReviewer for Reviewer {
    async fn review(&self, cluster: &str, token: &str) -> Result<Reviewed, Refused> {
        let known = self.apis.borrow().get_key_value(cluster).map(owned);
        // One with an API server is never judged by a key.
        if let Some((cluster, api)) = known {
            return ask(&api, &cluster, token).await;
        }
        let member = |cluster: &str| self.hub.read(|world| world.trust_domain(cluster).is_some());
        match self.keys.review(cluster, token).await {
            Err(Refused::UnknownCluster(cluster)) if member(&cluster) => {
                let why = format!("there is no way to the API server of {cluster}");
                Err(Refused::Unavailable(why))
            }
            result => result,
        }
    }
}

fn owned((cluster, api): (&ClusterId, &Api)) -> (ClusterId, Api) {
    (cluster.clone(), api.clone())
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: ReviewStatus,
}

/// `authentication.k8s.io/v1` TokenReviewStatus.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

async fn ask(api: &Api, cluster: &ClusterId, token: &str) -> Result<Reviewed, Refused> {
    let answer = review(api, cluster, token, AUDIENCE).await?;
    judge(cluster, token, answer)
}

/// Whose token for this audience is it, as the cluster has it: `NAMESPACE:SERVICE-ACCOUNT`.
///
/// # Errors
/// It is no service account's, not for this audience, or the cluster can't be asked.
pub(crate) async fn account(
    api: &Api,
    cluster: &ClusterId,
    token: &str,
    audience: &str,
) -> Result<String, Refused> {
    let answer = review(api, cluster, token, audience).await?;
    let user = accepted(cluster, answer, audience)?.user;
    let account = user.username.strip_prefix(ACCOUNT);
    account.map(tame).ok_or(Refused::Subject)
}

async fn review(
    api: &Api,
    cluster: &ClusterId,
    token: &str,
    audience: &str,
) -> Result<Value, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::Malformed("larger than 16 KiB"));
    }
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": token, "audiences": [audience] },
    });
    let unavailable = |why: String| Refused::Unavailable(format!("cluster {cluster}: {why}"));
    timeout(REVIEW_TIMEOUT, Box::pin(api.create(REVIEWS, &question)))
        .await
        .map_err(|_| unavailable("no answer in time".to_owned()))?
        .map_err(|error| unavailable(error.to_string()))
}

/// Whom the cluster has recognised, by a token for this audience.
fn accepted(cluster: &ClusterId, answer: Value, audience: &str) -> Result<ReviewStatus, Refused> {
    let review = Review::deserialize(answer)
        .map_err(|_| Refused::Unavailable(format!("cluster {cluster}: no TokenReview")))?;
    let status = review.status;
    if !status.authenticated {
        return Err(Refused::Rejected {
            cluster: cluster.clone(),
            why: tame(&status.error),
        });
    }
    // A server that does not know audiences says none (TokenReview's documentation): it has then
    // said nothing about for whom the token is.
    if !status.audiences.iter().any(|named| named == audience) {
        return Err(Refused::Audience);
    }
    Ok(status)
}

/// What the cluster's word is worth.
fn judge(cluster: &ClusterId, token: &str, answer: Value) -> Result<Reviewed, Refused> {
    let ReviewStatus {
        user, audiences, ..
    } = accepted(cluster, answer, AUDIENCE)?;
    let account = user.username.strip_prefix(ACCOUNT);
    let (namespace, account) = account
        .and_then(|account| account.split_once(':'))
        .ok_or(Refused::Subject)?;
    let namespace: Namespace = namespace.parse().map_err(|_| Refused::Subject)?;
    // Not bound to a pod: it would outlive whatever it was made for.
    let pod = match user.extra.get(POD).map(Vec::as_slice) {
        Some([pod]) if is_object_name(pod) && is_object_name(account) => pod.clone(),
        Some(_) | None => return Err(Refused::Subject),
    };
    let only = |key: &str| match user.extra.get(key).map(Vec::as_slice) {
        Some([value]) => Some(tame(value)),
        Some(_) | None => None,
    };
    Ok(Reviewed {
        cluster: cluster.clone(),
        namespace: namespace.to_string(),
        service_account: account.to_owned(),
        pod: Some(pod),
        pod_uid: only(POD_UID),
        node: only(NODE),
        node_uid: only(NODE_UID),
        audiences,
        not_before: None,
        expires: end(token).ok_or(Refused::Malformed("it never ends"))?,
    })
}

/// When a token ends, by its own words: believed only of one that its cluster has accepted.
fn end(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Ends {
        exp: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let ends: Ends = serde_json::from_slice(&payload).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(ends.exp))
}

#[cfg(test)]
mod tests;
