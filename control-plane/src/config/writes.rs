//! How much may be written into each cluster?

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, value};
use crate::writer::{BURST, PER_SECOND, REMOVALS_AFTER};

/// Beyond it an API server is not protected from us any more.
const WRITES: RangeInclusive<u32> = 1..=10_000;
/// Nobody waits longer than an hour for what is to go.
const SECONDS: RangeInclusive<u64> = 0..=3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    per_second: Option<u32>,
    burst: Option<u32>,
    removals_after_seconds: Option<u64>,
}

/// How much is written into each cluster that has an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// Each second, in the long run. Default: 100; 1 to 10,000.
    pub per_second: u32,
    /// At once. Default: twice `per_second`; 1 to 10,000.
    pub burst: u32,
    /// A replica that begins to lead deletes nothing before this is over. Default: 30 s.
    pub removals_after: Duration,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            per_second: PER_SECOND,
            burst: BURST,
            removals_after: REMOVALS_AFTER,
        }
    }
}

fn within<T: PartialOrd + Display>(
    key: &str,
    range: &RangeInclusive<T>,
    number: T,
) -> Result<T, ConfigError> {
    if range.contains(&number) {
        return Ok(number);
    }
    let why = format!("not {} to {}", range.start(), range.end());
    Err(value(key, why))
}

pub(super) fn understand(raw: Option<Raw>) -> Result<Writes, ConfigError> {
    let Some(raw) = raw else {
        return Ok(Writes::default());
    };
    let per_second = raw.per_second.unwrap_or(PER_SECOND);
    let per_second = within("writes.per_second", &WRITES, per_second)?;
    let seconds = raw.removals_after_seconds;
    let seconds = seconds.unwrap_or(REMOVALS_AFTER.as_secs());
    let seconds = within("writes.removals_after_seconds", &SECONDS, seconds)?;
    let twice = per_second.saturating_mul(2).min(*WRITES.end());
    Ok(Writes {
        per_second,
        burst: within("writes.burst", &WRITES, raw.burst.unwrap_or(twice))?,
        removals_after: Duration::from_secs(seconds),
    })
}
