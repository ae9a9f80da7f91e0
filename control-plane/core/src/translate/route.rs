//! Which routes does a client follow when it calls a service?
//!
//! Gateway API for meshes (GAMMA): those that apply at its ports, one resource for each port or one
//! for all of them, with the backends that the route may refer to.

use isthmus_proto::resource;
use isthmus_proto::resource::route_filter;
use std::time::SystemTime;

use crate::model::{Kind, Reach, Route, RouteKind, ServiceRef};
use crate::translate::attach::{Attached, Found};
use crate::translate::cache::RoutesKey;
use crate::translate::{Answer, Client, Encoded, List, encode};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;

/// The service's routes for this client. Only the client's own cluster has a say, once it has told
/// routes of every kind.
pub(crate) fn routes(world: &World, client: &Client, service: &ServiceRef) -> Answer {
    let found = world.listed(client.cluster.as_str());
    let Some(cluster) = found.filter(|cluster| cluster.routes_known()) else {
        return Answer::unknown();
    };
    let home = service.namespace.as_str();
    let attached = Attached::of(world, cluster, service);
    let consumer = Some(client.namespace()).filter(|own| *own != home && attached.has(own));
    let key = ServiceKey::new(home, &service.name);
    let at = RoutesKey {
        reach: service.reach,
        client: client.cluster.clone(),
        consumer: consumer.map(str::to_owned),
    };
    let list = world.cache.routes(&key, at, || {
        let namespaces: Vec<&str> = consumer.into_iter().chain([home]).collect();
        let winners = attached.winners(&namespaces);
        let found = attached.found.iter();
        found
            .flat_map(|route| {
                let ports = attached.ports_of(route, &winners).into_iter();
                ports.map(move |port| encode_one(cluster, service, route, port))
            })
            .collect::<List>()
    });
    Answer {
        lists: vec![list],
        known: true,
        complete: true,
    }
}

/// The name is `namespace/name@service`. Kinds other than HTTPRoute and single ports are added to
/// the route's name, because a route of another kind may have the same one.
fn encode_one(
    cluster: &Cluster,
    service: &ServiceRef,
    found: &Found<'_>,
    port: Option<u16>,
) -> Encoded {
    let (namespace, name, entry) = (found.namespace, found.name, found.entry);
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
    let mut rule = rule.clone();
    let check = |backend: &mut resource::WeightedBackend| {
        if !may_refer(cluster, namespace, route, &backend.service) {
            backend.service.clear();
        }
    };
    for backend in &mut rule.backends {
        check(backend);
        mirrored(&mut backend.filters).for_each(check);
    }
    mirrored(&mut rule.filters).for_each(check);
    rule
}

fn mirrored(
    filters: &mut [resource::RouteFilter],
) -> impl Iterator<Item = &mut resource::WeightedBackend> {
    filters
        .iter_mut()
        .filter_map(|filter| match &mut filter.kind {
            Some(route_filter::Kind::Mirror(mirror)) => mirror.backend.as_mut(),
            Some(
                route_filter::Kind::RequestHeaders(_)
                | route_filter::Kind::ResponseHeaders(_)
                | route_filter::Kind::Redirect(_)
                | route_filter::Kind::Rewrite(_),
            )
            | None => None,
        })
}

/// May this route, which is in this namespace, send traffic to this service? In another namespace
/// only with a ReferenceGrant there, or if the service is one of the route's own parents: its calls
/// go there anyway (GEP-1294, consumer routes).
pub(crate) fn may_refer(cluster: &Cluster, own: &str, route: &Route, service: &str) -> bool {
    let Some((namespace, host)) = service.split_once('/') else {
        return service.is_empty();
    };
    let mut parents = route.parents.iter();
    if namespace == own || parents.any(|parent| parent.service.service_name() == service) {
        return true;
    }
    let from = route.kind.kind();
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
            .any(|(kind, ns)| *kind == from && ns.as_str() == own)
            && granted
                .to
                .iter()
                .any(|(to, only)| *to == kind && only.as_ref().is_none_or(|only| only == name))
    })
}
