//! Stand-in until the merge.
use isthmus_proto::{ids::*, locality::Locality, resource, spiffe::SpiffeId};
use crate::snapshot::Rejected;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::{Arc, atomic::AtomicU64};
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointId(pub u64);
#[derive(Debug, Default)]
pub struct EndpointStats { pub in_flight: AtomicU64 }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health { Healthy, Draining, Unhealthy }
#[derive(Debug)]
pub struct Endpoint { pub id: EndpointId, pub name: WorkloadName, pub service: ServiceName, pub addresses: SmallVec<[IpAddr;2]>, pub network: NetworkId, pub cluster: ClusterId, pub identity: Option<SpiffeId>, pub weight: u32, pub health: Health, pub locality: Locality, pub ports: SmallVec<[(u16,u16);2]>, pub tunnel_port: Option<u16>, pub handle: Option<Arc<str>>, pub stats: Arc<EndpointStats> }
impl Endpoint {
    pub fn compile(e: &resource::Endpoint, stats: Arc<EndpointStats>) -> Result<Self, Rejected> {
        let bad = |why: String| Rejected { name: e.name.clone(), why };
        let name: WorkloadName = e.name.parse().map_err(|x: InvalidName| bad(x.to_string()))?;
        let cluster = name.cluster().parse().map_err(|x: InvalidName| bad(x.to_string()))?;
        Ok(Self { id: EndpointId(0), cluster, service: e.service.parse().map_err(|x: InvalidName| bad(x.to_string()))?, addresses: SmallVec::new(),
            network: e.network.parse().map_err(|x: InvalidName| bad(x.to_string()))?, identity: None, weight: e.weight.unwrap_or(1),
            health: match e.health { 1 => Health::Healthy, 2 => Health::Draining, 3 => Health::Unhealthy, _ => return Err(bad("health is not set".into())) },
            locality: e.locality.as_ref().map(Locality::from).unwrap_or_default(), ports: SmallVec::new(), tunnel_port: None, handle: None, stats, name })
    }
}
#[derive(Debug, Clone)]
pub struct Me { pub cluster: ClusterId, pub network: NetworkId, pub locality: Locality }
#[derive(Debug)]
pub struct EndpointSet { pub endpoints: Vec<Arc<Endpoint>> }
impl EndpointSet { pub fn new(endpoints: Vec<Arc<Endpoint>>, _me: &Me) -> Self { Self { endpoints } } pub fn endpoints(&self) -> &[Arc<Endpoint>] { &self.endpoints } }
