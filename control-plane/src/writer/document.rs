//! What does a write look like to an API server?

use std::net::IpAddr;

use isthmus_control_plane_core::model::{
    GatewayAddress, Kind, Labels, ListenerStatus, MANAGED_BY, MANAGED_LABEL, ObjectRef, OtherPort,
    Parent, ParentStatus, Reach, Said, SliceEndpoint, SlicePort,
};
use isthmus_control_plane_core::write::{
    Body, CONTROLLER_NAME, GatewayBody, ImportBody, RootsBody, ServiceBody, SliceBody, Write,
};
use serde_json::{Value, json};

use crate::kubernetes::timestamp;

const MULTICLUSTER: &str = "multicluster.x-k8s.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
/// Entries that the API takes in a route's status.
const PARENTS_MAX: usize = 32;

/// Group and plural of a kind, and the versions in which it may be served, best first. `None`: not a
/// kind that is written.
fn resource(kind: Kind) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    Some(match kind {
        Kind::Service => ("", "services", &["v1"]),
        Kind::ConfigMap => ("", "configmaps", &["v1"]),
        Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices", &["v1"]),
        Kind::ServiceExport => (MULTICLUSTER, "serviceexports", &["v1beta1", "v1alpha1"]),
        Kind::ServiceImport => (MULTICLUSTER, "serviceimports", &["v1beta1", "v1alpha1"]),
        Kind::HttpRoute => (GATEWAY, "httproutes", &["v1", "v1beta1"]),
        Kind::GrpcRoute => (GATEWAY, "grpcroutes", &["v1", "v1alpha2"]),
        Kind::TcpRoute => (GATEWAY, "tcproutes", &["v1", "v1alpha2"]),
        Kind::TlsRoute => (GATEWAY, "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
        Kind::Gateway => (GATEWAY, "gateways", &["v1", "v1beta1"]),
        Kind::GatewayClass => (GATEWAY, "gatewayclasses", &["v1", "v1beta1"]),
        Kind::AccessPolicy => ("isthmus.dev", "accesspolicies", &["v1alpha1"]),
        Kind::MeshCluster => ("isthmus.dev", "meshclusters", &["v1alpha1"]),
        Kind::TrafficPolicy => ("isthmus.dev", "trafficpolicies", &["v1alpha1"]),
        Kind::TrustPolicy => ("isthmus.dev", "trustpolicies", &["v1alpha1"]),
        Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Pod
        | Kind::Deployment
        | Kind::ClusterProperty
        | Kind::ClusterProfile
        | Kind::ReferenceGrant => return None,
    })
}

/// Where an object is, in every version in which its kind may be served, best first: `apiVersion` and
/// path.
pub(super) fn paths(at: &ObjectRef) -> Vec<(String, String)> {
    let Some((group, plural, versions)) = resource(at.kind) else {
        return Vec::new();
    };
    let place = |version: &&str| {
        let (named, api) = if group.is_empty() {
            ((*version).to_owned(), format!("/api/{version}"))
        } else {
            let named = format!("{group}/{version}");
            let api = format!("/apis/{named}");
            (named, api)
        };
        let path = match &at.namespace {
            Some(namespace) => format!("{api}/namespaces/{namespace}/{plural}/{}", at.name),
            None => format!("{api}/{plural}/{}", at.name),
        };
        (named, path)
    };
    versions.iter().map(place).collect()
}

/// What is sent with server-side apply, in this version; `None`: it is written in another way.
pub(super) fn applied(write: &Write, version: &str) -> Option<Value> {
    let mut document = head(&write.object, version);
    match &write.body {
        Body::Import(body) => {
            metadata(&mut document, &body.uid, &body.labels, &body.annotations);
            document["spec"] = import(body, is_alpha(version));
        }
        Body::Service(body) => {
            metadata(&mut document, &body.uid, &body.labels, &Labels::new());
            owned(&mut document, &body.owner);
            document["spec"] = service(body);
        }
        Body::Roots(body) => {
            metadata(&mut document, &body.uid, &body.labels, &Labels::new());
            document["data"] = json!(body.data);
        }
        Body::Slice(body) => {
            metadata(&mut document, &body.uid, &body.labels, &Labels::new());
            owned(&mut document, &body.owner);
            slice(&mut document, body);
        }
        Body::ImportStatus(status) => {
            let named = status.clusters.iter();
            let named = named.map(|cluster| json!({ "cluster": cluster }));
            document["status"] = json!({ "clusters": named.collect::<Vec<_>>() });
            if !is_alpha(version) {
                document["status"]["conditions"] = json!(conditions_of(&status.conditions));
            }
        }
        Body::Conditions(conditions) => {
            document["status"] = json!({ "conditions": conditions_of(conditions) });
        }
        Body::Gateway(body) => document["status"] = gateway(body),
        Body::Delete { .. } | Body::Parents(_) => return None,
    }
    Some(document)
}

/// May fields be taken from whoever owns them? Only in what the mesh made itself, and in statuses of
/// which it is the only author.
pub(super) fn forced(write: &Write) -> bool {
    match &write.body {
        // What is there by the time it arrives, though nothing was seen, is somebody else's.
        Body::Import(ImportBody { uid, .. })
        | Body::Service(ServiceBody { uid, .. })
        | Body::Roots(RootsBody { uid, .. })
        | Body::Slice(SliceBody { uid, .. }) => !uid.is_empty(),
        Body::ImportStatus(_) | Body::Gateway(_) => true,
        // Another implementation of the API may answer for exports, too.
        Body::Conditions(_) => write.object.kind != Kind::ServiceExport,
        // Over the version that was read, with all that was in it.
        Body::Parents(_) => true,
        Body::Delete { .. } => false,
    }
}

fn head(at: &ObjectRef, version: &str) -> Value {
    let mut document = json!({
        "apiVersion": version, "kind": at.kind.as_str(), "metadata": { "name": at.name },
    });
    if let Some(namespace) = &at.namespace {
        document["metadata"]["namespace"] = json!(namespace.as_str());
    }
    document
}

fn metadata(document: &mut Value, uid: &str, labels: &Labels, annotations: &Labels) {
    document["metadata"]["labels"] = json!(labels);
    if !annotations.is_empty() {
        document["metadata"]["annotations"] = json!(annotations);
    }
    // Changes this object, or none: not one that has taken its place.
    if !uid.is_empty() {
        document["metadata"]["uid"] = json!(uid);
    }
    debug_assert_eq!(
        labels.get(MANAGED_LABEL).map(String::as_str),
        Some(MANAGED_BY)
    );
}

/// A definition that serves nothing newer may lack fields, and refuse an object that has them.
fn is_alpha(version: &str) -> bool {
    version.ends_with("/v1alpha1")
}

/// By the ServiceImport of this name and uid.
fn owned(document: &mut Value, (name, uid): &(String, String)) {
    // Without `blockOwnerDeletion`: that takes a permission on the owner's finalizers.
    document["metadata"]["ownerReferences"] = json!([{
        "apiVersion": format!("{MULTICLUSTER}/v1beta1"), "kind": "ServiceImport",
        "name": name, "uid": uid, "controller": true,
    }]);
}

fn slice(document: &mut Value, body: &SliceBody) {
    let port =
        |port: &SlicePort| json!({ "name": port.name, "port": port.port, "protocol": "TCP" });
    let endpoint = |endpoint: &SliceEndpoint| {
        let mut value = json!({
            "addresses": endpoint.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "conditions": {
                "ready": endpoint.ready, "serving": endpoint.serving,
                "terminating": endpoint.terminating,
            },
        });
        if !endpoint.zone.is_empty() {
            value["zone"] = json!(endpoint.zone);
        }
        if let Some(hostname) = &endpoint.hostname {
            value["hostname"] = json!(hostname);
        }
        value
    };
    document["addressType"] = json!(body.family.as_str());
    document["ports"] = body.ports.iter().map(port).collect();
    document["endpoints"] = body.endpoints.iter().map(endpoint).collect();
}

fn import(body: &ImportBody, is_alpha: bool) -> Value {
    let mut spec = json!({
        "type": if body.headless { "Headless" } else { "ClusterSetIP" },
        "ports": body.ports.iter().map(port).collect::<Vec<_>>(),
    });
    if !body.ips.is_empty() {
        spec["ips"] = body.ips.iter().map(IpAddr::to_string).collect();
    }
    affinity(&mut spec, body.affinity);
    if is_alpha {
        return spec;
    }
    spec["internalTrafficPolicy"] = json!(body.spread.internal_traffic_policy());
    if let Some(distribution) = &body.spread.distribution {
        spec["trafficDistribution"] = json!(distribution);
    }
    if !body.families.is_empty() {
        let families = body.families.iter().map(|family| family.as_str());
        spec["ipFamilies"] = families.collect();
    }
    spec
}

fn service(body: &ServiceBody) -> Value {
    let mut spec = json!({
        "type": "ClusterIP",
        // An address of each family that the cluster has.
        "ipFamilyPolicy": "PreferDualStack",
        "ports": body.ports.iter().map(port).collect::<Vec<_>>(),
    });
    if body.headless {
        spec["clusterIP"] = json!("None");
    }
    affinity(&mut spec, body.affinity);
    spec
}

/// Every value is written, the usual ones too: what the API server fills in belongs to nobody, and
/// would stay when the affinity ends.
fn affinity(spec: &mut Value, seconds: Option<u32>) {
    match seconds {
        None => spec["sessionAffinity"] = json!("None"),
        Some(seconds) => {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
    }
}

fn port(port: &OtherPort) -> Value {
    let mut value = json!({ "port": port.port, "protocol": port.transport.as_str() });
    if !port.name.is_empty() {
        value["name"] = json!(port.name);
    }
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = json!(protocol);
    }
    value
}

fn conditions_of(conditions: &[Said]) -> Vec<Value> {
    let one = |said: &Said| {
        let mut value = json!({
            "type": said.kind, "status": said.status.as_str(), "reason": said.reason,
            "message": said.message,
            "lastTransitionTime": said.since.map(timestamp::whole),
        });
        if said.generation > 0 {
            value["observedGeneration"] = json!(said.generation);
        }
        value
    };
    conditions.iter().map(one).collect()
}

/// An address that was there and is no more goes because it is not written any more.
fn gateway(body: &GatewayBody) -> Value {
    let listener = |listener: &ListenerStatus| {
        json!({
            "name": listener.name, "supportedKinds": [], "attachedRoutes": 0,
            "conditions": conditions_of(&listener.conditions),
        })
    };
    let address = |address: &GatewayAddress| match address {
        GatewayAddress::Ip(ip) => json!({ "type": "IPAddress", "value": ip.to_string() }),
        GatewayAddress::Hostname(name) => json!({ "type": "Hostname", "value": name }),
    };
    let mut status = json!({
        "conditions": conditions_of(&body.conditions),
        "listeners": body.listeners.iter().map(listener).collect::<Vec<_>>(),
    });
    let addresses = body.addresses.as_ref().filter(|all| !all.is_empty());
    if let Some(addresses) = addresses {
        status["addresses"] = addresses.iter().map(address).collect();
    }
    status
}

/// The status of a route that was read, with the mesh's entries in it. Those of other controllers stay
/// as they are; if there is no room beside them, the mesh's own are fewer. The list is one field, so it
/// is written only over the version that was read.
pub(super) fn with_parents(route: &Value, parents: &[ParentStatus]) -> Value {
    let listed = route["status"]["parents"].as_array().cloned();
    let mut all: Vec<Value> = listed.unwrap_or_default();
    all.retain(|entry| entry["controllerName"] != CONTROLLER_NAME);
    let room = PARENTS_MAX.saturating_sub(all.len());
    let entry = |status: &ParentStatus| {
        json!({
            "controllerName": CONTROLLER_NAME,
            "parentRef": parent(&status.parent),
            "conditions": conditions_of(&status.conditions),
        })
    };
    all.extend(parents.iter().take(room).map(entry));
    let meta = &route["metadata"];
    json!({
        "apiVersion": route["apiVersion"], "kind": route["kind"],
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"],
            "resourceVersion": meta["resourceVersion"],
        },
        "status": { "parents": all },
    })
}

fn parent(parent: &Parent) -> Value {
    let (group, kind) = match parent.reach {
        Reach::Cluster => ("", "Service"),
        Reach::Clusterset => (MULTICLUSTER, "ServiceImport"),
    };
    let mut value = json!({ "group": group, "kind": kind, "name": parent.name });
    if let Some(namespace) = &parent.namespace {
        value["namespace"] = json!(namespace);
    }
    if let Some(section) = &parent.section {
        value["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        value["port"] = json!(port);
    }
    value
}
