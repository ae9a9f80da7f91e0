//! Is a Gateway told what became of it?

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::sample::gateway;

/// The last octets of addresses.
type Ips = Vec<u8>;

fn ip(last: u8) -> GatewayAddress {
    GatewayAddress::Ip(IpAddr::from([198, 51, 100, last]))
}

fn listener(name: &str, protocol: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        names_kinds: false,
    }
}

/// East's Gateway `ew`, with these addresses of its own.
fn with(addresses: &[u8], listeners: Vec<Listener>) -> Object {
    let mut built = gateway("east", 1);
    if let Spec::Gateway(gateway) = &mut built.spec {
        gateway.addresses = addresses.iter().map(|last| ip(*last)).collect();
        gateway.listeners = listeners;
    }
    built
}

/// A Service of east beside its gateways.
fn front(name: &str, of: &str, number: u16, addresses: &[u8]) -> Object {
    let front = GatewayFront {
        gateway: of.to_owned(),
        addresses: addresses.iter().map(|last| ip(*last)).collect(),
    };
    let service = Service {
        ports: vec![port("mesh", number)],
        front: Some(Box::new(front)),
        ..Service::default()
    };
    object("east", SYSTEM_NAMESPACE, name, Spec::Service(service))
}

fn now(run: &Run, name: &str) -> Gateway {
    match run.servers.find("east", Kind::Gateway, name) {
        Some(Spec::Gateway(gateway)) => gateway,
        other => panic!("{other:?}"),
    }
}

fn words(conditions: &[Said]) -> Vec<String> {
    let word = |said: &Said| format!("{} {}", said.status.as_str(), said.reason);
    conditions.iter().map(word).collect()
}

#[test]
fn a_gateway_is_told_where_it_is_reached_and_what_its_listeners_do() {
    let mut run = shop();
    let mut routes = listener("routes", "TLS");
    routes.names_kinds = true;
    run.put(with(
        &[7],
        vec![listener("web", "HTTP"), routes, listener("spare", "TLS")],
    ));
    run.settle();
    let found = now(&run, "ew");
    assert_eq!(found.status.addresses, [ip(7)]);
    assert_eq!(
        words(&found.observed.conditions),
        ["True ListenersNotValid", "True Programmed"]
    );
    let told = found.status.listeners.iter();
    let told: Vec<_> = told
        .map(|one| (one.name.as_str(), words(&one.conditions).join(", ")))
        .collect();
    let spare = "False PortUnavailable, False Invalid, True ResolvedRefs".to_owned();
    assert_eq!(
        told,
        [
            ("web", spare.clone()),
            (
                "routes",
                "True Accepted, True Programmed, False InvalidRouteKinds".to_owned()
            ),
            ("spare", spare),
        ]
    );
}

#[test]
fn a_gateway_that_would_have_to_end_a_protocol_is_not_accepted_and_not_told() {
    let mut run = shop();
    for protocol in ["HTTP", "HTTPS", "UDP"] {
        run.put(with(&[7], vec![listener("web", protocol)]));
        run.settle();
        let found = now(&run, "ew");
        assert_eq!(
            words(&found.observed.conditions),
            ["False ListenersNotValid", "False Invalid"]
        );
        assert_eq!(
            words(&found.status.listeners[0].conditions),
            [
                "False UnsupportedProtocol",
                "False Invalid",
                "True ResolvedRefs"
            ]
        );
        assert_eq!(found.status.addresses, []);
        let cluster = &run.world.clusters[&id("east")];
        let heard = crate::translate::gateway::is_heard;
        assert!(!heard((&run.world, cluster), SYSTEM_NAMESPACE, &found));
        let amiss = run.world.conditions();
        assert!(amiss.iter().any(|c| c.reason == "ListenersNotValid"));
    }
    run.put(with(&[7], vec![listener("web", "TCP")]));
    run.settle();
    assert_eq!(now(&run, "ew").status.addresses, [ip(7)]);
}

#[test]
fn a_gateway_without_an_address_has_that_of_its_services() {
    let mut run = shop();
    run.put(with(&[], vec![listener("mesh", "TLS")]));
    run.settle();
    let programmed = |run: &Run| words(&now(run, "ew").observed.conditions)[1].clone();
    assert_eq!(programmed(&run), "False AddressNotAssigned");
    let amiss = run.world.conditions();
    assert!(amiss.iter().any(|c| c.kind == "Programmed"), "{amiss:?}");
    // Another gateway's, one that does not lead to the listener, one elsewhere, and one that waits.
    run.put(front("a", "other", 15_443, &[1]));
    run.put(front("b", "ew", 443, &[2]));
    let mut elsewhere = front("c", "ew", 15_443, &[3]);
    elsewhere.namespace = Some("shop".parse().unwrap());
    run.put(elsewhere);
    run.put(front("d", "ew", 15_443, &[]));
    assert_eq!(run.settle(), 0, "nothing has changed for it");
    run.put(front("d", "ew", 15_443, &[8, 9]));
    run.settle();
    assert_eq!(now(&run, "ew").status.addresses, [ip(8), ip(9)]);
    assert_eq!(programmed(&run), "True Programmed");
    // Its own count before.
    run.put(with(&[7], vec![listener("mesh", "TLS")]));
    run.settle();
    assert_eq!(now(&run, "ew").status.addresses, [ip(7)]);
    run.put(with(&[], vec![listener("mesh", "TLS")]));
    run.remove(&front("d", "ew", 1, &[]).reference());
    run.settle();
    assert_eq!(now(&run, "ew").status.addresses, []);
    assert_eq!(programmed(&run), "False AddressNotAssigned");
}

#[test]
fn where_services_are_not_seen_nothing_is_said_of_a_gateway_that_needs_one() {
    let mut run = shop();
    run.put(with(&[], Vec::new()));
    let objects = run.servers.objects(&id("east"));
    run.world = world(&["east", "west"]);
    crate::sample::list_without(&mut run.world, "east", &objects, Kind::Service);
    run.planner.everything(&run.world);
    let plan = run.plan();
    let of_gateways = plan
        .writes
        .iter()
        .filter(|w| w.object.kind == Kind::Gateway);
    assert_eq!(of_gateways.count(), 0);
}

#[test]
fn addresses_that_somebody_else_keeps_are_left_to_them() {
    let mut run = shop();
    let mut foreign = with(&[5], Vec::new());
    if let Spec::Gateway(gateway) = &mut foreign.spec {
        gateway.status.addresses = vec![ip(5)];
        gateway.status.is_foreign = true;
    }
    run.put(foreign);
    let plan = run.plan();
    let of_it = plan.writes.iter().find(|w| w.object.kind == Kind::Gateway);
    match &of_it.unwrap().body {
        Body::Gateway(body) => assert_eq!(body.addresses, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_where_anothers_pods_are_is_not_usable() {
    let mut run = shop();
    let mut other = mesh("west", "net");
    if let Spec::MeshCluster(mesh) = &mut other.spec {
        mesh.pod_ranges = vec!["198.51.100.0/29".parse().unwrap()];
    }
    run.put(other);
    run.put(with(&[7], Vec::new()));
    run.settle();
    let found = now(&run, "ew");
    assert_eq!(
        words(&found.observed.conditions),
        ["True Accepted", "False AddressNotUsable"]
    );
    assert_eq!(found.status.addresses, []);
    run.put(with(&[7, 9], Vec::new()));
    run.settle();
    let found = now(&run, "ew");
    let programmed = &found.observed.conditions[1];
    assert_eq!(words(std::slice::from_ref(programmed)), ["True Programmed"]);
    assert!(
        programmed
            .message
            .contains("198.51.100.7 is in the ranges of west")
    );
    assert_eq!(found.status.addresses, [ip(9)]);
}

/// Something that somebody does.
#[derive(Debug, Clone)]
enum Step {
    Gateway(&'static str, Ips, Vec<(&'static str, &'static str)>),
    NoGateway(&'static str),
    Service(&'static str, &'static str, u16, Ips),
    NoService(&'static str),
    Class(&'static str),
    Relist,
    /// So many writes arrive, and the leader is gone.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["ew", "second"]);
    let service = || select(vec!["a", "b"]);
    let ips = || subsequence(vec![1, 2, 3], 0..3);
    let listed = vec![("web", "HTTP"), ("mesh", "TLS"), ("raw", "TCP")];
    let listeners = subsequence(listed, 0..3);
    let number = select(vec![15_443, 15_443, 80]);
    prop_oneof![
        4 => (name(), ips(), listeners).prop_map(|(n, ips, l)| Step::Gateway(n, ips, l)),
        1 => name().prop_map(Step::NoGateway),
        4 => (service(), name(), number, ips()).prop_map(|(s, n, p, ips)| Step::Service(s, n, p, ips)),
        1 => service().prop_map(Step::NoService),
        1 => select(vec![CONTROLLER_NAME, "example.com/other"]).prop_map(Step::Class),
        1 => Just(Step::Relist),
        3 => (0..3_usize).prop_map(Step::Crash),
    ]
}

impl Run {
    fn happens(&mut self, step: Step, generation: i64) {
        match step {
            Step::Gateway(name, ips, listeners) => {
                let listeners = listeners.into_iter().map(|(n, p)| listener(n, p));
                let mut built = with(&ips, listeners.collect());
                built.name = name.to_owned();
                if let Spec::Gateway(gateway) = &mut built.spec {
                    gateway.observed.generation = generation;
                }
                self.put(built);
            }
            Step::NoGateway(name) => {
                let mut gone = with(&[], Vec::new());
                gone.name = name.to_owned();
                self.remove(&gone.reference());
            }
            Step::Service(name, of, number, ips) => self.put(front(name, of, number, &ips)),
            Step::NoService(name) => self.remove(&front(name, "", 1, &[]).reference()),
            Step::Class(controller) => {
                let class = GatewayClass {
                    controller: controller.to_owned(),
                    observed: Observed::default(),
                };
                self.put(object("east", "", GATEWAY_CLASS, Spec::GatewayClass(class)));
            }
            Step::Relist => self.relist("east"),
            Step::Crash(count) => {
                for write in self.plan().writes.iter().take(count) {
                    self.servers.write(write).unwrap();
                }
                self.planner = Planner::default();
                self.planner.everything(&self.world);
                self.watch();
            }
        }
    }

    /// Every Gateway says of itself what others are told, and another leader writes nothing.
    fn is_told(&mut self) -> Result<(), TestCaseError> {
        self.settle();
        let cluster = &self.world.clusters[&id("east")];
        let ours = |gateway: &Gateway| crate::translate::gateway::is_ours(cluster, gateway);
        let west = crate::sample::client(&self.world, "west/shop/web-1", "web", "sidecar");
        let clusters = BTreeSet::from([id("east")]);
        let told = crate::translate::gateway::gateways(&self.world, &west, &clusters);
        let told: Vec<resource::Gateway> = told
            .resources()
            .map(|one| prost::Message::decode(one.body.clone()).unwrap())
            .collect();
        for (namespace, name, entry) in cluster.gateways.iter() {
            let (gateway, full) = (&entry.value, format!("east/{namespace}/{name}"));
            if !ours(gateway) {
                prop_assert!(told.iter().all(|one| one.name != full));
                continue;
            }
            let told = told.iter().find(|one| one.name == full);
            let count = told.map_or(0, |one| one.addresses.len());
            prop_assert_eq!(gateway.status.addresses.len(), count);
            let accepted = gateway.observed.conditions[0].status == Truth::True;
            let programmed = gateway.observed.conditions[1].status == Truth::True;
            prop_assert_eq!((accepted, programmed), (told.is_some(), count > 0));
            let working = gateway.status.listeners.iter();
            let working = working.filter(|one| one.conditions[1].status == Truth::True);
            let is_listening = programmed && !gateway.listeners.is_empty();
            prop_assert_eq!(working.count(), usize::from(is_listening));
            let names = |all: Vec<&String>| all.into_iter().cloned().collect::<Vec<_>>();
            prop_assert_eq!(
                names(
                    gateway
                        .status
                        .listeners
                        .iter()
                        .map(|one| &one.name)
                        .collect()
                ),
                names(gateway.listeners.iter().map(|one| &one.name).collect())
            );
        }
        prop_assert_eq!(self.another_leaders(), vec![]);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gateways_status_is_what_others_are_told(steps in proptest::collection::vec(step(), 1..20)) {
        let mut run = Run::of(&["east", "west"], &[]);
        for (generation, step) in (1..).zip(steps) {
            run.happens(step, generation);
        }
        run.is_told()?;
    }
}
