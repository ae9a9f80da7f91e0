//! The data plane: a sidecar beside each application, a gateway between networks.
//!
//! Acts are here, decisions in `isthmus-proxy-core`; a step has the same name in both. The modules
//! in the order of a connection's journey:
//!
//! ```text
//! accept ─► detect ─► identify ─► (authorize) ─► (route) ─► (balance) ─► connect ─► relay / exchange
//!   inbound.rs, outbound.rs and gateway.rs read in this order: start there.
//! ```

pub mod config;
pub mod app;
pub mod runtime;
pub mod worker;

pub mod inbound;
pub mod outbound;
pub mod gateway;

pub mod accept;
pub mod detect;
pub mod hands;
pub mod hints;
pub mod race;
pub mod identify;
pub mod http;
pub mod exchange;
pub mod connect;
pub mod tunnel;
pub mod pool;
pub mod sessions;
pub mod keepalive;
pub mod relay;
pub mod finish;

pub mod stream;
pub mod tcp;
pub mod h1;
pub mod h2;
pub mod transport;
pub mod buffer;
pub mod notify;

pub mod tls;
pub mod certificates;
pub mod control;
pub mod discovery;
pub mod connections;
pub mod admin;
pub mod telemetry;
pub mod files;

pub use app::run;
pub use config::Config;
