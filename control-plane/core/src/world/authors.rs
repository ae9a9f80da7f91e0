//! What do the clusters that speak for the mesh say of the others?

use std::collections::BTreeMap;

use isthmus_proto::ids::ClusterId;

use crate::model::{Change, ClusterProfile, Kind, MeshCluster, ObjectRef, SYSTEM_NAMESPACE};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dirty::Dirty;

/// May the change alter what is said of other clusters?
pub(super) fn concerns(change: &Change) -> bool {
    let kind = match change {
        Change::Apply(object) => object.spec.kind(),
        Change::Delete(at) => at.kind,
        Change::InitDone { .. } | Change::Listed { .. } => return true,
        Change::Init { .. }
        | Change::Refused { .. }
        | Change::Lost { .. }
        | Change::Older { .. }
        | Change::Confirmed { .. }
        | Change::Reached { .. } => return false,
    };
    matches!(
        kind,
        Kind::MeshCluster | Kind::ClusterProfile | Kind::TrustPolicy
    )
}

impl World {
    /// Is the cluster cut off?
    #[must_use]
    pub fn is_distrusted(&self, cluster: &str) -> bool {
        self.distrusted.contains_key(cluster)
    }

    /// The object that cuts the cluster off.
    #[must_use]
    pub fn distrusted_by(&self, cluster: &str) -> Option<&ObjectRef> {
        self.distrusted.get(cluster)
    }

    /// Makes what is said of other clusters hold.
    pub(super) fn settle(&mut self) -> Dirty {
        let mut dirty = Dirty::default();
        let distrusted = self.cut_off();
        if distrusted != self.distrusted {
            self.distrusted = distrusted;
            // Roots and connections, and the endpoints that are not called any more.
            dirty.all = true;
        }
        let declared: Vec<Option<MeshCluster>> = self
            .clusters
            .values()
            .map(|cluster| self.declaration(cluster).cloned())
            .collect();
        for (cluster, declared) in self.clusters.values_mut().zip(declared) {
            if cluster.declared != declared {
                cluster.declared = declared;
                dirty.all = true;
            }
        }
        dirty
    }

    /// Clusters whose word counts in others, and was heard in full.
    fn authors(&self) -> impl Iterator<Item = &Cluster> {
        let all = self.clusters.values();
        all.filter(|cluster| cluster.listed() && self.is_mesh_author(&cluster.id))
    }

    /// Clusters that are named by who speaks for the mesh, and not there: only where somebody was.
    pub(super) fn named_elsewhere(&self) -> impl Iterator<Item = (&str, &MeshCluster)> {
        let named = self.mesh_authors.is_some();
        let authors = move || self.authors().filter(move |_| named);
        let meshes = authors().flat_map(|author| author.mesh.iter());
        let meshes = meshes.map(|(_, name, entry)| (name, &entry.value));
        let profiles = authors().flat_map(|author| author.profiles.within(SYSTEM_NAMESPACE));
        let profiles = profiles.filter(|(_, entry)| !entry.value.has_left);
        let profiles = profiles.map(|(_, entry)| (entry.value.cluster.as_str(), &entry.value.mesh));
        let all = meshes.chain(profiles);
        all.filter(|(name, _)| !self.clusters.contains_key(*name))
    }

    fn cut_off(&self) -> BTreeMap<ClusterId, ObjectRef> {
        let mut found = BTreeMap::new();
        for author in self.authors() {
            for (_, name, entry) in author.trust.iter() {
                for cluster in &entry.value.distrusted {
                    found.entry(cluster.clone()).or_insert_with(|| ObjectRef {
                        cluster: author.id.clone(),
                        kind: Kind::TrustPolicy,
                        namespace: None,
                        name: name.to_owned(),
                    });
                }
            }
        }
        found
    }

    /// What others say of a cluster. Only where somebody was named to speak for the mesh: else any
    /// cluster could move any other to its own network.
    fn declaration(&self, of: &Cluster) -> Option<&MeshCluster> {
        self.mesh_authors.as_ref()?;
        let id = of.id.as_str();
        let others = || self.authors().filter(|author| author.id != of.id);
        if let Some(entry) = others().find_map(|author| author.mesh.get("", id)) {
            return Some(&entry.value);
        }
        // An inventory knows little of a mesh: any MeshCluster of this name comes before it.
        if of.mesh.get("", id).is_some() {
            return None;
        }
        let names = |profile: &ClusterProfile| profile.cluster == id && !profile.has_left;
        let mut profiles = others().flat_map(|author| author.profiles.within(SYSTEM_NAMESPACE));
        let (_, found) = profiles.find(|(_, entry)| names(&entry.value))?;
        Some(&found.value.mesh)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use isthmus_proto::resource::TrustBundle;

    use crate::model::{
        Change, ClusterProfile, GatewayAddress, GatewayChoice, Object, SYSTEM_NAMESPACE, Spec,
        TrustPolicy,
    };
    use crate::sample::{at, client, id, list, mesh, object, world};
    use crate::world::World;

    fn cut(author: &str, name: &str, clusters: &[&str]) -> Object {
        let distrusted = clusters.iter().map(|cluster| id(cluster)).collect();
        object(
            author,
            "",
            name,
            Spec::TrustPolicy(TrustPolicy {
                distrusted,
                ..TrustPolicy::default()
            }),
        )
    }

    fn two() -> World {
        let mut world = world(&["east", "west"]);
        for cluster in ["east", "west"] {
            let bundle = TrustBundle {
                trust_domain: format!("{cluster}.mesh.internal"),
                cluster: cluster.to_owned(),
                ..TrustBundle::default()
            };
            world.set_trust_bundle(bundle).unwrap();
        }
        world.set_mesh_authors(Some(BTreeSet::from([id("east")])));
        world
    }

    fn believed(world: &World) -> Vec<&str> {
        world
            .trust_bundles()
            .map(|bundle| bundle.cluster.as_str())
            .collect()
    }

    #[test]
    fn a_cluster_that_is_cut_off_loses_its_bundle_until_it_is_trusted_again() {
        let mut world = two();
        list(&mut world, "east", &[]);
        list(&mut world, "west", &[]);
        assert_eq!(believed(&world), ["east", "west"]);
        let dirty = world.apply(Change::Apply(cut("east", "a", &["west"])), at(3));
        assert!(dirty.all, "{dirty:?}");
        assert_eq!(believed(&world), ["east"]);
        assert_eq!(world.distrusted_by("west").unwrap().name, "a");
        let other = cut("east", "b", &["west"]);
        world.apply(Change::Apply(other.clone()), at(4));
        world.apply(Change::Delete(cut("east", "a", &[]).reference()), at(5));
        assert!(
            world.is_distrusted("west"),
            "the other policy still says so"
        );
        assert!(world.apply(Change::Delete(other.reference()), at(6)).all);
        assert_eq!(believed(&world), ["east", "west"]);
    }

    #[test]
    fn only_who_speaks_for_the_mesh_cuts_off() {
        let mut world = two();
        list(&mut world, "east", &[]);
        list(&mut world, "west", &[cut("west", "a", &["east"])]);
        assert!(!world.is_distrusted("east"));
        let told = world.conditions();
        assert!(
            told.iter()
                .any(|condition| condition.reason == "NotPermitted"),
            "{told:?}"
        );
        assert!(world.set_mesh_authors(None).all);
        assert!(world.is_distrusted("east"));
    }

    #[test]
    fn a_policy_counts_when_its_author_is_listed() {
        let mut world = two();
        world.apply(
            Change::Init {
                cluster: id("east"),
            },
            at(1),
        );
        world.apply(Change::Apply(cut("east", "a", &["west", "north"])), at(1));
        assert!(!world.is_distrusted("west"));
        list(&mut world, "east", &[cut("east", "a", &["west", "north"])]);
        assert!(world.is_distrusted("west"));
        let told = world.conditions();
        assert!(
            told.iter()
                .any(|condition| condition.message.ends_with("north")),
            "{told:?}"
        );
        list(&mut world, "east", &[]);
        assert!(
            !world.is_distrusted("west"),
            "the list does not name it any more"
        );
    }

    #[test]
    fn what_the_home_cluster_says_of_another_counts_before_its_own_word() {
        let mut world = two();
        list(&mut world, "west", &[mesh("west", "hostile")]);
        let network = |world: &World| world.clusters["west"].network().unwrap().to_string();
        assert_eq!(network(&world), "hostile");
        let mut said = mesh("west", "west-net");
        said.cluster = id("east");
        list(&mut world, "east", &[said.clone()]);
        assert_eq!(network(&world), "west-net");
        let Spec::MeshCluster(spec) = &mut said.spec else {
            panic!("a MeshCluster")
        };
        spec.gateways = vec![GatewayChoice::At {
            address: GatewayAddress::Ip("203.0.113.7".parse().unwrap()),
            port: 443,
        }];
        assert!(world.apply(Change::Apply(said.clone()), at(4)).all);
        let asked = BTreeSet::from([id("west")]);
        let web = client(&world, "east/shop/web-1", "web", "sidecar");
        let answer = crate::translate::gateway::gateways(&world, &web, &asked);
        let names: Vec<String> = answer
            .lists
            .iter()
            .flat_map(|list| list.iter().map(|one| one.name.to_string()))
            .collect();
        let name = "west/isthmus-system/addresses.meshcluster.isthmus.dev";
        assert_eq!(names, [name]);
        // A proxy takes no other names.
        let name: Result<isthmus_proto::ids::WorkloadName, _> = name.parse();
        assert!(name.is_ok());
        world.apply(Change::Delete(said.reference()), at(5));
        assert_eq!(network(&world), "hostile");
    }

    #[test]
    fn an_inventory_counts_at_home_and_after_every_mesh_cluster_of_the_name() {
        let mut world = world(&["east", "north", "west"]);
        world.set_mesh_authors(Some(BTreeSet::from([id("east")])));
        let network = |world: &World| world.clusters["west"].network().unwrap().to_string();
        let said_by = |by: &str, network: &str| {
            let mut said = mesh("west", network);
            said.cluster = id(by);
            said
        };
        let profile = |by: &str, network: &str, has_left| {
            let Spec::MeshCluster(mesh) = mesh("west", network).spec else {
                panic!("a MeshCluster")
            };
            let cluster = "west".to_owned();
            let spec = Spec::ClusterProfile(ClusterProfile {
                access: Vec::new(),
                cluster,
                has_left,
                mesh,
            });
            object(by, SYSTEM_NAMESPACE, "p", spec)
        };
        list(&mut world, "north", &[profile("north", "foreign", false)]);
        list(&mut world, "west", &[profile("west", "own", false)]);
        list(&mut world, "east", &[]);
        assert_eq!(network(&world), "west", "only what is said at home counts");
        let said = profile("east", "flat", false);
        assert!(world.apply(Change::Apply(said.clone()), at(3)).all);
        assert_eq!(network(&world), "flat");
        world.apply(Change::Apply(profile("east", "flat", true)), at(4));
        assert_eq!(network(&world), "west", "it has left the inventory");
        world.apply(Change::Apply(said), at(5));
        world.apply(Change::Apply(said_by("west", "own")), at(6));
        assert_eq!(network(&world), "own");
        world.apply(Change::Apply(said_by("east", "home")), at(7));
        assert_eq!(network(&world), "home");
    }
}
