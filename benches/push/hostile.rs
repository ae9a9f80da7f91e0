//! What does an API server send that means harm (SECURITY S27)?
//!
//! Slices in a list without an end, one pod of 100 MB, services nested 200 deep, config maps that lead
//! elsewhere, and namespaces that change 10,000 times a second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

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

/// Answers a list or a watch of a collection.
pub(crate) fn answer(fleet: &Arc<Fleet>, path: &str, query: &str, from: usize) -> Response<Body> {
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
                let name = format!("n{}", version % NAMESPACES);
                let meta =
                    json!({ "name": name, "uid": name, "resourceVersion": version.to_string() });
                let line = json!({ "type": "MODIFIED", "object": { "metadata": meta } });
                lines.push_str(&line.to_string());
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
