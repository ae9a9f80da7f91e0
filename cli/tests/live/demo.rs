//! Is a process of the demo left behind when it ends, however that happens?

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use isthmus_tests::wait::{check, until_within};

/// How long the demo may take to start, or all of it to end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A demo that is held, with all its files in a folder of ours: by that its processes are known.
struct Demo {
    folder: tempfile::TempDir,
    demo: Child,
}

impl Demo {
    /// Starts it, and waits until the mesh runs.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let demo = Command::new(env!("CARGO_BIN_EXE_isthmus"))
            .args(["demo", "--hold", "--no-scenes"])
            .env("TMPDIR", folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut started = Self { folder, demo };
        let state = started.folder.path().join("isthmus-demo.json");
        until_within(LIMIT, "the mesh runs", async || {
            let ended = started.demo.try_wait().unwrap();
            assert_eq!(ended, None, "the demo ended");
            check(state.exists(), "no file says where it is")
        })
        .await;
        // A control plane, two gateways, sidecars and applications.
        let running = processes(started.folder.path());
        assert!(running.len() > 10, "{running:?}");
        started
    }

    fn signal(&self, name: &str) {
        let id = self.demo.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until nothing is left of it.
    async fn gone(&self) {
        until_within(LIMIT, "every process has ended", async || {
            let left = processes(self.folder.path());
            check(left.is_empty(), format!("{left:?}"))
        })
        .await;
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // However the test ended; a demo that has ended already is as good.
        let _ = self.demo.kill();
        let _ = self.demo.wait();
    }
}

/// Processes that were told of this folder, by whoever started them. One that has ended and is not
/// waited for has no environment.
fn processes(folder: &Path) -> Vec<u32> {
    let mark = format!("TMPDIR={}", folder.display());
    let told = |id: &u32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(told).collect()
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_no_process_behind() {
    let mut demo = Demo::start().await;
    demo.signal("INT");
    demo.gone().await;
    // As a shell reports it.
    assert_eq!(demo.demo.wait().unwrap().code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(demo.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Nobody can clean up then: the kernel does.
#[tokio::test]
async fn a_guard_that_is_killed_takes_its_program_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut guard = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["app", "guard", "--", "sleep", "1000"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let name = |id: &u32| std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    until_within(LIMIT, "the program runs", async || {
        let names: Vec<_> = processes(folder.path()).iter().map(name).collect();
        let found = names.iter().any(|name| name.trim() == "sleep");
        check(found, format!("{names:?}"))
    })
    .await;
    // SIGKILL.
    guard.kill().unwrap();
    guard.wait().unwrap();
    until_within(LIMIT, "the program has ended", async || {
        let left = processes(folder.path());
        check(left.is_empty(), format!("{left:?}"))
    })
    .await;
}

/// Nobody can clean up then: the others notice.
#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_process_behind() {
    let demo = Demo::start().await;
    demo.signal("KILL");
    demo.gone().await;
}
