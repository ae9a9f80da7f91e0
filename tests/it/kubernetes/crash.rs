//! What if the control plane crashes after a write, whichever it is?
//!
//! Everything that it writes into two real API servers is counted on the way. After each write it hears
//! no answer, is killed and starts anew, until nothing is left to write: then all is as where nothing
//! happened. So each state between two writes is one that somebody finds at the start.

use std::collections::BTreeMap;
use std::path::Path;

use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_tests::address::Subnet;
use isthmus_tests::control::ControlPlane;
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Server, Writes, admin, servers, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NOTICED, SHOP, SYSTEM, export, pod, route};

/// Set: from nothing on, the only crash comes after the first write, then after the second, and so on.
const FULL: &str = "ISTHMUS_FULL";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases/isthmus-control-plane";
/// What is written, or carries a status that is.
const KINDS: [&str; 15] = [
    "/apis/multicluster.x-k8s.io/v1beta1/serviceimports",
    "/apis/multicluster.x-k8s.io/v1beta1/serviceexports",
    "/api/v1/namespaces/shop/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/api/v1/namespaces/shop/configmaps",
    "/api/v1/namespaces/isthmus-system/configmaps",
    "/api/v1/namespaces/isthmus-system/secrets",
    "/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
    "/apis/gateway.networking.k8s.io/v1/gateways",
    "/apis/isthmus.dev/v1alpha1/accesspolicies",
    "/apis/isthmus.dev/v1alpha1/trafficpolicies",
    "/apis/isthmus.dev/v1alpha1/trustpolicies",
    "/apis/isthmus.dev/v1alpha1/meshclusters",
];
const EAST: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: MeshCluster
metadata: { name: east }
spec: { network: flat }
";
const WEST: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: MeshCluster
metadata: { name: west }
spec: { network: flat, credential: { secretRef: { name: west } } }
";
const POLICIES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: mesh }
spec: { controllerName: isthmus.dev/controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: east-west, namespace: isthmus-system }
spec:
  gatewayClassName: mesh
  listeners: [ { name: mesh, port: 15443, protocol: TLS } ]
  addresses: [ { type: IPAddress, value: 192.0.2.1 } ]
---
apiVersion: isthmus.dev/v1alpha1
kind: TrustPolicy
metadata: { name: cut }
spec: { distrustedClusters: [north] }
---
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: { name: watch, namespace: shop }
spec: { action: Audit, rules: [ { from: [ { clusters: [east] } ] } ] }
---
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { targetRef: { kind: Service, name: cart }, timeouts: { connect: 1s } }
";
/// A pod of a headless service, as a cluster's own controllers would tell of it.
const DB: &str = "
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: None, selector: { app: cart }, ports: [ { name: sql, port: 5432 } ] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: db-1, namespace: shop, labels: { kubernetes.io/service-name: db } }
addressType: IPv4
ports: [ { name: sql, port: 5432, protocol: TCP } ]
endpoints:
- addresses: [ 10.1.2.3 ]
  conditions: { ready: true, serving: true, terminating: false }
  targetRef: { kind: Pod, name: cart-1, namespace: shop }
";

fn service(name: &str, port: u16) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": port }] },
    })
    .to_string()
}

/// All objects, by cluster, kind and name, without what differs from one run to the next.
type State = BTreeMap<String, Value>;

/// Two clusters, and a control plane whose writes are counted. East is home; west joins by an object.
struct Crashing {
    servers: [Server; 2],
    writes: Writes,
    control: ControlPlane,
    folder: TempDir,
    address: Subnet,
}

impl Crashing {
    async fn start() -> Option<Self> {
        let programs = programs()?;
        let writes = Writes::default();
        let mut servers = Vec::new();
        for name in ["east", "west"] {
            let mut server = Server::start(&programs, name).await;
            server.set_front(&writes).await;
            server.apply(SHOP).await;
            server.apply(SYSTEM).await;
            servers.push(server);
        }
        let servers: [Server; 2] = servers.try_into().ok()?;
        let (folder, address) = (tempfile::tempdir().unwrap(), Subnet::claim());
        servers[0].write_kubeconfig(folder.path());
        let control = control(&address, folder.path(), 0);
        Some(Self {
            servers,
            writes,
            control,
            folder,
            address,
        })
    }

    /// What people write: services that are exported, with a route and policies.
    async fn declare(&self) {
        let [east, west] = &self.servers;
        let admin = Credential::Certificate(west.cluster.admin_certificate().unwrap());
        let kubeconfig = west.cluster.kubeconfig_at(west.link.address(), &admin);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "west", "namespace": "isthmus-system" },
            "stringData": { "kubeconfig": kubeconfig },
        });
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "cart", "namespace": "shop" },
        });
        for text in [
            secret.to_string(),
            account.to_string(),
            service("cart", 80),
            pod("cart-1"),
            DB.to_owned(),
            route("r"),
            POLICIES.to_owned(),
            export("cart"),
            export("db"),
            EAST.to_owned(),
            WEST.to_owned(),
        ] {
            east.apply(&text).await;
        }
        for text in [
            account.to_string(),
            service("cart", 81),
            pod("cart-1").replace("10.1.2.3", "10.1.2.4"),
            service("books", 80),
            export("cart"),
            export("books"),
        ] {
            west.apply(&text).await;
        }
    }

    /// As it was before anything was declared and written.
    async fn wipe(&mut self) {
        self.control.kill();
        for server in &self.servers {
            for kind in KINDS {
                for (path, _) in objects(server, kind).await {
                    let admin = server.cluster.admin();
                    admin.delete_path(&path).await.unwrap();
                }
            }
            server.delete(&pod("cart-1")).await;
        }
    }

    async fn state(&self) -> State {
        let mut all = State::new();
        // Not there yet: then nobody was told of them either.
        let roots = std::fs::read_to_string(self.control.roots_file()).unwrap_or_default();
        for server in &self.servers {
            let mut text = Vec::new();
            let mut known = BTreeMap::new();
            for kind in KINDS {
                for (path, object) in objects(server, kind).await {
                    let ips = object["spec"]["clusterIPs"].as_array().cloned();
                    let ips = ips.unwrap_or_default().into_iter();
                    for own in ips.chain([object["metadata"]["uid"].clone()]) {
                        let own = own.as_str().unwrap_or_default().to_owned();
                        known.insert(own, format!("{{of {path}}}"));
                    }
                    let mut object = plain(object);
                    if object["data"]["roots.pem"] == roots.as_str() {
                        object["data"]["roots.pem"] = json!("{roots}");
                    }
                    text.push((path, object));
                }
            }
            known.remove("None");
            known.remove("");
            for (path, object) in text {
                let mut text = object.to_string();
                for (own, of) in &known {
                    text = text.replace(&format!("\"{own}\""), &format!("\"{of}\""));
                }
                let name = format!("{} {path}", server.cluster.name());
                all.insert(name, serde_json::from_str(&text).unwrap());
            }
        }
        all
    }

    /// Waits until it holds.
    async fn until(&self, what: &str, holds: impl Fn(&State) -> Result<(), String>) {
        until_within(NOTICED, what, async || holds(&self.state().await)).await;
    }

    /// Waits until all is as it should be, and the control plane has looked at it and found it so.
    async fn until_like(&self, wanted: &State) {
        self.until("as where nothing happened", |state| {
            let differs = |(name, is): (&String, &Value)| {
                let should = wanted.get(name);
                (should != Some(is)).then(|| format!("{name}: {is}, not {should:?}"))
            };
            let missing = wanted.keys().find(|name| !state.contains_key(*name));
            match (state.iter().find_map(differs), missing) {
                (Some(why), _) => Err(why),
                (None, Some(missing)) => Err(format!("{missing} is missing")),
                (None, None) => Ok(()),
            }
        })
        .await;
        until_within(NOTICED, "it has looked", async || {
            let page = admin::get(self.control.admin(), "/metrics").await;
            let (_, text) = page.map_err(|error| error.to_string())?;
            let seen = admin::sum(&text, "isthmus_writes_unchanged_total", &[]);
            check(seen >= 2.0, seen)
        })
        .await;
    }

    /// Where nothing happens: what stands there in the end.
    async fn undisturbed(&self, holds: impl Fn(&State) -> Result<(), String>) -> State {
        self.writes.allow(None, false);
        self.until("all is written", holds).await;
        // What is said last of the clusters themselves has its time, too.
        let mut last = self.state().await;
        for _ in 0..LOOKS {
            self.control.json("/world").await;
            last = self.state().await;
        }
        last
    }

    /// Nobody waits 15 s for the Lease of whoever is dead.
    async fn free_lease(&self) {
        let admin = self.servers[0].cluster.admin();
        admin.delete_path(LEASE).await.unwrap();
    }

    /// One life of it, which ends when it has written so much, `None`: all, or all is as wanted. True: it
    /// was cut off.
    async fn life(&mut self, left: Option<usize>, wanted: &State) -> bool {
        self.writes.allow(left, false);
        self.control.begin();
        let cut = tokio::select! {
            // Nothing is lost by either: what was cut off stays so, and a look is only a look.
            () = self.writes.are_cut() => true,
            () = self.until_like(wanted) => false,
        };
        self.control.kill();
        self.free_lease().await;
        cut
    }

    /// Starts it, and lets it write once, again and again until there is nothing to write. Returns how
    /// often it crashed.
    async fn crash_after_each(&mut self, wanted: &State) -> usize {
        let mut crashes = 0;
        while self.life(Some(1), wanted).await {
            crashes += 1;
            assert!(crashes < CRASHES_MAX, "it writes for ever");
        }
        crashes
    }
}

/// Several times of what there is to write.
const CRASHES_MAX: usize = 200;
/// Looks at what stands there after all is written; some milliseconds each.
const LOOKS: usize = 20;

/// Each life from nothing has a state folder of its own.
fn control(address: &Subnet, folder: &Path, life: usize) -> ControlPlane {
    let state = folder.join(format!("state-{life}"));
    let east = servers::origin("east", folder);
    let mut control = ControlPlane::new(address.host(1), &state, &[east], None);
    control.set_home(json!({ "cluster": "east", "allow": ["loopback"] }));
    control.set_advertise(json!({ "address": "mesh.example:15012" }));
    // Both clusters are heard by then: until one is, imports that were its own say so, and each life would
    // write only that, or that it is over.
    control.configure("writes", json!({ "removals_after_seconds": 2 }));
    control.share_keys();
    control
}

/// The objects of a kind, by their paths.
async fn objects(server: &Server, kind: &str) -> Vec<(String, Value)> {
    // Definitions that are new are not served at every moment.
    let list = until("a list", async || {
        let list = server.cluster.admin().get(kind).await;
        list.map_err(|error| format!("{error:#}"))
    })
    .await;
    let (root, plural) = kind.rsplit_once('/').unwrap();
    let root = root.split("/namespaces/").next().unwrap();
    let mut found = Vec::new();
    for object in list["items"].as_array().unwrap() {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap();
        let path = match meta["namespace"].as_str() {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("{root}/{plural}/{name}"),
        };
        found.push((path, object.clone()));
    }
    found
}

/// Without times, versions, and what keys are.
fn plain(mut object: Value) -> Value {
    let generation = object["metadata"]["generation"].clone();
    let meta = object["metadata"].as_object_mut().unwrap();
    for key in [
        "creationTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        meta.remove(key);
    }
    if object["type"].is_string()
        && let Some(data) = object["data"].as_object_mut()
    {
        data.values_mut().for_each(|value| *value = Value::Null);
    }
    if object["spec"]["holderIdentity"].is_string() {
        object["spec"] = Value::Null;
    }
    fresh(&mut object["status"], &generation);
    object
}

/// Conditions say of which generation they are: of the newest, or of an older one.
fn fresh(status: &mut Value, generation: &Value) {
    match status {
        Value::Object(map) => {
            map.remove("lastTransitionTime");
            if let Some(observed) = map.get_mut("observedGeneration") {
                *observed = json!(*observed == *generation);
            }
            map.values_mut().for_each(|value| fresh(value, generation));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| fresh(value, generation)),
        _ => {}
    }
}

/// The names of what the mesh has made in a cluster.
fn made<'a>(state: &'a State, cluster: &'a str) -> impl Iterator<Item = &'a str> {
    let ours = move |(name, object): (&'a String, &'a Value)| {
        let managed = &object["metadata"]["labels"]["app.kubernetes.io/managed-by"];
        let path = name.strip_prefix(cluster)?.strip_prefix(' ')?;
        (*managed == "isthmus" && !path.contains("/secrets/"))
            .then(|| path.rsplit_once("/shop/").map_or(path, |(_, rest)| rest))
    };
    state.iter().filter_map(ours)
}

/// Has the mesh made exactly these imports, and all that belongs to them, in a cluster?
fn has_imports(state: &State, cluster: &str, names: &[&str]) -> Result<(), String> {
    let all: Vec<&str> = made(state, cluster).collect();
    let of = |kind: &str| all.iter().filter(|name| name.starts_with(kind)).count();
    let imports = names.iter().all(|name| {
        let path = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceimports";
        let import = &state.get(&format!("{cluster} {path}/{name}"));
        let ready = import.map(|import| &import["status"]["conditions"][0]);
        ready.is_some_and(|ready| ready["status"] == "True" && ready["observedGeneration"] == true)
    });
    let right = imports
        && of("serviceimports/") == names.len()
        && of("services/") == names.len()
        && of("endpointslices/") == usize::from(names.contains(&"db"));
    check(right, format!("{cluster}: {all:?}, for {names:?}"))
}

/// Is everything said of what people have written, and does every pod find the control plane?
fn is_told(state: &State) -> Result<(), String> {
    for (name, object) in state {
        let status = &object["status"];
        let conditions = if name.contains("/httproutes/") {
            &status["parents"][0]["conditions"]
        } else {
            &status["conditions"]
        };
        let silent = [
            "/secrets/",
            "/services/",
            "/configmaps/",
            "/leases/",
            "slices/",
        ];
        let speaks = !silent.iter().any(|kind| name.contains(kind));
        if speaks && conditions.as_array().is_none_or(Vec::is_empty) {
            return Err(format!("nothing is said of {name}"));
        }
        if name.contains("/meshclusters/") {
            let all = conditions.as_array().into_iter().flatten();
            let synced = all
                .clone()
                .any(|c| c["type"] == "Synced" && c["status"] == "True");
            check(synced, format!("{name}: {status}"))?;
        }
    }
    for cluster in ["east", "west"] {
        let roots = made(state, cluster).filter(|name| *name == "configmaps/isthmus-roots");
        check(roots.count() == 1, format!("no roots in {cluster}"))?;
    }
    Ok(())
}

fn is_built(state: &State) -> Result<(), String> {
    for cluster in ["east", "west"] {
        has_imports(state, cluster, &["books", "cart", "db"])?;
    }
    is_told(state)
}

fn is_unexported(state: &State) -> Result<(), String> {
    for cluster in ["east", "west"] {
        has_imports(state, cluster, &["books"])?;
    }
    is_told(state)
}

/// In west all stays: nobody writes there any more.
fn is_left(state: &State) -> Result<(), String> {
    has_imports(state, "east", &[])?;
    let roots = made(state, "east").find(|name| *name == "configmaps/isthmus-roots");
    check(roots.is_none(), "the roots are there")
}

/// What people do: un-export, and then let a cluster leave and the last pod go.
async fn unexport(of: &Crashing) {
    let [east, west] = &of.servers;
    east.delete(&export("cart")).await;
    east.delete(&export("db")).await;
    west.delete(&export("cart")).await;
}

async fn leave(of: &Crashing) {
    let [east, _] = &of.servers;
    east.delete(WEST).await;
    east.delete(&pod("cart-1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_any_write_leaves_nothing_that_the_next_start_does_not_finish() {
    let Some(mut of) = Box::pin(Crashing::start()).await else {
        return;
    };
    of.declare().await;
    of.control.start().await;
    let built = of.undisturbed(is_built).await;
    unexport(&of).await;
    let unexported = of.undisturbed(is_unexported).await;
    leave(&of).await;
    let left = of.undisturbed(is_left).await;
    let total = of.writes.done().len();

    of.wipe().await;
    of.control = control(&of.address, of.folder.path(), 1);
    of.declare().await;
    // The Lease is the first, and this once whoever comes next waits until it has run out.
    of.writes.allow(Some(1), true);
    of.control.begin();
    of.writes.are_cut().await;
    of.control.kill();
    assert!(of.writes.done().last().unwrap().contains("leases"));
    let building = of.crash_after_each(&built).await;
    unexport(&of).await;
    let taking = of.crash_after_each(&unexported).await;
    leave(&of).await;
    let leaving = of.crash_after_each(&left).await;
    println!(
        "{total} writes undisturbed; crashes: {building} while building, {taking} while \
         un-exporting, {leaving} while a cluster left"
    );
    assert!(building >= 30 && taking >= 6 && leaving >= 3);

    if std::env::var_os(FULL).is_none() {
        return;
    }
    for k in 1.. {
        of.wipe().await;
        of.control = control(&of.address, of.folder.path(), 1 + k);
        of.declare().await;
        let mut cuts = 0;
        for (step, wanted) in [&built, &unexported, &left].into_iter().enumerate() {
            match step {
                0 => {}
                1 => unexport(&of).await,
                _ => leave(&of).await,
            }
            if of.life(Some(k), wanted).await {
                cuts += 1;
                of.life(None, wanted).await;
            }
        }
        println!("a crash after write {k}: {cuts} of 3 steps");
        if cuts == 0 {
            return;
        }
    }
}
