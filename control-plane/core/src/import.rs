//! What do all clusters offer together under one name?
//!
//! The Multi-Cluster Services API (KEP-1645): exports of the same namespace and name are one
//! service. Its ports are the union of the clusters' ports; where two clusters contradict each
//! other, the older export wins, and the younger one has the conflict in its status. Nothing is
//! merged that was not exported: a cluster cannot take a name of another's by having it.

use isthmus_proto::ids::ClusterId;

use crate::model::{Service, ServicePort, ServiceType};
use crate::world::World;
use crate::world::table::{Age, Stamp};

/// One cluster's offer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Export<'a> {
    pub(crate) cluster: &'a ClusterId,
    /// The age of the ServiceExport.
    pub(crate) age: Age,
    /// When the service became as it is.
    pub(crate) stamp: Stamp,
    pub(crate) service: &'a Service,
}

/// One service of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merged {
    /// The cluster whose export is the oldest.
    pub(crate) origin: ClusterId,
    pub(crate) stamp: Stamp,
    pub(crate) kind: ServiceType,
    /// Unique by number and, where named, by name.
    pub(crate) ports: Vec<ServicePort>,
    /// The clusters that export it, oldest first.
    pub(crate) exporters: Vec<ClusterId>,
    pub(crate) conflicts: Vec<Conflict>,
}

/// A younger export that contradicts an older one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Whose export lost.
    pub(crate) cluster: ClusterId,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The exports of a name by all clusters that were listed. An export without a service, or of an
/// alias in DNS, offers nothing.
pub(crate) fn exports<'a>(world: &'a World, namespace: &str, name: &str) -> Vec<Export<'a>> {
    let listed = world.clusters.values().filter(|cluster| cluster.listed());
    listed
        .filter_map(|cluster| {
            let export = cluster.exports.get(namespace, name)?;
            let service = cluster.services.get(namespace, name)?;
            let offers = service.value.kind != ServiceType::ExternalName;
            offers.then_some(Export {
                cluster: &cluster.id,
                age: export.age(),
                stamp: service.stamp,
                service: &service.value,
            })
        })
        .collect()
}

/// One service out of all offers; `None` if there is no offer.
pub(crate) fn merge(mut exports: Vec<Export<'_>>) -> Option<Merged> {
    // Equal ages are decided by name, so that every replica decides the same.
    exports.sort_by(|a, b| (a.age, a.cluster).cmp(&(b.age, b.cluster)));
    let oldest = exports.first()?;
    let mut merged = Merged {
        origin: oldest.cluster.clone(),
        stamp: oldest.stamp,
        kind: oldest.service.kind,
        ports: Vec::new(),
        exporters: exports
            .iter()
            .map(|export| export.cluster.clone())
            .collect(),
        conflicts: Vec::new(),
    };
    for export in &exports {
        let mut conflict = |reason, message| {
            let cluster = export.cluster.clone();
            merged.conflicts.push(Conflict {
                cluster,
                reason,
                message,
            });
        };
        if export.service.kind != oldest.service.kind {
            let message = format!(
                "is {:?} here and {:?} in {}, whose export is older",
                export.service.kind, oldest.service.kind, oldest.cluster
            );
            conflict("TypeConflict", message);
        }
        if export.service.client_ip_affinity != oldest.service.client_ip_affinity {
            let message = format!(
                "session affinity differs from {}'s older export",
                oldest.cluster
            );
            conflict("SessionAffinityConflict", message);
        }
        for port in &export.service.ports {
            match fit(&merged.ports, port) {
                Fit::New => merged.ports.push(port.clone()),
                Fit::Same => {}
                Fit::Contradicts(older) => {
                    let message = format!(
                        "port {} {:?} contradicts port {} {:?} of an older export",
                        port.port, port.name, older.port, older.name
                    );
                    let cluster = export.cluster.clone();
                    let reason = "PortConflict";
                    merged.conflicts.push(Conflict {
                        cluster,
                        reason,
                        message,
                    });
                }
            }
        }
    }
    Some(merged)
}

/// The clusterset service of a name, as far as clusters have been listed.
pub(crate) fn merged(world: &World, namespace: &str, name: &str) -> Option<Merged> {
    merge(exports(world, namespace, name))
}

enum Fit<'a> {
    New,
    Same,
    Contradicts(&'a ServicePort),
}

fn fit<'a>(ports: &'a [ServicePort], port: &ServicePort) -> Fit<'a> {
    let same_name = |p: &&ServicePort| !p.name.is_empty() && p.name == port.name;
    let Some(older) = ports.iter().find(|p| p.port == port.port || same_name(p)) else {
        return Fit::New;
    };
    let same =
        older.port == port.port && older.name == port.name && older.protocol == port.protocol;
    if same {
        Fit::Same
    } else {
        Fit::Contradicts(older)
    }
}

/// Which port of `own` stands behind each port of `view`: the one of the same name, else the one of
/// the same number. Pairs of numbers: view, own.
pub(crate) fn matching<'a>(
    view: &[ServicePort],
    own: &'a [ServicePort],
) -> Vec<(u16, &'a ServicePort)> {
    view.iter()
        .filter_map(|wanted| {
            let named = own
                .iter()
                .find(|p| !p.name.is_empty() && p.name == wanted.name);
            let found = named.or_else(|| own.iter().find(|p| p.port == wanted.port))?;
            Some((wanted.port, found))
        })
        .collect()
}

#[cfg(test)]
mod tests;
