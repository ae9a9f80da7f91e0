//! Two replicas, proxies that come, go and are cut off, and any order of events.

use proptest::prelude::*;

use super::*;

const PROXIES: usize = 5;

/// A proxy; the first three are of the trust domain whose root is replaced.
#[derive(Debug, Clone)]
struct Proxy {
    name: WorkloadName,
    /// The root of its certificate.
    root: Option<RootNumber>,
    believes: Vec<RootNumber>,
    sequence: u64,
    retiring: Option<RootNumber>,
    /// Its stream: to which replica, and with a certificate of which root.
    stream: Option<(usize, Option<RootNumber>)>,
    /// A certificate that is on its way: of this root, with this bundle, from this replica.
    issued: Option<(RootNumber, Vec<RootNumber>, u64, usize)>,
    live: bool,
}

#[derive(Debug)]
struct Replica {
    name: String,
    view: Rotation,
    roster: Roster,
    report: Report,
}

#[derive(Debug)]
struct Mesh {
    kept: Rotation,
    replicas: [Replica; 2],
    proxies: Vec<Proxy>,
    /// Pods as the world has them.
    pods: BTreeSet<WorkloadName>,
    count: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Wish(RootNumber),
    /// A replica reads what is kept, and does as it says.
    Read(usize),
    /// It reports, and takes a step if it may; unless somebody has written meanwhile.
    Commit(usize),
    /// The process ends and starts again; or another one takes its place.
    Restart(usize),
    Replace(usize),
    /// A proxy hears what its replica has to say, and acknowledges it.
    Hear(usize),
    Ask(usize, usize),
    Answer(usize),
    Connect(usize, usize),
    Disconnect(usize),
    Gone(usize),
    /// A new pod in the place of one that is gone; the world hears of pods.
    New(usize, usize),
    Pods,
}

fn step() -> impl Strategy<Value = Step> {
    let (p, r) = (0..PROXIES, 0..2_usize);
    prop_oneof![
        2 => (1..4_u32).prop_map(Step::Wish),
        6 => r.clone().prop_map(Step::Read),
        8 => r.clone().prop_map(Step::Commit),
        1 => r.clone().prop_map(Step::Restart),
        1 => r.clone().prop_map(Step::Replace),
        8 => p.clone().prop_map(Step::Hear),
        4 => (p.clone(), r.clone()).prop_map(|(p, r)| Step::Ask(p, r)),
        5 => p.clone().prop_map(Step::Answer),
        6 => (p.clone(), r.clone()).prop_map(|(p, r)| Step::Connect(p, r)),
        2 => p.clone().prop_map(Step::Disconnect),
        1 => p.clone().prop_map(Step::Gone),
        1 => (p, r).prop_map(|(p, r)| Step::New(p, r)),
        2 => Just(Step::Pods),
    ]
}

impl Mesh {
    /// All is quiet, and every proxy has a stream.
    fn new() -> Self {
        let replica = |name: &str| Replica {
            name: name.to_owned(),
            view: Rotation::default(),
            roster: Roster::default(),
            report: Report::default(),
        };
        let proxy = |number: usize| {
            let root = (number < 3).then_some(1);
            Proxy {
                name: name(&format!("c{}/shop/p{number}", usize::from(number >= 3))),
                root,
                believes: vec![1],
                sequence: 1,
                retiring: None,
                stream: Some((number % 2, root)),
                issued: None,
                live: true,
            }
        };
        let mut mesh = Self {
            kept: Rotation::default(),
            replicas: [replica("r0"), replica("r1")],
            proxies: (0..PROXIES).map(proxy).collect(),
            pods: BTreeSet::new(),
            count: 0,
        };
        mesh.step(&Step::Pods);
        for r in 0..2 {
            mesh.step(&Step::Read(r));
            mesh.step(&Step::Commit(r));
        }
        mesh
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wish(root) => {
                if let Ok(Some(next)) = self.kept.wish(root) {
                    self.kept = next;
                }
            }
            Step::Read(r) => self.replicas[r].view = self.kept.clone(),
            Step::Commit(r) => self.commit(r),
            Step::Restart(r) => self.restart(r, false),
            Step::Replace(r) => self.restart(r, true),
            Step::Hear(p) => self.hear(p),
            Step::Ask(p, r) => self.ask(p, r),
            Step::Answer(p) => self.answer(p),
            Step::Connect(p, r) => self.connect(p, r),
            Step::Disconnect(p) => self.proxies[p].stream = None,
            Step::Gone(p) => {
                let proxy = &mut self.proxies[p];
                (proxy.live, proxy.stream, proxy.issued) = (false, None, None);
            }
            Step::New(p, r) => self.start(p, r),
            Step::Pods => {
                let live = self.proxies.iter().filter(|proxy| proxy.live);
                self.pods = live.map(|proxy| proxy.name.clone()).collect();
            }
        }
    }

    fn commit(&mut self, r: usize) {
        let names = [self.replicas[0].name.clone(), self.replicas[1].name.clone()];
        let (pods, proxies) = (&self.pods, &self.proxies);
        let Replica {
            name,
            view,
            roster,
            report,
        } = &mut self.replicas[r];
        let base = view.clone();
        let mut next = view.clone();
        let gone: Vec<_> = next
            .replicas
            .keys()
            .filter(|n| !names.contains(n))
            .cloned()
            .collect();
        for gone in gone {
            let gone = next.forget(&gone).unwrap();
            roster.adopt(&gone);
            report.adopt(&gone);
        }
        let streams = proxies.iter().filter_map(|proxy| {
            let (to, shows) = proxy.stream?;
            let holds_bundle = proxy.sequence == view.sequence;
            (to == r).then(|| (proxy.name.clone(), seen(holds_bundle, shows)))
        });
        let connected: BTreeMap<_, _> = streams.collect();
        connected.keys().for_each(|name| roster.note(name));
        roster.sweep(|name| Some(pods.contains(name)));
        *report = report.next(view, roster, &connected);
        next.replicas.insert(name.clone(), report.clone());
        if let Ok(advanced) = next.advance() {
            next = advanced;
        }
        if self.kept == base {
            self.kept = next;
        }
    }

    /// Its streams end; what it knows is what is kept. Where it has not heard yet of a rotation, it
    /// has nothing to remember its proxies by: they are back before it goes on.
    fn restart(&mut self, r: usize, anew: bool) {
        let forgets = self.replicas[r].view.phase == Phase::Stable;
        if anew {
            self.count += 1;
            self.replicas[r].name = format!("n{}", self.count);
            // It says that it is there before it serves anybody.
            let name = self.replicas[r].name.clone();
            self.kept.replicas.insert(name, Report::default());
        }
        let own = self.kept.replicas[&self.replicas[r].name].clone();
        let replica = &mut self.replicas[r];
        (replica.roster, replica.view) = (Roster::default(), self.kept.clone());
        replica.roster.adopt(&own);
        replica.report = own;
        for p in 0..PROXIES {
            let proxy = &mut self.proxies[p];
            proxy.issued = proxy.issued.take().filter(|issued| issued.3 != r);
            if forgets || proxy.stream.is_some_and(|(to, _)| to == r) {
                proxy.stream = None;
            }
            if forgets {
                self.connect(p, r);
            }
        }
    }

    fn hear(&mut self, p: usize) {
        let proxy = &mut self.proxies[p];
        let Some((r, _)) = proxy.stream else { return };
        let view = &self.replicas[r].view;
        // What is older is refused.
        if view.sequence > proxy.sequence {
            (proxy.believes, proxy.sequence) = (view.roots(), view.sequence);
            proxy.retiring = view.retiring();
        }
    }

    fn ask(&mut self, p: usize, r: usize) {
        let proxy = &mut self.proxies[p];
        if !proxy.live || p >= 3 || proxy.issued.is_some() {
            return;
        }
        let Replica { view, roster, .. } = &mut self.replicas[r];
        roster.note(&proxy.name);
        proxy.issued = Some((view.signs(), view.roots(), view.sequence, r));
    }

    /// While a root is being added, nobody gets a certificate whom a crash would make forgotten.
    fn answer(&mut self, p: usize) {
        let Some((root, believes, sequence, r)) = self.proxies[p].issued.clone() else {
            return;
        };
        let Replica { name, view, .. } = &self.replicas[r];
        let report = self.kept.replicas.get(name);
        let reported = report.is_some_and(|report| report.names(&self.proxies[p].name));
        if view.phase != Phase::Stable && !reported {
            return;
        }
        let proxy = &mut self.proxies[p];
        (proxy.root, proxy.issued) = (Some(root), None);
        if sequence > proxy.sequence {
            (proxy.believes, proxy.sequence) = (believes, sequence);
        }
    }

    fn connect(&mut self, p: usize, r: usize) {
        let proxy = &mut self.proxies[p];
        // The control plane believes the same roots as the proxies.
        let roots = self.replicas[r].view.roots();
        let believed = proxy.root.is_none_or(|root| roots.contains(&root));
        if proxy.live && believed && (p >= 3 || proxy.root.is_some()) {
            proxy.stream = Some((r, proxy.root));
        }
    }

    /// Another pod; of the trust domain it gets certificate and bundle at once.
    fn start(&mut self, p: usize, r: usize) {
        if self.proxies[p].live || p >= 3 {
            return;
        }
        self.count += 1;
        self.proxies[p] = Proxy {
            name: name(&format!("c0/shop/n{}", self.count)),
            root: None,
            believes: Vec::new(),
            sequence: 0,
            retiring: None,
            stream: None,
            issued: None,
            live: true,
        };
        self.ask(p, r);
    }

    /// Whoever has a certificate is believed by everybody.
    fn check(&self) -> Result<(), TestCaseError> {
        let live = || self.proxies.iter().filter(|proxy| proxy.live);
        let starting = |proxy: &&Proxy| proxy.believes.is_empty();
        for shows in live() {
            let Some(root) = shows.root else { continue };
            for believes in live().filter(|proxy| !starting(proxy)) {
                prop_assert!(
                    believes.believes.contains(&root),
                    "{} does not believe {}: {:?} {} {:?}",
                    believes.name,
                    shows.name,
                    believes.believes,
                    root,
                    self.kept
                );
            }
        }
        Ok(())
    }

    /// Everybody does what it should, again and again.
    fn settle(&mut self, root: RootNumber) -> Result<(), TestCaseError> {
        for _ in 0..150 {
            self.step(&Step::Wish(root));
            self.step(&Step::Pods);
            for r in 0..2 {
                self.step(&Step::Read(r));
                self.step(&Step::Commit(r));
                self.check()?;
            }
            for p in 0..PROXIES {
                if self.proxies[p].live && self.proxies[p].stream.is_none() {
                    self.step(&Step::Connect(p, 0));
                }
                self.step(&Step::Hear(p));
                let retires = self.proxies[p].retiring;
                let late = self.proxies[p].stream.is_none();
                if late || retires.is_some_and(|old| self.proxies[p].root == Some(old)) {
                    self.step(&Step::Ask(p, 0));
                }
                if self.proxies[p].issued.is_some() {
                    self.step(&Step::Answer(p));
                }
                if self.proxies[p]
                    .stream
                    .is_some_and(|(_, shows)| shows != self.proxies[p].root)
                {
                    self.step(&Step::Connect(p, 0));
                }
                self.check()?;
            }
        }
        prop_assert_eq!((self.kept.phase, self.kept.new), (Phase::Stable, root));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_meets_a_peer_that_it_cannot_verify(steps in proptest::collection::vec(step(), 1..120)) {
        let mut mesh = Mesh::new();
        for step in &steps {
            mesh.step(step);
            mesh.check()?;
        }
        let root = match mesh.kept.phase {
            Phase::Stable => mesh.kept.new + 1,
            _ => mesh.kept.new,
        };
        mesh.settle(root)?;
    }
}
