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
use crate::kubernetes::{Access, Allow, Api, ApiError, in_cluster, kubeconfig};
use crate::source::kubernetes::{KubernetesSource, Versions};
use crate::source::{KindState, Report};

/// How often it is looked whether there is another credential.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A new credential is tried as long as something comes: a large cluster takes minutes to list. When nothing
/// has come for so long, or all of it takes longer than that, it is no good.
const TRIAL: Patience = Patience {
    pause: Duration::from_secs(60),
    whole: Duration::from_secs(1_800),
};
/// A credential that was no good is tried again after this: each try lists the whole cluster.
const TRIAL_EVERY: Duration = Duration::from_secs(60);
/// How long an API server may take to say which cluster it is.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Why a credential is not used yet: who it leads to could not be asked.
pub const NOT_REACHED: &str = "NotReached";
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
    /// Which cluster it has to be, as whoever let it in has written; `None`: nobody has.
    meant: Option<String>,
    used: Option<Used>,
    /// An offer that was refused, and when: it is not tried again for a while.
    refused: Option<([u8; 32], Unusable, Instant)>,
}

/// The credential in use.
#[derive(Debug)]
struct Used {
    digest: [u8; 32],
    quota: Quota,
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
            meant: None,
            used: None,
            refused: None,
        }
    }

    /// Says which cluster it has to be, by the UID of its namespace `kube-system`.
    pub fn mean(&mut self, uid: Option<String>) {
        self.meant = uid;
    }

    /// Says how much of the cluster is taken in. Another quota is as another credential: the cluster is
    /// listed anew beside what goes on.
    pub fn allow(&mut self, quota: Quota) {
        self.quota = quota;
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
        let quota = self.quota;
        let same = |used: &&mut Used| used.digest == digest && used.quota == quota;
        if let Some(used) = self.used.as_mut().filter(same) {
            if used.uid.is_none()
                && let Ok(Some(uid)) = uid(&used.api).await
            {
                self.fleet.saved().identify(&self.cluster, &uid);
                used.uid = Some(uid);
            }
            return Ok(());
        }
        let api = Api::new(access).map_err(|error| Unusable::new("Refused", error.to_string()))?;
        let (told, seen) = self.identify(&api).await.inspect_err(|why| {
            // Who was not reached is asked again soon.
            if why.reason != NOT_REACHED {
                self.refused = Some((digest, why.clone(), Instant::now()));
            }
        })?;
        if let Some(renewed) = self.go_on(&api, digest).await {
            return renewed;
        }
        let source = KubernetesSource::new(&self.cluster, &api, self.quota).resuming(seen);
        let running = Running::start(source, Some(api.clone()));
        let cluster = &self.cluster;
        match &self.used {
            None => {
                self.fleet.learn(cluster, running, Vec::new());
            }
            Some(_) => {
                let old = self.fleet.report(cluster).unwrap_or_default();
                match trial(running, &old, TRIAL).await {
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
            }
        }
        if let Some(uid) = &told {
            self.fleet.saved().identify(cluster, uid);
        }
        self.refused = None;
        self.used = Some(Used {
            digest,
            quota: self.quota,
            api,
            uid: told,
        });
        Ok(())
    }
}

impl Connector {
    /// Goes on with a newer token of the same account, if it is no more than that.
    async fn go_on(&mut self, by: &Api, digest: [u8; 32]) -> Option<Result<(), Unusable>> {
        let quota = self.quota;
        let used = self.used.as_mut().filter(|used| used.quota == quota)?;
        let token = used.api.access().renewed_by(by.access())?;
        let renewed = renew(used, by, token).await;
        if renewed.is_ok() {
            used.digest = digest;
        }
        let refused = renewed.as_ref().err().cloned();
        self.refused = refused.map(|why| (digest, why, Instant::now()));
        Some(renewed)
    }

    /// Is it the cluster that is meant? Returns its UID, if it tells it, and up to where it was seen.
    async fn identify(&self, api: &Api) -> Result<(Option<String>, Versions), Unusable> {
        let mark = self.fleet.saved().mark(&self.cluster);
        let used = self.used.as_ref().and_then(|used| used.uid.clone());
        let before = used.or_else(|| self.meant.clone()).or(mark.uid);
        match (uid(api).await, before) {
            (Ok(Some(now)), Some(before)) if now != before => {
                let file = format!("worlds/{}.world", self.cluster);
                let why = format!(
                    "the credential leads to another cluster: the UID of kube-system is {now}, not \
                     {before}. If that is meant, let the cluster leave and join, or remove {file}"
                );
                Err(Unusable::new("AnotherCluster", why))
            }
            (Ok(now), before) => Ok((now.or(before), mark.versions)),
            // Nobody is believed before it is known who it is.
            (Err(why), Some(_)) => Err(Unusable::new(NOT_REACHED, why)),
            (Err(_), None) => Ok((None, mark.versions)),
        }
    }
}

/// Goes on with a newer token of the same account, on the same way: no more and no less is seen by it,
/// and nothing has to be listed again.
async fn renew(used: &Used, by: &Api, token: &str) -> Result<(), Unusable> {
    let unusable = |error: ApiError| Unusable::new("Unusable", error.to_string());
    by.is_let_in().await.map_err(unusable)?;
    used.api.renew(token).await.map_err(unusable)
}

type Started = (Running, mpsc::Receiver<Change>);

/// How long a trial may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Without any progress.
    pause: Duration,
    whole: Duration,
}

/// Lists the cluster in the new way, and compares. What is told meanwhile is kept: as much as the
/// source's quota lets through.
async fn trial(
    (running, mut changes): Started,
    old: &Report,
    patience: Patience,
) -> Result<(Started, Vec<Change>), Unusable> {
    let (mut told, mut last) = (Vec::new(), "no answer".to_owned());
    let listing = async {
        let mut heard = 0;
        loop {
            // Cancel-safe: what is not returned stays in the channel.
            let Ok(next) = timeout(patience.pause, changes.recv()).await else {
                // Of what brings no change, as nodes, the bytes tell.
                let bytes = read_so_far(&running.report());
                if std::mem::replace(&mut heard, bytes) < bytes {
                    continue;
                }
                return false;
            };
            let Some(change) = next else { return false };
            match &change {
                Change::Lost { reason, .. } => reason.clone_into(&mut last),
                Change::InitDone { .. } => {
                    told.push(change);
                    return true;
                }
                Change::Init { .. }
                | Change::Apply(_)
                | Change::Refused { .. }
                | Change::Delete(_)
                | Change::Listed { .. }
                | Change::Older { .. }
                | Change::Confirmed { .. }
                | Change::Reached { .. } => told.push(change),
            }
        }
    };
    if !timeout(patience.whole, listing).await.unwrap_or(false) {
        let why = format!("with the new credential the cluster can't be listed: {last}");
        return Err(Unusable::new("Unusable", why));
    }
    if let Some(kind) = less(old, &running.report()) {
        let why = format!("the new credential may not read {kind}, and the old one may");
        return Err(Unusable::new("SeesLess", why));
    }
    Ok(((running, changes), told))
}

/// Bytes of lists and watches.
fn read_so_far(report: &Report) -> u64 {
    report.kinds.values().map(|kind| kind.bytes).sum()
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

/// Which cluster is it? `None`: it does not say.
///
/// # Errors
/// It was not reached, or has trouble of its own.
async fn uid(api: &Api) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    let answer = match timeout(ASK_MAX, api.get(FIRST_NAMESPACE)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_trouble() => return Err(error.to_string()),
        Ok(Err(_)) => return Ok(None),
        Err(_) => return Err(format!("no answer within {} s", ASK_MAX.as_secs())),
    };
    let named: Option<Named> = serde_json::from_slice(&answer).ok();
    Ok(named.map(|named| named.metadata.uid))
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
