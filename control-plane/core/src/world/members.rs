//! Which clusters does the home cluster name, and what became of them?

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::ids::ClusterId;
use isthmus_proto::spiffe::TrustDomain;

use crate::model::{
    CLUSTER_ID_PROPERTY, CLUSTER_SET_PROPERTY, ClusterProfile, Kind, MeshCluster, ObjectRef,
    SYSTEM_NAMESPACE,
};
use crate::world::cluster::Cluster;
use crate::world::{Condition, Dirty, State, World};

/// One condition of a MeshCluster or a ClusterProfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `Accepted`, `Connected`, `Synced`, `CredentialValid` or `QuotaExceeded`.
    pub kind: &'static str,
    /// Does it hold? `None`: it is not known yet.
    pub holds: Option<bool>,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// For people. The same as long as the cause is the same.
    pub message: String,
}

/// Why a cluster that is named is not there: its keys can't be had, or not yet.
pub const NOT_ADMITTED: &str = "NotAdmitted";

/// The conditions of each MeshCluster and ClusterProfile of the home cluster, by kind and name.
pub type Standings = BTreeMap<(Kind, String), Vec<Standing>>;

impl World {
    /// The MeshClusters of a cluster, by name; `None`: it was never listed.
    #[must_use]
    pub fn mesh_clusters(&self, home: &str) -> Option<BTreeMap<String, MeshCluster>> {
        let home = self.listed(home)?;
        let all = home.mesh.iter();
        Some(
            all.map(|(_, name, entry)| (name.to_owned(), entry.value.clone()))
                .collect(),
        )
    }

    /// The ClusterProfiles of a cluster's system namespace, by name; `None`: the kind was never listed.
    #[must_use]
    pub fn cluster_profiles(&self, home: &str) -> Option<BTreeMap<String, ClusterProfile>> {
        let home = self.listed(home)?;
        let all = home.profiles.within(SYSTEM_NAMESPACE);
        home.knows(Kind::ClusterProfile).then(|| {
            all.map(|(name, entry)| (name.to_owned(), entry.value.clone()))
                .collect()
        })
    }

    /// What became of the MeshClusters of the home cluster: for their statuses.
    #[must_use]
    pub fn standings(&self) -> Option<(&ClusterId, &Standings)> {
        self.standings.as_ref().map(|(home, all)| (home, all))
    }

    /// Says what became of the MeshClusters of the home cluster.
    pub fn set_standings(&mut self, home: &ClusterId, standings: Standings) -> Dirty {
        let told = Some((home.clone(), standings));
        if self.standings == told {
            return Dirty::default();
        }
        self.standings = told;
        let before = self.awaited.clone();
        self.gather();
        if before != self.awaited {
            // What is absent is now known to be, or no more.
            return self.note(Dirty::everything());
        }
        // Nothing that a client is told; whoever writes statuses looks at the cluster again.
        let mut dirty = Dirty::default();
        dirty.freshness.insert(home.clone());
        self.note(dirty)
    }

    /// Where there is a home cluster, it names the others; until it was heard, and what it names is
    /// there, a cluster that is not there may belong to the mesh all the same. A control plane that
    /// has just started must take nothing of it from anybody.
    pub(super) fn gather(&mut self) {
        self.awaited = match &self.standings {
            _ if self.mesh_authors.is_none() => Some(BTreeSet::new()),
            None => None,
            Some((home, all)) => {
                let refused = |all: &[Standing]| all.iter().any(|said| said.reason == NOT_ADMITTED);
                let refused = all.iter().filter(|(_, said)| refused(said));
                let named = refused.filter_map(|((kind, name), _)| match kind {
                    Kind::ClusterProfile => Some(self.profile(home, name)?.cluster.as_str()),
                    _ => Some(name.as_str()),
                });
                let absent = named.filter(|cluster| !self.clusters.contains_key(*cluster));
                Some(absent.map(ToOwned::to_owned).collect())
            }
        };
    }

    /// May clusters belong to the mesh that have not been admitted yet?
    pub(crate) fn is_gathering(&self) -> bool {
        self.awaited.as_ref().is_none_or(|names| !names.is_empty())
    }

    /// May this cluster belong to the mesh, although it is not there?
    pub(crate) fn awaits(&self, cluster: &str) -> bool {
        self.awaited
            .as_ref()
            .is_none_or(|names| names.contains(cluster))
    }

    /// The clusters that the home cluster names and that are not there yet; `None`: it was not heard, and
    /// may name any.
    #[must_use]
    pub fn awaited_members(&self) -> Option<&BTreeSet<String>> {
        self.awaited.as_ref()
    }

    /// The clusters that speak for the mesh, where some were named.
    pub fn mesh_authors(&self) -> impl Iterator<Item = &ClusterId> {
        self.mesh_authors.iter().flatten()
    }

    /// Is who belongs to the mesh known as it is now, and not as it was before a start?
    #[must_use]
    pub fn mesh_authors_are_seen(&self) -> bool {
        let seen = |cluster: &Cluster| cluster.state == State::Synced;
        let mut authors = self.mesh_authors();
        authors.all(|cluster| self.clusters.get(cluster).is_some_and(seen))
    }

    /// Is a trust domain of no cluster that is believed, or may be? What is known of one cluster
    /// waits for no other: whoever is cut off, or has left, is believed no more at once.
    pub(crate) fn is_believed_no_more(&self, domain: &str) -> bool {
        let is_its = |cluster: &str| {
            let cluster = cluster.parse().ok();
            let its = cluster.and_then(|id| TrustDomain::of_cluster(&id, &self.mesh_domain).ok());
            its.is_some_and(|its| its.as_str() == domain)
        };
        if self
            .distrusted
            .keys()
            .any(|cluster| is_its(cluster.as_str()))
        {
            return true;
        }
        let mut members = self.clusters.values();
        if members.any(|cluster| cluster.trust_domain.as_str() == domain) {
            return false;
        }
        let awaited = self.awaited.as_ref();
        awaited.is_some_and(|names| !names.iter().any(|name| is_its(name)))
    }

    fn profile(&self, home: &ClusterId, name: &str) -> Option<&ClusterProfile> {
        let home = self.clusters.get(home)?;
        Some(&home.profiles.get(SYSTEM_NAMESPACE, name)?.value)
    }

    /// Where the name of a cluster, or of its set, is another than the one that it states of itself
    /// (KEP-2149): a wrong kubeconfig, or a cluster of another set. In a word, and for people.
    pub(crate) fn contradicts_its_properties(
        &self,
        cluster: &Cluster,
    ) -> Option<(&'static str, String)> {
        let of = |cluster: &Cluster, name: &str| {
            let property = cluster.properties.get("", name)?;
            Some(property.value.value.clone())
        };
        let id = of(cluster, CLUSTER_ID_PROPERTY).filter(|id| id != cluster.id.as_str());
        if let Some(id) = id {
            let message = format!("its ClusterProperty {CLUSTER_ID_PROPERTY} is {id:?}");
            return Some(("ClusterIdMismatch", message));
        }
        let (home, _) = self.standings.as_ref()?;
        let ours = of(self.clusters.get(home)?, CLUSTER_SET_PROPERTY)?;
        let theirs = of(cluster, CLUSTER_SET_PROPERTY).filter(|theirs| *theirs != ours)?;
        let message = format!(
            "its ClusterProperty {CLUSTER_SET_PROPERTY} is {theirs:?}, and the home cluster's is {ours:?}"
        );
        Some(("ClusterSetMismatch", message))
    }

    /// Standings as conditions, for people: what is not known yet is left out.
    pub(super) fn of_members(&self, found: &mut Vec<Condition>) {
        let Some((home, standings)) = &self.standings else {
            return;
        };
        for ((kind, name), all) in standings {
            let is_profile = *kind == Kind::ClusterProfile;
            let system = is_profile.then(|| SYSTEM_NAMESPACE.parse().ok());
            for standing in all {
                let Some(holds) = standing.holds else {
                    continue;
                };
                found.push(Condition {
                    object: ObjectRef {
                        cluster: home.clone(),
                        kind: *kind,
                        namespace: system.clone().flatten(),
                        name: name.clone(),
                    },
                    kind: standing.kind.to_owned(),
                    holds,
                    reason: standing.reason.to_owned(),
                    message: standing.message.clone(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Spec};
    use crate::sample::{at, id, list, mesh, object, world};

    fn profile() -> crate::model::Object {
        let Spec::MeshCluster(mesh) = mesh("west", "flat").spec else {
            panic!("a MeshCluster")
        };
        let profile = ClusterProfile {
            access: Vec::new(),
            cluster: "west".to_owned(),
            has_left: false,
            mesh,
        };
        object(
            "east",
            SYSTEM_NAMESPACE,
            "fleet-7",
            Spec::ClusterProfile(profile),
        )
    }

    #[test]
    fn a_cluster_of_an_inventory_that_is_not_admitted_yet_may_belong_to_the_mesh() {
        let mut world = world(&["east"]);
        world.set_mesh_authors(Some(BTreeSet::from([id("east")])));
        list(&mut world, "east", &[profile()]);
        let standings = |reason| {
            let refused = Standing {
                kind: "Accepted",
                holds: Some(false),
                reason,
                message: String::new(),
            };
            let of = (Kind::ClusterProfile, "fleet-7".to_owned());
            Standings::from([(of, vec![refused])])
        };
        world.set_standings(&id("east"), standings(NOT_ADMITTED));
        assert!(world.is_gathering());
        let told = world.conditions();
        let told = told.iter().find(|said| said.reason == NOT_ADMITTED);
        let at_object = told.unwrap().object.to_string();
        assert_eq!(at_object, "east: ClusterProfile isthmus-system/fleet-7");
        world.add_cluster(&id("west")).unwrap();
        assert!(!world.is_gathering());
        world.remove_cluster(&id("west"));
        world.set_standings(&id("east"), standings("NotJoined"));
        assert!(!world.is_gathering());
    }

    #[test]
    fn profiles_that_were_never_seen_are_not_none() {
        let mut world = world(&["east"]);
        assert_eq!(world.cluster_profiles("east"), None);
        let cluster = id("east");
        world.apply(
            Change::Init {
                cluster: cluster.clone(),
            },
            at(1),
        );
        let kept = BTreeSet::from([Kind::ClusterProfile]);
        world.apply(Change::InitDone { cluster, kept }, at(1));
        assert_eq!(world.cluster_profiles("east"), None);
        assert!(world.mesh_clusters("east").is_some());
        list(&mut world, "east", &[profile()]);
        let known = world.cluster_profiles("east").unwrap();
        assert_eq!(known["fleet-7"].cluster, "west");
    }
}
