//! Whose certificate do we show, and whose do we believe?
//!
//! One verifier for every handshake: the trust domain in the peer's URI SAN picks the roots, which
//! are never merged, and then the whole SPIFFE ID counts. TLS 1.3 only, no resumption: a ticket
//! must not outlive a root.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::identify::{TrustBundles, identity_of};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, version,
};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest chain that is looked at: a leaf and what stands between it and a root.
const CHAIN_MAX: usize = 5;

/// Our certificate of the moment.
#[derive(Clone)]
pub struct Held {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// When it ends.
    pub not_after: SystemTime,
    /// When we got it.
    pub since: SystemTime,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held(until {:?})", self.not_after)
    }
}

/// What handshakes need, replaced while they go on.
#[derive(Debug, Default)]
pub struct TlsStore {
    held: Mutex<Option<Arc<Held>>>,
    trust: Mutex<Arc<TrustBundles>>,
    /// How often a certificate has taken the place of one whose root is about to go.
    moved: watch::Sender<u64>,
}

impl TlsStore {
    /// Our certificate, if we have one.
    #[must_use]
    pub fn held(&self) -> Option<Arc<Held>> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on this one is shown.
    pub fn hold(&self, held: Held) {
        let retiring = self.is_retiring();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(held));
        if retiring == Some(true) && self.is_retiring() == Some(false) {
            self.moved
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Changes when what is open, and was opened with an earlier certificate of ours, should end: its
    /// root is about to go.
    #[must_use]
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Is our certificate one of a root that is about to go? `None`: no root of our trust domain is.
    #[must_use]
    pub fn is_retiring(&self) -> Option<bool> {
        let (held, trust) = (self.held()?, self.trust());
        let own = spiffe_id(held.key.cert.first()?).ok()?;
        let roots = trust.roots(own.trust_domain())?;
        if !roots.is_retiring() {
            return None;
        }
        let lasting = Self::default();
        lasting.believe(Arc::new(TrustBundles::new([Arc::new(roots.lasting())])));
        let verifier = Verifier::new(Arc::new(lasting), None);
        Some(!verifier.believes(&held.key.cert, UnixTime::now()))
    }

    /// Whom we believe.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.trust.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these are believed.
    pub fn believe(&self, trust: Arc<TrustBundles>) {
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
    }

    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.held()
            .filter(|held| held.not_after > SystemTime::now())
            .map(|held| Arc::clone(&held.key))
    }
}

/// The TLS of a mesh listener: clients must show a certificate.
///
/// # Errors
/// Never in practice: the provider has TLS 1.3.
pub fn server_config(store: &Arc<TlsStore>) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Arc::new(Verifier::new(Arc::clone(store), None));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Shown(Arc::clone(store))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The TLS of a tunnel: exactly `expected` must answer.
///
/// # Errors
/// Never in practice: the provider has TLS 1.3.
pub fn client_config(
    store: &Arc<TlsStore>,
    expected: &SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    client_config_of(store, store, expected)
}

/// As [`client_config`], believing whom one store believes and showing what another one holds.
///
/// # Errors
/// Never in practice: the provider has TLS 1.3.
pub fn client_config_of(
    believing: &Arc<TlsStore>,
    showing: &Arc<TlsStore>,
    expected: &SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Arc::new(Verifier::new(Arc::clone(believing), Some(expected.clone())));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Shown(Arc::clone(showing))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// aws-lc-rs, X25519MLKEM768 first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Is this a root certificate, as the verifier will read it? DER, and nothing behind it.
///
/// # Errors
/// Why not.
pub fn read_root(der: &[u8]) -> Result<(), String> {
    match webpki::anchor_from_trusted_cert(&CertificateDer::from(der)) {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("no certificate: {why}")),
    }
}

/// The identity in a certificate that the verifier has passed.
#[must_use]
pub fn identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<SpiffeId> {
    spiffe_id(certificates?.first()?).ok()
}

/// Shows what the store holds at the moment of the handshake.
#[derive(Debug)]
struct Shown(Arc<TlsStore>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.shown()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.shown()
    }

    fn has_certs(&self) -> bool {
        self.0.shown().is_some()
    }
}

/// The one verifier, for both sides of a handshake.
#[derive(Debug)]
pub struct Verifier {
    store: Arc<TlsStore>,
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Believes whom the store believes; if `expected` is given, only that identity.
    #[must_use]
    pub fn new(store: Arc<TlsStore>, expected: Option<SpiffeId>) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self {
            store,
            expected,
            algorithms,
        }
    }

    /// Would the peer with this chain still be believed?
    #[must_use]
    pub fn believes(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| {
            [KeyUsage::client_auth(), KeyUsage::server_auth()]
                .into_iter()
                .any(|usage| self.verify(leaf, rest, now, usage).is_ok())
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if chain.len() > CHAIN_MAX {
            return Err(Error::General("the peer's chain is too long".to_owned()));
        }
        let id = spiffe_id(leaf)?;
        if let Some(expected) = &self.expected
            && id != *expected
        {
            return Err(Error::General(format!(
                "{IDENTITY_MISMATCH} {expected}, met {id}"
            )));
        }
        let trust = self.store.trust();
        let roots = trust.roots(id.trust_domain()).ok_or_else(|| {
            Error::General(format!(
                "trust domain {} is not believed",
                id.trust_domain()
            ))
        })?;
        let roots: Vec<CertificateDer<'_>> = roots
            .roots()
            .iter()
            .map(|der| CertificateDer::from(&**der))
            .collect();
        // Each was read before its bundle was taken; one that can't be vouches for nobody.
        let anchors: Vec<TrustAnchor<'_>> = roots
            .iter()
            .filter_map(|root| webpki::anchor_from_trusted_cert(root).ok())
            .collect();
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| bad_encoding())?;
        leaf.verify_for_usage(self.algorithms.all, &anchors, chain, now, usage, None, None)
            .map_err(|e| match e {
                webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
                webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
                other => Error::General(format!("the certificate of {id}: {other}")),
            })?;
        Ok(())
    }
}

/// Begins the error of a handshake in which somebody else answered than was expected.
pub const IDENTITY_MISMATCH: &str = "expected";

fn bad_encoding() -> Error {
    CertificateError::BadEncoding.into()
}

/// The identity in a leaf, read strictly (X509-SVID §3 and §4).
fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad_encoding())?;
    if !rest.is_empty() {
        return Err(bad_encoding());
    }
    let mut uris = Vec::new();
    let mut others = false;
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => uris.push(*uri),
                        _ => others = true,
                    }
                }
            }
            ParsedExtension::BasicConstraints(basic) if basic.ca => {
                return Err(Error::General("the peer's leaf is a CA".to_owned()));
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(Error::General(
                    "the peer's leaf may sign certificates".to_owned(),
                ));
            }
            _ => {}
        }
    }
    identity_of(&uris, others).map_err(|e| Error::General(format!("the peer's identity: {e}")))
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, chain, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, chain, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_proto::resource::TrustBundle;
    use isthmus_proxy_core::identify::TrustRoots;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConnection, NamedGroup, ServerConnection};

    use super::*;

    const CART: &str = "spiffe://east.mesh.internal/ns/shop/sa/cart";

    fn holding() -> Arc<TlsStore> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(CART.try_into().unwrap())];
        let leaf = params.self_signed(&key).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = provider().key_provider.load_private_key(der).unwrap();
        let store = TlsStore::default();
        store.hold(Held {
            key: Arc::new(CertifiedKey::new(vec![leaf.der().clone()], key)),
            not_after: SystemTime::now() + std::time::Duration::from_secs(600),
            since: SystemTime::now(),
        });
        Arc::new(store)
    }

    /// An authority, and the chain that it gives this workload.
    fn signed(uri: &str) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (root.der().clone(), vec![leaf.der().clone()])
    }

    fn trust(
        roots: &[&[u8]],
        read: fn(&[u8]) -> Result<(), String>,
    ) -> Result<Arc<TlsStore>, String> {
        let bundle = TrustBundle {
            trust_domain: "east.mesh.internal".into(),
            roots: roots.iter().map(|root| root.to_vec().into()).collect(),
            ..Default::default()
        };
        let roots = TrustRoots::compile(&bundle, read).map_err(|e| e.to_string())?;
        let store = TlsStore::default();
        store.believe(Arc::new(TrustBundles::new([Arc::new(roots)])));
        Ok(Arc::new(store))
    }

    #[test]
    fn a_malformed_root_is_refused_and_takes_no_good_one_with_it() {
        let (root, chain) = signed(CART);
        let mut behind = root.to_vec();
        behind.push(0);
        let half = root.get(..root.len() / 2).unwrap();
        for bad in [b"garbage".as_slice(), &[0x30, 0x00], half, &behind] {
            let told = trust(&[&root, bad], read_root).unwrap_err();
            let place = "east.mesh.internal: roots[1]: no certificate: ";
            assert!(told.starts_with(place), "{told}");
            // Should one get in all the same, it vouches for nobody, and that is all.
            let store = trust(&[bad, &root], |_| Ok(())).unwrap();
            let believes = Verifier::new(store, None).believes(&chain, UnixTime::now());
            assert!(believes, "by the good root");
        }
        let store = trust(&[&root], read_root).unwrap();
        assert!(Verifier::new(store, None).believes(&chain, UnixTime::now()));
    }

    #[test]
    fn proxies_agree_on_a_key_that_a_recording_does_not_give_away_later() {
        let store = holding();
        let config = client_config(&store, &CART.parse().unwrap()).unwrap();
        let name = ServerName::try_from("cart").unwrap();
        let mut client = ClientConnection::new(config, name).unwrap();
        let mut server = ServerConnection::new(server_config(&store).unwrap()).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        // In one flight: the share that the client sent at once was the one that the server took.
        let group = server.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(
            server.handshake_kind(),
            Some(rustls::HandshakeKind::Full),
            "without a second hello"
        );
    }
}
