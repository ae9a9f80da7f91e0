//! Is there one line for each connection and each request, and none more?

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Empty;
use isthmus_tests::client::full;
use isthmus_tests::proxy::Proxy;
use isthmus_tests::tls::{self, Identity};
use isthmus_tests::wait::check;
use isthmus_tests::{App, Client, Mesh, Reply, until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ambiguous::{PREFACE, block, dial, frame, outcome};

const DENY: &str = "apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: Deny
  rules:
  - to: [{ports: [8080, 8081], paths: [{prefix: /closed}]}]
";

/// How many lines there are of each kind: `request` or `connection`, protocol, status, flag.
type Lines = BTreeMap<String, usize>;

fn lines(proxy: &Proxy) -> Lines {
    let mut lines = Lines::new();
    for line in proxy.log() {
        let kind = match line.get("method") {
            Some(_) => "request",
            None => "connection",
        };
        let protocol = line["protocol"].as_str().unwrap_or_default();
        let flag = line["flag"].as_str().unwrap_or("-");
        let name = format!("{kind} {protocol} {} {flag}", line["status"]);
        *lines.entry(name).or_default() += 1;
    }
    lines
}

/// Waits for as many lines as there should be: more would be seen at the end, when all has stopped.
async fn expect(proxy: &Proxy, wanted: &[(&str, usize)]) {
    let wanted: Lines = wanted.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    until("the log has a line of each", async || {
        let lines = lines(proxy);
        check(lines == wanted, format!("{lines:#?}"))
    })
    .await;
}

/// Three requests one after another, the second one is denied.
async fn keep_alive(client: &Client) {
    let mut io = client.tcp().await.unwrap();
    let words = ["/1", "/closed", "/3"].map(|path| {
        let last = if path == "/3" {
            "connection: close\r\n"
        } else {
            ""
        };
        format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{last}\r\n")
    });
    io.write_all(words.concat().as_bytes()).await.unwrap();
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.matches("HTTP/1.1 200").count(), 2, "{said}");
    assert_eq!(said.matches("HTTP/1.1 403").count(), 1, "{said}");
}

/// As many, each in a stream of one connection.
async fn streams(client: &Client) {
    let mut sender = client.http2().await.unwrap();
    for (path, status) in [("/1", 200), ("/closed", 403), ("/3", 200)] {
        let uri = format!("http://{}{path}", client.host());
        let request = hyper::Request::get(uri).body(full("")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(Reply::read(answer).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn every_call_is_one_line_at_each_end() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client_with("web", &["nothing.shop.svc.clusterset.local:80"])
                .service_with("cart", 1, |s| {
                    s.port("http", 80, "http", App::Http)
                        .port("h2", 81, "kubernetes.io/h2c", App::Http2)
                        .port("bytes", 82, "tcp", App::Tcp)
                })
                .manifest("policy.yaml", DENY)
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    keep_alive(&web.port("cart", 80)).await;
    streams(&web.port("cart", 81)).await;
    let mut io = web.port("cart", 82).tcp().await.unwrap();
    io.write_all(b"word").await.unwrap();
    io.shutdown().await.unwrap();
    let mut back = Vec::new();
    io.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"word");
    // Not a word; not HTTP; and nowhere to go.
    drop(web.port("cart", 80).tcp().await.unwrap());
    let mut io = web.port("cart", 80).tcp().await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = io.read_to_end(&mut back).await;
    let nowhere = web.destination("nothing.shop.svc.clusterset.local:80");
    // It may be reset before it is seen to be connected.
    if let Ok(mut io) = nowhere.tcp().await {
        let _ = io.read_to_end(&mut back).await;
    }
    expect(
        mesh.proxy("east/web-1"),
        &[
            ("request http/1.1 200 -", 2),
            ("request http/1.1 403 UAEX", 1),
            ("request http/1.1 400 DPE", 1),
            ("connection http/1.1 0 -", 2),
            ("request http/2 200 -", 2),
            ("request http/2 403 UAEX", 1),
            ("connection http/2 0 -", 1),
            ("connection tcp 0 -", 1),
            ("connection tcp 0 DC", 1),
            ("connection tcp 0 NR", 1),
        ],
    )
    .await;
    strangers(&mesh).await;
    // The tunnel between them is a connection, too, and ends with the proxy that made it.
    mesh.proxy_mut("east/web-1").stop().await;
    expect(
        mesh.proxy("east/cart-1"),
        &[
            ("request http/2 200 -", 4),
            ("request http/2 403 UAEX", 2),
            ("connection tcp 0 -", 1),
            // A CONNECT to elsewhere, and the connection that it came in.
            ("connection tcp 0 NR", 1),
            ("connection http/2 0 -", 2),
            // From another network; without a certificate.
            ("connection tcp 0 UAEX", 1),
            ("connection tls 0 UAEX", 1),
        ],
    )
    .await;
}

/// Who knocks at the mesh port and is let in as far as its business is good.
async fn strangers(mesh: &Mesh) {
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("east/cart-1"));
    let elsewhere = "127.0.0.1".parse().unwrap();
    // A reset is an end, too, and it may come before the connection is seen to stand.
    if let Ok(mut io) = tls::dial(elsewhere, cart.mesh()).await {
        let _ = io.read_to_end(&mut Vec::new()).await;
    }
    let io = tls::dial(web.address(), cart.mesh()).await.unwrap();
    if let Ok(mut io) = tls::connect(io, "cart", None).await {
        let _ = io.read_to_end(&mut Vec::new()).await;
    }
    let identity = Identity::of_state_dir(web.state_dir());
    let io = tls::dial(web.address(), cart.mesh()).await.unwrap();
    let io = tls::connect(io, "cart", Some(identity)).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(Box::new(io));
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let connect = hyper::Request::connect("192.0.2.1:80").body(Empty::<Bytes>::new());
    let answer = sender.send_request(connect.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 400);
    let id = answer.headers()["x-mesh-reason"].to_str().unwrap();
    let why = cart.why(id).await.to_string();
    assert!(why.contains("192.0.2.1:80"), "{why}");
    drop((sender, answer));
    // It is closed before its line is looked for.
    let _ = connection.await;
}

/// What is still open when the time to drain is over has an end, too.
#[tokio::test]
async fn what_a_drain_cuts_off_is_logged() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service_with("cart", 1, |s| {
                s.port("http", 80, "http", App::Http)
                    .port("bytes", 82, "tcp", App::Tcp)
            })
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    let mut io = web.port("cart", 82).tcp().await.unwrap();
    io.write_all(b"word").await.unwrap();
    io.read_exact(&mut [0; 4]).await.unwrap();
    let http = web.port("cart", 80);
    let mut sender = http.http1().await.unwrap();
    let ticks = http.request("GET", "/ticks").body(full("")).unwrap();
    let answer = sender.send_request(ticks).await.unwrap();
    mesh.proxy_mut("east/web-1").stop().await;
    let web = mesh.proxy("east/web-1");
    for kind in ["tcp", "http/1.1"] {
        let cut = |line: &Value| line["protocol"] == kind && line["flag"] == "UO";
        let line = web.logged(kind, cut).await;
        assert_eq!(line["failure"], "draining", "{line}");
    }
    drop((io, answer));
}

const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

/// One service that speaks HTTP/2, and somebody who calls it.
async fn http2() -> Mesh {
    let plan = Mesh::builder().cluster("east", |c| {
        c.client("web").service_with("cart", 1, |s| {
            s.port("h2", 81, "kubernetes.io/h2c", App::Http2)
        })
    });
    plan.start().await
}

fn says(line: &Value, text: &str) -> bool {
    let detail = line["detail"].as_str();
    detail.is_some_and(|detail| detail.contains(text))
}

/// A client of HTTP/2 is told a code (RFC 9113 §8.1.1): what was wrong stands in the log, at either door.
#[tokio::test]
async fn a_malformed_http2_request_is_one_line_with_its_rule() {
    let mesh = http2().await;
    let client = mesh.client("east/web").port("cart", 81);
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("east/cart-1"));
    let rows: [(&[(&str, &str)], &str); 3] = [
        (
            &[(":authority", "cart"), ("host", "b")],
            "host is not :authority",
        ),
        (&[("host", "cart"), ("host", "cart")], "two hosts"),
        (&[(":authority", "cart"), ("x", "a\r\nb: c")], "field value"),
    ];
    for (fields, rule) in rows {
        let fields = [&GET, fields].concat();
        assert_eq!(outcome(client.tcp().await.unwrap(), &fields).await, "reset");
        let io = dial(web.address(), cart.mesh(), web.state_dir()).await;
        assert_eq!(outcome(io, &fields).await, "reset");
        for proxy in [web, cart] {
            let line = proxy.logged(rule, |line| says(line, rule)).await;
            let told = ["method", "failure", "flag"].map(|name| line[name].as_str());
            assert_eq!(told, [Some(""), Some("bad_request"), Some("DPE")], "{line}");
            assert_eq!(line["status"], 0, "{line}");
            assert!(
                line["source"].as_str().unwrap().ends_with("/sa/web"),
                "{line}"
            );
            let why = proxy.why(line["reason"].as_str().unwrap()).await;
            assert_eq!(why["event"]["detail"], line["detail"], "{why}");
        }
    }
    let line = web
        .logged("a service", |line| says(line, "two hosts"))
        .await;
    assert_eq!(
        line["service"], "shop/cart.shop.svc.clusterset.local",
        "{line}"
    );
    expect(
        web,
        &[
            ("request http/2 0 DPE", rows.len()),
            ("connection http/2 0 -", rows.len()),
        ],
    )
    .await;
    let labels = ["direction=\"outbound\"", "flag=\"DPE\"", "status=\"-\""];
    let counted = web.metric("requests_total", &labels).await;
    assert!((counted - 3.0).abs() < 0.5, "{counted}");
    let glitches = web.metric("http2_glitches_total", &["kind=\"refused\""]);
    assert!((glitches.await - 3.0).abs() < 0.5);
}

/// What is told by a status has the id of its reason, too.
#[tokio::test]
async fn an_http2_head_that_is_too_large_is_told_with_a_reason() {
    let mesh = http2().await;
    let client = mesh.client("east/web").port("cart", 81);
    let web = mesh.proxy("east/web-1");
    let mut sender = client.http2().await.unwrap();
    for (method, body) in [("GET", ""), ("POST", "content")] {
        let mut request = client.request(method, "/");
        for n in 0..150 {
            request = request.header(format!("x-{n}"), "v");
        }
        let request = request.uri(format!("http://{}/", client.host()));
        let answer = sender.send_request(request.body(full(body)).unwrap()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 431);
        let id = answer.headers()["x-mesh-reason"].to_str().unwrap();
        let why = web.why(id).await;
        assert_eq!(why["event"]["failure"], "head_too_large", "{why}");
        let line = web.logged("the refusal", |line| line["reason"] == id).await;
        assert_eq!(line["status"], 431, "{line}");
    }
    drop(sender);
    expect(
        web,
        &[("request http/2 431 DPE", 2), ("connection http/2 0 -", 1)],
    )
    .await;
}

/// The line of a connection that was cut says which rule its client broke.
#[tokio::test]
async fn an_http2_connection_that_is_cut_is_one_line_with_its_rule() {
    let mesh = http2().await;
    let client = mesh.client("east/web").port("cart", 81);
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("east/cart-1"));
    let hello = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let asking = block(&[&GET[..], &[(":authority", "cart")]].concat());
    let given_up = |k: u32| {
        let id = 2 * k + 1;
        let reset = frame(3, 0, id, &8u32.to_be_bytes());
        [frame(1, 5, id, &asking), reset].concat()
    };
    let resets: Vec<u8> = (0..400).flat_map(given_up).collect();
    let endless = [frame(1, 0, 1, &asking), frame(9, 0, 1, &[]).repeat(600)].concat();
    let rows: [(Vec<u8>, &str); 4] = [
        (
            b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n".to_vec(),
            "no HTTP/2 preface",
        ),
        (
            [&hello[..], &frame(6, 0, 1, &[0; 8])].concat(),
            "PING on a stream",
        ),
        (
            [&hello[..], &resets].concat(),
            "too many streams broken off",
        ),
        (
            [&hello[..], &endless].concat(),
            "a block of fields without end",
        ),
    ];
    for (words, rule) in rows {
        let mut io = client.tcp().await.unwrap();
        // It may be cut before all is said.
        let _ = io.write_all(&words).await;
        let _ = io.read_to_end(&mut Vec::new()).await;
        let mut cutting = vec![web];
        // A peer speaks for many clients: it may reset as many as it has open.
        if !rule.contains("broken off") {
            let mut io = dial(web.address(), cart.mesh(), web.state_dir()).await;
            let _ = io.write_all(&words).await;
            let _ = io.read_to_end(&mut Vec::new()).await;
            cutting.push(cart);
        }
        for proxy in cutting {
            let line = proxy.logged(rule, |line| says(line, rule)).await;
            assert!(line.get("method").is_none(), "{line}");
            assert_eq!(line["protocol"], "http/2", "{line}");
            assert_eq!(line["failure"], "bad_request", "{line}");
            assert_eq!(line["flag"], "DPE", "{line}");
        }
    }
    let cut = web.metric("http2_glitches_total", &["kind=\"connection_errors\""]);
    assert!((cut.await - 4.0).abs() < 0.5);
    let resets = web.metric("http2_glitches_total", &["kind=\"resets\""]);
    assert!(resets.await > 150.0);
}

/// What was asked for and of whom is known before it turns out to be ambiguous.
#[tokio::test]
async fn the_line_of_an_ambiguous_request_says_what_was_asked_for() {
    let plan = Mesh::builder().cluster("east", |c| {
        c.client("web").service_with("cart", 1, |s| {
            s.port("http", 80, "http", App::Http)
                .port("h2", 81, "kubernetes.io/h2c", App::Http2)
        })
    });
    let mesh = plan.start().await;
    let (web, cart) = (mesh.proxy("east/web-1"), mesh.proxy("east/cart-1"));
    let client = mesh.client("east/web").port("cart", 80);
    let mut io = client.tcp().await.unwrap();
    let words = b"PUT /a%2fb?key=secret HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    io.write_all(words).await.unwrap();
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    let named = said.lines().find_map(|l| l.strip_prefix("x-mesh-reason: "));
    // A peer that is no proxy of ours, and asks the callee's.
    let io = dial(web.address(), cart.mesh(), web.state_dir()).await;
    let asked = [(":authority", "cart"), ("x-mesh-port", "8081")];
    let path = (":path", "/a%2fb?key=secret");
    let fields = [&[(":method", "PUT"), GET[1], path], &asked[..]].concat();
    assert_eq!(outcome(io, &fields).await, "400");
    for (proxy, protocol, domain) in [
        (web, "http/1.1", "clusterset.local"),
        (cart, "http/2", "cluster.local"),
    ] {
        let line = proxy
            .logged("the refusal", |line| line["flag"] == "DPE")
            .await;
        let told = ["protocol", "method", "failure", "service"].map(|name| line[name].as_str());
        let service = format!("shop/cart.shop.svc.{domain}");
        let wanted = [protocol, "PUT", "bad_request", &service].map(Some);
        assert_eq!((told, &line["status"]), (wanted, &400.into()), "{line}");
        assert!(says(&line, "/a%2fb"), "{line}");
        assert!(says(&line, "RFC 3986"), "{line}");
        assert!(!says(&line, "secret"), "{line}");
        let id = line["reason"].as_str().unwrap();
        let why = proxy.why(id).await;
        assert_eq!(why["event"]["method"], "PUT", "{why}");
        let labels = [&*format!("service=\"{service}\""), "flag=\"DPE\""];
        let (requests, connections) = (
            proxy.metric("requests_total", &labels).await,
            proxy.metric("connections_total", &labels).await,
        );
        assert_eq!((requests, connections), (1.0, 0.0));
    }
    let line = web.logged("it", |line| line["flag"] == "DPE").await;
    assert_eq!(named, line["reason"].as_str(), "{said}");
}
