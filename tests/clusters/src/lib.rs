//! How does a program get a Kubernetes cluster of its own, on a laptop and without root?
//!
//! etcd and kube-apiserver as processes on loopback: a real API with real watches, and nobody who
//! runs pods. Whoever wants pods writes their status, as a kubelet would.
//!
//! ```text
//! Programs::find() ─► Cluster::start("east", ..) ─► cluster.admin().apply_text(yaml)
//!                        │                          cluster.kubeconfig(..), cluster.token(..)
//!                        └ cluster.api().kill() / .stop() / .resume() / .restart()
//! ```
//!
//! Nothing outlives the owner, however it ends: see [`guard`].

pub mod programs;
pub mod cluster;
pub mod pki;
pub mod guard;
pub mod admin;
pub mod manifest;
mod gateway_api;
pub mod crds;
pub mod kubeconfig;
pub mod token;
mod ports;
mod wait;

pub use admin::Admin;
pub use cluster::{Cluster, Settings};
pub use guard::Guarded;
pub use programs::{Programs, skipped};
