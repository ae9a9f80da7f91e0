//! What does the control plane cost: memory, time until it is ready, and from an API server to a proxy?
//!
//! `cargo bench -p isthmus-benches --bench push [-- KEY=VALUE ...]`, keys and defaults in [`Size`]. Two
//! processes of this program: API servers with generated objects and fake proxies in one, the control
//! plane in another, each on a core of its own where there are two. With `real=1` the API servers are real;
//! one that means harm (`hostile=1`) is a third process.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

#[path = "push/objects.rs"]
mod objects;
#[path = "push/hostile.rs"]
mod hostile;
#[path = "push/real.rs"]
mod real;
#[path = "push/servers.rs"]
mod servers;
#[path = "push/subject.rs"]
mod subject;
#[path = "push/proxies.rs"]
mod proxies;
#[path = "push/subscriber.rs"]
mod subscriber;
#[path = "push/churn.rs"]
mod churn;
#[path = "push/restart.rs"]
mod restart;

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
    if let [role, rest @ ..] = words.as_slice()
        && role == "hostile"
    {
        return runtime()?.block_on(hostile::serve(Size::of(rest)?));
    }
    let size = Size::of(&words)?;
    // Real API servers need both.
    if !size.real {
        subject::stay_beside()?;
    }
    runtime()?.block_on(measure(size))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

async fn measure(size: Size) -> Outcome {
    let Some(fleet) = servers::start(size).await? else {
        return Ok(());
    };
    let measured = Box::pin(all(size, &fleet)).await;
    fleet.end().await?;
    measured
}

async fn all(size: Size, fleet: &Arc<servers::Fleet>) -> Outcome {
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
    let mut control = Subject::start(folder.path(), fleet).await?;
    let cold = control.ready(fleet, "synced").await?;
    println!("ready from a cold list        {:8.2} s", cold.as_secs_f64());
    println!(
        "resident, ready               {:8} MiB",
        control.resident()?
    );

    fleet.pause().await?;
    control.saved(folder.path(), fleet).await?;
    control.kill().await?;
    control = Subject::start(folder.path(), fleet).await?;
    let warm = control.ready(fleet, "stale").await?;
    println!("ready from disk, no servers   {:8.2} s", warm.as_secs_f64());
    fleet.resume().await?;
    control.ready(fleet, "synced").await?;

    let began = Instant::now();
    let (callers, idle) = proxies::connect(size, &control, fleet).await?;
    println!(
        "{} proxies connected in       {:8.2} s",
        callers.len() + idle.len(),
        began.elapsed().as_secs_f64()
    );
    push(size, &control, fleet, (&callers, &idle)).await?;
    println!(
        "resident, at the end          {:8} MiB",
        control.resident()?
    );
    let everybody: Vec<&Proxy> = callers.iter().chain(&idle).collect();
    let control = restart::measure(size, (control, fleet), (folder.path(), &everybody)).await?;
    control.kill().await
}

/// Endpoints change; each change is timed from the API server's write until the proxy that calls the
/// service has it.
async fn push(
    size: Size,
    control: &Subject,
    fleet: &Arc<servers::Fleet>,
    (callers, idle): (&[Proxy], &[Proxy]),
) -> Outcome {
    // What comes with the first subscriptions is not counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let resident = control.resident()?;
    println!("resident, with proxies        {resident:8} MiB");
    let bytes = |proxies: &[Proxy]| proxies.iter().map(Proxy::bytes).sum::<u64>();
    let (called, uncalled) = (bytes(callers), bytes(idle));
    let lags = control.lags().await?;
    let before = Spent::so_far(control)?;
    let told = churn::run(size, control, fleet).await?;
    let spent = Spent::so_far(control)?.since(&before);
    let (called, uncalled) = (bytes(callers) - called, bytes(idle) - uncalled);
    println!(
        "changes                       {:8} in {:.1} s",
        told.sent,
        told.took.as_secs_f64()
    );
    println!("changes that did not arrive   {:8}", told.lost);
    print("write to proxy", &told.latencies);
    if fleet.is_real() {
        print("the write alone", &told.writes);
    }
    print("our own timers, late", &told.late);
    print_lags(&lags, &control.lags().await?);
    println!(
        "after the last change         {:8.2} s until all had arrived",
        told.lag.as_secs_f64()
    );
    println!(
        "resident meanwhile            {:8} MiB: + {}",
        told.most,
        told.most.saturating_sub(resident)
    );
    let per = called / u64::try_from(told.latencies.len().max(1))?;
    println!("bytes a change and proxy      {per:8}  (all that the sockets read)");
    println!(
        "bytes to the uninterested     {uncalled:8}  ({} proxies)",
        idle.len()
    );
    spent.print(told.took + told.lag);
    Ok(())
}

/// Processor time.
struct Spent {
    control: Duration,
    ours: Duration,
    machine: Duration,
}

impl Spent {
    fn so_far(control: &Subject) -> Outcome<Self> {
        Ok(Self {
            control: control.processor_time()?,
            ours: subject::processor_time("self")?,
            machine: subject::machine_time()?,
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            control: self.control.saturating_sub(before.control),
            ours: self.ours.saturating_sub(before.ours),
            machine: self.machine.saturating_sub(before.machine),
        }
    }

    /// As shares of a core. Where others take some, the figures are theirs, too.
    fn print(&self, took: Duration) {
        let share = |busy: Duration| busy.as_secs_f64() / took.as_secs_f64();
        let others = self.machine.saturating_sub(self.control + self.ours);
        println!(
            "control plane's processor     {:8.2} of a core",
            share(self.control)
        );
        println!(
            "servers' and proxies'         {:8.2} of a core",
            share(self.ours)
        );
        println!(
            "everybody else's              {:8.2} of a core",
            share(others)
        );
    }
}

/// From what it has heard to what it says, as the control plane itself counts it: nothing of this process is in it.
fn print_lags(before: &[(f64, u64)], after: &[(f64, u64)]) {
    let since = |(end, count): &(f64, u64)| {
        let known = before.iter().find(|(of, _)| of.total_cmp(end).is_eq());
        (*end, count - known.map_or(0, |(_, count)| *count))
    };
    let since: Vec<(f64, u64)> = after.iter().map(since).collect();
    let all = since.last().map_or(0, |(_, count)| *count);
    for (name, thousandths) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
        let within = since
            .iter()
            .find(|(_, count)| count * 1_000 >= all * thousandths);
        let end = within.map_or(f64::NAN, |(end, _)| end * 1e3);
        println!(
            "{:<30}{end:8.1} ms at most",
            format!("heard to told, {name}")
        );
    }
}

fn print(what: &str, sorted: &[Duration]) {
    for (name, share) in [("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999)] {
        let at = churn::percentile(sorted, share).as_secs_f64() * 1e3;
        println!("{:<30}{at:8.1} ms", format!("{what}, {name}"));
    }
}
