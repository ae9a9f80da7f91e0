//! How does the control plane learn, decide and tell?
//!
//! The decisions are in `isthmus-control-plane-core`; here is what reaches the outside.
//!
//! ```text
//! folder ─ manifest ─► source ─ Change ─► hub ─ Dirty ─► discovery ─► proxies
//!                                          │                 ▲ TLS (listener, trust)
//!                        writer ◄──────── World               │
//!                                          └── identity ◄── CSR + token
//! ```

pub mod config;
pub mod app;
pub mod manifest;
pub mod source;
pub mod kubernetes;
pub mod credential;
pub mod hub;
pub mod fleet;
pub mod writer;
pub mod connect;
pub mod membership;
pub mod saved;
pub mod listener;
pub mod trust;
pub mod rotation;
pub mod identity;
pub mod token;
pub mod authority;
pub mod keys;
pub mod store;
pub mod copies;
pub mod state;
pub mod discovery;
mod not_grpc;
pub mod clients;
pub mod admin;
pub mod metrics;

pub use app::run;
pub use config::Config;
pub use isthmus_control_plane_core::model::GATEWAY_CLASS;
pub use isthmus_control_plane_core::write::CONTROLLER_NAME;
