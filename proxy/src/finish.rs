//! How does every connection and request end: told, recorded, counted?

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use isthmus_proxy_core::canonical::CanonicalPath;
use isthmus_proxy_core::detect::Detected;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::{ConnectionError, ErrorCode};
use isthmus_proxy_core::message::Method;

use crate::connect::NotOpened;
use crate::exchange::reply::{self, Listener};
use crate::exchange::{Downstream, Meters};
use crate::gateway::UNKNOWN_CLUSTER;
use crate::stream::Tx;
use crate::telemetry::{Direction, Event};
use crate::worker::{Activity, Worker};

/// A failure, with what a person wants to know of it.
#[derive(Debug)]
pub struct Failed {
    /// Which.
    pub failure: Failure,
    /// What exactly.
    pub detail: String,
    /// The policy that decided, if one did.
    pub policy: Option<Arc<str>>,
    /// Audit policies that matched.
    pub audit: Box<[Arc<str>]>,
    /// The id that who asked was told already.
    pub told: Option<Box<str>>,
    /// The id under which the proxy that refused it knows why.
    pub upstream_reason: Option<Box<str>>,
    /// The endpoints as they were when nobody could be found among them.
    pub endpoints: Option<Arc<serde_json::Value>>,
}

impl Failed {
    /// A failure that no policy decided.
    #[must_use]
    pub fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self {
            failure,
            detail: detail.into(),
            policy: None,
            audit: Box::default(),
            told: None,
            upstream_reason: None,
            endpoints: None,
        }
    }

    /// A byte stream that was not opened; the detail says who knows more.
    #[must_use]
    pub fn not_opened(why: NotOpened, mut detail: String) -> Self {
        if let Some(reason) = &why.reason {
            detail.push_str("; refused there: ");
            detail.push_str(reason);
        }
        Self {
            upstream_reason: why.reason.map(Into::into),
            ..Self::new(why.failure, detail)
        }
    }
}

/// A connection or a request that is open, and counts as such. Its event is recorded however it
/// ends: by [`finish`] or [`finish_bytes`], or by being cut off with whatever carries it.
#[derive(Debug)]
pub struct Open {
    /// What is known so far.
    pub event: Event,
    /// What has moved so far.
    pub meters: Meters,
    worker: Rc<Worker>,
    begun: Instant,
    told: bool,
    _active: Activity,
}

impl Open {
    /// It begins, or has begun then.
    #[must_use]
    pub fn begin(worker: &Rc<Worker>, event: Event, begun: Instant) -> Self {
        Self {
            event,
            meters: Meters::begin(begun),
            worker: Rc::clone(worker),
            begun,
            told: false,
            _active: worker.activity(),
        }
    }

    fn tell(&mut self, reason: Option<String>) {
        self.told = true;
        let (event, meters) = (&mut self.event, &self.meters);
        event.counted_live = meters.sent.is_live();
        event.bytes_sent = meters.sent.bytes();
        event.bytes_received = meters.received.bytes();
        event.duration = self.begun.elapsed();
        self.worker.recorder.record(event, reason);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A second panic would end the process, and the first may have been in the recorder.
        if self.told || std::thread::panicking() {
            return;
        }
        if self.event.failure.is_none() {
            self.event.failure = Some(Failure::Draining);
            "cut off when the time to drain was over".clone_into(&mut self.event.detail);
        }
        self.tell(None);
    }
}

/// Ends a request: tells the client what it can still be told, and records the event. The
/// downstream comes back if its connection can carry another request.
pub async fn finish(
    mut open: Open,
    mut down: Downstream,
    result: Result<(), Failed>,
    to: Listener,
) -> Option<Downstream> {
    let mut reason = None;
    let mut usable = true;
    if let Err(failed) = result {
        note(&mut open.event, failed);
        let failure = open.event.failure.unwrap_or(Failure::Internal);
        let answer = &mut down.answer;
        if answer.started || failure.status() == 0 {
            answer
                .tx
                .reset(answer.code.unwrap_or_else(|| code(failure)));
            usable = false;
        } else {
            let id = open.worker.recorder.reason_id();
            answer.keep_alive &= is_read(&down.rx);
            Box::pin(reply::failure(answer, failure, &id, &open.event.detail, to)).await;
            reason = Some(id);
        }
    }
    open.event.status = down.answer.status;
    open.tell(reason);
    (usable && matches!(down.answer.tx, Tx::H1(_))).then_some(down)
}

/// Records a connection that ended before it was known what it wanted.
pub fn refused(
    worker: &Worker,
    direction: Direction,
    (failure, detail): (Failure, String),
    since: Instant,
) {
    let mut event = Event::new(direction, "tcp", worker.snapshot().generation);
    let own = Some(worker.shared.config.cluster.shared());
    match direction {
        Direction::Outbound => event.source_cluster = own,
        Direction::Inbound => event.destination_cluster = own,
        Direction::Gateway => {
            event.source_cluster = Some(UNKNOWN_CLUSTER.into());
            event.destination_cluster = own;
        }
    }
    event.failure = Some(failure);
    event.detail = detail;
    event.duration = since.elapsed();
    worker.recorder.record(&event, None);
}

const NO_HTTP: &str = "no request line, RFC 9112 §3";

/// Records a connection that carries requests when it ends, however it does: each of them has an
/// event of its own, and so has the connection.
#[derive(Debug)]
pub struct Closing {
    worker: Rc<Worker>,
    event: Event,
    since: Instant,
}

impl Closing {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, event: Event, since: Instant) -> Self {
        Self {
            worker: Rc::clone(worker),
            event,
            since,
        }
    }

    /// It ends without a request: the client said nothing, or nothing that could be understood.
    pub fn silent(self) {
        self.failed(Failure::DownstreamReset, "the client left without a word");
    }

    /// It ends without an answer: the port declares HTTP, and this is what was spoken instead.
    pub fn not_http(self, spoken: Detected) {
        let spoken = match spoken {
            Detected::Tls => "TLS",
            Detected::Http1 | Detected::Http2 | Detected::Opaque => "bytes that are no HTTP",
        };
        let why = format!("the port declares HTTP, and the client sent {spoken}");
        self.failed(Failure::BadRequest(NO_HTTP), &why);
    }

    /// It ended because its peer broke a rule of HTTP/2, if it did.
    pub fn failed_by(&mut self, error: Option<ConnectionError>) {
        if let Some(error) = error {
            self.event.failure = Some(Failure::BadRequest(error.why));
            self.event.detail = format!("HTTP/2 connection error {}", error.code);
        }
    }

    fn failed(mut self, failure: Failure, detail: &str) {
        self.event.failure = Some(failure);
        detail.clone_into(&mut self.event.detail);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        // A second panic would end the process, and the first may have been in the recorder.
        if !std::thread::panicking() {
            self.event.duration = self.since.elapsed();
            self.worker.recorder.record(&self.event, None);
        }
    }
}

/// Records a relay of bytes.
pub fn finish_bytes(mut open: Open, result: Result<(), Failed>) {
    let mut told = None;
    if let Err(mut failed) = result {
        told = failed.told.take().map(Into::into);
        note(&mut open.event, failed);
    }
    open.tell(told);
}

/// Records a request that could not be read, with the status that its client is told. The id to tell it.
pub fn unreadable(
    worker: &Rc<Worker>,
    event: &mut Event,
    (failure, status): (Failure, u16),
) -> String {
    let id = worker.recorder.reason_id();
    event.failure = Some(failure);
    event.status = status;
    // Where it breaks a rule, that is all there is to say.
    event.detail = match failure.why() {
        Some(_) => String::new(),
        None => failure.to_string(),
    };
    // Its method and path are not known, but it was a request.
    event.request = Some((Method::Other("".into()), CanonicalPath::default()));
    worker.recorder.record(event, Some(id.clone()));
    id
}

fn note(event: &mut Event, failed: Failed) {
    event.failure = Some(failed.failure);
    event.detail = failed.detail;
    event.upstream_reason = failed.upstream_reason.map(Into::into);
    event.endpoints = failed.endpoints;
    if failed.policy.is_some() {
        event.policy = failed.policy;
    }
    if !failed.audit.is_empty() {
        event.audit = failed.audit.into_vec();
    }
}

/// Is a request read to its end? What its client has not sent yet would be taken for the next one.
pub(crate) fn is_read(rx: &crate::stream::Rx) -> bool {
    match rx {
        crate::stream::Rx::H1(rx) => rx.is_at_end(),
        crate::stream::Rx::H2(_) | crate::stream::Rx::Tcp(_) | crate::stream::Rx::Worded(_) => true,
    }
}

/// How a stream is broken off after its answer has begun.
fn code(failure: Failure) -> ErrorCode {
    match failure {
        Failure::UpstreamRefused => ErrorCode::RefusedStream,
        Failure::UpstreamProtocol(_) => ErrorCode::ProtocolError,
        Failure::Internal => ErrorCode::InternalError,
        _ => ErrorCode::Cancel,
    }
}
