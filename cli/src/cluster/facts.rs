//! What can be seen of a cluster with the control plane's own credential?

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use isthmus_control_plane::kubernetes::{Api, ApiError, timestamp};
use serde_json::{Value, json};

use super::OLDEST;
use super::definitions::{self, Kinds};
use super::properties::Stated;
use super::ranges;
use crate::install::objects::SYSTEM;
use crate::install::permissions::{PERMISSIONS, Place};
use crate::kubernetes::{self, text};

/// Questions of one cluster that are asked at a time.
const AT_A_TIME: usize = 8;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// A cluster, as far as it could be seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Its name in the mesh.
    pub(super) name: String,
    /// Does the control plane run in it?
    pub(super) home: bool,
    /// The network that it says it is on.
    pub(super) network: String,
    /// The trust domain that is written for it.
    pub(super) trust_domain: Option<String>,
    /// Why it can't be looked at, if so: the credential, or the way.
    pub(super) unreachable: Option<String>,
    /// Its version.
    pub(super) version: String,
    /// How far its clock is ahead of ours, in seconds.
    pub(super) ahead: Option<i64>,
    /// What the control plane may not do: verb and resource, and where.
    pub(super) forbidden: Vec<String>,
    /// Which kinds are not as they should be.
    pub(super) kinds: Kinds,
    /// What it states of itself.
    pub(super) stated: Stated,
    /// UID of its oldest namespace.
    pub(super) uid: Option<String>,
    /// The ranges that its services have addresses from; `None`: it does not say.
    pub(super) service_cidrs: Option<Vec<String>>,
    /// Why those ranges can't be found out, if so.
    pub(super) unranged: Option<String>,
    /// The ranges that its Nodes say that its pods have addresses from.
    pub(super) pod_cidrs: Vec<String>,
    /// Those that are declared for it.
    pub(super) pod_ranges: Vec<String>,
}

/// Looks at a cluster. What is forbidden is a fact, too.
pub(super) async fn of(api: &Api, mut facts: Facts) -> Facts {
    let asked = SystemTime::now();
    let date = match api.date().await {
        Ok(date) => date,
        Err(error) => {
            facts.unreachable = Some(error.to_string());
            return facts;
        }
    };
    // Half of the way there and back.
    let now = asked + asked.elapsed().unwrap_or_default() / 2;
    facts.ahead = date
        .as_deref()
        .and_then(http_date)
        .map(|theirs| seconds(theirs, now));
    match api.get("/version").await {
        Ok(body) => {
            let version: Value = serde_json::from_slice(&body).unwrap_or_default();
            facts.version = text(&version, "/gitVersion").to_owned();
        }
        Err(error) => {
            facts.unreachable = Some(error.to_string());
            return facts;
        }
    }
    match forbidden(api, facts.home).await {
        Ok(found) => facts.forbidden = found,
        Err(error) => {
            facts.unreachable = Some(error.to_string());
            return facts;
        }
    }
    facts.kinds = definitions::of(api).await;
    // Who may not read them has been told so.
    facts.stated = Stated::of(api).await.unwrap_or_default();
    let oldest = kubernetes::find(api, OLDEST).await.ok().flatten();
    facts.uid = oldest.map(|namespace| text(&namespace, "/metadata/uid").to_owned());
    match ranges::of(api).await {
        Ok(found) => facts.service_cidrs = Some(found),
        Err(why) => facts.unranged = Some(why),
    }
    let nodes = cidrs(api, "/api/v1/nodes", "/spec/podCIDRs").await;
    facts.pod_cidrs = nodes.unwrap_or_default();
    facts
}

/// Asks for each permission by itself.
async fn forbidden(api: &Api, home: bool) -> Result<Vec<String>, ApiError> {
    let needed = PERMISSIONS
        .iter()
        .filter(|p| home || p.place != Place::Home);
    let questions: Vec<Value> = needed.flat_map(|p| p.questions(SYSTEM)).collect();
    let answers: Vec<Result<Option<String>, ApiError>> = stream::iter(questions)
        .map(|attributes| async move {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": { "resourceAttributes": attributes },
            });
            let answer = api.create(REVIEWS, &review).await?;
            let allowed = answer.pointer("/status/allowed") == Some(&Value::Bool(true));
            Ok((!allowed).then(|| told(&attributes)))
        })
        .buffered(AT_A_TIME)
        .collect()
        .await;
    let found: Result<Vec<Option<String>>, ApiError> = answers.into_iter().collect();
    Ok(found?.into_iter().flatten().collect())
}

/// `patch serviceimports/status.multicluster.x-k8s.io`
fn told(attributes: &Value) -> String {
    let part = |key: &str| attributes[key].as_str().unwrap_or("");
    let mut out = format!("{} {}", part("verb"), part("resource"));
    for (mark, key) in [("/", "subresource"), (".", "group"), (" in ", "namespace")] {
        if !part(key).is_empty() {
            out.push_str(mark);
            out.push_str(part(key));
        }
    }
    out
}

async fn cidrs(api: &Api, path: &str, pointer: &str) -> Option<Vec<String>> {
    let items = kubernetes::list(api, path).await.ok().flatten()?;
    let ranges = items
        .iter()
        .filter_map(|item| item.pointer(pointer)?.as_array());
    Some(
        ranges
            .flatten()
            .filter_map(|range| range.as_str().map(ToOwned::to_owned))
            .collect(),
    )
}

fn seconds(theirs: SystemTime, ours: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => whole(ahead),
        Err(behind) => -whole(behind.duration()),
    }
}

/// `Sun, 22 Nov 2026 21:03:57 GMT` (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    timestamp::parse(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let at = http_date("Sun, 22 Nov 2026 17:03:09 GMT").unwrap();
        assert_eq!(Some(at), timestamp::parse("2026-11-22T17:03:09Z"));
        assert_eq!(seconds(at, at + Duration::from_secs(90)), -90);
        for bad in [
            "",
            "Sun, 22 Nov 2026 17:03:09",
            "Sun, 22 Foo 2026 17:03:09 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_permission_is_named_as_kubectl_would() {
        let asked = json!({ "group": "g.io", "resource": "a", "subresource": "status", "verb": "patch", "namespace": "n" });
        assert_eq!(told(&asked), "patch a/status.g.io in n");
        assert_eq!(
            told(&json!({ "group": "", "resource": "pods", "verb": "list" })),
            "list pods"
        );
    }
}
