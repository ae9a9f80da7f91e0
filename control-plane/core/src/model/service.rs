//! What is called, and where does it lead?

use std::net::IpAddr;

use isthmus_proto::resource;
use serde::{Deserialize, Serialize};

use crate::model::{Labels, wire};

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
    /// Its ports; those that are neither TCP nor spoken over TCP (UDP, SCTP) are left out.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// Endpoints that are not ready count as ready.
    pub publish_not_ready: bool,
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
}

/// How a cluster imports a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceImport {
    /// Virtual addresses in this cluster (`spec.ips`). Empty: only its host name leads to it.
    pub ips: Vec<IpAddr>,
}
