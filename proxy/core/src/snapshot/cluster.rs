//! How old is what this proxy knows of a cluster?

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
    /// The state is not set or not known, or the time is out of range.
    pub fn compile(freshness: &resource::ClusterFreshness) -> Result<Self, String> {
        let state = match freshness.state() {
            resource::Freshness::Unknown => Freshness::Unknown,
            resource::Freshness::Synced => Freshness::Synced,
            resource::Freshness::Stale => Freshness::Stale,
            resource::Freshness::Unspecified => return Err("state is not set or not known".into()),
        };
        let confirmed_at = freshness
            .confirmed_at
            .map(SystemTime::try_from)
            .transpose()
            .map_err(|_| "confirmed_at is out of range")?;
        Ok(Self {
            state,
            confirmed_at,
            reason: freshness.reason.clone(),
        })
    }
}
