//! Where do the objects of the two clusters live: in folders, or in API servers?

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_test_clusters::{Cluster as ApiServer, Programs, Settings};
use serde_json::{Value, json};

use super::folder::Folder;
use super::manifests::Manifest;
use super::plan::{Cluster, Pod};
use crate::install::objects::{self, SYSTEM};
use crate::install::permissions::ACCOUNT;
use crate::roles::{self, TokenFor};

/// For whom the pods' tokens are.
const AUDIENCE: &str = "isthmus";

/// Either of the two.
#[derive(Debug)]
pub(crate) enum Store {
    /// A folder of manifests for each cluster.
    Folders,
    /// An API server for each cluster.
    Servers(Box<Servers>),
}

/// Two API servers, each with an etcd of its own.
#[derive(Debug)]
pub(crate) struct Servers {
    east: ApiServer,
    west: ApiServer,
}

impl Servers {
    /// Starts both, and defines the mesh's kinds in them.
    ///
    /// # Errors
    /// The programs are not here, or do not start.
    async fn start(folder: &Folder) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let settings = Settings {
            logs: Some(folder.logs()),
            ..Settings::default()
        };
        let start = async |cluster: Cluster| {
            let server = ApiServer::start(&programs, cluster.name(), &settings).await?;
            server.define_kinds().await?;
            fs::write(kubeconfig(folder, cluster), server.admin_kubeconfig()?)
                .context("writing a kubeconfig")?;
            anyhow::Ok(server)
        };
        let (east, west) = tokio::try_join!(
            Box::pin(start(Cluster::East)),
            Box::pin(start(Cluster::West))
        )?;
        Ok(Self { east, west })
    }

    /// The API server of a cluster.
    pub(crate) fn of(&self, cluster: Cluster) -> &ApiServer {
        match cluster {
            Cluster::East => &self.east,
            Cluster::West => &self.west,
        }
    }

    /// The same, to be killed and stopped.
    pub(crate) fn of_mut(&mut self, cluster: Cluster) -> &mut ApiServer {
        match cluster {
            Cluster::East => &mut self.east,
            Cluster::West => &mut self.west,
        }
    }
}

impl Store {
    /// Folders are there already; API servers are started.
    ///
    /// # Errors
    /// The API servers' programs are not here, or do not start.
    pub(crate) async fn open(with_servers: bool, folder: &Folder) -> anyhow::Result<Self> {
        if with_servers {
            let servers = Box::pin(Servers::start(folder)).await?;
            Ok(Self::Servers(Box::new(servers)))
        } else {
            Ok(Self::Folders)
        }
    }

    /// For people: where an object of that cluster is written to.
    pub(crate) fn place(&self, cluster: Cluster) -> String {
        match self {
            Self::Folders => format!("{}'s folder", cluster.name()),
            Self::Servers(_) => format!("{}'s API server", cluster.name()),
        }
    }

    /// What the control plane's configuration says of a cluster.
    pub(crate) fn origin(&self, folder: &Folder, cluster: Cluster) -> Value {
        match self {
            Self::Folders => json!({ "name": cluster.name(), "files": folder.cluster(cluster) }),
            Self::Servers(_) => json!({
                "name": cluster.name(),
                "kubernetes": {
                    "kubeconfig": control_kubeconfig(folder, cluster),
                    // Nobody else's API server should lead the control plane to its own machine.
                    "allow": ["loopback"],
                },
            }),
        }
    }

    /// Lets the control plane into each API server as `isthmus install` does: with an account that
    /// may do what it needs, and no more. The clusters' namespaces are there already.
    ///
    /// # Errors
    /// An API server refuses.
    pub(crate) async fn admit_control_plane(&self, folder: &Folder) -> anyhow::Result<()> {
        let Self::Servers(servers) = self else {
            return Ok(());
        };
        for cluster in Cluster::ALL {
            let server = servers.of(cluster);
            let access = objects::access(true);
            // The namespace is the demo's: its gateway's pod is no container, and says nothing of
            // what a container may do.
            for object in access.iter().filter(|o| o["kind"] != "Namespace") {
                server.admin().apply(object).await?;
            }
            let token = server.token(SYSTEM, ACCOUNT, None, None).await?;
            let text = server.kubeconfig(&Credential::Token(token));
            fs::write(control_kubeconfig(folder, cluster), text)
                .context("writing the control plane's kubeconfig")?;
        }
        Ok(())
    }

    /// Writes a manifest.
    ///
    /// # Errors
    /// The folder can't be written to, or the API server refuses.
    pub(crate) async fn put(
        &self,
        folder: &Folder,
        (cluster, file): (Cluster, &str),
        text: &str,
    ) -> anyhow::Result<()> {
        match self {
            Self::Folders => folder.put(cluster, file, text),
            Self::Servers(servers) => {
                let applied = servers.of(cluster).admin().apply_text(text).await;
                applied
                    .map(drop)
                    .with_context(|| format!("applying {file} in {}", cluster.name()))
            }
        }
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// It isn't there, or the API server refuses.
    pub(crate) async fn remove(
        &self,
        folder: &Folder,
        (cluster, file): (Cluster, &str),
        text: &str,
    ) -> anyhow::Result<()> {
        match self {
            Self::Folders => folder.remove(cluster, file),
            Self::Servers(servers) => servers.of(cluster).admin().delete_text(text).await,
        }
    }

    /// A token with which a pod asks for its certificate.
    ///
    /// # Errors
    /// The cluster's key is not there, or the API server refuses.
    pub(crate) async fn token(&self, folder: &Folder, pod: &Pod) -> anyhow::Result<String> {
        match self {
            Self::Folders => {
                let whom = TokenFor {
                    cluster: pod.cluster.name(),
                    namespace: pod.namespace,
                    service_account: pod.account,
                    pod: pod.name,
                };
                roles::token(&folder.control_state(), whom)
            }
            Self::Servers(servers) => {
                let server = servers.of(pod.cluster);
                server
                    .token(pod.namespace, pod.account, Some(AUDIENCE), Some(pod.name))
                    .await
                    .with_context(|| format!("a token for {}", pod.id()))
            }
        }
    }

    /// The API servers, where there are any.
    pub(crate) fn servers_mut(&mut self) -> Option<&mut Servers> {
        match self {
            Self::Folders => None,
            Self::Servers(servers) => Some(servers),
        }
    }

    /// How many processes it has.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Folders => 0,
            Self::Servers(_) => 4,
        }
    }

    /// For people: how to look into it, and change it.
    pub(crate) fn hint(&self, folder: &Folder) -> String {
        let [east, west] = Cluster::ALL;
        match self {
            Self::Folders => format!(
                "Manifests, read live: {} and {}",
                folder.cluster(east).display(),
                folder.cluster(west).display()
            ),
            Self::Servers(_) => format!(
                "API servers, watched: kubectl --kubeconfig {} get pods -A   (or {})",
                kubeconfig(folder, east).display(),
                kubeconfig(folder, west).display()
            ),
        }
    }

    /// For people: what does this file to a cluster.
    pub(crate) fn command(&self, folder: &Folder, cluster: Cluster, file: &str) -> String {
        match self {
            Self::Folders => format!("cp {file} {}/", folder.cluster(cluster).display()),
            Self::Servers(_) => {
                let config = kubeconfig(folder, cluster);
                format!("kubectl --kubeconfig {} apply -f {file}", config.display())
            }
        }
    }

    /// For people: what takes such a file from a cluster again.
    pub(crate) fn undo(&self, folder: &Folder, manifest: &Manifest) -> String {
        let file = folder.cluster(manifest.cluster).join(manifest.file);
        match self {
            Self::Folders => format!("rm {}", file.display()),
            Self::Servers(_) => {
                let config = kubeconfig(folder, manifest.cluster);
                let file = folder.root().join(manifest.file);
                format!(
                    "kubectl --kubeconfig {} delete -f {}",
                    config.display(),
                    file.display()
                )
            }
        }
    }

    /// Starts again what is not running of it.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn revive(&mut self) -> anyhow::Result<()> {
        if let Self::Servers(servers) = self {
            servers.east.revive().await?;
            servers.west.revive().await?;
        }
        Ok(())
    }

    /// Ends what runs of it; whatever fails here ends with this process.
    pub(crate) async fn end(&mut self) {
        if let Self::Servers(servers) = std::mem::replace(self, Self::Folders) {
            let Servers { east, west } = *servers;
            let _both = tokio::join!(east.end(), west.end());
        }
    }
}

/// The control plane's.
fn control_kubeconfig(folder: &Folder, cluster: Cluster) -> PathBuf {
    let name = format!("control-plane-{}.kubeconfig", cluster.name());
    folder.root().join(name)
}

/// An administrator's, for people.
fn kubeconfig(folder: &Folder, cluster: Cluster) -> PathBuf {
    folder.root().join(format!("{}.kubeconfig", cluster.name()))
}
