//! Can this text ever be what a policy looks at?
//!
//! A literal that no canonical host or path contains would never match, and a `Deny` with it would be
//! believed to protect. Regular expressions are about bytes, as at the proxies.

use isthmus_proto::bounds::access::{
    LITERAL_BYTES_MAX, REGEX_BYTES_MAX, REGEX_CHARS_MAX, REGEX_DEPTH_MAX, REGEXES_MAX,
};
use isthmus_proto::literal::{
    Anchors, Never, not_in_host, not_in_path, not_in_value, sets_unicode,
};
use isthmus_proto::resource::StringMatch;
use isthmus_proto::resource::string_match::Kind;
use regex::bytes::RegexBuilder;

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
        let never = match subject {
            Subject::Host => not_in_host(text, anchors),
            Subject::Path => not_in_path(text, anchors),
            Subject::Header => not_in_value(text, anchors),
        };
        never.map(why_never)
    };
    let shown = || text.chars().take(80).collect::<String>();
    why.map_or(Ok(()), |why| Err(format!("{:?} {why}", shown())))
}

/// In words, for whoever writes a manifest.
fn why_never(never: Never) -> &'static str {
    match never {
        Never::Star => "has a star, and no host has; write suffix",
        Never::Capitals => "has capitals; hosts are compared in lower case",
        Never::Port => "names a port; write to.ports",
        Never::FinalDot => "ends with a dot; a canonical host does not",
        Never::HostCharacter => "has characters that no host has",
        Never::NoSlash => "does not begin with /, as every path does",
        Never::NotAscii => "is not ASCII without spaces; write %XX",
        Never::Query => "has ?, # or a backslash, and no canonical path has",
        Never::Dots => "has //, /./ or /../, and no canonical path has",
        Never::Escape => {
            "has an escape that no canonical path has: %XX with capitals, of what needs one, and not of / or \\"
        }
        Never::WhiteSpace => "has white space around it",
        Never::Control => "has control characters",
    }
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
