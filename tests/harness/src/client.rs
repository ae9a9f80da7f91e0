//! How does an application call through its sidecar?

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// A whole answer comes within this, also on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Pieces of a content that wait to be sent.
const PIECES: usize = 4;

/// What an HTTP client sends.
pub type Content = BoxBody<Bytes, Infallible>;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: HeaderMap,
    /// The content.
    pub body: Bytes,
    /// The fields after the content.
    pub trailers: HeaderMap,
}

impl Reply {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn read(answer: Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("the answer breaks off")?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    /// A field, or nothing.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The pod that answered.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.field("x-pod")
    }

    /// The id of the mesh's reason, if the mesh answered.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.field("x-mesh-reason")
    }

    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An HTTP/1.1 client of one destination, with one connection that is kept.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    host: String,
    kept: Mutex<Option<http1::SendRequest<Content>>>,
}

/// Content of known length.
#[must_use]
pub fn full(data: impl Into<Bytes>) -> Content {
    Full::new(data.into()).boxed()
}

/// Content that is sent piece by piece, as the test goes on; it ends when the sender is dropped.
#[must_use]
pub fn pieces() -> (mpsc::Sender<Frame<Bytes>>, Content) {
    let (to, from) = mpsc::channel(PIECES);
    (to, Pieces(from).boxed())
}

struct Pieces(mpsc::Receiver<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

impl Client {
    /// A client of what listens there, under this name.
    #[must_use]
    pub fn new(address: SocketAddr, host: &str) -> Self {
        Self {
            address,
            host: host.to_owned(),
            kept: Mutex::default(),
        }
    }

    /// The sidecar's listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name under which it calls.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A connection without a word.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn tcp(&self) -> anyhow::Result<TcpStream> {
        let io = TcpStream::connect(self.address)
            .await
            .context("connect to the sidecar")?;
        io.set_nodelay(true)?;
        Ok(io)
    }

    /// An HTTP/1.1 connection of its own.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn http1(&self) -> anyhow::Result<http1::SendRequest<Content>> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.tcp().await?)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// An HTTP/2 connection of its own.
    ///
    /// # Errors
    /// Nobody listens, or not with HTTP/2.
    pub async fn http2(&self) -> anyhow::Result<http2::SendRequest<Content>> {
        let io = TokioIo::new(self.tcp().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A connection of its own that is switched to another protocol: bytes, both ways.
    ///
    /// # Errors
    /// Nobody listens, or the switch is refused.
    pub async fn upgrade(&self, protocol: &str) -> anyhow::Result<TokioIo<Upgraded>> {
        let mut sender = self.http1().await?;
        let request = self
            .request("GET", "/chat")
            .header("connection", "upgrade")
            .header("upgrade", protocol)
            .body(full(""))?;
        let answer = timeout(ANSWER_LIMIT, sender.send_request(request))
            .await
            .context("no answer in time")??;
        anyhow::ensure!(answer.status() == 101, "{}", answer.status());
        Ok(TokioIo::new(hyper::upgrade::on(answer).await?))
    }

    /// A request's head.
    #[must_use]
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
    }

    /// Sends on the kept connection, or a new one where that has ended.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn send(&self, request: Request<Content>) -> anyhow::Result<Reply> {
        let mut kept = self.kept.lock().await;
        let mut usable = kept.take();
        if let Some(sender) = &mut usable
            && sender.ready().await.is_err()
        {
            usable = None;
        }
        let mut sender = match usable {
            Some(sender) => sender,
            None => self.http1().await?,
        };
        sender
            .ready()
            .await
            .context("the new connection ends at once")?;
        let asking =
            async { Reply::read(sender.send_request(request).await.context("send")?).await };
        let reply = timeout(ANSWER_LIMIT, asking)
            .await
            .context("no answer in time")??;
        *kept = Some(sender);
        Ok(reply)
    }

    /// Gets a path.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn try_get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.request("GET", path).body(full(""))?).await
    }

    /// Gets a path.
    ///
    /// # Panics
    /// The connection breaks.
    pub async fn get(&self, path: &str) -> Reply {
        self.try_get(path).await.expect("an answer")
    }

    /// Posts content.
    ///
    /// # Panics
    /// The connection breaks.
    pub async fn post(&self, path: &str, data: impl Into<Bytes>) -> Reply {
        let request = self
            .request("POST", path)
            .body(full(data))
            .expect("a request");
        self.send(request).await.expect("an answer")
    }
}
