//! What do all clusters offer together under one name?
//!
//! The Multi-Cluster Services API (KEP-1645): exports of the same namespace and name are one
//! service. Its ports are the union of the clusters' ports; where two clusters contradict each
//! other, the older export wins, and every export of the service has the conflict in its status.
//! Nothing is merged that was not exported: a cluster cannot take a name of another's by having it.

mod verdict;

pub(crate) use verdict::{out_of_reach, shortened, verdict};

use isthmus_proto::ids::ClusterId;

use crate::model::{
    IpFamily, Labels, OtherPort, Service, ServiceExport, ServicePort, ServiceType, Spread,
    Transport,
};
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
    pub(crate) export: &'a ServiceExport,
}

/// One service of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merged {
    /// The cluster whose export is the oldest.
    pub(crate) origin: ClusterId,
    pub(crate) stamp: Stamp,
    pub(crate) kind: ServiceType,
    /// TCP, unique by number and, where named, by name.
    pub(crate) ports: Vec<ServicePort>,
    /// All ports, as an import lists them.
    pub(crate) all_ports: Vec<OtherPort>,
    /// `ClientIP` affinity, in seconds.
    pub(crate) affinity: Option<u32>,
    pub(crate) spread: Spread,
    /// Of the pods' addresses, which are all that a headless service has.
    pub(crate) families: Vec<IpFamily>,
    /// Exported labels and annotations.
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    /// The clusters that export it, oldest first.
    pub(crate) exporters: Vec<ClusterId>,
    pub(crate) conflicts: Vec<Conflict>,
}

/// An export that differs from what became of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Whose export it is.
    pub(crate) cluster: ClusterId,
    pub(crate) reason: Contradiction,
    pub(crate) message: String,
}

/// What is contradictory, in the order in which the KEP names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contradiction {
    Port,
    Type,
    Affinity,
    AffinityConfig,
    Annotations,
    Labels,
    InternalTrafficPolicy,
    TrafficDistribution,
    IpFamily,
}

impl Contradiction {
    /// The reason as `v1beta1` of the API lists it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::Affinity => "SessionAffinityConflict",
            Self::AffinityConfig => "SessionAffinityConfigConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::Labels => "LabelsConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }
}

/// The exports of a name by all clusters that were listed. An export without a service, or of an
/// alias in DNS, offers nothing; nor does what the mesh itself made of an import.
pub(crate) fn exports<'a>(world: &'a World, namespace: &str, name: &str) -> Vec<Export<'a>> {
    let listed = world.clusters.values().filter(|cluster| cluster.listed());
    listed
        .filter_map(|cluster| {
            let export = cluster.exports.get(namespace, name)?;
            let service = cluster.services.get(namespace, name)?;
            verdict::can_be_exported(&service.value).then_some(Export {
                cluster: &cluster.id,
                age: export.age(),
                stamp: service.stamp,
                service: &service.value,
                export: &export.value,
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
        all_ports: Vec::new(),
        affinity: oldest.service.affinity(),
        spread: oldest.service.spread.clone(),
        families: sorted(&oldest.service.families),
        labels: oldest.export.labels.clone(),
        annotations: oldest.export.annotations.clone(),
        exporters: exports
            .iter()
            .map(|export| export.cluster.clone())
            .collect(),
        conflicts: Vec::new(),
    };
    for export in &exports {
        merged.add_ports(export);
    }
    for export in &exports {
        merged.compare(export, oldest);
        merged.compare_spread(export, oldest);
    }
    Some(merged)
}

/// The clusterset service of a name, as far as clusters have been listed.
pub(crate) fn merged(world: &World, namespace: &str, name: &str) -> Option<Merged> {
    merge(exports(world, namespace, name))
}

impl Merged {
    fn add_ports(&mut self, export: &Export<'_>) {
        for port in listed(export.service) {
            match fit(&self.all_ports, &port) {
                Fit::New => {
                    let own = |own: &&ServicePort| {
                        port.transport == Transport::Tcp && own.port == port.port
                    };
                    self.ports
                        .extend(export.service.ports.iter().find(own).cloned());
                    self.all_ports.push(port);
                }
                Fit::Same => {}
                Fit::Contradicts(older) => {
                    let message = format!(
                        "{}: port {} contradicts port {} of an older export",
                        export.cluster,
                        describe(&port),
                        describe(older)
                    );
                    self.conflict(export, Contradiction::Port, message);
                }
            }
        }
    }

    /// Notes what of an export differs from what all clusters have in common.
    fn compare(&mut self, export: &Export<'_>, oldest: &Export<'_>) {
        let (service, origin) = (export.service, oldest.cluster);
        let own = listed(service);
        let lacks = |port: &&OtherPort| !own.iter().any(|own| same_place(own, port));
        let lacking: Vec<_> = self.all_ports.iter().filter(lacks).map(describe).collect();
        if !lacking.is_empty() {
            let message = format!("{}: has no port {}", export.cluster, lacking.join(", "));
            self.conflict(export, Contradiction::Port, message);
        }
        let mut differs = |reason, what: &str, own: &str, used: &str| {
            self.differs(export, reason, what, (own, used, origin));
        };
        if service.kind != oldest.service.kind {
            let (own, used) = (type_name(service.kind), type_name(oldest.service.kind));
            differs(Contradiction::Type, "the type", own, used);
        }
        let affinity = |seconds: Option<u32>| seconds.map_or("None", |_| "ClientIP");
        match (service.affinity(), oldest.service.affinity()) {
            (own, used) if own == used => {}
            (Some(own), Some(used)) => {
                let (own, used) = (format!("{own} s"), format!("{used} s"));
                differs(Contradiction::AffinityConfig, "the affinity", &own, &used);
            }
            (own, used) => {
                let (own, used) = (affinity(own), affinity(used));
                differs(Contradiction::Affinity, "the affinity", own, used);
            }
        }
        if export.export.annotations != oldest.export.annotations {
            differs(
                Contradiction::Annotations,
                "exportedAnnotations",
                "different",
                "that",
            );
        }
        if export.export.labels != oldest.export.labels {
            differs(Contradiction::Labels, "exportedLabels", "different", "that");
        }
    }

    /// Notes what of an export's wishes about places differs from the oldest one's.
    fn compare_spread(&mut self, export: &Export<'_>, oldest: &Export<'_>) {
        let (own, used, origin) = (export.service, oldest.service, oldest.cluster);
        let mut differs = |reason, what: &str, own: &str, used: &str| {
            if own != used {
                self.differs(export, reason, what, (own, used, origin));
            }
        };
        differs(
            Contradiction::InternalTrafficPolicy,
            "internalTrafficPolicy",
            own.spread.internal_traffic_policy(),
            used.spread.internal_traffic_policy(),
        );
        let distribution = |service: &'_ Service| {
            let written = service.spread.distribution.clone();
            written.unwrap_or_else(|| "not set".to_owned())
        };
        differs(
            Contradiction::TrafficDistribution,
            "trafficDistribution",
            &distribution(own),
            &distribution(used),
        );
        // A virtual address leads to pods of both families; what DNS gives of a headless service are
        // the pods' own addresses, and who speaks one family finds only a part of them.
        let headless = used.kind == ServiceType::Headless;
        let known = !own.families.is_empty() && !used.families.is_empty();
        if headless && known {
            let (own, used) = (listed_families(own), listed_families(used));
            differs(Contradiction::IpFamily, "ipFamilies", &own, &used);
        }
    }

    fn differs(
        &mut self,
        export: &Export<'_>,
        reason: Contradiction,
        what: &str,
        (own, used, origin): (&str, &str, &ClusterId),
    ) {
        let cluster = export.cluster;
        let message = format!("{cluster}: {what} is {own}; {used} of {origin} is used");
        self.conflict(export, reason, message);
    }

    fn conflict(&mut self, export: &Export<'_>, reason: Contradiction, message: String) {
        self.conflicts.push(Conflict {
            cluster: export.cluster.clone(),
            reason,
            message,
        });
    }
}

/// All ports of a service, as an import lists them.
pub(crate) fn listed(service: &Service) -> Vec<OtherPort> {
    let tcp = service.ports.iter().map(|port| OtherPort {
        port: port.port,
        transport: Transport::Tcp,
        name: port.name.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    tcp.chain(service.others.iter().cloned()).collect()
}

enum Fit<'a> {
    New,
    Same,
    Contradicts(&'a OtherPort),
}

fn same_place(a: &OtherPort, b: &OtherPort) -> bool {
    a.port == b.port && a.transport == b.transport
}

fn fit<'a>(ports: &'a [OtherPort], port: &OtherPort) -> Fit<'a> {
    let same_name = |p: &&OtherPort| !p.name.is_empty() && p.name == port.name;
    match ports
        .iter()
        .find(|p| same_place(p, port))
        .or_else(|| ports.iter().find(same_name))
    {
        None => Fit::New,
        Some(older) if older == port => Fit::Same,
        Some(older) => Fit::Contradicts(older),
    }
}

/// `80/TCP "http" (kubernetes.io/h2c)`
fn describe(port: &OtherPort) -> String {
    let mut text = format!("{}/{}", port.port, port.transport.as_str());
    if !port.name.is_empty() {
        text.push_str(&format!(" {:?}", port.name));
    }
    if let Some(protocol) = &port.app_protocol {
        text.push_str(&format!(" ({protocol})"));
    }
    text
}

fn sorted(families: &[IpFamily]) -> Vec<IpFamily> {
    let mut families = families.to_vec();
    families.sort_unstable();
    families
}

/// `IPv4, IPv6`
fn listed_families(service: &Service) -> String {
    let families = sorted(&service.families).into_iter();
    families
        .map(IpFamily::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn type_name(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::ClusterIp => "ClusterSetIP",
        ServiceType::Headless => "Headless",
        ServiceType::ExternalName => "ExternalName",
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
