//! How long does the last good state of a cluster that can't be seen count in the others?

use std::time::{Duration, SystemTime};

use crate::model::Kind;
use crate::world::cluster::Cluster;
use crate::world::dirty::Dirty;
use crate::world::{State, World};

impl World {
    /// Withdraws from other clusters the endpoints of those that were not seen for longer than `life`
    /// (SECURITY F27), and brings back what was withdrawn of those that were. To be called now and then.
    pub fn expire(&mut self, life: Duration, now: SystemTime) -> Dirty {
        self.life = Some(life);
        let mut moved = false;
        for cluster in self.clusters.values_mut() {
            moved |= cluster.expires(self.life, now);
        }
        if !moved {
            return Dirty::default();
        }
        let stamp = self.stamp(now);
        self.settled(Dirty::everything(), stamp)
    }
}

/// The kinds that say where endpoints are.
const PLACES: [Kind; 2] = [Kind::Pod, Kind::EndpointSlice];

impl Cluster {
    /// Looks whether it has expired now; true: that is different.
    pub(super) fn expires(&mut self, life: Option<Duration>, now: SystemTime) -> bool {
        let expired = life.is_some_and(|life| is_old(self, life, now));
        std::mem::replace(&mut self.expired, expired) != expired
    }
}

/// Was it not seen for longer than that, or what says where its endpoints are?
fn is_old(cluster: &Cluster, life: Duration, now: SystemTime) -> bool {
    let is_over = |since: Option<SystemTime>| {
        let ends = since.and_then(|at| at.checked_add(life));
        ends.is_some_and(|ends| ends < now)
    };
    let places = || PLACES.iter().filter_map(|kind| cluster.older.get(kind));
    match cluster.state {
        State::Unknown => false,
        State::Stale => is_over(cluster.confirmed_at),
        State::Synced => places().any(|kind| is_over(kind.confirmed_at)),
    }
}
