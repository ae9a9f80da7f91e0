//! What if a kind is not there yet, or may not be read any more?

use isthmus_test_clusters::{Settings, crds};
use isthmus_tests::servers::programs;
use isthmus_tests::{Fault, Server};

use super::{Watched, account, count, kind_state, pod, route, service, token};

/// Without a restart.
#[tokio::test]
async fn a_kind_that_is_defined_later_is_noticed() {
    let Some(programs) = programs() else { return };
    let mut watched = Watched::bare(&programs, &Settings::default()).await;
    watched.server.apply(&pod("cart-1")).await;
    watched.control.start().await;
    let said = watched.until_count("Pod", 1).await;
    assert_eq!(said["state"], "synced", "{said}");
    assert_eq!(kind_state(&said, "HTTPRoute"), "absent", "{said}");
    let definition = crds::permissive_of("HTTPRoute").unwrap();
    watched.server.apply(&definition.to_string()).await;
    watched.server.apply(&route("cart")).await;
    let said = watched.until_count("HTTPRoute", 1).await;
    assert_eq!(kind_state(&said, "HTTPRoute"), "watching", "{said}");
    assert_eq!(kind_state(&said, "GRPCRoute"), "absent", "{said}");
    assert_eq!(said["state"], "synced", "{said}");
}

/// That kind is said to be forbidden and stays as it was; the others go on.
#[tokio::test]
async fn a_kind_that_may_not_be_read_any_more_stays_and_the_others_go_on() {
    let Some(programs) = programs() else { return };
    let server = Server::start(&programs, "east").await;
    let mut watched = Watched::prepare(server, &["loopback"]).await;
    for text in [account(""), service("cart"), route("cart")] {
        watched.server.apply(&text).await;
    }
    let credential = token(&watched.server).await;
    watched
        .server
        .write_kubeconfig_of(watched.folder(), &credential);
    watched.control.start().await;
    watched.until_count("HTTPRoute", 1).await;
    watched.server.apply(&account("httproutes")).await;
    // A watch that runs is not ended by the API server when the permission goes.
    watched.server.link.set(Fault::Reset);
    watched.until_state("stale").await;
    watched.server.link.set(Fault::None);
    let said = watched
        .until("routes are forbidden", |said| {
            kind_state(said, "HTTPRoute") == "forbidden"
        })
        .await;
    assert_eq!(count(&said, "HTTPRoute"), 1, "{said}");
    watched.until_state("synced").await;
    watched.server.apply(&pod("cart-1")).await;
    let said = watched.until_count("Pod", 1).await;
    assert_eq!(count(&said, "HTTPRoute"), 1, "{said}");

    // Given again: what went meanwhile is gone.
    watched.server.delete(&route("cart")).await;
    watched.server.apply(&account("")).await;
    let said = watched.until_count("HTTPRoute", 0).await;
    assert_eq!(kind_state(&said, "HTTPRoute"), "watching", "{said}");
}

/// Taken away while nobody watches: a fresh control plane still serves what it knew of the kind.
#[tokio::test]
async fn a_kind_that_is_forbidden_at_the_start_does_not_hold_up_the_others() {
    let Some(programs) = programs() else { return };
    let server = Server::start(&programs, "east").await;
    let mut watched = Watched::prepare(server, &["loopback"]).await;
    for text in [account("httproutes"), pod("cart-1"), route("cart")] {
        watched.server.apply(&text).await;
    }
    let credential = token(&watched.server).await;
    watched
        .server
        .write_kubeconfig_of(watched.folder(), &credential);
    watched.control.start().await;
    let said = watched.until_count("Pod", 1).await;
    assert_eq!(said["state"], "synced", "{said}");
    assert_eq!(kind_state(&said, "HTTPRoute"), "forbidden", "{said}");
    assert_eq!(count(&said, "HTTPRoute"), 0, "{said}");
}
