//! Is whoever floods a proxy with HTTP/2 frames cut, while everybody else is served? (SECURITY O1 to O8)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, tls, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::ambiguous::{PREFACE, frame};
use crate::load::Load;

/// Of one flood. Whoever is not cut by then is not cut.
const FRAMES_MAX: u32 = 200_000;
/// What may reach an application of requests that are given up at once.
const REQUESTS_MAX: usize = 200;
/// For a cut, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// What a victim is answered during each flood, at least.
const ANSWERS: usize = 10;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// HEADERS of `GET http://flood:81/`, with these bytes behind.
fn asking(stream: u32, flags: u8, more: &[u8]) -> Vec<u8> {
    let block = [b"\x82\x86\x84\x01\x08flood:81", more].concat();
    frame(1, flags, stream, &block)
}

/// What is said once, then again and again.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: fn(u32) -> Vec<u8>,
    /// Does it read what it is answered?
    reads: bool,
}

fn floods() -> Vec<Flood> {
    let flood = |name, first: &[u8], again| Flood {
        name,
        first: first.to_vec(),
        again,
        reads: true,
    };
    let begun = asking(1, 0, &[]);
    let opened = asking(1, END_HEADERS, &[]);
    vec![
        flood("O1: requests that are given up", &[], |k| {
            let id = 2 * k + 1;
            let given_up = frame(3, 0, id, &8u32.to_be_bytes());
            [asking(id, END_STREAM | END_HEADERS, &[]), given_up].concat()
        }),
        flood("O2: requests that must be broken off", &[], |k| {
            let id = 2 * k + 1;
            [asking(id, END_HEADERS, &[]), frame(8, 0, id, &[0; 4])].concat()
        }),
        flood("O3: a head without an end", &begun, |_| frame(9, 0, 1, &[])),
        flood("O3: a long head without an end", &begun, |_| {
            frame(9, 0, 1, &[0x82; 16_000])
        }),
        flood("O4: PING", &[], |_| frame(6, 0, 0, &[0; 8])),
        Flood {
            reads: false,
            ..flood("O4: PING, and no answer is read", &[], |_| {
                frame(6, 0, 0, &[0; 8])
            })
        },
        flood("O4: SETTINGS", &[], |_| frame(4, 0, 0, &[])),
        flood("O5: WINDOW_UPDATE", &[], |_| frame(8, 0, 0, &[0, 0, 0, 1])),
        flood("O5: PRIORITY", &[], |k| {
            frame(2, 0, 2 * k + 1, &[0, 0, 0, 0, 9])
        }),
        flood("O6: DATA without content", &opened, |_| frame(0, 0, 1, &[])),
        flood("O6: a byte at a time", &opened, |_| frame(0, 0, 1, b"x")),
        flood("O7: one field, named thousands of times", &[], |k| {
            let bomb = [b"\x40\x01n\x01v".as_slice(), &[0xbe; 12_000]].concat();
            asking(2 * k + 1, END_STREAM | END_HEADERS, &bomb)
        }),
    ]
}

/// Floods until the other side ends it; how many times that took.
async fn cut_after(io: impl AsyncRead + AsyncWrite + Unpin, flood: &Flood) -> u32 {
    let (mut rx, mut tx) = tokio::io::split(io);
    let ended = AtomicBool::new(false);
    let reading = async {
        let mut space = vec![0; 64 * 1024];
        if flood.reads {
            // A reset is an end, too.
            while matches!(rx.read(&mut space).await, Ok(1..)) {}
            ended.store(true, Ordering::SeqCst);
        }
        std::future::pending::<u32>().await
    };
    let writing = async {
        let begin = [PREFACE, &frame(4, 0, 0, &[]), &flood.first].concat();
        let mut said = tx.write_all(&begin).await;
        for k in 0..FRAMES_MAX {
            if said.is_err() || ended.load(Ordering::SeqCst) {
                return k;
            }
            said = tx.write_all(&(flood.again)(k)).await;
            if k % 64 == 0 {
                said = said.and(tx.flush().await);
                tokio::task::yield_now().await;
            }
        }
        panic!("{}: it is not cut", flood.name);
    };
    tokio::select! {
        times = reading => times,
        times = writing => times,
    }
}

/// At both doors: the one that applications use, and the one of other proxies, with a good certificate.
#[tokio::test]
async fn o1_to_o7_whoever_floods_is_cut_and_nobody_else_notices() {
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service_with("flood", 1, |s| {
                s.port("http", 80, "http", App::Http).port(
                    "h2",
                    81,
                    "kubernetes.io/h2c",
                    App::Http2,
                )
            })
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.port("flood", 80)]);
    load.more(ANSWERS).await;
    let record = Arc::clone(&mesh.app_on("east/flood-1", 81).record);
    let from = mesh.proxy("east/web-1").address();
    let to = mesh.proxy("east/flood-1").mesh();
    let state = mesh.proxy("east/web-1").state_dir();
    for flood in floods() {
        let before = record.requests();
        let io = web.port("flood", 81).tcp().await.unwrap();
        let cut = timeout(SOON, cut_after(io, &flood)).await;
        assert!(cut.is_ok(), "{}: not cut, not refused", flood.name);

        let io = tls::dial(from, to).await.unwrap();
        let identity = tls::Identity::of_state_dir(state);
        let io = tls::connect(io, "flood", Some(identity)).await.unwrap();
        let cut = timeout(SOON, cut_after(io, &flood)).await;
        assert!(cut.is_ok(), "{}: not cut, by a peer", flood.name);
        let reached = record.requests() - before;
        assert!(reached <= 2 * REQUESTS_MAX, "{}: {reached}", flood.name);
        load.more(ANSWERS).await;
    }
    load.stop_without_failure().await;
}

/// The same from a server that is called.
#[tokio::test]
async fn o8_a_server_that_floods_is_cut_and_nobody_else_notices() {
    let (cuts, next) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (seen, turn) = (Arc::clone(&cuts), Arc::clone(&next));
    let hostile = App::custom(move |mut io, record| {
        let (seen, turn) = (Arc::clone(&seen), Arc::clone(&turn));
        async move {
            let kind = turn.fetch_add(1, Ordering::SeqCst);
            let settings = frame(4, 0, 0, &[]);
            // The request is there when its head is: behind preface and SETTINGS.
            let mut said = vec![0; PREFACE.len() + settings.len()];
            io.read_exact(&mut said).await.unwrap();
            record.request("a call".to_owned());
            let answer = frame(1, END_HEADERS, 1, b"\x88");
            let (first, again) = match kind % 5 {
                0 => (vec![], frame(6, 0, 0, &[0; 8])),
                1 => (vec![], frame(4, 0, 0, &[])),
                2 => (answer, frame(0, 0, 1, &[])),
                3 => (vec![], frame(8, 0, 0, &[0, 0, 0, 1])),
                _ => (frame(1, 0, 1, b"\x88"), frame(9, 0, 1, &[])),
            };
            let mut wrote = io.write_all(&[settings, first].concat()).await;
            for _ in 0..FRAMES_MAX {
                if wrote.is_err() {
                    seen.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                wrote = io.write_all(&again).await;
            }
        }
    });
    let mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web")
                .service("cart", 1)
                .service_with("hostile", 1, |s| {
                    s.port("h2", 81, "kubernetes.io/h2c", hostile)
                })
        })
        .start()
        .await;
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart")]);
    load.more(ANSWERS).await;
    for call in 1..=5 {
        let mut sender = web.port("hostile", 81).http2().await.unwrap();
        let request =
            hyper::Request::get("http://hostile:81/").body(isthmus_tests::client::full(""));
        // Whatever it gets, it gets something.
        let told = timeout(SOON, sender.send_request(request.unwrap())).await;
        assert!(
            told.is_ok(),
            "a call to a server that floods waits for ever"
        );
        until("the server is cut", async || {
            let cuts = cuts.load(Ordering::SeqCst);
            check(cuts >= call, format!("{cuts} of {call}"))
        })
        .await;
        load.more(ANSWERS).await;
    }
    load.stop_without_failure().await;
}
