//! Stand-in until the merge.
use isthmus_proto::{ids::*, resource};
use crate::{balance::EndpointStats, snapshot::Rejected};
use std::sync::Arc;
#[derive(Debug)]
pub struct Gateway { pub name: String, pub cluster: ClusterId, pub network: NetworkId, pub stats: Arc<EndpointStats> }
impl Gateway { pub fn compile(g: &resource::Gateway, stats: Arc<EndpointStats>) -> Result<Self, Rejected> {
    let bad = |x: InvalidName| Rejected { name: g.name.clone(), why: x.to_string() };
    Ok(Self { name: g.name.clone(), cluster: g.cluster.parse().map_err(bad)?, network: g.network.parse().map_err(bad)?, stats }) } }
#[derive(Debug, Default)]
pub struct GatewayTable { pub gateways: Vec<Arc<Gateway>> }
impl GatewayTable { pub fn new(gateways: impl IntoIterator<Item = Arc<Gateway>>) -> Self { Self { gateways: gateways.into_iter().collect() } } pub fn all(&self) -> &[Arc<Gateway>] { &self.gateways } }
