//! Does a real API server take our definitions, and refuse with them what we refuse?

use std::path::{Path, PathBuf};

use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::Value;

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Namespace
metadata: { name: isthmus-system }
";

fn deploy(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below)
}

/// The text of every file of a folder.
fn texts(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(deploy(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_takes_the_examples_and_refuses_what_the_decoder_refuses() {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(error) => return isthmus_test_clusters::skipped(&error),
    };
    let cluster = Cluster::start(&programs, "east", &Settings::default())
        .await
        .unwrap();
    let admin = cluster.admin();
    let mut definitions: Vec<Value> = Vec::new();
    for text in [texts("crds"), texts("crds/mcs")].concat() {
        definitions.extend(admin.apply_text(&text).await.unwrap());
    }
    assert_eq!(definitions.len(), 6);
    for definition in &definitions {
        admin.served(definition).await.unwrap();
        // Says what is not structural, what CEL does not compile, and what would cost too much.
        let name = definition["metadata"]["name"].as_str().unwrap();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let conditions = admin.get(&path).await.unwrap()["status"]["conditions"].clone();
        let bad = |c: &&Value| c["type"] == "NonStructuralSchema" && c["status"] == "True";
        assert_eq!(
            conditions.as_array().unwrap().iter().find(bad),
            None,
            "{name}"
        );
    }
    admin.apply_text(NAMESPACES).await.unwrap();
    for text in texts("examples") {
        let applied = admin.apply_text(&text).await;
        applied.unwrap_or_else(|why| panic!("{why:#}\n{text}"));
    }
    let refused = std::fs::read_to_string(deploy("gen/tests/refused.yaml")).unwrap();
    for document in refused.split("\n---\n") {
        let error = match admin.apply_text(document).await {
            Ok(_) => panic!("is taken:\n{document}"),
            Err(error) => format!("{error:#}"),
        };
        // The words differ: by schema, by CEL, by server-side apply. That it is the server that refuses,
        // and not for want of a connection or a definition, is what counts.
        let answered = error.contains("the API server says");
        assert!(
            answered && !error.contains("says 404"),
            "{error}\n{document}"
        );
    }
    cluster.end().await.unwrap();
}
