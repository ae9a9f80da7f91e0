//! Which rule does a request match first?
//!
//! All matches of all routes of a service stand in one list, sorted by the precedence of the
//! Gateway API; the first that matches wins. The order depends on what the routes say, never on
//! the order in which they came.

use std::cmp::Ordering;
use std::sync::Arc;

use isthmus_proto::resource;

use super::matcher::{HeaderMatcher, HostMatcher, PathMatcher, QueryMatcher};
use super::{Route, Rule};
use crate::canonical::CanonicalPath;
use crate::message::{Method, RequestHead};

/// One match of a rule: everything in it must hold.
#[derive(Debug, Clone)]
pub struct RequestMatch {
    pub(super) path: PathMatcher,
    method: Option<Method>,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    /// Characters of gRPC's service and method that must be equal; 0 where it is no GRPCRoute's.
    grpc: (u32, u32),
}

impl RequestMatch {
    /// Compiles a match.
    ///
    /// # Errors
    /// A part of it can't be understood in full.
    pub(super) fn compile(matching: &resource::RouteMatch) -> Result<Self, String> {
        let method = match matching.method.as_str() {
            "" => None,
            token => Some(
                Method::parse(token.as_bytes())
                    .ok_or_else(|| format!("method {token:?} is not a token"))?,
            ),
        };
        Ok(Self {
            path: PathMatcher::compile(matching.path.as_ref())?,
            method,
            headers: HeaderMatcher::compile_all(&matching.headers)?,
            query: QueryMatcher::compile_all(&matching.query)?,
            grpc: (matching.service_characters, matching.method_characters),
        })
    }

    fn matches(&self, path: &CanonicalPath, head: &RequestHead) -> bool {
        self.path.matches(path.as_str())
            && self
                .method
                .as_ref()
                .is_none_or(|method| method == head.asked_method())
            && self
                .headers
                .iter()
                .all(|h| h.matches(&head.authority, &head.fields))
            && self.query.iter().all(|q| q.matches(path.query()))
    }

    /// Gateway API v1, HTTPRouteRule.matches: path, then a method, then the number of header
    /// matches, then the number of query matches. GRPCRouteRule.matches: the service's characters,
    /// the method's, then the number of header matches; a pattern has no characters, and goes before
    /// what matches all.
    fn precedence(&self, other: &Self) -> Ordering {
        other
            .grpc
            .cmp(&self.grpc)
            .then_with(|| self.path.precedence(&other.path))
            .then(other.method.is_some().cmp(&self.method.is_some()))
            .then(other.headers.len().cmp(&self.headers.len()))
            .then(other.query.len().cmp(&self.query.len()))
    }
}

/// One match of one rule for one host.
#[derive(Debug)]
pub(super) struct HttpEntry {
    host: HostMatcher,
    pub(super) route: Arc<Route>,
    /// Where its rule stands in the route, and its match in the rule.
    pub(super) rule: usize,
    matching: usize,
}

impl HttpEntry {
    pub(super) fn rule(&self) -> Option<&Rule> {
        self.route.rules.get(self.rule)
    }

    fn request_match(&self) -> Option<&RequestMatch> {
        self.rule()?.matches.get(self.matching)
    }

    /// The match, if it is on this port and the request fulfils it.
    pub(super) fn matched(
        &self,
        port: u16,
        host: &str,
        path: &CanonicalPath,
        head: &RequestHead,
    ) -> Option<&RequestMatch> {
        if !self.route.is_on(port) || !self.host.matches(host) {
            return None;
        }
        self.request_match()
            .filter(|matching| matching.matches(path, head))
    }

    /// Host, then the match, then the older route, then its name, then what was written first.
    fn precedence(&self, other: &Self) -> Ordering {
        let matches = match (self.request_match(), other.request_match()) {
            (Some(a), Some(b)) => a.precedence(b),
            (None, None) => Ordering::Equal,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        self.host
            .precedence(&other.host)
            .then(matches)
            .then_with(|| self.route.age_then_name(&other.route))
            .then(self.rule.cmp(&other.rule))
            .then(self.matching.cmp(&other.matching))
    }
}

/// The matches of all HTTP and gRPC routes, sorted by precedence.
pub(super) fn entries(routes: &[Arc<Route>]) -> Box<[HttpEntry]> {
    let mut entries = Vec::new();
    for route in routes.iter().filter(|route| route.kind.is_http()) {
        for (rule, compiled) in route.rules.iter().enumerate() {
            for matching in 0..compiled.matches.len() {
                for host in &route.hosts {
                    let (host, route) = (host.clone(), route.clone());
                    entries.push(HttpEntry {
                        host,
                        route,
                        rule,
                        matching,
                    });
                }
            }
        }
    }
    entries.sort_by(HttpEntry::precedence);
    entries.into()
}
