//! What is looked at next?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use isthmus_proto::ids::ClusterId;

use super::{Plan, Settings, Subject, derived_for, look, roots};
use crate::model::{AccessPolicy, Kind, ObjectRef, PolicyTarget, Reach};
use crate::world::cluster::Cluster;
use crate::world::dirty::ServiceKey;
use crate::world::{Dirty, State, World};

/// What there is to look at.
#[derive(Debug, Default)]
pub struct Planner {
    pending: Pending,
    states: BTreeMap<ClusterId, State>,
    unseen: BTreeMap<ClusterId, BTreeSet<Kind>>,
}

/// Each subject once, in the order in which they came: what is looked at again is behind the others. What
/// others depend on has a queue of its own: only statuses wait behind statuses.
#[derive(Debug, Default)]
struct Pending {
    first: VecDeque<Subject>,
    statuses: VecDeque<Subject>,
    all: BTreeSet<Subject>,
    turns: u8,
}

/// Of so many looks one is at a status, whatever else there is.
const STATUS_TURN: u8 = 4;

impl Pending {
    fn insert(&mut self, subject: Subject) {
        if !self.all.insert(subject.clone()) {
            return;
        }
        match subject {
            Subject::Name(..) | Subject::Roots(..) | Subject::Declared(_) => {
                self.first.push_back(subject);
            }
            Subject::Route(..)
            | Subject::Policy(..)
            | Subject::Targeting(..)
            | Subject::Traffic(..) => self.statuses.push_back(subject),
        }
    }

    fn pop_front(&mut self) -> Option<Subject> {
        self.turns = (self.turns + 1) % STATUS_TURN;
        let statuses = self.first.is_empty() || (self.turns == 0 && !self.statuses.is_empty());
        let queue = if statuses {
            &mut self.statuses
        } else {
            &mut self.first
        };
        let subject = queue.pop_front()?;
        self.all.remove(&subject);
        Some(subject)
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Planner {
    /// Is there nothing to look at?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Notes that this has to be looked at again.
    pub fn again(&mut self, subject: Subject) {
        self.pending.insert(subject);
    }

    /// Notes what a change of the world may have altered.
    pub fn note(&mut self, world: &World, dirty: &Dirty) {
        let states = world.clusters.iter().map(|(id, c)| (id.clone(), c.state));
        let states: BTreeMap<_, _> = states.collect();
        let moved = states != self.states;
        self.states = states;
        // A confirmation looks the same, and is not worth a look at everything.
        let seen = |id: &ClusterId| {
            let unseen = world.clusters.get(id).map(Cluster::unseen);
            unseen != self.unseen.get(id)
        };
        let seen_now = dirty.freshness.iter().any(seen);
        if seen_now {
            let unseen = world.clusters.iter();
            self.unseen = unseen
                .map(|(id, cluster)| (id.clone(), cluster.unseen().clone()))
                .collect();
        }
        if dirty.all || moved || seen_now {
            self.everything(world);
            return;
        }
        for (key, affected) in dirty.services.iter().filter(|(_, a)| a.routes) {
            // Which of a service's routes apply depends on all of them.
            let concerned = world.clusters.values().filter(|c| affected.concerns(&c.id));
            concerned.for_each(|cluster| self.siblings(cluster, key));
        }
        for (key, affected) in dirty.services.iter().filter(|(_, a)| a.definition) {
            let name = Subject::Name(key.namespace.clone(), key.name.clone());
            self.pending.insert(name);
            for cluster in world.clusters.values() {
                if !affected.concerns(&cluster.id) {
                    continue;
                }
                self.routes_of(cluster);
                self.policies_for(cluster, key);
            }
        }
        for (key, _) in dirty.services.iter().filter(|(_, a)| a.everywhere) {
            let headless = |cluster: &Cluster| {
                let import = cluster.imports.get(&key.namespace, &key.name);
                import.is_some_and(|import| import.value.headless)
            };
            // Its endpoints stand in its slices; of another import nobody sees them.
            if world.clusters.values().any(headless) {
                let name = Subject::Name(key.namespace.clone(), key.name.clone());
                self.pending.insert(name);
            }
        }
        for object in &dirty.objects {
            self.object(world, object);
        }
        // With its first pod, and after its last one, a namespace is another one.
        for pod in &dirty.workloads {
            if let Some(cluster) = world.clusters.get(pod.cluster()) {
                let namespace = pod.namespace().to_owned();
                let subject = Subject::Roots(cluster.id.clone(), namespace);
                self.pending.insert(subject);
            }
        }
        if dirty.advertised {
            world.clusters.values().for_each(|c| self.roots_of(c));
        }
        // Also where only a Service of theirs is another one.
        for cluster in &dirty.gateways {
            self.pending.insert(Subject::Declared(cluster.clone()));
        }
        // What became of the clusters that the home cluster names is told so, too.
        for cluster in &dirty.freshness {
            self.pending.insert(Subject::Declared(cluster.clone()));
        }
    }

    /// Notes everything.
    pub fn everything(&mut self, world: &World) {
        for cluster in world.clusters.values() {
            let exports = cluster.exports.iter().map(|(ns, name, _)| (ns, name));
            let imports = cluster.imports.iter().map(|(ns, name, _)| (ns, name));
            let derived = cluster
                .services
                .iter()
                .filter_map(|(ns, _, entry)| Some((ns, derived_for(&entry.value)?)));
            for (namespace, name) in exports.chain(imports).chain(derived) {
                let subject = Subject::Name(namespace.to_owned(), name.to_owned());
                self.pending.insert(subject);
            }
            self.routes_of(cluster);
            self.roots_of(cluster);
            self.policies_of(cluster);
            self.pending.insert(Subject::Declared(cluster.id.clone()));
        }
    }

    /// The policies of a cluster, and those that are refused.
    fn policies_of(&mut self, cluster: &Cluster) {
        let taken = cluster.policies.iter();
        let taken = taken.map(|(space, name, _)| (Kind::AccessPolicy, space, name));
        let refused = cluster.refused.keys().filter_map(|at| {
            let told = matches!(at.kind, Kind::AccessPolicy | Kind::TrafficPolicy);
            let space = at.namespace.as_ref().map_or("", |space| space.as_str());
            told.then_some((at.kind, space, at.name.as_str()))
        });
        for (kind, space, name) in taken.chain(refused) {
            let (cluster, space) = (cluster.id.clone(), space.to_owned());
            let subject = Subject::Policy(cluster, kind, space, name.to_owned());
            self.pending.insert(subject);
        }
        for (space, _, entry) in cluster.traffic.iter() {
            let (space, service) = (space.to_owned(), entry.value.service.clone());
            let subject = Subject::Traffic(cluster.id.clone(), space, service);
            self.pending.insert(subject);
        }
    }

    /// The policies of a cluster that name the service.
    fn policies_for(&mut self, cluster: &Cluster, key: &ServiceKey) {
        let space = &key.namespace;
        let mut traffic = cluster.traffic.within(space);
        if traffic.any(|(_, entry)| entry.value.service == key.name) {
            let (space, service) = (space.clone(), key.name.clone());
            let subject = Subject::Traffic(cluster.id.clone(), space, service);
            self.pending.insert(subject);
        }
        let targets = |policy: &AccessPolicy| match &policy.target {
            PolicyTarget::Services(services) => services.contains(&key.name),
            PolicyTarget::Mesh
            | PolicyTarget::Cluster
            | PolicyTarget::Namespace
            | PolicyTarget::Workloads(_) => false,
        };
        let mut access = cluster.policies.within(space);
        if access.any(|(_, entry)| targets(&entry.value)) {
            let subject = Subject::Targeting(cluster.id.clone(), space.clone());
            self.pending.insert(subject);
        }
    }

    fn object(&mut self, world: &World, at: &ObjectRef) {
        let namespace = at.namespace.as_ref().map_or("", |ns| ns.as_str());
        match at.kind {
            Kind::ServiceExport | Kind::ServiceImport => {
                let name = Subject::Name(namespace.to_owned(), at.name.clone());
                self.pending.insert(name);
            }
            Kind::Namespace => {
                let subject = Subject::Roots(at.cluster.clone(), at.name.clone());
                self.pending.insert(subject);
                for cluster in world.clusters.values() {
                    for (name, _) in cluster.exports.within(&at.name) {
                        let subject = Subject::Name(at.name.clone(), name.to_owned());
                        self.pending.insert(subject);
                    }
                }
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
                let (namespace, name) = (namespace.to_owned(), at.name.clone());
                let subject = Subject::Route(at.cluster.clone(), at.kind, namespace, name);
                self.pending.insert(subject);
            }
            Kind::ReferenceGrant => {
                if let Some(cluster) = world.clusters.get(&at.cluster) {
                    self.routes_of(cluster);
                }
            }
            Kind::ConfigMap => {
                let subject = Subject::Roots(at.cluster.clone(), namespace.to_owned());
                self.pending.insert(subject);
            }
            Kind::ClusterProperty => {
                // Told at the MeshCluster, in the home cluster.
                let home = world.standings().map(|(home, _)| home.clone());
                if let Some(home) = home {
                    self.pending.insert(Subject::Declared(home));
                }
            }
            Kind::AccessPolicy | Kind::TrafficPolicy => {
                let traffic = world.clusters.get(&at.cluster).and_then(|cluster| {
                    let found = cluster.traffic.get(namespace, &at.name);
                    found.filter(|_| at.kind == Kind::TrafficPolicy)
                });
                if let Some(entry) = traffic {
                    let (space, service) = (namespace.to_owned(), entry.value.service.clone());
                    let subject = Subject::Traffic(at.cluster.clone(), space, service);
                    self.pending.insert(subject);
                }
                let (space, name) = (namespace.to_owned(), at.name.clone());
                let subject = Subject::Policy(at.cluster.clone(), at.kind, space, name);
                self.pending.insert(subject);
            }
            Kind::Gateway | Kind::GatewayClass | Kind::MeshCluster | Kind::TrustPolicy => {
                self.pending.insert(Subject::Declared(at.cluster.clone()));
            }
            Kind::ServiceAccount
            | Kind::Pod
            | Kind::Deployment
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ClusterProfile => {}
        }
    }

    /// The routes of one service.
    fn siblings(&mut self, cluster: &Cluster, service: &ServiceKey) {
        for reach in [Reach::Cluster, Reach::Clusterset] {
            let at = (reach, service.namespace.clone(), service.name.clone());
            for ((kind, namespace, name), _) in cluster.routes_of(&at) {
                let (namespace, name) = (namespace.clone(), name.clone());
                let subject = Subject::Route(cluster.id.clone(), *kind, namespace, name);
                self.pending.insert(subject);
            }
        }
    }

    fn routes_of(&mut self, cluster: &Cluster) {
        for (kind, table) in &cluster.routes {
            for (namespace, name, _) in table.iter() {
                let (namespace, name) = (namespace.to_owned(), name.to_owned());
                let subject = Subject::Route(cluster.id.clone(), *kind, namespace, name);
                self.pending.insert(subject);
            }
        }
    }

    fn roots_of(&mut self, cluster: &Cluster) {
        for namespace in roots::namespaces(cluster) {
            let subject = Subject::Roots(cluster.id.clone(), namespace.to_owned());
            self.pending.insert(subject);
        }
    }

    /// Looks at so many of the things that were noted: the world's writer waits meanwhile.
    pub fn plan(&mut self, world: &World, settings: Settings<'_>, count: usize) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..count {
            let Some(subject) = self.pending.pop_front() else {
                break;
            };
            let (writes, refused) = (plan.writes.len(), plan.refused.len());
            look(world, settings, &subject, &mut plan);
            let written = plan.writes.iter().skip(writes).map(|write| &write.object);
            let refused = plan.refused.iter().skip(refused).map(|(at, ..)| at);
            let amiss = written.chain(refused).cloned().collect();
            plan.amiss.insert(subject, amiss);
        }
        plan
    }
}
