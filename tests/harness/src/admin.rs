//! What does an admin listener answer?

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An admin listener answers within this, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks on a connection of its own: status and text.
///
/// # Errors
/// Nobody answers in time, or not in HTTP.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let asking = async {
        let io = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let _connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.to_string())
            .body(Full::<Bytes>::default())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(LIMIT, asking).await.context("no answer in time")?
}

/// Gets a path.
///
/// # Errors
/// Nobody answers in time, or not in HTTP.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    ask(address, "GET", path).await
}

/// A document that must be there.
///
/// # Panics
/// It is not, or is not JSON.
pub async fn json(address: SocketAddr, path: &str) -> Value {
    let (status, text) = get(address, path)
        .await
        .expect("an admin listener that answers");
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The sum of a metric's samples whose labels contain all of these texts.
#[must_use]
pub fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    samples
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
