//! Is one bad remote pod left out, through the gateway, while its neighbours keep serving?

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::Value;

use super::super::plan::{AppKind, Plan, Pod, REVIEWS, WEB};
use super::super::report::Report;
use super::super::wait;
use super::{Stage, before, until_traffic};
use crate::client::{self, Door};
use crate::load::Window;
use crate::statistics::human;

/// Longest time from turning bad to the last request that the pod gets.
const EFFECT_MAX: Duration = Duration::from_secs(2);
/// Most requests that may meet the bad pod before it is ejected.
const FAILED_MAX: u64 = 20;
/// Without a request for so long, it is out: at the lowest rate it would get three.
const QUIET: Duration = Duration::from_secs(1);

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let traffic = stage.traffic().await?;
    let bad = stage.chosen(0);
    let plan = &stage.mesh.plan;
    stage.tell(&format!("{} in west answers 500 from now on.", bad.name));
    turn(plan, &bad, "500").await?;
    let began = Instant::now();
    let ejected = ejected(&stage.mesh.door(&WEB), &bad).await?;
    let ejected = ejected.saturating_duration_since(began);
    let ledger = traffic.reviews.ledger();
    let quiet = wait::until(Duration::from_secs(15), async || {
        let window = ledger.since(before(QUIET));
        let is_out = began.elapsed() > QUIET && window.of_pod(bad.name) == 0 && window.served > 0;
        Ok(is_out.then_some(window))
    });
    let quiet = quiet
        .await?
        .with_context(|| format!("{} kept getting requests", bad.name))?;
    let samples = ledger.samples(began);
    let last = samples
        .iter()
        .filter(|s| s.is_from_pod(bad.name))
        .map(|s| s.at)
        .max();
    let effect = last.map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
    let window = Window::of(&samples);
    judge(report, &window, (ejected, effect));
    for pod in REVIEWS.iter().filter(|pod| pod.name != bad.name) {
        let serves = quiet.of_pod(pod.name) > 0;
        report.demand(
            serves,
            format!("its neighbour {} got no requests either", pod.name),
        );
    }

    stage.tell(&format!(
        "{} is out; its neighbours serve. Now it is healed.",
        bad.name
    ));
    turn(plan, &bad, "off").await?;
    let healed = Instant::now();
    until_traffic(
        &traffic.reviews,
        healed,
        Duration::from_secs(40),
        |window| window.of_pod(bad.name) > 0 && window.failed == 0,
    )
    .await
    .with_context(|| format!("{} was healed, but got no requests again", bad.name))?;
    report.figure("bad_pod", bad.name);
    report.figure("neighbours_served", window.served);
    report.time("back_after", healed.elapsed());
    report.because(format!(
        "{} was ejected {} after it turned bad; {} requests had met it, the last after {}; back when healed",
        bad.name,
        human(ejected),
        window.failed,
        human(effect)
    ));
    Ok(())
}

/// Was the pod out in time, before too many met it?
fn judge(report: &mut Report, window: &Window, (ejected, effect): (Duration, Duration)) {
    report.failed_requests(window.failed);
    report.time_to_effect(ejected);
    report.time("last_request_after", effect);
    report.demand(
        ejected <= EFFECT_MAX && effect <= EFFECT_MAX,
        format!(
            "it took {} until it was ejected, {} until it got nothing",
            human(ejected),
            human(effect)
        ),
    );
    report.demand(
        window.failed <= FAILED_MAX,
        format!(
            "{} requests met the bad pod, {FAILED_MAX} are allowed",
            window.failed
        ),
    );
}

/// When web's sidecar says that it has ejected the pod.
async fn ejected(web: &Door, bad: &Pod) -> anyhow::Result<Instant> {
    let end = format!("/{}", bad.name);
    let ejected = wait::until(Duration::from_secs(15), async || {
        let config = client::json(web, "/config").await?;
        let services = config["services"].as_array().into_iter().flatten();
        let mut endpoints =
            services.flat_map(|one| one["endpoints"].as_array().into_iter().flatten());
        let is_out = |one: &Value| {
            let is_it = one["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(&end));
            is_it && one["stats"]["ejected"] == true
        };
        Ok(endpoints.any(is_out).then(Instant::now))
    });
    ejected
        .await?
        .with_context(|| format!("web's sidecar did not eject {}", bad.name))
}

/// Tells an application to be bad, or good again: directly, as its owner would.
pub(super) async fn turn(plan: &Plan, pod: &Pod, mode: &str) -> anyhow::Result<()> {
    let at = plan.app(pod, AppKind::Http);
    let answer = client::ask(Method::POST, at, &format!("/control/fail?mode={mode}")).await?;
    ensure!(
        answer.status.is_success(),
        "{} would not turn {mode}: {}",
        pod.name,
        answer.status
    );
    Ok(())
}
