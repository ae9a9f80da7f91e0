//! What is the next event in these bytes?

use super::frame::{self, HEAD_BYTES, Head, Kind, PREFACE, size};
use super::limits::{COST_FRAME, COST_SMALL, LARGE_BYTES, SMALL_BYTES};
use super::stream::{Closed, UNKNOWN};
use super::{Connection, ConnectionError, ErrorCode, Event, StreamId};

/// Where in the stream of bytes we are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// Server: before the client's preface.
    Preface,
    /// Before the peer's first frame, which must be SETTINGS.
    FirstFrame,
    /// Between frames.
    Frame,
    /// In the content of a DATA frame.
    Data {
        stream: u32,
        left: u32,
        padding: u32,
        end: bool,
    },
    /// In bytes of a frame that nobody wants.
    Skip { left: u32 },
}

/// What a step came to.
pub(super) enum Next<'b> {
    /// Tell the driver.
    Event(Event<'b>),
    /// Done, nothing to tell.
    Handled,
    /// More bytes are needed.
    NeedMore,
}

/// A rule that the peer broke.
pub(super) enum Fault {
    /// It ends the connection.
    Connection(ConnectionError),
    /// It ends a stream.
    Stream {
        id: u32,
        code: ErrorCode,
        why: &'static str,
    },
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

/// What a step returns.
pub(super) type Step<'b> = Result<Next<'b>, Fault>;

/// A connection error of type PROTOCOL_ERROR.
pub(super) fn protocol(why: &'static str) -> Fault {
    Fault::Connection(ConnectionError {
        code: ErrorCode::ProtocolError,
        why,
    })
}

/// A connection error of type FRAME_SIZE_ERROR.
pub(super) fn frame_size(why: &'static str) -> Fault {
    Fault::Connection(ConnectionError {
        code: ErrorCode::FrameSizeError,
        why,
    })
}

impl Connection {
    /// Takes the next event from the front of `input`, and moves `input` past what is done with.
    /// `None`: more bytes are needed; offer the rest again, with more behind it. It is never
    /// longer than one frame other than DATA: `max_frame` + 8 bytes. Answers go to `out`.
    ///
    /// # Errors
    /// The peer broke a rule that ends the connection: GOAWAY is in `out`; flush it, and close.
    pub fn decode<'b>(
        &mut self,
        input: &mut &'b [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'b>>, ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if out.is_empty() {
            self.limits.flushed();
        }
        loop {
            let step = match self.step(input, out) {
                Err(Fault::Stream { id, code, why }) => match self.break_stream(id, code, out) {
                    Ok(true) => Ok(Next::Event(Event::Reset {
                        id: StreamId(id),
                        code,
                        why: Some(why),
                    })),
                    Ok(false) => Ok(Next::Handled),
                    Err(error) => Err(error),
                },
                Err(Fault::Connection(error)) => Err(error),
                Ok(next) => Ok(next),
            };
            match step {
                Ok(Next::Event(event)) => return Ok(Some(event)),
                Ok(Next::Handled) => {}
                Ok(Next::NeedMore) => return Ok(None),
                Err(error) => {
                    self.fail(error, out);
                    return Err(error);
                }
            }
        }
    }

    fn step<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> Step<'b> {
        if let Some(id) = self.refused.pop() {
            return Ok(Next::Event(Event::Reset {
                id: StreamId(id),
                code: ErrorCode::RefusedStream,
                why: None,
            }));
        }
        match self.reading {
            Reading::Frame => self.frame(input, out),
            Reading::Data {
                stream,
                left,
                padding,
                end,
            } => {
                if input.is_empty() {
                    return Ok(Next::NeedMore);
                }
                let (data, rest) = input.split_at_checked(size(left)).unwrap_or((input, &[]));
                *input = rest;
                let left = left - frame::wire(data.len());
                self.reading = match left {
                    0 => after(padding),
                    _ => Reading::Data {
                        stream,
                        left,
                        padding,
                        end,
                    },
                };
                Ok(self.piece(stream, data, end && left == 0, out))
            }
            Reading::Skip { left } => {
                if input.is_empty() {
                    return Ok(Next::NeedMore);
                }
                let (skipped, rest) = input.split_at_checked(size(left)).unwrap_or((input, &[]));
                *input = rest;
                self.reading = after(left - frame::wire(skipped.len()));
                Ok(Next::Handled)
            }
            Reading::Preface => self.preface(input),
            Reading::FirstFrame => {
                // RFC 9113 §3.4: SETTINGS, and not the answer to ours.
                let Some(head) = input.first_chunk() else {
                    return Ok(Next::NeedMore);
                };
                let head = Head::read(head);
                if head.kind != Kind::Settings || head.has(frame::ACK) {
                    return Err(protocol("the first frame is not SETTINGS"));
                }
                self.frame(input, out)
            }
        }
    }

    fn preface<'b>(&mut self, input: &mut &'b [u8]) -> Step<'b> {
        if let Some(rest) = input.strip_prefix(PREFACE) {
            *input = rest;
            self.reading = Reading::FirstFrame;
            return Ok(Next::Handled);
        }
        if PREFACE.starts_with(input) {
            return Ok(Next::NeedMore);
        }
        Err(protocol("no HTTP/2 preface"))
    }

    /// A frame begins.
    fn frame<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> Step<'b> {
        let Some((head, rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(Next::NeedMore);
        };
        let head = Head::read(head);
        if head.length > self.settings.max_frame {
            return Err(frame_size("frame longer than granted"));
        }
        if let Some(assembly) = &self.assembly
            && (head.kind != Kind::Continuation || head.stream != assembly.stream)
        {
            return Err(protocol("a block of fields was interrupted"));
        }
        match head.kind {
            Kind::Data => return self.data_begins(head, rest, input, out),
            Kind::Unknown(_) => {
                *input = rest;
                self.reading = after(head.length);
                self.limits.idle(COST_FRAME)?;
                return Ok(Next::Handled);
            }
            _ => {}
        }
        let Some((payload, rest)) = rest.split_at_checked(size(head.length)) else {
            return Ok(Next::NeedMore);
        };
        *input = rest;
        self.reading = Reading::Frame;
        match head.kind {
            Kind::Headers => self.headers(head, payload, out),
            Kind::Continuation => self.continuation(head, payload, out),
            Kind::Settings => self.settings(head, payload, out),
            Kind::WindowUpdate => self.window_update(head, payload),
            Kind::ResetStream => self.reset_by_peer(head, payload),
            Kind::Ping => self.pinged(head, payload, out),
            Kind::GoAway => self.peer_goes_away(head, payload),
            Kind::Priority => self.priority(head, payload),
            // RFC 9113 §8.4: clients never push, and servers must not to us.
            Kind::PushPromise => Err(protocol("PUSH_PROMISE was not allowed")),
            Kind::Data | Kind::Unknown(_) => Ok(Next::Handled),
        }
    }

    /// A DATA frame begins: it is judged whole, before its content comes (RFC 9113 §6.1).
    fn data_begins<'b>(
        &mut self,
        head: Head,
        rest: &'b [u8],
        input: &mut &'b [u8],
        out: &mut Vec<u8>,
    ) -> Step<'b> {
        if head.stream == 0 {
            return Err(protocol("DATA on stream 0"));
        }
        let (padding, overhead, rest) = if head.has(frame::PADDED) {
            if head.length == 0 {
                return Err(frame_size("DATA without the length of its padding"));
            }
            let Some((&padding, rest)) = rest.split_first() else {
                return Ok(Next::NeedMore);
            };
            (u32::from(padding), u32::from(padding) + 1, rest)
        } else {
            (0, 0, rest)
        };
        let Some(content) = head.length.checked_sub(overhead) else {
            return Err(protocol("DATA with more padding than payload"));
        };
        *input = rest;
        self.receive
            .accept(head.length)
            .map_err(|_| ConnectionError {
                code: ErrorCode::FlowControlError,
                why: "more DATA than the connection's window",
            })?;
        let end = head.has(frame::END_STREAM);
        if let Err(fault) = self.accept_data(head, content, end) {
            // Nobody takes it: skip it, and give the connection its credit back.
            self.reading = after(content + padding);
            self.credit_connection(size(head.length), out);
            return match fault {
                Some(fault) => Err(fault),
                None => Ok(Next::Handled),
            };
        }
        if overhead > 0 {
            self.consumed(StreamId(head.stream), size(overhead), out);
        }
        if content > 0 {
            self.reading = Reading::Data {
                stream: head.stream,
                left: content,
                padding,
                end,
            };
            return Ok(Next::Handled);
        }
        self.reading = after(padding);
        Ok(if end {
            self.piece(head.stream, &[], true, out)
        } else {
            Next::Handled
        })
    }

    /// May this DATA be? `Err(None)`: no, but that is nobody's fault.
    fn accept_data(&mut self, head: Head, content: u32, end: bool) -> Result<(), Option<Fault>> {
        let id = head.stream;
        let broken = |code, why| Some(Fault::Stream { id, code, why });
        let Some(stream) = self.streams.get_mut(id) else {
            return Err(self.data_astray(id, head.length).err());
        };
        if stream.remote_ended {
            return Err(broken(
                ErrorCode::StreamClosed,
                "DATA after the end of the message",
            ));
        }
        if !stream.head_seen {
            return Err(broken(ErrorCode::ProtocolError, "DATA before the head"));
        }
        if stream.receive.accept(head.length).is_err() {
            return Err(broken(
                ErrorCode::FlowControlError,
                "more DATA than the stream's window",
            ));
        }
        if stream.content != UNKNOWN {
            // RFC 9113 §8.1.1: content-length is the sum of the DATA frames.
            let left = stream.content.checked_sub(u64::from(content));
            stream.content = left.ok_or(broken(
                ErrorCode::ProtocolError,
                "more content than content-length",
            ))?;
            if end && stream.content > 0 {
                return Err(broken(
                    ErrorCode::ProtocolError,
                    "less content than content-length",
                ));
            }
        }
        let counted = match content {
            0 if end => Ok(()),
            0 => self.limits.idle(COST_FRAME),
            _ => self.limits.received(content),
        };
        counted.map_err(|error| Some(error.into()))
    }

    /// DATA for a stream that is not live.
    fn data_astray(&mut self, id: u32, length: u32) -> Result<(), Fault> {
        match self.streams.missing(id) {
            None => Err(protocol("DATA on an idle stream")),
            Some(Closed::Ended) => Err(Fault::Connection(ConnectionError {
                code: ErrorCode::StreamClosed,
                why: "DATA after the end of the stream",
            })),
            Some(Closed::ByPeer) => Err(Fault::Stream {
                id,
                code: ErrorCode::StreamClosed,
                why: "DATA after the stream was reset",
            }),
            // It was under way when we reset the stream.
            Some(Closed::ByUs | Closed::Forgotten) => {
                let cost = match length {
                    0..=SMALL_BYTES => COST_FRAME,
                    LARGE_BYTES.. => 0,
                    _ => COST_SMALL,
                };
                Ok(self.limits.idle(cost)?)
            }
        }
    }

    /// A piece of content arrived whose frame was accepted.
    fn piece<'b>(&mut self, id: u32, data: &'b [u8], end: bool, out: &mut Vec<u8>) -> Next<'b> {
        if self.streams.get(id).is_none() {
            // The driver has reset the stream in the middle of the frame.
            self.credit_connection(data.len(), out);
            return Next::Handled;
        }
        if end {
            self.end_remote(id);
        }
        Next::Event(Event::Data {
            id: StreamId(id),
            data,
            end,
        })
    }

    /// The peer's side of a stream has ended.
    pub(super) fn end_remote(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.remote_ended = true;
            if stream.local_ended {
                self.streams.remove(id, Closed::Ended);
                self.limits.completed();
            }
        }
    }
}

/// What follows a part of a frame when so many bytes of it are to be skipped.
fn after(left: u32) -> Reading {
    if left == 0 {
        Reading::Frame
    } else {
        Reading::Skip { left }
    }
}
