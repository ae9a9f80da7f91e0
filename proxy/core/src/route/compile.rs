//! What does a route mean, all of it?
//!
//! Everything is read and checked here, once; a part that can't be understood refuses the route.

use std::time::Duration;

use isthmus_proto::resource;

use super::filter;
use super::http::RequestMatch;
use super::matcher::HostMatcher;
use super::{
    ATTEMPTS_MAX, BACKENDS_MAX, Backend, BackendRef, FILTERS_MAX, HOSTS_MAX, MATCHES_MAX,
    RULES_MAX, Route, RouteKind, RouteRetries, Rule, WEIGHT_MAX,
};
use crate::guard::bounded;

/// Compiles a route.
///
/// # Errors
/// What in it can't be understood, and where.
pub(super) fn route(route: &resource::Route) -> Result<Route, String> {
    let kind = match route.kind() {
        resource::RouteKind::Http => RouteKind::Http,
        resource::RouteKind::Grpc => RouteKind::Grpc,
        resource::RouteKind::Tcp => RouteKind::Tcp,
        resource::RouteKind::Tls => RouteKind::Tls,
        resource::RouteKind::Unspecified => return Err("kind is not set or not known".to_owned()),
    };
    at_most("hostnames", route.hostnames.len(), HOSTS_MAX)?;
    at_most("rules", route.rules.len(), RULES_MAX)?;
    let mut hosts: Vec<HostMatcher> = route
        .hostnames
        .iter()
        .map(|host| HostMatcher::compile(host))
        .collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        hosts.push(HostMatcher::Any);
    }
    let rule =
        |(index, rule)| compile_rule(rule, kind).map_err(|why| format!("rule {index}: {why}"));
    // GEP-1294: a route takes the place of what is called without one, whatever it says.
    let nowhere = [resource::RouteRule::default()];
    let rules = match route.rules.as_slice() {
        [] => nowhere.as_slice(),
        some => some,
    };
    Ok(Route {
        name: route.name.as_str().into(),
        object: object(&route.name).into(),
        service: route.service.parse().map_err(|e| format!("{e}"))?,
        port: match u16::try_from(route.port) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => return Err(format!("port {} is above 65,535", route.port)),
        },
        kind,
        hosts: hosts.into(),
        rules: rules
            .iter()
            .enumerate()
            .map(rule)
            .collect::<Result<_, _>>()?,
        created: route.created,
    })
}

/// `shop/cart` of `shop/cart+grpc:80@shop/cart.shop.svc.cluster.local`: `+`, `:` and `@` are in no
/// object's name.
fn object(name: &str) -> &str {
    name.split(['@', ':', '+']).next().unwrap_or(name)
}

fn compile_rule(rule: &resource::RouteRule, kind: RouteKind) -> Result<Rule, String> {
    at_most("matches", rule.matches.len(), MATCHES_MAX)?;
    at_most("filters", rule.filters.len(), FILTERS_MAX)?;
    at_most("backends", rule.backends.len(), BACKENDS_MAX)?;
    let bare = rule.matches.is_empty() && rule.filters.is_empty();
    if !kind.is_http() && !bare {
        return Err("a rule of layer 4 has matches or filters".to_owned());
    }
    let numbered = |(index, matching)| {
        RequestMatch::compile(matching).map_err(|why| format!("match {index}: {why}"))
    };
    let mut matches: Vec<RequestMatch> = rule
        .matches
        .iter()
        .enumerate()
        .map(numbered)
        .collect::<Result<_, _>>()?;
    if matches.is_empty() {
        matches.push(RequestMatch::compile(&resource::RouteMatch::default())?);
    }
    let prefixes_only = matches
        .iter()
        .all(|matching| matching.path.prefix().is_some());
    let backends: Box<[Backend]> = rule
        .backends
        .iter()
        .map(compile_backend)
        .collect::<Result<_, _>>()?;
    Ok(Rule {
        weight: backends
            .iter()
            .map(|backend| u64::from(backend.weight))
            .sum(),
        filters: filter::compile_rule(&rule.filters, prefixes_only)?,
        matches: matches.into(),
        backends,
        request_timeout: duration("request_timeout", rule.request_timeout.as_ref())?,
        try_timeout: duration("backend_timeout", rule.backend_timeout.as_ref())?,
        retries: rule.retries.as_ref().map(compile_retries).transpose()?,
    })
}

fn compile_backend(backend: &resource::WeightedBackend) -> Result<Backend, String> {
    at_most("filters of a backend", backend.filters.len(), FILTERS_MAX)?;
    let weight = backend.weight.unwrap_or(1);
    if weight > WEIGHT_MAX {
        return Err(format!(
            "backend {:?}: weight {weight} is above {WEIGHT_MAX}",
            backend.service
        ));
    }
    let filters = filter::compile_backend(&backend.filters)
        .map_err(|why| format!("backend {:?}: {why}", backend.service))?;
    Ok(Backend {
        target: backend_ref(backend)?,
        weight,
        filters,
    })
}

/// `None`: the reference is known to be invalid (an empty name).
pub(super) fn backend_ref(
    backend: &resource::WeightedBackend,
) -> Result<Option<BackendRef>, String> {
    if backend.service.is_empty() {
        return Ok(None);
    }
    let service = backend
        .service
        .parse()
        .map_err(|e| format!("backend: {e}"))?;
    match u16::try_from(backend.port) {
        Ok(port) if port > 0 => Ok(Some(BackendRef { service, port })),
        Ok(_) | Err(_) => Err(format!(
            "backend {service}: port {} is not 1 to 65,535",
            backend.port
        )),
    }
}

fn compile_retries(retries: &resource::route_rule::Retries) -> Result<RouteRetries, String> {
    if retries.attempts > ATTEMPTS_MAX {
        return Err(format!(
            "retries: {} attempts, at most {ATTEMPTS_MAX}",
            retries.attempts
        ));
    }
    let status = |status: &u32| match u16::try_from(*status) {
        Ok(status) if (400..=599).contains(&status) => Ok(status),
        Ok(_) | Err(_) => Err(format!("retries: status {status} is not 400 to 599")),
    };
    Ok(RouteRetries {
        attempts: retries.attempts,
        statuses: retries
            .statuses
            .iter()
            .map(status)
            .collect::<Result<_, _>>()?,
        backoff: duration("backoff", retries.backoff.as_ref())?,
    })
}

fn duration(what: &str, value: Option<&prost_types::Duration>) -> Result<Option<Duration>, String> {
    value.map(|value| bounded(what, value)).transpose()
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        Err(format!("{count} {what}, at most {most}"))
    } else {
        Ok(())
    }
}
