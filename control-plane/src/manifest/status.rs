//! What had the mesh written about an object?
//!
//! A status that is not as expected is no reason to refuse the object: what can't be read counts as
//! not written.

use isthmus_control_plane_core::model::{
    ListenerStatus, Managed, Observed, Parent, ParentStatus, Reach, Said, Truth,
};
use isthmus_control_plane_core::write::CONTROLLER_NAME;
use serde_json::Value;

use super::meta::timestamp;
use super::{Document, Metadata};

/// The conditions that the mesh writes about a ServiceExport.
pub(super) const EXPORT: &[&str] = &["Valid", "Ready", "Conflict"];
/// ... about a ServiceImport.
pub(super) const IMPORT: &[&str] = &["Ready"];
/// ... about a Gateway.
pub(super) const GATEWAY: &[&str] = &["Accepted", "Programmed"];
/// ... about a MeshCluster.
pub(super) const CLUSTER: &[&str] = &[
    "Accepted",
    "Connected",
    "Synced",
    "CredentialValid",
    "IssuerValid",
    "PropertiesMatch",
    "PodRangesValid",
    "QuotaExceeded",
];
/// ... about a GatewayClass.
pub(super) const CLASS: &[&str] = &["Accepted"];
/// ... about a TrustPolicy.
pub(super) const TRUST: &[&str] = &["Accepted", "ResolvedRefs"];
/// ... about another policy.
const POLICY: &[&str] = &["Accepted", "ResolvedRefs"];
/// ... about a route, to each parent.
const PARENT: &[&str] = &["Accepted", "ResolvedRefs", "PartiallyInvalid"];
/// ... about a listener of a Gateway.
const LISTENER: &[&str] = &["Accepted", "Programmed", "ResolvedRefs"];

#[derive(serde::Deserialize)]
struct WithStatus {
    #[serde(default)]
    status: Option<Value>,
}

/// What was written about a policy, even one that can't be understood.
pub(super) fn of_policy(document: &Document<'_>, metadata: &Metadata) -> Observed {
    of(document, metadata, POLICY)
}

/// The same about a MeshCluster.
pub(super) fn of_cluster(document: &Document<'_>, metadata: &Metadata) -> Observed {
    of(document, metadata, CLUSTER)
}

fn of(document: &Document<'_>, metadata: &Metadata, types: &[&str]) -> Observed {
    let found: Option<WithStatus> = document.decode().ok();
    let status = found.and_then(|found| found.status);
    observed(metadata, status.as_ref(), types)
}

/// The generation, and those of the conditions that are of these types.
pub(super) fn observed(metadata: &Metadata, status: Option<&Value>, types: &[&str]) -> Observed {
    Observed {
        generation: metadata.generation(),
        conditions: conditions(status, types),
        deleting: metadata.deleted(),
    }
}

fn conditions(status: Option<&Value>, types: &[&str]) -> Vec<Said> {
    let listed = status.and_then(|s| s.get("conditions")?.as_array());
    let all = listed.into_iter().flatten().filter_map(condition);
    all.filter(|said| types.contains(&said.kind.as_str()))
        .collect()
}

fn condition(value: &Value) -> Option<Said> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let status = match text("status")? {
        "True" => Truth::True,
        "False" => Truth::False,
        _ => Truth::Unknown,
    };
    Some(Said {
        kind: text("type")?.to_owned(),
        status,
        reason: text("reason").unwrap_or_default().to_owned(),
        message: text("message").unwrap_or_default().to_owned(),
        generation: value
            .get("observedGeneration")
            .and_then(Value::as_i64)
            .unwrap_or(0),
        since: text("lastTransitionTime").and_then(timestamp),
    })
}

/// The mesh's own entries in a route's status.
pub(super) fn parents(status: Option<&Value>) -> Vec<ParentStatus> {
    let listed = status.and_then(|s| s.get("parents")?.as_array());
    let ours = listed.into_iter().flatten().filter(|entry| {
        entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
    });
    ours.filter_map(|entry| {
        Some(ParentStatus {
            parent: parent(entry.get("parentRef")?)?,
            conditions: conditions(Some(entry), PARENT),
        })
    })
    .collect()
}

/// What is said of a Gateway's listeners.
pub(super) fn listeners(status: Option<&Value>) -> Vec<ListenerStatus> {
    let listed = status.and_then(|s| s.get("listeners")?.as_array());
    let all = listed.into_iter().flatten();
    all.filter_map(|entry| {
        Some(ListenerStatus {
            name: entry.get("name")?.as_str()?.to_owned(),
            conditions: conditions(Some(entry), LISTENER),
        })
    })
    .collect()
}

fn parent(value: &Value) -> Option<Parent> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let reach = match text("kind").as_deref() {
        Some("Service") => Reach::Cluster,
        Some("ServiceImport") => Reach::Clusterset,
        _ => return None,
    };
    let port = value.get("port").and_then(Value::as_u64);
    Some(Parent {
        reach,
        namespace: text("namespace"),
        name: text("name")?,
        section: text("sectionName"),
        port: port.and_then(|port| u16::try_from(port).ok()),
    })
}

/// What is known of an object that the mesh made; `None`: somebody else did.
pub(super) fn managed(metadata: &Metadata) -> Option<Managed> {
    let labels = metadata.labels();
    Managed::is_ours(&labels).then(|| Managed {
        uid: metadata.uid(),
        labels,
        annotations: metadata.annotations(),
        owner: metadata.owner("ServiceImport"),
    })
}
