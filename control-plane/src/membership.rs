//! Which clusters belong to the mesh, as the home cluster says?
//!
//! A MeshCluster of the home cluster with a credential is a cluster of the mesh; its kubeconfig lies
//! in a Secret beside the control plane. Clusters join, leave and get other credentials while all
//! goes on. Only the object's absence, in a list that was whole, makes a cluster leave: an object that
//! becomes wrong, and a Secret that goes away, leave all as it was and are told in conditions.
//!
//! A ClusterProfile in the system namespace of the home cluster (KEP-4322) does the same for a cluster
//! that no MeshCluster and no configuration names; its credential is made by a plugin that is configured
//! for one of its providers (KEP-5339), or its kubeconfig is in a Secret that names it by a label.
//!
//! ```text
//! MeshCluster ─ judge ─► admit ─► Secret ─► kubeconfig ─► connect ─► source
//!                  └───────────────┴── Standing: Accepted, CredentialValid, Connected, Synced
//! ```

mod judge;
mod issuer;
mod provider;
mod secret;
mod keeper;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::model::{Allotment, ClusterProfile, Kind, MeshCluster};
use isthmus_control_plane_core::world::{
    ClusterStatus, NOT_ADMITTED, NOT_LISTED, NOT_SEEN, Standing, Standings, State,
};
use isthmus_proto::ids::ClusterId;
use isthmus_proto::spiffe::TrustDomain;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::Home;
use crate::connect::{Connector, LOOK_EVERY, Unusable};
use crate::fleet::Fleet;
use crate::hub::Hub;
use crate::metrics::Metrics;
use judge::{Named, Wrong, judge, judge_profile, named};
use keeper::{Keeper, Kept};
use secret::Credential;
use standing::{connected, credential, exceeded, say};

/// Between two looks at the home cluster, whatever changes.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// A cluster that could not be admitted, because its keys are not there yet, is tried this often.
const ADMIT_EVERY: Duration = Duration::from_secs(3);

/// What is said of a cluster whose object is on its way out.
const GOING: &str =
    "it is being deleted: the cluster leaves when the object is gone, and a finalizer holds it";

/// The clusters that the home cluster names, and who looks after each.
#[derive(Debug)]
pub struct Membership {
    fleet: Arc<Fleet>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    home: Home,
    /// May credentials be renewed, where they lie?
    renews: bool,
    configured: BTreeSet<ClusterId>,
    members: BTreeMap<ClusterId, Member>,
    /// Those that could not be admitted, when, and why: they are not tried again at once.
    refused: BTreeMap<ClusterId, (Instant, Wrong)>,
    issuers: issuer::Issuers,
}

/// A cluster that has joined. Its task ends when nobody holds this.
#[derive(Debug)]
struct Member {
    wanted: watch::Sender<Wanted>,
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a member is seen, as the object says that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    credential: Credential,
    /// The UID of the cluster that it has to lead to, if whoever let it in has written that down.
    uid: Option<String>,
    quota: Allotment,
}

/// What became of one object.
struct Judged {
    object: (Kind, String),
    /// That it names. Any text.
    cluster: String,
    accepted: Result<&'static str, Wrong>,
    /// Somebody has deleted the object, and a finalizer holds it.
    is_going: bool,
    /// Of the keys that are handed in, where any are.
    issuer: Option<Result<(), Unusable>>,
}

impl Membership {
    /// For the home cluster of a configuration that names these clusters.
    #[must_use]
    pub fn new(
        fleet: &Arc<Fleet>,
        hub: &Arc<Hub>,
        metrics: &Arc<Metrics>,
        (home, configured): (&Home, BTreeSet<ClusterId>),
        renews: bool,
    ) -> Self {
        Self {
            fleet: Arc::clone(fleet),
            hub: Arc::clone(hub),
            metrics: Arc::clone(metrics),
            home: home.clone(),
            renews,
            configured,
            members: BTreeMap::new(),
            refused: BTreeMap::new(),
            issuers: issuer::Issuers::default(),
        }
    }

    /// Follows the home cluster. Does not end by itself.
    pub async fn run(mut self) {
        let inbox = self.hub.subscribe();
        loop {
            Box::pin(self.look()).await;
            // Cancel-safe: what was heard and is not returned stays. Either way all is looked at.
            let _ = timeout(LOOK_EVERY, inbox.next()).await;
            // The world may change a thousand times a second.
            sleep(LOOK_PAUSE).await;
        }
    }

    async fn look(&mut self) {
        let home = self.home.cluster.clone();
        let (declared, profiles, mesh_domain) = self.hub.read(|world| {
            let declared = world.mesh_clusters(home.as_str());
            let profiles = world.cluster_profiles(home.as_str());
            (declared, profiles, world.mesh_domain().to_owned())
        });
        // Not known is not none.
        let Some(declared) = declared else { return };
        let profiles_known = profiles.is_some();
        let profiles = profiles.unwrap_or_default();
        let named = named(&declared, &profiles);
        self.part(&named, profiles_known);
        let mut results = self.by_mesh_clusters(&declared, &mesh_domain).await;
        results.extend(self.by_profiles(&profiles, &named, &mesh_domain).await);
        let known: BTreeMap<String, (State, String)> = self.hub.read(|world| {
            let all = world.clusters();
            let told = |c: &ClusterStatus<'_>| match c.state {
                State::Synced => standing::older(c.older),
                State::Stale | State::Unknown => c.reason.to_owned(),
            };
            all.map(|c| (c.cluster.to_string(), (c.state, told(&c))))
                .collect()
        });
        let standings: Standings = results
            .into_iter()
            .map(|judged| {
                // Of a cluster that another object names, nothing is to be said at this one.
                let is_its = named.get(&judged.cluster) == Some(&judged.object);
                let known = known.get(&judged.cluster).filter(|_| is_its);
                let accepted = (judged.accepted, judged.is_going);
                let mut standing = self.standing(&judged.cluster, accepted, known);
                standing.extend(judged.issuer.map(|verdict| match verdict {
                    Ok(()) => say("IssuerValid", Some(true), "Valid", ""),
                    Err(why) => say("IssuerValid", Some(false), why.reason, why.message),
                }));
                (judged.object, standing)
            })
            .collect();
        self.hub
            .change(|world| world.set_standings(&home, standings));
    }

    async fn by_mesh_clusters(
        &mut self,
        declared: &BTreeMap<String, MeshCluster>,
        mesh_domain: &str,
    ) -> Vec<Judged> {
        let mut results = Vec::with_capacity(declared.len());
        for (name, object) in declared {
            let judged = judge((name, object), mesh_domain, &self.configured);
            let issuer = match (&judged, &object.issuer) {
                (Ok(_), Some(secret)) => self.handed((name, secret), mesh_domain).await,
                (Err(_), _) | (_, None) => None,
            };
            let accepted = match judged {
                Ok(None) => Ok("Configured"),
                Ok(Some((cluster, credential))) => match &issuer {
                    // Nothing is made where something will be handed in.
                    Some((Err(why), false)) => Err((NOT_ADMITTED, why.message.clone())),
                    Some(_) | None => {
                        let wanted = Wanted {
                            credential: Credential::Named(credential),
                            uid: object.uid.clone(),
                            quota: object.quota,
                        };
                        self.take(cluster, wanted).await
                    }
                },
                Err(wrong) => Err(wrong),
            };
            results.push(Judged {
                object: (Kind::MeshCluster, name.clone()),
                cluster: name.clone(),
                accepted,
                is_going: object.observed.deleting,
                issuer: issuer.map(|(verdict, _)| verdict),
            });
        }
        results
    }

    async fn by_profiles(
        &mut self,
        profiles: &BTreeMap<String, ClusterProfile>,
        named: &Named,
        mesh_domain: &str,
    ) -> Vec<Judged> {
        let mut results = Vec::with_capacity(profiles.len());
        for (name, profile) in profiles {
            let of = (name.as_str(), profile);
            let accepted = match judge_profile(of, mesh_domain, &self.configured, named) {
                Ok(None) => Ok("Configured"),
                Ok(Some(cluster)) => {
                    let wanted = Wanted {
                        credential: Credential::OfProfile(name.clone(), profile.access.clone()),
                        uid: profile.mesh.uid.clone(),
                        quota: profile.mesh.quota,
                    };
                    self.take(cluster, wanted).await
                }
                Err(wrong) => Err(wrong),
            };
            results.push(Judged {
                object: (Kind::ClusterProfile, name.clone()),
                cluster: profile.cluster.clone(),
                accepted,
                is_going: profile.mesh.observed.deleting,
                issuer: None,
            });
        }
        results
    }

    /// Looks at the keys that are handed in for a cluster: whether they are good, and whether what signs
    /// for it now was handed in.
    async fn handed(
        &mut self,
        (name, secret): (&str, &str),
        mesh_domain: &str,
    ) -> Option<(Result<(), Unusable>, bool)> {
        let cluster: ClusterId = name.parse().ok()?;
        let domain = TrustDomain::of_cluster(&cluster, mesh_domain).ok()?;
        let home = self.fleet.apis().borrow().get(&self.home.cluster).cloned();
        let own = home.as_ref().and_then(|api| api.access().namespace.clone());
        let namespace = self.home.place(own.as_deref());
        let of = (&cluster, &domain, secret);
        let looked = self
            .issuers
            .look(&self.fleet, (home.as_ref(), namespace), of);
        let verdict = looked.await;
        Some((verdict, self.fleet.is_handed(&domain)))
    }

    /// Lets those go that are not named any more.
    fn part(&mut self, named: &Named, profiles_known: bool) {
        let of_profile = |cluster: &ClusterId| {
            let member = self.members.get(cluster);
            member
                .is_some_and(|m| matches!(m.wanted.borrow().credential, Credential::OfProfile(..)))
        };
        let known = self.members.keys().chain(self.refused.keys());
        let gone: Vec<ClusterId> = known
            .filter(|cluster| !named.contains_key(cluster.as_str()))
            .filter(|cluster| profiles_known || !of_profile(cluster))
            .cloned()
            .collect();
        for cluster in gone {
            tracing::info!(%cluster, "the cluster leaves the mesh");
            self.members.remove(&cluster);
            self.refused.remove(&cluster);
            self.issuers.forget(&cluster);
            self.fleet.dismiss(&cluster);
            self.metrics.forget(&cluster);
        }
    }

    /// Makes a cluster a member, or tells the member of its credential.
    async fn take(&mut self, cluster: ClusterId, wanted: Wanted) -> Result<&'static str, Wrong> {
        if let Some(member) = self.members.get(&cluster) {
            member.wanted.send_if_modified(|old| {
                let changed = *old != wanted;
                *old = wanted;
                changed
            });
            return Ok("Accepted");
        }
        let lately = |(at, _): &&(Instant, Wrong)| at.elapsed() < ADMIT_EVERY;
        if let Some((_, wrong)) = self.refused.get(&cluster).filter(lately) {
            return Err(wrong.clone());
        }
        if let Err(error) = self.fleet.admit(&cluster).await {
            let wrong = (NOT_ADMITTED, format!("{error:#}"));
            let since = (Instant::now(), wrong.clone());
            self.refused.insert(cluster, since);
            return Err(wrong);
        }
        self.refused.remove(&cluster);
        tracing::info!(%cluster, "the cluster joins the mesh");
        let kept = Arc::default();
        let (told, wanted) = watch::channel(wanted);
        let keeper = Keeper {
            home: self.home.clone(),
            renews: self.renews,
            fleet: Arc::clone(&self.fleet),
            wanted,
            kept: Arc::clone(&kept),
            connector: Connector::new(&self.fleet, &cluster, self.home.quota),
            renew_at: SystemTime::UNIX_EPOCH,
        };
        let member = Member {
            wanted: told,
            kept,
            task: tokio::spawn(keeper.run()),
        };
        self.members.insert(cluster, member);
        Ok("Accepted")
    }

    /// What is to be said of a MeshCluster.
    fn standing(
        &self,
        name: &str,
        (accepted, is_going): (Result<&'static str, Wrong>, bool),
        known: Option<&(State, String)>,
    ) -> Vec<Standing> {
        let accepted = match accepted {
            Ok(reason) => say(
                "Accepted",
                Some(true),
                reason,
                if is_going { GOING } else { "" },
            ),
            Err((reason, why)) => say("Accepted", Some(false), reason, why),
        };
        let Some((state, reason)) = known else {
            return vec![accepted];
        };
        // What was said before the start stands until something is known.
        if [NOT_LISTED, NOT_SEEN].contains(&reason.as_str()) {
            return vec![accepted];
        }
        let id: Option<ClusterId> = name.parse().ok();
        let id = id.as_ref();
        let report = id.and_then(|id| self.fleet.report(id));
        let mut all = vec![accepted];
        if let Some(member) = self.members.get(name) {
            let kept = member.kept.lock();
            let kept = kept.unwrap_or_else(PoisonError::into_inner);
            let ends = id.and_then(|id| self.fleet.credential_ends(id));
            all.push(credential(
                (&kept, ends),
                report.as_ref(),
                SystemTime::now(),
            ));
        }
        all.push(connected(*state, reason, report.as_ref()));
        all.push(match *state {
            State::Synced => say("Synced", Some(true), "Synced", reason.clone()),
            State::Stale => say("Synced", Some(false), "Stale", reason.clone()),
            State::Unknown => say("Synced", Some(false), "NotListed", reason.clone()),
        });
        if let Some(report) = &report {
            all.push(exceeded(report));
        }
        all
    }
}
