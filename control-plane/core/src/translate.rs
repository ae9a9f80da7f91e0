//! What does this client have to know?
//!
//! World × a client's scope → resources of the contract. A resource is encoded once for all the
//! clients that see it in the same way, and its version is a hash of what it says, so that what did
//! not change is not sent again, whichever replica is asked.

pub(crate) mod cache;
pub(crate) mod workload;
pub(crate) mod service;
pub(crate) mod endpoint;
pub(crate) mod direct;
pub(crate) mod attach;
pub(crate) mod route;
pub(crate) mod authorization;
pub(crate) mod gateway;
pub(crate) mod trust;
#[cfg(test)]
mod tests;

pub use self::authorization::check as check_policy;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use crate::world::table::Stamp;

/// Every type of resource, in the order in which they are sent: what is referred to goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Whom to believe.
    TrustBundle,
    /// Who may call.
    AccessPolicy,
    /// The client's own pod.
    Workload,
    /// The keys of a gateway's cluster.
    HandleKeys,
    /// What a gateway may forward to.
    ExportedEndpoint,
    /// How old what is known of a cluster is.
    ClusterFreshness,
    /// The ways between networks.
    Gateway,
    /// Names that clients call.
    Service,
    /// Addresses that serve.
    Endpoint,
    /// Which backend a request goes to.
    Route,
}

impl ResourceType {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::TrustBundle,
        Self::AccessPolicy,
        Self::Workload,
        Self::HandleKeys,
        Self::ExportedEndpoint,
        Self::ClusterFreshness,
        Self::Gateway,
        Self::Service,
        Self::Endpoint,
        Self::Route,
    ];

    /// As it stands in discovery.
    #[must_use]
    pub fn type_url(self) -> String {
        match self {
            Self::TrustBundle => resource::TrustBundle::type_url(),
            Self::AccessPolicy => resource::AccessPolicy::type_url(),
            Self::Workload => resource::Workload::type_url(),
            Self::HandleKeys => resource::HandleKeys::type_url(),
            Self::ExportedEndpoint => resource::ExportedEndpoint::type_url(),
            Self::ClusterFreshness => resource::ClusterFreshness::type_url(),
            Self::Gateway => resource::Gateway::type_url(),
            Self::Service => resource::Service::type_url(),
            Self::Endpoint => resource::Endpoint::type_url(),
            Self::Route => resource::Route::type_url(),
        }
    }

    /// The type of a URL; `None` if there is none.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The proxy of one pod.
    Sidecar,
    /// An east-west gateway of its cluster.
    Gateway,
}

/// For whom it is: the proxy of one pod, known by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub(crate) identity: SpiffeId,
    pub(crate) workload: WorkloadName,
    pub(crate) cluster: ClusterId,
    pub(crate) role: Role,
}

impl Client {
    /// Its SPIFFE ID.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Its pod.
    #[must_use]
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn namespace(&self) -> &str {
        self.workload.namespace()
    }
}

/// A hash of what a resource says, without when that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Version(u64);

impl Version {
    fn of(bytes: &[u8]) -> Self {
        Self(hash(&[bytes]))
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// Reads a version as it was sent; `None` if it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16)
            .ok()
            .map(Self)
            .filter(|v| v.to_string() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A resource, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) name: Arc<str>,
    pub(crate) version: Version,
    pub(crate) body: Bytes,
}

/// Resources with different names.
pub(crate) type List = Arc<[Encoded]>;

/// What is known in answer to a subscription.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) lists: Vec<List>,
    /// Enough is known to answer at all; else: silence.
    pub(crate) known: bool,
    /// Nothing else can belong to it: what is missing does not exist.
    pub(crate) complete: bool,
}

impl Answer {
    fn unknown() -> Self {
        Self::default()
    }

    fn complete(resources: impl IntoIterator<Item = Encoded>) -> Self {
        Self {
            lists: vec![resources.into_iter().collect()],
            known: true,
            complete: true,
        }
    }

    /// These, and there may be more.
    fn partial(resources: impl IntoIterator<Item = Encoded>) -> Self {
        Self {
            complete: false,
            ..Self::complete(resources)
        }
    }

    /// There is none, for certain.
    pub(crate) fn nothing() -> Self {
        Self {
            lists: Vec::new(),
            known: true,
            complete: true,
        }
    }

    /// All resources.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &Encoded> {
        self.lists.iter().flat_map(|list| list.iter())
    }
}

/// A message that says where and when it was seen.
pub(crate) trait HasOrigin: Message + Default {
    fn set_origin(&mut self, origin: resource::Origin);
}

macro_rules! has_origin {
    ($($message:ident),*) => {$(
        impl HasOrigin for resource::$message {
            fn set_origin(&mut self, origin: resource::Origin) {
                self.origin = Some(origin);
            }
        }
    )*};
}

has_origin!(
    Workload,
    Service,
    Endpoint,
    Route,
    AccessPolicy,
    Gateway,
    ExportedEndpoint
);

/// Encodes a resource of a cluster. The version does not count when it was seen.
pub(crate) fn encode<M: HasOrigin>(
    name: &str,
    mut message: M,
    cluster: &ClusterId,
    seen: Option<Stamp>,
) -> Encoded {
    let origin = resource::Origin {
        cluster: cluster.to_string(),
        ..resource::Origin::default()
    };
    message.set_origin(origin.clone());
    let Encoded {
        name,
        version,
        body,
    } = encode_plain(name, &message);
    let Some(seen) = seen else {
        return Encoded {
            name,
            version,
            body,
        };
    };
    message.set_origin(resource::Origin {
        observed_at: Some(seen.at.into()),
        generation: seen.generation,
        ..origin
    });
    Encoded {
        name,
        version,
        body: message.encode_to_vec().into(),
    }
}

/// Encodes a resource as it is.
pub(crate) fn encode_plain<M: Message>(name: &str, message: &M) -> Encoded {
    let body = message.encode_to_vec();
    Encoded {
        name: name.into(),
        version: Version::of(&body),
        body: body.into(),
    }
}

/// The id of a pod's endpoint in handles: stable, never 0. The world checks that it is unique.
pub(crate) fn endpoint_id(cluster: &ClusterId, namespace: &str, pod: &str) -> u64 {
    let parts = [
        "isthmus endpoint\0",
        cluster.as_str(),
        "/",
        namespace,
        "/",
        pod,
    ];
    hash(&parts.map(str::as_bytes)).max(1)
}

/// The first 64 bits of SHA-256: not for secrets, but nobody finds a second text for a hash.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part);
    }
    let digest: [u8; 32] = sha.finalize().into();
    digest
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first))
}

/// Addresses as they travel: 4 or 16 bytes.
pub(crate) fn octets(ip: std::net::IpAddr) -> Bytes {
    match ip {
        std::net::IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        std::net::IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}
