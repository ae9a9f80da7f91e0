//! Which backend does a request or a connection go to?
//!
//! Routes hang on a service (Gateway API, GAMMA). Without any, the service itself is the backend.
//! As soon as one is attached to a port, only what a route matches is forwarded.

pub mod matcher;
pub mod http;
pub mod grpc;
pub mod l4;
pub mod filter;
mod compile;
mod wire;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use isthmus_proto::bounds::route::{
    ATTEMPTS_MAX, BACKENDS_MAX, FILTERS_MAX, HOSTS_MAX, MATCHES_MAX, RULES_MAX, WEIGHT_MAX,
};
use isthmus_proto::ids::ServiceName;
use isthmus_proto::resource;
use prost::Message as _;

use crate::canonical::CanonicalPath;
use crate::failure::Failure;
use crate::message::RequestHead;
use crate::snapshot::Rejected;
use crate::wire::unknown_field;
use filter::Filter;
use http::{HttpEntry, RequestMatch};
use l4::L4Entry;
use matcher::HostMatcher;

pub use filter::Outcome;
pub use l4::{L4Choice, route_l4};

/// A service and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// Which service.
    pub service: ServiceName,
    /// The service's port, never 0.
    pub port: u16,
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
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
    let Some(table) = table else {
        return Ok(Chosen::plain(None, to.clone()));
    };
    let matched = table.http.iter().find_map(|entry| {
        entry
            .matched(to.port, host, path, head)
            .map(|matching| (entry, matching))
    });
    if let Some((entry, matching)) = matched {
        return choose(entry, matching, to, random);
    }
    if table.http.iter().any(|entry| entry.route.is_on(to.port)) {
        return Err(Failure::NoRoute);
    }
    match table.tcp.iter().find(|entry| entry.is_on(to.port)) {
        Some(entry) => entry
            .choose(random)
            .map(|c| Chosen::plain(c.rule, c.backend)),
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
        rule: Some(RuleRef {
            route: entry.route.name.clone(),
            index: entry.rule,
        }),
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
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the table takes the routes over"
    )]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        Self {
            http: http::entries(&routes),
            tls: l4::entries(&routes, RouteKind::Tls),
            tcp: l4::entries(&routes, RouteKind::Tcp),
        }
    }

    /// All backends of a rule and their weights, for people. `None`: an invalid reference.
    #[must_use]
    pub fn backends(&self, rule: &RuleRef) -> Vec<(Option<BackendRef>, u32)> {
        let http = self.http.iter().map(|entry| &entry.route);
        let mut routes = http.chain(self.tls.iter().chain(&self.tcp).map(L4Entry::route));
        let route = routes.find(|route| route.name == rule.route);
        let found = route.and_then(|route| route.rules.get(rule.index));
        let backends = found.map(|rule| &*rule.backends).unwrap_or_default();
        backends
            .iter()
            .map(|backend| (backend.target.clone(), backend.weight))
            .collect()
    }

    /// The routes' names, sorted, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let http = self.http.iter().map(|entry| &*entry.route.name);
        let l4 = self
            .tls
            .iter()
            .chain(&self.tcp)
            .map(|entry| &*entry.route().name);
        http.chain(l4).collect::<BTreeSet<_>>().into_iter()
    }

    /// Do routes choose by the name that a TLS client asks for?
    #[must_use]
    pub fn reads_server_name(&self, port: u16) -> bool {
        self.tls.iter().any(|entry| entry.is_on(port))
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
    /// `namespace/name` of the object, without what discovery adds.
    object: Box<str>,
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
        self.filters
            .iter()
            .any(|filter| matches!(filter, Filter::Redirect(_)))
    }
}

impl Route {
    /// Compiles a route as it came over the wire. Unlike [`Route::compile`], this sees fields that a newer
    /// control plane sent and this version does not read: without a term a match takes what it
    /// should leave to others.
    ///
    /// # Errors
    /// As [`Route::compile`]; or not a route; or it holds a field that is not known here.
    pub fn decode(body: &[u8]) -> Result<Self, Rejected> {
        let raw = resource::Route::decode(body).map_err(|cause| Rejected {
            name: String::new(),
            why: format!("does not decode: {cause}"),
        })?;
        if let Some(field) = unknown_field(&wire::ROUTE, body) {
            return Err(Rejected {
                name: raw.name,
                why: format!("{field} is not known to this version"),
            });
        }
        Self::compile(&raw)
    }

    /// Compiles a route.
    ///
    /// # Errors
    /// Something in it can't be understood in full; the reason says what, and where.
    pub fn compile(route: &resource::Route) -> Result<Self, Rejected> {
        compile::route(route).map_err(|why| Rejected {
            name: route.name.clone(),
            why,
        })
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
        // Gateway API: "alphabetical order by {namespace}/{name}". One object may have several
        // resources, which are told apart by the rest of the name.
        self.created
            .cmp(&other.created)
            .then_with(|| self.object.cmp(&other.object))
            .then_with(|| self.name.cmp(&other.name))
    }
}

#[cfg(test)]
mod tests;
