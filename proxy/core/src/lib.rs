//! Everything that decides in the data plane, and its codecs; no IO, no clock, no randomness.
//!
//! The journey of a connection, in the order of the modules:
//!
//! ```text
//! bytes ─► http1 / http2 / client_hello ─► detect ─► identify ─► authorize ─► route ─► balance ─► hop
//!                                                                 (Permit)                  handle ┘
//! ```
//!
//! `guard` bounds it, `failure` names every way in which it ends badly, `snapshot` holds the tables
//! that all decisions read, `subscription` keeps them fed, `explain` replays them with reasons.
#![deny(clippy::indexing_slicing)]

pub mod message;
mod wire;
pub mod http1;
pub mod http2;
pub mod client_hello;
pub mod detect;
pub mod canonical;
pub mod identify;
pub mod authorize;
pub mod route;
pub mod balance;
pub mod hop;
pub mod handle;
pub mod guard;
pub mod failure;
pub mod snapshot;
pub mod subscription;
pub mod explain;
