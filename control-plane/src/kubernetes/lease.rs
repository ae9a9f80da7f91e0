//! Do we lead, and for how long still?
//!
//! The decisions are in core's `lease`; here a Lease of one cluster is read and written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::lease::{Election, Looked, Record, Step, Timing, Write, Written};
use isthmus_proto::ids::ClusterId;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::client::Api;
use super::error::ApiError;
use super::timestamp;
use crate::state::{StateError, random};

/// One question takes no longer: a leader can ask a second time before its deadline.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait for the word that we have stopped.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// May we write? Clones see the same.
#[derive(Debug, Clone)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Do we lead at this moment? Ask before each write.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Waits until we lead; for ever, if there is no candidate any more. Cancel-safe.
    pub async fn gained(&mut self) {
        while !self.holds() {
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until we do not lead. Cancel-safe.
    pub async fn lost(&mut self) {
        loop {
            let Some(until) = *self.until.borrow_and_update() else {
                return;
            };
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                // Both are cancel-safe.
                changed = self.until.changed() => if changed.is_err() {
                    return sleep_until(until.into()).await;
                },
                () = sleep_until(until.into()) => {}
            }
        }
    }
}

#[cfg(test)]
impl Leadership {
    /// Of one that leads for ever, or never.
    pub(crate) fn fixed(leads: bool) -> Self {
        let far = Instant::now() + Duration::from_secs(3600);
        let (_, until) = watch::channel(leads.then_some(far));
        Self { until }
    }
}

impl Leadership {
    /// Tells it as yes or no for as long as somebody listens, also the moment at which it runs out.
    pub async fn tell(mut self, leads: watch::Sender<bool>) {
        let told = async {
            loop {
                self.gained().await;
                leads.send_replace(true);
                self.lost().await;
                leads.send_replace(false);
            }
        };
        tokio::select! {
            // Both are cancel-safe.
            () = told => {}
            () = leads.closed() => {}
        }
    }
}

/// The API servers of the mesh, as they come, go, and get other credentials.
pub type Servers = watch::Receiver<BTreeMap<ClusterId, Api>>;

/// One that wants to lead.
#[derive(Debug)]
pub struct Candidate {
    cluster: ClusterId,
    apis: Servers,
    namespace: String,
    name: String,
    timing: Timing,
    election: Election,
    /// The lease as it was last seen: what others wrote into it stays.
    lease: Value,
    until: watch::Sender<Option<Instant>>,
}

impl Candidate {
    /// A candidate for a Lease, by namespace and name, of the cluster in which all candidates meet; its
    /// API server may get another credential at any time. `me` is our name, of a pod or a host; what
    /// makes it no other's is added.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(
        (cluster, apis): (&ClusterId, Servers),
        (namespace, name): (&str, &str),
        me: &str,
        timing: Timing,
    ) -> Result<(Self, Leadership), StateError> {
        let unique = u64::from_be_bytes(random::<8>()?);
        let election = Election::new(&format!("{me}_{unique:016x}"), timing);
        let (until, receiver) = watch::channel(None);
        let candidate = Self {
            cluster: cluster.clone(),
            apis,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            timing,
            election,
            lease: Value::Null,
            until,
        };
        Ok((candidate, Leadership { until: receiver }))
    }

    /// Wants to lead until `stop` says true or is gone, and then gives back what it has.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            // Whatever is under way may be dropped: the election ends here.
            () = self.strive() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.until.send_replace(None);
        if let Some(write) = self.election.release() {
            let released = timeout(RELEASE_TIMEOUT, self.write(&write)).await;
            tracing::info!(lease = self.name, ok = released.is_ok(), "leads no more");
        }
    }

    async fn strive(&mut self) {
        loop {
            match self.election.next(Instant::now()) {
                Step::Wait(until) => sleep_until(until.into()).await,
                Step::Look => {
                    let looked = self.look().await;
                    self.election.looked(looked, Instant::now(), jitter());
                }
                Step::Write(write) => {
                    let begun = Instant::now();
                    let written = self.write(&write).await;
                    self.election
                        .written(written, begun, Instant::now(), jitter());
                }
            }
            self.tell();
        }
    }

    fn tell(&self) {
        let until = self.election.until();
        self.until.send_if_modified(|told| {
            if told.is_some() != until.is_some() {
                tracing::info!(lease = self.name, leads = until.is_some(), "leadership");
            }
            let changed = *told != until;
            *told = until;
            changed
        });
    }

    fn collection(&self) -> String {
        let namespace = &self.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    fn api(&self) -> Option<Api> {
        self.apis.borrow().get(&self.cluster).cloned()
    }

    async fn look(&mut self) -> Looked {
        let path = self.path();
        if self.api().is_none() {
            // At the start the way is not found yet, and nobody who starts should wait for a turn.
            let _ = timeout(self.timing.retry, self.apis.changed()).await;
        }
        let Some(api) = self.api() else {
            return Looked::Failed;
        };
        let answer = match timeout(ASK_TIMEOUT, api.get(&path)).await {
            Ok(Ok(bytes)) => serde_json::from_slice(&bytes).ok(),
            Ok(Err(error)) if error.is_not_found() => return Looked::Absent,
            Ok(Err(error)) => {
                tracing::debug!(%error, lease = self.name, "the lease can't be seen");
                None
            }
            Err(_) => None,
        };
        let Some(lease) = answer else {
            return Looked::Failed;
        };
        self.lease = lease;
        match record(&self.lease, self.timing) {
            Some(record) => Looked::Found(record),
            None => Looked::Failed,
        }
    }

    async fn write(&mut self, write: &Write) -> Written {
        let lease = self.made(write, &timestamp::micro(SystemTime::now()));
        let Some(api) = self.api() else {
            // Not asked, so not written; a look comes first all the same.
            return Written::Lost;
        };
        let asked = async {
            match &write.over {
                None => api.create(&self.collection(), &lease).await,
                Some(_) => api.replace(&self.path(), &lease).await,
            }
        };
        match timeout(ASK_TIMEOUT, asked).await {
            Ok(Ok(lease)) => {
                self.lease = lease;
                record(&self.lease, self.timing).map_or(Written::Unknown, Written::Done)
            }
            // Refused in so many words, so nothing was written.
            Ok(Err(ApiError::Status { code, message, .. })) if (400..500).contains(&code) => {
                if code != 409 && code != 404 {
                    tracing::warn!(code, message, lease = self.name, "the lease is refused");
                }
                Written::Lost
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, lease = self.name, "the lease can't be written");
                Written::Unknown
            }
            Err(_) => Written::Unknown,
        }
    }

    /// The lease as it is to be.
    fn made(&self, write: &Write, now: &str) -> Value {
        let mut lease = match &write.over {
            Some(_) => self.lease.clone(),
            None => json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": self.name, "namespace": self.namespace },
            }),
        };
        if let Some(version) = &write.over {
            lease["metadata"]["resourceVersion"] = json!(version);
        }
        let acquired = match lease.pointer("/spec/acquireTime") {
            Some(before) if !write.acquired => before.clone(),
            Some(_) | None => json!(now),
        };
        // Kubernetes counts whole seconds, from one.
        let seconds = self.timing.duration.as_secs().max(1);
        lease["spec"] = json!({
            // Its validation refuses a name that is empty: given back is no name.
            "holderIdentity": write.holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": acquired, "renewTime": now,
            "leaseTransitions": write.transitions,
        });
        lease
    }
}

fn record(lease: &Value, timing: Timing) -> Option<Record> {
    let spec = lease.get("spec")?;
    let holder = spec.get("holderIdentity").and_then(Value::as_str);
    let number = |field: &str| spec.get(field).and_then(Value::as_u64);
    Some(Record {
        version: lease
            .pointer("/metadata/resourceVersion")?
            .as_str()?
            .to_owned(),
        holder: holder
            .filter(|name| !name.is_empty())
            .map(ToOwned::to_owned),
        duration: number("leaseDurationSeconds").map_or(timing.duration, Duration::from_secs),
        transitions: number("leaseTransitions")
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
    })
}

/// From 0 to 1. Without random numbers candidates may ask in step, and nothing else.
fn jitter() -> f64 {
    let [byte] = random::<1>().unwrap_or([128]);
    f64::from(byte) / 255.0
}

#[cfg(test)]
mod tests;
