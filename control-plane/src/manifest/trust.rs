//! Which clusters are not believed any more?

use isthmus_control_plane_core::model::{Spec, TrustPolicy};
use serde::Deserialize;

use super::{Document, Failure, Metadata, status};

/// Most clusters of one policy; a mesh has no more.
const CLUSTERS_MAX: usize = 200;

#[derive(Deserialize)]
struct Policy {
    spec: PolicySpec,
    #[serde(default)]
    status: Option<serde_json::Value>,
}

/// Whom the mesh believes.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicySpec {
    /// Clusters that are cut off: no identity of their trust domains is accepted anywhere, none is
    /// issued, and connections of theirs are closed.
    distrusted_clusters: Vec<String>,
}

pub(super) fn policy(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: Policy = document.decode()?;
    let named = raw.spec.distrusted_clusters;
    let refused = |why: String| document.failure(format!("spec.distrustedClusters: {why}"));
    if named.is_empty() || named.len() > CLUSTERS_MAX {
        return Err(refused(format!("1 to {CLUSTERS_MAX} are named")));
    }
    let mut distrusted = std::collections::BTreeSet::new();
    for name in named {
        let cluster = name.parse().map_err(|bad| refused(format!("{bad}")))?;
        if !distrusted.insert(cluster) {
            return Err(refused(format!("{name} is named twice")));
        }
    }
    Ok(Spec::TrustPolicy(TrustPolicy {
        distrusted,
        observed: status::observed(metadata, raw.status.as_ref(), status::TRUST),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{one, read};
    use super::*;

    fn manifest(clusters: &str) -> String {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {{name: cut}}\n\
             spec: {{distrustedClusters: {clusters}}}\n"
        )
    }

    #[test]
    fn clusters_are_cut_off_by_name() {
        let object = one(&manifest("[west, north]"));
        let Spec::TrustPolicy(policy) = object.spec else {
            panic!("a TrustPolicy")
        };
        assert_eq!(object.namespace, None);
        assert_eq!(policy.distrusted.len(), 2);
        let written = "status: {conditions: [{type: Accepted, status: \"True\", reason: Accepted, message: \"\"}]}\n";
        let object = one(&format!("{}{written}", manifest("[west]")));
        let Spec::TrustPolicy(policy) = object.spec else {
            panic!("a TrustPolicy")
        };
        assert_eq!(policy.observed.conditions.len(), 1, "what the mesh wrote");
        for bad in ["[]", "[West]", "[west, west]", "west", "[\"*\"]"] {
            assert_eq!(read(&manifest(bad)).errors.len(), 1, "{bad}");
        }
    }
}
