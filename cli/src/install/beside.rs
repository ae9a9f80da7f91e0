//! What stands beside the control plane: its share of API servers, who may connect to it, whose the
//! Gateways are?

use isthmus_control_plane::admin::ACCOUNT as ADMIN;
use isthmus_control_plane::{CONTROLLER_NAME, GATEWAY_CLASS};
use serde_json::{Value, json};

use super::objects::{ADMIN_PORT, DISCOVERY_PORT, SYSTEM, labels, metadata};
use super::permissions::ACCOUNT;

/// Who may ask the control plane's admin pages, as `isthmus status --context` does: whom the Role is bound
/// to. No pod runs as the account; who may make a token for it is an admin of the mesh.
pub(super) fn admins() -> [Value; 2] {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    let mut token = rule("", "serviceaccounts/token", &["create"]);
    token["resourceNames"] = json!([ADMIN]);
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ADMIN, Some(SYSTEM)),
        "automountServiceAccountToken": false });
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(ADMIN, Some(SYSTEM)),
        "rules": [
            token,
            rule("", "pods", &["get", "list"]),
            rule("", "pods/portforward", &["create", "get"]),
            rule("coordination.k8s.io", "leases", &["get"]),
        ] });
    [account, role]
}

/// Shares of an API server's concurrency that the control plane has: 4% of it beside those that are there.
const SHARES: u32 = 10;
/// Before Kubernetes' own FlowSchema for all service accounts, and behind those of its own components.
const FLOW_PRECEDENCE: u32 = 2_000;

/// How an API server that is busy serves the control plane. In `workload-low`, where all service accounts
/// are, whoever floods it delays Leases and TokenReviews; in `workload-high` its lists would compete with
/// Kubernetes' own controllers. So it has a level of its own: few seats for certain, which others use as
/// long as it is idle, and twice as many more at most.
pub(super) fn flow() -> [Value; 2] {
    let group = "flowcontrol.apiserver.k8s.io/v1";
    let all = ["*"];
    [
        json!({ "apiVersion": group, "kind": "PriorityLevelConfiguration", "metadata": metadata(ACCOUNT, None),
            "spec": { "type": "Limited", "limited": {
                "nominalConcurrencyShares": SHARES, "lendablePercent": 50, "borrowingLimitPercent": 200,
                "limitResponse": { "type": "Queue",
                    "queuing": { "queues": 32, "handSize": 4, "queueLengthLimit": 50 } },
            } } }),
        json!({ "apiVersion": group, "kind": "FlowSchema", "metadata": metadata(ACCOUNT, None),
            "spec": {
                "priorityLevelConfiguration": { "name": ACCOUNT },
                "matchingPrecedence": FLOW_PRECEDENCE,
                // What is written for one namespace keeps the Lease in ours not waiting.
                "distinguisherMethod": { "type": "ByNamespace" },
                "rules": [{
                    "subjects": [{ "kind": "ServiceAccount",
                        "serviceAccount": { "name": ACCOUNT, "namespace": SYSTEM } }],
                    "resourceRules": [{ "verbs": all, "apiGroups": all, "resources": all,
                        "clusterScope": true, "namespaces": all }],
                    "nonResourceRules": [{ "verbs": all, "nonResourceURLs": all }],
                }],
            } }),
    ]
}

/// The class of this mesh's gateways, in a cluster that has the Gateway API.
pub(super) fn gateway_class() -> Value {
    let mut metadata = metadata(GATEWAY_CLASS, None);
    metadata["labels"] = labels("gateway");
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": metadata,
        "spec": {
            "controllerName": CONTROLLER_NAME,
            "description": "East-west gateways of the mesh: docs/KUBERNETES.md",
        } })
}

/// Who may connect to the control plane's pods: anybody, at the ports that they serve. Proxies come from
/// every namespace, and from other clusters; they show a certificate or a token there.
pub(super) fn network_policy(selector: &Value) -> Value {
    let port = |port: u16| json!({ "protocol": "TCP", "port": port });
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
        "spec": {
            "podSelector": { "matchLabels": selector },
            // It calls the API servers of every cluster, wherever they are.
            "policyTypes": ["Ingress"],
            "ingress": [{ "ports": [port(DISCOVERY_PORT), port(ADMIN_PORT)] }],
        } })
}

#[cfg(test)]
mod tests {
    use super::super::objects::{NETWORK_POLICY_ANNOTATION, Plan, control_plane, workload};
    use super::*;

    #[test]
    fn the_pods_of_the_control_plane_are_reached_at_the_ports_that_they_serve_and_no_others() {
        let all = control_plane(&Plan::sample());
        let policy = all.iter().find(|o| o["kind"] == "NetworkPolicy").unwrap();
        let pod = workload(&Plan::sample(), &json!({}))["spec"]["template"]["spec"].clone();
        let served = pod["containers"][0]["ports"].as_array().unwrap().iter();
        let served: Vec<_> = served.map(|port| &port["containerPort"]).collect();
        let opened = policy["spec"]["ingress"][0]["ports"].as_array().unwrap();
        let opened: Vec<_> = opened.iter().map(|port| &port["port"]).collect();
        assert_eq!(opened, served);
        assert_eq!(policy["spec"]["ingress"][0].get("from"), None);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        let budget = all.iter().find(|o| o["kind"] == "PodDisruptionBudget");
        let pods = &budget.unwrap()["spec"]["selector"];
        assert_eq!(&policy["spec"]["podSelector"], pods);
        // Left out, which a later run has to know.
        let without = Plan {
            network_policy: false,
            ..Plan::sample()
        };
        let all = control_plane(&without);
        assert!(all.iter().all(|o| o["kind"] != "NetworkPolicy"));
        let annotations = &workload(&without, &json!({}))["metadata"]["annotations"];
        assert_eq!(annotations[NETWORK_POLICY_ANNOTATION], "false");
    }
}
