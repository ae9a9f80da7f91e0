//! How does a cluster go out of the mesh?
//!
//! The home cluster first: what the control plane does not know any more it sends nobody to. Then the
//! door is closed: without its service account no token is worth anything. Last, what the mesh made
//! there: nobody can make it again.

use anyhow::{Context as _, ensure};
use isthmus_control_plane::kubernetes::Api;
use serde_json::Value;

use super::{CLUSTERS, OLDEST, UID, home, secret};
use crate::args::{Format, LeaveOptions};
use crate::install::objects::{self, MANAGED_BY, MANAGED_LABEL, SYSTEM};
use crate::install::{self, Done};
use crate::kubernetes;

/// What the mesh makes in a cluster, each by the versions of which one is enough: the imports first,
/// for Services and EndpointSlices are derived from them. Not every cluster collects what they leave.
const DERIVED: [&[&str]; 4] = [
    &[
        "/apis/multicluster.x-k8s.io/v1beta1/serviceimports",
        "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
    ],
    &["/api/v1/services"],
    &["/apis/discovery.k8s.io/v1/endpointslices"],
    &["/api/v1/configmaps"],
];

/// Takes it out.
///
/// # Errors
/// Something is refused; what was done before it may be done again.
pub(super) async fn run(options: &LeaveOptions, format: Format) -> anyhow::Result<()> {
    let name = &options.name;
    let reach = &options.reach;
    let home = home(
        reach,
        options.home_context.as_deref(),
        options.home_kubeconfig.as_deref(),
    )?;
    let path = format!("{CLUSTERS}/{name}");
    let known = kubernetes::find(&home, &path)
        .await
        .context("the home cluster")?;
    let joined = known
        .as_ref()
        .is_none_or(|cluster| cluster["spec"].get("credential").is_some());
    ensure!(
        joined,
        "{name} is the cluster that the control plane runs in: it can't leave itself"
    );
    let leaving = if options.only_home {
        None
    } else {
        let api = kubernetes::connect(reach.kubeconfig.as_deref(), reach.context.as_deref())?;
        meant(&api, known.as_ref(), name).await?;
        Some(api)
    };
    let mut done = Done::new(format);
    gone(&home, &path, &format!("MeshCluster {name}"), &mut done).await?;
    let secret = secret(name);
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{secret}");
    gone(
        &home,
        &path,
        &format!("Secret {SYSTEM}/{secret}"),
        &mut done,
    )
    .await?;
    if let Some(api) = leaving {
        for object in objects::access(false)
            .iter()
            .rev()
            .filter(|object| object["kind"] != "Namespace")
        {
            let (path, _) = objects::place(object).context("an object without a place")?;
            gone(&api, &path, &install::title(object), &mut done).await?;
        }
        for versions in DERIVED {
            for collection in versions {
                if derived(&api, collection, &mut done).await? {
                    break;
                }
            }
        }
    }
    done.end();
    Ok(())
}

/// Is it the cluster that joined by this name? A wrong context would cut another one off.
async fn meant(api: &Api, known: Option<&Value>, name: &str) -> anyhow::Result<()> {
    let said = known.and_then(|cluster| cluster["metadata"]["annotations"][UID].as_str());
    let Some(said) = said else {
        return Ok(());
    };
    let oldest = kubernetes::find(api, OLDEST)
        .await
        .with_context(|| format!("the cluster {name}; --only-home leaves it alone"))?
        .unwrap_or_default();
    ensure!(
        kubernetes::text(&oldest, "/metadata/uid") == said,
        "this context is not the cluster that joined as {name}: name it with --context, or use --only-home"
    );
    Ok(())
}

/// Deletes what the mesh made of one kind; `false`: it is not served in this version.
async fn derived(api: &Api, collection: &str, done: &mut Done) -> anyhow::Result<bool> {
    let managed = format!("{MANAGED_LABEL}={MANAGED_BY}");
    let body = match api.list(collection, &[("labelSelector", &managed)]).await {
        Ok(body) => body,
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("listing {collection}")),
    };
    let list: Value = serde_json::from_slice(&body)?;
    let plural = collection.rsplit('/').next().unwrap_or_default();
    let base = collection.trim_end_matches(plural);
    for object in list["items"].as_array().into_iter().flatten() {
        let namespace = kubernetes::text(object, "/metadata/namespace");
        let name = kubernetes::text(object, "/metadata/name");
        let path = format!("{base}namespaces/{namespace}/{plural}/{name}");
        gone(api, &path, &format!("{plural} {namespace}/{name}"), done).await?;
    }
    Ok(true)
}

/// Deletes; what is not there is as good.
async fn gone(api: &Api, path: &str, title: &str, done: &mut Done) -> anyhow::Result<()> {
    match api.delete(path, None).await {
        Ok(()) => done.step("deleted", title),
        Err(error) if error.is_not_found() => done.step("absent", title),
        Err(error) => return Err(error).with_context(|| format!("deleting {title}")),
    }
    Ok(())
}
