//! What do the clusters offer each other, for `/services`?
//!
//! Read in pages: the world's writer waits no longer than one takes.

use isthmus_control_plane_core::world::{Offer, OfferName, OfferedEndpoint};
use isthmus_proto::resource::Health;
use serde_json::{Value, json};

use super::Admin;

/// Services that are read in one go.
const PAGE: usize = 50;
/// Endpoints that are shown.
const ENDPOINTS_MAX: usize = 20_000;

impl Admin {
    /// Every exported service with its endpoints, by cluster.
    pub(super) fn services(&self) -> Value {
        let names: Vec<OfferName> = self
            .hub
            .read(|world| world.offer_names().into_iter().collect());
        let (mut services, mut endpoints, mut more) = (Vec::new(), 0, false);
        for page in names.chunks(PAGE) {
            if endpoints >= ENDPOINTS_MAX {
                more = true;
                break;
            }
            let read: Vec<(&OfferName, Vec<Offer>)> = self.hub.read(|world| {
                let offers = |name: &OfferName| world.offers((&name.0, &name.1));
                page.iter().map(|name| (name, offers(name))).collect()
            });
            for ((namespace, name), offers) in read {
                endpoints += offers.iter().map(|o| o.endpoints.len()).sum::<usize>();
                let clusters: Vec<Value> = offers.iter().map(offer).collect();
                services.push(json!({
                    "namespace": namespace, "name": name, "clusters": clusters,
                }));
            }
        }
        json!({ "services": services, "more": more })
    }
}

fn offer(offer: &Offer) -> Value {
    let count = |wanted: Health| {
        let endpoints = offer.endpoints.iter();
        endpoints.filter(|e| e.health == wanted).count()
    };
    let endpoints: Vec<Value> = offer.endpoints.iter().map(endpoint).collect();
    json!({
        "cluster": offer.cluster.as_str(),
        "healthy": count(Health::Healthy),
        "draining": count(Health::Draining),
        "unhealthy": count(Health::Unhealthy),
        "endpoints": endpoints,
    })
}

fn endpoint(endpoint: &OfferedEndpoint) -> Value {
    json!({
        "name": endpoint.name,
        "addresses": endpoint.addresses,
        "health": health(endpoint.health),
        "meshed": endpoint.meshed,
    })
}

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Draining => "draining",
        Health::Unhealthy => "unhealthy",
        Health::Unspecified => "unspecified",
    }
}
