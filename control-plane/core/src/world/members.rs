//! Which clusters does the home cluster name, and what became of them?

use std::collections::BTreeMap;

use isthmus_proto::ids::ClusterId;

use crate::model::{Kind, MeshCluster, ObjectRef};
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
        // Nothing that a client is told; whoever writes statuses looks at the cluster again.
        let mut dirty = Dirty::default();
        dirty.freshness.insert(home.clone());
        self.note(dirty)
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
                    kind: standing.kind,
                    holds,
                    reason: standing.reason,
                    message: standing.message.clone(),
                });
            }
        }
    }
}
