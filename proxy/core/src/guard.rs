//! Stand-in until the merge.
use isthmus_proto::resource;
use crate::snapshot::Rejected;
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPolicy { pub raw: resource::TrafficPolicy }
impl TrafficPolicy { pub fn compile(t: Option<&resource::TrafficPolicy>) -> Result<Self, Rejected> { Ok(Self { raw: t.cloned().unwrap_or_default() }) } }
#[derive(Debug, Default)]
pub struct ServiceGuard;
