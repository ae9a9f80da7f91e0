//! How is the control plane started? `isthmus-control-plane --config FILE`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use isthmus_control_plane::{Config, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const USAGE: &str = "usage: isthmus-control-plane --config FILE";

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let config = Config::read(&config_file(std::env::args_os().skip(1))?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(config, shutdown).await
    })
}

fn config_file(mut args: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<PathBuf> {
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(file), None) if flag == "--config" => Ok(file.into()),
        _ => anyhow::bail!(USAGE),
    }
}
