//! What does an admin listener answer?

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use isthmus_proto::admin::{TOKEN_FILE, Token};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An admin listener answers within this, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// The token that a process has written into its state folder.
#[must_use]
pub fn token(state_dir: &Path) -> Option<Token> {
    let text = std::fs::read(state_dir.join(TOKEN_FILE)).ok()?;
    Token::read(&text).ok()
}

/// Asks on a connection of its own: status and text.
///
/// # Errors
/// Nobody answers in time, or not in HTTP.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&Token>,
) -> anyhow::Result<(u16, String)> {
    let asking = async {
        let io = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let _connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.to_string());
        let request = match token {
            Some(token) => request.header("authorization", token.authorization()),
            None => request,
        };
        let request = request.body(Full::<Bytes>::default())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(LIMIT, asking).await.context("no answer in time")?
}

/// Gets a path that is for everybody.
///
/// # Errors
/// Nobody answers in time, or not in HTTP.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    ask(address, "GET", path, None).await
}

/// A document that must be there, asked for with the token of this state folder.
///
/// # Panics
/// It is not, or is not JSON.
pub async fn json(address: SocketAddr, path: &str, state_dir: &Path) -> Value {
    let (status, text) = ask(address, "GET", path, token(state_dir).as_ref())
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
