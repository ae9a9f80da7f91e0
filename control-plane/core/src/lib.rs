//! What should the mesh be?
//!
//! The decisions of the control plane, without IO: a source's changes go into the [`world::World`];
//! what became different comes out as [`world::Dirty`]; each client's [`session::Session`] turns that into
//! the responses that the client needs, and nothing else.
//!
//! ```text
//! API server ─ pages, events ─► watch ─ told once, in order ─► (quota) ─► source
//! source ─ Change ─► World ─ Dirty ─► Session ─ DeltaDiscoveryResponse ─► proxy
//!                      │                 │
//!                      └─ import, translate (world × client's scope → resources)
//!                      └─ write (world → derived objects and statuses that differ)
//! token + CSR facts ─► issue ─► may this caller have this SPIFFE ID, for how long?
//! ```

pub mod model;
pub mod watch;
pub mod quota;
pub mod world;
mod import;
pub mod translate;
pub mod write;
pub mod session;
pub mod issue;
pub mod rotation;
pub mod pattern;
pub mod lease;
#[cfg(test)]
mod sample;
