//! Can what a policy looks at ever hold this text?
//!
//! A literal that no canonical host, path or value holds would never match, and a `Deny` with it would be
//! believed to protect.

use std::net::Ipv6Addr;

/// Never among the fields that policy sees: `hosts` is for the host, and hop-by-hop fields (RFC
/// 9110 §7.6.1) are taken away before. A DENY on one of them would never match.
pub const UNSEEN_HEADERS: [&str; 7] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// How a literal stands to the text: it is its beginning, its end, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchors {
    /// As its beginning.
    pub begins: bool,
    /// As its end.
    pub ends: bool,
}

/// Why a text is never held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {
    /// A host has no star.
    Star,
    /// Hosts are in lower case.
    Capitals,
    /// A host has no port.
    Port,
    /// A canonical host has no dot at its end.
    FinalDot,
    /// A host has no such character.
    HostCharacter,
    /// A path begins with a slash.
    NoSlash,
    /// A canonical path is ASCII without spaces.
    NotAscii,
    /// A canonical path has no `?`, `#` or backslash.
    Query,
    /// A canonical path has no `//`, `/./` or `/../`.
    Dots,
    /// A canonical path escapes only what needs it, with digits in capitals.
    Escape,
    /// A value has no white space around it.
    WhiteSpace,
    /// A value has no control characters.
    Control,
}

/// Why no canonical host has `text` at that place.
#[must_use]
pub fn not_in_host(text: &str, Anchors { ends, .. }: Anchors) -> Option<Never> {
    let address = text.trim_start_matches('[').trim_end_matches(']');
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    if text.contains('*') {
        Some(Never::Star)
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Some(Never::Capitals)
    } else if ends && text.contains(':') && address.parse::<Ipv6Addr>().is_err() {
        Some(Never::Port)
    } else if ends && text.ends_with('.') {
        Some(Never::FinalDot)
    } else if !text.bytes().all(plain) {
        Some(Never::HostCharacter)
    } else {
        None
    }
}

/// Why no canonical path has `text` at that place.
#[must_use]
pub fn not_in_path(text: &str, Anchors { begins, ends }: Anchors) -> Option<Never> {
    if begins && ends && text == "*" {
        // OPTIONS * (RFC 9112 §3.2.4).
        return None;
    }
    if begins && !text.starts_with('/') {
        return Some(Never::NoSlash);
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(Never::NotAscii);
    }
    if text.contains(['?', '#', '\\']) {
        return Some(Never::Query);
    }
    if canonical_escapes(text).as_deref() != Some(text) {
        return Some(Never::Escape);
    }
    let dots = |part: &str| matches!(part, "." | "..");
    let mut parts: Vec<&str> = text.split('/').collect();
    if !ends {
        // The last part goes on beyond the prefix: /. may become /.well-known.
        parts.pop();
    }
    let first_whole = usize::from(!text.starts_with('/'));
    let dotted = parts.into_iter().skip(first_whole).any(dots);
    (dotted || text.contains("//")).then_some(Never::Dots)
}

/// A path with its escapes as canonical paths have them (RFC 3986 §6.2.2): none of a character that needs
/// none, and digits in capitals. `None`: it has one that no canonical path has.
#[must_use]
pub fn canonical_escapes(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut canonical = pieces.next()?.to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
        match byte {
            // Refused in requests: who decodes it sees other segments, or an end.
            b'/' | b'\\' | 0 => return None,
            _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                canonical.push(char::from(byte));
            }
            _ => canonical.push_str(&format!("%{byte:02X}")),
        }
        canonical.push_str(rest);
    }
    Some(canonical)
}

/// Why no header's value has `text` at that place: values are trimmed and hold no control characters.
#[must_use]
pub fn not_in_value(text: &str, Anchors { begins, ends }: Anchors) -> Option<Never> {
    let white = [' ', '\t'];
    if (begins && text.starts_with(white)) || (ends && text.ends_with(white)) {
        return Some(Never::WhiteSpace);
    }
    let control = |b: u8| b.is_ascii_control() && b != b'\t';
    text.bytes().any(control).then_some(Never::Control)
}

/// Does a group of flags of a regular expression, like `(?iu)` or `(?u:a)`, turn Unicode on? Policies are
/// about bytes.
#[must_use]
pub fn sets_unicode(source: &str) -> bool {
    source.split("(?").skip(1).any(|after| {
        let flags = after.split([':', ')']).next().unwrap_or_default();
        let set = flags.split('-').next().unwrap_or_default();
        flags.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') && set.contains('u')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_have_one_form() {
        for (text, canonical) in [
            ("/plain", Some("/plain")),
            ("/caf%c3%a9", Some("/caf%C3%A9")),
            ("/%41dmin", Some("/Admin")),
            ("/x%2dy/", Some("/x-y/")),
            ("/semi%3bx", Some("/semi%3Bx")),
            ("/sp%20ace%", None),
            ("/%4", None),
            ("/%zz", None),
            ("/%+1", None),
            ("/a%2fb", None),
            ("/a%5Cb", None),
            ("/a%00", None),
            ("/%2541", Some("/%2541")),
        ] {
            assert_eq!(canonical_escapes(text).as_deref(), canonical, "{text}");
            let anchors = Anchors {
                begins: true,
                ends: true,
            };
            let is_seen = not_in_path(text, anchors).is_none();
            assert_eq!(is_seen, canonical == Some(text), "{text}");
        }
    }
}
