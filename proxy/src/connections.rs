//! What is open, and may it still be?
//!
//! When policies or roots change, what is open is judged again: what would not be allowed now is
//! cut. What a gateway relays to an endpoint that is no longer exported is cut, too, after a while.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_proxy_core::authorize::{ConnFacts, authorize};
use isthmus_proxy_core::identify::PeerIdentity;
use isthmus_proxy_core::snapshot::Snapshot;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use crate::exchange::Request;
use crate::h2::Session;
use crate::notify::Flag;
use crate::tls::not_after;

/// How long a gateway goes on relaying to an endpoint that is no longer exported: its callers let
/// go meanwhile. What discovery needs to say it comes on top, and 30 s are promised.
pub const WITHDRAWN_GRACE: Duration = Duration::from_secs(20);

/// So long a connection outlives its peer's certificate, if a stream lasts that long (SECURITY S7).
const OUTLIVE_MAX: Duration = Duration::from_secs(3_600);

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

/// What a gateway relays, and why it may.
#[derive(Debug)]
pub struct Relayed {
    /// What the caller asked for.
    pub server_name: String,
    /// The endpoint that this stood for.
    pub export: u64,
    /// Where that was.
    pub address: SocketAddr,
    /// Set when the endpoint has not been exported for [`WITHDRAWN_GRACE`].
    pub cut: Flag,
    /// Not exported since then.
    withdrawn: Cell<Option<Instant>>,
}

impl Relayed {
    /// To an endpoint that is exported now.
    #[must_use]
    pub fn new(server_name: String, export: u64, address: SocketAddr) -> Self {
        Self {
            server_name,
            export,
            address,
            cut: Flag::default(),
            withdrawn: Cell::new(None),
        }
    }
}

/// A TLS connection whose peer was believed.
#[derive(Debug)]
struct Believed {
    session: Weak<Session>,
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

/// What one worker has open.
#[derive(Debug, Default)]
pub struct Connections {
    live: RefCell<HashMap<u64, Rc<Live>>>,
    passing: RefCell<HashMap<u64, Rc<Flag>>>,
    relayed: RefCell<HashMap<u64, Rc<Relayed>>>,
    next: Cell<u64>,
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

    /// Registers what a gateway relays until the guard is dropped.
    #[must_use]
    pub fn register_relayed(&self, relayed: &Rc<Relayed>) -> Registered<'_> {
        let registered = self.registered();
        let mut all = self.relayed.borrow_mut();
        all.insert(registered.id, Rc::clone(relayed));
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

    /// Notes which relays `is_exported` does not hold for, since when; one that is exported again is
    /// forgiven. True: there are new ones; call [`Self::cut_withdrawn`] after [`WITHDRAWN_GRACE`].
    pub fn withdraw(&self, is_exported: impl Fn(&Relayed) -> bool, now: Instant) -> bool {
        let mut news = false;
        for relayed in self.relayed.borrow().values() {
            if is_exported(relayed) {
                relayed.withdrawn.set(None);
            } else if relayed.withdrawn.get().is_none() {
                relayed.withdrawn.set(Some(now));
                news = true;
            }
        }
        news
    }

    /// Cuts what has not been exported for [`WITHDRAWN_GRACE`].
    pub fn cut_withdrawn(&self, now: Instant) {
        for relayed in self.relayed.borrow().values() {
            let since = relayed.withdrawn.get();
            if since.is_some_and(|since| now.duration_since(since) >= WITHDRAWN_GRACE) {
                relayed.cut.set();
            }
        }
    }

    /// Remembers by which certificates a connection's peer was believed.
    pub fn believe(&self, session: &Rc<Session>, chain: Vec<CertificateDer<'static>>) {
        let mut believed = self.believed.borrow_mut();
        believed.retain(|b| b.session.strong_count() > 0);
        let leaf = chain.first().map(not_after);
        believed.push(Believed {
            session: Rc::downgrade(session),
            chain,
            // What can't be read was not believed.
            not_after: leaf.and_then(Result::ok).unwrap_or(UNIX_EPOCH),
        });
    }

    /// Lets connections end with their last stream once their peers' certificates are over, and closes
    /// them an hour later. How many it closes.
    pub fn expire(&self, now: SystemTime) -> u64 {
        let mut closed = 0;
        self.believed.borrow_mut().retain(|believed| {
            let Some(session) = believed.session.upgrade() else {
                return false;
            };
            let Ok(over) = now.duration_since(believed.not_after) else {
                return !session.is_closed();
            };
            if over < OUTLIVE_MAX {
                session.go_away();
                return !session.is_closed();
            }
            session.close();
            closed += 1;
            false
        });
        closed
    }

    /// Cuts what this snapshot's policies, or what it says of plaintext, don't allow. How many.
    pub fn judge(&self, snapshot: &Snapshot) -> u64 {
        let mut cut = 0;
        for live in self.live.borrow().values() {
            if live.peer.is_none() && !snapshot.takes_plaintext() {
                live.cut.set();
                cut += 1;
                continue;
            }
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
        self.connections.relayed.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relayed(export: u64) -> Rc<Relayed> {
        let address = SocketAddr::from(([10, 0, 0, 1], 15_008));
        Rc::new(Relayed::new("name".to_owned(), export, address))
    }

    fn is_cut(relayed: &Relayed) -> bool {
        let mut cut = std::pin::pin!(relayed.cut.wait());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        cut.as_mut().poll(&mut cx).is_ready()
    }

    #[tokio::test(flavor = "local")]
    async fn nothing_outlives_its_peers_certificate_by_more_than_an_hour() {
        let (near, _far) = crate::worker::tests::pair().await;
        let session = Session::start(
            crate::transport::Transport::Plain(near),
            isthmus_proxy_core::http2::Role::Client,
            isthmus_proxy_core::http2::Settings::default(),
        );
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let leaf = params.self_signed(&key).unwrap().der().clone();
        let ends = not_after(&leaf).unwrap();
        let all = Connections::default();
        all.believe(&session, vec![leaf]);
        assert_eq!(all.expire(ends - Duration::from_secs(1)), 0);
        assert!(session.is_usable());
        assert_eq!(all.expire(ends + OUTLIVE_MAX - Duration::from_secs(1)), 0);
        assert!(!session.is_usable());
        assert_eq!(all.expire(ends + OUTLIVE_MAX), 1);
        assert!(session.is_closed());
    }

    #[test]
    fn what_is_exported_again_in_time_is_not_cut() {
        let all = Connections::default();
        let (gone, back, stays) = (relayed(1), relayed(2), relayed(3));
        let _registered = [&gone, &back, &stays].map(|one| all.register_relayed(one));
        let begun = Instant::now();
        assert!(all.withdraw(|one| one.export == 3, begun), "news");
        let later = begun + WITHDRAWN_GRACE / 2;
        assert!(!all.withdraw(|one| one.export != 1, later), "no news");
        all.cut_withdrawn(begun + WITHDRAWN_GRACE - Duration::from_millis(1));
        assert!(
            ![&gone, &back, &stays]
                .map(|one| is_cut(one))
                .contains(&true)
        );
        all.cut_withdrawn(begun + WITHDRAWN_GRACE);
        assert_eq!(
            [&gone, &back, &stays].map(|one| is_cut(one)),
            [true, false, false]
        );
        // Withdrawn anew, it has its time anew.
        assert!(all.withdraw(|one| one.export == 3, later));
        all.cut_withdrawn(begun + WITHDRAWN_GRACE);
        assert!(!is_cut(&back));
    }
}
