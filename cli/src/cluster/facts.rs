//! What can be seen of a cluster with the control plane's own credential?

use std::net::IpAddr;
use std::time::SystemTime;

use futures_util::{StreamExt as _, stream};
use ipnet::IpNet;
use isthmus_control_plane::kubernetes::{Api, ApiError, timestamp};
use serde_json::{Value, json};

use super::conditions::Condition;
use super::definitions::{self, Kinds};
use super::own_uid;
use super::properties::Stated;
use super::ranges;
use crate::install::objects::SYSTEM;
use crate::install::permissions::{PERMISSIONS, Place};
use crate::kubernetes::{Listed, list_some, strings, text};

/// Pods of one cluster whose addresses are compared.
const PODS_MAX: usize = 5_000;
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
    /// What the control plane has written of it that is not as it should be.
    pub(super) conditions: Vec<Condition>,
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
    /// The ranges that are declared for its pods.
    pub(super) pod_ranges: Vec<String>,
    /// The addresses of its pods.
    pub(super) pods: Pods,
}

/// Where the pods of a cluster are, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pods {
    /// Ranges that its Nodes have, and addresses of pods that are in none of them.
    pub(super) ranges: Vec<String>,
    /// Why there may be others, if so.
    pub(super) unknown: Option<String>,
}

/// Looks at a cluster. What is forbidden is a fact, too. Its Nodes are looked at only where the network
/// is `shared` with another cluster, or ranges are declared for its pods, and the pods themselves only
/// where none are.
pub(super) async fn of(api: &Api, mut facts: Facts, shared: bool) -> Facts {
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
        .and_then(timestamp::http_date)
        .map(|theirs| timestamp::ahead(theirs, now));
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
    facts.uid = own_uid(api).await.ok().flatten();
    match ranges::of(api).await {
        Ok(found) => facts.service_cidrs = Some(found),
        Err(why) => facts.unranged = Some(why),
    }
    let declared = !facts.pod_ranges.is_empty();
    if shared || declared {
        facts.pods = pods(api, declared).await;
    }
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

/// Nodes name the ranges of their pods, if it is Kubernetes that divides them; what a network plugin
/// divides by itself is seen by the pods only.
async fn pods(api: &Api, declared: bool) -> Pods {
    let ranges = |node: Value| strings(&node, "/spec/podCIDRs", "");
    let nodes = list_some(api, "/api/v1/nodes", &[], usize::MAX, ranges).await;
    let addresses = |pod: Value| match pod.pointer("/spec/hostNetwork") {
        Some(Value::Bool(true)) => Vec::new(),
        _ => strings(&pod, "/status/podIPs", "/ip"),
    };
    let pods = if declared {
        Ok(None)
    } else {
        list_some(api, "/api/v1/pods", &[], PODS_MAX, addresses).await
    };
    found(nodes, pods)
}

type Asked = Result<Option<Listed<Vec<String>>>, ApiError>;

fn found(nodes: Asked, pods: Asked) -> Pods {
    let mut unknown = Vec::new();
    let mut taken = |asked: Asked, what: &str| {
        let listed = asked.unwrap_or_else(|error| {
            unknown.push(format!("{what} can't be listed: {error}"));
            None
        });
        let listed = listed.unwrap_or_default();
        (listed.picked.concat(), listed.more)
    };
    let (mut ranges, _) = taken(nodes, "nodes");
    let (addresses, more) = taken(pods, "pods");
    let known: Vec<IpNet> = ranges
        .iter()
        .filter_map(|range| range.parse().ok())
        .collect();
    let none = known.is_empty();
    let outside = |address: &String| {
        let address: Option<IpAddr> = address.parse().ok();
        address.is_some_and(|address| !known.iter().any(|range| range.contains(&address)))
    };
    ranges.extend(addresses.into_iter().filter(outside));
    if unknown.is_empty() && ranges.is_empty() {
        unknown.push("no Node names a range, and no pod has an address".to_owned());
    } else if none && more {
        unknown.push(format!(
            "no Node names a range, and of the pods only the first {PODS_MAX} were compared"
        ));
    }
    Pods {
        ranges,
        unknown: (!unknown.is_empty()).then(|| unknown.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(all: &[&[&str]], more: bool) -> Asked {
        let texts = |one: &&[&str]| one.iter().map(|t| (*t).to_owned()).collect();
        let picked = all.iter().map(texts).collect();
        Ok(Some(Listed { picked, more }))
    }

    #[test]
    fn pods_that_are_in_no_range_of_a_node_are_seen_by_their_addresses() {
        let nodes = || listed(&[&["10.0.0.0/24", "fd00::/64"], &["10.0.1.0/24"]], false);
        let pods = || listed(&[&["10.0.1.9", "fd00::9"], &["10.9.0.1"]], false);
        let all = found(nodes(), pods());
        assert_eq!(
            all.ranges,
            ["10.0.0.0/24", "fd00::/64", "10.0.1.0/24", "10.9.0.1"]
        );
        assert_eq!(all.unknown, None);
        let none = || listed(&[&[], &[]], false);
        let only_pods = found(none(), pods());
        assert_eq!(only_pods.ranges, ["10.0.1.9", "fd00::9", "10.9.0.1"]);
        assert_eq!(only_pods.unknown, None);
        let nothing = found(none(), none()).unknown.unwrap();
        assert!(
            nothing.starts_with("no Node names a range, and no pod"),
            "{nothing}"
        );
        let some = found(none(), listed(&[&["10.9.0.1"]], true))
            .unknown
            .unwrap();
        assert!(some.contains("only the first 5000"), "{some}");
        assert_eq!(found(nodes(), listed(&[], true)).unknown, None);
        let failed = found(Err(ApiError::Silent), pods()).unknown.unwrap();
        assert!(failed.starts_with("nodes can't be listed"), "{failed}");
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
