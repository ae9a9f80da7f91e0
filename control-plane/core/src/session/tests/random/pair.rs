//! A session and the proxy's own half of the stream, over streams that break: in the end the proxy has
//! the services, routes and endpoints of a new proxy that asks for the same, and its keys lead there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use isthmus_proto::discovery::{DeltaDiscoveryResponse, Node};
use isthmus_proxy_core::balance::Me;
use isthmus_proxy_core::snapshot::describe::{ServiceView, describe_service};
use isthmus_proxy_core::snapshot::{
    Key, Kind as Type, Lookup, Rejected, Snapshot, SnapshotBuilder, Update,
};
use isthmus_proxy_core::subscription::Subscription;

use super::*;

/// What a service or a pod may have open here.
const PORTS: [u16; 5] = [80, 81, 82, 8080, 9000];

/// What a proxy makes of it: its services, and where keys lead.
type Seen = (Vec<ServiceView>, BTreeMap<&'static str, Vec<String>>);

/// A proxy, and what is on its way to it and from it.
struct End {
    subscription: Subscription,
    builder: SnapshotBuilder,
    wanted: BTreeSet<&'static str>,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
}

fn builder() -> SnapshotBuilder {
    let me = Me {
        cluster: id("east"),
        network: "net-1".parse().unwrap(),
        locality: isthmus_proto::locality::Locality::default(),
    };
    SnapshotBuilder::new(me, |_| Ok(()))
}

/// What a sidecar is told of services, and of the gateways to them.
fn subscription(saved: Option<&isthmus_proxy_core::snapshot::Saved>) -> Subscription {
    let mut subscription = Subscription::new(Node::default(), saved);
    subscription.want(Type::Workload, "east/shop/web-1");
    for kind in [Type::AccessPolicy, Type::Gateway, Type::ClusterFreshness] {
        subscription.want(kind, "*");
    }
    subscription
}

impl End {
    fn new() -> Self {
        Self {
            subscription: subscription(None),
            builder: builder(),
            wanted: BTreeSet::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    fn wanting(keys: &BTreeSet<&'static str>) -> Self {
        let mut end = Self::new();
        keys.iter().for_each(|key| end.want(key));
        end
    }

    fn want(&mut self, key: &'static str) {
        self.wanted.insert(key);
        self.subscription.want_service(key);
    }

    fn unwant(&mut self, key: &'static str) {
        self.wanted.remove(key);
        let forgotten = self.subscription.unwant_service(key);
        self.apply(forgotten);
    }

    fn apply(&mut self, updates: Vec<Update>) -> Vec<Rejected> {
        let updates = updates.into_iter();
        updates.flat_map(|one| self.builder.apply(one)).collect()
    }

    /// The next request reaches the session; a new session, where the stream was down.
    fn up(&mut self, session: &mut Session) {
        if !self.subscription.is_connected() {
            *session = Session::new(session.client().clone());
            self.subscription.connected();
        }
        let said = std::iter::from_fn(|| self.subscription.poll_transmit());
        self.up.extend(said);
        if let Some(request) = self.up.pop_front() {
            session.handle(&request).unwrap();
        }
    }

    /// The next response reaches the proxy.
    fn down(&mut self) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        let nonce = response.nonce.clone();
        let updates = self.subscription.handle(response, Instant::now()).unwrap();
        let refused = self.apply(updates);
        self.subscription.acked(&nonce, &refused);
    }

    fn break_off(&mut self) {
        self.up.clear();
        self.down.clear();
        self.subscription.disconnected(Instant::now(), 0.0);
    }

    /// It dies, and comes back with what it saved.
    fn restart(&mut self) {
        self.break_off();
        let keys = self.subscription.service_keys();
        let keys = keys.map(ToOwned::to_owned).collect();
        let saved = self.builder.export("east/shop/web-1", keys);
        self.subscription = subscription(Some(&saved));
        for key in &saved.keys {
            self.subscription.want_service(key);
        }
        self.builder = builder();
        self.builder.import(&saved);
    }

    fn settle(&mut self, session: &mut Session, world: &World) {
        for _ in 0..1_000 {
            self.up(session);
            self.down.extend(session.poll(world));
            if self.up.is_empty() && self.down.is_empty() {
                return;
            }
            self.down();
        }
        panic!("they never stop: {:?}", self.down);
    }

    fn seen(&mut self) -> Seen {
        let snapshot = self.builder.build();
        let services = snapshot.services.iter();
        let views = services.map(|service| describe_service(service, None));
        let keys = self.wanted.iter();
        (
            views.collect(),
            keys.map(|key| (*key, leads(&snapshot, key))).collect(),
        )
    }
}

/// Where a key leads, at each port.
fn leads(snapshot: &Arc<Snapshot>, key: &str) -> Vec<String> {
    let text = |found: Lookup<'_>| match found {
        Lookup::Found(service) => service.name.to_string(),
        Lookup::Absent => "absent".to_owned(),
        Lookup::Unknown => "unknown".to_owned(),
    };
    let services = &snapshot.services;
    match key.parse().unwrap() {
        Key::Host(host) => vec![text(services.lookup_host(&host))],
        Key::Name(name) => vec![text(services.lookup_name(&name))],
        Key::Vip(_, ip) => {
            let at = |port: &u16| text(services.lookup_vip(ip, *port));
            PORTS.iter().map(at).collect()
        }
    }
}

/// One thing that happens to the world, the stream, or the proxy.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a test's list of things that happen"
)]
enum Step {
    World(Event),
    Up,
    Speak,
    Down,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => event().prop_map(Step::World),
        6 => Just(Step::Up),
        4 => Just(Step::Speak),
        4 => Just(Step::Down),
        1 => Just(Step::Restart),
    ]
}

/// The run's world and session, with the proxy's own half in the place of the sample's.
fn happen(run: &mut Run, end: &mut End, step: Step) {
    match step {
        Step::World(Event::Crash) => end.break_off(),
        Step::World(Event::Ask(key)) => end.want(key),
        Step::World(Event::Drop(key)) => end.unwant(key),
        Step::World(Event::Poll(count)) => {
            for _ in 0..count {
                end.up(&mut run.session);
                end.down.extend(run.session.poll(&run.world));
                end.down();
            }
        }
        Step::World(Event::Apply(mut object)) => {
            // A proxy refuses a port that is there twice, as API servers do.
            if let Spec::Service(service) = &mut object.spec {
                let mut numbers = BTreeSet::new();
                service.ports.retain(|port| numbers.insert(port.port));
            }
            run.there.insert(object.reference(), object.clone());
            let dirty = run.world.apply(Change::Apply(object), at(7));
            run.session.dirty(&dirty);
        }
        Step::World(Event::Delete(number)) => {
            if let Some(at_) = run.deletable(number) {
                run.there.remove(&at_);
                let dirty = run.world.apply(Change::Delete(at_), at(7));
                run.session.dirty(&dirty);
            }
        }
        Step::World(Event::Relist(cluster)) => relist(run, cluster),
        Step::World(Event::Lose(cluster)) => {
            let lost = Change::Lost {
                cluster: id(cluster),
                reason: "lost".into(),
            };
            let dirty = run.world.apply(lost, at(7));
            run.session.dirty(&dirty);
        }
        Step::Up => end.up(&mut run.session),
        Step::Speak if end.subscription.is_connected() => {
            end.down.extend(run.session.poll(&run.world));
        }
        Step::Speak => {}
        Step::Down => end.down(),
        Step::Restart => end.restart(),
    }
}

fn relist(run: &mut Run, cluster: &str) {
    let objects: Vec<_> = run.there.values().cloned().collect();
    let dirty = list(&mut run.world, cluster, &objects);
    run.session.dirty(&dirty);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_each_key_leads_where_it_leads_a_new_proxy(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new();
        let mut end = End::new();
        for one in steps {
            happen(&mut run, &mut end, one);
        }
        for cluster in CLUSTERS {
            relist(&mut run, cluster);
        }
        end.settle(&mut run.session, &run.world);

        let objects: Vec<_> = run.there.values().cloned().collect();
        let fresh = build(&objects, &CLUSTERS);
        let mut new = End::wanting(&end.wanted);
        new.settle(&mut Session::new(run.session.client().clone()), &fresh);
        prop_assert_eq!(end.seen(), new.seen());
    }
}
