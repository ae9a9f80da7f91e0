//! Which endpoints does a service have, seen from here?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::endpoint::{Endpoint, EndpointId, Health};
use super::locality::{Distance, Me, PLACES_MAX, Rank};
use super::p2c::{Looking, Table};
use super::stats::EndpointStats;
use super::survey::Survey;
use super::ticks::Ticks;

/// All endpoints of a service, sorted by how far they are. Made once a generation; what changes
/// between generations is in the endpoints' stats, and summed up here by surveys.
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Vec<Arc<Endpoint>>,
    /// Near to far; places without endpoints are left out.
    pub(super) places: Vec<Place>,
    pub(super) survey: Mutex<Survey>,
    /// When the next step of a survey is due.
    pub(super) due: AtomicU64,
    /// When the last survey was complete. 0: none yet.
    pub(super) surveyed: AtomicU64,
    /// Ejections that end before this are not honoured: too many are ejected.
    pub(super) horizon: AtomicU64,
}

/// The endpoints at one distance, and of one charge.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) healthy: Table,
    pub(super) draining: Table,
    /// Those that are not healthy: capacity that is missing.
    pub(super) missing: Box<[Missing]>,
    pub(super) digest: Digest,
}

#[derive(Debug)]
pub(super) struct Missing {
    pub(super) stats: Arc<EndpointStats>,
    /// In the measure of the healthy ones' weights.
    pub(super) weight: f32,
}

/// What the last survey found, as bits of `f32`.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// This place's share and the nearer ones' together.
    pub(super) share_up_to: AtomicU32,
    pub(super) available: AtomicU32,
    pub(super) cost_us: AtomicU32,
    pub(super) peers_us: AtomicU32,
    pub(super) penalty_us: AtomicU32,
}

/// What people are shown of a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaceView {
    /// How far.
    pub distance: Distance,
    /// Endpoints that discovery calls healthy, of a weight above 0.
    pub healthy: usize,
    /// Share of the capacity that can be used, 0 to 1.
    pub available: f32,
    /// What a call is charged for going there, as of the last pick: zone, cluster, and the cluster's
    /// priority and price.
    pub penalty: Duration,
    /// What a call costs there: latency, failures, waiting. Zero: never measured.
    pub cost: Duration,
    /// Its share of the calls, 0 to 1.
    pub share: f32,
}

impl EndpointSet {
    /// Sorts endpoints by their distance from `me`, and by what going there is charged.
    #[must_use]
    pub fn new(endpoints: Vec<Arc<Endpoint>>, me: &Me) -> Self {
        let mut ranked: BTreeMap<Rank, Vec<&Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in endpoints.iter().filter(|e| e.weight > 0) {
            ranked.entry(me.rank(endpoint)).or_default().push(endpoint);
        }
        while ranked.len() > PLACES_MAX {
            let dearest = ranked.pop_last();
            let rest = dearest.map(|(_, rest)| rest).unwrap_or_default();
            if let Some(mut last) = ranked.last_entry() {
                last.get_mut().extend(rest);
            }
        }
        let places = ranked.iter();
        let places = places.map(|(rank, here)| Place::new(*rank, here)).collect();
        Self {
            endpoints,
            places,
            survey: Mutex::default(),
            due: AtomicU64::new(0),
            surveyed: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
        }
    }

    /// All of them, as they were given.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Is the service known to have none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// How many there are, in whatever state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// For stickiness and for people. Looks at all.
    #[must_use]
    pub fn find(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|e| e.id == id)
    }

    /// Does a pick pass this endpoint over now, because it is ejected and the ejection is honoured?
    #[must_use]
    pub fn is_out(&self, endpoint: &Endpoint, now: Ticks) -> bool {
        super::p2c::is_out(endpoint.stats.ejected_until(), self.horizon(), now)
    }

    /// The places as of the last pick, near to far.
    #[must_use]
    pub fn view(&self) -> Vec<PlaceView> {
        let mut below = 0.0;
        let mut views = Vec::with_capacity(self.places.len());
        for place in &self.places {
            let up_to = read(&place.digest.share_up_to);
            views.push(PlaceView {
                distance: place.rank.distance,
                penalty: Duration::try_from_secs_f32(read(&place.digest.penalty_us) / 1e6)
                    .unwrap_or_default(),
                healthy: place.healthy.slots().len(),
                available: read(&place.digest.available),
                cost: Duration::try_from_secs_f32(read(&place.digest.cost_us) / 1e6)
                    .unwrap_or_default(),
                share: (up_to - below).max(0.0),
            });
            below = up_to;
        }
        views
    }

    /// The endpoint that was used last and can be used, if that is not longer ago than `span`. All
    /// calls of a proxy come from one pod, so what it used last is what its client is bound to.
    pub(super) fn kept(&self, looking: &Looking<'_>, span: Duration) -> Option<&Arc<Endpoint>> {
        let slots = self.places.iter().flat_map(|place| place.healthy.slots());
        let bound = slots.filter(|slot| {
            let used = slot.stats.used();
            used != Ticks::default() && looking.now.since(used) <= span
        });
        bound
            .filter(|slot| looking.allows(slot) && looking.reaches(slot))
            .max_by_key(|slot| slot.stats.used())
            .map(|slot| &slot.endpoint)
    }

    pub(super) fn horizon(&self) -> Ticks {
        Ticks(self.horizon.load(Relaxed))
    }
}

impl Place {
    fn new(rank: Rank, here: &[&Arc<Endpoint>]) -> Self {
        let of = |health| {
            here.iter()
                .filter(move |e| e.health == health)
                .map(|e| Arc::clone(e))
        };
        let healthy = Table::new(of(Health::Healthy));
        let missing = of(Health::Draining)
            .chain(of(Health::Unhealthy))
            .map(|e| Missing {
                weight: healthy.relative(e.weight),
                stats: Arc::clone(&e.stats),
            });
        Self {
            rank,
            missing: missing.collect(),
            draining: Table::new(of(Health::Draining)),
            healthy,
            digest: Digest::default(),
        }
    }
}

pub(super) fn read(bits: &AtomicU32) -> f32 {
    f32::from_bits(bits.load(Relaxed))
}

pub(super) fn write(bits: &AtomicU32, value: f32) {
    bits.store(value.to_bits(), Relaxed);
}
