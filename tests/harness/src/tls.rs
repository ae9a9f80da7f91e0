//! How does a stranger, or a peer with somebody's certificate, knock at a TLS listener?

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Identity {
    /// What a proxy keeps in its state folder: for the opposite test, that a right one is let in.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn of_state_dir(state_dir: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(state_dir.join("identity.pem"))
            .and_then(Iterator::collect)
            .expect("a chain on disk");
        let key =
            PrivateKeyDer::from_pem_file(state_dir.join("identity.pem")).expect("a key on disk");
        Self { chain, key }
    }
}

/// An authority that nobody believes.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What a peer is shown beside the leaf.
    above: Vec<CertificateDer<'static>>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// No key can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            issuer: Issuer::new(params, key()),
            above: Vec::new(),
        }
    }

    /// The authority of a cluster itself, with the key from the control plane's state folder: whoever
    /// has it can sign anything, and the form of an identity must hold all the same.
    ///
    /// # Panics
    /// It is not there.
    #[must_use]
    pub fn of_cluster(control_state: &Path, cluster: &str) -> Self {
        Self::of_file(&ca_file(control_state, cluster, "issuer-1"))
    }

    /// The same with the root's key, under which there may be authorities of any kind.
    ///
    /// # Panics
    /// It is not there.
    #[must_use]
    pub fn root_of_cluster(control_state: &Path, cluster: &str) -> Self {
        Self::of_file(&ca_file(control_state, cluster, "root"))
    }

    fn of_file(file: &Path) -> Self {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .expect("an authority's certificate");
        let text = std::fs::read_to_string(file).expect("an authority's key");
        let key = KeyPair::from_pem(&text).expect("an authority's key");
        let first = chain.first().expect("an authority's certificate");
        let issuer = Issuer::from_ca_cert_der(first, key).expect("an authority's certificate");
        Self {
            issuer,
            above: chain,
        }
    }

    /// An authority below this one; `change` has the last word.
    ///
    /// # Panics
    /// It can't be signed.
    #[must_use]
    pub fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "below");
        change(&mut params);
        let key = key();
        let signed = params.signed_by(&key, &self.issuer);
        let own = signed.expect("a certificate").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            above: std::iter::once(own).chain(self.above.clone()).collect(),
        }
    }

    /// A leaf with these URIs; `change` has the last word.
    ///
    /// # Panics
    /// A URI is not ASCII.
    #[must_use]
    pub fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = key();
        let mut params = leaf_params(uris);
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut made = identity(leaf.der(), &key);
        made.chain.extend(self.above.iter().cloned());
        made
    }
}

/// Where a control plane in a folder keeps a certificate of a cluster's authority, and its key.
#[must_use]
pub fn ca_file(control_state: &Path, cluster: &str, name: &str) -> PathBuf {
    control_state.join(format!("ca/{cluster}.mesh.internal/{name}.pem"))
}

/// A leaf with these URIs that signs itself.
///
/// # Panics
/// A URI is not ASCII.
#[must_use]
pub fn self_signed(uris: &[&str]) -> Identity {
    let key = key();
    let leaf = leaf_params(uris).self_signed(&key).expect("a certificate");
    identity(leaf.der(), &key)
}

fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris
        .iter()
        .map(|&uri| SanType::URI(uri.try_into().expect("an ASCII URI")))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn identity(leaf: &CertificateDer<'static>, key: &KeyPair) -> Identity {
    let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key of a known kind");
    Identity {
        chain: vec![leaf.clone()],
        key: der,
    }
}

/// A connection from an address of one's own: listeners of the mesh judge by it.
///
/// # Errors
/// Nobody listens, or the address is not ours.
pub async fn dial(from: IpAddr, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let io = socket
        .connect(to)
        .await
        .with_context(|| format!("connect to {to}"))?;
    io.set_nodelay(true)?;
    Ok(io)
}

/// Shakes hands, showing this certificate or none, and believing whoever answers. With TLS 1.3 the
/// server's refusal comes with the first read.
///
/// # Errors
/// The handshake fails.
pub async fn connect(
    io: TcpStream,
    name: &str,
    identity: Option<Identity>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(client_config(identity)?);
    let name = ServerName::try_from(name.to_owned())?;
    connector.connect(name, io).await.context("shake hands")
}

/// How [`connect`] shakes hands; several connections with one may resume what was agreed on before.
///
/// # Errors
/// The certificate and its key are no pair.
pub fn client_config(identity: Option<Identity>) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_early_data = true;
    Ok(Arc::new(config))
}

/// Shakes hands with whoever comes, as the one whom they call.
///
/// # Errors
/// The handshake fails: they do not believe it.
pub async fn accept(
    io: TcpStream,
    identity: Identity,
) -> anyhow::Result<server::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    acceptor.accept(io).await.context("shake hands")
}

/// Believes everybody: the one who is tested is the server.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
