//! Does `status --context` ask every replica of the control plane?

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use isthmus_test_clusters::Cluster;
use serde_json::{Value, json};

use crate::tool::{Tool, findings, start};

/// Opens a way to the pods of which the folder has an address, as `kubectl port-forward` would.
const KUBECTL: &str = "#!/bin/sh
for word in \"$@\"; do case $word in pod/*) pod=${word#pod/};; esac; done
at=$(cat \"$(dirname \"$0\")/$pod\") || { echo \"pod $pod is lost\" >&2; exit 1; }
echo \"Forwarding from $at -> 15014\"
exec sleep 600
";

/// A pod of the control plane, as its kubelet tells of it.
async fn pod(cluster: &Cluster, name: &str, ready: bool) {
    let labels = json!({
        "app.kubernetes.io/name": "isthmus", "app.kubernetes.io/component": "control-plane",
    });
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let status = if ready { "True" } else { "False" };
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "isthmus-system", "labels": labels },
        "spec": { "containers": [{
            "name": "control-plane", "image": "isthmus", "securityContext": security }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
    });
    cluster.admin().apply(&object).await.unwrap();
}

/// Four of them, of which one is not ready and the second one leads.
async fn replicas(east: &Cluster) {
    for (name, ready) in [
        ("cp-1", true),
        ("cp-2", true),
        ("cp-3", false),
        ("cp-4", true),
    ] {
        pod(east, name, ready).await;
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "isthmus-control-plane", "namespace": "isthmus-system" },
        "spec": { "holderIdentity": "cp-2_0123456789abcdef" },
    });
    east.admin().apply(&lease).await.unwrap();
}

/// An admin page whose control plane has these proxies; where it is stands in the folder.
fn admin_page(folder: &Path, pod: &str, generation: u64, nodes: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    std::fs::write(folder.join(pod), at).unwrap();
    let proxies: Vec<Value> = nodes.iter().map(|node| json!({ "node": node })).collect();
    let world = json!({ "generation": generation,
        "clusters": [{ "cluster": "east", "state": "synced" }] });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            let body = match first.split(' ').nth(1).unwrap() {
                "/world" => world.to_string(),
                "/proxies" => json!(proxies).to_string(),
                "/clusters" => json!([{ "cluster": "east", "state": "stale", "reason": "no route",
                    "clock_ahead_seconds": 2 * generation }])
                .to_string(),
                "/trust" => json!({ "told by": generation }).to_string(),
                _ => json!({ "services": [] }).to_string(),
            };
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn every_replica_is_asked_and_one_that_is_lost_is_named() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    let kubectl = tool.folder().join("kubectl");
    std::fs::write(&kubectl, KUBECTL).unwrap();
    std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let status = "status --context east --kubeconfig EAST";
    let none = tool.refused(status).await;
    assert!(none.contains("is it installed"), "{none}");

    tool.done("install --cluster east --apply --kubeconfig EAST")
        .await;
    replicas(&east).await;
    admin_page(tool.folder(), "cp-1", 3, &["east/shop/web-1"]);
    admin_page(
        tool.folder(),
        "cp-2",
        7,
        &["east/shop/web-2", "west/shop/web-3"],
    );

    let seen = tool.done(status).await;
    assert_eq!(seen["world"]["generation"], 7, "{seen}");
    let proxies = seen["proxies"].as_array().unwrap().iter();
    let proxies: Vec<(&str, &str)> = proxies
        .map(|p| (p["node"].as_str().unwrap(), p["replica"].as_str().unwrap()))
        .collect();
    assert_eq!(
        proxies,
        [
            ("east/shop/web-1", "cp-1"),
            ("east/shop/web-2", "cp-2"),
            ("west/shop/web-3", "cp-2"),
        ]
    );
    let replicas = seen["replicas"].as_array().unwrap();
    let leads: Vec<bool> = replicas.iter().map(|r| r["leads"] == true).collect();
    assert_eq!(leads, [false, true, false, false]);
    let error = |at: usize| replicas[at]["error"].as_str().unwrap_or_default();
    assert_eq!(error(0), "");
    assert_eq!(error(2), "its pod is not ready");
    assert!(error(3).contains("pod cp-4 is lost"), "{}", error(3));
    let trust = tool
        .done("trust status --context east --kubeconfig EAST")
        .await;
    assert_eq!(trust["told by"], 7, "{trust}");

    // What the control plane does not reach is broken, whatever is reached from here.
    let found = findings(&tool).await;
    let by = |from: &str, check: &str| {
        let mut all = found.iter();
        let one = all.find(|f| f["from"] == from && f["check"] == check);
        one.map(|f| format!("{} {}", f["level"].as_str().unwrap(), f["message"]))
    };
    let east_is = by("here", "reachability").unwrap();
    assert!(east_is.starts_with("ok"), "{found:?}");
    let control_plane = "the control plane";
    let told = by(control_plane, "reachability").unwrap();
    assert_eq!(told, r#"broken "stale: no route""#);
    let told = by(control_plane, "clock").unwrap();
    assert_eq!(told, r#"warning "14 s ahead of the control plane""#);
    let lost = by("here", "control plane").unwrap();
    assert!(
        lost.contains("cp-3 can't be asked: its pod is not ready"),
        "{lost}"
    );

    // The one that leads is lost, too.
    std::fs::remove_file(tool.folder().join("cp-2")).unwrap();
    let seen = tool.done(status).await;
    assert_eq!(seen["world"]["generation"], 3, "{seen}");
    let trust = tool
        .done("trust status --context east --kubeconfig EAST")
        .await;
    assert_eq!(trust["told by"], 3, "{trust}");
    std::fs::remove_file(tool.folder().join("cp-1")).unwrap();
    let none = tool.refused(status).await;
    assert!(none.contains("cp-1: ") && none.contains("cp-3: "), "{none}");
    east.end().await.unwrap();
}
