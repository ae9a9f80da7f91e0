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
