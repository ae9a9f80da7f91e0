//! What does a policy say, in a form that decides fast, and is it said in full?

use std::fmt;
use std::sync::Arc;

pub use isthmus_proto::bounds::access::{REGEXES_MAX, RULES_MAX};
use isthmus_proto::resource::{AccessPolicy, Action as RawAction};
use prost::Message as _;

use super::pattern::{RegexBudget, place};
use super::rule::Rule;
use super::wire::POLICY;
use crate::snapshot::Rejected;
use crate::wire;

/// Longest name of a policy, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// What follows when a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Permitted; and what no ALLOW policy permits is denied.
    Allow,
    /// Denied, whatever else matches.
    Deny,
    /// Noted.
    Audit,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        })
    }
}

/// A checked policy.
#[derive(Debug, Clone)]
pub struct Policy {
    name: Arc<str>,
    action: Action,
    rules: Box<[Rule]>,
    invalid: Option<Box<str>>,
}

impl Policy {
    /// Checks a policy as it came over the wire. Unlike [`Policy::compile`], this sees fields that a
    /// newer control plane sent and this version can't enforce: to drop a term would widen a rule.
    ///
    /// # Errors
    /// As [`Policy::compile`]; or not a policy; or it holds a field that is not known here. Where
    /// no last good version is kept, put [`Policy::refusing`] in its place.
    pub fn decode(body: &[u8]) -> Result<Self, Rejected> {
        let raw = AccessPolicy::decode(body).map_err(|cause| Rejected {
            name: String::new(),
            why: format!("not an AccessPolicy: {cause}"),
        })?;
        if let Some(field) = wire::unknown_field(&POLICY, body) {
            let why = format!("{field} is not known to this version");
            return Err(Rejected {
                name: raw.name,
                why,
            });
        }
        Self::compile(&raw)
    }

    /// Checks a policy. One that the control plane marks as invalid compiles to one that denies
    /// everything.
    ///
    /// # Errors
    /// Names the place (`rules[0].from[1].namespaces[0]`) and what is wrong there.
    pub fn compile(raw: &AccessPolicy) -> Result<Self, Rejected> {
        let rejected = |why: String| Rejected {
            name: raw.name.clone(),
            why,
        };
        check_name(&raw.name).map_err(|why| rejected(format!("name: {why}")))?;
        if !raw.invalid.is_empty() {
            return Ok(Self::refusing(&raw.name, &raw.invalid));
        }
        let action = match RawAction::try_from(raw.action) {
            Ok(RawAction::Allow) => Action::Allow,
            Ok(RawAction::Deny) => Action::Deny,
            Ok(RawAction::Audit) => Action::Audit,
            Ok(RawAction::Unspecified) => return Err(rejected("action: unspecified".into())),
            Err(_) => return Err(rejected(format!("action: {} is not known", raw.action))),
        };
        if raw.rules.len() > RULES_MAX {
            let count = raw.rules.len();
            return Err(rejected(format!(
                "rules: {count}; at most {RULES_MAX} are allowed"
            )));
        }
        let mut budget = RegexBudget(REGEXES_MAX);
        let numbered = |(at, rule)| Rule::compile(rule, &mut budget).map_err(|why| place(at, &why));
        let rules = raw
            .rules
            .iter()
            .enumerate()
            .map(numbered)
            .collect::<Result<_, _>>()
            .map_err(|why| rejected(format!("rules{why}")))?;
        Ok(Self {
            name: raw.name.as_str().into(),
            action,
            rules,
            invalid: None,
        })
    }

    /// A policy that denies everything and says why: what takes the place of one that could not be
    /// understood and has no last good version.
    #[must_use]
    pub fn refusing(name: &str, why: &str) -> Self {
        // What could not be understood may have a name that could not either; logs show it.
        let name = match check_name(name) {
            Ok(()) => Arc::from(name),
            Err(_) => {
                let escaped = name.chars().flat_map(char::escape_default);
                escaped.take(NAME_BYTES_MAX).collect::<String>().into()
            }
        };
        Self {
            name,
            action: Action::Deny,
            rules: Box::default(),
            invalid: Some(why.into()),
        }
    }

    /// Its name in discovery: scope and name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What follows when a rule matches.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Why it could not be understood. Then it denies everything, whatever its action.
    #[must_use]
    pub fn invalid(&self) -> Option<&str> {
        self.invalid.as_deref()
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Names stand in logs and answers: one line of visible ASCII.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("longer than 512 bytes");
    }
    if !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("not visible ASCII without spaces");
    }
    Ok(())
}
