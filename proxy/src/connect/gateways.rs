//! Through which gateway is another network reached, and what is each remembered for?

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_proto::spiffe::SpiffeId;
use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{Attempt, OutlierPolicy};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::hop::{Gateway, GatewayAddress, Tried, pick_gateway};
use isthmus_proxy_core::snapshot::Hosts;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::{dial, handshake};
use crate::h2::Session;
use crate::worker::Worker;

/// Gateways tried before a connection has failed.
const GATEWAY_TRIES: usize = 2;

/// A gateway that was tried: what came of it, and how long that took.
struct Try {
    attempt: Attempt,
    tried: Tried,
    took: Duration,
}

/// A tunnel through one of the gateways, the better of two; if nothing comes of it, through another.
pub(super) async fn through_gateway(
    worker: &Rc<Worker>,
    permit: &Permit,
    gateways: &[Arc<Gateway>],
    peer: (&str, &SpiffeId),
    limit: Duration,
) -> Result<Rc<Session>, Failure> {
    let mut result = Err(Failure::NoHealthyEndpoint);
    let mut left: SmallVec<[Arc<Gateway>; 4]> = gateways.iter().cloned().collect();
    let mut tries: SmallVec<[Try; GATEWAY_TRIES]> = SmallVec::new();
    for _ in 0..GATEWAY_TRIES {
        let now = worker.now();
        let Some(gateway) = worker.rng(|rng| pick_gateway(&left, rng, now)) else {
            break;
        };
        // The next try takes another one, be it ejected: it may be back.
        left.retain(|other| !Arc::ptr_eq(other, &gateway));
        let (begun, attempt) = (Instant::now(), gateway.stats.begin(now));
        let (tried, tunnel) = one(worker, permit, &gateway, peer, limit).await;
        result = tunnel;
        let took = begun.elapsed();
        tries.push(Try {
            attempt,
            tried,
            took,
        });
        if tried == Tried::Answered {
            break;
        }
    }
    remember(worker, tries);
    result
}

async fn one(
    worker: &Rc<Worker>,
    permit: &Permit,
    gateway: &Gateway,
    (sni, identity): (&str, &SpiffeId),
    limit: Duration,
) -> (Tried, Result<Rc<Session>, Failure>) {
    let io = match dial_any(worker, permit, &gateway.addresses, limit).await {
        Ok(io) => io,
        Err(why) => return (Tried::Unreached, Err(why)),
    };
    let result = handshake(worker, io, sni, identity, limit).await;
    match result {
        Ok(_) | Err(Failure::IdentityMismatch) => (Tried::Answered, result),
        Err(_) => (Tried::Silent, result),
    }
}

fn remember(worker: &Worker, tries: SmallVec<[Try; GATEWAY_TRIES]>) {
    let answered = tries.iter().any(|one| one.tried == Tried::Answered);
    for one in tries {
        if let Some(outcome) = one.tried.outcome(answered) {
            let policy = OutlierPolicy::default();
            let now = worker.now();
            one.attempt.finish(outcome, one.took, now, &policy);
        }
    }
}

async fn dial_any(
    worker: &Rc<Worker>,
    permit: &Permit,
    addresses: &[GatewayAddress],
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let source = worker.shared.config.source;
    // A name may lead where an address may not.
    let hosts = Hosts::beside(&worker.shared.config.addresses);
    let mut failure = Failure::ConnectFailed;
    for address in addresses {
        let resolved: Vec<SocketAddr> = match address {
            GatewayAddress::Ip(address) => vec![*address],
            GatewayAddress::Hostname(name, port) => worker.names.lookup(name, *port, limit).await,
        };
        for address in resolved.into_iter().filter(|a| hosts.check(a.ip()).is_ok()) {
            match dial(permit, address, source, limit).await {
                Ok(io) => return Ok(io),
                Err(why) => failure = why,
            }
        }
    }
    Err(failure)
}
