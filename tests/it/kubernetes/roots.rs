//! Do pods of every cluster learn where the control plane is?

use isthmus_tests::Server;
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use serde_json::{Value, json};

use super::{NOTICED, Watched, pod};

const PATH: &str = "/api/v1/namespaces/shop/configmaps/isthmus-roots";
/// Where the replicas elect the one that writes.
const SYSTEM: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: isthmus-system }\n";
const OTHERS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: theirs, labels: { isthmus.dev/inject: enabled } }\n\
    ---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: isthmus-roots, namespace: theirs }\ndata: { mine: yes it is }\n";

/// Waits until the ConfigMap is as it should be.
async fn until(server: &Server, what: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Value {
    until_within(NOTICED, what, async || {
        let found = server.cluster.admin().find(PATH).await;
        let found = found.map_err(|error| error.to_string())?;
        check(wanted(found.as_ref()), json!(found)).map(|()| found.unwrap_or_default())
    })
    .await
}

#[tokio::test]
async fn roots_and_address_reach_every_meshed_namespace_and_go_with_the_last_pod() {
    let Some(programs) = programs() else { return };
    let mut east = Watched::usual(&programs).await;
    east.server.apply(SYSTEM).await;
    east.server.apply(OTHERS).await;
    let home = json!({ "cluster": "east", "namespace": "shop", "allow": ["loopback"] });
    east.control.set_home(home);
    east.control
        .set_advertise(json!({ "home": "control-plane.isthmus-system.svc:15012" }));
    east.server.apply(&pod("cart-1")).await;
    east.control.start().await;

    let found = until(&east.server, "there", |found| found.is_some()).await;
    let data = &found["data"];
    assert_eq!(
        data["control-plane"],
        "control-plane.isthmus-system.svc:15012"
    );
    assert_eq!(data["trust-domain"], "east.mesh.internal");
    let roots = std::fs::read_to_string(east.control.state_dir().join("roots.pem")).unwrap();
    assert_eq!(data["roots.pem"], roots);
    assert_eq!(
        found["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "isthmus"
    );

    // Whoever changes it, or takes it away, finds it as it should be.
    let mut altered = found.clone();
    altered["metadata"] = json!({ "name": "isthmus-roots", "namespace": "shop" });
    altered["data"] = json!({ "control-plane": "elsewhere:1" });
    east.server.apply(&altered.to_string()).await;
    until(&east.server, "put right", |found| {
        found.is_some_and(|found| found["data"] == *data)
    })
    .await;
    let uid = found["metadata"]["uid"].clone();
    east.server.cluster.admin().delete_path(PATH).await.unwrap();
    let again = until(&east.server, "there again", |found| {
        found.is_some_and(|found| found["metadata"]["uid"] != uid)
    })
    .await;
    assert_eq!(again["data"], *data);

    // Nothing is written that is there, and what is somebody else's stays theirs.
    let version = again["metadata"]["resourceVersion"].clone();
    east.server.delete(&pod("cart-1")).await;
    until(&east.server, "gone", |found| {
        assert!(found.is_none_or(|found| found["metadata"]["resourceVersion"] == version));
        found.is_none()
    })
    .await;
    let theirs = PATH.replace("shop", "theirs");
    let theirs = east.server.cluster.admin().get(&theirs).await.unwrap();
    assert_eq!(theirs["data"], json!({ "mine": "yes it is" }));
}
