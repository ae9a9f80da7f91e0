//! Who belongs to the mesh now, and is all there that each cluster needs?
//!
//! A cluster that joins gets an authority, roots that others believe, handle keys and a seat in the
//! world, and then a source that fills it. The same way leads in at the start and at run time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use isthmus_control_plane_core::model::Change;
use isthmus_control_plane_core::rotation::Rotation;
use isthmus_control_plane_core::world::{Dirty, World};
use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource::TrustBundle;
use isthmus_proto::spiffe::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::authority::Authority;
use crate::authority::registry::Authorities;
use crate::copies::Copies;
use crate::hub::{CHANGES_MAX, Hub};
use crate::keys::handle_keys;
use crate::kubernetes::Api;
use crate::rotation;
use crate::saved::Saved;
use crate::source::{Report, Source};
use crate::state::{StateDir, StateError, random};
use crate::store::KeyStore;
use crate::trust::Trust;

/// The clusters of the mesh, as they come and go.
#[derive(Debug)]
pub struct Fleet {
    store: KeyStore,
    mesh_domain: String,
    /// This replica's name among those that agree on rotations.
    replica: String,
    hub: Arc<Hub>,
    authorities: Arc<Authorities>,
    saved: Arc<Saved>,
    trust: watch::Sender<Arc<Trust>>,
    sources: Mutex<BTreeMap<ClusterId, Running>>,
    apis: Apis,
    copies: Arc<Copies>,
    /// Clusters that are to be admitted and are not yet, and why.
    awaited: Mutex<BTreeMap<ClusterId, String>>,
    /// When the credentials of clusters end that say so.
    ends: Mutex<BTreeMap<ClusterId, SystemTime>>,
}

/// The API servers of the mesh, as they come, go, and get other credentials.
pub type Apis = watch::Sender<BTreeMap<ClusterId, Api>>;

/// A source at work; it ends when nobody holds this.
#[derive(Debug)]
pub struct Running {
    report: watch::Receiver<Report>,
    api: Option<Api>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts a source, and the place where its changes come out.
    #[must_use]
    pub fn start(source: impl Source, api: Option<Api>) -> (Self, mpsc::Receiver<Change>) {
        let (send, receive) = mpsc::channel(CHANGES_MAX);
        let report = source.report();
        let task = tokio::spawn(source.run(send));
        (Self { report, api, task }, receive)
    }

    /// What the source says of itself now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    /// A mesh that nobody belongs to yet.
    ///
    /// # Errors
    /// The state folder can't be used.
    pub fn open(
        (state, store): (&StateDir, &KeyStore),
        mesh_domain: &str,
        hub: &Arc<Hub>,
        authorities: &Arc<Authorities>,
        apis: &Apis,
    ) -> Result<Self, StateError> {
        let made = || Ok(replica_name()?.into_bytes());
        let replica = String::from_utf8_lossy(&state.read_or_create("replica", made)?).into_owned();
        Ok(Self {
            replica,
            store: store.clone(),
            mesh_domain: mesh_domain.to_owned(),
            hub: Arc::clone(hub),
            authorities: Arc::clone(authorities),
            saved: Arc::new(Saved::open(state, mesh_domain)?),
            trust: watch::Sender::default(),
            sources: Mutex::default(),
            apis: apis.clone(),
            copies: Arc::default(),
            awaited: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    /// With copies of the home cluster's Secrets.
    #[must_use]
    pub fn with_copies(self, copies: &Arc<Copies>) -> Self {
        let copies = Arc::clone(copies);
        Self { copies, ..self }
    }

    /// The home cluster's Secrets as they were last read.
    #[must_use]
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// What is kept on disk of each cluster.
    #[must_use]
    pub fn saved(&self) -> &Arc<Saved> {
        &self.saved
    }

    /// Whose roots are believed, as it changes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// Takes a cluster into the mesh, as it was when it was last seen; of one that belongs to it
    /// already nothing changes. Reads, and for a new cluster makes, its keys. One at a time.
    ///
    /// # Errors
    /// The name can't be a cluster's, or a key can't be read or made, or not by us.
    pub async fn admit(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        let admitted = self.enter(cluster).await;
        let why = admitted.as_ref().err().map(|error| format!("{error:#}"));
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &why {
            Some(why) => awaited.insert(cluster.clone(), why.clone()),
            None => awaited.remove(cluster),
        };
        drop(awaited);
        if let Some(why) = why.filter(|why| before.as_ref() != Some(why)) {
            tracing::warn!(%cluster, "the cluster can't join yet: {why}");
        }
        admitted
    }

    /// Signs for a cluster with what was handed in, and tells its believers if it is a member.
    ///
    /// # Errors
    /// They can't be told.
    pub async fn hand_in(&self, cluster: &ClusterId, handed: Authority) -> anyhow::Result<()> {
        self.authorities.adopt(handed);
        let member = |world: &World| world.state(cluster.as_str()).is_some();
        if self.hub.read(member) {
            self.admit(cluster).await?;
        }
        Ok(())
    }

    /// Is there somebody who signs for a cluster that was handed in?
    #[must_use]
    pub fn is_handed(&self, trust_domain: &TrustDomain) -> bool {
        let authority = self.authorities.of(trust_domain);
        authority.is_some_and(|authority| authority.is_handed())
    }

    /// Clusters that are to be admitted and are not yet, and why.
    #[must_use]
    pub fn awaited(&self) -> BTreeMap<ClusterId, String> {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.clone()
    }

    /// Notes when the credential of a cluster ends.
    pub fn ends(&self, cluster: &ClusterId, at: SystemTime) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.insert(cluster.clone(), at);
    }

    /// When the credential of a cluster ends, if it says so.
    #[must_use]
    pub fn credential_ends(&self, cluster: &ClusterId) -> Option<SystemTime> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(cluster).copied()
    }

    async fn enter(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        let trust_domain = TrustDomain::of_cluster(cluster, &self.mesh_domain)?;
        let rotation = rotation::register(&self.store, &trust_domain, &self.replica).await?;
        let stage = rotation.stage();
        let authority = self
            .authorities
            .add(&trust_domain, stage, SystemTime::now());
        let authority = authority.await?;
        let keys = handle_keys(&self.store, cluster).await?;
        let mut trust = Trust::clone(&self.trust.borrow());
        trust.set(&trust_domain, &authority.roots())?;
        let mut refused = None;
        self.hub.change(|world| {
            let enter = || {
                let mut dirty = world.add_cluster(cluster)?;
                dirty.merge(&world.set_handle_keys(cluster, keys));
                dirty.merge(&world.set_trust_bundle(bundle(cluster, &authority))?);
                Ok(dirty)
            };
            enter().unwrap_or_else(|error: isthmus_proto::ids::InvalidName| {
                refused = Some(error);
                Dirty::default()
            })
        });
        if let Some(error) = refused {
            return Err(error).with_context(|| format!("cluster {cluster}"));
        }
        self.trust.send_replace(Arc::new(trust));
        if self.saved.note(cluster).is_none() {
            let (saved, hub, cluster) = (self.saved.clone(), self.hub.clone(), cluster.clone());
            spawn_blocking(move || saved.restore(&hub, &cluster))
                .await
                .context("restoring it panicked")?;
        }
        Ok(())
    }

    /// Learns of a cluster that was admitted from this source, and from no other any more. `told` is
    /// what the source has told already.
    pub fn learn(
        &self,
        cluster: &ClusterId,
        (running, changes): (Running, mpsc::Receiver<Change>),
        told: Vec<Change>,
    ) {
        self.hub.take_seat(cluster, told, changes);
        let api = running.api.clone();
        self.saved.follow(cluster, running.report.clone());
        // The one before ends here, when the new one is heard.
        self.sources().insert(cluster.clone(), running);
        self.reach(cluster, api);
        // Whoever is dismissed meanwhile learns nothing.
        if self
            .hub
            .read(|world| world.state(cluster.as_str()).is_none())
        {
            self.unlearn(cluster);
        }
    }

    fn unlearn(&self, cluster: &ClusterId) {
        self.sources().remove(cluster);
        self.reach(cluster, None);
        self.hub.leave(cluster);
    }

    fn reach(&self, cluster: &ClusterId, api: Option<Api>) {
        self.apis.send_modify(|apis| {
            match api {
                Some(api) => apis.insert(cluster.clone(), api),
                None => apis.remove(cluster),
            };
        });
    }

    /// Says why a cluster is not seen, as long as it has no source.
    pub fn complain(&self, cluster: &ClusterId, why: &str) {
        let (cluster, reason) = (cluster.clone(), why.to_owned());
        let lost = Change::Lost { cluster, reason };
        self.hub
            .change(|world| world.apply(lost, SystemTime::now()));
    }

    /// The API servers of the mesh, as they come, go, and get other credentials.
    #[must_use]
    pub fn apis(&self) -> watch::Receiver<BTreeMap<ClusterId, Api>> {
        self.apis.subscribe()
    }

    /// A cluster belongs to the mesh no more: its endpoints are withdrawn, and nobody of it is
    /// believed. Its keys stay, for the day when it comes back.
    pub fn dismiss(&self, cluster: &ClusterId) {
        let domain = TrustDomain::of_cluster(cluster, &self.mesh_domain);
        self.hub.change(|world| {
            let mut dirty = world.remove_cluster(cluster);
            if let Ok(domain) = &domain {
                dirty.merge(&world.remove_trust_bundle(domain));
            }
            dirty
        });
        self.unlearn(cluster);
        self.awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(cluster);
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(cluster);
        self.saved.forget(cluster);
        if let Ok(domain) = &domain {
            let mut trust = Trust::clone(&self.trust.borrow());
            trust.remove(domain);
            self.trust.send_replace(Arc::new(trust));
            self.authorities.remove(domain);
        }
    }

    /// This replica's name among those that agree on rotations.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// Signs and believes as this stage of a rotation says.
    ///
    /// # Errors
    /// Its keys can't be read, or the cluster has left; all stays as it was.
    pub async fn turn(
        &self,
        cluster: &ClusterId,
        rotation: &Rotation,
    ) -> anyhow::Result<Arc<Authority>> {
        let trust_domain = TrustDomain::of_cluster(cluster, &self.mesh_domain)?;
        let turned = self
            .authorities
            .turn(&trust_domain, rotation.stage(), SystemTime::now());
        let authority = turned.await?.context("the cluster has left the mesh")?;
        let mut trust = Trust::clone(&self.trust.borrow());
        trust.set(&trust_domain, &authority.roots())?;
        self.trust.send_replace(Arc::new(trust));
        let told = bundle(cluster, &authority);
        // The name was read before.
        self.hub
            .change(|world| world.set_trust_bundle(told).unwrap_or_default());
        Ok(authority)
    }

    /// What the source of a cluster says of itself; `None`: there is none.
    #[must_use]
    pub fn report(&self, cluster: &ClusterId) -> Option<Report> {
        let sources = self.sources();
        sources.get(cluster).map(Running::report)
    }

    /// How far the clock of a cluster's API server is ahead of ours, in seconds; `None`: it has not said.
    #[must_use]
    pub fn clock_ahead(&self, cluster: &ClusterId) -> Option<i64> {
        let sources = self.sources();
        let api = sources.get(cluster)?.api.as_ref()?;
        api.traffic().clock_ahead()
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, BTreeMap<ClusterId, Running>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of our pod or machine, and what tells two on one machine apart.
fn replica_name() -> Result<String, StateError> {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "isthmus".to_owned());
    let number = u32::from_be_bytes(random::<4>()?);
    Ok(format!("{host}#{number:08x}"))
}

/// What proxies believe of a cluster's trust domain.
fn bundle(cluster: &ClusterId, authority: &Authority) -> TrustBundle {
    TrustBundle {
        trust_domain: authority.trust_domain().to_string(),
        roots: authority
            .roots()
            .iter()
            .map(|root| root.to_vec().into())
            .collect(),
        sequence: authority.version(),
        cluster: cluster.to_string(),
        origin: None,
        retiring: authority
            .retiring()
            .iter()
            .map(|root| root.to_vec().into())
            .collect(),
    }
}
