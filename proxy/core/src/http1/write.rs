//! Which bytes does this head become on an HTTP/1.1 connection?
//!
//! The framing fields are always written from the head's `body`, `protocol` and `keep_alive`,
//! never copied from the fields, so that the two cannot disagree.

use crate::message::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};

/// How a body is delimited on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No content may be written.
    None,
    /// So many bytes, as they are.
    Exact(u64),
    /// By [`write_chunk`] and [`write_last_chunk`].
    Chunked,
    /// Bytes as they are; closing the connection ends them.
    Close,
}

/// What of the request decides how its response is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseContext {
    /// The request's version.
    pub version: Version,
    /// The request's method.
    pub method: Method,
}

impl ResponseContext {
    /// The context of a response to this request.
    #[must_use]
    pub fn of(request: &RequestHead) -> Self {
        Self {
            version: request.version,
            method: request.method.clone(),
        }
    }
}

/// How the body of this request is delimited.
#[must_use]
pub fn request_framing(head: &RequestHead) -> Framing {
    match head.body {
        _ if !head.protocol.is_empty() || head.method == Method::Connect => Framing::None,
        BodyLength::Empty => Framing::None,
        BodyLength::Exact(length) => Framing::Exact(length),
        // RFC 9112 §6.3: a request can't be ended by closing.
        BodyLength::Marked | BodyLength::UntilClose => Framing::Chunked,
    }
}

/// How the body of this response is delimited (RFC 9112 §6.3).
#[must_use]
pub fn response_framing(head: &ResponseHead, to: &ResponseContext) -> Framing {
    let succeeded = (200..300).contains(&head.status);
    match head.body {
        _ if (100..200).contains(&head.status) => Framing::None,
        _ if matches!(head.status, 204 | 304) || to.method == Method::Head => Framing::None,
        _ if to.method == Method::Connect && succeeded => Framing::None,
        BodyLength::Empty => Framing::Exact(0),
        BodyLength::Exact(length) => Framing::Exact(length),
        BodyLength::Marked | BodyLength::UntilClose => match to.version {
            Version::Http10 => Framing::Close,
            Version::Http11 | Version::Http2 => Framing::Chunked,
        },
    }
}

/// Appends the head of a request: `host` first, then the fields, then the framing. An extended
/// CONNECT becomes `GET` with `Upgrade` (RFC 8441 §5).
pub fn write_request(head: &RequestHead, out: &mut Vec<u8>) {
    out.reserve(head.fields.bytes() + head.fields.len() * 4 + head.path.len() + 256);
    let method = match head.method {
        Method::Connect if !head.protocol.is_empty() => "GET",
        _ => head.method.as_str(),
    };
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    match head.method {
        Method::Connect if head.protocol.is_empty() => write_target(&head.authority, out),
        _ => write_target(&head.path, out),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(b"host", &head.authority, out);
    let framing = match request_framing(head) {
        // RFC 9110 §8.6: methods that expect content say that there is none, and so does a
        // request that said so when it came.
        Framing::None if needs_length(head) => Framing::Exact(0),
        framing => framing,
    };
    write_fields(&head.fields, framing, out);
    let te = head.fields.get(b"te").is_some();
    write_connection(
        Options {
            close: !head.keep_alive,
            keep: false,
            te,
        },
        &head.protocol,
        out,
    );
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response. The connection is said to close if `!head.keep_alive`, or if
/// only closing can end the body: the caller sets `keep_alive` to what its connection will do.
pub fn write_response(head: &ResponseHead, to: &ResponseContext, out: &mut Vec<u8>) {
    out.reserve(head.fields.bytes() + head.fields.len() * 4 + 256);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(head.status), out);
    out.push(b' ');
    out.extend_from_slice(reason(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let framing = response_framing(head, to);
    let described = head.status == 304 || to.method == Method::Head;
    match head.fields.get(b"content-length") {
        // RFC 9110 §8.6: here it tells the length of the content that is not sent.
        Some(length) if described && framing == Framing::None => {
            write_field(b"content-length", length, out);
        }
        Some(_) | None => {}
    }
    write_fields(&head.fields, framing, out);
    let close = !head.keep_alive || framing == Framing::Close;
    let informational = (100..200).contains(&head.status);
    let keep = to.version == Version::Http10 && !close;
    let options = Options {
        close: close && !informational,
        keep: keep && !informational,
        te: false,
    };
    let protocol: &[u8] = if head.status == 101 {
        &head.protocol
    } else {
        b""
    };
    write_connection(options, protocol, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk. Nothing for no data: an empty chunk would end the body.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + 20);
    write_chunk_start(data.len(), out);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the size line of a chunk of `length` (> 0) bytes, for who writes the data from
/// elsewhere and CRLF after it.
pub fn write_chunk_start(length: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for nibble in (0..nibbles).rev() {
        out.push(
            DIGITS
                .get((length >> (nibble * 4)) & 0xf)
                .copied()
                .unwrap_or(b'0'),
        );
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, with the trailers that may stand there.
pub fn write_last_chunk(trailers: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter() {
        if !super::is_forbidden_trailer(name) {
            write_field(name, value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn needs_length(head: &RequestHead) -> bool {
    head.protocol.is_empty()
        && (matches!(head.method, Method::Post | Method::Put | Method::Patch)
            || (head.method != Method::Connect && head.fields.get(b"content-length").is_some()))
}

/// All fields that are not the connection's own, and the framing.
fn write_fields(fields: &Fields, framing: Framing, out: &mut Vec<u8>) {
    let start = out.len();
    let lines = write_lines(fields, framing, put_field, out);
    // One look at all of them is much cheaper than one at each.
    if breaks(out.get(start..).unwrap_or_default()) != 2 * lines {
        out.truncate(start);
        write_lines(fields, framing, write_field, out);
    }
}

/// Writes each field by `put`, the length at its place; returns how many lines there are.
fn write_lines(
    fields: &Fields,
    framing: Framing,
    put: fn(&[u8], &[u8], &mut Vec<u8>),
    out: &mut Vec<u8>,
) -> usize {
    let mut length = match framing {
        Framing::Exact(length) => Some(length),
        Framing::None | Framing::Chunked | Framing::Close => None,
    };
    let mut lines = 0;
    for (name, value) in fields.iter() {
        match name {
            b"content-length" => lines += write_length(length.take(), out),
            b"transfer-encoding" | b"connection" | b"keep-alive" | b"proxy-connection"
            | b"upgrade" | b"host" => {}
            _ => {
                put(name, value, out);
                lines += 1;
            }
        }
    }
    lines += write_length(length, out);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        lines += 1;
    }
    lines
}

fn write_length(length: Option<u64>, out: &mut Vec<u8>) -> usize {
    let Some(length) = length else { return 0 };
    out.extend_from_slice(b"content-length: ");
    write_decimal(length, out);
    out.extend_from_slice(b"\r\n");
    1
}

#[derive(Clone, Copy)]
struct Options {
    close: bool,
    keep: bool,
    te: bool,
}

/// `Connection`, naming what else is the hop's own (RFC 9110 §7.6.1, §10.1.4), and `Upgrade`.
fn write_connection(options: Options, protocol: &[u8], out: &mut Vec<u8>) {
    let mut separator: &[u8] = b"connection: ";
    let said = [
        (options.close, "close"),
        (options.keep, "keep-alive"),
        (options.te, "te"),
        (!protocol.is_empty(), "upgrade"),
    ];
    for (_, option) in said.iter().filter(|(said, _)| *said) {
        out.extend_from_slice(separator);
        out.extend_from_slice(option.as_bytes());
        separator = b", ";
    }
    if separator == b", " {
        out.extend_from_slice(b"\r\n");
    }
    if !protocol.is_empty() {
        write_field(b"upgrade", protocol, out);
    }
}

/// One field line. A line break in it could forge another: parsers and rejected configuration
/// keep such out, and here, at the last door, the field is left out.
fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if breaks(name) == 0 && breaks(value) == 0 {
        put_field(name, value, out);
    }
}

fn put_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// How many bytes can end a line for some reader? By blocks whose count fits a byte, which the
/// compiler turns into vector instructions.
fn breaks(bytes: &[u8]) -> usize {
    let is_break = |byte: &u8| u8::from((*byte == b'\r') | (*byte == b'\n') | (*byte == 0));
    let count = |block: &[u8]| usize::from(block.iter().map(is_break).fold(0, u8::wrapping_add));
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().map(|block| count(block)).sum::<usize>() + count(rest)
}

/// A target; what would end it early is escaped.
fn write_target(target: &[u8], out: &mut Vec<u8>) {
    if target.is_empty() {
        out.push(b'/');
    } else if target
        .iter()
        .fold(true, |plain, b| plain & b.is_ascii_graphic())
    {
        out.extend_from_slice(target);
    } else {
        for byte in target {
            match byte {
                0x21..=0x7e => out.push(*byte),
                _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
    }
}

fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + u8::try_from(number % 10).unwrap_or_default());
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.get_mut(start..).unwrap_or_default().reverse();
}

/// The reason phrase that people know; other statuses have none (RFC 9112 §4).
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}
