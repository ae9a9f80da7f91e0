//! How long does the last good state of a cluster that can't be seen count in the others?

use std::time::{Duration, SystemTime};

use crate::world::cluster::Cluster;
use crate::world::dirty::Dirty;
use crate::world::{State, World};

impl World {
    /// Withdraws from other clusters the endpoints of those that were not seen for longer than `life`
    /// (SECURITY F27), and brings back what was withdrawn of those that were. To be called now and then.
    pub fn expire(&mut self, life: Duration, now: SystemTime) -> Dirty {
        let mut moved = false;
        for cluster in self.clusters.values_mut() {
            let expired = is_old(cluster, life, now);
            moved |= expired != cluster.expired;
            cluster.expired = expired;
        }
        if !moved {
            return Dirty::default();
        }
        let stamp = self.stamp(now);
        self.settled(Dirty::everything(), stamp)
    }
}

fn is_old(cluster: &Cluster, life: Duration, now: SystemTime) -> bool {
    let ends = cluster.confirmed_at.and_then(|at| at.checked_add(life));
    cluster.state == State::Stale && ends.is_some_and(|ends| ends < now)
}
