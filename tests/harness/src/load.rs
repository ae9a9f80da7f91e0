//! What happens to calls that go on while something changes?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::wait::check;
use crate::{Client, until};

/// Clients that call `/` one request after another until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Tally>>,
}

/// What the answers were.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers with 200.
    pub good: usize,
    /// By the pod that gave them.
    pub pods: BTreeMap<String, usize>,
    /// Everything else, in words.
    pub bad: Vec<String>,
    /// When the last of those came.
    pub last_bad: Option<Instant>,
}

impl Load {
    /// Starts a caller for each client.
    #[must_use]
    pub fn start(clients: Vec<Client>) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let callers = clients
            .into_iter()
            .map(|client| tokio::spawn(call(client, Arc::clone(&stop), Arc::clone(&done))))
            .collect();
        Self {
            stop,
            done,
            callers,
        }
    }

    /// Waits for so many more answers, good or bad.
    pub async fn more(&self, answers: usize) {
        let goal = self.done.load(Ordering::SeqCst) + answers;
        until("more answers", async || {
            let done = self.done.load(Ordering::SeqCst);
            check(done >= goal, format!("{done} of {goal}"))
        })
        .await;
    }

    /// Ends it; what came of it.
    ///
    /// # Panics
    /// A caller did.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Tally::default();
        for caller in self.callers {
            let tally = caller.await.expect("a caller that ends");
            all.good += tally.good;
            all.bad.extend(tally.bad);
            all.last_bad = all.last_bad.max(tally.last_bad);
            for (pod, count) in tally.pods {
                *all.pods.entry(pod).or_default() += count;
            }
        }
        all
    }

    /// Ends it; every answer was good.
    ///
    /// # Panics
    /// One was not.
    pub async fn stop_without_failure(self) -> Tally {
        let tally = self.stop().await;
        assert!(
            tally.bad.is_empty(),
            "{} good, failed: {:?}",
            tally.good,
            tally.bad
        );
        tally
    }
}

async fn call(client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::SeqCst) {
        let bad = match client.try_get("/").await {
            Ok(reply) if reply.status == 200 => {
                tally.good += 1;
                *tally.pods.entry(reply.pod().to_owned()).or_default() += 1;
                None
            }
            Ok(reply) => Some(format!("{}: {}", reply.status, reply.text())),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(bad) = bad {
            tally.bad.push(bad);
            tally.last_bad = Some(Instant::now());
        }
        done.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
    tally
}
