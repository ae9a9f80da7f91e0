//! What moves between a session's socket and its streams?
//!
//! Two tasks for each session: one reads and decodes, one writes what the streams have encoded.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::{ErrorCode, Event, Role};
use isthmus_proxy_core::message::Fields;
use tokio::time::sleep;

use super::stream::{self, Slot};
use super::{Refused, Session, State};
use crate::buffer;
use crate::relay;
use crate::stream::Broken;
use crate::transport::Progress;

/// Streams woken when there is room again: few at a time, first come first served.
const WAKE_PER_FLUSH: usize = 8;
/// For what is still to be written when a session ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn read_loop(self: Rc<Self>, first: Vec<u8>) {
        let mut ended = self
            .receive(&first)
            .and_then(|()| self.transport.read_early(&mut |plain| self.receive(plain)))
            .map(|()| Progress::More);
        while !self.closed.get() {
            match ended {
                Ok(Progress::More) => {}
                Ok(Progress::Blocked) => {
                    // A peer that never closes must not keep a closed session alive.
                    let (readable, unread) =
                        (pin!(self.transport.readable()), pin!(self.unread.wait()));
                    if !matches!(relay::unless(readable, unread).await, Ok(Ok(()))) {
                        break;
                    }
                }
                Ok(Progress::Ended) | Err(_) => break,
            }
            ended = self.transport.read(&mut |plain| self.receive(plain));
            if matches!(ended, Ok(Progress::More)) {
                self.heard.set(true);
                // A peer that sends without a pause must not starve the other tasks.
                tokio::task::yield_now().await;
            }
        }
        self.close();
    }

    /// Decodes bytes of the peer.
    fn receive(self: &Rc<Self>, plain: &[u8]) -> io::Result<()> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.codec.at(state.begun.elapsed()) {
            self.count(state);
        }
        // What the codec answers is little, and what streams add to it may be much.
        state.begin();
        let result = if state.rest.is_empty() {
            let mut input = plain;
            let result = self.decode(state, &mut input);
            state.moved |= input.len() < plain.len();
            state.rest.extend_from_slice(input);
            result
        } else {
            let mut joined = std::mem::take(&mut state.rest);
            joined.extend_from_slice(plain);
            let mut input = joined.as_slice();
            let result = self.decode(state, &mut input);
            let used = joined.len() - input.len();
            state.moved |= used > 0;
            buffer::drop_front(&mut joined, used);
            state.rest = joined;
            result
        };
        let dirty = !state.out.is_empty();
        state.give_back();
        drop(guard);
        if dirty {
            self.dirty.set();
        }
        result
    }

    fn decode(self: &Rc<Self>, state: &mut State, input: &mut &[u8]) -> io::Result<()> {
        loop {
            let event = match state.codec.decode(input, &mut state.out) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // The codec has written GOAWAY; the flusher sends it and closes.
                    state.going_away = true;
                    if self.role == Role::Client {
                        // Whoever waits for an answer waits for one that can't be read.
                        let broken = self.malformed(error.why);
                        state.streams.values().for_each(|s| s.break_off(broken));
                    }
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        error.to_string(),
                    ));
                }
            };
            self.dispatch(state, event);
        }
    }

    fn dispatch(self: &Rc<Self>, state: &mut State, event: Event<'_>) {
        match event {
            Event::Request { id, head, end } => {
                let slot = Rc::new(Slot::new(false));
                slot.ended_by_peer(end);
                state.streams.insert(id, Rc::clone(&slot));
                let (rx, tx) = stream::halves(self, id, slot);
                state.incoming.push_back((head, rx, tx));
                state.acceptor.wake(1);
            }
            Event::Response { id, head, end } => {
                if let Some(slot) = state.streams.get(&id) {
                    slot.answered(head, end);
                }
            }
            Event::Data { id, data, end } => match state.streams.get(&id) {
                Some(slot) if slot.wants_data() => slot.received(data, end),
                // Nobody reads it any more: the credit goes back at once.
                Some(_) | None => state.codec.consumed(id, data.len(), &mut state.out),
            },
            Event::Trailers { id, fields } => {
                if let Some(slot) = state.streams.get(&id) {
                    slot.trailed(fields);
                }
            }
            Event::Reset { id, code, why } => {
                if let Some(slot) = state.streams.get(&id) {
                    slot.break_off(match (why, code) {
                        (Some(why), _) => self.malformed(why),
                        (None, ErrorCode::RefusedStream) => Broken::Refused,
                        (None, code) => Broken::Reset(Some(code)),
                    });
                }
                state.openers.wake(1);
            }
            Event::Writable { id: Some(id) } => {
                if let Some(slot) = state.streams.get(&id) {
                    slot.wake_sender();
                }
            }
            Event::Writable { id: None } => {
                state.senders.wake(WAKE_PER_FLUSH);
                // It looks for the next ones in line.
                self.dirty.set();
            }
            Event::Settings => {
                state.openers.wake_all();
                state.senders.wake_all();
                // The peer's initial window moves those of all streams.
                state.streams.values().for_each(|slot| slot.wake_sender());
            }
            Event::GoAway { .. } => {
                state.going_away = true;
                state.openers.wake_all();
                // One without a stream has nothing more to wait for.
                self.dirty.set();
            }
            Event::Refused { failure, .. } => {
                self.refused(failure, 0);
            }
            Event::TooLarge { id, end } => {
                let failure = Failure::HeadTooLarge;
                let reason = self.refused(failure, failure.status());
                let mut fields = Fields::default();
                fields.push(b"x-mesh-reason", reason.as_bytes());
                let out = &mut state.out;
                state.codec.too_large_told((id, end), &fields, out);
            }
            Event::Pong(_) => state.unanswered_ping = false,
        }
    }

    /// How a stream ends whose peer broke this rule.
    fn malformed(&self, why: &'static str) -> Broken {
        Broken::Malformed(match self.role {
            Role::Client => Failure::UpstreamProtocol(why),
            Role::Server => Failure::BadRequest(why),
        })
    }

    /// Floods of such requests are cut by the codec.
    fn refused(&self, failure: Failure, status: u16) -> String {
        let told = self.refused.get();
        told.map(|Refused(told)| told(failure, status))
            .unwrap_or_default()
    }

    pub(super) async fn flush_loop(self: Rc<Self>) {
        loop {
            self.dirty.wait().await;
            // Every task that is ready adds its frames before one write takes them all.
            tokio::task::yield_now().await;
            // A peer that does not read gets no longer than this for the last words.
            let last_words = pin!(async {
                self.closing.wait().await;
                sleep(CLOSE_TIMEOUT).await;
            });
            let writing = pin!(self.write_out());
            if !matches!(relay::unless(writing, last_words).await, Ok(Ok(()))) {
                break;
            }
            if self.closed.get() {
                self.transport.shut_down();
                break;
            }
            self.wake_next().await;
            let done = {
                let state = self.state.borrow();
                state.codec.is_drained() && state.streams.is_empty() && state.out.is_empty()
            };
            if done {
                // A session that is going away ends with its last stream.
                self.close();
            }
        }
        self.close();
    }

    /// Who was woken may have had nothing to add, or be gone: those behind must not wait for that.
    async fn wake_next(&self) {
        let waiting = {
            let state = self.state.borrow();
            !state.senders.is_empty() && state.codec.connection_capacity() > 0
        };
        if waiting {
            // Those who were woken are first.
            tokio::task::yield_now().await;
            let mut state = self.state.borrow_mut();
            if state.out.is_empty() {
                state.senders.wake(WAKE_PER_FLUSH);
            }
            self.dirty.set();
        }
    }

    async fn write_out(&self) -> io::Result<()> {
        loop {
            let data = {
                let mut state = self.state.borrow_mut();
                let data = std::mem::take(&mut state.out);
                state.writing = data.len();
                state.codec.flushed();
                data
            };
            if data.is_empty() {
                return Ok(());
            }
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                match self.transport.write(rest) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.transport.writable().await?;
                    }
                    Err(error) => return Err(error),
                }
                self.state.borrow_mut().writing = rest.len();
            }
            while !self.transport.flush()? {
                self.transport.writable().await?;
            }
            buffer::keep(data);
            self.state.borrow_mut().senders.wake(WAKE_PER_FLUSH);
        }
    }
}
