//! What is called, and where does it lead?

use std::net::IpAddr;

use isthmus_proto::resource;
use serde::{Deserialize, Serialize};

use crate::model::{GatewayFront, Labels, Managed, Observed, wire};

/// What Kubernetes takes where `ClientIP` affinity names no time.
pub const AFFINITY_SECONDS: u32 = 10_800;

/// What kind of service it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Has virtual addresses (ClusterIP, NodePort, LoadBalancer).
    #[default]
    ClusterIp,
    /// `clusterIP: None`.
    Headless,
    /// An alias in DNS: nothing that a mesh could balance; never imported or exported.
    ExternalName,
}

/// A service of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its type.
    pub kind: ServiceType,
    /// Virtual addresses on the cluster's network.
    pub cluster_ips: Vec<IpAddr>,
    /// Labels that a pod must have. Empty: only EndpointSlices say who serves.
    pub selector: Labels,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// Ports that are not TCP: the mesh leads nothing there, but an import lists them.
    pub others: Vec<OtherPort>,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// For how many seconds a client stays; `None`: [`AFFINITY_SECONDS`].
    pub affinity_seconds: Option<u32>,
    /// Endpoints that are not ready count as ready.
    pub publish_not_ready: bool,
    /// Which endpoints its clients prefer.
    #[serde(default, skip_serializing_if = "Spread::is_plain")]
    pub spread: Spread,
    /// Annotation `service.kubernetes.io/topology-mode`: its slices say which zone takes which endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub topology_aware: bool,
    /// `spec.ipFamilies`. Empty: not written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<IpFamily>,
    /// It leads to a gateway from outside. A box: few services do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front: Option<Box<GatewayFront>>,
    /// The mesh made it, for an import.
    pub managed: Option<Managed>,
}

/// Which endpoints the clients of a service prefer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spread {
    /// `internalTrafficPolicy: Local`: those of the client's node only.
    pub node_only: bool,
    /// `trafficDistribution` as it is written.
    pub distribution: Option<String>,
}

impl Spread {
    /// Do they prefer none?
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// `internalTrafficPolicy`, as it stands in Kubernetes.
    #[must_use]
    pub fn internal_traffic_policy(&self) -> &'static str {
        if self.node_only { "Local" } else { "Cluster" }
    }

    /// Does it ask for endpoints of the client's zone? One of the client's node is in its zone, too.
    #[must_use]
    pub fn prefers_zone(&self) -> bool {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        let distribution = self.distribution.as_deref();
        distribution.is_some_and(|word| known.contains(&word))
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpFamily {
    /// `IPv4`.
    V4,
    /// `IPv6`.
    V6,
}

impl IpFamily {
    /// As it stands in Kubernetes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Of this address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Service {
    /// For how many seconds a client stays with an endpoint; `None`: it does not.
    #[must_use]
    pub fn affinity(&self) -> Option<u32> {
        self.client_ip_affinity
            .then(|| self.affinity_seconds.unwrap_or(AFFINITY_SECONDS))
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// May be empty if there is one port only.
    pub name: String,
    /// What clients call.
    pub port: u16,
    /// What the pods serve on.
    pub target: TargetPort,
    /// From `appProtocol`; where absent from the port's name prefix, as the mesh's users know it.
    #[serde(with = "wire::number")]
    pub protocol: resource::Protocol,
    /// `appProtocol` as it is written.
    pub app_protocol: Option<String>,
}

/// What carries a port's traffic.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// As it stands in Kubernetes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A port that the mesh does not lead, or a port as an import lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OtherPort {
    /// What clients call.
    pub port: u16,
    /// What carries it.
    pub transport: Transport,
    /// May be empty if there is one port only.
    pub name: String,
    /// `appProtocol` as it is written.
    pub app_protocol: Option<String>,
}

/// Where a service's port leads in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// This port.
    Number(u16),
    /// The container port of this name.
    Name(String),
}

/// A part of a service's endpoints, all of one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// The service, from `kubernetes.io/service-name`, in the slice's namespace.
    pub service: String,
    /// Ports of all endpoints here; names are those of the service's ports.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The mesh made it, for a headless import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the service's port.
    pub name: String,
    /// The pods' port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Takes new work. Absent in the manifest: true.
    pub ready: bool,
    /// Still answers. Absent in the manifest: as `ready`.
    pub serving: bool,
    /// Is on its way out. Absent in the manifest: false.
    pub terminating: bool,
    /// The zone; empty: not known.
    pub zone: String,
    /// The pod behind it, in the slice's namespace. `None`: an address without a pod, which has no
    /// identity and is reached plainly, from its own cluster only.
    pub pod: Option<String>,
    /// The name that DNS gives it below its service's, where it has one (pods of a StatefulSet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The node that an address without a pod is on; that of a pod is the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `hints.forZones`: the zones of its cluster whose clients should take it. Empty: there is no hint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<String>,
}

/// The service of this name is offered to all clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceExport {
    /// `spec.exportedLabels`: what every import of it shall carry.
    pub labels: Labels,
    /// `spec.exportedAnnotations`.
    pub annotations: Labels,
    /// Its status.
    pub observed: Observed,
}

/// How a cluster imports a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceImport {
    /// Virtual addresses in this cluster (`spec.ips`). Empty: only its host name leads to it.
    pub ips: Vec<IpAddr>,
    /// `spec.type` is `Headless`.
    pub headless: bool,
    /// `spec.ports`.
    pub ports: Vec<OtherPort>,
    /// `spec.sessionAffinity: ClientIP`, and for how many seconds.
    pub affinity: Option<u32>,
    /// `spec.internalTrafficPolicy` and `spec.trafficDistribution`.
    #[serde(default, skip_serializing_if = "Spread::is_plain")]
    pub spread: Spread,
    /// `spec.ipFamilies`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<IpFamily>,
    /// It was read in `v1alpha1`, which may lack what `v1beta1` has: that is neither written nor
    /// missed there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_alpha: bool,
    /// The clusters that `status.clusters` names.
    pub clusters: Vec<String>,
    /// Its conditions.
    #[serde(default, skip_serializing_if = "Observed::is_empty")]
    pub observed: Observed,
    /// The mesh made it. `None`: a user's own, or another implementation's.
    pub managed: Option<Managed>,
}
