//! Which authorities are there, and which of them need care?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::rotation::Stage;
use isthmus_proto::spiffe::TrustDomain;

use super::{Authority, NoAuthority};
use crate::store::KeyStore;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The newest authority of every trust domain.
#[derive(Debug)]
pub struct Authorities {
    store: KeyStore,
    current: Mutex<BTreeMap<TrustDomain, Arc<Authority>>>,
}

impl Authorities {
    /// Opens, or makes, the authority of each trust domain.
    ///
    /// # Errors
    /// One can't be opened.
    pub async fn open(
        store: &KeyStore,
        trust_domains: impl IntoIterator<Item = TrustDomain>,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        let mut current = BTreeMap::new();
        for trust_domain in trust_domains {
            let authority = Authority::open(store, &trust_domain, now).await?;
            current.insert(trust_domain, Arc::new(authority));
        }
        Ok(Self {
            store: store.clone(),
            current: Mutex::new(current),
        })
    }

    /// The authority of a trust domain.
    #[must_use]
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Authority>> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(trust_domain)
            .cloned()
    }

    /// The authority of a trust domain; opened, or made, if it is not there yet.
    ///
    /// # Errors
    /// It can't be opened.
    pub async fn add(
        &self,
        trust_domain: &TrustDomain,
        stage: Stage,
        now: SystemTime,
    ) -> Result<Arc<Authority>, NoAuthority> {
        if let Some(authority) = self.of(trust_domain) {
            return Ok(authority);
        }
        // Opened outside of the lock: whoever opens it twice finds the same keys.
        let authority = Arc::new(Authority::open_at(stage, &self.store, trust_domain, now).await?);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.insert(trust_domain.clone(), Arc::clone(&authority));
        Ok(authority)
    }

    /// Signs with what was handed in from now on, and makes nothing for that trust domain any more.
    pub fn adopt(&self, mut handed: Authority) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.get(handed.trust_domain()) {
            handed.follow(old);
        }
        current.insert(handed.trust_domain().clone(), Arc::new(handed));
    }

    /// Goes on to another stage.
    ///
    /// # Errors
    /// Its keys can't be read; it stays where it was.
    pub async fn turn(
        &self,
        trust_domain: &TrustDomain,
        stage: Stage,
        now: SystemTime,
    ) -> Result<Option<Arc<Authority>>, NoAuthority> {
        let Some(old) = self.of(trust_domain) else {
            return Ok(None);
        };
        let new = Arc::new(old.reopen_at(stage, &self.store, now).await?);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Not if its cluster has left meanwhile, or another one was handed in.
        let authority = current.get_mut(trust_domain);
        Ok(authority.filter(|a| !a.is_handed()).map(|authority| {
            *authority = Arc::clone(&new);
            new
        }))
    }

    /// Signs for this trust domain no more. Its keys stay where they are.
    pub fn remove(&self, trust_domain: &TrustDomain) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.remove(trust_domain);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Authority>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.values().cloned().collect()
    }

    /// Renews what nears its end, and says so where that is not possible (SECURITY F17: 30, 7 and 1
    /// days before). What is in use stays as it is if what is kept is no good any more.
    pub async fn tend(&self, now: SystemTime) {
        for old in self.all() {
            let trust_domain = old.trust_domain();
            if old.is_handed() {
                // Whoever handed it in renews it.
                warn_of_end(&old, now);
                continue;
            }
            match old.reopen(&self.store, now).await {
                Ok(new) => {
                    warn_of_end(&new, now);
                    let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                    // Not if its cluster has left meanwhile, another one was handed in, or it has gone on.
                    let authority = current.get_mut(trust_domain);
                    let same = |a: &&mut Arc<Authority>| !a.is_handed() && a.stage() == new.stage();
                    if let Some(authority) = authority.filter(same) {
                        *authority = Arc::new(new);
                    }
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::error!("the authority stays as it was: {error:#}");
                    warn_of_end(&old, now);
                }
            }
        }
    }
}

fn warn_of_end(authority: &Authority, now: SystemTime) {
    let left = authority
        .not_after()
        .duration_since(now)
        .unwrap_or_default();
    let trust_domain = authority.trust_domain();
    let days = left.as_secs() / DAY.as_secs();
    if left <= DAY * 7 {
        tracing::error!(%trust_domain, days, "the issuing certificate is about to end");
    } else if left <= DAY * 30 {
        tracing::warn!(%trust_domain, days, "the issuing certificate nears its end");
    }
}
