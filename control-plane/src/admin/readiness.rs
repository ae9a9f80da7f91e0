//! Is the control plane ready, and what is it waiting for?

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use isthmus_control_plane_core::world::{State, World};
use isthmus_proto::ids::ClusterId;

/// What is unknown keeps the control plane from being ready for no longer than this: one cluster that
/// hangs must not stop the others.
const READY_GRACE: Duration = Duration::from_secs(30);

/// Since when the control plane waits.
#[derive(Debug)]
pub struct Begin {
    started: Instant,
    /// When it was first known which clusters there are: from then on they have their own time.
    named: OnceLock<Instant>,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// Clusters that were never listed in full, or are named and not there yet, and why.
    pub(super) unknown: BTreeMap<String, String>,
}

impl Begin {
    /// The process runs since then.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            named: OnceLock::new(),
        }
    }

    /// Whoever begins knows no cluster but those of its configuration: the home cluster has to name the
    /// others first, and each of them has to be listed, or restored from disk.
    pub(super) fn readiness(
        &self,
        world: &World,
        refused: &BTreeMap<ClusterId, String>,
        now: Instant,
    ) -> Readiness {
        let mut unknown = BTreeMap::new();
        let mut listed = false;
        for status in world.clusters() {
            match status.state {
                State::Unknown => {
                    unknown.insert(status.cluster.to_string(), status.reason.to_owned());
                }
                State::Synced | State::Stale => listed = true,
            }
        }
        let since = if let Some(named) = world.awaited_members() {
            for name in named {
                let why = refused.get(name.as_str());
                let why = why.map_or("it has not joined yet", String::as_str);
                unknown.insert(name.clone(), why.to_owned());
            }
            *self.named.get_or_init(|| now)
        } else {
            let home = world.mesh_authors().next();
            let home = home.map_or("home".to_owned(), ToString::to_string);
            let why = "it has not named the clusters of the mesh yet";
            unknown.entry(home).or_insert_with(|| why.to_owned());
            self.started
        };
        let waited = now.saturating_duration_since(since) >= READY_GRACE;
        Readiness {
            ready: unknown.is_empty() || (listed && waited),
            unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

    use isthmus_control_plane_core::model::{Change, Kind};
    use isthmus_control_plane_core::world::{NOT_ADMITTED, Standing, Standings};

    use super::*;

    fn list(world: &mut World, cluster: &str) {
        let cluster: ClusterId = cluster.parse().unwrap();
        let init = Change::Init {
            cluster: cluster.clone(),
        };
        let kept = BTreeSet::new();
        for change in [init, Change::InitDone { cluster, kept }] {
            world.apply(change, SystemTime::now());
        }
    }

    fn accepted(names: &[&str], reason: &'static str) -> Standings {
        let one = |name: &&str| {
            let said = Standing {
                kind: "Accepted",
                holds: None,
                reason,
                message: String::new(),
            };
            ((Kind::MeshCluster, (*name).to_owned()), vec![said])
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn who_does_not_know_the_clusters_of_the_mesh_yet_is_not_ready() {
        let begun = Instant::now();
        let begin = Begin::new(begun);
        let home: ClusterId = "east".parse().unwrap();
        let mut world = World::new("mesh.internal").unwrap();
        world.add_cluster(&home).unwrap();
        world.set_mesh_authors(Some([home.clone()].into()));
        let none = BTreeMap::new();
        let told = |world: &World, seconds: u64| {
            let now = begun + Duration::from_secs(seconds);
            let told = begin.readiness(world, &none, now);
            (told.ready, told.unknown.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(told(&world, 0), (false, vec!["east".to_owned()]));
        // Home is listed. What it names was not looked at yet.
        list(&mut world, "east");
        assert_eq!(told(&world, 1), (false, vec!["east".to_owned()]));
        // Its keys can't be had yet; then they can.
        world.set_standings(&home, accepted(&["west"], NOT_ADMITTED));
        assert_eq!(told(&world, 20), (false, vec!["west".to_owned()]));
        world.add_cluster(&"west".parse().unwrap()).unwrap();
        world.set_standings(&home, accepted(&["west"], "Accepted"));
        assert_eq!(told(&world, 40), (false, vec!["west".to_owned()]));
        // One that hangs has its time since it was named.
        assert_eq!(told(&world, 49), (false, vec!["west".to_owned()]));
        assert_eq!(told(&world, 50), (true, vec!["west".to_owned()]));
        list(&mut world, "west");
        assert_eq!(told(&world, 41), (true, Vec::new()));
    }

    #[test]
    fn a_home_cluster_that_hangs_keeps_the_others_waiting_for_half_a_minute() {
        let begun = Instant::now();
        let begin = Begin::new(begun);
        let mut world = World::new("mesh.internal").unwrap();
        for name in ["east", "west"] {
            world.add_cluster(&name.parse().unwrap()).unwrap();
        }
        world.set_mesh_authors(Some(["east".parse().unwrap()].into()));
        list(&mut world, "west");
        let ready = |seconds| {
            let now = begun + Duration::from_secs(seconds);
            begin.readiness(&world, &BTreeMap::new(), now).ready
        };
        assert!(!ready(29));
        assert!(ready(30));
    }
}
