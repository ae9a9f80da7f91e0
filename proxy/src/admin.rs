//! What can an operator ask a proxy, and how is it answered?

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use isthmus_proto::admin::{TOKEN_BYTES, TOKEN_FILE, Token};
use isthmus_proxy_core::balance::Ticks;
use isthmus_proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::accept::bind;
use crate::config::Role;
use crate::discovery::State;
use crate::files;
use crate::worker::Shared;

mod dump;
mod why;

/// Connections of one admin listener.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must be there within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which listener asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Loopback, which the application shares: everything, for who shows the token.
    Admin,
    /// The pod's address: ready and metrics only.
    Ready,
}

/// What admin looks at.
#[derive(Debug)]
pub struct Admin {
    shared: Arc<Shared>,
    discovery: Arc<Mutex<State>>,
    drain: watch::Sender<bool>,
    token: Option<Token>,
}

/// The token of the state folder. A proxy whose disk is full or whose file is spoiled serves all the
/// same: then nobody has its token.
pub fn token(folder: &Path) -> Option<Token> {
    let found = kept(folder);
    if let Err(error) = &found {
        let error = format!("{error:#}");
        tracing::error!(error, "admin answers nobody, but for /ready and /metrics");
    }
    found.ok()
}

/// Made at the first start, for its owner alone.
fn kept(folder: &Path) -> Result<Token> {
    let path = folder.join(TOKEN_FILE);
    match std::fs::read(&path) {
        Ok(text) => Token::read(&text).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut random = [0; TOKEN_BYTES];
            let source = rustls::crypto::aws_lc_rs::default_provider().secure_random;
            let filled = source.fill(&mut random);
            filled.map_err(|_| anyhow!("the system gives no random numbers"))?;
            let token = Token::of(random);
            files::write_private(&path, token.text().as_bytes())?;
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

type Answer = Response<Either<Full<Bytes>, dump::Pieces>>;

impl Admin {
    /// Admin of a proxy.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        discovery: Arc<Mutex<State>>,
        drain: watch::Sender<bool>,
        token: Option<Token>,
    ) -> Self {
        Self {
            shared,
            discovery,
            drain,
            token,
        }
    }

    fn answer(&self, face: Face, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        match (request.method(), path, face) {
            (&Method::GET, "/ready", _) => self.ready(),
            (&Method::GET, "/metrics", _) => self.metrics(),
            (_, _, Face::Ready) => text(StatusCode::NOT_FOUND, "only /ready and /metrics here\n"),
            _ if !self.is_admin(request) => self.unauthorized(),
            (&Method::GET, "/config", _) => self.config(),
            (&Method::GET, "/listeners", _) => {
                let bound = self.shared.bound.get();
                json_answer(&serde_json::to_value(bound).unwrap_or_default())
            }
            (&Method::GET, "/why", _) => self.why(query),
            (&Method::GET, "/why/inbound", _) => match self.why_inbound(query) {
                Ok(value) => json_answer(&value),
                Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
            },
            (&Method::POST, "/drain", _) => {
                self.drain.send_replace(true);
                text(StatusCode::ACCEPTED, "draining\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /ready /metrics /config /listeners /why?reason=|host=&port= /why/inbound?identity=&port=, POST /drain\n",
            ),
        }
    }

    fn is_admin(&self, request: &Request<Incoming>) -> bool {
        let shown = request.headers().get(AUTHORIZATION);
        let shown = shown.and_then(|value| Token::shown(value.as_bytes()));
        let token = self.token.as_ref().zip(shown);
        token.is_some_and(|(token, shown)| token.is(&shown))
    }

    fn unauthorized(&self) -> Answer {
        let file = self.shared.config.state_dir.join(TOKEN_FILE);
        let why = format!(
            "asks for `authorization: Bearer TOKEN` with the token in {}\n",
            file.display()
        );
        let mut answer = text(StatusCode::UNAUTHORIZED, &why);
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        answer
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.snapshots.borrow())
    }

    fn now(&self) -> Ticks {
        Ticks(u64::try_from(self.shared.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Ready: it can prove who it is, and knows who may call it.
    fn ready(&self) -> Answer {
        let snapshot = self.snapshot();
        let why = if *self.shared.draining.borrow() {
            Some("draining")
        } else if self.shared.tls.shown().is_none() {
            Some("no certificate")
        } else if snapshot.generation.0 == 0 {
            Some("no configuration yet")
        } else if self.shared.config.role == Role::Sidecar && snapshot.own.is_none() {
            Some("discovery does not know this workload")
        } else if self.shared.config.role == Role::Gateway && snapshot.handle_keys.is_empty() {
            Some("no handle keys yet")
        } else {
            None
        };
        match why {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {why}\n"),
            ),
        }
    }

    fn metrics(&self) -> Answer {
        let (snapshot, now) = (self.snapshot(), self.now());
        let ejected = snapshot
            .services
            .iter()
            .filter_map(|service| service.endpoints.known())
            .flat_map(|set| set.endpoints().iter())
            .filter(|endpoint| endpoint.stats.is_ejected(now))
            .count();
        let metrics = &self.shared.telemetry.metrics;
        metrics.set_ejected(u64::try_from(ejected).unwrap_or(u64::MAX));
        metrics.set_freshness(&snapshot.describe_clusters(), SystemTime::now());
        let mut answer = text(StatusCode::OK, &metrics.text());
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        answer
    }

    fn config(&self) -> Answer {
        let (snapshot, now) = (self.snapshot(), self.now());
        let mut dump = dump::besides_services(&snapshot, now);
        let certificate = self.shared.tls.held().map(|held| {
            let age = held.since.elapsed().unwrap_or_default().as_secs();
            let until = held
                .not_after
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            json!({
                "identity": self.shared.config.identity.as_str(),
                "not_after": until,
                "age_seconds": age,
            })
        });
        let state = self
            .discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .describe();
        if let Some(fields) = dump.as_object_mut() {
            fields.insert(
                "workload".to_owned(),
                json!(self.shared.config.workload.as_str()),
            );
            fields.insert("certificate".to_owned(), certificate.unwrap_or(Value::Null));
            fields.insert("subscription".to_owned(), state);
        }
        let body = dump::with_services(&dump, &snapshot, now);
        json_of(Response::new(Either::Right(body)))
    }

    fn why_inbound(&self, query: &str) -> std::result::Result<Value, String> {
        let ours = |port| {
            let bound = self.shared.bound.get();
            bound.is_some_and(|bound| bound.has_port(port))
        };
        why::inbound(&self.snapshot(), query, ours)
    }

    fn why(&self, query: &str) -> Answer {
        if let Some(id) = why::parameter(query, "reason") {
            return match self.shared.telemetry.reason(&id) {
                Some(reason) => json_answer(&json!(reason)),
                None => text(
                    StatusCode::NOT_FOUND,
                    "this reason is not remembered (the last 1,024 are)\n",
                ),
            };
        }
        let found = why::outbound(
            &self.snapshot(),
            query,
            self.now(),
            &self.shared.config.mesh_domain,
        );
        match found {
            Ok(value) => json_answer(&value),
            Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        }
    }
}

/// Listens, and answers by a task of the control thread. The address that it really has.
///
/// # Errors
/// The address is taken or not ours.
pub fn listen(
    address: Option<SocketAddr>,
    admin: &Arc<Admin>,
    face: Face,
) -> Result<Option<SocketAddr>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = bind(address).with_context(|| format!("listen on {address} for admin"))?;
    let bound = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(serve(listener, Arc::clone(admin), face));
    Ok(Some(bound))
}

async fn serve(listener: TcpListener, admin: Arc<Admin>, face: Face) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Ok((io, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = admin.answer(face, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that breaks off is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(io), service)
                .await;
            drop(slot);
        });
    }
}

fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body.to_owned()))));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn json_answer(value: &Value) -> Answer {
    json_of(text(StatusCode::OK, &format!("{value:#}\n")))
}

fn json_of(mut answer: Answer) -> Answer {
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
