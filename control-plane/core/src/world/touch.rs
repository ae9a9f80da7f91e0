//! What can an object alter?
//!
//! Asked once before a change and once after it; both answers together name all that is affected,
//! through the old relations and through the new ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use isthmus_proto::ids::WorkloadName;

use crate::model::{Kind, ObjectRef, PolicyTarget, Reach};
use crate::world::cluster::{Cluster, key};
use crate::world::dirty::{Dirty, PolicyScope, ServiceKey};
use crate::write::{derived_for, made_for};

/// What depends on this object, as the cluster is now.
pub(crate) fn touch(cluster: &Cluster, at: &ObjectRef) -> Dirty {
    let mut dirty = Dirty::default();
    let (namespace, name) = key(at.namespace.as_ref(), &at.name);
    match at.kind {
        Kind::Pod => pod(cluster, namespace, name, &mut dirty),
        Kind::Service => service(cluster, namespace, name, &mut dirty),
        Kind::EndpointSlice => slice(cluster, namespace, name, &mut dirty),
        Kind::ServiceExport => export(cluster, namespace, name, &mut dirty),
        Kind::ServiceImport => import(cluster, namespace, name, &mut dirty),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            route(cluster, (at.kind, namespace, name), &mut dirty);
        }
        Kind::ReferenceGrant => all_routes(cluster, &mut dirty),
        Kind::Gateway | Kind::GatewayClass => {
            dirty.gateways.insert(cluster.id.clone());
        }
        // The network and the place of all that the cluster has.
        Kind::MeshCluster => dirty.all = true,
        Kind::AccessPolicy => policy(cluster, namespace, name, &mut dirty),
        Kind::TrafficPolicy => traffic(cluster, namespace, name, &mut dirty),
        // Who is cut off, and what is said of other clusters, follows from all of them: `World::settle`.
        Kind::TrustPolicy | Kind::ClusterProfile => {}
        // Only what is said of the cluster.
        Kind::ClusterProperty => {}
        Kind::Namespace | Kind::ServiceAccount | Kind::Deployment | Kind::ConfigMap => {}
    }
    if is_written(at.kind) {
        dirty.objects.insert(at.clone());
    }
    dirty
}

/// Does the writer look at objects of this kind one by one?
fn is_written(kind: Kind) -> bool {
    match kind {
        Kind::Namespace
        | Kind::ServiceExport
        | Kind::ServiceImport
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TcpRoute
        | Kind::TlsRoute
        | Kind::ReferenceGrant
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::ClusterProperty
        | Kind::AccessPolicy
        | Kind::TrafficPolicy
        | Kind::TrustPolicy
        | Kind::ConfigMap => true,
        Kind::ServiceAccount
        | Kind::Pod
        | Kind::Deployment
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::MeshCluster
        | Kind::ClusterProfile => false,
    }
}

fn pod(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let Some(pod) = cluster.pods.get(namespace, name) else {
        return;
    };
    behind(cluster, namespace, name, dirty);
    let mut services = cluster.selecting(namespace, &pod.value.labels);
    services.extend(cluster.slicing(namespace, name));
    for service in &services {
        endpoints(cluster, namespace, service, dirty);
    }
}

/// Endpoints of a service in this cluster have changed, and nothing else of it.
fn endpoints(cluster: &Cluster, namespace: &str, service: &str, dirty: &mut Dirty) {
    let exported = cluster.exported(namespace, service);
    let affected = dirty.service(ServiceKey::new(namespace, service), &cluster.id, exported);
    affected.providers.insert(cluster.id.clone());
    if exported {
        dirty.exports.insert(cluster.id.clone());
    }
}

fn import(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let key = ServiceKey::new(namespace, name);
    dirty.service(key, &cluster.id, false).definition = true;
    if let Some(entry) = cluster.imports.get(namespace, name) {
        claimants(cluster, &entry.value.ips, dirty);
    }
}

/// Others that claim the same virtual addresses may win or lose them.
fn claimants(cluster: &Cluster, ips: &[IpAddr], dirty: &mut Dirty) {
    for claim in ips.iter().filter_map(|ip| cluster.vips.get(ip)).flatten() {
        let key = ServiceKey::new(&claim.namespace, &claim.name);
        dirty.service(key, &cluster.id, false).definition = true;
    }
}

fn service(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let exported = cluster.exported(namespace, name);
    let key = ServiceKey::new(namespace, name);
    dirty.service(key, &cluster.id, exported).definition = true;
    if exported {
        dirty.exports.insert(cluster.id.clone());
    }
    if let Some(entry) = cluster.services.get(namespace, name) {
        claimants(cluster, &entry.value.cluster_ips, dirty);
        if entry.value.front.is_some() {
            dirty.gateways.insert(cluster.id.clone());
        }
        // The import that it was made for has its address from it.
        if let Some(import) = derived_for(&entry.value) {
            let key = ServiceKey::new(namespace, import);
            dirty.service(key, &cluster.id, false).definition = true;
        }
    }
    // A policy that targets the service selects other pods now.
    let targeted =
        cluster
            .policies
            .within(namespace)
            .any(|(_, policy)| match &policy.value.target {
                PolicyTarget::Services(targets) => targets.contains(name),
                PolicyTarget::Mesh
                | PolicyTarget::Cluster
                | PolicyTarget::Namespace
                | PolicyTarget::Workloads(_) => false,
            });
    if targeted {
        let scope = PolicyScope::Namespace(cluster.id.clone(), namespace.to_owned());
        dirty.policies.insert(scope);
    }
    backing(cluster, namespace, name, dirty);
}

/// The pods behind a service, whose ports are the service's.
fn backing(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let Some(entry) = cluster.services.get(namespace, name) else {
        return;
    };
    for (pod, _) in cluster.selected(namespace, &entry.value.selector) {
        behind(cluster, namespace, pod, dirty);
    }
    if entry.value.selector.is_empty() {
        for slice in cluster.slices_of(namespace, name) {
            let pods = slice
                .value
                .endpoints
                .iter()
                .filter_map(|e| e.pod.as_deref());
            pods.for_each(|pod| behind(cluster, namespace, pod, dirty));
        }
    }
}

/// A pod, for its own proxy and for those who call it by its address.
fn behind(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    dirty.workloads.extend(workload(cluster, namespace, name));
    if let Some(entry) = cluster.pods.get(namespace, name) {
        let addresses = entry.value.ips.iter().map(IpAddr::to_canonical);
        dirty.addresses.extend(addresses);
    }
}

fn slice(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let Some(entry) = cluster.slices.get(namespace, name) else {
        return;
    };
    // The import that it was made for may lack it now.
    if let Some(import) = made_for(&entry.value) {
        let key = ServiceKey::new(namespace, import);
        dirty.service(key, &cluster.id, false).definition = true;
    }
    let service = entry.value.service.as_str();
    endpoints(cluster, namespace, service, dirty);
    // Only where there is no selector do slices say which pods are behind a service: for their
    // ports, and for the policies that target it.
    let slices_decide = cluster
        .services
        .get(namespace, service)
        .is_some_and(|entry| entry.value.selector.is_empty());
    if slices_decide {
        backing(cluster, namespace, service, dirty);
    }
}

fn export(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let key = ServiceKey::new(namespace, name);
    dirty.service(key, &cluster.id, true).definition = true;
    dirty.exports.insert(cluster.id.clone());
    backing(cluster, namespace, name, dirty);
}

fn route(cluster: &Cluster, at: (Kind, &str, &str), dirty: &mut Dirty) {
    let table = cluster.routes.get(&at.0);
    let Some(entry) = table.and_then(|t| t.get(at.1, at.2)) else {
        return;
    };
    for parent in &entry.value.parents {
        let key = ServiceKey::new(parent.service.namespace.as_str(), &parent.service.name);
        dirty.service(key, &cluster.id, false).routes = true;
    }
}

/// Grants are rare: every routed service is looked at again.
fn all_routes(cluster: &Cluster, dirty: &mut Dirty) {
    let parents: BTreeSet<&(Reach, String, String)> = cluster.routes_of.keys().collect();
    for (_, namespace, name) in parents {
        let key = ServiceKey::new(namespace, name);
        dirty.service(key, &cluster.id, false).routes = true;
    }
}

fn policy(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let Some(entry) = cluster.policies.get(namespace, name) else {
        return;
    };
    let own = PolicyScope::Namespace(cluster.id.clone(), namespace.to_owned());
    let scope = match &entry.value.target {
        PolicyTarget::Mesh => PolicyScope::Mesh,
        PolicyTarget::Cluster => PolicyScope::Cluster(cluster.id.clone()),
        PolicyTarget::Namespace | PolicyTarget::Services(_) | PolicyTarget::Workloads(_) => {
            own.clone()
        }
    };
    dirty.policies.insert(scope);
    // Where the namespace may not speak for the whole, the policy counts in the namespace.
    dirty.policies.insert(own);
}

fn traffic(cluster: &Cluster, namespace: &str, name: &str, dirty: &mut Dirty) {
    let Some(entry) = cluster.traffic.get(namespace, name) else {
        return;
    };
    let key = ServiceKey::new(namespace, &entry.value.service);
    dirty.service(key, &cluster.id, false).definition = true;
}

fn workload(cluster: &Cluster, namespace: &str, pod: &str) -> Option<WorkloadName> {
    format!("{}/{namespace}/{pod}", cluster.id).parse().ok()
}
