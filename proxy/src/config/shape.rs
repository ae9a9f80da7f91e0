//! Where is a configuration not of the right shape?

use std::fmt;

use ipnet::IpNet;
use serde::de::{IgnoredAny, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::Passthrough;

impl<'de> Deserialize<'de> for Passthrough {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Passthrough;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"known\", \"always\", \"never\", true or false")
            }

            fn visit_bool<E>(self, known: bool) -> Result<Passthrough, E> {
                Ok(if known {
                    Passthrough::Known
                } else {
                    Passthrough::Never
                })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Passthrough, E> {
                match word {
                    "known" => Ok(Passthrough::Known),
                    "always" => Ok(Passthrough::Always),
                    "never" => Ok(Passthrough::Never),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }
        from.deserialize_any(Word)
    }
}

/// A range of addresses, as text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range(pub(super) IpNet);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let range = text.parse().map_err(|_| {
            let wanted = &"a range of addresses, as \"10.0.0.0/8\"";
            serde::de::Error::invalid_value(Unexpected::Str(&text), wanted)
        })?;
        Ok(Self(range))
    }
}

/// Where it is wrong. What is no JSON has a line and no key; a key that is missing is named by the cause;
/// within an alternative (`?`) nobody knows the key.
pub(super) fn key_of(text: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return String::new();
    }
    let path = error.path().to_string();
    let key = path.trim_end_matches(".?");
    if key == "." || key == "?" {
        return String::new();
    }
    key.to_owned()
}

/// The key behind a file's name.
pub(super) fn of_key(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!(": {key}")
    }
}
