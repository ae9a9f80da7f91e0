//! Which HTTP/1.1 messages do these bytes hold, read in only one way?
//!
//! A strict codec without IO. What two readers could understand differently is refused, with the
//! rule that it breaks: differences between readers are how requests are smuggled past a policy.
//!
//! ```text
//! bytes ─► parse_request / parse_response ─► head ─► BodyReader ─► pieces of content, trailers
//! head  ─► write_request / write_response ─► bytes, then write_chunk .. write_last_chunk
//! ```
//!
//! Heads that come in pieces: call `parse_*` on the first bytes; if it wants more, ask `head_end`
//! about the new bytes, and parse again only when there is an end (or the limit is reached).

mod head;
mod section;
mod body;
mod write;

pub use self::body::{
    BodyReader, CHUNK_EXTENSION_BYTES_MAX, Piece, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX,
    is_forbidden_trailer,
};
pub use self::head::{parse_request, parse_response};
pub use self::write::{
    Framing, ResponseContext, request_framing, response_framing, write_chunk, write_chunk_start,
    write_last_chunk, write_request, write_response,
};

/// Most fields that a head may ever have, whatever its [`Limits`] say.
pub const FIELDS_MAX: usize = 100;

/// Bounds on a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, from the first of its first line to its empty line. Default: 60 KiB.
    pub head_bytes_max: usize,
    /// Fields of a head. Default, and at most: [`FIELDS_MAX`].
    pub fields_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 60 * 1024,
            fields_max: FIELDS_MAX,
        }
    }
}

/// Where does the head end that begins at the front of `input`? `from`: how many bytes an
/// earlier call has seen, so that a head that comes byte by byte costs linear time.
///
/// Line ends that `parse_*` refuses (bare LF) count too, so that they are refused at once.
#[must_use]
pub fn head_end(input: &[u8], from: usize) -> Option<usize> {
    // An empty line is `\n\r\n` or `\n\n`; up to two bytes of it were seen before.
    let mut at = from.saturating_sub(2).min(input.len());
    loop {
        let rest = input.get(at..)?;
        let line_feed = at + find_line_feed(rest)?;
        match input.get(line_feed + 1..) {
            Some([b'\n', ..]) => return Some(line_feed + 2),
            Some([b'\r', b'\n', ..]) => return Some(line_feed + 3),
            _ => at = line_feed + 1,
        }
    }
}

/// The first LF. By blocks, which the compiler turns into vector instructions.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let mut skipped = 0;
    for block in bytes.chunks(BLOCK) {
        if block
            .iter()
            .fold(false, |found, byte| found | (*byte == b'\n'))
        {
            return block
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| skipped + at);
        }
        skipped += block.len();
    }
    None
}

#[cfg(test)]
mod tests;
