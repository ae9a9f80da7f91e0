//! How does a program that isn't ours end with us? We start it, and kill it when our parent ends.

use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::shutdown;

/// Runs a program until standard input ends, a signal arrives, or it exits by itself.
///
/// # Errors
/// It can't be started, or exits by itself with a failure.
pub(super) async fn run(command: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no program was given")
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    // Both branches are cancel-safe: wait may be called again, the other is not used again.
    tokio::select! {
        status = child.wait() => {
            let status = status.with_context(|| format!("waiting for {program}"))?;
            if !status.success() {
                bail!("{program} ended with {status}");
            }
            Ok(())
        }
        () = shutdown::requested(true) => {
            child.kill().await.with_context(|| format!("killing {program}"))
        }
    }
}
