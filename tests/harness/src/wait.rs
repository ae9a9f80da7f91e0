//! Has it happened yet?

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a state may take that is reached at once on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until the state is reached, and gives what was seen then. A test that waits longer than
/// `limit` fails, with what was missing at the last look.
pub async fn until_within<T, E: Display>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(missing) => {
                assert!(
                    begun.elapsed() < limit,
                    "{what}: not within {limit:?}: {missing}"
                );
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// As [`until_within`], with the limit that suits most states.
pub async fn until<T, E: Display>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    until_within(SOON, what, look).await
}

/// For a look that is only right or wrong.
///
/// # Errors
/// It is wrong; the text says what was seen.
pub fn check(right: bool, seen: impl Display) -> Result<(), String> {
    if right { Ok(()) } else { Err(seen.to_string()) }
}
