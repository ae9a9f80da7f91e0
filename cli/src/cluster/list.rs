//! Which clusters does the mesh have?

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{CLUSTERS, home};
use crate::args::{Format, ListOptions};
use crate::kubernetes::{self, text};
use crate::output;

/// Prints them.
///
/// # Errors
/// The home cluster can't be asked, or has no mesh.
pub(super) async fn run(options: &ListOptions, format: Format) -> anyhow::Result<()> {
    let api = home(&options.reach, options.reach.context.as_deref(), None)?;
    let Some(clusters) = kubernetes::list(&api, CLUSTERS)
        .await
        .context("the home cluster")?
    else {
        bail!("this cluster has no MeshClusters: run `isthmus install --apply` first");
    };
    match format {
        Format::Json => {
            let one = |cluster: &Value| {
                json!({
                    "name": text(cluster, "/metadata/name"),
                    "spec": cluster["spec"],
                    "conditions": cluster.pointer("/status/conditions").cloned().unwrap_or(json!([])),
                })
            };
            let all: Vec<Value> = clusters.iter().map(one).collect();
            output::json(&json!({ "clusters": all }));
        }
        Format::Text => output::line(table(&clusters).trim_end()),
    }
    Ok(())
}

fn table(clusters: &[Value]) -> String {
    let row = |cluster: &Value| {
        let mut row: Vec<String> = ["/metadata/name", "/spec/network", "/spec/region"]
            .iter()
            .map(|pointer| said(text(cluster, pointer)))
            .collect();
        row.push(match text(cluster, "/spec/credential/secretRef/name") {
            "" => "(this cluster)".to_owned(),
            secret => secret.to_owned(),
        });
        let kinds = ["Accepted", "Connected", "Synced", "CredentialValid"];
        row.extend(kinds.iter().map(|kind| status(cluster, kind)));
        row.push(why(cluster));
        row
    };
    let rows: Vec<Vec<String>> = clusters.iter().map(row).collect();
    let head = [
        "name",
        "network",
        "region",
        "credential",
        "accepted",
        "connected",
        "synced",
        "credential valid",
        "because",
    ];
    output::table("Clusters", &head, &rows)
}

fn said(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

fn conditions(cluster: &Value) -> impl Iterator<Item = &Value> {
    let all = cluster
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    all.into_iter().flatten()
}

fn status(cluster: &Value, kind: &str) -> String {
    let found = conditions(cluster).find(|c| c["type"] == kind);
    match found.and_then(|c| c["status"].as_str()) {
        Some("True") => "yes".to_owned(),
        Some("False") => "no".to_owned(),
        // Nobody has said it yet.
        _ => "?".to_owned(),
    }
}

/// The first thing that is not as it should be; else what there is to say all the same: that it is being
/// deleted, or that its credential is not renewed.
fn why(cluster: &Value) -> String {
    let told = |c: &&Value| !text(c, "/message").is_empty();
    let bad = conditions(cluster).find(|c| c["status"] == "False" && told(c));
    let other = || conditions(cluster).find(told);
    said(bad.or_else(other).map_or("", |c| text(c, "/message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_being_deleted_says_so_unless_something_is_wrong_with_it() {
        let going = "it is being deleted: the cluster leaves when the object is gone";
        let west = |connected: &str, message: &str| {
            json!({
                "metadata": { "name": "west", "deletionTimestamp": "2026-11-22T17:03:00Z" },
                "spec": { "network": "west-net" },
                "status": { "conditions": [
                    { "type": "Accepted", "status": "True", "message": going },
                    { "type": "Connected", "status": connected, "message": message },
                ] },
            })
        };
        assert!(table(&[west("True", "")]).contains(going));
        let broken = table(&[west("False", "it does not answer")]);
        assert!(broken.contains("it does not answer") && !broken.contains(going));
    }

    #[test]
    fn what_nobody_has_said_is_a_question_mark() {
        let condition =
            |kind, status, message| json!({ "type": kind, "status": status, "message": message });
        let west = json!({
            "metadata": { "name": "west" },
            "spec": { "network": "west-net", "credential": { "secretRef": { "name": "cluster-west" } } },
            "status": { "conditions": [
                condition("Accepted", "True", ""), condition("Connected", "False", "it does not answer"),
            ] },
        });
        let text = table(&[west]);
        let row: Vec<&str> = text
            .lines()
            .last()
            .unwrap()
            .split("  ")
            .filter(|c| !c.is_empty())
            .map(str::trim)
            .collect();
        assert_eq!(
            row,
            [
                "west",
                "west-net",
                "-",
                "cluster-west",
                "yes",
                "no",
                "?",
                "?",
                "it does not answer"
            ]
        );
    }
}
