//! What if the control plane's own credential ends, and a new one comes?

use std::time::Duration;

use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_tests::Server;
use isthmus_tests::servers::programs;
use serde_json::Value;

use super::{Watched, account, count, pod};

/// How long the first token is taken. The API server remembers a good token for ten seconds more.
const LIFETIME: Duration = Duration::from_secs(5);

/// Replaces the token in a kubeconfig by the path of a file.
fn with_token_file(watched: &Watched, file: &std::path::Path) {
    let config = watched.folder().join("east.kubeconfig");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    value["users"][0]["user"] = serde_json::json!({ "tokenFile": file });
    std::fs::write(config, value.to_string()).unwrap();
}

#[tokio::test]
async fn a_token_that_ends_makes_the_cluster_stale_and_a_new_one_heals_it() {
    let Some(programs) = programs() else { return };
    let server = Server::start(&programs, "east").await;
    let mut watched = Watched::prepare(server, &["loopback", "files"]).await;
    watched.server.apply(&account("")).await;
    watched.server.apply(&pod("cart-1")).await;
    let file = watched.folder().join("token");
    let short = async |watched: &Watched, lifetime| {
        let cluster = &watched.server.cluster;
        let token = cluster.short_token("shop", "watcher", lifetime).await;
        token.unwrap()
    };
    std::fs::write(&file, short(&watched, LIFETIME).await).unwrap();
    let placeholder = Credential::Token(String::new());
    watched
        .server
        .write_kubeconfig_of(watched.folder(), &placeholder);
    with_token_file(&watched, &file);
    watched.control.start().await;
    watched.until_count("Pod", 1).await;

    // A watch that was let in goes on until it ends; the next one is not let in.
    let refused = async |watched: &Watched| {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let token = std::fs::read_to_string(watched.folder().join("token")).unwrap();
        let review = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token },
        });
        let answer = watched.server.cluster.admin().create(path, &review).await;
        answer.unwrap()["status"]["authenticated"] != true
    };
    isthmus_tests::until("the token is over", async || {
        isthmus_tests::wait::check(refused(&watched).await, "it is still taken")
    })
    .await;
    watched.server.link.set(isthmus_tests::Fault::Reset);
    watched.until_state("stale").await;
    watched.server.link.set(isthmus_tests::Fault::None);
    let said = watched
        .until("the reason is the credential", |said| {
            let reason = said["reason"].as_str().unwrap_or_default();
            said["state"] == "stale" && reason.to_lowercase().contains("unauthorized")
        })
        .await;
    assert_eq!(count(&said, "Pod"), 1, "{said}");

    watched.server.apply(&pod("cart-2")).await;
    let fresh = short(&watched, Duration::from_secs(3600)).await;
    std::fs::write(&file, fresh).unwrap();
    watched.until_state("synced").await;
    watched.until_count("Pod", 2).await;
}
