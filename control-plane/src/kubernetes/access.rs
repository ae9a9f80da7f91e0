//! By which way and as whom do we reach a cluster?

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyper::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::Refused;
use crate::credential::Life;

/// Where a pod finds its service account.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Largest file of a credential, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The way to one API server. Shows no secret.
#[derive(Debug, Clone)]
pub struct Access {
    /// `https://host:port`, and perhaps a path before `/api`.
    pub server: Uri,
    /// By which the server is verified.
    pub roots: Roots,
    /// The name in the server's certificate, if it is not the host.
    pub server_name: Option<String>,
    /// As whom.
    pub credential: Credential,
    /// The server may be on this machine: also what its name is resolved to.
    pub loopback: bool,
    /// The namespace of the context, or of our own pod.
    pub namespace: Option<String>,
}

impl Access {
    /// Is it the same way, to the same server by the same roots and as the same account, and only the token
    /// another one? Returns that token.
    #[must_use]
    pub fn renewed_by<'a>(&self, other: &'a Self) -> Option<&'a str> {
        let (Credential::Token(old), Credential::Token(new)) =
            (&self.credential, &other.credential)
        else {
            return None;
        };
        let (Roots::Given(a), Roots::Given(b)) = (&self.roots, &other.roots) else {
            return None;
        };
        let account = |token: &str| Life::of(token).map(|life| (life.namespace, life.account));
        let same = self.server == other.server
            && a == b
            && self.server_name == other.server_name
            && self.loopback == other.loopback;
        let is_its = account(old).is_some() && account(old) == account(new);
        (same && is_its).then_some(new.as_str())
    }

    /// When the credential ends, if it is a bound token of a service account.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        match &self.credential {
            Credential::Token(token) => Life::of(token).map(|life| life.expires),
            Credential::Anonymous
            | Credential::TokenFile(_)
            | Credential::Certificate(_)
            | Credential::CertificateFiles { .. }
            | Credential::Exec(_) => None,
        }
    }

    /// Is the server on this machine by its very address, as in a demo? Then its pods may be, too.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let host = self.server.host().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.loopback && ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

/// By which a server is verified.
#[derive(Debug, Clone)]
pub enum Roots {
    /// These.
    Given(Vec<CertificateDer<'static>>),
    /// Those in the file (PEM) at the time of each connection.
    File(PathBuf),
    /// Not at all: TLS hides from others what is said to whomever.
    Unverified,
}

impl Roots {
    /// Those of a text in PEM.
    ///
    /// # Errors
    /// There is none in it, or one is broken.
    pub fn of_pem(field: &str, pem: &[u8]) -> Result<Self, Refused> {
        certificates(pem)
            .map(Self::Given)
            .map_err(|why| Refused::new(field, why))
    }
}

/// As whom we come.
#[derive(Clone)]
pub enum Credential {
    /// As nobody.
    Anonymous,
    /// By a bearer token.
    Token(String),
    /// By the bearer token that is in the file; it is read again.
    TokenFile(PathBuf),
    /// By a certificate.
    Certificate(Certificate),
    /// By the certificate in two files, as they are at the time of each connection.
    CertificateFiles {
        /// PEM, the leaf first.
        chain: PathBuf,
        /// PEM.
        key: PathBuf,
    },
    /// By what a plugin says.
    Exec(Exec),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Token(_) => f.write_str("Token"),
            Self::TokenFile(path) => write!(f, "TokenFile({})", path.display()),
            Self::Certificate(_) => f.write_str("Certificate"),
            Self::CertificateFiles { chain, .. } => {
                write!(f, "CertificateFiles({})", chain.display())
            }
            Self::Exec(exec) => write!(f, "Exec({})", exec.command),
        }
    }
}

/// A client's certificate and its key.
pub struct Certificate {
    /// The leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl Certificate {
    /// Of two texts in PEM.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub fn of_pem(chain: &[u8], key: &[u8]) -> Result<Self, Refused> {
        Ok(Self {
            chain: certificates(chain).map_err(|why| Refused::new("client-certificate", why))?,
            key: PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| Refused::new("client-key", "no private key in PEM"))?,
        })
    }

    /// Of two files.
    pub(super) fn read(chain: &Path, key: &Path) -> Result<Self, Refused> {
        let file = |field: &str, path| read(path).map_err(|why| Refused::new(field, why));
        let (chain, key) = (file("client-certificate", chain)?, file("client-key", key)?);
        Self::of_pem(&chain, &key)
    }
}

/// A plugin that makes credentials (`client.authentication.k8s.io`).
#[derive(Clone)]
pub struct Exec {
    /// `client.authentication.k8s.io/v1` or `/v1beta1`.
    pub(super) api_version: String,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// What `KUBERNETES_EXEC_INFO` says of the cluster, if the plugin wants to know.
    pub(super) cluster: Option<serde_json::Value>,
}

/// The way to the cluster in which this process is a pod.
///
/// # Errors
/// It isn't one.
pub fn in_cluster() -> Result<Access, Refused> {
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| Refused::new(name, "not set: this is no pod of a cluster"))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    in_pod(&host, &port, Path::new(ACCOUNT_DIR))
}

fn in_pod(host: &str, port: &str, account: &Path) -> Result<Access, Refused> {
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.to_owned(),
    };
    let server = format!("https://{host}:{port}")
        .parse()
        .map_err(|_| Refused::new("KUBERNETES_SERVICE_HOST", "no host and port"))?;
    let (roots, token) = (account.join("ca.crt"), account.join("token"));
    let pem = read(&roots).map_err(|why| Refused::new("ca.crt", why))?;
    // Both are looked at once, so that what is wrong is said at the start.
    certificates(&pem).map_err(|why| Refused::new("ca.crt", why))?;
    read(&token).map_err(|why| Refused::new("token", why))?;
    let namespace = read(&account.join("namespace")).ok();
    Ok(Access {
        server,
        roots: Roots::File(roots),
        server_name: None,
        credential: Credential::TokenFile(token),
        // The kubelet says where it is, nobody else.
        loopback: true,
        namespace: namespace
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(|name| name.trim().to_owned()),
    })
}

/// Every certificate of a text in PEM.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(_) => Err("a certificate is not PEM".to_owned()),
    }
}

/// A small file, whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        return Ok(bytes);
    }
    Err(format!(
        "{} is larger than {FILE_BYTES_MAX} bytes",
        path.display()
    ))
}

/// Why an address is no API server's, if it can't be one.
pub(crate) fn unfit(ip: IpAddr, loopback: bool) -> Option<&'static str> {
    match ip.to_canonical() {
        // What is bound to no address is this machine.
        ip if ip.is_unspecified() && !loopback => {
            Some("an address that says nothing (unspecified)")
        }
        ip if ip.is_loopback() && !loopback => Some("a loopback address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        // Metadata services of clouds are there.
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("a broadcast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The seconds of a lifetime, as Kubernetes counts them.
pub(super) fn seconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_its_neighbours_are_no_servers() {
        let loopback = [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
        ];
        for text in loopback {
            let ip = text.parse().unwrap();
            assert!(unfit(ip, false).is_some(), "{text}");
            assert_eq!(unfit(ip, true), None, "{text}");
        }
        for text in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.1.1",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(unfit(text.parse().unwrap(), true).is_some(), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "203.0.113.7",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert_eq!(unfit(text.parse().unwrap(), false), None, "{text}");
        }
    }

    #[test]
    fn only_another_token_of_the_same_account_is_a_renewal() {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let token = |account: &str, issued: u64| {
            let claims = serde_json::json!({ "sub": format!("system:serviceaccount:a:{account}"),
                "iat": issued, "exp": issued + 60 });
            format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
        };
        let key = rcgen::generate_simple_self_signed(["kubernetes".to_owned()]).unwrap();
        let way = |server: &str, token: String| Access {
            server: server.parse().unwrap(),
            roots: Roots::Given(vec![key.cert.der().clone()]),
            server_name: None,
            credential: Credential::Token(token),
            loopback: false,
            namespace: None,
        };
        let here = way("https://a.example", token("b", 1));
        let next = way("https://a.example", token("b", 2));
        assert_eq!(here.renewed_by(&next), Some(token("b", 2).as_str()));
        assert_eq!(
            here.ends(),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(61))
        );
        for other in [
            way("https://a.example", token("c", 2)),
            way("https://b.example", token("b", 2)),
            way("https://a.example", "not a bound token".to_owned()),
            Access {
                roots: Roots::Unverified,
                ..next.clone()
            },
            Access {
                credential: Credential::Anonymous,
                ..next
            },
        ] {
            assert_eq!(here.renewed_by(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_pod_finds_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let refused = in_pod("10.0.0.1", "443", folder.path()).unwrap_err();
        assert_eq!(refused.field, "ca.crt");
        let key = rcgen::generate_simple_self_signed(["kubernetes".to_owned()]).unwrap();
        file("ca.crt", &key.cert.pem());
        assert_eq!(
            in_pod("10.0.0.1", "443", folder.path()).unwrap_err().field,
            "token"
        );
        file("token", "secret");
        file("namespace", "isthmus-system\n");
        let access = in_pod("fd00::1", "443", folder.path()).unwrap();
        assert_eq!(access.server, "https://[fd00::1]:443/");
        assert_eq!(access.namespace.as_deref(), Some("isthmus-system"));
        assert!(!format!("{access:?}").contains("secret"));
    }
}
