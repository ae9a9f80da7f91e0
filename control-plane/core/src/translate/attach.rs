//! Which routes apply at which port of a service?
//!
//! Gateway API for meshes (GEP-1294): a route in the service's namespace is for everybody; a route in
//! another namespace is for the clients of that namespace, and takes the place of the others at the
//! ports that it is for. At one port routes of one kind apply: GRPCRoutes, or else HTTPRoutes, or
//! else TLSRoutes, or else TCPRoutes.

use std::collections::{BTreeMap, BTreeSet};

use crate::import;
use crate::model::{ParentRef, Reach, Route, RouteKind, ServicePort, ServiceRef, ServiceType};
use crate::translate::service::traffic;
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::table::Entry;

/// A service's front: what calls are known by.
pub(crate) enum Front {
    /// These ports, at addresses of its own.
    Ports(Vec<ServicePort>),
    /// Its clients call pods at these ports: no call is the service's.
    Headless(Vec<ServicePort>),
    /// An alias in DNS: the call is another one's.
    Alias,
    /// There is no such service.
    Absent,
}

impl Front {
    pub(crate) fn of(world: &World, cluster: &Cluster, service: &ServiceRef) -> Self {
        let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
        let merged = || {
            let merged = import::merged(world, namespace, name)?;
            Some((merged.kind, merged.ports))
        };
        let found = match service.reach {
            Reach::Cluster => {
                let own = cluster.services.get(namespace, name);
                let own = own.map(|entry| (entry.value.kind, entry.value.ports.clone()));
                own.or_else(|| merged().filter(|_| covers(cluster, service)))
            }
            Reach::Clusterset => merged(),
        };
        match found {
            Some((ServiceType::ClusterIp, ports)) => Self::Ports(ports),
            Some((ServiceType::Headless, ports)) => Self::Headless(ports),
            Some((ServiceType::ExternalName, _)) => Self::Alias,
            None => Self::Absent,
        }
    }
}

/// Does a name cover what other clusters export?
pub(crate) fn covers(cluster: &Cluster, service: &ServiceRef) -> bool {
    match service.reach {
        Reach::Cluster => traffic(cluster, service).is_some_and(|policy| policy.cover_imported),
        Reach::Clusterset => true,
    }
}

/// Namespace and kind of the routes that apply, by port; `None`: at the ports that nobody names.
pub(crate) type Winners<'a> = BTreeMap<Option<u16>, (&'a str, RouteKind)>;

/// A route, and for which ports of the service it is.
pub(crate) struct Found<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) entry: &'a Entry<Route>,
    every: bool,
    ports: BTreeSet<u16>,
}

impl Found<'_> {
    /// `None`: a port that nobody names.
    fn is_for(&self, port: Option<u16>) -> bool {
        self.every || port.is_some_and(|port| self.ports.contains(&port))
    }
}

/// The routes of a service, as one cluster declares them.
pub(crate) struct Attached<'a> {
    pub(crate) found: Vec<Found<'a>>,
    /// Those of the service; empty if it is not there.
    own: BTreeSet<u16>,
    /// ... and those that routes name.
    ports: BTreeSet<u16>,
}

impl<'a> Attached<'a> {
    pub(crate) fn of(world: &World, cluster: &'a Cluster, service: &ServiceRef) -> Self {
        let front = match Front::of(world, cluster, service) {
            Front::Ports(ports) => ports,
            Front::Absent => Vec::new(),
            // Not to be supported as parents (GEP-1294): there is nothing to catch.
            Front::Headless(_) | Front::Alias => {
                return Self {
                    found: Vec::new(),
                    own: BTreeSet::new(),
                    ports: BTreeSet::new(),
                };
            }
        };
        let at = (
            service.reach,
            service.namespace.to_string(),
            service.name.clone(),
        );
        let own: BTreeSet<u16> = front.iter().map(|port| port.port).collect();
        let mut ports = own.clone();
        let mut found = Vec::new();
        for ((_, namespace, name), entry) in cluster.routes_of(&at) {
            let mut one = Found {
                namespace,
                name,
                entry,
                every: false,
                ports: BTreeSet::new(),
            };
            let parents = entry.value.parents.iter();
            for parent in parents.filter(|parent| parent.service == *service) {
                match place(&front, parent) {
                    Place::Every => one.every = true,
                    Place::Port(port) => {
                        one.ports.insert(port);
                    }
                    Place::Nowhere => {}
                }
            }
            ports.extend(&one.ports);
            found.push(one);
        }
        Self { found, own, ports }
    }

    /// Has this namespace routes of its own for the service?
    pub(crate) fn has(&self, namespace: &str) -> bool {
        self.found.iter().any(|found| found.namespace == namespace)
    }

    /// Whose routes, and of which kind, apply at each port to clients for whom the routes of these
    /// namespaces are: the first before the others.
    pub(crate) fn winners<'b>(&self, namespaces: &[&'b str]) -> Winners<'b> {
        let ports = self.ports.iter().copied().map(Some);
        let winner = |port| {
            let mut kinds = namespaces.iter().map(|of| (*of, self.kind_at(of, port)));
            let (namespace, kind) = kinds.find(|(_, kind)| kind.is_some())?;
            Some((port, (namespace, kind?)))
        };
        ports.chain([None]).filter_map(winner).collect()
    }

    /// The ports where a route applies. One `None`: every port.
    pub(crate) fn ports_of(&self, route: &Found<'_>, winners: &Winners<'_>) -> Vec<Option<u16>> {
        let own = (route.namespace, route.entry.value.kind);
        let applies = |port: &Option<u16>| route.is_for(*port) && winners.get(port) == Some(&own);
        let ports = || self.ports.iter().copied().map(Some);
        if applies(&None) && ports().all(|port| applies(&port)) {
            return vec![None];
        }
        ports().filter(applies).collect()
    }

    /// The kind of those routes of a namespace that apply at a port. `None`: it has none there.
    fn kind_at(&self, namespace: &str, port: Option<u16>) -> Option<RouteKind> {
        let own = self.found.iter().filter(|f| f.namespace == namespace);
        let there = own.filter(|found| found.is_for(port));
        let kinds = there.map(|found| found.entry.value.kind);
        kinds.min_by_key(|kind| specificity(*kind))
    }

    /// What takes the place of a route of this namespace and kind where it is attached to a parent:
    /// in words, and whether that is so at all ports. `None`: nothing.
    pub(crate) fn conflict(
        &self,
        (namespace, kind): (&str, RouteKind),
        port: Option<u16>,
    ) -> Option<(bool, String)> {
        // A port that only a route names is none where the service is known: nothing applies there.
        let ports = if self.own.is_empty() {
            &self.ports
        } else {
            &self.own
        };
        let all: Vec<Option<u16>> = match port {
            None if ports.is_empty() => vec![None],
            None => ports.iter().copied().map(Some).collect(),
            Some(port) => vec![Some(port)],
        };
        let taken = all.iter().filter_map(|port| {
            let winner = self.kind_at(namespace, *port)?;
            let port = port.map_or_else(|| "its ports".to_owned(), |port| format!("port {port}"));
            (winner != kind).then(|| format!("{} at {port}", winner.kind()))
        });
        let taken: Vec<String> = taken.collect();
        let why = || format!("another kind of route applies: {}", taken.join(", "));
        (!taken.is_empty()).then(|| (taken.len() == all.len(), why()))
    }
}

/// GEP-1294: the first kind wins.
fn specificity(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Grpc => 0,
        RouteKind::Http => 1,
        RouteKind::Tls => 2,
        RouteKind::Tcp => 3,
    }
}

/// Where a parent reference points to.
pub(crate) enum Place {
    Every,
    Port(u16),
    /// The port that it names is not there, or has another number.
    Nowhere,
}

/// Where a parent reference points to in a service with these ports.
pub(crate) fn place(ports: &[ServicePort], parent: &ParentRef) -> Place {
    let Some(section) = &parent.section else {
        return parent.port.map_or(Place::Every, Place::Port);
    };
    let named = ports.iter().find(|port| port.name == *section);
    match named.map(|port| port.port) {
        Some(port) if parent.port.is_none_or(|number| number == port) => Place::Port(port),
        Some(_) | None => Place::Nowhere,
    }
}
