//! Whose certificate do we show, and whose do we believe?
//!
//! One verifier for every handshake. It reads certificates and checks signatures; who the peer is,
//! whether it is the one that was expected, and whose roots may vouch for it, the core decides. TLS 1.3 only, no resumption: a ticket
//! must not outlive a root.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::identify::{
    Expected, LeafFacts, NotIdentified, PeerIdentity, TrustBundles, accept_peer, check_leaf,
    identity_of,
};
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
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    version,
};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

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

/// When a certificate ends.
///
/// # Errors
/// It is none.
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
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
        let own = identity(&held.key.cert).ok()?;
        let roots = trust.roots(own.id.trust_domain())?;
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

    /// What peers are shown; `None`: there is none, or it has ended.
    #[must_use]
    pub fn shown(&self) -> Option<Arc<CertifiedKey>> {
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

/// The identity in a chain that is ours, or that the verifier has passed.
///
/// # Errors
/// There is no certificate, or none of a workload.
pub fn identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, Error> {
    let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    claimed(leaf, rest, Expected::Anyone)
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
        let expected = self
            .expected
            .as_ref()
            .map_or(Expected::Anyone, Expected::Exactly);
        let PeerIdentity { id } = claimed(leaf, chain, expected)?;
        let trust = self.store.trust();
        let roots = trust.roots_for(&id).map_err(refused)?;
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

/// Why the core does not take somebody for a peer: in the error of a handshake.
#[must_use]
pub fn not_identified(error: &Error) -> Option<&NotIdentified> {
    match error {
        Error::Other(OtherError(inner)) => inner.downcast_ref(),
        _ => None,
    }
}

fn refused(why: NotIdentified) -> Error {
    Error::Other(OtherError(Arc::new(why)))
}

fn bad_encoding() -> Error {
    CertificateError::BadEncoding.into()
}

/// Who a chain says that it is, read strictly (X509-SVID §3 and §4), if that is whom we expect.
fn claimed(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    expected: Expected<'_>,
) -> Result<PeerIdentity, Error> {
    let (behind, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad_encoding())?;
    if !behind.is_empty() {
        return Err(bad_encoding());
    }
    let mut facts = LeafFacts {
        chain: rest.len().saturating_add(1),
        ..LeafFacts::default()
    };
    let (mut uris, mut others) = (Vec::new(), false);
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
            ParsedExtension::BasicConstraints(basic) => facts.is_ca |= basic.ca,
            ParsedExtension::KeyUsage(usage) => {
                facts.signs_certificates |= usage.key_cert_sign();
                facts.signs_revocations |= usage.crl_sign();
            }
            _ => {}
        }
    }
    check_leaf(&facts).map_err(refused)?;
    let id = identity_of(&uris, others).map_err(refused)?;
    accept_peer(&id, expected).map_err(refused)
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
    use isthmus_proxy_core::identify::{CHAIN_CERTIFICATES_MAX, TrustRoots};
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
            not_after: SystemTime::now() + Duration::from_secs(600),
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
    fn the_core_judges_every_chain_before_its_signature() {
        let (root, chain) = signed(CART);
        let store = trust(&[&root], read_root).unwrap();
        let judged = |chain: &[CertificateDer<'_>], expected: Option<&str>| {
            let expected = expected.map(|id| id.parse().unwrap());
            let verifier = Verifier::new(Arc::clone(&store), expected);
            let (leaf, rest) = chain.split_first().unwrap();
            verifier.verify(leaf, rest, UnixTime::now(), KeyUsage::client_auth())
        };
        assert_eq!(judged(&chain, None), Ok(()));
        assert_eq!(judged(&chain, Some(CART)), Ok(()));
        let why = |chain: &[_], expected| {
            let error = judged(chain, expected).unwrap_err();
            not_identified(&error).unwrap().clone()
        };
        // Namespace and account are right.
        let west = "spiffe://west.mesh.internal/ns/shop/sa/cart";
        let unexpected = why(&chain, Some(west));
        assert!(matches!(unexpected, NotIdentified::Unexpected { .. }));
        let longest: Vec<_> = chain.iter().cycle().take(CHAIN_CERTIFICATES_MAX).collect();
        let mut shown: Vec<_> = longest.into_iter().cloned().collect();
        assert_eq!(judged(&shown, None), Ok(()));
        shown.push(root.clone());
        assert_eq!(why(&shown, None), NotIdentified::LongChain(shown.len()));
        let authority = why(std::slice::from_ref(&root), None);
        assert!(matches!(authority, NotIdentified::Authority(_)));
        let (_, foreign) = signed(west);
        let foreign = why(&foreign, None);
        assert!(matches!(foreign, NotIdentified::UnknownTrustDomain(_)));
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
