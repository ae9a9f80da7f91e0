//! Can this text ever be what a policy looks at?
//!
//! A literal that no canonical host or path contains would never match, and a `Deny` with it would be
//! believed to protect. Regular expressions are about bytes, as at the proxies.

use std::net::Ipv6Addr;

use isthmus_proto::resource::StringMatch;
use isthmus_proto::resource::string_match::Kind;
use regex::bytes::RegexBuilder;

/// Most regular expressions of one policy.
const REGEXES_MAX: usize = 64;
/// Longest regular expression, in characters.
const REGEX_CHARS_MAX: usize = 1_024;
/// Largest compiled regular expression, and its lazy automaton.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting in a regular expression.
const REGEX_DEPTH_MAX: u32 = 64;
/// Longest literal, in bytes.
const LITERAL_BYTES_MAX: usize = 2_048;

/// What a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Host,
    Path,
    Header,
}

/// How many regular expressions a policy has so far.
#[derive(Default)]
pub(super) struct Regexes(usize);

/// How a literal stands to the text.
#[derive(Clone, Copy)]
struct Anchors {
    begins: bool,
    ends: bool,
}

pub(super) fn check_match(
    text: Option<&StringMatch>,
    subject: Subject,
    regexes: &mut Regexes,
) -> Result<(), String> {
    let anchored = |begins, ends| Anchors { begins, ends };
    match text.and_then(|text| text.kind.as_ref()) {
        None => Err("an empty match".to_owned()),
        Some(Kind::Present(true)) => Ok(()),
        Some(Kind::Present(false)) => Err("present: false matches nothing".to_owned()),
        Some(Kind::Exact(text)) => literal(text, subject, anchored(true, true)),
        Some(Kind::Prefix(text)) => literal(text, subject, anchored(true, false)),
        Some(Kind::Suffix(text)) => literal(text, subject, anchored(false, true)),
        Some(Kind::Regex(source)) => {
            regexes.0 = regexes.0.saturating_add(1);
            if regexes.0 > REGEXES_MAX {
                return Err(format!("more than {REGEXES_MAX} regular expressions"));
            }
            regex(source, subject).map_err(|why| format!("regular expression: {why}"))
        }
    }
}

fn literal(text: &str, subject: Subject, anchors: Anchors) -> Result<(), String> {
    let why = if text.is_empty() {
        Some("is empty")
    } else if text.len() > LITERAL_BYTES_MAX {
        Some("is longer than 2,048 bytes")
    } else {
        match subject {
            Subject::Host => not_in_host(text, anchors),
            Subject::Path => not_in_path(text, anchors),
            Subject::Header => not_in_value(text, anchors),
        }
    };
    let shown = || text.chars().take(80).collect::<String>();
    why.map_or(Ok(()), |why| Err(format!("{:?} {why}", shown())))
}

/// Why no canonical host has `text` at that place.
fn not_in_host(text: &str, Anchors { ends, .. }: Anchors) -> Option<&'static str> {
    let address = text.trim_start_matches('[').trim_end_matches(']');
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    if text.contains('*') {
        Some("has a star, and no host has; write suffix")
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Some("has capitals; hosts are compared in lower case")
    } else if ends && text.contains(':') && address.parse::<Ipv6Addr>().is_err() {
        Some("names a port; write to.ports")
    } else if ends && text.ends_with('.') {
        Some("ends with a dot; a canonical host does not")
    } else if !text.bytes().all(plain) {
        Some("has characters that no host has")
    } else {
        None
    }
}

/// Why no canonical path has `text` at that place.
fn not_in_path(text: &str, Anchors { begins, ends }: Anchors) -> Option<&'static str> {
    // OPTIONS * (RFC 9112 §3.2.4).
    if begins && ends && text == "*" {
        return None;
    }
    if begins && !text.starts_with('/') {
        return Some("does not begin with /, as every path does");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("is not ASCII without spaces; write %XX");
    }
    if text.contains(['?', '#', '\\']) {
        return Some("has ?, # or a backslash, and no canonical path has");
    }
    let dots = |part: &str| matches!(part, "." | "..");
    let mut parts: Vec<&str> = text.split('/').collect();
    if !ends {
        // What a prefix ends with goes on: /. may be the beginning of /.well-known.
        parts.pop();
    }
    let first_whole = usize::from(!text.starts_with('/'));
    let dotted = parts.into_iter().skip(first_whole).any(dots);
    (dotted || text.contains("//")).then_some("has //, /./ or /../, and no canonical path has")
}

/// Why no value of a header has `text` at that place: values are trimmed.
fn not_in_value(text: &str, Anchors { begins, ends }: Anchors) -> Option<&'static str> {
    let white = [' ', '\t'];
    if (begins && text.starts_with(white)) || (ends && text.ends_with(white)) {
        return Some("has white space around it");
    }
    let control = |b: u8| b.is_ascii_control() && b != b'\t';
    text.bytes()
        .any(control)
        .then_some("has control characters")
}

fn regex(source: &str, subject: Subject) -> Result<(), String> {
    if source.is_empty() {
        return Err("is empty".to_owned());
    }
    if source.chars().count() > REGEX_CHARS_MAX {
        return Err(format!("is longer than {REGEX_CHARS_MAX} characters"));
    }
    if sets_unicode(source) {
        return Err("is about bytes; the flag u can't be set".to_owned());
    }
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .unicode(false)
            .case_insensitive(subject == Subject::Host)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(REGEX_DEPTH_MAX)
            .build()
            .map(|_| ())
            .map_err(|why| one_line(&why))
    };
    // Alone first: `a)|(?:b` must not break out of the anchors.
    build(source)?;
    build(&format!(r"\A(?:{source})\z"))
}

/// The last line says what is wrong; the others draw the place.
fn one_line(why: &regex::Error) -> String {
    let text = why.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

/// Does a group of flags, like `(?iu)` or `(?u:a)`, turn Unicode on?
fn sets_unicode(source: &str) -> bool {
    source.split("(?").skip(1).any(|after| {
        let flags = after.split([':', ')']).next().unwrap_or_default();
        let set = flags.split('-').next().unwrap_or_default();
        flags.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') && set.contains('u')
    })
}
