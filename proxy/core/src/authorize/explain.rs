//! Why was this caller permitted or denied, rule by rule?

use std::sync::Arc;

use super::policy::Action;
use super::{ConnFacts, Facts, PolicySet, RequestFacts, Unseen, invalid_reason, policy_unknown};

/// Most steps that are told.
pub const STEPS_MAX: usize = 10_000;

/// What one rule said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The policy's name. Empty: no policy is known.
    pub policy: Arc<str>,
    /// The policy's action. An invalid policy acts as DENY.
    pub action: Action,
    /// Which rule, from 0. `None`: it is about the whole policy.
    pub rule: Option<usize>,
    /// Did it match?
    pub matched: bool,
    /// The first term that did not match, what it wanted and what it saw; or what follows.
    pub why: String,
}

/// Replays a decision of [`super::authorize`] with the same matchers, without stopping at the first
/// that decides: every rule of every policy, by the policies' names.
#[must_use]
pub fn explain(
    policies: &PolicySet,
    conn: &ConnFacts<'_>,
    request: Option<&RequestFacts<'_>>,
) -> Vec<Step> {
    let table = match policies {
        PolicySet::Unknown => {
            let policy = Arc::from("");
            let why = policy_unknown().reason;
            return vec![Step {
                policy,
                action: Action::Deny,
                rule: None,
                matched: true,
                why,
            }];
        }
        PolicySet::Known(table) => table,
    };
    let facts = Facts::new(conn, request);
    let mut steps = Vec::new();
    for policy in table.policies() {
        let (name, action) = (policy.shared_name(), policy.action());
        let step = |rule, matched, why| Step {
            policy: Arc::clone(name),
            action,
            rule,
            matched,
            why,
        };
        if let Some(why) = policy.invalid() {
            steps.push(step(None, true, invalid_reason(name, why)));
        } else if policy.rules().is_empty() {
            steps.push(step(
                None,
                false,
                "it has no rules, so it matches nothing".into(),
            ));
        }
        for (at, rule) in policy.rules().iter().enumerate() {
            steps.push(match rule.check(&facts, Unseen::of(action)) {
                Ok(()) => step(Some(at), true, "every term matched".into()),
                Err(miss) => step(Some(at), false, miss.describe(&facts)),
            });
            if steps.len() >= STEPS_MAX {
                return steps;
            }
        }
    }
    steps
}
