//! Where would this call go, and which endpoints could take it?

use std::net::IpAddr;

use super::exclusion::{excluded, way};
use super::{Carried, RequestQuestion, Said};
use crate::balance::{Distance, Endpoint, EndpointSet, Health, PlaceView, Ticks};
use crate::failure::Failure;
use crate::hop::NextHop;
use crate::route::{self, BackendRef, Outcome, filter, route_http, route_l4};
use crate::snapshot::describe::{ClusterView, EndpointView, describe_endpoint, protocol_name};
use crate::snapshot::{Generation, Known, Lookup, Service, Snapshot};

/// Most endpoints that are written down; the nearest come first.
pub const ENDPOINTS_MAX: usize = 1_000;

/// What would be called.
#[derive(Debug, Clone)]
pub struct Question {
    /// A host name in lower case, or a virtual address.
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// What it would carry. A port that declares its protocol takes nothing else.
    pub said: Said,
    /// The mesh domain, for the names of handles.
    pub mesh_domain: String,
    /// Stands for chance where weights decide.
    pub random: u64,
    /// The time, for what is measured.
    pub now: Ticks,
}

/// Which service was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This one.
    Service(String),
    /// It is known that there is none.
    Absent,
    /// It was never asked for, or the answer has not come.
    Unknown,
}

/// All steps, as far as they came.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// By which snapshot.
    pub generation: Generation,
    /// The service that was called.
    pub found: Found,
    /// What the service's port declares. `None`: there is no such port, or service.
    pub protocol: Option<&'static str>,
    /// What it was judged as: `request` or `connection`. `None`: it did not come to that.
    pub judged_as: Option<&'static str>,
    /// What the routes say.
    pub route: Option<RouteStep>,
    /// Each endpoint of the backend, near to far. Empty where none is known.
    pub endpoints: Vec<EndpointStep>,
    /// How many endpoints the backend has.
    pub endpoints_total: usize,
    /// The places, near to far, with their shares as of the last call.
    pub places: Vec<PlaceView>,
    /// How fresh the news of the endpoints' clusters is.
    pub clusters: Vec<ClusterView>,
    /// How the call would fail. `None`: it would be forwarded, answered, or passed through.
    pub failure: Option<Failure>,
    /// In one sentence.
    pub verdict: String,
}

/// What the routes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStep {
    /// The rule. `None`: no route is attached, the service itself is the backend.
    pub rule: Option<String>,
    /// All backends of the rule and their weights.
    pub backends: Vec<BackendStep>,
    /// The one that chance chose.
    pub chosen: String,
    /// Method of the request. `None`: no request.
    pub method: Option<String>,
    /// Path and query as they are forwarded. `None`: no request.
    pub path: Option<String>,
    /// Host as it is forwarded.
    pub authority: Option<String>,
    /// Fields as they are forwarded.
    pub headers: Vec<(String, String)>,
    /// The answer that the route gives itself: status and location.
    pub redirect: Option<(u16, String)>,
    /// Where copies go.
    pub mirrors: Vec<String>,
}

/// A backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStep {
    /// `service:port`. `None`: the reference is invalid.
    pub backend: Option<String>,
    /// Relative.
    pub weight: u32,
}

/// What there is to say of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointStep {
    /// As discovery describes it, and as it was measured.
    pub endpoint: EndpointView,
    /// How far it is.
    pub distance: Distance,
    /// The port of the pod that would be called.
    pub target_port: Option<u16>,
    /// Can it take the call?
    pub usable: bool,
    /// Why it can or can't.
    pub why: String,
    /// The way there: addresses, or gateways, and who must answer.
    pub next_hop: Option<String>,
}

/// Replays the decisions about an outbound call.
#[must_use]
pub fn explain_outbound(snapshot: &Snapshot, question: &Question) -> Explanation {
    let mut explanation = Explanation {
        generation: snapshot.generation,
        found: Found::Unknown,
        protocol: None,
        judged_as: None,
        route: None,
        endpoints: Vec::new(),
        endpoints_total: 0,
        places: Vec::new(),
        clusters: Vec::new(),
        failure: None,
        verdict: String::new(),
    };
    let lookup = match question.host.parse::<IpAddr>() {
        Ok(address) => snapshot.services.lookup_vip(address, question.port),
        Err(_) => snapshot.services.lookup_host(&question.host),
    };
    match lookup {
        Lookup::Found(service) => {
            explanation.found = Found::Service(service.name.to_string());
            if let Err(failure) = routed(snapshot, question, service, &mut explanation) {
                explanation.failure = Some(failure);
                if explanation.verdict.is_empty() {
                    explanation.verdict = routing_verdict(failure, service);
                }
            }
        }
        Lookup::Absent => {
            explanation.found = Found::Absent;
            explanation.verdict =
                "no service has this name or address; the call passes through if it may".to_owned();
        }
        Lookup::Unknown => {
            explanation.verdict =
                "the control plane has not said what this is; it is asked at the first call"
                    .to_owned();
        }
    }
    explanation
}

/// Where the routes or the request end it, without a word of their own.
fn routing_verdict(failure: Failure, service: &Service) -> String {
    let routes = service.routes.names().collect::<Vec<_>>().join(", ");
    if failure == Failure::NoRoute {
        format!(
            "no rule matches; the routes of {} are: {routes}",
            service.name
        )
    } else if failure == Failure::InvalidBackend {
        format!("the rule that matches leads nowhere; the routes are: {routes}")
    } else {
        failure.to_string()
    }
}

fn routed(
    snapshot: &Snapshot,
    question: &Question,
    service: &Service,
    explanation: &mut Explanation,
) -> Result<(), Failure> {
    let Some(port) = service.port(question.port) else {
        explanation.verdict = format!("{} has no port {}", service.name, question.port);
        return Err(Failure::NoDestination);
    };
    let carried = question.said.clone().taken(port.protocol);
    explanation.protocol = Some(protocol_name(port.protocol));
    explanation.judged_as = Some(carried.name());
    if !service.routes_known {
        explanation.verdict = format!("the routes of {} are not known yet", service.name);
        return Err(Failure::EndpointsUnknown);
    }
    let to = BackendRef {
        service: service.name.clone(),
        port: question.port,
    };
    let (backend, step) = match &carried {
        Carried::Request(request) => route_request(question, request, service, &to)?,
        Carried::Connection(server_name) => {
            let server_name = server_name.as_deref();
            let table = Some(&*service.routes);
            let choice = route_l4(table, &to.service, to.port, server_name, question.random)?;
            let step = step_of(service, choice.rule.as_ref(), &choice.backend);
            (choice.backend, step)
        }
    };
    let redirect = step.redirect.clone();
    explanation.route = Some(step);
    if let Some((status, location)) = redirect {
        explanation.verdict = format!("the route answers {status} with location {location}");
        return Ok(());
    }
    balanced(snapshot, question, &backend, explanation)
}

fn route_request(
    question: &Question,
    request: &RequestQuestion,
    service: &Service,
    to: &BackendRef,
) -> Result<(BackendRef, RouteStep), Failure> {
    let (mut head, path) = request.head(&question.host)?;
    let table = Some(&*service.routes);
    let chosen = route_http(table, to, &question.host, &path, &head, question.random)?;
    let mut step = step_of(service, chosen.rule.as_ref(), &chosen.backend);
    match filter::apply_request(&chosen, &mut head, &path, to.port, question.random) {
        Outcome::Forward(mirrors) => {
            step.mirrors = mirrors.iter().map(|mirror| mirror.to_string()).collect();
        }
        Outcome::Redirect { status, location } => step.redirect = Some((status, location)),
    }
    step.method = Some(head.method.as_str().to_owned());
    step.path = Some(String::from_utf8_lossy(&head.path).into_owned());
    step.authority = Some(String::from_utf8_lossy(&head.authority).into_owned());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let fields = head.fields.iter();
    step.headers = fields.map(|(n, v)| (text(n), text(v))).collect();
    Ok((chosen.backend, step))
}

fn step_of(service: &Service, rule: Option<&route::RuleRef>, chosen: &BackendRef) -> RouteStep {
    let backends = rule
        .map(|rule| service.routes.backends(rule))
        .unwrap_or_default();
    RouteStep {
        rule: rule.map(ToString::to_string),
        backends: backends
            .into_iter()
            .map(|(backend, weight)| BackendStep {
                backend: backend.map(|backend| backend.to_string()),
                weight,
            })
            .collect(),
        chosen: chosen.to_string(),
        method: None,
        path: None,
        authority: None,
        headers: Vec::new(),
        redirect: None,
        mirrors: Vec::new(),
    }
}

/// The service that the call is led to.
fn led<'s>(
    snapshot: &'s Snapshot,
    backend: &BackendRef,
    explanation: &mut Explanation,
) -> Result<&'s Service, Failure> {
    let service = match snapshot.services.lookup_name(&backend.service) {
        Lookup::Found(service) => service,
        Lookup::Absent => {
            explanation.verdict = format!("backend {} does not exist", backend.service);
            return Err(Failure::InvalidBackend);
        }
        Lookup::Unknown => {
            explanation.verdict = format!("backend {} is not known yet", backend.service);
            return Err(Failure::EndpointsUnknown);
        }
    };
    let by_rule = explanation
        .route
        .as_ref()
        .is_some_and(|step| step.rule.is_some());
    if by_rule && let Err(failure) = service.as_backend(backend.port) {
        explanation.verdict = format!("backend {} has no port {}", service.name, backend.port);
        return Err(failure);
    }
    Ok(service)
}

fn balanced(
    snapshot: &Snapshot,
    question: &Question,
    backend: &BackendRef,
    explanation: &mut Explanation,
) -> Result<(), Failure> {
    let service = led(snapshot, backend, explanation)?;
    let Known::Known(set) = &service.endpoints else {
        explanation.verdict = format!("the endpoints of {} are not known yet", service.name);
        return Err(Failure::EndpointsUnknown);
    };
    let mut steps: Vec<EndpointStep> = set
        .endpoints()
        .iter()
        .map(|endpoint| endpoint_step(snapshot, question, backend, (set, endpoint)))
        .collect();
    steps.sort_by(|a, b| {
        (a.distance, !a.usable, &a.endpoint.name).cmp(&(b.distance, !b.usable, &b.endpoint.name))
    });
    let usable = steps.iter().filter(|step| step.usable).count();
    explanation.endpoints_total = steps.len();
    steps.truncate(ENDPOINTS_MAX);
    explanation.places = set.view();
    let clusters = snapshot.describe_clusters();
    let here = |view: &ClusterView| {
        set.endpoints()
            .iter()
            .any(|e| e.cluster.as_str() == view.name)
    };
    explanation.clusters = clusters.into_iter().filter(here).collect();
    let nearest = steps
        .iter()
        .find(|step| step.usable)
        .map(|step| step.distance);
    explanation.endpoints = steps;
    match nearest {
        Some(distance) => {
            explanation.verdict = format!(
                "{usable} of {} endpoints of {} can take it; the nearest are at distance {}",
                explanation.endpoints_total,
                service.name,
                distance.name()
            );
            Ok(())
        }
        None if set.is_empty() => {
            explanation.verdict = format!("{} is known to have no endpoint", service.name);
            Err(Failure::NoEndpoint)
        }
        None => {
            explanation.verdict = format!(
                "none of the {} endpoints of {} can take it",
                set.len(),
                service.name
            );
            Err(Failure::NoHealthyEndpoint)
        }
    }
}

fn endpoint_step(
    snapshot: &Snapshot,
    question: &Question,
    backend: &BackendRef,
    (set, endpoint): (&EndpointSet, &Endpoint),
) -> EndpointStep {
    let target_port = endpoint.target_port(backend.port);
    let hop = way(snapshot, endpoint, backend.port, &question.mesh_domain);
    let excluded = excluded(
        snapshot,
        (set, endpoint),
        backend.port,
        hop.as_ref(),
        question.now,
    );
    let ejected = endpoint.stats.is_ejected(question.now);
    let why = excluded.clone().unwrap_or_else(|| match endpoint.health {
        Health::Draining => "it is terminating: only if nothing healthy is left".to_owned(),
        Health::Healthy if ejected => {
            "ejected, but too many are: it is used all the same".to_owned()
        }
        Health::Healthy | Health::Unhealthy => "it is healthy".to_owned(),
    });
    EndpointStep {
        endpoint: describe_endpoint(endpoint, Some(question.now)),
        distance: snapshot.me.distance(endpoint),
        target_port,
        usable: excluded.is_none(),
        why,
        next_hop: hop.as_ref().map(describe_hop),
    }
}

pub(super) fn describe_hop(hop: &NextHop) -> String {
    match hop {
        NextHop::Plain { address } => format!("plain to {address}"),
        NextHop::Tunnel {
            address, identity, ..
        } => {
            format!("tunnel to {address}, who must be {identity}")
        }
        NextHop::ViaGateway {
            gateways,
            sni,
            identity,
        } => {
            let names: Vec<String> = gateways.iter().map(|g| g.name.to_string()).collect();
            format!(
                "by gateway {} as {sni}, who must be {identity}",
                names.join(" or ")
            )
        }
    }
}
