//! How much may be written into each cluster?

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::{ConfigError, value};
use crate::writer::{BURST, PER_SECOND};

/// Beyond it an API server is not protected from us any more.
const WRITES: RangeInclusive<u32> = 1..=10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    per_second: Option<u32>,
    burst: Option<u32>,
}

/// How much is written into each cluster that has an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// Each second, in the long run. Default: 100; 1 to 10,000.
    pub per_second: u32,
    /// At once. Default: twice `per_second`; 1 to 10,000.
    pub burst: u32,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            per_second: PER_SECOND,
            burst: BURST,
        }
    }
}

pub(super) fn understand(raw: Option<Raw>) -> Result<Writes, ConfigError> {
    let Some(raw) = raw else {
        return Ok(Writes::default());
    };
    let within = |key: &str, number: u32| {
        let why = || format!("not {} to {}", WRITES.start(), WRITES.end());
        let fits = WRITES.contains(&number).then_some(number);
        fits.ok_or_else(|| value(key, why()))
    };
    let per_second = within("writes.per_second", raw.per_second.unwrap_or(PER_SECOND))?;
    let twice = per_second.saturating_mul(2).min(*WRITES.end());
    Ok(Writes {
        per_second,
        burst: within("writes.burst", raw.burst.unwrap_or(twice))?,
    })
}
