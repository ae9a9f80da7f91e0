//! Does every proxy always believe whom it meets, whatever happens meanwhile?

mod simulation;

use super::*;

fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}

fn seen(holds_bundle: bool, shows: Option<RootNumber>) -> Seen {
    Seen {
        holds_bundle,
        shows,
    }
}

/// One replica with these proxies connected.
struct Alone {
    rotation: Rotation,
    roster: Roster,
}

impl Alone {
    fn new() -> Self {
        let (rotation, roster) = (Rotation::default(), Roster::default());
        Self { rotation, roster }
    }

    fn look(&mut self, connected: &[(&str, Seen)]) {
        self.look_with(connected, |_| Some(true));
    }

    fn look_with(
        &mut self,
        connected: &[(&str, Seen)],
        there: impl Fn(&WorkloadName) -> Option<bool>,
    ) {
        let connected = connected
            .iter()
            .map(|(n, seen)| (name(n), *seen))
            .collect::<BTreeMap<_, _>>();
        connected.keys().for_each(|name| self.roster.note(name));
        self.roster.sweep(there);
        let before = self.rotation.replicas.get("a").cloned();
        let report = before
            .unwrap_or_default()
            .next(&self.rotation, &self.roster, &connected);
        self.rotation.replicas.insert("a".to_owned(), report);
    }

    fn wish(&mut self, root: RootNumber) {
        self.rotation = self.rotation.wish(root).unwrap().unwrap();
    }

    fn advance(&mut self) -> Result<Phase, Refused> {
        self.rotation = self.rotation.advance()?;
        Ok(self.rotation.phase)
    }

    fn waits_for(&mut self) -> Vec<String> {
        match self.rotation.advance() {
            Err(Refused::Missing(names)) => names.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }
}

const WEB: &str = "east/shop/web";
const CART: &str = "west/shop/cart";

#[test]
fn each_step_waits_for_every_proxy_and_names_those_that_are_missing() {
    let mut alone = Alone::new();
    alone.look(&[(WEB, seen(true, Some(1))), (CART, seen(true, None))]);
    assert_eq!(alone.advance(), Err(Refused::Stable));
    alone.wish(2);
    assert_eq!(
        (alone.rotation.roots(), alone.rotation.signs()),
        (vec![1, 2], 1)
    );
    // What was said before the wish says nothing of it.
    let behind = Refused::Replicas(vec!["a".to_owned()]);
    assert_eq!(alone.advance(), Err(behind));
    alone.look(&[(WEB, seen(true, Some(1))), (CART, seen(false, None))]);
    assert_eq!(alone.waits_for(), [CART]);
    alone.look(&[(WEB, seen(true, Some(1))), (CART, seen(true, None))]);
    assert_eq!(alone.advance(), Ok(Phase::Issuing));
    assert_eq!(
        (alone.rotation.signs(), alone.rotation.retiring()),
        (2, Some(1))
    );
    alone.look(&[(WEB, seen(true, Some(1))), (CART, seen(true, None))]);
    assert_eq!(alone.waits_for(), [WEB]);
    let text = alone.rotation.advance().unwrap_err().to_string();
    assert_eq!(text, "1 proxies are waited for: east/shop/web");
    alone.look(&[(WEB, seen(true, Some(2))), (CART, seen(true, None))]);
    assert_eq!(alone.advance(), Ok(Phase::Removing));
    assert_eq!(alone.rotation.roots(), [2]);
    let sequence = alone.rotation.sequence;
    alone.look(&[(WEB, seen(true, Some(2))), (CART, seen(false, None))]);
    assert_eq!(alone.waits_for(), [CART]);
    alone.look(&[(WEB, seen(true, Some(2))), (CART, seen(true, None))]);
    assert_eq!(alone.advance(), Ok(Phase::Stable));
    assert_eq!((alone.rotation.old, alone.rotation.sequence), (2, sequence));
    assert_eq!(sequence, 4);
}

#[test]
fn who_is_away_is_waited_for_until_its_pod_is_gone() {
    let mut alone = Alone::new();
    alone.look(&[(WEB, seen(true, Some(1))), (CART, seen(true, None))]);
    alone.wish(2);
    alone.look(&[(WEB, seen(true, Some(1)))]);
    assert_eq!(alone.waits_for(), [CART]);
    alone.look_with(&[(WEB, seen(true, Some(1)))], |_| None);
    assert_eq!(alone.waits_for(), [CART]);
    alone.look_with(&[(WEB, seen(true, Some(1)))], |n| Some(n.as_str() == WEB));
    assert_eq!(alone.advance(), Ok(Phase::Issuing));
}

#[test]
fn who_has_asked_for_a_certificate_is_waited_for_before_its_pod_is_seen() {
    let mut alone = Alone::new();
    alone.wish(2);
    alone.roster.note(&name(WEB));
    alone.look_with(&[], |_| Some(false));
    assert_eq!(alone.waits_for(), [WEB]);
    alone.look(&[]);
    alone.look_with(&[], |_| Some(false));
    assert_eq!(alone.advance(), Ok(Phase::Issuing));
    // One that is gone before it was seen keeps nobody waiting for ever.
    alone.roster.note(&name(CART));
    for _ in 0..UNSEEN_LOOKS {
        alone.look_with(&[], |_| Some(false));
        assert_eq!(alone.waits_for(), [CART]);
    }
    alone.look_with(&[], |_| Some(false));
    assert_eq!(alone.advance(), Ok(Phase::Removing));
}

#[test]
fn a_wish_is_taken_back_until_the_new_root_signs() {
    let mut alone = Alone::new();
    alone.wish(2);
    assert_eq!(alone.rotation.wish(2), Ok(None));
    alone.wish(1);
    assert_eq!(alone.rotation.phase, Phase::Stable);
    assert_eq!(
        (alone.rotation.roots(), alone.rotation.sequence),
        (vec![1], 3)
    );
    let not_next = Refused::NotNext { asked: 3, now: 1 };
    assert_eq!(alone.rotation.wish(3), Err(not_next));
    alone.wish(2);
    alone.look(&[]);
    alone.advance().unwrap();
    let late = Refused::TooLate { old: 1, new: 2 };
    assert_eq!(alone.rotation.wish(1), Err(late));
}

#[test]
fn a_replica_that_has_not_seen_the_step_is_waited_for() {
    let mut alone = Alone::new();
    let other = Report::default();
    alone.rotation.replicas.insert("b".to_owned(), other);
    alone.wish(2);
    alone.look(&[]);
    let behind = Refused::Replicas(vec!["b".to_owned()]);
    assert_eq!(alone.advance(), Err(behind));
    assert!(alone.rotation.forget("b").is_some());
    assert_eq!(alone.advance(), Ok(Phase::Issuing));
}

#[test]
fn it_lies_on_disk_as_it_is() {
    let mut alone = Alone::new();
    alone.wish(2);
    alone.look(&[(WEB, seen(false, Some(1))), (CART, seen(true, None))]);
    let text = serde_json::to_string(&alone.rotation).unwrap();
    let back: Rotation = serde_json::from_str(&text).unwrap();
    assert_eq!(back, alone.rotation);
    // A replica that starts again waits for the same proxies.
    let own = &back.replicas["a"];
    let mut again = Roster::default();
    again.adopt(own);
    again.sweep(|_| Some(true));
    assert_eq!(own.next(&back, &again, &BTreeMap::new()), *own);
}
