//! How much may a policy or a route say?
//!
//! Proxies refuse a resource that is beyond, and go on with its last good version. So the control plane
//! refuses it before, where its author is told.

/// An AccessPolicy.
pub mod access {
    /// Most rules of one policy.
    pub const RULES_MAX: usize = 1_024;
    /// Most callers in `from` or `except`, and most operations in `to`.
    pub const ALTERNATIVES_MAX: usize = 256;
    /// Most values in one list.
    pub const VALUES_MAX: usize = 1_024;
    /// Deepest `except` in one another.
    pub const EXCEPT_DEPTH_MAX: usize = 4;
    /// Longest method in a rule, in bytes.
    pub const METHOD_BYTES_MAX: usize = 64;
    /// Longest header name in a rule, in bytes.
    pub const HEADER_NAME_BYTES_MAX: usize = 256;
    /// Longest literal, in bytes.
    pub const LITERAL_BYTES_MAX: usize = 2_048;
    /// Most regular expressions of one policy.
    pub const REGEXES_MAX: usize = 64;
    /// Most characters of a regular expression.
    pub const REGEX_CHARS_MAX: usize = 1_024;
    /// Most bytes of a compiled regular expression, and of its lazy automaton.
    pub const REGEX_BYTES_MAX: usize = 1 << 20;
    /// Deepest nesting in a regular expression.
    pub const REGEX_DEPTH_MAX: u32 = 64;
}

/// A Route.
pub mod route {
    /// Most rules of a route.
    pub const RULES_MAX: usize = 128;
    /// Most matches of a rule.
    pub const MATCHES_MAX: usize = 64;
    /// Most host names of a route.
    pub const HOSTS_MAX: usize = 64;
    /// Most backends of a rule.
    pub const BACKENDS_MAX: usize = 64;
    /// Most filters of a rule or backend.
    pub const FILTERS_MAX: usize = 16;
    /// Most mirrors of one rule.
    pub const MIRRORS_MAX: usize = 4;
    /// Most names that one modifier may set, add or remove, each.
    pub const HEADERS_MAX: usize = 64;
    /// Longest value that a modifier may write, in bytes.
    pub const VALUE_BYTES_MAX: usize = 8_192;
    /// Longest literal of a match, in bytes.
    pub const TEXT_BYTES_MAX: usize = 4_096;
    /// Most additional tries that a route may ask for.
    pub const ATTEMPTS_MAX: u32 = 10;
    /// Largest weight (Gateway API: 1,000,000).
    pub const WEIGHT_MAX: u32 = 1_000_000;
}

/// A TrafficPolicy.
pub mod traffic {
    /// Most additional tries (ours to tune).
    pub const ATTEMPTS_MAX: u32 = 10;
    /// Most status codes that lead to a retry: all that may.
    pub const STATUSES_MAX: usize = 200;
    /// Largest penalty for leaving a zone or cluster, in milliseconds (ours to tune).
    pub const PENALTY_MS_MAX: u32 = 60_000;
}
