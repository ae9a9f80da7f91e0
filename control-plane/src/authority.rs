//! Who signs the certificates of a trust domain, and what do they look like?
//!
//! ```text
//! root (10 years; may be taken off this machine)
//!   └── issuer-1, issuer-2, ... (a year each; the newest signs)
//!         └── SVID of a workload (36 h)
//! ```
//! Each trust domain has its own; roots of different ones are never merged (SPIFFE).

mod ca;
pub mod csr;
pub mod registry;
pub mod serving;

use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::issue::Grant;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;

use crate::state::StateDir;
use ca::{Ca, CaError, Terms, dated, not_after, pem};

/// A new issuing certificate is made when the newest has less than this left.
const ISSUER_RENEWAL: Duration = Duration::from_secs(120 * 24 * 3600);
/// Most issuing certificates of one trust domain that are looked for.
const ISSUERS_MAX: u32 = 10_000;

/// Why an authority could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the authority of {trust_domain}: {file}")]
pub struct NoAuthority {
    trust_domain: TrustDomain,
    file: String,
    #[source]
    cause: CaError,
}

/// Why no certificate was signed.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// The identity belongs to another trust domain.
    #[error("{id} is not of the trust domain {trust_domain}")]
    Foreign {
        /// The identity.
        id: SpiffeId,
        /// Whose authority was asked.
        trust_domain: TrustDomain,
    },
    /// What signs has ended: nothing is signed past it (SECURITY F17).
    #[error("the issuing certificate of {trust_domain} has ended")]
    Expired {
        /// Whose.
        trust_domain: TrustDomain,
    },
    /// The certificate could not be made.
    #[error("sign for {id}")]
    Sign {
        /// The identity.
        id: SpiffeId,
        /// Why not.
        #[source]
        cause: CaError,
    },
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then what signed it; the root is in the bundle.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf ends; whole seconds.
    pub not_after: SystemTime,
}

/// What signs for one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Ca,
    /// Which of the issuing certificates it is, from 1.
    number: u32,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Authority({}, issuer {})",
            self.trust_domain, self.number
        )
    }
}

impl Authority {
    /// Opens the authority of a trust domain; makes it at the first start, and a new issuing
    /// certificate when the newest nears its end and the root's key is there.
    ///
    /// # Errors
    /// A file can't be read or written, or holds something else.
    pub fn open(
        state: &StateDir,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        let failed = |file: &str| {
            let (trust_domain, file) = (trust_domain.clone(), state.path(file));
            let file = file.display().to_string();
            move |cause| NoAuthority {
                trust_domain,
                file,
                cause,
            }
        };
        let root_file = format!("ca/{trust_domain}/root.pem");
        let newest = newest(state, trust_domain)?;
        if let Some(current) = &newest {
            let fresh = current.issuer.not_after > now + ISSUER_RENEWAL;
            let root = state
                .read(&root_file)
                .map_err(|e| failed(&root_file)(e.into()))?;
            // A root that is kept elsewhere is not made anew: it would be another one.
            if fresh || root.is_none() {
                return Ok(newest.expect("looked at above"));
            }
        }
        let make = || {
            Ok(Ca::root(trust_domain, now)
                .map_err(into_state)?
                .to_pem()
                .into_bytes())
        };
        let root = state
            .read_or_create(&root_file, make)
            .map_err(CaError::from)
            .and_then(|text| Ca::from_pem(&text))
            .map_err(failed(&root_file))?;
        let number = newest.map_or(1, |current| current.number.saturating_add(1));
        let file = issuer_file(trust_domain, number);
        let make = || {
            let issuer = root.intermediate(trust_domain, now).map_err(into_state)?;
            Ok(issuer.to_pem().into_bytes())
        };
        let issuer = state
            .read_or_create(&file, make)
            .map_err(CaError::from)
            .and_then(|text| Ca::from_pem(&text))
            .map_err(failed(&file))?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            issuer,
            number,
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What believers of this trust domain hold.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.issuer.chain.last().cloned().into_iter().collect()
    }

    /// The roots as PEM, for files.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        self.roots().iter().map(pem).collect()
    }

    /// When what signs ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.issuer.not_after
    }

    /// Signs what was granted, for a public key. It ends no later than what signs it.
    ///
    /// # Errors
    /// The identity is foreign, the issuing certificate has ended, or signing failed.
    pub fn issue(
        &self,
        grant: &Grant,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Issued, NotIssued> {
        let Grant {
            identity,
            not_before,
            not_after,
            serial,
        } = grant;
        let terms = Terms {
            not_before: *not_before,
            not_after: *not_after,
            serial: *serial,
        };
        self.sign((identity, None), key, terms, now)
    }

    fn sign(
        &self,
        (id, host): (&SpiffeId, Option<&str>),
        key: &impl PublicKeyData,
        mut terms: Terms,
        now: SystemTime,
    ) -> Result<Issued, NotIssued> {
        let trust_domain = self.trust_domain.clone();
        if *id.trust_domain() != trust_domain {
            return Err(NotIssued::Foreign {
                id: id.clone(),
                trust_domain,
            });
        }
        if self.issuer.not_after <= now {
            return Err(NotIssued::Expired { trust_domain });
        }
        terms.not_after = terms.not_after.min(self.issuer.not_after);
        let leaf = || -> Result<_, CaError> {
            let params = leaf_params(id, host, &terms)?;
            let leaf = params
                .signed_by(key, &self.issuer.issuer)
                .map_err(CaError::Make)?;
            let leaf = leaf.der().clone();
            Ok((not_after(&leaf)?, leaf))
        };
        let (not_after, leaf) = leaf().map_err(|cause| NotIssued::Sign {
            id: id.clone(),
            cause,
        })?;
        // All but the root, which whoever checks must hold already.
        let above = self
            .issuer
            .chain
            .split_last()
            .map_or(&[][..], |(_, above)| above);
        let chain = std::iter::once(leaf).chain(above.iter().cloned()).collect();
        Ok(Issued { chain, not_after })
    }
}

/// X509-SVID §4 and §5: one URI, no CA, digitalSignature, both extended usages.
fn leaf_params(
    id: &SpiffeId,
    host: Option<&str>,
    terms: &Terms,
) -> Result<CertificateParams, CaError> {
    let mut params = dated(terms);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "isthmus");
    let text = |name: &str| Ia5String::try_from(name).map_err(CaError::Make);
    params.subject_alt_names = vec![SanType::URI(text(id.as_str())?)];
    if let Some(host) = host {
        params.subject_alt_names.push(SanType::DnsName(text(host)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn issuer_file(trust_domain: &TrustDomain, number: u32) -> String {
    format!("ca/{trust_domain}/issuer-{number}.pem")
}

/// The issuing certificate with the highest number.
fn newest(state: &StateDir, trust_domain: &TrustDomain) -> Result<Option<Authority>, NoAuthority> {
    let mut found = None;
    for number in 1..=ISSUERS_MAX {
        let file = issuer_file(trust_domain, number);
        let failed = |cause| NoAuthority {
            trust_domain: trust_domain.clone(),
            file: state.path(&file).display().to_string(),
            cause,
        };
        let Some(text) = state.read(&file).map_err(CaError::from).map_err(failed)? else {
            break;
        };
        let issuer = Ca::from_pem(&text).map_err(failed)?;
        found = Some(Authority {
            trust_domain: trust_domain.clone(),
            issuer,
            number,
        });
    }
    Ok(found)
}

/// A certificate that can't be made, told by whoever writes files.
fn into_state(error: CaError) -> crate::state::StateError {
    match error {
        CaError::State(error) => error,
        CaError::Make(_) | CaError::Read(_) => crate::state::StateError::Invalid {
            path: "ca".into(),
            why: format!("{:#}", anyhow::Error::from(error)),
        },
    }
}

/// A certificate that this authority would never sign: what a stolen key could.
#[cfg(test)]
pub(crate) fn forge(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
    key: &impl PublicKeyData,
    now: SystemTime,
) -> Vec<CertificateDer<'static>> {
    let id = SpiffeId::new(authority.trust_domain(), "shop", "cart").unwrap();
    let terms = Terms::until(now + Duration::from_secs(3600), now).unwrap();
    let mut params = leaf_params(&id, None, &terms).unwrap();
    change(&mut params);
    let leaf = params.signed_by(key, &authority.issuer.issuer).unwrap();
    vec![leaf.der().clone(), authority.issuer.chain[0].clone()]
}

#[cfg(test)]
mod tests;
