//! How do we wait for a state? By looking until it is there, never longer than said.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something, at most `within`; at least once. `None`: there never was.
///
/// # Errors
/// Those of `look`: it can't come any more.
pub(crate) async fn until<T>(
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_when_it_is_there_or_can_not_come() {
        let mut left = 3;
        let found = until(Duration::from_secs(5), async || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(found.await.unwrap(), Some("there"));
        let never = until(Duration::ZERO, async || Ok(None::<()>));
        assert_eq!(never.await.unwrap(), None);
        let broken = until(Duration::from_secs(5), async || {
            anyhow::bail!("gone") as anyhow::Result<Option<()>>
        });
        assert!(broken.await.is_err());
    }
}
