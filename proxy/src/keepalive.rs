//! Has a session still a peer, is it still used, and does its peer end what it begins?
//!
//! One look at all sessions of a worker every few seconds. A peer that vanished without a word (a
//! host that lost its power, a path that lost its way) sends nothing, so it is asked: with a PING
//! in the mesh. An application is not asked: gRPC servers cut clients that send PINGs, and of a
//! process that ended the kernel tells. Hosts without a proxy are asked by TCP
//! ([`ask_by_tcp`]).

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::h2::{Session, Unfinished};
use crate::worker::Worker;

/// A look at each session that often; a silent peer is gone after three looks.
const LOOK: Duration = Duration::from_secs(3);
/// The same by TCP: unanswered for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(9);
/// The peer of an idle session is asked every so many looks: every minute, below the 350 s after
/// which load balancers of clouds forget a connection.
const IDLE_LOOKS: u32 = 20;
/// A session that we opened is closed after so many looks without a stream: five minutes.
const UNUSED_LOOKS: u32 = 100;
/// A session that the peer opened: an hour.
const PEER_UNUSED_LOOKS: u32 = 1200;
/// What a peer has begun (its settings, a block of fields, a frame that is no content) and not ended after so
/// many looks ends the session: after 9 to 15 seconds (SECURITY: slow heads).
const UNFINISHED_LOOKS: u32 = 3;
/// What is going away, has no stream and does not end is cut after so many looks more.
const LEAVING_LOOKS: u32 = 3;

/// Whose a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// A tunnel that we opened.
    Tunnel,
    /// A tunnel that another proxy opened.
    Peer,
    /// In the clear, opened by us.
    Upstream,
    /// In the clear, opened by an application.
    Client,
}

impl Keep {
    fn is_asked(self) -> bool {
        match self {
            Self::Tunnel | Self::Peer => true,
            Self::Upstream | Self::Client => false,
        }
    }

    fn unused_looks(self) -> u32 {
        match self {
            Self::Tunnel | Self::Upstream => UNUSED_LOOKS,
            Self::Peer | Self::Client => PEER_UNUSED_LOOKS,
        }
    }
}

/// One worker's sessions.
#[derive(Debug, Default)]
pub struct Keepalive {
    kept: RefCell<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    session: Weak<Session>,
    keep: Keep,
    /// Looks without a stream.
    idle: u32,
    /// What the peer had begun at the last look, and for how many looks.
    unfinished: Option<(Unfinished, u32)>,
}

impl Keepalive {
    /// Watches a session until it has ended.
    pub fn watch(&self, session: &Rc<Session>, keep: Keep) {
        self.kept.borrow_mut().push(Kept {
            session: Rc::downgrade(session),
            keep,
            idle: 0,
            unfinished: None,
        });
    }

    /// One look at all of them.
    fn look(&self) {
        self.kept.borrow_mut().retain_mut(Kept::look);
    }
}

impl Kept {
    /// False: it is to be watched no more.
    fn look(&mut self) -> bool {
        let Some(session) = self.session.upgrade() else {
            return false;
        };
        if session.is_closed() {
            return false;
        }
        self.unfinished = match (session.unfinished(), self.unfinished) {
            (Some(now), Some((before, looks))) if now == before => Some((now, looks + 1)),
            (now, _) => now.map(|now| (now, 0)),
        };
        if let Some((what, UNFINISHED_LOOKS..)) = self.unfinished {
            session.give_up(what);
            return false;
        }
        self.idle = if session.streams() > 0 {
            0
        } else {
            self.idle.saturating_add(1)
        };
        let unused = self.keep.unused_looks();
        if self.idle >= unused {
            session.go_away();
        }
        let ask = self.idle == 0 || self.idle.is_multiple_of(IDLE_LOOKS);
        let gone = self.keep.is_asked() && !session.check_alive(ask);
        if gone || self.idle >= unused + LEAVING_LOOKS {
            session.close();
            return false;
        }
        true
    }
}

/// Looks at a worker's sessions for as long as it runs.
pub async fn run(worker: Rc<Worker>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        worker.keepalive.look();
    }
}

/// Lets the kernel find out whether the host at the other end is still there, whether something is
/// on its way to it or not.
pub fn ask_by_tcp(io: &TcpStream) {
    let socket = SockRef::from(io);
    let probes = TcpKeepalive::new().with_time(LOOK).with_interval(LOOK);
    // Without them it works too, only that a host which is gone is noticed later.
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(SILENCE_MAX));
}

#[cfg(test)]
mod tests;
