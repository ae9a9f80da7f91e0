//! What if the API server has forgotten where the watch was?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isthmus_test_clusters::Settings;
use isthmus_tests::Fault;
use isthmus_tests::servers::programs;

use super::{Watched, count, pod, service};

fn lists(said: &serde_json::Value) -> u64 {
    let lists = &said["source"]["kinds"]["Pod"]["lists"];
    lists.as_u64().unwrap_or_default()
}

/// The opposite: what is remembered is not asked for again.
#[tokio::test]
async fn a_line_that_was_cut_goes_on_where_it_was() {
    let Some(programs) = programs() else { return };
    let mut watched = Watched::bare(&programs, &Settings::default()).await;
    watched.server.apply(&pod("cart-1")).await;
    watched.control.start().await;
    let before = watched.until_count("Pod", 1).await;
    watched.until_state("synced").await;
    watched.server.link.set(Fault::Reset);
    watched.until_state("stale").await;
    watched.server.apply(&pod("cart-2")).await;
    watched.server.delete(&pod("cart-1")).await;
    watched.server.apply(&pod("cart-3")).await;
    watched.server.link.set(Fault::None);
    watched.until_state("synced").await;
    let after = watched.until_count("Pod", 2).await;
    assert_eq!(lists(&after), lists(&before), "{after}");
}

/// Pods before, of which one goes while nobody watches.
const PODS: u64 = 12;

/// 410 Gone: a new list takes the place of the old one, and what is in both is never missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_history_is_a_new_list_without_a_moment_of_emptiness() {
    let Some(programs) = programs() else { return };
    let settings = Settings {
        compaction: Some(Duration::from_secs(1)),
        ..Settings::default()
    };
    let mut watched = Watched::bare(&programs, &settings).await;
    for number in 1..=PODS {
        watched.server.apply(&pod(&format!("cart-{number}"))).await;
    }
    watched.control.start().await;
    let before = watched.until_count("Pod", PODS).await;
    watched.until_state("synced").await;

    // The line is cut; history goes on, and is forgotten: by etcd, and by the API server's own
    // memory, which begins anew.
    watched.server.link.set(Fault::Reset);
    watched.until_state("stale").await;
    watched.server.delete(&pod("cart-1")).await;
    for number in 0..50 {
        watched.server.apply(&service(&format!("s-{number}"))).await;
    }
    watched.server.cluster.api().kill().await.unwrap();
    watched.server.cluster.revive().await.unwrap();

    let least = Arc::new(AtomicU64::new(u64::MAX));
    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (least, done) = (Arc::clone(&least), Arc::clone(&done));
        let address = watched.control.admin();
        let state = watched.control.state_dir().to_owned();
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let clusters = isthmus_tests::admin::json(address, "/clusters", &state).await;
                least.fetch_min(count(&clusters[0], "Pod"), Ordering::SeqCst);
            }
        })
    };
    watched.server.link.set(Fault::None);
    let begun = Instant::now();
    watched.until_state("synced").await;
    let after = watched.until_count("Pod", PODS - 1).await;
    println!(
        "replaced {:.2} s after the server was back",
        begun.elapsed().as_secs_f64()
    );
    watched.until_count("Service", 51).await;
    done.store(true, Ordering::SeqCst);
    looking.await.unwrap();
    assert_eq!(least.load(Ordering::SeqCst), PODS - 1);
    assert!(lists(&after) > lists(&before), "{after}");
}
