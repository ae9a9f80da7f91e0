//! Which endpoint takes this call?
//!
//! Over the single pods of all clusters. First the place: the nearest one that has capacity keeps
//! the traffic, and as its capacity shrinks or its cost exceeds a farther place's, a growing share
//! leaves (`locality`). Then the pod: the cheaper of two, by latency times calls in flight (`p2c`).
//! A service may ask that a client keeps to its pod instead (`EndpointSet::kept`).
//! Both rest on what this proxy measured (`stats`, `ewma`, `survey`); pods that fail are ejected for
//! a while (`outlier`).

mod ticks;
mod endpoint;
mod ewma;
mod outlier;
mod stats;
mod locality;
mod p2c;
mod survey;
mod set;

pub use endpoint::{ADDRESSES_MAX, Endpoint, EndpointId, Health, PORTS_MAX};
pub(crate) use endpoint::{address, parse, port_number};
pub use locality::{BalancePolicy, Distance, Me};
pub use outlier::{FORGIVE_EJECTION, Outcome, OutlierPolicy, Verdict, ejected_max};
pub use set::{EndpointSet, PlaceView};
pub use stats::{Attempt, EndpointStats, StatsView, WARM_UP};
pub use ticks::{Rng, Ticks};

use std::sync::Arc;

use crate::failure::Failure;
use p2c::{Looking, Table};
use set::{Place, read};
use survey::Surveyor;

/// What somebody is chosen for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The service's port: who does not have it is not asked.
    pub port: u16,
    /// Tried by this call; they are avoided unless nobody else is left.
    pub tried: &'a [EndpointId],
}

/// Chooses an endpoint for a request, or for a connection (then its calls in flight are open
/// connections). `reachable` says whether there is a way to it from here.
///
/// # Errors
/// `NoEndpoint`: the set is empty. `NoHealthyEndpoint`: nobody of it can be used.
pub fn pick(
    set: &EndpointSet,
    policy: &BalancePolicy,
    reachable: &dyn Fn(&Endpoint) -> bool,
    call: &Call<'_>,
    rng: &mut Rng,
    now: Ticks,
) -> Result<Arc<Endpoint>, Failure> {
    if set.is_empty() {
        return Err(Failure::NoEndpoint);
    }
    let surveyor = Surveyor {
        policy,
        reachable,
        now,
    };
    set.survey(&surveyor);
    let looking = |exclude| Looking {
        reachable,
        port: call.port,
        exclude,
        now,
        horizon: set.horizon(),
        peers_us: 0.0,
    };
    let kept = policy.client_affinity;
    if let Some(endpoint) = kept.and_then(|span| set.kept(&looking(call.tried), span)) {
        return Ok(Arc::clone(endpoint));
    }
    if let Some(endpoint) = healthy(set, looking(call.tried), rng) {
        return Ok(Arc::clone(endpoint));
    }
    // Perhaps only because more were ejected since the last survey than may be.
    set.survey_now(&surveyor);
    healthy(set, looking(call.tried), rng)
        .or_else(|| anybody(set, |place| &place.draining, looking(call.tried), rng))
        .or_else(|| anybody(set, |place| &place.healthy, looking(&[]), rng))
        .or_else(|| anybody(set, |place| &place.draining, looking(&[]), rng))
        .map(Arc::clone)
        .ok_or(Failure::NoHealthyEndpoint)
}

/// From the place whose turn it is by the shares; if nobody there can be used, from the nearest.
fn healthy<'s>(
    set: &'s EndpointSet,
    mut looking: Looking<'_>,
    rng: &mut Rng,
) -> Option<&'s Arc<Endpoint>> {
    let turn = rng.unit();
    if let Some(place) = set
        .places
        .iter()
        .find(|p| turn < read(&p.digest.share_up_to))
    {
        looking.peers_us = read(&place.digest.peers_us);
        if let Some(endpoint) = place.healthy.choose(&looking, rng) {
            return Some(endpoint);
        }
    }
    anybody(set, |place| &place.healthy, looking, rng)
}

/// From the nearest place that has anybody.
fn anybody<'s>(
    set: &'s EndpointSet,
    table: fn(&Place) -> &Table,
    mut looking: Looking<'_>,
    rng: &mut Rng,
) -> Option<&'s Arc<Endpoint>> {
    set.places.iter().find_map(|place| {
        looking.peers_us = read(&place.digest.peers_us);
        table(place).choose(&looking, rng)
    })
}

#[cfg(test)]
mod tests;
