//! Does a cluster that leaves keep nothing of what the mesh made in it?

use serde_json::{Value, json};

use crate::tool::{Tool, start, steps};

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
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let (east, west) = tokio::join!(
        start(&programs, "east", "10.96.0.0/16", tool.folder()),
        start(&programs, "west", "10.97.0.0/16", tool.folder()),
    );
    for definition in [EXPORTS, IMPORTS] {
        let old = definition.replace("v1beta1", "v1alpha1");
        let applied = west.admin().apply_text(&old).await.unwrap();
        west.admin().served(&applied[0]).await.unwrap();
    }
    tool.done("install --cluster east --apply --kubeconfig EAST")
        .await;
    tool.done("cluster join west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
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
