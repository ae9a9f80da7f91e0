//! How does a cluster go out of the mesh?
//!
//! The home cluster first: what the control plane does not know any more it sends nobody to. Then the
//! door is closed: without its service account no token is worth anything. Then what the mesh made
//! there: nobody can make it again. Last the Secret, which says until then which cluster is meant:
//! whatever stops half-way can be done again.

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, stream};
use isthmus_control_plane::kubernetes::{Api, ApiError};
use serde_json::Value;

use super::{CLUSTERS, home, joined_uid, own_uid, secret};
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

/// Objects that are deleted at a time.
const AT_A_TIME: usize = 8;

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
    let secret = secret(name);
    let secret_path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{secret}");
    let credential = kubernetes::find(&home, &secret_path)
        .await
        .context("the home cluster")?;
    let leaving = if options.only_home {
        None
    } else {
        let api = kubernetes::connect(reach.kubeconfig.as_deref(), reach.context.as_deref())?;
        let said = known.iter().chain(&credential).find_map(joined_uid);
        meant(&home, &api, said, name).await?;
        Some(api)
    };
    let mut done = Done::new(format);
    gone(&home, &path, &format!("MeshCluster {name}"), &mut done).await?;
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
    let title = format!("Secret {SYSTEM}/{secret}");
    gone(&home, &secret_path, &title, &mut done).await?;
    done.end();
    Ok(())
}

/// Is it the cluster that joined by this name? A wrong context would cut another one off.
async fn meant(home: &Api, api: &Api, said: Option<&str>, name: &str) -> anyhow::Result<()> {
    let seen = own_uid(api)
        .await
        .with_context(|| format!("the cluster {name}; --only-home leaves it alone"))?
        .unwrap_or_default();
    if let Some(said) = said {
        ensure!(
            seen == said,
            "this context is not the cluster that joined as {name}: name it with --context, or use --only-home"
        );
        return Ok(());
    }
    // Nobody remembers which one it was: then at least none that is in the mesh.
    let own = own_uid(home).await?.unwrap_or_default();
    ensure!(
        own != seen,
        "this context is the cluster that the control plane runs in, and {name} is none of the mesh: \
         name it with --context"
    );
    let others = kubernetes::list(home, CLUSTERS).await?.unwrap_or_default();
    let other = others.iter().find(|other| joined_uid(other) == Some(&seen));
    if let Some(other) = other.map(|other| kubernetes::text(other, "/metadata/name")) {
        ensure!(
            other == name,
            "this context is the cluster that joined as {other}, not {name}"
        );
    }
    Ok(())
}

/// Deletes what the mesh made of one kind; `false`: it is not served in this version.
async fn derived(api: &Api, collection: &str, done: &mut Done) -> anyhow::Result<bool> {
    let managed = format!("{MANAGED_LABEL}={MANAGED_BY}");
    let query = [("labelSelector", managed.as_str())];
    let name = |object: Value| {
        let part = |pointer| kubernetes::text(&object, pointer).to_owned();
        (part("/metadata/namespace"), part("/metadata/name"))
    };
    let found = kubernetes::list_some(api, collection, &query, usize::MAX, name).await;
    let found = found.with_context(|| format!("listing {collection}"))?;
    let Some(found) = found else {
        return Ok(false);
    };
    let plural = collection.rsplit('/').next().unwrap_or_default();
    let base = collection.trim_end_matches(plural);
    let mut deleted = stream::iter(found.picked)
        .map(|(namespace, name)| async move {
            let path = format!("{base}namespaces/{namespace}/{plural}/{name}");
            let title = format!("{plural} {namespace}/{name}");
            (api.delete(&path, None).await, title)
        })
        .buffered(AT_A_TIME);
    while let Some((deleted, title)) = deleted.next().await {
        told(deleted, &title, done)?;
    }
    Ok(true)
}

/// Deletes; what is not there is as good.
async fn gone(api: &Api, path: &str, title: &str, done: &mut Done) -> anyhow::Result<()> {
    told(api.delete(path, None).await, title, done)
}

fn told(deleted: Result<(), ApiError>, title: &str, done: &mut Done) -> anyhow::Result<()> {
    match deleted {
        Ok(()) => done.step("deleted", title),
        Err(error) if error.is_not_found() => done.step("absent", title),
        Err(error) => return Err(error).with_context(|| format!("deleting {title}")),
    }
    Ok(())
}
