//! Where does a connection go that is relayed as bytes?

use std::sync::Arc;

use isthmus_proto::ids::ServiceName;

use super::matcher::HostMatcher;
use super::{BackendRef, Route, RouteKind, RouteTable, RuleRef};
use crate::failure::Failure;

/// The backend of a connection, and the rule that chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L4Choice {
    /// The rule. `None`: no route is attached, the service itself.
    pub rule: Option<RuleRef>,
    /// Where the connection goes.
    pub backend: BackendRef,
}

/// Chooses the backend of a connection.
///
/// TLS routes choose by the server name; where no TLS route matches, TCP routes choose by weight.
/// HTTP routes have no say.
///
/// # Errors
/// `NoRoute`: TLS routes are attached and none matches, and there is no TCP route.
/// `InvalidBackend`: the rule leads nowhere.
pub fn route_l4(
    table: Option<&RouteTable>,
    service: &ServiceName,
    port: u16,
    server_name: Option<&str>,
    random: u64,
) -> Result<L4Choice, Failure> {
    let itself = || L4Choice {
        rule: None,
        backend: BackendRef {
            service: service.clone(),
            port,
        },
    };
    let Some(table) = table else {
        return Ok(itself());
    };
    let matched = server_name
        .and_then(|name| {
            table
                .tls
                .iter()
                .find(|e| e.is_on(port) && e.host.matches(name))
        })
        .or_else(|| table.tcp.iter().find(|e| e.is_on(port)));
    match matched {
        Some(entry) => entry.choose(random),
        None if table.tls.iter().any(|e| e.is_on(port)) => Err(Failure::NoRoute),
        None => Ok(itself()),
    }
}

/// One host of a TCP or TLS route. A rule of layer 4 matches everything, so only the first rule
/// of a route can be reached.
#[derive(Debug)]
pub(super) struct L4Entry {
    host: HostMatcher,
    route: Arc<Route>,
}

impl L4Entry {
    pub(super) fn is_on(&self, port: u16) -> bool {
        self.route.is_on(port)
    }

    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(super) fn choose(&self, random: u64) -> Result<L4Choice, Failure> {
        let rule = self.route.rules.first().ok_or(Failure::InvalidBackend)?;
        let backend = rule.pick(random).and_then(|b| b.target.clone());
        Ok(L4Choice {
            rule: Some(RuleRef {
                route: self.route.name.clone(),
                index: 0,
            }),
            backend: backend.ok_or(Failure::InvalidBackend)?,
        })
    }
}

/// The entries of one kind: more specific hosts first, then older routes, then by name.
pub(super) fn entries(routes: &[Arc<Route>], kind: RouteKind) -> Box<[L4Entry]> {
    let mut entries = Vec::new();
    for route in routes.iter().filter(|route| route.kind == kind) {
        let entry = |host: &HostMatcher| L4Entry {
            host: host.clone(),
            route: route.clone(),
        };
        entries.extend(route.hosts.iter().map(entry));
    }
    entries.sort_by(|a, b| {
        a.host
            .precedence(&b.host)
            .then_with(|| a.route.age_then_name(&b.route))
    });
    entries.into()
}
