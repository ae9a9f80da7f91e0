//! Whom has this replica to wait for before a root may go?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isthmus_control_plane_core::rotation::{Report, Roster, Rotation, Seen};
use isthmus_proto::ids::WorkloadName;
use isthmus_proto::spiffe::TrustDomain;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long who asks for a certificate waits until it is kept that it did.
const KEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The proxies that this replica knows, and what was reported of them.
#[derive(Debug, Default)]
pub struct Rosters {
    roster: Mutex<Roster>,
    /// Where what this replica reported in an earlier life was taken over.
    resumed: Mutex<BTreeSet<TrustDomain>>,
    reported: watch::Sender<BTreeMap<TrustDomain, Report>>,
}

impl Rosters {
    /// A proxy asks for a certificate: to be said before it is decided who signs it.
    pub fn note(&self, name: &WorkloadName) {
        self.lock().note(name);
    }

    /// Waits until a proxy that asks for a certificate is kept in mind where a crash does not reach
    /// it. False: it can't be kept now.
    pub async fn remembered(&self, trust_domain: &TrustDomain, name: &WorkloadName) -> bool {
        let mut reported = self.reported.subscribe();
        let kept = reported.wait_for(|all| {
            let report = all.get(trust_domain);
            report.is_some_and(|report| report.names(name))
        });
        timeout(KEPT_TIMEOUT, kept).await.is_ok()
    }

    pub(super) fn sweep(&self, there: impl Fn(&WorkloadName) -> Option<bool>) {
        self.lock().sweep(there);
    }

    pub(super) fn adopt(&self, report: &Report) {
        self.lock().adopt(report);
    }

    /// Takes over what this replica had reported in an earlier life, once.
    pub(super) fn resume(&self, trust_domain: &TrustDomain, report: &Report) {
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        if resumed.insert(trust_domain.clone()) {
            self.lock().adopt(report);
        }
    }

    /// What follows on `before`, now.
    pub(super) fn report(
        &self,
        before: &Report,
        rotation: &Rotation,
        connected: &BTreeMap<WorkloadName, Seen>,
    ) -> Report {
        let mut roster = self.lock();
        connected.keys().for_each(|name| roster.note(name));
        before.next(rotation, &roster, connected)
    }

    /// This report is kept.
    pub(super) fn reported(&self, trust_domain: &TrustDomain, report: Report) {
        self.reported.send_modify(|all| {
            all.insert(trust_domain.clone(), report);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
