//! What does the operator want this control plane to be?
//!
//! `RawConfig` is the JSON as it is written, `Config` is what it means. Errors name the key.

mod advertise;
mod keys;
mod providers;
mod writes;

pub use advertise::Advertise;
pub use keys::KeysAt;
pub use providers::{Plugin, Providers};
pub use writes::Writes;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_control_plane_core::issue::LIFETIME;
use isthmus_control_plane_core::model::SYSTEM_NAMESPACE;
use isthmus_control_plane_core::quota::{Allotment, Quota};
use isthmus_control_plane_core::world::{CLUSTERS_MAX, RESERVED};
use isthmus_proto::ids::{ClusterId, Namespace, is_dns_name};
use isthmus_proto::spiffe::TrustDomain;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::kubernetes::Allow;

/// The domain under which the clusters' trust domains live, where none is named.
pub const MESH_DOMAIN: &str = "mesh.internal";
/// Largest configuration, in bytes.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Shorter than 5 s, a certificate is over before it is renewed; longer than 30 days, cutting off a
/// stolen one takes too long.
const CERTIFICATE_SECONDS: RangeInclusive<u64> = 5..=30 * 24 * 3600;

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
    /// Not JSON: the cause names line and column.
    #[error("not JSON")]
    Syntax(#[source] serde_json::Error),
    /// A key of the whole is missing or not known: the cause names it.
    #[error(transparent)]
    Whole(serde_json::Error),
    /// Not of the right shape: the cause names line and column.
    #[error("{key}")]
    Parse {
        /// Where, as `clusters[1].name`.
        key: String,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// What is wrong is wrong in this file.
    #[error("{}", path.display())]
    In {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: Box<Self>,
    },
    /// A value that can't be.
    #[error("{key}: {why}")]
    Value {
        /// Where it stands, as `clusters[1].name`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// So long the endpoints of a cluster that can't be seen count, if nobody says otherwise.
const STALE_SECONDS: u64 = 24 * 3_600;

/// The JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    mesh_domain: Option<String>,
    certificate_seconds: Option<u64>,
    stale_seconds: Option<u64>,
    state_dir: PathBuf,
    listen: RawListen,
    clusters: Vec<RawCluster>,
    home: Option<RawHome>,
    keys: Option<KeysAt>,
    secret_copies: Option<PathBuf>,
    write: Option<bool>,
    advertise: Option<advertise::Raw>,
    writes: Option<writes::Raw>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHome {
    cluster: String,
    namespace: Option<String>,
    #[serde(default)]
    allow: Vec<serde_json::Value>,
    quota: Option<RawQuota>,
    #[serde(default)]
    providers: Vec<providers::Raw>,
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
    files: Option<PathBuf>,
    kubernetes: Option<RawKubernetes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKubernetes {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    #[serde(default)]
    in_cluster: bool,
    #[serde(default)]
    allow: Vec<serde_json::Value>,
    quota: Option<RawQuota>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    endpoints: Option<usize>,
    mebibytes: Option<usize>,
}

/// What the control plane is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Below it every cluster has its trust domain. Default: `mesh.internal`.
    pub mesh_domain: String,
    /// How long a workload's certificate is valid. Default: 36 h; at least 5 s, at most 30 days.
    pub certificate_lifetime: Duration,
    /// How long the endpoints of a cluster that can't be seen count in the other clusters. Default: 24 h;
    /// `None`: for ever.
    pub stale_life: Option<Duration>,
    /// Where keys are kept.
    pub state_dir: PathBuf,
    /// Where proxies come for certificates and discovery (TLS). Port 0: any.
    pub discovery: SocketAddr,
    /// Where operators and metrics come (plain HTTP). Port 0: any.
    pub admin: SocketAddr,
    /// The clusters of the mesh, at least one.
    pub clusters: Vec<ClusterConfig>,
    /// The cluster that speaks for the mesh; `None`: all do, and none names others.
    pub home: Option<Home>,
    /// How much is written into each cluster.
    pub writes: Writes,
    /// Where the mesh's keys lie. Default: in Secrets if the control plane is a pod of its home
    /// cluster, else in files.
    pub keys: KeysAt,
    /// Where Secrets of the home cluster are kept as they were last read; `None`: nowhere.
    pub secret_copies: Option<PathBuf>,
    /// Where proxies find the control plane; `None`: pods are not told by a ConfigMap.
    pub advertise: Option<Advertise>,
    /// May it write into the clusters? Default: true. Else it only watches them.
    pub write: bool,
}

/// The cluster whose MeshCluster objects name the others, and whose word counts for the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// One of the configured clusters, with an API server.
    pub cluster: ClusterId,
    /// Where the Secrets with kubeconfigs are. Default: the namespace of our own pod, else
    /// `isthmus-system`.
    pub namespace: Option<Namespace>,
    /// What those kubeconfigs may say.
    pub allow: Allow,
    /// How much the mesh takes in of each cluster that joins, unless its MeshCluster says otherwise.
    pub quota: Quota,
    /// Plugins that are asked for credentials of an inventory's clusters.
    pub providers: Providers,
}

impl Home {
    /// The namespace of its Secrets; `own` is the one of our pod.
    #[must_use]
    pub fn place<'a>(&'a self, own: Option<&'a str>) -> &'a str {
        let configured = self.namespace.as_ref().map(Namespace::as_str);
        configured.or(own).unwrap_or(SYSTEM_NAMESPACE)
    }
}

/// One cluster, and where it is learned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Unique in the mesh.
    pub name: ClusterId,
    /// `<name>.<mesh domain>`.
    pub trust_domain: TrustDomain,
    /// Where its objects are.
    pub origin: Origin,
}

/// Where a cluster's objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a folder of manifests.
    Files(PathBuf),
    /// In an API server.
    Kubernetes(Kubernetes),
}

/// An API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// How it is reached.
    pub reach: ApiServer,
    /// How much of it the mesh takes in.
    pub quota: Quota,
}

/// How an API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiServer {
    /// The control plane is a pod of this cluster, and has its service account.
    InCluster,
    /// As a kubeconfig says.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context in it; `None`: the current one.
        context: Option<String>,
        /// What it may say that is refused elsewhere.
        allow: Allow,
    },
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to the working directory.
    ///
    /// # Errors
    /// The file can't be read, or is not a configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        use std::io::Read as _;
        let mut text = String::new();
        let failed = |cause| ConfigError::Read {
            path: path.to_path_buf(),
            cause,
        };
        std::fs::File::open(path)
            .and_then(|f| f.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(failed)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > CONFIG_BYTES_MAX) {
            return Err(failed(std::io::Error::other("larger than 1 MiB")));
        }
        Self::parse(&text).map_err(|error| ConfigError::In {
            path: path.to_path_buf(),
            cause: Box::new(error),
        })
    }

    /// Understands a configuration.
    ///
    /// # Errors
    /// A key is unknown or missing, or its value can't be.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let raw: RawConfig =
            serde_path_to_error::deserialize(&mut json).map_err(|error| unshaped(text, error))?;
        json.end().map_err(ConfigError::Syntax)?;
        let mesh_domain = raw.mesh_domain.unwrap_or_else(|| MESH_DOMAIN.to_owned());
        if !is_dns_name(&mesh_domain) {
            return Err(value("mesh_domain", "not a DNS name in lower case"));
        }
        let seconds = raw.certificate_seconds.unwrap_or(LIFETIME.as_secs());
        if !CERTIFICATE_SECONDS.contains(&seconds) {
            return Err(value("certificate_seconds", "not 5 to 2592000"));
        }
        let stale = raw.stale_seconds.unwrap_or(STALE_SECONDS);
        let address = |key: &str, text: &str| {
            text.parse()
                .map_err(|_| value(key, format!("{text:?} is not IP:PORT")))
        };
        let clusters = clusters(raw.clusters, &mesh_domain)?;
        let home = home(raw.home, &clusters)?;
        let write = raw.write != Some(false);
        Ok(Self {
            keys: keys::understand(raw.keys, home.as_ref().filter(|_| write), &clusters)?,
            discovery: address("listen.discovery", &raw.listen.discovery)?,
            admin: address("listen.admin", &raw.listen.admin)?,
            advertise: advertise::understand(raw.advertise, home.as_ref())?,
            home,
            writes: writes::understand(raw.writes)?,
            clusters,
            write,
            certificate_lifetime: Duration::from_secs(seconds),
            stale_life: (stale > 0).then(|| Duration::from_secs(stale)),
            state_dir: raw.state_dir,
            secret_copies: raw.secret_copies,
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
        if RESERVED.contains(&name.as_str()) {
            return Err(value(
                &name_key,
                format!("{name} is reserved for the mesh itself"),
            ));
        }
        let trust_domain = TrustDomain::of_cluster(&name, mesh_domain)
            .map_err(|e| value(&name_key, format!("{e}")))?;
        if !names.insert(name.clone()) {
            return Err(value(&name_key, format!("{name} is named twice")));
        }
        let origin = origin(
            &format!("clusters[{at}]"),
            cluster.files,
            cluster.kubernetes,
        )?;
        if let Origin::Files(folder) = &origin
            && !folders.insert(spelled_out(folder))
        {
            let why = format!("{} is another cluster's", folder.display());
            return Err(value(&format!("clusters[{at}].files"), why));
        }
        clusters.push(ClusterConfig {
            name,
            trust_domain,
            origin,
        });
    }
    Ok(clusters)
}

/// The folder by the one name that all of its spellings share.
fn spelled_out(folder: &Path) -> PathBuf {
    let there = std::fs::canonicalize(folder);
    // Not there yet: at least without `.` and `//`.
    there.unwrap_or_else(|_| std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()))
}

/// The one that is named; else the cluster that the control plane is a pod of.
fn home(raw: Option<RawHome>, clusters: &[ClusterConfig]) -> Result<Option<Home>, ConfigError> {
    let Some(raw) = raw else {
        return Ok(clusters
            .iter()
            .find(|cluster| in_cluster(cluster))
            .map(|cluster| Home {
                cluster: cluster.name.clone(),
                namespace: None,
                allow: Allow::default(),
                quota: Quota::default(),
                providers: Providers::new(),
            }));
    };
    let found = clusters
        .iter()
        .find(|cluster| cluster.name.as_str() == raw.cluster);
    let Some(found) = found else {
        let why = format!("{:?} is none of the clusters", raw.cluster);
        return Err(value("home.cluster", why));
    };
    match found.origin {
        Origin::Files(_) => Err(value("home.cluster", "has no API server")),
        Origin::Kubernetes(_) => Ok(Some(Home {
            cluster: found.name.clone(),
            namespace: raw
                .namespace
                .map(|name| name.parse())
                .transpose()
                .map_err(|error| value("home.namespace", format!("{error}")))?,
            allow: Allow::of(&raw.allow).map_err(|refused| value("home.allow", refused.why))?,
            quota: quota("home.quota", raw.quota)?,
            providers: providers::understand(raw.providers)?,
        })),
    }
}

/// Are we a pod of it?
fn in_cluster(cluster: &ClusterConfig) -> bool {
    match &cluster.origin {
        Origin::Kubernetes(kubernetes) => kubernetes.reach == ApiServer::InCluster,
        Origin::Files(_) => false,
    }
}

/// Exactly one of the two.
fn origin(
    key: &str,
    files: Option<PathBuf>,
    kubernetes: Option<RawKubernetes>,
) -> Result<Origin, ConfigError> {
    match (files, kubernetes) {
        (Some(folder), None) => Ok(Origin::Files(folder)),
        (None, Some(raw)) => {
            self::kubernetes(&format!("{key}.kubernetes"), raw).map(Origin::Kubernetes)
        }
        (Some(_), Some(_)) => Err(value(key, "files and kubernetes exclude each other")),
        (None, None) => Err(value(key, "one of files and kubernetes is needed")),
    }
}

fn kubernetes(key: &str, raw: RawKubernetes) -> Result<Kubernetes, ConfigError> {
    let reach = match (raw.in_cluster, raw.kubeconfig) {
        (true, None) => {
            if raw.context.is_some() || !raw.allow.is_empty() {
                let why = "context and allow are for a kubeconfig";
                return Err(value(&format!("{key}.in_cluster"), why));
            }
            ApiServer::InCluster
        }
        (false, Some(file)) => ApiServer::Kubeconfig {
            file,
            context: raw.context,
            allow: Allow::of(&raw.allow)
                .map_err(|refused| value(&format!("{key}.allow"), refused.why))?,
        },
        (true, Some(_)) => {
            let why = "kubeconfig and in_cluster exclude each other";
            return Err(value(key, why));
        }
        (false, None) => return Err(value(key, "one of kubeconfig and in_cluster is needed")),
    };
    Ok(Kubernetes {
        reach,
        quota: quota(&format!("{key}.quota"), raw.quota)?,
    })
}

fn quota(key: &str, raw: Option<RawQuota>) -> Result<Quota, ConfigError> {
    let Some(raw) = raw else {
        return Ok(Quota::default());
    };
    if raw.endpoints == Some(0) || raw.mebibytes == Some(0) {
        return Err(value(key, "nothing would be taken in"));
    }
    let bytes = raw.mebibytes.map(|count| count.saturating_mul(1024 * 1024));
    let endpoints = raw.endpoints;
    Ok(Quota::default().with(Allotment { endpoints, bytes }))
}

/// What is no JSON has a line and no key; what is wrong with the whole has no key either.
fn unshaped(text: &str, error: serde_path_to_error::Error<serde_json::Error>) -> ConfigError {
    let path = error.path().to_string();
    // `?`: an alternative, within which nobody knows the key.
    let key = path.trim_end_matches(".?").to_owned();
    let cause = error.into_inner();
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        ConfigError::Syntax(cause)
    } else if key == "." || key == "?" {
        ConfigError::Whole(cause)
    } else {
        ConfigError::Parse { key, cause }
    }
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
        let stale = |seconds: u64| {
            with(|j| j["stale_seconds"] = seconds.into())
                .unwrap()
                .stale_life
        };
        assert_eq!(config.stale_life, Some(Duration::from_secs(86_400)));
        assert_eq!((stale(60), stale(0)), (Some(Duration::from_secs(60)), None));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("control.json");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            format!(
                "{:#}",
                anyhow::Error::from(Config::read(&file).unwrap_err())
            )
        };
        let place = file.display();
        let told = read(r#"{"stale_seconds":"ten"}"#);
        let expected = format!("{place}: stale_seconds: invalid type: string \"ten\"");
        assert!(told.starts_with(&expected), "{told}");
        let told = read(r#"{"listen":{"discovery":":1","admin":""},"clusters":[{"nam":1}]}"#);
        assert!(
            told.starts_with(&format!("{place}: clusters[0].nam: unknown field")),
            "{told}"
        );
        let told = read(&" ".repeat(1024 * 1024 + 1));
        assert_eq!(told, format!("read {place}: larger than 1 MiB"));
        for (text, expected) in [
            ("", "not JSON: EOF while parsing a value at line 1"),
            ("{\"clusters\": [{", "not JSON: EOF while parsing an object"),
            ("{\"listen\": {}}", "listen: missing field `discovery`"),
            ("{}", "missing field `state_dir` at line 1"),
            ("7", "invalid type: integer `7`"),
            ("{\"keys\": 7}", "keys: "),
        ] {
            let told = read(text);
            let expected = format!("{place}: {expected}");
            assert!(told.starts_with(&expected), "{told} is not {expected}");
            assert!(!told.contains("?: ") && !told.contains(" .: "), "{told}");
        }
    }

    #[test]
    fn two_clusters_share_no_folder_however_it_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(there("a")).unwrap();
        std::os::unix::fs::symlink(there("a"), there("b")).unwrap();
        for (one, other) in [("a", "./a"), ("a", "../a/"), ("a", "b"), ("no", "./no")] {
            let other = other.replace("../a", "a/../a");
            let refused = with(|j| {
                j["clusters"][0]["files"] = there(one).into();
                j["clusters"][1]["files"] = there(&other).into();
            });
            let why = refused.unwrap_err();
            assert!(why.ends_with("is another cluster's"), "{why}");
        }
    }

    #[test]
    fn where_the_control_plane_is_found_has_a_host_and_a_port() {
        let told = |text: &str| {
            with(|j| j["advertise"] = serde_json::json!({ "address": text }))
                .map(|config| config.advertise.unwrap().address.unwrap())
        };
        for good in ["cp.example.com:15012", "10.0.0.1:1", "[2001:db8::1]:15012"] {
            assert_eq!(told(good).unwrap(), good);
        }
        for bad in [
            "cp.example.com",
            "cp:0",
            "2001:db8::1:15012",
            ":1",
            "a b:1",
            "cp:99999",
        ] {
            assert_eq!(told(bad).unwrap_err(), "advertise.address: not HOST:PORT");
        }
        let home = with(|j| j["advertise"] = serde_json::json!({ "home": "cp:1" }));
        assert_eq!(
            home.unwrap_err(),
            "advertise.home: there is no home cluster"
        );
        let nothing = with(|j| j["advertise"] = serde_json::json!({}));
        assert!(nothing.unwrap_err().starts_with("advertise: one of"));
    }

    #[test]
    fn what_is_written_at_once_follows_from_what_is_written_each_second() {
        let writes = |json| {
            let writes = with(|j| j["writes"] = json).unwrap().writes;
            (
                writes.per_second,
                writes.burst,
                writes.removals_after.as_secs(),
            )
        };
        assert_eq!(writes(serde_json::Value::Null), (100, 200, 30));
        assert_eq!(
            writes(serde_json::json!({ "per_second": 20 })),
            (20, 40, 30)
        );
        assert_eq!(writes(serde_json::json!({ "burst": 7 })), (100, 7, 30));
        let at_once = serde_json::json!({ "removals_after_seconds": 0 });
        assert_eq!(writes(at_once), (100, 200, 0));
    }

    #[test]
    fn an_api_server_is_an_origin_like_a_folder() {
        let config = with(|j| {
            j["clusters"][0] = serde_json::json!({ "name": "east", "kubernetes": {
                "kubeconfig": "east.yaml", "context": "east", "allow": ["loopback", "exec:aws"],
                "quota": { "endpoints": 7 },
            } });
            j["clusters"][1] =
                serde_json::json!({ "name": "west", "kubernetes": { "in_cluster": true } });
        })
        .unwrap();
        let allow = Allow::of_words(["loopback", "exec:aws"]).unwrap();
        assert!(allow.loopback && allow.exec[0].command == "aws");
        let reach = ApiServer::Kubeconfig {
            file: "east.yaml".into(),
            context: Some("east".to_owned()),
            allow,
        };
        let quota = Quota {
            endpoints: 7,
            ..Quota::default()
        };
        assert_eq!(
            config.clusters[0].origin,
            Origin::Kubernetes(Kubernetes { reach, quota })
        );
        // The cluster that we are a pod of is home, if none is named, and has the keys.
        assert_eq!(config.home.unwrap().cluster.as_str(), "west");
        assert_eq!(config.keys, KeysAt::Secrets);
        let (reach, quota) = (ApiServer::InCluster, Quota::default());
        assert_eq!(
            config.clusters[1].origin,
            Origin::Kubernetes(Kubernetes { reach, quota })
        );
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn errors_name_the_key() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(&str, Change); 26] = [
            ("keys: secrets are in a home cluster", |j| {
                j["keys"] = "secrets".into();
            }),
            ("unknown variant `vault`", |j| j["keys"] = "vault".into()),
            ("writes.per_second: not 1 to 10000", |j| {
                j["writes"] = serde_json::json!({ "per_second": 0 });
            }),
            ("writes.removals_after_seconds: not 0 to 3600", |j| {
                j["writes"] = serde_json::json!({ "removals_after_seconds": 3_601 });
            }),
            ("writes.burst: not 1 to 10000", |j| {
                j["writes"] = serde_json::json!({ "burst": 10_001 });
            }),
            ("home.quota: nothing", |j| {
                j["clusters"][1] =
                    serde_json::json!({ "name": "west", "kubernetes": { "in_cluster": true } });
                let none = serde_json::json!({ "mebibytes": 0 });
                j["home"] = serde_json::json!({ "cluster": "west", "quota": none });
            }),
            ("keys: secrets are in a home cluster that", |j| {
                j["write"] = false.into();
                j["keys"] = "secrets".into();
            }),
            ("home.cluster: \"north\" is none", |j| {
                j["home"] = serde_json::json!({ "cluster": "north" });
            }),
            ("home.cluster: has no API server", |j| {
                j["home"] = serde_json::json!({ "cluster": "east" });
            }),
            ("home.allow: \"all\"", |j| {
                j["clusters"][1] =
                    serde_json::json!({ "name": "west", "kubernetes": { "in_cluster": true } });
                j["home"] = serde_json::json!({ "cluster": "west", "allow": ["all"] });
            }),
            ("clusters[0]: files and kubernetes exclude", |j| {
                j["clusters"][0]["kubernetes"] = serde_json::json!({ "in_cluster": true });
            }),
            ("clusters[1]: one of files and kubernetes", |j| {
                j["clusters"][1] = serde_json::json!({ "name": "west" });
            }),
            (
                "clusters[1].kubernetes: one of kubeconfig and in_cluster",
                |j| {
                    j["clusters"][1] = serde_json::json!({ "name": "west", "kubernetes": {} });
                },
            ),
            ("clusters[1].kubernetes: kubeconfig and in_cluster", |j| {
                let both = serde_json::json!({ "kubeconfig": "k", "in_cluster": true });
                j["clusters"][1] = serde_json::json!({ "name": "west", "kubernetes": both });
            }),
            ("clusters[1].kubernetes.in_cluster: context", |j| {
                let both = serde_json::json!({ "in_cluster": true, "context": "c" });
                j["clusters"][1] = serde_json::json!({ "name": "west", "kubernetes": both });
            }),
            ("clusters[1].kubernetes.allow: \"all\"", |j| {
                let all = serde_json::json!({ "kubeconfig": "k", "allow": ["files", "all"] });
                j["clusters"][1] = serde_json::json!({ "name": "west", "kubernetes": all });
            }),
            ("clusters[1].kubernetes.quota: nothing", |j| {
                let none = serde_json::json!({ "in_cluster": true, "quota": { "endpoints": 0 } });
                j["clusters"][1] = serde_json::json!({ "name": "west", "kubernetes": none });
            }),
            ("clusters[1].name: cluster \"West\"", |j| {
                j["clusters"][1]["name"] = "West".into()
            }),
            ("clusters[1].name: east is named twice", |j| {
                j["clusters"][1]["name"] = "east".into();
            }),
            ("clusters[0].name: control is reserved", |j| {
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
