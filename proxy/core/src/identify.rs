//! Stand-in until the merge.
use isthmus_proto::{resource, spiffe::{SpiffeId, TrustDomain}};
use crate::snapshot::Rejected;
use std::collections::BTreeMap;
#[derive(Debug, Clone)]
pub struct PeerIdentity { pub id: SpiffeId }
#[derive(Debug, Clone)]
pub struct TrustRoots { pub domain: TrustDomain, pub roots: Vec<bytes::Bytes> }
impl TrustRoots { pub fn compile(b: &resource::TrustBundle) -> Result<Self, Rejected> {
    Ok(Self { domain: b.trust_domain.parse().map_err(|e: isthmus_proto::ids::InvalidName| Rejected { name: b.trust_domain.clone(), why: e.to_string() })?, roots: b.roots.clone() }) } }
#[derive(Debug, Default)]
pub struct TrustBundles { by: BTreeMap<TrustDomain, TrustRoots> }
impl TrustBundles {
    pub fn compile<'a>(bundles: impl Iterator<Item = &'a resource::TrustBundle>) -> (Self, Vec<Rejected>) {
        let mut by = BTreeMap::new(); let mut bad = Vec::new();
        for b in bundles { match TrustRoots::compile(b) { Ok(r) => { by.insert(r.domain.clone(), r); }, Err(e) => bad.push(e) } }
        (Self { by }, bad)
    }
    pub fn roots(&self, td: &TrustDomain) -> Option<&TrustRoots> { self.by.get(td) }
}
