//! What does a whole block of fields mean on its stream (RFC 9113 §6.2, §6.10, §8.1)?

use super::flow::{ReceiveWindow, SendWindow};
use super::frame::{self, Head};
use super::growth::Pace;
use super::head::{self, List};
use super::hpack;
use super::limits::{self, COST_FRAME, COST_SMALL};
use super::receive::{Fault, Next, Step, frame_size, protocol};
use super::stream::{Asked, Closed, Stream};
use super::{Connection, ConnectionError, ErrorCode, Event, Role, StreamId};
use crate::failure::Failure;
use crate::message::{Method, RequestHead};

/// Ours: room for the text of a small head, bytes.
const HEAD_ROOM_MIN: usize = 256;
/// Ours: a large head's room is not guessed beyond this, bytes.
const HEAD_ROOM_MAX: usize = 4096;

/// A block with what its HEADERS frame said.
struct Block<'a> {
    stream: u32,
    end: bool,
    depends_on_itself: bool,
    bytes: &'a [u8],
}

impl Connection {
    /// HEADERS: a whole block is read where it lies, the start of one is copied.
    pub(super) fn headers<'b>(
        &mut self,
        head: Head,
        payload: &'b [u8],
        out: &mut Vec<u8>,
    ) -> Step<'b> {
        if head.stream == 0 {
            return Err(protocol("HEADERS on stream 0"));
        }
        let (dependency, bytes) = fragment(head, payload)?;
        let depends_on_itself = dependency == Some(head.stream);
        let (stream, end) = (head.stream, head.has(frame::END_STREAM));
        if head.has(frame::END_HEADERS) {
            return self.block(
                &Block {
                    stream,
                    end,
                    depends_on_itself,
                    bytes,
                },
                out,
            );
        }
        let block = bytes.to_vec();
        self.assembly = Some(super::connection::Assembly {
            stream,
            end,
            depends_on_itself,
            frames: 0,
            block,
        });
        Ok(Next::Handled)
    }

    /// CONTINUATION. That it fits the HEADERS before it was checked with the frame's head.
    pub(super) fn continuation<'b>(
        &mut self,
        head: Head,
        payload: &'b [u8],
        out: &mut Vec<u8>,
    ) -> Step<'b> {
        let Some(mut assembly) = self.assembly.take() else {
            return Err(protocol("CONTINUATION without HEADERS"));
        };
        assembly.frames += 1;
        let long = assembly.block.len() + payload.len() > limits::BLOCK_BYTES_MAX;
        if long || assembly.frames > limits::CONTINUATIONS_MAX {
            return Err(limits::calm("a block of fields without end").into());
        }
        assembly.block.extend_from_slice(payload);
        if !head.has(frame::END_HEADERS) {
            self.assembly = Some(assembly);
            return Ok(Next::Handled);
        }
        let block = Block {
            stream: assembly.stream,
            end: assembly.end,
            depends_on_itself: assembly.depends_on_itself,
            bytes: &assembly.block,
        };
        self.block(&block, out)
    }

    fn block<'b>(&mut self, block: &Block<'_>, out: &mut Vec<u8>) -> Step<'b> {
        let id = block.stream;
        let Some(stream) = self.streams.get(id) else {
            return match self.streams.missing(id) {
                None if self.role == Role::Server && !id.is_multiple_of(2) => {
                    self.request(block, out)
                }
                None => Err(protocol(
                    "HEADERS on a stream that is not the peer's to open",
                )),
                Some(how) => self.block_astray(block, how),
            };
        };
        if stream.remote_ended {
            self.discard(block.bytes)?;
            return Err(Fault::Stream {
                id,
                code: ErrorCode::StreamClosed,
                why: "HEADERS after the end of the message",
            });
        }
        let head_seen = stream.head_seen;
        let mut list = self.list_for(block.bytes);
        self.decode_block(block.bytes, &mut list)?;
        if block.depends_on_itself {
            return Err(Fault::Stream {
                id,
                code: ErrorCode::ProtocolError,
                why: "a stream depends on itself",
            });
        }
        if head_seen {
            self.trailers_came(block, &mut list)
        } else {
            self.response(block, &mut list)
        }
    }

    /// HEADERS for a stream that is over.
    fn block_astray<'b>(&mut self, block: &Block<'_>, how: Closed) -> Step<'b> {
        match how {
            Closed::Ended => Err(Fault::Connection(ConnectionError {
                code: ErrorCode::StreamClosed,
                why: "HEADERS after the end of the stream",
            })),
            // RFC 9113 §5.1.1: ids only grow.
            Closed::Forgotten if self.role == Role::Server => {
                Err(protocol("HEADERS on a stream below the last one"))
            }
            Closed::ByPeer => {
                self.discard(block.bytes)?;
                Err(Fault::Stream {
                    id: block.stream,
                    code: ErrorCode::StreamClosed,
                    why: "HEADERS after the stream was reset",
                })
            }
            Closed::ByUs | Closed::Forgotten => {
                // Trailers or a head that were under way.
                self.discard(block.bytes)?;
                self.limits.idle(COST_SMALL)?;
                Ok(Next::Handled)
            }
        }
    }

    /// Server: a stream begins.
    fn request<'b>(&mut self, block: &Block<'_>, out: &mut Vec<u8>) -> Step<'b> {
        let id = block.stream;
        let mut list = self.list_for(block.bytes);
        self.decode_block(block.bytes, &mut list)?;
        self.streams.use_id(id);
        if self.away_sent.is_some_and(|last| id > last) {
            return self.refuse(id, Failure::Draining, ErrorCode::RefusedStream, out);
        }
        if self.streams.len() >= frame::size(self.settings.max_concurrent_streams) {
            return self.refuse(id, Failure::Overflow, ErrorCode::RefusedStream, out);
        }
        let read = if block.depends_on_itself {
            Err(head::Fault::Malformed("a stream depends on itself"))
        } else {
            list.take_request(block.end, self.settings.enable_connect_protocol)
        };
        let (head, content) = match read {
            Ok(read) => read,
            Err(head::Fault::TooLarge) => return self.too_large(block),
            Err(head::Fault::Malformed(why)) => {
                let failure = Failure::BadRequest(why);
                return self.refuse(id, failure, ErrorCode::ProtocolError, out);
            }
        };
        self.limits.message();
        let stream = Stream {
            content,
            send: SendWindow::new(self.peer.initial_window),
            receive: ReceiveWindow::new(self.stream_window()),
            grown: 0,
            pace: Pace::default(),
            remote_ended: block.end,
            local_ended: false,
            head_seen: true,
            head_sent: false,
            asked: asked(&head),
            informational: 0,
        };
        self.streams.insert(id, stream);
        Ok(Next::Event(Event::Request {
            id: StreamId(id),
            head,
            end: block.end,
        }))
    }

    /// A request that the driver never sees ends here.
    fn refuse<'b>(
        &mut self,
        id: u32,
        failure: Failure,
        code: ErrorCode,
        out: &mut Vec<u8>,
    ) -> Step<'b> {
        self.limits.counters.refused = self.limits.counters.refused.saturating_add(1);
        if code == ErrorCode::RefusedStream {
            // Honest clients meet this too, when limits or goodbyes are still under way.
            self.limits.idle(COST_FRAME)?;
            self.limits.answer()?;
            frame::write_reset(id, code, out);
            self.streams.remove(id, Closed::ByUs);
        } else {
            self.break_stream(id, code, out)?;
        }
        Ok(Next::Event(Event::Refused {
            id: StreamId(id),
            failure,
        }))
    }

    /// A head beyond our limits: the driver answers it, and the rest of it is not wanted.
    fn too_large<'b>(&mut self, block: &Block<'_>) -> Step<'b> {
        let (id, end) = (block.stream, block.end);
        self.limits.counters.refused = self.limits.counters.refused.saturating_add(1);
        self.limits.idle(COST_FRAME)?;
        self.limits.answer()?;
        let how = if end { Closed::Ended } else { Closed::ByUs };
        self.streams.remove(id, how);
        Ok(Next::Event(Event::TooLarge {
            id: StreamId(id),
            end,
        }))
    }

    /// Client: a response begins, or an informational one passes.
    fn response<'b>(&mut self, block: &Block<'_>, list: &mut List) -> Step<'b> {
        let id = block.stream;
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(Next::Handled);
        };
        let (head, content) = list
            .take_response(block.end, stream.asked)
            .map_err(|fault| unreadable(id, fault))?;
        if head.status < 200 {
            stream.informational += 1;
            if stream.informational > limits::INFORMATIONAL_MAX {
                return Err(Fault::Stream {
                    id,
                    code: ErrorCode::EnhanceYourCalm,
                    why: "too many informational responses",
                });
            }
        } else {
            stream.head_seen = true;
            stream.content = content;
            if !stream.asked.is_opened_by(head.status) {
                stream.asked = Asked::Other;
            }
            self.limits.message();
            if block.end {
                self.end_remote(id);
            }
        }
        Ok(Next::Event(Event::Response {
            id: StreamId(id),
            head,
            end: block.end,
        }))
    }

    fn trailers_came<'b>(&mut self, block: &Block<'_>, list: &mut List) -> Step<'b> {
        let id = block.stream;
        let broken = |why| Fault::Stream {
            id,
            code: ErrorCode::ProtocolError,
            why,
        };
        // RFC 9113 §8.1: a second head on a stream ends it. §8.5: a tunnel has none.
        let tunnel = self
            .streams
            .get(id)
            .is_some_and(|stream| stream.asked == Asked::Tunnel);
        if tunnel {
            return Err(broken("trailers in a tunnel"));
        }
        if !block.end {
            return Err(broken("a second head"));
        }
        let fields = list
            .take_trailers()
            .map_err(|fault| unreadable(id, fault))?;
        if self.streams.get(id).is_some_and(|stream| stream.is_short()) {
            return Err(broken("less content than content-length"));
        }
        self.end_remote(id);
        Ok(Next::Event(Event::Trailers {
            id: StreamId(id),
            fields,
        }))
    }

    /// An empty list with a guess at the room that a block needs.
    fn list_for(&self, block: &[u8]) -> List {
        let room = block
            .len()
            .saturating_mul(2)
            .clamp(HEAD_ROOM_MIN, HEAD_ROOM_MAX);
        List::new(
            self.settings.header_list_bytes,
            self.settings.header_fields,
            room,
        )
    }

    fn decode_block(&mut self, bytes: &[u8], list: &mut List) -> Result<(), Fault> {
        let decoded = self
            .decoder
            .decode(bytes, |name, value| list.field(name, value));
        decoded.map_err(compression)
    }

    /// Reads a block for the sake of the connection's state alone.
    fn discard(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.decoder.decode(bytes, |_, _| {}).map_err(compression)
    }
}

/// RFC 9113 §4.3: without the common state nothing that follows can be read.
fn compression(hpack::Invalid(why): hpack::Invalid) -> Fault {
    Fault::Connection(ConnectionError {
        code: ErrorCode::CompressionError,
        why,
    })
}

/// A head or trailers that end their stream.
fn unreadable(id: u32, fault: head::Fault) -> Fault {
    let (code, why) = match fault {
        head::Fault::TooLarge => (ErrorCode::EnhanceYourCalm, "head or trailers too large"),
        head::Fault::Malformed(why) => (ErrorCode::ProtocolError, why),
    };
    Fault::Stream { id, code, why }
}

/// What decides about the shape of the answer.
pub(super) fn asked(head: &RequestHead) -> Asked {
    match head.method {
        _ if !head.protocol.is_empty() => Asked::Protocol,
        Method::Connect => Asked::Tunnel,
        Method::Head => Asked::Head,
        _ => Asked::Other,
    }
}

/// Takes padding and the old priority scheme off. Returns the stream that it depends on.
fn fragment(head: Head, payload: &[u8]) -> Result<(Option<u32>, &[u8]), Fault> {
    let mut bytes = payload;
    let mut padding = 0;
    if head.has(frame::PADDED) {
        let (&length, rest) = bytes
            .split_first()
            .ok_or(frame_size("HEADERS without the length of its padding"))?;
        (padding, bytes) = (usize::from(length), rest);
    }
    let mut dependency = None;
    if head.has(frame::PRIORITY) {
        let (old, rest) = bytes
            .split_first_chunk::<5>()
            .ok_or(frame_size("HEADERS without the priority that it announces"))?;
        let [a, b, c, d, _weight] = *old;
        (dependency, bytes) = (Some(frame::number31([a, b, c, d])), rest);
    }
    let length = bytes.len().checked_sub(padding);
    let length = length.ok_or(protocol("HEADERS with more padding than payload"))?;
    Ok((dependency, bytes.get(..length).unwrap_or_default()))
}
