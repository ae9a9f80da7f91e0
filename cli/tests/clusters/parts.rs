//! Does an API server take the parts that stand beside the control plane, and do as they say?

use isthmus_control_plane::kubernetes::{Allow, Api, kubeconfig};
use isthmus_test_clusters::Cluster;
use isthmus_test_clusters::kubeconfig::Credential;
use serde_json::{Value, json};

use crate::tool::{Tool, start, steps};

const INSTALL: &str = "install --cluster east --apply --kubeconfig EAST";
const POLICY: &str =
    "/apis/networking.k8s.io/v1/namespaces/isthmus-system/networkpolicies/isthmus-control-plane";
const CLASS: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/isthmus-east-west";
const LEVEL: &str =
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/isthmus-control-plane";
const SCHEMA: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/isthmus-control-plane";

/// The metrics of the API server that count requests of the control plane's level.
async fn counted(cluster: &Cluster) -> u64 {
    let api = Api::new(access(cluster, &admin(cluster))).unwrap();
    let page = api.get("/metrics").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let ours = |line: &&str| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains("flow_schema=\"isthmus-control-plane\"")
            && line.contains("priority_level=\"isthmus-control-plane\"")
    };
    let counts = page.lines().filter(ours);
    counts
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn admin(cluster: &Cluster) -> Credential {
    Credential::Certificate(cluster.admin_certificate().unwrap())
}

fn access(cluster: &Cluster, credential: &Credential) -> isthmus_control_plane::kubernetes::Access {
    let allow = Allow {
        loopback: true,
        ..Allow::default()
    };
    kubeconfig(&cluster.kubeconfig(credential), None, &allow).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_the_control_plane_have_a_level_of_their_own() {
    let Some((tool, east, west)) = Tool::two(["10.96.0.0/16", "10.96.0.0/16"]).await else {
        return;
    };
    tool.join("").await;
    for cluster in [&east, &west] {
        let token = cluster
            .token("isthmus-system", "isthmus-control-plane", None, None)
            .await
            .unwrap();
        let api = Api::new(access(cluster, &Credential::Token(token))).unwrap();
        // The API server takes a moment to take it over.
        let mut asked = 0;
        while counted(cluster).await == 0 {
            asked += 1;
            assert!(asked < 2_000, "never counted in its own level");
            api.get("/api/v1/pods").await.unwrap();
        }
        let schema = cluster.admin().get(SCHEMA).await.unwrap();
        let dangling = schema["status"]["conditions"].as_array().unwrap().iter();
        let dangling = dangling.filter(|c| c["type"] == "Dangling" && c["status"] == "True");
        assert_eq!(dangling.count(), 0, "{schema}");
    }
    tool.done("cluster leave west --kubeconfig WEST --home-kubeconfig EAST")
        .await;
    for path in [SCHEMA, LEVEL] {
        assert!(east.admin().find(path).await.unwrap().is_some());
        assert_eq!(west.admin().find(path).await.unwrap(), None);
    }
    east.end().await.unwrap();
    west.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_policy_opens_what_is_served_and_stays_out_if_it_is_not_wanted() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    tool.done(INSTALL).await;
    let policy = async || east.admin().find(POLICY).await.unwrap();
    let spec = policy().await.unwrap()["spec"].clone();
    let ports = json!([{ "protocol": "TCP", "port": 15012 }, { "protocol": "TCP", "port": 15014 }]);
    assert_eq!(spec["ingress"], json!([{ "ports": ports }]));
    assert_eq!(spec["policyTypes"], json!(["Ingress"]));

    let title = "NetworkPolicy isthmus-system/isthmus-control-plane";
    let without = tool
        .done(&format!("{INSTALL} --network-policy=false"))
        .await;
    assert!(steps(&without, "deleted").contains(&title), "{without}");
    assert_eq!(policy().await, None);
    // Nobody has to say it again.
    let again = tool.done(INSTALL).await;
    assert!(
        steps(&again, "kept").contains(&"--network-policy=false"),
        "{again}"
    );
    assert_eq!(policy().await, None);
    let with = tool.done(&format!("{INSTALL} --network-policy")).await;
    assert!(steps(&with, "applied").contains(&title), "{with}");
    let again = tool.done(INSTALL).await;
    assert!(steps(&again, "applied").contains(&title), "{again}");
    assert!(policy().await.is_some());
    east.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_class_of_our_gateways_is_made_where_the_gateway_api_is_and_is_nobodys_yet() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let first = tool.done(INSTALL).await;
    assert_eq!(steps(&first, "absent"), ["the Gateway API"]);
    east.define_kinds().await.unwrap();
    let title = "GatewayClass isthmus-east-west";
    let second = tool.done(INSTALL).await;
    assert!(steps(&second, "applied").contains(&title), "{second}");
    let class = async || east.admin().get(CLASS).await.unwrap();
    let made = class().await;
    assert_eq!(made["spec"]["controllerName"], "isthmus.dev/controller");
    let third = tool.done(INSTALL).await;
    assert!(steps(&third, "kept").contains(&title), "{third}");

    // Whoever has it, has it.
    east.admin().delete_path(CLASS).await.unwrap();
    let theirs: Value = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": { "name": "isthmus-east-west" },
        "spec": { "controllerName": "example.com/other" },
    });
    east.admin().apply(&theirs).await.unwrap();
    let before = class().await["metadata"]["resourceVersion"].clone();
    let fourth = tool.done(INSTALL).await;
    let warned = steps(&fourth, "warning");
    assert!(
        warned.iter().any(|w| w.contains("example.com/other's")),
        "{fourth}"
    );
    assert_eq!(class().await["metadata"]["resourceVersion"], before);
    east.end().await.unwrap();
}
