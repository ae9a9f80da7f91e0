//! How does one HTTP/2 connection carry many streams?
//!
//! A session is one object of its worker, shared by `Rc`. Streams encode their frames straight into
//! its output; one task writes it when the turn ends, another reads, decodes, and puts bytes and a
//! wake-up into the streams' inboxes. The same session serves the mesh (over TLS) and applications
//! that speak HTTP/2 (plain), in both roles.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::{
    Connection, ConnectionError, DATA_BYTES_MAX, ErrorCode, OpenError, Role, Settings, StreamId,
};
use isthmus_proxy_core::message::RequestHead;
use tokio::time::timeout;

use crate::buffer;
use crate::notify::{Flag, Queue, put_waker};
use crate::stream::Broken;
use crate::telemetry::Telemetry;
use crate::transport::Transport;

mod drive;
mod stream;

use stream::Slot;
pub use stream::{StreamRx, StreamTx};

/// Of what leaves in one piece ([`crate::transport::Transport::burst`]), so many may wait for the
/// socket before streams are told to wait.
const BURSTS_MAX: usize = 2;
/// Less room in the output is none.
const ROOM_BYTES_MIN: usize = 1024;
/// Fixed by the protocol: bytes before a frame's payload.
const HEAD_BYTES: usize = 9;

/// One HTTP/2 connection.
#[derive(Debug)]
pub struct Session {
    transport: Transport,
    role: Role,
    burst: usize,
    state: RefCell<State>,
    dirty: Flag,
    closed: Cell<bool>,
    closing: Flag,
    /// Nothing more is to be read.
    unread: Flag,
    /// Something was read since the keepalive looked last.
    heard: Cell<bool>,
    refused: OnceCell<Refused>,
    telemetry: OnceCell<Arc<Telemetry>>,
}

/// Who is told of a request that no stream carries: why, and what its client was told (0: nothing). The
/// id under which it is remembered.
struct Refused(Box<dyn Fn(Failure, u16) -> String>);

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refused")
    }
}

#[derive(Debug)]
struct State {
    codec: Connection,
    out: Vec<u8>,
    /// Bytes that the flusher has taken and not yet written.
    writing: usize,
    /// The rest of an unfinished frame.
    rest: Vec<u8>,
    /// A frame came to its end since the keepalive looked last.
    moved: bool,
    streams: HashMap<StreamId, Rc<Slot>, BuildHasherDefault<IdHasher>>,
    incoming: VecDeque<(RequestHead, StreamRx, StreamTx)>,
    acceptor: Queue,
    openers: Queue,
    /// Waiting for room in `out` or for the connection's window: for what all streams share. Who
    /// waits for a stream's own window stands in its slot.
    senders: Queue,
    unanswered_ping: bool,
    going_away: bool,
    /// The codec's time counts from here.
    begun: Instant,
}

/// What a peer has begun and not ended. Content is none of it: it is taken as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// The connection itself, which begins with its settings.
    Settings,
    /// The fields of this stream.
    Fields(StreamId),
    /// A frame.
    Frame,
}

/// Stream ids are small and dense: they are their own hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        // The table looks at the highest bits, too.
        self.0 = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl State {
    /// How much the output takes now, out of what leaves in one piece. Less than a little is nothing:
    /// it would make frames of a few bytes.
    fn room(&self, burst: usize) -> Option<usize> {
        let waiting = self.out.len() + self.writing;
        let left = (burst * BURSTS_MAX).saturating_sub(waiting);
        // Frames have heads, and credit for what was read may come between.
        let room = left.saturating_sub((left / DATA_BYTES_MAX + 2) * HEAD_BYTES);
        Some(room).filter(|room| *room >= ROOM_BYTES_MIN)
    }

    /// To be called before much is encoded: a session that has nothing to say holds no buffer.
    fn begin(&mut self) {
        if self.out.capacity() == 0 {
            self.out = buffer::spare();
        }
    }

    /// Gives the buffer back if there was nothing to say.
    fn give_back(&mut self) {
        if self.out.is_empty() && self.out.capacity() > 0 {
            buffer::keep(std::mem::take(&mut self.out));
        }
    }
}

impl Session {
    /// Starts a connection and the two tasks that drive it.
    #[must_use]
    pub fn start(transport: Transport, role: Role, settings: Settings) -> Rc<Self> {
        Self::start_with(transport, role, settings, Vec::new())
    }

    /// As [`Self::start`], on a connection whose first bytes are read already.
    #[must_use]
    pub fn start_with(
        transport: Transport,
        role: Role,
        settings: Settings,
        first: Vec<u8>,
    ) -> Rc<Self> {
        let mut out = Vec::new();
        let codec = Connection::new(role, settings, &mut out);
        let session = Rc::new(Self {
            burst: transport.burst(),
            transport,
            role,
            state: RefCell::new(State {
                codec,
                out,
                writing: 0,
                rest: Vec::new(),
                moved: false,
                streams: HashMap::default(),
                incoming: VecDeque::new(),
                acceptor: Queue::default(),
                openers: Queue::default(),
                senders: Queue::default(),
                unanswered_ping: false,
                going_away: false,
                begun: Instant::now(),
            }),
            dirty: Flag::default(),
            closed: Cell::new(false),
            closing: Flag::default(),
            unread: Flag::default(),
            heard: Cell::new(true),
            refused: OnceCell::new(),
            telemetry: OnceCell::new(),
        });
        session.dirty.set();
        tokio::task::spawn_local(Rc::clone(&session).read_loop(first));
        tokio::task::spawn_local(Rc::clone(&session).flush_loop());
        session
    }

    /// What its peer does counts here. To be called before the first wait.
    pub fn count_in(&self, telemetry: &Arc<Telemetry>) {
        self.telemetry.get_or_init(|| Arc::clone(telemetry));
    }

    /// Requests that no stream carries are told to this: why, and which status their client was told (0:
    /// none); it gives the id under which that is remembered. To be called before the first wait.
    pub fn tell_refused(&self, told: impl Fn(Failure, u16) -> String + 'static) {
        self.refused.get_or_init(|| Refused(Box::new(told)));
    }

    /// Which rule did the peer break so that the connection ended?
    #[must_use]
    pub fn failed(&self) -> Option<ConnectionError> {
        self.state.borrow().codec.failed()
    }

    /// What the peer did since the last time.
    fn count(&self, state: &mut State) {
        if let Some(telemetry) = self.telemetry.get() {
            telemetry.metrics.glitches.add(state.codec.take_counters());
        }
    }

    /// The next request of the peer; `None` when the connection has ended. Safe to drop.
    pub async fn accept(self: &Rc<Self>) -> Option<(RequestHead, StreamRx, StreamTx)> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(request) = state.incoming.pop_front() {
                return Poll::Ready(Some(request));
            }
            if self.closed.get() {
                return Poll::Ready(None);
            }
            state.acceptor.push(cx);
            Poll::Pending
        })
        .await
    }

    /// Opens a stream. Where the peer's limit does not allow it now, or the output has no room for
    /// the head, that is waited for, but no longer than `limit`. Safe to drop.
    ///
    /// # Errors
    /// `Refused`: the connection takes no new streams; another one may. `Timeout`: the peer did not
    /// allow it, or did not read, in time.
    pub async fn open(
        self: &Rc<Self>,
        head: &RequestHead,
        end: bool,
        limit: Duration,
    ) -> Result<(StreamRx, StreamTx), Broken> {
        if let Poll::Ready(opened) = self.poll_open((head, end), None) {
            return opened;
        }
        // Seldom: the task of each request must not have room for it.
        let waiting = Box::pin(async {
            let mut place = Place {
                session: self,
                waker: None,
            };
            let opening = poll_fn(|cx| {
                put_waker(&mut place.waker, cx);
                self.poll_open((head, end), Some(cx))
            });
            timeout(limit, opening).await
        });
        waiting.await.unwrap_or(Err(Broken::Timeout))
    }

    /// `cx`: who waits, if not now but perhaps later.
    fn poll_open(
        self: &Rc<Self>,
        (head, end): (&RequestHead, bool),
        cx: Option<&Context<'_>>,
    ) -> Poll<Result<(StreamRx, StreamTx), Broken>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if self.closed.get() {
            return Poll::Ready(Err(Broken::Refused));
        }
        if state.room(self.burst).is_none() {
            cx.into_iter().for_each(|cx| state.senders.push(cx));
            return Poll::Pending;
        }
        state.begin();
        match state.codec.open(head, end, &mut state.out) {
            Ok(id) => {
                let slot = Rc::new(Slot::new(end));
                state.streams.insert(id, Rc::clone(&slot));
                drop(guard);
                self.dirty.set();
                Poll::Ready(Ok(stream::halves(self, id, slot)))
            }
            // The peer's settings may not have come yet.
            Err(OpenError::NoConnectProtocol) if state.codec.is_ready() => {
                let failure =
                    Failure::UpstreamProtocol("extended CONNECT is not offered, RFC 8441 §3");
                Poll::Ready(Err(Broken::Malformed(failure)))
            }
            Err(OpenError::TooManyStreams | OpenError::NoConnectProtocol) => {
                cx.into_iter().for_each(|cx| state.openers.push(cx));
                Poll::Pending
            }
            Err(OpenError::GoingAway | OpenError::Exhausted) => {
                state.going_away = true;
                Poll::Ready(Err(Broken::Refused))
            }
        }
    }

    /// May new streams be opened here, now or soon?
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.closed.get() && {
            let state = self.state.borrow();
            !state.going_away && !state.codec.is_going_away()
        }
    }

    /// Has it ended?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Have the peer's settings come?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().codec.is_ready()
    }

    /// Has the peer as many streams as it takes? Before it has said how many, that is not known.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let state = self.state.borrow();
        state.codec.is_ready() && !state.codec.can_open()
    }

    /// Streams that are open now.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.state.borrow().streams.len()
    }

    /// Takes no new streams, tells the peer, and lets the open ones end.
    pub fn go_away(&self) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if !state.going_away {
            state.going_away = true;
            // A server says it twice, so that streams that are under way still come through.
            match self.role {
                Role::Server => state.codec.shutdown(&mut state.out),
                Role::Client => state.codec.go_away(ErrorCode::NoError, &mut state.out),
            }
            drop(guard);
            self.dirty.set();
        }
    }

    /// Ends at once: every stream breaks.
    pub fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        let mut state = self.state.borrow_mut();
        self.count(&mut state);
        for slot in state.streams.values() {
            slot.break_off(Broken::Reset(None));
        }
        // Dropped below: a stream that is dropped speaks to its session.
        let unaccepted = std::mem::take(&mut state.incoming);
        state.acceptor.wake_all();
        state.openers.wake_all();
        state.senders.wake_all();
        drop(state);
        drop(unaccepted);
        self.dirty.set();
        self.closing.set();
        self.unread.set();
    }

    /// One look of the keepalive: what the peer has begun. `Frame`: none came to its end since the last look.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let mut state = self.state.borrow_mut();
        let moved = std::mem::take(&mut state.moved);
        if !state.codec.is_ready() {
            return Some(Unfinished::Settings);
        }
        let fields = state.codec.open_block().map(Unfinished::Fields);
        fields.or_else(|| (!moved && !state.rest.is_empty()).then_some(Unfinished::Frame))
    }

    /// Ends it, and tells the peer: it took too long to end what it had begun.
    pub fn give_up(&self, unfinished: Unfinished) {
        let why = match unfinished {
            Unfinished::Settings => "no settings came in time",
            Unfinished::Fields(_) => "a block of fields did not end in time",
            Unfinished::Frame => "a frame did not end in time",
        };
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.codec.give_up(why, &mut state.out);
        state.going_away = true;
        drop(guard);
        self.close();
    }

    /// Was the peer asked for a sign of life that has not come yet?
    #[must_use]
    pub fn awaits_pong(&self) -> bool {
        self.state.borrow().unanswered_ping
    }

    /// One look of the keepalive: asks a silent peer for a sign of life. False: it gave none since
    /// the last look.
    pub fn check_alive(&self, ask: bool) -> bool {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if self.heard.replace(false) {
            state.unanswered_ping = false;
            return true;
        }
        if state.unanswered_ping {
            return false;
        }
        if ask {
            state.unanswered_ping = true;
            state.codec.at(state.begun.elapsed());
            state.codec.ping(*b"isthmus?", &mut state.out);
            drop(guard);
            self.dirty.set();
        }
        true
    }
}

/// Where somebody stands who waits for a stream. Who gives up must not be the one whom the next free
/// one wakes, and who was woken and did not need it lets the next one know.
struct Place<'a> {
    session: &'a Session,
    waker: Option<Waker>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // While the connection itself is being taken apart, all are woken.
        let (Some(waker), Ok(mut state)) = (&self.waker, self.session.state.try_borrow_mut())
        else {
            return;
        };
        if !state.openers.leave(waker) && state.codec.can_open() {
            state.openers.wake(1);
        }
    }
}

#[cfg(test)]
mod tests;
