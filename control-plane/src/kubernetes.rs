//! How do we talk to a cluster's API server, and what may it do to us?
//!
//! ```text
//! kubeconfig ─► access ─► client ─ HTTP/2 ─► API server
//!                          ▲ ▲ └── error: what it says instead
//!        review (tokens) ──┘ └── lease (who writes)
//! ```
//!
//! An API server is another party: every read is bounded, a redirect is an error, and nothing that a
//! kubeconfig names is touched unless the operator allowed exactly that (SECURITY S27, S28).

pub mod error;
pub mod allow;
pub mod access;
pub mod kubeconfig;
pub mod timestamp;
mod credential;
pub mod client;
pub mod metrics;
pub mod review;
pub mod lease;

pub use access::{Access, Credential, Roots, in_cluster};
pub use allow::{Allow, Program};
pub use client::{Api, Settings, Watch};
pub use error::{ApiError, Refused};
pub use kubeconfig::kubeconfig;
pub use lease::{Candidate, Leadership};
pub use review::Reviewer;
