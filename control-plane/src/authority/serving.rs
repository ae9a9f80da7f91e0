//! With which certificate does the control plane itself serve?
//!
//! Signed by its own authority, made in memory, renewed there; no file holds its key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ca::{CaError, Terms};
use super::{Authority, NotIssued};

/// How long the serving certificate is valid.
const LIFETIME: Duration = Duration::from_secs(36 * 3600);
/// Renewed when this much has passed (SECURITY F3: 24 h always remain).
const RENEWAL: Duration = Duration::from_secs(10 * 3600);
/// The namespace and the account of the control plane.
const NAMESPACE: &str = "isthmus-system";
const ACCOUNT: &str = "control-plane";

/// The trust domain of the control plane: `control.<mesh domain>`.
///
/// # Errors
/// The mesh domain is no DNS name.
pub fn trust_domain(mesh_domain: &str) -> Result<TrustDomain, isthmus_proto::ids::InvalidName> {
    format!("control.{mesh_domain}").parse()
}

/// The serving certificate that is valid now.
#[derive(Debug)]
pub struct Serving {
    id: SpiffeId,
    host: String,
    current: Mutex<(Arc<CertifiedKey>, SystemTime)>,
}

impl Serving {
    /// Makes the first certificate.
    ///
    /// # Errors
    /// The authority does not sign.
    pub fn new(
        authority: &Authority,
        mesh_domain: &str,
        now: SystemTime,
    ) -> Result<Self, anyhow::Error> {
        let id = SpiffeId::new(authority.trust_domain(), NAMESPACE, ACCOUNT)?;
        let host = format!("control-plane.{mesh_domain}");
        let first = certificate(authority, &id, &host, now)?;
        Ok(Self {
            id,
            host,
            current: Mutex::new((first, now + RENEWAL)),
        })
    }

    /// Renews the certificate if it is time. True: renewed.
    ///
    /// # Errors
    /// The authority does not sign; the old certificate stays.
    pub fn renew(&self, authority: &Authority, now: SystemTime) -> Result<bool, NotIssued> {
        let due = self
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1;
        if now < due {
            return Ok(false);
        }
        let renewed = certificate(authority, &self.id, &self.host, now)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (renewed, now + RENEWAL);
        Ok(true)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .0
                .clone(),
        )
    }
}

fn certificate(
    authority: &Authority,
    id: &SpiffeId,
    host: &str,
    now: SystemTime,
) -> Result<Arc<CertifiedKey>, NotIssued> {
    let failed = |error| NotIssued::Sign {
        id: id.clone(),
        cause: CaError::Make(error),
    };
    let key = KeyPair::generate().map_err(failed)?;
    let terms = Terms::until(now + LIFETIME, now).map_err(|error| NotIssued::Sign {
        id: id.clone(),
        cause: error.into(),
    })?;
    let issued = authority.sign((id, Some(host)), &key, terms, now)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let unknown = "the new key is of an unknown kind";
    let signer = any_supported_type(&der).map_err(|_| NotIssued::Sign {
        id: id.clone(),
        cause: CaError::Read(unknown),
    })?;
    Ok(Arc::new(CertifiedKey::new(issued.chain, signer)))
}
