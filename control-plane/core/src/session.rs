//! What does one client have to be told next?
//!
//! The server's side of a delta-xDS stream, without the stream. The client says what it wants, by
//! names and aliases, and what it has; the world says what is there; what differs is sent, one
//! response of a type at a time. Nothing is sent twice, what was refused waits until it changes, what
//! was not asked for is never mentioned, and endpoints that are gone go ahead of everything.
//!
//! ```text
//! request ─► handle ─► wants, has, acknowledged ┐
//! Dirty ───► dirty ──► due                      ├─► poll(world) ─► response
//! ```

mod channel;
mod question;
#[cfg(test)]
mod tests;

pub use crate::translate::{Client, ResourceType, Role};

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};
use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::spiffe::SpiffeId;
use prost_types::value::Kind as ValueKind;

use crate::model::{Reach, ServiceRef};
use crate::translate::{Encoded, endpoint, service};
use crate::world::World;
use crate::world::dirty::{Dirty, PolicyScope};
use channel::{Channel, Draft, Part};
use question::{Asker, Asking, Subject, asking};

/// Names of one type that a client may subscribe to.
pub const NAMES_MAX: usize = 10_000;
/// Longest name or alias: the longest service name twice, and room to spare.
pub const NAME_BYTES_MAX: usize = 600;
/// Longest name of a resource: an endpoint's, a service's and a pod's together.
pub const HELD_BYTES_MAX: usize = 1_024;
/// Resources that a client may claim to hold, each type.
pub const HELD_MAX: usize = 200_000;
/// A response is closed when it has this many bytes of names and bodies (tonic reads up to 4 MiB).
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The client claims or asks for what is not its own (PERMISSION_DENIED).
    #[error("denied: {0}")]
    Denied(String),
    /// The request makes no sense (INVALID_ARGUMENT).
    #[error("invalid request: {0}")]
    Invalid(String),
    /// A bound was passed (RESOURCE_EXHAUSTED).
    #[error("too much: {0}")]
    TooMuch(String),
}

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

/// One client's stream.
#[derive(Debug)]
pub struct Session {
    client: Client,
    channels: BTreeMap<ResourceType, Channel>,
    /// The client's cluster, and those whose endpoints it holds or is about to hold.
    clusters: BTreeSet<ClusterId>,
    providers: BTreeMap<ServiceRef, Vec<ClusterId>>,
    nonces: u64,
}

/// One type's side of a stream, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus<'a> {
    /// Which type.
    pub kind: ResourceType,
    /// Names and aliases that the client wants.
    pub names: usize,
    /// Resources that it holds.
    pub held: usize,
    /// Is a response waiting for its acknowledgement?
    pub in_flight: bool,
    /// Responses that it took whole.
    pub acked: u64,
    /// Responses that it refused, at least in part.
    pub nacked: u64,
    /// What it said when it last refused.
    pub last_nack: Option<&'a str>,
    /// The world's generation of the last response that it took whole.
    pub acked_generation: u64,
}

impl Session {
    /// A stream that has just been opened.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let clusters = [client.cluster.clone()].into();
        let (channels, providers) = (BTreeMap::new(), BTreeMap::new());
        Self {
            client,
            channels,
            clusters,
            providers,
            nonces: 0,
        }
    }

    /// Whose stream it is.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// The stream is to be ended with this error.
    pub fn handle(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), ProtocolError> {
        let kind = ResourceType::of_url(&request.type_url)
            .ok_or_else(|| ProtocolError::Invalid(format!("type {:?}", cut(&request.type_url))))?;
        self.check(kind, request)?;
        let under_way = self.channels.contains_key(&kind);
        let channel = self
            .channels
            .entry(kind)
            .or_insert_with(|| Channel::new(kind, request));
        if !request.response_nonce.is_empty() {
            channel.acknowledge(&request.response_nonce, request.error_detail.as_ref());
        }
        for name in &request.resource_names_unsubscribe {
            channel.unsubscribe(name);
        }
        for name in &request.resource_names_subscribe {
            channel.subscribe(name, under_way);
            if asking(kind) != Asking::ByService {
                channel.bind(name, Some(Subject::All));
                channel.due_keys.remove(name);
            }
        }
        if channel.keys.len() > NAMES_MAX {
            return Err(ProtocolError::TooMuch(format!(
                "more than {NAMES_MAX} names"
            )));
        }
        if kind == ResourceType::Endpoint {
            self.forget_providers();
        }
        Ok(())
    }

    /// May this client ask so?
    fn check(
        &self,
        kind: ResourceType,
        request: &DeltaDiscoveryRequest,
    ) -> Result<(), ProtocolError> {
        let secret = matches!(
            kind,
            ResourceType::HandleKeys | ResourceType::ExportedEndpoint
        );
        if secret && self.client.role != Role::Gateway {
            return Err(ProtocolError::Denied(format!("{kind:?} is for gateways")));
        }
        if request.resource_names_subscribe.len() > NAMES_MAX {
            return Err(ProtocolError::TooMuch(format!(
                "more than {NAMES_MAX} names"
            )));
        }
        if request.initial_resource_versions.len() > HELD_MAX {
            return Err(ProtocolError::TooMuch(format!(
                "more than {HELD_MAX} resources held"
            )));
        }
        if let Some(name) = request
            .initial_resource_versions
            .keys()
            .find(|name| name.len() > HELD_BYTES_MAX)
        {
            return Err(ProtocolError::TooMuch(format!("name {:?}...", cut(name))));
        }
        for name in &request.resource_names_subscribe {
            if name.len() > NAME_BYTES_MAX {
                let name = cut(name);
                return Err(ProtocolError::TooMuch(format!("name {name:?}...")));
            }
            let fits = match asking(kind) {
                Asking::Wildcard => name == "*",
                Asking::ByService => name != "*",
                Asking::Own => true,
            };
            if !fits {
                let name = cut(name);
                return Err(ProtocolError::Invalid(format!(
                    "{kind:?} by the name {name:?}"
                )));
            }
            if asking(kind) == Asking::Own && name != self.client.workload.as_str() {
                let name = cut(name);
                return Err(ProtocolError::Denied(format!(
                    "{kind:?} {name:?} is not the client's"
                )));
            }
        }
        Ok(())
    }

    /// Takes note of what may be different in the world.
    pub fn dirty(&mut self, dirty: &Dirty) {
        if dirty.all {
            self.channels.values_mut().for_each(Channel::all_due);
            return;
        }
        let own = &self.client.cluster.clone();
        let mut redefined = false;
        for (key, affected) in dirty
            .services
            .iter()
            .filter(|(_, affected)| affected.concerns(own))
        {
            let Ok(namespace) = key.namespace.parse() else {
                continue;
            };
            let mut service = ServiceRef {
                reach: Reach::Cluster,
                namespace,
                name: key.name.clone(),
            };
            for reach in [Reach::Cluster, Reach::Clusterset] {
                service.reach = reach;
                let subject = Subject::Service(service.clone());
                let endpoints = affected.definition || !affected.providers.is_empty();
                let routes = affected.definition || affected.routes;
                due(
                    &mut self.channels,
                    ResourceType::Service,
                    affected.definition,
                    &subject,
                );
                due(
                    &mut self.channels,
                    ResourceType::Endpoint,
                    endpoints,
                    &subject,
                );
                due(&mut self.channels, ResourceType::Route, routes, &subject);
            }
            redefined |= affected.definition;
        }
        if redefined {
            self.addresses_due();
        }
        let me = dirty.workloads.contains(&self.client.workload);
        let mine = dirty.policies.iter().any(|scope| match scope {
            PolicyScope::Mesh => true,
            PolicyScope::Cluster(cluster) => cluster == own,
            PolicyScope::Namespace(cluster, namespace) => {
                cluster == own && namespace == self.client.namespace()
            }
        });
        let gateways = dirty
            .gateways
            .iter()
            .any(|cluster| self.clusters.contains(cluster));
        let freshness = dirty
            .freshness
            .iter()
            .any(|cluster| self.clusters.contains(cluster));
        let exports = dirty.exports.contains(own);
        let all = Subject::All;
        due(&mut self.channels, ResourceType::Workload, me || mine, &all);
        due(
            &mut self.channels,
            ResourceType::AccessPolicy,
            me || mine,
            &all,
        );
        due(
            &mut self.channels,
            ResourceType::TrustBundle,
            dirty.trust,
            &all,
        );
        due(&mut self.channels, ResourceType::Gateway, gateways, &all);
        due(
            &mut self.channels,
            ResourceType::ClusterFreshness,
            freshness,
            &all,
        );
        due(
            &mut self.channels,
            ResourceType::ExportedEndpoint,
            exports,
            &all,
        );
    }

    /// Virtual addresses may have moved.
    fn addresses_due(&mut self) {
        for channel in self.channels.values_mut() {
            let addresses = channel.keys.keys().filter(|key| key.starts_with("vip:"));
            channel
                .due_keys
                .extend(addresses.cloned().collect::<Vec<_>>());
        }
    }

    /// The next response, if there is anything to say. To be called until there is none, after each
    /// request and after each change.
    pub fn poll(&mut self, world: &World) -> Option<DeltaDiscoveryResponse> {
        self.resolve(world);
        self.find_clusters(world);
        match self.removed_endpoints(world) {
            Ahead::Nothing => {}
            // What is gone is told before anything else, even if that has to wait for the client.
            Ahead::Waiting => return None,
            Ahead::Response(response) => return Some(*response),
        }
        ResourceType::ALL
            .into_iter()
            .find_map(|kind| self.next(world, kind, Part::All))
    }

    fn resolve(&mut self, world: &World) {
        for channel in self.channels.values_mut() {
            for key in std::mem::take(&mut channel.due_keys) {
                match service::resolve(world, &self.client, &key) {
                    _ if asking(channel.kind) != Asking::ByService => {}
                    service::Resolved::Service(found) => {
                        channel.bind(&key, Some(Subject::Service(found)));
                    }
                    service::Resolved::Nothing => channel.bind(&key, None),
                    service::Resolved::Unknown => channel.unresolved(&key),
                }
            }
        }
    }

    /// Which clusters' endpoints does the client hold, or is about to? Their gateways and their
    /// freshness concern it.
    fn find_clusters(&mut self, world: &World) {
        let Some(channel) = self.channels.get(&ResourceType::Endpoint) else {
            return;
        };
        for subject in &channel.due {
            let Subject::Service(of) = subject else {
                continue;
            };
            let Some(holding) = channel.holdings.get(subject) else {
                continue;
            };
            let mut found = endpoint::endpoints(world, &self.client, of).1;
            let held = holding.held.keys();
            let held = held.filter_map(|name| question::cluster_of(ResourceType::Endpoint, name));
            for cluster in held.filter_map(|cluster| cluster.parse::<ClusterId>().ok()) {
                if world.is_unknown(cluster.as_str()) && !found.contains(&cluster) {
                    found.push(cluster);
                }
            }
            self.providers.insert(of.clone(), found);
        }
        let mut clusters: BTreeSet<ClusterId> =
            self.providers.values().flatten().cloned().collect();
        clusters.insert(self.client.cluster.clone());
        if clusters != self.clusters {
            self.clusters = clusters;
            due(
                &mut self.channels,
                ResourceType::Gateway,
                true,
                &Subject::All,
            );
            due(
                &mut self.channels,
                ResourceType::ClusterFreshness,
                true,
                &Subject::All,
            );
        }
    }

    /// Services that the client does not ask for any more bind no clusters.
    fn forget_providers(&mut self) {
        let Some(channel) = self.channels.get(&ResourceType::Endpoint) else {
            return;
        };
        let wanted = |of: &ServiceRef| channel.holdings.contains_key(&Subject::Service(of.clone()));
        self.providers.retain(|of, _| wanted(of));
    }

    fn removed_endpoints(&mut self, world: &World) -> Ahead {
        let asker = Asker {
            client: &self.client,
            clusters: &self.clusters,
        };
        let Some(channel) = self.channels.get_mut(&ResourceType::Endpoint) else {
            return Ahead::Nothing;
        };
        if channel.is_in_flight() {
            let waiting = channel.has_removals(world, &asker);
            return if waiting {
                Ahead::Waiting
            } else {
                Ahead::Nothing
            };
        }
        match self.next(world, ResourceType::Endpoint, Part::Removals) {
            Some(response) => Ahead::Response(Box::new(response)),
            None => Ahead::Nothing,
        }
    }

    fn next(
        &mut self,
        world: &World,
        kind: ResourceType,
        part: Part,
    ) -> Option<DeltaDiscoveryResponse> {
        let asker = Asker {
            client: &self.client,
            clusters: &self.clusters,
        };
        let channel = self
            .channels
            .get_mut(&kind)
            .filter(|channel| !channel.is_in_flight())?;
        let draft = channel.draft(world, &asker, (part, RESPONSE_BYTES_MAX));
        self.nonces = self.nonces.saturating_add(1);
        let nonce = format!("{:x}", self.nonces);
        if !channel.commit(&draft, &nonce, world.generation()) {
            return None;
        }
        Some(response(kind, draft, nonce, world.generation()))
    }

    /// Each type that the client has asked for.
    pub fn status(&self) -> impl Iterator<Item = TypeStatus<'_>> {
        self.channels.values().map(|channel| TypeStatus {
            kind: channel.kind,
            names: channel.keys.len(),
            held: channel
                .holdings
                .values()
                .map(|holding| holding.held.len())
                .sum(),
            in_flight: channel.is_in_flight(),
            acked: channel.acked,
            nacked: channel.nacked,
            last_nack: channel.last_nack.as_deref(),
            acked_generation: channel.acked_generation,
        })
    }
}

/// Endpoints that are gone.
enum Ahead {
    Nothing,
    /// The client has to acknowledge its last endpoints first.
    Waiting,
    Response(Box<DeltaDiscoveryResponse>),
}

fn due(
    channels: &mut BTreeMap<ResourceType, Channel>,
    kind: ResourceType,
    affected: bool,
    subject: &Subject,
) {
    if affected && let Some(channel) = channels.get_mut(&kind) {
        channel.subject_due(subject);
    }
}

fn response(
    kind: ResourceType,
    draft: Draft,
    nonce: String,
    generation: u64,
) -> DeltaDiscoveryResponse {
    let type_url = kind.type_url();
    let resource = |(encoded, aliases): (Encoded, Vec<String>)| Resource {
        version: encoded.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: type_url.clone(),
            value: encoded.body.to_vec(),
        }),
        name: encoded.name.to_string(),
        aliases,
    };
    DeltaDiscoveryResponse {
        system_version_info: generation.to_string(),
        resources: draft.resources.into_iter().map(resource).collect(),
        type_url: type_url.clone(),
        nonce,
        removed_resources: draft.removed.into_iter().collect(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
