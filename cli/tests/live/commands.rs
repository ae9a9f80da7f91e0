//! Do `status`, `why` and `completion` tell what a mesh that runs is like?

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use isthmus_tests::client::full;
use isthmus_tests::{App, Mesh};
use serde_json::{Value, json};

const POLICY: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Deny
  rules:
  - from: [{serviceAccounts: [web]}]
    to: [{paths: [{prefix: /closed}]}]
";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
  rules:
  - matches: [{headers: [{name: x-canary, value: \"yes\"}]}]
    backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: canary, port: 80}]
  - backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}]
";

/// The binary, told of a mesh by a file as a held demo writes it.
struct Tool {
    state: tempfile::TempDir,
}

impl Tool {
    fn of(mesh: &Mesh) -> Self {
        let admin = |name: &str| mesh.proxy(name).listeners().admin.unwrap();
        let proxies = json!({
            "east/shop/web-1": admin("east/web-1"),
            "west/shop/cart-1": admin("west/cart-1"),
            "west/shop/canary-1": admin("west/canary-1"),
            "west/isthmus-system/gateway-1": admin("west/gateway-1"),
        });
        let mut states = serde_json::Map::new();
        let mut add = |at: SocketAddr, dir: &Path| states.insert(at.to_string(), json!(dir));
        add(mesh.control().admin(), mesh.control().state_dir());
        for name in [
            "east/web-1",
            "west/cart-1",
            "west/canary-1",
            "west/gateway-1",
        ] {
            add(admin(name), mesh.proxy(name).state_dir());
        }
        let state = tempfile::tempdir().unwrap();
        let text = json!({
            "control_plane": mesh.control().admin(),
            "proxies": proxies,
            "states": states,
            "folder": state.path(),
        });
        std::fs::write(state.path().join("state.json"), text.to_string()).unwrap();
        Self { state }
    }

    fn file(&self) -> std::path::PathBuf {
        self.state.path().join("state.json")
    }

    async fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
        command
            .args(line.split_whitespace())
            .env("ISTHMUS_DEMO_STATE", self.file());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// What it prints for people; it has to succeed.
    async fn text(&self, line: &str) -> String {
        let output = self.run(line).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same for programs.
    async fn json(&self, line: &str) -> Value {
        let text = self.text(&format!("{line} --output json")).await;
        serde_json::from_str(&text).unwrap()
    }
}

fn each_is_in(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

async fn mesh() -> Mesh {
    Mesh::builder()
        .cluster("east", |c| c.client("web").manifest("route.yaml", ROUTE))
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("bytes", 81, "tcp", App::Tcp)
            })
            .service("canary", 1)
            .manifest("policy.yaml", POLICY)
        })
        .start()
        .await
}

#[tokio::test]
async fn status_and_why_tell_what_the_mesh_does() {
    let mesh = mesh().await;
    let client = mesh.client("east/web").http("cart");
    assert_eq!(client.get("/").await.status, 200);
    // A sidecar knows what its application uses.
    let canary = client.request("GET", "/").header("x-canary", "yes");
    let reply = client.send(canary.body(full("")).unwrap()).await.unwrap();
    assert_eq!(reply.pod(), "west/canary-1");
    let refused = client.get("/closed/door").await;
    assert_eq!(refused.status, 403);
    let tool = Tool::of(&mesh);
    status(&tool).await;
    refusal(&tool, refused.reason()).await;
    calls(&tool).await;
}

async fn status(tool: &Tool) {
    let text = tool.text("status").await;
    let names = [
        "east",
        "west",
        "synced",
        "east/shop/web-1",
        "west/shop/cart-1",
    ];
    each_is_in(&text, &names);
    let json = tool.json("status").await;
    assert_eq!(
        json["world"]["clusters"].as_array().unwrap().len(),
        2,
        "{json:#}"
    );
    // Two gateways, the client and two pods are connected; the file names four of them.
    let proxies = json["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 5, "{json:#}");
    let end = |proxy: &Value| proxy["certificate_not_after"].as_u64();
    let since = |proxy: &Value| proxy["since"].as_u64();
    assert!(proxies.iter().all(|one| end(one) > since(one)), "{json:#}");
    let configs = json["configs"].as_object().unwrap();
    assert_eq!(configs.len(), 4);
    assert!(
        configs
            .values()
            .all(|config| config["certificate"]["identity"].is_string())
    );
}

/// By the id that the client was told.
async fn refusal(tool: &Tool, reason: &str) {
    let text = tool.text(&format!("why {reason}")).await;
    let parts = [
        "spiffe://east.mesh.internal/ns/shop/sa/web, cluster east",
        "GET /closed/door to shop/cart",
        "by the sidecar of west/shop/cart-1",
        "denied (UAEX), status 403",
        "edit or remove the AccessPolicy west/shop/closed",
    ];
    each_is_in(&text, &parts);
    let json = tool.json(&format!("why {reason}")).await;
    assert_eq!(json["event"]["failure"], "denied", "{json:#}");
    let unknown = tool.run("why west/shop/cart-1:0").await;
    assert_eq!(unknown.status.code(), Some(1));
    each_is_in(
        &String::from_utf8_lossy(&unknown.stderr),
        &["not remembered"],
    );
}

/// Replayed at both ends: as a request with its fields, or as a connection.
async fn calls(tool: &Tool) {
    let text = tool.text("why web cart --path /closed").await;
    let parts = [
        "As the sidecar of east/shop/web-1 would decide",
        "As the sidecar of west/shop/cart-1 would decide",
        "west/shop/closed",
        "gateway",
    ];
    each_is_in(&text, &parts);
    for (line, chosen, judged_as, allowed) in [
        ("why web cart --path /closed", "cart", "request", false),
        (
            "why web cart --path /closed --method POST",
            "cart",
            "request",
            false,
        ),
        ("why web cart", "cart", "request", true),
        (
            "why web cart --header x-canary=yes --path /closed",
            "canary",
            "request",
            true,
        ),
        ("why web cart:81", "cart", "connection", false),
    ] {
        let json = tool.json(line).await;
        let (out, inbound) = (&json["outbound"], &json["inbound"]);
        assert_eq!(out["judged_as"], judged_as, "{line}: {json:#}");
        let backend = out["route"]["chosen"].as_str().unwrap();
        assert!(
            backend.starts_with(&format!("shop/{chosen}.")),
            "{line}: {json:#}"
        );
        assert_eq!(out["endpoint"], format!("west/shop/{chosen}-1"), "{line}");
        assert_eq!(inbound["judged_as"], judged_as, "{line}: {json:#}");
        assert_eq!(
            inbound["workload"],
            format!("west/shop/{chosen}-1"),
            "{line}"
        );
        assert_eq!(inbound["allowed"], allowed, "{line}: {json:#}");
    }
}

/// Before the first call a sidecar knows nothing of a service: the control plane says what it would
/// be told, and the server's sidecar which policy would decide.
#[tokio::test]
async fn a_service_that_was_never_called_is_explained_too() {
    let mesh = mesh().await;
    let tool = Tool::of(&mesh);
    let text = tool.text("why web cart --path /closed").await;
    let parts = [
        "The sidecar of east/shop/web-1 has never asked for it",
        "verdict: the service exists: 1 of 1 endpoints serve",
        "cluster: west",
        "exported: yes",
        "routes:\n    - ",
        "As the sidecar of west/shop/cart-1 would decide",
        "west/shop/closed",
    ];
    each_is_in(&text, &parts);
    let json = tool.json("why web cart --path /closed").await;
    assert_eq!(json["first_use"]["exists"], true, "{json:#}");
    assert_eq!(json["first_use"]["target_port"], 8080, "{json:#}");
    assert_eq!(json["inbound"]["allowed"], false, "{json:#}");
    for (line, exists, verdict) in [
        (
            "why web none",
            false,
            "no service of the mesh has this name",
        ),
        ("why web cart:99", true, "has no port 99"),
    ] {
        let json = tool.json(line).await;
        assert_eq!(json["first_use"]["exists"], exists, "{json:#}");
        let said = json["first_use"]["verdict"].as_str().unwrap();
        assert!(said.contains(verdict), "{json:#}");
        assert!(json["inbound"].is_null(), "{json:#}");
    }
    // Asking is no call: the sidecar still knows nothing.
    let json = tool.json("why web cart").await;
    assert!(
        json["outbound"]["service"]["unknown"].is_string(),
        "{json:#}"
    );
    // Where the control plane is not named, it is said how.
    let web = mesh.proxy("east/web-1");
    let proxy = web.listeners().admin.unwrap();
    let token = web.state_dir().join("admin-token");
    let asked = format!(
        "why web cart --proxy {proxy} --admin-token {}",
        token.display()
    );
    let text = tool.text(&asked).await;
    each_is_in(&text, &["--control-plane names it"]);
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let json = tool.json("why web cart").await;
    assert!(json["first_use"].is_null(), "{json:#}");
}

#[tokio::test]
async fn a_shell_understands_its_completion() {
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["completion", "bash"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let script = String::from_utf8(output.stdout).unwrap();
    each_is_in(&script, &["status", "why", "--server-name"]);
    if !Path::new("/bin/bash").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("isthmus.bash");
    std::fs::write(&file, script).unwrap();
    // What the shell proposes for a word that has begun.
    let ask = format!(
        "source {} && COMP_WORDS=(isthmus sta) COMP_CWORD=1 && _isthmus isthmus sta isthmus && echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let proposed = Command::new("/bin/bash")
        .args(["-c", &ask])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&proposed.stderr);
    assert_eq!(
        String::from_utf8_lossy(&proposed.stdout).trim(),
        "status",
        "{said}"
    );
}
