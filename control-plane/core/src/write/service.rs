//! Which imports should a cluster have, and what is to be said of its exports?

use isthmus_proto::ids::{ClusterId, Namespace};
use sha2::{Digest as _, Sha256};

use crate::import::{self, Merged, listed, shortened, verdict};
use crate::model::{
    IpFamily, Kind, Labels, MANAGED_BY, MANAGED_LABEL, Managed, OtherPort, Said, Service,
    ServiceImport, ServiceType, Truth, folded_hold,
};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::exporters::{EXPORTERS_ANNOTATION, exporters};
use crate::world::table::Entry;
use crate::write::{
    Body, ImportBody, ImportStatus, Plan, ServiceBody, Settings, Subject, dated, is_said, label,
    reference, slice,
};

/// The label of a derived Service that says which import it is for (KEP-1645).
pub const SERVICE_NAME_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// The annotation of an import that names its derived Service, as the API's reference
/// implementation has it.
const DERIVED_ANNOTATION: &str = "multicluster.kubernetes.io/derived-service";
/// The annotation of an import that tells whether what was exported has changed.
const EXPORTED_ANNOTATION: &str = "isthmus.dev/exported";
/// Why an import is not written.
const FOREIGN_IMPORT: &str =
    "a ServiceImport of this name was not made by the mesh, and stays as it is";
/// Why an import gets no address.
const FOREIGN_SERVICE: &str = "a Service of this name was not made by the mesh, and stays as it is";
/// Addresses of an import (the API allows as many).
const IPS_MAX: usize = 2;

/// The name of the Service that is derived from an import, as the API's reference implementation and
/// others make it: `derived-` and a hash of `namespace/name`.
#[must_use]
pub fn derived_name(namespace: &str, name: &str) -> String {
    // RFC 4648 §7: base32 with the extended hex alphabet.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let digest: [u8; 32] = Sha256::digest(format!("{namespace}/{name}")).into();
    let bits = digest.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
    let letter = |at: u32| {
        let five = (bits >> 59_u32.saturating_sub(at.saturating_mul(5))) & 31;
        let found = usize::try_from(five).ok().and_then(|i| ALPHABET.get(i));
        char::from(found.copied().unwrap_or(b'0'))
    };
    let hash: String = (0..10).map(letter).collect();
    format!("derived-{hash}")
}

/// The import that a Service was made for by the mesh.
pub(crate) fn derived_for(service: &Service) -> Option<&str> {
    let managed = service.managed.as_ref()?;
    managed.labels.get(SERVICE_NAME_LABEL).map(String::as_str)
}

/// One name in one cluster.
pub(super) struct Place<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) derived: &'a str,
    import: Option<&'a Entry<ServiceImport>>,
    service: Option<&'a Entry<Service>>,
    pub(super) subject: &'a Subject,
}

pub(super) fn look(
    world: &World,
    settings: Settings<'_>,
    (namespace, name): (&str, &str),
    subject: &Subject,
    plan: &mut Plan,
) {
    if namespace.parse::<Namespace>().is_err() {
        return;
    }
    let merged = import::merged(world, namespace, name);
    let derived = derived_name(namespace, name);
    let awaited = match merged {
        None => world.awaited_exporter(namespace, name),
        Some(_) => None,
    };
    let taken = taken(world, settings, (namespace, name), &derived);
    for cluster in world.clusters.values() {
        if !settings.may_write(cluster) {
            continue;
        }
        if let Some(export) = cluster.exports.get(namespace, name)
            && cluster.sees(Kind::ServiceExport)
        {
            let said = verdict(world, cluster, (namespace, name), merged.as_ref(), &taken);
            let at = reference(cluster, Kind::ServiceExport, namespace, name);
            let observed = &export.value.observed.conditions;
            plan.conditions(at, (said, observed), settings, subject);
        }
        // What can't be seen can't be compared.
        let kinds = [Kind::ServiceImport, Kind::Service, Kind::EndpointSlice];
        if !kinds.iter().all(|kind| cluster.sees(*kind)) {
            continue;
        }
        let place = Place {
            cluster,
            namespace,
            name,
            derived: &derived,
            import: cluster.imports.get(namespace, name),
            service: cluster.services.get(namespace, &derived),
            subject,
        };
        match &merged {
            // A namespace that is not there is not made: who owns the name decides.
            Some(merged) if cluster.has_namespace(namespace) && place.may_have(world) => {
                place.wanted((world, merged), settings, plan);
            }
            Some(_) => {}
            None if settings.removals => match &awaited {
                None => place.unwanted(plan),
                Some(exporter) => place.waits_for(exporter, settings, plan),
            },
            None => {}
        }
    }
}

/// Where the service is not imported, or has no address, because a name is somebody else's: what its
/// exporters are told.
fn taken(
    world: &World,
    settings: Settings<'_>,
    (namespace, name): (&str, &str),
    derived: &str,
) -> Vec<String> {
    let written = world.clusters.values();
    let written = written.filter(|cluster| settings.writable.contains(&cluster.id));
    let complaints = written.flat_map(|cluster| {
        let import = cluster.imports.get(namespace, name);
        let foreign = import.is_some_and(|import| import.value.managed.is_none());
        let service = cluster.services.get(namespace, derived);
        let stolen = service.is_some_and(|s| derived_for(&s.value) != Some(name));
        [
            foreign.then(|| {
                let id = &cluster.id;
                format!("not imported in {id}: {FOREIGN_IMPORT}")
            }),
            (stolen && !foreign).then(|| {
                let id = &cluster.id;
                format!("no address in {id}: {derived}: {FOREIGN_SERVICE}")
            }),
        ]
    });
    complaints.flatten().collect()
}

impl Place<'_> {
    /// Is enough known to change the import? One that names an unknown cluster stays as it is: what
    /// that cluster offers is not known to be gone.
    fn may_have(&self, world: &World) -> bool {
        if world.offers_known() {
            return true;
        }
        let Some(import) = self.import else {
            return true;
        };
        // Without any list it may be for any cluster.
        let named = exporters(&import.value);
        named.is_some_and(|named| named.iter().all(|name| world.exports_known(name)))
    }

    /// Nobody is known to export it any more, and one that did was not heard: it stays, and says so.
    fn waits_for(&self, exporter: &str, settings: Settings<'_>, plan: &mut Plan) {
        let import = self.import.map(|entry| &entry.value);
        let ours = import.filter(|import| import.managed.is_some() && !import.is_alpha);
        let Some(import) = ours else { return };
        let observed = &import.observed.conditions;
        let Some(before) = observed.iter().find(|said| said.kind == "Ready") else {
            return;
        };
        let ready = Said {
            message: shortened(&unheard(exporter)),
            generation: import.observed.generation,
            ..before.clone()
        };
        self.say(import, (sorted(&import.clusters), ready), settings, plan);
    }

    fn wanted(&self, (world, merged): (&World, &Merged), settings: Settings<'_>, plan: &mut Plan) {
        let at = |kind, name| reference(self.cluster, kind, self.namespace, name);
        if let Some(import) = self.import
            && import.value.managed.is_none()
        {
            let at = at(Kind::ServiceImport, self.name);
            plan.refuse(at, FOREIGN_IMPORT, self.subject);
            // What was made before the other one came has lost its purpose.
            if settings.removals {
                self.remove_service(plan);
                slice::remove(self, plan);
            }
            return;
        }
        let headless = merged.kind == ServiceType::Headless;
        self.import_of(merged, headless, plan);
        let managed = self.import.and_then(|i| i.value.managed.as_ref());
        let uid = managed.map_or("", |m| m.uid.as_str());
        if let Some(import) = self.import {
            self.status_of(&import.value, (world, merged), settings, plan);
        }
        let body = ServiceBody {
            uid: uid_of(self.service.and_then(|s| s.value.managed.as_ref())),
            labels: [
                (MANAGED_LABEL.to_owned(), MANAGED_BY.to_owned()),
                (SERVICE_NAME_LABEL.to_owned(), self.name.to_owned()),
            ]
            .into(),
            headless,
            ports: named(&merged.all_ports),
            affinity: merged.affinity.filter(|_| !headless),
            owner: (self.name.to_owned(), uid.to_owned()),
        };
        if headless && !uid.is_empty() {
            slice::look((world, merged), self, uid, settings, plan);
        } else if !headless {
            slice::remove(self, plan);
        }
        // Its owner must be there first, and a service with an address needs a port.
        if !uid.is_empty() && (headless || !body.ports.is_empty()) {
            self.service_of(body, plan);
        }
    }

    fn status_of(
        &self,
        import: &ServiceImport,
        (world, merged): (&World, &Merged),
        settings: Settings<'_>,
        plan: &mut Plan,
    ) {
        let mut clusters: Vec<String> = merged.exporters.iter().map(ToString::to_string).collect();
        clusters.sort_unstable();
        let ready = self.ready(import, (world, merged));
        self.say(import, (clusters, ready), settings, plan);
    }

    /// What is to stand in the import's status.
    fn say(
        &self,
        import: &ServiceImport,
        (clusters, ready): (Vec<String>, Said),
        settings: Settings<'_>,
        plan: &mut Plan,
    ) {
        let observed = &import.observed.conditions;
        let said = import.is_alpha || is_said(std::slice::from_ref(&ready), observed);
        if sorted(&import.clusters) == clusters && said {
            plan.unchanged("import_status");
            return;
        }
        let at = reference(self.cluster, Kind::ServiceImport, self.namespace, self.name);
        let conditions = dated(vec![ready], observed, settings.now);
        let body = Body::ImportStatus(ImportStatus {
            clusters,
            conditions,
        });
        plan.write(at, body, self.subject);
    }

    /// Can it be consumed, as its spec is now?
    fn ready(&self, import: &ServiceImport, (world, merged): (&World, &Merged)) -> Said {
        let taken = self.service.is_some_and(|s| !self.is_ours(&s.value));
        let pending = if merged.kind == ServiceType::Headless || !import.ips.is_empty() {
            None
        } else if taken {
            Some(format!("{}: {FOREIGN_SERVICE}", self.derived))
        } else if merged.all_ports.is_empty() {
            Some("a service without ports has no address".to_owned())
        } else {
            Some("the cluster has given no address yet".to_owned())
        };
        let reason = if pending.is_none() {
            "Ready"
        } else {
            "Pending"
        };
        let unlisted = || slice::unlisted(world, self.cluster, merged);
        Said {
            kind: "Ready".to_owned(),
            status: Truth::from(pending.is_none()),
            reason: reason.to_owned(),
            message: shortened(&pending.unwrap_or_else(unlisted)),
            generation: import.observed.generation,
            since: None,
        }
    }

    fn import_of(&self, merged: &Merged, headless: bool, plan: &mut Plan) {
        let exported = (
            label::labels(&merged.labels),
            label::annotations(&merged.annotations),
        );
        let digest = label::digest(&exported.0, &exported.1);
        let (mut labels, mut annotations) = exported;
        labels.insert(MANAGED_LABEL.to_owned(), MANAGED_BY.to_owned());
        annotations.insert(DERIVED_ANNOTATION.to_owned(), self.derived.to_owned());
        annotations.extend(digest.map(|digest| (EXPORTED_ANNOTATION.to_owned(), digest)));
        if self
            .import
            .is_none_or(|import| import.value.clusters.is_empty())
        {
            let clusters: Vec<_> = merged.exporters.iter().map(ClusterId::as_str).collect();
            annotations.insert(EXPORTERS_ANNOTATION.to_owned(), clusters.join(","));
        }
        let giver = self.service.map(|entry| &entry.value);
        let giver = giver.filter(|s| self.is_ours(s) && s.kind == ServiceType::ClusterIp);
        let ips = giver.map(|s| s.cluster_ips.as_slice()).unwrap_or_default();
        let ips: Vec<_> = ips
            .iter()
            .take(if headless { 0 } else { IPS_MAX })
            .copied()
            .collect();
        let body = ImportBody {
            uid: uid_of(self.import.and_then(|i| i.value.managed.as_ref())),
            labels,
            annotations,
            headless,
            families: if headless {
                merged.families.clone()
            } else {
                ips.iter().copied().map(IpFamily::of).collect()
            },
            ips,
            ports: merged.all_ports.clone(),
            affinity: merged.affinity.filter(|_| !headless),
            spread: merged.spread.clone(),
        };
        if self.import.is_some_and(|i| is_import(&i.value, &body)) {
            plan.unchanged("import");
        } else {
            let at = reference(self.cluster, Kind::ServiceImport, self.namespace, self.name);
            plan.write(at, Body::Import(body), self.subject);
        }
    }

    fn service_of(&self, body: ServiceBody, plan: &mut Plan) {
        let at = reference(self.cluster, Kind::Service, self.namespace, self.derived);
        match self.service.map(|entry| &entry.value) {
            Some(service) if !self.is_ours(service) => {
                plan.refuse(at, FOREIGN_SERVICE, self.subject);
            }
            // Kubernetes does not change a service from one to the other.
            Some(service) if (service.kind == ServiceType::Headless) != body.headless => {
                self.remove_service(plan);
            }
            Some(service) if is_service(service, &body) => plan.unchanged("derived_service"),
            Some(_) | None => plan.write(at, Body::Service(body), self.subject),
        }
    }

    /// Made by the mesh for this very name? A copy under another name is not.
    fn is_ours(&self, service: &Service) -> bool {
        derived_for(service) == Some(self.name)
    }

    fn unwanted(&self, plan: &mut Plan) {
        let import = self.import.map(|entry| &entry.value);
        if let Some(Managed { uid, .. }) = import.and_then(|i| i.managed.as_ref()) {
            let at = reference(self.cluster, Kind::ServiceImport, self.namespace, self.name);
            let uid = uid.clone();
            plan.write(at, Body::Delete { uid }, self.subject);
        }
        self.remove_service(plan);
        slice::remove(self, plan);
    }

    fn remove_service(&self, plan: &mut Plan) {
        let service = self.service.map(|entry| &entry.value);
        let ours = service.filter(|service| self.is_ours(service));
        if let Some(Managed { uid, .. }) = ours.and_then(|s| s.managed.as_ref()) {
            let at = reference(self.cluster, Kind::Service, self.namespace, self.derived);
            let uid = uid.clone();
            plan.write(at, Body::Delete { uid }, self.subject);
        }
    }
}

/// What is told of an import that nobody is known to export any more.
pub(crate) fn unheard(exporter: &str) -> String {
    format!("no cluster that was heard exports it; it stays until {exporter} is heard")
}

pub(super) fn uid_of(managed: Option<&Managed>) -> String {
    managed.map(|m| m.uid.clone()).unwrap_or_default()
}

fn is_import(import: &ServiceImport, body: &ImportBody) -> bool {
    let Some(managed) = &import.managed else {
        return false;
    };
    let digest = |list: &Labels| list.get(EXPORTED_ANNOTATION).cloned();
    let named = |list: &Labels| list.contains_key(EXPORTERS_ANNOTATION);
    let newer = import.spread == body.spread && import.families == body.families;
    import.headless == body.headless
        && import.ips == body.ips
        && import.ports == body.ports
        && import.affinity == body.affinity
        && (newer || import.is_alpha)
        && folded_hold(&managed.labels, &body.labels)
        && folded_hold(&managed.annotations, &body.annotations)
        // It goes once the status says the same.
        && named(&managed.annotations) == named(&body.annotations)
        && digest(&managed.annotations) == digest(&body.annotations)
}

fn is_service(service: &Service, body: &ServiceBody) -> bool {
    let Some(managed) = &service.managed else {
        return false;
    };
    service.selector.is_empty()
        && sorted(&listed(service)) == sorted(&body.ports)
        && service.affinity() == body.affinity
        && managed.owner == body.owner.1
        && holds(&managed.labels, &body.labels)
}

/// Has it all that is wanted?
pub(super) fn holds(has: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| has.get(key) == Some(value))
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list
}

/// Kubernetes wants a name for each of several ports, where each cluster's only one may have none.
fn named(ports: &[OtherPort]) -> Vec<OtherPort> {
    let mut ports = ports.to_vec();
    if ports.len() < 2 {
        return ports;
    }
    let taken: Vec<String> = ports.iter().map(|port| port.name.clone()).collect();
    for port in ports.iter_mut().filter(|port| port.name.is_empty()) {
        let carrier = port.transport.as_str().to_ascii_lowercase();
        port.name = format!("{carrier}-{}", port.port);
        while taken.contains(&port.name) {
            port.name.insert(0, 'x');
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_are_those_of_the_reference_implementation() {
        // sha256sum, basenc --base32hex, in lower case, ten letters.
        assert_eq!(derived_name("shop", "cart"), "derived-bsqa4s8pq5");
        assert_eq!(derived_name("default", "a"), "derived-jrtjc4bta1");
    }

    #[test]
    fn several_ports_have_a_name_each() {
        let port = |name: &str, port| OtherPort {
            port,
            transport: crate::model::Transport::Tcp,
            name: name.to_owned(),
            app_protocol: None,
        };
        assert_eq!(named(&[port("", 80)]), [port("", 80)]);
        assert_eq!(
            named(&[port("", 80), port("tcp-80", 81)]),
            [port("xtcp-80", 80), port("tcp-80", 81)]
        );
    }
}
