//! Does a call from east reach a pod in west, through the gateway, with the client's own identity?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::super::plan::{AppKind, Callee, GATEWAY_WEST, MESH_DOMAIN, Plan, REVIEWS, WEB};
use super::super::report::Report;
use super::super::{metrics, wait};
use super::Stage;
use crate::load::{Caller, Target};
use crate::statistics::human_bytes;

/// Longest time until the first answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A closed door answers at once; waiting for a client's hello would take longer than this.
const DOOR_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let plan = &stage.mesh.plan;
    stage.tell("reviews runs in west only. web in east calls it for the first time.");
    let gateway = plan.ready(&GATEWAY_WEST);
    let before = metrics::relayed(gateway).await?;
    let began = Instant::now();
    let (seen, failed) = first_answer(plan).await?;
    report.failed_requests(failed);
    report.demand(
        failed == 0,
        format!("{failed} calls failed before the first answer"),
    );
    report.time_to_effect(began.elapsed());

    let text = |key: &str| {
        seen.get(key)
            .and_then(Value::as_str)
            .unwrap_or("nobody")
            .to_owned()
    };
    let (pod, cluster, peer) = (text("pod"), text("cluster"), text("peer"));
    let identity = format!(
        "spiffe://east.{MESH_DOMAIN}/ns/{}/sa/{}",
        WEB.namespace, WEB.account
    );
    report.demand(
        cluster == "west",
        format!("a pod in {cluster} answered, not in west"),
    );
    report.demand(
        peer == identity,
        format!("the server saw {peer} as its client, and not {identity}"),
    );
    let crossed = bytes_after(gateway, before).await?;
    report.demand(crossed > 0, "no byte crossed west's gateway");
    let closed = is_closed(plan).await;
    report.demand(closed, "west's pods accept connections from east directly");
    report.figure("answered_by", format!("{cluster}/{pod}"));
    report.figure("client_seen_by_server", peer.clone());
    report.figure("gateway_bytes", crossed);
    report.figure("direct_path_closed", closed);
    report.because(format!(
        "{pod} in {cluster} answered and saw {peer}; {} crossed the gateway, which has no key of \
         either; the direct path is closed",
        human_bytes(crossed)
    ));
    Ok(())
}

/// What the server saw, and how many calls failed before.
async fn first_answer(plan: &Plan) -> anyhow::Result<(Value, u64)> {
    let callee = Callee::REVIEWS;
    let mut caller = Caller::new(Target::new(plan.local(&callee), &callee.host(), "/first"));
    let mut failed = 0;
    let mut last = String::new();
    let answer = wait::until(ANSWER_TIMEOUT, async || {
        match caller.get().await {
            Ok(answer) if answer.status.is_success() => return Ok(Some(answer.body)),
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
                last = format!("status {}: {text}", answer.status.as_u16());
            }
            Err(error) => last = format!("{error:#}"),
        }
        failed += 1;
        Ok(None)
    });
    let Some(body) = answer.await? else {
        bail!(
            "reviews did not answer within {} s: {last}",
            ANSWER_TIMEOUT.as_secs()
        );
    };
    Ok((
        serde_json::from_slice(&body).context("the echo's answer is no JSON")?,
        failed,
    ))
}

/// The gateway counts a connection's bytes while it lives, a moment after they passed.
async fn bytes_after(gateway: SocketAddr, before: u64) -> anyhow::Result<u64> {
    let crossed = wait::until(Duration::from_secs(5), async || {
        let now = metrics::relayed(gateway).await?;
        Ok(Some(now.saturating_sub(before)).filter(|&crossed| crossed > 0))
    });
    Ok(crossed.await?.unwrap_or(0))
}

/// Does a pod in west close connections that come from an address of east's network, to its sidecar and
/// to its application?
async fn is_closed(plan: &Plan) -> bool {
    let [pod, ..] = REVIEWS;
    let from = SocketAddr::new(plan.address(&WEB), 0);
    for door in [plan.mesh(&pod), plan.app(&pod, AppKind::Http)] {
        if !is_door_closed(from, door).await {
            return false;
        }
    }
    true
}

async fn is_door_closed(from: SocketAddr, door: SocketAddr) -> bool {
    let knock = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(from)?;
        let mut stream = socket.connect(door).await?;
        stream.read(&mut [0_u8; 1]).await
    };
    // Refused, reset or ended: closed. Open and silent: it waits for us to speak.
    matches!(timeout(DOOR_TIMEOUT, knock).await, Ok(Ok(0) | Err(_)))
}
