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

mod admission;
mod channel;
mod draft;
mod due;
mod epoch;
mod interest;
mod question;
mod refusal;
#[cfg(test)]
mod tests;

pub use crate::translate::{Client, ResourceType, Role};

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};
use isthmus_proto::ids::ClusterId;
use isthmus_proto::positions::Positions;

use crate::translate::{Encoded, direct, endpoint, service};
use crate::world::World;
use admission::{check, cut};
use channel::Channel;
use draft::{Draft, Part};
use epoch::Epochs;
pub use epoch::SEEN;
use interest::Wanted;
pub use interest::{Interests, Moved, SessionNumber};
use question::{Asker, Asking, Endpoints, Subject, asking};

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

/// One client's stream.
#[derive(Debug)]
pub struct Session {
    client: Client,
    channels: BTreeMap<ResourceType, Channel>,
    /// The client's cluster, and those whose endpoints it holds or is about to hold.
    clusters: BTreeSet<ClusterId>,
    /// Has the client said on this stream whose endpoints it wants? Before, nothing that it holds
    /// can be said not to concern it: a client that comes back asks for gateways first.
    settled: bool,
    providers: BTreeMap<Subject, Vec<ClusterId>>,
    /// The node that the client's pod is on, where that is known.
    node: Option<Option<String>>,
    nonces: u64,
    wanted: Wanted,
    /// What the client was told of how new it is.
    told: Positions,
    /// What the client has from another replica, and is newer.
    epochs: Epochs,
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
    /// What it does not take as it is now, and why.
    pub refused: BTreeMap<&'a str, &'a str>,
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
            settled: false,
            providers,
            node: None,
            nonces: 0,
            wanted: Wanted::default(),
            told: Positions::default(),
            epochs: Epochs::default(),
        }
    }

    /// As [`new`](Self::new), of a client that has been connected elsewhere before: nothing of a cluster
    /// that it knows better than we do is told to it until we have caught up.
    #[must_use]
    pub fn of_node(client: Client, node: &Node) -> Self {
        Self {
            epochs: Epochs::of_node(node),
            ..Self::new(client)
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
        check(&self.client, kind, request)?;
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
        self.note_wanted();
        Ok(())
    }

    /// The next response, if there is anything to say. To be called until there is none, after each
    /// request and after each change.
    pub fn poll(&mut self, world: &World) -> Option<DeltaDiscoveryResponse> {
        if self.epochs.catch_up(world) {
            self.channels.values_mut().for_each(Channel::all_due);
        }
        self.find_node(world);
        self.resolve(world);
        self.note_wanted();
        let endpoints = self.find_clusters(world);
        match self.removed_endpoints(world, &endpoints) {
            Ahead::Nothing => {}
            // What is gone is told before anything else, even if that has to wait for the client.
            Ahead::Waiting => return None,
            Ahead::Response(response) => return Some(*response),
        }
        ResourceType::ALL
            .into_iter()
            .find_map(|kind| self.next((world, &endpoints), kind, Part::All))
    }

    /// Some services have endpoints on the client's own node only.
    fn find_node(&mut self, world: &World) {
        let node = world.pod(&self.client.workload).map(|pod| &pod.node);
        if self.node.as_ref() != node {
            self.node = node.cloned();
            if let Some(channel) = self.channels.get_mut(&ResourceType::Endpoint) {
                channel.all_due();
            }
        }
    }

    fn resolve(&mut self, world: &World) {
        for channel in self.channels.values_mut() {
            let keys = std::mem::take(&mut channel.due_keys);
            if asking(channel.kind) != Asking::ByService {
                continue;
            }
            for key in keys {
                let address = direct::address_of(&key);
                self.wanted.begin_address(address);
                // Whose address it is depends on pods, too.
                let behind = self.epochs.concerns(ResourceType::Service)
                    || (address.is_some() && self.epochs.concerns(ResourceType::Endpoint));
                match service::resolve(world, &self.client, &key) {
                    service::Resolved::Service(found) => {
                        channel.bind(&key, Some(Subject::Service(found)));
                    }
                    service::Resolved::Pod(found) => {
                        channel.bind(&key, Some(Subject::Pod(found)));
                    }
                    service::Resolved::Nothing if !behind => {
                        channel.bind(&key, None);
                    }
                    service::Resolved::Nothing | service::Resolved::Unknown => {
                        channel.unresolved(&key)
                    }
                }
            }
        }
    }

    /// Which clusters' endpoints does the client hold, or is about to? Their gateways and their
    /// freshness concern it. What was found of endpoints is what the responses are made of.
    fn find_clusters(&mut self, world: &World) -> Endpoints {
        let mut answers = Endpoints::new();
        let Some(channel) = self.channels.get(&ResourceType::Endpoint) else {
            return answers;
        };
        let none = Endpoints::new();
        let asker = Asker {
            client: &self.client,
            clusters: &self.clusters,
            settled: self.settled,
            epochs: &self.epochs,
            endpoints: &none,
        };
        for subject in &channel.due {
            let Some(holding) = channel.holdings.get(subject) else {
                continue;
            };
            let (answer, mut found) = match subject {
                Subject::Service(of) => endpoint::endpoints(world, &self.client, of),
                Subject::Pod(of) => direct::endpoints(world, &self.client, of),
                Subject::All => continue,
            };
            // What is not taken away from the client goes on to concern it.
            for name in holding.held.keys() {
                let of = question::cluster_of(ResourceType::Endpoint, name).unwrap_or_default();
                let name = (ResourceType::Endpoint, name.as_ref());
                let stays =
                    || !answer.known || !question::may_remove(world, &asker, name, answer.complete);
                let known = found.iter().any(|known| known.as_str() == of);
                if !known && stays() {
                    found.extend(of.parse::<ClusterId>());
                }
            }
            self.providers.insert(subject.clone(), found);
            answers.insert(subject.clone(), answer);
        }
        let mut clusters: BTreeSet<&ClusterId> = self.providers.values().flatten().collect();
        clusters.insert(&self.client.cluster);
        if !clusters.iter().copied().eq(&self.clusters) || !self.settled {
            self.clusters = clusters.into_iter().cloned().collect();
            self.settled = true;
            self.due(ResourceType::Gateway, true, &Subject::All);
            self.due(ResourceType::ClusterFreshness, true, &Subject::All);
        }
        answers
    }

    /// Services that the client does not ask for any more bind no clusters.
    fn forget_providers(&mut self) {
        let Some(channel) = self.channels.get(&ResourceType::Endpoint) else {
            return;
        };
        self.providers
            .retain(|of, _| channel.holdings.contains_key(of));
    }

    fn removed_endpoints(&mut self, world: &World, endpoints: &Endpoints) -> Ahead {
        let asker = Asker {
            client: &self.client,
            clusters: &self.clusters,
            settled: self.settled,
            epochs: &self.epochs,
            endpoints,
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
        match self.next((world, endpoints), ResourceType::Endpoint, Part::Removals) {
            Some(response) => Ahead::Response(Box::new(response)),
            None => Ahead::Nothing,
        }
    }

    fn next(
        &mut self,
        (world, endpoints): (&World, &Endpoints),
        kind: ResourceType,
        part: Part,
    ) -> Option<DeltaDiscoveryResponse> {
        let asker = Asker {
            client: &self.client,
            clusters: &self.clusters,
            settled: self.settled,
            epochs: &self.epochs,
            endpoints,
        };
        let channel = self
            .channels
            .get_mut(&kind)
            .filter(|channel| !channel.is_in_flight() && channel.is_due())?;
        let draft = channel.draft(world, &asker, (part, RESPONSE_BYTES_MAX));
        self.nonces = self.nonces.saturating_add(1);
        let nonce = format!("{:x}", self.nonces);
        if !channel.commit(&draft, &nonce, world.generation()) {
            return None;
        }
        let reached = self.reached(world, kind, &draft);
        let version_info = reached.version_info(world.generation());
        Some(response(kind, draft, nonce, version_info))
    }

    /// How new what the draft says of its clusters is, as far as the client was not told before.
    fn reached(&mut self, world: &World, kind: ResourceType, draft: &Draft) -> Positions {
        let mut reached = Positions::default();
        let kinds = epoch::made_of(kind);
        if kinds.is_empty() {
            return reached;
        }
        let set = draft.resources.iter().map(|(one, _)| one.name.as_ref());
        let names = set.chain(draft.removed.iter().map(String::as_str));
        let own = self.client.cluster.as_str();
        let of = |name| match kind {
            ResourceType::ExportedEndpoint => Some(own),
            _ => question::cluster_of(kind, name),
        };
        let clusters: BTreeSet<&str> = names.filter_map(of).collect();
        for cluster in clusters.into_iter().filter_map(|id| world.clusters.get(id)) {
            // What is held back is newer than we are.
            if self.epochs.is_ahead_in(&cluster.id) {
                continue;
            }
            let positions = kinds
                .iter()
                .filter_map(|kind| cluster.positions.get_key_value(kind));
            for (kind, position) in positions {
                if self.told.set(&cluster.id, kind.as_str(), *position) {
                    reached.set(&cluster.id, kind.as_str(), *position);
                }
            }
        }
        reached
    }

    /// Is something held back from the client because it has newer from elsewhere? Then it is to be
    /// polled now and then: that we have come as far is no change of the world.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.epochs.is_ahead()
    }

    /// The versions of the bundles that the client has acknowledged, by trust domain, in order.
    pub fn bundles(&self) -> impl Iterator<Item = (&str, u64)> {
        // All of them belong together.
        let channel = self.channels.get(&ResourceType::TrustBundle).into_iter();
        let held = channel
            .flat_map(|c| c.holdings.values())
            .flat_map(|holding| &holding.held);
        held.filter_map(|(name, version)| Some((name.as_ref(), (*version)?.number())))
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
            refused: channel.refused().collect(),
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

fn response(
    kind: ResourceType,
    draft: Draft,
    nonce: String,
    version_info: String,
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
        system_version_info: version_info,
        resources: draft.resources.into_iter().map(resource).collect(),
        type_url: type_url.clone(),
        nonce,
        removed_resources: draft.removed.into_iter().collect(),
    }
}
