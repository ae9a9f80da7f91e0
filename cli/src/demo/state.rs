//! Where do the other commands find a demo that is held? In a small file.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::plan::{Plan, Role};

/// Admin addresses of a running mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the control plane.
    pub(crate) control_plane: SocketAddr,
    /// Of each proxy, by `cluster/namespace/pod`.
    pub(crate) proxies: BTreeMap<String, SocketAddr>,
    /// Where its manifests are.
    pub(crate) folder: PathBuf,
}

impl State {
    /// Of the demo at these addresses.
    pub(super) fn of(plan: &Plan, folder: &Folder) -> Self {
        let pods = plan.pods();
        let sidecars = pods.iter().filter(|pod| pod.role == Role::Sidecar);
        let gateways = pods.iter().filter(|pod| pod.role == Role::Gateway);
        Self {
            control_plane: plan.control_admin(),
            proxies: sidecars
                .chain(gateways)
                .map(|pod| (pod.id(), plan.admin(pod)))
                .collect(),
            folder: folder.root().to_owned(),
        }
    }

    /// Writes it where the other commands look; removed when the result is dropped.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub(super) fn publish(&self) -> anyhow::Result<Published> {
        let path = default_path();
        let text = serde_json::to_string_pretty(self).context("writing JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(Published { path })
    }

    /// Reads one; where no path is given, from where a held demo writes it.
    ///
    /// # Errors
    /// There is none: no demo is held.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = path.map_or_else(default_path, Path::to_owned);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "no demo is held here ({} can't be read); start one with `isthmus demo --hold`, or \
                 give addresses with --control-plane and --proxy",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }
}

/// A state file; gone when dropped.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
}

impl Drop for Published {
    fn drop(&mut self) {
        // Another demo may have taken the place: then its file goes too, which is said by `read`.
        let _gone = fs::remove_file(&self.path);
    }
}

/// In the user's own runtime folder; without one, in the system's for temporary files.
fn default_path() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir())
    {
        Some(dir) => dir.join("isthmus-demo.json"),
        None => {
            let user = env::var("USER").unwrap_or_else(|_| "user".to_owned());
            env::temp_dir().join(format!("isthmus-demo-{}.json", user.replace('/', "_")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let plan = Plan::claim().unwrap();
        let folder = Folder::make(false).unwrap();
        let state = State::of(&plan, &folder);
        assert_eq!(state.proxies.len(), plan.pods().len());
        let path = folder.root().join("state.json");
        fs::write(&path, serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(State::read(Some(&path)).unwrap(), state);
        let none = State::read(Some(&folder.root().join("none"))).unwrap_err();
        assert!(none.to_string().contains("isthmus demo --hold"), "{none}");
    }
}
