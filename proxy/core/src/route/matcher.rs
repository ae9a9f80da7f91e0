//! Does one part of a request (host, path, header, query) match what a route says of it?
//!
//! Everything is compiled once, when the route arrives; what can't be understood in full refuses
//! the route. Regular expressions are linear in time and bounded in size, and always match the
//! whole text.

use regex::bytes::{Regex, RegexBuilder};
use std::cmp::Ordering;

use isthmus_proto::ids::is_dns_name;
use isthmus_proto::resource;
use isthmus_proto::resource::path_match;
use isthmus_proto::resource::string_match::Kind;

use crate::message::{Fields, is_token};
pub use isthmus_proto::bounds::route::TEXT_BYTES_MAX;

/// Longest pattern, in characters.
pub const REGEX_CHARS_MAX: usize = 1_024;
/// Largest compiled pattern, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// A literal or a pattern over one text.
#[derive(Debug, Clone)]
pub enum TextMatcher {
    /// Equal, byte for byte.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// The whole text matches.
    Regex(Pattern),
    /// Is there, and is not empty.
    Present,
}

impl TextMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// Nothing is set, the pattern does not compile, or something is too long.
    pub fn compile(text: Option<&resource::StringMatch>) -> Result<Self, String> {
        let kind = text
            .and_then(|t| t.kind.as_ref())
            .ok_or("the matcher is empty")?;
        Ok(match kind {
            Kind::Exact(t) => Self::Exact(bounded(t)?),
            Kind::Prefix(t) => Self::Prefix(bounded(t)?),
            Kind::Suffix(t) => Self::Suffix(bounded(t)?),
            Kind::Regex(t) => Self::Regex(Pattern::compile(t)?),
            Kind::Present(true) => Self::Present,
            Kind::Present(false) => return Err("present: false says nothing".to_owned()),
        })
    }

    /// Does it match?
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(t) => text == t.as_bytes(),
            Self::Prefix(t) => text.starts_with(t.as_bytes()),
            Self::Suffix(t) => text.ends_with(t.as_bytes()),
            Self::Regex(pattern) => pattern.matches(text),
            Self::Present => !text.is_empty(),
        }
    }
}

/// A regular expression over a whole text.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Too long, too large when compiled, or not a regular expression.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.chars().count() > REGEX_CHARS_MAX {
            return Err(format!(
                "the pattern is longer than {REGEX_CHARS_MAX} characters"
            ));
        }
        let build = |pattern: &str| {
            RegexBuilder::new(pattern)
                .size_limit(REGEX_COMPILED_BYTES_MAX)
                .build()
        };
        // Alone first: `a)|(b` is no pattern, though it becomes one between the anchors.
        build(text).map_err(|e| format!("pattern {text:?}: {}", reason(&e.to_string())))?;
        let regex = build(&format!(r"\A(?:{text})\z"))
            .map_err(|e| format!("pattern {text:?}: {}", reason(&e.to_string())))?;
        Ok(Self {
            text: text.into(),
            regex,
        })
    }

    /// Does the whole text match?
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

/// The last line of the regex crate's message is the reason; the others draw the place.
fn reason(message: &str) -> String {
    message
        .lines()
        .last()
        .unwrap_or("")
        .trim()
        .trim_start_matches("error: ")
        .to_owned()
}

fn bounded(text: &str) -> Result<Box<str>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a text is longer than {TEXT_BYTES_MAX} bytes"));
    }
    Ok(text.into())
}

/// Which hosts a route is for. Ordered: what is more specific comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatcher {
    /// This name.
    Exact(Box<str>),
    /// Names that end so, after at least one more label; the text begins with a dot.
    Suffix(Box<str>),
    /// Every host.
    Any,
}

impl HostMatcher {
    /// Compiles a host name or `*.` and a host name.
    ///
    /// # Errors
    /// Not a DNS name in lower case.
    pub fn compile(text: &str) -> Result<Self, String> {
        let bad = || format!("hostname {text:?} is not a DNS name in lower case");
        match text.strip_prefix('*') {
            Some(rest) if rest.strip_prefix('.').is_some_and(is_dns_name) => {
                Ok(Self::Suffix(rest.into()))
            }
            None if is_dns_name(text) => Ok(Self::Exact(text.into())),
            Some(_) | None => Err(bad()),
        }
    }

    /// Does it match a host in lower case, without port?
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// Exact before wildcards, longer before shorter; equally long ones by their text.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let rank = |host: &Self| match host {
            Self::Exact(_) => 0,
            Self::Suffix(_) => 1,
            Self::Any => 2,
        };
        let text = |host: &Self| match host {
            Self::Exact(t) | Self::Suffix(t) => t.to_string(),
            Self::Any => String::new(),
        };
        rank(self).cmp(&rank(other)).then_with(|| {
            let (a, b) = (text(self), text(other));
            b.len().cmp(&a.len()).then(a.cmp(&b))
        })
    }
}

/// What a route says of the path.
#[derive(Debug, Clone)]
pub enum PathMatcher {
    /// Equal.
    Exact(Box<str>),
    /// Whole segments; without a trailing slash, so `/` is empty here.
    Prefix(Box<str>),
    /// The whole path.
    Regex(Pattern),
}

impl PathMatcher {
    /// Compiles a path; absent means every path (the prefix `/`, as the Gateway API's default).
    ///
    /// # Errors
    /// Nothing is set, the path does not begin with `/`, or the pattern does not compile.
    pub fn compile(path: Option<&resource::PathMatch>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Self::Prefix("".into()));
        };
        let rooted = |text: &str| {
            if text.starts_with('/') && !text.contains(['?', '#']) {
                bounded(text)
            } else {
                Err(format!(
                    "path {text:?} does not begin with / or holds ? or #"
                ))
            }
        };
        match path.kind.as_ref().ok_or("the path matcher is empty")? {
            path_match::Kind::Exact(text) => rooted(text).map(Self::Exact),
            path_match::Kind::Prefix(text) => {
                rooted(text).map(|t| Self::Prefix(t.trim_end_matches('/').into()))
            }
            path_match::Kind::Regex(text) => Pattern::compile(text).map(Self::Regex),
        }
    }

    /// Does it match a canonical path, without query?
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *path,
            // Every path, also `*`.
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }

    /// The prefix that matched, without trailing slash. `None`: it is no prefix match.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Prefix(prefix) => Some(prefix),
            Self::Exact(_) | Self::Regex(_) => None,
        }
    }

    /// Exact, then patterns, then prefixes; longer before shorter.
    ///
    /// The Gateway API leaves the place of patterns open. Before prefixes, because a catch-all
    /// prefix would hide every pattern otherwise.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        self.rank()
            .cmp(&other.rank())
            .then(other.text().len().cmp(&self.text().len()))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Regex(_) => 1,
            Self::Prefix(_) => 2,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Regex(pattern) => &pattern.text,
        }
    }
}

/// What a route says of one header.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Lower case.
    name: Box<str>,
    value: TextMatcher,
}

impl HeaderMatcher {
    /// Compiles the matchers of one match. Of several for the same name the first counts, as the
    /// Gateway API says.
    ///
    /// # Errors
    /// A name is not a field name, or a value's matcher does not compile.
    pub fn compile_all(headers: &[resource::HeaderMatch]) -> Result<Box<[Self]>, String> {
        let mut compiled: Vec<Self> = Vec::with_capacity(headers.len());
        for header in headers {
            let name = header.name.to_ascii_lowercase();
            if !is_token(name.as_bytes()) {
                return Err(format!("header {:?} is not a field name", header.name));
            }
            let value = TextMatcher::compile(header.value.as_ref())
                .map_err(|why| format!("header {name}: {why}"))?;
            if compiled.iter().all(|h| *h.name != *name) {
                compiled.push(Self {
                    name: name.into(),
                    value,
                });
            }
        }
        Ok(compiled.into())
    }

    /// Does a value of this header match? Each value of a repeated header is looked at, so that
    /// a second one can't hide behind the first. `host` means the authority.
    #[must_use]
    pub fn matches(&self, authority: &[u8], fields: &Fields) -> bool {
        if &*self.name == "host" {
            return self.value.matches(authority);
        }
        fields
            .get_all(self.name.as_bytes())
            .any(|value| self.value.matches(value))
    }
}

/// What a route says of one query parameter.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    name: Box<str>,
    value: TextMatcher,
}

impl QueryMatcher {
    /// Compiles the matchers of one match. Of several for the same name the first counts.
    ///
    /// # Errors
    /// A name is empty, or a value's matcher does not compile.
    pub fn compile_all(query: &[resource::QueryMatch]) -> Result<Box<[Self]>, String> {
        let mut compiled: Vec<Self> = Vec::with_capacity(query.len());
        for parameter in query {
            if parameter.name.is_empty() {
                return Err("a query parameter has no name".to_owned());
            }
            let name = bounded(&parameter.name)?;
            let value = TextMatcher::compile(parameter.value.as_ref())
                .map_err(|why| format!("query parameter {name:?}: {why}"))?;
            if compiled.iter().all(|q| q.name != name) {
                compiled.push(Self { name, value });
            }
        }
        Ok(compiled.into())
    }

    /// Does the first parameter of this name match, percent-decoded? (`+` stays `+`.)
    #[must_use]
    pub fn matches(&self, query: Option<&str>) -> bool {
        let first = query.unwrap_or("").split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name) == self.name.as_bytes()).then_some(value)
        });
        first.is_some_and(|value| self.value.matches(&percent_decode(value)))
    }
}

/// Decodes `%41`; what is no escape stays as it is.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after
            .first_chunk::<2>()
            .filter(|_| *first == b'%')
            .and_then(|digits| {
                let digit = |b: u8| {
                    char::from(b)
                        .to_digit(16)
                        .and_then(|d| u8::try_from(d).ok())
                };
                let [high, low] = *digits;
                Some(digit(high)? << 4 | digit(low)?)
            });
        match escape {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind) -> Result<TextMatcher, String> {
        TextMatcher::compile(Some(&resource::StringMatch { kind: Some(kind) }))
    }

    fn prefix(path: &str) -> PathMatcher {
        let kind = Some(path_match::Kind::Prefix(path.to_owned()));
        PathMatcher::compile(Some(&resource::PathMatch { kind })).unwrap()
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        for p in ["/foo", "/foo/"] {
            let p = prefix(p);
            assert!(p.matches("/foo") && p.matches("/foo/") && p.matches("/foo/bar"));
            assert!(!p.matches("/foobar") && !p.matches("/fo") && !p.matches("/"));
        }
        let all = prefix("/");
        assert!(all.matches("/") && all.matches("/x") && all.matches("*"));
        assert!(!prefix("/foo").matches("*"));
    }

    #[test]
    fn a_pattern_matches_the_whole_text_and_stays_inside_its_anchors() {
        let pattern = text(Kind::Regex("a|ab".into())).unwrap();
        assert!(pattern.matches(b"a") && pattern.matches(b"ab"));
        assert!(!pattern.matches(b"xa") && !pattern.matches(b"a\n"));
        let why = text(Kind::Regex("a)|(b".into())).unwrap_err();
        assert!(
            why.contains("a)|(b") && why.contains("unopened group"),
            "{why}"
        );
        assert!(text(Kind::Regex("x".repeat(1_025))).is_err());
        assert!(text(Kind::Regex(r"\w{1000}{1000}".into())).is_err());
    }

    #[test]
    fn an_empty_matcher_is_refused() {
        assert!(TextMatcher::compile(None).is_err());
        assert!(TextMatcher::compile(Some(&resource::StringMatch { kind: None })).is_err());
        assert!(text(Kind::Present(false)).is_err());
        assert!(PathMatcher::compile(Some(&resource::PathMatch { kind: None })).is_err());
    }

    #[test]
    fn hosts_match_by_label_and_letter() {
        let wild = HostMatcher::compile("*.example.com").unwrap();
        assert!(wild.matches("a.example.com") && wild.matches("a.b.example.com"));
        assert!(!wild.matches("example.com") && !wild.matches("aexample.com"));
        for bad in ["*", "*example.com", "a.*.b", "A.b", "", "*."] {
            assert!(HostMatcher::compile(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_value_of_a_header_is_looked_at() {
        let headers = [("X-Env", "canary"), ("x-env", "other")].map(|(name, value)| {
            let kind = Some(Kind::Exact(value.to_owned()));
            resource::HeaderMatch {
                name: name.to_owned(),
                value: Some(resource::StringMatch { kind }),
            }
        });
        let compiled = HeaderMatcher::compile_all(&headers).unwrap();
        assert_eq!(compiled.len(), 1, "the first of a name counts");
        let mut fields = Fields::default();
        fields.push(b"x-env", b"prod");
        assert!(!compiled[0].matches(b"", &fields));
        fields.push(b"x-env", b"canary");
        assert!(compiled[0].matches(b"", &fields));
    }

    #[test]
    fn the_first_query_parameter_counts_and_is_decoded() {
        let kind = Some(Kind::Exact("a b".to_owned()));
        let value = Some(resource::StringMatch { kind });
        let query = [resource::QueryMatch {
            name: "q".to_owned(),
            value,
        }];
        let q = &QueryMatcher::compile_all(&query).unwrap()[0];
        assert!(q.matches(Some("x=1&q=a%20b&q=z")) && q.matches(Some("%71=a%20b")));
        for miss in ["q=z&q=a%20b", "q", "q=a+b", "qq=a%20b", ""] {
            assert!(!q.matches(Some(miss)), "{miss}");
        }
        assert!(!q.matches(None));
        assert_eq!(percent_decode("%4"), b"%4");
        assert_eq!(percent_decode("%zz%41"), b"%zzA");
    }
}
