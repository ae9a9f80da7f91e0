//! How is one stream read and written?

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use isthmus_proxy_core::detect::{Greeting, greeting};
use isthmus_proxy_core::http2::{ErrorCode, Role, StreamId};
use isthmus_proxy_core::message::{Fields, ResponseHead};

use super::Session;
use crate::buffer;
use crate::notify::put_waker;
use crate::stream::{Broken, Pull};

/// Received at once: worth a buffer that has the size already.
const LARGE_BYTES_MIN: usize = 8 * 1024;

/// What a stream has received, and who waits for it.
#[derive(Debug)]
pub(super) struct Slot(RefCell<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bounded by the stream's receive window.
    inbox: Vec<u8>,
    head: Option<ResponseHead>,
    /// Behind an informational one that was not taken yet: seldom there is any.
    heads: VecDeque<ResponseHead>,
    trailers: Option<Fields>,
    ended: bool,
    broken: Option<Broken>,
    reader: Option<Waker>,
    sender: Option<Waker>,
    /// Halves that are still held: the reading and the writing one.
    reading: bool,
    writing: bool,
    /// Our side has been ended.
    sent: bool,
}

impl Slot {
    pub(super) fn new(sent: bool) -> Self {
        Self(RefCell::new(Inner {
            inbox: Vec::new(),
            head: None,
            heads: VecDeque::new(),
            trailers: None,
            ended: false,
            broken: None,
            reader: None,
            sender: None,
            reading: true,
            writing: true,
            sent,
        }))
    }

    pub(super) fn ended_by_peer(&self, end: bool) {
        self.0.borrow_mut().ended = end;
    }

    pub(super) fn wants_data(&self) -> bool {
        self.0.borrow().reading
    }

    pub(super) fn answered(&self, head: ResponseHead, end: bool) {
        let mut inner = self.0.borrow_mut();
        if inner.head.is_none() {
            inner.head = Some(head);
        } else {
            inner.heads.push_back(head);
        }
        inner.ended |= end;
        inner.wake_reader();
    }

    pub(super) fn received(&self, data: &[u8], end: bool) {
        let mut inner = self.0.borrow_mut();
        if inner.inbox.capacity() == 0 && data.len() >= LARGE_BYTES_MIN {
            inner.inbox = buffer::spare();
        }
        inner.inbox.extend_from_slice(data);
        inner.ended |= end;
        inner.wake_reader();
    }

    pub(super) fn trailed(&self, fields: Fields) {
        let mut inner = self.0.borrow_mut();
        inner.trailers = Some(fields);
        inner.ended = true;
        inner.wake_reader();
    }

    pub(super) fn break_off(&self, why: Broken) {
        let mut inner = self.0.borrow_mut();
        inner.broken.get_or_insert(why);
        inner.wake_reader();
        inner.wake_sender();
    }

    pub(super) fn wake_sender(&self) {
        self.0.borrow_mut().wake_sender();
    }
}

impl Inner {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }
}

/// The two halves of a stream.
pub(super) fn halves(session: &Rc<Session>, id: StreamId, slot: Rc<Slot>) -> (StreamRx, StreamTx) {
    let rx = StreamRx {
        session: Rc::clone(session),
        id,
        slot: Rc::clone(&slot),
    };
    (
        rx,
        StreamTx {
            session: Rc::clone(session),
            id,
            slot,
        },
    )
}

/// The half that is read.
pub struct StreamRx {
    session: Rc<Session>,
    id: StreamId,
    slot: Rc<Slot>,
}

impl fmt::Debug for StreamRx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamRx({:?})", self.id)
    }
}

impl StreamRx {
    /// The next head of the answer: informational ones come first. Safe to drop.
    ///
    /// # Errors
    /// The stream broke before a head came.
    pub async fn head(&mut self) -> Result<ResponseHead, Broken> {
        poll_fn(|cx| {
            let mut inner = self.slot.0.borrow_mut();
            if let Some(head) = inner.head.take() {
                inner.head = inner.heads.pop_front();
                return Poll::Ready(Ok(head));
            }
            if let Some(broken) = inner.broken {
                return Poll::Ready(Err(broken));
            }
            if inner.ended {
                // The codec lets no stream end without a head.
                return Poll::Ready(Err(Broken::Reset(None)));
            }
            put_waker(&mut inner.reader, cx);
            Poll::Pending
        })
        .await
    }

    /// What the content that was not pulled yet begins like, where there is any.
    pub(crate) fn greeting(&self) -> Option<Greeting> {
        let inner = self.slot.0.borrow();
        (!inner.inbox.is_empty()).then(|| greeting(&inner.inbox))
    }

    pub(crate) fn try_pull(
        &mut self,
        room: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Pull, Broken> {
        let mut inner = self.slot.0.borrow_mut();
        if !inner.inbox.is_empty() {
            let taken = inner.inbox.len().min(room);
            // The sink may be a stream of the same session: it borrows the session, not this slot.
            let mut inbox = std::mem::take(&mut inner.inbox);
            drop(inner);
            sink(inbox.get(..taken).unwrap_or_default());
            if taken == inbox.len() && inbox.capacity() >= LARGE_BYTES_MIN {
                // The next one to receive much may be another stream.
                buffer::keep(inbox);
            } else {
                buffer::drop_front(&mut inbox, taken);
                self.slot.0.borrow_mut().inbox = inbox;
            }
            self.credit(taken);
            return Ok(Pull::Data);
        }
        // RFC 9113 §8.1: what has come to its end is whole, also if the stream is reset afterwards.
        if inner.ended {
            return Ok(Pull::End(inner.trailers.take().unwrap_or_default()));
        }
        match inner.broken {
            Some(broken) => Err(broken),
            None => Ok(Pull::Empty),
        }
    }

    fn credit(&self, taken: usize) {
        let mut guard = self.session.state.borrow_mut();
        let state = &mut *guard;
        state.codec.consumed(self.id, taken, &mut state.out);
        let dirty = !state.out.is_empty();
        drop(guard);
        if dirty {
            self.session.dirty.set();
        }
    }

    pub(crate) async fn wait(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_wait(cx)).await;
        Ok(())
    }

    fn poll_wait(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.slot.0.borrow_mut();
        if !inner.inbox.is_empty() || inner.ended || inner.broken.is_some() {
            return Poll::Ready(());
        }
        put_waker(&mut inner.reader, cx);
        Poll::Pending
    }

    /// Waits until the peer breaks the stream off. Safe to drop; not while another waits to read.
    pub async fn broken(&mut self) -> Broken {
        poll_fn(|cx| {
            let mut inner = self.slot.0.borrow_mut();
            if let Some(broken) = inner.broken {
                return Poll::Ready(broken);
            }
            put_waker(&mut inner.sender, cx);
            Poll::Pending
        })
        .await
    }

    /// Has everything been read?
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        let inner = self.slot.0.borrow();
        inner.ended && inner.inbox.is_empty()
    }
}

impl Drop for StreamRx {
    fn drop(&mut self) {
        let (left, ended, sent) = {
            let mut inner = self.slot.0.borrow_mut();
            inner.reading = false;
            let left = std::mem::take(&mut inner.inbox).len();
            (left, inner.ended || inner.broken.is_some(), inner.sent)
        };
        if left > 0 {
            self.credit(left);
        }
        if !ended {
            // RFC 9113 §8.1: a complete answer may stop the request without an error.
            let answered = sent && self.session.role == Role::Server;
            let code = if answered {
                ErrorCode::NoError
            } else {
                ErrorCode::Cancel
            };
            release(&self.session, self.id, &self.slot, Some(code));
        }
        release(&self.session, self.id, &self.slot, None);
    }
}

/// The half that is written.
pub struct StreamTx {
    session: Rc<Session>,
    id: StreamId,
    slot: Rc<Slot>,
}

impl fmt::Debug for StreamTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamTx({:?})", self.id)
    }
}

impl StreamTx {
    /// Sends the head of the answer, once the output has room for it; informational ones may come
    /// before. Safe to drop.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn respond(&mut self, head: &ResponseHead, end: bool) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_room(cx)).await?;
        let mut guard = self.session.state.borrow_mut();
        let state = &mut *guard;
        state.begin();
        let result = state.codec.respond(self.id, head, end, &mut state.out);
        drop(guard);
        self.session.dirty.set();
        if end {
            self.slot.0.borrow_mut().sent = true;
        }
        result.map_err(|_| self.why())
    }

    /// Heads are no DATA: no window holds them back, only a peer that does not read.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Broken>> {
        if let Some(broken) = self.slot.0.borrow().broken {
            return Poll::Ready(Err(broken));
        }
        let mut state = self.session.state.borrow_mut();
        if state.room(self.session.burst).is_some() {
            return Poll::Ready(Ok(()));
        }
        state.senders.push(cx);
        put_waker(&mut self.slot.0.borrow_mut().sender, cx);
        Poll::Pending
    }

    fn why(&self) -> Broken {
        self.slot.0.borrow().broken.unwrap_or(Broken::Reset(None))
    }

    pub(crate) async fn ready(&mut self) -> Result<usize, Broken> {
        poll_fn(|cx| {
            if let Some(broken) = self.slot.0.borrow().broken {
                return Poll::Ready(Err(broken));
            }
            let mut guard = self.session.state.borrow_mut();
            let state = &mut *guard;
            let room = state.room(self.session.burst);
            let capacity = state.codec.capacity(self.id);
            if let Some(room) = room
                && capacity > 0
            {
                return Poll::Ready(Ok(room.min(capacity)));
            }
            // In line for what all share. A stream that lacks only its own window does not stand
            // there: it would take wake-ups from those whom they help.
            if room.is_none() || state.codec.connection_capacity() == 0 {
                state.senders.push(cx);
            }
            drop(guard);
            put_waker(&mut self.slot.0.borrow_mut().sender, cx);
            Poll::Pending
        })
        .await
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        let mut guard = self.session.state.borrow_mut();
        let state = &mut *guard;
        // A stream that is gone says so at the next `ready`.
        state.begin();
        let _ = state.codec.data(self.id, data, false, &mut state.out);
        drop(guard);
        self.session.dirty.set();
    }

    pub(crate) fn finish(&mut self, trailers: &Fields) {
        if std::mem::replace(&mut self.slot.0.borrow_mut().sent, true) {
            return;
        }
        let mut guard = self.session.state.borrow_mut();
        let state = &mut *guard;
        let _ = if trailers.is_empty() {
            state
                .codec
                .data(self.id, &[], true, &mut state.out)
                .map(|_| ())
        } else {
            state.codec.trailers(self.id, trailers, &mut state.out)
        };
        drop(guard);
        self.session.dirty.set();
    }

    pub(crate) fn reset(&mut self, code: ErrorCode) {
        self.slot.0.borrow_mut().sent = true;
        release(&self.session, self.id, &self.slot, Some(code));
    }

    /// Waits until the peer breaks the stream off, or its connection ends. Safe to drop.
    pub async fn broken(&self) -> Broken {
        poll_fn(|cx| {
            let mut inner = self.slot.0.borrow_mut();
            if let Some(broken) = inner.broken {
                return Poll::Ready(broken);
            }
            put_waker(&mut inner.sender, cx);
            Poll::Pending
        })
        .await
    }
}

impl Drop for StreamTx {
    fn drop(&mut self) {
        let unfinished = {
            let mut inner = self.slot.0.borrow_mut();
            inner.writing = false;
            !inner.sent && inner.broken.is_none()
        };
        let code = unfinished.then_some(ErrorCode::Cancel);
        release(&self.session, self.id, &self.slot, code);
    }
}

/// Resets the stream if a code is given, and forgets it when nobody holds a half any more.
fn release(session: &Session, id: StreamId, slot: &Slot, code: Option<ErrorCode>) {
    let held = {
        let mut inner = slot.0.borrow_mut();
        if code.is_some() {
            inner.broken.get_or_insert(Broken::Reset(code));
        }
        inner.reading || inner.writing
    };
    // While the connection itself is being taken apart, there is nobody to tell.
    let Ok(mut guard) = session.state.try_borrow_mut() else {
        return;
    };
    let state = &mut *guard;
    if let Some(code) = code {
        state.codec.reset(id, code, &mut state.out);
    }
    if !held && state.streams.remove(&id).is_some() {
        state.openers.wake(1);
    }
    drop(guard);
    session.dirty.set();
}
