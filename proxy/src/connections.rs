//! What is open, and may it still be?
//!
//! When policies or roots change, what is open is judged again: what would not be allowed now is
//! cut.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

use isthmus_proxy_core::authorize::{ConnFacts, authorize};
use isthmus_proxy_core::identify::PeerIdentity;
use isthmus_proxy_core::snapshot::Snapshot;
use rustls::pki_types::CertificateDer;

use crate::exchange::Request;
use crate::h2::Session;
use crate::notify::Flag;

/// Something inbound that was allowed.
#[derive(Debug)]
pub struct Live {
    /// Who asks.
    pub peer: Option<PeerIdentity>,
    /// From where.
    pub source: IpAddr,
    /// The workload's port.
    pub port: u16,
    /// What is asked for, where it is a request.
    pub request: Option<Rc<Request>>,
    /// Set when it is no longer allowed.
    pub cut: Flag,
}

/// A TLS connection whose peer was believed.
#[derive(Debug)]
struct Believed {
    session: Weak<Session>,
    chain: Vec<CertificateDer<'static>>,
}

/// What one worker has open.
#[derive(Debug, Default)]
pub struct Connections {
    live: RefCell<HashMap<u64, Rc<Live>>>,
    passing: RefCell<HashMap<u64, Rc<Flag>>>,
    next: std::cell::Cell<u64>,
    believed: RefCell<Vec<Believed>>,
}

impl Connections {
    /// Registers something until the guard is dropped.
    #[must_use]
    pub fn register(&self, live: &Rc<Live>) -> Registered<'_> {
        let registered = self.registered();
        let mut all = self.live.borrow_mut();
        all.insert(registered.id, Rc::clone(live));
        registered
    }

    /// Registers a connection that is passed through until the guard is dropped. The flag is set
    /// when that is no longer allowed.
    #[must_use]
    pub fn register_passing(&self, cut: &Rc<Flag>) -> Registered<'_> {
        let registered = self.registered();
        let mut all = self.passing.borrow_mut();
        all.insert(registered.id, Rc::clone(cut));
        registered
    }

    fn registered(&self) -> Registered<'_> {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        Registered {
            connections: self,
            id,
        }
    }

    /// Cuts all that is passed through.
    pub fn stop_passing(&self) {
        for cut in self.passing.borrow().values() {
            cut.set();
        }
    }

    /// Remembers by which certificates a connection's peer was believed.
    pub fn believe(&self, session: &Rc<Session>, chain: Vec<CertificateDer<'static>>) {
        let mut believed = self.believed.borrow_mut();
        believed.retain(|b| b.session.strong_count() > 0);
        believed.push(Believed {
            session: Rc::downgrade(session),
            chain,
        });
    }

    /// Cuts what the policies of this snapshot don't allow. How many.
    pub fn judge(&self, snapshot: &Snapshot) -> u64 {
        let mut cut = 0;
        for live in self.live.borrow().values() {
            let facts = ConnFacts {
                peer: live.peer.as_ref(),
                port: live.port,
                source: live.source,
            };
            let judged = match &live.request {
                Some(request) => request.judge(&snapshot.policies, &facts),
                None => authorize(&snapshot.policies, &facts, None),
            };
            if judged.is_err() {
                live.cut.set();
                cut += 1;
            }
        }
        cut
    }

    /// Closes connections whose peers `believe` believes no longer. How many.
    pub fn doubt(&self, believe: impl Fn(&[CertificateDer<'static>]) -> bool) -> u64 {
        let mut closed = 0;
        self.believed.borrow_mut().retain(|believed| {
            let Some(session) = believed.session.upgrade() else {
                return false;
            };
            if believe(&believed.chain) {
                return !session.is_closed();
            }
            session.close();
            closed += 1;
            false
        });
        closed
    }

    /// Lets all connections of other proxies end with their last stream.
    pub fn go_away(&self) {
        for believed in self.believed.borrow().iter() {
            if let Some(session) = believed.session.upgrade() {
                session.go_away();
            }
        }
    }
}

/// Something registered.
#[derive(Debug)]
pub struct Registered<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.connections.live.borrow_mut().remove(&self.id);
        self.connections.passing.borrow_mut().remove(&self.id);
    }
}
