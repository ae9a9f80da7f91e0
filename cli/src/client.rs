//! How do we ask an admin page? One small HTTP/1.1 request, bounded in time and size.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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

/// Sends a request without a body.
///
/// # Errors
/// Nobody answers at the address, in time, with an HTTP response.
pub(crate) async fn ask(method: Method, to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    timeout(ANSWER_TIMEOUT, exchange(method, to, path))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
        .and_then(|answer| answer)
        .with_context(|| format!("asking http://{to}{path}"))
}

async fn exchange(method: Method, to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(to).await.context("connecting")?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", to.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
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
pub(crate) async fn json(to: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let answer = ask(Method::GET, to, path).await?;
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
