//! Which tables do all decisions of one moment read?
//!
//! A [`Snapshot`] never changes. News becomes the next one in [`SnapshotBuilder`], which shares
//! every table that stayed the same. Measurements (latency, ejection, work in flight) stand
//! beside the tables and outlive them.

pub mod update;
pub mod own;
pub mod service;
pub mod table;
pub mod cluster;
pub mod builder;
pub mod persist;
pub mod describe;
pub mod hosts;
mod compile;
mod endpoints;
mod shelf;
mod slot;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::ClusterId;

use crate::authorize::PolicySet;
use crate::balance::Me;
use crate::handle::ExportTable;
use crate::hop::GatewayTable;
use crate::identify::TrustBundles;

pub use builder::SnapshotBuilder;
pub use cluster::{ClusterFreshness, Freshness};
pub use hosts::Hosts;
pub use own::{InboundMode, OwnPort, OwnWorkload};
pub use persist::{Record, Records, Saved};
pub use service::{Known, Scope, Service, ServicePort};
pub use table::{Lookup, ServiceTable};
pub use update::{Key, Kind, Update};

/// Counts snapshots of one proxy; grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A resource that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Rejected {
    /// Its name in discovery.
    pub name: String,
    /// The rule that it breaks.
    pub why: String,
}

/// Everything that a proxy decides by, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Which one this is. 0: nothing was ever heard.
    pub generation: Generation,
    /// The proxy's own pod. `None`: not heard of yet.
    pub own: Option<Arc<OwnWorkload>>,
    /// Who may call it.
    pub policies: Arc<PolicySet>,
    /// Whom to believe.
    pub trust: Arc<TrustBundles>,
    /// The ways to other networks.
    pub gateways: Arc<GatewayTable>,
    /// How old the news of each cluster is.
    pub clusters: Arc<BTreeMap<ClusterId, ClusterFreshness>>,
    /// What can be called.
    pub services: Arc<ServiceTable>,
    /// What a gateway may forward to.
    pub exports: Arc<ExportTable>,
    /// How a gateway checks handles, newest first.
    pub handle_keys: Arc<Vec<HandleKey>>,
    /// Where the proxy is.
    pub me: Me,
}

impl Snapshot {
    /// Knows nothing; denies everything.
    #[must_use]
    pub fn empty(me: Me) -> Self {
        Self {
            generation: Generation(0),
            own: None,
            policies: Arc::new(PolicySet::Unknown),
            trust: Arc::default(),
            gateways: Arc::default(),
            clusters: Arc::default(),
            services: Arc::default(),
            exports: Arc::default(),
            handle_keys: Arc::default(),
            me,
        }
    }

    /// May others call our workload without mutual TLS? Not before it is said.
    #[must_use]
    pub fn takes_plaintext(&self) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.inbound_mode == InboundMode::Permissive)
    }
}

#[cfg(test)]
pub(crate) mod tests;
