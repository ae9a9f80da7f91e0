//! Does a lane hold what it should, and no longer?

use super::*;
use isthmus_control_plane_core::write::{Body, ImportStatus, Subject};

const LIMITS: Limits = Limits {
    per_second: 10,
    burst: 2,
    debounce: Duration::ZERO,
    removals_after: Duration::ZERO,
};

fn write(name: &str, clusters: &[&str]) -> Write {
    let object = ObjectRef {
        cluster: "east".parse().unwrap(),
        kind: Kind::ServiceImport,
        namespace: Some("shop".parse().unwrap()),
        name: name.to_owned(),
    };
    Write {
        object,
        body: Body::ImportStatus(ImportStatus {
            clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
            conditions: Vec::new(),
        }),
        subject: Subject::Name("shop".into(), name.into()),
    }
}

fn refusal(code: u16, message: &str, seconds: Option<u64>) -> Result<(), ApiError> {
    Err(ApiError::Status {
        code,
        reason: "R".into(),
        message: message.into(),
        retry_after: seconds.map(Duration::from_secs),
    })
}

#[test]
fn a_burst_then_so_many_each_second() {
    let mut lane = Lane::default();
    let start = Instant::now();
    for name in ["a", "b", "c", "d"] {
        lane.push(write(name, &[]));
    }
    assert!(lane.next(start, LIMITS).is_some());
    assert!(lane.next(start, LIMITS).is_some());
    assert!(lane.next(start, LIMITS).is_none());
    let due = lane.due(start, LIMITS).unwrap();
    assert!(due <= start + Duration::from_millis(101));
    assert!(lane.next(due, LIMITS).is_some());
    assert!(lane.next(due, LIMITS).is_none());
    // Looking often does not lose the parts of a token.
    let mut now = due;
    let mut sent = 0;
    for _ in 0..1_000 {
        now += Duration::from_micros(200);
        sent += usize::from(lane.next(now, LIMITS).is_some());
    }
    assert_eq!(sent, 1);
}

#[test]
fn no_more_are_under_way_at_once() {
    let limits = Limits {
        burst: 100,
        ..LIMITS
    };
    let mut lane = Lane::default();
    let now = Instant::now();
    for number in 0..AT_ONCE + 1 {
        lane.push(write(&format!("n{number}"), &[]));
    }
    let first = lane.next(now, limits).unwrap();
    for _ in 1..AT_ONCE {
        assert!(lane.next(now, limits).is_some());
    }
    assert!(lane.next(now, limits).is_none());
    assert_eq!(lane.due(now, limits), None);
    assert_eq!(lane.back(&first, &Ok(()), (now, 0.0)), None);
    assert!(lane.next(now, limits).is_some());
}

#[test]
fn the_newest_word_about_an_object_is_sent() {
    let mut lane = Lane::default();
    let now = Instant::now();
    lane.push(write("a", &["east"]));
    lane.push(write("a", &["east", "west"]));
    assert_eq!(lane.next(now, LIMITS), Some(write("a", &["east", "west"])));
    assert_eq!(lane.next(now, LIMITS), None);
}

/// Takes minutes if a push looks at all that waits.
#[test]
fn fifty_thousand_writes_wait_in_their_order_and_each_is_sent_once() {
    let limits = Limits {
        per_second: 1_000_000,
        burst: 1_000_000,
        ..LIMITS
    };
    let mut lane = Lane::default();
    let now = Instant::now();
    let names: Vec<String> = (0..50_000).map(|number| format!("n{number}")).collect();
    for clusters in [vec!["east"], vec!["west"]] {
        for name in &names {
            lane.push(write(name, &clusters));
        }
    }
    for name in &names {
        let next = lane.next(now, limits).unwrap();
        assert_eq!(next, write(name, &["west"]));
        lane.back(&next, &Ok(()), (now, 0.0));
    }
    assert_eq!(lane.next(now, limits), None);
    assert_eq!(lane.due(now, limits), None);
    lane.push(write("a", &[]));
    assert_eq!(lane.drain().count(), 1);
    assert_eq!(lane.next(now, limits), None);
}

/// Who has much to be told waits for himself.
#[test]
fn what_others_depend_on_is_sent_before_statuses_and_namespaces_take_turns() {
    let limits = Limits {
        per_second: 1_000_000,
        burst: 1_000_000,
        ..LIMITS
    };
    let (mut lane, now) = (Lane::default(), Instant::now());
    let of = |kind: Kind, space: Option<&str>, name: &str, body: Body| Write {
        object: ObjectRef {
            cluster: "east".parse().unwrap(),
            kind,
            namespace: space.map(|space| space.parse().unwrap()),
            name: name.to_owned(),
        },
        body,
        subject: Subject::Declared("east".parse().unwrap()),
    };
    let told = |kind, space, name: &str| of(kind, space, name, Body::Conditions(Vec::new()));
    for number in 0..4_000 {
        let name = format!("t{number}");
        lane.push(told(Kind::TrafficPolicy, Some("crowd"), &name));
    }
    for number in 0..3 {
        let name = format!("mine{number}");
        lane.push(told(Kind::TrafficPolicy, Some("shop"), &name));
    }
    lane.push(told(Kind::MeshCluster, None, "west"));
    let gone = Body::Delete { uid: "u".into() };
    lane.push(of(Kind::ServiceImport, Some("shop"), "gone", gone.clone()));
    for number in 0..40 {
        let name = format!("gone{number}");
        lane.push(of(Kind::Service, Some("crowd"), &name, gone.clone()));
    }
    let mut sent = Vec::new();
    while let Some(next) = lane.next(now, limits) {
        lane.back(&next, &Ok(()), (now, 0.0));
        sent.push(next.object.name);
    }
    assert_eq!(sent.len(), 4_000 + 3 + 1 + 41);
    let at = |name: &str| sent.iter().position(|sent| sent == name).unwrap();
    assert!(at("gone") < 4, "{}", at("gone"));
    assert!(at("west") < 10, "{}", at("west"));
    assert!(at("gone39") < 50, "{}", at("gone39"));
    // But not one status waits for all of them.
    assert!(at("t0") < 20, "{}", at("t0"));
    assert!(at("mine2") < 60, "{}", at("mine2"));
}

#[test]
fn a_cluster_that_does_not_answer_is_left_alone_ever_longer_up_to_a_limit() {
    let mut lane = Lane::default();
    let mut now = Instant::now();
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        lane.push(write("a", &[]));
        let one = lane.next(now, LIMITS).unwrap();
        let wait = lane.back(&one, &Err(ApiError::Silent), (now, 1.0)).unwrap();
        assert!(wait >= last && wait <= PAUSE_MAX);
        assert_eq!(lane.held(&one, now), Some(now + wait));
        lane.push(one);
        assert!(lane.next(now, LIMITS).is_none());
        assert!(lane.due(now, LIMITS).unwrap() >= now + wait);
        lane.drain().for_each(drop);
        now += wait;
        last = wait;
    }
    assert_eq!(last, PAUSE_MAX);
    // It answers: the next failure is the first again.
    lane.push(write("a", &[]));
    let one = lane.next(now, LIMITS).unwrap();
    lane.back(&one, &Ok(()), (now, 0.0));
    assert_eq!(lane.held(&one, now), None);
    let jittered = lane.back(&one, &Err(ApiError::Silent), (now, 0.0)).unwrap();
    assert_eq!(jittered, PAUSE / 2);
}

#[test]
fn what_the_server_asks_for_is_heard() {
    let mut lane = Lane::default();
    let now = Instant::now();
    let busy = refusal(429, "busy", Some(7));
    let wait = lane.back(&write("a", &[]), &busy, (now, 1.0));
    assert_eq!(wait, Some(Duration::from_secs(7)));
    assert!(lane.held(&write("b", &[]), now).is_some());
}

#[test]
fn a_refused_object_keeps_no_other_waiting_and_an_absent_kind_only_its_own() {
    let mut lane = Lane::default();
    let now = Instant::now();
    let one = write("a", &[]);
    for code in [403, 409, 422] {
        assert!(
            lane.back(&one, &refusal(code, "no", None), (now, 1.0))
                .is_some()
        );
        assert_eq!(lane.held(&write("b", &[]), now), None);
    }
    let gone = refusal(404, "serviceimports \"a\" not found", None);
    lane.back(&one, &gone, (now, 1.0));
    assert_eq!(lane.held(&one, now), None);
    let absent = refusal(
        404,
        "the server could not find the requested resource",
        None,
    );
    assert_eq!(lane.back(&one, &absent, (now, 1.0)), Some(ABSENT));
    assert!(lane.held(&write("b", &[]), now).is_some());
    let mut service = write("b", &[]);
    service.object.kind = Kind::Service;
    assert_eq!(lane.held(&service, now), None);
    assert_eq!(lane.held(&one, now + ABSENT), None);
}

#[test]
fn what_a_webhook_keeps_out_is_left_alone_and_nothing_else() {
    let limits = Limits {
        burst: 100,
        ..LIMITS
    };
    let mut lane = Lane::default();
    let now = Instant::now();
    let webhook = refusal(500, "failed calling webhook", None);
    let bad: Vec<Write> = (0..20).map(|n| write(&format!("bad{n}"), &[])).collect();
    for one in &bad {
        assert!(lane.back(one, &webhook, (now, 1.0)).unwrap() <= PAUSE_MAX);
        assert_eq!(lane.held(one, now), None, "others go on");
        lane.push(one.clone());
    }
    for number in 0..20 {
        lane.push(write(&format!("good{number}"), &[]));
    }
    // Those that hang take two places, and the others are sent past them.
    let sent: Vec<Write> = std::iter::from_fn(|| lane.next(now, limits)).collect();
    assert_eq!(sent.len(), AT_ONCE);
    let again = |write: &&Write| write.object.name.starts_with("bad");
    assert_eq!(sent.iter().filter(again).count(), AGAIN_AT_ONCE);
    for one in sent.iter().filter(|one| !again(one)) {
        lane.back(one, &Ok(()), (now, 1.0));
    }
    let next: Vec<Write> = std::iter::from_fn(|| lane.next(now, limits)).collect();
    assert_eq!(next.len(), AT_ONCE - AGAIN_AT_ONCE);
    assert!(!next.iter().any(|one| again(&one)));
    for one in sent.iter().filter(again).chain(&next) {
        lane.back(one, &webhook, (now, 1.0));
    }
    // Nobody is forgotten.
    let mut left = BTreeSet::new();
    while let Some(one) = lane.next(now, limits) {
        lane.back(&one, &Ok(()), (now, 1.0));
        left.insert(one.object.name);
    }
    assert_eq!(left.len(), 40 - AT_ONCE - next.len());
    assert_eq!(lane.due(now, limits), None);
}

#[test]
fn what_fails_together_has_failed_once() {
    let mut lane = Lane::default();
    let now = Instant::now();
    let first = lane.back(&write("a", &[]), &Err(ApiError::Silent), (now, 1.0));
    assert_eq!(first, Some(PAUSE));
    for _ in 1..AT_ONCE {
        assert_eq!(
            lane.back(&write("b", &[]), &Err(ApiError::Silent), (now, 1.0)),
            Some(PAUSE)
        );
    }
}

#[test]
fn every_answer_is_one_of_five() {
    // No word of an API server.
    let bad_gateway = Err(ApiError::Status {
        code: 502,
        reason: "Unknown".into(),
        message: "<html>".into(),
        retry_after: None,
    });
    for (result, outcome) in [
        (Ok(()), Outcome::Applied),
        (refusal(409, "", None), Outcome::Conflict),
        (refusal(403, "", None), Outcome::Refused),
        (refusal(404, "", None), Outcome::Refused),
        (refusal(422, "", None), Outcome::Refused),
        (refusal(500, "", None), Outcome::Failed),
        (refusal(504, "", None), Outcome::Failed),
        (refusal(401, "", None), Outcome::Unreached),
        (refusal(429, "", None), Outcome::Unreached),
        (refusal(503, "", None), Outcome::Unreached),
        (bad_gateway, Outcome::Unreached),
        (Err(ApiError::Silent), Outcome::Unreached),
        (Err(ApiError::Unreachable("x".into())), Outcome::Unreached),
    ] {
        assert_eq!(Outcome::of(&result), outcome, "{result:?}");
    }
}
