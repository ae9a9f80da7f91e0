//! Which tunnels to other proxies are open?
//!
//! One tunnel (or a few) for each worker, hop and expected identity. Who comes while a tunnel is
//! being opened waits for that one, and shares its failure.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::Settings;
use tokio::time::sleep;

use crate::h2::Session;
use crate::notify::Queue;

/// A look at each tunnel that often; a silent one is dead after three looks.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// An idle tunnel is asked for a sign of life every so many looks: every minute, below the 350 s
/// after which load balancers of clouds forget a connection.
const IDLE_LOOKS: u32 = 20;
/// An unused tunnel is closed after so many looks: five minutes.
const UNUSED_LOOKS: u32 = 100;
/// A tunnel is replaced after this, so that none outlives its certificates.
const AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Streams in one tunnel at once: it carries all that a worker has with a peer.
const STREAMS_MAX: u32 = 4096;

/// The HTTP/2 settings of a tunnel, both ends.
#[must_use]
pub fn settings() -> Settings {
    let usual = Settings::default();
    Settings {
        max_concurrent_streams: STREAMS_MAX,
        resets_max: STREAMS_MAX,
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

/// One worker's tunnels.
#[derive(Debug)]
pub struct Tunnels {
    per_peer: usize,
    entries: RefCell<HashMap<(Peer, SpiffeId), Rc<Entry>>>,
}

#[derive(Debug, Default)]
struct Entry {
    sessions: RefCell<Vec<(Rc<Session>, Instant)>>,
    opening: Cell<bool>,
    /// How often opening has ended, and how it failed last.
    ended: Cell<(u64, Option<Failure>)>,
    waiting: RefCell<Queue>,
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
        let entry = Rc::clone(
            self.entries
                .borrow_mut()
                .entry((peer, identity.clone()))
                .or_default(),
        );
        if let Some(session) = entry.best(self.per_peer) {
            return Ok(session);
        }
        while entry.opening.get() {
            if let Some(failure) = entry.wait().await {
                return Err(failure);
            }
            if let Some(session) = entry.best(1) {
                return Ok(session);
            }
        }
        // Whatever happens to this task, the next one may try.
        let opening = Opening::begin(&entry);
        // Seldom: the task of each request must not have room for a handshake.
        let session = Box::pin(open()).await;
        opening.end(session.as_ref().err().copied());
        let session = session?;
        entry
            .sessions
            .borrow_mut()
            .push((Rc::clone(&session), Instant::now()));
        tokio::task::spawn_local(keep(Rc::downgrade(&session)));
        Ok(session)
    }

    /// Closes tunnels for which `keep` does not hold, and forgets closed ones.
    pub fn retain(&self, keep: impl Fn(&SpiffeId) -> bool) {
        self.entries.borrow_mut().retain(|(_, identity), entry| {
            let keep = keep(identity);
            entry.sessions.borrow_mut().retain(|(session, _)| {
                if !keep {
                    session.close();
                }
                !session.is_closed()
            });
            // Somebody who waits for an opening still holds the entry.
            Rc::strong_count(entry) > 1 || !entry.sessions.borrow().is_empty()
        });
    }

    /// Lets every tunnel end with its last stream.
    pub fn go_away(&self) {
        for entry in self.entries.borrow().values() {
            for (session, _) in entry.sessions.borrow().iter() {
                session.go_away();
            }
        }
    }

    /// Open tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
            .borrow()
            .values()
            .map(|e| e.sessions.borrow().len())
            .sum()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    /// The usable tunnel with the fewest streams, if there are enough of them.
    fn best(&self, enough: usize) -> Option<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|(session, since)| {
            if since.elapsed() > AGE_MAX && session.is_usable() {
                session.go_away();
            }
            !session.is_closed()
        });
        let usable = || sessions.iter().filter(|(s, _)| s.is_usable());
        let best = usable()
            .min_by_key(|(s, _)| s.streams())
            .map(|(s, _)| Rc::clone(s))?;
        // One more is opened only when the ones there are busy.
        let busy = best.streams() > 0;
        if usable().count() < enough && busy && !self.opening.get() {
            None
        } else {
            Some(best)
        }
    }

    /// Waits until the opening that is under way has ended; how it failed, if it did.
    async fn wait(&self) -> Option<Failure> {
        let (before, _) = self.ended.get();
        poll_fn(|cx| {
            let (now, failure) = self.ended.get();
            if now != before {
                return Poll::Ready(failure);
            }
            self.waiting.borrow_mut().push(cx);
            Poll::Pending
        })
        .await
    }
}

struct Opening<'a> {
    entry: &'a Entry,
    failure: Cell<Option<Failure>>,
}

impl<'a> Opening<'a> {
    fn begin(entry: &'a Entry) -> Self {
        entry.opening.set(true);
        // A task that is dropped on the way fails nobody else: they try for themselves.
        Self {
            entry,
            failure: Cell::new(None),
        }
    }

    fn end(self, failure: Option<Failure>) {
        self.failure.set(failure);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let (count, _) = self.entry.ended.get();
        self.entry
            .ended
            .set((count.wrapping_add(1), self.failure.get()));
        self.entry.opening.set(false);
        self.entry.waiting.borrow_mut().wake_all();
    }
}

/// Watches one tunnel until it has ended: a dead path is seen in nine seconds.
async fn keep(session: Weak<Session>) {
    let mut idle = 0u32;
    loop {
        sleep(KEEPALIVE).await;
        let Some(session) = session.upgrade() else {
            return;
        };
        if session.is_closed() {
            return;
        }
        idle = if session.streams() > 0 { 0 } else { idle + 1 };
        if idle >= UNUSED_LOOKS {
            session.go_away();
        }
        let ask = idle == 0 || idle.is_multiple_of(IDLE_LOOKS);
        if !session.check_alive(ask) {
            session.close();
            return;
        }
    }
}
