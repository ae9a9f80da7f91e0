//! Does a control plane that watches real API servers know what is so, and what it does not know?

use std::path::Path;
use std::time::Duration;

use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_test_clusters::{Programs, Settings};
use isthmus_tests::address::Subnet;
use isthmus_tests::control::ControlPlane;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Server, servers};
use serde_json::{Value, json};
use tempfile::TempDir;

mod knowledge;
mod kinds;
mod history;
mod credentials;
mod membership;
mod roots;
mod replicas;
mod crash;
mod requests;
mod crowd;

/// A watch that says nothing is noticed within a minute; then comes the backoff, at most 30 s.
const NOTICED: Duration = Duration::from_secs(120);

/// The namespace of everything here.
const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";

/// The namespace of the Lease.
const SYSTEM: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: isthmus-system }\n";

/// One API server, and a control plane that watches it and serves nobody.
struct Watched {
    control: ControlPlane,
    server: Server,
    folder: TempDir,
    _subnet: Subnet,
}

impl Watched {
    /// The API server runs and has the namespace; the control plane is not started yet.
    async fn prepare(server: Server, allow: &[&str]) -> Self {
        server.apply(SHOP).await;
        let (folder, subnet) = (tempfile::tempdir().unwrap(), Subnet::claim());
        server.write_kubeconfig(folder.path());
        let mut origin = servers::origin("east", folder.path());
        origin["kubernetes"]["allow"] = json!(allow);
        let state = folder.path().join("state");
        let control = ControlPlane::new(subnet.host(1), &state, &[origin], None);
        Self {
            control,
            server,
            folder,
            _subnet: subnet,
        }
    }

    /// Every kind of the mesh is defined, and the administrator watches.
    async fn usual(programs: &Programs) -> Self {
        let server = Server::start(programs, "east").await;
        Self::prepare(server, &["loopback"]).await
    }

    /// Only Kubernetes' own kinds are there.
    async fn bare(programs: &Programs, settings: &Settings) -> Self {
        let server = Server::start_bare(programs, "east", settings).await;
        Self::prepare(server, &["loopback"]).await
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the control plane says of the cluster.
    async fn said(&self) -> Value {
        self.control.cluster("east").await
    }

    /// Waits until it says what is wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until_within(NOTICED, what, async || {
            let said = self.said().await;
            check(wanted(&said), &said).map(|()| said)
        })
        .await
    }

    /// Waits until the cluster is in a state.
    async fn until_state(&self, state: &str) -> Value {
        self.until(&format!("east is {state}"), |said| said["state"] == state)
            .await
    }

    /// Waits until so many objects of a kind are known.
    async fn until_count(&self, kind: &str, count: u64) -> Value {
        let what = format!("{count} of {kind}");
        self.until(&what, |said| self::count(said, kind) == count)
            .await
    }
}

/// How many objects of a kind are known.
fn count(said: &Value, kind: &str) -> u64 {
    said["objects"][kind].as_u64().unwrap_or_default()
}

/// How well a kind is seen.
fn kind_state<'a>(said: &'a Value, kind: &str) -> &'a str {
    said["source"]["kinds"][kind]["state"]
        .as_str()
        .unwrap_or("missing")
}

/// A pod that serves.
fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": "cart", "isthmus.dev/mesh": "true" } },
        "spec": {
            "serviceAccountName": "cart",
            "containers": [{ "name": "cart", "image": "cart" }],
        },
        "status": {
            "phase": "Running", "podIP": "10.1.2.3",
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
    .to_string()
}

/// A service of the pods.
fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": "cart" }, "ports": [{ "name": "http", "port": 80 }] },
    })
    .to_string()
}

/// The service of this name is for everybody.
fn export(name: &str) -> String {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": "shop" },
    })
    .to_string()
}

/// A route of nothing to nowhere.
fn route(name: &str) -> String {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "cart", "port": 80 }],
            "rules": [{ "backendRefs": [{ "name": "cart", "port": 80 }] }],
        },
    })
    .to_string()
}

/// The account of the control plane, and what it may read: all that it looks at, without `except`.
fn account(except: &str) -> String {
    let rule = |groups: &[&str], resources: &[&str]| {
        let resources: Vec<&&str> = resources.iter().filter(|r| **r != except).collect();
        json!({ "apiGroups": groups, "resources": resources, "verbs": ["get", "list", "watch"] })
    };
    let rules = [
        rule(
            &[""],
            &[
                "namespaces",
                "nodes",
                "pods",
                "services",
                "serviceaccounts",
                "configmaps",
            ],
        ),
        rule(&["apps"], &["deployments"]),
        rule(&["discovery.k8s.io"], &["endpointslices"]),
        rule(
            &["multicluster.x-k8s.io"],
            &["serviceexports", "serviceimports", "clusterprofiles"],
        ),
        rule(
            &["gateway.networking.k8s.io"],
            &[
                "httproutes",
                "grpcroutes",
                "tcproutes",
                "tlsroutes",
                "gateways",
                "gatewayclasses",
                "referencegrants",
            ],
        ),
        rule(&["about.k8s.io"], &["clusterproperties"]),
        rule(
            &["isthmus.dev"],
            &[
                "meshclusters",
                "accesspolicies",
                "trafficpolicies",
                "trustpolicies",
            ],
        ),
    ];
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "watcher" }, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "watcher" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "watcher",
        },
        "subjects": [{ "kind": "ServiceAccount", "name": "watcher", "namespace": "shop" }],
    });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "watcher", "namespace": "shop" },
    });
    format!("{account}\n---\n{role}\n---\n{binding}\n")
}

/// A token of that account, good for an hour and more.
async fn token(server: &Server) -> Credential {
    let token = server.cluster.token("shop", "watcher", None, None).await;
    Credential::Token(token.unwrap())
}
