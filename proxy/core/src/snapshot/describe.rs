//! What does a snapshot hold, in words?
//!
//! Plain values for people and for JSON. Two snapshots of equal content describe equally; the
//! generation stands beside the content.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource::Protocol;

use super::cluster::{ClusterFreshness, Freshness, KindFreshness};
use super::own::InboundMode;
use super::service::{Scope, Service};
use super::{Generation, Snapshot};
use crate::authorize::PolicySet;
use crate::balance::{Endpoint, Health, StatsView, Ticks};
use crate::hop::GatewayAddress;

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Which snapshot.
    pub generation: Generation,
    /// What it holds.
    pub content: Content,
}

/// The tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The proxy's cluster, network, region and zone.
    pub place: [String; 4],
    /// The proxy's own pod. `None`: not heard of yet.
    pub own: Option<OwnView>,
    /// Names of the policies. `None`: none was heard of yet, so everything is denied.
    pub policies: Option<Vec<PolicyView>>,
    /// Trust domains, the number of their roots, and the sequence of their bundle.
    pub trust: Vec<(String, usize, u64)>,
    /// The gateways.
    pub gateways: Vec<GatewayView>,
    /// How fresh the news of each cluster is.
    pub clusters: Vec<ClusterView>,
    /// The services, by name.
    pub services: Vec<ServiceView>,
    /// How many endpoints a gateway may forward to.
    pub exports: usize,
    /// The epochs of the handle keys, newest first.
    pub handle_epochs: Vec<u8>,
}

/// The proxy's own pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnView {
    /// `cluster/namespace/pod`.
    pub name: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports, what they speak, and which services lead to them (`name:port`).
    pub ports: Vec<(u16, &'static str, Vec<String>)>,
    /// Does inbound accept plaintext?
    pub permissive: bool,
    /// Does the mesh deny what is no service?
    pub passthrough_denied: bool,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyView {
    /// Its name in discovery.
    pub name: String,
    /// Why it denies everything: it was not understood.
    pub invalid: Option<String>,
}

/// A gateway, as discovery describes it and as this proxy has measured it.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayView {
    /// `cluster/namespace/name`.
    pub name: String,
    /// Whose pods it reaches.
    pub cluster: String,
    /// The network behind it.
    pub network: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// How connecting through it went, where a time was given.
    pub stats: Option<StatsView>,
}

/// A cluster's freshness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// The cluster.
    pub name: String,
    /// Its state.
    pub state: Freshness,
    /// When it was last confirmed.
    pub confirmed_at: Option<SystemTime>,
    /// Why it is not fresh.
    pub reason: String,
    /// Kinds that are not as fresh as the rest.
    pub kinds: BTreeMap<String, KindFreshness>,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// `namespace/hostname`.
    pub name: String,
    /// Every name that means it.
    pub hostnames: Vec<String>,
    /// Its virtual addresses, as `network/address`.
    pub addresses: Vec<String>,
    /// Port, name and protocol.
    pub ports: Vec<(u16, String, &'static str)>,
    /// Only endpoints of the own cluster?
    pub local_only: bool,
    /// The routes that hang on it. `None`: not heard of yet.
    pub routes: Option<Vec<String>>,
    /// Who answers. `None`: not heard of yet.
    pub endpoints: Option<Vec<EndpointView>>,
}

/// An endpoint, as discovery describes it and as this proxy has measured it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// `cluster/namespace/pod`.
    pub name: String,
    /// Its cluster, network, region and zone.
    pub place: [String; 4],
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Who must answer.
    pub identity: Option<String>,
    /// Relative.
    pub weight: u32,
    /// What discovery says of its health.
    pub health: &'static str,
    /// Its mesh port. `None`: plain only.
    pub tunnel_port: Option<u16>,
    /// Can it be reached through a gateway?
    pub exported: bool,
    /// Measurements, where a time was given.
    pub stats: Option<StatsView>,
}

impl Snapshot {
    /// Describes everything. `now`: with the measurements as of then; `None`: without them.
    #[must_use]
    pub fn describe(&self, now: Option<Ticks>) -> Described {
        let mut described = self.describe_besides_services(now);
        let services = self.services.iter().map(|s| describe_service(s, now));
        described.content.services = services.collect();
        described
    }

    /// Describes everything but the services, which may be very many.
    #[must_use]
    pub fn describe_besides_services(&self, now: Option<Ticks>) -> Described {
        let content = Content {
            place: [
                self.me.cluster.to_string(),
                self.me.network.to_string(),
                self.me.locality.region.clone(),
                self.me.locality.zone.clone(),
            ],
            own: self.describe_own(),
            policies: match &*self.policies {
                PolicySet::Unknown => None,
                PolicySet::Known(table) => Some(
                    table
                        .policies()
                        .iter()
                        .map(|policy| PolicyView {
                            name: policy.name().to_owned(),
                            invalid: policy.invalid().map(ToOwned::to_owned),
                        })
                        .collect(),
                ),
            },
            trust: self
                .trust
                .iter()
                .map(|t| (t.trust_domain().to_string(), t.roots().len(), t.sequence()))
                .collect(),
            gateways: self.describe_gateways(now),
            clusters: self.describe_clusters(),
            services: Vec::new(),
            exports: self.exports.len(),
            handle_epochs: self.handle_keys.iter().map(|key| key.epoch()).collect(),
        };
        Described {
            generation: self.generation,
            content,
        }
    }

    fn describe_own(&self) -> Option<OwnView> {
        let own = self.own.as_ref()?;
        let ports = own.ports.iter().map(|(number, port)| {
            let services = port
                .services
                .iter()
                .map(|(name, port)| format!("{name}:{port}"));
            (*number, protocol_name(port.protocol), services.collect())
        });
        Some(OwnView {
            name: own.name.to_string(),
            identity: own.identity.to_string(),
            addresses: own.addresses.clone(),
            ports: ports.collect(),
            permissive: own.inbound_mode == InboundMode::Permissive,
            passthrough_denied: own.passthrough_denied,
        })
    }

    fn describe_gateways(&self, now: Option<Ticks>) -> Vec<GatewayView> {
        let mut views: Vec<GatewayView> = self
            .gateways
            .all()
            .iter()
            .map(|gateway| GatewayView {
                name: gateway.name.to_string(),
                cluster: gateway.cluster.to_string(),
                network: gateway.network.to_string(),
                addresses: gateway.addresses.iter().map(gateway_address).collect(),
                stats: now.map(|now| gateway.stats.view(now)),
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// How fresh the news of each cluster is.
    #[must_use]
    pub fn describe_clusters(&self) -> Vec<ClusterView> {
        let view = |(name, cluster): (&ClusterId, &ClusterFreshness)| ClusterView {
            name: name.to_string(),
            state: cluster.state,
            confirmed_at: cluster.confirmed_at,
            reason: cluster.reason.clone(),
            kinds: cluster.kinds.clone(),
        };
        self.clusters.iter().map(view).collect()
    }
}

/// Describes one service.
#[must_use]
pub fn describe_service(service: &Service, now: Option<Ticks>) -> ServiceView {
    let ports = service.ports.iter().map(|port| {
        (
            port.port,
            port.name.to_string(),
            protocol_name(port.protocol),
        )
    });
    let addresses = service
        .addresses
        .iter()
        .map(|(network, ip)| format!("{network}/{ip}"));
    ServiceView {
        name: service.name.to_string(),
        hostnames: service.hostnames.iter().map(ToString::to_string).collect(),
        addresses: addresses.collect(),
        ports: ports.collect(),
        local_only: service.scope == Scope::Cluster,
        routes: service
            .routes_known
            .then(|| service.routes.names().map(ToOwned::to_owned).collect()),
        endpoints: service.endpoints.known().map(|set| {
            set.endpoints()
                .iter()
                .map(|endpoint| describe_endpoint(endpoint, now))
                .collect()
        }),
    }
}

/// Describes one endpoint.
#[must_use]
pub fn describe_endpoint(endpoint: &Endpoint, now: Option<Ticks>) -> EndpointView {
    EndpointView {
        name: endpoint.name.to_string(),
        place: [
            endpoint.cluster.to_string(),
            endpoint.network.to_string(),
            endpoint.locality.region.clone(),
            endpoint.locality.zone.clone(),
        ],
        addresses: endpoint.addresses.to_vec(),
        identity: endpoint.identity.as_ref().map(ToString::to_string),
        weight: endpoint.weight,
        health: health_name(endpoint.health),
        tunnel_port: endpoint.tunnel_port,
        exported: endpoint.handle.is_some(),
        stats: now.map(|now| endpoint.stats.view(now)),
    }
}

fn gateway_address(address: &GatewayAddress) -> String {
    match address {
        GatewayAddress::Ip(address) => address.to_string(),
        GatewayAddress::Hostname(name, port) => format!("{name}:{port}"),
    }
}

/// In lower case.
#[must_use]
pub fn health_name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Draining => "draining",
        Health::Unhealthy => "unhealthy",
    }
}

/// In lower case; `auto` where nothing is declared.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified => "auto",
        Protocol::Tcp => "tcp",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
    }
}
