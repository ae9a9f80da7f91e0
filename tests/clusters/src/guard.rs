//! How does a program that isn't ours end with us, even if we are killed?
//!
//! A shell stands between: it starts the program, does what it is told on its standard input, and
//! when that ends (a pipe closes also when its owner is killed) it kills the program and removes the
//! folder. A signal goes only to the shell's own child: a process that ended by itself may have left
//! its number to somebody else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// The shell's program. `$1`: the folder, `$2`: the log, then what to run.
///
/// It ignores what would end it before its child: a reader of its answers that is gone, too.
const SCRIPT: &str = r#"
trap '' PIPE INT TERM HUP
folder=$1 log=$2 child=
shift 2
mine() {
  [ -n "$child" ] && { [ ! -e /proc/self/stat ] || { read -r stat <"/proc/$child/stat" &&
    set -- ${stat##*) } && [ "$2" = "$$" ]; }; }
}
end() { mine && kill -KILL "$child"; [ -z "$child" ] || wait "$child"; child=; }
while read -r word; do
  case $word in
    START) end; "$@" </dev/null >>"$log" 2>&1 & child=$!; echo "$child" ;;
    KILL) end; echo killed ;;
    STOP | CONT) mine && kill "-$word" "$child" && echo "$word" || echo gone ;;
    END) end; echo ended; exit ;;
  esac
done
end
rm -rf -- "$folder"
"#;
/// How long the shell may take to do as it is told.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// For people.
    pub(crate) name: String,
    /// The program.
    pub(crate) file: PathBuf,
    /// With what.
    pub(crate) arguments: Vec<OsString>,
    /// Where its output goes; appended to.
    pub(crate) log: PathBuf,
    /// Removed if the owner ends without a word.
    pub(crate) folder: PathBuf,
}

/// A program that lives no longer than its owner.
#[derive(Debug)]
pub struct Guarded {
    name: String,
    log: PathBuf,
    shell: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    process: Option<u32>,
}

impl Guarded {
    /// Starts it.
    ///
    /// # Errors
    /// There is no shell.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "guard"])
            .args([&plan.folder, &plan.log, &plan.file])
            .args(&plan.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for the owner, who ends this in order.
            .process_group(0)
            .spawn()
            .context("starting /bin/sh")?;
        let orders = shell.stdin.take().context("the guard has no input")?;
        let output = shell.stdout.take().context("the guard has no output")?;
        let mut guarded = Self {
            name: plan.name,
            log: plan.log,
            shell,
            orders,
            answers: BufReader::new(output).lines(),
            process: None,
        };
        guarded.restart().await?;
        Ok(guarded)
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process's number, while it runs.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// Did it end by itself? Asked of `/proc`, so always no where there is none.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let Some(process) = self.process else {
            return true;
        };
        if !Path::new("/proc/self/stat").exists() {
            return false;
        }
        let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
            return true;
        };
        // State and parent come after the name in parentheses. The shell may wait for it late: until
        // then it is a zombie.
        let mut fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, parent) = (fields.next(), fields.next());
        state == Some("Z") || parent != self.shell.id().map(|id| id.to_string()).as_deref()
    }

    /// SIGKILL; it is gone when this returns.
    ///
    /// # Errors
    /// The guard is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process = None;
        self.order("KILL").await.map(drop)
    }

    /// SIGSTOP: its connections stay open, and nothing answers.
    ///
    /// # Errors
    /// It does not run, or the guard is gone.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal("STOP").await
    }

    /// SIGCONT: it goes on.
    ///
    /// # Errors
    /// It does not run, or the guard is gone.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        self.signal("CONT").await
    }

    /// Starts it again; one that runs is killed first.
    ///
    /// # Errors
    /// The guard is gone.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let process = self.order("START").await?;
        let number = process
            .parse()
            .with_context(|| format!("the guard of {} answered {process:?}", self.name))?;
        self.process = Some(number);
        Ok(())
    }

    /// Kills it and its guard; the folder stays.
    ///
    /// # Errors
    /// The guard is gone.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.process = None;
        self.order("END").await?;
        self.shell
            .wait()
            .await
            .with_context(|| format!("waiting for the guard of {}", self.name))?;
        Ok(())
    }

    async fn signal(&mut self, word: &str) -> anyhow::Result<()> {
        let done = self.process.is_some() && self.order(word).await? == word;
        if !done {
            bail!("{} does not run", self.name);
        }
        Ok(())
    }

    async fn order(&mut self, word: &str) -> anyhow::Result<String> {
        let exchange = async {
            self.orders
                .write_all(format!("{word}\n").as_bytes())
                .await?;
            self.answers.next_line().await
        };
        let answer = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .with_context(|| format!("the guard of {} does not answer", self.name))?
            .with_context(|| format!("telling the guard of {} to {word}", self.name))?;
        answer.with_context(|| format!("the guard of {} is gone", self.name))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
        last.reverse();
        last.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::until;

    async fn sleeper(folder: &Path, script: &str) -> Guarded {
        let plan = Plan {
            name: "a sleeper".into(),
            file: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: folder.join("log"),
            folder: folder.to_owned(),
        };
        Guarded::start(plan).await.unwrap()
    }

    fn state(process: u32) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    }

    async fn until_state(process: u32, wanted: &[Option<char>]) {
        let within = Duration::from_secs(10);
        let seen = until(within, async || {
            Ok(wanted.contains(&state(process)).then_some(()))
        });
        assert!(seen.await.unwrap().is_some(), "{:?}", state(process));
    }

    const FOREVER: &str = "exec sleep 1000";
    /// This machine's first process may be slow to take what it inherits: a zombie is gone, too.
    const GONE: [Option<char>; 3] = [None, Some('Z'), Some('X')];

    #[tokio::test]
    async fn it_is_stopped_resumed_killed_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut guarded = sleeper(folder.path(), FOREVER).await;
        let first = guarded.process().unwrap();
        guarded.stop().await.unwrap();
        until_state(first, &[Some('T')]).await;
        guarded.resume().await.unwrap();
        until_state(first, &[Some('S'), Some('R')]).await;
        guarded.stop().await.unwrap();
        guarded.kill().await.unwrap();
        assert_eq!(state(first), None);
        assert!(guarded.has_ended());
        assert!(guarded.stop().await.is_err());
        guarded.restart().await.unwrap();
        let second = guarded.process().unwrap();
        until_state(second, &[Some('S')]).await;
        guarded.end().await.unwrap();
        assert_eq!(state(second), None);
        assert!(folder.path().exists());
    }

    #[tokio::test]
    async fn an_owner_that_is_gone_leaves_neither_process_nor_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut guarded = sleeper(folder.path(), FOREVER).await;
        let process = guarded.process().unwrap();
        // Stopped, so that only SIGKILL can end it.
        guarded.stop().await.unwrap();
        drop(guarded);
        until_state(process, &GONE).await;
        let gone = until(Duration::from_secs(10), async || {
            Ok((!folder.path().exists()).then_some(()))
        });
        assert!(gone.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let guarded = sleeper(folder.path(), "echo over; exit 3").await;
        let seen = until(Duration::from_secs(10), async || {
            Ok(guarded.has_ended().then_some(()))
        });
        assert!(seen.await.unwrap().is_some());
        assert_eq!(guarded.tail(1), "over");
    }
}
