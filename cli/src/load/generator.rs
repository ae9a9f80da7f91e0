//! How are requests sent steadily? Keep-alive connections, each with its own pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::ledger::{Ledger, Outcome, PodAndCluster, Sample};

/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// The Host header.
    pub(crate) host: Arc<str>,
    /// Path and query.
    pub(crate) path: Arc<str>,
}

impl Target {
    /// GETs of `path` at `address`.
    pub(crate) fn new(address: SocketAddr, host: &str, path: &str) -> Self {
        Self {
            address,
            host: Arc::from(host),
            path: Arc::from(path),
        }
    }
}

/// What the connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Run,
    /// Finish what is in flight, close, and wait.
    Pause,
    Stop,
}

/// Requests on their way until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Load {
    ledger: Arc<Ledger>,
    pace: watch::Sender<Pace>,
    /// Connections that are open, or still have a request in flight.
    busy: watch::Receiver<usize>,
    /// Dropped with us: then nothing is sent any more.
    _tasks: JoinSet<()>,
}

impl Load {
    /// Starts `rps` requests per second over `connections`.
    pub(crate) fn start(target: &Target, rps: u32, connections: u32) -> Self {
        let ledger = Arc::new(Ledger::default());
        let (pace, _) = watch::channel(Pace::Run);
        let (counter, busy) = watch::channel(0_usize);
        let connections = connections.clamp(1, rps.max(1));
        let every = Duration::from_secs(1) * connections / rps.max(1);
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let caller = Caller::new(target.clone());
            let (ledger, pace) = (ledger.clone(), pace.subscribe());
            let counter = counter.clone();
            // Evenly apart, so that the total is steady as well.
            let first = every * number / connections;
            tasks.spawn(run(
                caller,
                ledger,
                pace,
                Beat {
                    first,
                    every,
                    counter,
                },
            ));
        }
        Self {
            ledger,
            pace,
            busy,
            _tasks: tasks,
        }
    }

    /// What came back.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Lets what is in flight end, and sends nothing until `resume`.
    pub(crate) async fn pause(&self) {
        self.pace.send_replace(Pace::Pause);
        self.idle().await;
    }

    /// Sends again.
    pub(crate) fn resume(&self) {
        self.pace.send_replace(Pace::Run);
    }

    /// Lets what is in flight end; nothing is sent any more.
    pub(crate) async fn stop(&self) {
        self.pace.send_replace(Pace::Stop);
        self.idle().await;
    }

    /// Each request is bounded in time, so this is too.
    async fn idle(&self) {
        let mut busy = self.busy.clone();
        // Closed: every task ended, which is idle as well.
        let _ended = busy.wait_for(|&number| number == 0).await.map(|_| ());
    }
}

struct Beat {
    first: Duration,
    every: Duration,
    counter: watch::Sender<usize>,
}

async fn run(mut caller: Caller, ledger: Arc<Ledger>, mut pace: watch::Receiver<Pace>, beat: Beat) {
    let mut ticks = interval_at(tokio::time::Instant::now() + beat.first, beat.every);
    // A late request is not made up for by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beat.counter.send_modify(|busy| *busy += 1);
        let now = *pace.borrow_and_update();
        if now == Pace::Run {
            ledger.record(caller.call().await);
        } else {
            caller.close();
        }
        beat.counter
            .send_modify(|busy| *busy = busy.saturating_sub(1));
        match now {
            Pace::Run => {}
            Pace::Stop => return,
            Pace::Pause => {
                if pace.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One keep-alive connection, opened when it is needed.
#[derive(Debug)]
pub(crate) struct Caller {
    target: Target,
    open: Option<SendRequest<Empty<Bytes>>>,
    /// Connections opened so far.
    opened: u32,
}

/// The head of an answer whose body was read.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Bytes,
}

impl Caller {
    /// Nothing is opened yet.
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            open: None,
            opened: 0,
        }
    }

    /// Connections opened so far.
    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }

    /// Closes the connection, if there is one.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// One GET, and how it ended.
    pub(crate) async fn call(&mut self) -> Sample {
        let began = Instant::now();
        let answered = self.get().await;
        let (by, outcome) = match answered {
            Ok(answered) => read(&answered),
            Err(error) => (
                None,
                Outcome::Failed {
                    why: Arc::from(format!("{error:#}")),
                },
            ),
        };
        let at = Instant::now();
        Sample {
            at,
            latency: at.saturating_duration_since(began),
            by,
            outcome,
        }
    }

    /// One GET, in whole.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub(crate) async fn get(&mut self) -> anyhow::Result<Answered> {
        let exchange = timeout(REQUEST_TIMEOUT, self.exchange()).await;
        let answered = match exchange {
            Ok(answered) => answered,
            Err(_) => Err(anyhow::anyhow!(
                "no answer within {} s",
                REQUEST_TIMEOUT.as_secs()
            )),
        };
        if answered.is_err() {
            self.close();
        }
        answered
    }

    async fn exchange(&mut self) -> anyhow::Result<Answered> {
        loop {
            let is_fresh = self.ready().await?;
            let Some(send) = self.open.as_mut() else {
                continue;
            };
            let request = Request::get(&*self.target.path)
                .header("host", &*self.target.host)
                .body(Empty::new())
                .context("making the request")?;
            match send.send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body
                        .collect()
                        .await
                        .context("reading the answer")?
                        .to_bytes();
                    return Ok(Answered {
                        status: head.status,
                        headers: head.headers,
                        body,
                    });
                }
                // The server closed the idle connection before a byte was sent: not an answer.
                Err(error) if error.is_canceled() && !is_fresh => self.close(),
                Err(error) => return Err(error).context("sending the request"),
            }
        }
    }

    /// Opens a connection unless one is there that can be used. True: a new one.
    async fn ready(&mut self) -> anyhow::Result<bool> {
        if let Some(send) = self.open.as_mut() {
            if send.ready().await.is_ok() {
                return Ok(false);
            }
            self.close();
        }
        let address = self.target.address;
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| anyhow::anyhow!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))?
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection, which ends with `send`.
        tokio::spawn(async move {
            let _closed = connection.await;
        });
        self.opened = self.opened.saturating_add(1);
        self.open = Some(send);
        Ok(true)
    }
}

fn read(answered: &Answered) -> (Option<PodAndCluster>, Outcome) {
    let pod = header(&answered.headers, &HeaderName::from_static("x-pod"));
    let cluster = header(&answered.headers, &HeaderName::from_static("x-cluster"));
    let reason = header(&answered.headers, &HeaderName::from_static("x-mesh-reason"));
    let by = pod
        .zip(cluster)
        .map(|(pod, cluster)| (Arc::from(pod), Arc::from(cluster)));
    let outcome = match (answered.status, reason) {
        (status, _) if status.is_success() => Outcome::Served,
        (StatusCode::FORBIDDEN, Some(reason)) => Outcome::Denied {
            reason: reason.to_owned(),
        },
        (status, reason) => {
            let text = String::from_utf8_lossy(&answered.body);
            let first = text
                .lines()
                .next()
                .unwrap_or("")
                .chars()
                .take(200)
                .collect::<String>();
            let reason = reason.map(|id| format!(" ({id})")).unwrap_or_default();
            Outcome::Failed {
                why: Arc::from(format!("status {}: {first}{reason}", status.as_u16())),
            }
        }
    };
    (by, outcome)
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Answered {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let body = Bytes::from_static(b"UF connect_failed: refused\nmore");
        Answered {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body,
        }
    }

    #[test]
    fn an_answer_is_served_denied_or_failed() {
        let served = read(&answered(
            200,
            &[("x-pod", "cart-1"), ("x-cluster", "east")],
        ));
        assert_eq!(served.1, Outcome::Served);
        assert_eq!(served.0.unwrap().0.as_ref(), "cart-1");
        let denied = read(&answered(403, &[("x-mesh-reason", "west/shop/a:1")]));
        assert_eq!(
            denied.1,
            Outcome::Denied {
                reason: "west/shop/a:1".into()
            }
        );
        // A 403 of the application itself is no refusal of the mesh.
        assert!(matches!(
            read(&answered(403, &[])).1,
            Outcome::Failed { .. }
        ));
        let failed = read(&answered(503, &[("x-mesh-reason", "east/shop/web-1:2")]));
        let why = "status 503: UF connect_failed: refused (east/shop/web-1:2)";
        assert_eq!(
            failed.1,
            Outcome::Failed {
                why: Arc::from(why)
            }
        );
    }

    #[tokio::test]
    async fn a_paused_load_sends_nothing() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let load = Load::start(&Target::new(free, "x.test", "/"), 200, 4);
        while load
            .ledger()
            .samples(Instant::now() - Duration::from_secs(1))
            .len()
            < 4
        {
            tokio::task::yield_now().await;
        }
        load.pause().await;
        let from = Instant::now();
        load.resume();
        load.stop().await;
        assert!(load.ledger().samples(from).len() <= 4);
    }
}
