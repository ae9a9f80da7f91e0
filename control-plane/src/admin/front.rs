//! Who answers operators, and what before there is anything to see?
//!
//! The address is there from the first moment on: a control plane that waits for its keys is alive,
//! is not ready, and says why.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Admin, json};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// A request's head comes within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives no longer.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long nothing is accepted after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers at the operators' address.
#[derive(Debug, Default)]
pub struct Front {
    /// There is something to see from when this is set.
    view: OnceLock<Admin>,
    /// What the start waits for.
    waiting: Mutex<String>,
}

impl Front {
    /// Says what the start waits for.
    pub fn wait_for(&self, what: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        what.clone_into(&mut waiting);
    }

    /// Shows this from now on. The first one counts.
    pub fn show(&self, admin: Admin) {
        let _ = self.view.set(admin);
    }

    /// Serves until it is dropped.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                // Both are cancel-safe.
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, remote)) => {
                        connections.spawn(Arc::clone(&self).connection(stream, remote));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "admin: no connection can be accepted for now");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        let answer = move |request: Request<Incoming>| {
            let response = match self.view.get() {
                Some(admin) => admin.answer(&request, remote),
                None => self.starting(),
            };
            async move { Ok::<_, Infallible>(response) }
        };
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX);
        let serving = server.serve_connection(TokioIo::new(stream), service_fn(answer));
        match timeout(CONNECTION_MAX, serving).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%remote, %error, "admin connection"),
        }
    }

    fn starting(&self) -> Response<Full<Bytes>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let body = serde_json::json!({ "ready": false, "unknown": {}, "waiting": *waiting });
        json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_start_that_waits_is_not_ready_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Arc::new(Front::default());
        front.wait_for("the Secret a/b is not there yet");
        let serving = tokio::spawn(Arc::clone(&front).run(listener));
        for path in ["/ready", "/clusters"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(
                answer.contains("the Secret a/b is not there yet"),
                "{answer}"
            );
        }
        serving.abort();
    }
}
