//! Which clusters are in the mesh, and may the control plane do there what it must?

mod join;
mod member;
mod list;
mod leave;
mod check;
mod facts;
mod conditions;
mod definitions;
mod ranges;
pub(crate) mod properties;
mod view;
mod judge;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_control_plane::kubernetes::Api;
use serde_json::Value;

use crate::args::{ClusterCommand, Format, Reach};
use crate::kubernetes;

/// Where MeshClusters are.
pub(crate) const CLUSTERS: &str = "/apis/isthmus.dev/v1alpha1/meshclusters";
/// The namespace whose UID tells clusters apart: it is as old as its cluster.
const OLDEST: &str = "/api/v1/namespaces/kube-system";
/// The key of a Secret that has a kubeconfig.
const CREDENTIAL_KEY: &str = "kubeconfig";
/// Which cluster a MeshCluster means, by the UID of its oldest namespace.
const UID: &str = "isthmus.dev/cluster-uid";

/// What tells this cluster from all others; `None`: it has no such namespace.
async fn own_uid(api: &Api) -> anyhow::Result<Option<String>> {
    let oldest = kubernetes::find(api, OLDEST).await?;
    Ok(oldest.map(|namespace| kubernetes::text(&namespace, "/metadata/uid").to_owned()))
}

/// Which cluster an object of the home cluster is about.
fn joined_uid(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][UID].as_str()
}

/// Does what the user wants of clusters.
///
/// # Errors
/// It can't be done; the text says why.
pub(crate) fn run(command: &ClusterCommand, format: Format) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match command {
            ClusterCommand::Join(options) => Box::pin(join::run(options, format))
                .await
                .map(|()| ExitCode::SUCCESS),
            ClusterCommand::List(options) => {
                list::run(options, format).await.map(|()| ExitCode::SUCCESS)
            }
            ClusterCommand::Leave(options) => leave::run(options, format)
                .await
                .map(|()| ExitCode::SUCCESS),
            ClusterCommand::Check(options) => Box::pin(check::run(options, format)).await,
        }
    })
}

/// The client of the cluster that the control plane runs in.
fn home(reach: &Reach, context: Option<&str>, kubeconfig: Option<&Path>) -> anyhow::Result<Api> {
    let file = kubeconfig.or(reach.kubeconfig.as_deref());
    kubernetes::connect(file, context).context("the home cluster")
}

/// The Secret that has a cluster's credential.
fn secret(name: &str) -> String {
    format!("cluster-{name}")
}

/// The text of a Secret's key; `None`: it has none, or it is no text.
fn secret_text(secret: &Value, key: &str) -> Option<String> {
    let data = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(data).ok()
}
