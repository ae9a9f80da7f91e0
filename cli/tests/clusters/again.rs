//! Does a command that is run again keep what its flags decided the first time?

use isthmus_test_clusters::Cluster;
use serde_json::{Value, json};

use crate::tool::{Tool, findings, of_level, start, steps};

const DEPLOYMENT: &str =
    "/apis/apps/v1/namespaces/isthmus-system/deployments/isthmus-control-plane";
const SERVICE: &str = "/api/v1/namespaces/isthmus-system/services/control-plane";
const CONFIG: &str = "/api/v1/namespaces/isthmus-system/configmaps/isthmus-control-plane";
const HOME: &str = "/apis/isthmus.dev/v1alpha1/meshclusters/east";
const MEMBER: &str = "/apis/isthmus.dev/v1alpha1/meshclusters/west";

/// Everything that the flags of `install` decide.
async fn installed(east: &Cluster) -> Value {
    let get = async |path| east.admin().get(path).await.unwrap();
    let config = get(CONFIG).await;
    let config = config["data"]["control-plane.json"].as_str().unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    json!({
        "image": get(DEPLOYMENT).await["spec"]["template"]["spec"]["containers"][0]["image"],
        "type": get(SERVICE).await["spec"]["type"],
        "network": get(HOME).await["spec"]["network"],
        "trustDomain": get(HOME).await["spec"]["trustDomain"],
        "mesh_domain": config["mesh_domain"],
        "address": config["advertise"]["address"],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installing_again_keeps_what_is_installed_but_for_flags_that_are_given() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let install = "install --cluster east --apply --kubeconfig EAST";
    let first = tool
        .done(&format!(
            "{install} --network east-net --image registry.example/isthmus:7 --load-balancer \
             --mesh-domain corp.example --discovery-address cp.example.com:15012"
        ))
        .await;
    assert_eq!(steps(&first, "kept"), Vec::<&str>::new(), "{first}");
    let before = installed(&east).await;
    assert_eq!(before["type"], "LoadBalancer");
    assert_eq!(before["trustDomain"], "east.corp.example");

    let again = tool.done(install).await;
    assert_eq!(installed(&east).await, before);
    let kept = steps(&again, "kept");
    for flag in [
        "--network east-net",
        "--image registry.example/isthmus:7",
        "--load-balancer",
        "--mesh-domain corp.example",
        "--discovery-address cp.example.com:15012",
    ] {
        assert!(kept.contains(&flag), "{flag}: {again}");
    }

    // What others changed is installed, too.
    let deployment = east.admin().get(DEPLOYMENT).await.unwrap();
    let mut containers = deployment["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["image"] = "registry.example/isthmus:8".into();
    let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
    east.admin().merge(DEPLOYMENT, &patch).await.unwrap();
    tool.done(install).await;
    assert_eq!(
        installed(&east).await["image"],
        "registry.example/isthmus:8"
    );

    tool.done(&format!(
        "{install} --force --image isthmus:9 --discovery-address= --load-balancer=false --network other"
    ))
    .await;
    let after = installed(&east).await;
    assert_eq!(after["image"], "isthmus:9");
    assert_eq!(after["address"], Value::Null);
    assert_eq!(after["type"], "ClusterIP");
    assert_eq!(after["network"], "other");
    assert_eq!(after["mesh_domain"], "corp.example");

    let renamed = tool
        .refused("install --cluster north --apply --kubeconfig EAST")
        .await;
    assert!(renamed.contains("--cluster east"), "{renamed}");
    east.end().await.unwrap();
}

/// What the control plane reads, and what tells its pods that they have read another one.
async fn configured(east: &Cluster) -> (Value, Value) {
    let config = east.admin().get(CONFIG).await.unwrap();
    let text = config["data"]["control-plane.json"].as_str().unwrap();
    let deployment = east.admin().get(DEPLOYMENT).await.unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    (
        serde_json::from_str(text).unwrap(),
        annotations["isthmus.dev/config"].clone(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_writes_into_the_configuration_outlives_an_upgrade() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let install = "install --cluster east --apply --kubeconfig EAST";
    tool.done(install).await;
    let (mut config, first) = configured(&east).await;
    assert!(first.is_string(), "{first}");

    // As `kubectl edit` does it: the field is somebody else's from then on.
    config["stale_seconds"] = 60.into();
    config["home"] = json!({ "cluster": "east", "quota": { "endpoints": 7 } });
    let patch = json!({ "data": { "control-plane.json": config.to_string() } });
    east.admin().merge(CONFIG, &patch).await.unwrap();
    let upgraded = tool.done(&format!("{install} --image isthmus:9")).await;
    let kept = steps(&upgraded, "kept");
    assert!(kept.contains(&"stale_seconds 60"), "{upgraded}");
    assert!(kept.contains(&"home.quota.endpoints 7"), "{upgraded}");
    let (after, second) = configured(&east).await;
    assert_eq!(after, config);
    // ... and its pods are replaced by some that know it.
    assert_ne!(second, first);
    tool.done(install).await;
    assert_eq!(configured(&east).await.1, second);

    // A flag changes what it is about, and the pods with it.
    tool.done(&format!("{install} --discovery-address cp.example.com:1"))
        .await;
    let (flagged, third) = configured(&east).await;
    assert_eq!(flagged["stale_seconds"], 60);
    assert_eq!(flagged["advertise"]["address"], "cp.example.com:1");
    assert_ne!(third, second);

    let file = tool.folder().join("more.yaml");
    std::fs::write(&file, "writes: { per_second: 20 }\n").unwrap();
    tool.done(&format!("{install} --config {}", file.display()))
        .await;
    let (filed, _) = configured(&east).await;
    assert_eq!(filed["writes"]["per_second"], 20);
    assert_eq!(filed.get("stale_seconds"), None, "{filed}");
    assert_eq!(filed["advertise"]["address"], "cp.example.com:1");
    std::fs::write(&file, "writes: { per_second: 0 }\n").unwrap();
    let refused = tool
        .refused(&format!("{install} --config {}", file.display()))
        .await;
    assert!(refused.contains("writes.per_second"), "{refused}");
    tool.done(&format!("{install} --config=")).await;
    assert_eq!(configured(&east).await.0.get("writes"), None);
    east.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_again_keeps_what_the_cluster_was_but_for_flags_that_are_given() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.97.0.0/16"]).await else {
        return;
    };
    tool.done(
        "install --cluster east --apply --kubeconfig EAST --mesh-domain corp.example \
               --config LOCAL",
    )
    .await;
    let join = "cluster join west --kubeconfig WEST --home-kubeconfig EAST";
    // The same API server by another name, as a control plane in a pod may need it.
    let given = std::fs::read_to_string(tool.folder().join("WEST")).unwrap();
    let server = given.split("https://127.0.0.1:").nth(1).unwrap();
    let port: String = server.chars().take_while(char::is_ascii_digit).collect();
    let elsewhere = format!("https://localhost:{port}/");
    tool.done(&format!(
        "{join} --network shared --region eu --zone eu-1 --server {elsewhere} --token-hours 12"
    ))
    .await;
    let member = async || {
        let cluster = east.admin().get(MEMBER).await.unwrap();
        cluster["spec"].clone()
    };
    let before = member().await;
    assert_eq!(before["trustDomain"], "west.corp.example", "{before}");

    let again = tool.done(join).await;
    assert_eq!(member().await, before);
    let server = format!("--server {elsewhere}");
    let kept = steps(&again, "kept");
    for flag in [
        "--network shared",
        "--region eu",
        "--zone eu-1",
        "--token-hours 12",
        &server,
    ] {
        assert!(kept.contains(&flag), "{flag}: {again}");
    }
    let tried = format!("the token at {elsewhere}");
    assert_eq!(steps(&again, "tried"), [&tried], "{again}");

    tool.done(&format!("{join} --network own --zone=")).await;
    let after = member().await;
    assert_eq!(after["network"], "own");
    assert_eq!(after["region"], "eu");
    assert_eq!(after.get("zone"), None, "{after}");

    // A way that is not open from here is taken at the user's word, and the token tried by ours.
    let inside = "https://west.invalid:6443/";
    let done = tool.done(&format!("{join} --server {inside}")).await;
    let ours = format!("the token at https://127.0.0.1:{port}/");
    assert_eq!(steps(&done, "tried"), [&ours], "{done}");
    let warned = steps(&done, "warning");
    assert!(warned.len() == 1 && warned[0].starts_with(inside), "{done}");
    east.end().await.unwrap();
    west.end().await.unwrap();
}

const STATEFUL: &str = "/apis/apps/v1/namespaces/isthmus-system/statefulsets/isthmus-control-plane";

/// Says that one of its pods is ready, as a controller would.
async fn ready(east: &Cluster, path: &str) {
    let status = json!({ "status": { "replicas": 2, "readyReplicas": 1 } });
    let path = format!("{path}/status");
    east.admin().merge(&path, &status).await.unwrap();
}

/// Runs a command that waits until what it applies is ready.
async fn with_ready(tool: &Tool, east: &Cluster, line: &str, path: &str) -> Value {
    let made = async {
        while east.admin().get(path).await.is_err() {
            tokio::task::yield_now().await;
        }
        ready(east, path).await;
    };
    tokio::join!(tool.done(line), made).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_the_saved_world_takes_the_place_of_the_deployment_and_goes_again() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let install = "install --cluster east --apply --kubeconfig EAST";
    tool.done(&format!("{install} --image isthmus:7")).await;
    // The pods that there are go on until one of the others is ready.
    let claim = format!("{install} --saved-world-claim=fast");
    let done = with_ready(&tool, &east, &claim, STATEFUL).await;
    let deleted = ["Deployment isthmus-system/isthmus-control-plane"];
    assert_eq!(steps(&done, "deleted"), deleted);
    assert!(east.admin().get(DEPLOYMENT).await.is_err());
    let claiming = east.admin().get(STATEFUL).await.unwrap();
    let template = &claiming["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(template["storageClassName"], "fast");
    let container = &claiming["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "isthmus:7", "kept from the Deployment");

    let again = tool.done(install).await;
    assert!(
        steps(&again, "kept").contains(&"--saved-world-claim fast"),
        "{again}"
    );
    assert_eq!(steps(&again, "deleted"), Vec::<&str>::new());
    let why = tool
        .refused(&format!("{install} --saved-world-claim"))
        .await;
    assert!(why.contains("--saved-world-claim=false first"), "{why}");

    let back = format!("{install} --saved-world-claim=false");
    let done = with_ready(&tool, &east, &back, DEPLOYMENT).await;
    let deleted = ["StatefulSet isthmus-system/isthmus-control-plane"];
    assert_eq!(steps(&done, "deleted"), deleted);
    assert!(east.admin().get(STATEFUL).await.is_err());
    east.end().await.unwrap();
}

const PROPERTY: &str = "/apis/about.k8s.io/v1beta1/clusterproperties/cluster.clusterset.k8s.io";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_joins_by_the_name_that_it_states_and_by_no_other() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.97.0.0/16"]).await else {
        return;
    };
    let nameless = "install --apply --kubeconfig EAST";
    let why = tool.refused(nameless).await;
    assert!(why.contains("the cluster needs a name"), "{why}");
    let stated = async |cluster: &Cluster, name: &str| {
        let property = json!({
            "apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
            "metadata": { "name": "cluster.clusterset.k8s.io" }, "spec": { "value": name },
        });
        cluster.admin().apply(&property).await.unwrap();
    };
    for cluster in [&east, &west] {
        let definition = isthmus_test_clusters::crds::permissive_of("ClusterProperty").unwrap();
        cluster.admin().apply(&definition).await.unwrap();
        cluster.admin().served(&definition).await.unwrap();
    }
    stated(&east, "east").await;
    tool.done(&format!("{nameless} --config LOCAL")).await;
    assert_eq!(
        east.admin().get(HOME).await.unwrap()["spec"]["network"],
        "east"
    );

    stated(&west, "west").await;
    let why = tool
        .refused("cluster join lab --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(why.contains("is \"west\""), "{why}");
    tool.done("cluster join --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert!(east.admin().get(MEMBER).await.is_ok());
    let found = findings(&tool).await;
    let of_west = |f: &&Value| f["cluster"] == "west" && f["check"] == "properties";
    assert_eq!(
        found.iter().find(of_west).unwrap()["level"],
        "ok",
        "{found:#?}"
    );

    // Who is there already stays, and is told.
    stated(&west, "other").await;
    let again = tool
        .done("cluster join west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    assert_eq!(steps(&again, "warning").len(), 1, "{again}");
    let warned = of_level(&findings(&tool).await, "warning");
    assert!(
        warned
            .iter()
            .any(|told| told.starts_with("west: its ClusterProperty")),
        "{warned:?}"
    );
    assert!(west.admin().get(PROPERTY).await.is_ok());
    east.end().await.unwrap();
    west.end().await.unwrap();
}
