//! Does a client end up with what the world says, whatever happens on the way?

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::model::{
    AccessPolicy, EndpointSlice, Gateway, GatewayAddress, GatewayFront, Kind, Observed, ParentRef,
    Pod, Route, RouteKind, Service, ServiceExport, ServiceImport, ServicePort, ServiceRef,
    ServiceType, SliceEndpoint, SlicePort, TargetPort,
};

mod pair;

const CLUSTERS: [&str; 3] = ["east", "west", "north"];
const APPS: [&str; 2] = ["cart", "pay"];
const KEYS: [&str; 11] = [
    LOCAL,
    EVERYWHERE,
    "shop/pay.shop.svc.cluster.local",
    "host:pay.shop.svc.clusterset.local",
    "host:cart",
    "vip:net-1/10.96.0.1",
    "vip:net-1/10.96.0.2",
    // Of pods, perhaps of several at once.
    "vip:net-1/10.0.0.1",
    "vip:net-1/10.0.0.2",
    "host:example.com",
    "shop/none.shop.svc.clusterset.local",
];

fn any_of<T: Clone + std::fmt::Debug + 'static>(
    choices: &[T],
) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(choices.to_vec())
}

#[expect(clippy::too_many_lines, reason = "one strategy for each kind")]
fn spec(app: &'static str) -> impl Strategy<Value = (String, Spec)> {
    let named = move |spec: Spec| (app.to_owned(), spec);
    let ports = proptest::collection::btree_map(any_of(&["", "http", "web"]), 80..83_u16, 0..3);
    let service = (
        ports,
        1..4_u8,
        any::<bool>(),
        any_of(&[
            ServiceType::ClusterIp,
            ServiceType::Headless,
            ServiceType::ExternalName,
        ]),
    );
    let service = service.prop_map(move |(ports, ip, affinity, kind)| {
        let port = |(name, port): (&str, u16)| ServicePort {
            name: name.to_owned(),
            port,
            target: TargetPort::Number(8000 + port),
            protocol: resource::Protocol::Unspecified,
            app_protocol: None,
        };
        named(Spec::Service(Service {
            kind,
            cluster_ips: vec![IpAddr::from([10, 96, 0, ip])],
            selector: labels(&[("app", app)]),
            ports: ports.into_iter().map(port).collect(),
            client_ip_affinity: affinity,
            ..Service::default()
        }))
    });
    let pod = (0..3_u8, 1..4_u8, any::<[bool; 4]>(), any_of(&APPS));
    let pod = pod.prop_map(
        move |(number, ip, [ready, terminating, meshed, labelled], other)| {
            let pod = Pod {
                labels: labels(&[("app", if labelled { app } else { other })]),
                service_account: app.to_owned(),
                ips: vec![IpAddr::from([10, 0, 0, ip])],
                ready,
                terminating,
                meshed,
                ..Pod::default()
            };
            (format!("{app}-{number}"), Spec::Pod(pod))
        },
    );
    let slice = (0..3_u8, any::<[bool; 2]>(), proptest::option::of(0..3_u8)).prop_map(
        move |(number, [ready, terminating], pod)| {
            let endpoint = SliceEndpoint {
                addresses: vec![IpAddr::from([10, 0, 1, number])],
                ready,
                serving: ready,
                terminating,
                zone: "z".into(),
                pod: pod.map(|pod| format!("{app}-{pod}")),
                hostname: None,
                node: None,
                for_zones: Vec::new(),
            };
            let ports = vec![SlicePort {
                name: "http".into(),
                port: 9000,
            }];
            let slice = EndpointSlice {
                service: app.into(),
                ports,
                endpoints: vec![endpoint],
                managed: None,
            };
            (format!("{app}-{number}"), Spec::EndpointSlice(slice))
        },
    );
    let import = (1..4_u8).prop_map(move |ip| {
        named(Spec::ServiceImport(ServiceImport {
            ips: vec![IpAddr::from([10, 96, 0, ip])],
            ..ServiceImport::default()
        }))
    });
    let target = any_of(&[
        PolicyTarget::Mesh,
        PolicyTarget::Namespace,
        services(&["cart"]),
        PolicyTarget::Workloads(labels(&[("app", "cart")])),
    ]);
    let policy = (target, any::<bool>()).prop_map(move |(target, invalid)| {
        let invalid = invalid.then(|| "unknown field".to_owned());
        named(Spec::AccessPolicy(AccessPolicy {
            invalid,
            ..allow(target)
        }))
    });
    let traffic = (any_of(&[Reach::Cluster, Reach::Clusterset]), any::<bool>());
    let traffic = traffic.prop_map(move |(reach, cover_imported)| {
        named(Spec::TrafficPolicy(TrafficPolicy {
            reach,
            service: app.into(),
            body: resource::TrafficPolicy::default(),
            cover_imported,
            invalid: None,
            observed: Observed::default(),
        }))
    });
    let route = (
        any_of(&[Reach::Cluster, Reach::Clusterset]),
        proptest::option::of(80..82_u16),
    );
    let route = route.prop_map(move |(reach, port)| {
        let namespace = "shop".parse().unwrap();
        let service = ServiceRef {
            reach,
            namespace,
            name: app.into(),
        };
        named(Spec::Route(Route {
            kind: RouteKind::Http,
            parents: vec![ParentRef {
                service,
                port,
                section: None,
                explicit: true,
            }],
            hostnames: Vec::new(),
            rules: Vec::new(),
            invalid: None,
            incompatible: false,
            failing: Vec::new(),
            dropped: Vec::new(),
            limited: Vec::new(),
            generation: 0,
            statuses: Vec::new(),
        }))
    });
    prop_oneof![
        4 => service,
        6 => pod,
        2 => slice,
        3 => Just(named(Spec::ServiceExport(ServiceExport::default()))),
        1 => import,
        1 => policy,
        1 => traffic,
        1 => route,
    ]
}

/// A Service that leads to the gateway of its cluster, or to none.
fn front() -> impl Strategy<Value = Object> {
    let names = (
        any_of(&CLUSTERS),
        any_of(&["ew", "ew", "other"]),
        any_of(&["a", "b"]),
    );
    (names, any_of(&[15_443, 15_443, 80]), 1..4_u8).prop_map(
        |((cluster, gateway, name), port, ip)| {
            let front = GatewayFront {
                gateway: gateway.to_owned(),
                addresses: vec![GatewayAddress::Ip([198, 51, 100, ip].into())],
            };
            let service = Service {
                ports: vec![crate::sample::port("mesh", port)],
                front: Some(Box::new(front)),
                ..Service::default()
            };
            object(cluster, SYSTEM, name, Spec::Service(service))
        },
    )
}

/// Any object of this small universe.
fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![19 => usual_object(), 1 => front()]
}

fn usual_object() -> impl Strategy<Value = Object> {
    let spec = any_of(&APPS).prop_flat_map(spec);
    (
        any_of(&CLUSTERS),
        spec,
        0..3_u64,
        any_of(&["shop", "shop", "shop", SYSTEM]),
    )
        .prop_map(|(cluster, (name, spec), created, namespace)| {
            let mut found = object(cluster, namespace, &name, spec);
            found.created = Some(at(created));
            found
        })
}

const SYSTEM: &str = crate::model::SYSTEM_NAMESPACE;

/// What each cluster always has.
fn base() -> Vec<Object> {
    let mut objects = vec![
        pod("east", "web", 1),
        pod("west", "web", 1),
        pod("north", "web", 1),
    ];
    for (cluster, network) in CLUSTERS.iter().zip(["net-1", "net-2", "net-1"]) {
        objects.push(mesh(cluster, network));
        let mut gateway = gateway(cluster, 1);
        gateway.spec = match gateway.spec {
            Spec::Gateway(gateway) => Spec::Gateway(Gateway {
                // West's is where its Services lead from.
                addresses: if *cluster == "west" {
                    Vec::new()
                } else {
                    gateway.addresses
                },
                ..gateway
            }),
            other => other,
        };
        objects.push(gateway);
    }
    objects
}

/// The last object of each name counts.
fn last_of_each(objects: &[Object]) -> Vec<Object> {
    let mut last = BTreeMap::new();
    for object in base().iter().chain(objects) {
        last.insert(object.reference(), object.clone());
    }
    last.into_values().collect()
}

fn build(objects: &[Object], clusters: &[&str]) -> World {
    let mut world = world(clusters);
    for cluster in clusters {
        list(&mut world, cluster, objects);
    }
    world
}

/// What a new client of a cluster holds: name → version.
fn seen_by(world: &World, cluster: &str) -> BTreeMap<(T, String), String> {
    let client = client(world, &format!("{cluster}/shop/web-1"), "web", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &KEYS);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, world);
    proxy.state()
}

/// One thing that happens.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a test's list of things that happen"
)]
enum Event {
    Apply(Object),
    Delete(usize),
    /// The cluster is listed again, from what is there.
    Relist(&'static str),
    Lose(&'static str),
    /// The client takes this many responses.
    Poll(usize),
    /// The stream breaks with a response on its way.
    Crash,
    Drop(&'static str),
    Ask(&'static str),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => any_object().prop_map(Event::Apply),
        4 => (0..40_usize).prop_map(Event::Delete),
        1 => any_of(&CLUSTERS).prop_map(Event::Relist),
        1 => any_of(&CLUSTERS).prop_map(Event::Lose),
        6 => (0..4_usize).prop_map(Event::Poll),
        1 => Just(Event::Crash),
        1 => any_of(&KEYS).prop_map(Event::Drop),
        1 => any_of(&KEYS).prop_map(Event::Ask),
    ]
}

/// A world, a client of east, and what is declared now.
struct Run {
    world: World,
    there: BTreeMap<crate::model::ObjectRef, Object>,
    proxy: Proxy,
    session: Session,
    sent: BTreeMap<(T, String), String>,
    interests: Interests,
    number: SessionNumber,
}

impl Run {
    fn new() -> Self {
        let objects = base();
        let world = build(&objects, &CLUSTERS);
        let there = objects
            .iter()
            .map(|object| (object.reference(), object.clone()))
            .collect();
        let client = client(&world, "east/shop/web-1", "web", "sidecar");
        let mut proxy = Proxy::sidecar(&client, &KEYS);
        let session = proxy.connect(client);
        let mut interests = Interests::default();
        let number = interests.enter(session.client());
        Self {
            world,
            there,
            proxy,
            session,
            sent: BTreeMap::new(),
            interests,
            number,
        }
    }

    fn change(&mut self, change: Change) {
        let dirty = self.world.apply(change, at(7));
        self.tell(&dirty);
    }

    /// The session hears only of what concerns it, as far as it is known by now.
    fn tell(&mut self, dirty: &Dirty) {
        if self.interests.concerned(dirty).contains(&self.number) {
            self.session.dirty(dirty);
        }
    }

    fn follow(&mut self) {
        if let Some(moved) = self.session.moved() {
            self.interests.follow(self.number, moved);
        }
    }

    fn ask(&mut self, key: &str, wanted: bool) {
        for kind in [T::Service, T::Endpoint, T::Route] {
            let wants = self.proxy.wants.entry(kind).or_default();
            let changed = if wanted {
                wants.insert(key.to_owned())
            } else {
                wants.remove(key)
            };
            if !changed {
                continue;
            }
            let names = vec![key.to_owned()];
            let mut request = DeltaDiscoveryRequest {
                type_url: kind.type_url(),
                ..Default::default()
            };
            if wanted {
                request.resource_names_subscribe = names;
                // What is asked for anew is sent anew.
                self.sent.retain(|(sent, _), _| *sent != kind);
            } else {
                self.forget(kind, key);
                request.resource_names_unsubscribe = names;
            }
            self.session.handle(&request).unwrap();
        }
    }

    /// A client drops what only this key asked for.
    fn forget(&mut self, kind: T, key: &str) {
        let Some(channel) = self.session.channels.get(&kind) else {
            return;
        };
        let subject = channel
            .keys
            .get(key)
            .and_then(|known| known.subject.clone());
        let only = subject.filter(|subject| channel.holdings[subject].keys.len() == 1);
        if let (Some(subject), Some(holds)) = (only, self.proxy.holds.get_mut(&kind)) {
            holds.retain(|name, _| question::subject_of(kind, name).as_ref() != Some(&subject));
            self.sent.retain(|(sent, _), _| *sent != kind);
        }
    }

    /// One of what may be deleted.
    fn deletable(&self, number: usize) -> Option<crate::model::ObjectRef> {
        let kept: Vec<_> = base().iter().map(Object::reference).collect();
        let mut all = self.there.keys().filter(|at| !kept.contains(at));
        all.nth(number).cloned()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Apply(object) => {
                self.there.insert(object.reference(), object.clone());
                self.change(Change::Apply(object));
            }
            Event::Delete(number) => {
                if let Some(at) = self.deletable(number) {
                    self.there.remove(&at);
                    self.change(Change::Delete(at));
                }
            }
            Event::Relist(cluster) => {
                let objects: Vec<_> = self.there.values().cloned().collect();
                let dirty = list(&mut self.world, cluster, &objects);
                self.tell(&dirty);
            }
            Event::Lose(cluster) => {
                self.change(Change::Lost {
                    cluster: id(cluster),
                    reason: "lost".into(),
                });
            }
            Event::Poll(count) => (0..count).for_each(|_| self.poll()),
            Event::Crash => {
                let lost = self.session.poll(&self.world);
                drop(lost);
                let client = self.session.client().clone();
                self.session = self.proxy.connect(client);
                self.interests.leave(self.number);
                self.number = self.interests.enter(self.session.client());
                self.sent.retain(|(kind, name), version| {
                    let held = self.proxy.holds.get(kind).and_then(|held| held.get(name));
                    held.is_some_and(|(held, _)| held == version)
                });
            }
            Event::Drop(key) => self.ask(key, false),
            Event::Ask(key) => self.ask(key, true),
        }
    }

    fn poll(&mut self) {
        self.follow();
        let Some(response) = self.session.poll(&self.world) else {
            return;
        };
        let kind = T::of_url(&response.type_url).unwrap();
        for name in &response.removed_resources {
            self.sent.remove(&(kind, name.clone()));
        }
        for one in &response.resources {
            let before = self
                .sent
                .insert((kind, one.name.clone()), one.version.clone());
            // It comes again only with another name for it.
            let again = before.as_ref() == Some(&one.version) && one.aliases.is_empty();
            assert!(!again, "{kind:?} {} was sent twice", one.name);
        }
        let answer = self.proxy.take(&response);
        self.session.handle(&answer).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// I5: changes in any order, polls at any time, broken streams: in the end the client holds
    /// exactly what a new client of a new world would be told.
    #[test]
    fn a_client_ends_with_what_the_world_says(events in proptest::collection::vec(event(), 1..60)) {
        let mut run = Run::new();
        for event in events {
            run.happen(event);
        }
        for key in KEYS {
            run.ask(key, true);
        }
        run.follow();
        run.proxy.settle(&mut run.session, &run.world);
        for cluster in CLUSTERS {
            // No cluster is lost at the end: freshness would differ.
            run.change(Change::InitDone {
                cluster: id(cluster),
                kept: BTreeSet::new(),
            });
        }
        // Lists that named nothing new remove nothing: InitDone follows an Init.
        run.follow();
        run.proxy.settle(&mut run.session, &run.world);
        let objects: Vec<_> = run.there.values().cloned().collect();
        let fresh = build(&objects, &CLUSTERS);
        let mut expected = seen_by(&fresh, "east");
        let mut found = run.proxy.state();
        expected.retain(|(kind, _), _| *kind != T::ClusterFreshness);
        found.retain(|(kind, _), _| *kind != T::ClusterFreshness);
        prop_assert_eq!(found, expected);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order of changes does not matter, only what they end with.
    #[test]
    fn the_order_of_changes_does_not_matter(
        objects in proptest::collection::vec(any_object(), 0..40), seed in any::<u64>(),
    ) {
        let ordered = last_of_each(&objects);
        let mut mixed = ordered.clone();
        let mut state = seed | 1;
        for at in (1..mixed.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            mixed.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let one = build(&ordered, &CLUSTERS);
        // The other learns all of it from a watch, after empty lists, cluster by cluster reversed.
        let mut other = build(&[], &["north", "west", "east"]);
        for cluster in CLUSTERS {
            let number = CLUSTERS.iter().position(|c| *c == cluster).unwrap() + 1;
            let number = u8::try_from(number).unwrap();
            let key = isthmus_proto::handle::HandleKey::new(number, [number; 32]);
            other.set_handle_keys(&id(cluster), vec![key]);
        }
        for object in mixed {
            other.apply(Change::Apply(object), at(9));
        }
        for cluster in CLUSTERS {
            prop_assert_eq!(seen_by(&one, cluster), seen_by(&other, cluster));
        }
    }
}

/// `shop/cart.shop.svc.`
fn stem(object: &Object) -> String {
    let namespace = object.namespace.as_ref().unwrap();
    format!("{namespace}/{}.{namespace}.svc.", object.name)
}

/// What north declares may add to names that north exports, and to no others.
fn concerns_north(exported: &[&Object], kind: T, name: &str) -> bool {
    match kind {
        T::Gateway | T::ClusterFreshness => name.starts_with("north"),
        T::Endpoint if name.contains("#north/") => true,
        T::Service | T::Endpoint | T::Route => exported
            .iter()
            .any(|o| name.contains(&format!("{}clusterset.", stem(o)))),
        T::TrustBundle | T::AccessPolicy | T::Workload | T::HandleKeys | T::ExportedEndpoint => {
            false
        }
    }
}

proptest! {
    // Each case asks for four names as two clients: a thousand merges in all.
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// S26: whatever north declares, clients of east are told the same about every name that north
    /// does not export, and of what it exports every endpoint is vouched for by its own cluster.
    #[test]
    fn no_cluster_takes_a_name_of_another(objects in proptest::collection::vec(any_object(), 0..24)) {
        // Policies for the whole mesh are meant to be heard.
        let objects: Vec<_> = last_of_each(&objects)
            .into_iter()
            .filter(|object| object.spec.kind() != Kind::AccessPolicy)
            .collect();
        let is_in = |object: &&Object, cluster: &str| object.cluster == id(cluster);
        let without: Vec<_> = objects.iter().filter(|o| !is_in(o, "north")).cloned().collect();
        let exported: Vec<_> = objects
            .iter()
            .filter(|o| is_in(o, "north") && o.spec.kind() == Kind::ServiceExport)
            .collect();
        let merged = build(&objects, &CLUSTERS);
        let alone = build(&without, &["east", "west"]);
        for cluster in ["east", "west"] {
            let mut with = seen_by(&merged, cluster);
            let mut before = seen_by(&alone, cluster);
            for seen in [&mut with, &mut before] {
                seen.retain(|(kind, name), _| !concerns_north(&exported, *kind, name));
            }
            // Where a cluster says that a name covers imports, and has no such service itself, it
            // asks for what others export.
            for export in &exported {
                let own = |o: &&Object| is_in(o, cluster) && o.namespace == export.namespace;
                let mut own = objects.iter().filter(own).filter(|o| o.name == export.name);
                if !own.any(|o| o.spec.kind() == Kind::Service) {
                    for seen in [&mut with, &mut before] {
                        seen.retain(|(_, name), _| !name.contains(&stem(export)));
                    }
                }
            }
            prop_assert_eq!(with, before);
        }
        check_identities(&merged)?;
    }
}

/// S3, S5: who must answer at an endpoint is always of the endpoint's own cluster.
fn check_identities(world: &World) -> Result<(), TestCaseError> {
    let client = client(world, "east/shop/web-1", "web", "sidecar");
    let mut proxy = Proxy::wanting(&KEYS);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, world);
    for name in proxy.names(T::Endpoint) {
        let endpoint: resource::Endpoint = proxy.get(T::Endpoint, name);
        let cluster = endpoint.name.split('/').next().unwrap();
        let plain = endpoint.tunnel_port == 0 && endpoint.identity.is_empty();
        let own = format!("spiffe://{cluster}.mesh.internal/");
        prop_assert!(endpoint.identity.starts_with(&own) || (plain && cluster == "east"));
        prop_assert!(!endpoint.ports.is_empty() && !endpoint.addresses.is_empty());
    }
    Ok(())
}
