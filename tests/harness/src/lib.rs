//! What does a test of the whole mesh need?
//!
//! Real proxies, a real control plane and real sockets, in one process: every mesh has addresses of
//! its own under 127.0.0.0/8, so tests run side by side, without root. Nothing here waits for time,
//! only for states, and never for longer than a bound.
//!
//! ```text
//! Mesh::builder() ─► manifests, tokens ─► control plane ─► apps ─► sidecars, gateways ─► all ready
//!   mesh.client("east/web").http("cart").get("/")    a request through the sidecar of web
//! ```

pub mod address;
pub mod plan;
pub mod manifest;
pub mod mesh;
pub mod control;
pub mod proxy;
pub mod app;
pub mod client;
pub mod admin;
pub mod link;
pub mod packets;
pub mod front;
pub mod load;
pub mod tls;
pub mod wait;
pub mod programs;
pub mod servers;

pub use app::App;
pub use client::{Client, Reply};
pub use front::{Front, Writes};
pub use link::{Fault, Link};
pub use mesh::Mesh;
pub use servers::Server;
pub use wait::until;
