//! How does Kubernetes write a time?
//!
//! RFC 3339: `2026-11-22T17:03:00Z`, in Leases with microseconds. What others write (plugins) may have
//! an offset instead of the `Z`.

use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years.
const ERA_DAYS: i64 = 146_097;

/// Understands a time since 1970.
#[must_use]
pub fn parse(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once('T')?;
    let (time, offset) = match rest.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let (time, zone) = rest.split_at_checked(at)?;
            (time, offset(zone)?)
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (year, month, day) = three(date, '-')?;
    let (hour, minute, second) = three(time, ':')?;
    let days = days_of(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
    let since = Duration::new(u64::try_from(seconds).ok()?, nanoseconds(fraction)?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Understands a time as HTTP writes it: `Sun, 22 Nov 2026 21:03:57 GMT` (RFC 9110 §5.6.7).
#[must_use]
pub fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    parse(&format!("{year}-{month:02}-{day}T{time}Z"))
}

/// How far one clock is ahead of another, in whole seconds.
#[must_use]
pub fn ahead(theirs: SystemTime, ours: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => whole(ahead),
        Err(behind) => -whole(behind.duration()),
    }
}

/// Writes a time in whole seconds, as `metav1.Time` is: `2026-11-22T17:03:00Z`.
#[must_use]
pub fn whole(time: SystemTime) -> String {
    let micro = micro(time);
    match micro.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => micro,
    }
}

/// Writes a time with microseconds, as a `MicroTime` is.
#[must_use]
pub fn micro(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Civil from days, with years that begin in March.
    let days = days + EPOCH_DAYS;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let day = of_year - (153 * m + 2) / 5 + 1;
    let (month, late) = if m < 10 { (m + 3, 0) } else { (m - 9, 1) };
    let year = year + era * 400 + late;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// `+01:30`, in seconds.
fn offset(zone: &str) -> Option<i64> {
    let (sign, zone) = match zone.strip_prefix('-') {
        Some(zone) => (-1, zone),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = zone.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn three(text: &str, separator: char) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(separator).map(number);
    let three = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(three)
}

fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn nanoseconds(fraction: &str) -> Option<u32> {
    number(fraction)?;
    let nine: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    nine.parse().ok()
}

fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let real = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of_month).contains(&day);
    if !real {
        return None;
    }
    // Days from civil, with years that begin in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    Some(era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAYS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<f64> {
        parse(text).map(|t| {
            t.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs_f64()
        })
    }

    #[test]
    fn dates_of_http_are_read() {
        let at = http_date("Sun, 22 Nov 2026 17:03:09 GMT").unwrap();
        assert_eq!(Some(at), parse("2026-11-22T17:03:09Z"));
        assert_eq!(ahead(at, at + Duration::from_secs(90)), -90);
        for bad in [
            "",
            "Sun, 22 Nov 2026 17:03:09",
            "Sun, 22 Foo 2026 17:03:09 GMT",
        ] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_of_kubernetes_and_of_plugins_are_understood() {
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(at("2026-11-22T17:03:09Z"), Some(1_795_366_989.0));
        assert_eq!(at("2026-11-22T18:33:09+01:30"), Some(1_795_366_989.0));
        assert_eq!(at("2026-11-22T16:03:09.25-01:00"), Some(1_795_366_989.25));
        assert_eq!(at("2024-02-29T00:00:00Z"), Some(1_709_164_800.0));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "T",
            "2026-11-22",
            "2026-11-22T17:03:09",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T17:03:09.Z",
            "2026-11-22T17:03:09.-1Z",
            "+2026-11-22T17:03:09Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-11-22T17:03:09+1",
            "2026-11-22T17:03:09+99:00",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(micros in 0..253_402_300_799_999_999u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
            prop_assert_eq!(parse(&micro(time)), Some(time));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
