//! Is a process of the demo left behind when it ends, however that happens?

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use isthmus_tests::wait::{check, until_within};

/// How long the demo may take to start, or all of it to end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Where a demo's output is kept, in its folder.
const SAID: &str = "said.txt";

/// A demo, with all its files in a folder of ours: by that its processes are known.
struct Demo {
    folder: tempfile::TempDir,
    demo: Child,
}

impl Demo {
    /// Starts it with these options, and one more variable in its environment.
    fn begin(options: &[&str], variable: (&str, &str)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let said = File::create(folder.path().join(SAID)).unwrap();
        let demo = Command::new(env!("CARGO_BIN_EXE_isthmus"))
            .arg("demo")
            .args(options)
            .env("TMPDIR", folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env(variable.0, variable.1)
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, demo }
    }

    /// Starts one that is held, and waits until the mesh runs.
    async fn start() -> Self {
        let mut started = Self::begin(&["--hold", "--no-scenes"], ("TERM", "dumb"));
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
        signal(self.demo.id(), name);
    }

    /// Waits until it has ended by itself; its exit code.
    async fn ended(&mut self) -> Option<i32> {
        until_within(LIMIT, "the demo ends", async || {
            let ended = self.demo.try_wait().unwrap();
            ended.ok_or("it runs").map(|status| status.code())
        })
        .await
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

fn signal(id: u32, name: &str) {
    let id = id.to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
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
    std::fs::remove_file(demo.folder.path().join(SAID)).unwrap();
    let left: Vec<_> = std::fs::read_dir(demo.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_demo_that_is_held_tells_programs_where_it_is() {
    let options = ["--hold", "--no-scenes", "--output", "json"];
    let mut demo = Demo::begin(&options, ("TERM", "dumb"));
    let said = demo.folder.path().join(SAID);
    let line = until_within(LIMIT, "the line", async || {
        let said = std::fs::read_to_string(&said).unwrap();
        let ended = demo.demo.try_wait().unwrap();
        assert_eq!(ended, None, "the demo ended");
        said.strip_suffix('\n').map(str::to_owned).ok_or(said)
    })
    .await;
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let mesh = &told["mesh"];
    let state = std::fs::read(demo.folder.path().join("isthmus-demo.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    for key in ["control_plane", "proxies", "states", "folder"] {
        assert!(!state[key].is_null() && mesh[key] == state[key], "{line}");
    }
    let reviews = mesh["services"]["reviews"].as_str().unwrap();
    let _at: std::net::SocketAddr = reviews.parse().unwrap();
    let commands = mesh["commands"].as_array().unwrap();
    let curl = format!("curl http://{reviews}/");
    assert!(commands.iter().any(|one| one["command"] == curl), "{line}");
    demo.signal("INT");
    demo.gone().await;
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

#[tokio::test]
async fn a_scene_that_fails_leaves_no_process_behind() {
    let mut demo = Demo::begin(&["--scene", "spread"], ("TERM", "dumb"));
    let said = demo.folder.path().join(SAID);
    until_within(LIMIT, "the mesh runs", async || {
        let said = std::fs::read_to_string(&said).unwrap();
        check(said.contains("processes are ready"), said)
    })
    .await;
    // The caller's own: not one request arrives without it.
    let is_sidecar = |id: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        words.any(|word| word == "proxy") && words.any(|word| word.contains("web-1"))
    };
    let sidecars = processes(demo.folder.path()).into_iter().filter(is_sidecar);
    let [sidecar] = sidecars.collect::<Vec<_>>()[..] else {
        panic!("web-1 has one sidecar")
    };
    signal(sidecar, "KILL");
    assert_eq!(demo.ended().await, Some(1));
    demo.gone().await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_demo_that_panics_leaves_no_process_behind() {
    let mut demo = Demo::begin(&["--no-scenes"], ("ISTHMUS_DEMO_PANIC", "1"));
    // As Rust reports it.
    assert_eq!(demo.ended().await, Some(101));
    let said = std::fs::read_to_string(demo.folder.path().join(SAID)).unwrap();
    assert!(said.contains("processes are ready"), "{said}");
    demo.gone().await;
}
