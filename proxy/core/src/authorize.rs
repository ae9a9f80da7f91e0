//! May this caller do this to our workload?
//!
//! ```text
//! no policy known yet ─► denied        any DENY rule matches ─► denied
//! an invalid policy   ─► denied        no ALLOW policy there ─► permitted
//!                                      an ALLOW rule matches ─► permitted, else denied
//! ```
//!
//! AUDIT is noted and never changes the verdict. What can't be seen is held against the caller: an
//! ALLOW rule with an HTTP term does not match a connection whose bytes are opaque, a DENY rule
//! with one does.

use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::spiffe::SpiffeId;

use crate::failure::Failure;
use crate::identify::PeerIdentity;
use crate::message::{Fields, Method};
use crate::snapshot::Generation;

mod caller;
mod explain;
mod http;
mod index;
mod pattern;
mod policy;
mod rule;
mod table;
mod wire;

pub use self::explain::{STEPS_MAX, Step, explain};
pub use self::pattern::{LITERAL_BYTES_MAX, REGEX_BYTES_MAX, REGEX_CHARS_MAX, VALUES_MAX};
pub use self::policy::{Action, NAME_BYTES_MAX, Policy, REGEXES_MAX, RULES_MAX};
pub use self::rule::{ALTERNATIVES_MAX, EXCEPT_DEPTH_MAX};
pub use self::table::PolicyTable;

/// Longest text of a refusal, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Names of policies that noted a decision.
pub type Audit = SmallVec<[Arc<str>; 1]>;

/// The policies that select our workload.
#[derive(Debug, Clone, Default)]
pub enum PolicySet {
    /// Nobody has told us yet: nothing is allowed.
    #[default]
    Unknown,
    /// These, perhaps none.
    Known(PolicyTable),
}

/// What a policy may look at of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnFacts<'a> {
    /// Who calls, if that is proven.
    pub peer: Option<&'a PeerIdentity>,
    /// The workload's port that is called.
    pub port: u16,
    /// Where from. For the log: an address proves nothing, so no policy has a term for it.
    pub source: IpAddr,
}

/// What a policy may look at of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Case matters.
    pub method: &'a Method,
    /// Canonical: in lower case, without port. Empty: not known.
    pub host: &'a str,
    /// Canonical, without query. Empty: there is none (CONNECT).
    pub path: &'a str,
    /// As they came.
    pub fields: &'a Fields,
}

/// Proof that policy was asked and said yes. Only [`authorize`] and [`Permit::outbound`] make it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "sealed for the rest of this crate too"
)]
pub struct Permit {
    /// The ALLOW policy that matched. `None`: no ALLOW policy selects the workload.
    pub rule: Option<Arc<str>>,
    /// Of the policies that decided. When it moves, a live connection is judged again.
    pub generation: Generation,
    /// AUDIT policies that matched.
    pub audit: Audit,
    _sealed: (),
}

impl Permit {
    /// For what our own workload calls: the called side judges.
    #[must_use]
    pub fn outbound(generation: Generation) -> Self {
        Self {
            rule: None,
            generation,
            audit: Audit::new(),
            _sealed: (),
        }
    }
}

/// Policy said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    /// [`Failure::Denied`] or [`Failure::PolicyUnknown`].
    pub failure: Failure,
    /// The policy that denied: DENY, or invalid. `None`: none allowed.
    pub policy: Option<Arc<str>>,
    /// Policy, rule (counted from 0) and term. One line; what came from the caller is escaped.
    pub reason: String,
    /// Of the policies that decided.
    pub generation: Generation,
    /// AUDIT policies that matched.
    pub audit: Audit,
}

/// Judges a connection (`request`: none, its bytes are opaque to us) or a request.
///
/// # Errors
/// A DENY rule matches; or there are ALLOW policies and no rule of theirs matches; or a policy is
/// invalid; or the policies are not known yet.
pub fn authorize(
    policies: &PolicySet,
    conn: &ConnFacts<'_>,
    request: Option<&RequestFacts<'_>>,
) -> Result<Permit, Denied> {
    let table = match policies {
        PolicySet::Unknown => return Err(policy_unknown()),
        PolicySet::Known(table) => table,
    };
    let facts = Facts::new(conn, request);
    let audit = table.audit(&facts);
    let generation = table.generation();
    let denied = |policy, reason| {
        let reason = cut(reason);
        Err(Denied {
            failure: Failure::Denied,
            policy,
            reason,
            generation,
            audit: audit.clone(),
        })
    };
    if let Some((policy, why)) = table.invalid() {
        return denied(Some(Arc::clone(policy)), invalid_reason(policy, why));
    }
    if let Some((policy, rule)) = table.denying(&facts) {
        let reason = format!("DENY policy {} rule {rule} matched", policy.name());
        return denied(Some(Arc::clone(policy.shared_name())), reason);
    }
    if !table.restricts() {
        return Ok(Permit {
            rule: None,
            generation,
            audit,
            _sealed: (),
        });
    }
    match table.allowing(&facts) {
        Some((policy, _)) => {
            let rule = Some(Arc::clone(policy.shared_name()));
            Ok(Permit {
                rule,
                generation,
                audit,
                _sealed: (),
            })
        }
        None => denied(None, table.nearest_reason(&facts)),
    }
}

fn policy_unknown() -> Denied {
    Denied {
        failure: Failure::PolicyUnknown,
        policy: None,
        reason: "no policy is known yet; without one nothing is allowed".into(),
        generation: Generation::default(),
        audit: Audit::new(),
    }
}

fn invalid_reason(policy: &str, why: &str) -> String {
    format!(
        "policy {policy} is invalid, so it denies everything: {}",
        why.escape_debug()
    )
}

/// Cuts at a character's end.
fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push('…');
    }
    reason
}

/// What counts for a term about something that can't be seen?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unseen {
    /// It does not match: ALLOW.
    Misses,
    /// It matches: DENY; and AUDIT, which rather notes too much.
    Matches,
}

impl Unseen {
    fn of(action: Action) -> Self {
        match action {
            Action::Allow => Self::Misses,
            Action::Deny | Action::Audit => Self::Matches,
        }
    }
}

/// The facts, with the caller's names cut out once.
#[derive(Clone, Copy)]
struct Facts<'a> {
    peer: Option<PeerNames<'a>>,
    port: u16,
    request: Option<&'a RequestFacts<'a>>,
}

#[derive(Clone, Copy)]
struct PeerNames<'a> {
    identity: &'a str,
    trust_domain: &'a str,
    cluster: &'a str,
    namespace: &'a str,
    account: &'a str,
    /// `<namespace>/sa/<account>`, as it stands at the end of the SPIFFE ID.
    qualified: &'a str,
}

impl<'a> Facts<'a> {
    fn new(conn: &ConnFacts<'a>, request: Option<&'a RequestFacts<'a>>) -> Self {
        let peer = conn.peer.map(|peer| PeerNames::new(&peer.id));
        Self {
            peer,
            port: conn.port,
            request,
        }
    }

    /// The path, if there is one to be seen.
    fn path(&self) -> Option<&'a str> {
        self.request
            .map(|request| request.path)
            .filter(|path| !path.is_empty())
    }
}

impl<'a> PeerNames<'a> {
    fn new(id: &'a SpiffeId) -> Self {
        let (namespace, account) = (id.namespace(), id.service_account());
        let tail = namespace
            .len()
            .saturating_add("/sa/".len())
            .saturating_add(account.len());
        let start = id.as_str().len().saturating_sub(tail);
        Self {
            identity: id.as_str(),
            trust_domain: id.trust_domain().as_str(),
            cluster: id.trust_domain().cluster(),
            namespace,
            account,
            qualified: id.as_str().get(start..).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
