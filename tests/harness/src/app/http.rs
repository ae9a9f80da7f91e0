//! What does the HTTP application answer?
//!
//! - any path: 200, the request's body comes back as it arrives (`<pod>\n` where there is none) with
//!   its trailers; `x-pod`, `x-version`, `x-path` say who answered what
//! - `/status/N`: that status · `/heads`: the request as it arrived, as text
//! - `/ticks`: a line every 20 ms until the connection ends · `/bytes/N`: N bytes, chunked
//! - `/whole`: reads the whole body first, then it comes back
//! - `/early`: 200 at once, the body is read afterwards · `/reset`: the answer breaks off midway
//! - `Upgrade: echo`: 101, then an echo

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{One, Record};

/// Between two lines of `/ticks`.
const TICK: Duration = Duration::from_millis(20);
/// One piece of `/bytes/N`.
const PIECE_BYTES: usize = 16 * 1024;
/// As much as the mesh lets through.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Pieces on their way inside the application.
const PIECES: usize = 4;

type Content = BoxBody<Bytes, Broken>;

/// The answer broke off on purpose.
#[derive(Debug, thiserror::Error)]
#[error("broken off on purpose")]
pub(super) struct Broken;

pub(super) async fn serve_http1(io: TcpStream, one: One) {
    let service = service_fn(move |request| answer(request, one.clone()));
    // A client that breaks off is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
}

pub(super) async fn serve_http2(io: TcpStream, one: One) {
    let service = service_fn(move |request| answer(request, one.clone()));
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .await;
}

async fn answer(request: Request<Incoming>, one: One) -> Result<Response<Content>, Broken> {
    let head = describe(&request);
    one.record.request(head.clone());
    if one.behaviour.closing.load(Ordering::SeqCst) {
        return Err(Broken);
    }
    let delay = one.behaviour.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let path = request.uri().path().to_owned();
    let number = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|n| n.parse::<usize>().ok())
    };
    let forced = one.behaviour.status.load(Ordering::SeqCst);
    let builder = Response::builder()
        .header("x-pod", &*one.name)
        .header("x-version", format!("{:?}", request.version()))
        .header("x-path", path.clone());
    let status = number("/status/").and_then(|n| u16::try_from(n).ok());
    let answer = if let Some(status) = (forced > 0).then_some(forced).or(status) {
        builder.status(status).body(full(""))
    } else if request
        .headers()
        .get("upgrade")
        .is_some_and(|value| value == "echo")
    {
        tokio::spawn(upgraded(request));
        let builder = builder.status(101).header("upgrade", "echo");
        builder.header("connection", "upgrade").body(full(""))
    } else if path == "/heads" {
        builder.body(full(&head))
    } else if path == "/ticks" {
        let record = Arc::clone(&one.record);
        builder.body(feed(move |to| ticks(to, record)))
    } else if let Some(size) = number("/bytes/") {
        builder.body(feed(move |to| bytes(to, size)))
    } else if path == "/early" {
        tokio::spawn(request.into_body().collect());
        builder.body(full("early\n"))
    } else if path == "/whole" {
        let body = request
            .into_body()
            .collect()
            .await
            .map_err(|_| Broken)?
            .to_bytes();
        one.record.content(body.len());
        builder.body(
            Full::new(body)
                .map_err(|never: Infallible| match never {})
                .boxed(),
        )
    } else if path == "/reset" {
        builder.body(feed(broken))
    } else {
        echo(request, &one, builder)
    };
    Ok(answer.expect("an answer of known parts"))
}

fn describe(request: &Request<Incoming>) -> String {
    let mut head = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    head
}

fn full(text: &str) -> Content {
    Full::new(Bytes::from(text.to_owned()))
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn echo(
    request: Request<Incoming>,
    one: &One,
    builder: http::response::Builder,
) -> http::Result<Response<Content>> {
    if request.body().is_end_stream() {
        return builder.body(full(&format!("{}\n", one.name)));
    }
    let record = Arc::clone(&one.record);
    let body = request
        .into_body()
        .map_err(|_| Broken)
        .map_frame(move |frame| {
            record.content(frame.data_ref().map_or(0, Bytes::len));
            frame
        });
    // hyper sends trailers over HTTP/1.1 only if they are announced.
    builder.header("trailer", "x-check").body(body.boxed())
}

async fn upgraded(request: Request<Incoming>) {
    let Ok(io) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut io = TokioIo::new(io);
    let mut space = [0; 4096];
    while let Ok(n @ 1..) = io.read(&mut space).await {
        let Some(data) = space.get(..n) else { return };
        if io.write_all(data).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = io.shutdown().await;
}

type Pieces = mpsc::Sender<Result<Frame<Bytes>, Broken>>;

async fn ticks(to: Pieces, record: Arc<Record>) {
    while to
        .send(Ok(Frame::data(Bytes::from_static(b"tick\n"))))
        .await
        .is_ok()
    {
        tokio::time::sleep(TICK).await;
    }
    record.leave();
}

async fn bytes(to: Pieces, size: usize) {
    let mut left = size;
    while left > 0 {
        let piece = left.min(PIECE_BYTES);
        left -= piece;
        if to
            .send(Ok(Frame::data(vec![b'x'; piece].into())))
            .await
            .is_err()
        {
            return;
        }
    }
    // Whoever does not take trailers does not get them.
    let _ = to.send(Ok(Frame::trailers(HeaderMap::new()))).await;
}

async fn broken(to: Pieces) {
    for piece in [Ok(Frame::data(Bytes::from_static(b"half"))), Err(Broken)] {
        // Nobody listens any more: then nobody is told.
        let _ = to.send(piece).await;
        tokio::time::sleep(TICK).await;
    }
}

/// A body that a task feeds.
fn feed<F: Future<Output = ()> + Send + 'static>(feeding: impl FnOnce(Pieces) -> F) -> Content {
    let (to, from) = mpsc::channel(PIECES);
    tokio::spawn(feeding(to));
    Fed(from).boxed()
}

struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Broken>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(cx)
    }
}
