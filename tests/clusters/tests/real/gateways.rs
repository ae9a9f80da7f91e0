//! Does a real API server say of a Gateway where others reach it?

use isthmus_test_clusters::Cluster;
use serde_json::{Value, json};

use crate::write::{Control, find, two, until};

const GATEWAY: &str =
    "/apis/gateway.networking.k8s.io/v1/namespaces/isthmus-system/gateways/east-west";
const SYSTEM: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: isthmus-system }
";

/// East's Gateway with these addresses of its own.
fn gateway(addresses: &[&str]) -> String {
    let addresses = addresses.iter();
    let addresses: Vec<Value> = addresses
        .map(|value| json!({ "type": "IPAddress", "value": value }))
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "east-west", "namespace": "isthmus-system" },
        "spec": {
            "gatewayClassName": "isthmus-east-west", "addresses": addresses,
            "listeners": [{ "name": "mesh", "port": 15443, "protocol": "TLS", "tls": { "mode": "Passthrough" } }],
        },
    })
    .to_string()
}

/// What leads to it from outside.
fn balancer(ingress: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "gateway", "namespace": "isthmus-system",
            "labels": { "gateway.networking.k8s.io/gateway-name": "east-west" },
        },
        "spec": { "type": "LoadBalancer", "ports": [{ "name": "mesh", "port": 15443 }] },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
    .to_string()
}

async fn apply(cluster: &Cluster, text: &str) {
    cluster.admin().apply_text(text).await.unwrap();
}

fn words(status: &Value) -> Vec<String> {
    let all = status["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|c| format!("{} {}", text(&c["status"]), text(&c["reason"])))
        .collect()
}

/// Waits until it is reached at these addresses, and says so.
async fn until_at(cluster: &Cluster, addresses: &[(&str, &str)]) {
    let wanted: Vec<Value> = addresses
        .iter()
        .map(|(kind, value)| json!({ "type": kind, "value": value }))
        .collect();
    let programmed = if wanted.is_empty() {
        "False AddressNotAssigned"
    } else {
        "True Programmed"
    };
    until(&format!("at {addresses:?}"), async || {
        let found = find(cluster, GATEWAY).await;
        let (status, generation) = (&found["status"], &found["metadata"]["generation"]);
        let at = status["addresses"].as_array().cloned().unwrap_or_default();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let is_of_it = |c: &Value| c["observedGeneration"] == *generation;
        at == wanted
            && words(status) == ["True Accepted", programmed]
            && conditions.iter().all(is_of_it)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_says_where_its_service_leads_to_it_from() {
    let Some([east, west]) = two().await else {
        return;
    };
    let control = Control::start(&[&east]);
    apply(&east, SYSTEM).await;
    apply(&east, &gateway(&[])).await;
    until_at(&east, &[]).await;
    let ingress =
        json!([{ "ip": "192.0.2.1" }, { "hostname": "lb.example.com" }, { "ip": "127.0.0.1" }]);
    apply(&east, &balancer(&ingress)).await;
    let both = [("IPAddress", "192.0.2.1"), ("Hostname", "lb.example.com")];
    until_at(&east, &both).await;
    let listeners = find(&east, GATEWAY).await["status"]["listeners"].clone();
    let [listener] = &listeners.as_array().unwrap()[..] else {
        panic!("{listeners}")
    };
    assert_eq!(listener["name"], "mesh");
    assert_eq!(listener["supportedKinds"], json!([]));
    assert_eq!(listener["attachedRoutes"], 0);
    assert_eq!(
        words(listener),
        ["True Accepted", "True Programmed", "True ResolvedRefs"]
    );

    // A leader that comes anew finds nothing to write.
    let version = find(&east, GATEWAY).await["metadata"]["resourceVersion"].clone();
    drop(control);
    let control = Control::start(&[&east]);
    until("it has looked", async || {
        control.counted("isthmus_writes_unchanged_total") > 0
    })
    .await;
    assert_eq!(control.counted("isthmus_writes_applied_total"), 0);
    let found = find(&east, GATEWAY).await;
    assert_eq!(found["metadata"]["resourceVersion"], version);

    // Its own word counts before, and what is said in the status is no source of it.
    apply(&east, &gateway(&["192.0.2.7"])).await;
    until_at(&east, &[("IPAddress", "192.0.2.7")]).await;
    apply(&east, &gateway(&[])).await;
    until_at(&east, &both).await;
    east.admin()
        .delete_text(&balancer(&json!([])))
        .await
        .unwrap();
    until_at(&east, &[]).await;

    // What somebody else keeps in the status is left to them.
    let mut theirs: Value = serde_json::from_str(&gateway(&[])).unwrap();
    theirs["status"] = json!({ "addresses": [{ "type": "IPAddress", "value": "192.0.2.9" }] });
    apply(&east, &theirs.to_string()).await;
    until_at(&east, &[("IPAddress", "192.0.2.9")]).await;
    apply(&east, &balancer(&ingress)).await;
    apply(&east, &gateway(&["192.0.2.7"])).await;
    until_at(&east, &[("IPAddress", "192.0.2.9")]).await;
    assert_eq!(control.problems.list(), vec![]);
    for cluster in [east, west] {
        cluster.end().await.unwrap();
    }
}
