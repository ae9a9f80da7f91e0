//! Which one path does this request target mean?
//!
//! In this order, once: escapes of unreserved characters are decoded, other escapes get capital
//! digits (RFC 3986 §6.2.2), characters that belong escaped are escaped, empty segments are merged
//! away (`//` is `/`, as most servers read it), dot segments are removed (RFC 3986 §5.2.4).
//! One layer of escapes: `%252f` stays, it is the text `%2f` to every reader that decodes once.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::failure::Failure;

/// A path, and perhaps a query, in its only form. Making it from [`CanonicalPath::full`] again
/// changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CanonicalPath {
    /// Shared with what is told of the request.
    full: Arc<str>,
    /// Where the path ends in `full`.
    end: usize,
}

impl CanonicalPath {
    /// The path without the query; `*` for the server as a whole.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.full.get(..self.end).unwrap_or_default()
    }

    /// Is it `*`, the server as a whole (RFC 9110 §9.3.7)? The prefix `/` means it, too, and nothing else does.
    #[must_use]
    pub fn is_server(&self) -> bool {
        &*self.full == "*"
    }

    /// What follows the `?`, as it came; `None` without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.full.get(self.end..)?.strip_prefix('?')
    }

    /// Path and query, for forwarding.
    #[must_use]
    pub fn full(&self) -> &str {
        &self.full
    }

    /// The path as a lax server reads it: all escapes decoded, and the parameters (`;v=1`) of its
    /// segments cut off. A rule that forbids should look at this too, and a rule that allows
    /// should hold for both.
    #[must_use]
    pub fn lax(&self) -> Cow<'_, str> {
        let path = self.as_str();
        if !path.bytes().any(|byte| matches!(byte, b'%' | b';')) {
            return Cow::Borrowed(path);
        }
        let mut decoded = Vec::with_capacity(path.len());
        for (at, segment) in path.split('/').enumerate() {
            if at > 0 {
                decoded.push(b'/');
            }
            let segment = segment.split(';').next().unwrap_or_default();
            let mut rest = segment.as_bytes();
            while let Some((byte, after)) = first_decoded(rest) {
                decoded.push(byte);
                rest = after;
            }
        }
        // Escapes that are not UTF-8 were refused.
        Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
    }
}

/// Brings a path and query into its only form.
///
/// # Errors
/// `BadRequest` for what readers understand differently: no `/` in front, `%2F`, `%5C`, `\`,
/// control characters, incomplete escapes, escapes that are not UTF-8, characters that are not
/// ASCII, `#`, dot segments and empty segments with parameters (`/..;`), `..` after `//`.
pub fn path(raw: &[u8]) -> Result<CanonicalPath, Failure> {
    read(raw).map_err(Failure::BadRequest)
}

fn read(raw: &[u8]) -> Result<CanonicalPath, &'static str> {
    if raw == b"*" {
        return Ok(CanonicalPath {
            full: "*".into(),
            end: 1,
        });
    }
    let end = raw
        .iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(raw.len());
    let (path, query) = raw.split_at_checked(end).unwrap_or((raw, b""));
    let segments = path
        .strip_prefix(b"/")
        .ok_or("path does not begin with /, RFC 9112 §3.2.1")?;
    check_query(query)?;
    let full = if is_plain(path) {
        Cow::Borrowed(raw)
    } else {
        let mut full = Vec::with_capacity(raw.len());
        write_segments(segments, &mut full)?;
        full.extend_from_slice(query);
        Cow::Owned(full)
    };
    let text = std::str::from_utf8(&full).map_err(|_| "path is not ASCII, RFC 3986 §2")?;
    Ok(CanonicalPath {
        full: text.into(),
        end: text.len() - query.len(),
    })
}

/// Is it in its only form already, as nearly all are?
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let plain = is_literal(*byte) || (matches!(byte, b'.' | b'/') && before != b'/');
        before = *byte;
        plain
    })
}

/// Characters that may follow anything and mean themselves; `.`, `/` and `;` look around.
fn is_literal(byte: u8) -> bool {
    LITERALS
        .get(usize::from(byte))
        .is_some_and(|literal| *literal)
}

const LITERALS: [bool; 256] = {
    let mut literals = [false; 256];
    let mut rest: &[u8] =
        b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~!$&'()*+,=:@";
    while let [byte, after @ ..] = rest {
        #[expect(
            clippy::indexing_slicing,
            reason = "a byte is below 256; evaluated by the compiler"
        )]
        {
            literals[*byte as usize] = true;
        }
        rest = after;
    }
    literals
};

/// RFC 3986 §3.4, and the few others that clients send and readers agree on.
fn check_query(query: &[u8]) -> Result<(), &'static str> {
    let accepted =
        |byte: &u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'#' | b'"' | b'<' | b'>');
    if query.iter().all(accepted) {
        Ok(())
    } else {
        Err("character in the query, RFC 3986 §3.4")
    }
}

fn write_segments(segments: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut merged = false;
    let mut segments = segments.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let mark = out.len();
        out.push(b'/');
        write_segment(segment, out)?;
        match out.get(mark + 1..).unwrap_or_default() {
            b"" if is_last => {}
            b"" => {
                merged = true;
                out.truncate(mark);
            }
            b"." => out.truncate(mark),
            // Whether `/a//../b` is `/a/b` or `/b` depends on what a reader does first.
            b".." if merged => return Err("a dot segment after //, RFC 3986 §5.2.4"),
            b".." => {
                out.truncate(mark);
                let parent = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(parent);
            }
            segment if hides_dots(segment) => {
                return Err("a dot or empty segment with parameters, RFC 3986 §3.3");
            }
            _ => {}
        }
        // A path that ends in a dot segment ends in `/`.
        if is_last && out.len() <= mark {
            out.push(b'/');
        }
    }
    Ok(())
}

/// Readers that cut parameters off first see `..` in `..;x`, and nothing in `;x`.
fn hides_dots(segment: &[u8]) -> bool {
    let end = segment
        .iter()
        .enumerate()
        .find(|(at, byte)| {
            **byte == b';'
                || segment
                    .get(*at..)
                    .is_some_and(|rest| rest.starts_with(b"%3B"))
        })
        .map(|(at, _)| at);
    end.and_then(|end| segment.get(..end))
        .is_some_and(|name| matches!(name, b"" | b"." | b".."))
}

/// One segment with its escapes in their only form.
fn write_segment(segment: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut high: SmallVec<[u8; 32]> = SmallVec::new();
    let mut rest = segment;
    while let [first, ..] = rest {
        let (byte, after) = first_decoded(rest).ok_or("escape is not complete, RFC 3986 §2.1")?;
        let escaped = *first == b'%';
        match byte {
            b'/' | b'\\' => return Err("a slash that only some readers see, RFC 3986 §2.2"),
            0x00..=0x1f | 0x7f => return Err("control character in the path, RFC 3986 §2"),
            0x80.. if !escaped => return Err("path is not ASCII, RFC 3986 §2"),
            b'#' | b'"' | b'<' | b'>' | b'`' | b' ' if !escaped => {
                return Err("character in the path, RFC 3986 §3.3");
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            b';' if !escaped => out.push(byte),
            _ if !escaped && is_literal(byte) => out.push(byte),
            _ => write_escape(byte, out),
        }
        if byte >= 0x80 {
            high.push(byte);
        } else {
            check_utf8(&mut high)?;
        }
        rest = after;
    }
    check_utf8(&mut high)
}

/// The first byte, decoded, and what follows it. `None`: nothing, or no complete escape.
fn first_decoded(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    match text {
        [b'%', high, low, rest @ ..] => Some(((digit(*high)? << 4) | digit(*low)?, rest)),
        [b'%', ..] | [] => None,
        [byte, rest @ ..] => Some((*byte, rest)),
    }
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// Overlong forms are how `..%c0%af` came into the world (RFC 3629 §10).
fn check_utf8(high: &mut SmallVec<[u8; 32]>) -> Result<(), &'static str> {
    if !high.is_empty() && std::str::from_utf8(high).is_err() {
        return Err("escapes are not UTF-8, RFC 3629 §3");
    }
    high.clear();
    Ok(())
}
