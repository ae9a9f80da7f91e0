//! Who asks, and may it ask so?

use isthmus_proto::discovery::{DeltaDiscoveryRequest, Node};
use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::spiffe::SpiffeId;
use prost_types::value::Kind as ValueKind;

use crate::session::question::{Asking, asking};
use crate::session::{
    Client, HELD_BYTES_MAX, HELD_MAX, NAME_BYTES_MAX, NAMES_MAX, ProtocolError, ResourceType, Role,
};
use crate::world::World;

impl Client {
    /// Who a client is, from its certificate and what it claims in its first request.
    ///
    /// # Errors
    /// Denied: the claim does not agree with the certificate or with what is known of the pod, or a
    /// role is claimed that is not the caller's. Invalid: the claim can't be read.
    pub fn of_node(world: &World, identity: SpiffeId, node: &Node) -> Result<Self, ProtocolError> {
        let workload: WorkloadName = node
            .id
            .parse()
            .map_err(|why| ProtocolError::Invalid(format!("node id: {why}")))?;
        let denied = |why: &str| Err(ProtocolError::Denied(format!("{identity} {why}")));
        let Some(domain) = world.trust_domain(workload.cluster()) else {
            return denied("claims a cluster that is not in the mesh");
        };
        if world.is_distrusted(workload.cluster()) {
            return denied("is of a cluster that is cut off by a TrustPolicy");
        }
        let same =
            domain == identity.trust_domain() && workload.namespace() == identity.namespace();
        if !same || (!node.cluster.is_empty() && node.cluster != workload.cluster()) {
            return denied("claims a node id of another cluster or namespace");
        }
        if world
            .identity_of(&workload)
            .is_some_and(|known| known != identity)
        {
            return denied("claims a pod of another service account");
        }
        let role = match said_role(node) {
            None | Some("sidecar") => Role::Sidecar,
            Some("gateway") if world.is_system(identity.namespace()) => Role::Gateway,
            Some("gateway") => return denied("is not in a system namespace: it can be no gateway"),
            Some(other) => return Err(ProtocolError::Invalid(format!("role {other:?}"))),
        };
        let cluster: ClusterId = workload
            .cluster()
            .parse()
            .map_err(|why| ProtocolError::Invalid(format!("node id: {why}")))?;
        Ok(Self {
            identity,
            workload,
            cluster,
            role,
        })
    }
}

fn said_role(node: &Node) -> Option<&str> {
    match node.metadata.as_ref()?.fields.get("role")?.kind.as_ref()? {
        ValueKind::StringValue(role) => Some(role),
        ValueKind::NullValue(_)
        | ValueKind::NumberValue(_)
        | ValueKind::BoolValue(_)
        | ValueKind::StructValue(_)
        | ValueKind::ListValue(_) => None,
    }
}

/// May this client ask so?
pub(crate) fn check(
    client: &Client,
    kind: ResourceType,
    request: &DeltaDiscoveryRequest,
) -> Result<(), ProtocolError> {
    let secret = matches!(
        kind,
        ResourceType::HandleKeys | ResourceType::ExportedEndpoint
    );
    if secret && client.role != Role::Gateway {
        return Err(ProtocolError::Denied(format!("{kind:?} is for gateways")));
    }
    if request.resource_names_subscribe.len() > NAMES_MAX {
        return Err(ProtocolError::TooMuch(format!(
            "more than {NAMES_MAX} names"
        )));
    }
    let held = &request.initial_resource_versions;
    if held.len() > HELD_MAX {
        return Err(ProtocolError::TooMuch(format!(
            "more than {HELD_MAX} resources held"
        )));
    }
    let long = held.keys().find(|name| name.len() > HELD_BYTES_MAX);
    let names = &request.resource_names_subscribe;
    let long = long.or_else(|| names.iter().find(|name| name.len() > NAME_BYTES_MAX));
    if let Some(name) = long {
        return Err(ProtocolError::TooMuch(format!("name {:?}...", cut(name))));
    }
    names
        .iter()
        .try_for_each(|name| check_name(client, kind, name))
}

fn check_name(client: &Client, kind: ResourceType, name: &str) -> Result<(), ProtocolError> {
    let fits = match asking(kind) {
        Asking::Wildcard => name == "*",
        Asking::ByService => name != "*",
        Asking::Own if name == client.workload.as_str() => true,
        Asking::Own => {
            let why = format!("{kind:?} {:?} is not the client's", cut(name));
            return Err(ProtocolError::Denied(why));
        }
    };
    if fits {
        return Ok(());
    }
    Err(ProtocolError::Invalid(format!(
        "{kind:?} by the name {:?}",
        cut(name)
    )))
}

/// The beginning of a text that a client has sent.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
