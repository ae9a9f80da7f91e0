//! Does a text match what a policy wrote down?
//!
//! Literals are literal. Patterns match the whole text, in linear time, and are about bytes: `.` is
//! any byte and `\w` is ASCII, so that a verdict never depends on what charset somebody believes in.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

use isthmus_proto::bounds::access::REGEX_DEPTH_MAX;
pub use isthmus_proto::bounds::access::{
    LITERAL_BYTES_MAX, REGEX_BYTES_MAX, REGEX_CHARS_MAX, VALUES_MAX,
};
use isthmus_proto::literal::{
    Anchors, Never, not_in_host, not_in_path, not_in_value, sets_unicode,
};
use isthmus_proto::resource::StringMatch;
use isthmus_proto::resource::string_match::Kind;

/// How many values of a list are shown to people, and how many bytes of a text.
const SHOWN_VALUES: usize = 3;
const SHOWN_BYTES: usize = 80;

/// What a text is; each has texts that it can never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A canonical host.
    Host,
    /// A canonical path.
    Path,
    /// A header's value.
    Header,
}

/// How many regular expressions a policy may still have.
#[derive(Debug)]
pub(super) struct RegexBudget(pub(super) usize);

/// Literals, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Box<[Box<str>]>);

impl Names {
    pub(super) fn new(mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into_boxed_slice())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        match &*self.0 {
            // The common case is worth a shortcut.
            [only] => **only == *name,
            several => several
                .binary_search_by(|held| held.as_ref().cmp(name))
                .is_ok(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.0.iter().map(|name| name.as_ref()))
    }
}

/// One of these must match.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    /// Apart, because a list of literals is searched and not walked.
    exact: Names,
    others: Box<[Pattern]>,
}

impl Patterns {
    pub(super) fn compile(
        raw: &[StringMatch],
        subject: Subject,
        budget: &mut RegexBudget,
    ) -> Result<Self, String> {
        let (mut exact, mut others) = (Vec::new(), Vec::new());
        for pattern in each(raw, |one| Pattern::compile(Some(one), subject, budget))? {
            match pattern {
                Pattern::Exact(text) => exact.push(text),
                other => others.push(other),
            }
        }
        Ok(Self {
            exact: Names::new(exact),
            others: others.into_boxed_slice(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.others.is_empty()
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        self.exact.contains(text) || self.others.iter().any(|p| p.matches(text.as_bytes()))
    }

    /// The literals, if there is nothing else and at least one.
    pub(super) fn only_exact(&self) -> Option<&Names> {
        (self.others.is_empty() && !self.exact.is_empty()).then_some(&self.exact)
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self
            .exact
            .iter()
            .map(|text| format!("exact {}", shown(text.as_bytes())));
        write_list(f, exact.chain(self.others.iter().map(ToString::to_string)))
    }
}

/// A literal or a pattern over one text.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    /// The prefix `/` of a path: every path, also `*`.
    EveryPath,
    Suffix(Box<str>),
    Regex {
        source: Box<str>,
        compiled: Regex,
    },
    Present,
}

impl Pattern {
    /// Reads a matcher.
    ///
    /// # Errors
    /// It is empty, too long, no regular expression, or can never match a `subject`: a DENY that
    /// never matches would be believed to protect.
    pub(super) fn compile(
        raw: Option<&StringMatch>,
        subject: Subject,
        budget: &mut RegexBudget,
    ) -> Result<Self, String> {
        let Some(kind) = raw.and_then(|matcher| matcher.kind.as_ref()) else {
            return Err("empty matcher".into());
        };
        Ok(match kind {
            Kind::Exact(text) => Self::Exact(literal("exact", text, subject)?),
            Kind::Prefix(text) if text == "/" && subject == Subject::Path => Self::EveryPath,
            Kind::Prefix(text) => Self::Prefix(literal("prefix", text, subject)?),
            Kind::Suffix(text) => Self::Suffix(literal("suffix", text, subject)?),
            Kind::Regex(source) => {
                budget.0 = budget
                    .0
                    .checked_sub(1)
                    .ok_or("too many regular expressions")?;
                Self::Regex {
                    source: source.as_str().into(),
                    compiled: regex(source, subject)?,
                }
            }
            Kind::Present(true) => Self::Present,
            Kind::Present(false) => return Err("present: false is no matcher".into()),
        })
    }

    pub(super) fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(want) => text == want.as_bytes(),
            Self::Prefix(want) => text.starts_with(want.as_bytes()),
            Self::EveryPath => true,
            Self::Suffix(want) => text.ends_with(want.as_bytes()),
            Self::Regex { compiled, .. } => compiled.is_match(text),
            Self::Present => !text.is_empty(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact {}", shown(text.as_bytes())),
            Self::Prefix(text) => write!(f, "prefix {}", shown(text.as_bytes())),
            Self::EveryPath => f.write_str("prefix /"),
            Self::Suffix(text) => write!(f, "suffix {}", shown(text.as_bytes())),
            Self::Regex { source, .. } => write!(f, "regex {}", shown(source.as_bytes())),
            Self::Present => f.write_str("present"),
        }
    }
}

fn literal(kind: &str, text: &str, subject: Subject) -> Result<Box<str>, String> {
    let bad = |why: &str| Err(format!("{kind} {}: {why}", shown(text.as_bytes())));
    if text.is_empty() {
        return bad("empty");
    }
    if text.len() > LITERAL_BYTES_MAX {
        return bad("longer than 2,048 bytes");
    }
    let anchors = Anchors {
        begins: kind != "suffix",
        ends: kind != "prefix",
    };
    let never = match subject {
        Subject::Host => not_in_host(text, anchors),
        Subject::Path => not_in_path(text, anchors),
        Subject::Header => not_in_value(text, anchors),
    };
    never.map_or_else(|| Ok(text.into()), |never| bad(why_never(never)))
}

/// In words.
fn why_never(never: Never) -> &'static str {
    match never {
        Never::Star => "a host has no wildcard; use suffix",
        Never::Capitals => "hosts are compared in lower case",
        Never::Port => "a host has no port; use ports",
        Never::FinalDot => "a canonical host has no dot at its end",
        Never::HostCharacter => "a host has no such character",
        Never::NoSlash => "a path begins with /",
        Never::NotAscii => "a canonical path is ASCII without spaces; write %XX",
        Never::Query => "a canonical path has no ?, # or backslash",
        Never::Dots => "a canonical path has no //, /./ or /../",
        Never::Escape => "a canonical path escapes what needs it, by %XX with capitals",
        Never::WhiteSpace => "a value has no white space around it",
        Never::Control => "a value has no control characters",
    }
}

fn regex(source: &str, subject: Subject) -> Result<Regex, String> {
    let bad = |why: &str| format!("regex {}: {why}", shown(source.as_bytes()));
    if source.is_empty() {
        return Err(bad("empty"));
    }
    if source.chars().count() > REGEX_CHARS_MAX {
        return Err(bad("longer than 1,024 characters"));
    }
    if sets_unicode(source) {
        return Err(bad("patterns are about bytes; the flag u can't be set"));
    }
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .unicode(false)
            .case_insensitive(subject == Subject::Host)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(REGEX_DEPTH_MAX)
            .build()
            .map_err(|cause| bad(&one_line(&cause)))
    };
    // Alone first: `a)|(?:b` must not break out of the anchors.
    build(source)?;
    build(&format!(r"\A(?:{source})\z"))
}

fn one_line(cause: &regex::Error) -> String {
    match cause {
        regex::Error::CompiledTooBig(limit) => format!("compiled larger than {limit} bytes"),
        // The last line says what is wrong; the others draw the place.
        other => {
            let text = other.to_string();
            text.lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned()
        }
    }
}

/// Reads every item of a list, and says which one is wrong.
pub(super) fn each<T, U>(
    items: &[T],
    mut read: impl FnMut(&T) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    if items.len() > VALUES_MAX {
        return Err(format!(
            ": {} values; at most {VALUES_MAX} are allowed",
            items.len()
        ));
    }
    let numbered = |(at, item)| read(item).map_err(|why| place(at, &why));
    items.iter().enumerate().map(numbered).collect()
}

/// `[at]: why`, or `[at].field: why` where `why` begins with more of the place.
pub(super) fn place(at: usize, why: &str) -> String {
    let colon = if why.starts_with(['.', '[', ':']) {
        ""
    } else {
        ": "
    };
    format!("[{at}]{colon}{why}")
}

/// A text for people: quoted, escaped, cut.
pub(super) fn shown(text: &[u8]) -> String {
    let (head, more) = text.split_at_checked(SHOWN_BYTES).unwrap_or((text, &[]));
    format!(
        "\"{}\"{}",
        head.escape_ascii(),
        if more.is_empty() { "" } else { "…" }
    )
}

/// The first values of a list, and how many more there are.
pub(super) fn write_list(
    f: &mut fmt::Formatter<'_>,
    values: impl Iterator<Item = impl fmt::Display>,
) -> fmt::Result {
    let mut more = 0usize;
    for (at, value) in values.enumerate() {
        match at {
            0 => write!(f, "{value}")?,
            _ if at < SHOWN_VALUES => write!(f, " or {value}")?,
            _ => more = more.saturating_add(1),
        }
    }
    if more > 0 {
        write!(f, " or {more} more")
    } else {
        Ok(())
    }
}
