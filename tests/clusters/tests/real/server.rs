//! Does a real API server start, answer, stop, come back, and go with its owner?

use std::time::Duration;

use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::Value;

/// `None`, and said: the programs are not here.
fn programs() -> Option<Programs> {
    match Programs::find() {
        Ok(programs) => Some(programs),
        Err(error) => {
            isthmus_test_clusters::skipped(&error);
            None
        }
    }
}

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: cart, namespace: shop }
---
apiVersion: v1
kind: Pod
metadata: { name: cart-1, namespace: shop }
spec:
  serviceAccountName: cart
  containers: [ { name: cart, image: isthmus } ]
status:
  phase: Running
  podIP: 127.20.0.21
  conditions: [ { type: Ready, status: \"True\" } ]
";
const POD: &str = "/api/v1/namespaces/shop/pods/cart-1";

/// What a token says, without asking who signed it.
fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_it_was_told_through_kill_and_stop() {
    let Some(programs) = programs() else { return };
    let mut cluster = Cluster::start(&programs, "east", &Settings::default())
        .await
        .unwrap();
    cluster.admin().apply_text(OBJECTS).await.unwrap();
    let pod = cluster.admin().get(POD).await.unwrap();
    assert_eq!(pod["status"]["podIP"], "127.20.0.21", "{pod}");
    let token = cluster
        .token("shop", "cart", Some("isthmus"), Some("cart-1"))
        .await
        .unwrap();
    let claims = claims(&token);
    assert_eq!(claims["aud"][0], "isthmus");
    assert_eq!(
        claims["kubernetes.io"]["pod"]["uid"],
        pod["metadata"]["uid"]
    );

    cluster.api().kill().await.unwrap();
    assert!(cluster.admin().get(POD).await.is_err());
    cluster.revive().await.unwrap();
    assert_eq!(cluster.admin().get(POD).await.unwrap(), pod);
    cluster.api().stop().await.unwrap();
    cluster.revive().await.unwrap();
    cluster.etcd().kill().await.unwrap();
    cluster.revive().await.unwrap();
    assert_eq!(cluster.admin().get(POD).await.unwrap(), pod);

    cluster.admin().delete_text(OBJECTS).await.unwrap();
    assert!(cluster.admin().find(POD).await.unwrap().is_none());
    let numbers = [cluster.api().process(), cluster.etcd().process()];
    cluster.end().await.unwrap();
    for number in numbers {
        assert!(!std::fs::exists(format!("/proc/{}", number.unwrap())).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_token_is_taken_while_it_lasts() {
    let Some(programs) = programs() else { return };
    let cluster = Cluster::start(&programs, "west", &Settings::default())
        .await
        .unwrap();
    cluster.admin().apply_text(OBJECTS).await.unwrap();
    let review = async |token: String| {
        let body = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token },
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        cluster.admin().create(path, &body).await.unwrap()["status"].clone()
    };
    let short = async |lifetime| cluster.short_token("shop", "cart", lifetime).await.unwrap();
    let good = review(short(Duration::from_secs(60)).await).await;
    assert_eq!(good["authenticated"], true, "{good}");
    assert_eq!(good["user"]["username"], "system:serviceaccount:shop:cart");
    let over = review(short(Duration::ZERO).await).await;
    assert_ne!(over["authenticated"], true, "{over}");
    cluster.end().await.unwrap();
}

/// Set in the process that is to be killed: where it says which processes it has.
const OWNER: &str = "ISTHMUS_TEST_OWNER";

async fn own(programs: &Programs, told: &str) {
    let mut cluster = Cluster::start(programs, "north", &Settings::default())
        .await
        .unwrap();
    cluster.api().stop().await.unwrap();
    let numbers = [cluster.api().process(), cluster.etcd().process()].map(Option::unwrap);
    let fresh = format!("{told}.new");
    std::fs::write(&fresh, format!("{} {}", numbers[0], numbers[1])).unwrap();
    std::fs::rename(fresh, told).unwrap();
    std::future::pending::<()>().await;
}

/// Also a frozen API server: only SIGKILL can end that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_killed_takes_its_processes_with_it() {
    let Some(programs) = programs() else { return };
    if let Ok(told) = std::env::var(OWNER) {
        own(&programs, &told).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("processes");
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "server::an_owner_that_is_killed_takes_its_processes_with_it",
        ])
        .env(OWNER, &told)
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let numbers = until(async || std::fs::read_to_string(&told).ok()).await;
    owner.kill().await.unwrap();
    for number in numbers.split(' ') {
        // Whoever waits for orphans may do so late: a zombie has no command line.
        let command = format!("/proc/{number}/cmdline");
        let gone = async || std::fs::read(&command).unwrap_or_default().is_empty();
        until(async || gone().await.then_some(())).await;
    }
    let folders = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.starts_with("isthmus-cluster-"))
    };
    until(async || (!folders()).then_some(())).await;
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), looking)
        .await
        .expect("it comes")
}
