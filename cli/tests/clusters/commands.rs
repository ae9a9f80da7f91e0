//! Do `install` and `cluster` do on real API servers what they say?

use isthmus_control_plane::kubernetes::{Allow, Api, kubeconfig};
use isthmus_test_clusters::Cluster;
use isthmus_test_clusters::kubeconfig::Credential;

use crate::tool::{Tool, broken, start, steps};

const MESH_CLUSTERS: &str = "/apis/isthmus.dev/v1alpha1/meshclusters";
const SECRET: &str = "/api/v1/namespaces/isthmus-system/secrets/cluster-west";
const ACCOUNT: &str = "/api/v1/namespaces/isthmus-system/serviceaccounts/isthmus-control-plane";
const DERIVED: &str = "
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceImport
metadata: { name: cart, namespace: default, labels: { app.kubernetes.io/managed-by: isthmus } }
spec: { type: ClusterSetIP, ports: [ { port: 80 } ] }
---
apiVersion: v1
kind: Service
metadata: { name: derived-1, namespace: default, labels: { app.kubernetes.io/managed-by: isthmus } }
spec: { ports: [ { port: 80 } ] }
---
apiVersion: v1
kind: Service
metadata: { name: theirs, namespace: default }
spec: { ports: [ { port: 80 } ] }
";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/isthmus-control-plane";

/// Of Services and EndpointSlices the control plane's account writes only those that the mesh derives.
async fn fenced(cluster: &Cluster) {
    let token = cluster
        .token("isthmus-system", "isthmus-control-plane", None, None)
        .await
        .unwrap();
    let text = cluster.kubeconfig(&Credential::Token(token));
    let allow = Allow {
        loopback: true,
        ..Allow::default()
    };
    let api = Api::new(kubeconfig(&text, None, &allow).unwrap()).unwrap();
    cluster.admin().apply_text(DERIVED).await.unwrap();
    let path = |name: &str| format!("/api/v1/namespaces/default/services/{name}");
    let service = |name: &str, owner: &str, number: u32| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": { "app.kubernetes.io/managed-by": owner, "number": number.to_string() },
            },
            "spec": { "ports": [{ "port": 80 }] },
        })
    };
    // The API server takes a moment to compile the policy; until then RBAC alone decides.
    let mut number = 0;
    let refused = loop {
        number += 1;
        let asked = service("theirs", "isthmus", number);
        match api.apply(&path("theirs"), &asked, true).await {
            Err(error) => break error,
            Ok(_) => {
                cluster.admin().delete_path(&path("theirs")).await.unwrap();
                cluster.admin().apply_text(DERIVED).await.unwrap();
            }
        }
        assert!(number < 2000, "somebody's Service can be taken over");
    };
    assert!(refused.to_string().contains("did not make"), "{refused}");
    let made = service("derived-2", "isthmus", 1);
    api.apply(&path("derived-2"), &made, false).await.unwrap();
    let made = service("stranger", "nobody", 1);
    let refused = api.apply(&path("stranger"), &made, false).await;
    assert!(refused.unwrap_err().to_string().contains("with its label"));
    assert!(api.delete(&path("theirs"), None).await.is_err());
    api.delete(&path("derived-2"), None).await.unwrap();
    only_its_slices(cluster, &api).await;
    only_its_config_map(&api).await;
}

/// Of EndpointSlices it is the same.
async fn only_its_slices(cluster: &Cluster, api: &Api) {
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = |name: &str, owner: &str| {
        serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": { "app.kubernetes.io/managed-by": owner },
            },
            "addressType": "IPv4", "endpoints": [], "ports": [],
        })
    };
    let theirs = slice("theirs", "nobody");
    cluster.admin().apply(&theirs).await.unwrap();
    let (made, at) = (slice("theirs", "isthmus"), format!("{slices}/theirs"));
    let refused = api.apply(&at, &made, true).await.unwrap_err();
    assert!(refused.to_string().contains("did not make"), "{refused}");
    assert!(api.delete(&at, None).await.is_err());
    let (made, at) = (slice("ours", "isthmus"), format!("{slices}/ours"));
    api.apply(&at, &made, false).await.unwrap();
    api.delete(&at, None).await.unwrap();
}

/// Of ConfigMaps the control plane's account has to do with one name only.
async fn only_its_config_map(api: &Api) {
    let all = "/api/v1/configmaps";
    let mine = [("fieldSelector", "metadata.name=isthmus-roots")];
    api.list(all, &mine).await.unwrap();
    assert_eq!(api.list(all, &[]).await.unwrap_err().code(), Some(403));
    let made = |name: &str| {
        let path = format!("/api/v1/namespaces/default/configmaps/{name}");
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "default" }, "data": { "a": "b" },
        });
        (path, object)
    };
    let (path, object) = made("isthmus-roots");
    api.apply(&path, &object, false).await.unwrap();
    api.delete(&path, None).await.unwrap();
    let (path, object) = made("other");
    let refused = api.apply(&path, &object, false).await.unwrap_err();
    assert_eq!(refused.code(), Some(403));
}

/// `check` tells what the control plane has written of a cluster, and with what it is mended.
async fn told_by_conditions(tool: &Tool, east: &Cluster) {
    let path = format!("{MESH_CLUSTERS}/west/status");
    let status = |status: &str, reason: &str, message: &str| {
        serde_json::json!({ "status": { "conditions": [{
            "type": "CredentialValid", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] } })
    };
    let refused = status(
        "False",
        "Refused",
        "clusters[west].server: a loopback address",
    );
    east.admin().merge(&path, &refused).await.unwrap();
    assert_eq!(
        broken(tool).await,
        ["west: CredentialValid: Refused: clusters[west].server: a loopback address"]
    );
    east.admin()
        .merge(&path, &status("True", "Valid", ""))
        .await
        .unwrap();
    assert_eq!(broken(tool).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_cluster_joins_is_checked_and_leaves() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.96.0.0/16"]).await else {
        return;
    };

    let join = "cluster join west --kubeconfig WEST --home-kubeconfig EAST";
    let early = tool.refused(join).await;
    assert!(early.contains("isthmus install"), "{early}");
    let install = "install --cluster east --network east-net --apply --kubeconfig EAST";
    let first = tool.done(install).await;
    assert!(
        steps(&first, "applied").contains(&"Deployment isthmus-system/isthmus-control-plane"),
        "{first}"
    );
    let again = tool.done(install).await;
    let kept = steps(&again, "kept");
    let definitions = kept.iter().filter(|kept| !kept.starts_with("--"));
    assert_eq!(definitions.count(), 2, "the definitions of others: {again}");
    assert_eq!(broken(&tool).await, Vec::<String>::new());

    // The control plane would not take a server on this machine, and nobody leaves one behind.
    let here = tool.refused(join).await;
    assert!(here.contains("a loopback address"), "{here}");
    assert!(here.contains("--server"), "{here}");
    assert_eq!(west.admin().find(ACCOUNT).await.unwrap(), None);
    assert_eq!(east.admin().find(SECRET).await.unwrap(), None);
    tool.done(&format!("{install} --config LOCAL")).await;

    let joined = tool.done(join).await;
    assert_eq!(
        steps(&joined, "applied").last(),
        Some(&"MeshCluster west"),
        "{joined}"
    );
    let cluster = east
        .admin()
        .get(&format!("{MESH_CLUSTERS}/west"))
        .await
        .unwrap();
    assert_eq!(cluster["spec"]["network"], "west");
    assert_eq!(
        cluster["spec"]["credential"]["secretRef"]["name"],
        "cluster-west"
    );
    let listed = tool.done("cluster list --kubeconfig EAST").await;
    assert_eq!(listed["clusters"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(broken(&tool).await, Vec::<String>::new());

    let twice = tool
        .refused("cluster join west-2 --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(twice.contains("as west"), "{twice}");
    let taken = tool
        .refused("cluster join east --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(taken.contains("choose another"), "{taken}");
    let reserved = tool
        .refused("cluster join control --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(reserved.contains("reserved"), "{reserved}");

    fenced(&west).await;
    told_by_conditions(&tool, &east).await;

    // A permission that is taken away is named, and joining again gives it back.
    let mut role = west.admin().get(ROLE).await.unwrap();
    for rule in role["rules"].as_array_mut().unwrap() {
        if rule["apiGroups"][0] == "discovery.k8s.io" {
            let verbs = rule["verbs"].as_array_mut().unwrap();
            verbs.retain(|verb| verb != "watch");
        }
    }
    // What is applied says who manages it by that alone.
    role["metadata"] = serde_json::json!({ "name": role["metadata"]["name"] });
    west.admin().apply(&role).await.unwrap();
    assert_eq!(
        broken(&tool).await,
        ["west: may not watch endpointslices.discovery.k8s.io"]
    );
    tool.done(&format!("{join} --force")).await;
    assert_eq!(broken(&tool).await, Vec::<String>::new());

    let wrong = tool
        .refused("cluster leave west --kubeconfig EAST --home-kubeconfig EAST")
        .await;
    assert!(wrong.contains("not the cluster that joined"), "{wrong}");
    let itself = tool.refused("cluster leave east --kubeconfig EAST").await;
    assert!(itself.contains("can't leave itself"), "{itself}");
    west.admin().apply_text(DERIVED).await.unwrap();
    let left = tool
        .done("cluster leave west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(
        steps(&left, "deleted").contains(&"serviceimports default/cart"),
        "{left}"
    );
    assert!(
        steps(&left, "deleted").contains(&"services default/derived-1"),
        "{left}"
    );
    assert!(!left.to_string().contains("default/theirs"), "{left}");
    assert_eq!(
        east.admin()
            .find(&format!("{MESH_CLUSTERS}/west"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(east.admin().find(SECRET).await.unwrap(), None);
    assert_eq!(west.admin().find(ACCOUNT).await.unwrap(), None);
    let again = tool
        .done("cluster leave west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert_eq!(steps(&again, "deleted"), Vec::<&str>::new(), "{again}");
    east.end().await.unwrap();
    west.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_install_prints_an_api_server_takes() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let output = tool.run("install --cluster east").await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let (definitions, rest): (Vec<&str>, Vec<&str>) = text
        .split("---\n")
        .partition(|one| one.contains("kind: CustomResourceDefinition"));
    assert_eq!(definitions.len(), 6);
    for definition in definitions {
        let applied = east.admin().apply_text(definition).await.unwrap();
        east.admin().served(&applied[0]).await.unwrap();
    }
    for object in rest {
        let applied = east.admin().apply_text(object).await;
        applied.unwrap_or_else(|why| panic!("{why:#}\n{object}"));
    }
    east.end().await.unwrap();
}
