//! `isthmus-proxy --config FILE`: a sidecar or a gateway, by what the file says.

use std::path::PathBuf;
use std::process::ExitCode;

use isthmus_proxy::{Config, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args_os().skip(1);
    let path = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => PathBuf::from(path),
        _ => {
            tracing::error!("usage: isthmus-proxy --config FILE");
            return ExitCode::from(2);
        }
    };
    let result = Config::load(&path)
        .map_err(anyhow::Error::from)
        .and_then(|c| run(c, stopped()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM or SIGINT.
async fn stopped() {
    let term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match term {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            // Without a handler, the system's own ends the process.
            std::future::pending::<()>().await;
        }
    }
}
