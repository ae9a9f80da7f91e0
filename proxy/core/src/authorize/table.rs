//! Which policies are there, and which of their rules decide?

use std::sync::Arc;

use super::index::{At, Index};
use super::policy::{Action, Policy};
use super::rule::Rule;
use super::{Audit, Facts, Unseen};
use crate::snapshot::Generation;

/// Most ALLOW rules that are looked at to say which came nearest.
const NEAREST_RULES_MAX: usize = 64;
/// Most AUDIT policies that are noted with one decision.
const AUDIT_NAMES_MAX: usize = 64;

/// Policies, arranged so that a decision looks at few of their rules. Immutable, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    pub(super) tables: Arc<Tables>,
    generation: Generation,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    policies: Vec<Arc<Policy>>,
    pub(super) allow: Index,
    pub(super) deny: Index,
    audit: Index,
    /// Is there an ALLOW policy? Then what none allows is denied.
    restricts: bool,
    /// The first policy that could not be understood, and why.
    invalid: Option<(Arc<str>, Arc<str>)>,
}

impl PolicyTable {
    /// A table of these policies; their order does not matter.
    #[must_use]
    pub fn new(mut policies: Vec<Arc<Policy>>, generation: Generation) -> Self {
        policies.sort_by(|a, b| a.name().cmp(b.name()));
        let restricts = policies
            .iter()
            .any(|policy| policy.action() == Action::Allow);
        let invalid = policies.iter().find_map(|policy| {
            policy
                .invalid()
                .map(|why| (Arc::clone(policy.shared_name()), Arc::from(why)))
        });
        let index = |action| Index::new(&policies, action);
        let (allow, deny, audit) = (
            index(Action::Allow),
            index(Action::Deny),
            index(Action::Audit),
        );
        let tables = Arc::new(Tables {
            policies,
            allow,
            deny,
            audit,
            restricts,
            invalid,
        });
        Self { tables, generation }
    }

    /// The same policies under another generation; nothing is built again.
    #[must_use]
    pub fn with_generation(&self, generation: Generation) -> Self {
        Self {
            tables: Arc::clone(&self.tables),
            generation,
        }
    }

    /// The policies, by name.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.tables.policies
    }

    /// Of the configuration that they come from.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn restricts(&self) -> bool {
        self.tables.restricts
    }

    pub(super) fn invalid(&self) -> Option<&(Arc<str>, Arc<str>)> {
        self.tables.invalid.as_ref()
    }

    /// A DENY rule that matches.
    pub(super) fn denying(&self, facts: &Facts<'_>) -> Option<(&Arc<Policy>, u32)> {
        self.tables.find(&self.tables.deny, facts, Unseen::Matches)
    }

    /// An ALLOW rule that matches.
    pub(super) fn allowing(&self, facts: &Facts<'_>) -> Option<(&Arc<Policy>, u32)> {
        self.tables.find(&self.tables.allow, facts, Unseen::Misses)
    }

    /// The AUDIT policies that match, each once, up to [`AUDIT_NAMES_MAX`].
    pub(super) fn audit(&self, facts: &Facts<'_>) -> Audit {
        let mut names = Audit::new();
        if self.tables.audit.is_empty() {
            return names;
        }
        self.tables.audit.visit(facts, Unseen::Matches, |at| {
            if let Some((policy, rule)) = self.tables.rule(at)
                && !names.contains(policy.shared_name())
                && rule.check(facts, Unseen::Matches).is_ok()
            {
                names.push(Arc::clone(policy.shared_name()));
            }
            names.len() >= AUDIT_NAMES_MAX
        });
        names
    }

    /// Says which ALLOW rule came nearest, and what it missed.
    pub(super) fn nearest_reason(&self, facts: &Facts<'_>) -> String {
        let rules = self
            .policies()
            .iter()
            .filter(|policy| policy.action() == Action::Allow)
            .flat_map(|policy| {
                policy
                    .rules()
                    .iter()
                    .enumerate()
                    .map(move |rule| (policy, rule))
            });
        let nearest = rules
            .take(NEAREST_RULES_MAX)
            .filter_map(|(policy, (at, rule))| {
                rule.check(facts, Unseen::Misses)
                    .err()
                    .map(|miss| (policy, at, miss))
            })
            // Of equally near ones the first: `max_by_key` would take the last.
            .reduce(|best, next| {
                if next.2.term > best.2.term {
                    next
                } else {
                    best
                }
            });
        let caller = facts.peer.map_or("unauthenticated", |peer| peer.identity);
        let head = format!(
            "no ALLOW policy matched: caller {caller}, port {}",
            facts.port
        );
        match nearest {
            None => format!("{head}; the ALLOW policies have no rules"),
            Some((policy, at, miss)) => {
                format!(
                    "{head}; nearest: {} rule {at}: {}",
                    policy.name(),
                    miss.describe(facts)
                )
            }
        }
    }
}

impl Tables {
    fn rule(&self, at: At) -> Option<(&Arc<Policy>, &Rule)> {
        let policy = self.policies.get(usize::try_from(at.policy).ok()?)?;
        Some((policy, policy.rules().get(usize::try_from(at.rule).ok()?)?))
    }

    /// The first rule that matches, of those that can, and its policy.
    fn find(
        &self,
        index: &Index,
        facts: &Facts<'_>,
        unseen: Unseen,
    ) -> Option<(&Arc<Policy>, u32)> {
        let mut found = None;
        index.visit(facts, unseen, |at| {
            found = self
                .rule(at)
                .filter(|(_, rule)| rule.check(facts, unseen).is_ok())
                .map(|(policy, _)| (policy, at.rule));
            found.is_some()
        });
        found
    }
}
