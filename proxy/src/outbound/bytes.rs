//! How does a connection get to an endpoint of a service, as bytes?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{Attempt, Endpoint, EndpointId, Outcome, pick};
use isthmus_proxy_core::failure::{Failure, Retry};
use isthmus_proxy_core::guard::Ticket;
use isthmus_proxy_core::hop::{next_hop, reachable};
use smallvec::SmallVec;

use super::Outbound;
use crate::connect::{self, Hop};
use crate::finish::Failed;
use crate::relay::Duplex;

/// Endpoints tried before a connection has failed: nothing was sent, so trying again is safe.
const TRIES: usize = 3;

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Opened {
    /// The far side.
    pub right: Duplex,
    /// It is in flight until this is dropped, and counts against the service's limit.
    pub attempt: (Attempt, Ticket),
    /// Which pod.
    pub endpoint: Arc<Endpoint>,
    /// Which kind of hop.
    pub hop: &'static str,
    /// The route that chose the service.
    pub route: String,
}

/// Chooses an endpoint and connects to it.
pub(super) async fn open(side: &Outbound) -> Result<Opened, Failed> {
    let worker = &side.worker;
    let (snapshot, service, port, route) = side.backend().await?;
    let begun = service.guard.begin(&service.traffic, worker.now());
    let ticket = begun.map_err(|f| Failed::new(f, format!("{}: a circuit limit", service.name)))?;
    let permit = Permit::outbound(snapshot.generation);
    let mut tried: SmallVec<[EndpointId; 4]> = SmallVec::new();
    let mut failed = Failed::new(Failure::EndpointsUnknown, format!("endpoints of {}", service.name));
    let Some(endpoints) = service.endpoints.known() else { return Err(failed) };
    while tried.len() < TRIES {
        let now = worker.now();
        let can = |e: &Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
        let picked = worker.rng(|rng| pick(endpoints, &service.traffic.balance, &can, &tried, rng, now));
        let endpoint = picked.map_err(|f| Failed::new(f, format!("endpoints of {}", service.name)))?;
        if tried.contains(&endpoint.id) {
            break;
        }
        tried.push(endpoint.id);
        let Some(target) = endpoint.target_port(port) else {
            return Err(Failed::new(Failure::NoDestination, format!("{} has no port {port}", service.name)));
        };
        let domain = &worker.shared.config.mesh_domain;
        let hop = next_hop(&endpoint, target, &snapshot.me, &snapshot.gateways, domain)
            .map_err(|f| Failed::new(f, format!("no way to {}", endpoint.name)))?;
        let hop = Hop::Next { hop, http2: false };
        let Some(address) = endpoint.addresses.first() else { continue };
        let address = SocketAddr::new(*address, target);
        let begun = Instant::now();
        let mut attempt = endpoint.stats.begin(now);
        let opened = connect::bytes(worker, &permit, &hop, address, service.traffic.timeouts.connect).await;
        let outcome = opened.as_ref().map_or_else(|f| Outcome::of_failure(*f), |_| Outcome::Success);
        attempt.record(outcome, begun.elapsed(), worker.now(), &service.traffic.outlier);
        match opened {
            Ok(right) => {
                let attempt = (attempt, ticket);
                return Ok(Opened { right, attempt, endpoint, hop: hop.name(), route });
            }
            Err(failure) => {
                failed = Failed::new(failure, format!("connect to {} by {}", endpoint.name, hop.name()));
                if failure.retry() == Retry::Never {
                    break;
                }
            }
        }
    }
    Err(failed)
}
