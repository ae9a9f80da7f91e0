//! What is each process told at its start?

use serde_json::{Value, json};

use super::folder::Folder;
use super::plan::{Callee, Cluster, MESH_DOMAIN, Plan, Pod, Role, WEB};
use super::store::Store;

/// The control plane's configuration.
pub(crate) fn control_plane(plan: &Plan, folder: &Folder, store: &Store) -> String {
    let clusters: Vec<Value> = Cluster::ALL
        .iter()
        .map(|cluster| store.origin(folder, *cluster))
        .collect();
    let config = json!({
        "mesh_domain": MESH_DOMAIN,
        "state_dir": folder.control_state(),
        "listen": { "discovery": plan.discovery(), "admin": plan.control_admin() },
        "clusters": clusters,
    });
    format!("{config:#}\n")
}

/// A proxy's configuration.
pub(crate) fn proxy(plan: &Plan, folder: &Folder, pod: &Pod) -> String {
    let place = folder.pod(pod);
    let address = plan.address(pod);
    let (mesh, gateway, virtual_listeners) = match pod.role {
        Role::Sidecar => (Some(plan.mesh(pod)), None, virtual_listeners(plan, pod)),
        Role::Gateway => (None, Some(plan.gateway(pod)), Vec::new()),
    };
    // One network is a range of loopback addresses: from another range only the gateway is open.
    let accept_from = match pod.role {
        Role::Sidecar => vec![plan.network(pod.cluster)],
        Role::Gateway => Vec::new(),
    };
    let config = json!({
        "role": pod.role.name(),
        "cluster": pod.cluster.name(),
        "network": format!("{}-net", pod.cluster.name()),
        "mesh_domain": MESH_DOMAIN,
        "namespace": pod.namespace,
        "pod": pod.name,
        "service_account": pod.account,
        "addresses": [address],
        "control_plane": {
            "address": plan.discovery(),
            "roots_file": folder.control_state().join("roots.pem"),
        },
        "token_file": place.join("token"),
        "state_dir": folder.pod_state(pod),
        "listen": {
            "mesh": mesh,
            "inbound": null,
            "outbound": null,
            "gateway": gateway,
            "virtual": virtual_listeners,
            "admin": plan.admin(pod),
            "ready": plan.ready(pod),
        },
        "mesh_accept_from": accept_from,
        // Calls leave from the pod's own address: the other side judges the network by it.
        "source": address,
        "application": address,
        "workers": 1,
        "access_log": null,
        // Everything that is called is of the mesh; nothing leaves this machine.
        "passthrough": "never",
        "drain_seconds": 2,
    });
    format!("{config:#}\n")
}

/// Only web calls anybody.
fn virtual_listeners(plan: &Plan, pod: &Pod) -> Vec<Value> {
    if pod.name != WEB.name {
        return Vec::new();
    }
    let listener = |callee: &Callee| json!({ "listen": plan.local(callee), "destination": callee.destination() });
    Callee::ALL.iter().map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::GATEWAY_WEST;
    use super::*;

    #[test]
    fn a_network_lets_only_its_own_addresses_in() {
        let plan = Plan::claim().unwrap();
        let folder = Folder::make(false).unwrap();
        let sidecar: Value = serde_json::from_str(&proxy(&plan, &folder, &WEB)).unwrap();
        assert_eq!(sidecar["mesh_accept_from"][0], plan.network(Cluster::East));
        assert_eq!(
            sidecar["listen"]["virtual"].as_array().unwrap().len(),
            Callee::ALL.len()
        );
        assert!(sidecar["listen"]["gateway"].is_null());
        let gateway: Value = serde_json::from_str(&proxy(&plan, &folder, &GATEWAY_WEST)).unwrap();
        assert!(gateway["listen"]["mesh"].is_null());
        assert_eq!(
            gateway["listen"]["gateway"],
            plan.gateway(&GATEWAY_WEST).to_string()
        );
        let control: Value =
            serde_json::from_str(&control_plane(&plan, &folder, &Store::Folders)).unwrap();
        assert_eq!(control["clusters"].as_array().unwrap().len(), 2);
    }
}
