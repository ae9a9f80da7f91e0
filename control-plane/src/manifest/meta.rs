//! What do all manifests share: metadata, times, durations?

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::model::Labels;
use serde::{Deserialize, Deserializer};

use super::Bad;

/// Most units in a duration (GEP-2257).
const UNITS_MAX: usize = 4;
/// Most digits of one unit in a duration (GEP-2257).
const DIGITS_MAX: usize = 5;

/// The part of an object's metadata that is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creation_timestamp: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    generation: Option<i64>,
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Owner {
    kind: String,
    uid: String,
}

impl Metadata {
    /// Its labels.
    pub(super) fn labels(&self) -> Labels {
        self.labels.clone().unwrap_or_default()
    }

    /// Its annotations.
    pub(super) fn annotations(&self) -> Labels {
        self.annotations.clone().unwrap_or_default()
    }

    /// Its uid; empty: none is named.
    pub(super) fn uid(&self) -> String {
        self.uid.clone().unwrap_or_default()
    }

    /// How often its spec has changed; 0: not known.
    pub(super) fn generation(&self) -> i64 {
        self.generation.unwrap_or(0)
    }

    /// The uid of an owner of this kind; empty: it has none.
    pub(super) fn owner(&self, kind: &str) -> String {
        let mut owners = self.owner_references.iter().flatten();
        let found = owners.find(|owner| owner.kind == kind);
        found.map(|owner| owner.uid.clone()).unwrap_or_default()
    }

    /// A label.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// An annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// A label or an annotation, whichever has this value.
    pub(super) fn says(&self, key: &str, value: &str) -> bool {
        let has = |map: &Option<BTreeMap<String, String>>| {
            map.as_ref()
                .and_then(|m| m.get(key))
                .is_some_and(|v| v == value)
        };
        has(&self.labels) || has(&self.annotations)
    }

    /// Is it being deleted?
    pub(super) fn deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// When it was created, if it says so.
    pub(super) fn created(&self) -> Result<Option<SystemTime>, Bad> {
        let read = |text: &str| {
            timestamp(text)
                .ok_or_else(|| Bad("metadata.creationTimestamp is no time in UTC".to_owned()))
        };
        self.creation_timestamp.as_deref().map(read).transpose()
    }
}

/// RFC 3339 in UTC, as Kubernetes writes it: `2026-11-22T17:03:00Z`, fraction allowed.
pub(super) fn timestamp(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let time = time.split_once('.').map_or(time, |(whole, _)| whole);
    let numbers = |text: &str, separator| {
        let mut parts = text.split(separator).map(|part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| part.parse::<i64>().ok())
                .flatten()
        });
        let three = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(three)
    };
    let (year, month, day) = numbers(date, '-')?;
    let (hour, minute, second) = numbers(time, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_of_month).contains(&day)
    {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from civil, with years that begin in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (y / 400, y % 400);
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    let seconds = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A duration of Kubernetes' Gateway API (GEP-2257): `1h30m`, `2s`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is no duration like 1h30m, 2s or 500ms"))
        })
    }
}

/// Digits of a unit, then the unit, up to four times.
#[cfg(feature = "schema")]
impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = format!("^([0-9]{{1,{DIGITS_MAX}}}(h|m|s|ms)){{1,{UNITS_MAX}}}$");
        schemars::json_schema!({ "type": "string", "pattern": pattern })
    }
}

/// Longest duration that proxies take.
const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Span {
    /// As proxies get it, if they take it.
    pub(super) fn bounded(self, key: &str) -> Result<prost_types::Duration, String> {
        if self.0 > SPAN_MAX {
            return Err(format!("{key}: more than 24h"));
        }
        Ok(self.proto())
    }

    fn proto(self) -> prost_types::Duration {
        prost_types::Duration {
            seconds: i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(self.0.subsec_nanos()).unwrap_or(0),
        }
    }
}

fn span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..UNITS_MAX {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > DIGITS_MAX {
            return None;
        }
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        })?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_kubernetes() {
        let at = |text| timestamp(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!(
            at("2026-11-22T17:03:09Z"),
            Some(Duration::from_secs(1_795_366_989))
        );
        assert_eq!(
            at("2024-02-29T00:00:00.123456Z"),
            Some(Duration::from_secs(1_709_164_800))
        );
        for bad in [
            "",
            "2026-11-22",
            "2026-11-22T17:03:09",
            "2026-11-22T17:03:09+01:00",
            "2025-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11--2T00:00:00Z",
            "+026-11-22T00:00:00Z",
            "99999999999999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(span("0s"), Some(Duration::ZERO));
        for bad in [
            "",
            "1",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "1s ",
            "123456s",
            "1h1m1s1ms1ms",
            "1S",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }
}
