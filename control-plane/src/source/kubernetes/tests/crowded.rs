//! What if somebody who may write policies in one namespace writes as many as he can?

use std::collections::BTreeSet;

use isthmus_control_plane_core::model::{NOT_TAKEN, PolicyTarget};

use super::*;

const TRAFFIC: &str = "/apis/isthmus.dev/v1alpha1/trafficpolicies";
/// Of which one namespace may have 64 KiB of AccessPolicies, and as much of TrafficPolicies.
const QUOTA: Quota = Quota {
    endpoints: 1_000,
    bytes: 8 * 128 * 1024,
};

/// In the namespace `crowd`, of the service `target`.
fn one_of_many(name: &str, action: &str, target: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "crowd" },
        "spec": {
            "targetRefs": [{ "kind": "Service", "name": target }],
            "action": action, "rules": [{}],
        },
    })
}

fn traffic(name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "crowd" },
        "spec": {
            "targetRef": { "group": "", "kind": "Service", "name": "cart" },
            "timeouts": { "request": "1s" },
        },
    })
}

/// Where everything is denied in the namespace `crowd`.
fn denied(running: &Running) -> Option<PolicyTarget> {
    running
        .objects
        .values()
        .find_map(|object| match &object.spec {
            Spec::AccessPolicy(policy) if object.name == NOT_TAKEN => {
                assert_eq!(object.namespace.as_ref().unwrap().as_str(), "crowd");
                assert!(policy.invalid.is_some());
                Some(policy.target.clone())
            }
            _ => None,
        })
}

fn services(names: &[&str]) -> Option<PolicyTarget> {
    let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Some(PolicyTarget::Services(names))
}

#[tokio::test]
async fn one_namespace_keeps_no_other_out_nor_what_cuts_a_cluster_off() {
    let server = Server::start().await;
    for path in [TRUST_POLICIES, MESH_CLUSTERS, TRAFFIC] {
        server.serves(path, true);
    }
    let count = 1_000;
    for at in 0..count {
        server.put(TRAFFIC, traffic(&format!("t{at:04}")));
        server.put(POLICIES, one_of_many(&format!("p{at:04}"), "Allow", "cart"));
    }
    let mut running = Running::with(&server, QUOTA, SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    let of = |r: &Running, kind: Kind| r.objects.keys().filter(|at| at.kind == kind).count();
    for kind in [Kind::TrafficPolicy, Kind::AccessPolicy] {
        let taken = of(&running, kind);
        assert!((50..count / 2).contains(&taken), "{kind}: {taken}");
    }
    assert!(running.report.borrow().over_quota);
    server.put(POLICIES, policy(&["cart"]));
    let named = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    let cut_off = json!({ "distrustedClusters": ["west"] });
    server.put(TRUST_POLICIES, named("cut-off", cut_off));
    server.put(MESH_CLUSTERS, named("west", json!({ "network": "n" })));
    // And one that is wrong is told by its name, however many others are.
    server.put(TRUST_POLICIES, named("wrong", json!({ "form": 1 })));
    for name in [
        "AccessPolicy shop/who",
        "TrustPolicy cut-off",
        "MeshCluster west",
    ] {
        running.until(name, |r| r.has(name)).await;
    }
    running
        .until("it is told by its name", |r| {
            let errors = &r.report.borrow().errors;
            let more = errors.get("more").map(|more| more[0].message.clone());
            errors.contains_key("TrustPolicy wrong")
                && more.is_some_and(|more| more.contains("TrafficPolicy of crowd"))
        })
        .await;
    assert!(running.refused.contains_key("east: TrustPolicy wrong"));
}

/// F25: what was never taken denies where it would apply, as long as it is not taken.
#[tokio::test]
async fn where_a_policy_has_no_room_everything_is_denied() {
    let server = Server::start().await;
    for at in 0..300 {
        server.put(POLICIES, one_of_many(&format!("a{at:03}"), "Allow", "cart"));
    }
    let mut running = Running::with(&server, QUOTA, SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    // So many that it is one for all of the namespace's services that they name.
    assert_eq!(denied(&running), Some(PolicyTarget::Namespace));
    let never = one_of_many("audit", "Audit", "web");
    server.put(POLICIES, never);
    for at in 0..300 {
        server.delete(POLICIES, &format!("crowd/a{at:03}"));
    }
    running
        .until("none is left that was not taken", |r| {
            denied(r).is_none() && r.names() == ["east: AccessPolicy crowd/audit"]
        })
        .await;
}

#[tokio::test]
async fn what_is_denied_is_no_more_than_what_has_no_room() {
    let server = Server::start().await;
    let mut large = one_of_many("large", "Allow", "cart");
    let caller = json!({ "from": [{ "serviceAccounts": ["a".repeat(200)] }] });
    large["spec"]["rules"] = json!(vec![caller; 10]);
    server.put(POLICIES, large);
    let mut running = Running::with(&server, QUOTA, SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    // Those that fit, and then one that does not.
    let mut fits = 0;
    while denied(&running).is_none() {
        let name = format!("b{fits:03}");
        server.put(POLICIES, one_of_many(&name, "Allow", "cart"));
        let told = format!("AccessPolicy crowd/{name}");
        running
            .until(&told, |r| r.has(&told) || denied(r).is_some())
            .await;
        fits += 1;
    }
    assert_eq!(denied(&running), services(&["cart"]));
    server.put(POLICIES, one_of_many("deny", "Deny", "pay"));
    running
        .until("pay is denied", |r| denied(r) == services(&["cart", "pay"]))
        .await;
    let why = &running.refused["east: AccessPolicy crowd/deny"];
    assert!(why.contains("one namespace may have"), "{why}");
    assert!(why.contains("everything is denied"), "{why}");
    // What only tells changes no verdict, also where it is not taken.
    server.put(POLICIES, one_of_many("audit", "Audit", "web"));
    running
        .until("it is refused", |r| {
            r.refused.contains_key("east: AccessPolicy crowd/audit")
        })
        .await;
    assert_eq!(denied(&running), services(&["cart", "pay"]));
    server.delete(POLICIES, "crowd/large");
    running
        .until("there is room", |r| {
            denied(r).is_none() && r.has("AccessPolicy crowd/deny")
        })
        .await;
}
