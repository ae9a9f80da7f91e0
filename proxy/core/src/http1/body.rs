//! Where in these bytes is the content of a body, and where does it end?
//!
//! The reader looks at bytes that its caller owns and says what they are; it copies nothing but
//! trailers. Chunked framing is read strictly: readers that disagree on where a chunk ends
//! disagree on where the next request begins.

use super::section::{self, Why};
use super::{find_line_feed, head_end};
use crate::failure::Failure;
use crate::message::{BodyLength, Fields, is_mesh_field};

/// Bytes of chunk extensions in one body, ours to tune; nobody uses them.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a trailer section, ours to tune.
pub const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Fields of a trailer section, ours to tune.
pub const TRAILER_FIELDS_MAX: usize = 64;
/// Hexadecimal digits of a chunk size: what fills 64 bits.
const CHUNK_DIGITS_MAX: usize = 16;

/// What comes next in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Nothing can be said yet: offer the same bytes again, and more. It is never necessary to
    /// hold more than [`TRAILER_BYTES_MAX`] + 2 x [`CHUNK_EXTENSION_BYTES_MAX`].
    NeedMore,
    /// `skip` bytes of framing, then `data` (> 0) bytes of content. Offer what follows next.
    Data {
        /// Bytes of framing.
        skip: usize,
        /// Bytes of content.
        data: usize,
    },
    /// The body is over.
    End {
        /// Bytes of framing; what follows them is the next message's.
        consumed: usize,
        /// The trailers, without those that are forbidden.
        trailers: Fields,
    },
}

/// Reads one body.
#[derive(Debug, Clone)]
pub struct BodyReader {
    state: State,
    failure: fn(Why) -> Failure,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Bytes of an unfinished trailer section that hold no end.
    scanned: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Exact(u64),
    /// A chunk size comes; before it, unless it is the first, the CRLF of the chunk before.
    ChunkSize {
        first: bool,
    },
    ChunkData(u64),
    UntilClose,
    Done,
}

impl BodyReader {
    /// Reads the body of a request; what is wrong with it is a `BadRequest`.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        Self {
            state: State::of(length),
            failure: Failure::BadRequest,
            extensions: 0,
            scanned: 0,
        }
    }

    /// Reads the body of a response; what is wrong with it is an `UpstreamProtocol`.
    #[must_use]
    pub fn of_response(length: BodyLength) -> Self {
        Self {
            failure: Failure::UpstreamProtocol,
            ..Self::new(length)
        }
    }

    /// Looks at unread input: what is next?
    ///
    /// # Errors
    /// Broken chunks or trailers; the connection can carry nothing more.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Failure> {
        self.next_within(input, usize::MAX)
    }

    /// As [`Self::next`], with at most `max` (> 0) bytes of content in the piece: for a sink that
    /// has no more room.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub fn next_within(&mut self, input: &[u8], max: usize) -> Result<Piece, Failure> {
        let content_of = |input: &[u8]| input.len().min(max);
        match self.state {
            State::Exact(0) | State::Done => {
                self.state = State::Done;
                Ok(Piece::End {
                    consumed: 0,
                    trailers: Fields::default(),
                })
            }
            State::Exact(left) => {
                let (data, left) = take(left, content_of(input));
                self.state = State::Exact(left);
                Ok(content(0, data))
            }
            State::UntilClose => Ok(content(0, content_of(input))),
            State::ChunkData(left) => {
                let (data, left) = take(left, content_of(input));
                self.state = State::in_chunk(left);
                Ok(content(0, data))
            }
            State::ChunkSize { first } => self.chunk(input, first, max).map_err(self.failure),
        }
    }

    /// Has [`Piece::End`] been seen, or is there nothing to see?
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Exact(0))
    }

    /// The connection ended. Was that the end of the body?
    ///
    /// # Errors
    /// Content is missing: `DownstreamReset` for a request, `UpstreamReset` for a response.
    pub fn end_of_input(&mut self) -> Result<(), Failure> {
        match self.state {
            State::UntilClose | State::Exact(0) | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Exact(_) | State::ChunkSize { .. } | State::ChunkData(_) => {
                Err(match (self.failure)("content is missing, RFC 9112 §8") {
                    Failure::UpstreamProtocol(_) => Failure::UpstreamReset,
                    _ => Failure::DownstreamReset,
                })
            }
        }
    }

    fn chunk(&mut self, input: &[u8], first: bool, max: usize) -> Result<Piece, Why> {
        let (before, rest) = match input {
            _ if first => (0, input),
            [b'\r', b'\n', rest @ ..] => (2, rest),
            [] | [b'\r'] => return Ok(Piece::NeedMore),
            _ => return Err("a chunk does not end where its size says, RFC 9112 §7.1"),
        };
        let room = CHUNK_EXTENSION_BYTES_MAX.saturating_sub(self.extensions);
        let Some(line) = size_line(rest, room)? else {
            return Ok(Piece::NeedMore);
        };
        let skip = before + line.length;
        let rest = rest.get(line.length..).unwrap_or_default();
        if line.size == 0 {
            return self.trailers(rest, skip);
        }
        let (data, left) = take(line.size, rest.len().min(max));
        if data > 0 {
            self.extensions += line.extension;
            self.state = State::in_chunk(left);
        }
        Ok(content(skip, data))
    }

    fn trailers(&mut self, section: &[u8], skip: usize) -> Result<Piece, Why> {
        let end = match section {
            [b'\r', b'\n', ..] => Some(2),
            [] | [b'\r'] => None,
            [b'\r' | b'\n', ..] => return Err("bare CR or LF as the end of chunks, RFC 9112 §7.1"),
            _ => head_end(section, self.scanned),
        };
        if end.unwrap_or(section.len()) > TRAILER_BYTES_MAX {
            return Err("trailers are too large");
        }
        let Some(end) = end else {
            self.scanned = section.len();
            return Ok(Piece::NeedMore);
        };
        let trailers = read_trailers(section.get(..end).unwrap_or_default())?;
        self.state = State::Done;
        Ok(Piece::End {
            consumed: skip + end,
            trailers,
        })
    }
}

impl State {
    fn of(length: BodyLength) -> Self {
        match length {
            BodyLength::Empty => Self::Done,
            BodyLength::Exact(length) => Self::Exact(length),
            BodyLength::Marked => Self::ChunkSize { first: true },
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    fn in_chunk(left: u64) -> Self {
        if left == 0 {
            Self::ChunkSize { first: false }
        } else {
            Self::ChunkData(left)
        }
    }
}

/// Of `left` bytes of content, how many are here, and how many will be left then?
fn take(left: u64, here: usize) -> (usize, u64) {
    let data = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    (
        data,
        left.saturating_sub(u64::try_from(data).unwrap_or(u64::MAX)),
    )
}

fn content(skip: usize, data: usize) -> Piece {
    if data == 0 {
        Piece::NeedMore
    } else {
        Piece::Data { skip, data }
    }
}

struct SizeLine {
    size: u64,
    /// Bytes of the line with its CRLF.
    length: usize,
    /// Bytes of its extension.
    extension: usize,
}

/// chunk-size [ chunk-ext ] CRLF (RFC 9112 §7.1). `None`: more bytes are needed.
fn size_line(input: &[u8], extension_max: usize) -> Result<Option<SizeLine>, Why> {
    let digits = input
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    if digits > CHUNK_DIGITS_MAX {
        return Err("chunk size is too large, RFC 9112 §7.1");
    }
    let (number, rest) = input.split_at_checked(digits).unwrap_or((input, b""));
    match rest {
        [] => return Ok(None),
        _ if digits == 0 => return Err("chunk without a size, RFC 9112 §7.1"),
        [b'\r', b'\n', ..] => {
            return Ok(Some(SizeLine {
                size: hex(number),
                length: digits + 2,
                extension: 0,
            }));
        }
        [b'\r'] => return Ok(None),
        [b';' | b' ' | b'\t', ..] => {}
        _ => return Err("chunk size is not a number, RFC 9112 §7.1"),
    }
    let line_feed = find_line_feed(rest);
    let line = rest
        .get(..line_feed.unwrap_or(rest.len()))
        .unwrap_or_default();
    let (line, ended) = match (line.strip_suffix(b"\r"), line_feed) {
        (Some(line), Some(_)) => (line, true),
        (None, Some(_)) => return Err("bare LF after a chunk size, RFC 9112 §7.1"),
        // The CR may be the first half of the line's end.
        (stripped, None) => (stripped.unwrap_or(line), false),
    };
    if line.len() > extension_max {
        return Err("chunk extensions are too large, RFC 9112 §7.1.1");
    }
    if line
        .iter()
        .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
    {
        return Err("control character in a chunk extension, RFC 9112 §7.1.1");
    }
    // Only white space may stand before the `;`.
    match line.trim_ascii_start().first() {
        Some(b';') => {}
        None if !ended => {}
        _ => return Err("chunk size is not a number, RFC 9112 §7.1"),
    }
    let length = digits + line.len() + 2;
    Ok(ended.then(|| SizeLine {
        size: hex(number),
        length,
        extension: line.len(),
    }))
}

/// Up to 16 hexadecimal digits.
fn hex(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        (number << 4) | u64::from(digit)
    })
}

fn read_trailers(section: &[u8]) -> Result<Fields, Why> {
    if section == b"\r\n" {
        return Ok(Fields::default());
    }
    let mut lines = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    let lines = match httparse::parse_headers(section, &mut lines) {
        Ok(httparse::Status::Complete((length, lines))) if length == section.len() => lines,
        Ok(_) => return Err("trailers, RFC 9112 §7.1.2"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many trailers"),
        Err(_) => return Err("trailers, RFC 9112 §7.1.2"),
    };
    if !section::lines_end_in_crlf(section, lines) {
        return Err("bare LF in the trailers, RFC 9112 §7.1.2");
    }
    let mut trailers = Fields::with_capacity(section.len());
    for line in lines {
        trailers.push_lower(line.name.as_bytes(), line.value);
    }
    trailers.retain(|name, _| !is_forbidden_trailer(name));
    Ok(trailers)
}

/// Would this field, in lower case, change how a message is framed, routed, authenticated or
/// understood after it was decided upon (RFC 9110 §6.5.1)? Such trailers are dropped.
#[must_use]
pub fn is_forbidden_trailer(name: &[u8]) -> bool {
    matches!(
        name,
        b"content-length"
            | b"transfer-encoding"
            | b"host"
            | b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"upgrade"
            | b"http2-settings"
            | b"expect"
            | b"max-forwards"
            | b"range"
            | b"content-range"
            | b"content-type"
            | b"content-encoding"
            | b"cache-control"
            | b"pragma"
            | b"age"
            | b"date"
            | b"expires"
            | b"location"
            | b"retry-after"
            | b"vary"
            | b"warning"
            | b"authorization"
            | b"proxy-authorization"
            | b"www-authenticate"
            | b"proxy-authenticate"
            | b"proxy-authentication-info"
            | b"authentication-info"
            | b"cookie"
            | b"set-cookie"
            | b"forwarded"
            | b"x-real-ip"
    ) || name.starts_with(b"if-")
        || is_mesh_field(name)
        || name.starts_with(b"x-forwarded-")
}
