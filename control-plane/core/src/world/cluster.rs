//! What does one cluster declare?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::{ClusterId, Namespace};
use isthmus_proto::spiffe::TrustDomain;

use crate::model::{
    AccessPolicy, ClusterProfile, ClusterProperty, ConfigMap, EndpointSlice, Gateway, GatewayClass,
    Kind, KindFreshness, Labels, MeshCluster, Object, ObjectRef, Pod, Reach, ReferenceGrant, Route,
    Service, ServiceExport, ServiceImport, Spec, TrafficPolicy, TrustPolicy,
};
use crate::world::State;
use crate::world::index::{Holders, VipClaim};
use crate::world::refused::Refused;
use crate::world::table::{Entry, Stamp, Table};

pub(crate) type Names = BTreeSet<String>;
/// Kind, namespace, name.
pub(crate) type RouteAt = (Kind, String, String);

/// One cluster: its state, its objects, and the indexes over them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) state: State,
    pub(crate) reason: String,
    pub(crate) expired: bool,
    pub(crate) confirmed_at: Option<SystemTime>,
    /// How old what was restored from disk was; `None`: nothing was.
    pub(crate) restored_at: Option<SystemTime>,
    /// Up to where in its store each kind was told, as far as the source counts.
    pub(crate) positions: BTreeMap<Kind, u64>,
    /// Kinds that are not as fresh as the cluster.
    pub(crate) older: BTreeMap<Kind, KindFreshness>,
    pub(crate) keys: Vec<HandleKey>,
    pub(crate) list: u64,
    /// Kinds that the source cannot see now; what was known of them is kept.
    pub(super) unseen: BTreeSet<Kind>,
    /// Kinds that were never seen: of them absence means nothing.
    pub(super) unknown: BTreeSet<Kind>,
    /// Grows with every change of its objects and of its state.
    pub(crate) revision: u64,
    pub(crate) refused: BTreeMap<ObjectRef, Refused>,
    pub(crate) pods: Table<Pod>,
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<EndpointSlice>,
    pub(crate) exports: Table<ServiceExport>,
    pub(crate) imports: Table<ServiceImport>,
    pub(crate) routes: BTreeMap<Kind, Table<Route>>,
    pub(crate) grants: Table<ReferenceGrant>,
    pub(crate) gateways: Table<Gateway>,
    pub(crate) classes: Table<GatewayClass>,
    pub(crate) properties: Table<ClusterProperty>,
    pub(crate) mesh: Table<MeshCluster>,
    pub(crate) profiles: Table<ClusterProfile>,
    pub(crate) policies: Table<AccessPolicy>,
    pub(crate) traffic: Table<TrafficPolicy>,
    pub(crate) trust: Table<TrustPolicy>,
    pub(crate) roots: Table<ConfigMap>,
    /// What a cluster that speaks for the mesh says of this one: it counts before its own word.
    pub(crate) declared: Option<MeshCluster>,
    /// Kinds that are only counted.
    pub(super) plain: BTreeMap<Kind, Table<Labels>>,
    pub(super) objects: usize,
    /// Namespace, one label of the selector → services. Every pod that a service selects has it.
    pub(crate) selectors: BTreeMap<(String, String, String), Names>,
    pub(crate) slices_of_service: BTreeMap<(String, String), Names>,
    pub(crate) slices_of_pod: BTreeMap<(String, String), Names>,
    pub(crate) routes_of: BTreeMap<(Reach, String, String), BTreeSet<RouteAt>>,
    pub(crate) vips: BTreeMap<IpAddr, BTreeSet<VipClaim>>,
    /// Address → the pods that have it.
    pub(crate) pods_at: BTreeMap<IpAddr, Holders>,
    /// Endpoint id → pods; of several the first by name has it.
    pub(crate) ids: BTreeMap<u64, Holders>,
}

/// Runs the same statement on the table of a kind.
macro_rules! on_table {
    ($self:ident, $kind:expr, |$table:ident| $body:expr) => {
        match $kind {
            Kind::Pod => {
                let $table = &mut $self.pods;
                $body
            }
            Kind::Service => {
                let $table = &mut $self.services;
                $body
            }
            Kind::EndpointSlice => {
                let $table = &mut $self.slices;
                $body
            }
            Kind::ServiceExport => {
                let $table = &mut $self.exports;
                $body
            }
            Kind::ServiceImport => {
                let $table = &mut $self.imports;
                $body
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
                let $table = $self.routes.entry($kind).or_default();
                $body
            }
            Kind::ReferenceGrant => {
                let $table = &mut $self.grants;
                $body
            }
            Kind::Gateway => {
                let $table = &mut $self.gateways;
                $body
            }
            Kind::GatewayClass => {
                let $table = &mut $self.classes;
                $body
            }
            Kind::ClusterProperty => {
                let $table = &mut $self.properties;
                $body
            }
            Kind::MeshCluster => {
                let $table = &mut $self.mesh;
                $body
            }
            Kind::ClusterProfile => {
                let $table = &mut $self.profiles;
                $body
            }
            Kind::AccessPolicy => {
                let $table = &mut $self.policies;
                $body
            }
            Kind::TrafficPolicy => {
                let $table = &mut $self.traffic;
                $body
            }
            Kind::TrustPolicy => {
                let $table = &mut $self.trust;
                $body
            }
            Kind::ConfigMap => {
                let $table = &mut $self.roots;
                $body
            }
            Kind::Namespace | Kind::ServiceAccount | Kind::Deployment => {
                let $table = $self.plain.entry($kind).or_default();
                $body
            }
        }
    };
}

/// Runs the same statement on the table and the value of a spec.
macro_rules! on_spec {
    ($self:ident, $spec:expr, |$table:ident, $value:ident| $body:expr) => {{
        let kind = $spec.kind();
        match $spec {
            Spec::Pod($value) => {
                let $table = &mut $self.pods;
                $body
            }
            Spec::Service($value) => {
                let $table = &mut $self.services;
                $body
            }
            Spec::EndpointSlice($value) => {
                let $table = &mut $self.slices;
                $body
            }
            Spec::ServiceExport($value) => {
                let $table = &mut $self.exports;
                $body
            }
            Spec::ServiceImport($value) => {
                let $table = &mut $self.imports;
                $body
            }
            Spec::Route($value) => {
                let $table = $self.routes.entry(kind).or_default();
                $body
            }
            Spec::ReferenceGrant($value) => {
                let $table = &mut $self.grants;
                $body
            }
            Spec::Gateway($value) => {
                let $table = &mut $self.gateways;
                $body
            }
            Spec::GatewayClass($value) => {
                let $table = &mut $self.classes;
                $body
            }
            Spec::ClusterProperty($value) => {
                let $table = &mut $self.properties;
                $body
            }
            Spec::MeshCluster($value) => {
                let $table = &mut $self.mesh;
                $body
            }
            Spec::ClusterProfile($value) => {
                let $table = &mut $self.profiles;
                $body
            }
            Spec::AccessPolicy($value) => {
                let $table = &mut $self.policies;
                $body
            }
            Spec::TrafficPolicy($value) => {
                let $table = &mut $self.traffic;
                $body
            }
            Spec::TrustPolicy($value) => {
                let $table = &mut $self.trust;
                $body
            }
            Spec::ConfigMap($value) => {
                let $table = &mut $self.roots;
                $body
            }
            Spec::Namespace($value) => {
                let $table = $self.plain.entry(kind).or_default();
                $body
            }
            Spec::ServiceAccount | Spec::Deployment => {
                let ($table, $value) = ($self.plain.entry(kind).or_default(), NO_LABELS);
                $body
            }
        }
    }};
}

/// Why a cluster is unknown of which nothing was heard yet, neither good nor bad.
pub const NOT_LISTED: &str = "not listed yet";

/// What objects that say nothing say.
const NO_LABELS: &Labels = &Labels::new();

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub(crate) fn new(id: ClusterId, trust_domain: TrustDomain) -> Self {
        Self {
            id,
            trust_domain,
            state: State::Unknown,
            reason: NOT_LISTED.to_owned(),
            expired: false,
            confirmed_at: None,
            restored_at: None,
            positions: BTreeMap::new(),
            older: BTreeMap::new(),
            keys: Vec::new(),
            list: 0,
            unseen: BTreeSet::new(),
            unknown: BTreeSet::new(),
            revision: 0,
            refused: BTreeMap::new(),
            pods: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            exports: Table::default(),
            imports: Table::default(),
            routes: BTreeMap::new(),
            grants: Table::default(),
            gateways: Table::default(),
            classes: Table::default(),
            properties: Table::default(),
            mesh: Table::default(),
            profiles: Table::default(),
            policies: Table::default(),
            traffic: Table::default(),
            trust: Table::default(),
            roots: Table::default(),
            declared: None,
            plain: BTreeMap::new(),
            objects: 0,
            selectors: BTreeMap::new(),
            slices_of_service: BTreeMap::new(),
            slices_of_pod: BTreeMap::new(),
            routes_of: BTreeMap::new(),
            vips: BTreeMap::new(),
            pods_at: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    /// Was it ever listed in full? Only then does absence mean anything, and only then do others
    /// hear of it.
    pub(crate) fn listed(&self) -> bool {
        match self.state {
            State::Unknown => false,
            State::Synced | State::Stale => true,
        }
    }

    /// The current list has named the object, whatever it says.
    pub(super) fn keep(&mut self, kind: Kind, namespace: &str, name: &str) {
        let list = self.list;
        on_table!(self, kind, |table| table.keep(namespace, name, list));
    }

    /// Is the object there as it is? Then the current list has named it.
    pub(crate) fn confirm(&mut self, object: &Object) -> bool {
        let (list, created) = (self.list, object.created);
        let at = key(object.namespace.as_ref(), &object.name);
        on_spec!(self, &object.spec, |table, value| table.confirm(
            at,
            (value, created),
            list
        ))
    }

    /// Is it of a kind that others depend on, and there as it is, but for what the mesh says of it? Then since
    /// when it is so.
    pub(crate) fn differs_in_status(&self, object: &Object) -> Option<Stamp> {
        let (namespace, name) = key(object.namespace.as_ref(), &object.name);
        let (same, created, stamp) = match &object.spec {
            Spec::MeshCluster(new) => {
                let old = self.mesh.get(namespace, name)?;
                let as_before = MeshCluster {
                    observed: old.value.observed.clone(),
                    ..new.clone()
                };
                (old.value == as_before, old.created, old.stamp)
            }
            Spec::AccessPolicy(new) => {
                let old = self.policies.get(namespace, name)?;
                (old.value.says_what(new), old.created, old.stamp)
            }
            Spec::TrafficPolicy(new) => {
                let old = self.traffic.get(namespace, name)?;
                (old.value.says_what(new), old.created, old.stamp)
            }
            _ => return None,
        };
        (same && created == object.created).then_some(stamp)
    }

    /// Takes an object in, or in the place of what had its name.
    pub(crate) fn put(&mut self, object: &Object, stamp: Stamp) {
        let at = object.reference();
        self.revision = self.revision.saturating_add(1);
        self.refused.remove(&at);
        let (namespace, name) = key(at.namespace.as_ref(), &at.name);
        let moves = !self.is_indexed_alike(namespace, name, &object.spec);
        if moves {
            self.index(at.kind, namespace, name, false);
        }
        if !self.has(at.kind, namespace, name) {
            self.objects = self.objects.saturating_add(1);
        }
        let (list, created) = (self.list, object.created);
        on_spec!(self, &object.spec, |table, value| {
            table.put(
                namespace,
                name,
                Entry {
                    value: value.clone(),
                    created,
                    stamp,
                    list,
                },
            );
        });
        if moves {
            self.index(at.kind, namespace, name, true);
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, at: &ObjectRef) {
        self.refused.remove(at);
        let (namespace, name) = key(at.namespace.as_ref(), &at.name);
        self.index(at.kind, namespace, name, false);
        let gone = on_table!(self, at.kind, |table| table
            .remove(namespace, name)
            .is_some());
        if gone {
            self.revision = self.revision.saturating_add(1);
            self.objects = self.objects.saturating_sub(1);
        }
    }

    /// The objects of these kinds that the current list has not named.
    pub(crate) fn unnamed(&mut self, asked: impl Fn(Kind) -> bool) -> Vec<ObjectRef> {
        let (list, cluster) = (self.list, self.id.clone());
        let mut gone = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| asked(*kind)) {
            on_table!(self, kind, |table| {
                gone.extend(table.unnamed(list).map(|(namespace, name)| ObjectRef {
                    cluster: cluster.clone(),
                    kind,
                    namespace: namespace.parse().ok(),
                    name: name.to_owned(),
                }));
            });
        }
        gone
    }

    /// Is there a namespace of this name?
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.has(Kind::Namespace, "", name)
    }

    /// The labels of a namespace; `None`: there is none of this name.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Labels> {
        let table = self.plain.get(&Kind::Namespace)?;
        table.get("", name).map(|entry| &entry.value)
    }

    /// Its namespaces.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let table = self.plain.get(&Kind::Namespace).into_iter();
        table.flat_map(|table| table.iter().map(|(_, name, _)| name))
    }

    pub(super) fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        match kind {
            Kind::Pod => self.pods.get(namespace, name).is_some(),
            Kind::Service => self.services.get(namespace, name).is_some(),
            Kind::EndpointSlice => self.slices.get(namespace, name).is_some(),
            Kind::ServiceExport => self.exports.get(namespace, name).is_some(),
            Kind::ServiceImport => self.imports.get(namespace, name).is_some(),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => self
                .routes
                .get(&kind)
                .is_some_and(|t| t.get(namespace, name).is_some()),
            Kind::ReferenceGrant => self.grants.get(namespace, name).is_some(),
            Kind::Gateway => self.gateways.get(namespace, name).is_some(),
            Kind::GatewayClass => self.classes.get(namespace, name).is_some(),
            Kind::ClusterProperty => self.properties.get(namespace, name).is_some(),
            Kind::MeshCluster => self.mesh.get(namespace, name).is_some(),
            Kind::ClusterProfile => self.profiles.get(namespace, name).is_some(),
            Kind::AccessPolicy => self.policies.get(namespace, name).is_some(),
            Kind::TrafficPolicy => self.traffic.get(namespace, name).is_some(),
            Kind::TrustPolicy => self.trust.get(namespace, name).is_some(),
            Kind::ConfigMap => self.roots.get(namespace, name).is_some(),
            Kind::Namespace | Kind::ServiceAccount | Kind::Deployment => self
                .plain
                .get(&kind)
                .is_some_and(|t| t.get(namespace, name).is_some()),
        }
    }
}

/// Where an object lies in its table.
pub(crate) fn key<'a>(namespace: Option<&'a Namespace>, name: &'a str) -> (&'a str, &'a str) {
    (namespace.map_or("", Namespace::as_str), name)
}
