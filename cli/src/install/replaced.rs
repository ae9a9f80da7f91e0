//! What was there before the control plane was run another way?

use std::time::Duration;

use anyhow::{Context as _, bail};
use isthmus_control_plane::kubernetes::Api;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Done;
use super::objects::{Plan, SYSTEM, SavedWorld};
use super::permissions::ACCOUNT;
use crate::kubernetes;

/// Longest time until the new pods serve: their volumes have to be made.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// How often it is asked.
const READY_POLL: Duration = Duration::from_millis(500);

/// Takes the other kind of object away, when a pod of the one that was just applied is ready: until then
/// both serve, for all replicas are equal.
///
/// # Errors
/// The new pods don't get ready, or the API server refuses. The old ones go on.
pub(super) async fn retire(api: &Api, plan: &Plan, done: &mut Done) -> anyhow::Result<()> {
    let other = match plan.saved_world {
        SavedWorld::OfThePod => SavedWorld::Claimed(None),
        SavedWorld::Claimed(_) => SavedWorld::OfThePod,
    };
    let (new, old) = (plan.saved_world.workload(), other.workload());
    if kubernetes::find(api, &path(old)).await?.is_none() {
        return Ok(());
    }
    let until = Instant::now() + READY_TIMEOUT;
    loop {
        let found = kubernetes::find(api, &path(new)).await?.unwrap_or_default();
        let ready = found.pointer("/status/readyReplicas");
        if ready.and_then(Value::as_u64).is_some_and(|ready| ready > 0) {
            break;
        }
        if Instant::now() >= until {
            bail!(
                "no pod of the {new} {SYSTEM}/{ACCOUNT} is ready after {} s: the {old} goes on; look what \
                 is wrong with the pods, and do this again",
                READY_TIMEOUT.as_secs()
            );
        }
        sleep(READY_POLL).await;
    }
    let title = format!("{old} {SYSTEM}/{ACCOUNT}");
    match api.delete(&path(old), None).await {
        Err(error) if !error.is_not_found() => {
            return Err(error).with_context(|| format!("deleting {title}"));
        }
        Ok(()) | Err(_) => done.step("deleted", &title),
    }
    Ok(())
}

/// Takes the NetworkPolicy away, where none is wanted any more.
///
/// # Errors
/// The API server refuses.
pub(super) async fn open(api: &Api, plan: &Plan, done: &mut Done) -> anyhow::Result<()> {
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies/{ACCOUNT}");
    if plan.network_policy || kubernetes::find(api, &path).await?.is_none() {
        return Ok(());
    }
    let title = format!("NetworkPolicy {SYSTEM}/{ACCOUNT}");
    match api.delete(&path, None).await {
        Err(error) if !error.is_not_found() => Err(error).context(format!("deleting {title}")),
        Ok(()) | Err(_) => {
            done.step("deleted", &title);
            Ok(())
        }
    }
}

fn path(kind: &str) -> String {
    let plural = kind.to_lowercase();
    format!("/apis/apps/v1/namespaces/{SYSTEM}/{plural}s/{ACCOUNT}")
}
