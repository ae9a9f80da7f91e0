//! What does each cluster offer to the others, and who of it serves now?
//!
//! For people: endpoints as discovery would tell them, before any client asks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource::Health;

use crate::import;
use crate::world::World;
use crate::world::cluster::Cluster;

/// Namespace and name of an exported service.
pub type OfferName = (String, String);

/// One cluster's part of an exported service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Whose.
    pub cluster: ClusterId,
    /// Its endpoints by name; none also where the export cannot be used.
    pub endpoints: Vec<OfferedEndpoint>,
}

/// One place that an exported service leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedEndpoint {
    /// `cluster/namespace/pod`.
    pub name: String,
    /// Where it is, on its cluster's network.
    pub addresses: Vec<IpAddr>,
    /// Healthy, draining or unhealthy.
    pub health: Health,
    /// May others call it? A pod without a sidecar serves its own cluster only.
    pub meshed: bool,
}

impl World {
    /// The names of all that clusters export, as far as they have been listed; in order.
    #[must_use]
    pub fn offer_names(&self) -> BTreeSet<OfferName> {
        let listed = self.clusters.values().filter(|cluster| cluster.listed());
        let exports = listed.flat_map(|cluster| cluster.exports.iter());
        exports
            .map(|(namespace, name, _)| (namespace.to_owned(), name.to_owned()))
            .collect()
    }

    /// Who offers this service, and by which endpoints; clusters whose export is no good are left out.
    #[must_use]
    pub fn offers(&self, (namespace, name): (&str, &str)) -> Vec<Offer> {
        import::exports(self, namespace, name)
            .iter()
            .filter_map(|export| {
                let cluster = self.listed(export.cluster.as_str())?;
                Some(Offer {
                    cluster: cluster.id.clone(),
                    endpoints: endpoints((self, cluster), namespace, name),
                })
            })
            .collect()
    }
}

fn endpoints(
    (world, cluster): (&World, &Cluster),
    namespace: &str,
    name: &str,
) -> Vec<OfferedEndpoint> {
    let found = world.told_backends(cluster, namespace, name);
    found
        .iter()
        .filter_map(|backend| {
            Some(OfferedEndpoint {
                name: backend.workload(cluster)?.to_string(),
                addresses: backend.addresses.clone(),
                health: backend.health,
                meshed: backend.is_meshed(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Spec;
    use crate::sample::{export, list, pod, service, shop, world};

    fn told(world: &World) -> Vec<(String, Vec<(String, Health)>)> {
        let offers = world.offers(("shop", "cart"));
        let one = |offer: Offer| {
            let endpoints = offer.endpoints.into_iter().map(|e| (e.name, e.health));
            (offer.cluster.to_string(), endpoints.collect())
        };
        offers.into_iter().map(one).collect()
    }

    #[test]
    fn each_cluster_is_told_with_its_own_endpoints() {
        let mut world = world(&["east", "west"]);
        list(
            &mut world,
            "east",
            &[
                pod("east", "cart", 1),
                service("east", "cart", 10),
                export("east", "cart"),
            ],
        );
        let mut unready = pod("west", "cart", 2);
        if let Spec::Pod(pod) = &mut unready.spec {
            pod.ready = false;
        }
        list(
            &mut world,
            "west",
            &[
                pod("west", "cart", 1),
                unready,
                service("west", "cart", 10),
                export("west", "cart"),
            ],
        );
        let name = ("shop".to_owned(), "cart".to_owned());
        assert_eq!(world.offer_names(), BTreeSet::from([name]));
        let (healthy, unhealthy) = (Health::Healthy, Health::Unhealthy);
        assert_eq!(
            told(&world),
            [
                (
                    "east".to_owned(),
                    vec![("east/shop/cart-1".to_owned(), healthy)]
                ),
                (
                    "west".to_owned(),
                    vec![
                        ("west/shop/cart-1".to_owned(), healthy),
                        ("west/shop/cart-2".to_owned(), unhealthy),
                    ]
                ),
            ]
        );
    }

    #[test]
    fn what_is_not_exported_is_no_offer() {
        let mut world = world(&["east"]);
        let mut objects = shop();
        objects.retain(|object| !matches!(object.spec, Spec::ServiceExport(_)));
        list(&mut world, "east", &objects);
        assert!(world.offer_names().is_empty());
        assert!(told(&world).is_empty());
    }
}
