//! What does a frame look like on the wire (RFC 9113 §4 and §6)?

use super::ErrorCode;

/// Fixed by the protocol: bytes before a frame's payload.
pub(super) const HEAD_BYTES: usize = 9;
/// Fixed by the protocol: every endpoint accepts payloads of this many bytes.
pub(super) const FRAME_BYTES_MIN: u32 = 16_384;
/// Fixed by the protocol: no frame is longer, bytes of payload.
pub(super) const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;
/// Ours: the longest payload that we send, so that a whole frame fits one TLS record.
pub const PAYLOAD_SENT_MAX: usize = 16_384 - HEAD_BYTES;
/// Fixed by the protocol: what a client sends first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// On DATA and HEADERS: the sender's side of the stream ends.
pub(super) const END_STREAM: u8 = 0x1;
/// On SETTINGS and PING: this is an answer.
pub(super) const ACK: u8 = 0x1;
/// On HEADERS and CONTINUATION: the block is whole.
pub(super) const END_HEADERS: u8 = 0x4;
/// On DATA and HEADERS: the first byte of the payload says how many of the last are padding.
pub(super) const PADDED: u8 = 0x8;
/// On HEADERS: five bytes of the old priority scheme come first.
pub(super) const PRIORITY: u8 = 0x20;

/// The settings that we know (RFC 9113 §6.5.2, RFC 8441 §3).
pub(super) mod setting {
    pub(in crate::http2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::http2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::http2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::http2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::http2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::http2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::http2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    ResetStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be ignored (RFC 9113 §5.5).
    Unknown(u8),
}

impl Kind {
    fn get(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::ResetStream => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Unknown(kind) => kind,
        }
    }
}

impl From<u8> for Kind {
    fn from(kind: u8) -> Self {
        match kind {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::ResetStream,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Unknown(other),
        }
    }
}

/// The nine bytes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn read(&[a, b, c, kind, flags, s, t, u, v]: &[u8; HEAD_BYTES]) -> Self {
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind: kind.into(),
            flags,
            stream: number31([s, t, u, v]),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A number of 31 bits; the reserved bit is ignored.
pub(super) fn number31(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

/// A number from the wire as a length of memory.
pub(super) fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A length of memory as a number for the wire; all of ours fit.
pub(super) fn wire(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Writes the nine bytes before a payload.
pub(super) fn write_head(length: usize, kind: Kind, flags: u8, stream: u32, out: &mut Vec<u8>) {
    let [_, a, b, c] = wire(length).to_be_bytes();
    let [s, t, u, v] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind.get(), flags, s, t, u, v]);
}

/// Writes a DATA frame.
pub(super) fn write_data(stream: u32, data: &[u8], end: bool, out: &mut Vec<u8>) {
    let flags = if end { END_STREAM } else { 0 };
    write_head(data.len(), Kind::Data, flags, stream, out);
    out.extend_from_slice(data);
}

/// Writes HEADERS, and CONTINUATION where the block is long. `encode` appends the block.
pub(super) fn write_block(
    stream: u32,
    end: bool,
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let flags = if end { END_STREAM } else { 0 };
    let start = out.len();
    write_head(0, Kind::Headers, flags | END_HEADERS, stream, out);
    let block = out.len();
    encode(out);
    let length = out.len() - block;
    if length <= PAYLOAD_SENT_MAX {
        let [_, a, b, c] = wire(length).to_be_bytes();
        if let Some(place) = out.get_mut(start..start + 3) {
            place.copy_from_slice(&[a, b, c]);
        }
        return;
    }
    // Rare: a block of more than a frame is cut after the fact.
    let long = out.split_off(block);
    out.truncate(start);
    let mut pieces = long.chunks(PAYLOAD_SENT_MAX).peekable();
    let mut kind = Kind::Headers;
    let mut flags = flags;
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        write_head(piece.len(), kind, flags, stream, out);
        out.extend_from_slice(piece);
        (kind, flags) = (Kind::Continuation, 0);
    }
}

/// Writes RST_STREAM.
pub(super) fn write_reset(stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    write_head(4, Kind::ResetStream, 0, stream, out);
    out.extend_from_slice(&code.get().to_be_bytes());
}

/// Writes SETTINGS.
pub(super) fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    write_head(settings.len() * 6, Kind::Settings, 0, 0, out);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Answers SETTINGS.
pub(super) fn write_settings_ack(out: &mut Vec<u8>) {
    write_head(0, Kind::Settings, ACK, 0, out);
}

/// Writes PING, or the answer to one.
pub(super) fn write_ping(payload: [u8; 8], ack: bool, out: &mut Vec<u8>) {
    write_head(8, Kind::Ping, if ack { ACK } else { 0 }, 0, out);
    out.extend_from_slice(&payload);
}

/// Writes GOAWAY with a text for the people who debug.
pub(super) fn write_go_away(last: u32, code: ErrorCode, why: &str, out: &mut Vec<u8>) {
    write_head(8 + why.len(), Kind::GoAway, 0, 0, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.get().to_be_bytes());
    out.extend_from_slice(why.as_bytes());
}

/// Writes WINDOW_UPDATE. Stream 0: the connection's window.
pub(super) fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    write_head(4, Kind::WindowUpdate, 0, stream, out);
    out.extend_from_slice(&increment.to_be_bytes());
}
