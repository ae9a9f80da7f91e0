//! What do operators declare?
//!
//! The shell reads manifests or watches an API server, and hands over these types: parsed once,
//! complete, and without the format that they came in. What could not be understood stays visible
//! (`invalid`), because a condition that is dropped would widen a rule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use isthmus_proto::ids::{ClusterId, Namespace, NetworkId, is_label};
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;

/// The namespace whose owners speak for the whole cluster: policies for a cluster or for the mesh,
/// and gateways, are heard only from here.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";
/// The class of Gateway objects that are east-west gateways of this mesh; others are ignored.
pub const GATEWAY_CLASS: &str = "isthmus-east-west";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The kinds of objects that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// `isthmus.dev` MeshCluster.
    MeshCluster,
    /// `isthmus.dev` AccessPolicy.
    AccessPolicy,
    /// `isthmus.dev` TrafficPolicy.
    TrafficPolicy,
}

impl Kind {
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
            Self::MeshCluster => "MeshCluster",
            Self::AccessPolicy => "AccessPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
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
    /// Its namespace; `None` for kinds that have none (Namespace, MeshCluster).
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

/// What a source tells, in order, for each cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A full list begins. What was known stays until `InitDone`.
    Init {
        /// Of this cluster.
        cluster: ClusterId,
    },
    /// An object is there, or has changed.
    Apply(Object),
    /// An object is gone.
    Delete(ObjectRef),
    /// The list is complete: what it did not name is gone.
    InitDone {
        /// Of this cluster.
        cluster: ClusterId,
    },
    /// The source cannot see the cluster any more; all that was known is kept.
    Lost {
        /// This cluster.
        cluster: ClusterId,
        /// For people.
        reason: String,
    },
    /// The source has looked, and its view was right at that time (a bookmark, a quiet rescan).
    Confirmed {
        /// This cluster.
        cluster: ClusterId,
        /// When.
        at: SystemTime,
    },
}

/// One declared object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The cluster whose API or folder holds it.
    pub cluster: ClusterId,
    /// Its namespace; `None` for kinds that have none.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: String,
    /// When it was created; `None` is treated as younger than every known time.
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
#[derive(Debug, Clone, PartialEq)]
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
    ServiceExport,
    /// The service of this name, as this cluster imports it.
    ServiceImport(ServiceImport),
    /// A route of any kind; its kind is inside.
    Route(Route),
    /// Permission to refer into this namespace.
    ReferenceGrant(ReferenceGrant),
    /// A gateway.
    Gateway(Gateway),
    /// The cluster itself.
    MeshCluster(MeshCluster),
    /// Who may call.
    AccessPolicy(AccessPolicy),
    /// How calls are treated.
    TrafficPolicy(TrafficPolicy),
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
            Self::ServiceExport => Kind::ServiceExport,
            Self::ServiceImport(_) => Kind::ServiceImport,
            Self::Route(route) => route.kind.kind(),
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Gateway(_) => Kind::Gateway,
            Self::MeshCluster(_) => Kind::MeshCluster,
            Self::AccessPolicy(_) => Kind::AccessPolicy,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
        }
    }
}

/// A pod: one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Has a sidecar of this mesh. In manifests: not `isthmus.dev/inject: "false"`, and not
    /// `isthmus.dev/mesh: "false"`.
    pub meshed: bool,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name; ports without one need not be listed.
    pub name: String,
    /// Its number.
    pub port: u16,
}

/// What kind of service it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// May be empty if there is one port only.
    pub name: String,
    /// What clients call.
    pub port: u16,
    /// What the pods serve on.
    pub target: TargetPort,
    /// From `appProtocol`; where absent from the port's name prefix, as the mesh's users know it.
    pub protocol: resource::Protocol,
}

/// Where a service's port leads in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// This port.
    Number(u16),
    /// The container port of this name.
    Name(String),
}

/// A part of a service's endpoints, all of one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The service, from `kubernetes.io/service-name`, in the slice's namespace.
    pub service: String,
    /// Ports of all endpoints here; names are those of the service's ports.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port.
    pub name: String,
    /// The pods' port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceImport {
    /// Virtual addresses in this cluster (`spec.ips`). Empty: only its host name leads to it.
    pub ips: Vec<IpAddr>,
}

/// The kind of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TCPRoute.
    Tcp,
    /// TLSRoute.
    Tls,
}

impl RouteKind {
    /// The kind of object.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Http => Kind::HttpRoute,
            Self::Grpc => Kind::GrpcRoute,
            Self::Tcp => Kind::TcpRoute,
            Self::Tls => Kind::TlsRoute,
        }
    }
}

/// A route. Only parents that are services or imports count; others are left out by the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Host names that it is for; empty: every host.
    pub hostnames: Vec<String>,
    /// The rules. Backends carry service names as [`ServiceRef::service_name`] makes them; a
    /// backend that is no service or import has an empty one. References into other namespaces are
    /// checked against grants by the core.
    pub rules: Vec<resource::RouteRule>,
    /// Why it could not be understood; such a route is not sent, and a condition says so.
    pub invalid: Option<String>,
}

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The service. In another namespace than the route's: the route is for the clients of the
    /// route's namespace only (GAMMA's consumer route).
    pub service: ServiceRef,
    /// Only this port; `None`: every port.
    pub port: Option<u16>,
}

/// A service, as a manifest refers to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRef {
    /// `kind: Service` or `kind: ServiceImport`.
    pub reach: Reach,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

/// How far a service's name reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// A Service: what the client's own cluster has.
    Cluster,
    /// A ServiceImport: what all clusters export.
    Clusterset,
}

impl Reach {
    /// What stands behind `name.namespace.` in host names.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Cluster => "svc.cluster.local",
            Self::Clusterset => "svc.clusterset.local",
        }
    }
}

impl ServiceRef {
    /// The name in discovery: `shop/cart.shop.svc.cluster.local`.
    #[must_use]
    pub fn service_name(&self) -> String {
        let Self {
            reach,
            namespace,
            name,
        } = self;
        format!("{namespace}/{name}.{namespace}.{}", reach.suffix())
    }

    /// The service of a name as [`Self::service_name`] makes it; `None`: it is no such name.
    #[must_use]
    pub fn of_service_name(text: &str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let (name, rest) = host.split_once('.')?;
        let suffix = rest.strip_prefix(namespace)?.strip_prefix('.')?;
        let reach = [Reach::Cluster, Reach::Clusterset]
            .into_iter()
            .find(|r| r.suffix() == suffix)?;
        let namespace = namespace.parse().ok()?;
        is_label(name).then(|| Self {
            reach,
            namespace,
            name: name.to_owned(),
        })
    }
}

/// Permission for objects of other namespaces to refer to services of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Any of them: the kind of the referring object, and its namespace.
    pub from: Vec<(Kind, Namespace)>,
    /// Any of them: the kind that is referred to, and its name; `None`: all of that kind.
    pub to: Vec<(Kind, Option<String>)>,
}

/// A gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gateway {
    /// `spec.gatewayClassName`.
    pub class: String,
    /// `status.addresses`, or `spec.addresses` where there is no status.
    pub addresses: Vec<GatewayAddress>,
    /// The listener's port, usually 15443.
    pub port: u16,
}

/// Where a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayAddress {
    /// An address.
    Ip(IpAddr),
    /// A host name, resolved by the proxies. Lower case, no trailing dot.
    Hostname(String),
}

/// The cluster itself. Without one, the cluster is on a network of its own that has its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshCluster {
    /// The network that its pods and virtual addresses are on.
    pub network: NetworkId,
    /// For pods whose place is not known.
    pub locality: Locality,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessPolicy {
    /// To whom it applies. Mesh and Cluster are heard only from [`SYSTEM_NAMESPACE`] (or from an
    /// object without namespace); elsewhere the policy is invalid in its own namespace. If the
    /// target could not be read: Namespace.
    pub target: PolicyTarget,
    /// Action and rules; name, scope, origin and `invalid` are filled in by the core. `None`: the
    /// policy only sets `inbound`.
    pub body: Option<resource::AccessPolicy>,
    /// What inbound accepts, where it says so; of several the narrowest target counts.
    pub inbound: Option<resource::InboundMode>,
    /// Why it could not be understood in full: its target denies everything.
    pub invalid: Option<String>,
}

/// To whom an access policy applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyTarget {
    /// Every workload of every cluster.
    Mesh,
    /// Every workload of the cluster.
    Cluster,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The pods behind this service of the policy's namespace.
    Service(String),
    /// The pods of the policy's namespace that have these labels. Empty: all of them.
    Workloads(Labels),
}

/// How calls to a service are treated, by clients in the policy's cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicy {
    /// The service or import, in the policy's namespace.
    pub reach: Reach,
    /// Its name.
    pub service: String,
    /// The treatment.
    pub body: resource::TrafficPolicy,
    /// Only for `Reach::Cluster`: the cluster-local name covers the endpoints that other clusters
    /// export under the same namespace and name too.
    pub cover_imported: bool,
    /// Why it could not be understood; such a policy is not used, and a condition says so.
    pub invalid: Option<String>,
}
