//! Does a cluster that leaves keep nothing of what the mesh made in it?

use serde_json::{Value, json};

use crate::tool::{Tool, steps};

const EXPORTS: &str =
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceexports.yaml");
const IMPORTS: &str =
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceimports.yaml");
const SERVED: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/serviceimports";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn named(version: &str, kind: &str, name: &str, owner: &str, body: &Value) -> Value {
    let mut object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {
            "name": name, "namespace": "default",
            "labels": { "app.kubernetes.io/managed-by": owner },
        },
    });
    for (key, value) in body.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_of_an_older_version_and_slices_go_with_the_cluster() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.97.0.0/16"]).await else {
        return;
    };
    for definition in [EXPORTS, IMPORTS] {
        let old = definition.replace("v1beta1", "v1alpha1");
        let applied = west.admin().apply_text(&old).await.unwrap();
        west.admin().served(&applied[0]).await.unwrap();
    }
    tool.join("").await;
    let spec = json!({ "spec": { "type": "Headless", "ports": [{ "port": 80 }] } });
    let slice = json!({ "addressType": "IPv4", "endpoints": [], "ports": [] });
    for owner in ["isthmus", "nobody"] {
        let multicluster = "multicluster.x-k8s.io/v1alpha1";
        let import = named(multicluster, "ServiceImport", owner, owner, &spec);
        west.admin().apply(&import).await.unwrap();
        let discovery = "discovery.k8s.io/v1";
        let slice = named(discovery, "EndpointSlice", owner, owner, &slice);
        west.admin().apply(&slice).await.unwrap();
    }

    let left = tool
        .done("cluster leave west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    let deleted = steps(&left, "deleted");
    assert!(
        deleted.contains(&"serviceimports default/isthmus"),
        "{left}"
    );
    assert!(
        deleted.contains(&"endpointslices default/isthmus"),
        "{left}"
    );
    for collection in [SERVED, SLICES] {
        let find = async |name| west.admin().find(&format!("{collection}/{name}")).await;
        assert_eq!(find("isthmus").await.unwrap(), None);
        assert!(find("nobody").await.unwrap().is_some(), "{collection}");
    }
    east.end().await.unwrap();
    west.end().await.unwrap();
}

/// ConfigMaps of the mesh that are more than one answer may hold: 18 of them, 1 MiB each.
async fn many(west: &isthmus_test_clusters::Cluster) {
    let filler = "x".repeat(1 << 20);
    for number in 0..18 {
        let name = format!("large-{number}");
        let object = named(
            "v1",
            "ConfigMap",
            &name,
            "isthmus",
            &json!({ "data": { "filler": filler } }),
        );
        let maps = "/api/v1/namespaces/default/configmaps";
        west.admin().create(maps, &object).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_cluster_leaves_and_one_that_stopped_half_way_is_not_mistaken_for_another() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.97.0.0/16"]).await else {
        return;
    };
    tool.join("").await;
    // A leave that was stopped after its first step.
    let member = "/apis/isthmus.dev/v1alpha1/meshclusters/west";
    east.admin().delete_path(member).await.unwrap();
    let wrong = tool
        .refused("cluster leave west --kubeconfig EAST --home-kubeconfig EAST")
        .await;
    assert!(wrong.contains("not the cluster that joined"), "{wrong}");
    let nobody = tool
        .refused("cluster leave typo --kubeconfig EAST --home-kubeconfig EAST")
        .await;
    assert!(nobody.contains("control plane runs in"), "{nobody}");
    let account = "/api/v1/namespaces/isthmus-system/serviceaccounts/isthmus-control-plane";
    assert!(east.admin().find(account).await.unwrap().is_some());

    many(&west).await;
    let left = tool
        .done("cluster leave west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    let deleted = steps(&left, "deleted");
    assert!(deleted.contains(&"configmaps default/large-17"), "{left}");
    assert_eq!(
        deleted.last(),
        Some(&"Secret isthmus-system/cluster-west"),
        "{left}"
    );
    let rest = west
        .admin()
        .get("/api/v1/namespaces/default/configmaps")
        .await;
    let rest = rest.unwrap().to_string();
    assert!(!rest.contains("large-"), "{rest}");
    east.end().await.unwrap();
    west.end().await.unwrap();
}
