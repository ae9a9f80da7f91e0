//! Does what a feed tells add up to what the server has?

mod random;

use super::*;

const JITTER: f64 = 0.5;

/// A clock that only tests move.
fn start() -> Instant {
    Instant::now()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn meta(name: &str, uid: &str, version: u32) -> Meta {
    Meta {
        namespace: Some("shop".to_owned()),
        name: name.to_owned(),
        uid: uid.to_owned(),
        resource_version: version.to_string(),
    }
}

fn page(version: u32, items: &[(&str, &str, u32)], token: Option<&str>) -> Page<String> {
    let item = |(name, uid, version): &(&str, &str, u32)| {
        (meta(name, uid, *version), format!("{name}@{version}"))
    };
    Page {
        items: items.iter().map(item).collect(),
        resource_version: version.to_string(),
        token: token.map(ToOwned::to_owned),
    }
}

fn put(name: &str, uid: &str, version: u32) -> Event<String> {
    Event::Put(meta(name, uid, version), format!("{name}@{version}"))
}

fn deleted(name: &str, uid: &str, version: u32) -> Event<String> {
    Event::Deleted(meta(name, uid, version))
}

fn apply(text: &str) -> Told<String> {
    Told::Apply(text.to_owned())
}

fn delete(name: &str) -> Told<String> {
    Told::Delete(Name {
        namespace: Some("shop".to_owned()),
        name: name.to_owned(),
    })
}

/// A feed that watches from version 10, with `a` and `b`.
fn watching(now: Instant) -> Feed {
    let mut feed = Feed::new();
    assert_eq!(feed.state(), State::Unknown);
    assert!(matches!(
        feed.next(now, JITTER),
        Ask::List { token: None, .. }
    ));
    let told = feed.page(page(10, &[("a", "1", 3), ("b", "2", 7)], None), now);
    assert_eq!(told, Ok(vec![apply("a@3"), apply("b@7")]));
    assert!(matches!(feed.next(now, JITTER), Ask::Watch { .. }));
    feed.opened(now);
    assert_eq!(feed.state(), State::Watching);
    feed
}

/// The next question, with the time at which it may be asked.
fn ask(feed: &mut Feed, now: &mut Instant) -> Ask {
    loop {
        match feed.next(*now, JITTER) {
            Ask::Wait { until } => {
                assert!(until > *now);
                *now = until;
            }
            other => return other,
        }
    }
}

#[test]
fn a_list_in_pages_is_told_as_it_comes_and_deletes_at_its_end_only() {
    let mut now = start();
    let mut feed = watching(now);
    feed.failed(Failure::Gone, now);
    assert_eq!(feed.state(), State::Listing);
    assert!(matches!(
        ask(&mut feed, &mut now),
        Ask::List { token: None, .. }
    ));
    let told = feed.page(page(20, &[("c", "3", 15)], Some("next")), now);
    assert_eq!(told, Ok(vec![apply("c@15")]));
    let next = Ask::List {
        token: Some("next".to_owned()),
        limit: PAGE_OBJECTS,
    };
    assert_eq!(feed.next(now, JITTER), next);
    // The connection breaks: the same page is asked for again.
    feed.failed(Failure::Transport("cut".to_owned()), now);
    assert!(matches!(feed.state(), State::Lost { .. }));
    assert_eq!(ask(&mut feed, &mut now), next);
    let told = feed.page(page(20, &[("b", "2", 7)], None), now);
    assert_eq!(told, Ok(vec![delete("a")]));
    assert!(feed.listed());
    let Ask::Watch {
        resource_version, ..
    } = feed.next(now, JITTER)
    else {
        panic!("{feed:?}");
    };
    assert_eq!(resource_version, "20");
}

#[test]
fn what_is_known_or_past_is_told_once() {
    let now = start();
    let mut feed = watching(now);
    assert_eq!(feed.event(put("a", "1", 3), now), None);
    assert_eq!(feed.event(put("a", "1", 12), now), Some(apply("a@12")));
    assert_eq!(feed.event(put("a", "1", 12), now), None);
    assert_eq!(feed.event(put("a", "1", 11), now), None);
    // Swapped with the one before it.
    assert_eq!(feed.event(put("c", "3", 11), now), Some(apply("c@11")));
    // It was gone before the list was made, which did not name it.
    assert_eq!(feed.event(put("z", "0", 10), now), None);
    assert_eq!(feed.counts().ignored, 2);
}

#[test]
fn a_deleted_object_never_comes_back_but_another_one_takes_its_name() {
    let now = start();
    let mut feed = watching(now);
    assert_eq!(feed.event(deleted("a", "1", 11), now), Some(delete("a")));
    assert_eq!(feed.event(deleted("a", "1", 11), now), None);
    assert_eq!(feed.event(put("a", "1", 3), now), None);
    assert_eq!(feed.event(put("a", "9", 13), now), Some(apply("a@13")));
    // The deletion of the first one, late.
    assert_eq!(feed.event(deleted("a", "1", 11), now), None);
    // A deletion that overtakes what it deletes.
    assert_eq!(feed.event(deleted("d", "4", 15), now), Some(delete("d")));
    assert_eq!(feed.event(put("d", "4", 14), now), None);
    // A name that was taken over without a deletion.
    assert_eq!(feed.event(put("b", "8", 16), now), Some(apply("b@16")));
    assert_eq!(feed.event(put("b", "2", 17), now), None);
}

#[test]
fn a_forgotten_grave_keeps_its_dead() {
    let now = start();
    let mut feed = watching(now);
    for at in 0..20_000_u32 {
        let (name, uid) = (format!("x{at}"), format!("u{at}"));
        feed.event(put(&name, &uid, 100 + 2 * at), now);
        feed.event(deleted(&name, &uid, 101 + 2 * at), now);
    }
    assert_eq!(feed.objects(), 2);
    for at in [0, 5, 3_000, 19_999] {
        let event = put(&format!("x{at}"), &format!("u{at}"), 100 + 2 * at);
        assert_eq!(feed.event(event, now), None);
    }
    assert_eq!(
        feed.event(put("new", "new", 90_000), now),
        Some(apply("new@90000"))
    );
}

#[test]
fn an_older_list_is_refused_whole_and_asked_for_again() {
    let mut now = start();
    let mut feed = watching(now);
    feed.event(put("a", "1", 30), now);
    feed.event(deleted("b", "2", 31), now);
    feed.failed(Failure::Gone, now);
    ask(&mut feed, &mut now);
    let refused = feed.page(page(25, &[("b", "2", 7)], None), now);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the list is of 25, and 31 was seen"
    );
    assert!(matches!(feed.state(), State::Lost { .. }));
    ask(&mut feed, &mut now);
    // The second page of a newer list must not be older either.
    let told = feed.page(page(40, &[("a", "1", 35)], Some("next")), now);
    assert_eq!(told, Ok(vec![apply("a@35")]));
    assert!(feed.page(page(25, &[("b", "2", 7)], None), now).is_err());
    ask(&mut feed, &mut now);
    let told = feed.page(page(41, &[("a", "1", 35)], None), now);
    assert_eq!(told, Ok(vec![]));
    assert_eq!(feed.state(), State::Watching);
}

/// As `etcdutl snapshot restore --bump-revision` makes it: the revision is newer, what is in it is older.
#[test]
fn a_whole_list_that_is_newer_is_believed_also_where_its_objects_are_older() {
    let mut now = start();
    let mut feed = watching(now);
    feed.event(put("a", "1", 30), now);
    feed.event(deleted("b", "2", 31), now);
    feed.event(put("c", "3", 32), now);
    feed.failed(Failure::Gone, now);
    ask(&mut feed, &mut now);
    let restored = page(1_000, &[("a", "1", 3), ("b", "2", 7)], None);
    let told = feed.page(restored, now).unwrap();
    assert_eq!(told, [apply("a@3"), apply("b@7"), delete("c")]);
    feed.opened(now);
    // Watches do not go back on it.
    assert_eq!(feed.event(put("b", "2", 6), now), None);
    assert_eq!(feed.event(put("c", "3", 32), now), None);
    assert_eq!(feed.event(put("b", "2", 1_001), now), Some(apply("b@1001")));
    assert_eq!(feed.event(deleted("b", "2", 1_002), now), Some(delete("b")));
    assert_eq!(feed.event(put("b", "2", 1_001), now), None);
}

#[test]
fn a_store_that_was_restored_from_a_backup_is_believed_in_the_end() {
    let mut now = start();
    let mut feed = watching(now);
    feed.event(put("a", "1", 1_000), now);
    feed.event(deleted("b", "2", 1_001), now);
    feed.failed(Failure::Gone, now);
    let first = now;
    let told = loop {
        assert!(matches!(
            ask(&mut feed, &mut now),
            Ask::List { token: None, .. }
        ));
        let old = page(20, &[("a", "1", 3), ("b", "2", 7)], None);
        match feed.page(old, now) {
            Ok(told) => break told,
            Err(_) => assert!(now.duration_since(first) < RESTORED + seconds(40)),
        }
    };
    assert!(now.duration_since(first) >= RESTORED);
    assert_eq!(told, [apply("a@3"), apply("b@7")]);
    feed.opened(now);
    assert_eq!(feed.event(put("a", "1", 21), now), Some(apply("a@21")));
}

#[test]
fn bookmarks_move_the_place_to_resume_at_and_one_of_the_past_asks_for_a_list() {
    let mut now = start();
    let mut feed = watching(now);
    let bookmark = |version: &str| Event::<String>::Bookmark(version.to_owned());
    assert_eq!(feed.event(bookmark("44"), now), None);
    now += seconds(45);
    feed.failed(Failure::Ended, now);
    assert_eq!(feed.state(), State::Watching);
    let Ask::Watch {
        resource_version,
        timeout,
    } = feed.next(now, JITTER)
    else {
        panic!("{feed:?}");
    };
    assert_eq!(resource_version, "44");
    assert!(timeout <= WATCH_TIMEOUT && timeout >= seconds(36));
    feed.opened(now);
    assert_eq!(feed.event(bookmark("43"), now), None);
    assert!(!feed.is_open());
    assert!(matches!(
        ask(&mut feed, &mut now),
        Ask::List { token: None, .. }
    ));
}

/// An API server that was away for long comes back, and etcd was compacted meanwhile (F31).
#[test]
fn a_forgotten_history_is_listed_at_once_whatever_failed_before() {
    let failing = |feed: &mut Feed, now: &mut Instant| {
        for _ in 0..12 {
            feed.failed(Failure::Transport("refused".to_owned()), *now);
            ask(feed, now);
        }
    };
    let soon = |feed: &mut Feed, now: &mut Instant| {
        feed.failed(Failure::Gone, *now);
        let since = *now;
        assert!(matches!(ask(feed, now), Ask::List { token: None, .. }));
        now.duration_since(since) <= Duration::from_millis(250)
    };
    let mut now = start();
    let mut feed = watching(now);
    failing(&mut feed, &mut now);
    assert!(soon(&mut feed, &mut now));
    // A server that says so to a list that has not begun is not asked faster for it.
    assert!(!soon(&mut feed, &mut now));
    // The list's own history was forgotten between two of its pages.
    feed.page(page(20, &[("c", "3", 15)], Some("next")), now)
        .unwrap();
    now += seconds(60);
    failing(&mut feed, &mut now);
    assert!(soon(&mut feed, &mut now));
}

#[test]
fn there_are_at_most_two_lists_a_minute() {
    let mut now = start();
    let mut feed = Feed::new();
    let mut lists: Vec<Instant> = Vec::new();
    for version in 1..20 {
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
        lists.push(now);
        feed.page(page(version, &[], None), now).unwrap();
        ask(&mut feed, &mut now);
        feed.opened(now);
        // The history is forgotten faster than it is read.
        let code = 410;
        let message = "too old".to_owned();
        feed.event(Event::<String>::Error { code, message }, now);
    }
    for three in lists.windows(3) {
        assert!(
            three[2].duration_since(three[0]) >= seconds(60),
            "{three:?}"
        );
    }
    assert_eq!(feed.counts().lists, 19);
}

/// Whoever takes the question and breaks off, or answers with what is no list, has worked for it.
#[test]
fn lists_that_come_to_nothing_count_and_refusals_do_not() {
    let text = || "fault".to_owned();
    let no_version = |feed: &mut Feed, now| {
        let mut page = page(1, &[], None);
        page.resource_version = String::new();
        assert_eq!(feed.page(page, now), Err(Refused::NoVersion));
    };
    type Answer<'a> = &'a dyn Fn(&mut Feed, Instant);
    let fail = |why: fn(String) -> Failure| {
        move |feed: &mut Feed, now| assert_eq!(feed.failed(why(text()), now), [])
    };
    let (cut, malformed) = (fail(Failure::Cut), fail(Failure::Malformed));
    let refused = fail(|why| Failure::Status(500, why));
    let unreached = fail(Failure::Transport);
    let cases: [(Answer<'_>, bool); 5] = [
        (&cut, true),
        (&malformed, true),
        (&no_version, true),
        (&refused, false),
        (&unreached, false),
    ];
    for (answer, counts) in cases {
        let (mut now, mut feed) = (start(), Feed::new());
        let mut lists: Vec<Instant> = Vec::new();
        for _ in 0..8 {
            assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
            lists.push(now);
            answer(&mut feed, now);
        }
        let is_slow = |three: &[Instant]| three[2].duration_since(three[0]) >= seconds(60);
        assert_eq!(lists.windows(3).all(is_slow), counts, "{lists:?}");
        assert_eq!(feed.counts().lists, if counts { 8 } else { 0 });
    }
}

/// What breaks off later is gone on with where it was: no list begins for it.
#[test]
fn a_list_that_breaks_off_later_goes_on() {
    let (mut now, mut feed) = (start(), Feed::new());
    ask(&mut feed, &mut now);
    feed.page(page(5, &[("a", "1", 1)], Some("more")), now)
        .unwrap();
    for _ in 0..4 {
        let next = ask(&mut feed, &mut now);
        assert!(matches!(next, Ask::List { token: Some(_), .. }), "{next:?}");
        feed.failed(Failure::Cut("cut".to_owned()), now);
    }
    assert_eq!(feed.counts().lists, 1);
}

#[test]
fn waits_grow_to_half_a_minute_and_follow_the_server_so_far() {
    let mut now = start();
    let mut feed = watching(now);
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        feed.failed(Failure::Transport("refused".to_owned()), now);
        let Ask::Wait { until } = feed.next(now, 1.0) else {
            panic!("{feed:?}");
        };
        let wait = until.duration_since(now);
        assert!(wait >= last && wait <= seconds(30), "{wait:?}");
        (last, now) = (wait, until);
        // Asked again too early: the same answer.
        assert!(matches!(feed.next(now, 0.0), Ask::Watch { .. }));
    }
    assert_eq!(last, seconds(30));
    feed.opened(now);
    now += seconds(2);
    feed.event(put("a", "1", 50), now);
    for (asked, least) in [(7, 7), (31, 31), (300, 300), (86_400, 300)] {
        let (asked, least) = (seconds(asked), seconds(least));
        feed.failed(Failure::RetryAfter(asked), now);
        let Ask::Wait { until } = feed.next(now, 0.0) else {
            panic!("{feed:?}");
        };
        assert_eq!(until.duration_since(now), least);
        now = until;
    }
}

#[test]
fn a_server_that_hangs_up_at_once_is_not_asked_all_the_time() {
    let mut now = start();
    let first = now;
    let mut feed = watching(now);
    let mut watches = 0;
    while now.duration_since(first) < seconds(120) {
        // With a word or without one.
        if watches % 2 == 0 {
            feed.event(put("a", "1", 100 + watches), now);
        }
        feed.failed(Failure::Ended, now);
        if let Ask::List { .. } = ask(&mut feed, &mut now) {
            feed.page(page(1_000 + watches, &[], None), now).unwrap();
        } else {
            feed.opened(now);
            watches += 1;
        }
    }
    assert!(watches < 60, "{watches}");
}

#[test]
fn a_place_at_which_nothing_can_be_had_is_left_with_a_list() {
    let mut now = start();
    let mut feed = watching(now);
    for _ in 0..STUCK_MAX {
        feed.failed(Failure::Malformed("half an object".to_owned()), now);
        assert!(matches!(feed.state(), State::Lost { .. }));
        if let Ask::Watch { .. } = ask(&mut feed, &mut now) {
            feed.opened(now);
        }
    }
    assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
    // A server that is away is no reason to list.
    let mut feed = watching(now);
    for _ in 0..50 {
        feed.failed(Failure::Transport("refused".to_owned()), now);
        assert!(matches!(ask(&mut feed, &mut now), Ask::Watch { .. }));
    }
}

/// 30 s are enough for few objects where they are not for many.
#[test]
fn a_page_that_does_not_come_in_time_is_asked_for_with_fewer_objects() {
    let mut now = start();
    let mut feed = Feed::new();
    let limit = |feed: &mut Feed, now: &mut Instant| match ask(feed, now) {
        Ask::List { limit, token } => (limit, token),
        other => panic!("{other:?}"),
    };
    let silent = || Failure::Silent("no answer in time".to_owned());
    assert_eq!(limit(&mut feed, &mut now).0, PAGE_OBJECTS);
    feed.failed(silent(), now);
    assert_eq!(limit(&mut feed, &mut now).0, PAGE_OBJECTS / 2);
    // What was told of the list already counts: it goes on where it was.
    feed.page(page(9, &[("a", "1", 8)], Some("next")), now)
        .unwrap();
    for _ in 0..10 {
        feed.failed(silent(), now);
        let (limit, token) = limit(&mut feed, &mut now);
        assert_eq!(token.as_deref(), Some("next"));
        assert!(limit >= PAGE_OBJECTS_MIN);
    }
    feed.page(page(9, &[("b", "2", 8)], None), now).unwrap();
    assert_eq!(feed.state(), State::Watching);
    // A server that is away says nothing about pages.
    let mut feed = Feed::new();
    limit(&mut feed, &mut now);
    feed.failed(Failure::Transport("refused".to_owned()), now);
    assert_eq!(limit(&mut feed, &mut now).0, PAGE_OBJECTS);
}

/// Priority and Fairness sends a client away, an API server is replaced: every watch would be a list.
#[test]
fn a_server_that_has_trouble_of_its_own_is_not_listed_for_it() {
    let mut now = start();
    let mut feed = watching(now);
    let trouble = [
        Failure::RetryAfter(seconds(1)),
        Failure::of_status(429, "too many".to_owned()),
        Failure::of_status(503, "starting".to_owned()),
        Failure::of_status(500, "etcdserver: request timed out".to_owned()),
    ];
    for why in trouble.iter().cycle().take(24) {
        feed.failed(why.clone(), now);
        assert!(matches!(feed.state(), State::Lost { .. }));
        assert!(
            matches!(ask(&mut feed, &mut now), Ask::Watch { .. }),
            "{why:?}"
        );
    }
    // But not forever at one place.
    let first = now;
    while let Ask::Watch { .. } = ask(&mut feed, &mut now) {
        feed.failed(Failure::of_status(500, "odd".to_owned()), now);
        assert!(now.duration_since(first) < seconds(1_800));
    }
}

#[test]
fn a_kind_that_is_not_served_is_noticed_when_it_is() {
    let mut now = start();
    let mut feed = Feed::new();
    ask(&mut feed, &mut now);
    for _ in 0..30 {
        assert_eq!(feed.failed(Failure::NotFound, now), []);
        assert_eq!(feed.state(), State::Absent);
        let before = now;
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
        assert!(now.duration_since(before) <= seconds(30));
    }
    feed.page(page(9, &[("a", "1", 8)], None), now).unwrap();
    assert_eq!(feed.state(), State::Watching);
}

#[test]
fn objects_go_with_their_kind_but_not_at_the_first_word() {
    let mut now = start();
    let mut feed = watching(now);
    let first = now;
    let gone = loop {
        let gone = feed.failed(Failure::NotFound, now);
        if !gone.is_empty() {
            break gone;
        }
        // Nothing says yet that there is none.
        assert!(matches!(feed.state(), State::Lost { .. }));
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
    };
    assert!(now.duration_since(first) >= ABSENT);
    assert_eq!(feed.state(), State::Absent);
    let names: Vec<&str> = gone.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(feed.objects(), 0);
}

/// `kubectl delete crd`, or one that serves another version: nobody said that its objects are gone.
#[test]
fn what_governs_outlives_its_definition() {
    let mut now = start();
    let mut feed = watching(now).governing(true);
    for _ in 0..30 {
        assert_eq!(feed.failed(Failure::NotFound, now), []);
        assert_eq!(feed.state(), State::Unserved);
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
    }
    assert_eq!(feed.objects(), 2);
    // It is served again, and what is gone is gone.
    let told = feed.page(page(50, &[("a", "1", 8)], None), now).unwrap();
    assert!(
        told.iter()
            .any(|told| matches!(told, Told::Delete(name) if name.name == "b"))
    );
    assert_eq!(feed.state(), State::Watching);
    // Whoever deleted each of them is believed, and then there is no such kind.
    feed.opened(now);
    feed.event(deleted("a", "1", 60), now);
    while feed.state() != State::Absent {
        assert_eq!(feed.failed(Failure::NotFound, now), []);
        ask(&mut feed, &mut now);
    }
}

/// What another feed has told of it is not known to this one, and counts on.
#[test]
fn what_governed_before_a_restart_outlives_its_definition() {
    let mut now = start();
    let mut feed = Feed::resuming(Version::read("9")).governing(true);
    for _ in 0..30 {
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
        feed.failed(Failure::NotFound, now);
        assert_eq!(feed.state(), State::Unserved);
    }
    assert_eq!(feed.seen(), Version::read("9").as_ref());
    // Where there never was one, there is none.
    let mut feed = Feed::new().governing(true);
    ask(&mut feed, &mut now);
    feed.failed(Failure::NotFound, now);
    assert_eq!(feed.state(), State::Absent);
}

/// A control plane that starts knows that there was such a kind, and not yet that it is gone.
#[test]
fn a_kind_that_was_seen_before_a_restart_is_not_gone_at_the_first_word() {
    let mut now = start();
    let mut feed = Feed::resuming(Version::read("9"));
    ask(&mut feed, &mut now);
    let first = now;
    feed.failed(Failure::NotFound, now);
    assert!(matches!(feed.state(), State::Lost { .. }));
    while feed.state() != State::Absent {
        assert!(matches!(ask(&mut feed, &mut now), Ask::List { .. }));
        feed.failed(Failure::NotFound, now);
        assert!(now.duration_since(first) <= ABSENT + seconds(30));
    }
    assert!(now.duration_since(first) >= ABSENT);
}

#[test]
fn what_is_forbidden_keeps_what_was_known() {
    let mut now = start();
    let mut feed = watching(now);
    let error = Event::<String>::Error {
        code: 403,
        message: "pods is forbidden".to_owned(),
    };
    assert_eq!(feed.event(error, now), None);
    let why = "pods is forbidden".to_owned();
    assert_eq!(feed.state(), State::Forbidden { why });
    assert_eq!(feed.objects(), 2);
    ask(&mut feed, &mut now);
    let told = feed.page(page(30, &[("a", "1", 3)], None), now);
    assert_eq!(told, Ok(vec![delete("b")]));
}

#[test]
fn a_page_that_is_too_large_is_asked_for_with_fewer() {
    let mut now = start();
    let mut feed = Feed::new();
    ask(&mut feed, &mut now);
    feed.page(page(9, &[], Some("next")), now).unwrap();
    feed.failed(Failure::TooLarge("more than 16 MiB".to_owned()), now);
    let first = Ask::List {
        token: None,
        limit: PAGE_OBJECTS / 2,
    };
    assert_eq!(ask(&mut feed, &mut now), first);
    // Not forever.
    feed.page(page(9, &[], None), now).unwrap();
    feed.failed(Failure::Gone, now);
    let next = Ask::List {
        token: None,
        limit: PAGE_OBJECTS,
    };
    assert_eq!(ask(&mut feed, &mut now), next);
}

#[test]
fn a_list_without_an_end_is_refused() {
    let mut now = start();
    let mut feed = Feed::new();
    let mut pages = 0;
    let refused = loop {
        ask(&mut feed, &mut now);
        pages += 1;
        if let Err(refused) = feed.page(page(9, &[], Some("more")), now) {
            break refused;
        }
    };
    assert_eq!(refused, Refused::Endless);
    assert_eq!(pages, 501);
    assert_eq!(feed.page(page(0, &[], None), now), Err(Refused::NoVersion));
}

#[test]
fn what_did_not_count_is_told_again() {
    let mut now = start();
    let mut feed = watching(now);
    feed.doubt(Some("shop"), "a");
    feed.doubt(Some("shop"), "nobody");
    feed.list_again();
    ask(&mut feed, &mut now);
    let told = feed.page(page(30, &[("a", "1", 3), ("b", "2", 7)], None), now);
    assert_eq!(told, Ok(vec![apply("a@3")]));
}

/// F33: also after a restart of ours, and with another credential, the past is not believed.
#[test]
fn a_feed_that_goes_on_where_another_was_refuses_what_is_older() {
    let now = start();
    let mut feed = Feed::resuming(Version::read("10"));
    assert_eq!(feed.seen().map(ToString::to_string).as_deref(), Some("10"));
    feed.next(now, JITTER);
    let old = feed.page(page(9, &[("a", "1", 5)], None), now);
    assert!(matches!(old, Err(Refused::Older { .. })), "{old:?}");
    assert!(!feed.listed());
    // A store that was restored from a backup is believed after a while.
    let later = now + RESTORED + seconds(1);
    feed.next(later, JITTER);
    let told = feed.page(page(9, &[("a", "1", 5)], None), later);
    assert_eq!(told, Ok(vec![apply("a@5")]));
    // What is as new is believed at once.
    let mut feed = Feed::resuming(Version::read("10"));
    feed.next(now, JITTER);
    let told = feed.page(page(10, &[("a", "1", 5)], None), now);
    assert_eq!(told, Ok(vec![apply("a@5")]));
}

#[test]
fn who_is_not_known_to_the_server_is_told_apart_from_who_does_not_reach_it() {
    let now = start();
    let mut feed = watching(now);
    feed.failed(Failure::Transport("refused".to_owned()), now);
    assert!(!feed.is_unauthorized());
    let later = now + seconds(1);
    feed.failed(Failure::Unauthorized("no".to_owned()), later);
    assert!(feed.is_unauthorized());
    // It is lost since it was lost.
    let why = "no".to_owned();
    assert_eq!(feed.state(), State::Lost { since: now, why });
}

/// Each takes a map of its own: a server that means harm has a million of them.
#[test]
fn namespaces_of_one_object_each_are_told_as_long_as_there_is_room() {
    let now = start();
    let mut feed = watching(now);
    let of = |number: u32| Meta {
        namespace: Some(format!("{number:0>60}")),
        ..meta("c", &format!("u{number}"), 1_000 + number)
    };
    let put = |feed: &mut Feed, number: u32| {
        let told = feed.event(Event::Put(of(number), "c".to_owned()), now);
        usize::from(told.is_some())
    };
    let told: usize = (0..40_000).map(|number| put(&mut feed, number)).sum();
    assert!((10_000..30_000).contains(&told), "{told}");
    assert_eq!(feed.beyond(), 40_000 - told);
    // Whoever goes leaves room.
    for number in 0..100 {
        let told = feed.event(Event::<String>::Deleted(of(number)), now);
        assert!(told.is_some());
    }
    let more: usize = (50_000..51_000).map(|number| put(&mut feed, number)).sum();
    assert_eq!(more, 100);
}

#[test]
fn versions_that_are_no_numbers_and_uids_that_are_none_can_only_be_equal() {
    let now = start();
    let mut feed = watching(now);
    let mut put = |uid: &str, version: &str| {
        let meta = Meta {
            resource_version: version.to_owned(),
            ..meta("a", &uid.repeat(60), 1)
        };
        feed.event(Event::Put(meta, version.to_owned()), now)
    };
    assert_eq!(put("one", "v-2"), Some(apply("v-2")));
    assert_eq!(put("one", "v-2"), None);
    assert_eq!(put("one", "v-1"), Some(apply("v-1")));
    assert_eq!(put("two", "v-1"), Some(apply("v-1")));
    // The first one is dead.
    assert_eq!(put("one", "v-3"), None);
    assert_eq!(put("two", "v-1"), None);
}

/// A store whose versions are no numbers: what a watch shows after a list is news all the same.
#[test]
fn what_is_new_is_told_where_versions_can_not_be_compared() {
    let now = start();
    let mut feed = Feed::new();
    assert!(matches!(feed.next(now, JITTER), Ask::List { .. }));
    let opaque = |name: &str, version: &str| Meta {
        resource_version: version.to_owned(),
        ..meta(name, name, 1)
    };
    let list = Page {
        items: vec![(opaque("a", "x-7"), "a".to_owned())],
        resource_version: "x-9".to_owned(),
        token: None,
    };
    assert_eq!(feed.page(list, now), Ok(vec![apply("a")]));
    assert!(matches!(feed.next(now, JITTER), Ask::Watch { .. }));
    feed.opened(now);
    let put = Event::Put(opaque("b", "x-10"), "b".to_owned());
    assert_eq!(feed.event(put, now), Some(apply("b")));
    // Who has died stays dead, as long as that is kept in mind.
    let gone = feed.event(Event::<String>::Deleted(opaque("b", "x-11")), now);
    assert_eq!(gone, Some(delete("b")));
    let again = Event::Put(opaque("b", "x-10"), "b".to_owned());
    assert_eq!(feed.event(again, now), None);
}
