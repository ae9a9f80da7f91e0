//! Which counters does a proxy keep?

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::snapshot::cluster::Freshness;
use isthmus_proxy_core::snapshot::describe::ClusterView;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Direction, Event};
use glitches::Glitches;
use ledger::Ledger;

mod glitches;
pub mod ledger;

/// The ends of calls for which there is no series any more.
const OTHER: &str = "other";

/// Upper bounds in seconds: 0.25 ms to 30 s.
const BUCKETS: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];

/// Both ends of a call, by configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ends {
    direction: &'static str,
    /// Empty: not known, as for all of these.
    pub source_cluster: String,
    /// Who answered, or was to.
    pub destination_cluster: String,
    /// Its name.
    pub service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Result {
    direction: &'static str,
    source_cluster: String,
    destination_cluster: String,
    service: String,
    protocol: &'static str,
    status: &'static str,
    flag: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: String,
}

impl Named {
    fn of(name: &str) -> Self {
        let name = name.to_owned();
        Self { name }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCluster {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    cluster: String,
    kind: String,
}

/// What tells one series from another, before it becomes labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    direction: Direction,
    is_request: bool,
    protocol: &'static str,
    source_cluster: Option<Arc<str>>,
    destination_cluster: Option<Arc<str>>,
    service: Option<Arc<str>>,
    status_class: u16,
    failure: Option<&'static str>,
}

impl SeriesKey {
    pub(super) fn of(event: &Event) -> Self {
        Self {
            direction: event.direction,
            is_request: event.request.is_some(),
            protocol: event.protocol,
            source_cluster: event.source_cluster.clone(),
            destination_cluster: event.destination_cluster.clone(),
            service: event.service.clone(),
            status_class: event.status / 100,
            failure: event.failure.map(Failure::flag),
        }
    }
}

/// The counters that an event adds to.
#[derive(Debug)]
pub struct Series {
    total: Counter,
    duration: Histogram,
    sent: Counter,
    received: Counter,
    retries: Counter,
}

impl Series {
    /// The counters of bytes, for who counts them as they come: sent and received.
    #[must_use]
    pub fn bytes(&self) -> (Counter, Counter) {
        (self.sent.clone(), self.received.clone())
    }

    pub(super) fn add(&self, event: &Event) {
        self.total.inc();
        self.duration.observe(event.duration.as_secs_f64());
        if !event.counted_live {
            self.sent.inc_by(event.bytes_sent);
            self.received.inc_by(event.bytes_received);
        }
        if event.retries > 0 {
            self.retries.inc_by(u64::from(event.retries));
        }
    }
}

/// Every counter of a proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Result, Counter>,
    connections: Family<Result, Counter>,
    request_seconds: Family<Ends, Histogram, fn() -> Histogram>,
    connection_seconds: Family<Ends, Histogram, fn() -> Histogram>,
    sent: Family<Ends, Counter>,
    received: Family<Ends, Counter>,
    retries: Family<Ends, Counter>,
    audited: Family<Named, Counter>,
    /// What counts towards the limits of HTTP/2 connections.
    pub glitches: Glitches,
    ledger: Ledger,
    /// Handshakes that failed.
    pub handshakes_failed: Counter,
    /// Connections closed because their permission ended.
    pub revoked: Counter,
    /// Resources refused.
    pub rejected: Counter,
    /// Snapshots published.
    pub generations: Counter,
    /// Panics caught in connections.
    pub panics: Counter,
    /// Connections that are open now.
    pub open: Gauge,
    /// Plaintext connections that a permissive workload took.
    pub plaintext: Counter,
    /// Outbound connections whose destination is not of the mesh.
    pub passthrough: Counter,
    /// Copies of requests for mirrors that were not made.
    pub mirrors_dropped: Counter,
    /// Access log lines dropped because the log was slow.
    pub log_dropped: Counter,
    /// 1: the discovery stream is up.
    pub discovery_up: Gauge,
    /// When our certificate ends, in seconds since 1970.
    pub certificate_expires: Gauge<i64>,
    ejected: Gauge<u64, AtomicU64>,
    cluster_up: Family<OfCluster, Gauge>,
    cluster_age: Family<OfCluster, Gauge<f64, AtomicU64>>,
    kind_age: Family<OfKind, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("isthmus");
        let seconds: fn() -> Histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            requests: Family::default(),
            connections: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            connection_seconds: Family::new_with_constructor(seconds),
            sent: Family::default(),
            received: Family::default(),
            retries: Family::default(),
            audited: Family::default(),
            glitches: Glitches::default(),
            ledger: Ledger::default(),
            handshakes_failed: Counter::default(),
            revoked: Counter::default(),
            rejected: Counter::default(),
            generations: Counter::default(),
            panics: Counter::default(),
            open: Gauge::default(),
            plaintext: Counter::default(),
            passthrough: Counter::default(),
            mirrors_dropped: Counter::default(),
            log_dropped: Counter::default(),
            discovery_up: Gauge::default(),
            certificate_expires: Gauge::default(),
            ejected: Gauge::default(),
            cluster_up: Family::default(),
            cluster_age: Family::default(),
            kind_age: Family::default(),
            registry: Registry::default(),
        };
        register_calls(&mut registry, &metrics);
        register_states(&mut registry, &metrics);
        register_freshness(&mut registry, &metrics);
        Self {
            registry,
            ..metrics
        }
    }
}

fn register_calls(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "requests",
        "HTTP requests that ended",
        metrics.requests.clone(),
    );
    registry.register(
        "connections",
        "Connections that ended",
        metrics.connections.clone(),
    );
    registry.register(
        "request_duration_seconds",
        "From a request's head to the end of its answer",
        metrics.request_seconds.clone(),
    );
    registry.register(
        "connection_duration_seconds",
        "From accept to close",
        metrics.connection_seconds.clone(),
    );
    registry.register("sent_bytes", "Content from who asks", metrics.sent.clone());
    registry.register(
        "received_bytes",
        "Content to who asks",
        metrics.received.clone(),
    );
    registry.register("retries", "Tries after the first", metrics.retries.clone());
    registry.register(
        "audit_matches",
        "Matches of audit policies",
        metrics.audited.clone(),
    );
    metrics.glitches.register(registry);
}

fn register_states(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "handshakes_failed",
        "TLS handshakes that failed",
        metrics.handshakes_failed.clone(),
    );
    registry.register(
        "revoked_connections",
        "Closed: permission ended",
        metrics.revoked.clone(),
    );
    registry.register(
        "rejected_resources",
        "Resources refused",
        metrics.rejected.clone(),
    );
    registry.register(
        "generations",
        "Snapshots published",
        metrics.generations.clone(),
    );
    registry.register(
        "panics",
        "Panics caught in connections",
        metrics.panics.clone(),
    );
    registry.register(
        "open_connections",
        "Connections open now",
        metrics.open.clone(),
    );
    registry.register(
        "plaintext_connections",
        "Plaintext taken by a permissive workload",
        metrics.plaintext.clone(),
    );
    registry.register(
        "passthrough_connections",
        "Passed through: the destination is not of the mesh",
        metrics.passthrough.clone(),
    );
    registry.register(
        "mirrors_dropped",
        "Copies not made: the body is too long or broken off, or too many are under way",
        metrics.mirrors_dropped.clone(),
    );
    registry.register(
        "access_log_dropped",
        "Lines dropped: the log is slow",
        metrics.log_dropped.clone(),
    );
    registry.register(
        "discovery_up",
        "1: the discovery stream is up",
        metrics.discovery_up.clone(),
    );
    registry.register(
        "certificate_expires_seconds",
        "When our certificate ends, since 1970",
        metrics.certificate_expires.clone(),
    );
    registry.register(
        "ejected_endpoints",
        "Endpoints ejected now",
        metrics.ejected.clone(),
    );
}

fn register_freshness(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "cluster_up",
        "1: the control plane lists and watches the cluster",
        metrics.cluster_up.clone(),
    );
    registry.register(
        "cluster_age_seconds",
        "Since what is known of the cluster was last known to be right",
        metrics.cluster_age.clone(),
    );
    registry.register(
        "kind_age_seconds",
        "The same of a kind that is older than its cluster",
        metrics.kind_age.clone(),
    );
}

impl Metrics {
    /// How old what is known of each cluster is: as it is now, and nothing of clusters that are gone.
    pub fn set_freshness(&self, clusters: &[ClusterView], now: SystemTime) {
        let age = |at: SystemTime| now.duration_since(at).unwrap_or_default().as_secs_f64();
        self.cluster_up.clear();
        self.cluster_age.clear();
        self.kind_age.clear();
        for view in clusters {
            let cluster = OfCluster {
                cluster: view.name.clone(),
            };
            let up = i64::from(view.state == Freshness::Synced);
            self.cluster_up.get_or_create(&cluster).set(up);
            if let Some(at) = view.confirmed_at {
                self.cluster_age.get_or_create(&cluster).set(age(at));
            }
            for (kind, of) in &view.kinds {
                let Some(at) = of.confirmed_at else { continue };
                let kind = OfKind {
                    cluster: view.name.clone(),
                    kind: kind.clone(),
                };
                self.kind_age.get_or_create(&kind).set(age(at));
            }
        }
    }

    /// The counters of one kind of event. Where there are too many kinds, those of all others.
    #[must_use]
    pub fn series(&self, key: &SeriesKey) -> Series {
        let mut ends = Ends {
            direction: key.direction.as_str(),
            source_cluster: label(&key.source_cluster),
            destination_cluster: label(&key.destination_cluster),
            service: label(&key.service),
        };
        let mut result = result(&ends, key);
        if !self.ledger.note(&ends, key.is_request, &result) {
            let other = || OTHER.to_owned();
            (ends.source_cluster, ends.destination_cluster) = (other(), other());
            ends.service = other();
            result = self::result(&ends, key);
        }
        let seconds = if key.is_request {
            &self.request_seconds
        } else {
            &self.connection_seconds
        };
        Series {
            total: self.totals(key.is_request).get_or_create_owned(&result),
            duration: seconds.get_or_create_owned(&ends),
            sent: self.sent.get_or_create_owned(&ends),
            received: self.received.get_or_create_owned(&ends),
            retries: self.retries.get_or_create_owned(&ends),
        }
    }

    /// Counts how often series were removed: who keeps some looks them up again when it moves.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.ledger.epoch()
    }

    /// Removes the series of ends that `is_known` has not held for since [`ledger::UNKNOWN_KEPT`], if
    /// nothing was counted in them meanwhile.
    pub fn retire(&self, is_known: impl Fn(&Ends) -> bool, now: Instant) {
        let count = |ends: &Ends, results: &[(bool, Result)]| {
            let moved =
                self.sent.get_or_create(ends).get() + self.received.get_or_create(ends).get();
            let ended = results
                .iter()
                .map(|(is_request, result)| self.totals(*is_request).get_or_create(result).get());
            moved + ended.sum::<u64>()
        };
        for (ends, results) in self.ledger.retire(is_known, count, now) {
            for (is_request, result) in results {
                self.totals(is_request).remove(&result);
            }
            self.request_seconds.remove(&ends);
            self.connection_seconds.remove(&ends);
            self.sent.remove(&ends);
            self.received.remove(&ends);
            self.retries.remove(&ends);
        }
    }

    fn totals(&self, is_request: bool) -> &Family<Result, Counter> {
        if is_request {
            &self.requests
        } else {
            &self.connections
        }
    }

    pub(super) fn audited(&self, policies: &[Arc<str>]) {
        for policy in policies {
            let known = self.ledger.note_audited(policy);
            let name = if known { policy } else { OTHER };
            self.audited.get_or_create(&Named::of(name)).inc();
        }
    }

    /// Removes the series of audit policies that are in force no more, as [`Metrics::retire`] does.
    pub fn retire_audited(&self, is_known: impl Fn(&str) -> bool, now: Instant) {
        let count = |policy: &str| self.audited.get_or_create(&Named::of(policy)).get();
        for policy in self.ledger.retire_audited(is_known, count, now) {
            self.audited.remove(&Named::of(&policy));
        }
    }

    /// How many endpoints are ejected now.
    pub fn set_ejected(&self, count: u64) {
        self.ejected.set(count);
    }

    /// Prometheus text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn result(ends: &Ends, key: &SeriesKey) -> Result {
    Result {
        direction: ends.direction,
        source_cluster: ends.source_cluster.clone(),
        destination_cluster: ends.destination_cluster.clone(),
        service: ends.service.clone(),
        protocol: key.protocol,
        status: class(key.status_class),
        flag: key.failure.unwrap_or("-"),
    }
}

fn class(hundreds: u16) -> &'static str {
    match hundreds {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "-",
    }
}

fn label(known: &Option<Arc<str>>) -> String {
    known.as_deref().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
