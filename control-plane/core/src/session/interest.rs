//! Which sessions does a change concern?
//!
//! A change is told to those who call the service, and costs the others nothing: an index from what a
//! change names to the sessions that look at it. It may name a session too much, never one too few.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use isthmus_proto::ids::{ClusterId, WorkloadName};

use crate::model::ServiceRef;
use crate::session::question::Subject;
use crate::session::{Client, Role, Session};
use crate::translate::direct;
use crate::world::Dirty;
use crate::world::dirty::{Affected, PolicyScope, ServiceKey};

/// Services that a session wants, both as its cluster's own and as everybody's.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    services: HashSet<ServiceKey>,
    /// ... and addresses that may be a pod's.
    addresses: HashSet<IpAddr>,
    moved: Moved,
}

/// What a session has begun to want, and what it wants no more.
#[derive(Debug, Default)]
pub struct Moved {
    begun: Vec<ServiceKey>,
    ended: Vec<ServiceKey>,
    addresses_begun: Vec<IpAddr>,
    addresses_ended: Vec<IpAddr>,
}

impl Moved {
    fn is_empty(&self) -> bool {
        let services = self.begun.is_empty() && self.ended.is_empty();
        services && self.addresses_begun.is_empty() && self.addresses_ended.is_empty()
    }
}

/// What was wanted once may stand in the set until it is this much larger than what is wanted.
const ENDED_MAX: usize = 64;

impl Wanted {
    pub(crate) fn contains(&self, key: &ServiceKey) -> bool {
        self.services.contains(key)
    }

    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
    }

    /// A key asks about this address.
    pub(crate) fn begin_address(&mut self, ip: Option<IpAddr>) {
        if let Some(ip) = ip
            && self.addresses.insert(ip)
        {
            self.moved.addresses_begun.push(ip);
        }
    }

    fn begin(&mut self, service: &ServiceRef) {
        let key = ServiceKey::new(service.namespace.as_str(), &service.name);
        if self.services.insert(key.clone()) {
            self.moved.begun.push(key);
        }
    }
}

impl Session {
    /// Takes note of services that are wanted since the last time.
    pub(crate) fn note_wanted(&mut self) {
        let (mut live, mut keys) = (0_usize, 0_usize);
        for channel in self.channels.values_mut() {
            for subject in channel.begun.drain(..) {
                if let Subject::Service(service) = subject {
                    self.wanted.begin(&service);
                }
            }
            live = live.saturating_add(channel.holdings.len());
            keys = keys.saturating_add(channel.keys.len());
        }
        if self.wanted.addresses.len() > keys.saturating_add(ENDED_MAX) {
            self.forget_addresses();
        }
        if self.wanted.services.len() > live.saturating_add(ENDED_MAX) {
            self.forget_unwanted();
        }
    }

    fn forget_unwanted(&mut self) {
        let subjects = self.channels.values().flat_map(|c| c.holdings.keys());
        let wanted: HashSet<ServiceKey> = subjects
            .filter_map(|subject| match subject {
                Subject::Service(of) => Some(ServiceKey::new(of.namespace.as_str(), &of.name)),
                Subject::All | Subject::Pod(_) => None,
            })
            .collect();
        let Wanted {
            services, moved, ..
        } = &mut self.wanted;
        moved.ended.extend(services.difference(&wanted).cloned());
        *services = wanted;
    }

    fn forget_addresses(&mut self) {
        let keys = self.channels.values().flat_map(|c| c.keys.keys());
        let wanted: HashSet<IpAddr> = keys.filter_map(|key| direct::address_of(key)).collect();
        let Wanted {
            addresses, moved, ..
        } = &mut self.wanted;
        moved
            .addresses_ended
            .extend(addresses.difference(&wanted).copied());
        *addresses = wanted;
    }

    /// What the session has begun to want, and wants no more, if anything: to be asked after each
    /// request and each poll, and to be [followed](Interests::follow). What has begun is looked at
    /// once more afterwards, because it may have changed before it was followed.
    pub fn moved(&mut self) -> Option<Moved> {
        if self.wanted.moved.is_empty() {
            return None;
        }
        let moved = std::mem::take(&mut self.wanted.moved);
        for key in &moved.begun {
            self.wholly_due(key);
        }
        for ip in &moved.addresses_begun {
            self.address_due(*ip);
        }
        Some(moved)
    }
}

/// A session's number.
pub type SessionNumber = u64;

/// Who looks at what.
#[derive(Debug, Default)]
pub struct Interests {
    next: SessionNumber,
    sessions: BTreeMap<SessionNumber, Looks>,
    services: Index<ServiceKey>,
    addresses: Index<IpAddr>,
    workloads: Index<WorkloadName>,
    clusters: Index<ClusterId>,
    gateways: Index<ClusterId>,
}

/// What one session looks at.
#[derive(Debug)]
struct Looks {
    workload: WorkloadName,
    cluster: ClusterId,
    services: HashSet<ServiceKey>,
    addresses: HashSet<IpAddr>,
}

impl Interests {
    /// A session's number, which it gives back with [`leave`](Self::leave).
    pub fn enter(&mut self, client: &Client) -> SessionNumber {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.workloads.add(client.workload.clone(), number);
        self.clusters.add(client.cluster.clone(), number);
        if client.role == Role::Gateway {
            self.gateways.add(client.cluster.clone(), number);
        }
        let looks = Looks {
            workload: client.workload.clone(),
            cluster: client.cluster.clone(),
            services: HashSet::new(),
            addresses: HashSet::new(),
        };
        self.sessions.insert(number, looks);
        number
    }

    /// The session wants other services than before.
    pub fn follow(&mut self, number: SessionNumber, moved: Moved) {
        let Some(looks) = self.sessions.get_mut(&number) else {
            return;
        };
        // In this order: what has ended may have begun again.
        for key in moved.ended {
            looks.services.remove(&key);
            self.services.remove(&key, number);
        }
        for key in moved.begun {
            looks.services.insert(key.clone());
            self.services.add(key, number);
        }
        for ip in moved.addresses_ended {
            looks.addresses.remove(&ip);
            self.addresses.remove(&ip, number);
        }
        for ip in moved.addresses_begun {
            looks.addresses.insert(ip);
            self.addresses.add(ip, number);
        }
    }

    /// The session has ended.
    pub fn leave(&mut self, number: SessionNumber) {
        let Some(looks) = self.sessions.remove(&number) else {
            return;
        };
        for key in &looks.services {
            self.services.remove(key, number);
        }
        for ip in &looks.addresses {
            self.addresses.remove(ip, number);
        }
        self.workloads.remove(&looks.workload, number);
        self.clusters.remove(&looks.cluster, number);
        self.gateways.remove(&looks.cluster, number);
    }

    #[cfg(test)]
    pub(crate) fn wanted(&self, number: SessionNumber) -> usize {
        self.sessions[&number].services.len()
    }

    /// Whom this may concern.
    #[must_use]
    pub fn concerned(&self, dirty: &Dirty) -> BTreeSet<SessionNumber> {
        // A definition moves virtual addresses, which anybody may look at.
        let redefined = |one: &Affected| one.definition && one.everywhere;
        // What is rare, or concerns nearly all, is told to all.
        let everybody = dirty.all
            || dirty.trust
            || !dirty.gateways.is_empty()
            || !dirty.freshness.is_empty()
            || dirty.policies.contains(&PolicyScope::Mesh)
            || dirty.services.values().any(redefined);
        if everybody {
            return self.sessions.keys().copied().collect();
        }
        let mut found = BTreeSet::new();
        for (key, affected) in &dirty.services {
            if affected.definition {
                let clusters = affected.clients.iter();
                found.extend(clusters.flat_map(|cluster| self.clusters.of(cluster)));
            } else {
                found.extend(self.services.of(key));
            }
        }
        let workloads = dirty.workloads.iter();
        found.extend(workloads.flat_map(|workload| self.workloads.of(workload)));
        let addresses = dirty.addresses.iter();
        found.extend(addresses.flat_map(|ip| self.addresses.of(ip)));
        for scope in &dirty.policies {
            if let PolicyScope::Cluster(cluster) | PolicyScope::Namespace(cluster, _) = scope {
                found.extend(self.clusters.of(cluster));
            }
        }
        let exports = dirty.exports.iter();
        found.extend(exports.flat_map(|cluster| self.gateways.of(cluster)));
        found
    }
}

/// From what can be looked at to those who do.
#[derive(Debug)]
struct Index<K>(HashMap<K, BTreeSet<SessionNumber>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Index<K> {
    fn add(&mut self, key: K, number: SessionNumber) {
        self.0.entry(key).or_default().insert(number);
    }

    fn remove(&mut self, key: &K, number: SessionNumber) {
        if let Some(all) = self.0.get_mut(key) {
            all.remove(&number);
            if all.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn of(&self, key: &K) -> impl Iterator<Item = SessionNumber> + use<'_, K> {
        self.0.get(key).into_iter().flatten().copied()
    }
}
