//! How are the small parts of resources read?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use isthmus_proto::ids::ServiceName;
use isthmus_proto::resource::Protocol;
use prost::Message;

use super::Rejected;
use crate::authorize::Policy;

/// 4 or 16 bytes.
pub(super) fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes)
        .map_err(|_| format!("an address has {} bytes, not 4 or 16", bytes.len()))?;
    Ok(Ipv6Addr::from(v6).into())
}

/// 1 to 65,535.
pub(super) fn port(number: u32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("port {number} is not 1 to 65,535")),
    }
}

/// A protocol that we know; unspecified is one.
pub(super) fn protocol(number: i32) -> Result<Protocol, String> {
    Protocol::try_from(number).map_err(|_| format!("protocol {number} is not known"))
}

/// The content of a resource.
pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|e| format!("does not decode: {e}"))
}

/// A policy with every field understood: one that is not could narrow what it allows.
pub(super) fn policy(name: &str, body: &[u8]) -> Result<Policy, String> {
    let policy = Policy::decode(body).map_err(|rejected| rejected.why)?;
    same_name(name, policy.name())?;
    Ok(policy)
}

/// The name on the envelope must be the one inside.
pub(super) fn same_name(envelope: &str, inside: &str) -> Result<(), String> {
    if envelope == inside {
        Ok(())
    } else {
        Err(format!("its content is named {inside:?}"))
    }
}

/// The parent of a resource of this name.
pub(super) fn service_name(resource: &str, service: &str) -> Result<ServiceName, Rejected> {
    service.parse().map_err(|e| Rejected {
        name: resource.to_owned(),
        why: format!("parent {e}"),
    })
}

/// The parent in the name must be the one inside.
pub(super) fn same_parent(envelope: &str, inside: &str) -> Result<(), String> {
    if envelope == inside {
        Ok(())
    } else {
        Err(format!(
            "its name says service {envelope:?}, its content {inside:?}"
        ))
    }
}
