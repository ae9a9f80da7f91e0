//! Who answers when requests come steadily, how fast, and how many fail?

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::args::{Format, LoadOptions};
use crate::output;
use crate::shutdown;
use crate::statistics::{human, milliseconds, shares};

mod generator;
mod ledger;

pub(crate) use generator::{Caller, Load, Target};
pub(crate) use ledger::{Ledger, Outcome, Window};

/// `isthmus load`: sends requests for a while and prints what came back.
///
/// # Errors
/// No runtime.
pub(crate) fn run(options: &LoadOptions, format: Format) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let host = options
        .host
        .clone()
        .unwrap_or_else(|| options.to.to_string());
    let target = Target::new(options.to, &host, &options.path);
    let started = Instant::now();
    let window = runtime.block_on(async {
        let load = Load::start(&target, options.rps, options.connections);
        // Both branches are cancel-safe; only one result is used.
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(options.seconds)) => {}
            () = shutdown::requested(false) => {}
        }
        load.stop().await;
        load.ledger().since(started)
    });
    report(&window, started.elapsed(), format);
    Ok(())
}

fn report(window: &Window, over: Duration, format: Format) {
    let per_second = window.rate(over);
    match format {
        Format::Json => output::json(&json!({
            "requests": window.requests(),
            "failed": window.failed,
            "denied": window.denied,
            "requests_per_second": per_second.round(),
            "p50_ms": window.p50.map(|t| t.as_secs_f64() * 1e3),
            "p99_ms": window.p99.map(|t| t.as_secs_f64() * 1e3),
            "by_cluster": window.by_cluster,
            "by_pod": window.by_pod,
            "first_failure": window.first_failure,
            "seconds": milliseconds(over) / 1000,
        })),
        Format::Text => {
            output::line(&format!(
                "{} requests, {per_second:.0}/s, {} failed, {} denied",
                window.requests(),
                window.failed,
                window.denied
            ));
            output::line(&format!("clusters  {}", shares(&window.by_cluster, 8)));
            output::line(&format!("pods      {}", shares(&window.by_pod, 16)));
            if let (Some(p50), Some(p99)) = (window.p50, window.p99) {
                output::line(&format!("latency   p50 {}, p99 {}", human(p50), human(p99)));
            }
            if let Some(failure) = &window.first_failure {
                output::line(&format!("first failure: {failure}"));
            }
        }
    }
}
