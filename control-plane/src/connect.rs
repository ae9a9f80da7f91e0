//! By which credential do we see a cluster now, and what if another one is offered?
//!
//! A credential that takes another's place is tried first: with it the cluster is listed beside the
//! watch that goes on. Only when it is the same cluster, and not less of it is seen, the new watch
//! takes over and the old one ends. Until then, and if it is no good, all stays as it was.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_control_plane_core::model::Change;
use isthmus_control_plane_core::quota::Quota;
use isthmus_proto::ids::ClusterId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::ApiServer;
use crate::fleet::{Fleet, Running};
use crate::kubernetes::kubeconfig::KUBECONFIG_BYTES_MAX;
use crate::kubernetes::{Access, Allow, Api, in_cluster, kubeconfig};
use crate::source::kubernetes::KubernetesSource;
use crate::source::{KindState, Report};

/// How often it is looked whether there is another credential.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a new credential is tried.
const TRIAL_MAX: Duration = Duration::from_secs(60);
/// A credential that was no good is tried again after this: each try lists the whole cluster.
const TRIAL_EVERY: Duration = Duration::from_secs(60);
/// How long an API server may take to say which cluster it is.
const ASK_MAX: Duration = Duration::from_secs(5);
/// An object that every cluster has once, for all its life.
const FIRST_NAMESPACE: &str = "/api/v1/namespaces/kube-system";

/// What is offered: a way, and by what two of them are told apart; or why there is none.
pub type Offer = Result<(Access, [u8; 32]), Unusable>;

/// Why a credential is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// One word in CamelCase, for a condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Unusable {
    /// The credential is not used, for this reason.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Who looks after the way to one cluster.
#[derive(Debug)]
pub struct Connector {
    fleet: Arc<Fleet>,
    cluster: ClusterId,
    quota: Quota,
    used: Option<Used>,
    /// An offer that was refused, and when: it is not tried again for a while.
    refused: Option<([u8; 32], Unusable, Instant)>,
}

/// The credential in use.
#[derive(Debug)]
struct Used {
    digest: [u8; 32],
    api: Api,
    /// Which cluster it leads to; `None`: it was not heard yet.
    uid: Option<String>,
}

impl Connector {
    /// For a cluster that was admitted, and has no source yet.
    #[must_use]
    pub fn new(fleet: &Arc<Fleet>, cluster: &ClusterId, quota: Quota) -> Self {
        Self {
            fleet: Arc::clone(fleet),
            cluster: cluster.clone(),
            quota,
            used: None,
            refused: None,
        }
    }

    /// Whose way it is.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Is there a credential in use?
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used.is_some()
    }

    /// Uses what is offered, if it is another credential than the one in use and is good.
    ///
    /// # Errors
    /// Why what is offered is not used. What was in use before still is.
    pub async fn offer(&mut self, offer: Offer) -> Result<(), Unusable> {
        let result = match offer {
            Ok((access, digest)) => self.take(access, digest).await,
            Err(why) => Err(why),
        };
        if let (Err(why), None) = (&result, &self.used) {
            self.fleet.complain(&self.cluster, &why.message);
        }
        result
    }

    async fn take(&mut self, access: Access, digest: [u8; 32]) -> Result<(), Unusable> {
        let again = |(old, _, at): &&(_, _, Instant)| *old == digest && at.elapsed() < TRIAL_EVERY;
        if let Some((_, why, _)) = self.refused.as_ref().filter(again) {
            return Err(why.clone());
        }
        if let Some(used) = self.used.as_mut().filter(|used| used.digest == digest) {
            if used.uid.is_none() {
                used.uid = uid(&used.api).await;
            }
            return Ok(());
        }
        let api = Api::new(access).map_err(|error| Unusable::new("Refused", error.to_string()))?;
        let source = KubernetesSource::new(&self.cluster, &api, self.quota);
        let running = Running::start(source, Some(api.clone()));
        let cluster = &self.cluster;
        let told = match &self.used {
            None => {
                self.fleet.learn(cluster, running, Vec::new());
                None
            }
            Some(used) => {
                let old = self.fleet.report(cluster).unwrap_or_default();
                match trial(running, (used, &old), &api).await {
                    Ok((running, told)) => {
                        let changes = told.len();
                        self.fleet.learn(cluster, running, told);
                        tracing::info!(%cluster, changes, "the new credential is in use");
                    }
                    Err(why) => {
                        let told = &why.message;
                        tracing::error!(%cluster, "the old credential stays in use: {told}");
                        self.refused = Some((digest, why.clone(), Instant::now()));
                        return Err(why);
                    }
                }
                used.uid.clone()
            }
        };
        self.refused = None;
        self.used = Some(Used {
            digest,
            api,
            uid: told,
        });
        Ok(())
    }
}

type Started = (Running, mpsc::Receiver<Change>);

/// Lists the cluster in the new way, and compares. What is told meanwhile is kept: as much as the
/// source's quota lets through.
async fn trial(
    (running, mut changes): Started,
    (used, old): (&Used, &Report),
    api: &Api,
) -> Result<(Started, Vec<Change>), Unusable> {
    let (mut told, mut last) = (Vec::new(), "no answer".to_owned());
    let listing = async {
        while let Some(change) = changes.recv().await {
            match &change {
                Change::Lost { reason, .. } => reason.clone_into(&mut last),
                Change::InitDone { .. } => {
                    told.push(change);
                    return true;
                }
                Change::Init { .. }
                | Change::Apply(_)
                | Change::Delete(_)
                | Change::Listed { .. }
                | Change::Confirmed { .. } => told.push(change),
            }
        }
        false
    };
    if !timeout(TRIAL_MAX, listing).await.unwrap_or(false) {
        let why = format!("with the new credential the cluster can't be listed: {last}");
        return Err(Unusable::new("Unusable", why));
    }
    let before = match uid(&used.api).await {
        Some(uid) => Some(uid),
        None => used.uid.clone(),
    };
    let now = uid(api).await;
    if let (Some(before), Some(now)) = (before, now)
        && before != now
    {
        let why = format!("the new credential leads to another cluster: {now}, not {before}");
        return Err(Unusable::new("AnotherCluster", why));
    }
    if let Some(kind) = less(old, &running.report()) {
        let why = format!("the new credential may not read {kind}, and the old one may");
        return Err(Unusable::new("SeesLess", why));
    }
    Ok(((running, changes), told))
}

/// A kind that was seen and is forbidden now.
fn less(old: &Report, new: &Report) -> Option<&'static str> {
    let forbidden = |kind: &&str| {
        new.kinds
            .get(*kind)
            .is_some_and(|kind| kind.state == KindState::Forbidden)
    };
    let seen = old
        .kinds
        .iter()
        .filter(|(_, kind)| kind.state == KindState::Watching)
        .map(|(name, _)| *name);
    seen.into_iter().find(forbidden)
}

/// Which cluster is it? `None`: it did not say.
async fn uid(api: &Api) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    let answer = timeout(ASK_MAX, api.get(FIRST_NAMESPACE))
        .await
        .ok()?
        .ok()?;
    let named: Named = serde_json::from_slice(&answer).ok()?;
    Some(named.metadata.uid)
}

/// What a kubeconfig offers.
///
/// # Errors
/// It says what is not allowed, or nothing that can be used.
pub fn of_kubeconfig(text: &str, context: Option<&str>, allow: &Allow) -> Offer {
    let access = kubeconfig(text, context, allow);
    let access = access.map_err(|refused| Unusable::new("Refused", refused.to_string()))?;
    Ok((access, Sha256::digest(text).into()))
}

/// Keeps the way to a cluster that the configuration names, and follows its kubeconfig.
pub async fn configured(mut connector: Connector, reach: ApiServer) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = None;
    loop {
        ticks.tick().await;
        let offer = read(&reach).await;
        let why = connector.offer(offer).await.err();
        if said != why
            && let Some(why) = &why
        {
            let cluster = &connector.cluster;
            tracing::error!(%cluster, "the credential is not used: {}", why.message);
        }
        said = why;
    }
}

/// What the configuration offers now.
///
/// # Errors
/// A file is not there, or says what is not allowed, or nothing that can be used.
pub async fn read(reach: &ApiServer) -> Offer {
    match reach {
        ApiServer::InCluster => in_cluster()
            .map(|access| (access, [0; 32]))
            .map_err(|refused| Unusable::new("Refused", refused.to_string())),
        ApiServer::Kubeconfig {
            file,
            context,
            allow,
        } => text(file)
            .await
            .and_then(|text| of_kubeconfig(&text, context.as_deref(), allow)),
    }
}

async fn text(file: &Path) -> Result<String, Unusable> {
    let path = file.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut text = String::new();
        let most = u64::try_from(KUBECONFIG_BYTES_MAX).unwrap_or(u64::MAX);
        // One more than may be: what is larger is refused by its length.
        let file = std::fs::File::open(path)?;
        file.take(most.saturating_add(1))
            .read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    let Ok(text) = reading.await else {
        return Err(Unusable::new("NotFound", "reading the kubeconfig panicked"));
    };
    text.map_err(|error| Unusable::new("NotFound", format!("read {}: {error}", file.display())))
}
