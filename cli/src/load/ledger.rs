//! What came back, and when? The last answers, and figures over a stretch of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::statistics::percentile;

/// Answers that are remembered: a minute at 4,000 per second.
const SAMPLES_MAX: usize = 262_144;

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A 2xx.
    Served,
    /// A 403 that the mesh made, with the id of its reason.
    Denied {
        /// `x-mesh-reason`.
        reason: String,
    },
    /// Anything else, in words.
    Failed {
        /// What came instead.
        why: Arc<str>,
    },
}

/// Who answered.
pub(crate) type PodAndCluster = (Arc<str>, Arc<str>);

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When it ended.
    pub(crate) at: Instant,
    /// How long it took.
    pub(crate) latency: Duration,
    /// Who answered: pod and cluster. `None`: the mesh, or nobody.
    pub(crate) by: Option<PodAndCluster>,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

impl Sample {
    /// Did this pod answer?
    pub(crate) fn is_from_pod(&self, pod: &str) -> bool {
        self.by.as_ref().is_some_and(|(name, _)| **name == *pod)
    }

    /// Did a pod of this cluster answer?
    pub(crate) fn is_from_cluster(&self, cluster: &str) -> bool {
        self.by.as_ref().is_some_and(|(_, name)| **name == *cluster)
    }

    /// Was it a 2xx?
    pub(crate) fn is_served(&self) -> bool {
        self.outcome == Outcome::Served
    }
}

/// The last answers, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    samples: Mutex<VecDeque<Sample>>,
}

impl Ledger {
    /// Adds one; the oldest leaves when it is full.
    pub(crate) fn record(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Every answer that ended at or after `from`, in order.
    pub(crate) fn samples(&self, from: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // Several connections write: order is that of the lock, a little looser than the times.
        let mut recent: Vec<Sample> = samples
            .iter()
            .rev()
            .take_while(|s| is_near(s.at, from))
            .cloned()
            .collect();
        recent.reverse();
        recent.retain(|s| s.at >= from);
        recent
    }

    /// Figures over `samples`.
    pub(crate) fn since(&self, from: Instant) -> Window {
        Window::of(&self.samples(from))
    }
}

/// A tenth of a second before `from` still counts as near: see `samples`.
fn is_near(at: Instant, from: Instant) -> bool {
    at + Duration::from_millis(100) >= from
}

/// Figures over some answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Window {
    /// 2xx answers.
    pub(crate) served: u64,
    /// 403s of the mesh.
    pub(crate) denied: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Answers by the cluster of the pod, failures that a pod answered among them.
    pub(crate) by_cluster: BTreeMap<String, u64>,
    /// Answers by pod, likewise.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// Median latency of the served.
    pub(crate) p50: Option<Duration>,
    /// 99th percentile of the served.
    pub(crate) p99: Option<Duration>,
    /// The first failure, in words.
    pub(crate) first_failure: Option<String>,
}

impl Window {
    /// Counts.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let mut window = Self::default();
        let mut latencies = Vec::with_capacity(samples.len());
        for sample in samples {
            match &sample.outcome {
                Outcome::Served => {
                    window.served += 1;
                    latencies.push(sample.latency);
                }
                Outcome::Denied { .. } => window.denied += 1,
                Outcome::Failed { why } => {
                    window.failed += 1;
                    window.first_failure.get_or_insert_with(|| why.to_string());
                }
            }
            if let Some((pod, cluster)) = &sample.by {
                *window.by_pod.entry(pod.to_string()).or_default() += 1;
                *window.by_cluster.entry(cluster.to_string()).or_default() += 1;
            }
        }
        window.p50 = percentile(&mut latencies, 50);
        window.p99 = percentile(&mut latencies, 99);
        window
    }

    /// All of them.
    pub(crate) fn requests(&self) -> u64 {
        self.served + self.denied + self.failed
    }

    /// Requests per second, if these are those of `over`.
    pub(crate) fn rate(&self, over: Duration) -> f64 {
        let requests = u32::try_from(self.requests()).unwrap_or(u32::MAX);
        f64::from(requests) / over.as_secs_f64().max(1e-3)
    }

    /// Answers of a pod.
    pub(crate) fn of_pod(&self, pod: &str) -> u64 {
        self.by_pod.get(pod).copied().unwrap_or(0)
    }

    /// Answers of a cluster.
    pub(crate) fn of_cluster(&self, cluster: &str) -> u64 {
        self.by_cluster.get(cluster).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, pod: &str, outcome: Outcome) -> Sample {
        let by = Some((Arc::from(pod), Arc::from("west")));
        Sample {
            at,
            latency: Duration::from_millis(2),
            by,
            outcome,
        }
    }

    #[test]
    fn a_window_counts_what_ended_in_it() {
        let ledger = Ledger::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let failed = Outcome::Failed {
            why: Arc::from("status 500"),
        };
        ledger.record(sample(start, "a", Outcome::Served));
        ledger.record(sample(later, "b", failed.clone()));
        // Written late by another connection, ended earlier.
        ledger.record(sample(
            later - Duration::from_millis(50),
            "a",
            Outcome::Served,
        ));
        let all = ledger.since(start);
        assert_eq!((all.served, all.failed, all.requests()), (2, 1, 3));
        assert_eq!((all.of_pod("a"), all.of_cluster("west")), (2, 3));
        assert_eq!(all.first_failure.as_deref(), Some("status 500"));
        let recent = ledger.since(later);
        assert_eq!((recent.served, recent.failed), (0, 1));
        assert_eq!(recent.p50, None);
    }

    #[test]
    fn the_oldest_leave_first() {
        let ledger = Ledger::default();
        let start = Instant::now();
        for _ in 0..=SAMPLES_MAX {
            ledger.record(sample(start, "a", Outcome::Served));
        }
        assert_eq!(ledger.samples(start).len(), SAMPLES_MAX);
    }
}
