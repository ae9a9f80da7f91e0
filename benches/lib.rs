//! How is a cost measured?
//!
//! One operation, many times, in several rounds. The least round counts: neighbours on the machine
//! only ever add.

use std::time::{Duration, Instant};

/// Rounds of each measurement.
pub const ROUNDS: u32 = 7;

/// What a measured operation may fail with.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Nanoseconds per operation, of the best of [`ROUNDS`] rounds of `count` operations each. `round`
/// gets the round's number, from 0, and performs all of its operations.
///
/// # Errors
/// The operation failed.
pub fn ns_per_op(
    count: u32,
    mut round: impl FnMut(u32) -> Outcome,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut least = Duration::MAX;
    for at in 0..ROUNDS {
        let began = Instant::now();
        round(at)?;
        least = least.min(began.elapsed());
    }
    Ok(least.as_secs_f64() * 1e9 / f64::from(count))
}

/// As [`ns_per_op`], for an operation that is the same each time.
///
/// # Errors
/// The operation failed.
pub fn ns_each(
    count: u32,
    mut operation: impl FnMut() -> Outcome,
) -> Result<f64, Box<dyn std::error::Error>> {
    ns_per_op(count, |_| (0..count).try_for_each(|_| operation()))
}
