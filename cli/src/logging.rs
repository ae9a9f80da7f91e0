//! Where do the log lines of a role go? To standard error, plain.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// Starts logging with a filter as in `info` or `isthmus_proxy=debug,info`.
///
/// # Errors
/// The filter can't be parsed.
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?}"))?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    // Somebody was first, in tests: their choice stands.
    drop(started);
    Ok(())
}
