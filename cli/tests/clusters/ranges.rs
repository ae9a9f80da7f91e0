//! Are the ranges of services compared also where an API server does not list them?

use isthmus_test_clusters::Cluster;
use serde_json::{Value, json};

use crate::tool::{Tool, findings};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/isthmus-control-plane";

/// Takes rules away from the control plane's account.
async fn forbid(cluster: &Cluster, is_kept: impl Fn(&Value) -> bool) {
    let mut role = cluster.admin().get(ROLE).await.unwrap();
    role["rules"].as_array_mut().unwrap().retain(is_kept);
    role["metadata"] = json!({ "name": role["metadata"]["name"] });
    cluster.admin().apply(&role).await.unwrap();
}

/// What is told of ranges, as soon as it is seen that this may not be done.
async fn told(tool: &Tool, forbidden: &str) -> Vec<String> {
    for _ in 0..200 {
        let found = findings(tool).await;
        let message = |f: &Value| {
            let text = |key: &str| f[key].as_str().unwrap().to_owned();
            format!("{}: {}", text("cluster"), text("message"))
        };
        let all: Vec<String> = found.iter().map(message).collect();
        if !forbidden.is_empty() && !all.iter().any(|told| told == forbidden) {
            continue;
        }
        let ranges = found.iter().filter(|f| f["check"] == "service CIDR");
        return ranges.map(message).collect();
    }
    panic!("it is never told: {forbidden}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_not_listed_are_asked_for_by_a_service_that_is_not_made() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.96.128.0/17"]).await else {
        return;
    };
    tool.join("--network one").await;
    let overlap = ["east: services in 10.96.0.0/16, and in 10.96.128.0/17 of west on network one"];
    assert_eq!(told(&tool, "").await, overlap);

    let lists = |rule: &Value| rule["resources"][0] != "servicecidrs";
    forbid(&east, lists).await;
    told(&tool, "east: may not list servicecidrs.networking.k8s.io").await;
    forbid(&west, lists).await;
    let asked = told(&tool, "west: may not list servicecidrs.networking.k8s.io").await;
    assert_eq!(asked, overlap);
    let services = "/api/v1/namespaces/isthmus-system/services";
    let services = west.admin().get(services).await.unwrap();
    assert_eq!(services["items"], json!([]));

    let creates = |rule: &Value| rule["resources"][0] == "services" && rule["verbs"][0] == "create";
    forbid(&west, |rule| lists(rule) && !creates(rule)).await;
    let unknown = told(&tool, "west: may not create services").await;
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert!(
        unknown[0].starts_with("west: not checked: its range of service addresses is not known: "),
        "{unknown:?}"
    );
    east.end().await.unwrap();
    west.end().await.unwrap();
}
