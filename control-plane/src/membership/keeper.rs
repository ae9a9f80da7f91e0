//! Who keeps the credential of one member?

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::model::CredentialRef;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Wanted;
use super::provider;
use super::secret::{self, Credential};
use crate::config::Home;
use crate::connect::{Connector, LOOK_EVERY, Offer, Unusable, of_kubeconfig};
use crate::credential::{CredentialError, Place, Tended, tend};
use crate::fleet::Fleet;
use crate::kubernetes::Api;

/// How often it is looked whether a credential is to be renewed, and tried again where that failed.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// How long a renewal may take.
const RENEW_MAX: Duration = Duration::from_secs(30);

/// Who keeps one member's credential.
pub(super) struct Keeper {
    pub(super) home: Home,
    pub(super) renews: bool,
    pub(super) fleet: Arc<Fleet>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) kept: Arc<Mutex<Kept>>,
    pub(super) connector: Connector,
    /// Not looked at before.
    pub(super) renew_at: SystemTime,
}

/// How a member's credential stands.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Whether it is in use, or why not; `None`: it was not looked at yet.
    pub(super) verdict: Option<Result<(), Unusable>>,
    /// Why it was due and is not renewed.
    pub(super) not_renewed: Option<String>,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let apis = self.fleet.apis();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.connector.mean(wanted.uid);
            self.connector.allow(self.home.quota.with(wanted.quota));
            let wanted = wanted.credential;
            let home = apis.borrow().get(&self.home.cluster).cloned();
            let offer = match provider::offer(&self.home, &wanted) {
                Some(offer) => offer,
                None => self.stored(home.as_ref(), &wanted).await,
            };
            let ends = offer.as_ref().ok().and_then(|(access, _)| access.ends());
            let verdict = self.connector.offer(offer).await;
            if let Some(at) = ends.filter(|_| verdict.is_ok()) {
                self.fleet.ends(self.connector.cluster(), at);
            }
            self.note(verdict);
            // A profile's is its cluster manager's to renew.
            if let Credential::Named(wanted) = &wanted {
                self.renew(home.as_ref(), wanted).await;
            }
            // Cancel-safe: a change that is not seen here is seen above.
            if let Ok(Err(_)) = timeout(LOOK_EVERY, self.wanted.changed()).await {
                return;
            }
        }
    }

    fn note(&self, verdict: Result<(), Unusable>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.verdict = Some(verdict);
    }

    /// What lies in a Secret of the home cluster.
    async fn stored(&self, home: Option<&Api>, wanted: &Credential) -> Offer {
        let of = (self.fleet.copies(), home);
        let text = secret::of(of, self.namespace(home), wanted).await;
        let text = text.map_err(|why| provider::none_of(wanted, why))?;
        of_kubeconfig(&text, None, &self.home.allow)
    }

    fn namespace<'a>(&'a self, home: Option<&'a Api>) -> &'a str {
        let own = home.and_then(|home| home.access().namespace.as_deref());
        self.home.place(own)
    }

    /// Renews a token of a service account long before it ends. Each replica looks; the Secret is
    /// replaced only as it was read, so one of them writes, and the others find what it wrote.
    async fn renew(&mut self, home: Option<&Api>, wanted: &CredentialRef) {
        let now = SystemTime::now();
        let due = self.renews && self.connector.is_used() && now >= self.renew_at;
        let Some(home) = home.filter(|_| due) else {
            return;
        };
        let place = Place {
            namespace: self.namespace(Some(home)).to_owned(),
            name: wanted.secret.clone(),
            key: wanted.key.clone(),
        };
        let cluster = self.connector.cluster().clone();
        self.renew_at = now + RENEW_EVERY;
        let tended = timeout(RENEW_MAX, tend(home, &place, &self.home.allow, now)).await;
        let not_renewed = match tended {
            Ok(Ok(Tended::Renewed(_))) => {
                tracing::info!(%cluster, "its credential is renewed");
                None
            }
            Ok(Ok(Tended::Until(_) | Tended::NotOurs)) => None,
            // Another replica was faster.
            Ok(Err(CredentialError::Home(error))) if error.is_conflict() => None,
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(why) = &not_renewed {
            tracing::error!(%cluster, "its credential is not renewed: {why}");
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.not_renewed = not_renewed;
    }
}
