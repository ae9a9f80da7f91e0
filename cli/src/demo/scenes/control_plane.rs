//! Does traffic go on without the control plane, also through sidecars that start meanwhile?

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::mesh::Mesh;
use super::super::plan::{Callee, WEB};
use super::super::report::Report;
use super::super::wait;
use super::{Stage, Traffic, until_traffic};
use crate::client;
use crate::load::{Caller, Target};
use crate::statistics::human;
use crate::status;

/// Longest time from the start of a sidecar to being ready or serving, without a control plane.
const RESTART_MAX: Duration = Duration::from_secs(2);
/// Longest time until something comes back at all.
const BACK_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let traffic = stage.traffic().await?;
    stage.tell("The control plane is killed.");
    let began = Instant::now();
    stage.mesh.kill_control_plane().await?;
    goes_on(&traffic, began, u64::from(stage.rps)).await?;

    let victim = stage.chosen(1);
    stage.tell(&format!(
        "Traffic goes on. The sidecar of {} in west is killed too.",
        victim.name
    ));
    stage.mesh.kill_proxy(&victim).await?;
    let restarted = Instant::now();
    stage.mesh.restart_proxy(&victim)?;
    stage.mesh.ready(&victim).await?;
    let ready = restarted.elapsed();
    report.time("sidecar_ready_after", ready);
    report.demand(
        ready <= RESTART_MAX,
        format!("{} was ready after {}", victim.name, human(ready)),
    );
    until_traffic(&traffic.reviews, restarted, BACK_TIMEOUT, |w| {
        w.of_pod(victim.name) > 0
    })
    .await
    .with_context(|| format!("{} got no requests again", victim.name))?;
    report.time("sidecar_serving_after", restarted.elapsed());
    let window = traffic.since(began);
    report.failed_requests(window.failed + window.denied);
    let failure = window.first_failure.clone().unwrap_or_default();
    report.demand(
        window.served == window.requests(),
        format!(
            "{} requests failed: {failure}",
            window.requests() - window.served
        ),
    );
    report.figure("requests", window.requests());

    stage.tell("Served again. Now web's own sidecar: its clients wait until it is back.");
    let effect = restart_clients_sidecar(stage, &traffic).await?;
    report.time_to_effect(effect);
    report.demand(
        effect <= RESTART_MAX,
        format!("web was served after {}", human(effect)),
    );

    stage.tell("Its first request was answered. The control plane is started again.");
    let started = Instant::now();
    stage.mesh.restart_control_plane()?;
    stage.mesh.control_plane_ready().await?;
    everybody_is_back(&stage.mesh).await?;
    report.time("all_connected_after", started.elapsed());
    report.because(format!(
        "{} requests without a control plane, none failed; a sidecar restarted meanwhile was ready \
         after {}, web's own served its first request after {}",
        window.requests(),
        human(ready),
        human(effect)
    ));
    Ok(())
}

/// Two seconds' worth of requests.
async fn goes_on(traffic: &Traffic, began: Instant, rps: u64) -> anyhow::Result<()> {
    let enough = wait::until(BACK_TIMEOUT, async || {
        Ok((traffic.since(began).requests() >= 2 * rps).then_some(()))
    });
    enough.await?.context("traffic stopped")
}

async fn restart_clients_sidecar(stage: &mut Stage, traffic: &Traffic) -> anyhow::Result<Duration> {
    traffic.reviews.pause().await;
    traffic.cart.pause().await;
    stage.mesh.kill_proxy(&WEB).await?;
    let restarted = Instant::now();
    stage.mesh.restart_proxy(&WEB)?;
    let callee = Callee::REVIEWS;
    let target = Target::new(stage.mesh.plan.local(&callee), &callee.host(), "/again");
    let mut caller = Caller::new(target);
    let mut last = None;
    let served = wait::until(BACK_TIMEOUT, async || {
        let sample = caller.call().await;
        let served = sample.is_served().then_some(());
        last = Some(sample.outcome);
        Ok(served)
    });
    let served = served.await?;
    let effect = restarted.elapsed();
    served.with_context(|| format!("web's sidecar does not serve again: {last:?}"))?;
    traffic.reviews.resume();
    traffic.cart.resume();
    Ok(effect)
}

/// Every proxy has found its control plane again.
pub(super) async fn everybody_is_back(mesh: &Mesh) -> anyhow::Result<()> {
    let wanted = mesh.plan.pods().len();
    let door = mesh.control_door();
    let mut seen = 0;
    let back = wait::until(BACK_TIMEOUT, async || {
        let proxies = client::json(&door, "/proxies").await?;
        seen = status::connected(&proxies).len();
        Ok((seen >= wanted).then_some(()))
    });
    back.await?
        .with_context(|| format!("{seen} of {wanted} proxies came back"))
}
