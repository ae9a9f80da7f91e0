//! Does the codec keep its promises? What the tests share.

use std::time::Duration;

use super::frame::{self, HEAD_BYTES, Head, Kind};
use super::hpack;
use super::*;
use crate::message::{BodyLength, Method, Version};

mod frames;
mod heads;
mod packing;
mod attacks;
mod windows;
mod play;
mod oracle;

/// An event that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Request(u32, RequestHead, bool),
    Response(u32, ResponseHead, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, Fields),
    Reset(u32, ErrorCode, bool),
    Refused(u32, Failure),
    Writable(Option<u32>),
    Settings,
    GoAway(u32, ErrorCode),
    Pong([u8; 8]),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Request { id, head, end } => Self::Request(id.get(), head, end),
            Event::Response { id, head, end } => Self::Response(id.get(), head, end),
            Event::Data { id, data, end } => Self::Data(id.get(), data.to_vec(), end),
            Event::Trailers { id, fields } => Self::Trailers(id.get(), fields),
            Event::Reset { id, code, why } => Self::Reset(id.get(), code, why.is_none()),
            Event::Refused { id, failure } => Self::Refused(id.get(), failure),
            Event::TooLarge { id, .. } => Self::Refused(id.get(), Failure::HeadTooLarge),
            Event::Writable { id } => Self::Writable(id.map(StreamId::get)),
            Event::Settings => Self::Settings,
            Event::GoAway { last, code } => Self::GoAway(last.get(), code),
            Event::Pong(payload) => Self::Pong(payload),
        }
    }
}

/// One end, with what it wrote and what it has not read.
struct End {
    http2: Connection,
    out: Vec<u8>,
    unread: Vec<u8>,
    now: Duration,
}

impl End {
    fn new(role: Role, settings: Settings) -> Self {
        let mut out = Vec::new();
        let http2 = Connection::new(role, settings, &mut out);
        Self {
            http2,
            out,
            unread: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// Time passes.
    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.http2.at(self.now);
    }

    /// A server whose client has said hello. Its output is empty.
    fn server() -> Self {
        Self::server_with(Settings::default())
    }

    fn server_with(settings: Settings) -> Self {
        let mut end = Self::new(Role::Server, settings);
        let hello = [
            frame::PREFACE.as_slice(),
            &raw(4, 0, 0, &[]),
            &raw(4, 1, 0, &[]),
        ]
        .concat();
        assert_eq!(end.feed(&hello), Ok(vec![Seen::Settings]));
        end.out.clear();
        end
    }

    /// A client whose server has said hello. Its output is empty.
    fn client() -> Self {
        let mut end = Self::new(Role::Client, Settings::default());
        let hello = [raw(4, 0, 0, &[0, 8, 0, 0, 0, 1]), raw(4, 1, 0, &[])].concat();
        assert_eq!(end.feed(&hello), Ok(vec![Seen::Settings]));
        end.out.clear();
        end
    }

    /// Bytes arrive. DATA is given back at once.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Seen>, ConnectionError> {
        let mut seen = Vec::new();
        let done = self.feed_to(bytes, &mut seen);
        for event in &seen {
            if let Seen::Data(id, data, _) = event {
                self.http2
                    .consumed(StreamId(*id), data.len(), &mut self.out);
            }
        }
        done.map(|()| seen)
    }

    /// Bytes arrive. Nothing is given back.
    fn feed_to(&mut self, bytes: &[u8], seen: &mut Vec<Seen>) -> Result<(), ConnectionError> {
        self.unread.extend_from_slice(bytes);
        let mut input = self.unread.as_slice();
        let done = loop {
            match self.http2.decode(&mut input, &mut self.out) {
                Ok(Some(event)) => {
                    if let Event::TooLarge { id, end } = event {
                        let fields = Fields::default();
                        self.http2.too_large_told((id, end), &fields, &mut self.out);
                    }
                    seen.push(event.into());
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let left = input.len();
        self.unread.drain(..self.unread.len() - left);
        done
    }

    /// Takes what was written, as frames.
    fn written(&mut self) -> Vec<(Kind, u8, u32, Vec<u8>)> {
        let out = std::mem::take(&mut self.out);
        self.http2.flushed();
        frames_of(&out)
    }

    /// Takes what was written: the streams that were reset, and why.
    fn resets(&mut self) -> Vec<(u32, ErrorCode)> {
        let resets = self
            .written()
            .into_iter()
            .filter(|f| f.0 == Kind::ResetStream);
        resets
            .map(|f| (f.2, u32::from_be_bytes(f.3.try_into().unwrap()).into()))
            .collect()
    }
}

fn frames_of(mut bytes: &[u8]) -> Vec<(Kind, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    if let Some(rest) = bytes.strip_prefix(frame::PREFACE) {
        bytes = rest;
    }
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::read(head);
        let (payload, rest) = rest.split_at(frame::size(head.length));
        frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame");
    frames
}

/// A frame, byte by byte.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_head(payload.len(), kind.into(), flags, stream, &mut out);
    out.extend_from_slice(payload);
    out
}

/// A block of fields as they are, good or bad.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        hpack::spelled(name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "cart:80"),
];
const POST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "cart:80"),
];
const OK: &[(&str, &str)] = &[(":status", "200")];

/// HEADERS with these fields. `end`: END_STREAM.
fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    raw(1, if end { 5 } else { 4 }, stream, &block(fields))
}

/// DATA.
fn data(stream: u32, content: &[u8], end: bool) -> Vec<u8> {
    raw(0, u8::from(end), stream, content)
}

/// A request as a driver makes it.
fn get(path: &str) -> RequestHead {
    RequestHead {
        method: Method::Get,
        version: Version::Http11,
        https: false,
        authority: b"cart:80".to_vec(),
        path: path.as_bytes().to_vec(),
        protocol: Vec::new(),
        fields: Fields::default(),
        body: BodyLength::Empty,
        keep_alive: true,
        expects_continue: false,
    }
}

fn ok() -> ResponseHead {
    ResponseHead::new(200, BodyLength::Marked)
}
