//! Do real API servers end up with what should stand in them, and are they then left in peace?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_control_plane::hub::{CHANGES_MAX, Hub};
use isthmus_control_plane::kubernetes::{Allow, Api, kubeconfig};
use isthmus_control_plane::metrics::{Metrics, Page};
use isthmus_control_plane::source::Source as _;
use isthmus_control_plane::source::kubernetes::KubernetesSource;
use isthmus_control_plane::writer::{Limits, Problems, Writer};
use isthmus_control_plane_core::quota::Quota;
use isthmus_control_plane_core::world::World;
use isthmus_control_plane_core::write::derived_name;
use isthmus_proto::ids::ClusterId;
use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A test that waits longer than this has failed.
const LIMIT: Duration = Duration::from_secs(90);
const MULTICLUSTER: &str = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: mesh }
spec: { controllerName: isthmus.dev/controller }
";
const CUT: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: TrustPolicy
metadata: { name: cut }
spec: { distrustedClusters: [north] }
";
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
";
const CART: &str = "
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec:
  selector: { app: cart }
  trafficDistribution: PreferClose
  sessionAffinity: ClientIP
  sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } }
  ports:
  - { name: http, port: 80, appProtocol: kubernetes.io/h2c }
  - { name: dns, port: 53, protocol: UDP }
";
const EXPORT: &str = "
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: { name: cart, namespace: shop }
";
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [ { group: '', kind: Service, name: cart } ]
  rules: [ { backendRefs: [ { name: cart, port: 80 }, { name: nothing, port: 80 } ] } ]
";

/// One control plane, as far as it sees and writes.
pub(crate) struct Control {
    metrics: Arc<Metrics>,
    pub(crate) problems: Arc<Problems>,
    _tasks: JoinSet<()>,
}

impl Control {
    pub(crate) fn start(clusters: &[&Cluster]) -> Self {
        let mut world = World::new("mesh.example").unwrap();
        let mut apis = BTreeMap::new();
        for cluster in clusters {
            let id: ClusterId = cluster.name().parse().unwrap();
            world.add_cluster(&id).unwrap();
            let allow = Allow::of_words(["loopback"]).unwrap();
            let access = kubeconfig(&cluster.admin_kubeconfig().unwrap(), None, &allow);
            apis.insert(id, Api::new(access.unwrap()).unwrap());
        }
        let hub = Arc::new(Hub::new(world));
        let mut tasks = JoinSet::new();
        for (id, api) in &apis {
            let (send, receive) = mpsc::channel(CHANGES_MAX);
            hub.join(id, receive);
            tasks.spawn(KubernetesSource::new(id, api, Quota::default()).run(send));
        }
        let running = Arc::clone(&hub);
        tasks.spawn(async move { running.run().await });
        let (metrics, problems) = <(Arc<Metrics>, Arc<Problems>)>::default();
        let (servers, leads) = (watch::Sender::new(apis), watch::Sender::new(true));
        let writer = Writer {
            hub,
            servers: servers.subscribe(),
            leads: leads.subscribe(),
            metrics: Arc::clone(&metrics),
            problems: Arc::clone(&problems),
            limits: Limits {
                removals_after: Duration::from_secs(1),
                ..Limits::default()
            },
        };
        tasks.spawn(async move {
            writer.run().await;
            drop((servers, leads));
        });
        Self {
            metrics,
            problems,
            _tasks: tasks,
        }
    }

    pub(crate) fn counted(&self, name: &str) -> u64 {
        let mut page = Page::default();
        self.metrics.write(&mut page);
        let text = page.into_text();
        let samples = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")));
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

pub(crate) async fn two() -> Option<[Cluster; 2]> {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(error) => {
            isthmus_test_clusters::skipped(&error);
            return None;
        }
    };
    let mut clusters = Vec::new();
    for name in ["east", "west"] {
        let cluster = Cluster::start(&programs, name, &Settings::default()).await;
        let cluster = cluster.unwrap();
        cluster.define_kinds().await.unwrap();
        cluster.admin().apply_text(NAMESPACE).await.unwrap();
        clusters.push(cluster);
    }
    clusters.try_into().ok()
}

pub(crate) async fn find(cluster: &Cluster, path: &str) -> Value {
    cluster
        .admin()
        .find(path)
        .await
        .unwrap()
        .unwrap_or_default()
}

async fn import(cluster: &Cluster) -> Value {
    find(cluster, &format!("{MULTICLUSTER}/serviceimports/cart")).await
}

async fn derived(cluster: &Cluster) -> Value {
    let name = derived_name("shop", "cart");
    find(cluster, &format!("/api/v1/namespaces/shop/services/{name}")).await
}

async fn is_imported(cluster: &Cluster) -> bool {
    let (import, derived) = (import(cluster).await, derived(cluster).await);
    let address = &derived["spec"]["clusterIP"];
    address.is_string()
        && import["spec"]["ips"] == json!([address])
        && import["status"]["clusters"] == json!([{ "cluster": "east" }])
        && import["status"]["conditions"][0]["status"] == "True"
        && import["status"]["conditions"][0]["observedGeneration"]
            == import["metadata"]["generation"]
}

pub(crate) async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < LIMIT, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The version of every object that is written, and of the status of others.
/// The route was read with the defaults of the Gateway API in it, and its status was taken where not every
/// status is.
async fn met_by_a_schema(cluster: &Cluster, path: &str) {
    let route = cluster.admin().get(path).await.unwrap();
    let rule = &route["spec"]["rules"][0];
    let everything = json!([{ "path": { "type": "PathPrefix", "value": "/" } }]);
    assert_eq!(rule["matches"], everything, "{route}");
    assert_eq!(rule["backendRefs"][0]["kind"], "Service");
    assert_eq!(rule["backendRefs"][0]["weight"], 1);
    let parent = &route["status"]["parents"][0];
    let mut other = parent.clone();
    other["conditions"][0]["reason"] = "no word".into();
    let mut nameless = parent.clone();
    nameless["controllerName"] = "isthmus".into();
    for parents in [json!([other]), json!([nameless]), json!(vec![parent; 33])] {
        let patch = json!({ "status": { "parents": parents } });
        let refused = cluster
            .admin()
            .merge(&format!("{path}/status"), &patch)
            .await;
        let why = format!("{:#}", refused.unwrap_err());
        assert!(why.contains("status.parents"), "{why}");
    }
}

async fn versions(clusters: &[&Cluster]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for cluster in clusters {
        let routes = ROUTES.to_owned();
        let lists =
            ["serviceimports", "serviceexports"].map(|kind| format!("{MULTICLUSTER}/{kind}"));
        let services = "/api/v1/namespaces/shop/services".to_owned();
        for list in lists.into_iter().chain([services, routes]) {
            let list = cluster.admin().get(&list).await.unwrap();
            for item in list["items"].as_array().unwrap() {
                let meta = &item["metadata"];
                let (name, version) = (&meta["name"], &meta["resourceVersion"]);
                found.insert(format!("{} {name} {version}", cluster.name()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn what_is_exported_is_imported_by_real_clusters_once_and_goes_with_the_last_export() {
    let Some([east, west]) = two().await else {
        return;
    };
    let control = Control::start(&[&east, &west]);
    for text in [CART, EXPORT, ROUTE] {
        east.admin().apply_text(text).await.unwrap();
    }
    until("imported", async || {
        is_imported(&east).await && is_imported(&west).await
    })
    .await;
    let (imported, service) = (import(&west).await, derived(&west).await);
    assert_eq!(imported["spec"]["type"], "ClusterSetIP");
    assert_eq!(
        imported["spec"]["ports"][0]["appProtocol"],
        "kubernetes.io/h2c"
    );
    assert_eq!(imported["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(imported["spec"]["trafficDistribution"], "PreferClose");
    assert_eq!(imported["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(
        service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        60
    );
    assert_eq!(service["spec"]["ports"][1]["protocol"], "UDP");
    assert!(service["spec"]["selector"].is_null());
    let owner = &service["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], imported["metadata"]["uid"]);
    let export = format!("{MULTICLUSTER}/serviceexports/cart");
    until("said of the export", async || {
        let export = find(&east, &export).await;
        let ready = &export["status"]["conditions"][1];
        ready["type"] == "Ready" && ready["status"] == "True" && ready["observedGeneration"] == 1
    })
    .await;
    let route = format!("{ROUTES}/r");
    until("said of the route", async || {
        let parent = find(&east, &route).await["status"]["parents"][0].clone();
        parent["controllerName"] == "isthmus.dev/controller"
            && parent["conditions"][0]["reason"] == "Accepted"
            && parent["conditions"][1]["reason"] == "BackendNotFound"
    })
    .await;
    met_by_a_schema(&east, &route).await;

    // Another control plane looks at all of it, and nothing is written.
    drop(control);
    let before = versions(&[&east, &west]).await;
    let control = Control::start(&[&east, &west]);
    until("looked", async || {
        control.counted("isthmus_writes_unchanged_total") >= 8
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(control.counted("isthmus_writes_applied_total"), 0);
    assert_eq!(versions(&[&east, &west]).await, before);

    // The affinity ends, and the address stays.
    let plain = CART.replace("sessionAffinity: ClientIP", "sessionAffinity: None");
    let lines = plain
        .lines()
        .filter(|line| !line.contains("sessionAffinityConfig"));
    let plain: Vec<_> = lines.collect();
    east.admin().apply_text(&plain.join("\n")).await.unwrap();
    until("the affinity ends", async || {
        derived(&west).await["spec"]["sessionAffinity"] == "None"
    })
    .await;
    assert_eq!(
        derived(&west).await["spec"]["clusterIP"],
        service["spec"]["clusterIP"]
    );

    // Headless: it has to be another service.
    let headless = format!("{}\n  clusterIP: None\n", plain.join("\n").trim_end());
    east.admin().delete_text(CART).await.unwrap();
    east.admin().apply_text(&headless).await.unwrap();
    until("headless", async || {
        import(&west).await["spec"]["type"] == "Headless"
            && import(&west).await["spec"]["ips"].is_null()
            && derived(&west).await["spec"]["clusterIP"] == "None"
    })
    .await;

    east.admin().delete_text(EXPORT).await.unwrap();
    until("gone", async || {
        let left = [
            import(&east).await,
            import(&west).await,
            derived(&east).await,
            derived(&west).await,
        ];
        left.iter().all(Value::is_null)
    })
    .await;
    assert_eq!(control.problems.list(), vec![]);
    assert!(
        find(&east, "/api/v1/namespaces/shop/services/cart")
            .await
            .is_object()
    );
    for cluster in [east, west] {
        cluster.end().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_no_namespace_is_told_what_became_of_it() {
    let Some([east, west]) = two().await else {
        return;
    };
    let control = Control::start(&[&east]);
    for text in [CLASS, CUT] {
        east.admin().apply_text(text).await.unwrap();
    }
    let said = async |path: &str, at: usize| {
        let found = find(&east, path).await;
        let condition = &found["status"]["conditions"][at];
        let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", word("type"), word("status"), word("reason"))
    };
    let class = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/mesh";
    until("said of the class", async || {
        said(class, 0).await == "Accepted True Accepted"
    })
    .await;
    let policy = "/apis/isthmus.dev/v1alpha1/trustpolicies/cut";
    until("said of the policy", async || {
        said(policy, 0).await == "Accepted True Accepted"
            && said(policy, 1).await == "ResolvedRefs False NoSuchCluster"
    })
    .await;
    assert_eq!(control.problems.list(), vec![]);
    for cluster in [east, west] {
        cluster.end().await.unwrap();
    }
}
