//! How does a cluster live in a real API server?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use isthmus_test_clusters::{Cluster, Programs, Settings, kubeconfig::Credential};
use serde_json::{Value, json};

use crate::front::{Front, Writes};
use crate::link::Link;
use crate::manifest::PodManifest;
use crate::plan::SYSTEM;

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

/// The object by which a cluster joins.
#[must_use]
pub fn member(cluster: &str, network: &str) -> String {
    let secret = json!({ "name": format!("cluster-{cluster}") });
    json!({
        "apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster",
        "metadata": { "name": cluster },
        "spec": { "network": network, "credential": { "secretRef": secret } },
    })
    .to_string()
}

/// An API server, and the line between it and the control plane.
#[derive(Debug)]
pub struct Server {
    /// The API server.
    pub cluster: Cluster,
    /// What the control plane sees of it.
    pub link: Link,
    front: Option<Front>,
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
        let near = ([127, 0, 0, 1], 0).into();
        let link = Link::start(near, cluster.server(), 1).await;
        Self {
            cluster,
            link,
            front: None,
        }
    }

    /// Puts a [`Front`] between the link and the API server; whoever comes by that way is the
    /// administrator.
    pub async fn set_front(&mut self, writes: &Writes) {
        let front = Front::start(&self.cluster, writes).await;
        let near = ([127, 0, 0, 1], 0).into();
        self.link = Link::start(near, front.address(), 1).await;
        self.front = Some(front);
    }

    /// What stands before the API server.
    ///
    /// # Panics
    /// Nothing does.
    #[must_use]
    pub fn front(&self) -> &Front {
        self.front.as_ref().expect("a front")
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

    /// Lets a cluster join the mesh whose home this one is.
    ///
    /// # Panics
    /// The API server refuses.
    pub async fn invite(&self, other: &Self, network: &str) {
        let admin = other.cluster.admin_certificate().expect("a certificate");
        let admin = Credential::Certificate(admin);
        let at = other.link.address();
        self.hand_in(
            other.cluster.name(),
            &other.cluster.kubeconfig_at(at, &admin),
        )
        .await;
        self.apply(&member(other.cluster.name(), network)).await;
    }

    /// Puts a kubeconfig where that of a cluster that joins is looked for.
    ///
    /// # Panics
    /// The API server refuses.
    pub async fn hand_in(&self, cluster: &str, kubeconfig: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": format!("cluster-{cluster}"), "namespace": SYSTEM },
            "stringData": { "kubeconfig": kubeconfig },
        });
        self.apply(&secret.to_string()).await;
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
