//! What is counted, and what does it look like to Prometheus?
//!
//! Labels come from configuration and from our own enums, never from what a client says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use isthmus_proto::ids::ClusterId;

use crate::hub::Heard;

/// A counter or gauge; its name and its help are what operators see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Streams that were opened.
    SessionsOpened,
    /// Streams that were ended by us, by reason.
    SessionsEnded,
    /// Responses that were sent, by type.
    Pushes,
    /// Responses that a client refused, at least in part.
    Nacks,
    /// Certificates that were issued, by cluster.
    Issued,
    /// Requests for a certificate that were refused, by reason.
    NotIssued,
    /// TLS handshakes, by result.
    Handshakes,
    /// Connections that could not be accepted.
    AcceptErrors,
}

impl Metric {
    const ALL: [Self; 8] = [
        Self::SessionsOpened,
        Self::SessionsEnded,
        Self::Pushes,
        Self::Nacks,
        Self::Issued,
        Self::NotIssued,
        Self::Handshakes,
        Self::AcceptErrors,
    ];

    /// Name, label and help.
    fn about(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::SessionsOpened => (
                "isthmus_discovery_sessions_opened_total",
                "",
                "Discovery streams opened.",
            ),
            Self::SessionsEnded => (
                "isthmus_discovery_sessions_ended_total",
                "reason",
                "Discovery streams ended by the control plane.",
            ),
            Self::Pushes => (
                "isthmus_discovery_pushes_total",
                "type",
                "Discovery responses sent.",
            ),
            Self::Nacks => (
                "isthmus_discovery_nacks_total",
                "",
                "Discovery responses refused by a client.",
            ),
            Self::Issued => (
                "isthmus_certificates_issued_total",
                "cluster",
                "Certificates issued.",
            ),
            Self::NotIssued => (
                "isthmus_certificates_refused_total",
                "reason",
                "Requests for a certificate that were refused.",
            ),
            Self::Handshakes => (
                "isthmus_handshakes_total",
                "result",
                "TLS handshakes of the discovery port.",
            ),
            Self::AcceptErrors => (
                "isthmus_accept_errors_total",
                "",
                "Connections that could not be accepted.",
            ),
        }
    }
}

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Mutex<BTreeMap<(Metric, String), u64>>,
    lags: Mutex<BTreeMap<ClusterId, Lag>>,
}

/// Upper ends of the histogram of lags, in milliseconds.
const LAG_MILLIS: [u16; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// How long changes of one cluster took to be told.
#[derive(Debug, Clone, Default)]
struct Lag {
    /// Not cumulative.
    buckets: [u64; LAG_MILLIS.len()],
    count: u64,
    sum: Duration,
}

impl Metrics {
    /// Counts one.
    pub fn count(&self, metric: Metric, label: &str) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.entry((metric, label.to_owned())).or_default();
        *counter = counter.saturating_add(1);
    }

    /// What was heard of these clusters, since then, was told to a client.
    pub fn lags(&self, heard: Heard) {
        for (cluster, since) in heard {
            self.lag(&cluster, since.elapsed());
        }
    }

    /// Changes of a cluster were told to a client, this long after they were heard.
    fn lag(&self, cluster: &ClusterId, took: Duration) {
        let mut lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        let lag = lags.entry(cluster.clone()).or_default();
        let fits = |end: &u16| took <= Duration::from_millis(u64::from(*end));
        let at = LAG_MILLIS.iter().position(fits);
        if let Some(bucket) = at.and_then(|at| lag.buckets.get_mut(at)) {
            *bucket = bucket.saturating_add(1);
        }
        lag.count = lag.count.saturating_add(1);
        lag.sum = lag.sum.saturating_add(took);
    }

    /// A cluster has left: nothing is told of it any more.
    pub fn forget(&self, cluster: &ClusterId) {
        let mut lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        lags.remove(cluster);
    }

    fn write_lags(&self, out: &mut Page) {
        let lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        out.head(
            "isthmus_push_lag_seconds",
            "From a change of a cluster to the response that tells it.",
            "histogram",
        );
        for (cluster, lag) in lags.iter() {
            let (cluster, mut below) = (cluster.as_str(), 0u64);
            for (end, count) in LAG_MILLIS.iter().zip(lag.buckets) {
                below = below.saturating_add(count);
                let end = (f64::from(*end) / 1_000.0).to_string();
                let labels = [("cluster", cluster), ("le", end.as_str())];
                out.sample("isthmus_push_lag_seconds_bucket", &labels, below);
            }
            let labels = [("cluster", cluster), ("le", "+Inf")];
            out.sample("isthmus_push_lag_seconds_bucket", &labels, lag.count);
            let labels = [("cluster", cluster)];
            let sum = lag.sum.as_secs_f64();
            out.sample("isthmus_push_lag_seconds_sum", &labels, sum);
            out.sample("isthmus_push_lag_seconds_count", &labels, lag.count);
        }
    }

    /// The counters as text.
    pub fn write(&self, out: &mut Page) {
        let counters = self
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for metric in Metric::ALL {
            let (name, label, help) = metric.about();
            out.head(name, help, "counter");
            let of_this = counters.iter().filter(|((of, _), _)| *of == metric);
            let mut none = true;
            for ((_, value), count) in of_this {
                none = false;
                let labels = [(label, value.as_str())];
                let labels = if label.is_empty() { &[][..] } else { &labels };
                out.sample(name, labels, count);
            }
            if none && label.is_empty() {
                out.sample(name, &[], 0);
            }
        }
        self.write_lags(out);
    }
}

/// Prometheus' text format (version 0.0.4), as it is written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a family.
    pub fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// All of it.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_counts_in_every_bucket_that_it_fits_in() {
        let metrics = Metrics::default();
        let east = "east".parse().unwrap();
        for millis in [7, 30, 60_000] {
            metrics.lag(&east, Duration::from_millis(millis));
        }
        let text = || {
            let mut page = Page::default();
            metrics.write(&mut page);
            page.into_text()
        };
        for (le, count) in [
            ("0.005", 0),
            ("0.01", 1),
            ("0.05", 2),
            ("10", 2),
            ("+Inf", 3),
        ] {
            let line =
                format!("isthmus_push_lag_seconds_bucket{{cluster=\"east\",le=\"{le}\"}} {count}");
            assert!(
                text().lines().any(|l| l == line),
                "{line} is not in\n{}",
                text()
            );
        }
        metrics.forget(&east);
        assert!(!text().contains("isthmus_push_lag_seconds_count{"));
    }

    #[test]
    fn counters_are_prometheus_text() {
        let metrics = Metrics::default();
        metrics.count(Metric::Issued, "east");
        metrics.count(Metric::Issued, "east");
        metrics.count(Metric::NotIssued, "a\"b\\c\nd");
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.into_text();
        for line in [
            "# TYPE isthmus_certificates_issued_total counter",
            "isthmus_certificates_issued_total{cluster=\"east\"} 2",
            "isthmus_certificates_refused_total{reason=\"a\\\"b\\\\c\\nd\"} 1",
            "isthmus_discovery_nacks_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
