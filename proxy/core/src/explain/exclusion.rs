//! Why can an endpoint not take a call?
//!
//! For a replay, and for what is remembered of a call that found nobody: after it has healed, a
//! replay no longer tells.

use std::collections::BTreeMap;

use crate::balance::{Endpoint, EndpointSet, Health, Ticks};
use crate::hop::{NextHop, next_hop};
use crate::snapshot::{Generation, Service, Snapshot};

/// Endpoints that are looked at.
pub const EXAMINED_MAX: usize = 1_000;
/// Bytes of the names and reasons that are written down one by one; the others are only counted.
pub const NAMED_BYTES_MAX: usize = 4 * 1024;
/// Reasons that are told apart.
const REASONS_MAX: usize = 16;
/// Where the others are counted.
const OTHER: &str = "other reasons";

/// Why nobody of a service could take a call, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusions {
    /// The service.
    pub service: String,
    /// By which snapshot.
    pub generation: Generation,
    /// How many endpoints it has.
    pub total: usize,
    /// How many of them were looked at.
    pub examined: usize,
    /// How many were excluded for which reason.
    pub reasons: BTreeMap<String, usize>,
    /// The first of them by name, each with its reason.
    pub named: Vec<(String, String)>,
}

/// Looks at the endpoints of a service for a call to one of its ports.
#[must_use]
pub fn exclusions(
    snapshot: &Snapshot,
    service: &Service,
    port: u16,
    mesh_domain: &str,
    now: Ticks,
) -> Exclusions {
    let mut found = Exclusions {
        service: service.name.to_string(),
        generation: snapshot.generation,
        total: service.endpoints.known().map_or(0, |set| set.len()),
        examined: 0,
        reasons: BTreeMap::new(),
        named: Vec::new(),
    };
    let Some(set) = service.endpoints.known() else {
        return found;
    };
    let mut bytes = 0;
    for endpoint in set.endpoints().iter().take(EXAMINED_MAX) {
        let hop = way(snapshot, endpoint, port, mesh_domain);
        let why = excluded(snapshot, (set, endpoint), port, hop.as_ref(), now)
            .unwrap_or_else(|| "nothing but the way to it: it was tried".to_owned());
        bytes += endpoint.name.as_str().len() + why.len();
        if bytes <= NAMED_BYTES_MAX {
            found.named.push((endpoint.name.to_string(), why.clone()));
        }
        found.examined += 1;
        let is_new = !found.reasons.contains_key(&why);
        let reason = if is_new && found.reasons.len() >= REASONS_MAX {
            OTHER.to_owned()
        } else {
            why
        };
        *found.reasons.entry(reason).or_default() += 1;
    }
    found
}

/// The way to an endpoint's port for a port of the service, if there is one.
pub(super) fn way(
    snapshot: &Snapshot,
    endpoint: &Endpoint,
    port: u16,
    mesh_domain: &str,
) -> Option<NextHop> {
    let target = endpoint.target_port(port)?;
    next_hop(
        endpoint,
        target,
        &snapshot.me,
        &snapshot.gateways,
        mesh_domain,
    )
    .ok()
}

/// `None`: it can take the call.
pub(super) fn excluded(
    snapshot: &Snapshot,
    (set, endpoint): (&EndpointSet, &Endpoint),
    port: u16,
    hop: Option<&NextHop>,
    now: Ticks,
) -> Option<String> {
    if endpoint.target_port(port).is_none() {
        Some(format!("has no port for the service's port {port}"))
    } else if endpoint.weight == 0 {
        Some("its weight is 0".to_owned())
    } else if endpoint.health == Health::Unhealthy {
        Some("it is not ready".to_owned())
    } else if hop.is_none() {
        Some(unreachable(snapshot, endpoint))
    } else if set.is_out(endpoint, now) {
        Some("it is ejected: its calls failed".to_owned())
    } else {
        None
    }
}

fn unreachable(snapshot: &Snapshot, endpoint: &Endpoint) -> String {
    let network = &endpoint.network;
    if endpoint.network == snapshot.me.network {
        return "it has no address".to_owned();
    }
    if endpoint.handle.is_none() || endpoint.tunnel_port.is_none() {
        return format!("it is on network {network} and not exported to others");
    }
    format!(
        "no gateway of cluster {} leads to network {network}",
        endpoint.cluster
    )
}
