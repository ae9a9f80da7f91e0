//! The binary, as tests call it, and clusters for it.

use std::path::Path;
use std::process::{Command, Output};

use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::Value;
use tempfile::TempDir;

/// The clusters of tests are on this machine, where a control plane takes none unless it is told to.
const LOCAL: &str = "home: { allow: [ loopback ] }\n";

/// The binary, and a folder for kubeconfigs.
pub(crate) struct Tool {
    folder: TempDir,
}

impl Tool {
    /// It, and what clusters are started by; `None`: that is not here, and the test is skipped.
    pub(crate) fn find() -> Option<(Programs, Self)> {
        let programs = Programs::find();
        let programs = programs.map_err(|error| isthmus_test_clusters::skipped(&error));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("LOCAL"), LOCAL).unwrap();
        Some((programs.ok()?, Self { folder }))
    }

    /// It, and two clusters with these ranges of services.
    pub(crate) async fn two(ranges: [&str; 2]) -> Option<(Self, Cluster, Cluster)> {
        let (programs, tool) = Self::find()?;
        let [east, west] = ranges;
        let (east, west) = tokio::join!(
            start(&programs, "east", east, tool.folder()),
            start(&programs, "west", west, tool.folder()),
        );
        Some((tool, east, west))
    }

    /// The mesh is installed in east, and west joins it. `flags` are for both.
    pub(crate) async fn join(&self, flags: &str) {
        let install =
            format!("install --cluster east {flags} --apply --kubeconfig EAST --config LOCAL");
        self.done(&install).await;
        let join = format!("cluster join west {flags} --kubeconfig WEST --home-kubeconfig EAST");
        self.done(&join).await;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it; `EAST` and `WEST` in the line are kubeconfigs, `LOCAL` is a configuration.
    pub(crate) async fn run(&self, line: &str) -> Output {
        let file = |word: &str| match word {
            "EAST" | "WEST" | "LOCAL" => self.folder().join(word).display().to_string(),
            _ => word.to_owned(),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
        // A test may have a `kubectl` of its own in the folder.
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.folder().display()))
            .args(line.split_whitespace().map(file))
            .env_remove("KUBECONFIG");
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// What it prints, as JSON; it has to succeed.
    pub(crate) async fn done(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --output json")).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{line}: {said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{line}: {why}"))
    }

    /// What it complains of; it has to fail.
    pub(crate) async fn refused(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(!output.status.success(), "{line} succeeds");
        String::from_utf8(output.stderr).unwrap()
    }
}

pub(crate) async fn start(programs: &Programs, name: &str, range: &str, folder: &Path) -> Cluster {
    let settings = Settings {
        service_range: range.to_owned(),
        ..Settings::default()
    };
    let cluster = Cluster::start(programs, name, &settings).await.unwrap();
    let text = cluster.admin_kubeconfig().unwrap();
    std::fs::write(folder.join(name.to_uppercase()), text).unwrap();
    cluster
}

pub(crate) fn steps<'v>(done: &'v Value, what: &str) -> Vec<&'v str> {
    let all = done["steps"].as_array().unwrap().iter();
    all.filter(|step| step["what"] == what)
        .map(|step| step["object"].as_str().unwrap())
        .collect()
}

/// Everything that `cluster check` finds.
pub(crate) async fn findings(tool: &Tool) -> Vec<Value> {
    let output = tool
        .run("cluster check --kubeconfig EAST --output json")
        .await;
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.success(), said["ok"] == true, "{said}");
    said["findings"].as_array().unwrap().clone()
}

/// Messages of the findings of a level, with their clusters.
pub(crate) fn of_level(findings: &[Value], level: &str) -> Vec<String> {
    let all = findings.iter();
    let wanted = all.filter(|finding| finding["level"] == level);
    let told = |finding: &Value| {
        assert_ne!(finding["fix"], "", "{finding}");
        format!(
            "{}: {}",
            finding["cluster"].as_str().unwrap(),
            finding["message"].as_str().unwrap()
        )
    };
    wanted.map(told).collect()
}

/// Messages of the findings that are broken.
pub(crate) async fn broken(tool: &Tool) -> Vec<String> {
    of_level(&findings(tool).await, "broken")
}
