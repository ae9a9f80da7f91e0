//! What is to be said of a route, to each of its parents?
//!
//! Gateway API v1, and what it says for meshes (GAMMA): `Accepted`, `ResolvedRefs`, and
//! `PartiallyInvalid` where some of its rules are not used.

use isthmus_proto::resource::{RouteFilter, WeightedBackend, route_filter};

use crate::import::shortened;
use crate::model::{Kind, ParentRef, ParentStatus, Reach, Route, Said, ServiceRef, Truth};
use crate::translate::attach::{Attached, Front, Place, covers, place};
use crate::translate::route::may_refer;
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::{Body, Plan, Settings, Subject, dated, reference};

/// Entries that the API takes in a route's status.
const PARENTS_MAX: usize = 32;

/// Is something there?
enum There {
    Yes,
    No(String),
    /// A cluster that may have it has not been listed.
    Unknown,
}

pub(super) fn look(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    (kind, namespace, name): (Kind, &str, &str),
    subject: &Subject,
    plan: &mut Plan,
) {
    let table = cluster.routes.get(&kind);
    let Some(entry) = table.and_then(|table| table.get(namespace, name)) else {
        return;
    };
    let route = &entry.value;
    let refs = resolved(world, cluster, namespace, route);
    let of = |parent: &ParentRef| {
        let written = parent.written();
        let before = route.statuses.iter().find(|s| s.parent == written);
        let before = before.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let mut said = vec![
            accepted((world, cluster), namespace, route, parent),
            refs.clone(),
        ];
        said.extend(partially(route));
        ParentStatus {
            parent: written,
            conditions: dated(said, before, settings.now),
        }
    };
    let mut wanted: Vec<ParentStatus> = Vec::new();
    for status in route.parents.iter().map(of) {
        if wanted.len() < PARENTS_MAX && wanted.iter().all(|w| w.parent != status.parent) {
            wanted.push(status);
        }
    }
    if is_there(&wanted, &route.statuses) {
        plan.unchanged("route_status");
        return;
    }
    let at = reference(cluster, kind, namespace, name);
    plan.write(at, Body::Parents(wanted), subject);
}

/// Exactly these parents, with exactly these conditions: what ceased to hold must go.
fn is_there(wanted: &[ParentStatus], observed: &[ParentStatus]) -> bool {
    wanted.len() == observed.len()
        && wanted.iter().all(|want| {
            let found = observed.iter().find(|o| o.parent == want.parent);
            found.is_some_and(|o| {
                o.conditions.len() == want.conditions.len()
                    && super::is_said(&want.conditions, &o.conditions)
            })
        })
}

fn said(route: &Route, kind: &str, status: Truth, reason: &str, message: &str) -> Said {
    Said {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: shortened(message),
        generation: route.generation,
        since: None,
    }
}

fn accepted(
    (world, cluster): (&World, &Cluster),
    namespace: &str,
    route: &Route,
    parent: &ParentRef,
) -> Said {
    let (status, reason, message) = match attached((world, cluster), parent) {
        Err(There::Unknown) => {
            let why = "a cluster that may export the parent has not been listed yet";
            (Truth::Unknown, "Pending", why.to_owned())
        }
        Err(There::No(why)) => (Truth::False, "NoMatchingParent", why),
        Err(There::Yes) => (Truth::True, "Accepted", String::new()),
        Ok(port) => {
            let lost = conflict((world, cluster), namespace, route, &parent.service, port);
            match (lost, &route.invalid) {
                (Some((true, why)), _) => (Truth::False, "Conflicted", why),
                (_, Some(why)) if route.incompatible => {
                    (Truth::False, "IncompatibleFilters", answered(why))
                }
                (_, Some(why)) => (Truth::False, "UnsupportedValue", answered(why)),
                (lost, None) => {
                    let why = lost.map(|(_, why)| why).into_iter();
                    let said: Vec<String> = why.chain(route.limited.iter().cloned()).collect();
                    (Truth::True, "Accepted", said.join("; "))
                }
            }
        }
    };
    said(route, "Accepted", status, reason, &message)
}

fn answered(why: &str) -> String {
    format!("answered with 500: {why}")
}

/// What of another kind takes the place of the route at its parent, and whether everywhere.
fn conflict(
    (world, cluster): (&World, &Cluster),
    namespace: &str,
    route: &Route,
    service: &ServiceRef,
    port: Option<u16>,
) -> Option<(bool, String)> {
    let attached = Attached::of(world, cluster, service);
    attached.conflict((namespace, route.kind), port)
}

/// What does not hold of a route: of each of its parents, and of its backends.
pub(crate) fn failing(
    (world, cluster): (&World, &Cluster),
    namespace: &str,
    route: &Route,
) -> Vec<Said> {
    let parents = route.parents.iter();
    let mut all: Vec<Said> = parents
        .map(|parent| accepted((world, cluster), namespace, route, parent))
        .collect();
    all.push(resolved(world, cluster, namespace, route));
    all.retain(|said| said.status == Truth::False);
    all.dedup();
    all
}

/// The port of the parent that the route is for; `None`: every one. Or why it is for none.
fn attached(
    (world, cluster): (&World, &Cluster),
    parent: &ParentRef,
) -> Result<Option<u16>, There> {
    let service = &parent.service;
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    let no = |why: &str| There::No(format!("{namespace}/{name} {why}"));
    let ports = match Front::of(world, cluster, service) {
        Front::Ports(ports) => ports,
        Front::Headless(_) => return Err(no("is headless: no call is the service's")),
        Front::Alias => return Err(no("is an alias in DNS (ExternalName)")),
        Front::Absent => return Err(there(world, cluster, service, None)),
    };
    match (place(&ports, parent), &parent.section) {
        (Place::Every, _) => Ok(None),
        (Place::Port(port), _) if ports.iter().any(|own| own.port == port) => Ok(Some(port)),
        (Place::Port(port), _) => match there(world, cluster, service, Some(port.into())) {
            There::Yes => Ok(Some(port)),
            not => Err(not),
        },
        (Place::Nowhere, section) => {
            let name = section.as_deref().unwrap_or_default();
            let other = ports.iter().any(|port| port.name == name);
            let why = if other {
                "has another number for the port"
            } else {
                "has no port"
            };
            Err(no(&format!("{why} {name:?}")))
        }
    }
}

/// `None`: all rules are used as they are written, or none is.
fn partially(route: &Route) -> Option<Said> {
    let kind = "PartiallyInvalid";
    let message = partly(route)?;
    Some(said(route, kind, Truth::True, "UnsupportedValue", &message))
}

/// Which parts of a route are not used as they are written. `None`: all are, or none is.
pub(crate) fn partly(route: &Route) -> Option<String> {
    if route.invalid.is_some() {
        return None;
    }
    let mut parts = Vec::new();
    if !route.dropped.is_empty() {
        // Gateway API: the message begins so where a rule is left out, and names it.
        parts.push(format!("Dropped Rule: {}", route.dropped.join("; ")));
    }
    if !route.failing.is_empty() {
        parts.push(format!("answered with 500: {}", route.failing.join("; ")));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn resolved(world: &World, cluster: &Cluster, namespace: &str, route: &Route) -> Said {
    let mut found: Option<(&str, String)> = None;
    let mut unknown = false;
    for backend in route.rules.iter().flat_map(backends) {
        if backend.service.is_empty() {
            let why = "a backend is neither a Service nor a ServiceImport";
            found.get_or_insert(("InvalidKind", why.to_owned()));
        } else if !may_refer(cluster, namespace, route, &backend.service) {
            let why = format!("no ReferenceGrant allows backend {}", backend.service);
            found.get_or_insert(("RefNotPermitted", why));
        } else if let Some(service) = ServiceRef::of_service_name(&backend.service) {
            if let Front::Alias = Front::of(world, cluster, &service) {
                let why = format!("{} is an alias in DNS (ExternalName)", backend.service);
                found.get_or_insert(("InvalidKind", why));
                continue;
            }
            match there(world, cluster, &service, Some(backend.port)) {
                There::Yes => {}
                There::No(why) => {
                    found.get_or_insert(("BackendNotFound", why));
                }
                There::Unknown => unknown = true,
            }
        }
    }
    let (status, reason, message) = match found {
        Some((reason, why)) => (Truth::False, reason, why),
        None if unknown => {
            let why = "a cluster that may export a backend has not been listed yet";
            (Truth::Unknown, "Pending", why.to_owned())
        }
        None => (Truth::True, "ResolvedRefs", String::new()),
    };
    said(route, "ResolvedRefs", status, reason, &message)
}

/// Every backend that a rule names, mirrors included.
fn backends(rule: &isthmus_proto::resource::RouteRule) -> impl Iterator<Item = &WeightedBackend> {
    let own = rule.backends.iter();
    let nested = own.clone().flat_map(|backend| mirrors(&backend.filters));
    own.chain(nested).chain(mirrors(&rule.filters))
}

fn mirrors(filters: &[RouteFilter]) -> impl Iterator<Item = &WeightedBackend> {
    filters.iter().filter_map(|filter| match &filter.kind {
        Some(route_filter::Kind::Mirror(mirror)) => mirror.backend.as_ref(),
        Some(
            route_filter::Kind::RequestHeaders(_)
            | route_filter::Kind::ResponseHeaders(_)
            | route_filter::Kind::Redirect(_)
            | route_filter::Kind::Rewrite(_),
        )
        | None => None,
    })
}

/// Is this service, and this port of it, there for the clients of the cluster?
fn there(world: &World, cluster: &Cluster, service: &ServiceRef, port: Option<u32>) -> There {
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    let at = format!("{namespace}/{name}");
    let has = |ports: &[crate::model::ServicePort]| {
        port.is_none_or(|port| ports.iter().any(|own| u32::from(own.port) == port))
    };
    // What the cluster has itself decides without the others.
    let own = service.reach == Reach::Cluster && cluster.services.get(namespace, name).is_some();
    let waits = || world.awaited_exporter(namespace, name).is_some();
    let open = !own && covers(cluster, service) && waits();
    match Front::of(world, cluster, service) {
        Front::Ports(ports) | Front::Headless(ports) if has(&ports) => There::Yes,
        Front::Alias => There::No(format!("{at} is an alias in DNS (ExternalName)")),
        Front::Ports(_) | Front::Headless(_) | Front::Absent if open => There::Unknown,
        Front::Ports(_) | Front::Headless(_) => {
            There::No(format!("{at} has no port {}", port.unwrap_or(0)))
        }
        Front::Absent => There::No(match service.reach {
            Reach::Cluster => format!("there is no Service {at}"),
            Reach::Clusterset => format!("no cluster exports {at}"),
        }),
    }
}
