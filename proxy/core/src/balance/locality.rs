//! How much of the traffic leaves the nearest place, and where does it go?
//!
//! There is no threshold at which everything moves. Each place keeps a share that falls
//! continuously, with its capacity (healthy, warm and not ejected, against all that it had) and with
//! its cost (measured latency, failures and waiting) once that exceeds a farther place's cost and
//! the penalty for going there. What it does not keep goes on to the next place, by the same rule.
//! Clusters that are charged differently, for their priority and price, are places of their own.

use std::time::Duration;

use isthmus_proto::ids::{ClusterId, NetworkId};
use isthmus_proto::locality::Locality;
use smallvec::SmallVec;

use super::endpoint::Endpoint;

/// How far, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// The same cluster and zone.
    Zone,
    /// The same cluster.
    Cluster,
    /// Another cluster in the same region.
    Region,
    /// Another cluster.
    World,
}

impl Distance {
    /// For people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Cluster => "cluster",
            Self::Region => "region",
            Self::World => "world",
        }
    }
}

/// Most places of a service: if clusters are charged in more ways, the dearest are one place (ours to
/// tune).
pub(super) const PLACES_MAX: usize = 16;

/// Something of each place, near to far.
pub(super) type Places<T> = SmallVec<[T; 4]>;

/// Which place, from the nearest to the farthest: one's own cluster before the others, and of these
/// the one that is charged least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    is_remote: bool,
    pub(super) charge_ms: u32,
    pub(super) distance: Distance,
}

/// Where this proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its network.
    pub network: NetworkId,
    /// Its region and zone.
    pub locality: Locality,
}

impl Me {
    /// How far an endpoint is.
    #[must_use]
    pub fn distance(&self, endpoint: &Endpoint) -> Distance {
        let same_cluster = endpoint.cluster == self.cluster;
        if same_cluster && self.locality.same_zone(&endpoint.locality) {
            Distance::Zone
        } else if same_cluster {
            Distance::Cluster
        } else if self.locality.same_region(&endpoint.locality) {
            Distance::Region
        } else {
            Distance::World
        }
    }

    /// In which place an endpoint is.
    pub(super) fn rank(&self, endpoint: &Endpoint) -> Rank {
        let is_remote = endpoint.cluster != self.cluster;
        Rank {
            is_remote,
            charge_ms: if is_remote { endpoint.charge_ms } else { 0 },
            distance: self.distance(endpoint),
        }
    }
}

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancePolicy {
    /// Latency that a call is charged for leaving its zone.
    pub zone_penalty: Duration,
    /// ... its cluster.
    pub cluster_penalty: Duration,
    /// At most this share of the usable endpoints is ejected at once.
    pub max_ejected_percent: u32,
    /// Calls keep to the endpoint that was used last, for so long after that. `None`: they do not.
    pub client_affinity: Option<Duration>,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self {
            zone_penalty: Duration::from_millis(2),
            cluster_penalty: Duration::from_millis(20),
            max_ejected_percent: 50,
            client_affinity: None,
        }
    }
}

impl BalancePolicy {
    /// What going to a place is charged, in µs.
    pub(super) fn penalty_us(&self, rank: Rank) -> f32 {
        let charge = Duration::from_millis(u64::from(rank.charge_ms));
        let penalty = match rank.distance {
            Distance::Zone => Duration::ZERO,
            Distance::Cluster => self.zone_penalty,
            Distance::Region | Distance::World => self.cluster_penalty.max(self.zone_penalty),
        };
        penalty.saturating_add(charge).as_secs_f32() * 1e6
    }
}

/// What is known of a place. Penalties are not in the costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct View {
    /// Share of its capacity that can be used, 0 to 1. 0: nobody is there.
    pub(super) available: f32,
    /// What a call costs there now, in µs. 0: never measured.
    pub(super) cost_us: f32,
    /// What a call there has cost on average, whatever waits or fails now. 0: never measured.
    pub(super) usual_us: f32,
    /// How much of `cost_us` is believed, 0 to 1.
    pub(super) belief: f32,
    pub(super) penalty_us: f32,
}

/// A place's capacity is assumed to be so many times its usual load: 71 % of it carry all of that
/// (Envoy's overprovisioning factor). If that is wrong, the cost says so.
const HEADROOM: f32 = 1.4;
/// A nearer place keeps everything while it is dearer by less than this (ours to tune; noise).
const TOLERANCE: f32 = 1.2;
/// A farther place whose cost is hardly known any more gets this share, if it could be cheaper at
/// all, until it is known (ours to tune).
const CURIOSITY: f32 = 1.0 / 128.0;
/// ... that is, below this belief (5 s without a call).
const BELIEF_MIN: f32 = 0.85;

/// Each place's share of the traffic. They add up to 1, or are all 0 if nobody is anywhere.
pub(super) fn shares(views: &[View]) -> Places<f32> {
    let costs = costs(views);
    let mut shares: Places<f32> = views.iter().map(|_| 0.0).collect();
    let (mut left, mut sum) = (1.0f32, 0.0f32);
    for (at, (view, cost)) in views.iter().zip(costs.iter().copied()).enumerate() {
        if view.available <= 0.0 {
            continue;
        }
        let farther = views.iter().zip(&costs).skip(at.saturating_add(1));
        let best = farther
            .filter(|(view, _)| view.available > 0.0)
            .map(|(_, cost)| *cost)
            .fold(f32::INFINITY, f32::min);
        let keep = (HEADROOM * view.available).min(1.0) * kept_at_cost(cost, best);
        if let Some(share) = shares.get_mut(at) {
            *share = left * keep;
            sum += *share;
        }
        left *= 1.0 - keep;
    }
    if sum <= 0.0 {
        return shares;
    }
    for share in &mut shares {
        *share /= sum;
    }
    look_around(views, &costs, &mut shares);
    shares
}

/// Penalties included. Where nothing is known, a place is thought to be as fast as the nearest one
/// that was measured.
fn costs(views: &[View]) -> Places<f32> {
    let known = |v: &&View| v.available > 0.0 && v.usual_us > 0.0;
    let typical = views.iter().find(known).map_or(0.0, |v| v.usual_us);
    let cost = |v: &View| {
        let belief = if v.cost_us > 0.0 { v.belief } else { 0.0 };
        typical + (v.cost_us - typical) * belief + v.penalty_us
    };
    views.iter().map(cost).collect()
}

/// The share that stays at a cost, if elsewhere the best is `best`. The square makes the near place
/// settle at little more than the far one's cost, and is still gentle enough not to swing.
fn kept_at_cost(cost: f32, best: f32) -> f32 {
    let bearable = TOLERANCE * best;
    if cost <= bearable {
        1.0
    } else {
        (bearable / cost) * (bearable / cost)
    }
}

/// Without any calls a place can't be measured; a few go where they might gain.
fn look_around(views: &[View], costs: &[f32], shares: &mut [f32]) {
    let mut nearest = None;
    for (at, view) in views.iter().enumerate() {
        if view.available <= 0.0 {
            continue;
        }
        let Some(near) = nearest else {
            nearest = Some(at);
            continue;
        };
        let near_cost = costs.get(near).copied().unwrap_or(0.0);
        let unknown = view.cost_us <= 0.0 || view.belief < BELIEF_MIN;
        let share = shares.get(at).copied().unwrap_or(0.0);
        if !unknown || share >= CURIOSITY || near_cost <= view.penalty_us {
            continue;
        }
        // Taken from the others in proportion: the sum stays 1.
        let rest = (1.0 - CURIOSITY) / (1.0 - share).max(CURIOSITY);
        for (other, share) in shares.iter_mut().enumerate() {
            *share = if other == at {
                CURIOSITY
            } else {
                *share * rest
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(available: f32, cost_ms: f32, penalty_us: f32) -> View {
        let cost_us = cost_ms * 1e3;
        View {
            available,
            cost_us,
            usual_us: cost_us,
            belief: 1.0,
            penalty_us,
        }
    }

    fn near(available: f32, cost_ms: f32) -> View {
        place(available, cost_ms, 0.0)
    }

    fn far(available: f32, cost_ms: f32) -> View {
        place(available, cost_ms, 20_000.0)
    }

    fn leaving(near: View, far: View) -> f32 {
        let shares = shares(&[near, View::default(), far, View::default()]);
        let (kept, left) = (shares[0], shares[2]);
        assert!((kept + left - 1.0).abs() < 1e-5);
        left
    }

    #[test]
    fn healthy_traffic_stays() {
        assert!(leaving(near(1.0, 5.0), far(1.0, 25.0)) <= 0.0);
        assert!(leaving(near(0.75, 5.0), far(1.0, 25.0)) <= 0.0, "headroom");
        assert!(
            leaving(near(1.0, 45.0), far(1.0, 30.0)) <= 0.0,
            "within the penalty"
        );
    }

    #[test]
    fn lost_capacity_leaves_in_proportion() {
        assert!((0.29..0.31).contains(&leaving(near(0.5, 5.0), far(1.0, 25.0))));
        assert!((0.64..0.66).contains(&leaving(near(0.25, 5.0), far(1.0, 25.0))));
        assert!(leaving(near(0.0, 5.0), far(1.0, 25.0)) >= 1.0);
        assert!(
            leaving(near(0.01, 5.0), far(0.0, 25.0)) <= 0.0,
            "nobody else is there"
        );
    }

    #[test]
    fn a_saturated_place_spills() {
        let share = leaving(near(1.0, 90.0), far(1.0, 25.0));
        assert!((0.5..0.8).contains(&share), "{share}");
    }

    #[test]
    fn an_unknown_place_is_asked_only_if_it_could_be_cheaper() {
        let unknown = far(1.0, 0.0);
        assert!(leaving(near(1.0, 5.0), unknown) <= 0.0);
        let share = leaving(near(1.0, 300.0), unknown);
        assert!((share - CURIOSITY).abs() < 1e-6, "{share}");
    }

    #[test]
    fn a_place_that_hangs_is_left_for_an_unknown_one() {
        let hangs = View {
            usual_us: 5_000.0,
            ..near(1.0, 300.0)
        };
        assert!(leaving(hangs, far(1.0, 0.0)) > 0.9);
    }

    #[test]
    fn nobody_anywhere_is_no_share() {
        assert_eq!(shares(&[View::default(); 4]).as_slice(), [0.0; 4]);
        assert!(shares(&[]).is_empty());
    }

    fn any_view() -> impl Strategy<Value = View> {
        (0.0f32..1.0, 0.0f32..1e6, 0.0f32..1.0, 0.0f32..1e5).prop_map(|(a, cost_us, belief, p)| {
            View {
                available: (a - 0.1).max(0.0),
                cost_us,
                usual_us: cost_us,
                belief,
                penalty_us: p,
            }
        })
    }

    proptest! {
        #[test]
        fn there_is_no_cliff(a in 0.001f32..0.999, cost in 1.0f32..500.0, step in 0.0f32..0.001) {
            // Capacity: monotone, and never steeper than the headroom.
            let (less, more) = (near(a, cost), near(a + step, cost));
            let (with_less, with_more) = (leaving(less, far(1.0, 25.0)), leaving(more, far(1.0, 25.0)));
            prop_assert!(with_less >= with_more - 1e-5);
            prop_assert!(with_less - with_more <= 1.5 * step + 1e-5);
            // Cost: the same, relative to the cost.
            let dearer = leaving(near(a, cost * (1.0 + step)), far(1.0, 25.0));
            prop_assert!(dearer >= with_less - 1e-5 && dearer - with_less <= 2.1 * step + 1e-5);
        }

        #[test]
        fn shares_add_up(views in proptest::collection::vec(any_view(), 0..PLACES_MAX)) {
            let shares = shares(&views);
            let sum: f32 = shares.iter().sum();
            let somebody = views.iter().any(|v| v.available > 0.0);
            prop_assert!((sum - if somebody { 1.0 } else { 0.0 }).abs() < 1e-4, "{:?}", shares);
            for (view, share) in views.iter().zip(shares) {
                prop_assert!(share >= 0.0 && (view.available > 0.0 || share <= 0.0));
            }
        }
    }
}
