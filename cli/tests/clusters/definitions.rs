//! Are definitions that are not this version's found, and does what is printed put them right?

use serde_json::json;

use crate::tool::{Tool, broken, findings, of_level, start, steps};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const EXPORTS: &str =
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceexports.yaml");
const IMPORTS: &str =
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceimports.yaml");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_definition_of_ours_is_named_and_replaced_by_what_is_printed() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let install = "install --cluster east --apply --kubeconfig EAST";
    tool.done(install).await;
    assert_eq!(broken(&tool).await, Vec::<String>::new());

    let path = format!("{DEFINITIONS}/trafficpolicies.isthmus.dev");
    // Somebody else's, as from a folder of manifests of the version before.
    let now = east.admin().get(&path).await.unwrap();
    let mut versions = now["spec"]["versions"].clone();
    let schema = "/0/schema/openAPIV3Schema/properties/spec";
    let spec = versions.pointer_mut(schema).unwrap();
    *spec = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let old = json!({ "metadata": { "managedFields": [] }, "spec": { "versions": versions } });
    east.admin().merge(&path, &old).await.unwrap();
    let found = findings(&tool).await;
    let named = of_level(&found, "broken");
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(
        named[0].starts_with("east: TrafficPolicy isthmus.dev/v1alpha1 has another schema"),
        "{named:?}"
    );
    let fix = found.iter().find(|finding| finding["level"] == "broken");
    let fix = fix.unwrap()["fix"].as_str().unwrap();
    let fix = fix.strip_prefix("isthmus ").unwrap();
    tool.done(&format!("{fix} --kubeconfig EAST")).await;
    assert_eq!(broken(&tool).await, Vec::<String>::new());
    let after = east.admin().get(&path).await.unwrap();
    assert_eq!(after["spec"]["versions"], now["spec"]["versions"]);
    east.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_definitions_of_others_are_left_alone_and_their_upgrade_is_told() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    for definition in [EXPORTS, IMPORTS] {
        let old = definition.replace("v1beta1", "v1alpha1");
        let applied = east.admin().apply_text(&old).await.unwrap();
        east.admin().served(&applied[0]).await.unwrap();
    }
    let installed = tool
        .done("install --cluster east --apply --kubeconfig EAST")
        .await;
    assert_eq!(steps(&installed, "kept").len(), 2, "{installed}");
    let found = findings(&tool).await;
    assert_eq!(of_level(&found, "broken"), Vec::<String>::new());
    let older: Vec<&str> = found
        .iter()
        .filter(|finding| finding["check"] == "definitions")
        .map(|finding| finding["fix"].as_str().unwrap())
        .collect();
    assert_eq!(older.len(), 2, "{found:?}");
    for (fix, kind) in older.iter().zip(["serviceexports", "serviceimports"]) {
        assert!(fix.contains("kubectl apply --context"), "{fix}");
        assert!(
            fix.ends_with(&format!("multicluster.x-k8s.io_{kind}.yaml")),
            "{fix}"
        );
    }

    // As a definition does that serves both.
    for plural in ["serviceexports", "serviceimports"] {
        let path = format!("{DEFINITIONS}/{plural}.multicluster.x-k8s.io");
        let there = east.admin().get(&path).await.unwrap();
        let mut older = there["spec"]["versions"][0].clone();
        let mut newer = older.clone();
        older["storage"] = false.into();
        newer["name"] = "v1beta1".into();
        let both = json!({ "spec": { "versions": [older, newer] } });
        east.admin().merge(&path, &both).await.unwrap();
    }
    let mut left = Vec::new();
    for _ in 0..50 {
        left = of_level(&findings(&tool).await, "warning");
        left.retain(|message| message.contains("older version"));
        if left.is_empty() {
            break;
        }
    }
    assert_eq!(left, Vec::<String>::new());
    east.end().await.unwrap();
}
