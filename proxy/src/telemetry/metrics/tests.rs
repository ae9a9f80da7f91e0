//! Are series bounded, and do they go with what they count?

use isthmus_proxy_core::snapshot::Generation;

use super::ledger::{AUDITED_MAX, SERIES_MAX, UNKNOWN_KEPT};
use super::*;

fn event(service: &str) -> Event {
    let mut event = Event::new(Direction::Outbound, "tcp", Generation(1));
    event.service = Some(service.into());
    event
}

fn count(metrics: &Metrics, service: &str) {
    let event = event(service);
    metrics.series(&SeriesKey::of(&event)).add(&event);
}

#[test]
fn what_left_the_tables_leaves_the_metrics() {
    let (metrics, begun) = (Metrics::default(), Instant::now());
    for service in ["shop/cart", "shop/old", "shop/back"] {
        count(&metrics, service);
    }
    let epoch = metrics.epoch();
    metrics.retire(|ends| ends.service == "shop/cart", begun);
    let almost = begun + UNKNOWN_KEPT / 2;
    metrics.retire(|ends| ends.service != "shop/old", almost);
    assert_eq!(metrics.epoch(), epoch, "nothing is gone yet");
    let over = begun + UNKNOWN_KEPT;
    metrics.retire(|ends| ends.service == "shop/cart", over);
    let text = metrics.text();
    assert!(!text.contains("shop/old"), "{text}");
    assert!(
        text.contains("shop/cart") && text.contains("shop/back"),
        "{text}"
    );
    assert_ne!(
        metrics.epoch(),
        epoch,
        "who keeps series looks them up again"
    );
}

#[test]
fn what_is_still_counted_stays() {
    let (metrics, begun) = (Metrics::default(), Instant::now());
    count(&metrics, "shop/strange");
    metrics.retire(|_| false, begun);
    count(&metrics, "shop/strange");
    metrics.retire(|_| false, begun + UNKNOWN_KEPT);
    assert!(metrics.text().contains("shop/strange"));
    metrics.retire(|_| false, begun + UNKNOWN_KEPT * 2);
    assert!(!metrics.text().contains("shop/strange"));
}

#[test]
fn beyond_the_bound_all_others_are_one() {
    let metrics = Metrics::default();
    for number in 0..SERIES_MAX + 10 {
        count(&metrics, &format!("shop/{number}"));
    }
    let text = metrics.text();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("isthmus_connections_total"))
        .collect();
    assert_eq!(lines.len(), SERIES_MAX + 1);
    let other = lines.iter().find(|line| line.contains("service=\"other\""));
    assert!(other.is_some_and(|line| line.ends_with(" 10")), "{other:?}");
    // Those that are there are still counted by name.
    count(&metrics, "shop/7");
    let text = metrics.text();
    let seventh = text.lines().find(|line| {
        line.starts_with("isthmus_connections_total") && line.contains("service=\"shop/7\"")
    });
    assert!(
        seventh.is_some_and(|line| line.ends_with(" 2")),
        "{seventh:?}"
    );
}

/// A kind that is as fresh as its cluster has no series, and a cluster that is gone has none.
#[test]
fn what_is_known_of_clusters_and_kinds_is_as_old_as_it_is() {
    use isthmus_proxy_core::snapshot::cluster::KindFreshness;
    use std::collections::BTreeMap;

    let metrics = Metrics::default();
    let second = |s| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s));
    let route = KindFreshness {
        state: Freshness::Stale,
        confirmed_at: second(40),
        reason: "forbidden".into(),
    };
    let view = ClusterView {
        name: "west".into(),
        state: Freshness::Synced,
        confirmed_at: second(90),
        reason: String::new(),
        kinds: BTreeMap::from([("HTTPRoute".into(), route)]),
    };
    metrics.set_freshness(&[view], second(100).unwrap());
    let text = metrics.text();
    for line in [
        "isthmus_cluster_up{cluster=\"west\"} 1",
        "isthmus_cluster_age_seconds{cluster=\"west\"} 10.0",
        "isthmus_kind_age_seconds{cluster=\"west\",kind=\"HTTPRoute\"} 60.0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    metrics.set_freshness(&[], second(100).unwrap());
    assert!(!metrics.text().contains("west"), "{}", metrics.text());
}

#[test]
fn audit_policies_are_bounded_and_leave_with_their_policy() {
    let (metrics, begun) = (Metrics::default(), Instant::now());
    let names = |count: usize| (0..count).map(|at| Arc::from(format!("east/shop/{at}")));
    for name in names(AUDITED_MAX + 10) {
        metrics.audited(&[name]);
    }
    let lines = || {
        let text = metrics.text();
        let lines = text.lines().map(str::to_owned);
        let lines = lines.filter(|line| line.starts_with("isthmus_audit_matches_total"));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(lines().len(), AUDITED_MAX + 1);
    let other = lines().into_iter().find(|line| line.contains("\"other\""));
    assert!(other.is_some_and(|line| line.ends_with(" 10")));
    // Those that are gone make room, when the last of them was seen.
    let is_known = |name: &str| name == "east/shop/7";
    metrics.retire_audited(is_known, begun);
    metrics.audited(&[Arc::from("east/shop/8")]);
    metrics.retire_audited(is_known, begun + UNKNOWN_KEPT);
    let left = lines();
    assert_eq!(left.len(), 3, "{left:?}");
    metrics.audited(&[Arc::from("east/shop/new")]);
    assert!(metrics.text().contains("east/shop/new"));
}
