//! Which HTTP/2 sessions lead to one place, and who opens the next?
//!
//! Who comes while one is being opened waits for that one, and shares its failure.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use isthmus_proxy_core::failure::Failure;

use crate::h2::Session;
use crate::notify::Queue;

/// A session is replaced after this, long before a certificate of 36 hours ends. Who has a shorter one is let
/// go when that ends (connections.rs).
const AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Sessions to one place, where each has as many streams as its peer takes.
const FULL_MAX: usize = 16;

/// One worker's sessions to one place.
#[derive(Debug, Default)]
pub struct Sessions {
    open: RefCell<Vec<(Rc<Session>, Instant)>>,
    opening: Cell<bool>,
    /// How often opening has ended, and how it failed last.
    ended: Cell<(u64, Option<Failure>)>,
    waiting: RefCell<Queue>,
}

impl Sessions {
    /// An open session, or one that `open` opens: while there are fewer than `enough` and those
    /// are busy, one more; and one more where all are full.
    ///
    /// # Errors
    /// Why none could be opened.
    pub async fn get(
        &self,
        enough: usize,
        open: impl AsyncFnOnce() -> Result<Rc<Session>, Failure>,
    ) -> Result<Rc<Session>, Failure> {
        if let Some(session) = self.best(enough) {
            return Ok(session);
        }
        while self.opening.get() {
            if let Some(failure) = self.wait().await {
                return self.least().ok_or(failure);
            }
            if let Some(session) = self.best(1) {
                return Ok(session);
            }
        }
        // Whatever happens to this task, the next one may try.
        let opening = Opening::begin(self);
        // Seldom: the task of each request must not have room for a handshake.
        let session = Box::pin(open()).await;
        opening.end(session.as_ref().err().copied());
        let session = match session {
            Ok(session) => session,
            // Better a busy one than none.
            Err(failure) => return self.least().ok_or(failure),
        };
        self.open
            .borrow_mut()
            .push((Rc::clone(&session), Instant::now()));
        Ok(session)
    }

    /// The usable session with the fewest streams, if there are enough of them.
    fn best(&self, enough: usize) -> Option<Rc<Session>> {
        self.forget_closed();
        let best = self.least()?;
        // One more is opened only when the ones there are busy. Who finds them full waits for it.
        let (full, busy) = (best.is_full(), best.streams() > 0);
        let enough = if full { enough.max(FULL_MAX) } else { enough };
        let more = self.usable() < enough && busy && (full || !self.opening.get());
        (!more).then_some(best)
    }

    /// Those that take new streams.
    fn usable(&self) -> usize {
        let open = self.open.borrow();
        open.iter().filter(|(s, _)| s.is_usable()).count()
    }

    /// The usable session with the fewest streams.
    fn least(&self) -> Option<Rc<Session>> {
        let open = self.open.borrow();
        let usable = open.iter().map(|(s, _)| s).filter(|s| s.is_usable());
        usable.min_by_key(|s| s.streams()).map(Rc::clone)
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

    /// Forgets those that have ended, and lets old ones go.
    pub fn sweep(&self) {
        self.forget_closed();
        for (session, since) in self.open.borrow().iter() {
            if since.elapsed() > AGE_MAX {
                session.go_away();
            }
        }
    }

    fn forget_closed(&self) {
        self.open
            .borrow_mut()
            .retain(|(session, _)| !session.is_closed());
    }

    /// Lets each end with its last stream.
    pub fn go_away(&self) {
        for (session, _) in self.open.borrow().iter() {
            session.go_away();
        }
    }

    /// How many there are, those that are going away included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Opening<'a> {
    sessions: &'a Sessions,
    failure: Cell<Option<Failure>>,
}

impl<'a> Opening<'a> {
    fn begin(sessions: &'a Sessions) -> Self {
        sessions.opening.set(true);
        // A task that is dropped on the way fails nobody else: they try for themselves.
        Self {
            sessions,
            failure: Cell::new(None),
        }
    }

    fn end(self, failure: Option<Failure>) {
        self.failure.set(failure);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let (count, _) = self.sessions.ended.get();
        self.sessions
            .ended
            .set((count.wrapping_add(1), self.failure.get()));
        self.sessions.opening.set(false);
        self.sessions.waiting.borrow_mut().wake_all();
    }
}

#[cfg(test)]
mod tests {
    use isthmus_proxy_core::http2::{Role, Settings};
    use isthmus_proxy_core::message::Fields;
    use tokio::net::TcpStream;
    use tokio::task::{LocalSet, yield_now};

    use super::*;
    use crate::h2::{StreamRx, StreamTx};
    use crate::stream::Broken;
    use crate::transport::Transport;
    use crate::worker::tests::{pair, post};

    /// Opens sessions, and keeps the far ends.
    #[derive(Default)]
    struct Opener(RefCell<Vec<TcpStream>>);

    impl Opener {
        async fn open(&self) -> Result<Rc<Session>, Failure> {
            let (near, far) = pair().await;
            self.0.borrow_mut().push(far);
            // As a connection over a network: others come meanwhile.
            yield_now().await;
            let transport = Transport::Plain(near);
            Ok(Session::start(transport, Role::Client, Settings::default()))
        }
    }

    #[tokio::test]
    async fn who_comes_while_one_is_being_opened_takes_that_one() {
        let (sessions, opener) = (Sessions::default(), Opener::default());
        let get = || sessions.get(1, async || opener.open().await);
        let all = async { tokio::join!(get(), get(), get()) };
        let (a, b, c) = LocalSet::new().run_until(all).await;
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert!(Rc::ptr_eq(&a, &b) && Rc::ptr_eq(&b, &c));
        assert_eq!(opener.0.borrow().len(), 1);
    }

    async fn ask(session: &Rc<Session>, limit: Duration) -> Result<(StreamRx, StreamTx), Broken> {
        let head = post(Fields::default());
        session.open(&head, false, limit).await
    }

    #[tokio::test]
    async fn as_many_as_are_wanted_share_the_streams() {
        const WANTED: usize = 3;
        let (sessions, opener) = (Sessions::default(), Opener::default());
        let test = async {
            let mut held = Vec::new();
            for _ in 0..4 * WANTED {
                let open = async || opener.open().await;
                let session = sessions.get(WANTED, open).await.unwrap();
                held.push(ask(&session, Duration::from_secs(9)).await.unwrap());
            }
            let streams = sessions.open.borrow();
            let streams: Vec<_> = streams.iter().map(|(s, _)| s.streams()).collect();
            assert_eq!(streams, [4; WANTED]);
        };
        LocalSet::new().run_until(test).await;
    }

    /// A server that takes few streams gets more connections, up to a bound.
    #[tokio::test]
    async fn where_all_are_full_one_more_is_opened() {
        const STREAMS: u32 = 2;
        let sessions = Sessions::default();
        let servers = RefCell::default();
        let open = async || {
            let (near, far) = pair().await;
            let settings = Settings {
                max_concurrent_streams: STREAMS,
                ..Settings::default()
            };
            let server = Session::start(Transport::Plain(far), Role::Server, settings);
            let servers: &RefCell<Vec<_>> = &servers;
            servers.borrow_mut().push(server);
            let client = Transport::Plain(near);
            Ok(Session::start(client, Role::Client, Settings::default()))
        };
        let test = async {
            let mut held = Vec::new();
            let streams = FULL_MAX * usize::try_from(STREAMS).unwrap();
            for _ in 0..streams {
                let session = sessions.get(1, &open).await.unwrap();
                held.push(ask(&session, Duration::from_secs(9)).await.unwrap());
                // Before its peer has spoken it is not known to be full.
                while !session.is_ready() {
                    yield_now().await;
                }
            }
            assert_eq!(sessions.len(), FULL_MAX);
            let session = sessions.get(1, &open).await.unwrap();
            let asked = ask(&session, Duration::from_millis(20)).await;
            assert_eq!(asked.err(), Some(Broken::Timeout));
            assert_eq!(sessions.len(), FULL_MAX);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn one_that_is_replaced_is_not_kept() {
        let (sessions, opener) = (Sessions::default(), Opener::default());
        let test = async {
            let first = sessions.get(1, async || opener.open().await).await.unwrap();
            first.go_away();
            let second = sessions.get(1, async || opener.open().await).await.unwrap();
            assert!(!Rc::ptr_eq(&first, &second));
            while !first.is_closed() {
                yield_now().await;
            }
            sessions.forget_closed();
            assert_eq!(sessions.len(), 1);
            let weak = Rc::downgrade(&first);
            drop(first);
            // Its tasks end, too.
            while weak.strong_count() > 0 {
                yield_now().await;
            }
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_failure_is_shared_by_those_who_waited() {
        let sessions = Sessions::default();
        let fail = async || {
            yield_now().await;
            Err(Failure::ConnectFailed)
        };
        let other = async || panic!("it was not waited for");
        let (first, second) = tokio::join!(sessions.get(1, fail), sessions.get(1, other));
        assert_eq!(first.err(), Some(Failure::ConnectFailed));
        assert_eq!(second.err(), Some(Failure::ConnectFailed));
    }
}
