//! Do other people's programs work through the mesh, unchanged?
//!
//! A program that is not installed is skipped, and the output says so.

use isthmus_tests::programs::{find, run, said};
use isthmus_tests::tls;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, until};
use tokio::process::Command;

use crate::protocols::all_protocols;

fn url(client: &Client, path: &str) -> String {
    format!("http://{}{path}", client.address())
}

#[tokio::test]
async fn curl_gets_posts_and_keeps_its_connection() {
    let Some(curl) = find("curl") else { return };
    let mesh = all_protocols().start().await;
    let web = mesh.client("east/web");
    let http = web.port("echo", 80);
    let (first, second) = (url(&http, "/a"), url(&http, "/b"));
    let out = run(
        &curl,
        &["-sv", "--max-time", "20", "-d", "content", &first, &second],
    )
    .await;
    let text = said(&out);
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert_eq!(text.matches("contentcontent").count(), 1, "{text}");
    assert!(
        text.contains("Re-using") || text.contains("Reusing"),
        "{text}"
    );
    let h2 = url(&web.port("echo", 81), "/c");
    let out = run(
        &curl,
        &["-sv", "--max-time", "20", "--http2-prior-knowledge", &h2],
    )
    .await;
    let text = said(&out);
    assert!(
        text.contains("HTTP/2 200") && text.contains("west/echo-1"),
        "{text}"
    );
}

#[tokio::test]
async fn nghttp_speaks_http2_with_continuations_and_trailers() {
    let Some(nghttp) = find("nghttp") else { return };
    let mesh = all_protocols().start().await;
    let to = url(&mesh.client("east/web").port("echo", 81), "/whole");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::write(&data, "0123456789".repeat(1_000)).unwrap();
    let data = data.to_str().unwrap();
    let out = run(
        &nghttp,
        &[
            "-v",
            "-t",
            "20",
            "--continuation",
            "--trailer",
            "x-check: 1",
            "-d",
            data,
            &to,
        ],
    )
    .await;
    let text = said(&out);
    assert!(
        out.status.success() && text.contains(":status: 200"),
        "{text}"
    );
    assert_eq!(mesh.app_on("west/echo-1", 81).record.bytes(), 10_000);
}

#[tokio::test]
async fn h2load_is_served_without_a_failure() {
    let Some(h2load) = find("h2load") else { return };
    let mesh = all_protocols().start().await;
    let web = mesh.client("east/web");
    for (port, more) in [(81, "--h1"), (80, "--h1")] {
        let to = url(&web.port("echo", port), "/");
        let mut arguments = vec!["-n", "600", "-c", "4", "-m", "8"];
        if port == 80 {
            arguments.push(more);
        }
        arguments.push(&to);
        let out = run(&h2load, &arguments).await;
        let text = said(&out);
        assert!(
            text.contains("600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{text}"
        );
        assert!(text.contains("status codes: 600 2xx"), "{text}");
    }
}

/// Figure 8 of SECURITY.md, on the listener that applications use.
#[tokio::test]
async fn h2spec_finds_nothing() {
    let Some(h2spec) = find("h2spec") else { return };
    let mesh = all_protocols().start().await;
    let address = mesh.client("east/web").port("echo", 81).address();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    // Else an answer may be whole before h2spec has sent what is wrong with its request.
    mesh.app_on("west/echo-1", 81).behaviour.delay(500);
    let out = run(
        &h2spec,
        &[
            "-h",
            &host,
            "-p",
            &port,
            "-o",
            "20",
            "--strict",
            "--path",
            "/bytes/1000",
        ],
    )
    .await;
    let text = said(&out);
    assert!(text.contains(" 146 passed, 0 skipped, 0 failed"), "{text}");
}

/// The same on the mesh port: h2spec shows no certificate, so a caller stands in between. It
/// asks for the service by the only name that it can be given.
#[tokio::test]
async fn h2spec_finds_nothing_on_the_mesh_port() {
    let Some(h2spec) = find("h2spec") else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service_with("localhost", 1, |s| {
                s.port("http2", port, "http2", App::Http2)
            })
        })
        .start()
        .await;
    let from = mesh.proxy("east/web-1").address();
    let to = mesh.proxy("east/localhost-1").mesh();
    // Else requests end before there are as many as the tunnel allows, and one more.
    mesh.app("east/localhost-1").behaviour.delay(500);
    let state = mesh.proxy("east/web-1").state_dir().to_owned();
    let standing = tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let identity = tls::Identity::of_state_dir(&state);
            tokio::spawn(async move {
                let io = tls::dial(from, to).await.unwrap();
                let mut io = tls::connect(io, "echo", Some(identity)).await.unwrap();
                // Either side breaks off when it likes: that is what is tested.
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut io).await;
            });
        }
    });
    let out = run(
        &h2spec,
        &[
            "-h",
            "localhost",
            "-p",
            &port.to_string(),
            "-o",
            "20",
            "--strict",
            "--path",
            "/bytes/1000",
        ],
    )
    .await;
    standing.abort();
    let text = said(&out);
    assert!(text.contains(" 146 passed, 0 skipped, 0 failed"), "{text}");
}

/// The control plane's port: h2spec is somebody without a certificate there.
#[tokio::test]
async fn h2spec_finds_nothing_at_the_control_plane() {
    let Some(h2spec) = find("h2spec") else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .start()
        .await;
    let at = mesh.control().discovery();
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    for path in [
        "/",
        "/isthmus.identity.v1.IdentityService/Issue",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    ] {
        let to = ["-h", &host, "-p", &port, "-t", "-k", "--path", path];
        let out = run(&h2spec, &[&to[..], &["-o", "20", "--strict"]].concat()).await;
        let text = said(&out);
        let whole = text.contains(" 146 passed, 0 skipped, 0 failed");
        assert!(whole, "{path}: {text}");
    }
}

/// A real database on the far side, declared as TCP.
#[tokio::test]
async fn redis_works_through_the_mesh() {
    let (Some(server), Some(cli)) = (find("redis-server"), find("redis-cli")) else {
        return;
    };
    // The pod's own application leaves the port to the database.
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| {
            c.service_with("redis", 1, |s| s.port("redis", 79, "redis", App::Tcp))
        })
        .start()
        .await;
    let pod = mesh.app("west/redis-1").address();
    mesh.app_mut("west/redis-1").stop().await;
    let folder = tempfile::tempdir().unwrap();
    let _server = Command::new(server)
        .args([
            "--bind",
            &pod.ip().to_string(),
            "--port",
            &pod.port().to_string(),
            "--save",
            "",
        ])
        .args([
            "--protected-mode",
            "no",
            "--dir",
            folder.path().to_str().unwrap(),
        ])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let address = mesh.client("east/web").http("redis").address();
    let port = address.port().to_string();
    let ask = async |words: &[&str]| {
        let out = run(&cli, &[&["-h", "127.0.0.1", "-p", &port], words].concat()).await;
        said(&out).trim().to_owned()
    };
    until("the database answers", async || {
        let answer = ask(&["PING"]).await;
        check(answer == "PONG", answer)
    })
    .await;
    assert_eq!(ask(&["SET", "key", "value"]).await, "OK");
    assert_eq!(ask(&["GET", "key"]).await, "value");
    let big = "v".repeat(100_000);
    assert_eq!(ask(&["SET", "big", &big]).await, "OK");
    assert_eq!(ask(&["GET", "big"]).await, big);
}
