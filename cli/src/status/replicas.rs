//! Which replicas of the control plane are there, and what do they say together?
//!
//! A proxy is connected to one of them, and each watches the clusters by itself: one alone knows half of
//! the proxies, and cannot say that another one is lost.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use isthmus_control_plane::admin::{ACCOUNT as ADMIN, AUDIENCE};
use isthmus_control_plane::kubernetes::client::Api;
use isthmus_proto::admin::Token;
use serde_json::{Value, json};

use super::forward::Forward;
use super::{ask, items};
use crate::args::Reach;
use crate::client;
use crate::install::objects::{COMPONENT, SYSTEM};
use crate::install::permissions::ACCOUNT;
use crate::kubernetes::{self, text};

/// A token for a few questions: the shortest that an API server makes.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// One pod of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replica {
    name: String,
    /// Its pod is ready, so that proxies are sent to it.
    ready: bool,
    /// It holds the Lease, and writes; `None`: that could not be seen.
    leads: Option<bool>,
}

/// What every ready replica says, as one.
///
/// # Errors
/// There is no replica, or none that answers.
pub(super) async fn look(reach: &Reach) -> anyhow::Result<Value> {
    let (replicas, token) = list(reach).await?;
    let asked = replicas.iter().map(|one| answer(reach, one, &token));
    let answers = join_all(asked).await;
    let said = replicas.into_iter().zip(answers).collect();
    merged(said)
}

/// A page of the replica that leads; of another one if that does not answer.
///
/// # Errors
/// None of them answers.
pub(super) async fn page(reach: &Reach, path: &str) -> anyhow::Result<Value> {
    let (mut replicas, token) = list(reach).await?;
    replicas.retain(|replica| replica.ready);
    replicas.sort_by_key(|replica| replica.leads != Some(true));
    let mut why = Vec::new();
    for replica in replicas {
        match ask_one(reach, &replica, &token, path).await {
            Ok(page) => return Ok(page),
            Err(error) => why.push(format!("{}: {error:#}", replica.name)),
        }
    }
    if why.is_empty() {
        bail!("no pod of the control plane in {SYSTEM} is ready");
    }
    bail!("no pod of the control plane answers: {}", why.join("; "))
}

/// A page of every replica of an installed control plane, by its pod's name; why it can't be asked, if so.
///
/// # Errors
/// There is no replica.
pub(crate) async fn each(
    reach: &Reach,
    path: &str,
) -> anyhow::Result<Vec<(String, Result<Value, String>)>> {
    let (replicas, token) = list(reach).await?;
    let asked = replicas.iter().map(async |replica| {
        let answer = ask_one(reach, replica, &token, path).await;
        answer.map_err(|error| format!("{error:#}"))
    });
    let answers = join_all(asked).await;
    let names = replicas.iter().map(|replica| replica.name.clone());
    Ok(names.zip(answers).collect())
}

async fn ask_one(
    reach: &Reach,
    replica: &Replica,
    token: &Token,
    path: &str,
) -> anyhow::Result<Value> {
    ensure!(replica.ready, "its pod is not ready");
    let forward = Forward::open(reach, &replica.name).await?;
    client::json(&forward.door(token), path).await
}

/// A token of the service account for admins: whoever may make one is an admin.
async fn token(api: &Api) -> anyhow::Result<Token> {
    let issued = api.token((SYSTEM, ADMIN), &[AUDIENCE], None, TOKEN_LIFETIME);
    let issued = issued.await.with_context(|| {
        format!("making a token of service account {SYSTEM}/{ADMIN}, which says that you are an admin of the mesh")
    })?;
    Ok(Token::read(issued.token.as_bytes())?)
}

/// The pods of the control plane in the cluster of this context, by name, and what they ask for.
async fn list(reach: &Reach) -> anyhow::Result<(Vec<Replica>, Token)> {
    let api = kubernetes::connect(reach.kubeconfig.as_deref(), reach.context.as_deref())?;
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods");
    let (label, value) = COMPONENT;
    let selector = format!("app.kubernetes.io/name=isthmus,{label}={value}");
    let pods = api.list(&path, &[("labelSelector", &selector)]).await;
    let pods = pods.context("listing the pods of the control plane")?;
    let pods: Value = serde_json::from_slice(&pods)?;
    let pods = items(&pods["items"]);
    ensure!(
        !pods.is_empty(),
        "there is no pod of a control plane in {SYSTEM}: is it installed in this cluster?"
    );
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{ACCOUNT}");
    let lease = kubernetes::find(&api, &path).await.ok();
    let leader = lease.map(|lease| leader(&lease.unwrap_or_default()).to_owned());
    let replica = |pod: &Value| {
        let name = text(pod, "/metadata/name");
        Replica {
            name: name.to_owned(),
            ready: is_ready(pod),
            leads: leader.as_ref().map(|leader| leader == name),
        }
    };
    let mut replicas: Vec<Replica> = pods.iter().map(replica).collect();
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((replicas, token(&api).await?))
}

/// The pod that holds a Lease: what makes the holder no other's stands behind its name.
fn leader(lease: &Value) -> &str {
    let holder = text(lease, "/spec/holderIdentity");
    holder.rsplit_once('_').map_or(holder, |(pod, _)| pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = items(&pod["status"]["conditions"]);
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    conditions.iter().any(ready) && pod["metadata"].get("deletionTimestamp").is_none()
}

/// What one says; why it can't be asked, if so.
async fn answer(reach: &Reach, replica: &Replica, token: &Token) -> Result<Value, String> {
    if !replica.ready {
        return Err("its pod is not ready".to_owned());
    }
    let forward = Forward::open(reach, &replica.name).await;
    let forward = forward.map_err(|error| format!("{error:#}"))?;
    let said = ask(Some(&forward.door(token)), &[]).await;
    let pages = ["world", "services", "proxies"];
    match pages.iter().find_map(|page| said[page]["error"].as_str()) {
        Some(error) => Err(error.to_owned()),
        None => Ok(said),
    }
}

/// The proxies of all; the world and the services as the one that leads sees them.
fn merged(said: Vec<(Replica, Result<Value, String>)>) -> anyhow::Result<Value> {
    let mut proxies = Vec::new();
    let mut replicas = Vec::new();
    let mut best: Option<(bool, Value)> = None;
    for (replica, answer) in said {
        let leads = replica.leads == Some(true);
        let mut row = json!({
            "name": replica.name, "ready": replica.ready, "leads": replica.leads,
        });
        match answer {
            Ok(said) => {
                let clusters = items(&said["world"]["clusters"]);
                let synced = clusters.iter().filter(|one| one["state"] == "synced");
                row["synced"] = synced.count().into();
                row["clusters"] = clusters.len().into();
                row["proxies"] = items(&said["proxies"]).len().into();
                proxies.extend(items(&said["proxies"]).iter().map(|proxy| {
                    let mut proxy = proxy.clone();
                    proxy["replica"] = replica.name.as_str().into();
                    proxy
                }));
                if best.as_ref().is_none_or(|(best, _)| leads && !best) {
                    best = Some((leads, said));
                }
            }
            Err(why) => row["error"] = why.into(),
        }
        replicas.push(row);
    }
    let Some((_, mut seen)) = best else {
        let why = replicas.iter().map(|row| {
            let (name, why) = (text(row, "/name"), text(row, "/error"));
            format!("{name}: {why}")
        });
        let why: Vec<String> = why.collect();
        bail!("no pod of the control plane answers: {}", why.join("; "));
    };
    seen["proxies"] = proxies.into();
    seen["replicas"] = replicas.into();
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, leads: bool) -> Replica {
        Replica {
            name: name.to_owned(),
            ready: true,
            leads: Some(leads),
        }
    }

    fn says(generation: u64, node: &str) -> Result<Value, String> {
        let clusters = json!([{ "cluster": "east", "state": "synced" }, { "state": "stale" }]);
        Ok(json!({
            "world": { "generation": generation, "clusters": clusters },
            "services": {}, "proxies": [{ "node": node }],
        }))
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_asked() {
        let mut pod = json!({
            "metadata": { "name": "a" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert!(is_ready(&pod));
        pod["metadata"]["deletionTimestamp"] = "2026-11-22T17:03:00Z".into();
        assert!(!is_ready(&pod));
    }

    #[test]
    fn proxies_are_of_all_and_the_world_is_the_leaders() {
        let said = vec![
            (replica("a", false), says(3, "east/shop/web-1")),
            (replica("b", true), says(7, "east/shop/web-2")),
            (replica("c", false), Err("hangs".to_owned())),
        ];
        let seen = merged(said).unwrap();
        assert_eq!(seen["world"]["generation"], 7);
        assert_eq!(
            seen["proxies"],
            json!([
                { "node": "east/shop/web-1", "replica": "a" },
                { "node": "east/shop/web-2", "replica": "b" },
            ])
        );
        assert_eq!(seen["replicas"][0]["synced"], 1);
        assert_eq!(seen["replicas"][1]["leads"], true);
        assert_eq!(seen["replicas"][2]["error"], "hangs");
    }

    #[test]
    fn that_nobody_answers_is_an_error_that_names_all() {
        let said = vec![
            (replica("a", true), Err("hangs".to_owned())),
            (replica("b", false), Err("its pod is not ready".to_owned())),
        ];
        let why = merged(said).unwrap_err().to_string();
        assert!(why.ends_with("a: hangs; b: its pod is not ready"), "{why}");
    }

    #[test]
    fn the_leader_is_the_pod_that_holds_the_lease() {
        let lease = json!({ "spec": { "holderIdentity": "isthmus-control-plane-7f-x2_00ff" } });
        assert_eq!(leader(&lease), "isthmus-control-plane-7f-x2");
        assert_eq!(leader(&json!({})), "");
        let pod = |status: &str| {
            json!({ "metadata": {}, "status": { "conditions": [
            { "type": "Ready", "status": status } ] } })
        };
        assert!(is_ready(&pod("True")));
        assert!(!is_ready(&pod("False")));
        assert!(!is_ready(&json!({})));
    }
}
