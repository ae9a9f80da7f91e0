//! Who signs the certificates of a trust domain, and what do they look like?
//!
//! ```text
//! root (10 years; may be taken off this machine)
//!   └── issuer-1, issuer-2, ... (a year each; the newest signs)
//!         └── SVID of a workload (36 h)
//! ```
//! Each trust domain has its own; roots of different ones are never merged (SPIFFE).

mod ca;
pub mod handed;
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

use crate::store::{Item, KeyError, KeyStore};
use ca::{Ca, CaError, Terms, dated, not_after, pem};

/// A new issuing certificate is made when the newest has less than this left.
const ISSUER_RENEWAL: Duration = Duration::from_secs(120 * 24 * 3600);
/// Most issuing certificates of one trust domain that are looked for.
const ISSUERS_MAX: u32 = 10_000;

/// Why an authority could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the authority of {trust_domain}")]
pub struct NoAuthority {
    trust_domain: TrustDomain,
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
    /// If it was handed in.
    handed: Option<handed::Handed>,
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
    /// certificate when the newest nears its end, the root's key is there, and this replica makes
    /// keys.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or is awaited from another replica.
    pub async fn open(
        store: &KeyStore,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        let opened = async {
            let newest = newest(store, trust_domain).await?;
            Self::after(newest, (store, trust_domain), now).await
        };
        opened
            .await
            .map_err(|cause| Self::none(trust_domain, cause))
    }

    /// As [`open`](Self::open), of one that is in use: if its keys are gone, no others are made, for
    /// nobody would believe them.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or there is none any more.
    pub async fn reopen(&self, store: &KeyStore, now: SystemTime) -> Result<Self, NoAuthority> {
        let trust_domain = &self.trust_domain;
        let opened = async {
            let newest = newest(store, trust_domain).await?;
            if newest.is_none() {
                let place = store.place(&Item::Issuer(trust_domain.clone(), 1));
                let why = "was there and is gone".to_owned();
                return Err(KeyError::Invalid { place, why }.into());
            }
            Self::after(newest, (store, trust_domain), now).await
        };
        opened
            .await
            .map_err(|cause| Self::none(trust_domain, cause))
    }

    fn none(trust_domain: &TrustDomain, cause: CaError) -> NoAuthority {
        NoAuthority {
            trust_domain: trust_domain.clone(),
            cause,
        }
    }

    /// The newest, or the one that comes after it if it is time.
    async fn after(
        newest: Option<Self>,
        (store, trust_domain): (&KeyStore, &TrustDomain),
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let root = Item::Root(trust_domain.clone(), 1);
        let number = match newest {
            None => 1,
            Some(newest) => {
                let fresh = newest.issuer.not_after > now + ISSUER_RENEWAL;
                // A root that is kept elsewhere is not made anew: it would be another one.
                if fresh || !store.makes() || store.read(&root).await?.is_none() {
                    return Ok(newest);
                }
                newest.number.saturating_add(1)
            }
        };
        let make = || Ok::<_, CaError>(Ca::root(trust_domain, now)?.to_pem().into_bytes());
        let text = store.read_or_create(&root, make).await?;
        let root = ca(store, &root, &text)?;
        let item = Item::Issuer(trust_domain.clone(), number);
        let make = || {
            let issuer = root.intermediate(trust_domain, now)?;
            Ok::<_, CaError>(issuer.to_pem().into_bytes())
        };
        let text = store.read_or_create(&item, make).await?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            issuer: ca(store, &item, &text)?,
            number,
            handed: None,
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
        match &self.handed {
            Some(handed) => handed.roots(),
            None => self.issuer.chain.last().cloned().into_iter().collect(),
        }
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
        let above = self.above().iter().cloned();
        let chain = std::iter::once(leaf).chain(above).collect();
        Ok(Issued { chain, not_after })
    }

    /// What stands between a leaf and the root: all but the root, which whoever checks must hold.
    fn above(&self) -> &[CertificateDer<'static>] {
        let chain = self.issuer.chain.split_last();
        chain.map_or(&[][..], |(_, above)| above)
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

/// The issuing certificate with the highest number.
async fn newest(
    store: &KeyStore,
    trust_domain: &TrustDomain,
) -> Result<Option<Authority>, CaError> {
    let item = |number| Item::Issuer(trust_domain.clone(), number);
    let mut all = store.list(1..=ISSUERS_MAX, item).await?;
    let Some((number, text)) = all.pop() else {
        return Ok(None);
    };
    Ok(Some(Authority {
        trust_domain: trust_domain.clone(),
        issuer: ca(store, &item(number), &text)?,
        number,
        handed: None,
    }))
}

/// What an item holds; if it is something else, its place is said.
fn ca(store: &KeyStore, item: &Item, text: &[u8]) -> Result<Ca, CaError> {
    Ca::from_pem(text).map_err(|error| {
        let place = store.place(item);
        let why = format!("{:#}", anyhow::Error::from(error));
        KeyError::Invalid { place, why }.into()
    })
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
