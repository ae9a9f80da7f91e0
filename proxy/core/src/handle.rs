//! Stand-in until the merge.
use isthmus_proto::resource;
use crate::snapshot::Rejected;
use std::sync::Arc;
#[derive(Debug)]
pub struct Export { pub id: u64, pub workload: String }
impl Export { pub fn compile(e: &resource::ExportedEndpoint) -> Result<Self, Rejected> {
    if e.id == 0 { return Err(Rejected { name: e.workload.clone(), why: "id is 0".into() }) }
    Ok(Self { id: e.id, workload: e.workload.clone() }) } }
#[derive(Debug, Default)]
pub struct ExportTable { pub exports: Vec<Arc<Export>> }
impl ExportTable { pub fn new(exports: Vec<Arc<Export>>) -> Self { Self { exports } } }
