//! Do measurements eject, forgive and warm up as they should?

use super::*;

const MS: u64 = 1_000_000;

fn fail(stats: &Arc<EndpointStats>, now: Ticks) -> Verdict {
    let policy = OutlierPolicy::default();
    stats
        .begin(now)
        .finish(Outcome::NoAnswer, Duration::from_millis(1), now, &policy)
}

#[test]
fn the_fifth_failure_in_a_row_ejects_and_success_starts_over() {
    let stats = Arc::new(EndpointStats::new());
    let now = Ticks(1_000 * MS);
    for _ in 0..4 {
        assert_eq!(fail(&stats, now), Verdict::Keep);
    }
    let ok = stats.begin(now);
    let policy = OutlierPolicy::default();
    assert_eq!(
        ok.finish(Outcome::Success, Duration::from_millis(1), now, &policy),
        Verdict::Keep
    );
    for _ in 0..4 {
        assert_eq!(fail(&stats, now), Verdict::Keep);
    }
    let until = now.after(Duration::from_secs(10));
    assert_eq!(fail(&stats, now), Verdict::Eject { until });
    assert!(stats.is_ejected(now) && !stats.is_ejected(until));
    // Stragglers don't lengthen it.
    for _ in 0..20 {
        assert_eq!(fail(&stats, now), Verdict::Keep);
    }
    // Afterwards it takes five again, for twice as long.
    for _ in 0..4 {
        assert_eq!(fail(&stats, until), Verdict::Keep);
    }
    assert_eq!(
        fail(&stats, until),
        Verdict::Eject {
            until: until.after(Duration::from_secs(20))
        }
    );
    assert_eq!(stats.view(until).ejections_total, 2);
}

/// A pod that failed twice is hardly asked any more: at a low rate five would take seconds to come.
#[test]
fn what_fails_for_half_a_second_is_ejected_at_its_second_failure() {
    let begun = Ticks(1_000 * MS);
    let late = begun.after(Duration::from_millis(500));
    let stats = Arc::new(EndpointStats::new());
    assert_eq!(fail(&stats, begun), Verdict::Keep);
    let until = late.after(Duration::from_secs(10));
    assert_eq!(fail(&stats, late), Verdict::Eject { until });
    // An answer between them begins the row anew.
    let stats = Arc::new(EndpointStats::new());
    assert_eq!(fail(&stats, begun), Verdict::Keep);
    let policy = OutlierPolicy::default();
    stats
        .begin(late)
        .finish(Outcome::Success, Duration::from_millis(1), late, &policy);
    for _ in 0..4 {
        assert_eq!(fail(&stats, late), Verdict::Keep);
    }
}

#[test]
fn cancelled_and_refused_calls_never_eject() {
    let stats = Arc::new(EndpointStats::new());
    let policy = OutlierPolicy::default();
    for outcome in [Outcome::Void, Outcome::Refused] {
        for _ in 0..20 {
            let call = stats.begin(Ticks(5));
            let verdict = call.finish(outcome, Duration::from_millis(1), Ticks(5), &policy);
            assert_eq!(verdict, Verdict::Keep);
        }
    }
    drop(stats.begin(Ticks(6)));
    let view = stats.view(Ticks(6));
    assert_eq!((view.in_flight, view.consecutive_failures), (0, 0));
    assert!(view.error_rate > 0.5, "refusals make it dearer");
}

/// The one that asks, and the one that tells the client, may both know that a try was the last one.
#[test]
fn a_failure_counts_once_however_often_it_is_told() {
    let stats = Arc::new(EndpointStats::new());
    let policy = OutlierPolicy {
        consecutive_failures: 2,
        ..OutlierPolicy::default()
    };
    let ms = Duration::from_millis(1);
    let mut call = stats.begin(Ticks(5));
    for outcome in [Outcome::ServerError, Outcome::NoAnswer, Outcome::Refused] {
        assert_eq!(call.record(outcome, ms, Ticks(5), &policy), Verdict::Keep);
    }
    drop(call);
    let view = stats.view(Ticks(5));
    assert_eq!((view.failures_total, view.consecutive_failures), (1, 1));
    // A good answer that breaks off is one.
    let mut call = stats.begin(Ticks(6));
    call.record(Outcome::Success, ms, Ticks(6), &policy);
    call.record(Outcome::NoAnswer, ms, Ticks(6), &policy);
    assert_eq!(stats.view(Ticks(6)).consecutive_failures, 1);
}

/// A pod whose answers all begin well and end badly is as bad as one that does not answer.
#[test]
fn an_answer_whose_status_comes_last_is_judged_by_it() {
    let stats = Arc::new(EndpointStats::new());
    let policy = OutlierPolicy::default();
    let now = Ticks(1_000 * MS);
    let call = |last: Outcome| {
        let mut call = stats.begin(now);
        let begun = call.record(Outcome::Begun, Duration::from_millis(3), now, &policy);
        assert_eq!(begun, Verdict::Keep);
        assert!(stats.silence_us(&stats.evidence(), now) <= 0.0);
        // A long stream is not a slow answer.
        call.finish(last, Duration::from_secs(60), now, &policy)
    };
    assert_eq!(call(Outcome::Success), Verdict::Keep);
    assert!(stats.view(now).latency_mean < Duration::from_millis(4));
    for _ in 0..4 {
        assert_eq!(call(Outcome::ServerError), Verdict::Keep);
    }
    call(Outcome::Success);
    for _ in 0..4 {
        assert_eq!(call(Outcome::ServerError), Verdict::Keep);
    }
    let until = now.after(Duration::from_secs(10));
    assert_eq!(call(Outcome::ServerError), Verdict::Eject { until });
}

#[test]
fn zero_turns_ejection_off() {
    let stats = Arc::new(EndpointStats::new());
    let policy = OutlierPolicy {
        consecutive_failures: 0,
        ..OutlierPolicy::default()
    };
    for _ in 0..100 {
        let call = stats.begin(Ticks(5));
        let verdict = call.finish(Outcome::ServerError, Duration::ZERO, Ticks(5), &policy);
        assert_eq!(verdict, Verdict::Keep);
    }
}

#[test]
fn an_open_connection_is_in_flight_but_not_waiting() {
    let stats = Arc::new(EndpointStats::new());
    let policy = OutlierPolicy::default();
    let mut open = stats.begin(Ticks(0));
    let later = Ticks(500 * MS);
    assert!(stats.silence_us(&stats.evidence(), later) > 400_000.0);
    open.record(
        Outcome::Success,
        Duration::from_millis(3),
        Ticks(3 * MS),
        &policy,
    );
    assert_eq!(stats.in_flight(), 1);
    assert!(stats.silence_us(&stats.evidence(), later) <= 0.0);
    drop(open);
    assert_eq!(stats.in_flight(), 0);
}

#[test]
fn of_many_threads_one_ejects() {
    let stats = Arc::new(EndpointStats::new());
    let ejected: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..100)
                        .filter(|_| fail(&stats, Ticks(9)) != Verdict::Keep)
                        .count()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(ejected, 1);
    assert_eq!(stats.in_flight(), 0);
}

#[test]
fn a_newcomer_warms_up_and_a_first_one_does_not() {
    let (first, new) = (EndpointStats::new(), EndpointStats::new());
    let now = Ticks(7 * MS);
    let standing = first.seen_healthy(true, now);
    assert!(standing.capacity >= 1.0 && !standing.fresh);
    assert!(new.seen_healthy(false, now).capacity <= 0.11);
    assert!(new.surcharge(now) > 1.99);
    let half = now.after(WARM_UP / 2);
    assert!((1.4..1.6).contains(&new.surcharge(half)));
    assert!(new.seen_healthy(false, half).fresh);
    let done = now.after(WARM_UP);
    assert!(!new.seen_healthy(false, done).fresh && new.surcharge(done) <= 1.0);
    assert!(
        !EndpointStats::new().seen_unusable(false),
        "a pod that starts is not missing"
    );
    assert!(new.seen_unusable(false));
    assert!(
        new.seen_healthy(false, done).capacity <= 0.11,
        "coming back is a warm-up too"
    );
}
