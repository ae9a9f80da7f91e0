//! Stand-in until the merge.
use crate::failure::Failure;
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath { full: String, query: Option<usize> }
impl CanonicalPath {
    pub fn as_str(&self) -> &str { let end = self.query.unwrap_or(self.full.len()); self.full.get(..end).unwrap_or("") }
    pub fn query(&self) -> Option<&str> { self.query.and_then(|at| self.full.get(at + 1..)) }
    pub fn full(&self) -> &str { &self.full }
}
pub fn path(raw: &[u8]) -> Result<CanonicalPath, Failure> {
    let full = String::from_utf8(raw.to_vec()).map_err(|_| Failure::BadRequest("path"))?;
    let query = full.find('?');
    Ok(CanonicalPath { full, query })
}
