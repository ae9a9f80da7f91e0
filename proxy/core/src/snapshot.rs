//! Which tables do all decisions read?

/// Counts the snapshots; grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A resource that can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Rejected {
    /// The resource's name in discovery.
    pub name: String,
    /// The rule that it breaks.
    pub why: String,
}
