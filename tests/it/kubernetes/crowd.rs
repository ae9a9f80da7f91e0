//! Does anybody wait for what is only told to somebody else?

use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use serde_json::{Value, json};

use super::{NOTICED, SYSTEM, Watched, export, pod, service};

/// With a hundred writes a second, their statuses take a quarter of a minute.
const MANY: usize = 1_500;
const POLICIES: &str = "/apis/isthmus.dev/v1alpha1/namespaces/crowd/trafficpolicies";
const IMPORT: &str = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceimports/cart";

fn policy(at: usize) -> String {
    json!({
        "apiVersion": "isthmus.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": { "name": format!("t{at}"), "namespace": "crowd" },
        "spec": {
            "targetRef": { "kind": "Service", "name": format!("s{at}") },
            "timeouts": { "request": "1s" },
        },
    })
    .to_string()
}

fn is_told(policy: &Value) -> bool {
    policy["status"]["conditions"].is_array()
}

#[tokio::test]
async fn an_import_does_not_wait_for_the_statuses_of_another_namespace() {
    let Some(programs) = programs() else { return };
    let mut east = Watched::usual(&programs).await;
    east.server.apply(SYSTEM).await;
    let crowd = "apiVersion: v1\nkind: Namespace\nmetadata: { name: crowd }\n";
    east.server.apply(crowd).await;
    let policies: Vec<String> = (0..MANY).map(policy).collect();
    for some in policies.chunks(500) {
        east.server.apply(&some.join("\n---\n")).await;
    }
    let home = json!({ "cluster": "east", "namespace": "shop", "allow": ["loopback"] });
    east.control.set_home(home);
    east.control.start().await;
    let list = async || -> Result<Vec<Value>, String> {
        let found = east.server.cluster.admin().get(POLICIES).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found["items"].as_array().cloned().unwrap_or_default())
    };
    until_within(NOTICED, "the first is told", async || {
        let all = list().await?;
        check(all.iter().any(is_told), all.len())
    })
    .await;
    for text in [pod("cart-1"), service("cart"), export("cart")] {
        east.server.apply(&text).await;
    }
    until_within(NOTICED, "it is imported", async || {
        let found = east.server.cluster.admin().find(IMPORT).await;
        let found = found.map_err(|error| error.to_string())?;
        check(found.is_some(), json!(found))
    })
    .await;
    let told = list()
        .await
        .unwrap()
        .iter()
        .filter(|one| is_told(one))
        .count();
    assert!(told < MANY, "the import came after {told} statuses");
    until_within(NOTICED, "each is told", async || {
        let all = list().await?;
        let told = all.iter().filter(|one| is_told(one)).count();
        check(told == MANY, told)
    })
    .await;
}
