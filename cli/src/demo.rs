//! What does the mesh do that others do not? Two clusters on this machine, and seven scenes.
//!
//! ```text
//!             east (127.20.0.0/16)          │          west (127.30.0.0/16)
//!  demo ─► web-1 ─┬─► cart-1, cart-2        │
//!                 │                         │            ┌─► reviews-1, -2, -3
//!                 └─────────────────── gateway-west ─────┼─► cart-3, cart-4
//!                                           │            └─► echo-1, redis-1
//!           control plane (reads a folder of manifests, or watches an API server, for each cluster)
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::args::{DemoOptions, Format, SceneName};
use crate::shutdown;
use crate::statistics::human;

mod plan;
mod folder;
mod manifests;
mod configs;
mod process;
mod store;
mod wait;
mod mesh;
mod callers;
mod metrics;
mod report;
mod scenes;
mod join;
mod screen;
mod view;
pub(crate) mod state;
mod hints;

use folder::Folder;
use hints::Hints;
use mesh::Mesh;
use plan::{GATEWAY_EAST, GATEWAY_WEST, Plan};
use report::Report;
use scenes::Stage;
use screen::Screen;
use state::State;
use store::Store;

/// Longest time for all scenes together.
const SHOW_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs the demo.
///
/// # Errors
/// The mesh does not start.
pub(crate) fn run(options: &DemoOptions, format: Format) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    // JSON is for programs: the same as a check, but for the exit status.
    let records = options.check || format == Format::Json;
    let screen = Arc::new(Screen::new(records));
    if let Some(scene) = options.scenes.iter().find(|scene| scene.needs_servers())
        && !options.kubernetes
    {
        bail!("the scene {} needs --kubernetes", scene.name());
    }
    match &options.kubeconfig {
        Some(file) => runtime.block_on(join::run(options, file, &screen)),
        None => runtime.block_on(whole(options, &screen)),
    }
}

/// What a shell reports of a program that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

async fn whole(options: &DemoOptions, screen: &Arc<Screen>) -> anyhow::Result<ExitCode> {
    // Cancel-safe: what is dropped half started owns its processes, which end with it.
    let mesh = tokio::select! {
        mesh = start(options, screen) => mesh?,
        () = shutdown::requested(false) => return Ok(interrupted(screen)),
    };
    // For the test that a panic leaves nothing behind; a release has no such switch.
    #[cfg(debug_assertions)]
    assert!(
        std::env::var_os("ISTHMUS_DEMO_PANIC").is_none(),
        "asked to panic"
    );
    let state = State::of(&mesh.plan, &mesh.folder);
    let _published = if options.hold {
        Some(state.publish()?)
    } else {
        None
    };
    let mut stage = Stage::new(mesh, screen.clone(), options.rps, options.seed);
    // Ends with this function: a JoinSet that is dropped aborts what is in it.
    let mut view = JoinSet::new();
    let gateways = [
        ("gateway-east", GATEWAY_EAST),
        ("gateway-west", GATEWAY_WEST),
    ];
    let gateways = gateways.map(|(name, pod)| (name, stage.mesh.plan.ready(&pod)));
    view.spawn(view::run(
        screen.clone(),
        stage.board.clone(),
        gateways.into(),
    ));

    let shown = async {
        let held = show(options, &mut stage).await?;
        if options.hold {
            hold(&mut stage).await?;
        }
        anyhow::Ok(held)
    };
    // Cancel-safe: whatever a scene was about, the mesh ends next.
    let held = tokio::select! {
        held = shown => Some(held),
        () = shutdown::requested(false) => None,
    };
    view.abort_all();
    screen.draw(&[]);
    if matches!(held, Some(Ok(false) | Err(_))) {
        stage.mesh.folder.keep();
        let root = stage.mesh.folder.root().display().to_string();
        screen.say(&format!("\nLogs and states are kept in {root}"));
    }
    stage.mesh.stop().await;
    match held {
        Some(Ok(true)) => Ok(ExitCode::SUCCESS),
        Some(Ok(false)) => Ok(ExitCode::FAILURE),
        Some(Err(error)) => Err(error),
        None => Ok(interrupted(screen)),
    }
}

fn interrupted(screen: &Screen) -> ExitCode {
    screen.say("\nStopped; nothing is left running.");
    ExitCode::from(INTERRUPTED)
}

async fn start(options: &DemoOptions, screen: &Screen) -> anyhow::Result<Mesh> {
    let plan = Plan::claim()?;
    let folder = Folder::make(options.keep)?;
    screen.say("Starting a mesh of two clusters, east and west, as processes on this machine ...");
    let began = Instant::now();
    let store = Store::open(options.kubernetes, &folder).await?;
    let mesh = Box::pin(Mesh::start(plan, folder, store)).await?;
    screen.say(&format!(
        "{} processes are ready after {}: {}a control plane, two gateways, a sidecar for each \
         pod, applications.\nFolder: {}",
        mesh.size(),
        human(began.elapsed()),
        if options.kubernetes {
            "two API servers with an etcd each, "
        } else {
            ""
        },
        mesh.folder.root().display()
    ));
    Ok(mesh)
}

/// True: every scene held.
async fn show(options: &DemoOptions, stage: &mut Stage) -> anyhow::Result<bool> {
    let scenes: Vec<SceneName> = if options.no_scenes {
        Vec::new()
    } else {
        let wanted = |scene: &SceneName| {
            let asked = options.scenes.is_empty() || options.scenes.contains(scene);
            asked && (options.kubernetes || !scene.needs_servers())
        };
        SceneName::ALL.into_iter().filter(wanted).collect()
    };
    let all = async {
        let mut reports: Vec<Report> = Vec::new();
        for (index, scene) in scenes.iter().enumerate() {
            reports.push(stage.show(*scene, index + 1).await);
        }
        reports
    };
    let Ok(reports) = timeout(SHOW_TIMEOUT, all).await else {
        bail!("the scenes took more than {} s", SHOW_TIMEOUT.as_secs());
    };
    let held = reports.iter().filter(|report| report.held()).count();
    if !reports.is_empty() {
        stage
            .screen
            .say(&format!("\n{held} of {} scenes held.", reports.len()));
    }
    Ok(held == reports.len())
}

/// Leaves it running until Ctrl-C, and says what can be tried.
async fn hold(stage: &mut Stage) -> anyhow::Result<()> {
    stage.traffic().await?;
    stage.board.showing("the mesh is yours; Ctrl-C ends it");
    let hints = Hints::of(stage)?;
    stage.screen.say(&hints.text());
    stage.screen.record(&hints.line());
    std::future::pending().await
}
