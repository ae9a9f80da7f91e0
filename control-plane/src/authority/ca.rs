//! What does a signing certificate look like, and how is it written down?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::issue::{BACKDATED, SERIAL_BYTES};
use isthmus_proto::spiffe::TrustDomain;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::state::{StateError, random};
use crate::store::KeyError;

/// How long a root is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long an issuing certificate is valid.
const ISSUER_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A name or a key that X.509 can't hold.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// The file holds something else.
    #[error("{0}")]
    Read(&'static str),
    /// A root was in use, and is not there any more.
    #[error("nothing is kept that signs under its root {0}")]
    Root(u32),
    /// No random numbers.
    #[error(transparent)]
    State(#[from] StateError),
    /// It can't be read where it is kept, or written there.
    #[error(transparent)]
    Kept(Box<KeyError>),
}

impl From<KeyError> for CaError {
    fn from(error: KeyError) -> Self {
        Self::Kept(Box::new(error))
    }
}

/// A key that signs certificates of one trust domain, with the certificate that says so.
pub(super) struct Ca {
    /// Own certificate first, root last; one if it is the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The earliest end in the chain.
    pub(super) not_after: SystemTime,
}

impl Ca {
    /// A new root.
    pub(super) fn root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let mut params = params(trust_domain, "root", now + ROOT_LIFETIME, now)?;
        // One level of issuing certificates below it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let certificate = params.self_signed(&key).map_err(CaError::Make)?;
        Self::new(vec![certificate.der().clone()], key)
    }

    /// A new issuing certificate under this root.
    pub(super) fn intermediate(
        &self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let not_after = self.not_after.min(now + ISSUER_LIFETIME);
        let mut params = params(trust_domain, "issuer", not_after, now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CaError::Make)?;
        let chain = std::iter::once(certificate.der().clone())
            .chain(self.chain.clone())
            .collect();
        Self::new(chain, key)
    }

    /// Key and chain, as they are kept.
    pub(super) fn to_pem(&self) -> String {
        let mut text = self.issuer.key().serialize_pem();
        for certificate in &self.chain {
            text.push_str(&pem(certificate));
        }
        text
    }

    /// The other way.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, CaError> {
        let key = PrivateKeyDer::from_pem_slice(text)
            .map_err(|_| CaError::Read("there is no private key in it"))?;
        let key = KeyPair::try_from(&key)
            .map_err(|_| CaError::Read("the private key in it is of an unknown kind"))?;
        let chain = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CaError::Read("a certificate in it is not PEM"))?;
        Self::new(chain, key)
    }

    pub(super) fn new(chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, CaError> {
        let own = chain
            .first()
            .ok_or(CaError::Read("there is no certificate in it"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(own)
            .map_err(|_| CaError::Read("the certificate in it is not X.509"))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(CaError::Read("the certificate in it is not for its key"));
        }
        let mut not_after = not_after(own)?;
        for above in chain.iter().skip(1) {
            not_after = not_after.min(self::not_after(above)?);
        }
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(CaError::Make)?;
        Ok(Self {
            chain,
            issuer,
            not_after,
        })
    }
}

/// A certificate as PEM.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    // RFC 7468 §2: lines of 64 characters.
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// When a certificate ends.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, CaError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CaError::Read("a certificate in it is not X.509"))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp())
        .map_err(|_| CaError::Read("a certificate in it ended before 1970"))?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// From when to when a certificate is valid, and its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) serial: [u8; SERIAL_BYTES],
}

impl Terms {
    /// From now, with a random number.
    pub(super) fn until(not_after: SystemTime, now: SystemTime) -> Result<Self, StateError> {
        let mut serial = random::<SERIAL_BYTES>()?;
        // RFC 5280 §4.1.2.2: positive. The second bit keeps its length: no leading zero bytes.
        if let Some(first) = serial.first_mut() {
            *first = (*first & 0x3f) | 0x40;
        }
        let not_before = now.checked_sub(BACKDATED).unwrap_or(UNIX_EPOCH);
        Ok(Self {
            not_before,
            not_after,
            serial,
        })
    }
}

/// What every certificate has: times that are set (rcgen's own are 1975 to 4096) and a number that
/// is random (rcgen's own comes from the key).
pub(super) fn dated(terms: &Terms) -> CertificateParams {
    let at = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    let mut params = CertificateParams::default();
    params.not_before = at(terms.not_before);
    params.not_after = at(terms.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&terms.serial));
    params.use_authority_key_identifier_extension = true;
    params
}

/// What both kinds of signing certificate have.
fn params(
    trust_domain: &TrustDomain,
    role: &str,
    not_after: SystemTime,
    now: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = dated(&Terms::until(not_after, now)?);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "isthmus");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} {role}"));
    // X509-SVID §4.1: a signing certificate may say its trust domain, without a path.
    let name = Ia5String::try_from(format!("spiffe://{trust_domain}")).map_err(CaError::Make)?;
    params.subject_alt_names = vec![SanType::URI(name)];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
