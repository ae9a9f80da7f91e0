//! Does a control plane do what proxies and operators expect of it, over real connections?

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]

mod mesh;
mod stranger;

use isthmus_proto::resource::{
    AccessPolicy, Action, ClusterFreshness, Endpoint, Freshness, Route, Service, TrustBundle,
    Workload,
};
use isthmus_proto::spiffe::SpiffeId;
use mesh::{LIMIT, Mesh, names, resource};
use tonic::Code;

const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

fn pod(name: &str, account: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {account}}}}}\n\
         spec: {{serviceAccountName: {account}, containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{podIP: {ip}, phase: Running}}\n---\n"
    )
}

fn service(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.5, selector: {{app: cart}}, ports: [{{name: http, port: {port}, targetPort: http}}]}}\n---\n"
    )
}

fn cluster(name: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {{name: {name}}}\nspec: {{network: {name}-net}}\n"
    )
}

fn shop() -> Vec<(&'static str, String)> {
    let pods = [
        pod("web-1", "web", "127.20.0.10"),
        pod("cart-1", "cart", "127.20.0.11"),
    ]
    .concat();
    vec![
        ("east/cluster.yaml", cluster("east")),
        ("east/pods.yaml", pods),
        ("east/cart.yaml", service(80)),
        ("west/cluster.yaml", cluster("west")),
    ]
}

async fn synced(mesh: &Mesh) {
    mesh.until("/ready", |status, _| status == 200).await;
}

#[tokio::test]
async fn a_token_becomes_a_certificate_and_a_certificate_a_client() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let identity = isthmus_control_plane::trust::identity_of(&proxy.chain[0])
        .unwrap()
        .id;
    assert_eq!(
        identity.as_str(),
        "spiffe://east.mesh.internal/ns/shop/sa/web"
    );
    let domains: Vec<&str> = proxy
        .response
        .bundles
        .iter()
        .map(|b| b.trust_domain.as_str())
        .collect();
    assert_eq!(domains, ["east.mesh.internal", "west.mesh.internal"]);

    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<Workload>("east/shop/web-1").await;
    let response = client.until::<Workload>(|r| !r.resources.is_empty()).await;
    let workload: Workload = resource(&response, "east/shop/web-1");
    assert_eq!(
        (workload.identity.as_str(), workload.network.as_str()),
        (identity.as_str(), "east-net")
    );
    client.want::<TrustBundle>("*").await;
    let response = client
        .until::<TrustBundle>(|r| !r.resources.is_empty())
        .await;
    assert_eq!(
        names(&response),
        ["east.mesh.internal", "west.mesh.internal"]
    );
    client.want::<ClusterFreshness>("*").await;
    let response = client
        .until::<ClusterFreshness>(|r| !r.resources.is_empty())
        .await;
    let freshness: ClusterFreshness = resource(&response, "east");
    assert_eq!(freshness.state(), Freshness::Synced);

    let key = "host:cart.shop.svc.cluster.local";
    client.want::<Service>(key).await;
    let response = client.until::<Service>(|r| !r.resources.is_empty()).await;
    let found: Service = resource(&response, SERVICE);
    assert_eq!(found.ports[0].port, 80);
    assert!(
        response.resources[0]
            .aliases
            .iter()
            .any(|alias| alias == key)
    );
    client.want::<Endpoint>(key).await;
    let response = client.until::<Endpoint>(|r| !r.resources.is_empty()).await;
    let endpoint: Endpoint = resource(&response, &format!("{SERVICE}#east/shop/cart-1"));
    assert_eq!(
        endpoint.identity,
        "spiffe://east.mesh.internal/ns/shop/sa/cart"
    );
    assert_eq!(endpoint.ports[0].target_port, 8080);
    client.want::<Route>(key).await;
    client
        .until::<Route>(|r| r.removed_resources == [key])
        .await;
    client.want::<Service>("host:nowhere.example").await;
    client
        .until::<Service>(|r| r.removed_resources == ["host:nowhere.example"])
        .await;
}

#[tokio::test]
async fn an_edit_reaches_the_proxy_also_after_a_refusal() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<Service>(SERVICE).await;
    client.until::<Service>(|r| names(r) == [SERVICE]).await;
    client.want::<Endpoint>(SERVICE).await;
    client.until::<Endpoint>(|r| r.resources.len() == 1).await;

    mesh.write("east/cart.yaml", &service(81));
    let refused = loop {
        let response = client.next().await.unwrap();
        if response.type_url == <Service as prost::Name>::type_url() {
            break response;
        }
        client.answer(&response, None).await;
    };
    client
        .answer(&refused, Some("shop/cart: no port 81 here"))
        .await;
    mesh.until("/proxies", |_, body| body.contains("no port 81 here"))
        .await;
    mesh.write("east/cart.yaml", &service(82));
    let response = client.until::<Service>(|r| names(r) == [SERVICE]).await;
    let found: Service = resource(&response, SERVICE);
    assert_eq!(found.ports[0].port, 82, "the stream goes on");

    let name = format!("{SERVICE}#east/shop/cart-2");
    mesh.write("east/more.yaml", &pod("cart-2", "cart", "127.20.0.12"));
    client
        .until::<Endpoint>(|r| names(r) == [name.as_str()])
        .await;
    std::fs::remove_file(mesh.path("east/more.yaml")).unwrap();
    client
        .until::<Endpoint>(|r| r.removed_resources == [name.as_str()])
        .await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_reaches_the_proxy_as_invalid() {
    let mut files = shop();
    files.push((
        "east/policy.yaml",
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: open, namespace: shop}\n\
         spec:\n  action: Allow\n  rules:\n  - form: [{clusters: [east]}]\n"
            .to_owned(),
    ));
    let mesh = Mesh::start(&files).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<AccessPolicy>("*").await;
    let response = client
        .until::<AccessPolicy>(|r| !r.resources.is_empty())
        .await;
    let policy: AccessPolicy = resource(&response, "east/shop/open");
    assert!(policy.invalid.contains("unknown field"), "{policy:?}");
    let clusters = mesh.get("/clusters").await.1;
    assert!(
        clusters.contains("policy.yaml") && clusters.contains("\"line\": 7"),
        "{clusters}"
    );
    let errors = |count: u8| format!("isthmus_source_errors{{cluster=\"east\"}} {count}\n");
    let metrics = mesh.get("/metrics").await.1;
    assert!(metrics.contains(&errors(1)), "{metrics}");
    mesh.write(
        "east/policy.yaml",
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: open, namespace: shop}\n\
         spec:\n  action: Allow\n  rules:\n  - from: [{clusters: [east]}]\n",
    );
    let response = client
        .until::<AccessPolicy>(|r| names(r) == ["east/shop/open"])
        .await;
    let policy: AccessPolicy = resource(&response, "east/shop/open");
    assert_eq!(
        (policy.invalid.as_str(), policy.action()),
        ("", Action::Allow)
    );
    mesh.until("/metrics", |_, metrics| metrics.contains(&errors(0)))
        .await;
}

#[tokio::test]
async fn a_cluster_that_is_lost_is_stale_and_keeps_its_endpoints() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    std::fs::rename(mesh.path("east"), mesh.path("away")).unwrap();
    mesh.until("/clusters", |_, body| body.contains("\"state\": \"stale\""))
        .await;
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<Endpoint>(SERVICE).await;
    client.until::<Endpoint>(|r| r.resources.len() == 1).await;
    client.want::<ClusterFreshness>("*").await;
    let response = client
        .until::<ClusterFreshness>(|r| !r.resources.is_empty())
        .await;
    let freshness: ClusterFreshness = resource(&response, "east");
    assert_eq!(freshness.state(), Freshness::Stale);
    let (status, body) = mesh.get("/ready").await;
    assert_eq!(
        status, 200,
        "one lost cluster is not the control plane's end: {body}"
    );
}

#[tokio::test]
async fn a_cluster_that_is_unknown_is_not_empty() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let folder = mesh.stop().await;
    // Started again while one file can't be read, and without what it had saved.
    std::fs::remove_dir_all(folder.path().join("state/worlds")).unwrap();
    let good = std::fs::read_to_string(folder.path().join("east/pods.yaml")).unwrap();
    std::fs::write(folder.path().join("east/pods.yaml"), "kind: [").unwrap();
    let mesh = Mesh::over(folder).await;
    let body = mesh
        .until("/ready", |_, body| body.contains("pods.yaml:"))
        .await;
    assert!(body.contains("\"east\""), "{body}");
    // The certificate of before the restart is good: keys are kept.
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<Endpoint>(SERVICE).await;
    client.want::<TrustBundle>("*").await;
    client
        .until::<TrustBundle>(|r| !r.resources.is_empty())
        .await;
    mesh.write("east/pods.yaml", &good);
    let response = client.next().await.unwrap();
    assert_eq!(
        response.removed_resources,
        Vec::<String>::new(),
        "nothing was said to be gone"
    );
    assert_eq!(names(&response), [format!("{SERVICE}#east/shop/cart-1")]);
}

/// A file that is broken while nobody looks takes nothing away: what it said is on disk.
#[tokio::test]
async fn what_was_good_before_a_restart_is_good_after_it() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let folder = mesh.stop().await;
    std::fs::write(folder.path().join("east/pods.yaml"), "kind: [").unwrap();
    let mesh = Mesh::over(folder).await;
    mesh.until("/ready", |status, _| status == 200).await;
    let clusters = mesh.json("/clusters").await;
    assert!(clusters.to_string().contains("stale"), "{clusters}");
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<Endpoint>(SERVICE).await;
    let response = client.next().await.unwrap();
    assert_eq!(names(&response), [format!("{SERVICE}#east/shop/cart-1")]);
    // Nor does it hold up what other files say now.
    client.want::<AccessPolicy>("*").await;
    let policy = "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\n\
                  metadata: {name: nobody, namespace: shop}\nspec: {action: Deny, rules: [{}]}\n";
    mesh.write("east/nobody.yaml", policy);
    client
        .until::<AccessPolicy>(|r| names(r) == ["east/shop/nobody"])
        .await;
}

#[tokio::test]
async fn the_pages_of_admin_show_what_is_there() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<TrustBundle>("*").await;
    client
        .until::<TrustBundle>(|r| !r.resources.is_empty())
        .await;
    mesh.until("/proxies", |_, body| body.contains("\"acked\": 1"))
        .await;
    let pods = mesh.json("/world/east?kind=Pod").await;
    let named = |name: &str| {
        let all = pods["objects"].as_array().unwrap();
        all.iter().any(|object| object["name"] == name)
    };
    assert!(named("web-1") && named("cart-1"), "{pods}");
    let all = mesh.json("/world/east").await;
    let count = |page: &serde_json::Value| page["objects"].as_array().unwrap().len();
    assert!(count(&all) > count(&pods) && all["more"] == false, "{all}");
    assert_eq!(mesh.get("/world/nowhere").await.0, 404);
    let proxies = mesh.json("/proxies").await;
    assert_eq!(proxies[0]["node"], "east/shop/web-1");
    let id: SpiffeId = proxies[0]["identity"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.service_account(), "web");
    assert!(
        proxies[0]["types"]["TrustBundle"]["acked_generation"]
            .as_u64()
            .unwrap()
            > 0
    );
    let clusters = mesh.json("/clusters").await;
    assert_eq!(
        (&clusters[0]["cluster"], &clusters[0]["objects"]["Pod"]),
        (&"east".into(), &2.into())
    );
    assert_eq!(clusters[0]["source"]["files"], 3);
    let world = mesh.json("/world").await;
    assert_eq!(world["trust"][1]["trust_domain"], "west.mesh.internal");
    let metrics = mesh.get("/metrics").await.1;
    for line in [
        "isthmus_cluster_up{cluster=\"east\"} 1",
        "isthmus_cluster_objects{cluster=\"east\",kind=\"Pod\"} 2",
        "isthmus_certificates_issued_total{cluster=\"east\"} 1",
        "isthmus_discovery_sessions 1",
        "isthmus_discovery_pushes_total{type=\"TrustBundle\"} 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in\n{metrics}"
        );
    }
    assert_eq!(mesh.get("/nothing").await.0, 404);
    let secrets = [
        mesh.get("/world").await.1,
        mesh.get("/clusters").await.1,
        metrics,
    ]
    .concat();
    let key = std::fs::read(mesh.path("state/tokens/east.key")).unwrap();
    assert!(!secrets.contains("PRIVATE") && !secrets.as_bytes().windows(32).any(|w| w == key));
}

#[tokio::test]
async fn streams_end_when_the_control_plane_stops() {
    let mesh = Mesh::start(&shop()).await;
    synced(&mesh).await;
    let proxy = mesh.proxy("east/shop/web-1", "web").await;
    let mut client = mesh.subscribe(&proxy, "east/shop/web-1").await;
    client.want::<TrustBundle>("*").await;
    client
        .until::<TrustBundle>(|r| !r.resources.is_empty())
        .await;
    let ended = tokio::spawn(async move { client.next().await.unwrap_err().code() });
    tokio::time::timeout(LIMIT, mesh.stop()).await.unwrap();
    assert_eq!(ended.await.unwrap(), Code::Unavailable);
}
