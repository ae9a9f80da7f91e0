//! x
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Generation(pub u64);
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected { pub name: String, pub why: String }
