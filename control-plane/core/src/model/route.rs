//! How are calls led on, and what may refer to what?

use isthmus_proto::ids::{Namespace, is_label};
use isthmus_proto::resource;
use serde::{Deserialize, Serialize};

use crate::model::{Kind, Parent, ParentStatus, wire};

/// The kind of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Server names that a TLSRoute is for; empty: every one. Other kinds ignore theirs (GEP-1294).
    pub hostnames: Vec<String>,
    /// The rules. Backends carry service names as [`ServiceRef::service_name`] makes them; a
    /// backend that is no service or import has an empty one. References into other namespaces are
    /// checked against grants by the core. Empty: every call fails.
    #[serde(with = "wire::list")]
    pub rules: Vec<resource::RouteRule>,
    /// Why no rule of it could be understood in full. It is sent nevertheless, and fails every call
    /// that it means: else they would pass by what it asks for.
    pub invalid: Option<String>,
    /// It is invalid because of filters that exclude each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incompatible: bool,
    /// Rules that could not be understood in full, and why, while others could. They are among
    /// `rules` without backends, and answer with an error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// Parts that are left out, and why: rules of which it is not known which requests they mean.
    pub dropped: Vec<String>,
    /// What is used with another value than the one that is written, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<String>,
    /// `metadata.generation`; 0: not known.
    pub generation: i64,
    /// What the mesh had written in its status.
    pub statuses: Vec<ParentStatus>,
}

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    /// The service. In another namespace than the route's: the route is for the clients of the
    /// route's namespace only (GAMMA's consumer route).
    pub service: ServiceRef,
    /// Only this port; `None`: every port.
    pub port: Option<u16>,
    /// Only the port of this name; `None`: every port.
    pub section: Option<String>,
    /// The manifest names the namespace, even if it is the route's own.
    pub explicit: bool,
}

impl ParentRef {
    /// As the manifest has it.
    #[must_use]
    pub fn written(&self) -> Parent {
        Parent {
            reach: self.service.reach,
            namespace: self.explicit.then(|| self.service.namespace.to_string()),
            name: self.service.name.clone(),
            section: self.section.clone(),
            port: self.port,
        }
    }
}

/// A service, as a manifest refers to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceRef {
    /// `kind: Service` or `kind: ServiceImport`.
    pub reach: Reach,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

/// How far a service's name reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceGrant {
    /// Any of them: the kind of the referring object, and its namespace.
    pub from: Vec<(Kind, Namespace)>,
    /// Any of them: the kind that is referred to, and its name; `None`: all of that kind.
    pub to: Vec<(Kind, Option<String>)>,
}
