//! How does a cluster live in a real API server?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use isthmus_test_clusters::{Cluster, Programs, Settings, kubeconfig::Credential};
use serde_json::{Value, json};

use crate::link::Link;
use crate::manifest::PodManifest;

/// For whom the pods' tokens are.
const AUDIENCE: &str = "isthmus";

/// The programs of API servers. Where they are missing that is said once, also for tests that pass,
/// and the test that wanted them ends.
#[must_use]
pub fn programs() -> Option<Programs> {
    static SAID: Once = Once::new();
    match Programs::find() {
        Ok(programs) => Some(programs),
        Err(error) => {
            SAID.call_once(|| {
                // What is written, and not printed, is not withheld.
                let _unread = writeln!(
                    std::io::stderr(),
                    "skipped: tests with real API servers: {error}"
                );
            });
            None
        }
    }
}

/// What a control plane's configuration says of a cluster whose kubeconfig is in that folder.
#[must_use]
pub fn origin(cluster: &str, folder: &Path) -> Value {
    let file = kubeconfig_file(cluster, folder);
    json!({ "name": cluster, "kubernetes": { "kubeconfig": file, "allow": ["loopback"] } })
}

fn kubeconfig_file(cluster: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{cluster}.kubeconfig"))
}

/// An API server, and the line between it and the control plane.
#[derive(Debug)]
pub struct Server {
    /// The API server.
    pub cluster: Cluster,
    /// What the control plane sees of it.
    pub link: Link,
}

impl Server {
    /// Starts one that knows the mesh's kinds and has no object of them.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(programs: &Programs, name: &str) -> Self {
        let server = Self::start_bare(programs, name, &Settings::default()).await;
        let defined = server.cluster.define_kinds().await;
        defined.expect("an API server that takes definitions");
        server
    }

    /// Starts one that knows Kubernetes' own kinds only.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_bare(programs: &Programs, name: &str, settings: &Settings) -> Self {
        let cluster = Box::pin(Cluster::start(programs, name, settings)).await;
        let cluster = cluster.expect("an API server that starts");
        let front = ([127, 0, 0, 1], 0).into();
        let link = Link::start(front, cluster.server(), 1).await;
        Self { cluster, link }
    }

    /// Writes a text of manifests.
    ///
    /// # Panics
    /// The API server refuses one.
    pub async fn apply(&self, text: &str) {
        let applied = self.cluster.admin().apply_text(text).await;
        applied.expect("manifests that the API server takes");
    }

    /// Removes the objects of a text of manifests.
    ///
    /// # Panics
    /// The API server refuses.
    pub async fn delete(&self, text: &str) {
        let deleted = self.cluster.admin().delete_text(text).await;
        deleted.expect("manifests that the API server removes");
    }

    /// Writes what is in a folder of manifests, the cluster with its namespaces first.
    ///
    /// # Panics
    /// The API server refuses one.
    pub async fn fill(&self, folder: &Path) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .expect("a folder for a cluster")
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort_by_key(|file| (!file.ends_with("cluster.yaml"), file.clone()));
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a manifest");
            self.apply(&text).await;
        }
    }

    /// Writes an administrator's kubeconfig, over the link, to where [`origin`] names it.
    ///
    /// # Panics
    /// The folder can't be written to.
    pub fn write_kubeconfig(&self, folder: &Path) {
        let admin = self.cluster.admin_certificate().expect("a certificate");
        self.write_kubeconfig_of(folder, &Credential::Certificate(admin));
    }

    /// The same of somebody else.
    ///
    /// # Panics
    /// The folder can't be written to.
    pub fn write_kubeconfig_of(&self, folder: &Path, credential: &Credential) {
        let text = self.cluster.kubeconfig_at(self.link.address(), credential);
        let file = kubeconfig_file(self.cluster.name(), folder);
        std::fs::write(file, text).expect("a kubeconfig on disk");
    }

    /// A pod's token, bound to it; its account is made if it is not there.
    ///
    /// # Panics
    /// The pod is not there.
    pub async fn token(&self, pod: &PodManifest) -> String {
        let (namespace, account) = (&pod.namespace, &pod.account);
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": namespace },
        });
        self.apply(&object.to_string()).await;
        let token = self
            .cluster
            .token(namespace, account, Some(AUDIENCE), Some(&pod.name))
            .await;
        token.expect("a token of a pod that is there")
    }
}
