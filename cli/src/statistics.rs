//! How even, how fast? The few figures that the demo and the load generator print.

use std::collections::BTreeMap;
use std::time::Duration;

/// Standard deviation over mean (of the whole population). 0 is perfectly even. `None`: nothing
/// was counted.
pub(crate) fn coefficient_of_variation(counts: &[u64]) -> Option<f64> {
    let total: f64 = counts.iter().map(|&n| float(n)).sum();
    if total <= 0.0 {
        return None;
    }
    let number = float(u64::try_from(counts.len()).ok()?);
    let mean = total / number;
    let variance = counts
        .iter()
        .map(|&n| (float(n) - mean).powi(2))
        .sum::<f64>()
        / number;
    Some(variance.sqrt() / mean)
}

/// The smallest value that at least `percent` of the values do not exceed. Sorts.
pub(crate) fn percentile(values: &mut [Duration], percent: u32) -> Option<Duration> {
    values.sort_unstable();
    let percent = usize::try_from(percent.min(100)).ok()?;
    let rank = values.len().saturating_mul(percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

/// Share of a count in a total, in percent; 0 of nothing is 0.
pub(crate) fn percent(part: u64, total: u64) -> f64 {
    if total == 0 {
        0.0
    } else {
        100.0 * float(part) / float(total)
    }
}

/// `cart-1 51%, cart-2 49%`, largest first, names decide ties. At most `most` are named.
pub(crate) fn shares(counts: &BTreeMap<String, u64>, most: usize) -> String {
    let total: u64 = counts.values().sum();
    let mut ordered: Vec<(&String, &u64)> = counts.iter().collect();
    ordered.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut text: Vec<String> = ordered
        .iter()
        .take(most)
        .map(|(name, count)| format!("{name} {:.0}%", percent(**count, total)))
        .collect();
    if let Some(more) = ordered.len().checked_sub(most).filter(|&more| more > 0) {
        text.push(format!("and {more} more"));
    }
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.join(", ")
    }
}

/// A time as people write it: `0.84 ms`, `12 ms`, `1.42 s`.
pub(crate) fn human(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2} ms")
    } else if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// A number of bytes as people write it: `812 B`, `1.4 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const STEP: f64 = 1024.0;
    let mut value = float(bytes);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < STEP {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= STEP;
    }
    format!("{value:.1} TiB")
}

/// Whole milliseconds, for JSON.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts fit a float's 52 bits by far; the conversion has no `From`.
fn float(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|&v| Duration::from_millis(v)).collect()
    }

    #[test]
    fn an_even_spread_varies_by_nothing() {
        assert_eq!(coefficient_of_variation(&[400, 400, 400]), Some(0.0));
        assert_eq!(coefficient_of_variation(&[]), None);
        assert_eq!(coefficient_of_variation(&[0, 0]), None);
    }

    #[test]
    fn one_of_two_takes_all_varies_by_one() {
        let cv = coefficient_of_variation(&[10, 0]).unwrap();
        assert!((cv - 1.0).abs() < 1e-9, "{cv}");
        let cv = coefficient_of_variation(&[420, 400, 380]).unwrap();
        assert!((cv - 0.040_824).abs() < 1e-5, "{cv}");
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut values = ms(&(1..=100).rev().collect::<Vec<_>>());
        assert_eq!(percentile(&mut values, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&mut values, 99), Some(Duration::from_millis(99)));
        assert_eq!(
            percentile(&mut values, 100),
            Some(Duration::from_millis(100))
        );
        assert_eq!(
            percentile(&mut ms(&[7]), 99),
            Some(Duration::from_millis(7))
        );
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn shares_are_sorted_and_bounded() {
        let counts = BTreeMap::from([("a".into(), 1), ("b".into(), 2), ("c".into(), 1)]);
        assert_eq!(shares(&counts, 2), "b 50%, a 25%, and 1 more");
        assert_eq!(shares(&BTreeMap::new(), 2), "-");
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(human(Duration::from_micros(840)), "0.84 ms");
        assert_eq!(human(Duration::from_millis(12)), "12 ms");
        assert_eq!(human(Duration::from_millis(1420)), "1.42 s");
        assert_eq!(human_bytes(812), "812 B");
        assert_eq!(human_bytes(1_468_006), "1.4 MiB");
    }

    #[test]
    fn large_counts_stay_exact_enough() {
        assert!((float(1 << 40) - 1_099_511_627_776.0).abs() < 1.0);
    }
}
