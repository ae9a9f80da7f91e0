//! Where is a pod, if its node says so?
//!
//! Nodes and pods come by two watches, in any order. A pod whose node has said nothing yet is told
//! without a place, and kept here until it has.

use std::collections::BTreeMap;

use isthmus_control_plane_core::model::{Object, Spec};
use isthmus_control_plane_core::watch::Name;
use isthmus_proto::locality::Locality;

/// Pods that wait for their node's place. Beyond, the pods are listed again.
const WAITING_MAX: usize = 4_096;
/// Nodes that are remembered. Kubernetes supports 5,000.
const NODES_MAX: usize = 20_000;

/// Nodes with their places, and pods that wait for one.
#[derive(Debug, Default)]
pub(super) struct Places {
    nodes: BTreeMap<String, Locality>,
    waiting: BTreeMap<Name, Object>,
    /// Pods wait that are not in `waiting`.
    overflown: bool,
}

/// What a node's place changes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Moved {
    /// Pods that waited for it.
    pub(super) pods: Vec<Object>,
    /// Pods that were told with another place may be on it.
    pub(super) others: bool,
}

impl Places {
    /// A pod as it will be told, with its node's place.
    pub(super) fn place(&mut self, name: &Name, pod: &mut Object) {
        self.waiting.remove(name);
        let Some(node) = node_of(pod).filter(|_| lacks_place(pod)) else {
            return;
        };
        if let Some(place) = self.nodes.get(node).filter(|place| !is_nowhere(place)) {
            put(pod, place);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(name.clone(), pod.clone());
        } else {
            self.overflown = true;
        }
    }

    /// A pod is gone.
    pub(super) fn forget(&mut self, name: &Name) {
        self.waiting.remove(name);
    }

    /// A node is there, or is different.
    pub(super) fn node(&mut self, name: &str, place: Locality) -> Moved {
        let old = self.nodes.get(name);
        if old == Some(&place) || (old.is_none() && self.nodes.len() >= NODES_MAX) {
            return Moved::default();
        }
        let had_place = old.is_some_and(|old| !is_nowhere(old));
        let mut moved = Moved {
            pods: Vec::new(),
            others: had_place || (self.overflown && !is_nowhere(&place)),
        };
        if !is_nowhere(&place) {
            let (here, waiting) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(_, pod)| node_of(pod) == Some(name));
            self.waiting = waiting;
            let here: BTreeMap<Name, Object> = here;
            moved.pods.extend(here.into_values().map(|mut pod| {
                put(&mut pod, &place);
                pod
            }));
        }
        self.nodes.insert(name.to_owned(), place);
        moved
    }

    /// A node is gone. Its pods will be, too, and are where they were until then.
    pub(super) fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }
}

fn is_nowhere(place: &Locality) -> bool {
    place.region.is_empty() && place.zone.is_empty()
}

fn node_of(object: &Object) -> Option<&str> {
    match &object.spec {
        Spec::Pod(pod) => pod.node.as_deref(),
        _ => None,
    }
}

fn lacks_place(object: &Object) -> bool {
    matches!(&object.spec, Spec::Pod(pod) if pod.locality.region.is_empty() || pod.locality.zone.is_empty())
}

/// What the pod itself says counts more than what its node says.
fn put(object: &mut Object, place: &Locality) {
    if let Spec::Pod(pod) = &mut object.spec {
        if pod.locality.region.is_empty() {
            pod.locality.region.clone_from(&place.region);
        }
        if pod.locality.zone.is_empty() {
            pod.locality.zone.clone_from(&place.zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_control_plane_core::model::Pod;

    fn pod(name: &str, node: &str) -> (Name, Object) {
        let at = Name {
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
        };
        let object = Object {
            cluster: "east".parse().unwrap(),
            namespace: Some("shop".parse().unwrap()),
            name: name.to_owned(),
            created: None,
            spec: Spec::Pod(Pod {
                node: Some(node.to_owned()),
                ..Pod::default()
            }),
        };
        (at, object)
    }

    fn zone(name: &str) -> Locality {
        Locality {
            region: "eu".to_owned(),
            zone: name.to_owned(),
        }
    }

    fn zone_of(object: &Object) -> &str {
        match &object.spec {
            Spec::Pod(pod) => &pod.locality.zone,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_has_its_nodes_place_whichever_comes_first() {
        let mut places = Places::default();
        places.node("n1", zone("a"));
        let (at, mut first) = pod("first", "n1");
        places.place(&at, &mut first);
        assert_eq!(zone_of(&first), "a");

        let (at, mut early) = pod("early", "n2");
        places.place(&at, &mut early);
        assert_eq!(zone_of(&early), "");
        let (gone, mut other) = pod("gone", "n2");
        places.place(&gone, &mut other);
        places.forget(&gone);
        // The node registers, and is given its labels afterwards.
        assert_eq!(places.node("n2", Locality::default()), Moved::default());
        let moved = places.node("n2", zone("b"));
        assert_eq!(moved.pods.len(), 1);
        assert_eq!(
            (moved.pods[0].name.as_str(), zone_of(&moved.pods[0])),
            ("early", "b")
        );
        assert!(!moved.others);
        assert!(places.node("n2", zone("c")).others);
        assert!(!places.node("n2", zone("c")).others);
    }

    #[test]
    fn too_many_that_wait_are_listed_again() {
        let mut places = Places::default();
        for at in 0..=WAITING_MAX {
            let (at, mut pod) = pod(&format!("p{at}"), "n1");
            places.place(&at, &mut pod);
        }
        let moved = places.node("n1", zone("a"));
        assert_eq!(moved.pods.len(), WAITING_MAX);
        assert!(moved.others);
    }
}
