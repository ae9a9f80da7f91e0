//! Does a cluster have the kinds that it should have, as this version defines them?

use isthmus_control_plane::kubernetes::Api;
use serde_json::Value;

use crate::install::objects;
use crate::kubernetes::{self, text};

/// Kinds of ours: API group and version, kinds.
const OURS: (&str, &[&str]) = (
    "isthmus.dev/v1alpha1",
    &[
        "MeshCluster",
        "AccessPolicy",
        "TrafficPolicy",
        "TrustPolicy",
    ],
);
/// Kinds of the Multi-Cluster Services API, as we would have them; an older version will do.
const MULTICLUSTER: (&str, &[&str]) = (
    "multicluster.x-k8s.io/v1beta1",
    &["ServiceExport", "ServiceImport"],
);
const OLDER: &str = "multicluster.x-k8s.io/v1alpha1";

/// What is not right with the kinds of a cluster. Each: `Kind group/version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    /// Not served.
    pub(super) missing: Vec<String>,
    /// Of the Multi-Cluster Services API, defined by somebody else, and served in an older version only.
    pub(super) older: Vec<String>,
    /// Of ours, and with another schema than this version has.
    pub(super) other: Vec<String>,
}

/// Looks at the kinds of a cluster, by what everybody may see and the definitions of ours.
pub(super) async fn of(api: &Api) -> Kinds {
    let mut kinds = Kinds {
        missing: missing(api, OURS.0, OURS.1).await,
        ..Kinds::default()
    };
    let newer = missing(api, MULTICLUSTER.0, MULTICLUSTER.1).await;
    if !newer.is_empty() {
        let older = missing(api, OLDER, MULTICLUSTER.1).await;
        let is_served = |name: &String| {
            let kind = name.split(' ').next().unwrap_or_default();
            !older.iter().any(|other| other.starts_with(kind))
        };
        let (older, missing) = newer.into_iter().partition(is_served);
        kinds.older = older;
        kinds.missing.extend::<Vec<String>>(missing);
    }
    kinds.other = others(api).await;
    kinds
}

/// The kinds of a version that are not served, by what everybody may see.
async fn missing(api: &Api, version: &str, kinds: &[&str]) -> Vec<String> {
    let served = kubernetes::find(api, &format!("/apis/{version}"))
        .await
        .ok()
        .flatten();
    let served = served.unwrap_or_default();
    let resources = served.get("resources").and_then(Value::as_array);
    let has = |kind: &str| resources.into_iter().flatten().any(|r| r["kind"] == kind);
    let absent = kinds.iter().filter(|kind| !has(kind));
    absent.map(|kind| format!("{kind} {version}")).collect()
}

/// Kinds of ours with another schema. What may not be read is told as a permission.
async fn others(api: &Api) -> Vec<String> {
    let mut found = Vec::new();
    for wanted in objects::definitions().unwrap_or_default() {
        let Some((path, _)) = objects::place(&wanted) else {
            continue;
        };
        let Ok(Some(there)) = kubernetes::find(api, &path).await else {
            continue;
        };
        if !alike(&wanted, &there) {
            let kind = text(&wanted, "/spec/names/kind");
            found.push(format!("{kind} {}", OURS.0));
        }
    }
    found
}

/// Has a definition, in each version that is wanted, the schema that is wanted?
fn alike(wanted: &Value, there: &Value) -> bool {
    let versions = |definition: &Value| {
        let all = definition.pointer("/spec/versions").cloned();
        let Some(Value::Array(all)) = all else {
            return Vec::new();
        };
        all
    };
    let there = versions(there);
    versions(wanted).iter().all(|wanted| {
        let same = |other: &&Value| other["name"] == wanted["name"];
        let schema = there.iter().find(same).map(|version| &version["schema"]);
        schema == Some(&wanted["schema"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::permissions::DEFINITIONS;

    #[test]
    fn every_definition_of_ours_may_be_read() {
        let all = objects::definitions().unwrap();
        let names: Vec<&str> = all.iter().map(|one| text(one, "/metadata/name")).collect();
        assert_eq!(names, DEFINITIONS);
    }

    #[test]
    fn another_description_is_another_schema() {
        let all = objects::definitions().unwrap();
        let mut old = all[0].clone();
        assert!(alike(&all[0], &old));
        old["metadata"]["labels"] = Value::Null;
        assert!(alike(&all[0], &old));
        old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "old".into();
        assert!(!alike(&all[0], &old));
        assert!(!alike(&all[0], &all[1]));
        old["spec"]["versions"] = Value::Null;
        assert!(!alike(&all[0], &old));
    }
}
