//! Which keys and certificates does an API server need?

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

/// How long what the cluster itself uses is good.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(300);

/// The authority of one cluster, and the key of its service accounts.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
    accounts: KeyPair,
}

/// Where the API server finds its own.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) authority: PathBuf,
    pub(crate) serving: PathBuf,
    pub(crate) serving_key: PathBuf,
    pub(crate) accounts: PathBuf,
    pub(crate) accounts_key: PathBuf,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(..)")
    }
}

impl Pki {
    /// New keys.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(cluster: &str) -> anyhow::Result<Self> {
        let key = key()?;
        let mut params = params(&format!("{cluster}-ca"), LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).context("making an authority")?;
        Ok(Self {
            authority: certificate.pem(),
            issuer: Issuer::new(params, key),
            accounts: self::key()?,
        })
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Signs tokens of service accounts.
    pub(crate) fn accounts(&self) -> &KeyPair {
        &self.accounts
    }

    /// A client's certificate: the user `name` in `group`, good for `lifetime` from now.
    ///
    /// # Errors
    /// It can't be made.
    pub fn client(
        &self,
        name: &str,
        group: Option<&str>,
        lifetime: Duration,
    ) -> anyhow::Result<Certificate> {
        let mut params = params(name, lifetime);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// What the API server shows, or something that stands before it.
    ///
    /// # Errors
    /// It can't be made.
    pub fn server(&self) -> anyhow::Result<Certificate> {
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(ToOwned::to_owned))
            .context("names of the API server")?;
        set_times(&mut params, LIFETIME);
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> anyhow::Result<Certificate> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = key()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("signing a certificate")?;
        Ok(Certificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Writes what the API server reads, for this user alone.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<Files> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let serving = self.server()?;
        let file = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            secret(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        Ok(Files {
            authority: file("ca.pem", &self.authority)?,
            serving: file("serving.pem", &serving.certificate)?,
            serving_key: file("serving-key.pem", &serving.key)?,
            accounts: file("accounts.pem", &self.accounts.public_key_pem())?,
            accounts_key: file("accounts-key.pem", &self.accounts.serialize_pem())?,
        })
    }
}

fn secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

fn key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")
}

fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    set_times(&mut params, lifetime);
    params
}

fn set_times(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + lifetime).into();
}
