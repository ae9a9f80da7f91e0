//! Which rules can match these facts at all?
//!
//! Each rule is filed under the keys that fewest rules share (a caller's name, a port or a literal
//! path), such that facts without any of these keys can't match it. A key is kept as 64 bits of
//! hash: where two keys collide, a rule is looked at in vain, and nothing else happens.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::policy::{Action, Policy};
use super::{Facts, Unseen};

/// What a rule can be filed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    Identity(&'a str),
    /// `<namespace>/sa/<account>`
    Account(&'a str),
    AccountName(&'a str),
    Namespace(&'a str),
    Cluster(&'a str),
    TrustDomain(&'a str),
    Port(u16),
    Path(&'a str),
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) policy: u32,
    pub(super) rule: u32,
}

/// The rules of one action.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Sorted by the key's hash.
    filed: Vec<(u64, At)>,
    /// No key: always looked at.
    unfiled: Vec<At>,
    /// Filed under paths: all of them are looked at where the path can't be seen.
    by_path: Vec<At>,
    /// Kinds of keys in use, one bit each; the others need not be asked for.
    kinds: u8,
}

/// As fast as it needs to be, and the same in every run.
type Counts<'a> = HashMap<Key<'a>, usize, BuildHasherDefault<DefaultHasher>>;

impl Index {
    pub(super) fn new(policies: &[Arc<Policy>], action: Action) -> Self {
        let numbered = || {
            (0u32..)
                .zip(policies)
                .filter(|(_, policy)| policy.action() == action)
        };
        let rules: Vec<(At, Vec<Vec<Key<'_>>>)> = numbered()
            .flat_map(|(policy, p)| (0u32..).zip(p.rules()).map(move |r| (policy, r)))
            .map(|(policy, (rule, r))| (At { policy, rule }, r.key_sets()))
            .collect();
        let mut counts = Counts::default();
        for key in rules.iter().flat_map(|(_, sets)| sets.iter().flatten()) {
            let count = counts.entry(*key).or_default();
            *count = count.saturating_add(1);
        }
        let shared =
            |set: &Vec<Key<'_>>| set.iter().filter_map(|key| counts.get(key)).max().copied();
        let mut index = Self::default();
        for (at, sets) in &rules {
            match sets.iter().min_by_key(|set| shared(set)) {
                Some(keys) => index.file(*at, keys),
                None => index.unfiled.push(*at),
            }
        }
        index.filed.sort_unstable();
        index.filed.dedup();
        index
    }

    fn file(&mut self, at: At, keys: &[Key<'_>]) {
        for key in keys {
            self.kinds |= key.kind();
            self.filed.push((key.hash(), at));
        }
        if keys.iter().any(|key| matches!(key, Key::Path(_))) {
            self.by_path.push(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filed.is_empty() && self.unfiled.is_empty()
    }

    /// Shows the rules that can match to `look`, until it says true. One may come twice.
    pub(super) fn visit(
        &self,
        facts: &Facts<'_>,
        unseen: Unseen,
        mut look: impl FnMut(At) -> bool,
    ) {
        if self.is_empty() {
            return;
        }
        let path = facts.path();
        let keys = [
            facts.peer.map(|peer| Key::Identity(peer.identity)),
            facts.peer.map(|peer| Key::Account(peer.qualified)),
            facts.peer.map(|peer| Key::AccountName(peer.account)),
            facts.peer.map(|peer| Key::Namespace(peer.namespace)),
            facts.peer.map(|peer| Key::Cluster(peer.cluster)),
            facts.peer.map(|peer| Key::TrustDomain(peer.trust_domain)),
            Some(Key::Port(facts.port)),
            path.map(Key::Path),
        ];
        for key in keys
            .into_iter()
            .flatten()
            .filter(|key| self.kinds & key.kind() != 0)
        {
            if self.under(key.hash()).any(&mut look) {
                return;
            }
        }
        let hidden: &[At] = match (path, unseen) {
            (None, Unseen::Matches) => &self.by_path,
            (None, Unseen::Misses) | (Some(_), _) => &[],
        };
        let _ = hidden.iter().chain(&self.unfiled).any(|at| look(*at));
    }

    fn under(&self, hash: u64) -> impl Iterator<Item = At> {
        let start = self.filed.partition_point(|(filed, _)| *filed < hash);
        let run = self.filed.get(start..).unwrap_or_default();
        run.iter()
            .take_while(move |(filed, _)| *filed == hash)
            .map(|(_, at)| *at)
    }
}

impl Key<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::Identity(_) => 1,
            Self::Account(_) => 2,
            Self::AccountName(_) => 4,
            Self::Namespace(_) => 8,
            Self::Cluster(_) => 16,
            Self::TrustDomain(_) => 32,
            Self::Port(_) => 64,
            Self::Path(_) => 128,
        }
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}
