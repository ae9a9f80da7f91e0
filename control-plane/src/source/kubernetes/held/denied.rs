//! What denies in the place of access policies that could not be taken?
//!
//! A policy that was never taken, because it has no room or can't be read, may be one that denies. Where
//! it would apply, everything is denied, by one stand-in for each namespace: however many of its
//! policies are not taken, it is as large as one.

use std::collections::{BTreeMap, HashSet};

use isthmus_control_plane_core::model::{
    AccessPolicy, Change, Kind, NOT_TAKEN, Object, ObjectRef, Observed, PolicyTarget, Spec,
};
use isthmus_proto::ids::{ClusterId, Namespace};
use isthmus_proto::resource::{Action, InboundMode};

/// Policies of one namespace of which it is known where each of them applies. Of more only the widest counts.
const PLACES_MAX: usize = 16;
/// In all namespaces.
const ALL_PLACES_MAX: usize = 1_000;
/// Services that one stand-in is for; for more it is for the namespace.
const SERVICES_MAX: usize = 64;
/// Labels of pods that it is for, in bytes.
const LABELS_BYTES_MAX: usize = 1_024;
/// Policies that are not taken, in all namespaces. Where there are more, some namespaces are denied until
/// the cluster is listed anew.
const COUNTED_MAX: usize = 100_000;

/// The policies of a cluster that are not taken, by namespace.
#[derive(Debug, Default)]
pub(super) struct Denied {
    spaces: BTreeMap<String, Space>,
    places: usize,
    counted: usize,
}

#[derive(Debug, Default)]
struct Space {
    /// Where each of them applies, by the hash of its name.
    places: BTreeMap<u64, PolicyTarget>,
    /// There are these, too, and somewhere in `widest` each of them applies.
    more: HashSet<u64>,
    widest: Option<PolicyTarget>,
    /// And some that nobody has counted.
    is_full: bool,
    told: Option<PolicyTarget>,
}

/// Where a policy applies that may deny; `None`: it denies nothing, and whoever misses it is not more open.
pub(super) fn reach(policy: &AccessPolicy) -> Option<PolicyTarget> {
    let audits = |action: i32| action == i32::from(Action::Audit);
    let only_notes = policy.body.as_ref().is_some_and(|body| audits(body.action));
    // One that asks for mutual TLS besides would be missed.
    if only_notes && policy.inbound != Some(InboundMode::Strict) {
        return None;
    }
    Some(policy.target.clone())
}

impl Denied {
    /// A policy is not taken: it may apply there.
    pub(super) fn add(&mut self, namespace: &str, policy: u64, target: PolicyTarget) {
        self.remove(namespace, policy);
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        let target = small(target);
        if space.places.len() < PLACES_MAX && self.places < ALL_PLACES_MAX {
            space.places.insert(policy, target);
            self.places += 1;
            return;
        }
        let widest = space.widest.take().unwrap_or(PolicyTarget::Namespace);
        space.widest = Some(both(widest, &target));
        if self.counted < COUNTED_MAX {
            space.more.insert(policy);
            self.counted += 1;
        } else {
            space.is_full = true;
        }
    }

    /// A policy is taken, or gone.
    pub(super) fn remove(&mut self, namespace: &str, policy: u64) {
        let Some(space) = self.spaces.get_mut(namespace) else {
            return;
        };
        if space.places.remove(&policy).is_some() {
            self.places = self.places.saturating_sub(1);
        }
        if space.more.remove(&policy) {
            self.counted = self.counted.saturating_sub(1);
        }
        if space.more.is_empty() && !space.is_full {
            space.widest = None;
        }
    }

    /// What there is to tell of a namespace, if that is different now.
    pub(super) fn news(&mut self, cluster: &ClusterId, namespace: &str) -> Option<Change> {
        let space = self.spaces.get_mut(namespace)?;
        let now = space.denied();
        if now == space.told {
            if now.is_none() {
                self.spaces.remove(namespace);
            }
            return None;
        }
        space.told.clone_from(&now);
        if now.is_none() {
            self.spaces.remove(namespace);
        }
        let namespace: Option<Namespace> = match namespace {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        Some(match now {
            None => Change::Delete(ObjectRef {
                cluster: cluster.clone(),
                kind: Kind::AccessPolicy,
                namespace,
                name: NOT_TAKEN.to_owned(),
            }),
            Some(target) => Change::Apply(stand_in(cluster, namespace, target)),
        })
    }
}

impl Space {
    /// Where all of them apply.
    fn denied(&self) -> Option<PolicyTarget> {
        let all = self.places.values().chain(&self.widest);
        all.fold(None, |wide, one| {
            Some(wide.map_or_else(|| one.clone(), |wide| both(wide, one)))
        })
    }
}

fn stand_in(cluster: &ClusterId, namespace: Option<Namespace>, target: PolicyTarget) -> Object {
    let why = "policies of this namespace could not be taken: the status of each says why";
    Object {
        cluster: cluster.clone(),
        namespace,
        name: NOT_TAKEN.to_owned(),
        created: None,
        spec: Spec::AccessPolicy(AccessPolicy {
            target,
            body: None,
            inbound: None,
            invalid: Some(why.to_owned()),
            observed: Observed::default(),
        }),
    }
}

/// The target, or one that is wider and takes no room.
fn small(target: PolicyTarget) -> PolicyTarget {
    match target {
        PolicyTarget::Workloads(labels) => {
            let bytes = labels.iter().map(|(key, value)| key.len() + value.len());
            if bytes.sum::<usize>() > LABELS_BYTES_MAX {
                return PolicyTarget::Namespace;
            }
            PolicyTarget::Workloads(labels)
        }
        PolicyTarget::Mesh
        | PolicyTarget::Cluster
        | PolicyTarget::Namespace
        | PolicyTarget::Services(_) => target,
    }
}

/// Where any of the two applies, or more.
fn both(one: PolicyTarget, other: &PolicyTarget) -> PolicyTarget {
    use PolicyTarget::{Cluster, Mesh, Namespace, Services, Workloads};
    match (one, other) {
        (Mesh, _) | (_, Mesh) => Mesh,
        (Cluster, _) | (_, Cluster) => Cluster,
        (Services(mut all), Services(more)) => {
            all.extend(more.iter().cloned());
            if all.len() > SERVICES_MAX {
                return Namespace;
            }
            Services(all)
        }
        (Workloads(labels), Workloads(same)) if labels == *same => Workloads(labels),
        (Namespace | Services(_) | Workloads(_), Namespace | Services(_) | Workloads(_)) => {
            Namespace
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn services(names: &[&str]) -> PolicyTarget {
        let names = names.iter().map(|name| (*name).to_owned());
        PolicyTarget::Services(names.collect::<BTreeSet<_>>())
    }

    /// What is denied now, if that is news; `Some(None)`: nothing any more.
    fn news(denied: &mut Denied, namespace: &str) -> Option<Option<PolicyTarget>> {
        let told = denied.news(&"east".parse().unwrap(), namespace)?;
        Some(match told {
            Change::Apply(object) => match object.spec {
                Spec::AccessPolicy(policy) => Some(policy.target),
                other => panic!("{other:?}"),
            },
            Change::Delete(at) => {
                assert_eq!(
                    at.to_string(),
                    format!("east: AccessPolicy {namespace}/{NOT_TAKEN}")
                );
                None
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn it_reaches_as_far_as_all_that_are_not_taken() {
        let mut denied = Denied::default();
        assert_eq!(news(&mut denied, "shop"), None);
        denied.add("shop", 1, services(&["cart"]));
        assert_eq!(news(&mut denied, "shop"), Some(Some(services(&["cart"]))));
        assert_eq!(news(&mut denied, "shop"), None);
        denied.add("shop", 2, services(&["pay"]));
        assert_eq!(
            news(&mut denied, "shop"),
            Some(Some(services(&["cart", "pay"])))
        );
        denied.add(
            "shop",
            3,
            PolicyTarget::Workloads([("a".into(), "b".into())].into()),
        );
        assert_eq!(
            news(&mut denied, "shop"),
            Some(Some(PolicyTarget::Namespace))
        );
        denied.add("shop", 4, PolicyTarget::Mesh);
        assert_eq!(news(&mut denied, "shop"), Some(Some(PolicyTarget::Mesh)));
        denied.remove("shop", 4);
        denied.remove("shop", 1);
        denied.remove("shop", 2);
        let pods = PolicyTarget::Workloads([("a".into(), "b".into())].into());
        assert_eq!(news(&mut denied, "shop"), Some(Some(pods)));
        denied.remove("shop", 3);
        assert_eq!(news(&mut denied, "shop"), Some(None));
        assert!(denied.spaces.is_empty() && denied.places == 0);
    }

    #[test]
    fn however_many_there_are_it_takes_no_more_room() {
        let mut denied = Denied::default();
        let count = u64::try_from(COUNTED_MAX).unwrap() + 100;
        for policy in 0..count {
            denied.add("shop", policy, services(&[&format!("s{policy}")]));
        }
        denied.add("bank", 1, services(&["safe"]));
        assert_eq!(
            news(&mut denied, "shop"),
            Some(Some(PolicyTarget::Namespace))
        );
        assert_eq!(news(&mut denied, "bank"), Some(Some(services(&["safe"]))));
        let shop = &denied.spaces["shop"];
        assert_eq!(
            (shop.places.len(), shop.more.len()),
            (PLACES_MAX, COUNTED_MAX)
        );
        // Those that nobody has counted are there as long as nobody lists them again.
        for policy in 0..count {
            denied.remove("shop", policy);
        }
        assert_eq!(news(&mut denied, "shop"), None);
        assert_eq!(denied.counted, 0);
    }

    #[test]
    fn the_widest_of_many_counts_until_they_are_gone() {
        let mut denied = Denied::default();
        for policy in 0..=u64::try_from(PLACES_MAX).unwrap() {
            denied.add("isthmus-system", policy, services(&["a"]));
        }
        denied.add("isthmus-system", 99, PolicyTarget::Cluster);
        let now = news(&mut denied, "isthmus-system");
        assert_eq!(now, Some(Some(PolicyTarget::Cluster)));
        denied.remove("isthmus-system", 99);
        assert_eq!(news(&mut denied, "isthmus-system"), None);
        denied.remove("isthmus-system", u64::try_from(PLACES_MAX).unwrap());
        assert_eq!(
            news(&mut denied, "isthmus-system"),
            Some(Some(services(&["a"])))
        );
    }
}
