//! What follows from the frames that carry no message?

use super::connection::{MEASURING_PING, SHUTDOWN_PING, STREAM_ID_MAX};
use super::flow::{WINDOW_DEFAULT, WINDOW_MAX};
use super::frame::{self, Head, number31, setting};
use super::limits::{COST_FRAME, COST_SMALL};
use super::receive::{Fault, Next, Step, frame_size, protocol};
use super::stream::Closed;
use super::{Connection, ConnectionError, ErrorCode, Event, Role, StreamId};

/// A connection error of type FLOW_CONTROL_ERROR.
fn flow_control(why: &'static str) -> Fault {
    Fault::Connection(ConnectionError {
        code: ErrorCode::FlowControlError,
        why,
    })
}

impl Connection {
    /// SETTINGS (RFC 9113 §6.5).
    pub(super) fn settings<'b>(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Step<'b> {
        if head.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(frame_size("SETTINGS ack with a payload"));
            }
            return self.settings_confirmed(out);
        }
        let (list, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(frame_size("SETTINGS of a length that is no multiple of 6"));
        }
        if !self.peer.seen {
            // From now on there is no limit but what the peer says.
            self.peer.seen = true;
            self.peer.max_concurrent_streams = u32::MAX;
        }
        let mut window = self.peer.initial_window;
        for [a, b, c, d, e, f] in list {
            let value = u32::from_be_bytes([*c, *d, *e, *f]);
            self.setting(u16::from_be_bytes([*a, *b]), value, &mut window)?;
        }
        self.peer_window(window)?;
        self.limits.idle(COST_FRAME)?;
        self.limits.answer()?;
        frame::write_settings_ack(out);
        Ok(Next::Event(Event::Settings))
    }

    fn setting(&mut self, id: u16, value: u32, window: &mut u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.peer_table(value),
            setting::ENABLE_PUSH if value > 1 => return Err(protocol("ENABLE_PUSH above 1")),
            setting::ENABLE_PUSH if value == 1 && self.role == Role::Client => {
                return Err(protocol("ENABLE_PUSH from a server"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_concurrent_streams = value,
            setting::INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                return Err(flow_control("INITIAL_WINDOW_SIZE above 2^31-1"));
            }
            // Applied once, at the end: a list of 2,000 of them must not walk all streams each time.
            setting::INITIAL_WINDOW_SIZE => *window = value,
            setting::MAX_FRAME_SIZE
                if !(frame::FRAME_BYTES_MIN..=frame::FRAME_BYTES_MAX).contains(&value) =>
            {
                return Err(protocol("MAX_FRAME_SIZE out of range"));
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                // RFC 8441 §3: a promise is not taken back.
                if value > 1 || (value == 0 && self.peer.connect_protocol) {
                    return Err(protocol("ENABLE_CONNECT_PROTOCOL above 1, or taken back"));
                }
                self.peer.connect_protocol = value == 1;
            }
            // Our frames never exceed the minimum, heads are the driver's to bound.
            _ => {}
        }
        Ok(())
    }

    /// RFC 9113 §6.9.2: the change holds for streams that are open, too.
    fn peer_window(&mut self, window: u32) -> Result<(), Fault> {
        let change = i64::from(window) - i64::from(self.peer.initial_window);
        if change == 0 {
            return Ok(());
        }
        self.peer.initial_window = window;
        for (_, stream) in self.streams.values_mut() {
            let shifted = stream.send.shift(change);
            shifted.map_err(|_| flow_control("INITIAL_WINDOW_SIZE overflows a stream's window"))?;
        }
        Ok(())
    }

    /// The answer to our SETTINGS may be late: who looks at a certificate does that first, and who shares
    /// its processor with others is woken late. The shortest of a few answers counts. A server asks
    /// only a client that asks itself: others may take a PING for the answer to theirs.
    fn measure(&mut self, out: &mut Vec<u8>) {
        if let Some(left) = self.settings.measuring_pings.checked_sub(1) {
            self.settings.measuring_pings = left;
            self.ping(MEASURING_PING, out);
        }
    }

    /// The peer knows our settings now; a window smaller than the default holds from here on.
    fn settings_confirmed<'b>(&mut self, out: &mut Vec<u8>) -> Step<'b> {
        if self.settings_unacked == 0 {
            self.limits.idle(COST_FRAME)?;
            return Ok(Next::Handled);
        }
        self.settings_unacked = 0;
        self.clock.answered(false);
        if self.role == Role::Client {
            self.measure(out);
        }
        let full = self.settings.initial_window;
        let less = WINDOW_DEFAULT.saturating_sub(full);
        if less == 0 {
            return Ok(Next::Handled);
        }
        for (id, stream) in self.streams.values_mut() {
            stream
                .receive
                .shift(-i32::try_from(less).unwrap_or(i32::MAX));
            if !stream.remote_ended
                && let Some(grant) = stream.receive.release(0, full)
            {
                frame::write_window_update(id, grant, out);
            }
        }
        Ok(Next::Handled)
    }

    /// WINDOW_UPDATE (RFC 9113 §6.9).
    pub(super) fn window_update<'b>(&mut self, head: Head, payload: &[u8]) -> Step<'b> {
        let bytes = payload
            .try_into()
            .map_err(|_| frame_size("WINDOW_UPDATE not of 4 bytes"))?;
        let increment = number31(bytes);
        self.limits.idle(COST_SMALL)?;
        let id = head.stream;
        if id == 0 {
            if increment == 0 {
                return Err(protocol("WINDOW_UPDATE of zero for the connection"));
            }
            let low = self.send.available() < frame::PAYLOAD_SENT_MAX;
            let grown = self.send.grow(increment);
            grown.map_err(|_| flow_control("the connection's window overflows"))?;
            return Ok(if low {
                Next::Event(Event::Writable { id: None })
            } else {
                Next::Handled
            });
        }
        let Some(stream) = self.streams.get_mut(id) else {
            return match self.streams.missing(id) {
                None => Err(protocol("WINDOW_UPDATE on an idle stream")),
                Some(_) => Ok(Next::Handled),
            };
        };
        if increment == 0 {
            return Err(Fault::Stream {
                id,
                code: ErrorCode::ProtocolError,
                why: "WINDOW_UPDATE of zero",
            });
        }
        let low = stream.send.available() < frame::PAYLOAD_SENT_MAX;
        if stream.send.grow(increment).is_err() {
            return Err(Fault::Stream {
                id,
                code: ErrorCode::FlowControlError,
                why: "the stream's window overflows",
            });
        }
        if low && !stream.local_ended {
            return Ok(Next::Event(Event::Writable {
                id: Some(StreamId(id)),
            }));
        }
        Ok(Next::Handled)
    }

    /// RST_STREAM (RFC 9113 §6.4).
    pub(super) fn reset_by_peer<'b>(&mut self, head: Head, payload: &[u8]) -> Step<'b> {
        let code = payload
            .try_into()
            .map_err(|_| frame_size("RST_STREAM not of 4 bytes"))?;
        let code = ErrorCode::from(u32::from_be_bytes(code));
        let id = head.stream;
        let Some(stream) = self.streams.get(id) else {
            return match self.streams.missing(id) {
                None => Err(protocol("RST_STREAM on stream 0 or an idle stream")),
                Some(_) => {
                    self.limits.idle(COST_FRAME)?;
                    Ok(Next::Handled)
                }
            };
        };
        // A server's work for it is lost, unless the answer was whole. A client's streams are
        // bounded by what it opens itself.
        let lost = self.role == Role::Server && !stream.local_ended;
        self.limits.counters.resets = self.limits.counters.resets.saturating_add(1);
        self.streams.remove(id, Closed::ByPeer);
        if lost {
            self.limits.broke()?;
        }
        Ok(Next::Event(Event::Reset {
            id: StreamId(id),
            code,
            why: None,
        }))
    }

    /// PING (RFC 9113 §6.7).
    pub(super) fn pinged<'b>(&mut self, head: Head, payload: &[u8], out: &mut Vec<u8>) -> Step<'b> {
        if head.stream != 0 {
            return Err(protocol("PING on a stream"));
        }
        let payload = payload
            .try_into()
            .map_err(|_| frame_size("PING not of 8 bytes"))?;
        if !head.has(frame::ACK) {
            self.limits.idle(COST_FRAME)?;
            self.limits.answer()?;
            frame::write_ping(payload, true, out);
            if payload == MEASURING_PING && self.role == Role::Server {
                self.measure(out);
            }
            return Ok(Next::Handled);
        }
        if payload == SHUTDOWN_PING && self.away_sent == Some(STREAM_ID_MAX) {
            self.write_go_away(ErrorCode::NoError, "", out);
            return Ok(Next::Handled);
        }
        let Some(pings) = self.pings.checked_sub(1) else {
            self.limits.idle(COST_FRAME)?;
            return Ok(Next::Handled);
        };
        self.pings = pings;
        let measuring = payload == MEASURING_PING;
        self.clock.answered(!measuring);
        if measuring {
            if self.role == Role::Client {
                self.measure(out);
            }
            return Ok(Next::Handled);
        }
        Ok(Next::Event(Event::Pong(payload)))
    }

    /// GOAWAY (RFC 9113 §6.8).
    pub(super) fn peer_goes_away<'b>(&mut self, head: Head, payload: &[u8]) -> Step<'b> {
        if head.stream != 0 {
            return Err(protocol("GOAWAY on a stream"));
        }
        let Some((&[a, b, c, d, e, f, g, h], _debug)) = payload.split_first_chunk::<8>() else {
            return Err(frame_size("GOAWAY of less than 8 bytes"));
        };
        let last = number31([a, b, c, d]);
        let code = ErrorCode::from(u32::from_be_bytes([e, f, g, h]));
        if self.away_received.is_some_and(|before| last > before) {
            return Err(protocol("GOAWAY with a higher stream than before"));
        }
        self.limits.idle(COST_FRAME)?;
        self.away_received = Some(last);
        if self.role == Role::Client {
            self.refused = self.streams.above(last);
            self.refused.reverse();
        }
        Ok(Next::Event(Event::GoAway {
            last: StreamId(last),
            code,
        }))
    }

    /// PRIORITY is checked and ignored (RFC 9113 §5.3.2 and §6.3).
    pub(super) fn priority<'b>(&mut self, head: Head, payload: &[u8]) -> Step<'b> {
        let id = head.stream;
        if id == 0 {
            return Err(protocol("PRIORITY on stream 0"));
        }
        self.limits.idle(COST_FRAME)?;
        let (code, why) = match *payload {
            [a, b, c, d, _weight] if number31([a, b, c, d]) != id => return Ok(Next::Handled),
            [_, _, _, _, _] => (ErrorCode::ProtocolError, "a stream depends on itself"),
            _ => (ErrorCode::FrameSizeError, "PRIORITY not of 5 bytes"),
        };
        if self.streams.get(id).is_none() && self.streams.missing(id).is_none() {
            // RST_STREAM must not be sent for an idle stream (RFC 9113 §6.4).
            return Err(Fault::Connection(ConnectionError { code, why }));
        }
        Err(Fault::Stream { id, code, why })
    }
}
