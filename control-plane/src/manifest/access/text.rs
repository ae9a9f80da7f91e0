//! Which texts are meant?

use isthmus_proto::resource::{StringMatch, string_match};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::manifest::Bad;

/// Longest regular expression, in characters (SECURITY S31).
const REGEX_CHARS_MAX: usize = 1024;

/// A plain string is an exact one.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(untagged))]
pub(super) enum RawString {
    Plain(String),
    Match(RawMatch),
}

impl<'de> Deserialize<'de> for RawString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawStringVisitor)
    }
}

/// Not derived: an untagged struct is also read from a list, field by field.
struct RawStringVisitor;

impl<'de> Visitor<'de> for RawStringVisitor {
    type Value = RawString;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text, or one of exact, prefix, suffix, regex, present")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawString, E> {
        Ok(RawString::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawString, A::Error> {
        RawMatch::deserialize(MapAccessDeserializer::new(map)).map(RawString::Match)
    }
}

#[derive(Deserialize, Clone)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMatch {
    /// The whole text.
    #[serde(default)]
    pub(super) exact: Option<String>,
    /// Its beginning.
    #[serde(default)]
    pub(super) prefix: Option<String>,
    /// Its end.
    #[serde(default)]
    pub(super) suffix: Option<String>,
    /// A regular expression that matches all of it, at most 1,024 characters.
    #[serde(default)]
    pub(super) regex: Option<String>,
    /// `true`: whatever it is.
    #[serde(default)]
    pub(super) present: Option<bool>,
}

pub(super) fn string(raw: &RawString) -> Result<StringMatch, Bad> {
    match raw {
        // Whoever writes it means a pattern, and a DENY that matches nothing would let it pass.
        RawString::Plain(text) if text.contains('*') => Err(Bad(format!(
            "{text:?}: a star has no meaning; write prefix, suffix or exact"
        ))),
        RawString::Plain(text) => Ok(StringMatch {
            kind: Some(string_match::Kind::Exact(text.clone())),
        }),
        RawString::Match(matcher) => matcher_of(matcher),
    }
}

pub(super) fn matcher_of(raw: &RawMatch) -> Result<StringMatch, Bad> {
    let mut kinds = Vec::new();
    kinds.extend(raw.exact.clone().map(string_match::Kind::Exact));
    kinds.extend(raw.prefix.clone().map(string_match::Kind::Prefix));
    kinds.extend(raw.suffix.clone().map(string_match::Kind::Suffix));
    kinds.extend(raw.regex.clone().map(string_match::Kind::Regex));
    kinds.extend(raw.present.map(string_match::Kind::Present));
    let (Some(kind), true) = (kinds.pop(), kinds.is_empty()) else {
        return Err(Bad(
            "exactly one of exact, prefix, suffix, regex, present".to_owned()
        ));
    };
    match &kind {
        string_match::Kind::Regex(text) if text.chars().count() > REGEX_CHARS_MAX => Err(Bad(
            format!("the regex is longer than {REGEX_CHARS_MAX} characters"),
        )),
        string_match::Kind::Present(false) => Err(Bad(
            "present: false is not supported; deny what is present instead".to_owned(),
        )),
        _ => Ok(StringMatch { kind: Some(kind) }),
    }
}
