//! Does what should stand in the clusters get there, through documents and back through manifests?

mod fake;

use isthmus_control_plane_core::model::{Advertised, Change, Kind, Labels, Object, Spec};
use isthmus_control_plane_core::write::derived_name;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use fake::Fake;

/// Far longer than anything here takes, in the clock of the test.
const LIMIT: Duration = Duration::from_secs(3_600);

/// Two clusters, a hub, and a writer that leads if it is told to.
struct Mesh {
    hub: Arc<Hub>,
    fakes: BTreeMap<ClusterId, Fake>,
    metrics: Arc<Metrics>,
    problems: Arc<Problems>,
    leads: watch::Sender<bool>,
    /// Ends with the mesh.
    _tasks: JoinSet<()>,
}

const CLUSTERS: [&str; 2] = ["east", "west"];

impl Mesh {
    fn start() -> Self {
        let mut world = World::new("mesh.internal").unwrap();
        let mut fakes = BTreeMap::new();
        for name in CLUSTERS {
            let cluster: ClusterId = name.parse().unwrap();
            world.add_cluster(&cluster).unwrap();
            fakes.insert(cluster, Fake::default());
        }
        let hub = Arc::new(Hub::new(world));
        let (metrics, problems) = <(Arc<Metrics>, Arc<Problems>)>::default();
        let leads = watch::Sender::new(false);
        let (servers, receiver) = watch::channel(fakes.clone());
        let writer = Writer {
            hub: Arc::clone(&hub),
            servers: receiver,
            leads: leads.subscribe(),
            metrics: Arc::clone(&metrics),
            problems: Arc::clone(&problems),
            limits: Limits::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            writer.run().await;
            drop(servers);
        });
        let mesh = Self {
            hub,
            fakes,
            metrics,
            problems,
            leads,
            _tasks: tasks,
        };
        for cluster in CLUSTERS {
            mesh.list(cluster);
        }
        mesh
    }

    fn fake(&self, cluster: &str) -> &Fake {
        &self.fakes[cluster]
    }

    fn tell(&self, change: Change) {
        let now = SystemTime::now();
        self.hub.change(|world| world.apply(change, now));
    }

    /// The source lists a cluster.
    fn list(&self, cluster: &str) {
        let cluster: ClusterId = cluster.parse().unwrap();
        self.tell(Change::Init {
            cluster: cluster.clone(),
        });
        let space = Object {
            cluster: cluster.clone(),
            namespace: None,
            name: "shop".into(),
            created: None,
            spec: Spec::Namespace(Labels::new()),
        };
        self.tell(Change::Apply(space));
        for object in self.fakes[&cluster].objects() {
            self.observe(&cluster, &object);
        }
        self.tell(Change::InitDone {
            cluster,
            kept: BTreeSet::new(),
        });
    }

    fn observe(&self, cluster: &ClusterId, object: &Value) {
        let parsed = crate::manifest::parse(&object.to_string(), cluster);
        assert_eq!(parsed.errors, vec![], "{object}");
        for object in parsed.objects {
            self.tell(Change::Apply(object));
        }
    }

    /// Somebody puts an object into a cluster, and the watch tells.
    fn put(&self, cluster: &str, object: Value) {
        self.fake(cluster).put(object);
        self.watch();
    }

    /// The watches tell what has changed.
    fn watch(&self) {
        for (cluster, fake) in &self.fakes {
            for (path, object) in fake.changes() {
                match object {
                    Some(object) => self.observe(cluster, &object),
                    None => self.tell(Change::Delete(fake::reference(cluster, &path))),
                }
            }
        }
    }

    /// Waits until it is so, while the watches go on.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                sleep(Duration::from_millis(10)).await;
                self.watch();
            }
        };
        assert!(timeout(LIMIT, wait).await.is_ok(), "never: {what}");
    }

    fn import(&self, cluster: &str, name: &str) -> Value {
        let path = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceimports";
        self.fake(cluster).at(&format!("{path}/{name}"))
    }

    fn derived(&self, cluster: &str, name: &str) -> Value {
        let name = derived_name("shop", name);
        let path = format!("/api/v1/namespaces/shop/services/{name}");
        self.fake(cluster).at(&path)
    }

    /// Has the import the address of its service?
    fn is_imported(&self, cluster: &str, name: &str) -> bool {
        let address = &self.derived(cluster, name)["spec"]["clusterIP"];
        let import = self.import(cluster, name);
        address.is_string()
            && import["spec"]["ips"][0] == *address
            && import["status"]["clusters"].is_array()
            && import["status"]["conditions"][0]["status"] != "False"
    }

    fn counted(&self, name: &str) -> u64 {
        let mut page = crate::metrics::Page::default();
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

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "clusterIP": "10.1.0.1", "selector": { "app": name },
            "sessionAffinity": "ClientIP", "trafficDistribution": "PreferClose",
            "ports": [
                { "name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c" },
                { "name": "dns", "port": 53, "protocol": "UDP" },
            ],
        },
    })
}

fn export(name: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": "shop", "generation": 4,
            "creationTimestamp": "2026-11-22T17:03:00Z" },
        "spec": { "exportedLabels": { "team": "cart" } },
    })
}

fn route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "r", "namespace": "shop", "generation": 2 },
        "spec": {
            "parentRefs": [
                { "group": "", "kind": "Service", "name": "cart", "sectionName": "http" },
                { "group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "cart",
                    "namespace": "shop", "port": 80 },
                { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" },
            ],
            "rules": [
                { "backendRefs": [{ "name": "cart", "port": 80 }] },
                { "matches": [{ "path": { "value": "/x" } }],
                    "filters": [{ "type": "ExtensionRef" }],
                    "backendRefs": [{ "name": "cart", "port": 80 }] },
            ],
        },
        "status": { "parents": [{
            "controllerName": "example.com/other", "parentRef": { "name": "edge" },
            "conditions": [],
        }] },
    })
}

/// What `v1beta1` has beside the rest.
fn carried(import: &Value, derived: &Value) {
    assert_eq!(derived["spec"]["ipFamilyPolicy"], "PreferDualStack");
    let ready = &import["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["reason"]),
        (&json!("Ready"), &json!("Ready"))
    );
    assert_eq!(import["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(import["spec"]["trafficDistribution"], "PreferClose");
    assert_eq!(import["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test(start_paused = true)]
async fn an_export_is_imported_everywhere_and_a_second_leader_writes_nothing() {
    let mesh = Mesh::start();
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    mesh.put("east", route());
    // Nobody leads: nothing is written, whatever is known.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.counted("isthmus_writes_applied_total"), 0);
    mesh.leads.send_replace(true);
    mesh.until("imported", |mesh| {
        CLUSTERS
            .iter()
            .all(|cluster| mesh.is_imported(cluster, "cart"))
    })
    .await;
    let import = mesh.import("west", "cart");
    assert_eq!(import["spec"]["type"], "ClusterSetIP");
    assert_eq!(
        import["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
    assert_eq!(
        import["spec"]["ports"][0]["appProtocol"],
        "kubernetes.io/h2c"
    );
    assert_eq!(import["spec"]["ports"][1]["protocol"], "UDP");
    assert_eq!(import["metadata"]["labels"]["team"], "cart");
    assert_eq!(import["status"]["clusters"], json!([{ "cluster": "east" }]));
    carried(&import, &mesh.derived("west", "cart"));
    let owner = &mesh.derived("west", "cart")["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], import["metadata"]["uid"]);
    let path = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceexports/cart";
    let conditions = mesh.fake("east").at(path)["status"]["conditions"].clone();
    let types: Vec<_> = conditions
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["type"].clone())
        .collect();
    assert_eq!(types, ["Valid", "Ready", "Conflict"]);
    assert_eq!(conditions[0]["observedGeneration"], 4);
    assert!(
        conditions[0]["lastTransitionTime"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );

    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";
    let ours = |mesh: &Mesh| mesh.fake("east").at(path)["status"]["parents"].clone();
    let route = |mesh: &Mesh| ours(mesh)[2]["conditions"][2]["type"] == "PartiallyInvalid";
    mesh.until("the route's status", route).await;
    let parents = ours(&mesh);
    assert_eq!(parents[0]["controllerName"], "example.com/other");
    let first = json!({ "group": "", "kind": "Service", "name": "cart", "sectionName": "http" });
    assert_eq!(parents[1]["parentRef"], first);
    assert_eq!(parents[1]["controllerName"], "isthmus.dev/controller");
    assert_eq!(parents[2]["parentRef"]["namespace"], "shop");
    assert_eq!(parents[2]["parentRef"]["port"], 80);

    // Another leader, which knows nothing but the world, looks at all of it.
    let unchanged = |mesh: &Mesh| mesh.counted("isthmus_writes_unchanged_total");
    mesh.leads.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    let (before, looked) = (
        mesh.counted("isthmus_writes_applied_total"),
        unchanged(&mesh),
    );
    mesh.leads.send_replace(true);
    mesh.until("looked", |mesh| unchanged(mesh) > looked).await;
    sleep(Duration::from_secs(120)).await;
    mesh.watch();
    assert_eq!(mesh.counted("isthmus_writes_applied_total"), before);
    assert_eq!(mesh.problems.list(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn the_last_export_takes_the_import_along() {
    let mesh = Mesh::start();
    mesh.leads.send_replace(true);
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    mesh.until("imported", |mesh| mesh.is_imported("west", "cart"))
        .await;
    mesh.fake("east")
        .remove("/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceexports/cart");
    mesh.watch();
    mesh.until("gone", |mesh| {
        mesh.import("west", "cart").is_null() && mesh.derived("west", "cart").is_null()
    })
    .await;
    let own = mesh
        .fake("east")
        .at("/api/v1/namespaces/shop/services/cart");
    assert!(own.is_object());
}

/// As after a start with what lies on disk: that west belongs to the mesh may be over.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_home_cluster_was_seen() {
    let mesh = Mesh::start();
    let east: ClusterId = "east".parse().unwrap();
    let home = BTreeSet::from([east.clone()]);
    mesh.hub.change(|world| world.set_mesh_authors(Some(home)));
    mesh.tell(Change::Lost {
        cluster: east,
        reason: "not seen since the start".into(),
    });
    mesh.put("west", service("cart"));
    mesh.put("west", export("cart"));
    mesh.leads.send_replace(true);
    sleep(Duration::from_secs(120)).await;
    mesh.watch();
    assert_eq!(mesh.counted("isthmus_writes_applied_total"), 0);
    mesh.list("east");
    mesh.until("imported", |mesh| mesh.is_imported("west", "cart"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_late_leads_to_no_second_write() {
    let mesh = Mesh::start();
    mesh.leads.send_replace(true);
    mesh.put("west", service("cart"));
    mesh.put("west", export("cart"));
    let applied = |mesh: &Mesh| mesh.counted("isthmus_writes_applied_total");
    // The watches say nothing: each import once, and the status of the export.
    let wait = async {
        while applied(&mesh) < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
    // Something happens that makes it look again at all of them.
    let labelled = |cluster: &str| Object {
        cluster: cluster.parse().unwrap(),
        namespace: None,
        name: "shop".into(),
        created: None,
        spec: Spec::Namespace(Labels::from([("a".into(), "b".into())])),
    };
    for cluster in CLUSTERS {
        mesh.tell(Change::Apply(labelled(cluster)));
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(applied(&mesh), 3);
    // It never comes: perhaps it did not arrive after all.
    let wait = async {
        while applied(&mesh) < 6 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_kind_is_told_of_and_served_once_it_is_installed() {
    let mesh = Mesh::start();
    mesh.fake("west").absent("serviceimports", true);
    mesh.leads.send_replace(true);
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    mesh.until("the other cluster", |mesh| mesh.is_imported("east", "cart"))
        .await;
    mesh.until("said", |mesh| !mesh.problems.list().is_empty())
        .await;
    let (at, why) = mesh.problems.list().remove(0);
    assert_eq!(
        (at.cluster.as_str(), at.kind),
        ("west", Kind::ServiceImport)
    );
    assert!(why.contains("404"), "{why}");
    mesh.fake("west").absent("serviceimports", false);
    mesh.until("imported", |mesh| mesh.is_imported("west", "cart"))
        .await;
    assert_eq!(mesh.problems.list(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_hangs_keeps_no_other_waiting_and_recovers() {
    let mesh = Mesh::start();
    mesh.fake("east").hangs(true);
    mesh.leads.send_replace(true);
    mesh.put("west", service("cart"));
    mesh.put("west", export("cart"));
    mesh.until("imported", |mesh| mesh.is_imported("west", "cart"))
        .await;
    assert!(mesh.import("east", "cart").is_null());
    mesh.until("a failure", |mesh| {
        mesh.counted("isthmus_writes_failed_total") > 0
    })
    .await;
    mesh.fake("east").hangs(false);
    mesh.until("recovered", |mesh| mesh.is_imported("east", "cart"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_hangs_keeps_out_its_own_objects_only() {
    let mesh = Mesh::start();
    for fake in mesh.fakes.values() {
        fake.keeps_out(Some("serviceimports/bad"));
    }
    mesh.leads.send_replace(true);
    for number in 0..30 {
        let name = format!("bad-{number}");
        mesh.put("west", service(&name));
        mesh.put("west", export(&name));
    }
    mesh.until("each has failed", |mesh| mesh.problems.list().len() >= 60)
        .await;
    mesh.put("west", service("good"));
    mesh.put("west", export("good"));
    mesh.until("imported", |mesh| mesh.is_imported("east", "good"))
        .await;
    assert_eq!(mesh.problems.list().len(), 60);
    for fake in mesh.fakes.values() {
        fake.keeps_out(None);
    }
    mesh.until("all is imported", |mesh| {
        (0..30).all(|number| mesh.is_imported("east", &format!("bad-{number}")))
    })
    .await;
    assert_eq!(mesh.problems.list(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_made_in_the_same_moment_is_not_taken() {
    let mesh = Mesh::start();
    // It is there, and no watch has told yet.
    let foreign = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "type": "Headless", "ports": [] },
    });
    mesh.fake("west").put(foreign.clone());
    mesh.fake("west").changes();
    mesh.leads.send_replace(true);
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    mesh.until("a conflict", |mesh| {
        mesh.counted("isthmus_writes_conflicts_total") > 0
    })
    .await;
    assert_eq!(mesh.import("west", "cart")["spec"], foreign["spec"]);
    assert!(mesh.import("west", "cart")["metadata"]["labels"].is_null());
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_while_its_status_was_on_the_way_is_no_problem() {
    let mesh = Mesh::start();
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    // It is gone, and no watch has told yet.
    let at = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceexports/cart";
    mesh.fake("east").remove(at);
    mesh.fake("east").changes();
    mesh.leads.send_replace(true);
    mesh.until("imported", |mesh| mesh.is_imported("west", "cart"))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.problems.list(), vec![]);
    assert_eq!(mesh.counted("isthmus_writes_refused_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_problem_is_over_once_nothing_is_wanted_there_any_more() {
    let mesh = Mesh::start();
    let foreign = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "type": "Headless", "ports": [] },
    });
    mesh.put("west", foreign);
    mesh.leads.send_replace(true);
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    mesh.until("said", |mesh| !mesh.problems.list().is_empty())
        .await;
    let at = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceexports/cart";
    mesh.fake("east").remove(at);
    mesh.until("over", |mesh| mesh.problems.list().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_with_the_older_version_of_the_kind_is_served_too() {
    let mesh = Mesh::start();
    mesh.fake("west")
        .absent("multicluster.x-k8s.io/v1beta1", true);
    mesh.leads.send_replace(true);
    mesh.put("east", service("cart"));
    mesh.put("east", export("cart"));
    let path = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/shop/serviceimports/cart";
    mesh.until("imported", |mesh| {
        mesh.fake("west").at(path)["spec"]["ips"].is_array()
    })
    .await;
    let version = mesh.fake("west").at(path)["apiVersion"].clone();
    assert_eq!(version, "multicluster.x-k8s.io/v1alpha1");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_with_a_pod_is_told_where_the_control_plane_is() {
    let mesh = Mesh::start();
    let advertised = Advertised {
        roots_pem: "PEM".into(),
        address: Some("cp.example.com:15012".into()),
        home: None,
    };
    mesh.hub.change(|world| world.advertise(Some(advertised)));
    mesh.leads.send_replace(true);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "cart-1", "namespace": "shop" },
        "spec": { "containers": [{ "name": "cart" }] },
    });
    mesh.put("west", pod);
    let path = "/api/v1/namespaces/shop/configmaps/isthmus-roots";
    mesh.until("told", |mesh| !mesh.fake("west").at(path).is_null())
        .await;
    let data = json!({
        "roots.pem": "PEM", "trust-domain": "west.mesh.internal",
        "control-plane": "cp.example.com:15012",
    });
    assert_eq!(mesh.fake("west").at(path)["data"], data);
    mesh.until("seen as it is", |mesh| {
        mesh.counted("isthmus_writes_unchanged_total") > 0
    })
    .await;
    assert_eq!(mesh.counted("isthmus_writes_applied_total"), 1);
    assert!(mesh.fake("east").at(path).is_null());
    mesh.fake("west")
        .remove("/api/v1/namespaces/shop/pods/cart-1");
    mesh.until("taken away", |mesh| mesh.fake("west").at(path).is_null())
        .await;
}
