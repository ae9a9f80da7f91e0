//! What do the pods run?

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

mod http;

/// Heads remembered by one application.
const HEADS_MAX: usize = 4_096;
/// One read of a byte stream.
const CHUNK_BYTES: usize = 64 * 1024;

/// One connection of an application of a test's own.
pub type Handler =
    Arc<dyn Fn(TcpStream, Arc<Record>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What answers on a port.
#[derive(Clone)]
pub enum App {
    /// HTTP/1.1; the module `http` says its paths.
    Http,
    /// The same over HTTP/2 without TLS.
    Http2,
    /// Sends back what it gets.
    Tcp,
    /// Says this first, then sends back what it gets.
    Greeter(&'static str),
    /// Counts what it gets, and sends nothing back until the end: then the count as eight bytes.
    Sink,
    /// Whatever a test wants.
    Custom(Handler),
}

impl App {
    /// An application of a test's own.
    pub fn custom<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, Arc<Record>) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(Arc::new(move |io, record| Box::pin(serve(io, record))))
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "Http",
            Self::Http2 => "Http2",
            Self::Tcp => "Tcp",
            Self::Greeter(_) => "Greeter",
            Self::Sink => "Sink",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What an application has seen.
#[derive(Debug, Default)]
pub struct Record {
    accepts: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicU64,
    left: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

impl Record {
    /// Connections.
    #[must_use]
    pub fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    /// Requests whose head has arrived.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Bytes of content, of requests or of streams.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Answers whose reader left before their end.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }

    /// A reader left.
    pub fn leave(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
    }

    /// The first requests' heads: the request line, then a line for each field.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A request's head has arrived.
    pub fn request(&self, head: String) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() < HEADS_MAX {
            heads.push(head);
        }
    }

    /// Content has arrived.
    pub fn content(&self, bytes: usize) {
        self.bytes
            .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

/// How an HTTP application behaves; changed while it runs.
#[derive(Debug, Default)]
pub struct Behaviour {
    status: AtomicU16,
    delay_ms: AtomicU64,
    closing: AtomicBool,
}

impl Behaviour {
    /// Answers every request with this status. 0: normally again.
    pub fn fail_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Waits before each answer.
    pub fn delay(&self, milliseconds: u64) {
        self.delay_ms.store(milliseconds, Ordering::SeqCst);
    }

    /// Breaks each connection off when a request has come.
    pub fn break_off(&self, on: bool) {
        self.closing.store(on, Ordering::SeqCst);
    }
}

/// An application on an address.
#[derive(Debug)]
pub struct AppServer {
    address: SocketAddr,
    name: Arc<str>,
    app: App,
    /// What it has seen.
    pub record: Arc<Record>,
    /// How it behaves.
    pub behaviour: Arc<Behaviour>,
    serving: Option<JoinHandle<()>>,
}

impl AppServer {
    /// Starts it.
    ///
    /// # Panics
    /// The address is taken.
    pub async fn start(name: &str, address: SocketAddr, app: App) -> Self {
        let mut server = Self {
            address,
            name: name.into(),
            app,
            record: Arc::default(),
            behaviour: Arc::default(),
            serving: None,
        };
        server.resume().await;
        server
    }

    /// Ends it, as a crash would: listener and connections are gone.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Cancelled is what it shall be.
            let _ = serving.await;
        }
    }

    /// Starts it again.
    ///
    /// # Panics
    /// The address is taken.
    pub async fn resume(&mut self) {
        assert!(self.serving.is_none(), "{} runs already", self.name);
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the address of an app is free");
        let one = One {
            name: Arc::clone(&self.name),
            app: self.app.clone(),
            record: Arc::clone(&self.record),
            behaviour: Arc::clone(&self.behaviour),
        };
        self.serving = Some(tokio::spawn(serve(listener, one)));
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

#[derive(Debug, Clone)]
struct One {
    name: Arc<str>,
    app: App,
    record: Arc<Record>,
    behaviour: Arc<Behaviour>,
}

/// The connections end with the listener's task.
async fn serve(listener: TcpListener, one: One) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((io, _)) = listener.accept().await else {
            continue;
        };
        // A socket that is gone already will say so at the first read.
        let _ = io.set_nodelay(true);
        one.record.accepts.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(io, one.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(io: TcpStream, one: One) {
    match &one.app {
        App::Http => http::serve_http1(io, one).await,
        App::Http2 => http::serve_http2(io, one).await,
        App::Tcp => echo(io, &one.record).await,
        App::Greeter(greeting) => greet(io, greeting, &one.record).await,
        App::Sink => sink(io, &one.record).await,
        App::Custom(serve) => serve(io, one.record).await,
    }
}

async fn echo(mut io: TcpStream, record: &Record) {
    let mut space = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = io.read(&mut space).await {
        record.content(n);
        let Some(data) = space.get(..n) else { return };
        if io.write_all(data).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = io.shutdown().await;
}

async fn greet(mut io: TcpStream, greeting: &str, record: &Record) {
    if io.write_all(greeting.as_bytes()).await.is_ok() {
        echo(io, record).await;
    }
}

async fn sink(mut io: TcpStream, record: &Record) {
    let mut space = vec![0; CHUNK_BYTES];
    let mut count = 0u64;
    while let Ok(n @ 1..) = io.read(&mut space).await {
        record.content(n);
        count += u64::try_from(n).unwrap_or(0);
    }
    // The other side may be gone already.
    let _ = io.write_all(&count.to_be_bytes()).await;
    let _ = io.shutdown().await;
}
