//! Are unknown, empty and stale told apart?

use isthmus_tests::servers::programs;

use super::{SYSTEM, Watched, count, export, pod, service};

/// Silent from the beginning: the control plane knows nothing, and says so, until it does.
#[tokio::test]
async fn a_cluster_is_unknown_until_it_was_listed_and_then_it_is_known_to_be_empty() {
    let Some(programs) = programs() else { return };
    let mut watched = Watched::usual(&programs).await;
    watched.server.cluster.api().stop().await.unwrap();
    watched.control.start_unready().await;
    let said = watched.said().await;
    assert_eq!(said["state"], "unknown", "{said}");
    assert!(said["age_seconds"].is_null(), "{said}");
    watched.server.cluster.api().resume().await.unwrap();
    let said = watched.until_state("synced").await;
    assert_eq!(count(&said, "Pod"), 0, "{said}");
    assert!(count(&said, "Namespace") > 0, "{said}");
}

/// F27, F28: what was known stays, and its age is told; also after a restart of the control plane.
#[tokio::test]
async fn a_cluster_that_is_lost_is_stale_and_keeps_what_it_had() {
    let Some(programs) = programs() else { return };
    let mut watched = Watched::usual(&programs).await;
    for text in [pod("cart-1"), pod("cart-2"), service("cart")] {
        watched.server.apply(&text).await;
    }
    watched.control.start().await;
    watched.until_state("synced").await;
    watched.until_count("Pod", 2).await;
    watched.server.cluster.api().kill().await.unwrap();
    let old = |said: &serde_json::Value| said["age_seconds"].as_f64().unwrap_or_default();
    let said = watched
        .until("east is stale, and older and older", |said| {
            said["state"] == "stale" && old(said) > 2.0
        })
        .await;
    // Every API server has a Service of its own.
    assert_eq!((count(&said, "Pod"), count(&said, "Service")), (2, 2));
    watched.control.kill();
    watched.control.start().await;
    let again = watched.said().await;
    assert_eq!(again["state"], "stale", "{again}");
    assert_eq!(count(&again, "Pod"), 2, "{again}");
    assert!(old(&again) >= old(&said), "{again}");

    // It comes back with one pod less and one more.
    watched.server.cluster.revive().await.unwrap();
    watched.server.delete(&pod("cart-1")).await;
    watched.server.apply(&pod("cart-3")).await;
    watched.server.apply(&pod("cart-4")).await;
    watched.until_state("synced").await;
    watched.until_count("Pod", 3).await;
}

/// The mesh goes on to write into a cluster that was lost, as it did before.
#[tokio::test]
async fn what_is_exported_after_an_outage_is_imported() {
    let Some(programs) = programs() else { return };
    let mut watched = Watched::usual(&programs).await;
    watched.server.apply(SYSTEM).await;
    watched.control.start().await;
    for (name, imports) in [("cart", 1), ("books", 2), ("web", 3)] {
        if imports > 1 {
            watched.server.cluster.api().kill().await.unwrap();
            watched.until_state("stale").await;
            watched.server.cluster.revive().await.unwrap();
        }
        watched.until_state("synced").await;
        for text in [service(name), export(name)] {
            watched.server.apply(&text).await;
        }
        watched.until_count("ServiceImport", imports).await;
    }
}
