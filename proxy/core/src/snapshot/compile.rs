//! How are the small parts of resources read?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use isthmus_proto::handle::HandleKey;
use isthmus_proto::resource::{self, Protocol};
use prost::Message;

use crate::authorize::Policy;
use crate::snapshot::Rejected;

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
pub(super) fn decode<M: Message + Default>(body: &Bytes) -> Result<M, String> {
    M::decode(&**body).map_err(|e| format!("does not decode: {e}"))
}

/// Compiles a policy. Fields that this proxy does not know could narrow what it allows, so a
/// policy that has them is not understood.
pub(super) fn policy(name: &str, body: &Bytes) -> Result<Policy, String> {
    let policy: resource::AccessPolicy = decode(body)?;
    if policy.encoded_len() != body.len() {
        return Err("has fields that this version does not know".to_owned());
    }
    same_name(name, &policy.name)?;
    Policy::compile(&policy).map_err(|rejected| rejected.why)
}

/// Stands in for a policy that was never understood: denies everything and says why.
pub(super) fn deny_instead(name: &str, why: &str) -> Result<Policy, Rejected> {
    Policy::compile(&resource::AccessPolicy {
        name: name.to_owned(),
        action: resource::Action::Deny.into(),
        scope: "not understood by this proxy".to_owned(),
        invalid: why.to_owned(),
        ..Default::default()
    })
}

/// The keys of a cluster.
pub(super) fn handle_keys(name: &str, body: &Bytes) -> Result<Vec<HandleKey>, String> {
    let keys: resource::HandleKeys = decode(body)?;
    same_name(name, &keys.cluster)?;
    let one = |key: &resource::HandleKey| {
        let epoch = u8::try_from(key.epoch).map_err(|_| format!("epoch {} > 255", key.epoch))?;
        let secret = <[u8; 32]>::try_from(&*key.secret)
            .map_err(|_| format!("the secret of epoch {epoch} has not 32 bytes"))?;
        Ok(HandleKey::new(epoch, secret))
    };
    keys.keys.iter().map(one).collect()
}

/// The name on the envelope must be the one inside.
pub(super) fn same_name(envelope: &str, inside: &str) -> Result<(), String> {
    if envelope == inside { Ok(()) } else { Err(format!("its content is named {inside:?}")) }
}
