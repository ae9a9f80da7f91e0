//! Does a rule match, and if not, by which term?

use std::fmt;

pub use isthmus_proto::bounds::access::{ALTERNATIVES_MAX, EXCEPT_DEPTH_MAX};
use isthmus_proto::resource::AccessRule;

use super::caller::{Accounts, Caller, callers};
use super::http::{HeaderTerm, Operation, header_terms, operations};
use super::index::Key;
use super::pattern::{Names, Patterns, RegexBudget, shown, write_list};
use super::{Facts, Unseen};
use crate::message::Method;

/// All that is set must match.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Any of them; empty: everybody.
    from: Box<[Caller]>,
    /// Any of them; empty: everything.
    to: Box<[Operation]>,
    /// All of them.
    headers: Box<[HeaderTerm]>,
}

impl Rule {
    /// Reads a rule. The error begins with the field.
    pub(super) fn compile(raw: &AccessRule, budget: &mut RegexBudget) -> Result<Self, String> {
        Ok(Self {
            from: callers(&raw.from, 0).map_err(|why| format!(".from{why}"))?,
            to: operations(&raw.to, budget).map_err(|why| format!(".to{why}"))?,
            headers: header_terms(&raw.headers, budget).map_err(|why| format!(".headers{why}"))?,
        })
    }

    /// Does it match? If not, which term missed? Of several callers or operations, that which came
    /// nearest is told.
    pub(super) fn check(&self, facts: &Facts<'_>, unseen: Unseen) -> Result<(), Miss<'_>> {
        any(self
            .from
            .iter()
            .map(|caller| caller.check(facts.peer.as_ref(), unseen)))?;
        any(self
            .to
            .iter()
            .map(|operation| operation.check(facts, unseen)))?;
        self.headers
            .iter()
            .try_for_each(|header| header.check(facts, unseen))
    }

    /// Sets of keys, each of which every fact that the rule matches has one of. The index files the
    /// rule under the set that tells most.
    pub(super) fn key_sets(&self) -> Vec<Vec<Key<'_>>> {
        let from = all(self.from.iter().map(Caller::keys));
        let ports = all(self.to.iter().map(Operation::port_keys));
        let paths = all(self.to.iter().map(Operation::path_keys));
        [from, ports, paths].into_iter().flatten().collect()
    }
}

/// Does any match? None at all is no condition. Else the miss of that which came farthest.
fn any<'r>(results: impl Iterator<Item = Result<(), Miss<'r>>>) -> Result<(), Miss<'r>> {
    let mut nearest: Option<Miss<'r>> = None;
    for result in results {
        match result {
            Ok(()) => return Ok(()),
            Err(miss) if nearest.as_ref().is_none_or(|best| best.term < miss.term) => {
                nearest = Some(miss);
            }
            Err(_) => {}
        }
    }
    nearest.map_or(Ok(()), Err)
}

/// The keys of all alternatives together, if each has some.
fn all<'r>(sets: impl Iterator<Item = Option<Vec<Key<'r>>>>) -> Option<Vec<Key<'r>>> {
    let keys = sets.collect::<Option<Vec<_>>>()?.concat();
    (!keys.is_empty()).then_some(keys)
}

/// The terms, in the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Term {
    Authenticated,
    TrustDomains,
    Clusters,
    Namespaces,
    Accounts,
    Identities,
    Except,
    Ports,
    Request,
    Hosts,
    Methods,
    Paths,
    Headers,
}

impl Term {
    fn field(self) -> &'static str {
        match self {
            Self::Authenticated => "from.authenticated",
            Self::TrustDomains => "from.trust_domains",
            Self::Clusters => "from.clusters",
            Self::Namespaces => "from.namespaces",
            Self::Accounts => "from.service_accounts",
            Self::Identities => "from.identities",
            Self::Except => "from.except",
            Self::Ports => "to.ports",
            Self::Request => "to",
            Self::Hosts => "to.hosts",
            Self::Methods => "to.methods",
            Self::Paths => "to.paths",
            Self::Headers => "headers",
        }
    }
}

/// The first term that did not match. Borrowed: put into words only when somebody asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Miss<'r> {
    pub(super) term: Term,
    pub(super) wanted: Wanted<'r>,
}

/// What the term wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'r> {
    Authenticated,
    NotExcepted,
    Names(&'r Names),
    Accounts(&'r Accounts),
    Ports(&'r [u16]),
    /// An HTTP request, to have a look at it.
    Request,
    Patterns(&'r Patterns),
    Methods(&'r [Method]),
    Header(&'r HeaderTerm),
}

impl Miss<'_> {
    /// `field: wanted this, saw that`, in one line, with what the caller sent escaped.
    pub(super) fn describe(&self, facts: &Facts<'_>) -> String {
        format!(
            "{}: wanted {}, saw {}",
            self.term.field(),
            self.wanted,
            self.saw(facts)
        )
    }

    fn saw(&self, facts: &Facts<'_>) -> String {
        let peer = |name: Option<&str>| name.unwrap_or("an unauthenticated caller").to_owned();
        let request = |text: Option<&str>| match text {
            None => "bytes that are no HTTP request".to_owned(),
            Some("") => "none".to_owned(),
            Some(text) => shown(text.as_bytes()),
        };
        match self.term {
            Term::Authenticated | Term::Identities | Term::Except => {
                peer(facts.peer.map(|p| p.identity))
            }
            Term::TrustDomains => peer(facts.peer.map(|p| p.trust_domain)),
            Term::Clusters => peer(facts.peer.map(|p| p.cluster)),
            Term::Namespaces => peer(facts.peer.map(|p| p.namespace)),
            Term::Accounts => facts
                .peer
                .map_or_else(|| peer(None), |p| format!("{}/{}", p.namespace, p.account)),
            Term::Ports => facts.port.to_string(),
            Term::Request => request(None),
            Term::Hosts => request(facts.request.map(|r| r.host)),
            Term::Methods => request(facts.request.map(|r| r.method.as_str())),
            Term::Paths => request(facts.request.map(|r| r.path)),
            Term::Headers => match (self.wanted, facts.request) {
                (Wanted::Header(term), Some(seen)) => term.describe_seen(seen.fields),
                (_, _) => request(None),
            },
        }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("a caller with a verified identity"),
            Self::NotExcepted => f.write_str("a caller who is not excepted"),
            Self::Names(names) => names.fmt(f),
            Self::Accounts(accounts) => accounts.fmt(f),
            Self::Ports(ports) => write_list(f, ports.iter()),
            Self::Request => f.write_str("an HTTP request"),
            Self::Patterns(patterns) => patterns.fmt(f),
            Self::Methods(methods) => write_list(f, methods.iter().map(Method::as_str)),
            Self::Header(term) => term.fmt(f),
        }
    }
}
