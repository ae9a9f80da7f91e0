//! What must an author be told about an object?

use std::collections::BTreeSet;

use isthmus_proto::ids::is_object_name;

use crate::import;
use crate::model::{CLUSTER_ID_PROPERTY, Kind, ObjectRef, Truth};
use crate::translate::{authorization, gateway};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::{
    NOT_AN_AUTHOR, RANGES_VALID, failing, nowhere, partly, programmed, strangers, target, unheard,
};

/// What holds of an object, as it stands in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which object.
    pub object: ObjectRef,
    /// `Accepted`, `Programmed`, `PartiallyInvalid`, `ResolvedRefs`, `Valid`, `Ready` or `Conflict`.
    pub kind: String,
    /// Does it hold?
    pub holds: bool,
    /// One word in CamelCase, or several with commas.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl World {
    /// Everything that is not as its author may think, and the state of every export.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let mut found = Vec::new();
        let mut exported = BTreeSet::new();
        for cluster in self.clusters.values() {
            for (at, refused) in &cluster.refused {
                let why = &refused.why;
                found.push(rejected(at.clone(), why.reason, why.message.clone()));
            }
            exported.extend(cluster.exports.iter().map(|(ns, name, _)| (ns, name)));
            // Before its list is whole, what is named may only not have come yet.
            if cluster.listed() {
                self.of_policies(cluster, &mut found);
                self.of_routes(cluster, &mut found);
            }
            self.of_gateways(cluster, &mut found);
            self.of_imports(cluster, &mut found);
            self.of_the_mesh(cluster, &mut found);
            of_pods(cluster, &mut found);
        }
        self.of_members(&mut found);
        for (namespace, name) in exported {
            self.of_exports(namespace, name, &mut found);
        }
        found
    }

    fn of_policies(&self, cluster: &Cluster, found: &mut Vec<Condition>) {
        for (namespace, name, entry) in cluster.policies.iter() {
            if let Some(message) = authorization::verdict(self, namespace, &entry.value) {
                let at = reference(cluster, Kind::AccessPolicy, namespace, name);
                found.push(rejected(at, "Invalid", message));
            }
            if let Some(message) = nowhere(cluster, namespace, &entry.value) {
                let at = reference(cluster, Kind::AccessPolicy, namespace, name);
                found.push(Condition {
                    kind: "ResolvedRefs".to_owned(),
                    ..rejected(at, "TargetNotFound", message)
                });
            }
        }
        for (namespace, name, entry) in cluster.traffic.iter() {
            let policy = &entry.value;
            let (reason, message) = match &policy.invalid {
                Some(why) => ("Invalid", why.clone()),
                None => target(self, cluster, namespace, policy),
            };
            if reason != "Accepted" {
                let at = reference(cluster, Kind::TrafficPolicy, namespace, name);
                found.push(rejected(at, reason, message));
            }
        }
    }

    /// What a cluster says of itself and of others.
    fn of_the_mesh(&self, cluster: &Cluster, found: &mut Vec<Condition>) {
        for (_, name, entry) in cluster.mesh.iter() {
            let real = self.trust_domain(name);
            let said = entry.value.trust_domain.as_ref();
            if let (Some(real), Some(said)) = (real, said)
                && real != said
            {
                let at = reference(cluster, Kind::MeshCluster, "", name);
                let message = format!("spec.trustDomain is {said}, and its workloads have {real}");
                found.push(rejected(at, "TrustDomainMismatch", message));
            }
        }
        if let Some((reason, message)) = self.wrong_ranges(cluster) {
            // Where no object of its own declares them, somebody else's does.
            let at = reference(cluster, Kind::MeshCluster, "", cluster.id.as_str());
            found.push(Condition {
                kind: RANGES_VALID.to_owned(),
                ..rejected(at, reason, message)
            });
        }
        if let Some((reason, message)) = self.contradicts_its_properties(cluster) {
            let at = reference(cluster, Kind::ClusterProperty, "", CLUSTER_ID_PROPERTY);
            found.push(rejected(at, reason, message));
        }
        for (_, name, entry) in cluster.trust.iter() {
            let at = || reference(cluster, Kind::TrustPolicy, "", name);
            if !self.is_mesh_author(&cluster.id) {
                found.push(rejected(at(), "NotPermitted", NOT_AN_AUTHOR.to_owned()));
            }
            if let Some(message) = strangers(self, &entry.value) {
                found.push(Condition {
                    kind: "ResolvedRefs".to_owned(),
                    ..rejected(at(), "NoSuchCluster", message)
                });
            }
        }
    }

    fn of_routes(&self, cluster: &Cluster, found: &mut Vec<Condition>) {
        for (kind, table) in &cluster.routes {
            for (namespace, name, entry) in table.iter() {
                let at = || reference(cluster, *kind, namespace, name);
                if let Some(message) = partly(&entry.value) {
                    found.push(Condition {
                        object: at(),
                        kind: "PartiallyInvalid".to_owned(),
                        holds: true,
                        reason: "UnsupportedValue".to_owned(),
                        message,
                    });
                }
                for said in failing((self, cluster), namespace, &entry.value) {
                    found.push(Condition {
                        object: at(),
                        kind: said.kind,
                        holds: false,
                        reason: said.reason,
                        message: said.message,
                    });
                }
            }
        }
    }

    fn of_gateways(&self, cluster: &Cluster, found: &mut Vec<Condition>) {
        for (namespace, name, entry) in cluster.gateways.iter() {
            if !gateway::is_ours(cluster, &entry.value) {
                continue;
            }
            let at = reference(cluster, Kind::Gateway, namespace, name);
            if let Some((reason, why)) = gateway::refusal(self, namespace, &entry.value) {
                // In the Gateway API's words that is `Invalid`, like much else.
                let reason = if self.is_system(namespace) {
                    reason
                } else {
                    "NotPermitted"
                };
                found.push(rejected(at, reason, why.to_owned()));
                continue;
            }
            if !gateway::is_located(cluster, &entry.value) {
                continue;
            }
            let (_, (status, reason, message)) =
                programmed((self, cluster), (namespace, name), &entry.value);
            if status != Truth::True {
                found.push(Condition {
                    kind: "Programmed".to_owned(),
                    ..rejected(at, reason, message)
                });
            }
        }
    }

    /// Imports that nobody is known to export, and that stay because of a cluster that was not heard.
    fn of_imports(&self, cluster: &Cluster, found: &mut Vec<Condition>) {
        if self.offers_known() {
            return;
        }
        let ours = cluster.imports.iter();
        for (namespace, name, _) in ours.filter(|(.., entry)| entry.value.managed.is_some()) {
            if import::merged(self, namespace, name).is_some() {
                continue;
            }
            if let Some(exporter) = self.awaited_exporter(namespace, name) {
                let at = reference(cluster, Kind::ServiceImport, namespace, name);
                found.push(rejected(at, "ExporterNotHeard", unheard(&exporter)));
            }
        }
    }

    fn of_exports(&self, namespace: &str, name: &str, found: &mut Vec<Condition>) {
        let merged = import::merged(self, namespace, name);
        for cluster in self
            .clusters
            .values()
            .filter(|cluster| cluster.exported(namespace, name))
        {
            let at = reference(cluster, Kind::ServiceExport, namespace, name);
            if let Some(message) = import::out_of_reach(cluster, (namespace, name)) {
                found.push(Condition {
                    kind: "Reachable".to_owned(),
                    ..rejected(at.clone(), "NoSidecar", message)
                });
            }
            for said in import::verdict(self, cluster, (namespace, name), merged.as_ref(), &[]) {
                found.push(Condition {
                    object: at.clone(),
                    kind: said.kind,
                    holds: said.status == Truth::True,
                    reason: said.reason,
                    message: said.message,
                });
            }
        }
    }
}

fn of_pods(cluster: &Cluster, found: &mut Vec<Condition>) {
    for (namespace, name, entry) in cluster.pods.iter() {
        let account = &entry.value.service_account;
        if entry.value.meshed && !is_object_name(account) {
            let at = reference(cluster, Kind::Pod, namespace, name);
            let message = format!("service account {account:?} makes no identity: nobody calls it");
            found.push(rejected(at, "NoIdentity", message));
        }
    }
    for (namespace, name) in cluster.without_id() {
        let at = reference(cluster, Kind::Pod, namespace, name);
        let message = "its endpoint id is another pod's: no gateway can reach it".to_owned();
        found.push(rejected(at, "EndpointIdTaken", message));
    }
}

fn rejected(object: ObjectRef, reason: &'static str, message: String) -> Condition {
    Condition {
        object,
        kind: "Accepted".to_owned(),
        holds: false,
        reason: reason.to_owned(),
        message,
    }
}

fn reference(cluster: &Cluster, kind: Kind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        cluster: cluster.id.clone(),
        kind,
        namespace: namespace.parse().ok(),
        name: name.to_owned(),
    }
}
