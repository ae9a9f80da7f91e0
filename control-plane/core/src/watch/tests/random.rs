//! Does it add up, whatever the server does on the way?
//!
//! A server with a history, a feed, and dice: duplicates, swaps, cuts, errors, compaction, bookmarks
//! of now and of the past, lists from a stale replica. Every sequence is its seed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Sequences of a usual run; `ISTHMUS_WATCH_SEQUENCES` asks for more (F34: 1,000,000).
/// The longest wait that the server asks for.
const ASKED_MAX: Duration = Duration::from_secs(100);
const SEQUENCES: u64 = 10_000;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).unwrap()
    }
}

type Uid = u32;
/// Name → uid, version.
type Objects = BTreeMap<&'static str, (Uid, u32)>;

#[derive(Clone, Copy)]
struct Step {
    version: u32,
    name: &'static str,
    uid: Uid,
    deleted: bool,
}

/// What an API server has, and had.
#[derive(Default)]
struct Server {
    version: u32,
    next_uid: Uid,
    objects: Objects,
    history: Vec<Step>,
    /// What the store was after each step.
    pasts: Vec<(u32, Objects)>,
    compacted: u32,
}

impl Server {
    fn change(&mut self, dice: &mut Dice) {
        self.version += 1 + u32::try_from(dice.roll(3)).unwrap();
        let name = NAMES[dice.pick(NAMES.len())];
        let (version, old) = (self.version, self.objects.get(name).copied());
        let deleted = old.is_some() && dice.once_in(3);
        let uid = match old {
            Some((uid, _)) => uid,
            None => {
                self.next_uid += 1;
                self.next_uid
            }
        };
        if deleted {
            self.objects.remove(name);
        } else {
            self.objects.insert(name, (uid, version));
        }
        self.history.push(Step {
            version,
            name,
            uid,
            deleted,
        });
        self.pasts.push((version, self.objects.clone()));
    }

    fn past(&self, version: u32) -> Objects {
        let past = self.pasts.iter().rev().find(|(at, _)| *at <= version);
        past.map(|(_, objects)| objects.clone()).unwrap_or_default()
    }

    fn alive(&self, uid: Uid) -> bool {
        self.objects.values().any(|(alive, _)| *alive == uid)
    }
}

type Item = (&'static str, Uid, u32);

/// What a listener made of what it was told.
#[derive(Default)]
struct View {
    objects: Objects,
    dead: BTreeSet<Uid>,
}

impl View {
    fn take(&mut self, told: Told<Item>, server: &Server) {
        match told {
            Told::Apply((name, uid, version)) => {
                assert!(!self.dead.contains(&uid), "{name} {uid} came back");
                if let Some((old, before)) = self.objects.insert(name, (uid, version)) {
                    assert!(
                        version > before,
                        "{name} went back from {before} to {version}"
                    );
                    if old != uid {
                        self.dead.insert(old);
                    }
                }
            }
            Told::Delete(name) => {
                let Some((uid, _)) = self.objects.remove(name.name.as_str()) else {
                    return;
                };
                assert!(
                    !server.alive(uid),
                    "{} {uid} is alive, and was deleted",
                    name.name
                );
                self.dead.insert(uid);
            }
        }
    }
}

fn meta_of((name, uid, version): Item) -> Meta {
    Meta {
        namespace: None,
        name: name.to_owned(),
        uid: format!("00000000-0000-0000-0000-{uid:012x}"),
        resource_version: version.to_string(),
    }
}

struct Run {
    dice: Dice,
    now: Instant,
    server: Server,
    feed: Feed,
    view: View,
    /// The list that is being read: its version, and what is still to come.
    list: Option<(u32, Vec<Item>)>,
    lists: Vec<Instant>,
    faults: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut server = Server::default();
        for _ in 0..dice.roll(12) {
            server.change(&mut dice);
        }
        server.version += 1;
        Self {
            dice,
            now: Instant::now(),
            server,
            feed: Feed::new(),
            view: View::default(),
            list: None,
            lists: Vec::new(),
            faults: true,
        }
    }

    fn fault(&mut self, sides: u64) -> bool {
        self.faults && self.dice.once_in(sides)
    }

    fn step(&mut self) {
        let jitter = self.dice.roll(1000) as f64 / 1000.0;
        match self.feed.next(self.now, jitter) {
            Ask::Wait { until } => {
                assert!(until > self.now);
                assert!(until.duration_since(self.now) <= pace::LISTS_WINDOW.max(ASKED_MAX));
                self.now = until;
            }
            Ask::List { token, .. } => self.list(token.as_deref()),
            Ask::Watch {
                resource_version, ..
            } => self.watch(resource_version.parse().unwrap()),
        }
    }

    /// Returns whether the server has worked for it.
    fn fail(&mut self) -> bool {
        let text = || "fault".to_owned();
        let why = match self.dice.roll(9) {
            0 => Failure::Gone,
            1 => Failure::RetryAfter(Duration::from_secs(self.dice.roll(ASKED_MAX.as_secs()))),
            2 => Failure::Forbidden(text()),
            3 => Failure::Unauthorized(text()),
            4 => Failure::TooLarge(text()),
            5 => Failure::Malformed(text()),
            6 => Failure::Status(500, text()),
            7 => Failure::Cut(text()),
            _ => Failure::Transport(text()),
        };
        if why == Failure::Gone {
            self.list = None;
        }
        let worked = matches!(why, Failure::Cut(_) | Failure::Malformed(_));
        assert_eq!(self.feed.failed(why, self.now), []);
        worked
    }

    fn list(&mut self, token: Option<&str>) {
        if self.fault(4) {
            if self.fail() && token.is_none() {
                self.lists.push(self.now);
            }
            return;
        }
        if token.is_none() || self.list.is_none() {
            // A stale replica answers with what was.
            let back = if self.fault(5) { self.dice.roll(9) } else { 0 };
            let version = self
                .server
                .version
                .saturating_sub(u32::try_from(back).unwrap())
                .max(1);
            let objects = self.server.past(version);
            let items = objects
                .into_iter()
                .map(|(name, (uid, at))| (name, uid, at))
                .collect();
            self.list = Some((version, items));
            self.lists.push(self.now);
        }
        let (version, mut items) = self.list.take().unwrap();
        let cut = self.dice.pick(items.len() + 1);
        let rest = if self.dice.once_in(2) {
            items.split_off(cut)
        } else {
            Vec::new()
        };
        let token = (!rest.is_empty()).then(|| "more".to_owned());
        if token.is_some() {
            self.list = Some((version, rest));
        }
        let page = Page {
            items: items
                .into_iter()
                .map(|item| (meta_of(item), item))
                .collect(),
            resource_version: version.to_string(),
            token,
        };
        match self.feed.page(page, self.now) {
            Ok(told) => told
                .into_iter()
                .for_each(|told| self.view.take(told, &self.server)),
            Err(_) => self.list = None,
        }
    }

    fn watch(&mut self, from: u32) {
        if self.fault(6) {
            self.fail();
            return;
        }
        if from < self.server.compacted {
            self.feed.failed(Failure::Gone, self.now);
            return;
        }
        self.feed.opened(self.now);
        for _ in 0..self.dice.roll(3) {
            self.server.change(&mut self.dice);
        }
        let mut steps: Vec<Step> = self
            .server
            .history
            .iter()
            .copied()
            .filter(|step| step.version > from)
            .collect();
        if self.faults {
            steps.truncate(self.dice.pick(steps.len() + 1));
            self.spoil(&mut steps);
        }
        for step in steps {
            let event = match step.deleted {
                true => Event::Deleted(meta_of((step.name, step.uid, step.version))),
                false => {
                    let item = (step.name, step.uid, step.version);
                    Event::Put(meta_of(item), item)
                }
            };
            self.tell(event);
        }
        self.end(from);
    }

    /// Swaps, and things of the past. What comes is complete up to its newest version.
    fn spoil(&mut self, steps: &mut Vec<Step>) {
        for _ in 0..self.dice.roll(3) {
            if steps.len() > 1 {
                let at = self.dice.pick(steps.len() - 1);
                steps.swap(at, at + 1);
            }
        }
        let reached = steps.iter().map(|step| step.version).max().unwrap_or(0);
        for _ in 0..self.dice.roll(3) {
            let old: Vec<Step> = self
                .server
                .history
                .iter()
                .copied()
                .filter(|s| s.version <= reached)
                .collect();
            if !old.is_empty() {
                let (at, again) = (self.dice.pick(steps.len() + 1), self.dice.pick(old.len()));
                steps.insert(at, old[again]);
            }
        }
    }

    fn tell(&mut self, event: Event<Item>) {
        if let Some(told) = self.feed.event(event, self.now) {
            self.view.take(told, &self.server);
        }
    }

    fn end(&mut self, from: u32) {
        if !self.faults {
            self.tell(Event::Bookmark(self.server.version.to_string()));
            self.now += WATCH_TIMEOUT;
            self.feed.failed(Failure::Ended, self.now);
            return;
        }
        self.now += Duration::from_millis(self.dice.roll(20_000));
        match self.dice.roll(5) {
            0 => {
                let code = [410, 500, 504, 403][self.dice.pick(4)];
                let message = "fault".to_owned();
                self.tell(Event::Error { code, message });
            }
            // A replica that has not seen what we have.
            1 => self.tell(Event::Bookmark((from / 2).max(1).to_string())),
            2 => {
                self.fail();
                return;
            }
            _ => {}
        }
        if self.feed.is_open() {
            self.feed.failed(Failure::Ended, self.now);
        }
    }

    fn play(mut self) {
        for _ in 0..4 + self.dice.roll(30) {
            self.step();
            if self.dice.once_in(3) {
                self.server.change(&mut self.dice);
            }
            if self.dice.once_in(10) {
                self.server.compacted = self.server.version;
            }
        }
        self.faults = false;
        let calm = self.now;
        while !(self.feed.state() == State::Watching && self.view.objects == self.server.objects) {
            self.step();
            // Two lists a minute, and what was due when the faults ended.
            let took = self.now.duration_since(calm);
            assert!(
                took <= Duration::from_secs(300),
                "not settled after {took:?}: {:?}",
                self.feed
            );
        }
        for three in self.lists.windows(3) {
            // The third begins no sooner than a minute after the first was answered.
            assert!(three[2].duration_since(three[0]) >= pace::LISTS_WINDOW);
        }
    }
}

#[test]
fn the_final_state_is_what_the_server_has() {
    let asked = std::env::var("ISTHMUS_WATCH_SEQUENCES");
    let sequences = asked
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEQUENCES);
    for seed in 0..sequences {
        let played = std::panic::catch_unwind(|| Run::new(seed).play());
        assert!(played.is_ok(), "the sequence of seed {seed}");
    }
}
