//! Which shape do our own kinds have?
//!
//! For the generator of the CRDs only (feature `schema`): made from the types that manifests are
//! decoded into, so that what an API server accepts is what is understood.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::{access, cluster, traffic, trust};

/// The schema of each kind's `spec`, with the types that it refers to under `$defs`.
#[must_use]
pub fn specs() -> [(&'static str, Schema); 4] {
    fn of<T: JsonSchema>() -> Schema {
        SchemaSettings::draft2020_12()
            .into_generator()
            .into_root_schema_for::<T>()
    }
    [
        ("MeshCluster", of::<cluster::ClusterSpec>()),
        ("AccessPolicy", of::<access::PolicySpec>()),
        ("TrafficPolicy", of::<traffic::PolicySpec>()),
        ("TrustPolicy", of::<trust::PolicySpec>()),
    ]
}
