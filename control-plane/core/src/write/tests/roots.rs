//! Is every meshed namespace told where the control plane is, and no other?

use proptest::prelude::*;

use super::*;

const CLUSTERS: [&str; 2] = ["east", "west"];

fn advertised(roots: &str) -> Advertised {
    Advertised {
        roots_pem: roots.to_owned(),
        address: Some("cp.example.com:15012".to_owned()),
        home: Some((
            id("east"),
            "control-plane.isthmus-system.svc:15012".to_owned(),
        )),
    }
}

/// The ConfigMap holds this.
fn told(cluster: &str, roots: &str) -> [u8; 32] {
    let told = advertised(roots);
    ConfigMap::digest(&labels(&[
        ("roots.pem", roots),
        ("trust-domain", &format!("{cluster}.mesh.internal")),
        ("control-plane", told.address_for(&id(cluster)).unwrap()),
    ]))
}

impl Run {
    fn advertise(&mut self, advertised: Option<Advertised>) {
        let dirty = self.world.advertise(advertised);
        self.planner.note(&self.world, &dirty);
    }

    fn roots(&self, cluster: &str) -> Option<ConfigMap> {
        match self.servers.get(cluster, Kind::ConfigMap, ROOTS_NAME)? {
            Spec::ConfigMap(found) => Some(found),
            other => panic!("{other:?}"),
        }
    }
}

fn meshed() -> Run {
    let mut run = Run::of(&CLUSTERS, &[pod("east", "cart", 1), pod("west", "cart", 1)]);
    run.advertise(Some(advertised("r1")));
    run
}

fn map_of_somebody_else(cluster: &str) -> Object {
    object(
        cluster,
        "shop",
        ROOTS_NAME,
        Spec::ConfigMap(ConfigMap::default()),
    )
}

#[test]
fn pods_are_told_by_a_config_map_in_their_namespace() {
    let mut run = meshed();
    assert_eq!(run.settle(), 2);
    for cluster in CLUSTERS {
        assert_eq!(run.roots(cluster).unwrap().digest, told(cluster, "r1"));
    }
    assert_ne!(told("east", "r1"), told("west", "r1"));
    // Another leader finds nothing to do.
    run.planner.everything(&run.world);
    let plan = run.plan();
    assert_eq!((plan.writes, plan.unchanged["roots"]), (vec![], 2));

    run.advertise(Some(advertised("r2")));
    assert_eq!(run.settle(), 2);
    assert_eq!(run.roots("west").unwrap().digest, told("west", "r2"));
}

#[test]
fn without_a_pod_and_a_label_a_namespace_has_none() {
    let mut run = meshed();
    run.settle();
    let mut out = pod("east", "cart", 1);
    if let Spec::Pod(pod) = &mut out.spec {
        pod.meshed = false;
    }
    run.put(out);
    run.remove(&pod("west", "cart", 1).reference());
    assert_eq!(run.settle(), 2);
    assert!(CLUSTERS.iter().all(|c| run.roots(c).is_none()));

    let inject = |value| Spec::Namespace(labels(&[("isthmus.dev/inject", value)]));
    run.put(object("east", "", "shop", inject("enabled")));
    run.put(object("west", "", "shop", inject("false")));
    assert_eq!(run.settle(), 1);
    assert!(run.roots("east").is_some());
}

#[test]
fn what_somebody_changes_is_put_right_and_what_is_somebody_elses_stays() {
    let mut run = meshed();
    run.put(map_of_somebody_else("west"));
    let plan = run.plan();
    assert_eq!(plan.refused.len(), 1, "{:?}", plan.refused);
    run.planner.everything(&run.world);
    assert_eq!(run.settle(), 1);
    assert_eq!(run.roots("west"), Some(ConfigMap::default()));

    let mut altered = run.roots("east").unwrap();
    altered.digest = [1; 32];
    run.put(object("east", "shop", ROOTS_NAME, Spec::ConfigMap(altered)));
    assert_eq!(run.settle(), 1);
    assert_eq!(run.roots("east").unwrap().digest, told("east", "r1"));

    run.remove(&map_of_somebody_else("west").reference());
    assert_eq!(run.settle(), 1);
    assert_eq!(run.roots("west").unwrap().digest, told("west", "r1"));
    // It is theirs again, and nobody takes it away with the last pod.
    run.put(map_of_somebody_else("west"));
    run.remove(&pod("west", "cart", 1).reference());
    assert_eq!(run.settle(), 0);
    assert_eq!(run.roots("west"), Some(ConfigMap::default()));
}

#[test]
fn where_nobody_can_say_what_stands_there_stays() {
    let mut run = meshed();
    run.settle();
    run.advertise(None);
    run.remove(&pod("west", "cart", 1).reference());
    assert_eq!(run.settle(), 0);

    // Of the clusters but home it is not known any more where the control plane is.
    run.advertise(Some(Advertised {
        address: None,
        ..advertised("r1")
    }));
    assert_eq!(run.settle(), 1);
    assert!(run.roots("west").is_none() && run.roots("east").is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Pod(usize, u8, bool),
    NoPod(usize, u8),
    Label(usize, Option<&'static str>),
    /// A user's own map, or one who deletes or alters the mesh's.
    Theirs(usize),
    NoMap(usize),
    Altered(usize),
    Roots(&'static str),
    Lost(usize),
    Listed(usize),
    /// So many writes arrive, then the leader is gone.
    Crash(usize),
    /// So many writes arrive, and the others fail.
    Write(usize),
    Watch,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..CLUSTERS.len();
    let label = proptest::sample::select(vec![None, Some("true"), Some("enabled"), Some("false")]);
    prop_oneof![
        3 => (at.clone(), 0..2_u8, any::<bool>()).prop_map(|(c, n, m)| Step::Pod(c, n, m)),
        3 => (at.clone(), 0..2_u8).prop_map(|(c, n)| Step::NoPod(c, n)),
        2 => (at.clone(), label).prop_map(|(c, l)| Step::Label(c, l)),
        1 => at.clone().prop_map(Step::Theirs),
        1 => at.clone().prop_map(Step::NoMap),
        1 => at.clone().prop_map(Step::Altered),
        1 => proptest::sample::select(vec!["r1", "r2"]).prop_map(Step::Roots),
        1 => at.clone().prop_map(Step::Lost),
        2 => at.prop_map(Step::Listed),
        3 => (0..3_usize).prop_map(Step::Crash),
        3 => (0..3_usize).prop_map(Step::Write),
        4 => Just(Step::Watch),
    ]
}

impl Run {
    fn roots_step(&mut self, step: &Step) {
        let map = |cluster: usize| map_of_somebody_else(CLUSTERS[cluster]).reference();
        match step {
            Step::Pod(c, n, meshed) => {
                let mut made = pod(CLUSTERS[*c], "cart", *n);
                if let Spec::Pod(pod) = &mut made.spec {
                    pod.meshed = *meshed;
                }
                self.servers.put(made);
            }
            Step::NoPod(c, n) => self
                .servers
                .remove(&pod(CLUSTERS[*c], "cart", *n).reference()),
            Step::Label(c, value) => {
                let said = value.map(|v| ("isthmus.dev/inject".to_owned(), v.to_owned()));
                let space = Spec::Namespace(said.into_iter().collect());
                self.servers.put(object(CLUSTERS[*c], "", "shop", space));
            }
            Step::Theirs(c) => self.servers.put(map_of_somebody_else(CLUSTERS[*c])),
            Step::NoMap(c) => self.servers.remove(&map(*c)),
            Step::Altered(c) => {
                if let Some(mut found) = self.roots(CLUSTERS[*c]) {
                    found.digest = [7; 32];
                    let spec = Spec::ConfigMap(found);
                    self.servers
                        .put(object(CLUSTERS[*c], "shop", ROOTS_NAME, spec));
                }
            }
            Step::Roots(roots) => self.advertise(Some(advertised(roots))),
            Step::Lost(c) => lost(self, CLUSTERS[*c]),
            Step::Listed(c) => self.relist(CLUSTERS[*c]),
            Step::Crash(count) => {
                self.some_arrive(*count);
                self.planner = Planner::default();
                self.planner.everything(&self.world);
            }
            Step::Write(count) => {
                for write in self.some_arrive(*count) {
                    self.planner.again(write.subject);
                }
            }
            Step::Watch => self.watch(),
        }
    }

    /// The first so many writes of a plan arrive; the others.
    fn some_arrive(&mut self, count: usize) -> Vec<Write> {
        let mut failed = Vec::new();
        for (number, write) in self.plan().writes.into_iter().enumerate() {
            let state = self.world.state(write.object.cluster.as_str());
            assert_eq!(state, Some(State::Synced));
            // The server refuses to overwrite somebody else's.
            if number >= count || self.servers.write(&write).is_err() {
                failed.push(write);
            }
        }
        failed
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, and whichever write was the last before a crash.
    #[test]
    fn every_interruption_of_the_roots_converges(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut run = meshed();
        for step in &steps {
            run.roots_step(step);
        }
        for cluster in CLUSTERS {
            run.relist(cluster);
        }
        run.advertise(Some(advertised("r3")));
        run.settle();
        for cluster in CLUSTERS {
            let of = &run.world.clusters[&id(cluster)];
            let labelled = of.namespace("shop").unwrap().get("isthmus.dev/inject");
            let wanted = matches!(labelled.map(String::as_str), Some("true" | "enabled"))
                || of.pods.within("shop").any(|(_, pod)| pod.value.meshed);
            match run.roots(cluster) {
                Some(ConfigMap { managed: None, .. }) => {}
                Some(found) => {
                    prop_assert!(wanted, "an orphan in {}", cluster);
                    prop_assert_eq!(found.digest, told(cluster, "r3"));
                }
                None => prop_assert!(!wanted, "nothing in {}", cluster),
            }
        }
        prop_assert_eq!(run.another_leaders(), vec![]);
    }
}
