//! What do the control plane and the proxies say to each other?
//!
//! Generated messages, and the parsed vocabulary that both ends share: identities, names,
//! localities, endpoint handles. Neither IO nor decisions.

pub mod spiffe;
pub mod ids;
pub mod locality;
pub mod range;
pub mod handle;
pub mod positions;
pub mod bounds;
pub mod literal;
pub mod admin;

/// The delta-xDS envelope (`envoy.service.discovery.v3`).
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated"
)]
pub mod discovery {
    include!("gen/envoy.service.discovery.v3.rs");
}

/// The packages of our own, nested as the generated code refers to them.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated"
)]
mod isthmus {
    pub mod resource {
        pub mod v1 {
            include!("gen/isthmus.resource.v1.rs");
        }
    }
    pub mod identity {
        pub mod v1 {
            include!("gen/isthmus.identity.v1.rs");
        }
    }
}

pub use isthmus::identity::v1 as identity;
pub use isthmus::resource::v1 as resource;
