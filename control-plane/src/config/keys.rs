//! Where do the mesh's keys lie?

use serde::Deserialize;

use super::{ClusterConfig, ConfigError, Home, in_cluster, value};

/// Where the mesh's keys lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeysAt {
    /// In the state folder: one control plane has them.
    Files,
    /// In Secrets of the home cluster: all replicas have them.
    Secrets,
}

/// As it is said; else in Secrets if we are a pod of the home cluster.
pub(super) fn understand(
    said: Option<KeysAt>,
    home: Option<&Home>,
    clusters: &[ClusterConfig],
) -> Result<KeysAt, ConfigError> {
    let of_home = |cluster: &&ClusterConfig| home.is_some_and(|h| h.cluster == cluster.name);
    let pod = clusters.iter().find(of_home).is_some_and(in_cluster);
    match (said, home) {
        (Some(KeysAt::Secrets), None) => Err(value(
            "keys",
            "secrets are in a home cluster that is written to: there is none",
        )),
        (Some(said), _) => Ok(said),
        (None, _) if pod => Ok(KeysAt::Secrets),
        (None, _) => Ok(KeysAt::Files),
    }
}
