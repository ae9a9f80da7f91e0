//! What is said of a cluster, as its kinds come and go?

use super::*;
use isthmus_control_plane_core::quota::Quota;
use isthmus_control_plane_core::watch::Counts;

fn status(state: State, listed: bool, now: Instant) -> Status {
    Status {
        state,
        listed,
        confirmed_at: listed.then_some(now),
        last_heard: Some(now),
        counts: Counts::default(),
        bytes: 0,
        seen: None,
        unauthorized: false,
        beyond: 0,
        nameless: 0,
    }
}

fn lost(since: Instant) -> State {
    State::Lost {
        since,
        why: "refused".to_owned(),
    }
}

fn forbidden() -> State {
    State::Forbidden {
        why: "no".to_owned(),
    }
}

/// Every kind is watched.
fn well(now: Instant) -> Statuses {
    let one = |collection: &Collection| (collection.name(), status(State::Watching, true, now));
    COLLECTIONS.iter().map(one).collect()
}

fn pulse() -> Pulse {
    let cluster = "east".parse().unwrap();
    let shared = Shared::new(&cluster, Quota::default(), Duration::from_secs(55));
    let (out, _) = mpsc::channel(1);
    Pulse::new(Arc::new(shared), out, watch::Sender::default())
}

/// The names of what is said.
fn said(pulse: &mut Pulse, statuses: &Statuses, now: Instant) -> Vec<String> {
    let name = |change| match change {
        Change::InitDone { kept, .. } => format!("done without {kept:?}"),
        Change::Lost { reason, .. } => format!("lost: {reason}"),
        Change::Confirmed { .. } => "confirmed".to_owned(),
        Change::Listed { kind, .. } => format!("listed {kind}"),
        Change::Older { kinds, .. } => format!("older: {:?}", kinds.keys()),
        other @ (Change::Init { .. }
        | Change::Apply(_)
        | Change::Refused { .. }
        | Change::Reached { .. }
        | Change::Delete(_)) => {
            format!("{other:?}")
        }
    };
    pulse.judge(statuses, now).into_iter().map(name).collect()
}

#[test]
fn a_cluster_is_listed_when_every_kind_is_that_can_be() {
    let now = Instant::now();
    let mut pulse = pulse();
    let mut statuses = Statuses::new();
    assert_eq!(said(&mut pulse, &statuses, now), [""; 0]);
    statuses = well(now);
    statuses.insert("HTTPRoute", status(State::Absent, false, now));
    statuses.insert("AccessPolicy", status(State::Absent, false, now));
    statuses.insert("ServiceExport", status(forbidden(), false, now));
    statuses.insert("Pod", status(State::Listing, false, now));
    assert_eq!(said(&mut pulse, &statuses, now), [""; 0]);
    statuses.insert("Pod", status(State::Watching, true, now));
    assert_eq!(
        said(&mut pulse, &statuses, now),
        ["done without {ServiceExport}"]
    );
    statuses.insert("ServiceExport", status(State::Watching, true, now));
    assert_eq!(
        said(&mut pulse, &statuses, now),
        ["listed ServiceExport", "confirmed"]
    );
}

#[test]
fn what_it_can_do_without_keeps_a_cluster_waiting_for_half_a_minute() {
    let begun = Instant::now();
    let mut pulse = pulse();
    let later = begun + Duration::from_secs(31);
    let mut statuses = well(later);
    statuses.insert("TCPRoute", status(lost(begun), false, later));
    assert_eq!(said(&mut pulse, &statuses, begun), [""; 0]);
    statuses.insert("Service", status(lost(later), false, later));
    assert_eq!(said(&mut pulse, &statuses, later), [""; 0]);
    statuses.insert("Service", status(State::Watching, true, later));
    assert_eq!(
        said(&mut pulse, &statuses, later),
        ["done without {TcpRoute}"]
    );
}

#[test]
fn a_server_that_was_never_reached_is_said_once_for_each_reason() {
    let begun = Instant::now();
    let mut pulse = pulse();
    let mut statuses = well(begun);
    for status in statuses.values_mut() {
        (status.state, status.listed, status.last_heard) = (lost(begun), false, None);
    }
    assert_eq!(said(&mut pulse, &statuses, begun), [""; 0]);
    let later = begun + LOST;
    assert_eq!(
        said(&mut pulse, &statuses, later),
        ["lost: Namespace: refused"]
    );
    assert_eq!(said(&mut pulse, &statuses, later), [""; 0]);
    assert_eq!(said(&mut pulse, &well(later), later), ["done without {}"]);
}

#[test]
fn a_cluster_is_lost_with_any_kind_that_counts_and_back_with_all_of_them() {
    let begun = Instant::now();
    let mut pulse = pulse();
    assert_eq!(said(&mut pulse, &well(begun), begun), ["done without {}"]);
    let mut statuses = well(begun);
    statuses.insert("TCPRoute", status(lost(begun), true, begun));
    statuses.insert("EndpointSlice", status(lost(begun), true, begun));
    let soon = begun + Duration::from_secs(1);
    assert_eq!(said(&mut pulse, &statuses, soon), ["confirmed"]);
    let later = begun + LOST;
    assert_eq!(
        said(&mut pulse, &statuses, later),
        ["lost: EndpointSlice: refused"]
    );
    assert_eq!(said(&mut pulse, &statuses, later), [""; 0]);
    statuses.insert("EndpointSlice", status(State::Watching, true, later));
    let back = "done without {TcpRoute}";
    assert_eq!(said(&mut pulse, &statuses, later), [back]);
    // Nobody says that it failed, and nothing comes.
    let silent = later + UNHEARD;
    let why = "lost: Namespace: nothing was heard for 60 s";
    assert_eq!(said(&mut pulse, &statuses, silent), [why]);
}

/// The cluster answers: that one kind may not be read, or is not served any more, is said of that kind.
#[test]
fn a_kind_that_may_not_be_read_any_more_takes_no_cluster_along() {
    let begun = Instant::now();
    let essential = essential(&well(begun))
        .map(|(name, _)| name)
        .collect::<Vec<_>>();
    assert_eq!(essential.len(), 5);
    for name in &essential {
        for shut in [forbidden(), State::Unserved] {
            let mut pulse = pulse();
            assert_eq!(said(&mut pulse, &well(begun), begun), ["done without {}"]);
            let later = begun + Duration::from_secs(20);
            let mut statuses = well(later);
            statuses.insert(name, status(shut, true, begun));
            assert_eq!(said(&mut pulse, &statuses, later), ["confirmed"], "{name}");
            assert_eq!(pulse.confirmed, Some(later));
            let Some(Change::Older { kinds, .. }) = pulse.age(&statuses, later) else {
                panic!("{name} is as fresh as the cluster");
            };
            let kinds: Vec<_> = kinds.keys().map(|kind| kind.as_str()).collect();
            assert_eq!(kinds, [*name]);
        }
    }
    // Who may read nothing sees no cluster.
    let mut pulse = pulse();
    said(&mut pulse, &well(begun), begun);
    let mut statuses = well(begun);
    for name in essential {
        statuses.insert(name, status(forbidden(), true, begun));
    }
    assert_eq!(said(&mut pulse, &statuses, begun), ["lost: Namespace: no"]);
}

/// A control plane that starts has what it knew from disk.
#[test]
fn what_was_known_before_a_restart_keeps_no_cluster_waiting() {
    let begun = Instant::now();
    let mut statuses = well(begun);
    let mut pods = status(forbidden(), false, begun);
    statuses.insert("Pod", pods.clone());
    assert_eq!(said(&mut pulse(), &statuses, begun), [""; 0], "never seen");
    pods.seen = isthmus_control_plane_core::watch::Version::read("7");
    statuses.insert("Pod", pods);
    let told = said(&mut pulse(), &statuses, begun);
    assert_eq!(told, ["done without {Pod}"]);
}

#[test]
fn a_confirmation_is_as_old_as_the_oldest_kind_that_counts() {
    let begun = Instant::now();
    let mut pulse = pulse();
    assert_eq!(said(&mut pulse, &well(begun), begun), ["done without {}"]);
    let later = begun + Duration::from_secs(20);
    let mut statuses = well(later);
    statuses.insert("Pod", status(State::Watching, true, begun));
    assert_eq!(said(&mut pulse, &statuses, later), ["confirmed"]);
    assert_eq!(pulse.confirmed, Some(begun));
    assert_eq!(said(&mut pulse, &statuses, later), [""; 0]);
    statuses.insert("HTTPRoute", status(State::Watching, true, begun));
    statuses.insert("Pod", status(State::Watching, true, later));
    assert_eq!(said(&mut pulse, &statuses, later), ["confirmed"]);
    assert_eq!(pulse.confirmed, Some(later));
}

/// Each is as old as it is; a short trouble is none, and what is well is not named.
#[test]
fn a_kind_that_is_not_seen_is_told_with_its_age() {
    let begun = Instant::now();
    let mut pulse = pulse();
    let mut statuses = well(begun);
    statuses.insert("TrustPolicy", status(forbidden(), false, begun));
    assert_eq!(pulse.age(&statuses, begun), None, "not listed yet");
    said(&mut pulse, &statuses, begun);
    let mut aged = |statuses: &Statuses, now| {
        let Change::Older { kinds, .. } = pulse.age(statuses, now)? else {
            panic!("another change");
        };
        let of = |(kind, of): (Kind, KindFreshness)| (kind, of.confirmed_at.is_some(), of.reason);
        Some(kinds.into_iter().map(of).collect::<Vec<_>>())
    };
    let never = (Kind::TrustPolicy, false, "no".to_owned());
    assert_eq!(aged(&statuses, begun), Some(vec![never.clone()]));
    assert_eq!(aged(&statuses, begun), None, "nothing new");
    statuses.insert("TCPRoute", status(lost(begun), true, begun));
    assert_eq!(aged(&statuses, begun), None, "it is only asked again");
    let later = begun + LOST;
    let lost_one = (Kind::TcpRoute, true, "refused".to_owned());
    assert_eq!(aged(&statuses, later), Some(vec![lost_one, never.clone()]));
    assert_eq!(aged(&statuses, later), None, "its time is the same");
    statuses.insert("TCPRoute", status(forbidden(), true, begun));
    assert_eq!(
        aged(&statuses, later),
        None,
        "what each try says is not news"
    );
    statuses.insert("TCPRoute", status(State::Listing, true, later));
    assert_eq!(aged(&statuses, later), Some(vec![never]));
    statuses.insert("TrustPolicy", status(State::Absent, false, later));
    assert_eq!(aged(&statuses, later), Some(Vec::new()));
}

/// What was restored from disk is as old as it was, until the first list is whole.
#[test]
fn that_all_kinds_are_fresh_is_told_too() {
    let now = Instant::now();
    let mut pulse = pulse();
    said(&mut pulse, &well(now), now);
    let fresh = |change| matches!(change, Some(Change::Older { kinds, .. }) if kinds.is_empty());
    assert!(fresh(pulse.age(&well(now), now)));
    assert_eq!(pulse.age(&well(now), now), None);
}

/// Whoever writes into the cluster waits for what it compares with, and for no more.
#[test]
fn a_cluster_that_is_back_after_an_outage_is_seen_again_kind_by_kind() {
    let begun = Instant::now();
    let mut pulse = pulse();
    assert_eq!(said(&mut pulse, &well(begun), begun), ["done without {}"]);
    for _ in 0..2 {
        let mut statuses = well(begun);
        for status in statuses.values_mut() {
            status.state = lost(begun);
        }
        statuses.insert("TLSRoute", status(State::Absent, false, begun));
        let later = begun + LOST;
        let told = said(&mut pulse, &statuses, later);
        assert_eq!(told, ["lost: Namespace: refused"]);
        // Some of the watches are open again.
        for (name, status) in &mut statuses {
            if !["ServiceExport", "ServiceImport", "HTTPRoute", "TLSRoute"].contains(name) {
                status.state = State::Watching;
            }
        }
        statuses.insert("HTTPRoute", status(State::Listing, true, later));
        assert_eq!(
            said(&mut pulse, &statuses, later),
            ["done without {ServiceExport, ServiceImport, HttpRoute}"]
        );
        for name in ["ServiceExport", "HTTPRoute"] {
            statuses.insert(name, status(State::Watching, true, later));
        }
        let told = said(&mut pulse, &statuses, later);
        assert_eq!(
            told.get(..2).unwrap(),
            ["listed ServiceExport", "listed HTTPRoute"]
        );
        statuses.insert("ServiceImport", status(State::Watching, true, later));
        let told = said(&mut pulse, &statuses, later);
        assert_eq!(told, ["listed ServiceImport"]);
        assert_eq!(said(&mut pulse, &statuses, later), [""; 0]);
    }
}
