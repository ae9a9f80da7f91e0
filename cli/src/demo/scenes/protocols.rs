//! Do protocols other than HTTP/1.1 cross the gateway too?

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::timeout;

use super::super::callers::{self, TcpCaller};
use super::super::plan::{Callee, Plan};
use super::super::report::Report;
use super::Stage;
use crate::statistics::human;

/// Longest time for one protocol.
const PROTOCOL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a greeting: nothing is sniffed before it.
const GREETING_MAX: Duration = Duration::from_secs(1);
/// Messages on the gRPC stream, each awaited before the next is sent.
const STREAM_MESSAGES: usize = 20;

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let plan = &stage.mesh.plan;
    stage.tell("web speaks gRPC, TCP, to a server that speaks first, and to Redis; all in west.");
    let began = Instant::now();
    let mut failed = 0;
    let (grpc, tcp) = (plan.local(&Callee::GRPC), plan.local(&Callee::TCP));
    let host = Callee::GRPC.host();
    let unary = within(callers::grpc_unary(grpc, &host, b"one")).await;
    failed += note(report, "grpc_unary", unary);
    let stream = within(callers::grpc_stream(grpc, &host, STREAM_MESSAGES)).await;
    failed += note(report, "grpc_stream", stream);
    let echo = within(async { TcpCaller::open(tcp).await?.echo("hello, west").await }).await;
    failed += note(report, "tcp_echo", echo);
    failed += greeting(report, plan).await;
    let redis = if plan.redis.is_some() {
        let set_and_get = within(callers::redis(plan.local(&Callee::REDIS))).await;
        failed += note(report, "redis", set_and_get);
        "Redis"
    } else {
        stage.tell("redis-server is not installed: skipped.");
        report.figure("redis", "skipped: redis-server is not installed");
        "no Redis, which is not installed"
    };
    report.failed_requests(failed);
    report.time_to_effect(began.elapsed());
    report.because(format!(
        "a gRPC call, {STREAM_MESSAGES} messages there and back on one gRPC stream, TCP, a greeting \
         before a byte was sent, and {redis}"
    ));
    Ok(())
}

async fn greeting(report: &mut Report, plan: &Plan) -> u64 {
    let began = Instant::now();
    let greeted = within(async {
        let mut caller = TcpCaller::open(plan.local(&Callee::GREETER)).await?;
        let line = caller.line().await.context("waiting for the greeting")?;
        let waited = began.elapsed();
        anyhow::ensure!(
            line.starts_with("hello from echo-1 in west"),
            "it said {line:?}"
        );
        caller.echo("and hello to you").await?;
        Ok(waited)
    });
    match greeted.await {
        Ok(waited) => {
            report.time("greeting_after", waited);
            report.demand(
                waited <= GREETING_MAX,
                format!("the greeting took {}", human(waited)),
            );
            0
        }
        Err(error) => note(report, "greeting", Err(error)),
    }
}

/// 1 if it failed, so that it can be added up.
fn note(report: &mut Report, name: &str, outcome: anyhow::Result<()>) -> u64 {
    match outcome {
        Ok(()) => {
            report.figure(name, "works");
            0
        }
        Err(error) => {
            report.figure(name, "failed");
            report.demand(false, format!("{name}: {error:#}"));
            1
        }
    }
}

async fn within<T>(exchange: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match timeout(PROTOCOL_TIMEOUT, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!("not within {} s", PROTOCOL_TIMEOUT.as_secs()),
    }
}
