//! Are local pods preferred, do remote ones take over without a failed request, and does it go back?

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::manifests;
use super::super::plan::CART_EAST;
use super::super::report::Report;
use super::{Stage, before, local_pods, until_traffic};
use crate::load::{Load, Window};
use crate::statistics::{human, percent};

/// Share of requests that local pods get while they are well.
const LOCAL_PERCENT_MIN: f64 = 95.0;
/// Longest time for either direction.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let traffic = stage.traffic().await?;
    let cart = &traffic.cart;
    let calm = cart.ledger().since(before(Duration::from_secs(1)));
    let local = percent(calm.of_cluster("east"), calm.requests());
    report.figure("local_before_percent", local.round());
    report.demand(
        local >= LOCAL_PERCENT_MIN,
        format!("only {local:.0} % of the calls stayed in east while its pods were well"),
    );

    stage.tell(&format!(
        "cart runs in both clusters; {local:.0} % of web's calls stay in east. {} are killed.",
        local_pods()
    ));
    let began = Instant::now();
    for pod in CART_EAST {
        stage.mesh.kill_pod(&pod).await?;
    }
    let all_remote = |window: &Window| window.of_cluster("west") == window.requests();
    until_traffic(cart, began, TURN_TIMEOUT, all_remote)
        .await
        .context("failing over")?;
    let failed_over = began.elapsed();
    // A kubelet would notice a moment later.
    stage
        .mesh
        .put_unready(&manifests::CART_EAST, CART_EAST.len())
        .await?;
    let unready = Instant::now();
    until_traffic(cart, unready, TURN_TIMEOUT, all_remote)
        .await
        .context("staying in west")?;
    let first_remote = cart.ledger().samples(began).into_iter();
    let first_remote = first_remote
        .filter(|s| s.is_from_cluster("west"))
        .map(|s| s.at)
        .min();
    let effect = first_remote.map_or(failed_over, |at| at.saturating_duration_since(began));
    report.time_to_effect(effect);
    report.time("all_in_west_after", failed_over);

    stage.tell("west answers everything. The pods in east are started again.");
    let back = fail_back(stage, cart).await?;
    let window = cart.ledger().since(began);
    report.time("back_in_east_after", back);
    report.figure("requests", window.requests());
    report.failed_requests(window.failed + window.denied);
    report.demand(
        window.served == window.requests(),
        format!(
            "{} requests failed: {}",
            window.failed,
            window.first_failure.unwrap_or_default()
        ),
    );
    report.because(format!(
        "the first answer from west came {} after the kill; back in east {} after its pods were; \
         no request failed",
        human(effect),
        human(back)
    ));
    Ok(())
}

/// Starts the local pods again; how long after that nearly all calls stay in east.
async fn fail_back(stage: &mut Stage, cart: &Load) -> anyhow::Result<Duration> {
    for pod in CART_EAST {
        stage.mesh.restart_pod(&pod).await?;
    }
    stage.mesh.put(&manifests::CART_EAST).await?;
    let back = Instant::now();
    until_traffic(cart, back, TURN_TIMEOUT, |window| {
        percent(window.of_cluster("east"), window.requests()) >= LOCAL_PERCENT_MIN
    })
    .await
    .context("failing back")?;
    Ok(back.elapsed())
}
