//! What do a thousand proxies see of a control plane that is killed and starts again (SECURITY F23)?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use crate::Outcome;
use crate::objects::Size;
use crate::proxies::Proxy;
use crate::servers::Fleet;
use crate::subject::Subject;

/// Longest wait until all are back.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Kills it, turns one endpoint for each proxy that calls somebody, starts it again, and waits until each
/// proxy is back, has acknowledged everything, and knows of what it missed.
pub(crate) async fn measure(
    size: Size,
    (control, fleet): (Subject, &Arc<Fleet>),
    (folder, proxies): (&Path, &[&Proxy]),
) -> Outcome<Subject> {
    control.saved(folder, fleet).await?;
    let withdrawn = || -> usize {
        let each = proxies.iter();
        each.map(|proxy| proxy.seen.withdrawn.load(Ordering::SeqCst))
            .sum()
    };
    let before = withdrawn();
    control.kill().await?;
    until(|| proxies.iter().all(|proxy| !is_connected(proxy))).await?;
    for number in 0..size.proxies {
        fleet.change((number * size.each, 0)).await?;
    }
    sleep(Duration::from_secs(u64::try_from(size.away)?)).await;
    fleet.first_told();

    let control = Subject::start(folder, fleet).await?;
    let began = control.began;
    let listens = began.elapsed();
    let told = async {
        until(|| fleet.waiting() == 0).await?;
        Outcome::Ok(began.elapsed())
    };
    let (ready, back, told) = tokio::join!(control.says_ready(), all_back(&control, proxies), told);
    let (ready, (half, last), told) = (ready?, back?, told?);
    let first = fleet.first_told().map(|first| first - began);
    println!(
        "killed, and started again {} s later, under {} proxies; since that start:",
        size.away,
        proxies.len()
    );
    let seconds = |name: &str, time: Duration| println!("  {name:<28}{:8.2} s", time.as_secs_f64());
    seconds("it listens", listens);
    seconds("it says that it is ready", ready);
    seconds("first response at a proxy", first.unwrap_or_default());
    seconds("half of them are back", half - began);
    seconds("all back, all acknowledged", last - began);
    seconds("what they missed is told", told);
    println!("  taken away meanwhile        {:8}", withdrawn() - before);
    Ok(control)
}

fn is_connected(proxy: &Proxy) -> bool {
    proxy.seen.connected.load(Ordering::SeqCst)
}

/// When half of them were connected, and when the control plane had no more to say to any of them.
async fn all_back(control: &Subject, proxies: &[&Proxy]) -> Outcome<(Instant, Instant)> {
    let connected =
        |count: usize| move || proxies.iter().filter(|proxy| is_connected(proxy)).count() >= count;
    until(connected(proxies.len() / 2)).await?;
    let half = Instant::now();
    until(connected(proxies.len())).await?;
    while half.elapsed() < PATIENCE {
        let all = control.proxies().await?;
        let known: BTreeMap<&str, &Value> = all
            .iter()
            .filter_map(|one| Some((one["node"].as_str()?, &one["types"])))
            .collect();
        let whole = |proxy: &&Proxy| {
            let types = known.get(proxy.asks.workload.as_str());
            types.is_some_and(|types| is_acknowledged(types, proxy.asks.endpoints))
        };
        if proxies.iter().all(whole) {
            return Ok((half, Instant::now()));
        }
        sleep(LOOK_EVERY).await;
    }
    Err("proxies are connected, and have not acknowledged everything".into())
}

/// Does a proxy have its workload and all endpoints, and owe no acknowledgement?
fn is_acknowledged(types: &Value, endpoints: usize) -> bool {
    let held = |kind: &str| types[kind]["held"].as_u64().unwrap_or(0);
    let wants = u64::try_from(endpoints).unwrap_or(u64::MAX);
    let mut each = types.as_object().into_iter().flatten();
    held("Workload") > 0
        && held("Endpoint") >= wants
        && each.all(|(_, state)| state["in_flight"] == false && state["nacked"] == 0)
}

async fn until(is: impl Fn() -> bool) -> Outcome {
    let began = Instant::now();
    while !is() {
        if began.elapsed() > PATIENCE {
            return Err("it did not come to be".into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
