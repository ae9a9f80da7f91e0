//! Would this caller be let in, and if not, what would have to change?

use std::net::{IpAddr, Ipv4Addr};

use isthmus_proto::resource::Protocol;
use isthmus_proto::spiffe::SpiffeId;

use super::{Carried, Said};
use crate::authorize::{self, Action, ConnFacts, RequestFacts, Step, authorize};
use crate::failure::Failure;
use crate::identify::PeerIdentity;
use crate::snapshot::describe::protocol_name;
use crate::snapshot::{Generation, InboundMode, Snapshot};

/// Who would call what.
#[derive(Debug, Clone)]
pub struct InboundQuestion {
    /// The caller. `None`: somebody without a certificate.
    pub identity: Option<SpiffeId>,
    /// The workload's port.
    pub port: u16,
    /// Canonical, without port.
    pub host: String,
    /// What it carries. A peer's proxy says it; plaintext is what the port declares.
    pub said: Said,
}

/// The verdict and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundExplanation {
    /// By which snapshot.
    pub generation: Generation,
    /// By which policies.
    pub policy_generation: Option<Generation>,
    /// The workload that is called, if it is known.
    pub workload: Option<String>,
    /// What its port speaks.
    pub protocol: &'static str,
    /// What it was judged as: `request` or `connection`.
    pub judged_as: &'static str,
    /// The services that lead to the port, as `name:port`.
    pub services: Vec<String>,
    /// Would the call be let in?
    pub allowed: bool,
    /// How it would fail.
    pub failure: Option<Failure>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// In one sentence.
    pub reason: String,
    /// What would have to change for another verdict.
    pub remedy: String,
    /// What each rule of each policy said.
    pub steps: Vec<Step>,
}

/// Replays the decision about an inbound call.
#[must_use]
pub fn explain_inbound(snapshot: &Snapshot, question: &InboundQuestion) -> InboundExplanation {
    let port = snapshot
        .own
        .as_ref()
        .and_then(|own| own.ports.get(&question.port));
    let carried = carried(question, port.map_or(Protocol::Unspecified, |p| p.protocol));
    let mut explanation = InboundExplanation {
        generation: snapshot.generation,
        policy_generation: match &*snapshot.policies {
            authorize::PolicySet::Unknown => None,
            authorize::PolicySet::Known(table) => Some(table.generation()),
        },
        workload: snapshot.own.as_ref().map(|own| own.name.to_string()),
        protocol: port.map_or("auto", |port| protocol_name(port.protocol)),
        judged_as: carried.name(),
        services: port
            .map(|port| {
                port.services
                    .iter()
                    .map(|(name, port)| format!("{name}:{port}"))
                    .collect()
            })
            .unwrap_or_default(),
        allowed: false,
        failure: None,
        policy: None,
        reason: String::new(),
        remedy: String::new(),
        steps: Vec::new(),
    };
    if let Some((reason, remedy)) = unauthenticated(snapshot, question) {
        explanation.failure = Some(Failure::Unauthenticated);
        explanation.reason = reason;
        explanation.remedy = remedy;
        return explanation;
    }
    judge(snapshot, question, &carried, &mut explanation);
    explanation
}

/// A peer's proxy has decided: it sends a request, or opens a stream of bytes. What nobody says,
/// and what comes in plaintext, is what the port declares.
fn carried(question: &InboundQuestion, declares: Protocol) -> Carried {
    let is_said = !matches!(question.said, Said::Nothing);
    let declares = if is_said && question.identity.is_some() {
        Protocol::Unspecified
    } else {
        declares
    };
    question.said.clone().taken(declares)
}

/// Why the handshake would fail, before any policy is asked.
fn unauthenticated(snapshot: &Snapshot, question: &InboundQuestion) -> Option<(String, String)> {
    let Some(id) = &question.identity else {
        let permissive = snapshot
            .own
            .as_ref()
            .is_some_and(|own| own.inbound_mode == InboundMode::Permissive);
        return (!permissive).then(|| {
            (
                "inbound is strict: only mutual TLS is accepted".to_owned(),
                "the caller needs a proxy, or the workload a permissive inbound mode".to_owned(),
            )
        });
    };
    snapshot.trust.roots_for(id).err().map(|error| {
        let remedy = "the trust bundle of the caller's cluster must reach this proxy, with roots";
        (error.to_string(), remedy.to_owned())
    })
}

fn judge(
    snapshot: &Snapshot,
    question: &InboundQuestion,
    carried: &Carried,
    explanation: &mut InboundExplanation,
) {
    let peer = question.identity.clone().map(|id| PeerIdentity { id });
    let conn = ConnFacts {
        peer: peer.as_ref(),
        port: question.port,
        // No policy has a term for it.
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let request = match carried {
        Carried::Connection(_) => Ok(None),
        Carried::Request(request) => request.head(&question.host).map(Some),
    };
    let request = match request {
        Ok(request) => request,
        Err(failure) => {
            explanation.failure = Some(failure);
            explanation.reason = failure.to_string();
            explanation.remedy = "the request must be written in one readable way".to_owned();
            return;
        }
    };
    let facts = request.as_ref().map(|(head, path)| RequestFacts {
        method: head.asked_method(),
        host: &question.host,
        path: path.as_str(),
        fields: &head.fields,
    });
    let lax = request.as_ref().map(|(_, path)| path.lax());
    let verdict = authorize(&snapshot.policies, &conn, facts.as_ref()).and_then(|permit| {
        // As the proxy does: also as a server would read the path that decodes everything.
        match facts.zip(lax.as_deref()) {
            Some((facts, lax)) if lax != facts.path => {
                let lax = RequestFacts { path: lax, ..facts };
                authorize(&snapshot.policies, &conn, Some(&lax)).map(|_| permit)
            }
            Some(_) | None => Ok(permit),
        }
    });
    explanation.steps = authorize::explain(&snapshot.policies, &conn, facts.as_ref());
    match verdict {
        Ok(permit) => {
            explanation.allowed = true;
            explanation.policy = permit.rule.as_ref().map(ToString::to_string);
            explanation.reason = match &permit.rule {
                Some(policy) => format!("policy {policy} allows it"),
                None => "no ALLOW policy selects the workload, and nothing denies".to_owned(),
            };
        }
        Err(denied) => {
            explanation.failure = Some(denied.failure);
            explanation.policy = denied.policy.as_ref().map(ToString::to_string);
            explanation.remedy = remedy(denied.policy.as_deref(), &explanation.steps);
            explanation.reason = denied.reason;
        }
    }
}

fn remedy(denying: Option<&str>, steps: &[Step]) -> String {
    if let Some(policy) = denying {
        return format!("policy {policy} must no longer match, or be corrected");
    }
    let allows = steps.iter().filter(|step| step.action == Action::Allow);
    let mut names: Vec<&str> = allows.map(|step| &*step.policy).collect();
    names.dedup();
    if names.is_empty() {
        "the control plane must send the workload's policies".to_owned()
    } else {
        format!(
            "one of these must match, or another policy allow it: {}",
            names.join(", ")
        )
    }
}
