//! Do clusters join, leave and get other credentials while all goes on?

use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Fault, Server};
use serde_json::{Value, json};

use super::{NOTICED, SHOP, Watched, account, count, pod, token};

const WEST: &str = "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: { name: west }\n\
    spec: { network: west-net, credential: { secretRef: { name: west } } }\n";

/// East is home and watched; west is there, and nobody has named it.
struct Two {
    east: Watched,
    west: Server,
}

impl Two {
    async fn start() -> Option<Self> {
        let programs = programs()?;
        let mut east = Watched::usual(&programs).await;
        let home = json!({ "cluster": "east", "namespace": "shop", "allow": ["loopback"] });
        east.control.set_home(home);
        east.control.start().await;
        let west = Server::start(&programs, "west").await;
        west.apply(SHOP).await;
        west.apply(&account("")).await;
        west.apply(&pod("cart-1")).await;
        Some(Self { east, west })
    }

    /// West's administrator, over the link.
    fn admin(&self) -> String {
        let admin = self.west.cluster.admin_certificate().unwrap();
        let credential = Credential::Certificate(admin);
        let at = self.west.link.address();
        self.west.cluster.kubeconfig_at(at, &credential)
    }

    /// Puts a kubeconfig where west's is looked for.
    async fn hand_in(&self, kubeconfig: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "west", "namespace": "shop" },
            "stringData": { "kubeconfig": kubeconfig },
        });
        self.east.server.apply(&secret.to_string()).await;
    }

    /// Waits until the control plane says of west what is wanted; it is never anything but synced
    /// meanwhile, if that is `steady`.
    async fn until(&self, what: &str, steady: bool, wanted: impl Fn(&Value) -> bool) {
        until_within(NOTICED, what, async || {
            let said = self.east.control.cluster("west").await;
            assert!(!steady || said["state"] == "synced", "{said}");
            check(wanted(&said), &said)
        })
        .await;
    }

    /// Waits until a condition of west's object has this reason.
    async fn until_condition(&self, kind: &str, reason: &str) {
        until_within(NOTICED, &format!("{kind} {reason}"), async || {
            let world = self.east.control.json("/world").await;
            let conditions = world["conditions"].as_array().cloned().unwrap_or_default();
            let of_west = |c: &&Value| c["object"] == "east: MeshCluster west" && c["kind"] == kind;
            let found = conditions.iter().find(of_west).cloned().unwrap_or_default();
            check(found["reason"] == reason, json!(conditions))
        })
        .await;
    }
}

fn has_pods(number: u64) -> impl Fn(&Value) -> bool {
    move |said| said["state"] == "synced" && count(said, "Pod") == number
}

#[tokio::test]
async fn a_cluster_joins_by_an_object_and_leaves_with_it() {
    let Some(mut two) = Box::pin(Two::start()).await else {
        return;
    };
    two.east.server.apply(WEST).await;
    two.until_condition("CredentialValid", "SecretNotFound")
        .await;
    two.until_condition("Synced", "NotListed").await;
    two.hand_in(&two.admin()).await;
    two.until("west has joined", false, has_pods(1)).await;
    for (kind, reason) in [
        ("Accepted", "Accepted"),
        ("CredentialValid", "Valid"),
        ("Connected", "Connected"),
        ("Synced", "Synced"),
    ] {
        two.until_condition(kind, reason).await;
    }

    // What was known is there again at once, although nobody can be reached.
    two.until("west lies on disk", true, |said| {
        said["saved"]["objects"].as_u64() > Some(0)
    })
    .await;
    two.east.control.kill();
    for server in [&two.east.server, &two.west] {
        server.link.set(Fault::Reset);
    }
    two.east.control.start().await;
    let stale = |said: &Value| said["state"] == "stale" && count(said, "Pod") == 1;
    two.until("west is there, and stale", false, stale).await;
    for server in [&two.east.server, &two.west] {
        server.link.set(Fault::None);
    }
    two.until("west is seen again", false, has_pods(1)).await;

    two.east.server.delete(WEST).await;
    two.until("west has left", false, Value::is_null).await;
    assert!(
        !two.east
            .control
            .state_dir()
            .join("worlds/west.world")
            .exists()
    );
}

/// The cluster's own word of it, as `cluster list` shows it.
#[tokio::test]
async fn a_cluster_that_is_being_deleted_is_a_member_until_its_object_is_gone_and_says_so() {
    let Some(two) = Box::pin(Two::start()).await else {
        return;
    };
    let with = |finalizers: &str| WEST.replace("name: west }\n", finalizers);
    let held = with("name: west, finalizers: [example.com/held] }\n");
    assert_ne!(held, WEST);
    two.east.server.apply(&held).await;
    two.hand_in(&two.admin()).await;
    two.until("west has joined", false, has_pods(1)).await;
    two.until_condition("Accepted", "Accepted").await;
    two.east.server.delete(WEST).await;
    until_within(NOTICED, "it says that it is being deleted", async || {
        let world = two.east.control.json("/world").await;
        let conditions = world["conditions"].as_array().cloned().unwrap_or_default();
        let accepted =
            |c: &&Value| c["object"] == "east: MeshCluster west" && c["kind"] == "Accepted";
        let found = conditions.iter().find(accepted).cloned();
        let found = found.unwrap_or_default();
        let said = found["message"].as_str().unwrap_or_default();
        let is_told = said.starts_with("it is being deleted") && said.contains("finalizer");
        check(found["holds"] == true && is_told, json!(conditions))
    })
    .await;
    // It is a member all the same: what is new in it is seen.
    two.west.apply(&pod("cart-2")).await;
    two.until("the new pod is seen", true, has_pods(2)).await;
    two.east
        .server
        .apply(&with("name: west, finalizers: [] }\n"))
        .await;
    two.until("west has left", false, Value::is_null).await;
}

#[tokio::test]
async fn a_credential_takes_anothers_place_without_a_gap_if_it_is_good() {
    let Some(mut two) = Box::pin(Two::start()).await else {
        return;
    };
    two.east.server.apply(WEST).await;
    two.hand_in(&two.admin()).await;
    two.until("west has joined", false, has_pods(1)).await;

    // Somebody else, and straight to the API server.
    let other = two.west.cluster.kubeconfig(&token(&two.west).await);
    two.hand_in(&other).await;
    let origin = format!("https://{}/", two.west.cluster.server());
    let moved = |said: &Value| said["source"]["origin"] == origin.as_str();
    two.until("the new credential is in use", true, moved).await;
    two.west.link.set(Fault::Reset);
    two.west.apply(&pod("cart-2")).await;
    two.until("the new watch tells", true, has_pods(2)).await;

    // East's administrator is no way to west.
    let admin = two.east.server.cluster.admin_kubeconfig().unwrap();
    two.hand_in(&admin).await;
    two.until_condition("CredentialValid", "AnotherCluster")
        .await;
    two.hand_in("{ users: [{ name: a, user: { exec: {} } }] }")
        .await;
    two.until_condition("CredentialValid", "Refused").await;
    two.west.apply(&pod("cart-3")).await;
    two.until("the old watch goes on", true, has_pods(3)).await;

    // Nor is it after a restart: the state folder says which cluster west was.
    two.until("west lies on disk", true, |said| {
        said["saved"]["objects"].as_u64() > Some(0)
    })
    .await;
    two.hand_in(&admin).await;
    two.east.control.kill();
    two.east.control.start().await;
    two.until_condition("CredentialValid", "AnotherCluster")
        .await;
    let stale = |said: &Value| said["state"] == "stale" && count(said, "Pod") > 0;
    two.until("nothing of east is taken for west", false, stale)
        .await;
    two.hand_in(&other).await;
    two.until("west is seen again", false, has_pods(3)).await;
}

#[tokio::test]
async fn a_newer_token_of_the_same_account_takes_over_without_a_list() {
    let Some(two) = Box::pin(Two::start()).await else {
        return;
    };
    two.east.server.apply(WEST).await;
    let at = two.west.link.address();
    let newest = async || {
        let token = token(&two.west).await;
        two.west.cluster.kubeconfig_at(at, &token)
    };
    two.hand_in(&newest().await).await;
    two.until("west has joined", false, has_pods(1)).await;
    let before = two.east.control.cluster("west").await;
    let ends = |said: &Value| said["credential_ends"].as_u64();
    let lists = |said: &Value| said["source"]["kinds"]["Pod"]["lists"].as_u64();
    assert!(ends(&before).is_some() && lists(&before).is_some());
    // The ends of tokens are told in whole seconds.
    until_within(NOTICED, "a newer token is in use", async || {
        two.hand_in(&newest().await).await;
        let said = two.east.control.cluster("west").await;
        check(ends(&said) > ends(&before), &said)
    })
    .await;
    two.west.apply(&pod("cart-2")).await;
    two.until("the watch goes on", true, has_pods(2)).await;
    let after = two.east.control.cluster("west").await;
    assert_eq!(lists(&after), lists(&before));
}

const PROFILE: &str = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ClusterProfile\n\
    metadata: { name: fleet-7, namespace: isthmus-system, labels: { isthmus.dev/network: west-net } }\n\
    spec: { clusterManager: { name: fleet } }\n\
    status: { properties: [ { name: cluster.clusterset.k8s.io, value: west } ] }\n";

#[tokio::test]
async fn a_cluster_of_an_inventory_joins_and_leaves_with_its_profile() {
    let Some(two) = Box::pin(Two::start()).await else {
        return;
    };
    let said = async |reason: &str| {
        until_within(NOTICED, reason, async || {
            let world = two.east.control.json("/world").await;
            let conditions = world["conditions"].as_array().cloned().unwrap_or_default();
            let ours = |c: &&Value| c["object"] == "east: ClusterProfile isthmus-system/fleet-7";
            let found = conditions.iter().filter(ours);
            check(
                found.into_iter().any(|c| c["reason"] == reason),
                json!(conditions),
            )
        })
        .await;
    };
    let system = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "isthmus-system" } });
    two.east.server.apply(&system.to_string()).await;
    two.east.server.apply(PROFILE).await;
    said("SecretNotFound").await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "any", "namespace": "shop", "labels": { "x-k8s.io/cluster-profile": "fleet-7" } },
        "stringData": { "Config": two.admin() },
    });
    two.east.server.apply(&secret.to_string()).await;
    two.until("west has joined", false, has_pods(1)).await;
    said("Valid").await;
    // A MeshCluster of the same name counts.
    two.east.server.apply(WEST).await;
    said("NamedByMeshCluster").await;
    two.hand_in(&two.admin()).await;
    two.until_condition("CredentialValid", "Valid").await;
    two.east.server.delete(WEST).await;
    said("Valid").await;
    two.until("west has stayed", false, has_pods(1)).await;
    two.east.server.delete(PROFILE).await;
    two.until("west has left", false, Value::is_null).await;
}

/// A plugin that says this token, if it is told of the cluster what the profile has for it.
fn plugin(folder: &std::path::Path, token: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let status = json!({ "token": token });
    let version = "client.authentication.k8s.io/v1";
    let said = json!({ "apiVersion": version, "kind": "ExecCredential", "status": status });
    let path = folder.join("plugin");
    let script = format!(
        "#!/bin/sh\ncase \"$KUBERNETES_EXEC_INFO\" in *'\"clusterName\":\"seven\"'*) ;; *) exit 3;; esac\n\
         [ \"$1\" = token ] && printf '%s' '{said}'\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// S28: no profile makes the control plane run anything; KEP-5339: what the operator named, it does.
#[tokio::test]
async fn a_cluster_of_an_inventory_is_seen_by_the_plugin_that_is_configured_for_its_provider() {
    let Some(mut two) = Box::pin(Two::start()).await else {
        return;
    };
    let system = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "isthmus-system" } });
    two.east.server.apply(&system.to_string()).await;
    let credential = token(&two.west).await;
    let config: Value = serde_json::from_str(&two.admin()).unwrap();
    let mut cluster = config["clusters"][0]["cluster"].clone();
    cluster["extensions"] = json!([
        { "name": "client.authentication.k8s.io/exec", "extension": { "clusterName": "seven" } },
    ]);
    let profile = json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": { "name": "west", "namespace": "isthmus-system" },
        "spec": { "clusterManager": { "name": "fleet" } },
        "status": { "accessProviders": [
            { "name": "nobody", "cluster": { "server": "https://203.0.113.1" } },
            { "name": "fleet", "cluster": cluster },
        ] },
    });
    two.east.server.apply(&profile.to_string()).await;
    let said = async |east: &Watched, reason: &str| {
        until_within(NOTICED, reason, async || {
            let world = east.control.json("/world").await;
            let conditions = world["conditions"].as_array().cloned().unwrap_or_default();
            let ours = |c: &Value| c["object"] == "east: ClusterProfile isthmus-system/west";
            let found = conditions.iter().any(|c| ours(c) && c["reason"] == reason);
            check(found, json!(conditions))
        })
        .await;
    };
    said(&two.east, "ProviderNotConfigured").await;

    let Credential::Token(token) = credential else {
        panic!("a token")
    };
    let folder = tempfile::tempdir().unwrap();
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "args": ["token"],
        "command": plugin(folder.path(), &token), "provideClusterInfo": true,
    });
    two.east.control.kill();
    two.east.control.set_home(json!({
        "cluster": "east", "namespace": "shop", "allow": ["loopback"],
        "providers": [{ "name": "fleet", "execConfig": exec }],
    }));
    two.east.control.start().await;
    two.until("west has joined", false, has_pods(1)).await;
    said(&two.east, "Valid").await;
}
