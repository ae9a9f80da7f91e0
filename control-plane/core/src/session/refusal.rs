//! What has a client refused, and does it still?

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::translate::{Encoded, Version};

/// Of a refusal's text, this much is kept for people.
const WHY_CHARS_MAX: usize = 1_024;

/// A resource that was refused in this version.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) version: Version,
    pub(crate) why: String,
}

/// What a refusal says: one line for each refused resource, `name: reason`.
pub(crate) struct Said<'a> {
    message: &'a str,
    by_name: BTreeMap<&'a str, &'a str>,
    /// It names nothing that was sent, and so refuses everything.
    all: bool,
}

impl<'a> Said<'a> {
    pub(crate) fn new<'b>(message: &'a str, mut sent: impl Iterator<Item = &'b str>) -> Self {
        let lines = message.lines().filter_map(|line| line.split_once(": "));
        let by_name: BTreeMap<_, _> = lines.map(|(name, why)| (name.trim(), why)).collect();
        let all = !sent.any(|name| by_name.contains_key(name));
        Self {
            message,
            by_name,
            all,
        }
    }

    /// Why this one was refused; `None`: it was taken.
    pub(crate) fn why(&self, name: &str) -> Option<String> {
        let whole = self.all.then_some(self.message);
        let why = self.by_name.get(name).copied().or(whole)?;
        Some(why.chars().take(WHY_CHARS_MAX).collect())
    }
}

/// Names whose refusal is over without an answer that says so: they are no more, or are again what the
/// client has.
pub(crate) fn healed<'a>(
    refused: &'a BTreeMap<Arc<str>, Refusal>,
    held: &'a BTreeMap<Arc<str>, Option<Version>>,
    desired: &'a BTreeMap<&str, &Encoded>,
) -> impl Iterator<Item = Arc<str>> + 'a {
    let over = |name: &&Arc<str>| match desired.get(name.as_ref()) {
        Some(one) => held.get(name.as_ref()) == Some(&Some(one.version)),
        None => true,
    };
    refused.keys().filter(over).cloned()
}
