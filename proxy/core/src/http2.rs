//! How do bytes of an HTTP/2 connection become events, and messages become bytes?
//!
//! Sans-IO, both roles, RFC 9113 with RFC 7541 (HPACK) and RFC 8441 (extended CONNECT).
//! Bytes come from the caller's buffer and are parsed there; DATA is never copied and never kept.
//! Everything that goes out is appended to the caller's buffer.
//!
//! ```text
//! input ─► receive (frames) ─┬─► block ─► hpack ─► head ─► Event::{Request, Response, Trailers}
//!                            ├─► Event::Data, a piece at a time; flow counts it
//!                            └─► control (SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM)
//! open / respond / data / trailers / reset / consumed ─► send ─► out
//! ```
//!
//! What a driver does: offer unread bytes to [`Connection::decode`] until it returns `None`; write
//! `out` to the socket; tell [`Connection::flushed`] when `out` is empty again, and
//! [`Connection::at`] before what has come is decoded, for the abuse budgets and the windows' growth; give every byte of
//! [`Event::Data`] back by [`Connection::consumed`] exactly once, even when its stream is over.

use std::fmt;

use thiserror::Error;

use crate::failure::Failure;
use crate::message::{Fields, RequestHead, ResponseHead};

mod receive;
mod frame;
mod block;
mod hpack;
mod huffman;
mod head;
mod control;
mod send;
mod connection;
mod stream;
mod flow;
mod growth;
mod limits;

pub use connection::Connection;
pub use frame::PAYLOAD_SENT_MAX as DATA_BYTES_MAX;
pub use limits::Counters;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We open streams.
    Client,
    /// The peer does.
    Server,
}

/// What we grant the peer. The defaults suit an application's connection; a tunnel between proxies
/// wants more streams, and a little more room for the fields that proxies add.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Streams that the peer may have open at once. Default 100.
    pub max_concurrent_streams: u32,
    /// Window of each stream at first, bytes. Default 64 KiB; credit returns at half. So much can a
    /// stream hold that nobody reads: all of them together should fit the connection's window, else
    /// they hold up those that are read.
    pub initial_window: u32,
    /// ... and of one that is read as fast as it comes: it doubles as far as the round trip asks for,
    /// and up to this. Default 4 MiB: 80 MB/s at 50 ms.
    pub stream_window_max: u32,
    /// Bytes by which the windows of all streams together may have grown. Default 8 MiB.
    pub growth_max: u32,
    /// PINGs at the beginning, one after another, that measure the round trip; a server sends its own with
    /// its answers to them. Default 1: gRPC servers take more for abuse.
    pub measuring_pings: u8,
    /// Window of the whole connection, bytes; at least 65,535. Default 16 MiB.
    pub connection_window: u32,
    /// Longest frame payload that we accept, bytes: 16,384 (the default) to 16,777,215. Frames
    /// other than DATA wait in the caller's buffer until they are whole.
    pub max_frame: u32,
    /// Names and values of one head, decoded, bytes. Default 60 KiB.
    pub header_list_bytes: u32,
    /// Fields of one head, each cookie crumb counted. Default 100.
    pub header_fields: u32,
    /// Server: may the client use extended CONNECT (RFC 8441)? Default yes.
    pub enable_connect_protocol: bool,
    /// Server: streams that the peer may break off, or make us break off, before they had their
    /// answer, beyond those that end well; 33 a second grow back. Default 150.
    pub resets_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            initial_window: 64 * 1024,
            stream_window_max: 4 * 1024 * 1024,
            growth_max: 8 * 1024 * 1024,
            measuring_pings: 1,
            connection_window: 16 * 1024 * 1024,
            max_frame: frame::FRAME_BYTES_MIN,
            header_list_bytes: 60 * 1024,
            header_fields: 100,
            enable_connect_protocol: true,
            resets_max: 150,
        }
    }
}

/// The number of a stream. Never used twice on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a stream or a connection ended (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the RFC")]
pub enum ErrorCode {
    NoError,
    ProtocolError,
    InternalError,
    FlowControlError,
    SettingsTimeout,
    StreamClosed,
    FrameSizeError,
    RefusedStream,
    Cancel,
    CompressionError,
    ConnectError,
    EnhanceYourCalm,
    InadequateSecurity,
    Http11Required,
    /// A code without a name.
    Other(u32),
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u32 {
        match self {
            Self::NoError => 0,
            Self::ProtocolError => 1,
            Self::InternalError => 2,
            Self::FlowControlError => 3,
            Self::SettingsTimeout => 4,
            Self::StreamClosed => 5,
            Self::FrameSizeError => 6,
            Self::RefusedStream => 7,
            Self::Cancel => 8,
            Self::CompressionError => 9,
            Self::ConnectError => 10,
            Self::EnhanceYourCalm => 11,
            Self::InadequateSecurity => 12,
            Self::Http11Required => 13,
            Self::Other(code) => code,
        }
    }
}

impl From<u32> for ErrorCode {
    fn from(code: u32) -> Self {
        match code {
            0 => Self::NoError,
            1 => Self::ProtocolError,
            2 => Self::InternalError,
            3 => Self::FlowControlError,
            4 => Self::SettingsTimeout,
            5 => Self::StreamClosed,
            6 => Self::FrameSizeError,
            7 => Self::RefusedStream,
            8 => Self::Cancel,
            9 => Self::CompressionError,
            10 => Self::ConnectError,
            11 => Self::EnhanceYourCalm,
            12 => Self::InadequateSecurity,
            13 => Self::Http11Required,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(code) => write!(f, "error code {code}"),
            named => fmt::Debug::fmt(named, f),
        }
    }
}

/// What the peer did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Server: a request begins. `end`: and has no body.
    Request {
        /// Its stream.
        id: StreamId,
        /// What is asked for.
        head: RequestHead,
        /// The peer sends nothing more on this stream.
        end: bool,
    },
    /// Client: a response begins; with a status below 200 another one follows.
    Response {
        /// Its stream.
        id: StreamId,
        /// The answer. With `body: Empty` (HEAD, 204, 304) the end may still come by itself.
        head: ResponseHead,
        /// The peer sends nothing more on this stream.
        end: bool,
    },
    /// A piece of a body, as it arrived; padding is taken off and given back already.
    Data {
        /// Its stream.
        id: StreamId,
        /// The piece. Empty only at the end.
        data: &'b [u8],
        /// The peer sends nothing more on this stream.
        end: bool,
    },
    /// Fields after the body. The peer sends nothing more on this stream.
    Trailers {
        /// Their stream.
        id: StreamId,
        /// The fields.
        fields: Fields,
    },
    /// A stream is gone.
    Reset {
        /// Which.
        id: StreamId,
        /// Why. `RefusedStream`: nothing was done, every request may be sent again.
        code: ErrorCode,
        /// We reset it: the peer broke this rule. None: the peer did.
        why: Option<&'static str>,
    },
    /// Server: a request that the driver never sees; its stream is reset already. For the log.
    ///
    /// `BadRequest`: PROTOCOL_ERROR. `Overflow` (more streams than granted) and `Draining` (after
    /// GOAWAY): REFUSED_STREAM.
    Refused {
        /// Its stream.
        id: StreamId,
        /// Why.
        failure: Failure,
    },
    /// Server: a request whose head is too large. [`Connection::too_large_told`] answers it, at once.
    TooLarge {
        /// Its stream.
        id: StreamId,
        /// The peer sends nothing more on this stream.
        end: bool,
    },
    /// A window that had been nearly empty grew: look at [`Connection::capacity`] again.
    Writable {
        /// Which stream; none: the connection's window, so every stream may profit.
        id: Option<StreamId>,
    },
    /// The peer's settings changed: `can_open` and every stream's capacity may have.
    Settings,
    /// The peer opens nothing more, and takes nothing after stream `last`. Our streams above it
    /// follow as [`Event::Reset`] with `RefusedStream`.
    GoAway {
        /// The last stream that it looked at.
        last: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// The answer to [`Connection::ping`].
    Pong([u8; 8]),
}

/// The peer broke a rule that ends the connection. GOAWAY is in the output already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("HTTP/2 connection error {code}: {why}")]
pub struct ConnectionError {
    /// What the peer is told.
    pub code: ErrorCode,
    /// Which rule.
    pub why: &'static str,
}

/// The stream has ended or been reset, or the message is over in our direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the HTTP/2 stream is over")]
pub struct StreamGone;

/// Why a stream can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// As many are open as the peer allows; one that ends makes room.
    #[error("the peer allows no more HTTP/2 streams at once")]
    TooManyStreams,
    /// One of the ends sent GOAWAY.
    #[error("the HTTP/2 connection is going away")]
    GoingAway,
    /// All ids are used up.
    #[error("the HTTP/2 connection has no stream ids left")]
    Exhausted,
    /// Extended CONNECT, and the peer does not offer it (RFC 8441 §3).
    #[error("the peer does not offer extended CONNECT")]
    NoConnectProtocol,
}

#[cfg(test)]
mod tests;
