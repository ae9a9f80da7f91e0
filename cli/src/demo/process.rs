//! Who owns a child process, and how does it end with us in every case?
//!
//! Three ways, each enough: it is killed by its id when its owner is dropped (return, failure,
//! panic); its standard input ends when we end, however that happens, and it exits by itself; and
//! it is in a process group of its own, so Ctrl-C reaches only us, who end it in order.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a child may take to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a log's end is read to show its last lines.
const TAIL_BYTES: u64 = 16 << 10;

/// How to start a child.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// For people: `east/shop/web-1 sidecar`.
    pub(crate) name: String,
    /// What to run.
    pub(crate) file: PathBuf,
    /// With what.
    pub(crate) arguments: Vec<OsString>,
    /// Where its output goes; appended to.
    pub(crate) log: PathBuf,
    /// It has a child of its own, which it must end: it is told by the end of its standard input,
    /// and not killed.
    pub(crate) is_guard: bool,
}

/// A child, alive or not. Dropped: dead.
#[derive(Debug)]
pub(crate) struct Process {
    program: Program,
    child: Child,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// The program or its log can't be opened.
    pub(crate) fn start(program: Program) -> anyhow::Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&program.log)
            .with_context(|| format!("opening {}", program.log.display()))?;
        let also = log.try_clone().context("duplicating a log's descriptor")?;
        let child = Command::new(&program.file)
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(also)
            .process_group(0)
            .kill_on_drop(!program.is_guard)
            .spawn()
            .with_context(|| format!("starting {}", program.name))?;
        Ok(Self { program, child })
    }

    /// For people.
    pub(crate) fn name(&self) -> &str {
        &self.program.name
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it without warning, and waits until it is gone.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if self.program.is_guard {
            self.stop().await;
            return Ok(());
        }
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.program.name))
    }

    /// Ends its standard input and waits until it is gone; kills it if it takes too long.
    pub(crate) async fn stop(&mut self) {
        drop(self.child.stdin.take());
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _gone = self.child.kill().await;
        }
    }

    /// Starts it again; it must have ended.
    ///
    /// # Errors
    /// As `start`.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        *self = Self::start(self.program.clone())?;
        Ok(())
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self, lines: usize) -> String {
        tail(&self.program.log, lines)
            .unwrap_or_else(|error| format!("(reading the log failed: {error})"))
    }

    /// Where its log is.
    pub(crate) fn log(&self) -> &Path {
        &self.program.log
    }
}

fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
    last.reverse();
    Ok(last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str, name: &str) -> Program {
        let log = std::env::temp_dir().join(format!("isthmus-test-{}-{name}", std::process::id()));
        let arguments = vec!["-c".into(), script.into()];
        let file = PathBuf::from("/bin/sh");
        Program {
            name: name.into(),
            file,
            arguments,
            log,
            is_guard: false,
        }
    }

    #[tokio::test]
    async fn a_child_ends_with_its_standard_input() {
        let mut child = Process::start(program("cat; echo over", "stdin")).unwrap();
        assert!(child.ended().is_none());
        child.stop().await;
        assert!(child.ended().unwrap().success());
        assert_eq!(child.tail(1), "over");
        fs::remove_file(child.log()).unwrap();
    }

    #[tokio::test]
    async fn a_child_that_does_not_listen_is_killed() {
        let mut child = Process::start(program("while :; do read x; done", "deaf")).unwrap();
        child.kill().await.unwrap();
        assert!(!child.ended().unwrap().success());
        child.restart().unwrap();
        assert!(child.ended().is_none());
        child.kill().await.unwrap();
        fs::remove_file(child.log()).unwrap();
    }
}
