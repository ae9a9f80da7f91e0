//! Does traffic go on while a cluster's API server is dead or frozen, and does all recover by itself?

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::super::plan::{Cluster, REVIEWS};
use super::super::report::Report;
use super::super::{manifests, wait};
use super::{Stage, Traffic, control_plane, until_traffic};
use crate::client;
use crate::statistics::human;

/// Longest time for the whole scene: a silent watch is noticed within a minute.
pub(super) const SCENE_TIMEOUT: Duration = Duration::from_secs(240);
/// Longest time until the control plane says of a cluster what is so.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest time until a change in a cluster shows in the traffic.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(45);
/// An age that can't be mistaken for none.
const AGE_SECONDS_MIN: f64 = 3.0;
/// The cluster whose API server it is.
const VICTIM: Cluster = Cluster::West;

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let traffic = stage.traffic().await?;
    let began = Instant::now();
    stage.tell("west's API server is killed. Its pods serve, and the traffic goes on.");
    server(stage)?.api().kill().await?;
    let stale = until_said(stage, is_stale).await.context("after a kill")?;
    report.time("stale_after_kill", began.elapsed());
    tell_status(stage, &stale);
    stage.tell("The control plane is killed too, and started again: west is dead all the while.");
    restart_control_plane(stage).await?;
    let stale = until_said(stage, is_stale)
        .await
        .context("after a restart")?;
    tell_status(stage, &stale);
    let after_kill = recover(stage, &traffic).await.context("from a kill")?;
    report.time("recovered_after_kill", after_kill);
    stage.tell(&format!(
        "Started again: {} later the control plane follows it as before.",
        human(after_kill)
    ));

    stage.tell("Now it is frozen (SIGSTOP): connections stay open, and nothing answers.");
    server(stage)?.api().stop().await?;
    let frozen = Instant::now();
    let stale = until_said(stage, is_stale).await.context("after a stop")?;
    report.time("stale_after_stop", frozen.elapsed());
    tell_status(stage, &stale);
    stage.tell("The control plane is killed and started again, while it is frozen.");
    restart_control_plane(stage).await?;
    let stale = until_said(stage, is_stale)
        .await
        .context("after a restart")?;
    tell_status(stage, &stale);
    let after_stop = recover(stage, &traffic).await.context("from a stop")?;
    report.time("recovered_after_stop", after_stop);

    let window = traffic.since(began);
    report.time_to_effect(after_kill.max(after_stop));
    report.figure("requests", window.requests());
    report.failed_requests(window.failed + window.denied);
    let failure = window.first_failure.clone().unwrap_or_default();
    report.demand(
        window.served == window.requests(),
        format!(
            "{} requests failed: {failure}",
            window.requests() - window.served
        ),
    );
    report.because(format!(
        "{} requests, none failed, while west's API server was killed and frozen and the control \
         plane restarted each time; it was followed again {} and {} after it was back",
        window.requests(),
        human(after_kill),
        human(after_stop)
    ));
    Ok(())
}

fn server(stage: &mut Stage) -> anyhow::Result<&mut isthmus_test_clusters::Cluster> {
    let servers = stage.mesh.store.servers_mut();
    let servers = servers.context("the scene api-server needs --kubernetes")?;
    Ok(servers.of_mut(VICTIM))
}

async fn restart_control_plane(stage: &mut Stage) -> anyhow::Result<()> {
    stage.mesh.kill_control_plane().await?;
    stage.mesh.restart_control_plane()?;
    stage.mesh.control_plane_ready().await?;
    control_plane::everybody_is_back(&stage.mesh).await
}

/// Brings the API server back, and waits until a change there shows in the traffic; how long after
/// it was back the control plane knew.
async fn recover(stage: &mut Stage, traffic: &Traffic) -> anyhow::Result<Duration> {
    server(stage)?.revive().await?;
    let back = Instant::now();
    until_said(stage, |said| said["state"] == "synced").await?;
    let known = back.elapsed();
    stage.mesh.put_unready(&manifests::REVIEWS, 1).await?;
    let [first, ..] = REVIEWS;
    let marked = Instant::now();
    until_traffic(&traffic.reviews, marked, CHANGE_TIMEOUT, |window| {
        window.of_pod(first.name) == 0
    })
    .await
    .with_context(|| format!("{} is not ready and still gets requests", first.name))?;
    stage.mesh.put(&manifests::REVIEWS).await?;
    let marked = Instant::now();
    until_traffic(&traffic.reviews, marked, CHANGE_TIMEOUT, |window| {
        window.of_pod(first.name) > 0
    })
    .await
    .with_context(|| format!("{} is ready and gets no requests", first.name))?;
    Ok(known)
}

fn is_stale(said: &Value) -> bool {
    let age = said["age_seconds"].as_f64();
    said["state"] == "stale" && age.is_some_and(|age| age >= AGE_SECONDS_MIN)
}

/// What the control plane says of the cluster, once it is as wanted.
async fn until_said(stage: &Stage, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let said = wait::until(NOTICE_TIMEOUT, async || {
        let world = client::json(&stage.mesh.control_door(), "/clusters").await?;
        let clusters = world.as_array().into_iter().flatten();
        let ours = clusters
            .into_iter()
            .find(|cluster| cluster["cluster"] == VICTIM.name());
        last = ours.cloned().unwrap_or_default();
        Ok(wanted(&last).then(|| last.clone()))
    });
    said.await?.with_context(|| {
        let (state, reason) = (&last["state"], &last["reason"]);
        format!("the control plane still says of west: {state} ({reason})")
    })
}

fn tell_status(stage: &Stage, said: &Value) {
    let age = Duration::from_secs_f64(said["age_seconds"].as_f64().unwrap_or_default());
    stage.tell(&format!(
        "`isthmus status` says: west, {}, {}",
        said["state"].as_str().unwrap_or_default(),
        human(age)
    ));
}
