//! How does a program that isn't ours end with us? We start it, and kill it when our parent ends; and
//! the kernel kills it when we are killed ourselves.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::process::Command;

use crate::shutdown;

/// Runs a program until standard input ends, a signal arrives, or it exits by itself. With `parent`:
/// becomes the program, which dies with that process.
///
/// # Errors
/// It can't be started, or exits by itself with a failure.
pub(super) async fn run(parent: Option<u32>, command: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no program was given")
    };
    if let Some(parent) = parent {
        return become_bound(parent, program, arguments);
    }
    // The death of the thread that starts a process counts as its parent's: this one lives as long
    // as the process, for the runtime has no other.
    let mut child = Command::new(std::env::current_exe().context("finding this program's file")?)
        .args([
            "app",
            "guard",
            "--parent",
            &std::process::id().to_string(),
            "--",
        ])
        .args(command)
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

/// The signal is kept over `exec` (prctl(2), PR_SET_PDEATHSIG), and is not sent for a parent that was
/// gone before it was asked for.
fn become_bound(parent: u32, program: &str, arguments: &[String]) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("binding to the guard")?;
    let now = getppid().map(|id| id.as_raw_nonzero().get());
    if now.and_then(|id| u32::try_from(id).ok()) != Some(parent) {
        bail!("the guard is gone");
    }
    let failed = std::process::Command::new(program).args(arguments).exec();
    Err(failed).with_context(|| format!("starting {program}"))
}
