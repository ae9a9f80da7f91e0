//! Who signs the certificates of a trust domain, and what do they look like?
//!
//! ```text
//! root-1, root-2, ... (10 years each; may be taken off this machine)
//!   └── issuer-1, issuer-2, ... (a year each; the newest under the root in use signs)
//!         └── SVID of a workload (36 h)
//! ```
//! Each trust domain has its own; roots of different ones are never merged (SPIFFE).

mod ca;
pub mod handed;
pub mod csr;
pub mod registry;
pub mod serving;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::issue::Grant;
use isthmus_control_plane_core::rotation::{RootNumber, Stage};
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

/// What signs for one trust domain, and what is believed of it.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Arc<Ca>,
    /// Which of the issuing certificates it is, from 1.
    number: u32,
    /// If it was handed in.
    handed: Option<handed::Handed>,
    stage: Stage,
    issuers: Issuers,
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
    /// keys. `stage` says which root signs.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or is awaited from another replica.
    pub async fn open_at(
        stage: Stage,
        store: &KeyStore,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        let opened = async {
            let issuers = Issuers::of(store, trust_domain).await?;
            Self::after(issuers, (store, trust_domain), stage, now).await
        };
        opened
            .await
            .map_err(|cause| Self::none(trust_domain, cause))
    }

    /// As [`open_at`](Self::open_at), under the first root.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or is awaited from another replica.
    pub async fn open(
        store: &KeyStore,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        Self::open_at(Stage::default(), store, trust_domain, now).await
    }

    /// As [`reopen_at`](Self::reopen_at), where it is.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or there is none any more.
    pub async fn reopen(&self, store: &KeyStore, now: SystemTime) -> Result<Self, NoAuthority> {
        self.reopen_at(self.stage.clone(), store, now).await
    }

    /// As [`open_at`](Self::open_at), of one that is in use: if its keys are gone, no others are made,
    /// for nobody would believe them.
    ///
    /// # Errors
    /// A key can't be read or written, is something else, or there is none any more.
    pub async fn reopen_at(
        &self,
        stage: Stage,
        store: &KeyStore,
        now: SystemTime,
    ) -> Result<Self, NoAuthority> {
        let trust_domain = &self.trust_domain;
        let opened = async {
            let issuers = Issuers::of(store, trust_domain).await?;
            if issuers.all.is_empty() {
                let place = store.place(&Item::Issuer(trust_domain.clone(), 1));
                let why = "was there and is gone".to_owned();
                return Err(KeyError::Invalid { place, why }.into());
            }
            Self::after(issuers, (store, trust_domain), stage, now).await
        };
        opened
            .await
            .map_err(|cause| Self::none(trust_domain, cause))
    }

    /// Makes the keys of a root that is to follow, where they are not there yet: the root, and what
    /// signs under it.
    ///
    /// # Errors
    /// A key can't be read or written, or is not ours to make.
    pub async fn prepare(
        store: &KeyStore,
        trust_domain: &TrustDomain,
        root: RootNumber,
        now: SystemTime,
    ) -> Result<(), NoAuthority> {
        let prepared = async {
            let issuers = Issuers::of(store, trust_domain).await?;
            if issuers.newest(root).is_some() {
                return Ok(());
            }
            let item = Item::Root(trust_domain.clone(), root);
            let make = || Ok::<_, CaError>(Ca::root(trust_domain, now)?.to_pem().into_bytes());
            let text = store.read_or_create(&item, make).await?;
            let root = ca(store, &item, &text)?;
            let _made = issuers.next((store, trust_domain), &root, now).await?;
            Ok(())
        };
        prepared
            .await
            .map_err(|cause| Self::none(trust_domain, cause))
    }

    fn none(trust_domain: &TrustDomain, cause: CaError) -> NoAuthority {
        NoAuthority {
            trust_domain: trust_domain.clone(),
            cause,
        }
    }

    /// The newest that signs under the stage's root, or the one that comes after it if it is time.
    async fn after(
        issuers: Issuers,
        (store, trust_domain): (&KeyStore, &TrustDomain),
        stage: Stage,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let item = Item::Root(trust_domain.clone(), stage.signs);
        let first = issuers.all.is_empty() && stage.signs == 1;
        let newest = issuers.newest(stage.signs);
        let fresh = newest
            .as_ref()
            .is_some_and(|(_, ca)| ca.not_after > now + ISSUER_RENEWAL);
        // A root that is kept elsewhere is not made anew: it would be another one.
        let issuers = if !fresh && (first || (store.makes() && store.read(&item).await?.is_some()))
        {
            let make = || Ok::<_, CaError>(Ca::root(trust_domain, now)?.to_pem().into_bytes());
            let text = store.read_or_create(&item, make).await?;
            let root = ca(store, &item, &text)?;
            issuers.next((store, trust_domain), &root, now).await?
        } else {
            issuers
        };
        let missing = |root: RootNumber| CaError::Root(root);
        let signs = stage.signs;
        let (number, issuer) = issuers.newest(signs).ok_or_else(|| missing(signs))?;
        if let Some(root) = stage
            .roots
            .iter()
            .find(|root| issuers.root(**root).is_none())
        {
            return Err(missing(*root));
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            issuer,
            number,
            handed: None,
            stage,
            issuers,
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
        if let Some(handed) = &self.handed {
            return handed.roots();
        }
        let believed = self.stage.roots.iter();
        believed
            .filter_map(|root| self.issuers.root(*root).cloned())
            .collect()
    }

    /// Of the roots, the one that is about to go.
    #[must_use]
    pub fn retiring(&self) -> Option<CertificateDer<'static>> {
        self.issuers.root(self.stage.retiring?).cloned()
    }

    /// How far it is on its way from one root to the next. What was handed in is on no way.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The root above what has signed a workload's certificate.
    #[must_use]
    pub fn root_of(&self, issuer: &CertificateDer<'_>) -> Option<RootNumber> {
        let mut all = self.issuers.all.iter();
        let (_, found) = all.find(|(_, ca)| ca.chain.first() == Some(issuer))?;
        self.issuers.root_of(found)
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

/// All that signs or has signed for a trust domain, oldest first.
struct Issuers {
    all: Vec<(u32, Arc<Ca>)>,
    /// Their roots, by number from 1: each has signed its first issuer after all of the one before.
    roots: Vec<CertificateDer<'static>>,
}

impl Issuers {
    /// Of what is not made by us nothing is kept.
    fn none() -> Self {
        Self {
            all: Vec::new(),
            roots: Vec::new(),
        }
    }

    async fn of(store: &KeyStore, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let item = |number| Item::Issuer(trust_domain.clone(), number);
        let mut found = Self::none();
        for (number, text) in store.list(1..=ISSUERS_MAX, item).await? {
            found.push(number, ca(store, &item(number), &text)?);
        }
        Ok(found)
    }

    fn push(&mut self, number: u32, ca: Ca) {
        if let Some(root) = ca.chain.last()
            && !self.roots.contains(root)
        {
            self.roots.push(root.clone());
        }
        self.all.push((number, Arc::new(ca)));
    }

    /// With one more, under this root.
    async fn next(
        mut self,
        (store, trust_domain): (&KeyStore, &TrustDomain),
        root: &Ca,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let last = self.all.last().map_or(0, |(number, _)| *number);
        let item = Item::Issuer(trust_domain.clone(), last.saturating_add(1));
        let make = || {
            let issuer = root.intermediate(trust_domain, now)?;
            Ok::<_, CaError>(issuer.to_pem().into_bytes())
        };
        let text = store.read_or_create(&item, make).await?;
        self.push(last.saturating_add(1), ca(store, &item, &text)?);
        Ok(self)
    }

    fn root(&self, number: RootNumber) -> Option<&CertificateDer<'static>> {
        self.roots
            .get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    fn root_of(&self, ca: &Ca) -> Option<RootNumber> {
        let root = ca.chain.last()?;
        let at = self.roots.iter().position(|found| found == root)?;
        RootNumber::try_from(at.saturating_add(1)).ok()
    }

    fn newest(&self, root: RootNumber) -> Option<(u32, Arc<Ca>)> {
        let mut all = self.all.iter().rev();
        all.find(|(_, ca)| self.root_of(ca) == Some(root)).cloned()
    }
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
