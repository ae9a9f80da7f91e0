//! Which routes does a client follow when it calls a service?
//!
//! Gateway API for meshes (GAMMA): a route in the service's namespace is for everybody; a route in
//! another namespace is for the clients of that namespace, and takes the place of the others.

use isthmus_proto::resource;
use isthmus_proto::resource::route_filter;
use std::time::SystemTime;

use crate::import;
use crate::model::{Kind, ParentRef, Reach, Route, RouteKind, ServicePort, ServiceRef};
use crate::translate::cache::RoutesKey;
use crate::translate::{Answer, Client, Encoded, List, encode};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;
use crate::world::table::Entry;

type Found<'a> = (&'a str, &'a str, &'a Entry<Route>);

/// The service's routes for this client. Only the client's own cluster has a say.
pub(crate) fn routes(world: &World, client: &Client, service: &ServiceRef) -> Answer {
    let Some(cluster) = world.listed(client.cluster.as_str()) else {
        return Answer::unknown();
    };
    let at = (
        service.reach,
        service.namespace.to_string(),
        service.name.clone(),
    );
    let valid: Vec<Found<'_>> = cluster
        .routes_of(&at)
        .map(|((_, namespace, name), entry)| (namespace.as_str(), name.as_str(), entry))
        .collect();
    let home = service.namespace.as_str();
    let consumer = Some(client.namespace())
        .filter(|own| *own != home && valid.iter().any(|(namespace, _, _)| namespace == own));
    let from = consumer.unwrap_or(home);
    let key = ServiceKey::new(home, &service.name);
    let at = RoutesKey {
        reach: service.reach,
        client: client.cluster.clone(),
        consumer: consumer.map(str::to_owned),
    };
    let list = world.cache.routes(&key, at, || {
        let ours = valid.iter().filter(|(namespace, _, _)| *namespace == from);
        ours.flat_map(|route| encode_all((world, cluster), service, *route))
            .collect::<List>()
    });
    Answer {
        lists: vec![list],
        known: true,
        complete: true,
    }
}

/// One resource for each port of the parent that the route names.
fn encode_all(
    (world, cluster): (&World, &Cluster),
    service: &ServiceRef,
    route: Found<'_>,
) -> Vec<Encoded> {
    let mut ports: Vec<Option<u16>> = Vec::new();
    for parent in &route.2.value.parents {
        if parent.service != *service {
            continue;
        }
        let port = match port_of(world, cluster, parent) {
            // A port that is not there has no routes.
            None if parent.section.is_some() => continue,
            Some(named) if parent.port.is_some_and(|number| number != named) => continue,
            named => named.or(parent.port),
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    if ports.contains(&None) {
        // The whole service, which covers each port.
        ports = vec![None];
    }
    ports
        .into_iter()
        .map(|port| encode_one(cluster, service, route, port))
        .collect()
}

/// The number of the port that a parent names; `None`: it names none, or none that is there.
pub(crate) fn port_of(world: &World, cluster: &Cluster, parent: &ParentRef) -> Option<u16> {
    let section = parent.section.as_ref()?;
    let (namespace, name) = (
        parent.service.namespace.as_str(),
        parent.service.name.as_str(),
    );
    let find = |ports: &[ServicePort]| {
        let found = ports.iter().find(|port| port.name == *section);
        found.map(|port| port.port)
    };
    match parent.service.reach {
        Reach::Cluster => find(&cluster.services.get(namespace, name)?.value.ports),
        Reach::Clusterset => find(&import::merged(world, namespace, name)?.ports),
    }
}

/// The name is `namespace/name@service`. Kinds other than HTTPRoute and single ports are added to
/// the route's name, because a route of another kind may have the same one.
fn encode_one(
    cluster: &Cluster,
    service: &ServiceRef,
    (namespace, name, entry): Found<'_>,
    port: Option<u16>,
) -> Encoded {
    let route = &entry.value;
    let (kind, suffix) = match route.kind {
        RouteKind::Http => (resource::RouteKind::Http, ""),
        RouteKind::Grpc => (resource::RouteKind::Grpc, "+grpc"),
        RouteKind::Tcp => (resource::RouteKind::Tcp, "+tcp"),
        RouteKind::Tls => (resource::RouteKind::Tls, "+tls"),
    };
    let port_suffix = port.map(|port| format!(":{port}")).unwrap_or_default();
    let service = service.service_name();
    let full = format!("{namespace}/{name}{suffix}{port_suffix}@{service}");
    let since = entry
        .created
        .and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    let message = resource::Route {
        name: full.clone(),
        service,
        port: port.map_or(0, u32::from),
        kind: kind.into(),
        hostnames: match route.kind {
            RouteKind::Tls => route.hostnames.clone(),
            // GEP-1294: a mesh infers nothing from them; the Service is what is called.
            RouteKind::Http | RouteKind::Grpc | RouteKind::Tcp => Vec::new(),
        },
        rules: rules(cluster, namespace, route),
        // Without a time it is the youngest.
        created: since.map_or(i64::MAX, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX)),
        origin: None,
    };
    encode(&full, message, &cluster.id, Some(entry.stamp))
}

/// A route without a rule that is understood matches everything and leads nowhere: as soon as one
/// is attached, nothing passes by it.
fn rules(cluster: &Cluster, namespace: &str, route: &Route) -> Vec<resource::RouteRule> {
    if route.rules.is_empty() {
        return vec![resource::RouteRule::default()];
    }
    let rules = route.rules.iter();
    rules
        .map(|rule| granted(cluster, namespace, route, rule))
        .collect()
}

/// The rule, with backends that it may not refer to made invalid: such calls get 500.
fn granted(
    cluster: &Cluster,
    namespace: &str,
    route: &Route,
    rule: &resource::RouteRule,
) -> resource::RouteRule {
    let kind = route.kind.kind();
    let mut rule = rule.clone();
    for backend in &mut rule.backends {
        check(cluster, (kind, namespace), backend);
        check_mirrors(cluster, (kind, namespace), &mut backend.filters);
    }
    check_mirrors(cluster, (kind, namespace), &mut rule.filters);
    rule
}

fn check_mirrors(cluster: &Cluster, from: (Kind, &str), filters: &mut [resource::RouteFilter]) {
    for filter in filters {
        if let Some(route_filter::Kind::Mirror(mirror)) = &mut filter.kind
            && let Some(backend) = &mut mirror.backend
        {
            check(cluster, from, backend);
        }
    }
}

fn check(cluster: &Cluster, from: (Kind, &str), backend: &mut resource::WeightedBackend) {
    if !may_refer(cluster, from, &backend.service) {
        backend.service.clear();
    }
}

/// May a route of this kind and namespace send traffic to this service? In another namespace only
/// with a ReferenceGrant there.
pub(crate) fn may_refer(cluster: &Cluster, from: (Kind, &str), service: &str) -> bool {
    let Some((namespace, host)) = service.split_once('/') else {
        return service.is_empty();
    };
    if namespace == from.1 {
        return true;
    }
    let kind = if host.ends_with(Reach::Clusterset.suffix()) {
        Kind::ServiceImport
    } else {
        Kind::Service
    };
    let name = host.split('.').next().unwrap_or("");
    cluster.grants.within(namespace).any(|(_, grant)| {
        let granted = &grant.value;
        granted
            .from
            .iter()
            .any(|(kind, ns)| *kind == from.0 && ns.as_str() == from.1)
            && granted
                .to
                .iter()
                .any(|(to, only)| *to == kind && only.as_ref().is_none_or(|only| only == name))
    })
}
