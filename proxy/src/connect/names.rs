//! Where does a gateway's name lead?
//!
//! A name server that fails takes no gateway away: what it said last goes on counting (SECURITY F22).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// An answer counts for so long without another look. The system's resolver does not say for how long
/// it may; it has a cache of its own, or the name server near it.
const FRESH: Duration = Duration::from_secs(30);
/// Names that are remembered; gateways are few.
const NAMES_MAX: usize = 256;

/// What one worker's lookups were answered.
#[derive(Debug, Default)]
pub struct Names(RefCell<HashMap<(Box<str>, u16), Known>>);

#[derive(Debug)]
struct Known {
    /// Never empty.
    addresses: Vec<SocketAddr>,
    looked: Instant,
}

impl Names {
    /// The addresses of a name, those of its last good answer if there is no new one within `limit`.
    /// Empty: there never was one.
    pub async fn lookup(&self, name: &str, port: u16, limit: Duration) -> Vec<SocketAddr> {
        let resolving = async || {
            tokio::net::lookup_host((name, port))
                .await
                .map(Iterator::collect)
        };
        self.answer((name, port), (limit, Instant::now()), resolving)
            .await
    }

    async fn answer(
        &self,
        (name, port): (&str, u16),
        (limit, now): (Duration, Instant),
        resolve: impl AsyncFnOnce() -> io::Result<Vec<SocketAddr>>,
    ) -> Vec<SocketAddr> {
        let key = (Box::from(name), port);
        if let Some(known) = self.0.borrow().get(&key)
            && now.saturating_duration_since(known.looked) < FRESH
        {
            return known.addresses.clone();
        }
        let found = match timeout(limit, resolve()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(name, %error, "look up a gateway");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(name, "look up a gateway: no answer in time");
                Vec::new()
            }
        };
        let mut names = self.0.borrow_mut();
        if found.is_empty() {
            return names
                .get(&key)
                .map(|known| known.addresses.clone())
                .unwrap_or_default();
        }
        if names.len() >= NAMES_MAX && !names.contains_key(&key) {
            names.clear();
        }
        let known = Known {
            addresses: found.clone(),
            looked: now,
        };
        names.insert(key, known);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 15_443))
    }

    #[tokio::test]
    async fn the_last_good_answer_goes_on_counting_while_there_is_no_other() {
        let (names, begun) = (Names::default(), Instant::now());
        let gateway = ("gateway.example", 15_443);
        let good = async |last: u8, now| {
            let found = async || Ok(vec![address(last)]);
            names.answer(gateway, (LIMIT, now), found).await
        };
        let bad = async |now| {
            let failed = async || Err(io::Error::other("SERVFAIL"));
            names.answer(gateway, (LIMIT, now), failed).await
        };
        assert_eq!(bad(begun).await, [], "there never was one");
        assert_eq!(good(1, begun).await, [address(1)]);
        assert_eq!(good(2, begun).await, [address(1)], "nobody is asked");
        let later = begun + FRESH;
        assert_eq!(bad(later).await, [address(1)]);
        let next_day = later + Duration::from_secs(24 * 3_600);
        let never = async || std::future::pending().await;
        let silent = names.answer(gateway, (LIMIT, next_day), never).await;
        assert_eq!(silent, [address(1)]);
        assert_eq!(good(2, next_day).await, [address(2)], "it moved");
        let other = async || Ok(vec![address(3)]);
        let answer = names.answer(("gateway.example", 443), (LIMIT, next_day), other);
        assert_eq!(answer.await, [address(3)]);
    }
}
