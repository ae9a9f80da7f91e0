//! What do operators declare?
//!
//! The shell reads manifests or watches an API server, and hands over these types: parsed once,
//! complete, and without the format that they came in. What could not be understood stays visible
//! (`invalid`), because a condition that is dropped would widen a rule.

mod change;
mod governs;
mod service;
mod route;
mod policy;
mod cluster;
mod gateway;
mod status;
mod roots;
mod wire;

pub use change::{Change, KindFreshness, POSITIONED};
pub use cluster::{CLUSTER_ID_PROPERTY, CLUSTER_SET_PROPERTY, ClusterProperty, GatewayClass};
pub use gateway::{Gateway, GatewayAddress, GatewayFront, GatewayStatus, Listener, ListenerStatus};
pub use governs::Governs;
pub use policy::{AccessPolicy, NOT_TAKEN, PolicyTarget, TrafficPolicy, TrustPolicy};
pub use roots::{Advertised, ConfigMap, ROOTS_NAME};
pub use route::{ParentRef, Reach, ReferenceGrant, Route, RouteKind, ServiceRef};
pub use service::{
    AFFINITY_SECONDS, EndpointSlice, IpFamily, OtherPort, Service, ServiceExport, ServiceImport,
    ServicePort, ServiceType, SliceEndpoint, SlicePort, Spread, TargetPort, Transport,
};
pub use status::{
    MANAGED_BY, MANAGED_LABEL, Managed, Observed, Parent, ParentStatus, Refusal, Said, Truth,
};
pub(crate) use status::{folded_hold, short_hash};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use isthmus_proto::ids::{ClusterId, Namespace, NetworkId, is_dns_name, is_object_name};
use isthmus_proto::locality::Locality;
use isthmus_proto::range::IpRange;
use isthmus_proto::spiffe::TrustDomain;
use serde::{Deserialize, Serialize};

pub use crate::quota::Allotment;

/// The namespace whose owners speak for the whole cluster: policies for a cluster or for the mesh,
/// and gateways, are heard only from here.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";
/// The class of Gateway objects that are east-west gateways of this mesh, where no GatewayClass of this
/// name says otherwise; and each class that names this mesh as its controller. Others are ignored.
pub const GATEWAY_CLASS: &str = "isthmus-east-west";

/// The last tier of clusters.
pub const PRIORITY_MAX: u32 = 9;
/// The highest price of a GiB, in thousandths of the currency's unit.
pub const PRICE_MAX: u32 = 10_000;
/// What a tier is worth, in ms of latency: a lower one is left only where it is full or gone.
const TIER_MS: u32 = 100;
/// The price of a GiB that is worth 1 ms of a call's latency, in thousandths of the currency's unit.
const PRICE_OF_A_MS: u32 = 2;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The kinds of objects that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` Pod.
    Pod,
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `multicluster.x-k8s.io` ServiceExport.
    ServiceExport,
    /// `multicluster.x-k8s.io` ServiceImport.
    ServiceImport,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io` ReferenceGrant.
    ReferenceGrant,
    /// `gateway.networking.k8s.io` Gateway.
    Gateway,
    /// `gateway.networking.k8s.io` GatewayClass.
    GatewayClass,
    /// `about.k8s.io` ClusterProperty.
    ClusterProperty,
    /// `isthmus.dev` MeshCluster.
    MeshCluster,
    /// `multicluster.x-k8s.io` ClusterProfile.
    ClusterProfile,
    /// `isthmus.dev` AccessPolicy.
    AccessPolicy,
    /// `isthmus.dev` TrafficPolicy.
    TrafficPolicy,
    /// `isthmus.dev` TrustPolicy.
    TrustPolicy,
    /// `v1` ConfigMap, of the one name by which pods find the control plane.
    ConfigMap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Pod,
        Self::Deployment,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceExport,
        Self::ServiceImport,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::Gateway,
        Self::GatewayClass,
        Self::ClusterProperty,
        Self::MeshCluster,
        Self::ClusterProfile,
        Self::AccessPolicy,
        Self::TrafficPolicy,
        Self::TrustPolicy,
        Self::ConfigMap,
    ];

    /// The name of the kind in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceExport => "ServiceExport",
            Self::ServiceImport => "ServiceImport",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::ClusterProperty => "ClusterProperty",
            Self::MeshCluster => "MeshCluster",
            Self::ClusterProfile => "ClusterProfile",
            Self::AccessPolicy => "AccessPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::TrustPolicy => "TrustPolicy",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// Can an object of this kind have the name? What makes names in DNS has one that fits there.
    #[must_use]
    pub fn has_name(self, name: &str) -> bool {
        match self {
            Self::Namespace | Self::Service | Self::ServiceExport | Self::ServiceImport => {
                is_dns_name(name)
            }
            Self::ServiceAccount
            | Self::Pod
            | Self::Deployment
            | Self::EndpointSlice
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant
            | Self::Gateway
            | Self::GatewayClass
            | Self::ClusterProperty
            | Self::MeshCluster
            | Self::ClusterProfile
            | Self::AccessPolicy
            | Self::TrafficPolicy
            | Self::TrustPolicy
            | Self::ConfigMap => is_object_name(name),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The cluster whose API or folder holds it.
    pub cluster: ClusterId,
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for kinds that have none (Namespace, GatewayClass, ClusterProperty, MeshCluster, TrustPolicy).
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    /// `east: Service shop/cart`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ", self.cluster, self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// One declared object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// The cluster whose API or folder holds it.
    pub cluster: ClusterId,
    /// Its namespace; `None` for kinds that have none.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: String,
    /// When it was created; `None` is treated as younger than every known time.
    #[serde(with = "wire::time")]
    pub created: Option<SystemTime>,
    /// What it says.
    pub spec: Spec,
}

impl Object {
    /// Which object this is.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            cluster: self.cluster.clone(),
            kind: self.spec.kind(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Spec {
    /// A namespace and its labels.
    Namespace(Labels),
    /// A service account: for people; identities are made of names.
    ServiceAccount,
    /// A pod.
    Pod(Pod),
    /// A deployment: for people; pods are what counts.
    Deployment,
    /// A service.
    Service(Service),
    /// A part of a service's endpoints.
    EndpointSlice(EndpointSlice),
    /// The service of this name is offered to all clusters.
    ServiceExport(ServiceExport),
    /// The service of this name, as this cluster imports it.
    ServiceImport(ServiceImport),
    /// A route of any kind; its kind is inside.
    Route(Route),
    /// Permission to refer into this namespace.
    ReferenceGrant(ReferenceGrant),
    /// A gateway.
    Gateway(Gateway),
    /// Whose the Gateways of a class are.
    GatewayClass(GatewayClass),
    /// A fact that a cluster states of itself.
    ClusterProperty(ClusterProperty),
    /// The cluster itself.
    MeshCluster(MeshCluster),
    /// A cluster, as an inventory lists it.
    ClusterProfile(ClusterProfile),
    /// Who may call.
    AccessPolicy(AccessPolicy),
    /// How calls are treated.
    TrafficPolicy(TrafficPolicy),
    /// Who is not believed any more.
    TrustPolicy(TrustPolicy),
    /// How pods find the control plane.
    ConfigMap(ConfigMap),
}

impl Spec {
    /// The kind of object that says this.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::ServiceAccount => Kind::ServiceAccount,
            Self::Pod(_) => Kind::Pod,
            Self::Deployment => Kind::Deployment,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ServiceExport(_) => Kind::ServiceExport,
            Self::ServiceImport(_) => Kind::ServiceImport,
            Self::Route(route) => route.kind.kind(),
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Gateway(_) => Kind::Gateway,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::ClusterProperty(_) => Kind::ClusterProperty,
            Self::MeshCluster(_) => Kind::MeshCluster,
            Self::ClusterProfile(_) => Kind::ClusterProfile,
            Self::AccessPolicy(_) => Kind::AccessPolicy,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::TrustPolicy(_) => Kind::TrustPolicy,
            Self::ConfigMap(_) => Kind::ConfigMap,
        }
    }
}

/// A pod: one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Labels, for selectors.
    pub labels: Labels,
    /// The service account; `default` where the manifest names none.
    pub service_account: String,
    /// Addresses; empty while the pod has none.
    pub ips: Vec<IpAddr>,
    /// The Ready condition.
    pub ready: bool,
    /// Has a deletion timestamp.
    pub terminating: bool,
    /// Succeeded or failed: it will never serve again.
    pub finished: bool,
    /// Named container ports, for services whose target port is a name.
    pub ports: Vec<ContainerPort>,
    /// From the node's `topology.kubernetes.io` labels (or the pod's own); empty parts are filled
    /// from the MeshCluster.
    pub locality: Locality,
    /// `metadata.uid`; `None`: the manifest has none.
    // Left out where it is not known: as it was written before there was such a field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The node that it runs on; `None`: none yet, or a manifest that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Has a sidecar of this mesh. In a cluster: its container, or `isthmus.dev/mesh: "true"`; in a folder:
    /// every pod. Nowhere with `isthmus.dev/inject: "false"` or `isthmus.dev/mesh: "false"`.
    pub meshed: bool,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Its name; ports without one need not be listed.
    pub name: String,
    /// Its number.
    pub port: u16,
}

/// The cluster itself. Without one, the cluster is on a network of its own that has its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCluster {
    /// The network that its pods and virtual addresses are on.
    pub network: NetworkId,
    /// Where its pods' addresses are; empty: nobody says.
    // Left out where nobody says: as it was written before there was such a field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_ranges: Vec<IpRange>,
    /// For pods whose place is not known.
    pub locality: Locality,
    /// The domain of its names in DNS; `None`: [`CLUSTER_DOMAIN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,
    /// Must its sidecars refuse what is no service?
    pub passthrough_denied: bool,
    /// What its author takes the trust domain for; a condition tells if the mesh gives it another one.
    pub trust_domain: Option<TrustDomain>,
    /// Its gateways; empty: every Gateway that it declares.
    pub gateways: Vec<GatewayChoice>,
    /// Which tier it is in, for calls from other clusters: 0 is preferred. At most [`PRIORITY_MAX`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// What a GiB between it and other clusters costs, in thousandths of the currency's unit. At most
    /// [`PRICE_MAX`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub price: u32,
    /// How its API server is reached, where the cluster joined by an object.
    pub credential: Option<CredentialRef>,
    /// The Secret, in the control plane's own namespace, of which an operator hands in who signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The root that its trust domain should have, by number from 1; `None`: whichever it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<u32>,
    /// Which cluster is meant: the UID of its namespace `kube-system`, where whoever let it in has
    /// written that down.
    // Left out where it is not known: as it was written before there was such a field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// How much of it is taken in, where that is not as the configuration says.
    #[serde(default, skip_serializing_if = "Allotment::is_none")]
    pub quota: Allotment,
    /// Its status.
    pub observed: Observed,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it over like this"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl MeshCluster {
    /// What a call from another cluster is charged for going there, in ms: 100 for each tier, and what
    /// it pays for 16 KiB, where 0.02 for a GiB is worth 10 ms.
    #[must_use]
    pub fn charge_ms(&self) -> u32 {
        let tiers = self.priority.min(PRIORITY_MAX).saturating_mul(TIER_MS);
        tiers.saturating_add(self.price.min(PRICE_MAX) / PRICE_OF_A_MS)
    }
}

/// The domain of a cluster's names in DNS, if nobody says otherwise.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A cluster, as an inventory lists it (KEP-4322). Its credential is in a Secret that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterProfile {
    /// The cluster's name in the mesh: its property `cluster.clusterset.k8s.io` (KEP-2149), else the
    /// object's name. Any text: whoever takes it in judges it.
    pub cluster: String,
    /// Does its manager say that it does not belong to the inventory (`Joined: False`)?
    pub has_left: bool,
    /// What it says that a MeshCluster would.
    pub mesh: MeshCluster,
    /// How its API server is reached, for those who have a plugin for it (KEP-5339).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessProvider>,
}

/// One way to a cluster's API server. As whom to come is said by a plugin of the one who comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessProvider {
    /// Its name, by which a plugin is chosen.
    pub name: String,
    /// The cluster as a kubeconfig has it, in JSON.
    pub cluster: String,
}

/// A gateway that a cluster is reached by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GatewayChoice {
    /// The Gateway of this name, in a system namespace of the cluster.
    Named(String),
    /// Whatever answers there.
    At {
        /// Where.
        address: GatewayAddress,
        /// At which port.
        port: u16,
    },
}

/// Where a kubeconfig lies, in the control plane's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRef {
    /// The Secret.
    pub secret: String,
    /// The key in it.
    pub key: String,
}
