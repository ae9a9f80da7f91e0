//! What happened? One event for each connection and request, from one place.
//!
//! An event becomes counters, a line of the access log, and, if it failed, a reason that
//! `isthmus why` can resolve. Labels come from configuration, never from traffic.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::canonical::CanonicalPath;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::Method;
use isthmus_proxy_core::snapshot::Generation;
use serde::{Serialize, Serializer};

use crate::relay::Meter;

pub mod log;
pub mod metrics;

use log::AccessLog;
use metrics::ledger::SERIES_MAX;
use metrics::{Metrics, Series, SeriesKey};

/// Failures that `why` can still resolve.
const REASONS_MAX: usize = 1024;

/// Which way a connection or request went, seen from this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To our workload.
    Inbound,
    /// From our workload.
    Outbound,
    /// Through this gateway.
    Gateway,
}

impl Direction {
    /// As a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// One connection or request, from beginning to end.
#[derive(Debug, Clone)]
pub struct Event {
    /// Which way.
    pub direction: Direction,
    /// `tcp`, `http/1.0`, `http/1.1`, `http/2`, `tls`.
    pub protocol: &'static str,
    /// Who asked, if that is known and proved.
    pub peer: Option<SpiffeId>,
    /// The cluster of who asked. None: not known.
    pub source_cluster: Option<Arc<str>>,
    /// The service that was asked for: its name. None: none of the mesh.
    pub service: Option<Arc<str>>,
    /// The cluster that answered, or was to answer. None: none was chosen.
    pub destination_cluster: Option<Arc<str>>,
    /// The pod that answered, or was to answer. None: none was chosen.
    pub endpoint: Option<Arc<str>>,
    /// `tunnel`, `gateway`, `plain`, `application`, `passthrough`. Empty: none was chosen.
    pub hop: &'static str,
    /// The route's name. Empty: none.
    pub route: String,
    /// The policy that allowed or denied. None: none selects the workload.
    pub policy: Option<Arc<str>>,
    /// Policies with the action AUDIT that matched.
    pub audit: Vec<Arc<str>>,
    /// Method and path of a request. The path is told without its query.
    pub request: Option<(Method, CanonicalPath)>,
    /// What the client was told. 0: nothing, or it is no request.
    pub status: u16,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// For people: what exactly.
    pub detail: String,
    /// The id under which the proxy that refused it knows why.
    pub upstream_reason: Option<String>,
    /// The endpoints as they were when nobody could be found among them: for `why`, not for the log.
    pub endpoints: Option<Arc<serde_json::Value>>,
    /// From the one who asked.
    pub bytes_sent: u64,
    /// To the one who asked.
    pub bytes_received: u64,
    /// The bytes were counted as they came.
    pub counted_live: bool,
    /// Tries after the first.
    pub retries: u32,
    /// From the beginning to the end.
    pub duration: Duration,
    /// The snapshot that decided.
    pub generation: Generation,
}

impl Event {
    /// An event about which nothing is known yet.
    #[must_use]
    pub fn new(direction: Direction, protocol: &'static str, generation: Generation) -> Self {
        Self {
            direction,
            protocol,
            peer: None,
            source_cluster: None,
            service: None,
            destination_cluster: None,
            endpoint: None,
            hop: "",
            route: String::new(),
            policy: None,
            audit: Vec::new(),
            request: None,
            status: 0,
            failure: None,
            detail: String::new(),
            upstream_reason: None,
            endpoints: None,
            bytes_sent: 0,
            bytes_received: 0,
            counted_live: false,
            retries: 0,
            duration: Duration::ZERO,
            generation,
        }
    }
}

/// A failure that `why` can resolve.
#[derive(Debug, Clone, Serialize)]
pub struct Reason {
    /// `<workload>:<number in hex>`.
    pub id: String,
    /// The event, as it stands in the access log.
    pub event: serde_json::Value,
    /// The endpoints as they were, where none of them could take the call.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub endpoints: Option<Arc<serde_json::Value>>,
}

fn shared<S: Serializer>(
    value: &Option<Arc<serde_json::Value>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

/// What all threads share.
#[derive(Debug)]
pub struct Telemetry {
    workload: String,
    /// The counters.
    pub metrics: Metrics,
    log: Option<AccessLog>,
    reasons: Mutex<VecDeque<Reason>>,
    next: AtomicU64,
}

impl Telemetry {
    /// Telemetry of a workload.
    #[must_use]
    pub fn new(workload: String, log: Option<AccessLog>) -> Self {
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        Self {
            workload,
            metrics: Metrics::default(),
            log,
            reasons: Mutex::new(VecDeque::new()),
            // Ids of an earlier life are not given out again.
            next: AtomicU64::new(u64::try_from(seed & 0xff_ffff_ffff).unwrap_or(0) << 8),
        }
    }

    /// An id for a failure that is about to be told to a client.
    #[must_use]
    pub fn reason_id(&self) -> String {
        format!(
            "{}:{:x}",
            self.workload,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// The failure with this id, if it is still remembered.
    #[must_use]
    pub fn reason(&self, id: &str) -> Option<Reason> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().rev().find(|r| r.id == id).cloned()
    }

    fn remember(&self, id: String, event: &Event) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() >= REASONS_MAX {
            reasons.pop_front();
        }
        let endpoints = event.endpoints.clone();
        let event = log::value(event, Some(&id));
        reasons.push_back(Reason {
            id,
            event,
            endpoints,
        });
    }
}

/// A worker's own view: counters are found without a lock.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Telemetry>,
    series: RefCell<HashMap<SeriesKey, Rc<Series>, RandomState>>,
    /// Of the metrics, when the first of these series was looked up.
    epoch: Cell<u64>,
}

impl Recorder {
    /// A worker's recorder.
    #[must_use]
    pub fn new(shared: Arc<Telemetry>) -> Self {
        Self {
            shared,
            series: RefCell::default(),
            epoch: Cell::new(0),
        }
    }

    /// An id for a failure that is about to be told to a client.
    #[must_use]
    pub fn reason_id(&self) -> String {
        self.shared.reason_id()
    }

    /// The one place. `reason`: the id that the client was told. A failure that nobody was told of
    /// has one, too: the line in the log says it.
    pub fn record(&self, event: &Event, reason: Option<String>) {
        let reason = reason.or_else(|| event.failure.map(|_| self.shared.reason_id()));
        self.series(event).add(event);
        if !event.audit.is_empty() {
            self.shared.metrics.audited(&event.audit);
        }
        if let Some(log) = &self.shared.log
            && !log.write(event, reason.as_deref())
        {
            self.shared.metrics.log_dropped.inc();
        }
        if let Some(id) = reason {
            self.shared.remember(id, event);
        }
    }

    /// Counts what moves in a long connection while it moves. Both ends of it must be known.
    pub fn count_live(&self, event: &Event, sent: &Meter, received: &Meter) {
        let (sent_bytes, received_bytes) = self.series(event).bytes();
        sent.count_in(sent_bytes);
        received.count_in(received_bytes);
    }

    fn series(&self, event: &Event) -> Rc<Series> {
        let key = SeriesKey::of(event);
        let mut series = self.series.borrow_mut();
        let epoch = self.shared.metrics.epoch();
        if epoch != self.epoch.replace(epoch) {
            // What was removed would be counted in vain.
            series.clear();
        }
        if let Some(found) = series.get(&key) {
            return Rc::clone(found);
        }
        if series.len() >= SERIES_MAX {
            series.clear();
        }
        let found = Rc::new(self.shared.metrics.series(&key));
        series.insert(key, Rc::clone(&found));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A disk that writes nothing as long as somebody holds the other end.
    struct Slow {
        held: Receiver<()>,
        lines: Arc<AtomicUsize>,
    }

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            // Nobody ever sends.
            let _ = self.held.recv();
            let lines = data.iter().filter(|byte| **byte == b'\n').count();
            self.lines.fetch_add(lines, Ordering::SeqCst);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_or_counted_as_dropped() {
        const EVENTS: usize = 10_000;
        let (hold, held) = channel();
        let lines = Arc::new(AtomicUsize::new(0));
        let out = Slow {
            held,
            lines: Arc::clone(&lines),
        };
        let log = AccessLog::to(Box::new(out)).unwrap();
        let shared = Arc::new(Telemetry::new("east/shop/cart-1".to_owned(), Some(log)));
        let recorder = Recorder::new(Arc::clone(&shared));
        let event = Event::new(Direction::Inbound, "tcp", Generation(1));
        for _ in 0..EVENTS {
            recorder.record(&event, None);
        }
        let dropped = usize::try_from(shared.metrics.log_dropped.get()).unwrap();
        assert!(dropped > 0, "the queue has an end");
        drop((hold, recorder, shared));
        // The writer ends when it has written what it took.
        let begun = std::time::Instant::now();
        while lines.load(Ordering::SeqCst) + dropped < EVENTS {
            assert!(begun.elapsed() < Duration::from_secs(30), "{dropped}");
            std::thread::yield_now();
        }
        assert_eq!(lines.load(Ordering::SeqCst) + dropped, EVENTS);
    }

    #[test]
    fn a_failure_has_one_id_in_the_log_and_in_memory() {
        let shared = Arc::new(Telemetry::new("east/shop/cart-1".to_owned(), None));
        let recorder = Recorder::new(Arc::clone(&shared));
        let mut event = Event::new(Direction::Inbound, "tcp", Generation(1));
        event.failure = Some(Failure::Denied);
        recorder.record(&event, None);
        let reasons = shared.reasons.lock().unwrap();
        let only = reasons.back().unwrap();
        assert_eq!(only.event["reason"], only.id.as_str());
    }
}
