//! How is a copy of a request sent elsewhere, without anybody waiting for it?

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{Call, Endpoint, pick};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::hop::{NextHop, next_hop, reachable};
use isthmus_proxy_core::http1::Limits;
use isthmus_proxy_core::message::{BodyLength, RequestHead, Version};
use isthmus_proxy_core::route::BackendRef;
use tokio::time::timeout;

use super::Request;
use super::feed::send_whole;
use crate::connect::{self, Hop, Upstream};
use crate::relay::{Meter, unless};
use crate::stream::{Broken, Pull, Rx};
use crate::worker::Worker;

/// Copies under way in one worker; beyond, none are made.
const COPIES_MAX: usize = 256;
/// A copy may take as long as this, whatever the service allows: nobody waits for it.
const COPY_TIMEOUT: Duration = Duration::from_secs(15);
/// One read of an answer that is thrown away.
const READ_BYTES: usize = 64 * 1024;

/// Sends a copy to each of the backends, at once if the request has no body. The copies of one with a
/// body are given back: they are sent when it has ended, so that they can't slow the original down.
/// What is answered is read and thrown away. An upgrade is not copied: nobody would speak.
pub fn send(
    worker: &Rc<Worker>,
    mirrors: &[&BackendRef],
    request: &Request,
    version: Version,
) -> Option<Box<Copies>> {
    if mirrors.is_empty() {
        return None;
    }
    let copies = Copies {
        worker: Rc::clone(worker),
        backends: mirrors.iter().map(|backend| (*backend).clone()).collect(),
        head: request.head.clone(),
        version,
    };
    if !request.head.protocol.is_empty() {
        return None;
    }
    if request.head.body != BodyLength::Empty {
        return Some(Box::new(copies));
    }
    copies.send(&[]);
    None
}

/// Copies of a request that are not sent yet. Dropped before, they are counted as not made.
#[derive(Debug)]
pub struct Copies {
    worker: Rc<Worker>,
    backends: Vec<BackendRef>,
    head: RequestHead,
    version: Version,
}

impl Copies {
    /// Sends them, with this body.
    pub(super) fn send(mut self, body: &[u8]) {
        while self.worker.copies.get() < COPIES_MAX
            && let Some(backend) = self.backends.pop()
        {
            let copy = Copy {
                copying: Copying::begin(&self.worker),
                head: self.head.clone(),
                version: self.version,
                body: body.into(),
            };
            tokio::task::spawn_local(async move {
                let copied = timeout(COPY_TIMEOUT, copy.run(&backend)).await;
                if let Err(failure) = copied.unwrap_or(Err(Failure::RequestDeadline)) {
                    tracing::debug!(service = %backend.service, %failure, "a mirrored request failed");
                }
            });
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let left = u64::try_from(self.backends.len()).unwrap_or(u64::MAX);
        let metrics = &self.worker.shared.telemetry.metrics;
        metrics.mirrors_dropped.inc_by(left);
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

/// One copy on its way.
struct Copy {
    copying: Copying,
    head: RequestHead,
    version: Version,
    body: Box<[u8]>,
}

impl Copy {
    async fn run(mut self, backend: &BackendRef) -> Result<(), Failure> {
        let upstream = self.open(backend).await?;
        let (mut rx, mut tx) = (upstream.rx, upstream.tx);
        let sending = async {
            if !self.body.is_empty() || self.head.body != BodyLength::Empty {
                // A server may answer before it has heard all; its answer ends the copy.
                let _ = send_whole(&mut tx, &self.body).await;
            }
            pending::<Infallible>().await
        };
        match unless(pin!(read_away(&mut rx, &self.head)), pin!(sending)).await {
            Ok(read) => read,
            Err(never) => match never {},
        }
    }

    /// Chooses an endpoint and sends the head there.
    async fn open(&mut self, backend: &BackendRef) -> Result<Upstream, Failure> {
        let worker = &self.copying.0;
        let key = || backend.service.to_string();
        let found = worker
            .service(key, |s| s.services.lookup_name(&backend.service))
            .await;
        let (snapshot, service) = found.map_err(|_| Failure::InvalidBackend)?;
        service.as_backend(backend.port)?;
        let endpoints = service.endpoints.known().ok_or(Failure::EndpointsUnknown)?;
        let can = |e: &Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
        let now = worker.now();
        let (policy, port) = (&service.traffic.balance, backend.port);
        let call = Call { port, tried: &[] };
        let endpoint = worker.rng(|rng| pick(endpoints, policy, &can, &call, rng, now))?;
        let target = endpoint
            .target_port(backend.port)
            .ok_or(Failure::NoDestination)?;
        let domain = &worker.shared.config.mesh_domain;
        let hop = next_hop(&endpoint, target, &snapshot.me, &snapshot.gateways, domain)?;
        let was_http1 = self.version != Version::Http2;
        // Nobody waits to be told to go on: the body is there.
        self.head.expects_continue = false;
        let fields = &mut self.head.fields;
        fields.retain(|name, _| name != b"expect");
        if !matches!(hop, NextHop::Plain { .. }) {
            fields.set(b"x-mesh-port", target.to_string().as_bytes());
            if was_http1 {
                fields.set(b"x-mesh-version", b"1");
            }
        }
        let permit = Permit::outbound(snapshot.generation);
        let http2 = service.speaks_http2(backend.port, was_http1);
        let hop = Hop::Next { hop, http2 };
        let end = self.head.body == BodyLength::Empty;
        let limit = service.traffic.timeouts.connect;
        connect::request(worker, &permit, &hop, (&self.head, end), limit).await
    }
}

/// Reads an answer to its end.
async fn read_away(rx: &mut Rx, head: &RequestHead) -> Result<(), Failure> {
    if let Rx::H1(rx) = rx {
        rx.response(&head.method, &Limits::default())
            .await
            .map_err(Broken::upstream)?;
    }
    let meter = Meter::default();
    loop {
        match rx.try_pull(READ_BYTES, &mut |data| meter.add(data.len())) {
            Ok(Pull::Data) => {}
            Ok(Pull::Empty) => rx.wait().await.map_err(Broken::upstream)?,
            Ok(Pull::End(_)) => return Ok(()),
            Err(broken) => return Err(broken.upstream()),
        }
    }
}
