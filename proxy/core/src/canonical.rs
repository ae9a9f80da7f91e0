//! Which one path and which one authority does a request mean?
//!
//! Routing, policy, metrics and forwarding all use what this module returns, so that nobody can
//! write a path which the policy reads in one way and the application in another. What cannot be
//! brought into one form is refused.

mod authority;
mod path;

pub use self::authority::{Authority, authority};
pub(crate) use self::authority::{check_authority, same_authority};
pub use self::path::{CanonicalPath, path};

#[cfg(test)]
mod tests;
