//! What is the client's own pod?

use std::collections::BTreeMap;

use isthmus_proto::ids::{Namespace, WorkloadName};
use isthmus_proto::resource::{self, InboundMode};

use crate::model::{
    Pod, PolicyTarget, Reach, Service, ServicePort, ServiceRef, ServiceType, SliceEndpoint,
    TargetPort,
};
use crate::translate::authorization::applying;
use crate::translate::endpoint::usable;
use crate::translate::{Answer, Client, encode, octets};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::table::Entry;

/// The client's own workload; known to be absent if its cluster has no such pod, or one that is
/// somebody else.
pub(crate) fn own(world: &World, client: &Client) -> Answer {
    let Some(cluster) = world.listed(client.cluster.as_str()) else {
        return Answer::unknown();
    };
    let found = pod(cluster, client).and_then(|entry| {
        let locality = cluster.locality(&entry.value.locality);
        let message = resource::Workload {
            name: client.workload.to_string(),
            identity: client.identity.to_string(),
            addresses: usable(&entry.value.ips).into_iter().map(octets).collect(),
            network: cluster.network()?.to_string(),
            locality: Some(resource::Locality {
                region: locality.region,
                zone: locality.zone,
            }),
            ports: ports(cluster, &client.workload, &entry.value),
            inbound_mode: inbound_mode(world, client).into(),
            origin: None,
            passthrough: if cluster.denies_passthrough() {
                resource::Passthrough::Deny.into()
            } else {
                resource::Passthrough::Allow.into()
            },
        };
        Some(encode(
            client.workload.as_str(),
            message,
            &cluster.id,
            Some(entry.stamp),
        ))
    });
    Answer::complete(found)
}

/// The client's pod, if it is what the client's certificate says.
pub(crate) fn pod<'a>(cluster: &'a Cluster, client: &Client) -> Option<&'a Entry<Pod>> {
    let entry = cluster
        .pods
        .get(client.namespace(), client.workload.pod())?;
    let same = client.identity.service_account() == entry.value.service_account
        && *client.identity.trust_domain() == cluster.trust_domain
        && client.identity.namespace() == client.namespace();
    same.then_some(entry)
}

/// The ports that services lead to, with what is spoken there.
pub(crate) fn ports(
    cluster: &Cluster,
    workload: &WorkloadName,
    pod: &Pod,
) -> Vec<resource::WorkloadPort> {
    let namespace = workload.namespace();
    let mut ports: BTreeMap<u16, resource::WorkloadPort> = BTreeMap::new();
    let mut names = cluster.selecting(namespace, &pod.labels);
    names.extend(cluster.slicing(namespace, workload.pod()));
    for name in names {
        let Some(service) = cluster
            .services
            .get(namespace, &name)
            .map(|entry| &entry.value)
        else {
            continue;
        };
        if service.kind == ServiceType::ExternalName {
            continue;
        }
        for (port, target) in targets(cluster, workload, pod, (&name, service)) {
            let refs = references(cluster, namespace, &name, port.port);
            ports
                .entry(target)
                .and_modify(|known| {
                    // Services that disagree: the proxy looks at the first bytes.
                    if known.protocol != i32::from(port.protocol) {
                        known.protocol = resource::Protocol::Unspecified.into();
                    }
                    known.services.extend(refs.clone());
                })
                .or_insert_with(|| resource::WorkloadPort {
                    port: u32::from(target),
                    protocol: port.protocol.into(),
                    services: refs.clone(),
                });
        }
    }
    ports.into_values().collect()
}

/// Ports of the service, and where each leads in the pod.
fn targets<'a>(
    cluster: &Cluster,
    workload: &WorkloadName,
    pod: &Pod,
    (name, service): (&str, &'a Service),
) -> Vec<(&'a ServicePort, u16)> {
    let slices = if service.selector.is_empty() {
        cluster.slices_of(workload.namespace(), name)
    } else {
        Vec::new()
    };
    let by_slice = |port: &ServicePort| {
        let mut named = slices.iter().filter(|slice| {
            let own = |e: &SliceEndpoint| e.pod.as_deref() == Some(workload.pod());
            slice.value.endpoints.iter().any(own)
        });
        named.find_map(|slice| slice.value.ports.iter().find(|p| p.name == port.name))
    };
    service
        .ports
        .iter()
        .filter_map(|port| {
            let target = match &port.target {
                _ if service.selector.is_empty() => by_slice(port)?.port,
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => pod.ports.iter().find(|p| p.name == *name)?.port,
            };
            Some((port, target))
        })
        .collect()
}

/// The service's own name and, if it is exported, its name for all clusters.
fn references(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: u16,
) -> Vec<resource::ServiceRef> {
    let reaches: &[Reach] = if cluster.exported(namespace, name) {
        &[Reach::Cluster, Reach::Clusterset]
    } else {
        &[Reach::Cluster]
    };
    let Ok(namespace) = namespace.parse::<Namespace>() else {
        return Vec::new();
    };
    let reference = |reach: &Reach| {
        let service = ServiceRef {
            reach: *reach,
            namespace: namespace.clone(),
            name: name.to_owned(),
        };
        resource::ServiceRef {
            service: service.service_name(),
            port: u32::from(port),
        }
    };
    reaches.iter().map(reference).collect()
}

/// What inbound accepts: as the narrowest policy says that says anything; of equals the strictest;
/// else strict.
fn inbound_mode(world: &World, client: &Client) -> InboundMode {
    let said = applying(world, client).into_iter().filter_map(|policy| {
        let mode = policy.entry.value.inbound?;
        let valid = policy.entry.value.invalid.is_none() && mode != InboundMode::Unspecified;
        valid.then_some((policy.target, mode))
    });
    let narrowest = said.min_by_key(|(target, mode)| {
        let wide = match target {
            PolicyTarget::Workloads(_) => 0,
            PolicyTarget::Services(_) => 1,
            PolicyTarget::Namespace => 2,
            PolicyTarget::Cluster => 3,
            PolicyTarget::Mesh => 4,
        };
        (wide, *mode == InboundMode::Permissive)
    });
    narrowest.map_or(InboundMode::Strict, |(_, mode)| mode)
}
