//! Where do the log lines of a role go? To standard error, as text or as JSON.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::args::Format;

/// Starts logging with a filter as in `info` or `isthmus_proxy=debug,info`.
///
/// # Errors
/// The filter can't be parsed.
pub(crate) fn start(filter: &str, format: Format) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        Format::Text => log.try_init(),
        Format::Json => log.json().try_init(),
    };
    // Somebody was first, in tests: their choice stands.
    drop(started);
    Ok(())
}
