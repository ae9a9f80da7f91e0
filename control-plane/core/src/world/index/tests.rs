//! Is what belongs together the same, whichever way it came to be so?

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use crate::model::*;
use crate::sample::*;
use crate::world::World;

const NAMES: [&str; 3] = ["cart-1", "cart-2", "pay-1"];

/// A pod, or a slice, of which each part may be another one than before.
fn any_object() -> impl Strategy<Value = Object> {
    let parts = (0..3_usize, 1..4_u8, any::<[bool; 4]>(), 0..3_usize);
    parts.prop_map(|(name, ip, [ready, finished, two, slice], other)| {
        let name = NAMES.get(name).copied().unwrap_or_default();
        if slice {
            let pods = NAMES.iter().skip(other).take(1 + usize::from(two));
            let endpoint = |pod: &&str| SliceEndpoint {
                addresses: vec![IpAddr::from([10, 0, 1, ip])],
                ready,
                serving: ready,
                terminating: false,
                zone: String::new(),
                pod: (!finished).then(|| (*pod).to_owned()),
                hostname: None,
                node: None,
                for_zones: Vec::new(),
            };
            let slice = EndpointSlice {
                service: if ip == 1 { "cart" } else { "pay" }.to_owned(),
                ports: Vec::new(),
                endpoints: pods.map(endpoint).collect(),
                managed: None,
            };
            return object("east", "shop", name, Spec::EndpointSlice(slice));
        }
        let ips = (0..=u8::from(two)).map(|more| IpAddr::from([10, 0, 0, ip + more]));
        let pod = Pod {
            ips: ips.collect(),
            ready,
            finished,
            ..Pod::default()
        };
        object("east", "shop", name, Spec::Pod(pod))
    })
}

/// All indexes over pods and slices, as text.
fn indexes(world: &World) -> String {
    let cluster = world.clusters.get("east").unwrap();
    format!(
        "{:#?}",
        (
            &cluster.slices_of_service,
            &cluster.slices_of_pod,
            &cluster.pods_at,
            &cluster.ids,
        )
    )
}

proptest! {
    #[test]
    fn indexes_are_those_of_a_world_that_was_told_the_end_only(
        told in proptest::collection::vec((any_object(), any::<bool>()), 0..40)
    ) {
        let mut changing = world(&["east"]);
        list(&mut changing, "east", &[]);
        let mut there = BTreeMap::new();
        for (object, stays) in told {
            let at_name = object.reference();
            changing.apply(Change::Apply(object.clone()), at(1));
            there.insert(at_name.clone(), object);
            if !stays {
                there.remove(&at_name);
                changing.apply(Change::Delete(at_name), at(1));
            }
        }
        let mut fresh = world(&["east"]);
        let objects: Vec<Object> = there.into_values().collect();
        list(&mut fresh, "east", &objects);
        prop_assert_eq!(indexes(&changing), indexes(&fresh));
    }
}
