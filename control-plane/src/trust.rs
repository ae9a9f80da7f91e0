//! Which roots vouch for which trust domain, now?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

/// Longest chain that a client may send, leaf included.
const CHAIN_MAX: usize = 5;

/// Roots, kept apart by trust domain.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    anchors: BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>,
}

impl Trust {
    /// Believes these roots for this trust domain, and no others. None: nobody of it is believed.
    ///
    /// # Errors
    /// A root is not X.509.
    pub fn set(
        &mut self,
        trust_domain: &TrustDomain,
        roots: &[CertificateDer<'_>],
    ) -> Result<(), webpki::Error> {
        let anchor = |root| anchor_from_trusted_cert(root).map(|a| a.to_owned());
        let anchors = roots.iter().map(anchor).collect::<Result<_, _>>()?;
        self.anchors.insert(trust_domain.clone(), anchors);
        Ok(())
    }

    /// Believes nobody of this trust domain any more.
    pub fn remove(&mut self, trust_domain: &TrustDomain) {
        self.anchors.remove(trust_domain);
    }
}

/// Who a verified client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The one URI of its certificate.
    pub id: SpiffeId,
    /// When its certificate ends.
    pub not_after: SystemTime,
}

/// Why a certificate says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotIdentified {
    /// Not X.509, or bytes follow it.
    #[error("the certificate is not X.509")]
    Malformed,
    /// SPIFFE: exactly one URI.
    #[error("the certificate has {0} URI names, not one")]
    Uris(usize),
    /// Not an identity of a mesh.
    #[error(transparent)]
    Id(#[from] isthmus_proto::ids::InvalidName),
    /// X509-SVID §4: a leaf signs no certificates.
    #[error("the certificate may sign certificates")]
    Signs,
    /// Nobody vouches for it.
    #[error("no root is known for the trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    /// More certificates than any chain of ours has.
    #[error("the chain has {0} certificates")]
    Chain(usize),
}

/// Reads the identity out of a certificate; its chain is checked elsewhere.
///
/// # Errors
/// The certificate is no SVID.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Peer, NotIdentified> {
    let (rest, leaf) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| NotIdentified::Malformed)?;
    if !rest.is_empty() {
        return Err(NotIdentified::Malformed);
    }
    if signs(&leaf) {
        return Err(NotIdentified::Signs);
    }
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| NotIdentified::Malformed)?;
    let names = names
        .map(|san| san.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(NotIdentified::Uris(uris.len()));
    };
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(Peer {
        id: uri.parse()?,
        not_after,
    })
}

fn signs(leaf: &X509Certificate<'_>) -> bool {
    leaf.iter_extensions()
        .any(|extension| match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => basic.ca,
            ParsedExtension::KeyUsage(usage) => usage.key_cert_sign() || usage.crl_sign(),
            _ => false,
        })
}

/// Verifies clients: the trust domain in the URI picks the roots, and only those count. A client
/// without a certificate may connect: it can ask for one by a token, and do nothing else.
#[derive(Debug)]
pub struct Verifier {
    trust: watch::Receiver<Arc<Trust>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// A verifier that always uses the newest `trust`.
    #[must_use]
    pub fn new(trust: watch::Receiver<Arc<Trust>>) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Self {
            trust,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Who is it, if the roots of its trust domain vouch for it?
    ///
    /// # Errors
    /// The chain does not lead to a root of the trust domain, or the leaf is no SVID.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Error> {
        if above.len() >= CHAIN_MAX {
            return Err(refused(NotIdentified::Chain(above.len() + 1)));
        }
        let peer = identity_of(leaf).map_err(refused)?;
        let trust = self.trust.borrow().clone();
        let trust_domain = peer.id.trust_domain();
        let anchors = trust
            .anchors
            .get(trust_domain)
            .filter(|anchors| !anchors.is_empty())
            .ok_or_else(|| refused(NotIdentified::UnknownTrustDomain(trust_domain.clone())))?;
        let parsed = EndEntityCert::try_from(leaf).map_err(|e| chain_error(&e))?;
        let usage = KeyUsage::client_auth();
        parsed
            .verify_for_usage(self.algorithms.all, anchors, above, now, usage, None, None)
            .map_err(|e| chain_error(&e))?;
        Ok(peer)
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, above, now)
            .map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.3 only (SECURITY S6); the server configuration offers nothing else.
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(why: NotIdentified) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// The alert that fits, with the cause in the log's text.
fn chain_error(error: &webpki::Error) -> Error {
    let why = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    };
    Error::InvalidCertificate(why)
}

#[cfg(test)]
mod tests;
