//! Endpoints that change at a steady rate, and how long each change takes.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::objects::{self, Size};
use crate::servers::Fleet;

/// Changes come in so many steps a second, as evenly as a timer can.
const STEPS: usize = 100;
/// How long what is under way at the end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) sent: usize,
    /// What has not arrived after [`PATIENCE`].
    pub(crate) lost: usize,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
}

impl Told {
    /// The latency that this share of the changes did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let count = f64::from(u32::try_from(self.latencies.len()).unwrap_or(u32::MAX));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank in a list: not negative, and its fraction does not count"
        )]
        let rank = (count * share) as usize;
        self.latencies
            .get(rank.min(self.latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

/// Changes one endpoint after another, as many of them as are called by somebody; each is told apart by its name, and
/// none changes again before it has arrived.
pub(crate) async fn run(size: Size, fleet: &Arc<Fleet>) -> Told {
    let called = (size.proxies * size.each).min(size.services);
    let mut down: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(STEPS).unwrap_or(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (began, total) = (Instant::now(), size.rate * size.seconds);
    let (mut sent, mut at) = (0, 0);
    for step in 1..=STEPS * size.seconds {
        ticks.tick().await;
        while sent < total * step / (STEPS * size.seconds) {
            // A prime step: neighbours in time are strangers in the tables.
            at = (at + 7_919) % (called * size.pods_each()).max(1);
            change(
                size,
                fleet,
                (at / size.pods_each(), at % size.pods_each()),
                &mut down,
            );
            sent += 1;
        }
    }
    let took = began.elapsed();
    let end = Instant::now();
    while !waiting(fleet).is_empty() && end.elapsed() < PATIENCE {
        sleep(Duration::from_millis(20)).await;
    }
    let lost = waiting(fleet).len();
    let mut latencies =
        std::mem::take(&mut *fleet.arrived.lock().unwrap_or_else(PoisonError::into_inner));
    latencies.sort_unstable();
    Told {
        sent,
        lost,
        latencies,
        took,
    }
}

fn change(
    size: Size,
    fleet: &Fleet,
    (service, pod): (usize, usize),
    down: &mut BTreeSet<(usize, usize)>,
) {
    let (cluster, number) = size.place(service);
    let name = format!(
        "{}#{}",
        objects::subscription(cluster, number),
        objects::workload(cluster, number, pod)
    );
    {
        let mut waiting = fleet.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the first one has arrived they would be one change to the proxy.
        if waiting.contains_key(&name) {
            return;
        }
        waiting.insert(name, Instant::now());
    }
    if !down.remove(&(service, pod)) {
        down.insert((service, pod));
    }
    fleet.change((cluster, number), |pod| !down.contains(&(service, pod)));
}

fn waiting(fleet: &Fleet) -> Vec<String> {
    let waiting = fleet.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.keys().cloned().collect()
}
