//! Which generation of the configuration decides, and what was refused on the way into it?

/// A state of the configuration; grows with every change that is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A resource that could not be taken, by its name, with the place and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Rejected {
    /// The resource's name in discovery.
    pub name: String,
    /// Where in it, and what is wrong there.
    pub why: String,
}
