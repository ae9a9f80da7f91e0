//! With which keys do we start, and what if they can't be had yet?
//!
//! Keys in Secrets need the home cluster's API server, and at the very first start a leader who makes
//! them. Until then nothing is served: whoever made keys of its own meanwhile would be another mesh.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use super::Parts;
use crate::admin::Front;
use crate::config::{Config, Home, KeysAt, Origin};
use crate::connect;
use crate::copies::Copies;
use crate::fleet::Apis;
use crate::kubernetes::{Api, Leadership};
use crate::state::{StateDir, random};
use crate::store::{KeyStore, Secrets};

/// The first pause after a try that failed ...
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// ... and the longest; half of it at least, the rest by chance.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the start needs.
pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a StateDir,
    pub(super) apis: &'a Apis,
    pub(super) copies: &'a Arc<Copies>,
    pub(super) leadership: Option<&'a Leadership>,
    pub(super) front: &'a Front,
}

impl Opening<'_> {
    /// Reads, and at the first start makes, every key. With keys in Secrets it tries until it has
    /// them, and says why it has not.
    pub(super) async fn run(self) -> anyhow::Result<Arc<Parts>> {
        match self.config.keys {
            KeysAt::Files => {
                let store = KeyStore::Files(self.state.clone());
                Parts::open(self.config, (self.state, &store), self.apis, self.copies).await
            }
            KeysAt::Secrets => {
                let home = self.config.home.as_ref();
                let home = home.context("keys in Secrets, and no home cluster")?;
                Ok(self.insist(|| self.secrets(home)).await)
            }
        }
    }

    async fn secrets(&self, home: &Home) -> anyhow::Result<Arc<Parts>> {
        let known = self.apis.borrow().get(&home.cluster).cloned();
        let api = match known {
            Some(api) => api,
            None => self.reach(home).await?,
        };
        let leadership = self.leadership.context("nobody is elected")?.clone();
        let own = api.access().namespace.clone();
        let secrets = Secrets::new(home, own.as_deref(), self.apis.subscribe(), leadership);
        let store = KeyStore::Secrets(secrets.with_copies(self.copies));
        Parts::open(self.config, (self.state, &store), self.apis, self.copies).await
    }

    /// The way to the home cluster, until its source has its own. The election takes it, too.
    async fn reach(&self, home: &Home) -> anyhow::Result<Api> {
        let mut clusters = self.config.clusters.iter();
        let found = clusters.find(|cluster| cluster.name == home.cluster);
        let Some(Origin::Kubernetes(kubernetes)) = found.map(|cluster| &cluster.origin) else {
            anyhow::bail!("the home cluster {} has no API server", home.cluster);
        };
        let offer = connect::read(&kubernetes.reach).await;
        let unusable = |why: connect::Unusable| anyhow::anyhow!(why.message);
        let (access, _) = offer
            .map_err(unusable)
            .with_context(|| format!("the way to the home cluster {}", home.cluster))?;
        let api = Api::new(access)?;
        self.apis.send_modify(|apis| {
            apis.insert(home.cluster.clone(), api.clone());
        });
        Ok(api)
    }

    /// Tries until it is done.
    async fn insist<T, F: Future<Output = anyhow::Result<T>>>(&self, act: impl Fn() -> F) -> T {
        let mut pause = RETRY_FIRST;
        let mut said = String::new();
        loop {
            let why = match act().await {
                Ok(done) => return done,
                Err(error) => format!("{error:#}"),
            };
            if said != why {
                tracing::warn!("the start waits: {why}");
                self.front.wait_for(&why);
                said = why;
            }
            sleep(pause.mul_f64(0.5 + chance() / 2.0)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    let [byte] = random::<1>().unwrap_or([128]);
    f64::from(byte) / 255.0
}
