//! How old is what this proxy knows of a cluster?

use std::collections::BTreeMap;
use std::time::SystemTime;

use isthmus_proto::resource;

/// Unknown, empty and stale are three states; this says which a cluster is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFreshness {
    /// The state.
    pub state: Freshness,
    /// When the control plane's source last confirmed its view. `None` while unknown.
    pub confirmed_at: Option<SystemTime>,
    /// For people: why it is not fresh.
    pub reason: String,
    /// The kinds of which less is known, or older; every other kind is as the cluster.
    pub kinds: BTreeMap<String, KindFreshness>,
}

/// How old is what this proxy knows of one kind of objects?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindFreshness {
    /// Unknown or stale.
    pub state: Freshness,
    /// When the control plane's source last confirmed its view. `None` while unknown.
    pub confirmed_at: Option<SystemTime>,
    /// For people: why it is not fresh.
    pub reason: String,
}

/// The states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Never listed in full: absence means nothing.
    Unknown,
    /// Listed and watched: what is absent is not there.
    Synced,
    /// The watch is lost: what was known is kept.
    Stale,
}

impl Freshness {
    /// In lower case, for people and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Synced => "synced",
            Self::Stale => "stale",
        }
    }
}

impl ClusterFreshness {
    /// Reads a cluster's freshness.
    ///
    /// # Errors
    /// The state is not set or not known, the time is out of range, or so with a kind.
    pub fn compile(freshness: &resource::ClusterFreshness) -> Result<Self, String> {
        let state = match freshness.state() {
            resource::Freshness::Unknown => Freshness::Unknown,
            resource::Freshness::Synced => Freshness::Synced,
            resource::Freshness::Stale => Freshness::Stale,
            resource::Freshness::Unspecified => return Err("state is not set or not known".into()),
        };
        let mut kinds = BTreeMap::new();
        for of in &freshness.kinds {
            if of.kind.is_empty() {
                return Err("kinds: a kind without a name".into());
            }
            let kind = KindFreshness::compile(of).map_err(|why| format!("{}: {why}", of.kind))?;
            if kinds.insert(of.kind.clone(), kind).is_some() {
                return Err(format!("{}: said twice", of.kind));
            }
        }
        Ok(Self {
            state,
            confirmed_at: time(freshness.confirmed_at)?,
            reason: freshness.reason.clone(),
            kinds,
        })
    }
}

impl KindFreshness {
    fn compile(freshness: &resource::KindFreshness) -> Result<Self, String> {
        let state = match freshness.state() {
            resource::Freshness::Unknown => Freshness::Unknown,
            resource::Freshness::Stale => Freshness::Stale,
            resource::Freshness::Synced | resource::Freshness::Unspecified => {
                return Err("state is neither unknown nor stale".into());
            }
        };
        Ok(Self {
            state,
            confirmed_at: time(freshness.confirmed_at)?,
            reason: freshness.reason.clone(),
        })
    }
}

fn time(at: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>, String> {
    let at = at.map(SystemTime::try_from).transpose();
    at.map_err(|_| "confirmed_at is out of range".into())
}

#[cfg(test)]
mod tests {
    use isthmus_proto::resource::{Freshness as Wire, KindFreshness as WireKind};

    use super::*;

    fn kind(kind: &str, state: Wire) -> WireKind {
        WireKind {
            kind: kind.into(),
            state: state.into(),
            confirmed_at: Some(prost_types::Timestamp {
                seconds: 7,
                nanos: 0,
            }),
            reason: "forbidden".into(),
        }
    }

    fn compiled(kinds: Vec<WireKind>) -> Result<ClusterFreshness, String> {
        ClusterFreshness::compile(&resource::ClusterFreshness {
            cluster: "west".into(),
            state: Wire::Synced.into(),
            kinds,
            ..resource::ClusterFreshness::default()
        })
    }

    #[test]
    fn a_kind_has_its_own_age() {
        let west = compiled(vec![kind("HTTPRoute", Wire::Stale)]).unwrap();
        assert_eq!(west.state, Freshness::Synced);
        let route = &west.kinds["HTTPRoute"];
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
        assert_eq!(
            (route.state, route.confirmed_at),
            (Freshness::Stale, Some(at))
        );
    }

    #[test]
    fn what_is_said_of_no_kind_or_in_two_ways_is_refused() {
        let refused = |kinds| compiled(kinds).unwrap_err();
        let stale = |name| kind(name, Wire::Stale);
        assert_eq!(refused(vec![stale("")]), "kinds: a kind without a name");
        assert_eq!(refused(vec![stale("Pod"), stale("Pod")]), "Pod: said twice");
        let why = "Pod: state is neither unknown nor stale";
        assert_eq!(refused(vec![kind("Pod", Wire::Synced)]), why);
        let mut late = stale("Pod");
        late.confirmed_at = Some(prost_types::Timestamp {
            seconds: i64::MIN,
            nanos: 0,
        });
        assert_eq!(refused(vec![late]), "Pod: confirmed_at is out of range");
    }
}
