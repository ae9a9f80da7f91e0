//! What does an API server send that means harm (SECURITY S27)?
//!
//! Slices in a list without an end, one pod of 100 MB, services nested 200 deep, config maps that lead
//! elsewhere, and namespaces that change 10,000 times a second. It is a process of its own that gives way to all
//! others: what it takes to make a flood is in nobody's latencies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::Outcome;
use crate::objects::{self, Size, Slice};
use crate::servers::{self, Body, Fleet, SLICES};

/// Events a second, in so many steps.
const EVENTS: usize = 10_000;
const STEPS: usize = 100;
/// Namespaces that there seem to be: each event is of another one.
const NAMESPACES: usize = 1_000_000;
const MEGABYTE: usize = 1_000_000;
/// Of the one pod.
const POD_MEGABYTES: usize = 100;
const DEPTH: usize = 200;

/// How far it gives way to others.
const NICE: &str = "10";
/// What it is told from outside, in lines.
const PAUSE: &str = "pause";
const RESUME: &str = "resume";

/// One of them, in a process of its own.
#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    words: ChildStdin,
    // Ends it with us.
    _child: Child,
}

impl Hostile {
    pub(crate) async fn start(size: Size) -> Outcome<Self> {
        let mut child = Command::new("nice")
            .args(["-n", NICE])
            .arg(std::env::current_exe()?)
            .arg("hostile")
            .args(size.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let words = child.stdin.take().ok_or("no way to tell it")?;
        let said = child.stdout.take().ok_or("no way to hear it")?;
        let first = BufReader::new(said).lines().next_line().await?;
        Ok(Self {
            address: first.ok_or("the hostile server has ended")?.parse()?,
            words,
            _child: child,
        })
    }

    /// It does not answer any more, as far as anybody sees; or does again.
    pub(crate) async fn pause(&mut self, paused: bool) -> Outcome {
        let word = if paused { PAUSE } else { RESUME };
        Ok(self.words.write_all(format!("{word}\n").as_bytes()).await?)
    }
}

/// Is one of them, until nobody tells it anything any more.
#[expect(clippy::print_stdout, reason = "how it says where it is")]
pub(crate) async fn serve(size: Size) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let fleet = Fleet::alone(size);
    tokio::spawn(servers::accept(Arc::clone(&fleet), size.clusters, listener));
    let heard = tokio::task::spawn_blocking(move || {
        for word in std::io::stdin().lines() {
            fleet.set_paused(word? == PAUSE);
        }
        Ok(())
    });
    heard.await?
}

/// Answers a list or a watch of a collection.
pub(crate) fn answer(fleet: &Fleet, path: &str, query: &str, from: usize) -> Response<Body> {
    let watched = query.contains("watch=");
    match path {
        "/api/v1/namespaces" if watched => flood(),
        SLICES => endless(fleet.size, from),
        "/api/v1/pods" => large(),
        "/api/v1/services" => deep(),
        "/api/v1/configmaps" => {
            let mut response = servers::whole(StatusCode::TEMPORARY_REDIRECT, &json!({}));
            let elsewhere = hyper::header::HeaderValue::from_static("http://127.0.0.1:1/");
            response
                .headers_mut()
                .insert(hyper::header::LOCATION, elsewhere);
            response
        }
        _ => servers::whole(
            StatusCode::OK,
            &json!({ "metadata": { "resourceVersion": "1" }, "items": [] }),
        ),
    }
}

/// A page, and there is always another one.
fn endless(size: Size, from: usize) -> Response<Body> {
    let slice = |number: usize| objects::slice(size, (0, from + number), &Slice::default());
    let items: Vec<Value> = (0..500).map(slice).collect();
    let metadata = json!({ "resourceVersion": "1", "continue": (from + 500).to_string() });
    servers::whole(
        StatusCode::OK,
        &json!({ "metadata": metadata, "items": items }),
    )
}

/// One pod whose annotation does not end for long.
fn large() -> Response<Body> {
    let begin = r#"{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"p","namespace":"n","annotations":{"a":""#;
    let end = r#""}}}]}"#;
    let chunk = Bytes::from(vec![b'x'; MEGABYTE]);
    let all = std::iter::once(Bytes::from_static(begin.as_bytes()))
        .chain(std::iter::repeat_n(chunk, POD_MEGABYTES))
        .chain(std::iter::once(Bytes::from_static(end.as_bytes())));
    let frames = tokio_stream::iter(all).map(|part| Ok::<_, Infallible>(Frame::data(part)));
    Response::new(BoxBody::new(StreamBody::new(frames)))
}

fn deep() -> Response<Body> {
    let text = format!(
        r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{{"metadata":{{"name":"s","namespace":"n"}},"spec":{}1{}}}]}}"#,
        r#"{"a":"#.repeat(DEPTH),
        "}".repeat(DEPTH)
    );
    Response::new(Full::new(Bytes::from(text)).boxed())
}

/// A watch without a pause.
fn flood() -> Response<Body> {
    let (send, receive) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(STEPS).unwrap_or(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut version = 2_usize;
        loop {
            ticks.tick().await;
            let mut lines = String::new();
            for _ in 0..EVENTS / STEPS {
                version += 1;
                let name = version % NAMESPACES;
                let line = format!(
                    r#"{{"type":"MODIFIED","object":{{"metadata":{{"name":"n{name}","uid":"n{name}","resourceVersion":"{version}"}}}}}}"#
                );
                lines.push_str(&line);
                lines.push('\n');
            }
            if send.send(Bytes::from(lines)).await.is_err() {
                return;
            }
        }
    });
    let frames = ReceiverStream::new(receive).map(|line| Ok(Frame::data(line)));
    Response::new(BoxBody::new(StreamBody::new(frames)))
}
