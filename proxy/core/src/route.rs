//! Which backend does a request or a connection go to?
//!
//! Routes hang on a service (Gateway API, GAMMA). Without any, the service itself is the backend.
//! As soon as one is attached to a port, only what a route matches is forwarded.

pub mod matcher;
pub mod http;
pub mod grpc;
pub mod l4;
pub mod filter;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::ids::ServiceName;
use isthmus_proto::resource;

use crate::canonical::CanonicalPath;
use crate::failure::Failure;
use crate::message::RequestHead;
use crate::snapshot::Rejected;
use filter::Filter;
use http::{HttpEntry, RequestMatch};
use l4::L4Entry;
use matcher::HostMatcher;

pub use filter::Outcome;
pub use l4::{L4Choice, route_l4};

/// Most rules of a route.
pub const RULES_MAX: usize = 128;
/// Most matches of a rule.
pub const MATCHES_MAX: usize = 64;
/// Most host names of a route.
pub const HOSTS_MAX: usize = 64;
/// Most backends of a rule.
pub const BACKENDS_MAX: usize = 64;
/// Most filters of a rule or backend.
pub const FILTERS_MAX: usize = 16;
/// Most additional tries that a route may ask for.
pub const ATTEMPTS_MAX: u32 = 10;
/// Largest weight (Gateway API: 1,000,000).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// A service and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// Which service.
    pub service: ServiceName,
    /// The service's port, never 0.
    pub port: u16,
}

/// Which rule of which route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The route's name.
    pub route: Arc<str>,
    /// Where the rule stands in it, from 0.
    pub index: usize,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.route, self.index)
    }
}

/// What a route says about a request: where it goes, and what happens on the way.
#[derive(Debug, Clone)]
pub struct Chosen<'a> {
    /// The rule. `None`: no route is attached, the service itself.
    pub rule: Option<RuleRef>,
    /// Where the request goes. Without meaning where the filters answer it with a redirect.
    pub backend: BackendRef,
    /// The rule's filters, in the order that was written.
    pub filters: &'a [Filter],
    /// The backend's own.
    pub backend_filters: &'a [Filter],
    /// For the whole request. `None`: the service's. Zero: none, even if the service has one.
    pub request_timeout: Option<Duration>,
    /// For one try. `None`: the service's. Zero: none.
    pub try_timeout: Option<Duration>,
    /// `None`: the service's.
    pub retries: Option<&'a RouteRetries>,
    /// The path prefix that matched, without a trailing slash; `None` if the path matched
    /// otherwise, or no route did.
    pub prefix: Option<&'a str>,
}

/// What a route says about retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRetries {
    /// Additional tries.
    pub attempts: u32,
    /// Status codes that lead to a retry. Empty: the service's.
    pub statuses: Box<[u16]>,
    /// The shortest time between two tries. `None`: the proxy's own.
    pub backoff: Option<Duration>,
}

/// Chooses the backend of a request.
///
/// `host` is in lower case and without port; `random` decides by weight. Where only TCP routes
/// are attached to the port, they decide: they speak of every connection.
///
/// # Errors
/// `NoRoute`: routes are attached and none matches. `InvalidBackend`: the rule's choice fell on
/// a reference that leads nowhere, or it has no backend with a weight.
pub fn route_http<'a>(
    table: Option<&'a RouteTable>,
    to: &BackendRef,
    host: &str,
    path: &CanonicalPath,
    head: &RequestHead,
    random: u64,
) -> Result<Chosen<'a>, Failure> {
    let Some(table) = table else { return Ok(Chosen::plain(None, to.clone())) };
    let matched = table.http.iter().find_map(|entry| {
        entry.matched(to.port, host, path, head).map(|matching| (entry, matching))
    });
    if let Some((entry, matching)) = matched {
        return choose(entry, matching, to, random);
    }
    if table.http.iter().any(|entry| entry.route.is_on(to.port)) {
        return Err(Failure::NoRoute);
    }
    match table.tcp.iter().find(|entry| entry.is_on(to.port)) {
        Some(entry) => entry.choose(random).map(|c| Chosen::plain(c.rule, c.backend)),
        None => Ok(Chosen::plain(None, to.clone())),
    }
}

fn choose<'a>(
    entry: &'a HttpEntry,
    matching: &'a RequestMatch,
    to: &BackendRef,
    random: u64,
) -> Result<Chosen<'a>, Failure> {
    let rule = entry.rule().ok_or(Failure::NoRoute)?;
    let picked = rule.pick(random);
    let target = match picked.and_then(|backend| backend.target.clone()) {
        Some(target) => target,
        // Nobody is called: the client is sent elsewhere.
        None if rule.redirects() => to.clone(),
        None => return Err(Failure::InvalidBackend),
    };
    Ok(Chosen {
        rule: Some(RuleRef { route: entry.route.name.clone(), index: entry.rule }),
        backend: target,
        filters: &rule.filters,
        backend_filters: picked.map(|backend| &*backend.filters).unwrap_or_default(),
        request_timeout: rule.request_timeout,
        try_timeout: rule.try_timeout,
        retries: rule.retries.as_ref(),
        prefix: matching.path.prefix(),
    })
}

impl Chosen<'_> {
    fn plain(rule: Option<RuleRef>, backend: BackendRef) -> Self {
        Self {
            rule,
            backend,
            filters: &[],
            backend_filters: &[],
            request_timeout: None,
            try_timeout: None,
            retries: None,
            prefix: None,
        }
    }
}

/// The routes of one service, merged: each list is sorted by precedence.
#[derive(Debug, Default)]
pub struct RouteTable {
    http: Box<[HttpEntry]>,
    tls: Box<[L4Entry]>,
    tcp: Box<[L4Entry]>,
}

impl RouteTable {
    /// Merges routes. Their order does not matter.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the table takes the routes over")]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        Self {
            http: http::entries(&routes),
            tls: l4::entries(&routes, RouteKind::Tls),
            tcp: l4::entries(&routes, RouteKind::Tcp),
        }
    }

    /// The routes' names, sorted, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let http = self.http.iter().map(|entry| &*entry.route.name);
        let l4 = self.tls.iter().chain(&self.tcp).map(L4Entry::name);
        http.chain(l4).collect::<BTreeSet<_>>().into_iter()
    }

    /// Is no route attached?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty()
    }
}

/// What a route speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Requests.
    Http,
    /// Requests of gRPC; their methods came as paths.
    Grpc,
    /// Connections.
    Tcp,
    /// Connections that name a server.
    Tls,
}

impl RouteKind {
    fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Grpc => true,
            Self::Tcp | Self::Tls => false,
        }
    }
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    name: Arc<str>,
    service: ServiceName,
    /// `None`: every port.
    port: Option<u16>,
    kind: RouteKind,
    /// Never empty.
    hosts: Box<[HostMatcher]>,
    rules: Box<[Rule]>,
    /// Seconds since 1970.
    created: i64,
}

/// A rule: any of its matches leads to its backends.
#[derive(Debug)]
struct Rule {
    matches: Box<[RequestMatch]>,
    filters: Box<[Filter]>,
    backends: Box<[Backend]>,
    /// The sum of the backends' weights.
    weight: u64,
    request_timeout: Option<Duration>,
    try_timeout: Option<Duration>,
    retries: Option<RouteRetries>,
}

#[derive(Debug)]
struct Backend {
    /// `None`: the reference is invalid; its share of the requests fails.
    target: Option<BackendRef>,
    weight: u32,
    filters: Box<[Filter]>,
}

impl Rule {
    /// A backend by weight. `None`: there is none with a weight.
    fn pick(&self, random: u64) -> Option<&Backend> {
        // The high half of the product is even over 0..weight, whatever the weight.
        let point = (u128::from(random) * u128::from(self.weight)) >> 64;
        let mut passed = 0u128;
        self.backends.iter().find(|backend| {
            passed += u128::from(backend.weight);
            point < passed
        })
    }

    fn redirects(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)))
    }
}

impl Route {
    /// Compiles a route.
    ///
    /// # Errors
    /// Something in it can't be understood in full; the reason says what, and where.
    pub fn compile(route: &resource::Route) -> Result<Self, Rejected> {
        compile(route).map_err(|why| Rejected { name: route.name.clone(), why })
    }

    /// Its name in discovery.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The service that it hangs on.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The port that it hangs on. `None`: every port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What it speaks of.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        self.kind
    }

    fn is_on(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    fn age_then_name(&self, other: &Self) -> Ordering {
        self.created.cmp(&other.created).then_with(|| self.name.cmp(&other.name))
    }
}

fn compile(route: &resource::Route) -> Result<Route, String> {
    let kind = match route.kind() {
        resource::RouteKind::Http => RouteKind::Http,
        resource::RouteKind::Grpc => RouteKind::Grpc,
        resource::RouteKind::Tcp => RouteKind::Tcp,
        resource::RouteKind::Tls => RouteKind::Tls,
        resource::RouteKind::Unspecified => return Err("kind is not set or not known".to_owned()),
    };
    at_most("hostnames", route.hostnames.len(), HOSTS_MAX)?;
    at_most("rules", route.rules.len(), RULES_MAX)?;
    let mut hosts: Vec<HostMatcher> =
        route.hostnames.iter().map(|host| HostMatcher::compile(host)).collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        hosts.push(HostMatcher::Any);
    }
    let rule = |(index, rule)| {
        compile_rule(rule, kind).map_err(|why| format!("rule {index}: {why}"))
    };
    Ok(Route {
        name: route.name.as_str().into(),
        service: route.service.parse().map_err(|e| format!("{e}"))?,
        port: match u16::try_from(route.port) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => return Err(format!("port {} is above 65,535", route.port)),
        },
        kind,
        hosts: hosts.into(),
        rules: route.rules.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
        created: route.created,
    })
}

fn compile_rule(rule: &resource::RouteRule, kind: RouteKind) -> Result<Rule, String> {
    at_most("matches", rule.matches.len(), MATCHES_MAX)?;
    at_most("filters", rule.filters.len(), FILTERS_MAX)?;
    at_most("backends", rule.backends.len(), BACKENDS_MAX)?;
    if !kind.is_http() && !(rule.matches.is_empty() && rule.filters.is_empty()) {
        return Err("a rule of layer 4 has matches or filters".to_owned());
    }
    let numbered = |(index, matching)| {
        RequestMatch::compile(matching).map_err(|why| format!("match {index}: {why}"))
    };
    let mut matches: Vec<RequestMatch> =
        rule.matches.iter().enumerate().map(numbered).collect::<Result<_, _>>()?;
    if matches.is_empty() {
        matches.push(RequestMatch::compile(&resource::RouteMatch::default())?);
    }
    let prefixes_only = matches.iter().all(|matching| matching.path.prefix().is_some());
    let backends: Box<[Backend]> =
        rule.backends.iter().map(compile_backend).collect::<Result<_, _>>()?;
    Ok(Rule {
        weight: backends.iter().map(|backend| u64::from(backend.weight)).sum(),
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
        return Err(format!("backend {:?}: weight {weight} is above {WEIGHT_MAX}", backend.service));
    }
    let filters = filter::compile_backend(&backend.filters)
        .map_err(|why| format!("backend {:?}: {why}", backend.service))?;
    Ok(Backend { target: compile_backend_ref(backend)?, weight, filters })
}

/// `None`: the reference is known to be invalid (an empty name).
fn compile_backend_ref(backend: &resource::WeightedBackend) -> Result<Option<BackendRef>, String> {
    if backend.service.is_empty() {
        return Ok(None);
    }
    let service = backend.service.parse().map_err(|e| format!("backend: {e}"))?;
    match u16::try_from(backend.port) {
        Ok(port) if port > 0 => Ok(Some(BackendRef { service, port })),
        Ok(_) | Err(_) => Err(format!("backend {service}: port {} is not 1 to 65,535", backend.port)),
    }
}

fn compile_retries(retries: &resource::route_rule::Retries) -> Result<RouteRetries, String> {
    if retries.attempts > ATTEMPTS_MAX {
        return Err(format!("retries: {} attempts, at most {ATTEMPTS_MAX}", retries.attempts));
    }
    let status = |status: &u32| match u16::try_from(*status) {
        Ok(status) if (400..=599).contains(&status) => Ok(status),
        Ok(_) | Err(_) => Err(format!("retries: status {status} is not 400 to 599")),
    };
    Ok(RouteRetries {
        attempts: retries.attempts,
        statuses: retries.statuses.iter().map(status).collect::<Result<_, _>>()?,
        backoff: duration("backoff", retries.backoff.as_ref())?,
    })
}

fn duration(what: &str, value: Option<&prost_types::Duration>) -> Result<Option<Duration>, String> {
    value
        .map(|d| Duration::try_from(*d).map_err(|_| format!("{what} is negative or malformed")))
        .transpose()
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most { Err(format!("{count} {what}, at most {most}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
