//! Does a policy, written into the folder, take effect on requests and on live connections?

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::super::callers::TcpCaller;
use super::super::plan::{Callee, Plan};
use super::super::report::Report;
use super::super::{manifests, wait};
use super::{Stage, until_traffic};
use crate::load::{Load, Outcome, Window};
use crate::statistics::human;
use crate::why;

/// Longest time from the edit to the last call that it no longer allows.
const EFFECT_MAX: Duration = Duration::from_secs(5);
/// How long we look for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// The policy that a refusal must name.
const POLICY: &str = "web-of-east-may-not-call";

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let traffic = stage.traffic().await?;
    let began = Instant::now();
    let forbidden = forbid(stage, &traffic.reviews, report).await?;
    let proxy = stage.mesh.door_of(&forbidden.reason)?;
    let story = why::reason(&proxy, &forbidden.reason).await?;
    stage.tell(&format!("403. `isthmus why {}` says:", forbidden.reason));
    stage.screen.say(story.text.trim_end());
    report.demand(
        story.text.contains(POLICY),
        format!("the reason does not name {POLICY}"),
    );
    let allowed = lift(stage, &traffic.reviews).await?;
    report.time("allowed_again_after", allowed);
    let window = traffic.since(began);
    report.failed_requests(window.failed);
    let failure = window.first_failure.unwrap_or_default();
    report.demand(
        window.failed == 0,
        format!("{} requests failed: {failure}", window.failed),
    );
    report.figure("denied", window.denied);
    report.because(format!(
        "403 with a reason after {}, a live TCP connection cut after {}, allowed again {} after \
         it was gone; nothing else failed",
        human(forbidden.effect),
        human(forbidden.cut),
        human(allowed)
    ));
    Ok(())
}

/// What the policy did.
struct Forbidden {
    /// Until no call was allowed any more.
    effect: Duration,
    /// Until the TCP connection that was open was cut.
    cut: Duration,
    /// The id that a refusal carried.
    reason: String,
}

async fn forbid(stage: &Stage, load: &Load, report: &mut Report) -> anyhow::Result<Forbidden> {
    let plan = &stage.mesh.plan;
    let mut live = TcpCaller::open(plan.local(&Callee::TCP)).await?;
    live.echo("before the policy")
        .await
        .context("TCP before the policy")?;
    stage.tell(&format!(
        "{} is written into {}: web of east may call neither reviews nor echo.",
        manifests::FORBID_WEB.file,
        stage.mesh.store.place(manifests::FORBID_WEB.cluster)
    ));
    stage.mesh.put(&manifests::FORBID_WEB).await?;
    let began = Instant::now();
    let cut = live.until_closed(LOOK_TIMEOUT).await;
    let cut = cut
        .context("the TCP connection that was open")?
        .saturating_duration_since(began);
    let all_denied = |window: &Window| window.denied == window.requests();
    until_traffic(load, began, LOOK_TIMEOUT, all_denied)
        .await
        .context("forbidding")?;
    let (effect, reason) = denied(load, began)?;
    new_connections_are_closed(plan).await?;
    report.time_to_effect(effect);
    report.demand(
        effect <= EFFECT_MAX,
        format!("calls were allowed for {}", human(effect)),
    );
    report.time("live_tcp_cut_after", cut);
    report.figure("reason", reason.clone());
    Ok(Forbidden {
        effect,
        cut,
        reason,
    })
}

async fn lift(stage: &Stage, load: &Load) -> anyhow::Result<Duration> {
    stage.tell("It is removed again.");
    stage.mesh.remove(&manifests::FORBID_WEB).await?;
    let lifted = Instant::now();
    let all_served = |window: &Window| window.served == window.requests();
    until_traffic(load, lifted, LOOK_TIMEOUT, all_served)
        .await
        .context("allowing again")?;
    new_connections_are_open(&stage.mesh.plan).await?;
    first(load, lifted, |outcome| *outcome == Outcome::Served)
}

/// When the last call was allowed, and the reason of a refusal.
fn denied(load: &Load, began: Instant) -> anyhow::Result<(Duration, String)> {
    let samples = load.ledger().samples(began);
    let reason = samples
        .iter()
        .rev()
        .find_map(|sample| match &sample.outcome {
            Outcome::Denied { reason } => Some(reason.clone()),
            Outcome::Served | Outcome::Failed { .. } => None,
        });
    // The last one that was served, or the first refusal, whichever is later.
    let last = samples.iter().filter(|s| s.is_served()).map(|s| s.at).max();
    let first = first(load, began, |outcome| {
        matches!(outcome, Outcome::Denied { .. })
    })?;
    let last = last.map_or(first, |at| at.saturating_duration_since(began));
    Ok((first.max(last), reason.context("no refusal has a reason")?))
}

fn first(
    load: &Load,
    from: Instant,
    wanted: impl Fn(&Outcome) -> bool,
) -> anyhow::Result<Duration> {
    let samples = load.ledger().samples(from);
    let at = samples
        .iter()
        .filter(|s| wanted(&s.outcome))
        .map(|s| s.at)
        .min();
    Ok(at
        .context("no such answer")?
        .saturating_duration_since(from))
}

async fn new_connections_are_closed(plan: &Plan) -> anyhow::Result<()> {
    // A reset may come before the connection is seen to be open.
    let closed = wait::until(LOOK_TIMEOUT, async || {
        Ok(echoed(plan, "after the policy")
            .await
            .is_err()
            .then_some(()))
    });
    match closed.await? {
        Some(()) => Ok(()),
        None => bail!("new TCP connections were still relayed"),
    }
}

async fn new_connections_are_open(plan: &Plan) -> anyhow::Result<()> {
    let open = wait::until(LOOK_TIMEOUT, async || {
        Ok(echoed(plan, "allowed again").await.ok())
    });
    open.await?
        .context("TCP is still refused though the policy is gone")
}

/// Something goes there and back over a new connection.
async fn echoed(plan: &Plan, text: &str) -> anyhow::Result<()> {
    let mut caller = TcpCaller::open(plan.local(&Callee::TCP)).await?;
    caller.echo(text).await
}
