//! Can we sign with what an operator has handed in, and would anybody believe it?
//!
//! The three texts of a `kubernetes.io/tls` Secret, as cert-manager writes them: `tls.crt` (the
//! signing certificate first, then what stands above it), `tls.key`, and `ca.crt` (the roots). Whether
//! it is good is not argued from its fields: a certificate is signed with it, and judged as a peer
//! would judge it. It is used as it is, and never renewed or written by us.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::rotation::Stage;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::ca::{Ca, Terms};
use super::{Authority, Issuers, leaf_params};
use crate::trust::{Trust, Verifier};

/// Most certificates of each of the two texts.
const CERTIFICATES_MAX: usize = 8;
/// Whom the certificate is for that is signed as a trial. Nobody gets to see it.
const TRIAL: (&str, &str) = ("isthmus-system", "trial");
/// How long that one is valid.
const TRIAL_LIFETIME: Duration = Duration::from_secs(60);

/// What lies in the Secret.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    /// `tls.crt`.
    pub chain: &'a [u8],
    /// `tls.key`.
    pub key: &'a [u8],
    /// `ca.crt`.
    pub roots: &'a [u8],
}

/// What is known of an authority that was handed in.
pub(super) struct Handed {
    /// As it says.
    roots: Vec<CertificateDer<'static>>,
    /// Of the authority that we had made before.
    made: Vec<CertificateDer<'static>>,
    version: u64,
}

impl Handed {
    /// What believers hold.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let made = self.made.iter().filter(|one| !self.roots.contains(one));
        self.roots.iter().chain(made).cloned().collect()
    }
}

impl Authority {
    /// The authority that was handed in for a trust domain. `version` grows with each that is handed
    /// in, wherever it is read.
    ///
    /// # Errors
    /// Why nothing that it signs would be believed; without a part of the key.
    pub fn handed(
        trust_domain: &TrustDomain,
        texts: Texts<'_>,
        version: u64,
        now: SystemTime,
    ) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(texts.key)
            .map_err(|_| "tls.key: there is no private key in it")?;
        let key = KeyPair::try_from(&key).map_err(|_| "tls.key: a key of an unknown kind")?;
        let mut chain = certificates("tls.crt", texts.chain)?;
        let roots = certificates("ca.crt", texts.roots)?;
        let own = chain
            .first()
            .ok_or("tls.crt: there is no certificate in it")?;
        own_fits(own, trust_domain)?;
        // A root at the end of the chain is in ca.crt, too: it is sent to nobody.
        if chain.len() > 1 {
            chain.retain(|one| !roots.contains(one));
        }
        let root = roots
            .first()
            .ok_or("ca.crt: there is no certificate in it")?;
        if chain.last() != Some(root) {
            chain.push(root.clone());
        }
        let issuer = Ca::new(chain, key)
            .map_err(|error| format!("tls.crt: {:#}", anyhow::Error::from(error)))?;
        depth_fits(&issuer.chain)?;
        if issuer.not_after <= now {
            return Err("tls.crt or ca.crt: a certificate in it has ended".to_owned());
        }
        let authority = Self {
            trust_domain: trust_domain.clone(),
            issuer: Arc::new(issuer),
            number: 0,
            stage: Stage::default(),
            issuers: Issuers::none(),
            handed: Some(Handed {
                roots,
                made: Vec::new(),
                version,
            }),
        };
        authority.trial(now)?;
        Ok(authority)
    }

    /// Was it handed in? Then it is not ours to renew.
    #[must_use]
    pub fn is_handed(&self) -> bool {
        self.handed.is_some()
    }

    /// Which version of what was handed in it is; of what was made by us, how far its rotation is. The
    /// sequence of its bundle.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.handed
            .as_ref()
            .map_or(self.stage.sequence, |handed| handed.version)
    }

    /// This one comes after `old`: roots that we had made are believed on, for certificates that
    /// were signed before anything was handed in.
    pub(super) fn follow(&mut self, old: &Self) {
        let made = match &old.handed {
            Some(handed) => handed.made.clone(),
            None => old.roots(),
        };
        if let Some(handed) = &mut self.handed {
            handed.made = made;
        }
    }

    /// Would a peer believe what it signs?
    fn trial(&self, now: SystemTime) -> Result<(), String> {
        let told =
            |error: &dyn std::fmt::Display| format!("nobody would believe what it signs: {error}");
        let key = KeyPair::generate().map_err(|error| told(&error))?;
        let id = SpiffeId::new(&self.trust_domain, TRIAL.0, TRIAL.1).map_err(|e| told(&e))?;
        let terms = Terms::until(now + TRIAL_LIFETIME, now).map_err(|e| told(&e))?;
        let leaf = leaf_params(&id, None, &terms)
            .map_err(|e| told(&e))?
            .signed_by(&key, &self.issuer.issuer)
            .map_err(|e| told(&e))?;
        let mut trust = Trust::default();
        trust
            .set(&self.trust_domain, &self.roots())
            .map_err(|_| "ca.crt: a certificate in it is no root")?;
        let (_told, seen) = watch::channel(Arc::new(trust));
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let verifier = Verifier::new(seen);
        let at = UnixTime::since_unix_epoch(since);
        let found = verifier.verify(leaf.der(), self.above(), at);
        let peer = found.map_err(|error| told(&error))?;
        if peer.id == id {
            return Ok(());
        }
        Err(told(&"another identity is read from it"))
    }
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text)
        .take(CERTIFICATES_MAX + 1)
        .collect();
    match found {
        Err(_) => Err(format!("{name}: a certificate in it is not PEM")),
        Ok(found) if found.is_empty() => Err(format!("{name}: there is no certificate in it")),
        Ok(found) if found.len() > CERTIFICATES_MAX => {
            Err(format!("{name}: more than {CERTIFICATES_MAX} certificates"))
        }
        Ok(found) => Ok(found),
    }
}

/// May the certificate sign others, and for this trust domain, if it names one? (X509-SVID §4)
fn own_fits(own: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(own)
        .map_err(|_| "tls.crt: the certificate in it is not X.509")?;
    let basic = parsed.basic_constraints();
    let signs = basic.ok().flatten().is_some_and(|basic| basic.value.ca);
    if !signs {
        return Err("tls.crt: the certificate in it may not sign others (no CA)".to_owned());
    }
    let usage = parsed.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("tls.crt: the certificate in it lacks the usage keyCertSign".to_owned());
    }
    let foreign = uris(&parsed).find(|uri| {
        let domain = uri
            .strip_prefix("spiffe://")
            .map(|rest| rest.trim_end_matches('/'));
        domain != Some(trust_domain.as_str())
    });
    match foreign {
        Some(uri) => Err(format!(
            "tls.crt: it is for {uri:?}, not for {trust_domain}"
        )),
        None => Ok(()),
    }
}

/// RFC 5280 §4.2.1.9: how many signing certificates may stand below one. A peer does not ask that of a
/// root; others who look at it do.
fn depth_fits(chain: &[CertificateDer<'_>]) -> Result<(), String> {
    for (below, one) in (0u32..).zip(chain) {
        let (_, parsed) = x509_parser::parse_x509_certificate(one)
            .map_err(|_| "tls.crt or ca.crt: a certificate in it is not X.509")?;
        let basic = parsed.basic_constraints().ok().flatten();
        let most = basic.and_then(|basic| basic.value.path_len_constraint);
        if most.is_some_and(|most| most < below) {
            let why =
                "tls.crt or ca.crt: the path length of a certificate forbids what is below it";
            return Err(why.to_owned());
        }
    }
    Ok(())
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|san| san.value.general_names.iter());
    names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::ca::pem;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyUsagePurpose,
        SanType, date_time_ymd,
    };

    /// A signing certificate as another tool makes it.
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    type Made = CertifiedIssuer<'static, KeyPair>;

    fn root(name: &str) -> Made {
        Made::self_signed(params(name), KeyPair::generate().unwrap()).unwrap()
    }

    fn under(root: &Made, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = params("issuer");
        change(&mut params);
        Made::signed_by(params, KeyPair::generate().unwrap(), root).unwrap()
    }

    fn east() -> TrustDomain {
        "east.mesh.internal".parse().unwrap()
    }

    fn hand_in(chain: &str, key: &KeyPair, roots: &str) -> Result<Authority, String> {
        let key = key.serialize_pem();
        let texts = Texts {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
            roots: roots.as_bytes(),
        };
        Authority::handed(&east(), texts, 7, SystemTime::now())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(rcgen::string::Ia5String::try_from(text).unwrap())
    }

    #[test]
    fn what_other_tools_make_is_used_as_it_is() {
        let root = root("root");
        let issuer = under(&root, |p| {
            p.subject_alt_names = vec![uri("spiffe://east.mesh.internal")];
        });
        for chain in [issuer.pem(), format!("{}{}", issuer.pem(), root.pem())] {
            let handed = hand_in(&chain, issuer.key(), &root.pem()).unwrap();
            assert!(handed.is_handed());
            assert_eq!(handed.roots(), [root.der().clone()]);
            assert_eq!(handed.above(), [issuer.der().clone()]);
        }
        // A root that signs by itself, and the next one beside it.
        let next = self::root("next");
        let both = format!("{}{}", root.pem(), next.pem());
        let handed = hand_in(&root.pem(), root.key(), &both).unwrap();
        assert_eq!(handed.roots(), [root.der().clone(), next.der().clone()]);
        assert_eq!(
            handed.roots_pem(),
            format!("{}{}", pem(root.der()), pem(next.der()))
        );
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_nobody_would_believe_is_refused_and_said() {
        let (root, other) = (root("root"), root("other"));
        let good = under(&root, |_| {});
        let no_ca = under(&root, |p| p.is_ca = IsCa::ExplicitNoCa);
        let no_use = under(&root, |p| {
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature]
        });
        let foreign = under(&root, |p| {
            p.subject_alt_names = vec![uri("spiffe://west.mesh.internal")];
        });
        let ended = under(&root, |p| {
            p.not_before = date_time_ymd(2020, 1, 1);
            p.not_after = date_time_ymd(2021, 1, 1);
        });
        // It may sign, but nothing that signs.
        let short = Made::self_signed(
            {
                let mut params = params("short");
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let too_deep = under(&short, |_| {});
        let cases = [
            ("may not sign others", no_ca.pem(), no_ca.key(), root.pem()),
            (
                "lacks the usage keyCertSign",
                no_use.pem(),
                no_use.key(),
                root.pem(),
            ),
            (
                "not for east.mesh.internal",
                foreign.pem(),
                foreign.key(),
                root.pem(),
            ),
            ("has ended", ended.pem(), ended.key(), root.pem()),
            (
                "the path length",
                too_deep.pem(),
                too_deep.key(),
                short.pem(),
            ),
            ("nobody would believe", good.pem(), good.key(), other.pem()),
            ("not for its key", good.pem(), other.key(), root.pem()),
            (
                "tls.crt: there is no certificate",
                String::new(),
                good.key(),
                root.pem(),
            ),
            (
                "ca.crt: there is no certificate",
                good.pem(),
                good.key(),
                String::new(),
            ),
            (
                "ca.crt: more than 8",
                good.pem(),
                good.key(),
                root.pem().repeat(9),
            ),
        ];
        for (says, chain, key, roots) in cases {
            let why = hand_in(&chain, key, &roots).err().unwrap_or_default();
            assert!(why.contains(says), "{why} lacks {says}");
            assert!(!why.contains("PRIVATE"), "{why}");
        }
        let (chain, roots) = (good.pem(), root.pem());
        let texts = Texts {
            chain: chain.as_bytes(),
            key: b"hunter2",
            roots: roots.as_bytes(),
        };
        let why = Authority::handed(&east(), texts, 1, SystemTime::now()).unwrap_err();
        assert_eq!(why, "tls.key: there is no private key in it");
    }
}
