//! What is on disk while the demo runs? Manifests, configurations, states and logs, in one folder.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::plan::{Cluster, Pod};

/// The demo's folder; removed when dropped, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    keeps: bool,
}

impl Folder {
    /// Makes it, for this user alone: it holds keys and tokens.
    ///
    /// # Errors
    /// The folder for temporary files can't be written to.
    pub(crate) fn make(keeps: bool) -> anyhow::Result<Self> {
        // Of this process, another one of the same number before it, and once more within it.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("isthmus-demo-{}-{now}-{count}", process::id());
        let root = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&root)
            .with_context(|| format!("making {}", root.display()))?;
        let folder = Self { root, keeps };
        for name in ["logs", "draft", "pods"] {
            folder.make_inside(name)?;
        }
        for cluster in Cluster::ALL {
            folder.make_inside(&format!("clusters/{}", cluster.name()))?;
        }
        Ok(folder)
    }

    fn make_inside(&self, name: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Do not remove it.
    pub(crate) fn keep(&mut self) {
        self.keeps = true;
    }

    /// A cluster's manifests.
    pub(crate) fn cluster(&self, cluster: Cluster) -> PathBuf {
        self.root.join("clusters").join(cluster.name())
    }

    /// The control plane's state.
    pub(crate) fn control_state(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// The control plane's configuration.
    pub(crate) fn control_config(&self) -> PathBuf {
        self.root.join("control-plane.json")
    }

    /// A pod's configuration, token and state.
    pub(crate) fn pod(&self, pod: &Pod) -> PathBuf {
        self.root.join("pods").join(pod.name)
    }

    /// A pod's proxy's state.
    pub(crate) fn pod_state(&self, pod: &Pod) -> PathBuf {
        self.pod(pod).join("state")
    }

    /// Where the logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Writes a manifest, whole or not at all: whoever watches never reads half a file.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub(crate) fn put(&self, cluster: Cluster, name: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.root.join("draft").join(name);
        let path = self.cluster(cluster).join(name);
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// It isn't there.
    pub(crate) fn remove(&self, cluster: Cluster, name: &str) -> anyhow::Result<()> {
        let path = self.cluster(cluster).join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keeps {
            // Nothing else can be done about it here; the system clears its temporary files.
            let _left = fs::remove_dir_all(&self.root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_owner_unless_kept() {
        let folder = Folder::make(false).unwrap();
        let root = folder.root().to_owned();
        folder.put(Cluster::West, "a.yaml", "a: 1\n").unwrap();
        assert_eq!(
            fs::read_to_string(root.join("clusters/west/a.yaml")).unwrap(),
            "a: 1\n"
        );
        folder.remove(Cluster::West, "a.yaml").unwrap();
        assert!(folder.remove(Cluster::West, "a.yaml").is_err());
        drop(folder);
        assert!(!root.exists());
        let mut kept = Folder::make(false).unwrap();
        kept.keep();
        let root = kept.root().to_owned();
        drop(kept);
        assert!(root.exists());
        fs::remove_dir_all(root).unwrap();
    }
}
