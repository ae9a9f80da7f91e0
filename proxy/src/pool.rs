//! Which connections to applications are open?
//!
//! HTTP/1 connections are kept between requests, HTTP/2 sessions are shared. Both are this
//! worker's own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_proxy_core::failure::Failure;

use crate::h1::{H1Rx, H1Tx};
use crate::h2::Session;
use crate::sessions::Sessions;

/// Idle HTTP/1 connections kept for each address.
const IDLE_MAX: usize = 128;
/// An idle connection is closed after this; most servers' own limit is longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// One worker's connections to applications.
#[derive(Debug, Default)]
pub struct AppPool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    sessions: RefCell<HashMap<SocketAddr, Rc<Sessions>>>,
}

#[derive(Debug)]
struct Idle {
    rx: H1Rx,
    tx: H1Tx,
    since: Instant,
}

impl AppPool {
    /// An idle connection that its server has not closed, the youngest first.
    #[must_use]
    pub fn take(&self, address: SocketAddr) -> Option<(H1Rx, H1Tx)> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        while let Some(connection) = connections.pop() {
            if connection.since.elapsed() < IDLE_TIMEOUT && connection.rx.is_quiet() {
                return Some((connection.rx, connection.tx));
            }
        }
        None
    }

    /// Keeps a connection whose last message was read and written to its end.
    pub fn put(&self, address: SocketAddr, rx: H1Rx, tx: H1Tx) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(address).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(Idle {
                rx,
                tx,
                since: Instant::now(),
            });
        }
    }

    /// The HTTP/2 session to this address: an open one, or the one that `open` opens.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub async fn session(
        &self,
        address: SocketAddr,
        open: impl AsyncFnOnce() -> Result<Rc<Session>, Failure>,
    ) -> Result<Rc<Session>, Failure> {
        let sessions = Rc::clone(self.sessions.borrow_mut().entry(address).or_default());
        sessions.get(1, open).await
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|c| c.since.elapsed() < IDLE_TIMEOUT && c.rx.is_quiet());
            !connections.is_empty()
        });
        self.sessions.borrow_mut().retain(|_, sessions| {
            sessions.sweep();
            // Somebody who waits for an opening still holds them.
            Rc::strong_count(sessions) > 1 || !sessions.is_empty()
        });
    }

    /// Closes all that is idle, and lets sessions end with their last stream.
    pub fn go_away(&self) {
        self.idle.borrow_mut().clear();
        for sessions in self.sessions.borrow().values() {
            sessions.go_away();
        }
    }
}
