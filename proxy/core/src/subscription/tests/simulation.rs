//! A proxy against a server over streams that break: whatever happens on the way, in the end the
//! proxy holds what the world has, as far as it asked.

use super::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Kind, Subscription, Update};
use super::{node, policy, resource, sent};
use crate::snapshot::describe::Content;
use crate::snapshot::tests::{endpoint_of, me, route_of, service_of, upsert};
use crate::snapshot::{Lookup, Snapshot, SnapshotBuilder};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

const SERVICES: [&str; 3] = ["shop/a.shop", "shop/b.shop", "shop/c.shop"];
const KEYS: [&str; 5] = [
    "host:a",
    "host:b",
    "host:other",
    "shop/c.shop",
    "vip:east-net/10.0.0.9",
];
const PODS: [&str; 3] = ["east/shop/p1", "west/shop/p2", "west/shop/p3"];
const CHILDREN: [Kind; 2] = [Kind::Route, Kind::Endpoint];

/// What there is: content by kind and name, and which service each key means.
#[derive(Default, Clone)]
struct World {
    things: BTreeMap<(Kind, String), (u64, Update)>,
    keys: BTreeMap<&'static str, &'static str>,
    version: u64,
}

impl World {
    fn put(&mut self, update: Update) {
        self.version += 1;
        let Update::Upsert { kind, name, .. } = &update else {
            return;
        };
        self.things
            .insert((*kind, name.clone()), (self.version, update));
    }

    /// A service says which names and addresses are its own: one that is given a key has another version.
    fn lead(&mut self, key: &'static str, service: &'static str) {
        if self.keys.insert(key, service) == Some(service) {
            return;
        }
        let to = (Kind::Service, service.to_owned());
        if let Some((version, _)) = self.things.get_mut(&to) {
            self.version += 1;
            *version = self.version;
        }
    }

    fn put_broken(&mut self, mut update: Update) {
        if let Update::Upsert { body, .. } = &mut update {
            *body = Bytes::from_static(b"\xff");
        }
        self.put(update);
    }

    fn under(&self, kind: Kind, key: &str) -> Vec<&(Kind, String)> {
        let service = self.keys.get(key).copied().unwrap_or(key);
        let is = |name: &str| match kind {
            Kind::Service => name == service,
            _ => key == "*" || kind.parent(name) == Some(service),
        };
        self.things
            .keys()
            .filter(|(of, name)| *of == kind && is(name))
            .collect()
    }
}

/// The server's half of one stream.
#[derive(Default)]
struct Server {
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
    sent: BTreeMap<(Kind, String), String>,
    told_empty: BTreeSet<(Kind, String)>,
    told: BTreeSet<(Kind, String)>,
    nonce: u64,
    nacked: usize,
}

impl Server {
    fn hear(&mut self, request: &DeltaDiscoveryRequest, world: &World) {
        let kind = Kind::of_type_url(&request.type_url).unwrap();
        self.nacked += usize::from(request.error_detail.is_some());
        let keys = self.subscribed.entry(kind).or_default();
        for key in &request.resource_names_unsubscribe {
            assert!(keys.remove(key), "{key} was not subscribed");
            self.told.remove(&(kind, key.clone()));
            self.told_empty.remove(&(kind, key.clone()));
            for thing in world.under(kind, key) {
                if !keys
                    .iter()
                    .any(|other| world.under(kind, other).contains(&thing))
                {
                    self.sent.remove(thing);
                }
            }
        }
        for key in &request.resource_names_subscribe {
            assert!(keys.insert(key.clone()), "{key} twice");
            self.told_empty.remove(&(kind, key.clone()));
            self.told.remove(&(kind, key.clone()));
            for thing in world.under(kind, key) {
                self.sent.remove(thing);
            }
        }
        for (name, version) in &request.initial_resource_versions {
            self.sent.insert((kind, name.clone()), version.clone());
        }
    }

    /// What changed for one kind, if anything did.
    fn speak(&mut self, kind: Kind, world: &World) -> Option<DeltaDiscoveryResponse> {
        let keys = self.subscribed.get(&kind)?;
        let mut desired: BTreeMap<&(Kind, String), Vec<String>> = BTreeMap::new();
        let mut removed = Vec::new();
        // The first answer for everything comes even if there is nothing.
        let first = keys.contains("*") && self.told_empty.insert((kind, "*".to_owned()));
        for key in keys {
            let things = world.under(kind, key);
            if things.is_empty() && key != "*" && self.told_empty.insert((kind, key.clone())) {
                removed.push(key.clone());
            }
            if !things.is_empty() && key != "*" {
                self.told_empty.remove(&(kind, key.clone()));
            }
            for thing in things {
                desired.entry(thing).or_default().push(key.clone());
            }
        }
        self.sent.retain(|thing, _| {
            let gone = thing.0 == kind && !desired.contains_key(thing);
            if gone {
                removed.push(thing.1.clone());
            }
            !gone
        });
        let mut resources = Vec::new();
        let mut answered = Vec::new();
        for (thing, keys) in desired {
            let (version, update) = &world.things[thing];
            let version = version.to_string();
            let state = format!("{version} {keys:?}");
            // Sent again when another key leads to it, as an alias is news.
            let known = self
                .sent
                .get(thing)
                .is_some_and(|v| *v == version || *v == state);
            if !known {
                let mut resource = resource(update.clone(), &version);
                // Children carry a key only with the first answer to it.
                let new = |key: &String| {
                    kind == Kind::Service || !self.told.contains(&(kind, key.clone()))
                };
                resource.aliases = keys.iter().filter(|key| new(key)).cloned().collect();
                answered.extend(keys.into_iter().map(|key| (kind, key)));
                resources.push(resource);
                self.sent.insert(thing.clone(), version);
            }
        }
        self.told.extend(answered);
        if resources.is_empty() && removed.is_empty() && !first {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: world.version.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: removed,
        })
    }
}

/// Both ends and what is between them.
struct Sim {
    world: World,
    client: Subscription,
    builder: SnapshotBuilder,
    wanted: BTreeSet<&'static str>,
    server: Server,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
}

impl Sim {
    fn new() -> Self {
        let mut client = Subscription::new(node(), None);
        client.want(Kind::AccessPolicy, "*");
        client.connected();
        Self {
            world: World {
                keys: BTreeMap::from([("host:a", SERVICES[0]), ("host:b", SERVICES[1])]),
                ..World::default()
            },
            client,
            builder: SnapshotBuilder::new(me(), |_| Ok(())),
            wanted: BTreeSet::new(),
            server: Server::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    fn apply(&mut self, updates: Vec<Update>) -> Vec<crate::snapshot::Rejected> {
        updates
            .into_iter()
            .flat_map(|update| self.builder.apply(update))
            .collect()
    }

    fn upstream(&mut self) {
        self.up.extend(sent(&mut self.client));
        if let Some(request) = self.up.pop_front() {
            self.server.hear(&request, &self.world);
        }
    }

    fn downstream(&mut self) {
        if let Some(response) = self.down.pop_front() {
            let nonce = response.nonce.clone();
            let updates = self.client.handle(response, Instant::now()).unwrap();
            let refused = self.apply(updates);
            self.client.acked(&nonce, &refused);
        }
    }

    fn speak(&mut self, kind: Kind) {
        self.down.extend(self.server.speak(kind, &self.world));
    }

    fn break_off(&mut self) {
        self.up.clear();
        self.down.clear();
        self.server = Server::default();
        self.client.disconnected(Instant::now(), 0.0);
        self.client.connected();
    }

    /// A proxy that dies and comes back with what it saved.
    fn restart(&mut self) {
        let keys = self.client.service_keys().map(ToOwned::to_owned).collect();
        let saved = self.builder.export("me", keys);
        self.client = Subscription::new(node(), Some(&saved));
        self.client.want(Kind::AccessPolicy, "*");
        for key in &saved.keys {
            self.client.want_service(key);
        }
        self.builder = SnapshotBuilder::new(me(), |_| Ok(()));
        self.builder.import(&saved);
        self.break_off();
    }

    fn settle(&mut self) -> Arc<Snapshot> {
        for _ in 0..20 {
            for kind in Kind::ALL {
                self.upstream();
                self.speak(kind);
                self.downstream();
            }
        }
        assert!(self.up.is_empty() && self.down.is_empty());
        self.builder.build()
    }

    /// The tables of a proxy that asked for the same things in a quiet world.
    fn expected(&self) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::new(me(), |_| Ok(()));
        builder.apply(Update::Answered {
            kind: Kind::AccessPolicy,
        });
        let mut news: BTreeMap<(Kind, String), Update> = BTreeMap::new();
        for (thing, (_, update)) in &self.world.things {
            if thing.0 == Kind::AccessPolicy {
                news.insert(thing.clone(), update.clone());
            }
        }
        for key in &self.wanted {
            for kind in [Kind::Service, Kind::Route, Kind::Endpoint] {
                let under = self.world.under(kind, key);
                if under.is_empty() {
                    builder.apply(Update::Remove {
                        kind,
                        name: (*key).to_owned(),
                    });
                }
                for thing in under {
                    let update = news
                        .entry(thing.clone())
                        .or_insert_with(|| self.world.things[thing].1.clone());
                    if let Update::Upsert { aliases, .. } = update {
                        aliases.push((*key).to_owned());
                    }
                }
            }
        }
        for update in news.into_values() {
            builder.apply(update);
        }
        builder.build()
    }
}

fn seen(snapshot: &Snapshot, wanted: &BTreeSet<&'static str>) -> (Content, Vec<String>) {
    let look = |key: &&str| {
        let found = match key.split_once(':') {
            Some(("host", host)) => snapshot.services.lookup_host(host),
            Some(_) => snapshot
                .services
                .lookup_vip("10.0.0.9".parse().unwrap(), 80),
            None => snapshot.services.lookup_name(&key.parse().unwrap()),
        };
        match found {
            Lookup::Found(service) => format!("{key}: {}", service.name),
            Lookup::Absent => format!("{key}: absent"),
            Lookup::Unknown => format!("{key}: unknown"),
        }
    };
    (
        snapshot.describe(None).content,
        wanted.iter().map(look).collect(),
    )
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Service(usize, u8),
    Child(Kind, usize, usize, u8),
    Policy(usize, u8),
    Map(usize, usize),
    Want(usize, bool),
    Up,
    Speak(Kind),
    Down,
    Break,
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let child = proptest::sample::select(CHILDREN.to_vec());
    prop_oneof![
        2 => (0..3usize, 0..4u8).prop_map(|(s, how)| Step::Service(s, how)),
        4 => (child, 0..3usize, 0..3usize, 0..4u8).prop_map(|(k, s, n, how)| Step::Child(k, s, n, how)),
        1 => (0..3usize, 0..4u8).prop_map(|(n, how)| Step::Policy(n, how)),
        1 => (0..5usize, 0..3usize).prop_map(|(key, s)| Step::Map(key, s)),
        3 => (0..5usize, any::<bool>()).prop_map(|(key, want)| Step::Want(key, want)),
        4 => Just(Step::Up),
        4 => proptest::sample::select(Kind::ALL.to_vec()).prop_map(Step::Speak),
        4 => Just(Step::Down),
        1 => Just(Step::Break),
        1 => Just(Step::Restart),
    ]
}

fn change(world: &mut World, update: Update, how: u8) {
    match (how, &update) {
        (0, Update::Upsert { kind, name, .. }) => {
            world.things.remove(&(*kind, name.clone()));
        }
        (1, _) => world.put_broken(update),
        _ => world.put(update),
    }
}

fn child(kind: Kind, service: &str, n: usize) -> Update {
    if kind == Kind::Endpoint {
        let (name, endpoint) = endpoint_of(service, PODS[n]);
        upsert(kind, &name, &[], &endpoint)
    } else {
        let (name, route) = route_of(service, &format!("shop/r{n}"));
        upsert(kind, &name, &[], &route)
    }
}

fn step(sim: &mut Sim, step: Step) {
    match step {
        Step::Service(s, how) => {
            let update = upsert(Kind::Service, SERVICES[s], &[], &service_of(SERVICES[s]));
            change(&mut sim.world, update, how);
        }
        Step::Child(kind, s, n, how) => change(&mut sim.world, child(kind, SERVICES[s], n), how),
        Step::Policy(n, how) => change(&mut sim.world, policy(&format!("east/p{n}")), how),
        Step::Map(key, service) => {
            if !KEYS[key].contains('/') {
                sim.world.lead(KEYS[key], SERVICES[service]);
                sim.break_off();
            }
        }
        Step::Want(key, true) => {
            sim.wanted.insert(KEYS[key]);
            sim.client.want_service(KEYS[key]);
        }
        Step::Want(key, false) => {
            sim.wanted.remove(KEYS[key]);
            let updates = sim.client.unwant_service(KEYS[key]);
            sim.apply(updates);
        }
        Step::Up => sim.upstream(),
        Step::Speak(kind) => sim.speak(kind),
        Step::Down => sim.downstream(),
        Step::Break => sim.break_off(),
        Step::Restart => sim.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn in_the_end_the_proxy_holds_what_the_world_has(
        steps in proptest::collection::vec(any_step(), 0..80),
    ) {
        let mut sim = Sim::new();
        for one in steps {
            step(&mut sim, one);
        }
        // What is broken is repaired in the end; until then the last good version is right.
        let broken: Vec<_> = sim
            .world
            .things
            .values()
            .filter(|(_, update)| matches!(update, Update::Upsert { body, .. } if **body == *b"\xff"))
            .map(|(_, update)| update.clone())
            .collect();
        for update in broken {
            if let Update::Upsert { kind, name, .. } = update {
                sim.world.things.remove(&(kind, name));
            }
        }
        let settled = sim.settle();
        prop_assert_eq!(seen(&settled, &sim.wanted), seen(&sim.expected(), &sim.wanted));
    }
}
