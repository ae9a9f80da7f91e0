//! What should stand in the clusters, and does not yet?
//!
//! The world → the objects and statuses that the mesh answers for: imports, the services that give
//! them their addresses, how pods find the control plane, and what became of exports, routes,
//! gateways and policies. Compared with
//! what the world has seen there, so that nothing is written twice. Each step can be the last before
//! a crash: the next look at the world goes on from what it finds.
//!
//! ```text
//! exports ─ merge ─► ServiceImport ─ uid ─► derived Service ─ its address ─► ServiceImport.spec.ips
//! ```
//!
//! 1. What is not labelled as the mesh's own is never overwritten and never deleted.
//! 2. Nothing is written into a cluster that is not synced, and what a stale cluster exports stays.
//! 3. While it is not known of every cluster what it exports, nothing is taken away.

mod planner;
mod service;
mod slice;
mod route;
mod gateway;
mod policy;
mod refusal;
mod roots;
mod label;
#[cfg(test)]
mod tests;

pub use gateway::GatewayBody;
pub(crate) use gateway::programmed;
pub use planner::Planner;
pub(crate) use policy::{NOT_AN_AUTHOR, RANGES_VALID, nowhere, strangers, target};
pub use roots::RootsBody;
pub(crate) use route::{failing, partly};
pub use service::{SERVICE_NAME_LABEL, derived_name};
pub(crate) use service::{derived_for, unheard};
pub(crate) use slice::made_for;
pub use slice::{SOURCE_CLUSTER_LABEL, SliceBody};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use isthmus_proto::ids::ClusterId;

use crate::model::{
    IpFamily, Kind, Labels, ListenerStatus, ObjectRef, OtherPort, ParentStatus, Said, Spread,
};
use crate::world::cluster::Cluster;
use crate::world::{State, World};

/// What statuses name as their author (Gateway API: `controllerName`).
pub const CONTROLLER_NAME: &str = "isthmus.dev/controller";

/// One request to one cluster's API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which object.
    pub object: ObjectRef,
    /// What of it.
    pub body: Body,
    /// What to look at again when the request fails.
    pub subject: Subject,
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A ServiceImport, without its status.
    Import(ImportBody),
    /// A ServiceImport's status.
    ImportStatus(ImportStatus),
    /// A Service without pods, for an import.
    Service(ServiceBody),
    /// How the pods of a namespace find the control plane.
    Roots(RootsBody),
    /// Endpoints of a headless import.
    Slice(SliceBody),
    /// The object is to go, if it still is the one with this `uid`.
    Delete {
        /// `metadata.uid`.
        uid: String,
    },
    /// These conditions, beside what others say.
    Conditions(Vec<Said>),
    /// A Gateway's status.
    Gateway(GatewayBody),
    /// The mesh's entries in a route's status, in the place of those that it had there.
    Parents(Vec<ParentStatus>),
}

impl Body {
    /// Does the other one say the same? Since when conditions hold is left out.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let said =
            |a: &[Said], b: &[Said]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b));
        match (self, other) {
            (Self::Conditions(a), Self::Conditions(b)) => said(a, b),
            (Self::Gateway(a), Self::Gateway(b)) => {
                let pair = |(a, b): (&ListenerStatus, &ListenerStatus)| {
                    a.name == b.name && said(&a.conditions, &b.conditions)
                };
                a.addresses == b.addresses
                    && said(&a.conditions, &b.conditions)
                    && a.listeners.len() == b.listeners.len()
                    && a.listeners.iter().zip(&b.listeners).all(pair)
            }
            (Self::Parents(a), Self::Parents(b)) => {
                let pair = |(a, b): (&ParentStatus, &ParentStatus)| {
                    a.parent == b.parent && said(&a.conditions, &b.conditions)
                };
                a.len() == b.len() && a.iter().zip(b).all(pair)
            }
            (Self::ImportStatus(a), Self::ImportStatus(b)) => {
                a.clusters == b.clusters && said(&a.conditions, &b.conditions)
            }
            (
                Self::Import(_)
                | Self::ImportStatus(_)
                | Self::Service(_)
                | Self::Roots(_)
                | Self::Slice(_)
                | Self::Delete { .. }
                | Self::Conditions(_)
                | Self::Gateway(_)
                | Self::Parents(_),
                _,
            ) => self == other,
        }
    }

    /// What it is, in metrics.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Import(_) => "import",
            Self::ImportStatus(_) => "import_status",
            Self::Service(_) => "derived_service",
            Self::Roots(_) => "roots",
            Self::Slice(_) => "endpoint_slice",
            Self::Delete { .. } => "delete",
            Self::Conditions(_) => "conditions",
            Self::Gateway(_) => "gateway_status",
            Self::Parents(_) => "route_status",
        }
    }
}

/// A ServiceImport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportBody {
    /// The one that is to be changed; empty: there is none yet, and none is to be overwritten.
    pub uid: String,
    /// Its labels; the exported ones are among them.
    pub labels: Labels,
    /// Its annotations; the exported ones are among them.
    pub annotations: Labels,
    /// Headless, or with an address of its own.
    pub headless: bool,
    /// The derived service's addresses, once it has some.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<OtherPort>,
    /// `ClientIP` affinity, in seconds.
    pub affinity: Option<u32>,
    /// Which endpoints its clients prefer.
    pub spread: Spread,
    /// Of its addresses; of its pods' where it is headless.
    pub families: Vec<IpFamily>,
}

/// What is said of a ServiceImport.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportStatus {
    /// The clusters that export it, by name.
    pub clusters: Vec<String>,
    /// Its conditions.
    pub conditions: Vec<Said>,
}

/// A derived Service: it selects nothing, and its cluster gives it the address of the import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceBody {
    /// The one that is to be changed; empty: there is none yet, and none is to be overwritten.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// `clusterIP: None`, or whatever the cluster gives.
    pub headless: bool,
    /// Its ports, with a name each if there are several.
    pub ports: Vec<OtherPort>,
    /// `ClientIP` affinity, in seconds.
    pub affinity: Option<u32>,
    /// The ServiceImport that owns it: name and uid. Kubernetes deletes it after its owner.
    pub owner: (String, String),
}

/// What is looked at in one go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// All exports and imports of this namespace and name.
    Name(String, String),
    /// A route: cluster, kind, namespace, name.
    Route(ClusterId, Kind, String, String),
    /// What a cluster has for all of itself, or for the mesh: gateways, clusters, and who is cut off.
    Declared(ClusterId),
    /// An AccessPolicy, or a TrafficPolicy that is refused: cluster, kind, namespace, name.
    Policy(ClusterId, Kind, String, String),
    /// The AccessPolicies of a cluster's namespace that are for services.
    Targeting(ClusterId, String),
    /// The TrafficPolicies of a cluster that are for one service: namespace, name.
    Traffic(ClusterId, String, String),
    /// How the pods of a cluster's namespace find the control plane.
    Roots(ClusterId, String),
}

/// What a look at the world may do.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The time, for conditions that become different.
    pub now: SystemTime,
    /// The clusters that can be written to.
    pub writable: &'a BTreeSet<ClusterId>,
    /// May objects be deleted? Not before it is known which clusters belong to the mesh.
    pub removals: bool,
}

impl Settings<'_> {
    fn may_write(&self, cluster: &Cluster) -> bool {
        cluster.state == State::Synced && self.writable.contains(&cluster.id)
    }
}

/// What came of a look at the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What differs.
    pub writes: Vec<Write>,
    /// How many objects of each kind of write are as they should be.
    pub unchanged: BTreeMap<&'static str, u64>,
    /// What would have to be written, but is somebody else's, and why.
    pub refused: Vec<(ObjectRef, Subject, &'static str)>,
    /// All that was looked at, with its objects that are not as they should be.
    pub amiss: BTreeMap<Subject, BTreeSet<ObjectRef>>,
}

impl Plan {
    fn write(&mut self, object: ObjectRef, body: Body, subject: &Subject) {
        self.writes.push(Write {
            object,
            body,
            subject: subject.clone(),
        });
    }

    fn refuse(&mut self, object: ObjectRef, why: &'static str, subject: &Subject) {
        self.refused.push((object, subject.clone(), why));
    }

    fn unchanged(&mut self, what: &'static str) {
        let count = self.unchanged.entry(what).or_default();
        *count = count.saturating_add(1);
    }

    /// Writes conditions if they differ; since when they hold is kept where they go on to hold.
    fn conditions(
        &mut self,
        object: ObjectRef,
        (wanted, observed): (Vec<Said>, &[Said]),
        settings: Settings<'_>,
        subject: &Subject,
    ) {
        if is_said(&wanted, observed) {
            self.unchanged("conditions");
            return;
        }
        let wanted = dated(wanted, observed, settings.now);
        self.write(object, Body::Conditions(wanted), subject);
    }
}

/// Do the observed conditions say all that is wanted?
fn is_said(wanted: &[Said], observed: &[Said]) -> bool {
    wanted.iter().all(|w| observed.iter().any(|o| o.same(w)))
}

/// The conditions with the time since when each is so.
fn dated(mut wanted: Vec<Said>, observed: &[Said], now: SystemTime) -> Vec<Said> {
    for said in &mut wanted {
        let before = observed
            .iter()
            .find(|o| o.kind == said.kind && o.status == said.status);
        said.since = before.and_then(|o| o.since).or(Some(now));
    }
    wanted
}

fn look(world: &World, settings: Settings<'_>, subject: &Subject, plan: &mut Plan) {
    match subject {
        Subject::Name(namespace, name) => {
            service::look(world, settings, (namespace, name), subject, plan);
        }
        Subject::Route(cluster, kind, namespace, name) => {
            let found = world.clusters.get(cluster);
            let may = |cluster: &&Cluster| settings.may_write(cluster) && cluster.sees(*kind);
            if let Some(cluster) = found.filter(may) {
                let at = (*kind, namespace.as_str(), name.as_str());
                route::look((world, cluster), settings, at, subject, plan);
            }
        }
        Subject::Declared(cluster) => {
            if let Some(cluster) = written(world, settings, cluster) {
                policy::look((world, cluster), settings, subject, plan);
            }
        }
        Subject::Policy(cluster, kind, namespace, name) => {
            let at = (*kind, namespace.as_str(), name.as_str());
            if let Some(cluster) = written(world, settings, cluster) {
                policy::one((world, cluster), settings, at, subject, plan);
            }
        }
        Subject::Targeting(cluster, namespace) => {
            if let Some(cluster) = written(world, settings, cluster) {
                policy::of_services((world, cluster), settings, namespace, plan);
            }
        }
        Subject::Traffic(cluster, namespace, service) => {
            if let Some(cluster) = written(world, settings, cluster) {
                policy::traffic(
                    (world, cluster),
                    settings,
                    (namespace, service),
                    subject,
                    plan,
                );
            }
        }
        Subject::Roots(cluster, namespace) => {
            if let Some(cluster) = written(world, settings, cluster) {
                roots::look((world, cluster, namespace), settings, subject, plan);
            }
        }
    }
}

/// The cluster, if it may be written to now.
fn written<'a>(
    world: &'a World,
    settings: Settings<'_>,
    cluster: &ClusterId,
) -> Option<&'a Cluster> {
    let found = world.clusters.get(cluster);
    found.filter(|cluster| settings.may_write(cluster))
}

fn reference(cluster: &Cluster, kind: Kind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        cluster: cluster.id.clone(),
        kind,
        namespace: namespace.parse().ok(),
        name: name.to_owned(),
    }
}
