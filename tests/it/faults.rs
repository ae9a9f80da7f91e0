//! What if the network, the one that is called, or the host is bad? (SECURITY F9, F13, F18, S19)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use isthmus_tests::client::full;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Fault, Mesh, Reply, until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::ambiguous::{block, frame};
use crate::load::Load;

/// A pod that is bad goes on to be asked, and what it says is not covered up by another try.
pub(crate) const EVERY_ANSWER: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}
  outlierDetection: {consecutiveFailures: 0}
  retries: {attempts: 0}
";

/// A service elsewhere of one pod that is never ejected: who is answers nothing.
pub(crate) async fn where_every_answer_counts(app: &App) -> Mesh {
    where_every_answer_counts_of("http", app).await
}

async fn where_every_answer_counts_of(protocol: &str, app: &App) -> Mesh {
    let plan = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").manifest("traffic.yaml", EVERY_ANSWER)
        })
        .cluster("west", |c| {
            c.service_with("cart", 1, |s| s.port("any", 80, protocol, app.clone()))
        });
    plan.start().await
}

/// F9: nothing passes any more and nobody says so. The other gateway takes over.
#[tokio::test]
async fn a_silent_gateway_is_left_for_the_other_one() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().gateways(2).service("cart", 2))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    mesh.link("west/gateway-1").set(Fault::Stall);
    let begun = Instant::now();
    // A dead path is seen in ten seconds; the rest is for a busy machine.
    until("ten answers in a row", async || {
        for _ in 0..10 {
            let reply = client.try_get("/").await.map_err(|e| format!("{e:#}"))?;
            if reply.status != 200 {
                return Err(format!("{} {}", reply.status, reply.text()));
            }
        }
        Ok(())
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(18),
        "{:?}",
        begun.elapsed()
    );
}

/// F13: connections break again and again, by a seed; idempotent requests are tried again.
#[tokio::test]
async fn connections_that_break_now_and_then_cost_few_requests() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().gateways(2).service("cart", 3))
        .start()
        .await;
    for gateway in ["west/gateway-1", "west/gateway-2"] {
        mesh.link(gateway).set(Fault::CutAfter(10_000));
    }
    let load = Load::start(
        (0..2)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    load.more(250).await;
    let tally = load.stop().await;
    let cuts = mesh.link("west/gateway-1").accepts() + mesh.link("west/gateway-2").accepts();
    assert!(cuts > 6, "nothing was ever cut: {cuts} connections");
    // Each is tried again, and only a second break in a row can be seen.
    assert!(tally.bad.len() <= 6, "{} good, {:?}", tally.good, tally.bad);
}

#[tokio::test]
async fn delay_costs_time_and_nothing_else() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 2))
        .start()
        .await;
    mesh.link("west/gateway-1").set(Fault::Delay(60));
    let load = Load::start(
        (0..8)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    load.more(100).await;
    load.stop_without_failure().await;
}

/// S19: whatever an application answers, it is an answer to one request, and to no other.
#[tokio::test]
async fn a_malicious_application_poisons_no_connection() {
    const ANSWERS: [&str; 8] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: a\rb\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n x: folded\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\nevil",
        "evil\r\n\r\n",
    ];
    let evil = App::custom(|mut io, record| async move {
        let mut space = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut space).await {
            let words = String::from_utf8_lossy(&space[..n]).into_owned();
            let asked = words
                .split("GET /")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let number = asked.and_then(|n| n.parse::<usize>().ok());
            record.request(words.clone());
            let answer = match number {
                Some(n) => ANSWERS[n % ANSWERS.len()],
                None => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
            };
            if io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mesh = where_every_answer_counts(&evil).await;
    let client = mesh.client("east/web").http("cart");
    for n in 0..ANSWERS.len() * 4 {
        let reply = client.get(&format!("/{n}")).await;
        // The third is a good answer with another one behind it, which is nobody's.
        let right = match n % ANSWERS.len() {
            2 => reply.status == 200 && reply.text() == "ok",
            _ => reply.status >= 500 && !reply.text().contains("evil"),
        };
        assert!(right, "{n}: {} {:?}", reply.status, reply.text());
        let good = client.get("/good").await;
        assert_eq!(
            (good.status, good.text().as_str()),
            (200, "good"),
            "after {n}"
        );
    }
}

/// What was wrong with an answer is told to who asked, and stands in the log.
#[tokio::test]
async fn what_is_wrong_with_an_answer_is_told() {
    let rows: [(&str, &str); 7] = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "transfer-encoding",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "content-length",
        ),
        (
            "HTTP/1.1 200 OK\r\n x: folded\r\ncontent-length: 2\r\n\r\nok",
            "fold",
        ),
        ("HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\nok", "version"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nevil",
            "101",
        ),
        (
            "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil",
            "204",
        ),
        ("evil\r\n\r\n", "version"),
    ];
    let evil = App::custom(move |mut io, record| async move {
        let mut space = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut space).await {
            let words = String::from_utf8_lossy(&space[..n]).into_owned();
            let asked = words
                .split('/')
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let (answer, _) = rows[asked.unwrap().parse::<usize>().unwrap()];
            record.request(words.clone());
            if io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mesh = where_every_answer_counts(&evil).await;
    let client = mesh.client("east/web").http("cart");
    for (n, (_, rule)) in rows.iter().enumerate() {
        let reply = client.get(&format!("/{n}")).await;
        let text = reply.text();
        assert_eq!(reply.status, 502, "{rule}: {text}");
        assert!(text.starts_with("UPE upstream_protocol: "), "{text}");
        assert!(
            text.contains(rule) && text.contains("RFC 9"),
            "{rule}: {text}"
        );
        explained(&mesh, &reply, rule).await;
    }
}

/// The proxy of who answered says why.
async fn explained(mesh: &Mesh, reply: &Reply, rule: &str) {
    let cart = mesh.proxy("west/cart-1");
    let why = cart.why(reply.reason()).await;
    let detail = why["event"]["detail"].as_str().unwrap();
    assert!(detail.contains(rule), "{why}");
}

/// The same where the application speaks HTTP/2: what ends a stream, and what ends the connection.
#[tokio::test]
async fn what_is_wrong_with_an_http2_answer_is_told() {
    const OK: u8 = 0x88;
    // With a field that HTTP/2 does not have; with less content than was said.
    let foreign = [&[OK], &block(&[("connection", "close")])[..]].concat();
    let short = [&[OK], &block(&[("content-length", "9")])[..]].concat();
    let rows: [(Vec<u8>, &str); 4] = [
        (frame(1, 4, 1, &foreign), "connection-specific field"),
        (
            frame(1, 5, 1, &block(&[(":status", "99")])),
            ":status is not 100 to 599",
        ),
        (frame(1, 5, 1, &short), "content-length without content"),
        (frame(0, 0, 0, b"evil"), "DATA on stream 0"),
    ];
    let (answers, turn) = (
        Arc::new(rows.clone().map(|(words, _)| words)),
        Arc::new(AtomicUsize::new(0)),
    );
    let evil = App::custom(move |mut io, record| {
        let (answers, turn) = (Arc::clone(&answers), Arc::clone(&turn));
        async move {
            let mut space = [0; 4096];
            let mut said = Vec::new();
            // A head has come when its frame has.
            while !said
                .windows(5)
                .any(|w| w[0] == 1 && w[1] & 4 == 4 && w[2..] == [0; 3])
            {
                match io.read(&mut space).await {
                    Ok(n @ 1..) => said.extend_from_slice(&space[..n]),
                    _ => return,
                }
            }
            let n = turn.fetch_add(1, Ordering::SeqCst);
            record.request(n.to_string());
            // The next one gets a connection of its own.
            let leaving = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
            let words = [frame(4, 0, 0, &[]), answers[n].clone(), leaving].concat();
            io.write_all(&words).await.unwrap();
            let _ = io.read_to_end(&mut said).await;
        }
    });
    let mesh = where_every_answer_counts_of("kubernetes.io/h2c", &evil).await;
    let client = mesh.client("east/web").http("cart");
    let mut sender = client.http2().await.unwrap();
    for (_, rule) in &rows {
        let uri = format!("http://{}/", client.host());
        let request = hyper::Request::post(uri).body(full("")).unwrap();
        let reply = Reply::read(sender.send_request(request).await.unwrap()).await;
        let reply = reply.unwrap();
        let text = reply.text();
        assert_eq!(reply.status, 502, "{rule}: {text}");
        assert!(text.contains(rule), "{rule}: {text}");
        explained(&mesh, &reply, rule).await;
    }
}

/// Everything that is kept by one worker alone works with several.
#[tokio::test]
async fn several_workers_share_one_listener() {
    let mesh = Mesh::builder()
        .workers(3)
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 2))
        .start()
        .await;
    let load = Load::start(
        (0..12)
            .map(|_| mesh.client("east/web").http("cart"))
            .collect(),
    );
    load.more(300).await;
    let tally = load.stop_without_failure().await;
    assert_eq!(tally.pods.len(), 2, "{:?}", tally.pods);
}

/// F18: of one process. A whole mesh needs half of it.
pub(crate) const DESCRIPTORS: usize = 256;

/// How many this process has.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until this process has none left.
pub(crate) async fn used_up() {
    until("none is left", async || {
        match std::fs::File::open("/dev/null") {
            Ok(_) => Err(descriptors()),
            Err(error) if error.raw_os_error() == Some(24) => Ok(()),
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

#[tokio::test]
async fn without_descriptors_what_is_open_goes_on_and_what_comes_waits() {
    starve("faults::descriptors_alone").await;
}

/// Runs a test in a process of its own, which may have few descriptors; they are used up from here, as
/// soon as it says at which address, until it says that it has held.
pub(crate) async fn starve(test: &str) {
    let file = std::env::current_exe().unwrap();
    let script =
        format!("ulimit -n {DESCRIPTORS}; exec {file:?} --exact {test} --ignored --nocapture");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut flood = JoinSet::new();
    let mut held = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        println!("{line}");
        if let Some(address) = line.strip_prefix("flood ") {
            for _ in 0..2 * DESCRIPTORS {
                let address = address.to_owned();
                // Each by itself: of those that are not accepted, some wait to be connected.
                flood.spawn(async move {
                    let held = TcpStream::connect(address).await;
                    std::future::pending::<()>().await;
                    drop(held);
                });
            }
        }
        if line == "held" {
            held = true;
            flood.abort_all();
        }
    }
    let ended = child.wait().await.unwrap();
    assert!(ended.success() && held, "{ended}");
}

#[tokio::test]
#[ignore = "runs in a process of its own, by without_descriptors_what_is_open_goes_on_and_what_comes_waits"]
async fn descriptors_alone() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let address = client.address();
    let load = Load::start(vec![client]);
    load.more(20).await;
    println!("{} of {DESCRIPTORS}", descriptors());
    println!("flood {address}");
    used_up().await;
    load.more(200).await;
    println!("held");
    let begun = Instant::now();
    until("who comes is served", async || {
        let reply = mesh.client("east/web").http("cart").try_get("/").await;
        let reply = reply.map_err(|e| format!("{e:#}"))?;
        check(reply.status == 200, reply.text())
    })
    .await;
    println!("served again after {:.2} s", begun.elapsed().as_secs_f64());
    load.more(20).await;
    load.stop_without_failure().await;
}
