//! Endpoints that change at a steady rate, and how long each change takes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::Outcome;
use crate::objects::Size;
use crate::servers::Fleet;
use crate::subject::Subject;

/// Changes come in so many steps a second, as evenly as a timer can.
const STEPS: usize = 100;
/// How long what is under way at the end may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Writes at once where API servers are real: each takes its own time.
const WRITERS: usize = 16;
/// How often it is looked how much is resident, and how late our own timers are.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) sent: usize,
    /// What has not arrived after [`PATIENCE`].
    pub(crate) lost: usize,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
    /// From the last change until all had arrived.
    pub(crate) lag: Duration,
    /// How long writes took, where API servers are real.
    pub(crate) writes: Vec<Duration>,
    /// The most that the control plane had resident meanwhile, in MiB.
    pub(crate) most: u64,
    /// How late the timers of this process were: what it has to do besides is in the latencies, too.
    pub(crate) late: Vec<Duration>,
}

/// The duration that this share of them did not exceed; they are sorted.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let count = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank in a list: not negative, and its fraction does not count"
    )]
    let rank = (count * share) as usize;
    let rank = rank.min(sorted.len().saturating_sub(1));
    sorted.get(rank).copied().unwrap_or_default()
}

/// Changes one endpoint after another, as many of them as are called by somebody.
pub(crate) async fn run(size: Size, control: &Subject, fleet: &Arc<Fleet>) -> Outcome<Told> {
    let done = AtomicBool::new(false);
    let changing = async {
        let began = Instant::now();
        let sent = if fleet.is_real() {
            written(size, fleet).await
        } else {
            generated(size, fleet).await.map(|sent| (sent, Vec::new()))
        };
        let took = began.elapsed();
        let end = Instant::now();
        while fleet.waiting() > 0 && end.elapsed() < PATIENCE {
            sleep(LOOK_EVERY).await;
        }
        done.store(true, Ordering::SeqCst);
        sent.map(|(sent, writes)| (sent, writes, took, end.elapsed()))
    };
    let (changed, watched) = tokio::join!(changing, watch(control, &done));
    let ((sent, mut writes, took, lag), (most, mut late)) = (changed?, watched?);
    let lost = fleet.waiting();
    let mut latencies =
        std::mem::take(&mut *fleet.arrived.lock().unwrap_or_else(PoisonError::into_inner));
    for times in [&mut latencies, &mut writes, &mut late] {
        times.sort_unstable();
    }
    Ok(Told {
        sent,
        lost,
        latencies,
        took,
        lag,
        writes,
        most,
        late,
    })
}

/// At a steady rate.
async fn generated(size: Size, fleet: &Arc<Fleet>) -> Outcome<usize> {
    let called = (size.proxies * size.each).min(size.services);
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(STEPS)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (pods, total) = (called * size.pods_each(), size.rate * size.seconds);
    let (mut sent, mut at) = (0, 0);
    for step in 1..=STEPS * size.seconds {
        ticks.tick().await;
        let due = total * step / (STEPS * size.seconds);
        // Where all have changed and none has arrived, the rate is not kept.
        for _ in 0..pods {
            if sent >= due {
                break;
            }
            // A prime step: neighbours in time are strangers in the tables.
            at = (at + 7_919) % pods.max(1);
            let change = (at / size.pods_each(), at % size.pods_each());
            sent += usize::from(fleet.change(change).await?);
        }
    }
    Ok(sent)
}

/// As fast as API servers take it. No two writers have a service in common.
async fn written(size: Size, fleet: &Arc<Fleet>) -> Outcome<(usize, Vec<Duration>)> {
    let called = (size.proxies * size.each).min(size.services);
    let end = Instant::now() + Duration::from_secs(u64::try_from(size.seconds)?);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS.min(called) {
        let (fleet, sent) = (Arc::clone(fleet), Arc::clone(&sent));
        writers.spawn(async move {
            let mut times = Vec::new();
            let pods = (0..size.pods_each()).cycle();
            let mine =
                pods.flat_map(|pod| (writer..called).step_by(WRITERS).map(move |s| (s, pod)));
            for change in mine {
                let began = Instant::now();
                if began >= end {
                    break;
                }
                if fleet.change(change).await? {
                    times.push(began.elapsed());
                    sent.fetch_add(1, Ordering::SeqCst);
                } else {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = writers.join_next().await {
        times.extend(of_one??);
    }
    Ok((sent.load(Ordering::SeqCst), times))
}

/// What the control plane has resident at most, and how late our own timers are, until all is done.
async fn watch(control: &Subject, done: &AtomicBool) -> Outcome<(u64, Vec<Duration>)> {
    let (mut most, mut late) = (0, Vec::new());
    while !done.load(Ordering::SeqCst) {
        let due = tokio::time::Instant::now() + LOOK_EVERY;
        sleep_until(due).await;
        late.push(due.elapsed());
        if late.len() % 10 == 0 {
            most = most.max(control.resident()?);
        }
    }
    Ok((most, late))
}
