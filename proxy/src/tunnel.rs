//! Which tunnels to other proxies are open?
//!
//! One tunnel (or a few) for each worker, hop and expected identity.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::balance::{Endpoint, Me};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::Settings;
use isthmus_proxy_core::snapshot::Snapshot;

use crate::h2::Session;
use crate::sessions::Sessions;

/// What a tunnel may hold unread: a thousand streams that nobody reads, and what those that are read
/// may grow by. Beyond, streams wait for each other.
const TUNNEL_WINDOW_BYTES: u32 = 72 * 1024 * 1024;

/// By which both ends learn how long the path is.
const MEASURING_PINGS: u8 = 4;

/// The HTTP/2 settings of a tunnel, both ends. `streams`: how many the peer may open.
#[must_use]
pub fn settings(streams: u32) -> Settings {
    let usual = Settings::default();
    Settings {
        max_concurrent_streams: streams,
        resets_max: streams.max(usual.resets_max),
        connection_window: TUNNEL_WINDOW_BYTES,
        measuring_pings: MEASURING_PINGS,
        // Room for what proxies add to a head that was just small enough.
        header_list_bytes: usual.header_list_bytes + 4096,
        header_fields: usual.header_fields + 8,
        ..usual
    }
}

/// What a tunnel leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A proxy's mesh port.
    Direct(SocketAddr),
    /// An endpoint behind gateways, by its SNI.
    Behind(Arc<str>),
}

impl Peer {
    /// What the tunnel to an endpoint leads to, and who must answer. `None`: there is none to it.
    fn of(endpoint: &Endpoint, me: &Me, mesh_domain: &str) -> Option<(Self, SpiffeId)> {
        let identity = endpoint.identity.clone()?;
        let port = endpoint.tunnel_port?;
        let peer = if endpoint.network == me.network {
            Self::Direct(SocketAddr::new(*endpoint.addresses.first()?, port))
        } else {
            Self::Behind(endpoint.sni(mesh_domain)?)
        };
        Some((peer, identity))
    }
}

/// One worker's tunnels.
#[derive(Debug)]
pub struct Tunnels {
    per_peer: usize,
    entries: RefCell<HashMap<(Peer, SpiffeId), Rc<Sessions>, RandomState>>,
}

impl Tunnels {
    /// None open; up to `per_peer` to each peer.
    #[must_use]
    pub fn new(per_peer: usize) -> Self {
        Self {
            per_peer,
            entries: RefCell::default(),
        }
    }

    /// A tunnel to this peer: an open one, or one that `open` opens.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub async fn get(
        &self,
        peer: Peer,
        identity: &SpiffeId,
        open: impl AsyncFnOnce() -> Result<Rc<Session>, Failure>,
    ) -> Result<Rc<Session>, Failure> {
        let sessions = Rc::clone(
            self.entries
                .borrow_mut()
                .entry((peer, identity.clone()))
                .or_default(),
        );
        sessions.get(self.per_peer, open).await
    }

    /// Forgets tunnels that are closed.
    pub fn sweep(&self) {
        self.entries.borrow_mut().retain(|_, sessions| {
            sessions.sweep();
            // Somebody who waits for an opening still holds them.
            Rc::strong_count(sessions) > 1 || !sessions.is_empty()
        });
    }

    /// Lets tunnels to what is no service's endpoint any more end with their last stream.
    pub fn leave(&self, snapshot: &Snapshot, mesh_domain: &str) {
        let entries = self.entries.borrow();
        let mut lost: HashSet<_> = entries.keys().cloned().collect();
        for service in snapshot.services.iter() {
            if lost.is_empty() {
                return;
            }
            let endpoints = service.endpoints.known();
            for endpoint in endpoints.iter().flat_map(|set| set.endpoints()) {
                if let Some(peer) = Peer::of(endpoint, &snapshot.me, mesh_domain) {
                    lost.remove(&peer);
                }
            }
        }
        for sessions in lost.iter().filter_map(|peer| entries.get(peer)) {
            sessions.go_away();
        }
    }

    /// Lets every tunnel end with its last stream.
    pub fn go_away(&self) {
        for sessions in self.entries.borrow().values() {
            sessions.go_away();
        }
    }

    /// Open tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.borrow().values().map(|s| s.len()).sum()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
