//! Does our own client of API servers understand a real one?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_control_plane::hub::Hub;
use isthmus_control_plane::kubernetes::{Access, Allow, Api, Candidate, Reviewer, kubeconfig};
use isthmus_control_plane::state::StateDir;
use isthmus_control_plane::token::{KeyReviewer, Refused, TokenReviewer as _};
use isthmus_control_plane_core::lease::Timing;
use isthmus_control_plane_core::world::World;
use isthmus_proto::ids::ClusterId;
use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

/// A promise that something comes; a test that waits longer has failed.
const SOON: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
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
";
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const POD: &str = "/api/v1/namespaces/shop/pods/cart-1";

async fn start(name: &str) -> Option<Cluster> {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(error) => {
            isthmus_test_clusters::skipped(&error);
            return None;
        }
    };
    let cluster = Cluster::start(&programs, name, &Settings::default())
        .await
        .unwrap();
    cluster.admin().apply_text(OBJECTS).await.unwrap();
    Some(cluster)
}

fn access(text: &str) -> Access {
    let allow = Allow::of_words(["loopback"]).unwrap();
    kubeconfig(text, None, &allow).unwrap()
}

fn admin(cluster: &Cluster) -> Api {
    Api::new(access(&cluster.admin_kubeconfig().unwrap())).unwrap()
}

fn map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": { "value": value },
        "metadata": { "name": name, "namespace": "shop" },
    })
}

async fn event(watch: &mut isthmus_control_plane::kubernetes::Watch) -> Value {
    let line = timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    serde_json::from_slice(&line).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_lists_watches_and_applies() {
    let Some(cluster) = start("east").await else {
        return;
    };
    let api = admin(&cluster);
    for name in ["a", "b", "c"] {
        api.create(MAPS, &map(name, "1")).await.unwrap();
    }
    let again = api.create(MAPS, &map("a", "1")).await.unwrap_err();
    assert!(again.is_conflict(), "{again}");
    let page = api.list(MAPS, &[("limit", "2")]).await.unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = api.list(MAPS, &[("limit", "2"), ("continue", token)]).await;
    let rest: Value = serde_json::from_slice(&rest.unwrap()).unwrap();
    let version = rest["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");

    let query = [
        ("resourceVersion", version),
        ("allowWatchBookmarks", "true"),
    ];
    let mut watch = api.watch(MAPS, &query).await.unwrap();
    let at = format!("{MAPS}/d");
    let applied = api.apply(&at, &map("d", "1"), true).await.unwrap();
    assert_eq!(
        applied["metadata"]["managedFields"][0]["manager"],
        "isthmus"
    );
    let added = event(&mut watch).await;
    assert_eq!(
        (&added["type"], &added["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("d"))
    );
    // The same once more is no change: the next event is the next change.
    let same = api.apply(&at, &map("d", "1"), true).await.unwrap();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        applied["metadata"]["resourceVersion"]
    );
    api.apply(&at, &map("d", "2"), false).await.unwrap();
    assert_eq!(event(&mut watch).await["object"]["data"]["value"], "2");

    let wrong = api
        .delete(&at, Some(&json!({ "uid": "another" })))
        .await
        .unwrap_err();
    assert!(wrong.is_conflict(), "{wrong}");
    let uid = &same["metadata"]["uid"];
    api.delete(&at, Some(&json!({ "uid": uid }))).await.unwrap();
    assert_eq!(event(&mut watch).await["type"], "DELETED");
    assert!(api.get(&at).await.unwrap_err().is_not_found());
    // Twenty kinds at once, and still one connection for watches and one for the rest.
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(api.watch(MAPS, &query).await.unwrap());
    }
    assert_eq!(api.traffic().connections(), 2);
    cluster.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_credential_may_not_do_is_forbidden_and_a_bad_one_unauthorized() {
    let Some(cluster) = start("east").await else {
        return;
    };
    let issued = admin(&cluster)
        .token(("shop", "cart"), &[], None, HOUR)
        .await
        .unwrap();
    let of = |token: &str| {
        let credential = Credential::Token(token.to_owned());
        Api::new(access(&cluster.kubeconfig(&credential))).unwrap()
    };
    let error = of(&issued.token).get(POD).await.unwrap_err();
    assert!(error.is_forbidden(), "{error}");
    let error = of("nobody").watch(MAPS, &[]).await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    // It ends when it was said to end, give or take what the server is asked and grants.
    let left = issued
        .expires
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(left > HOUR / 2 && left < HOUR * 2, "{left:?}");
    cluster.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_cluster_of_a_living_pod_vouches_for_its_token() {
    let Some(east) = start("east").await else {
        return;
    };
    let west = start("west").await.unwrap();
    let (east_api, west_api) = (admin(&east), admin(&west));
    let folder = tempfile::tempdir().unwrap();
    let keys = KeyReviewer::open(&StateDir::open(folder.path()).unwrap(), []).unwrap();
    let mut world = World::new("mesh.internal").unwrap();
    for name in ["east", "west"] {
        world.add_cluster(&name.parse().unwrap()).unwrap();
    }
    let (_apis, apis) = watch::channel(BTreeMap::from([
        ("east".parse().unwrap(), east_api.clone()),
        ("west".parse().unwrap(), west_api.clone()),
    ]));
    let reviewer = Reviewer::new(keys, apis, Arc::new(Hub::new(world)));

    let pod: Value = serde_json::from_slice(&east_api.get(POD).await.unwrap()).unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let account = ("shop", "cart");
    let good = async |audience: &str, pod: Option<(&str, &str)>| {
        let issued = east_api
            .token(account, &[audience], pod, HOUR)
            .await
            .unwrap();
        issued.token
    };
    let token = good("isthmus", Some(("cart-1", uid))).await;
    let claims = reviewer.review("east", &token).await.unwrap();
    assert_eq!(
        (claims.namespace.as_str(), claims.service_account.as_str()),
        account
    );
    assert_eq!(claims.pod.as_deref(), Some("cart-1"));

    let foreign = reviewer.review("west", &token).await.unwrap_err();
    assert!(matches!(foreign, Refused::Rejected { .. }), "{foreign}");
    let other = good("https://vault", Some(("cart-1", uid))).await;
    let other = reviewer.review("east", &other).await.unwrap_err();
    assert!(
        matches!(other, Refused::Rejected { .. } | Refused::Audience),
        "{other}"
    );
    let unbound = good("isthmus", None).await;
    assert_eq!(
        reviewer.review("east", &unbound).await,
        Err(Refused::Subject)
    );
    // A character of its signature.
    let mut forged = token.clone();
    let last = if forged.pop() == Some('A') { 'Q' } else { 'A' };
    forged.insert(forged.len() - 9, last);
    assert!(reviewer.review("east", &forged).await.is_err());

    east_api.delete(POD, None).await.unwrap();
    let gone = async {
        // Nobody runs the pod: it is gone at once, and the authenticator's cache a moment later.
        while reviewer.review("east", &token).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
    for cluster in [east, west] {
        cluster.end().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_lease_goes_from_one_to_the_other() {
    let Some(mut cluster) = start("east").await else {
        return;
    };
    let timing = Timing {
        duration: Duration::from_secs(3),
        deadline: Duration::from_secs(2),
        retry: Duration::from_millis(200),
    };
    let candidate = |me: &str| {
        let home: ClusterId = "east".parse().unwrap();
        let (_, apis) = watch::channel(BTreeMap::from([(home.clone(), admin(&cluster))]));
        let name = ("shop", "isthmus");
        let (candidate, leadership) = Candidate::new((&home, apis), name, me, timing).unwrap();
        let (stop, stopped) = watch::channel(false);
        (stop, leadership, tokio::spawn(candidate.run(stopped)))
    };
    let (stop, mut first, ended) = candidate("one");
    timeout(SOON, first.gained()).await.unwrap();
    let (_stop, mut second, _task) = candidate("two");
    stop.send_replace(true);
    timeout(SOON, ended).await.unwrap().unwrap();
    assert!(!first.holds());
    timeout(SOON, second.gained()).await.unwrap();
    let path = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/isthmus";
    let lease = cluster.admin().get(path).await.unwrap();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(holder.starts_with("two_"), "{lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // A server that hangs: it can't renew, and stops leading by itself.
    cluster.api().stop().await.unwrap();
    timeout(SOON, second.lost()).await.unwrap();
    cluster.revive().await.unwrap();
    timeout(SOON, second.gained()).await.unwrap();
    cluster.end().await.unwrap();
}
