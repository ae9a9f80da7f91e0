//! How is a copy of a request sent elsewhere, without anybody waiting for it?

use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{Endpoint, pick};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::hop::{NextHop, next_hop, reachable};
use isthmus_proxy_core::message::{BodyLength, RequestHead, Version};
use isthmus_proxy_core::route::BackendRef;
use tokio::time::timeout;

use super::Request;
use crate::connect::{self, Hop};
use crate::relay::Meter;
use crate::stream::{Pull, Rx};
use crate::worker::Worker;

/// Copies under way in one worker; beyond, none are made.
const COPIES_MAX: usize = 256;
/// A copy may take as long as this, whatever the service allows: nobody waits for it.
const COPY_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends a copy to each of the backends. Requests with a body are not copied: a copy must not slow
/// the original down, and would have to hold its body. What is answered is read and thrown away.
pub fn send(worker: &Rc<Worker>, mirrors: &[&BackendRef], request: &Request, version: Version) {
    for backend in mirrors {
        let busy = worker.copies.get() >= COPIES_MAX;
        if request.head.body != BodyLength::Empty || !request.head.protocol.is_empty() || busy {
            continue;
        }
        let (copying, backend, head) = (
            Copying::begin(worker),
            (*backend).clone(),
            request.head.clone(),
        );
        tokio::task::spawn_local(async move {
            let copied = timeout(COPY_TIMEOUT, copy(&copying.0, &backend, head, version)).await;
            if let Err(failure) = copied.unwrap_or(Err(Failure::RequestDeadline)) {
                tracing::debug!(service = %backend.service, %failure, "a mirrored request failed");
            }
        });
    }
}

/// Counts as a copy under way until dropped.
struct Copying(Rc<Worker>);

impl Copying {
    fn begin(worker: &Rc<Worker>) -> Self {
        worker.copies.set(worker.copies.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get().saturating_sub(1));
    }
}

async fn copy(
    worker: &Rc<Worker>,
    backend: &BackendRef,
    mut head: RequestHead,
    version: Version,
) -> Result<(), Failure> {
    let key = || backend.service.to_string();
    let found = worker
        .service(key, |s| s.services.lookup_name(&backend.service))
        .await;
    let (snapshot, service) = found.map_err(|_| Failure::InvalidBackend)?;
    let endpoints = service.endpoints.known().ok_or(Failure::EndpointsUnknown)?;
    let can = |e: &Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
    let now = worker.now();
    let endpoint =
        worker.rng(|rng| pick(endpoints, &service.traffic.balance, &can, &[], rng, now))?;
    let target = endpoint
        .target_port(backend.port)
        .ok_or(Failure::NoDestination)?;
    let domain = &worker.shared.config.mesh_domain;
    let hop = next_hop(&endpoint, target, &snapshot.me, &snapshot.gateways, domain)?;
    if !matches!(hop, NextHop::Plain { .. }) {
        head.fields
            .set(b"x-mesh-port", target.to_string().as_bytes());
        if version != Version::Http2 {
            head.fields.set(b"x-mesh-version", b"1");
        }
    }
    let permit = Permit::outbound(snapshot.generation);
    let hop = Hop::Next {
        hop,
        http2: version == Version::Http2,
    };
    let upstream = connect::request(
        worker,
        &permit,
        &hop,
        (&head, true),
        service.traffic.timeouts.connect,
    )
    .await?;
    let meter = Meter::default();
    let mut rx = upstream.rx;
    if let Rx::H1(rx) = &mut rx {
        rx.response(&head.method, &isthmus_proxy_core::http1::Limits::default())
            .await
            .map_err(crate::stream::Broken::upstream)?;
    }
    loop {
        match rx.try_pull(64 * 1024, &mut |data| meter.add(data.len())) {
            Ok(Pull::Data) => {}
            Ok(Pull::Empty) => rx.wait().await.map_err(crate::stream::Broken::upstream)?,
            Ok(Pull::End(_)) => return Ok(()),
            Err(broken) => return Err(broken.upstream()),
        }
    }
}
