//! Which clusters does the home cluster name, and what became of them?

use std::collections::BTreeMap;

use isthmus_proto::ids::ClusterId;

use crate::model::{CLUSTER_ID_PROPERTY, CLUSTER_SET_PROPERTY, Kind, MeshCluster, ObjectRef};
use crate::world::cluster::Cluster;
use crate::world::{Condition, Dirty, World};

/// One condition of a MeshCluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `Accepted`, `Connected`, `Synced` or `CredentialValid`.
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

/// The conditions of each MeshCluster of the home cluster, by name.
pub type Standings = BTreeMap<String, Vec<Standing>>;

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
        let before = self.gathering;
        self.gather();
        if before != self.gathering {
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
        let awaited = |(name, all): (&String, &Vec<Standing>)| {
            let missing = !self.clusters.contains_key(name.as_str());
            missing && all.iter().any(|standing| standing.reason == NOT_ADMITTED)
        };
        self.gathering = self.mesh_authors.is_some()
            && self
                .standings
                .as_ref()
                .is_none_or(|(_, all)| all.iter().any(awaited));
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
        for (name, all) in standings {
            for standing in all {
                let Some(holds) = standing.holds else {
                    continue;
                };
                found.push(Condition {
                    object: ObjectRef {
                        cluster: home.clone(),
                        kind: Kind::MeshCluster,
                        namespace: None,
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
