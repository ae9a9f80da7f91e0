//! What does the control plane cost: memory, time until it is ready, and from an API server to a proxy?
//!
//! `cargo bench -p isthmus-benches --bench push [-- KEY=VALUE ...]`, keys and defaults in [`Size`]. Three
//! processes of this program: API servers with generated objects and fake proxies in one, the control
//! plane in another, each on a core of its own where there are two.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

#[path = "push/objects.rs"]
mod objects;
#[path = "push/hostile.rs"]
mod hostile;
#[path = "push/servers.rs"]
mod servers;
#[path = "push/subject.rs"]
mod subject;
#[path = "push/proxies.rs"]
mod proxies;
#[path = "push/churn.rs"]
mod churn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use objects::Size;
use proxies::Proxy;
use subject::Subject;

/// What a measurement may fail with.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [role, config] = words.as_slice()
        && role == "control-plane"
    {
        return subject::serve(config);
    }
    let size = Size::of(&words)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(measure(size))
}

async fn measure(size: Size) -> Outcome {
    let fleet = servers::start(size).await?;
    let folder = tempfile::tempdir()?;
    println!(
        "{} clusters, and {} hostile ones; {} services, {} endpoints; {} proxies with {} services each, {} with none",
        size.clusters,
        size.hostile,
        size.services,
        size.endpoints,
        size.proxies,
        size.each,
        size.idle
    );
    let mut control = Subject::start(folder.path(), &fleet).await?;
    let cold = control.ready(&fleet, "synced").await?;
    println!("ready from a cold list        {:8.2} s", cold.as_secs_f64());
    println!(
        "resident, ready               {:8} MiB",
        control.resident()?
    );

    fleet.pause();
    control.saved(folder.path(), &fleet).await?;
    control.kill().await?;
    control = Subject::start(folder.path(), &fleet).await?;
    let warm = control.ready(&fleet, "stale").await?;
    println!("ready from disk, no servers   {:8.2} s", warm.as_secs_f64());
    fleet.resume();
    control.ready(&fleet, "synced").await?;

    let began = Instant::now();
    let (callers, idle) = proxies::connect(size, &control, &fleet).await?;
    println!(
        "{} proxies connected in       {:8.2} s",
        callers.len() + idle.len(),
        began.elapsed().as_secs_f64()
    );
    println!(
        "resident, with proxies        {:8} MiB",
        control.resident()?
    );
    push(size, &control, &fleet, (&callers, &idle)).await?;
    println!(
        "resident, at the end          {:8} MiB",
        control.resident()?
    );
    control.saved(folder.path(), &fleet).await?;
    let began = Instant::now();
    control.kill().await?;
    control = Subject::start(folder.path(), &fleet).await?;
    let serves = began.elapsed();
    let all: Vec<_> = callers.iter().chain(&idle).collect();
    proxies::back(&fleet, &control, &all).await?;
    println!(
        "killed: serves after {:.2} s, and {} proxies that come within {} s are back after {:.2} s",
        serves.as_secs_f64(),
        all.len(),
        proxies::JITTER.as_secs(),
        began.elapsed().as_secs_f64()
    );
    control.kill().await
}

/// Endpoints change at a steady rate; each change is timed from the API server's write until the
/// proxy that calls the service has it.
async fn push(
    size: Size,
    control: &Subject,
    fleet: &Arc<servers::Fleet>,
    (callers, idle): (&[Proxy], &[Proxy]),
) -> Outcome {
    // What comes with the first subscriptions is not counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes = |proxies: &[Proxy]| proxies.iter().map(Proxy::bytes).sum::<u64>();
    let (called, uncalled) = (bytes(callers), bytes(idle));
    let busy = control.processor_time()?;
    let told = churn::run(size, fleet).await;
    let busy = control.processor_time()?.saturating_sub(busy);
    let (called, uncalled) = (bytes(callers) - called, bytes(idle) - uncalled);
    let changes = told.latencies.len().max(1);
    println!("changes                       {:8}", told.sent);
    println!("changes that did not arrive   {:8}", told.lost);
    for (name, share) in [("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999)] {
        let at = told.percentile(share).as_secs_f64() * 1e3;
        println!("write to proxy, {name:<5}         {at:8.1} ms");
    }
    let per = called / u64::try_from(changes)?;
    println!("bytes a change and proxy      {per:8}  (all that the sockets read)");
    println!(
        "bytes to the uninterested     {uncalled:8}  ({} proxies)",
        idle.len()
    );
    println!(
        "control plane's processor     {:8.2} of a core",
        busy.as_secs_f64() / told.took.as_secs_f64()
    );
    Ok(())
}
