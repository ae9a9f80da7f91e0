//! What does the HTTP echo answer?

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;

use super::Name;

/// Begin of HTTP/2 with prior knowledge (RFC 9113 §3.4); no HTTP/1.1 method begins so.
const HTTP2_BEGIN: &[u8] = b"PRI ";
/// Largest answer of `/bytes?n=`.
const BYTES_MAX: u64 = 64 << 20;
/// One piece of it.
const PIECE: usize = 16 << 10;
/// Longest wait of `/slow?ms=`.
const SLOW_MAX_MS: u64 = 60_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How requests are treated, other than to `/control/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Healthy,
    /// Every answer is 500.
    Broken,
    /// No answer.
    Hangs,
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Healthy),
            "500" => Some(Self::Broken),
            "hang" => Some(Self::Hangs),
            _ => None,
        }
    }
}

/// One pod's HTTP application.
#[derive(Debug, Clone)]
pub(super) struct Server {
    name: Arc<Name>,
    mode: Arc<AtomicU8>,
}

impl Server {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name: Arc::new(name),
            mode: Arc::new(AtomicU8::new(0)),
        }
    }

    /// Serves one connection: HTTP/2 if it begins so, HTTP/1.1 otherwise.
    pub(super) async fn connection(self, stream: TcpStream) {
        let is_http2 = begins_http2(&stream).await;
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        if is_http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _closed = builder
                .timer(TokioTimer::new())
                .serve_connection(io, service)
                .await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            let _closed = builder
                .timer(TokioTimer::new())
                .serve_connection(io, service)
                .await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/control/fail" && request.method() == Method::POST {
            return self.control(&request);
        }
        match self.mode() {
            Mode::Healthy => {}
            Mode::Broken => {
                return self.respond(StatusCode::INTERNAL_SERVER_ERROR, whole("turned bad\n"));
            }
            Mode::Hangs => std::future::pending().await,
        }
        match path {
            "/slow" => {
                let wait = number(&request, "ms").unwrap_or(100).min(SLOW_MAX_MS);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                self.echo(request).await
            }
            "/bytes" => {
                let length = number(&request, "n").unwrap_or(1024).min(BYTES_MAX);
                self.respond(StatusCode::OK, filler(length))
            }
            _ => self.echo(request).await,
        }
    }

    fn control(&self, request: &Request<Incoming>) -> Response<Body> {
        let Some(mode) = value(request, "mode").and_then(Mode::parse) else {
            return self.respond(StatusCode::BAD_REQUEST, whole("mode is 500, hang or off\n"));
        };
        let code = match mode {
            Mode::Healthy => 0,
            Mode::Broken => 1,
            Mode::Hangs => 2,
        };
        self.mode.store(code, Ordering::Relaxed);
        self.respond(StatusCode::OK, whole("done\n"))
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            1 => Mode::Broken,
            2 => Mode::Hangs,
            _ => Mode::Healthy,
        }
    }

    /// Says who answered, and what it saw.
    async fn echo(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let received = count(body).await;
        let host = head.uri.authority().map(ToString::to_string).or_else(|| {
            head.headers
                .get("host")
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        });
        let seen = json!({
            "pod": self.name.pod,
            "cluster": self.name.cluster,
            "peer": first(&head.headers, "x-mesh-peer"),
            "method": head.method.as_str(),
            "host": host,
            "path": head.uri.path(),
            "query": head.uri.query(),
            "version": format!("{:?}", head.version),
            "headers": headers(&head.headers),
            "body_bytes": received,
        });
        let mut response = self.respond(StatusCode::OK, whole(&format!("{seen}\n")));
        response.headers_mut().insert(
            "content-type",
            http::HeaderValue::from_static("application/json"),
        );
        response
    }

    fn respond(&self, status: StatusCode, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        for (name, value) in [("x-pod", &self.name.pod), ("x-cluster", &self.name.cluster)] {
            if let Ok(value) = http::HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Looks at the first bytes without taking them.
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut first = [0_u8; HTTP2_BEGIN.len()];
    let mut seen = 0;
    loop {
        match stream.peek(&mut first).await {
            Ok(length) if length == first.len() => return first == HTTP2_BEGIN,
            // The same bytes again: peek returns at once as long as there are any.
            Ok(length) if length > seen => seen = length,
            Ok(0) | Err(_) => return false,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn count(mut body: Incoming) -> u64 {
    let mut bytes = 0_u64;
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        }
    }
    bytes
}

fn headers(fields: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        seen.entry(name.to_string()).or_default().push(value);
    }
    seen
}

fn first(fields: &HeaderMap, name: &str) -> Option<String> {
    fields
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn value<'r>(request: &'r Request<Incoming>, name: &str) -> Option<&'r str> {
    query_value(request.uri().query()?, name)
}

fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, v)| v)
}

fn number(request: &Request<Incoming>, name: &str) -> Option<u64> {
    value(request, name)?.parse().ok()
}

fn whole(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

/// `length` bytes, a piece at a time.
fn filler(length: u64) -> Body {
    let pieces = stream::unfold(length, |left| async move {
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if piece == 0 {
            return None;
        }
        let rest = left.saturating_sub(u64::try_from(piece).unwrap_or(left));
        Some((Ok(Frame::data(Bytes::from(vec![b'.'; piece]))), rest))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use hyper::client::conn::{http1, http2};
    use tokio::net::TcpListener;

    async fn started() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(Name {
            pod: "p-1".into(),
            cluster: "east".into(),
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().connection(stream));
            }
        });
        TcpStream::connect(address).await.unwrap()
    }

    fn request(method: Method, uri: &str) -> Request<Empty<Bytes>> {
        let builder = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "x.test");
        builder
            .header("x-mesh-peer", "spiffe://a.b/ns/c/sa/d")
            .body(Empty::new())
            .unwrap()
    }

    #[tokio::test]
    async fn it_says_who_answered_and_whom_it_saw() {
        let (mut send, connection) = http1::handshake(TokioIo::new(started().await))
            .await
            .unwrap();
        tokio::spawn(connection);
        let response = send
            .send_request(request(Method::GET, "/a?b=c"))
            .await
            .unwrap();
        assert_eq!(response.headers()["x-pod"], "p-1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(seen["peer"], "spiffe://a.b/ns/c/sa/d");
        assert_eq!(
            (&seen["path"], &seen["query"]),
            (&"/a".into(), &"b=c".into())
        );
        assert_eq!(seen["version"], "HTTP/1.1");
    }

    #[tokio::test]
    async fn http2_is_recognised_by_its_preface() {
        let io = TokioIo::new(started().await);
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let response = send
            .send_request(request(Method::GET, "http://x.test/bytes?n=40000"))
            .await
            .unwrap();
        assert_eq!(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .len(),
            40_000
        );
    }

    #[tokio::test]
    async fn it_turns_bad_and_heals() {
        let (mut send, connection) = http1::handshake(TokioIo::new(started().await))
            .await
            .unwrap();
        tokio::spawn(connection);
        for (mode, then) in [("500", 500), ("off", 200), ("bad", 200)] {
            let uri = format!("/control/fail?mode={mode}");
            let answer = send
                .send_request(request(Method::POST, &uri))
                .await
                .unwrap();
            answer.into_body().collect().await.unwrap();
            send.ready().await.unwrap();
            let answer = send.send_request(request(Method::GET, "/")).await.unwrap();
            assert_eq!(answer.status().as_u16(), then, "after mode {mode}");
            answer.into_body().collect().await.unwrap();
            send.ready().await.unwrap();
        }
    }
}
