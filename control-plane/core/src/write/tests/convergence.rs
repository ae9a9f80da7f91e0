//! Does it come out right, wherever it was interrupted?

use proptest::prelude::*;

use super::*;

const CLUSTERS: [&str; 3] = ["east", "west", "north"];
const APPS: [&str; 2] = ["cart", "pay"];

/// Something that happens in a cluster, or to the control plane.
#[derive(Debug, Clone)]
enum Step {
    Service(usize, usize, Shape),
    NoService(usize, usize),
    Export(usize, usize, u64),
    NoExport(usize, usize),
    /// A user's own import, or a user who deletes the mesh's.
    Import(usize, usize),
    NoImport(usize, usize),
    NoDerived(usize, usize),
    Namespace(usize, bool),
    Lost(usize),
    Listed(usize),
    GarbageCollected,
    /// The leader plans, and its first so many writes arrive; then it is gone.
    Crash(usize),
    /// The leader plans, so many writes arrive, the others fail, and it hears of what happened.
    Write(usize),
    Watch,
}

#[derive(Debug, Clone)]
struct Shape {
    kind: ServiceType,
    ports: Vec<(&'static str, u16)>,
    affinity: Option<u32>,
    label: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let kinds = [
        ServiceType::ClusterIp,
        ServiceType::ClusterIp,
        ServiceType::Headless,
        ServiceType::ExternalName,
    ];
    let ports =
        proptest::sample::subsequence(vec![("http", 80), ("http", 81), ("", 80), ("", 90)], 1..3);
    let affinity = proptest::option::of(proptest::sample::select(vec![10, 20]));
    (
        proptest::sample::select(kinds.to_vec()),
        ports,
        affinity,
        any::<bool>(),
    )
        .prop_map(|(kind, ports, affinity, label)| Shape {
            kind,
            ports,
            affinity,
            label,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let at = (0..CLUSTERS.len(), 0..APPS.len());
    prop_oneof![
        4 => (at.clone(), shape()).prop_map(|((c, a), shape)| Step::Service(c, a, shape)),
        1 => at.clone().prop_map(|(c, a)| Step::NoService(c, a)),
        5 => (at.clone(), 0..4_u64).prop_map(|((c, a), age)| Step::Export(c, a, age)),
        3 => at.clone().prop_map(|(c, a)| Step::NoExport(c, a)),
        1 => at.clone().prop_map(|(c, a)| Step::Import(c, a)),
        1 => at.clone().prop_map(|(c, a)| Step::NoImport(c, a)),
        1 => at.prop_map(|(c, a)| Step::NoDerived(c, a)),
        1 => (0..CLUSTERS.len(), any::<bool>()).prop_map(|(c, there)| Step::Namespace(c, there)),
        1 => (0..CLUSTERS.len()).prop_map(Step::Lost),
        2 => (0..CLUSTERS.len()).prop_map(Step::Listed),
        1 => Just(Step::GarbageCollected),
        6 => (0..6_usize).prop_map(Step::Crash),
        6 => (0..9_usize).prop_map(Step::Write),
        4 => Just(Step::Watch),
    ]
}

fn at_name(cluster: usize, kind: Kind, name: &str) -> ObjectRef {
    ObjectRef {
        cluster: id(CLUSTERS[cluster]),
        kind,
        namespace: Some("shop".parse().unwrap()),
        name: name.to_owned(),
    }
}

fn build(cluster: usize, app: usize, shape: &Shape) -> Object {
    let mut built = service(CLUSTERS[cluster], APPS[app], 5);
    if let Spec::Service(service) = &mut built.spec {
        service.kind = shape.kind;
        service.ports = shape.ports.iter().map(|(n, p)| port(n, *p)).collect();
        service.client_ip_affinity = shape.affinity.is_some();
        service.affinity_seconds = shape.affinity;
        if shape.label {
            service.others = vec![OtherPort {
                port: 53,
                transport: Transport::Udp,
                name: "dns".into(),
                app_protocol: None,
            }];
        }
    }
    built
}

impl Run {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let name = |app: usize| APPS[app];
        match step {
            Step::Service(c, a, shape) => self.servers.put(build(*c, *a, shape)),
            Step::NoService(c, a) => self.servers.remove(&at_name(*c, Kind::Service, name(*a))),
            Step::Export(c, a, age) => {
                let mut made = export(CLUSTERS[*c], name(*a));
                made.created = Some(at(*age));
                self.servers.put(made);
            }
            Step::NoExport(c, a) => {
                self.servers
                    .remove(&at_name(*c, Kind::ServiceExport, name(*a)));
            }
            Step::Import(c, a) => {
                let own = ServiceImport::default();
                let spec = Spec::ServiceImport(own);
                let own = object(CLUSTERS[*c], "shop", name(*a), spec);
                if self.import(CLUSTERS[*c], name(*a)).is_none() {
                    self.servers.put(own);
                }
            }
            Step::NoImport(c, a) => {
                self.servers
                    .remove(&at_name(*c, Kind::ServiceImport, name(*a)));
            }
            Step::NoDerived(c, a) => {
                let derived = derived_name("shop", name(*a));
                self.servers.remove(&at_name(*c, Kind::Service, &derived));
            }
            Step::Namespace(c, there) => {
                let space = object(CLUSTERS[*c], "", "shop", Spec::Namespace(Labels::new()));
                if *there {
                    self.servers.put(space);
                }
            }
            Step::Lost(c) => lost(self, CLUSTERS[*c]),
            Step::Listed(c) => self.relist(CLUSTERS[*c]),
            Step::GarbageCollected => self.servers.collect_garbage(),
            Step::Crash(count) => {
                self.deliver(*count)?;
                // The next leader knows nothing but the world.
                self.planner = Planner::default();
                self.planner.everything(&self.world);
            }
            Step::Write(count) => {
                for write in self.deliver(*count)? {
                    self.planner.again(write.subject);
                }
            }
            Step::Watch => self.watch(),
        }
        Ok(())
    }

    /// Plans, and lets the first so many writes arrive; the others.
    fn deliver(&mut self, count: usize) -> Result<Vec<Write>, TestCaseError> {
        let plan = self.plan();
        let mut failed = Vec::new();
        for (number, write) in plan.writes.into_iter().enumerate() {
            self.check(&write)?;
            if number >= count || self.servers.write(&write).is_err() {
                failed.push(write);
            }
        }
        Ok(failed)
    }

    /// What no write may do.
    fn check(&self, write: &Write) -> Result<(), TestCaseError> {
        let state = |cluster: &ClusterId| self.world.state(cluster.as_str());
        prop_assert_eq!(state(&write.object.cluster), Some(State::Synced));
        let Body::Delete { .. } = write.body else {
            return Ok(());
        };
        // A service may be deleted to be made anew; an import goes only with its last export.
        if write.object.kind == Kind::ServiceImport {
            let known = |c: &str| state(&id(c)) != Some(State::Unknown);
            let imports = &self.world.clusters[&write.object.cluster].imports;
            let import = &imports.get("shop", &write.object.name).unwrap().value;
            let named = crate::world::exporters::exporters(import);
            let named = named.is_some_and(|named| named.into_iter().all(known));
            let all = CLUSTERS.iter().all(|c| known(c));
            prop_assert!(named || all, "a cluster that exported it is unknown");
            let stale = CLUSTERS
                .iter()
                .filter(|c| state(&id(c)) == Some(State::Stale));
            for cluster in stale {
                let offers = crate::import::exports(&self.world, "shop", &write.object.name);
                prop_assert!(
                    offers
                        .iter()
                        .all(|offer| offer.cluster.as_str() != *cluster)
                );
            }
        }
        Ok(())
    }

    /// Everything is seen, and written until nothing is left.
    fn end(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..3 {
            self.servers.collect_garbage();
            for cluster in CLUSTERS {
                self.relist(cluster);
            }
            self.watch();
            self.settle();
        }
        let merged = |app: &str| crate::import::merged(&self.world, "shop", app);
        for (cluster, app) in CLUSTERS
            .iter()
            .flat_map(|c| APPS.iter().map(move |a| (*c, *a)))
        {
            let (import, derived) = (self.import(cluster, app), self.derived(cluster, app));
            let spaced = self.world.clusters[&id(cluster)].has_namespace("shop");
            let import = match import {
                // A user's own: it is as it was, and nothing of the mesh's is beside it.
                Some(own) if own.managed.is_none() => {
                    prop_assert_eq!(own, ServiceImport::default());
                    prop_assert_eq!(derived, None);
                    continue;
                }
                import => import,
            };
            let Some(merged) = merged(app).filter(|_| spaced) else {
                prop_assert_eq!(import, None, "an orphan in {}", cluster);
                prop_assert_eq!(derived, None, "an orphan in {}", cluster);
                continue;
            };
            let (import, derived) = (import.unwrap(), derived.unwrap());
            let headless = merged.kind == ServiceType::Headless;
            prop_assert_eq!(import.headless, headless);
            prop_assert_eq!(&import.ips, &derived.cluster_ips);
            prop_assert_eq!(import.ips.is_empty(), headless);
            prop_assert_eq!(&import.ports, &merged.all_ports);
            let mut clusters: Vec<_> = merged.exporters.iter().map(ToString::to_string).collect();
            clusters.sort();
            prop_assert_eq!(&import.clusters, &clusters);
            let managed = import.managed.unwrap();
            let exporters = crate::world::exporters::EXPORTERS_ANNOTATION;
            prop_assert!(!managed.annotations.contains_key(exporters));
            prop_assert_eq!(derived.managed.unwrap().owner, managed.uid);
        }
        prop_assert_eq!(self.another_leaders(), vec![]);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, and whichever write was the last before a crash.
    #[test]
    fn every_interruption_converges(steps in proptest::collection::vec(step(), 1..40)) {
        let mut run = Run::of(&CLUSTERS, &[]);
        // One cluster is unknown at first.
        run.world = world(&CLUSTERS);
        run.planner = Planner::default();
        for cluster in CLUSTERS.iter().take(2) {
            run.relist(cluster);
        }
        for step in &steps {
            run.step(step)?;
        }
        run.end()?;
    }
}

/// Each single write in turn is the last one before the crash.
#[test]
fn a_crash_after_any_write_converges() {
    for count in 0..20 {
        let objects = [service("east", "cart", 5), export("east", "cart")];
        let mut run = Run::of(&CLUSTERS, &objects);
        let mut left = count;
        while left > 0 {
            let plan = run.plan();
            if plan.writes.is_empty() {
                break;
            }
            for write in plan.writes.iter().take(left) {
                run.servers.write(write).unwrap();
            }
            left = left.saturating_sub(plan.writes.len());
            run.watch();
        }
        run.planner = Planner::default();
        run.planner.everything(&run.world);
        run.watch();
        run.end().unwrap();
        run.remove(&export("east", "cart").reference());
        // Of the deletes, too, any may be the last.
        let plan = run.plan();
        for write in plan.writes.iter().take(count) {
            run.servers.write(write).unwrap();
        }
        run.planner = Planner::default();
        run.planner.everything(&run.world);
        run.watch();
        run.end().unwrap();
    }
}
