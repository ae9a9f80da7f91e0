//! What do all clusters declare, taken together?
//!
//! One writer: [`World::apply`] takes a source's changes and says what they may have altered. Each
//! cluster is on its own: what one does, or fails to do, changes nothing of another. *Unknown*
//! (never listed in full), *synced* and *stale* are three states; what an unknown cluster has told
//! so far is not looked at, and nothing that a lost cluster had told is forgotten.

pub(crate) mod table;
pub(crate) mod dirty;
mod expiry;
pub(crate) mod cluster;
pub(crate) mod index;
mod seen;
mod refused;
mod counts;
mod touch;
mod conditions;
mod keep;
mod offers;
pub(crate) mod exporters;
mod first_use;
mod members;
pub(crate) mod ranges;
mod authors;
#[cfg(test)]
mod tests;

pub use cluster::NOT_LISTED;
pub use conditions::Condition;
pub use dirty::Dirty;
pub use first_use::{Declared, FirstUse};
pub use keep::NOT_SEEN;
pub use keep::{LastSeen, Place};
pub use members::{NOT_ADMITTED, Standing, Standings};
pub use offers::{Offer, OfferName, OfferedEndpoint};
pub use refused::weight;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::{ClusterId, InvalidName, Namespace, WorkloadName, is_dns_name};
use isthmus_proto::resource;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};

use crate::model::{
    Advertised, Change, Kind, KindFreshness, Object, ObjectRef, Pod, Refusal, SYSTEM_NAMESPACE,
};
use crate::rotation::RootNumber;
use crate::translate::cache::Cache;
use crate::translate::encode_plain;
use cluster::Cluster;
use table::Stamp;

/// Clusters of one mesh.
pub const CLUSTERS_MAX: usize = 200;
/// While a cluster is synced, its confirmation is told in steps: each step is a message to every
/// client that uses the cluster.
pub const CONFIRMED_STEP: Duration = Duration::from_secs(60);
/// Names that a cluster cannot have: `control.<mesh domain>` is the control plane's own trust
/// domain, and `mesh/` begins the names of policies for the whole mesh.
pub const RESERVED: [&str; 2] = ["control", "mesh"];

/// Every cluster's objects, and what the shell adds: keys and trust.
#[derive(Debug)]
pub struct World {
    mesh_domain: String,
    generation: u64,
    pub(crate) clusters: BTreeMap<ClusterId, Cluster>,
    pub(crate) trust: BTreeMap<TrustDomain, resource::TrustBundle>,
    /// Clusters that are cut off, and by which object.
    distrusted: BTreeMap<ClusterId, ObjectRef>,
    /// The home cluster, and what became of those that it names.
    standings: Option<(ClusterId, Standings)>,
    pub(crate) system: BTreeSet<Namespace>,
    /// Whose policies for the mesh count in other clusters; `None`: everyone's.
    mesh_authors: Option<BTreeSet<ClusterId>>,
    /// How pods find the control plane; `None`: they are not told.
    pub(crate) advertised: Option<Advertised>,
    /// How long the last good state of a cluster counts in the others, as far as somebody has said.
    life: Option<Duration>,
    /// Clusters that the home cluster names, or may name, and that are not there yet.
    /// Clusters that are not here, and may belong to the mesh all the same. `None`: the home cluster was not
    /// heard yet, any.
    awaited: Option<BTreeSet<String>>,
    pub(crate) cache: Cache,
}

/// What is known of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Never listed in full: absence means nothing.
    Unknown,
    /// Listed in full and watched: absence means that there is none.
    Synced,
    /// Was synced, and the source cannot see it now: what was known is kept.
    Stale,
}

/// A cluster's state, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus<'a> {
    /// Its name.
    pub cluster: &'a ClusterId,
    /// What is known of it.
    pub state: State,
    /// Why it is not synced; empty if it is.
    pub reason: &'a str,
    /// It was not seen for so long that its endpoints are withdrawn from the other clusters.
    pub expired: bool,
    /// When the source's view was last known to be right.
    pub confirmed_at: Option<SystemTime>,
    /// How many objects of each kind it has.
    pub objects: BTreeMap<Kind, usize>,
    /// Kinds that were never seen, although the cluster is: nothing is told that depends on them.
    pub unknown: &'a BTreeSet<Kind>,
    /// Kinds that are not as fresh as the cluster.
    pub older: &'a BTreeMap<Kind, KindFreshness>,
    /// Grows with every change of its objects and of its state.
    pub revision: u64,
}

impl World {
    /// A mesh without clusters.
    ///
    /// # Errors
    /// `mesh_domain` is not a DNS name in lower case.
    pub fn new(mesh_domain: &str) -> Result<Self, InvalidName> {
        if !is_dns_name(mesh_domain) {
            return Err(InvalidName::new(
                "mesh domain",
                mesh_domain,
                "not a DNS name in lower case",
            ));
        }
        Ok(Self {
            mesh_domain: mesh_domain.to_owned(),
            generation: 0,
            clusters: BTreeMap::new(),
            trust: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            standings: None,
            system: SYSTEM_NAMESPACE.parse().into_iter().collect(),
            mesh_authors: None,
            advertised: None,
            life: None,
            awaited: Some(BTreeSet::new()),
            cache: Cache::default(),
        })
    }

    /// Expects a cluster; it is unknown until its first list is complete. Every cluster of the mesh
    /// has to be named before its changes: a name is known to be absent only when all of them
    /// have been listed.
    ///
    /// # Errors
    /// The name is reserved, too long for the mesh domain, or there are [`CLUSTERS_MAX`] already.
    pub fn add_cluster(&mut self, cluster: &ClusterId) -> Result<Dirty, InvalidName> {
        let refused = |why| Err(InvalidName::new("cluster", cluster.as_str(), why));
        if RESERVED.contains(&cluster.as_str()) {
            return refused("reserved for the mesh itself");
        }
        if self.clusters.contains_key(cluster) {
            return Ok(Dirty::default());
        }
        if self.clusters.len() >= CLUSTERS_MAX {
            return refused("the mesh has its 200 clusters already");
        }
        let domain = TrustDomain::of_cluster(cluster, &self.mesh_domain)?;
        self.clusters
            .insert(cluster.clone(), Cluster::new(cluster.clone(), domain));
        self.gather();
        self.settle();
        Ok(self.note(Dirty::everything()))
    }

    /// Forgets a cluster: its endpoints are withdrawn.
    pub fn remove_cluster(&mut self, cluster: &ClusterId) -> Dirty {
        match self.clusters.remove(cluster) {
            Some(_) => {
                self.settle();
                self.note(Dirty::everything())
            }
            None => Dirty::default(),
        }
    }

    /// Which namespaces speak for their whole cluster (default: [`SYSTEM_NAMESPACE`]): gateways, and
    /// policies for a cluster or the mesh, are heard only from them.
    pub fn set_system_namespaces(&mut self, namespaces: BTreeSet<Namespace>) -> Dirty {
        self.system = namespaces;
        self.note(Dirty::everything())
    }

    /// Which clusters' policies for the mesh count in the others (default: every cluster's). Where
    /// clusters are named, no client is told its policies before they have been listed: what must
    /// be denied is never unknown. By default a cluster that cannot be listed keeps nobody waiting.
    pub fn set_mesh_authors(&mut self, clusters: Option<BTreeSet<ClusterId>>) -> Dirty {
        self.mesh_authors = clusters;
        self.gather();
        self.settle();
        self.note(Dirty::everything())
    }

    /// Takes one change in, and says what it may have altered. Changes of clusters that were not
    /// added are ignored.
    pub fn apply(&mut self, change: Change, now: SystemTime) -> Dirty {
        let stamp = self.stamp(now);
        let settles = authors::concerns(&change);
        let mut dirty = match change {
            Change::Init { cluster } => self.begin(&cluster),
            Change::Apply(object) => self.put(&object, stamp),
            Change::Refused { at, why } => self.refuse(at, why),
            Change::Delete(at) => self.delete(&at),
            Change::InitDone { cluster, kept } => self.complete(&cluster, &kept, now),
            Change::Listed { cluster, kind } => self.listed_late(&cluster, kind),
            Change::Lost { cluster, reason } => self.lose(&cluster, reason),
            Change::Older { cluster, kinds } => self.age(&cluster, kinds, now),
            Change::Confirmed { cluster, at } => self.confirm(&cluster, at),
            Change::Reached {
                cluster,
                kind,
                position,
            } => self.reach(&cluster, kind, position),
        };
        if settles {
            dirty.merge(&self.settle());
        }
        self.settled(dirty, stamp)
    }

    /// The generation moves where something may be different.
    fn settled(&mut self, dirty: Dirty, stamp: Stamp) -> Dirty {
        if !dirty.is_empty() {
            self.generation = stamp.generation;
        }
        self.note(dirty)
    }

    /// The keys by which handles of a cluster's endpoints are made and checked, newest first.
    pub fn set_handle_keys(&mut self, cluster: &ClusterId, keys: Vec<HandleKey>) -> Dirty {
        let Some(found) = self.clusters.get_mut(cluster).filter(|c| c.keys != keys) else {
            return Dirty::default();
        };
        found.keys = keys;
        // Every exported endpoint has a handle of the newest key.
        self.note(Dirty::everything())
    }

    /// Whom to believe in one trust domain; replaces what was said before.
    ///
    /// # Errors
    /// `bundle.trust_domain` is not a DNS name in lower case.
    pub fn set_trust_bundle(
        &mut self,
        bundle: resource::TrustBundle,
    ) -> Result<Dirty, InvalidName> {
        let domain: TrustDomain = bundle.trust_domain.parse()?;
        if self.trust.get(&domain) == Some(&bundle) {
            return Ok(Dirty::default());
        }
        self.trust.insert(domain, bundle);
        Ok(self.note(Dirty {
            trust: true,
            ..Dirty::default()
        }))
    }

    /// How pods find the control plane. Where nobody says, what stands in the clusters stays as it is.
    pub fn advertise(&mut self, advertised: Option<Advertised>) -> Dirty {
        if self.advertised == advertised {
            return Dirty::default();
        }
        self.advertised = advertised;
        self.note(Dirty {
            advertised: true,
            ..Dirty::default()
        })
    }

    /// Nobody of this trust domain is believed any more.
    pub fn remove_trust_bundle(&mut self, domain: &TrustDomain) -> Dirty {
        match self.trust.remove(domain) {
            Some(_) => self.note(Dirty {
                trust: true,
                ..Dirty::default()
            }),
            None => Dirty::default(),
        }
    }

    fn begin(&mut self, cluster: &ClusterId) -> Dirty {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.list = cluster.list.saturating_add(1);
        }
        Dirty::default()
    }

    fn put(&mut self, object: &Object, stamp: Stamp) -> Dirty {
        let at = object.reference();
        if let Some(why) = self.keeps_last_good(object) {
            return self.refuse(at, why);
        }
        let Some(cluster) = self.clusters.get_mut(&object.cluster) else {
            return Dirty::default();
        };
        if let Err(message) = cluster.admit(object) {
            let why = Refusal {
                reason: "Refused",
                message,
                observed: object.spec.observed().cloned().unwrap_or_default(),
            };
            return self.refuse(at, why);
        }
        if cluster.confirm(object) {
            let mut dirty = Dirty::default();
            // It says again what it said before it was refused.
            if cluster.refused.remove(&at).is_some() {
                dirty.objects.insert(at);
            }
            return dirty;
        }
        if let Some(since) = cluster.differs_in_status(object) {
            // The mesh's own word, come back: of interest to the writer alone.
            cluster.put(object, since);
            let mut dirty = Dirty::default();
            dirty.objects.insert(at);
            return dirty;
        }
        changed(cluster, &at, |cluster| cluster.put(object, stamp))
    }

    /// Its author is told; for everybody else nothing has changed.
    fn refuse(&mut self, at: ObjectRef, why: Refusal) -> Dirty {
        let mut dirty = Dirty::default();
        if let Some(cluster) = self.clusters.get_mut(&at.cluster)
            && cluster.refuse(at.clone(), why)
        {
            dirty.objects.insert(at);
        }
        dirty
    }

    fn delete(&mut self, at: &ObjectRef) -> Dirty {
        match self.clusters.get_mut(&at.cluster) {
            Some(cluster) => changed(cluster, at, |cluster| cluster.remove(at)),
            None => Dirty::default(),
        }
    }

    fn complete(&mut self, cluster: &ClusterId, kept: &BTreeSet<Kind>, now: SystemTime) -> Dirty {
        let Some(cluster) = self.clusters.get_mut(cluster) else {
            return Dirty::default();
        };
        // A list in which no kind was seen is none: what was not known is not known now.
        let saw = Kind::ALL.iter().any(|kind| !kept.contains(kind));
        if !saw && cluster.state == State::Unknown {
            return Dirty::default();
        }
        let mut dirty = Dirty::default();
        for at in cluster.unnamed(|kind| !kept.contains(&kind)) {
            dirty.merge(&changed(cluster, &at, |cluster| cluster.remove(&at)));
        }
        cluster.forget_refused(|kind| !kept.contains(&kind));
        let is_news = cluster.complete(kept);
        cluster.state = State::Synced;
        // It is seen again: what was withdrawn because it was not comes back.
        if cluster.expires(self.life, now) || is_news {
            dirty = Dirty::everything();
        }
        cluster.revision = cluster.revision.saturating_add(1);
        cluster.reason.clear();
        cluster.confirmed_at = Some(now);
        dirty.freshness.insert(cluster.id.clone());
        dirty
    }

    fn listed_late(&mut self, cluster: &ClusterId, kind: Kind) -> Dirty {
        let mut dirty = Dirty::default();
        // Before the first `InitDone` nothing is removed: it will come.
        let Some(cluster) = self.clusters.get_mut(cluster).filter(|c| c.listed()) else {
            return dirty;
        };
        for at in cluster.unnamed(|of| of == kind) {
            dirty.merge(&changed(cluster, &at, |cluster| cluster.remove(&at)));
        }
        cluster.forget_refused(|of| of == kind);
        if !cluster.sees(kind) || !cluster.knows(kind) {
            if cluster.complete_late(kind) {
                // Clients were told nothing by this kind, and are now.
                dirty = Dirty::everything();
            }
            // The writer waits for it, with whatever depends on this kind.
            dirty.freshness.insert(cluster.id.clone());
        }
        dirty
    }

    fn lose(&mut self, cluster: &ClusterId, reason: String) -> Dirty {
        let Some(cluster) = self.clusters.get_mut(cluster) else {
            return Dirty::default();
        };
        cluster.reason = reason;
        if cluster.state == State::Synced {
            cluster.state = State::Stale;
            cluster.revision = cluster.revision.saturating_add(1);
        }
        Dirty {
            freshness: [cluster.id.clone()].into(),
            ..Dirty::default()
        }
    }

    fn age(
        &mut self,
        cluster: &ClusterId,
        mut kinds: BTreeMap<Kind, KindFreshness>,
        now: SystemTime,
    ) -> Dirty {
        let found = self.clusters.get_mut(cluster);
        if let Some(cluster) = &found {
            // The source that tells has not seen it; what is known of it is another one's.
            let known = kinds.iter_mut().filter(|(kind, _)| cluster.knows(**kind));
            for (kind, of) in known.filter(|(_, of)| of.confirmed_at.is_none()) {
                let before = cluster.older.get(kind).and_then(|of| of.confirmed_at);
                of.confirmed_at = before.or(cluster.restored_at);
            }
        }
        let Some(cluster) = found.filter(|cluster| cluster.older != kinds) else {
            return Dirty::default();
        };
        cluster.older = kinds;
        // On disk, too, it is as old as it is.
        cluster.revision = cluster.revision.saturating_add(1);
        if cluster.expires(self.life, now) {
            return Dirty::everything();
        }
        Dirty {
            freshness: [cluster.id.clone()].into(),
            ..Dirty::default()
        }
    }

    fn confirm(&mut self, cluster: &ClusterId, at: SystemTime) -> Dirty {
        let Some(cluster) = self.clusters.get_mut(cluster) else {
            return Dirty::default();
        };
        // Only a synced cluster has a view that can be confirmed; time never goes back.
        if cluster.state != State::Synced || cluster.confirmed_at.is_some_and(|t| t >= at) {
            return Dirty::default();
        }
        let told = cluster.confirmed_at.map(whole_steps);
        cluster.confirmed_at = Some(at);
        if told == Some(whole_steps(at)) {
            return Dirty::default();
        }
        Dirty {
            freshness: [cluster.id.clone()].into(),
            ..Dirty::default()
        }
    }

    /// Nothing is different: it is only known how new it is.
    fn reach(&mut self, cluster: &ClusterId, kind: Kind, position: u64) -> Dirty {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.positions.insert(kind, position);
        }
        Dirty::default()
    }

    fn note(&mut self, dirty: Dirty) -> Dirty {
        self.cache.forget(&dirty);
        dirty
    }
}

/// Changes a cluster, and says what was affected before and is affected after. Of a cluster that is
/// not listed yet nobody hears.
fn changed(cluster: &mut Cluster, at: &ObjectRef, change: impl FnOnce(&mut Cluster)) -> Dirty {
    if !cluster.listed() {
        change(cluster);
        return Dirty::default();
    }
    let mut dirty = touch::touch(cluster, at);
    change(cluster);
    dirty.merge(&touch::touch(cluster, at));
    dirty
}

/// The time as clients are told it while all is well: rounded down to a [`CONFIRMED_STEP`].
pub(crate) fn whole_steps(at: SystemTime) -> SystemTime {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let over = since
        .as_secs()
        .checked_rem(CONFIRMED_STEP.as_secs())
        .unwrap_or(0);
    let whole = Duration::from_secs(since.as_secs().saturating_sub(over));
    SystemTime::UNIX_EPOCH.checked_add(whole).unwrap_or(at)
}

/// What can be asked.
impl World {
    /// Grows with every change that may concern a client.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The mesh domain.
    #[must_use]
    pub fn mesh_domain(&self) -> &str {
        &self.mesh_domain
    }

    /// Every cluster that was added.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterStatus<'_>> {
        self.clusters.values().map(|cluster| ClusterStatus {
            cluster: &cluster.id,
            state: cluster.state,
            reason: &cluster.reason,
            expired: cluster.expired,
            confirmed_at: cluster.confirmed_at,
            objects: cluster.counts(),
            unknown: cluster.unknown(),
            older: &cluster.older,
            revision: cluster.revision,
        })
    }

    /// What is known of a cluster; `None`: it is not in the mesh.
    #[must_use]
    pub fn state(&self, cluster: &str) -> Option<State> {
        self.clusters.get(cluster).map(|c| c.state)
    }

    /// A pod, whatever its cluster's state.
    #[must_use]
    pub fn pod(&self, name: &WorkloadName) -> Option<&Pod> {
        let cluster = self.clusters.get(name.cluster())?;
        cluster
            .pods
            .get(name.namespace(), name.pod())
            .map(|entry| &entry.value)
    }

    /// The SPIFFE ID that a pod should have.
    #[must_use]
    pub fn identity_of(&self, name: &WorkloadName) -> Option<SpiffeId> {
        let domain = self.trust_domain(name.cluster())?;
        SpiffeId::new(domain, name.namespace(), &self.pod(name)?.service_account).ok()
    }

    /// The trust domain of a cluster that was added.
    #[must_use]
    pub fn trust_domain(&self, cluster: &str) -> Option<&TrustDomain> {
        self.clusters.get(cluster).map(|c| &c.trust_domain)
    }

    /// Whom to believe, by trust domain: without the clusters that are cut off.
    pub fn trust_bundles(&self) -> impl Iterator<Item = &resource::TrustBundle> {
        let believed = |bundle: &&resource::TrustBundle| {
            !self.distrusted.contains_key(bundle.cluster.as_str())
        };
        self.trust.values().filter(believed)
    }

    /// The version of a trust domain's bundle, as sessions tell it; `None`: nobody is told any.
    #[must_use]
    pub fn trust_bundle_version(&self, domain: &TrustDomain) -> Option<u64> {
        let mut told = self.trust_bundles();
        let bundle = told.find(|bundle| bundle.trust_domain == domain.as_str())?;
        Some(encode_plain(&bundle.trust_domain, bundle).version.number())
    }

    /// The root that somebody wishes a cluster's trust domain to have.
    #[must_use]
    pub fn wished_root(&self, cluster: &ClusterId) -> Option<RootNumber> {
        self.listed(cluster.as_str())?.mesh()?.root
    }

    /// May the objects of this namespace speak for their cluster?
    pub(crate) fn is_system(&self, namespace: &str) -> bool {
        namespace.is_empty() || self.system.contains(namespace)
    }

    /// Do this cluster's policies for the mesh count in others?
    pub(crate) fn is_mesh_author(&self, cluster: &ClusterId) -> bool {
        self.mesh_authors
            .as_ref()
            .is_none_or(|authors| authors.contains(cluster))
    }

    /// Are all policies for the mesh known that have to be waited for?
    pub(crate) fn mesh_authors_listed(&self) -> bool {
        self.mesh_author_awaited().is_none()
    }

    /// A cluster that speaks for the mesh, and has not said yet who is cut off and what is denied.
    /// Until then nobody gets a certificate, and no client is told whom to believe.
    #[must_use]
    pub fn mesh_author_awaited(&self) -> Option<&ClusterId> {
        self.author_without(&[Kind::TrustPolicy, Kind::AccessPolicy])
    }

    /// One that speaks for the mesh, and of which one of these kinds is not known.
    fn author_without(&self, kinds: &[Kind]) -> Option<&ClusterId> {
        let heard = |cluster: &Cluster| kinds.iter().all(|kind| cluster.knows(*kind));
        let mut authors = self.mesh_authors();
        authors.find(|cluster| !self.clusters.get(*cluster).is_some_and(heard))
    }

    /// The cluster, if it has been listed.
    pub(crate) fn listed(&self, cluster: &str) -> Option<&Cluster> {
        self.clusters.get(cluster).filter(|c| c.listed())
    }

    /// Does it belong to the mesh, or may it, without having been listed yet?
    pub(crate) fn is_unknown(&self, cluster: &str) -> bool {
        !self.is_settled(cluster, Cluster::listed)
    }

    /// Is so much known of a cluster? One that is not there, and can't come, has nothing.
    pub(crate) fn is_settled(&self, cluster: &str, known: impl FnOnce(&Cluster) -> bool) -> bool {
        let found = self.clusters.get(cluster);
        found.map_or_else(|| !self.awaits(cluster), known)
    }

    /// May what is told of the cluster be told to others? Nobody counts on who was not seen for long, and
    /// nobody believes who is cut off.
    pub(crate) fn counts_elsewhere(&self, cluster: &Cluster) -> bool {
        !cluster.expired && !self.is_distrusted(cluster.id.as_str())
    }

    /// Is it known of every cluster which services it exports? Only then is a name of the whole mesh
    /// known to be absent.
    pub(crate) fn offers_known(&self) -> bool {
        !self.is_gathering() && self.clusters.values().all(Cluster::offers_known)
    }

    /// May what this cluster exports be taken for known, so that what is missing is gone? Also of a
    /// cluster that is not in the mesh.
    pub(crate) fn exports_known(&self, cluster: &str) -> bool {
        self.is_settled(cluster, Cluster::offers_known)
    }
}
