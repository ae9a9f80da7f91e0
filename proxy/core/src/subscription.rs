//! What does a proxy ask for, what has it accepted, and what does it say next?
//!
//! The client's half of delta xDS as a state machine. The driver owns the stream: it calls
//! [`Subscription::connected`], sends what [`Subscription::poll_transmit`] gives, hands each
//! response to [`Subscription::handle`], applies the updates, and reports what was refused with
//! [`Subscription::acked`]. When the stream breaks it calls [`Subscription::disconnected`] and
//! waits until [`Subscription::poll_timeout`].

mod asked;
mod backoff;
mod held;
mod ledger;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use isthmus_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use isthmus_proto::positions::Positions;

use crate::snapshot::update::KINDS;
use crate::snapshot::{Kind, Rejected, Saved, Update};
use backoff::Backoff;
use ledger::{Kin, Ledger};

pub use asked::{ASKED_MAX, Asked, UNUSED_LIFE, UNUSED_MIN};
pub use backoff::{BACKOFF_BASE, BACKOFF_FACTOR, BACKOFF_MAX};
pub use ledger::KindStatus;

/// Most names or keys that one kind may be asked for.
pub const WANTED_MAX: usize = 10_000;
/// Most resources in one response.
pub const RESOURCES_MAX: usize = 200_000;
/// Longest text of a NACK, in bytes.
pub const NACK_BYTES_MAX: usize = 16 << 10;
/// Nonces remembered: a stream may live for weeks, and a server that repeats one repeats a late one.
const NONCES_MAX: usize = 64;
/// `INVALID_ARGUMENT` (google.rpc.Code).
const INVALID_ARGUMENT: i32 = 3;
/// The kinds that a proxy asks for together when it needs a service.
const SERVICE_KINDS: [Kind; 3] = [Kind::Service, Kind::Route, Kind::Endpoint];

/// What the server may not do. The driver closes the stream and connects anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A response before the stream was up, as far as we know.
    #[error("a response came while not connected")]
    NotConnected,
    /// A type that this version does not know.
    #[error("a response has the unknown type {0:?}")]
    UnknownType(String),
    /// A type that was not asked for on this stream.
    #[error("a response of type {0} came before it was asked for")]
    NotSubscribed(Kind),
    /// Nothing to acknowledge it by.
    #[error("a response of type {0} has no nonce")]
    NoNonce(Kind),
    /// The nonce of another response of this stream, one of the latest.
    #[error("a response of type {kind} repeats the nonce {nonce:?}")]
    RepeatedNonce {
        /// The response's type.
        kind: Kind,
        /// Its nonce.
        nonce: String,
    },
    /// One name twice in one response.
    #[error("a response of type {kind} names {name:?} twice")]
    RepeatedName {
        /// The response's type.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Too many resources.
    #[error("a response of type {0} is more than can be taken at once")]
    TooMuch(Kind),
    /// The driver's mistake: the verdict about the last response was not reported.
    #[error("a response of type {0} came before the verdict about the last one")]
    VerdictMissing(Kind),
}

/// The client's half of one discovery stream, over all its lives.
pub struct Subscription {
    node: Node,
    ledgers: [Ledger; KINDS],
    connected: bool,
    /// Was the node told on this stream?
    introduced: bool,
    /// The latest nonces of this stream, at most [`NONCES_MAX`].
    nonces: VecDeque<String>,
    /// The response whose updates were handed out and whose verdict has not come.
    unacked: Option<Unacked>,
    backoff: Backoff,
    /// How new what we were told is.
    positions: Positions,
}

/// A response that waits for its verdict.
struct Unacked {
    kind: Kind,
    nonce: String,
    version_info: String,
    /// Name and version of what was handed out.
    offered: HashMap<String, held::Entry>,
    /// What could not even be handed out.
    refused: Vec<Rejected>,
}

impl Subscription {
    /// A client that wants nothing yet and holds what was saved, if anything.
    #[must_use]
    pub fn new(node: Node, saved: Option<&Saved>) -> Self {
        let mut ledgers = Kind::ALL.map(Ledger::new);
        for record in saved.into_iter().flat_map(|saved| saved.records.iter()) {
            if let Some(ledger) = ledgers.iter_mut().find(|ledger| ledger.kind == record.kind) {
                ledger.held.put(
                    &record.name,
                    held::Entry::new(&record.version, &record.aliases),
                );
            }
        }
        Self {
            node,
            ledgers,
            connected: false,
            introduced: false,
            nonces: VecDeque::new(),
            unacked: None,
            backoff: Backoff::default(),
            positions: saved
                .map(|saved| saved.positions.clone())
                .unwrap_or_default(),
        }
    }

    /// How new what we were told is: to be said at the next stream, and to be saved.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Wants a name, a key, or `*` of a kind, from now on. True if that is news; false also if
    /// [`WANTED_MAX`] names are wanted already.
    pub fn want(&mut self, kind: Kind, name: &str) -> bool {
        self.ledger_mut(kind)
            .is_some_and(|ledger| ledger.want(name))
    }

    /// Wants a name no more. What was held only because of it is to be forgotten.
    pub fn unwant(&mut self, kind: Kind, name: &str) -> Vec<Update> {
        let kin = self.kin(name);
        let Some(ledger) = self.ledgers.iter_mut().find(|ledger| ledger.kind == kind) else {
            return Vec::new();
        };
        let mut updates = ledger.unwant(name, &kin);
        // Also what was handed out a moment ago.
        if let Some(unacked) = self.unacked.as_mut().filter(|unacked| unacked.kind == kind) {
            unacked.offered.retain(|offered, entry| {
                let covered = ledger.covers(offered, entry.aliases(), "", &kin);
                if !covered {
                    updates.push(Update::Forget {
                        kind,
                        name: offered.clone(),
                    });
                }
                covered
            });
        }
        updates
    }

    /// Wants a service, its routes and its endpoints, under one key.
    pub fn want_service(&mut self, key: &str) -> bool {
        let news = SERVICE_KINDS.map(|kind| self.want(kind, key));
        news.contains(&true)
    }

    /// Is there no room to want this key of a service, too?
    #[must_use]
    pub fn has_no_room_for(&self, key: &str) -> bool {
        let services = self.ledger(Kind::Service);
        services.is_some_and(|ledger| ledger.has_no_room_for(key))
    }

    /// Wants a service, its routes and its endpoints no more under this key.
    pub fn unwant_service(&mut self, key: &str) -> Vec<Update> {
        // Children first: their parent's keys say whose they are.
        SERVICE_KINDS
            .iter()
            .rev()
            .flat_map(|kind| self.unwant(*kind, key))
            .collect()
    }

    /// The keys under which services are wanted now: to be saved, and asked for at the next start.
    pub fn service_keys(&self) -> impl Iterator<Item = &str> {
        self.ledger(Kind::Service)
            .into_iter()
            .flat_map(Ledger::wanted)
    }

    /// Who we are, and what we have, as the next stream is told.
    pub fn introduce(&mut self, node: Node) {
        self.node = node;
    }

    /// The stream is up.
    pub fn connected(&mut self) {
        self.connected = true;
        self.introduced = false;
        self.nonces.clear();
        self.unacked = None;
        for ledger in &mut self.ledgers {
            ledger.restart();
        }
        self.backoff.connected();
    }

    /// The stream is gone, or could not be opened. `jitter` from 0 to 1 spreads the next attempts
    /// of many proxies.
    pub fn disconnected(&mut self, now: Instant, jitter: f64) {
        self.connected = false;
        self.nonces.clear();
        self.unacked = None;
        self.backoff.disconnected(now, jitter);
    }

    /// Is the stream up?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// When to connect again. `None`: the stream is up, or was never opened: connect at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.backoff.retry_at()
    }

    /// Takes a response. The updates are to be applied in their order, and the verdict reported
    /// with [`Subscription::acked`].
    ///
    /// Removals come first, so that a name that moves to another resource ends well.
    ///
    /// # Errors
    /// The server broke the protocol; the stream must be closed. Nothing was taken.
    pub fn handle(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Instant,
    ) -> Result<Vec<Update>, ProtocolError> {
        let kind = self.check(&response)?;
        self.backoff.answered();
        self.nonces.truncate(NONCES_MAX - 1);
        self.nonces.push_front(response.nonce.clone());
        let (generation, positions) = Positions::of_version_info(&response.system_version_info);
        self.positions.extend(positions);
        let mut unacked = Unacked {
            kind,
            nonce: response.nonce,
            version_info: generation.to_owned(),
            offered: HashMap::new(),
            refused: Vec::new(),
        };
        let mut updates = Vec::with_capacity(response.resources.len() + 1);
        for name in &response.removed_resources {
            let kin = self.kin(name);
            let Some(ledger) = self.ledger_mut(kind) else {
                continue;
            };
            ledger.removed(name, &kin, &mut updates);
        }
        let Some(ledger) = self.ledger(kind) else {
            return Ok(updates);
        };
        for resource in response.resources {
            match ledger.offered(resource, |service| self.kin_of(service)) {
                Ok(Some((update, entry))) => {
                    if let Update::Upsert { name, .. } = &update {
                        unacked.offered.insert(name.clone(), entry);
                    }
                    updates.push(update);
                }
                // It came while its key was given up.
                Ok(None) => {}
                Err(rejected) => unacked.refused.push(rejected),
            }
        }
        if let Some(ledger) = self.ledger_mut(kind) {
            ledger.answered(now);
        }
        updates.push(Update::Answered { kind });
        self.unacked = Some(unacked);
        Ok(updates)
    }

    fn check(&self, response: &DeltaDiscoveryResponse) -> Result<Kind, ProtocolError> {
        if !self.connected {
            return Err(ProtocolError::NotConnected);
        }
        let kind = Kind::of_type_url(&response.type_url)
            .ok_or_else(|| ProtocolError::UnknownType(response.type_url.clone()))?;
        if !self.ledger(kind).is_some_and(Ledger::is_subscribed) {
            return Err(ProtocolError::NotSubscribed(kind));
        }
        if response.nonce.is_empty() {
            return Err(ProtocolError::NoNonce(kind));
        }
        if self.nonces.contains(&response.nonce) {
            return Err(ProtocolError::RepeatedNonce {
                kind,
                nonce: response.nonce.clone(),
            });
        }
        if self.unacked.is_some() {
            return Err(ProtocolError::VerdictMissing(kind));
        }
        if response
            .resources
            .len()
            .max(response.removed_resources.len())
            > RESOURCES_MAX
        {
            return Err(ProtocolError::TooMuch(kind));
        }
        let mut names = HashSet::new();
        match response
            .resources
            .iter()
            .find(|resource| !names.insert(&resource.name))
        {
            Some(twice) => Err(ProtocolError::RepeatedName {
                kind,
                name: twice.name.clone(),
            }),
            None => Ok(kind),
        }
    }

    /// The verdict about a response's updates: what was refused, by name. The rest is held from
    /// now on. A nonce that is not known (of an earlier stream) is ignored.
    pub fn acked(&mut self, nonce: &str, rejected: &[Rejected]) {
        let Some(mut unacked) = self.unacked.take_if(|unacked| unacked.nonce == nonce) else {
            return;
        };
        unacked.refused.extend(rejected.iter().cloned());
        for refused in &unacked.refused {
            unacked.offered.remove(&refused.name);
        }
        let Some(ledger) = self.ledger_mut(unacked.kind) else {
            return;
        };
        for refused in &unacked.refused {
            ledger.refused(&refused.name);
        }
        for (name, entry) in unacked.offered {
            ledger.held.put(&name, entry);
        }
        let error = (!unacked.refused.is_empty()).then(|| nack_text(&unacked.refused));
        ledger.acknowledge(unacked.nonce, unacked.version_info, error);
    }

    /// The nonce of the response that waits for its verdict.
    #[must_use]
    pub fn unacked(&self) -> Option<&str> {
        self.unacked.as_ref().map(|unacked| unacked.nonce.as_str())
    }

    /// The next request to send. `None`: nothing to say, or not connected.
    ///
    /// An acknowledgement never shares a request with changes of the subscription, and names are
    /// given up before others are asked for: a server can't misread the order.
    pub fn poll_transmit(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        let request = self.ledgers.iter_mut().find_map(Ledger::transmit)?;
        let node = (!self.introduced).then(|| self.node.clone());
        self.introduced = true;
        let error_detail = request.error.map(|message| Status {
            code: INVALID_ARGUMENT,
            message,
        });
        Some(DeltaDiscoveryRequest {
            node,
            type_url: request.kind.type_url().to_owned(),
            resource_names_subscribe: request.subscribe,
            resource_names_unsubscribe: request.unsubscribe,
            initial_resource_versions: request.initial,
            response_nonce: request.nonce,
            error_detail,
        })
    }

    /// How each kind stands, for people.
    pub fn status(&self) -> impl Iterator<Item = KindStatus> {
        self.ledgers.iter().map(Ledger::status)
    }

    /// The services that a key means, as far as the accepted services say, and their other keys.
    fn kin(&self, key: &str) -> Kin {
        let mut kin = Kin {
            services: vec![key.to_owned()],
            keys: Vec::new(),
        };
        let Some(services) = self.ledger(Kind::Service) else {
            return kin;
        };
        for name in services.held.named(key) {
            kin.keys.push(name.to_owned());
            kin.keys
                .extend(services.held.aliases(name).iter().map(ToString::to_string));
            kin.services.push(name.to_owned());
        }
        kin
    }

    /// The same of a service's own name: quick, for each resource of a response may ask.
    fn kin_of(&self, service: &str) -> Kin {
        let services = self.ledger(Kind::Service);
        let keys = services.map(|ledger| ledger.held.aliases(service));
        Kin {
            services: vec![service.to_owned()],
            keys: keys
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
        }
    }

    fn ledger(&self, kind: Kind) -> Option<&Ledger> {
        self.ledgers.iter().find(|ledger| ledger.kind == kind)
    }

    fn ledger_mut(&mut self, kind: Kind) -> Option<&mut Ledger> {
        self.ledgers.iter_mut().find(|ledger| ledger.kind == kind)
    }
}

/// One line for each refused resource, cut where it gets too long.
fn nack_text(refused: &[Rejected]) -> String {
    let mut text = String::new();
    for (at, rejected) in refused.iter().enumerate() {
        let line = format!("{}: {}", rejected.name, rejected.why.replace('\n', " "));
        if text.len().saturating_add(line.len()) > NACK_BYTES_MAX {
            text.push_str(&format!(
                "... and {} more",
                refused.len().saturating_sub(at)
            ));
            return text;
        }
        text.push_str(&line);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests;
