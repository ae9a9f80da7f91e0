//! Does anybody who calls notice that the control plane that leads is killed?

use std::path::Path;
use std::time::Duration;

use isthmus_tests::Mesh;
use isthmus_tests::load::Load;
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use serde_json::Value;

/// A Lease runs out after 15 s, and then the other one begins to write.
const LIMIT: Duration = Duration::from_secs(120);
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases/isthmus-control-plane";
const PROXIES: [&str; 6] = [
    "east/shop/web-1",
    "east/shop/cart-1",
    "east/shop/cart-2",
    "east/isthmus-system/gateway-1",
    "west/shop/books-1",
    "west/isthmus-system/gateway-1",
];

/// A service of west that is exported.
fn exported(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ selector: {{ app: books }}, ports: [ {{ name: http, port: 80, targetPort: 8080 }} ] }}\n\
         ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{ name: {name}, namespace: shop }}\n"
    )
}

/// Which of the two writes.
async fn leader(mesh: &Mesh) -> usize {
    until_within(LIMIT, "one of the two leads", async || {
        let lease = mesh.server("east").cluster.admin().find(LEASE).await;
        let lease = lease
            .map_err(|error| error.to_string())?
            .unwrap_or_default();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let of = |number| holder.starts_with(&format!("replica-{number}_"));
        (0..2).find(|number| of(*number)).ok_or(holder.to_owned())
    })
    .await
}

/// Which proxies a replica serves.
async fn served(mesh: &Mesh, replica: usize) -> Vec<&'static str> {
    let proxies = mesh.replicas()[replica].json("/proxies").await.to_string();
    let is_there = |name: &&str| proxies.contains(*name);
    PROXIES.into_iter().filter(is_there).collect()
}

/// Waits until what was exported in west has an import with an address in both clusters.
async fn until_imported(mesh: &Mesh, name: &str) {
    let path = format!("/apis/multicluster.x-k8s.io/v1beta1/namespaces/shop/serviceimports/{name}");
    for cluster in ["east", "west"] {
        until_within(LIMIT, &format!("{cluster} imports {name}"), async || {
            let found = mesh.server(cluster).cluster.admin().find(&path).await;
            let import: Value = found
                .map_err(|error| error.to_string())?
                .unwrap_or_default();
            let ready = &import["status"]["conditions"][0];
            let address = import["spec"]["ips"][0].is_string();
            check(address && ready["status"] == "True", import)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_that_leads_is_killed_and_the_other_one_serves_and_writes() {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.service("books", 1))
        .as_processes(Path::new(env!("CARGO_BIN_EXE_isthmus")))
        .two_replicas(programs);
    // Both are ready then.
    let mut mesh = Box::pin(mesh.start()).await;
    for replica in 0..2 {
        let serves = served(&mesh, replica).await;
        assert!((1..PROXIES.len()).contains(&serves.len()), "{serves:?}");
    }
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;

    for round in 0..2 {
        let killed = leader(&mesh).await;
        let other = 1 - killed;
        // Written by the one, and another one while it is killed: it may be half done.
        mesh.server("west")
            .apply(&exported(&format!("before-{round}")))
            .await;
        until_imported(&mesh, &format!("before-{round}")).await;
        mesh.server("west")
            .apply(&exported(&format!("meanwhile-{round}")))
            .await;
        mesh.replica_mut(killed).kill();
        load.more(50).await;
        until_within(LIMIT, "all proxies have moved", async || {
            let serves = served(&mesh, other).await;
            check(serves.len() == PROXIES.len(), format!("{serves:?}"))
        })
        .await;
        mesh.server("west")
            .apply(&exported(&format!("after-{round}")))
            .await;
        for name in ["meanwhile", "after"] {
            until_imported(&mesh, &format!("{name}-{round}")).await;
        }
        assert_eq!(leader(&mesh).await, other);
        load.more(50).await;
        // The one that is back leads no more, and serves whoever comes.
        mesh.replica_mut(killed).start().await;
        assert_eq!(leader(&mesh).await, other);
    }
    load.stop_without_failure().await;
}
