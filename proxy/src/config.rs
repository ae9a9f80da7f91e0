//! What was this proxy told at its start?

mod set;
mod shape;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use isthmus_proto::ids::{ClusterId, InvalidName, Namespace, NetworkId, WorkloadName, is_dns_name};
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use serde::{Deserialize, Deserializer};

use crate::control::ADDRESSES_MAX;
pub use set::Set;
use shape::{Range, key_of, of_key};

/// Largest configuration, in bytes.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// What `unproven_per_source` may be at most: as many as a worker accepts at all.
const UNPROVEN_MAX: usize = 10_000;

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON, or a key that is not known, missing or of the wrong type.
    #[error("parse the configuration {path}{}", of_key(key))]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where, as `listen.virtual[0]`. Empty: the cause names the key, or it is no JSON.
        key: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// What is wrong is wrong in this file.
    #[error("the configuration {path}")]
    In {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
    /// A value that can't be.
    #[error("configuration key {key}: {why}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Why.
        why: String,
    },
}

/// What kind of proxy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Beside an application.
    Sidecar,
    /// Between networks.
    Gateway,
}

/// Which connections are passed through, as they are? The mesh may deny it to all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// Those whose destination is known to be no service.
    #[default]
    Known,
    /// Also those about which nobody could say.
    Always,
    /// None.
    Never,
}

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    role: Role,
    cluster: String,
    network: String,
    #[serde(default = "default_mesh_domain")]
    mesh_domain: String,
    namespace: String,
    pod: String,
    service_account: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    control_plane: ControlPlane,
    token_file: PathBuf,
    state_dir: PathBuf,
    listen: Listen,
    #[serde(default)]
    mesh_accept_from: Vec<Range>,
    #[serde(default)]
    source: Option<IpAddr>,
    #[serde(default)]
    application: Option<IpAddr>,
    #[serde(default = "one")]
    workers: usize,
    #[serde(default)]
    access_log: Option<String>,
    #[serde(default)]
    passthrough: Passthrough,
    #[serde(default = "thirty")]
    drain_seconds: u64,
    #[serde(default = "one")]
    tunnels_per_peer: usize,
    #[serde(default = "unproven")]
    unproven_per_source: usize,
    #[serde(default = "streams_per_tunnel")]
    streams_per_tunnel: u32,
    #[serde(default = "connections_per_listener")]
    connections_per_listener: usize,
}

fn default_mesh_domain() -> String {
    "mesh.internal".to_owned()
}

fn one() -> usize {
    1
}

/// A tunnel carries all that a worker has with a peer.
fn streams_per_tunnel() -> u32 {
    4096
}

/// A sidecar of one worker then holds some 100 MiB.
fn connections_per_listener() -> usize {
    10_000
}

fn thirty() -> u64 {
    30
}

/// SECURITY S24.
fn unproven() -> usize {
    256
}

/// A text, or a list of texts.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    Ok(match Texts::deserialize(from)? {
        Texts::One(text) => vec![text],
        Texts::More(texts) => texts,
    })
}

/// Where discovery and certificates come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlane {
    /// Each `host:port`, of one replica or of several; a host may have several addresses.
    #[serde(rename = "address", deserialize_with = "one_or_more")]
    pub addresses: Vec<String>,
    /// PEM: the roots of the control plane's own trust domain.
    pub roots_file: PathBuf,
}

/// Where the proxy listens. Port 0: any; see `listeners.json` in the state folder.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Mutual TLS from other proxies (15008).
    pub mesh: Option<SocketAddr>,
    /// Captured inbound connections (15006).
    pub inbound: Option<SocketAddr>,
    /// Captured outbound connections (15001).
    pub outbound: Option<SocketAddr>,
    /// TLS from other networks (15443).
    pub gateway: Option<SocketAddr>,
    /// Explicit outbound listeners, for places without capture.
    #[serde(rename = "virtual")]
    pub virtuals: Vec<Virtual>,
    /// Admin (15000): loopback only.
    pub admin: Option<SocketAddr>,
    /// Ready and metrics (15020).
    pub ready: Option<SocketAddr>,
}

/// An outbound listener that stands for one destination.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Virtual {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What it stands for: `address:port` or `hostname:port`.
    pub destination: String,
}

/// Where a connection wanted to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// An address: a service's virtual one, or any.
    Address(SocketAddr),
    /// A service's host name.
    Host(String, u16),
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What kind of proxy.
    pub role: Role,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its network.
    pub network: NetworkId,
    /// The mesh's domain: trust domains are `<cluster>.<mesh domain>`.
    pub mesh_domain: String,
    /// `cluster/namespace/pod`.
    pub workload: WorkloadName,
    /// Who it is.
    pub identity: SpiffeId,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Where discovery and certificates come from.
    pub control_plane: ControlPlane,
    /// The service-account token.
    pub token_file: PathBuf,
    /// Key, certificate, last snapshot.
    pub state_dir: PathBuf,
    /// Where to listen.
    pub listen: Listen,
    /// What each explicit listener stands for, in the order of `listen.virtuals`.
    pub destinations: Vec<Destination>,
    /// Sources that may use the mesh listener. Empty: all.
    pub mesh_accept_from: Vec<IpNet>,
    /// Source address of connections to other proxies. None: the system's choice.
    pub source: Option<IpAddr>,
    /// Where the application listens.
    pub application: IpAddr,
    /// Worker threads.
    pub workers: usize,
    /// `-` for standard output, or a file. None: no access log.
    pub access_log: Option<String>,
    /// What becomes of connections whose destination is no service.
    pub passthrough: Passthrough,
    /// How long a drain waits for what is open.
    pub drain: Duration,
    /// Tunnels for each worker and peer.
    pub tunnels_per_peer: usize,
    /// At a gateway, connections of one source address for each worker about which nobody knows yet
    /// whether a pod takes them.
    pub unproven_per_source: usize,
    /// Streams that a peer may have open in one tunnel.
    pub streams_per_tunnel: u32,
    /// Connections of each listener and worker.
    pub connections_per_listener: usize,
}

impl Config {
    /// Reads a JSON file.
    ///
    /// # Errors
    /// The file, the key or the value at fault.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, &[])
    }

    /// As [`load`](Self::load), with values in place of those of the file.
    ///
    /// # Errors
    /// The file, the key or the value at fault.
    pub fn load_with(path: &Path, set: &[Set]) -> Result<Self, ConfigError> {
        use std::io::Read as _;
        let path = path.to_owned();
        let mut text = String::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Ok(length) if u64::try_from(length).is_ok_and(|l| l <= CONFIG_BYTES_MAX) => {}
            Ok(_) => {
                let source = std::io::Error::other("larger than 1 MiB");
                return Err(ConfigError::Read { path, source });
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
        match raw(&text, set) {
            Err((key, source)) => Err(ConfigError::Parse { path, key, source }),
            Ok(raw) => raw.build().map_err(|error| ConfigError::In {
                path,
                source: Box::new(error),
            }),
        }
    }

    /// May this source use the mesh listener, by whatever way it comes there?
    #[must_use]
    pub fn accepts_on_mesh(&self, source: IpAddr) -> bool {
        let from = &self.mesh_accept_from;
        from.is_empty() || from.iter().any(|net| net.contains(&source))
    }
}

/// The file with what is set beside it; without that errors know their line.
fn raw(text: &str, set: &[Set]) -> Result<RawConfig, (String, serde_json::Error)> {
    type Failed = serde_path_to_error::Error<serde_json::Error>;
    let at = |error: Failed| (key_of(text, &error), error.into_inner());
    let whole = |error| (String::new(), error);
    if set.is_empty() {
        let mut json = serde_json::Deserializer::from_str(text);
        let raw = serde_path_to_error::deserialize(&mut json).map_err(at)?;
        return json.end().map(|()| raw).map_err(whole);
    }
    let mut json: serde_json::Value = serde_json::from_str(text).map_err(whole)?;
    set.iter().for_each(|set| set.apply(&mut json));
    serde_path_to_error::deserialize(json).map_err(at)
}

impl RawConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The key and why its value can't be.
    pub fn build(self) -> Result<Config, ConfigError> {
        let cluster: ClusterId = name("cluster", &self.cluster)?;
        let _: Namespace = name("namespace", &self.namespace)?;
        if !is_dns_name(&self.mesh_domain) {
            return Err(value(
                "mesh_domain",
                format!("{:?} is no DNS name", self.mesh_domain),
            ));
        }
        let domain = TrustDomain::of_cluster(&cluster, &self.mesh_domain)
            .map_err(|e| value("mesh_domain", e.to_string()))?;
        let identity = SpiffeId::new(&domain, &self.namespace, &self.service_account)
            .map_err(|e| value("service_account", e.to_string()))?;
        let workload = format!("{cluster}/{}/{}", self.namespace, self.pod);
        let destinations = self
            .listen
            .virtuals
            .iter()
            .map(|v| destination(&v.destination))
            .collect::<Result<Vec<_>, _>>()?;
        self.check()?;
        Ok(Config {
            role: self.role,
            network: name("network", &self.network)?,
            workload: name("pod", &workload)?,
            cluster,
            mesh_domain: self.mesh_domain,
            identity,
            application: self
                .application
                .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            addresses: self.addresses,
            control_plane: self.control_plane,
            token_file: self.token_file,
            state_dir: self.state_dir,
            destinations,
            listen: self.listen,
            mesh_accept_from: self.mesh_accept_from.iter().map(|range| range.0).collect(),
            source: self.source,
            workers: self.workers,
            access_log: self.access_log,
            passthrough: self.passthrough,
            drain: Duration::from_secs(self.drain_seconds),
            tunnels_per_peer: self.tunnels_per_peer,
            unproven_per_source: self.unproven_per_source,
            streams_per_tunnel: self.streams_per_tunnel,
            connections_per_listener: self.connections_per_listener,
        })
    }

    /// What one value, or two together, can't be.
    fn check(&self) -> Result<(), ConfigError> {
        let streams = usize::try_from(self.streams_per_tunnel).unwrap_or(usize::MAX);
        for (key, number, most) in [
            ("workers", self.workers, 256),
            ("tunnels_per_peer", self.tunnels_per_peer, 64),
            ("streams_per_tunnel", streams, 65_536),
            (
                "connections_per_listener",
                self.connections_per_listener,
                1_000_000,
            ),
            (
                "unproven_per_source",
                self.unproven_per_source,
                UNPROVEN_MAX,
            ),
        ] {
            if !(1..=most).contains(&number) {
                return Err(value(key, format!("{number} is not from 1 to {most}")));
            }
        }
        addresses(&self.control_plane.addresses)?;
        if let Some(admin) = self.listen.admin.filter(|a| !a.ip().is_loopback()) {
            let why = format!("{admin} is not a loopback address");
            return Err(value("listen.admin", why));
        }
        if self.role == Role::Gateway && self.listen.gateway.is_none() {
            let why = "missing, and the role is gateway".to_owned();
            return Err(value("listen.gateway", why));
        }
        Ok(())
    }
}

fn addresses(all: &[String]) -> Result<(), ConfigError> {
    let key = "control_plane.address";
    if all.is_empty() || all.len() > ADDRESSES_MAX {
        return Err(value(key, format!("not 1 to {ADDRESSES_MAX} addresses")));
    }
    for text in all {
        let port = text
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
            return Err(value(key, format!("{text:?} is not host:port")));
        }
    }
    Ok(())
}

fn value(key: &'static str, why: String) -> ConfigError {
    ConfigError::Value { key, why }
}

fn name<T: std::str::FromStr<Err = InvalidName>>(
    key: &'static str,
    text: &str,
) -> Result<T, ConfigError> {
    text.parse()
        .map_err(|e: InvalidName| value(key, e.to_string()))
}

fn destination(text: &str) -> Result<Destination, ConfigError> {
    let key = "listen.virtual.destination";
    if let Ok(address) = text.parse() {
        return Ok(Destination::Address(address));
    }
    let wrong = || {
        value(
            key,
            format!("{text:?} is not address:port or hostname:port"),
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    if !is_dns_name(host) || port == 0 {
        return Err(wrong());
    }
    Ok(Destination::Host(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"role":"sidecar","cluster":"east","network":"east-net","namespace":"shop",
            "pod":"cart-1","service_account":"cart","token_file":"t","state_dir":"s",
            "control_plane":{"address":"127.0.0.1:1","roots_file":"r"},
            "listen":{"virtual":[{"listen":"127.0.0.1:0","destination":"10.0.0.1:80"}]}}"#;

    fn raw(change: &str, to: &str) -> Result<Config, ConfigError> {
        let raw: RawConfig = serde_json::from_str(&TEXT.replace(change, to)).unwrap();
        raw.build()
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.json");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let error = Config::load(&file).unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            format!("{error}: {cause}")
        };
        let place = file.display();
        let told = load(r#"{"listen":{"virtual":[{"listen":1}]}}"#);
        let key =
            format!("parse the configuration {place}: listen.virtual[0].listen: invalid type");
        assert!(told.starts_with(&key), "{told}");
        for (text, expected) in [
            ("", ": EOF while parsing a value at line 1"),
            ("{\"listen\": {", ": EOF while parsing an object at line 1"),
            ("{}", ": missing field `role` at line 1"),
            ("{\"role\": 7}", ": role: "),
            (
                "{\"mesh_accept_from\": [\"10.0.0.0/8\", \"127.0.0.0/99\"]}",
                ": mesh_accept_from[1]: invalid value: string \"127.0.0.0/99\", expected a range of addresses",
            ),
        ] {
            let told = load(text);
            let expected = format!("parse the configuration {place}{expected}");
            assert!(told.starts_with(&expected), "{told} is not {expected}");
        }
        let told = load(&TEXT.replace("\"east\"", "\"East\""));
        let key = format!("the configuration {place}: configuration key cluster: ");
        assert!(told.starts_with(&key), "{told}");
        let set = ["pod=cart-2".parse().unwrap(), "workers:=0".parse().unwrap()];
        std::fs::write(&file, TEXT).unwrap();
        let moved = Config::load_with(&file, &set[..1]).unwrap();
        assert_eq!(moved.workload.to_string(), "east/shop/cart-2");
        let error = Config::load_with(&file, &set).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("workers: 0 is not from"), "{cause}");
        let told = load(&" ".repeat(1024 * 1024 + 1));
        assert!(told.ends_with("larger than 1 MiB"), "{told}");
    }

    #[test]
    fn an_identity_follows_from_the_names() {
        let config = raw("", "").unwrap();
        assert_eq!(
            config.identity.as_str(),
            "spiffe://east.mesh.internal/ns/shop/sa/cart"
        );
        assert_eq!(config.workload.as_str(), "east/shop/cart-1");
    }

    #[test]
    fn passthrough_is_a_word_or_as_before() {
        let key = "\"token_file\":\"t\"";
        for (value, wanted) in [
            ("true", Passthrough::Known),
            ("false", Passthrough::Never),
            ("\"known\"", Passthrough::Known),
            ("\"always\"", Passthrough::Always),
            ("\"never\"", Passthrough::Never),
        ] {
            let config = raw(key, &format!("{key},\"passthrough\":{value}")).unwrap();
            assert_eq!(config.passthrough, wanted, "{value}");
        }
        assert_eq!(raw("", "").unwrap().passthrough, Passthrough::Known);
        for value in ["\"sometimes\"", "1", "null"] {
            let text = format!("{{\"passthrough\":{value}}}");
            let read =
                serde_json::from_str::<std::collections::BTreeMap<String, Passthrough>>(&text);
            let error = read.unwrap_err().to_string();
            assert!(error.contains("\"always\""), "{value}: {error}");
        }
    }

    #[test]
    fn a_bad_value_is_named_by_its_key() {
        for (change, to, key) in [
            ("\"east\"", "\"East\"", "cluster"),
            ("cart-1", "cart 1", "pod"),
            ("10.0.0.1:80", "nowhere", "listen.virtual.destination"),
            (
                "{\"virtual\"",
                "{\"admin\":\"10.0.0.11:15000\",\"virtual\"",
                "listen.admin",
            ),
            ("\"sidecar\"", "\"gateway\"", "listen.gateway"),
            (
                "\"state_dir\"",
                "\"unproven_per_source\":0,\"state_dir\"",
                "unproven_per_source",
            ),
            (
                "{\"role\"",
                "{\"streams_per_tunnel\":0,\"role\"",
                "streams_per_tunnel",
            ),
            (
                "{\"role\"",
                "{\"connections_per_listener\":0,\"role\"",
                "connections_per_listener",
            ),
        ] {
            let error = raw(change, to).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
