//! To which pod may a gateway relay this connection?
//!
//! A gateway believes nothing but the SNI's first label, and that only if a key of its own cluster
//! made it. Whoever can't show a handle, or shows one that is not exported now, reaches nothing: no
//! lookup by a guessable name leads to a backend.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use isthmus_proto::handle::{HandleKey, InvalidHandle, verify};
use isthmus_proto::ids::{ClusterId, InvalidName, ServiceName, WorkloadName};
use isthmus_proto::resource;

use crate::snapshot::Rejected;

/// Most keys of a cluster at one time. A rotation needs two.
pub const KEYS_MAX: usize = 8;

/// Why a gateway closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The client named no server.
    #[error("no server name")]
    NoSni,
    /// The server name is not in this cluster's domain.
    #[error("the server name is not of this cluster")]
    ForeignDomain,
    /// The label before the domain is no handle that a key of this cluster made.
    #[error("invalid handle: {0}")]
    Invalid(InvalidHandle),
    /// A handle of ours, but the endpoint is not exported, or not any more.
    #[error("endpoint {0:016x} is not exported")]
    NotExported(u64),
}

impl Refused {
    /// A short name for metrics, from a fixed set.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSni => "no_sni",
            Self::ForeignDomain => "foreign_domain",
            Self::Invalid(InvalidHandle::Shape) => "handle_shape",
            Self::Invalid(InvalidHandle::Version(_)) => "handle_version",
            Self::Invalid(InvalidHandle::Epoch(_)) => "handle_epoch",
            Self::Invalid(InvalidHandle::Mac) => "handle_mac",
            Self::NotExported(_) => "not_exported",
        }
    }
}

/// The endpoint that `sni` stands for. It must be `<handle>.<cluster_domain>`, byte for byte, and
/// `cluster_domain` is `<cluster>.<mesh domain>`.
///
/// # Errors
/// See [`Refused`]. No backend may be touched then.
pub fn admit<'a>(
    sni: Option<&str>,
    cluster_domain: &str,
    keys: &[HandleKey],
    exports: &'a ExportTable,
) -> Result<&'a Export, Refused> {
    let sni = sni.ok_or(Refused::NoSni)?;
    let label = sni
        .strip_suffix(cluster_domain)
        .and_then(|rest| rest.strip_suffix('.'))
        .filter(|_| !cluster_domain.is_empty())
        .ok_or(Refused::ForeignDomain)?;
    let id = verify(label.as_bytes(), keys).map_err(Refused::Invalid)?;
    exports.get(id).ok_or(Refused::NotExported(id))
}

/// An endpoint that clients of other networks may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// As in the handle; never 0.
    pub id: u64,
    /// `cluster/namespace/pod`, for the log.
    pub workload: WorkloadName,
    /// The pod's mesh port.
    pub address: SocketAddr,
    /// The exported service that it stands behind, for metrics and log. `None`: nobody says.
    pub service: Option<ServiceName>,
}

impl Export {
    /// Checks an exported endpoint.
    ///
    /// # Errors
    /// The id or the port is 0, the port is too large, the workload's or the service's name is none,
    /// or the address is not one that a pod can have.
    pub fn compile(endpoint: &resource::ExportedEndpoint) -> Result<Self, Rejected> {
        let rejected = |why: String| Rejected {
            name: format!("{:016x}", endpoint.id),
            why,
        };
        if endpoint.id == 0 {
            return Err(rejected("id: 0 is no endpoint".into()));
        }
        let workload = endpoint
            .workload
            .parse()
            .map_err(|e: InvalidName| rejected(format!("workload: {e}")))?;
        let ip =
            pod_address(&endpoint.address).map_err(|why| rejected(format!("address: {why}")))?;
        let port = u16::try_from(endpoint.port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| rejected(format!("port: {} is not 1 to 65,535", endpoint.port)))?;
        let service = match endpoint.service.as_str() {
            "" => None,
            name => Some(
                name.parse()
                    .map_err(|e: InvalidName| rejected(format!("service: {e}")))?,
            ),
        };
        Ok(Self {
            id: endpoint.id,
            workload,
            service,
            address: SocketAddr::new(ip, port),
        })
    }
}

/// An address that a pod can have. Loopback is one, where our own is: [`Hosts`](crate::snapshot::Hosts).
fn pod_address(bytes: &[u8]) -> Result<IpAddr, String> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(Ipv4Addr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(Ipv6Addr::from(v6))
    } else {
        return Err(format!("{} bytes; 4 or 16 are an address", bytes.len()));
    };
    let kind = match ip {
        _ if ip.is_unspecified() => "unspecified",
        _ if ip.is_multicast() => "multicast",
        // Metadata services of clouds live there: 169.254.169.254.
        IpAddr::V4(v4) if v4.is_link_local() => "link-local",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "IPv4 written as IPv6",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(ip),
    };
    Err(format!("{ip} is {kind}"))
}

/// What is exported now, by endpoint id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportTable {
    by_id: BTreeMap<u64, Arc<Export>>,
}

impl ExportTable {
    /// A table of checked exports. Of two with one id, the later counts.
    #[must_use]
    pub fn new(exports: impl IntoIterator<Item = Arc<Export>>) -> Self {
        Self {
            by_id: exports
                .into_iter()
                .map(|export| (export.id, export))
                .collect(),
        }
    }

    /// Checks exports and keeps the good ones; says which were refused, and why.
    pub fn compile<'a>(
        endpoints: impl IntoIterator<Item = &'a resource::ExportedEndpoint>,
    ) -> (Self, Vec<Rejected>) {
        let mut table = Self::default();
        let mut refused = Vec::new();
        for endpoint in endpoints {
            match Export::compile(endpoint) {
                Ok(export) if table.get(export.id).is_some_and(|held| *held != export) => {
                    refused.push(Rejected {
                        name: format!("{:016x}", export.id),
                        why: format!("id: taken by another endpoint than {}", export.workload),
                    });
                }
                Ok(export) => {
                    table.by_id.insert(export.id, Arc::new(export));
                }
                Err(rejected) => refused.push(rejected),
            }
        }
        (table, refused)
    }

    /// The export with this id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Export> {
        self.by_id.get(&id).map(Arc::as_ref)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.by_id.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Is nothing exported?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// The keys that make and check a cluster's handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandleKeys {
    /// Whose.
    pub cluster: ClusterId,
    /// Newest first; each of another epoch. Empty: no handle is valid.
    pub keys: Vec<HandleKey>,
}

impl HandleKeys {
    /// Checks a cluster's keys. What is refused never shows a secret.
    ///
    /// # Errors
    /// The cluster's name is none; too many keys; an epoch above 255 or there twice; a secret that
    /// is not 32 bytes, or all zeros.
    pub fn compile(keys: &resource::HandleKeys) -> Result<Self, Rejected> {
        let rejected = |why: String| Rejected {
            name: keys.cluster.clone(),
            why,
        };
        let cluster = keys
            .cluster
            .parse()
            .map_err(|e: InvalidName| rejected(format!("cluster: {e}")))?;
        if keys.keys.len() > KEYS_MAX {
            return Err(rejected(format!(
                "keys: {}; at most {KEYS_MAX} are allowed",
                keys.keys.len()
            )));
        }
        let mut compiled: Vec<HandleKey> = Vec::with_capacity(keys.keys.len());
        for (at, key) in keys.keys.iter().enumerate() {
            let key = handle_key(key).map_err(|why| rejected(format!("keys[{at}].{why}")))?;
            if compiled.iter().any(|held| held.epoch() == key.epoch()) {
                return Err(rejected(format!(
                    "keys[{at}].epoch: {} is there twice",
                    key.epoch()
                )));
            }
            compiled.push(key);
        }
        Ok(Self {
            cluster,
            keys: compiled,
        })
    }
}

fn handle_key(key: &resource::HandleKey) -> Result<HandleKey, String> {
    let epoch =
        u8::try_from(key.epoch).map_err(|_| format!("epoch: {} is above 255", key.epoch))?;
    let secret: [u8; 32] = key
        .secret
        .as_ref()
        .try_into()
        .map_err(|_| format!("secret: {} bytes; it must be 32", key.secret.len()))?;
    if secret == [0; 32] {
        return Err("secret: all zeros".into());
    }
    Ok(HandleKey::new(epoch, secret))
}

#[cfg(test)]
mod tests;
