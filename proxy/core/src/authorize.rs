//! Stand-in until the merge.
use isthmus_proto::resource;
use crate::snapshot::{Generation, Rejected};
use std::sync::Arc;
#[derive(Debug)]
pub struct Policy { name: Arc<str>, pub invalid: String }
impl Policy {
    pub fn compile(p: &resource::AccessPolicy) -> Result<Self, Rejected> {
        if p.invalid.is_empty() && p.action == 0 { return Err(Rejected { name: p.name.clone(), why: "action is not set".into() }) }
        Ok(Self { name: p.name.as_str().into(), invalid: p.invalid.clone() })
    }
    pub fn decode(body: &[u8]) -> Result<Self, Rejected> {
        let p: resource::AccessPolicy = prost::Message::decode(body).map_err(|e| Rejected { name: String::new(), why: format!("{e}") })?;
        Self::compile(&p)
    }
    pub fn refusing(name: &str, why: &str) -> Self { Self { name: name.into(), invalid: why.into() } }
    pub fn invalid(&self) -> Option<&str> { Some(&*self.invalid).filter(|i| !i.is_empty()) }
    pub fn name(&self) -> &str { &self.name }
}
#[derive(Debug, Clone)]
pub struct PolicyTable { pub policies: Vec<Arc<Policy>>, pub generation: Generation }
impl PolicyTable { pub fn policies(&self) -> &[Arc<Policy>] { &self.policies }
 pub fn new(policies: Vec<Arc<Policy>>, generation: Generation) -> Self { Self { policies, generation } } }
#[derive(Debug, Clone)]
pub enum PolicySet { Unknown, Known(PolicyTable) }
