//! Does the test on clusters of the user's leave alone what it has not made?

use std::path::Path;
use std::process::{Command, Output};

use crate::tool::{Tool, start};

const HOME: &str = "/apis/isthmus.dev/v1alpha1/meshclusters/east";
const SYSTEM: &str = "/api/v1/namespaces/isthmus-system";

/// Runs it with both clusters the same, and a first step that fails: there is no binary.
async fn run(folder: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/run");
    let kubeconfig = folder.join("EAST").display().to_string();
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(["--home", &format!("east={kubeconfig}@east")])
        .args(["--member", &format!("west={kubeconfig}@east")])
        .args(["--load", "true", "--isthmus", "no-such-binary"]);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_test_on_given_clusters_does_not_start_where_a_mesh_is_and_takes_nothing_of_others() {
    let Some((programs, tool)) = Tool::find() else {
        return;
    };
    for program in ["python3", "kubectl"] {
        if let Err(error) = Command::new(program).arg("--help").output() {
            isthmus_test_clusters::skipped(&anyhow::Error::from(error).context(program));
            return;
        }
    }
    let east = start(&programs, "east", "10.96.0.0/16", tool.folder()).await;
    let free = run(tool.folder()).await;
    let said = String::from_utf8(free.stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains(r#""step": "install", "held": false"#),
        "{said}"
    );

    tool.done("install --cluster east --apply --kubeconfig EAST")
        .await;
    let refused = run(tool.folder()).await;
    assert!(!refused.status.success());
    assert_eq!(String::from_utf8(refused.stdout).unwrap(), "");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.starts_with("east: a mesh is installed already") && said.lines().count() == 1,
        "{said}"
    );
    for path in [HOME, SYSTEM] {
        let there = east.admin().get(path).await.unwrap();
        assert!(
            there["metadata"].get("deletionTimestamp").is_none(),
            "{path}"
        );
    }
    east.end().await.unwrap();
}
