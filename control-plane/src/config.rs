//! What does the operator want this control plane to be?
//!
//! `RawConfig` is the JSON as it is written, `Config` is what it means. Errors name the key.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use isthmus_proto::ids::{ClusterId, is_dns_name};
use isthmus_proto::spiffe::TrustDomain;
use serde::Deserialize;

/// The domain under which the clusters' trust domains live, where none is named.
pub const MESH_DOMAIN: &str = "mesh.internal";
/// Largest configuration, in bytes.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Most clusters of a mesh.
const CLUSTERS_MAX: usize = 500;
/// The label under the mesh domain that is the control plane's own trust domain.
const CONTROL: &str = "control";

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// Not JSON, or not of the right shape: the cause names key, line and column.
    #[error("the configuration is not understood")]
    Parse(#[source] serde_json::Error),
    /// A value that can't be.
    #[error("{key}: {why}")]
    Value {
        /// Where it stands, as `clusters[1].name`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    mesh_domain: Option<String>,
    state_dir: PathBuf,
    listen: RawListen,
    clusters: Vec<RawCluster>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    discovery: String,
    admin: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    name: String,
    files: PathBuf,
}

/// What the control plane is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Below it every cluster has its trust domain. Default: `mesh.internal`.
    pub mesh_domain: String,
    /// Where keys are kept.
    pub state_dir: PathBuf,
    /// Where proxies come for certificates and discovery (TLS). Port 0: any.
    pub discovery: SocketAddr,
    /// Where operators and metrics come (plain HTTP). Port 0: any.
    pub admin: SocketAddr,
    /// The clusters of the mesh, at least one.
    pub clusters: Vec<ClusterConfig>,
}

/// One cluster, and where it is learned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Unique in the mesh.
    pub name: ClusterId,
    /// `<name>.<mesh domain>`.
    pub trust_domain: TrustDomain,
    /// A folder of manifests.
    pub files: PathBuf,
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to the working directory.
    ///
    /// # Errors
    /// The file can't be read, or is not a configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|f| f.take(CONFIG_BYTES_MAX).read_to_string(&mut text))
            .map_err(|cause| ConfigError::Read {
                path: path.to_path_buf(),
                cause,
            })?;
        Self::parse(&text)
    }

    /// Understands a configuration.
    ///
    /// # Errors
    /// A key is unknown or missing, or its value can't be.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_str(text).map_err(ConfigError::Parse)?;
        let mesh_domain = raw.mesh_domain.unwrap_or_else(|| MESH_DOMAIN.to_owned());
        if !is_dns_name(&mesh_domain) {
            return Err(value("mesh_domain", "not a DNS name in lower case"));
        }
        let address = |key: &str, text: &str| {
            text.parse()
                .map_err(|_| value(key, format!("{text:?} is not IP:PORT")))
        };
        Ok(Self {
            discovery: address("listen.discovery", &raw.listen.discovery)?,
            admin: address("listen.admin", &raw.listen.admin)?,
            clusters: clusters(raw.clusters, &mesh_domain)?,
            state_dir: raw.state_dir,
            mesh_domain,
        })
    }
}

fn clusters(raw: Vec<RawCluster>, mesh_domain: &str) -> Result<Vec<ClusterConfig>, ConfigError> {
    if raw.is_empty() {
        return Err(value("clusters", "at least one is needed"));
    }
    if raw.len() > CLUSTERS_MAX {
        return Err(value("clusters", format!("more than {CLUSTERS_MAX}")));
    }
    let (mut names, mut folders) = (BTreeSet::new(), BTreeSet::new());
    let mut clusters = Vec::with_capacity(raw.len());
    for (at, cluster) in raw.into_iter().enumerate() {
        let name_key = format!("clusters[{at}].name");
        let name: ClusterId = cluster
            .name
            .parse()
            .map_err(|e| value(&name_key, format!("{e}")))?;
        if name.as_str() == CONTROL {
            // Its authority would be the one that the proxies take the control plane's word by.
            return Err(value(
                &name_key,
                "\"control\" is the control plane's own trust domain",
            ));
        }
        let trust_domain = TrustDomain::of_cluster(&name, mesh_domain)
            .map_err(|e| value(&name_key, format!("{e}")))?;
        if !names.insert(name.clone()) {
            return Err(value(&name_key, format!("{name} is named twice")));
        }
        if !folders.insert(cluster.files.clone()) {
            let why = format!("{} is another cluster's", cluster.files.display());
            return Err(value(&format!("clusters[{at}].files"), why));
        }
        clusters.push(ClusterConfig {
            name,
            trust_domain,
            files: cluster.files,
        });
    }
    Ok(clusters)
}

fn value(key: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut serde_json::Value)) -> Result<Config, String> {
        let mut json = serde_json::json!({
            "mesh_domain": "mesh.internal", "state_dir": "cp-state",
            "listen": { "discovery": "127.0.0.1:15012", "admin": "[::1]:0" },
            "clusters": [
                { "name": "east", "files": "clusters/east" },
                { "name": "west", "files": "clusters/west" },
            ],
        });
        change(&mut json);
        Config::parse(&json.to_string()).map_err(|e| format!("{:#}", anyhow::Error::from(e)))
    }

    #[test]
    fn a_whole_configuration_is_understood() {
        let config = with(|_| {}).unwrap();
        assert_eq!(config.discovery.port(), 15012);
        assert_eq!(
            config.clusters[1].trust_domain.as_str(),
            "west.mesh.internal"
        );
        let config = with(|j| j["mesh_domain"] = serde_json::Value::Null).unwrap();
        assert_eq!(config.mesh_domain, MESH_DOMAIN);
    }

    #[test]
    fn errors_name_the_key() {
        let cases: [(&str, fn(&mut serde_json::Value)); 9] = [
            ("clusters[1].name: cluster \"West\"", |j| {
                j["clusters"][1]["name"] = "West".into()
            }),
            ("clusters[1].name: east is named twice", |j| {
                j["clusters"][1]["name"] = "east".into();
            }),
            ("clusters[0].name: \"control\"", |j| {
                j["clusters"][0]["name"] = "control".into()
            }),
            ("clusters[1].files: clusters/east", |j| {
                j["clusters"][1]["files"] = "clusters/east".into();
            }),
            ("clusters: at least one", |j| {
                j["clusters"] = serde_json::json!([])
            }),
            ("listen.discovery: \"x:1\"", |j| {
                j["listen"]["discovery"] = "x:1".into()
            }),
            ("mesh_domain: not a DNS name", |j| {
                j["mesh_domain"] = "Mesh".into()
            }),
            ("unknown field `lisen`", |j| j["lisen"] = 1.into()),
            ("unknown field `kubeconfig`", |j| {
                j["clusters"][0]["kubeconfig"] = 1.into()
            }),
        ];
        for (expected, change) in cases {
            let error = with(change).unwrap_err();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    }
}
