//! Which proxies are connected, and what have they acknowledged?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::session::{ResourceType, Session};
use isthmus_proto::ids::WorkloadName;
use rustls::pki_types::CertificateDer;

use crate::listener::Connection;

/// Streams at once.
const CLIENTS_MAX: usize = 16_384;
/// Streams of one pod: the old one may not be known to have ended when the new one comes.
const PER_NODE_MAX: usize = 4;

/// Every connected client.
#[derive(Debug, Default)]
pub struct Clients {
    by_number: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

/// One of them. What changes with every response is kept without texts, and put in words for who asks.
#[derive(Debug)]
struct Entry {
    client: Client,
    kinds: Vec<(ResourceType, TypeState)>,
}

impl Entry {
    fn client(&self) -> Client {
        let kinds = self.kinds.iter();
        Client {
            types: kinds
                .map(|(kind, state)| (format!("{kind:?}"), state.clone()))
                .collect(),
            ..self.client.clone()
        }
    }
}

/// What operators see of a client.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Client {
    /// Its SPIFFE ID.
    pub identity: String,
    /// cluster/namespace/pod.
    pub node: String,
    /// From where.
    pub remote: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// When the certificate that it shows ends, in seconds since 1970. A proxy that has a new one opens
    /// its stream anew, so this is the newest.
    pub certificate_not_after: Option<u64>,
    /// By resource type.
    pub types: BTreeMap<String, TypeState>,
    /// How it stands with roots.
    #[serde(skip)]
    proxy: Proxy,
}

/// Which roots a proxy believes, and which one vouches for it.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its pod.
    pub name: WorkloadName,
    /// The versions of the bundles that it has acknowledged, by trust domain.
    pub bundles: Arc<BTreeMap<String, u64>>,
    /// The certificate above the one that it shows.
    pub issuer: Option<CertificateDer<'static>>,
}

/// Most refused resources of a client and type that are shown.
const REFUSED_MAX: usize = 8;

/// One resource type of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct TypeState {
    /// Names and aliases that it wants.
    pub names: usize,
    /// Resources that it holds.
    pub held: usize,
    /// A response waits for its acknowledgement.
    pub in_flight: bool,
    /// Responses that it took whole.
    pub acked: u64,
    /// Responses that it refused, at least in part.
    pub nacked: u64,
    /// What it does not take as it is now, and why; the first of them.
    pub refused: BTreeMap<String, String>,
    /// The world's generation of the last response that it took whole.
    pub acked_generation: u64,
}

/// Why a client is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The control plane has its share.
    #[error("the control plane has its {CLIENTS_MAX} clients")]
    All,
    /// The pod has its share.
    #[error("the pod has its {PER_NODE_MAX} streams")]
    OfNode,
}

/// A client's place in the table, given back when dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    number: u64,
}

impl Clients {
    /// Notes a client.
    ///
    /// # Errors
    /// There are too many.
    pub fn enter(
        self: &Arc<Self>,
        session: &Session,
        node: &str,
        connection: &Connection,
    ) -> Result<Place, TooMany> {
        let identity = connection.peer.as_ref().map(|peer| peer.id.to_string());
        let mut table = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= CLIENTS_MAX {
            return Err(TooMany::All);
        }
        if table
            .entries
            .values()
            .filter(|entry| entry.client.node == node)
            .count()
            >= PER_NODE_MAX
        {
            return Err(TooMany::OfNode);
        }
        let number = table.next;
        table.next = table.next.wrapping_add(1);
        let client = Client {
            identity: identity.unwrap_or_default(),
            node: node.to_owned(),
            remote: connection.remote.to_string(),
            since: seconds(SystemTime::now()),
            certificate_not_after: connection.peer.as_ref().map(|peer| seconds(peer.not_after)),
            types: BTreeMap::new(),
            proxy: Proxy {
                name: session.client().workload().clone(),
                bundles: Arc::new(bundles(session)),
                issuer: connection.issuer.clone(),
            },
        };
        let kinds = kinds(session).collect();
        table.entries.insert(number, Entry { client, kinds });
        Ok(Place {
            clients: Arc::clone(self),
            number,
        })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Client> {
        let table = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.entries.values().map(Entry::client).collect()
    }

    /// All proxies; of one with several streams the newest counts.
    #[must_use]
    pub fn proxies(&self) -> Vec<Proxy> {
        let table = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let newest: BTreeMap<_, _> = table
            .entries
            .values()
            .map(|entry| &entry.client.proxy)
            .map(|proxy| (proxy.name.clone(), proxy.clone()))
            .collect();
        newest.into_values().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entries
            .len()
    }
}

impl Place {
    /// Notes what the session says now.
    pub fn update(&self, session: &Session) {
        let mut table = self
            .clients
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Entry { client, kinds: of }) = table.entries.get_mut(&self.number) {
            let roots = |of: &[(ResourceType, TypeState)]| {
                let mut found = of
                    .iter()
                    .filter(|(kind, _)| *kind == ResourceType::TrustBundle);
                found.next().map(|(_, s)| (s.held, s.acked, s.nacked))
            };
            let before = roots(of);
            of.clear();
            of.extend(kinds(session));
            if roots(of) != before {
                client.proxy.bundles = Arc::new(bundles(session));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self
            .clients
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.entries.remove(&self.number);
    }
}

/// Since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn bundles(session: &Session) -> BTreeMap<String, u64> {
    let told = session.bundles();
    told.map(|(domain, version)| (domain.to_owned(), version))
        .collect()
}

fn kinds(session: &Session) -> impl Iterator<Item = (ResourceType, TypeState)> {
    session.status().map(|status| {
        let state = TypeState {
            names: status.names,
            held: status.held,
            in_flight: status.in_flight,
            acked: status.acked,
            nacked: status.nacked,
            refused: status
                .refused
                .into_iter()
                .take(REFUSED_MAX)
                .map(|(name, why)| (name.to_owned(), why.to_owned()))
                .collect(),
            acked_generation: status.acked_generation,
        };
        (status.kind, state)
    })
}
