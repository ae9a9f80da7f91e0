//! Which series are there, and which have outlived what they count?
//!
//! A family of counters forgets nothing by itself. Services and clusters come and go, so what leaves
//! the tables leaves the metrics, too, when whoever collects them has seen the last of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Ends, Result};

/// Series of results, at most; each of their ends has five more. Beyond, all others are one.
pub const SERIES_MAX: usize = 16 * 1024;
/// Audit policies that are counted by name, at most. Beyond, all others are one.
pub const AUDITED_MAX: usize = 1024;
/// What is in no table any more is kept for that long: several collections.
pub const UNKNOWN_KEPT: Duration = Duration::from_secs(600);

/// A series that counts results, and whether of requests.
type Counted = (bool, Result);

/// All series of a proxy.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: Mutex<Pages>,
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Pages {
    by_ends: HashMap<Ends, Page>,
    /// In all pages.
    results: usize,
    /// Audit policies that are counted by name.
    audited: HashMap<String, Unknown>,
}

/// In no table since then, and what had been counted then.
type Unknown = Option<(Instant, u64)>;

#[derive(Debug, Default)]
struct Page {
    results: Vec<Counted>,
    unknown: Unknown,
}

/// Is something over that is in no table any more? Not if it was counted meanwhile.
fn is_over(unknown: &mut Unknown, counted: u64, now: Instant) -> bool {
    match *unknown {
        Some((since, then)) if then == counted => {
            now.saturating_duration_since(since) >= UNKNOWN_KEPT
        }
        Some(_) | None => {
            *unknown = Some((now, counted));
            false
        }
    }
}

impl Ledger {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A series is about to be made, or there already. False: there are too many.
    pub(super) fn note(&self, ends: &Ends, is_request: bool, result: &Result) -> bool {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let full = pages.results >= SERIES_MAX;
        let page = pages.by_ends.get_mut(ends);
        let is_it = |(of_request, known): &Counted| *of_request == is_request && known == result;
        if page.is_some_and(|page| page.results.iter().any(is_it)) {
            return true;
        }
        if full {
            return false;
        }
        pages.results += 1;
        let page = pages.by_ends.entry(ends.clone()).or_default();
        page.results.push((is_request, result.clone()));
        true
    }

    /// Takes out what is to be removed. `count`: what was counted for these ends so far.
    pub(super) fn retire(
        &self,
        is_known: impl Fn(&Ends) -> bool,
        count: impl Fn(&Ends, &[Counted]) -> u64,
        now: Instant,
    ) -> Vec<(Ends, Vec<Counted>)> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let over = pages.by_ends.extract_if(|ends, page| {
            if is_known(ends) {
                page.unknown = None;
                return false;
            }
            let counted = count(ends, &page.results);
            is_over(&mut page.unknown, counted, now)
        });
        let over: Vec<_> = over.map(|(ends, page)| (ends, page.results)).collect();
        if !over.is_empty() {
            let gone: usize = over.iter().map(|(_, results)| results.len()).sum();
            pages.results = pages.results.saturating_sub(gone);
            self.epoch.fetch_add(1, Ordering::Release);
        }
        over
    }

    /// A match of an audit policy is about to be counted. False: there are too many policies.
    pub(super) fn note_audited(&self, policy: &str) -> bool {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.audited.contains_key(policy) {
            return true;
        }
        let has_room = pages.audited.len() < AUDITED_MAX;
        if has_room {
            pages.audited.insert(policy.to_owned(), None);
        }
        has_room
    }

    /// Takes out the audit policies that are to be removed.
    pub(super) fn retire_audited(
        &self,
        is_known: impl Fn(&str) -> bool,
        count: impl Fn(&str) -> u64,
        now: Instant,
    ) -> Vec<String> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let over = pages.audited.extract_if(|policy, unknown| {
            if is_known(policy) {
                *unknown = None;
                return false;
            }
            is_over(unknown, count(policy), now)
        });
        over.map(|(policy, _)| policy).collect()
    }
}
