//! Where do other networks reach a cluster?

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Observed, Said};

/// A gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// `spec.gatewayClassName`.
    pub class: String,
    /// `spec.addresses`, or `status.addresses` where somebody else keeps them.
    pub addresses: Vec<GatewayAddress>,
    /// The listener's port, usually 15443.
    pub port: u16,
    /// `spec.listeners`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Its status, without conditions.
    #[serde(default, skip_serializing_if = "GatewayStatus::is_empty")]
    pub status: GatewayStatus,
    /// Its conditions.
    pub observed: Observed,
}

/// Where a gateway listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// `protocol` as it is written.
    pub protocol: String,
    /// `allowedRoutes.kinds` names some.
    pub names_kinds: bool,
}

impl Gateway {
    /// The listener that is listened at, by its place: the first with TLS, else the first.
    #[must_use]
    pub fn listener(&self) -> Option<usize> {
        let tls = self.listeners.iter().position(|l| l.protocol == "TLS");
        tls.or((!self.listeners.is_empty()).then_some(0))
    }
}

/// Where a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GatewayAddress {
    /// An address.
    Ip(IpAddr),
    /// A host name, resolved by the proxies. Lower case, no trailing dot.
    Hostname(String),
}

/// What stands in the status of a Gateway, without its conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// `status.addresses`; one that can't be read counts as not written.
    pub addresses: Vec<GatewayAddress>,
    /// Somebody else keeps `status.addresses`: they count, and are left as they are.
    pub is_foreign: bool,
    /// `status.listeners`.
    pub listeners: Vec<ListenerStatus>,
}

impl GatewayStatus {
    /// Is nothing there?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is said of one listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its conditions.
    pub conditions: Vec<Said>,
}

/// How a Service leads to a gateway from outside (Gateway API, GEP-1762: its label).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayFront {
    /// The Gateway's name, in the Service's namespace.
    pub gateway: String,
    /// Its load balancer's addresses, else its external ones.
    pub addresses: Vec<GatewayAddress>,
}
