//! How does a connection get to an endpoint of a service, as bytes?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{Attempt, Call, Endpoint, EndpointId, Outcome, pick};
use isthmus_proxy_core::failure::{Failure, Retry};
use isthmus_proxy_core::guard::Ticket;
use isthmus_proxy_core::hop::{next_hop, reachable};
use isthmus_proxy_core::snapshot::{Service, Snapshot};
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
pub(super) async fn open(side: &Outbound, server_name: Option<&str>) -> Result<Opened, Failed> {
    let worker = &side.worker;
    let (snapshot, service, port, route) = side.backend(server_name).await?;
    let begun = service.guard.begin(&service.traffic, worker.now());
    let ticket = begun.map_err(|f| Failed::new(f, format!("{}: a circuit limit", service.name)))?;
    let mut tried: SmallVec<[EndpointId; 4]> = SmallVec::new();
    loop {
        let chosen = choose(side, (&snapshot, &service), (port, &tried));
        let endpoint = chosen.map_err(|failure| {
            let mut failed = Failed::new(failure, format!("endpoints of {}", service.name));
            if failure == Failure::NoHealthyEndpoint {
                let (domain, now) = (&worker.shared.config.mesh_domain, worker.now());
                failed.endpoints = worker.looks.look((&snapshot, &service), port, domain, now);
            }
            failed
        })?;
        tried.push(endpoint.id);
        let (attempt, opened) = try_one(side, (&snapshot, &service), &endpoint, port).await?;
        match opened {
            Ok((right, hop)) => {
                let attempt = (attempt, ticket);
                return Ok(Opened {
                    right,
                    attempt,
                    endpoint,
                    hop,
                    route,
                });
            }
            Err(failed) => {
                // Another one, as long as there is one that was not tried.
                let again = failed.failure.retry() != Retry::Never && tried.len() < TRIES;
                let next = choose(side, (&snapshot, &service), (port, &tried));
                if !again || next.is_ok_and(|next| tried.contains(&next.id)) {
                    return Err(failed);
                }
            }
        }
    }
}

fn choose(
    side: &Outbound,
    (snapshot, service): (&Snapshot, &Service),
    (port, tried): (u16, &[EndpointId]),
) -> Result<Arc<Endpoint>, Failure> {
    let endpoints = service.endpoints.known().ok_or(Failure::EndpointsUnknown)?;
    let now = side.worker.now();
    let can = |e: &Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
    let policy = &service.traffic.balance;
    side.worker
        .rng(|rng| pick(endpoints, policy, &can, &Call { port, tried }, rng, now))
}

/// One try. The outer error ends them all: another endpoint would not help.
async fn try_one(
    side: &Outbound,
    (snapshot, service): (&Snapshot, &Service),
    endpoint: &Endpoint,
    port: u16,
) -> Result<(Attempt, Result<(Duplex, &'static str), Failed>), Failed> {
    let worker = &side.worker;
    let no_port = || format!("{} has no port {port}", service.name);
    let target = endpoint
        .target_port(port)
        .ok_or_else(|| Failed::new(Failure::NoDestination, no_port()))?;
    let domain = &worker.shared.config.mesh_domain;
    let hop = next_hop(endpoint, target, &snapshot.me, &snapshot.gateways, domain)
        .map_err(|f| Failed::new(f, format!("no way to {}", endpoint.name)))?;
    let hop = Hop::Next { hop, http2: false };
    let address = endpoint
        .addresses
        .first()
        .map(|address| SocketAddr::new(*address, target))
        .ok_or_else(|| Failed::new(Failure::NoHealthyEndpoint, endpoint.name.to_string()))?;
    let waiting = service.guard.wait(&service.traffic);
    let _waiting =
        waiting.map_err(|f| Failed::new(f, format!("{}: a circuit limit", service.name)))?;
    let begun = Instant::now();
    let mut attempt = endpoint.stats.begin(worker.now());
    let permit = Permit::outbound(snapshot.generation);
    let limit = service.traffic.timeouts.connect;
    let opened = connect::bytes(worker, &permit, &hop, address, limit).await;
    let outcome = opened
        .as_ref()
        .map_or_else(|why| Outcome::of_failure(why.failure), |_| Outcome::Success);
    attempt.record(
        outcome,
        begun.elapsed(),
        worker.now(),
        &service.traffic.outlier,
    );
    let name = hop.name();
    let opened = opened
        .map(|right| (right, name))
        .map_err(|why| Failed::not_opened(why, format!("connect to {} by {name}", endpoint.name)));
    Ok((attempt, opened))
}
