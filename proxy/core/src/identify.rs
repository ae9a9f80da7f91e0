//! Who is the peer, by the names in its certificate and the roots that we believe?
//!
//! The proxy parses certificates and builds chains, with the roots of **one** trust domain: the one
//! that the certificate's own name claims. Roots of different trust domains never meet in one chain
//! (SPIFFE Trust Domain and Bundle §3), so a stolen or hostile root is worth its own cluster only.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_proto::ids::InvalidName;
use isthmus_proto::resource;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};

use crate::snapshot::Rejected;

/// Most roots of one trust domain. A rotation needs two.
pub const ROOTS_MAX: usize = 64;
/// Longest root certificate, DER, in bytes.
pub const ROOT_BYTES_MAX: usize = 16 * 1024;
/// Most certificates that a peer may show, its own included. Longer chains are refused before any
/// signature is checked. Five between a leaf and its root are more than any authority asks for.
pub const CHAIN_CERTIFICATES_MAX: usize = 6;

/// A peer that has proven who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The whole SPIFFE ID.
    pub id: SpiffeId,
}

/// Why a certificate names nobody that we know, or somebody else than was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotIdentified {
    /// The certificate has no URI among its names.
    #[error("the certificate has no URI name{}", if *.others { ", only names of other kinds" } else { "" })]
    NoUri {
        /// Has it names of other kinds (DNS, IP, e-mail)?
        others: bool,
    },
    /// More than one: two readers could take different ones.
    #[error("the certificate has {0} URI names; exactly one is allowed")]
    SeveralUris(usize),
    /// Not a SPIFFE ID of a workload.
    #[error("the certificate's URI name: {0}")]
    Malformed(InvalidName),
    /// The certificate may sign others: it is an authority's, no workload's.
    #[error("the certificate is an authority's: {0}")]
    Authority(&'static str),
    /// Too many certificates.
    #[error("the chain has {0} certificates; at most {CHAIN_CERTIFICATES_MAX} are allowed")]
    LongChain(usize),
    /// No roots of this trust domain are known, or none are left.
    #[error("trust domain {0} is not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// Somebody, but not the one that was called.
    #[error("expected {expected}, but {seen} answered")]
    Unexpected {
        /// Whom the endpoint names.
        expected: Box<SpiffeId>,
        /// Who it was.
        seen: Box<SpiffeId>,
    },
}

/// What the proxy's parser found in a leaf certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafFacts {
    /// Basic constraints: `cA`.
    pub is_ca: bool,
    /// Key usage: `keyCertSign`.
    pub signs_certificates: bool,
    /// Key usage: `cRLSign`.
    pub signs_revocations: bool,
    /// How many certificates were shown, the leaf included.
    pub chain: usize,
}

/// May this certificate stand for a workload (X509-SVID §4)?
///
/// # Errors
/// It may sign, or its chain is too long.
pub fn check_leaf(leaf: &LeafFacts) -> Result<(), NotIdentified> {
    if leaf.chain > CHAIN_CERTIFICATES_MAX {
        return Err(NotIdentified::LongChain(leaf.chain));
    }
    match leaf {
        LeafFacts { is_ca: true, .. } => Err(NotIdentified::Authority("cA is set")),
        LeafFacts {
            signs_certificates: true,
            ..
        } => Err(NotIdentified::Authority("keyCertSign is set")),
        LeafFacts {
            signs_revocations: true,
            ..
        } => Err(NotIdentified::Authority("cRLSign is set")),
        _ => Ok(()),
    }
}

/// The identity that a certificate claims, by its subject alternative names (X509-SVID §2: exactly
/// one URI). `other_sans`: are there names of other kinds? They are allowed and never believed.
///
/// It is only a claim until the chain is checked with the roots of its trust domain.
///
/// # Errors
/// Not exactly one URI, or one that is no workload's SPIFFE ID.
pub fn identity_of(uri_sans: &[&str], other_sans: bool) -> Result<SpiffeId, NotIdentified> {
    match uri_sans {
        [] => Err(NotIdentified::NoUri { others: other_sans }),
        [uri] => uri.parse().map_err(NotIdentified::Malformed),
        several => Err(NotIdentified::SeveralUris(several.len())),
    }
}

/// Whom we expect at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// Anybody whose trust domain we believe: inbound, where policy judges.
    Anyone,
    /// This very workload: outbound, where the endpoint names it.
    Exactly(&'a SpiffeId),
}

/// Takes the `id` of a peer for the one that was expected. IDs are compared whole: the right
/// namespace and account of a wrong trust domain are somebody else.
///
/// # Errors
/// It is somebody else.
pub fn accept_peer(id: &SpiffeId, expected: Expected<'_>) -> Result<PeerIdentity, NotIdentified> {
    match expected {
        Expected::Exactly(whom) if whom != id => Err(NotIdentified::Unexpected {
            expected: Box::new(whom.clone()),
            seen: Box::new(id.clone()),
        }),
        Expected::Anyone | Expected::Exactly(_) => Ok(PeerIdentity { id: id.clone() }),
    }
}

/// Reads a root certificate, DER: the proxy's parser, which the core has not. `Err`: why it is none.
pub type ReadRoot = fn(&[u8]) -> Result<(), String>;

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoots {
    trust_domain: TrustDomain,
    roots: Vec<Bytes>,
    retiring: Vec<Bytes>,
    sequence: u64,
}

impl TrustRoots {
    /// Checks a bundle. A root that can't be read makes it a bad one as a whole: without that root,
    /// peers that are to be believed would not be.
    ///
    /// # Errors
    /// The trust domain is none; a root is empty, too long or no certificate; there are too many.
    pub fn compile(bundle: &resource::TrustBundle, read: ReadRoot) -> Result<Self, Rejected> {
        let rejected = |why: String| Rejected {
            name: bundle.trust_domain.clone(),
            why,
        };
        let trust_domain = bundle
            .trust_domain
            .parse()
            .map_err(|e: InvalidName| rejected(format!("trust_domain: {e}")))?;
        if bundle.roots.len() > ROOTS_MAX {
            return Err(rejected(format!(
                "roots: {} certificates; at most {ROOTS_MAX} are allowed",
                bundle.roots.len()
            )));
        }
        for (at, root) in bundle.roots.iter().enumerate() {
            if root.is_empty() || root.len() > ROOT_BYTES_MAX {
                return Err(rejected(format!(
                    "roots[{at}]: {} bytes; 1 to {ROOT_BYTES_MAX} are allowed",
                    root.len()
                )));
            }
            read(root).map_err(|why| rejected(format!("roots[{at}]: {why}")))?;
        }
        if let Some(at) = bundle
            .retiring
            .iter()
            .position(|r| !bundle.roots.contains(r))
        {
            return Err(rejected(format!("retiring[{at}]: not one of the roots")));
        }
        Ok(Self {
            trust_domain,
            roots: bundle.roots.clone(),
            retiring: bundle.retiring.clone(),
            sequence: bundle.sequence,
        })
    }

    /// Checks a bundle that is to take the place of `held`.
    ///
    /// # Errors
    /// It is a bad one, or not a later one.
    pub fn after(
        held: Option<&Self>,
        bundle: &resource::TrustBundle,
        read: ReadRoot,
    ) -> Result<Self, Rejected> {
        let roots = Self::compile(bundle, read)?;
        held.map_or(Ok(()), |held| roots.check_replaces(held))?;
        Ok(roots)
    }

    /// Whose roots they are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates, DER. Empty: nobody of this trust domain is believed any more.
    #[must_use]
    pub fn roots(&self) -> &[Bytes] {
        &self.roots
    }

    /// Are some of the roots about to go?
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        !self.retiring.is_empty()
    }

    /// Without the roots that are about to go.
    #[must_use]
    pub fn lasting(&self) -> Self {
        let lasting = |root: &&Bytes| !self.retiring.contains(root);
        Self {
            roots: self.roots.iter().filter(lasting).cloned().collect(),
            retiring: Vec::new(),
            ..self.clone()
        }
    }

    /// Grows with each change of the bundle.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Is this a later bundle of the same trust domain than `held`?
    #[must_use]
    pub fn newer_than(&self, held: &Self) -> bool {
        self.trust_domain == held.trust_domain && self.sequence > held.sequence
    }

    /// May this bundle take the place of `held`? A stale control plane must not bring a removed
    /// root back, so the sequence never goes back; the same bundle again changes nothing.
    ///
    /// # Errors
    /// It is older, or differs at the same sequence.
    pub fn check_replaces(&self, held: &Self) -> Result<(), Rejected> {
        if self.newer_than(held) || self == held {
            return Ok(());
        }
        Err(Rejected {
            name: self.trust_domain.to_string(),
            why: format!(
                "sequence {} is not newer than {}",
                self.sequence, held.sequence
            ),
        })
    }
}

/// The roots of every trust domain, kept apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, Arc<TrustRoots>>,
}

impl TrustBundles {
    /// Puts checked bundles side by side. Of two for one trust domain, the newer one counts; they
    /// are never merged.
    #[must_use]
    pub fn new(bundles: impl IntoIterator<Item = Arc<TrustRoots>>) -> Self {
        let mut all = Self::default();
        for roots in bundles {
            match all.by_domain.get(&roots.trust_domain) {
                Some(held) if !roots.newer_than(held) => {}
                Some(_) | None => {
                    all.by_domain.insert(roots.trust_domain.clone(), roots);
                }
            }
        }
        all
    }

    /// Checks bundles and keeps the good ones; says which were refused, and why.
    pub fn compile<'a>(
        bundles: impl IntoIterator<Item = &'a resource::TrustBundle>,
        read: ReadRoot,
    ) -> (Self, Vec<Rejected>) {
        let mut all = Self::default();
        let mut refused = Vec::new();
        for bundle in bundles {
            let domain: Option<TrustDomain> = bundle.trust_domain.parse().ok();
            let held = domain.and_then(|domain| all.by_domain.get(&domain));
            match TrustRoots::after(held.map(Arc::as_ref), bundle, read) {
                Ok(roots) => {
                    all.by_domain
                        .insert(roots.trust_domain.clone(), Arc::new(roots));
                }
                Err(rejected) => refused.push(rejected),
            }
        }
        (all, refused)
    }

    /// The roots that may vouch for `domain`; nobody else's. `None`: it is not known, which is as
    /// good as not believed.
    #[must_use]
    pub fn roots(&self, domain: &TrustDomain) -> Option<&TrustRoots> {
        self.by_domain.get(domain).map(Arc::as_ref)
    }

    /// The roots by which to check a chain whose leaf claims `id`.
    ///
    /// # Errors
    /// None are known, or none are left.
    pub fn roots_for(&self, id: &SpiffeId) -> Result<&TrustRoots, NotIdentified> {
        self.roots(id.trust_domain())
            .filter(|roots| !roots.roots.is_empty())
            .ok_or_else(|| NotIdentified::UnknownTrustDomain(id.trust_domain().clone()))
    }

    /// All, in the order of their trust domains.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustRoots>> {
        self.by_domain.values()
    }

    /// How many trust domains.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_domain.len()
    }

    /// Is nobody believed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }
}

#[cfg(test)]
mod tests;
