//! A model of several candidates, each with a clock of its own, and of a network that loses and
//! delays.

use proptest::prelude::*;

use super::*;

const CANDIDATES: usize = 3;

/// The lease as the API server has it.
#[derive(Default)]
struct Server {
    lease: Option<Record>,
    version: u64,
}

impl Server {
    fn write(&mut self, write: &Write) -> Written {
        if self.lease.as_ref().map(|lease| &lease.version) != write.over.as_ref() {
            return Written::Lost;
        }
        self.version += 1;
        let record = Record {
            version: self.version.to_string(),
            holder: write.holder.clone(),
            duration: Duration::from_secs(15),
            transitions: write.transitions,
        };
        self.lease = Some(record.clone());
        Written::Done(record)
    }

    fn look(&self) -> Looked {
        self.lease.clone().map_or(Looked::Absent, Looked::Found)
    }
}

/// What one candidate has under way.
enum Flight {
    Asked(Step, Instant),
    Looked(Looked),
    Wrote(Written, Instant),
}

struct Candidate {
    election: Election,
    flight: Option<Flight>,
    /// Where its clock began, and how fast it runs.
    offset: Duration,
    rate: f64,
    lives: u32,
}

struct Model {
    begin: Instant,
    now: Duration,
    timing: Timing,
    server: Server,
    candidates: Vec<Candidate>,
    /// Writes that nobody waits for any more, and that may still arrive.
    late: Vec<Write>,
}

impl Model {
    fn new(timing: Timing, rates: [f64; CANDIDATES]) -> Self {
        let candidate = |(at, rate): (usize, f64)| Candidate {
            election: Election::new(&format!("c{at}"), timing),
            flight: None,
            offset: Duration::from_secs(1_000 * at as u64),
            rate,
            lives: 0,
        };
        Self {
            begin: Instant::now(),
            now: Duration::ZERO,
            timing,
            server: Server::default(),
            candidates: rates.into_iter().enumerate().map(candidate).collect(),
            late: Vec::new(),
        }
    }

    fn clock(&self, who: usize) -> Instant {
        let candidate = &self.candidates[who];
        self.begin + candidate.offset + self.now.mul_f64(candidate.rate)
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |who: &usize| self.candidates[*who].election.leads(self.clock(*who));
        (0..CANDIDATES).filter(leads).collect()
    }

    /// One candidate goes one step; `fate` is what the network does.
    fn step(&mut self, who: usize, fate: u8) {
        let now = self.clock(who);
        let candidate = &mut self.candidates[who];
        let election = &mut candidate.election;
        candidate.flight = match (candidate.flight.take(), fate) {
            (None, _) => match election.next(now) {
                Step::Wait(_) => None,
                step @ (Step::Look | Step::Write(_)) => Some(Flight::Asked(step, now)),
            },
            // It never arrives.
            (Some(Flight::Asked(Step::Look, _)), 0) => {
                election.looked(Looked::Failed, now, 0.5);
                None
            }
            (Some(Flight::Asked(Step::Write(write), begun)), 0 | 1) => {
                // Lost, or it arrives when nobody waits for it.
                election.written(Written::Unknown, begun, now, 0.5);
                if fate == 1 {
                    self.late.push(write);
                }
                None
            }
            (Some(Flight::Asked(Step::Look, _)), _) => Some(Flight::Looked(self.server.look())),
            (Some(Flight::Asked(Step::Write(write), begun)), _) => {
                Some(Flight::Wrote(self.server.write(&write), begun))
            }
            (Some(Flight::Asked(Step::Wait(_), _)), _) => None,
            (Some(Flight::Looked(_)), 0) => {
                election.looked(Looked::Failed, now, 0.5);
                None
            }
            (Some(Flight::Looked(looked)), _) => {
                election.looked(looked, now, 0.5);
                None
            }
            (Some(Flight::Wrote(_, begun)), 0) => {
                election.written(Written::Unknown, begun, now, 0.5);
                None
            }
            (Some(Flight::Wrote(written, begun)), _) => {
                election.written(written, begun, now, 0.5);
                None
            }
        };
    }

    /// Stops in good order, and comes again as somebody new.
    fn restart(&mut self, who: usize, orderly: bool) {
        let candidate = &mut self.candidates[who];
        if let Some(write) = candidate.election.release().filter(|_| orderly) {
            self.server.write(&write);
        }
        candidate.lives += 1;
        candidate.flight = None;
        let name = format!("c{who}.{}", candidate.lives);
        candidate.election = Election::new(&name, self.timing);
    }

    /// Somebody who is no candidate changes a label.
    fn touch(&mut self) {
        self.server.version += 1;
        if let Some(lease) = &mut self.server.lease {
            lease.version = self.server.version.to_string();
        }
    }

    /// All go on, without faults, for so long.
    fn calm(&mut self, lasts: Duration, but: Option<usize>) {
        let end = self.now + lasts;
        while self.now < end {
            self.now += Duration::from_millis(100);
            for who in (0..CANDIDATES).filter(|who| Some(*who) != but) {
                self.step(who, 9);
            }
            assert!(self.leaders().len() <= 1);
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Step(usize, u8),
    Late,
    Restart(usize, bool),
    Touch,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => (0..CANDIDATES, 0..12u8).prop_map(|(who, fate)| Event::Step(who, fate)),
        1 => Just(Event::Late),
        1 => (0..CANDIDATES, any::<bool>()).prop_map(|(who, orderly)| Event::Restart(who, orderly)),
        1 => Just(Event::Touch),
    ]
}

/// Most steps are quick; some candidates sleep through a lease.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![30 => 0..200u64, 10 => 200..3_000u64, 1 => 3_000..40_000u64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn there_are_never_two_leaders(
        events in prop::collection::vec((pause(), event()), 1..400),
        rates in prop::array::uniform3(0.9..1.1f64),
    ) {
        let mut model = Model::new(Timing::default(), rates);
        for (pause, event) in events {
            model.now += Duration::from_millis(pause);
            match event {
                Event::Step(who, fate) => model.step(who, fate),
                Event::Late => {
                    if let Some(write) = model.late.pop() {
                        model.server.write(&write);
                    }
                }
                Event::Restart(who, orderly) => model.restart(who, orderly),
                Event::Touch => model.touch(),
            }
            let leaders = model.leaders();
            prop_assert!(leaders.len() <= 1, "{leaders:?} lead at {:?}", model.now);
        }
        // And when the faults end, one leads.
        model.calm(Duration::from_secs(40), None);
        prop_assert_eq!(model.leaders().len(), 1);
    }
}

#[test]
fn the_model_sees_two_leaders_if_the_deadline_is_too_long() {
    let timing = Timing {
        deadline: Duration::from_secs(20),
        ..Timing::default()
    };
    let mut model = Model::new(timing, [1.0; CANDIDATES]);
    model.calm(Duration::from_secs(5), None);
    let first = model.leaders()[0];
    let mut most = 1;
    for _ in 0..250 {
        model.now += Duration::from_millis(100);
        for who in (0..CANDIDATES).filter(|who| *who != first) {
            model.step(who, 9);
        }
        most = most.max(model.leaders().len());
    }
    assert_eq!(most, 2);
}

#[test]
fn a_leader_that_is_gone_is_replaced_and_one_that_goes_at_once() {
    let mut model = Model::new(Timing::default(), [1.0; CANDIDATES]);
    model.calm(Duration::from_secs(5), None);
    let first = model.leaders()[0];
    // It says nothing any more: nobody leads between its deadline and the end of its lease.
    model.calm(Duration::from_secs(12), Some(first));
    assert!(model.leaders().is_empty());
    model.calm(Duration::from_secs(6), Some(first));
    let second = model.leaders()[0];
    assert_ne!(second, first);
    // It goes in good order: the next one begins when it next looks.
    model.restart(second, true);
    assert!(model.leaders().is_empty());
    model.calm(Duration::from_secs(3), None);
    assert_eq!(model.leaders().len(), 1);
}

#[test]
fn a_label_that_somebody_changes_does_not_end_a_leader() {
    let mut model = Model::new(Timing::default(), [1.0; CANDIDATES]);
    model.calm(Duration::from_secs(5), None);
    let (leader, before) = (model.leaders(), model.server.lease.clone().unwrap());
    for _ in 0..20 {
        model.touch();
        model.calm(Duration::from_secs(6), None);
        assert_eq!(model.leaders(), leader);
    }
    let after = model.server.lease.unwrap();
    assert_eq!(
        (after.holder, after.transitions),
        (before.holder, before.transitions)
    );
}
