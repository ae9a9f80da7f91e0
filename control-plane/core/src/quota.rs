//! How much of one cluster is kept in memory?
//!
//! What a cluster's API server says is as large as somebody there makes it. Beyond its quota an
//! object is refused, what was known under its name stays, and the refusal is told.

mod shares;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use shares::Shares;

use crate::model::{Gateway, Labels, Managed, Object, OtherPort, Said, Spec};

/// Endpoints of one cluster, if nobody says otherwise.
pub const ENDPOINTS: usize = 20_000;
/// Memory for one cluster, in bytes, if nobody says otherwise.
pub const BYTES: usize = 64 * 1024 * 1024;
/// What a small allocation costs beyond its content, about, in bytes.
const ALLOCATION: usize = 16;
/// What an entry of a map costs beyond its content, about, in bytes.
const ENTRY: usize = 48;
/// A protobuf message in memory against its encoding, about.
const DECODED: usize = 4;

/// The most that is kept of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Endpoints in its slices.
    pub endpoints: usize,
    /// Memory for its objects, in bytes, by estimate.
    pub bytes: usize,
}

/// A part of a quota that is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// Endpoints; `None`: nothing is written.
    pub endpoints: Option<usize>,
    /// Memory, in bytes; `None`: nothing is written.
    pub bytes: Option<usize>,
}

impl Allotment {
    /// Is nothing written?
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Quota {
    /// As this one, but for what is written.
    #[must_use]
    pub fn with(self, written: Allotment) -> Self {
        Self {
            endpoints: written.endpoints.unwrap_or(self.endpoints),
            bytes: written.bytes.unwrap_or(self.bytes),
        }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            endpoints: ENDPOINTS,
            bytes: BYTES,
        }
    }
}

/// What one object takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Endpoints.
    pub endpoints: usize,
    /// Memory, in bytes, by estimate.
    pub bytes: usize,
}

/// There is no room for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// Endpoints.
    #[error("beyond the cluster's quota of {0} endpoints")]
    Endpoints(usize),
    /// Memory.
    #[error("beyond the cluster's quota of {0} bytes")]
    Bytes(usize),
    /// Memory, in one namespace.
    #[error("beyond the {0} bytes that one namespace may have")]
    Share(usize),
}

/// What a cluster's objects take, one by one.
#[derive(Debug)]
pub struct Ledger<K> {
    quota: Quota,
    used: Cost,
    held: BTreeMap<K, Cost>,
}

impl<K: Ord> Ledger<K> {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            quota,
            used: Cost::default(),
            held: BTreeMap::new(),
        }
    }

    /// Takes an object in, or in the place of what was held under its key.
    ///
    /// # Errors
    /// There is no room; what was held under the key is still held. What becomes smaller, or stays
    /// as large as it was, always has room.
    pub fn admit(&mut self, key: K, cost: Cost) -> Result<(), Over> {
        let old = self.held.get(&key).copied().unwrap_or_default();
        let endpoints =
            (self.used.endpoints.saturating_sub(old.endpoints)).saturating_add(cost.endpoints);
        let bytes = (self.used.bytes.saturating_sub(old.bytes)).saturating_add(cost.bytes);
        if cost.endpoints > old.endpoints && endpoints > self.quota.endpoints {
            return Err(Over::Endpoints(self.quota.endpoints));
        }
        if cost.bytes > old.bytes && bytes > self.quota.bytes {
            return Err(Over::Bytes(self.quota.bytes));
        }
        self.used = Cost { endpoints, bytes };
        self.held.insert(key, cost);
        Ok(())
    }

    /// The object is gone. `false`: it was not held.
    pub fn release(&mut self, key: &K) -> bool {
        let Some(cost) = self.held.remove(key) else {
            return false;
        };
        self.used.endpoints = self.used.endpoints.saturating_sub(cost.endpoints);
        self.used.bytes = self.used.bytes.saturating_sub(cost.bytes);
        true
    }

    /// Is anything held under this key?
    #[must_use]
    pub fn holds(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// What all objects take.
    #[must_use]
    pub fn used(&self) -> Cost {
        self.used
    }

    /// Is there room for what takes this much?
    #[must_use]
    pub fn has_room(&self, cost: Cost) -> bool {
        self.used.endpoints.saturating_add(cost.endpoints) <= self.quota.endpoints
            && self.used.bytes.saturating_add(cost.bytes) <= self.quota.bytes
    }

    /// The most that may be held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }
}

impl Cost {
    /// What an object takes, with its place in the world and its name in indexes.
    #[must_use]
    pub fn of(object: &Object) -> Self {
        let name = text(&object.name)
            + object
                .namespace
                .as_ref()
                .map_or(0, |namespace| text(namespace.as_str()));
        let (endpoints, said) = said(&object.spec);
        Self {
            endpoints,
            bytes: size_of::<Object>() + ENTRY + name.saturating_mul(3) + said,
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            endpoints: self.endpoints.saturating_add(other.endpoints),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoints, kib) = (self.endpoints, self.bytes / 1024);
        write!(f, "{endpoints} endpoints, {kib} KiB")
    }
}

/// Endpoints and bytes of what an object says.
fn said(spec: &Spec) -> (usize, usize) {
    let bytes = match spec {
        Spec::TrustPolicy(policy) => {
            policy.distrusted.len() * 80 + conditions(&policy.observed.conditions)
        }
        Spec::ConfigMap(found) => found.managed.as_ref().map_or(0, managed),
        Spec::Namespace(labels) => map(labels),
        Spec::ServiceAccount | Spec::Deployment => 0,
        Spec::ServiceExport(export) => {
            map(&export.labels) + map(&export.annotations) + conditions(&export.observed.conditions)
        }
        Spec::Pod(pod) => said_by_pod(pod),
        Spec::Service(service) => {
            let ports: usize = service.ports.iter().map(|port| text(&port.name) + 64).sum();
            let others = service.others.iter().map(other).sum::<usize>();
            let made = service.managed.as_ref().map_or(0, managed);
            let front = service
                .front
                .as_ref()
                .map_or(0, |front| text(&front.gateway) + front.addresses.len() * 64);
            map(&service.selector) + service.cluster_ips.len() * 24 + ports + others + made + front
        }
        Spec::EndpointSlice(slice) => {
            let each = |endpoint: &crate::model::SliceEndpoint| {
                size_of_val(endpoint)
                    + endpoint.addresses.len() * 17
                    + text(&endpoint.zone)
                    + endpoint.node.as_deref().map_or(0, text)
                    + endpoint
                        .pod
                        .as_ref()
                        .map_or(0, |pod| text(pod).saturating_mul(2))
            };
            let ports: usize = slice.ports.iter().map(|port| text(&port.name) + 32).sum();
            let bytes: usize = slice.endpoints.iter().map(each).sum();
            return (slice.endpoints.len(), text(&slice.service) + ports + bytes);
        }
        Spec::ServiceImport(import) => {
            let ports: usize = import.ports.iter().map(other).sum();
            let clusters: usize = import.clusters.iter().map(|name| text(name)).sum();
            let made = import.managed.as_ref().map_or(0, managed);
            import.ips.len() * 24 + ports + clusters + made
        }
        Spec::Route(route) => said_by_route(route),
        Spec::ReferenceGrant(grant) => {
            let to = |(_, name): &(_, Option<String>)| name.as_deref().map_or(8, text) + 32;
            grant.from.len() * 48 + grant.to.iter().map(to).sum::<usize>()
        }
        Spec::Gateway(gateway) => said_by_gateway(gateway),
        Spec::GatewayClass(class) => {
            text(&class.controller) + conditions(&class.observed.conditions)
        }
        Spec::ClusterProperty(property) => text(&property.value),
        Spec::MeshCluster(_) => 256,
        Spec::ClusterProfile(profile) => {
            let ways = profile.access.iter();
            let ways: usize = ways.map(|way| text(&way.name) + text(&way.cluster)).sum();
            256 + text(&profile.cluster) + ways
        }
        Spec::AccessPolicy(policy) => {
            let told = conditions(&policy.observed.conditions);
            let wrong = said_wrong(policy.invalid.as_deref());
            policy.body.as_ref().map_or(0, message) + wrong + told + 128
        }
        Spec::TrafficPolicy(policy) => {
            let told = conditions(&policy.observed.conditions);
            let wrong = said_wrong(policy.invalid.as_deref());
            message(&policy.body) + text(&policy.service) + wrong + told
        }
    };
    (0, bytes)
}

fn said_by_gateway(gateway: &Gateway) -> usize {
    let listed = gateway.listeners.iter();
    let listed: usize = listed.map(|l| text(&l.name) + text(&l.protocol)).sum();
    let said = gateway.status.listeners.iter();
    let said: usize = said
        .map(|l| text(&l.name) + conditions(&l.conditions))
        .sum();
    let addresses = gateway.addresses.len() + gateway.status.addresses.len();
    let told = conditions(&gateway.observed.conditions);
    text(&gateway.class) + addresses * 64 + listed + said + told
}

fn text(text: &str) -> usize {
    text.len() + ALLOCATION
}

fn conditions(said: &[Said]) -> usize {
    let each = |said: &Said| text(&said.kind) + text(&said.reason) + text(&said.message) + 64;
    said.iter().map(each).sum()
}

fn other(port: &OtherPort) -> usize {
    text(&port.name) + port.app_protocol.as_deref().map_or(0, text) + 64
}

fn managed(made: &Managed) -> usize {
    map(&made.labels) + map(&made.annotations) + text(&made.uid) + text(&made.owner)
}

fn said_by_pod(pod: &crate::model::Pod) -> usize {
    let ports: usize = pod.ports.iter().map(|port| text(&port.name) + 32).sum();
    let place = text(&pod.locality.region) + text(&pod.locality.zone);
    let names = [&pod.uid, &pod.node].map(|name| name.as_deref().map_or(0, text));
    let names: usize = names.iter().sum();
    let account = text(&pod.service_account);
    map(&pod.labels) + account + pod.ips.len() * 24 + ports + place + names
}

fn said_by_route(route: &crate::model::Route) -> usize {
    let parents: usize = route
        .parents
        .iter()
        .map(|p| text(&p.service.name) + 96)
        .sum();
    let hosts: usize = route.hostnames.iter().map(|host| text(host)).sum();
    let rules: usize = route.rules.iter().map(message).sum();
    let told = route.dropped.iter().chain(&route.failing);
    let dropped: usize = told.map(|why| text(why)).sum();
    let statuses = route.statuses.iter();
    let told: usize = statuses.map(|s| conditions(&s.conditions) + 160).sum();
    parents + hosts + rules + dropped + told + said_wrong(route.invalid.as_deref())
}

fn said_wrong(why: Option<&str>) -> usize {
    why.map_or(0, text)
}

fn map(labels: &Labels) -> usize {
    let entry = |(key, value): (&String, &String)| text(key) + text(value) + ENTRY;
    labels.iter().map(entry).sum()
}

fn message<M: prost::Message>(message: &M) -> usize {
    size_of::<M>() + message.encoded_len().saturating_mul(DECODED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Quota = Quota {
        endpoints: 10,
        bytes: 1_000,
    };

    fn cost(endpoints: usize, bytes: usize) -> Cost {
        Cost { endpoints, bytes }
    }

    #[test]
    fn what_has_no_room_is_refused_and_what_was_held_under_its_name_stays() {
        let mut ledger = Ledger::new(SMALL);
        assert_eq!(ledger.admit("a", cost(6, 100)), Ok(()));
        assert_eq!(ledger.admit("b", cost(5, 100)), Err(Over::Endpoints(10)));
        assert!(!ledger.holds(&"b"));
        assert_eq!(ledger.admit("b", cost(4, 100)), Ok(()));
        assert_eq!(ledger.admit("b", cost(4, 901)), Err(Over::Bytes(1_000)));
        assert!(ledger.holds(&"b"));
        assert_eq!(ledger.used(), cost(10, 200));
        assert!(ledger.release(&"a"));
        assert!(!ledger.release(&"a"));
        assert_eq!(ledger.used(), cost(4, 100));
        assert_eq!(ledger.admit("b", cost(10, 1_000)), Ok(()));
    }

    #[test]
    fn what_becomes_smaller_always_has_room() {
        let mut ledger = Ledger::new(SMALL);
        assert_eq!(ledger.admit("a", cost(10, 100)), Ok(()));
        assert_eq!(ledger.admit("b", cost(0, 900)), Ok(()));
        assert_eq!(ledger.admit("a", cost(9, 100)), Ok(()));
        // More bytes than there are, though fewer endpoints.
        assert_eq!(ledger.admit("a", cost(8, 101)), Err(Over::Bytes(1_000)));
        assert_eq!(ledger.admit("a", cost(8, 99)), Ok(()));
    }

    #[test]
    fn the_estimate_follows_what_is_said() {
        let pod = |labels: usize| {
            let label = |at: usize| (format!("label-{at:04}"), "x".repeat(20));
            Cost::of(&crate::sample::object(
                "east",
                "shop",
                "cart-1",
                Spec::Pod(crate::model::Pod {
                    labels: (0..labels).map(label).collect(),
                    ..crate::model::Pod::default()
                }),
            ))
        };
        let (few, many) = (pod(10), pod(1_000));
        assert!(many.bytes > few.bytes + 990 * 30, "{few} {many}");
        assert!(few.bytes < 4_096, "{few}");
        assert_eq!(few.endpoints, 0);
    }
}
