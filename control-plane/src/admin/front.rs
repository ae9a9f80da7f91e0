//! Who answers operators, and what before there is anything to see?
//!
//! The address is there from the first moment on: a control plane that waits for its keys is alive,
//! is not ready, and says why. Every pod may reach it, and the kubelet asks here whether this one is
//! ready: where there is no room for a connection, whoever has most of them gives one up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Admin, Guard, is_for_admins, json, may_ask, text};

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
#[derive(Debug)]
pub struct Front {
    /// Who may see it.
    guard: Guard,
    /// There is something to see from when this is set.
    view: OnceLock<Admin>,
    /// What the start waits for.
    waiting: Mutex<String>,
}

impl Front {
    /// Nothing to see yet.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self {
            guard,
            view: OnceLock::new(),
            waiting: Mutex::default(),
        }
    }

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
        let mut guests = Guests::default();
        loop {
            tokio::select! {
                // Both are cancel-safe.
                Some(ended) = connections.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    };
                    guests.left(id);
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => {
                        if guests.here.len() >= CONNECTIONS_MAX {
                            guests.make_room();
                        }
                        let serving = Arc::clone(&self).connection(stream, remote);
                        guests.came(remote.ip().to_canonical(), connections.spawn(serving));
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
            let front = Arc::clone(&self);
            async move { Ok::<_, Infallible>(front.answer(&request, remote).await) }
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

    async fn answer(
        &self,
        request: &Request<Incoming>,
        remote: SocketAddr,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let path = request.uri().path();
        if !may_ask(path, remote.ip()) {
            return text(StatusCode::FORBIDDEN, "only from this machine\n");
        }
        if is_for_admins(path) {
            let shown = request.headers().get(AUTHORIZATION);
            if let Err(why) = self.guard.admits(shown.map(HeaderValue::as_bytes)).await {
                let mut refused = text(StatusCode::UNAUTHORIZED, why);
                let scheme = HeaderValue::from_static("Bearer");
                refused.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                return refused;
            }
        }
        match self.view.get() {
            Some(admin) => admin.answer(request),
            None => self.starting(),
        }
    }

    fn starting(&self) -> Response<Full<Bytes>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let body = serde_json::json!({ "ready": false, "unknown": {}, "waiting": *waiting });
        json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

/// Who is connected, in the order of their coming.
#[derive(Debug, Default)]
struct Guests {
    here: BTreeMap<u64, (IpAddr, AbortHandle)>,
    next: u64,
}

impl Guests {
    fn came(&mut self, source: IpAddr, connection: AbortHandle) {
        self.here.insert(self.next, (source, connection));
        self.next = self.next.wrapping_add(1);
    }

    fn left(&mut self, id: Id) {
        self.here.retain(|_, (_, connection)| connection.id() != id);
    }

    /// Ends the oldest connection of whoever has most.
    fn make_room(&mut self) {
        let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (source, _) in self.here.values() {
            *held.entry(*source).or_default() += 1;
        }
        let most = self
            .here
            .iter()
            .rev()
            .max_by_key(|(_, (source, _))| held.get(source).copied())
            .map(|(number, _)| *number);
        if let Some((source, connection)) = most.and_then(|number| self.here.remove(&number)) {
            tracing::debug!(%source, "admin: no room, its oldest connection is closed");
            connection.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;
    use isthmus_proto::admin::{TOKEN_FILE, Token};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::watch;

    /// Of a folder of its own, without a home cluster.
    fn front() -> (Arc<Front>, Token) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let (_, apis) = watch::channel(BTreeMap::new());
        let guard = Guard::open(&state, None, apis).unwrap();
        let token = state.read(TOKEN_FILE).unwrap().unwrap();
        (Arc::new(Front::new(guard)), Token::read(&token).unwrap())
    }

    #[tokio::test]
    async fn a_start_that_waits_is_not_ready_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (front, token) = front();
        front.wait_for("the Secret a/b is not there yet");
        let serving = tokio::spawn(Arc::clone(&front).run(listener));
        for path in ["/ready", "/clusters"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\nconnection: close\r\n\r\n",
                token.authorization()
            );
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

    /// S10
    #[tokio::test]
    async fn who_shows_no_token_sees_whether_it_is_ready_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (front, token) = front();
        let serving = tokio::spawn(front.run(listener));
        let asked = async |path: &str, shown: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head =
                format!("GET {path} HTTP/1.1\r\nhost: a\r\n{shown}connection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let right = format!("authorization: {}\r\n", token.authorization());
        let wrong = format!("authorization: {}0\r\n", token.authorization());
        for shown in ["", &wrong, "authorization: Basic YTpi\r\n"] {
            assert!(asked("/ready", shown).await.starts_with("HTTP/1.1 503 "));
            for path in ["/world", "/", "/ready/", "/clusters?/ready"] {
                let answer = asked(path, shown).await;
                assert!(answer.starts_with("HTTP/1.1 401 "), "{path} {answer}");
                assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
                assert!(answer.contains("/admin-token: "), "{answer}");
                assert!(!answer.contains(token.as_str()));
            }
        }
        assert!(asked("/world", &right).await.starts_with("HTTP/1.1 503 "));
        serving.abort();
    }

    #[tokio::test]
    async fn whoever_holds_every_connection_keeps_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(front().0.run(listener));
        let from = |source: [u8; 4]| async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            socket.connect(address).await.unwrap()
        };
        // Somebody who says nothing, as often as there is room and more.
        let mut flood = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            flood.push(from([127, 0, 0, 9]).await);
        }
        // The probe has one connection, and keeps it whatever comes.
        let mut probe = from([127, 0, 0, 1]).await;
        let head = b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n";
        for _ in 0..2 {
            probe.write_all(head).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}\n") {
                let more = probe.read_buf(&mut answer).await.unwrap();
                assert!(more > 0, "{answer:?}");
            }
            assert!(answer.starts_with(b"HTTP/1.1 503"));
            for _ in 0..CONNECTIONS_MAX {
                flood.push(from([127, 0, 0, 9]).await);
            }
        }
        serving.abort();
    }

    #[tokio::test]
    async fn the_oldest_connection_of_whoever_has_most_gives_way() {
        let mut guests = Guests::default();
        let mut tasks = JoinSet::new();
        let source = |last: u8| IpAddr::from([10, 0, 0, last]);
        for last in [1, 2, 1, 3, 2, 2] {
            guests.came(source(last), tasks.spawn(std::future::pending::<()>()));
        }
        guests.make_room();
        let left = |guests: &Guests| {
            let left = guests.here.iter();
            left.map(|(number, (source, _))| (*number, *source))
                .collect::<Vec<_>>()
        };
        let of = |number: u64, last: u8| (number, source(last));
        assert_eq!(
            left(&guests),
            [of(0, 1), of(2, 1), of(3, 3), of(4, 2), of(5, 2)]
        );
        guests.make_room();
        assert_eq!(left(&guests), [of(2, 1), of(3, 3), of(4, 2), of(5, 2)]);
        let ended = tasks.join_next_with_id().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}
