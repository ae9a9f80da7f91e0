//! What was encoded already?
//!
//! Filled by whoever asks first, forgotten by the writer when it is dirty. The lock is held for
//! look-ups only, never while something is encoded.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isthmus_proto::ids::ClusterId;

use crate::model::Reach;
use crate::translate::{Encoded, List};
use crate::world::dirty::{Affected, Dirty, PolicyScope, ServiceKey};

/// Encoded resources by what they depend on.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
    chance: RandomState,
}

#[derive(Debug, Default)]
struct Inner {
    services: BTreeMap<ServiceKey, Views>,
    policies: BTreeMap<PolicyKey, Encoded>,
    /// Whose they are, and whose clients see them so.
    gateways: BTreeMap<(ClusterId, ClusterId), List>,
}

/// Cluster, namespace and name of a policy.
pub(crate) type PolicyKey = (ClusterId, String, String);

#[derive(Debug, Default)]
struct Views {
    definitions: BTreeMap<(Reach, ClusterId), List>,
    endpoints: BTreeMap<EndpointsKey, Endpoints>,
    routes: BTreeMap<RoutesKey, List>,
    exported: BTreeMap<ClusterId, List>,
}

/// Endpoints of a service, and whether one of them may be different by now: the others are as they were.
#[derive(Debug, Clone, Default)]
struct Endpoints {
    made: Made,
    old: bool,
}

/// Endpoints, and for each a mark of what it was made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    list: List,
    marks: Arc<[u64]>,
}

impl Made {
    /// Makes them anew; those with their old mark are taken as they are. Both are in the same order: where they
    /// are not, more is made.
    pub(crate) fn again<T>(
        &self,
        of: impl IntoIterator<Item = (u64, T)>,
        make: impl Fn(T) -> Option<Encoded>,
    ) -> Self {
        let mut at = 0_usize;
        let found = of.into_iter().filter_map(|(mark, from)| {
            let ahead = self.marks.get(at..).unwrap_or_default();
            let Some(place) = ahead.iter().position(|old| *old == mark) else {
                return Some((make(from)?, mark));
            };
            let place = at.saturating_add(place);
            at = place.saturating_add(1);
            Some((self.list.get(place)?.clone(), mark))
        });
        let (list, marks): (Vec<_>, Vec<_>) = found.unzip();
        Self {
            list: list.into(),
            marks: marks.into(),
        }
    }
}

/// Endpoints of a service in one cluster, as some clients see them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointsKey {
    pub(crate) reach: Reach,
    /// Whose service gives the ports; `None`: the merged one.
    pub(crate) ports_of: Option<ClusterId>,
    /// Where the endpoints are.
    pub(crate) provider: ClusterId,
    /// The clients are in the same cluster.
    pub(crate) own: bool,
    /// Only those on this node; `None`: on any.
    pub(crate) node: Option<Option<Arc<str>>>,
}

/// Routes of a service, as the clients of one cluster see them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RoutesKey {
    pub(crate) reach: Reach,
    pub(crate) client: ClusterId,
    /// The clients' namespace, if it has routes of its own for the service.
    pub(crate) consumer: Option<String>,
}

impl Cache {
    /// Forgets what is dirty.
    pub(crate) fn forget(&mut self, dirty: &Dirty) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if dirty.all {
            *inner = Inner::default();
            return;
        }
        for (key, affected) in &dirty.services {
            if affected.definition {
                inner.services.remove(key);
            } else if let Some(views) = inner.services.get_mut(key) {
                views.forget(affected);
            }
        }
        if !dirty.gateways.is_empty() {
            let stays = |cluster: &ClusterId| !dirty.gateways.contains(cluster);
            inner.gateways.retain(|(cluster, _), _| stays(cluster));
        }
        if dirty.policies.contains(&PolicyScope::Mesh) {
            inner.policies.clear();
        }
        inner.policies.retain(|(cluster, _, _), _| {
            !dirty.policies.iter().any(|scope| match scope {
                PolicyScope::Mesh => true,
                PolicyScope::Cluster(dirty) | PolicyScope::Namespace(dirty, _) => dirty == cluster,
            })
        });
    }

    /// The service itself, for clients of a cluster; empty: there is none.
    pub(crate) fn definition(
        &self,
        service: &ServiceKey,
        at: (Reach, ClusterId),
        make: impl FnOnce() -> List,
    ) -> List {
        self.view(service, at, |views| &mut views.definitions, make)
    }

    /// The service's endpoints in one cluster, made from what they were.
    pub(crate) fn endpoints(
        &self,
        service: &ServiceKey,
        at: EndpointsKey,
        make: impl FnOnce(&Made) -> Made,
    ) -> List {
        let found = self.lock().services.get(service).and_then(|views| {
            let found = views.endpoints.get(&at)?;
            Some(found.clone())
        });
        let before = match found {
            Some(found) if !found.old => return found.made.list,
            found => found.unwrap_or_default().made,
        };
        let made = make(&before);
        let (list, mut inner) = (Arc::clone(&made.list), self.lock());
        // Names that do not exist could be asked for without end.
        if !list.is_empty() {
            let views = inner.services.entry(service.clone()).or_default();
            views.endpoints.insert(at, Endpoints { made, old: false });
        } else if let Some(views) = inner.services.get_mut(service) {
            views.endpoints.remove(&at);
        }
        list
    }

    /// The service's routes.
    pub(crate) fn routes(
        &self,
        service: &ServiceKey,
        at: RoutesKey,
        make: impl FnOnce() -> List,
    ) -> List {
        self.view(service, at, |views| &mut views.routes, make)
    }

    /// What the gateways of a cluster may forward to because of one service.
    pub(crate) fn exported(
        &self,
        service: &ServiceKey,
        at: ClusterId,
        make: impl FnOnce() -> List,
    ) -> List {
        self.view(service, at, |views| &mut views.exported, make)
    }

    /// One policy.
    pub(crate) fn policy(&self, at: PolicyKey, make: impl FnOnce() -> Encoded) -> Encoded {
        if let Some(found) = self.lock().policies.get(&at) {
            return found.clone();
        }
        let made = make();
        self.lock().policies.insert(at, made.clone());
        made
    }

    /// The gateways of a cluster, as clients of another see them.
    pub(crate) fn gateways(&self, at: (ClusterId, ClusterId), make: impl FnOnce() -> List) -> List {
        if let Some(found) = self.lock().gateways.get(&at) {
            return found.clone();
        }
        let made = make();
        self.lock().gateways.insert(at, made.clone());
        made
    }

    /// By which marks are made: nobody outside can foresee them.
    pub(crate) fn chance(&self) -> &RandomState {
        &self.chance
    }

    fn view<K: Ord>(
        &self,
        service: &ServiceKey,
        at: K,
        map: impl Fn(&mut Views) -> &mut BTreeMap<K, List>,
        make: impl FnOnce() -> List,
    ) -> List {
        let found = self
            .lock()
            .services
            .get_mut(service)
            .and_then(|v| map(v).get(&at).cloned());
        if let Some(found) = found {
            return found;
        }
        let made = make();
        if made.is_empty() {
            // Names that do not exist could be asked for without end.
            return made;
        }
        let mut inner = self.lock();
        map(inner.services.entry(service.clone()).or_default()).insert(at, made.clone());
        made
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What lies inside is right at every step: a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Views {
    fn forget(&mut self, affected: &Affected) {
        for (key, endpoints) in &mut self.endpoints {
            endpoints.old |= affected.providers.contains(&key.provider);
        }
        self.exported
            .retain(|cluster, _| !affected.providers.contains(cluster));
        if affected.routes {
            self.routes.clear();
        }
    }
}
