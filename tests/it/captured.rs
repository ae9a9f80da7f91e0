//! Does the kernel's capture lead to the right place? (SECURITY S1)
//!
//! The test makes a network of its own, without root, and runs itself in there: rules of the kernel
//! that it sets concern nobody else.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use isthmus_tests::plan::MeshPlan;
use isthmus_tests::programs::{find, run, said, say};
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, tls, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
/// Where the application beside `web` calls from: what it opens is captured.
const APPLICATION: &str = "127.0.0.77";
/// Somebody without a sidecar, whose connections to `cart` are captured there.
const STRANGER: &str = "127.0.0.78";
/// Virtual addresses of the harness's services, and one that is nobody's.
const VIRTUAL: &str = "10.96.0.10:80";
const OUTSIDE: &str = "10.96.9.9:81";
const GREETING: &str = "220 hello\r\n";
const PERMISSIVE: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: migration, namespace: shop}
spec:
  inbound: Permissive
";

/// Sets a test up in a network of its own, and says what it is that is missing if that can't be.
async fn alone(test: &str) {
    let needed = [find("unshare"), find("ip"), find("iptables")];
    let [Some(unshare), Some(_), Some(_)] = needed else {
        return;
    };
    let file = std::env::current_exe().unwrap();
    let script = format!(
        "ip link set lo up && ip route add local 10.96.0.0/16 dev lo && iptables -t nat -L -n >/dev/null || exit 77
         exec {} --exact {test} --ignored --nocapture",
        file.display()
    );
    let out = run(&unshare, &["-Urn", "sh", "-c", &script]).await;
    let text = said(&out);
    match out.status.code() {
        Some(0) => assert!(text.contains("1 passed"), "{text}"),
        // Neither namespaces nor their rules are everybody's.
        Some(1 | 77) if !text.contains("running 1 test") => {
            say(&format!("skipped: {test}: no network of its own: {text}"));
        }
        _ => panic!("{text}"),
    }
}

/// Leads connections of `from` to `to` over to a proxy.
async fn capture(from: &str, to: &str, port: u16, proxy: SocketAddr) {
    let iptables = find("iptables").unwrap();
    let (port, proxy) = (port.to_string(), proxy.to_string());
    let rule = [
        "-w",
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-s",
        from,
        "-d",
        to,
        "-p",
        "tcp",
        "--dport",
        &port,
        "-j",
        "DNAT",
        "--to-destination",
        &proxy,
    ];
    let out = run(&iptables, &rule).await;
    assert!(out.status.success(), "{}", said(&out));
}

async fn get(from: &str, to: &str) -> std::io::Result<String> {
    let from: IpAddr = from.parse().unwrap();
    let io = tls::dial(from, to.parse().unwrap()).await;
    let mut io = io.map_err(std::io::Error::other)?;
    io.write_all(b"GET /heads HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    timeout(SOON, io.read_to_string(&mut text)).await??;
    Ok(text)
}

fn mesh() -> MeshPlan {
    Mesh::builder().captured().cluster("east", |c| {
        c.client("web")
            .service("cart", 1)
            .service_with("mail", 1, |s| {
                s.port("any", 84, "", App::Greeter(GREETING))
                    .port("web", 85, "", App::Http)
            })
            .service_with("gone", 1, |s| s.port("any", 84, "", App::Greeter(GREETING)))
    })
}

#[tokio::test]
async fn what_an_application_opens_is_led_to_its_sidecar() {
    alone("captured::outbound").await;
}

#[tokio::test]
async fn what_others_open_is_led_to_the_sidecar_too() {
    alone("captured::inbound").await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_where_plaintext_is_captured() {
    alone("captured::greeted").await;
}

#[tokio::test]
async fn h2spec_finds_nothing_where_connections_are_captured() {
    if find("h2spec").is_some() {
        alone("captured::conformance").await;
    }
}

/// What h2spec says of HTTP/2 at an address.
async fn h2spec(to: SocketAddr) {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let file = find("h2spec").unwrap();
    let asked = [
        "-h",
        &host,
        "-p",
        &port,
        "-o",
        "20",
        "--strict",
        "--path",
        "/bytes/1000",
    ];
    let text = said(&run(&file, &asked).await);
    assert!(
        text.contains(" 146 passed, 0 skipped, 0 failed"),
        "{to}: {text}"
    );
}

/// What others take for the pod's address: the proxy's own way to the application is not to be led back
/// to it, as no uid tells them apart here.
const POD: &str = "10.96.0.77";

/// 15001, and 15006 of a workload that takes plaintext.
#[tokio::test]
#[ignore = "runs in a network of its own, by h2spec_finds_nothing_where_connections_are_captured"]
async fn conformance() {
    let mesh = Mesh::builder()
        .captured()
        .cluster("east", |c| {
            c.client("web")
                .manifest("permissive.yaml", PERMISSIVE)
                .service_with("cart", 1, |s| {
                    s.port("http2", 80, "http2", App::Http2)
                        .port("http", 81, "http", App::Http)
                })
        })
        .start()
        .await;
    let listener = |pod: &str, port| SocketAddr::new(mesh.proxy(pod).address(), port);
    let (outbound, inbound) = (
        listener("east/web-1", 15_001),
        listener("east/cart-1", 15_006),
    );
    let (http2, http) = (
        mesh.app_on("east/cart-1", 80),
        mesh.app_on("east/cart-1", 81),
    );
    for (to, port, proxy) in [
        ("10.96.0.10", 80, outbound),
        ("10.96.0.10", 81, outbound),
        (POD, http2.address().port(), inbound),
        (POD, http.address().port(), inbound),
    ] {
        // Who names no source of its own calls a local address from that address.
        capture(to, to, port, proxy).await;
    }
    for app in [http2, http] {
        // Else requests end before there are as many as are allowed, and one more.
        app.behaviour.delay(500);
    }
    let to = |to: &str, port: u16| h2spec(format!("{to}:{port}").parse().unwrap());
    tokio::join!(
        to("10.96.0.10", 80),
        to("10.96.0.10", 81),
        to(POD, http2.address().port()),
        to(POD, http.address().port()),
    );
    for app in [http2, http] {
        let asked = app.record.requests();
        assert!(asked >= 100, "{asked} requests came to the application");
    }
    let cart = mesh.proxy("east/cart-1");
    let captured = cart.metric("plaintext_connections_total", &[]).await;
    assert!(captured >= 100.0, "{captured}");
}

#[tokio::test]
#[ignore = "runs in a network of its own, by what_an_application_opens_is_led_to_its_sidecar"]
async fn outbound() {
    let mesh = mesh().start().await;
    let web = SocketAddr::new(mesh.proxy("east/web-1").address(), 15_001);
    capture(APPLICATION, "10.96.0.10", 80, web).await;
    capture(APPLICATION, "10.96.9.9", 81, web).await;
    // A service of the mesh: by its virtual address, with the caller's identity.
    let text = get(APPLICATION, VIRTUAL).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let peer = "x-mesh-peer: spiffe://east.mesh.internal/ns/shop/sa/web";
    assert!(text.contains(peer), "{text}");
    // A pod by its own address, as clients of a headless service call it: the same.
    let pod = mesh.app("east/cart-1").address();
    capture(APPLICATION, &pod.ip().to_string(), pod.port(), web).await;
    let text = get(APPLICATION, &pod.to_string()).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains(peer), "{text}");
    let as_itself = |line: &serde_json::Value| line["service"] == "shop/cart-1.shop.pod.east.local";
    mesh.proxy("east/web-1").logged("the pod", as_itself).await;
    // Nobody's: as it is.
    let outside = TcpListener::bind(OUTSIDE).await.unwrap();
    let serving = tokio::spawn(async move {
        let (mut io, from) = outside.accept().await.unwrap();
        io.write_all(b"not of the mesh").await.unwrap();
        from.ip()
    });
    let from = APPLICATION.parse().unwrap();
    let mut io = tls::dial(from, OUTSIDE.parse().unwrap()).await.unwrap();
    let mut text = String::new();
    timeout(SOON, io.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "not of the mesh");
    assert_ne!(serving.await.unwrap(), from, "the sidecar connects for it");
    // S20: who asks for the capture port itself is not led back to it, again and again.
    let looped = get(APPLICATION, &web.to_string()).await;
    assert_eq!(looped.unwrap_or_default(), "");
    let refused = |line: &serde_json::Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains("the proxy itself listens")
    };
    mesh.proxy("east/web-1").logged("the loop", refused).await;
}

#[tokio::test]
#[ignore = "runs in a network of its own, by what_others_open_is_led_to_the_sidecar_too"]
async fn inbound() {
    let mesh = mesh().start().await;
    let cart = mesh.proxy("east/cart-1").address();
    let application = mesh.app("east/cart-1").address();
    let to = application.ip().to_string();
    let listener = SocketAddr::new(cart, 15_006);
    capture(STRANGER, &to, application.port(), listener).await;
    // S1: plaintext never reaches a strict workload.
    const TRIES: usize = 1_000;
    let application = application.to_string();
    for _ in 0..TRIES {
        let refused = get(STRANGER, &application).await;
        assert!(
            refused.as_ref().is_err() || refused.as_ref().is_ok_and(String::is_empty),
            "{refused:?}"
        );
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
    // While a workload is on its way into the mesh, it may.
    mesh.write("east", "permissive.yaml", PERMISSIVE);
    let text = until("plaintext is allowed", async || {
        let text = get(STRANGER, &application)
            .await
            .map_err(|e| e.to_string())?;
        check(text.starts_with("HTTP/1.1 200"), text.clone()).map(|()| text)
    })
    .await;
    assert!(!text.contains("x-mesh-peer: spiffe"), "{text}");
    nothing_passes_unread(&mesh, &application).await;
    // S20: who asks for the capture port itself is not led back to it, again and again.
    let looped = get(STRANGER, &listener.to_string()).await;
    let looped = looped.unwrap_or_default();
    assert!(
        looped.is_empty() || looped.starts_with("HTTP/1.1 403"),
        "{looped}"
    );
    // Whose network may not use the mesh port may not by way of the capture either.
    capture(STRANGER, &cart.to_string(), 15_008, listener).await;
    let mesh_port = SocketAddr::new(cart, 15_008);
    // It may be reset before it is seen to be open.
    let shaken = async {
        let io = tls::dial(STRANGER.parse().unwrap(), mesh_port).await?;
        tls::connect(io, "east.mesh.internal", None).await
    };
    let shaken = shaken.await;
    assert!(shaken.is_err(), "it shook hands");
    let refused = |line: &serde_json::Value| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains("its network may not use the mesh port")
    };
    let proxy = mesh.proxy("east/cart-1");
    proxy.logged("the refusal", refused).await;
    let counted = proxy.metric("plaintext_connections_total", &[]).await;
    assert!(counted >= 1.0, "{counted}");
    // Strict again: what is open in plaintext is cut, or asks once more in vain.
    let mut kept = opened("/heads", &application).await;
    let mut ticking = opened("/ticks", &application).await;
    let before = mesh.app("east/cart-1").record.requests();
    mesh.remove("east", "permissive.yaml");
    let mut rest = Vec::new();
    timeout(SOON, ticking.read_to_end(&mut rest))
        .await
        .expect("it is cut")
        .ok();
    kept.write_all(b"GET /heads HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(SOON, kept.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("HTTP/1.1 403"), "{answer}");
    assert_eq!(mesh.app("east/cart-1").record.requests(), before);
}

/// A port that declares HTTP takes nothing else: what the proxy can't read does not go on as bytes, in
/// which a stranger could speak for the mesh.
async fn nothing_passes_unread(mesh: &Mesh, application: &str) {
    let record = &mesh.app("east/cart-1").record;
    let seen = record.accepts();
    let claim = "host: cart\r\nconnection: close\r\nx-mesh-peer: spiffe://east.mesh.internal/ns/shop/sa/admin";
    for (words, answer) in [
        (
            format!("\nGET /heads HTTP/1.1\r\n{claim}\r\n\r\n"),
            "HTTP/1.1 400",
        ),
        (
            format!("GET  /heads HTTP/1.1\r\n{claim}\r\n\r\n"),
            "HTTP/1.1 400",
        ),
        ("PING\r\n".to_owned(), ""),
    ] {
        let to = application.parse().unwrap();
        let mut io = tls::dial(STRANGER.parse().unwrap(), to).await.unwrap();
        io.write_all(words.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(SOON, io.read_to_string(&mut said))
            .await
            .expect("an end")
            .unwrap();
        assert_eq!(
            said.get(..answer.len()),
            Some(answer),
            "{words:?}: {said:?}"
        );
        assert_eq!(said.is_empty(), answer.is_empty(), "{words:?}: {said:?}");
    }
    assert_eq!(record.accepts(), seen);
}

/// A connection in plaintext on which a request has been answered, or begins to be.
async fn opened(path: &str, application: &str) -> tokio::net::TcpStream {
    let to = application.parse().unwrap();
    let mut io = tls::dial(STRANGER.parse().unwrap(), to).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: cart\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    timeout(SOON, io.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    io
}

#[tokio::test]
#[ignore = "runs in a network of its own, by a_server_that_speaks_first_is_heard_where_plaintext_is_captured"]
async fn greeted() {
    let mut mesh = mesh().start().await;
    mesh.write("east", "permissive.yaml", PERMISSIVE);
    let mail = mesh.proxy("east/mail-1").address();
    let to = mesh.app("east/mail-1").address();
    let listener = SocketAddr::new(mail, 15_006);
    capture(STRANGER, &to.ip().to_string(), to.port(), listener).await;
    let mut io = until("plaintext is allowed", async || {
        let mut io = tls::dial(STRANGER.parse().unwrap(), to).await?;
        let mut greeting = [0; GREETING.len()];
        // Not a word from the client.
        timeout(SOON, io.read_exact(&mut greeting)).await??;
        assert_eq!(greeting, GREETING.as_bytes());
        anyhow::Ok(io)
    })
    .await;
    let mut back = [0; 4];
    io.write_all(b"quit").await.unwrap();
    timeout(SOON, io.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"quit");
    // And where it is the client that speaks first, that is heard, too.
    let web = mesh.app_on("east/mail-1", 85).address();
    capture(STRANGER, &web.ip().to_string(), web.port(), listener).await;
    let text = get(STRANGER, &web.to_string()).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let as_request = |line: &serde_json::Value| line["path"] == "/heads" && line["status"] == 200;
    mesh.proxy("east/mail-1")
        .logged("it as a request", as_request)
        .await;
    // Who waits for a server that is not there does not wait for ever.
    mesh.app_mut("east/gone-1").stop().await;
    let (gone, to) = (mesh.proxy("east/gone-1"), mesh.app("east/gone-1").address());
    let listener = SocketAddr::new(gone.address(), 15_006);
    capture(STRANGER, &to.ip().to_string(), to.port(), listener).await;
    let mut io = tls::dial(STRANGER.parse().unwrap(), to).await.unwrap();
    let read = timeout(SOON, io.read(&mut [0])).await;
    let ended = read.expect("nobody is left waiting").map_err(|e| e.kind());
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    let failed = |line: &serde_json::Value| line["failure"] == "connect_failed";
    gone.logged("why", failed).await;
}
