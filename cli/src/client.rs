//! How do we ask an admin page? One small HTTP/1.1 request, bounded in time and size.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isthmus_proto::admin::{TOKEN_FILE, Token};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time an admin page may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read: a dump of 100,000 endpoints fits.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text; what isn't UTF-8 is replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Where admin pages are, and what is shown there.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// The address.
    pub(crate) at: SocketAddr,
    /// The token, where it is known.
    pub(crate) token: Option<Token>,
}

impl Door {
    /// With the token of a state folder on this machine; without, if there is none that we may read.
    pub(crate) fn of(at: SocketAddr, state_dir: &Path) -> Self {
        Self {
            at,
            token: token(&state_dir.join(TOKEN_FILE)).ok(),
        }
    }
}

/// The token in a file.
///
/// # Errors
/// It can't be read, or holds something else.
pub(crate) fn token(file: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Token::read(&text).with_context(|| file.display().to_string())
}

/// Sends a request without a body.
///
/// # Errors
/// Nobody answers at the address, in time, with an HTTP response.
pub(crate) async fn ask(method: Method, to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let door = Door {
        at: to,
        token: None,
    };
    knock(method, &door, path).await
}

async fn knock(method: Method, door: &Door, path: &str) -> anyhow::Result<Answer> {
    let to = door.at;
    timeout(ANSWER_TIMEOUT, exchange(method, door, path))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
        .and_then(|answer| answer)
        .with_context(|| format!("asking http://{to}{path}"))
}

async fn exchange(method: Method, door: &Door, path: &str) -> anyhow::Result<Answer> {
    let to = door.at;
    let stream = TcpStream::connect(to).await.context("connecting")?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", to.to_string())
        .header("connection", "close");
    let request = match &door.token {
        Some(token) => request.header("authorization", token.authorization()),
        None => request,
    };
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = send.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
        Ok(Answer {
            status: head.status,
            body: body.to_bytes(),
        })
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // The connection must be driven for the exchange to move; whichever ends first, the exchange
    // has the last word.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

/// A GET whose answer is JSON.
///
/// # Errors
/// As `ask`; also another status than 200, and what isn't JSON.
pub(crate) async fn json(door: &Door, path: &str) -> anyhow::Result<Value> {
    let to = door.at;
    let answer = knock(Method::GET, door, path).await?;
    if answer.status == StatusCode::UNAUTHORIZED {
        bail!(
            "http://{to}{path} {}; --admin-token {to}=FILE names the file",
            answer.text().trim()
        );
    }
    if answer.status != StatusCode::OK {
        bail!(
            "http://{to}{path} answered {}: {}",
            answer.status,
            answer.text().trim()
        );
    }
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("http://{to}{path} answered something else than JSON"))
}

/// A value as it may stand in a query.
pub(crate) fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        // RFC 3986 §2.3, and what a query may hold besides (§3.4).
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_add_parameters() {
        assert_eq!(escape("/a?b=c&d #"), "/a%3Fb%3Dc%26d%20%23");
        assert_eq!(escape("spiffe://a.b/ns/c"), "spiffe://a.b/ns/c");
    }

    #[tokio::test]
    async fn an_absent_page_is_named() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = ask(Method::GET, free, "/ready").await.unwrap_err();
        assert!(
            format!("{error:#}").starts_with(&format!("asking http://{free}/ready: connecting"))
        );
    }
}
