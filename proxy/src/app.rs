//! How do the parts of a proxy come together? The only place where they meet.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result};
use isthmus_proto::locality::Locality;
use isthmus_proxy_core::balance::Me;
use isthmus_proxy_core::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::discovery::{self, Discovery};
use crate::runtime::{self, Bound, Listeners};
use crate::telemetry::Telemetry;
use crate::telemetry::log::AccessLog;
use crate::tls::{TlsStore, provider, server_config};
use crate::worker::Shared;
use crate::{certificates, files};

/// One of the two that keep what the control plane says.
type Task = JoinHandle<()>;

/// First uses that wait for discovery, at most.
const WANTS_MAX: usize = 1024;

/// Runs a proxy until `shutdown` ends, and then until it has drained. Blocks; makes its own
/// threads and runtimes.
///
/// # Errors
/// A listener, a file or a thread could not be had.
pub fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    files::keep_out_of_dumps();
    // Somebody else in this process may have been first, with the same.
    let _ = rustls::crypto::CryptoProvider::install_default((*provider()).clone());
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("make the state folder {}", config.state_dir.display()))?;
    // Held until we have drained. Listeners are shared by all workers, and another proxy could share them, too.
    let _lock = files::lock(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control thread's runtime")?;
    runtime.block_on(control(config, shutdown))
}

async fn control(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let (sets, mut bound) = Listeners::bind(&config)?;
    let log = config.access_log.as_deref().map(AccessLog::open);
    let log = log.transpose().context("access_log")?;
    let telemetry = Arc::new(Telemetry::new(config.workload.to_string(), log));
    let tls = Arc::new(TlsStore::default());
    let me = Me {
        cluster: config.cluster.clone(),
        network: config.network.clone(),
        locality: Locality::default(),
    };
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::empty(me.clone())));
    let (wants, wanted) = mpsc::channel(WANTS_MAX);
    let (drain, draining) = watch::channel(false);
    let (cut, cutting) = watch::channel(false);
    let shared = Arc::new(Shared {
        server: server_config(&tls)?,
        config,
        bound: OnceLock::new(),
        tls: Arc::clone(&tls),
        telemetry,
        snapshots,
        wants,
        draining,
        cut: cutting,
        origin: Instant::now(),
    });
    let (issued, certificates) = watch::channel(0);
    let discovery = Discovery::new(&shared, me, publish);
    let state = discovery.state();
    let token = admin::token(&shared.config.state_dir);
    let admin = Arc::new(Admin::new(Arc::clone(&shared), state, drain.clone(), token));
    bound.admin = admin::listen(shared.config.listen.admin, &admin, admin::Face::Admin)?;
    bound.ready = admin::listen(shared.config.listen.ready, &admin, admin::Face::Ready)?;
    // Nobody was first.
    let _ = shared.bound.set(bound.clone());
    let keeping = tokio::spawn(certificates::keep(
        Arc::new(shared.config.clone()),
        tls,
        Arc::clone(&shared.telemetry),
        (issued, shared.snapshots.clone()),
    ));
    let discovering = tokio::spawn(discovery::run(discovery, wanted, certificates));
    // Ends with the runtime, as what it watches does.
    tokio::spawn(watch_over(Arc::clone(&shared), (keeping, discovering)));
    let workers = runtime::start(&shared, sets)?;
    announce(&shared.config, &bound);
    tracing::info!(workload = %shared.config.workload, ?bound, "started");
    let mut drained = drain.subscribe();
    tokio::select! {
        () = shutdown => {}
        // Asked for by admin.
        _ = drained.wait_for(|draining| *draining) => {}
    }
    tracing::info!("draining");
    drain.send_replace(true);
    let joining =
        tokio::task::spawn_blocking(move || workers.into_iter().for_each(|w| drop(w.join())));
    let limit = shared.config.drain;
    let mut joining = std::pin::pin!(joining);
    if tokio::time::timeout(limit, joining.as_mut()).await.is_err() {
        tracing::warn!(seconds = limit.as_secs(), "cutting what is still open");
        cut.send_replace(true);
        // The workers end at once now.
        let _ = joining.await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Neither ends by itself: one that panicked is counted and said. Traffic goes on with what is known, as if
/// the control plane were away: a restart would meet the same again, and have less.
async fn watch_over(shared: Arc<Shared>, (keeping, discovering): (Task, Task)) {
    let metrics = &shared.telemetry.metrics;
    let ended = |what, ended: Result<(), JoinError>| {
        let why = ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned());
        metrics.panics.inc();
        tracing::error!(why, "{what} ended; restart this proxy");
    };
    tokio::join!(async { ended("certificates", keeping.await) }, async {
        let how = discovering.await;
        metrics.discovery_up.set(0);
        ended("discovery", how);
    });
}

/// Says where the listeners really are. A full disk keeps nobody from serving.
fn announce(config: &Config, bound: &Bound) {
    let text = serde_json::to_vec(bound).context("encode listeners.json");
    let file = config.state_dir.join("listeners.json");
    if let Err(error) = text.and_then(|text| files::write_private(&file, &text)) {
        tracing::error!(
            error = format!("{error:#}"),
            "nobody is told where it listens"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_panic_of_what_talks_to_the_control_plane_is_counted_and_said() {
        let bench = crate::worker::tests::bench();
        let shared = Arc::clone(&bench.worker.shared);
        let metrics = &shared.telemetry.metrics;
        metrics.discovery_up.set(1);
        let lives = tokio::spawn(std::future::pending());
        let dies = tokio::spawn(async { panic!("for the test") });
        let watching = tokio::spawn(watch_over(Arc::clone(&shared), (lives, dies)));
        while metrics.panics.get() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(metrics.discovery_up.get(), 0);
        assert!(!watching.is_finished(), "the other one is watched");
    }
}
