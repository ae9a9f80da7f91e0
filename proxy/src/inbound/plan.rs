//! How is a request sent to the application beside us?

use std::rc::Rc;
use std::time::Duration;

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::{RequestHead, ResponseHead, Version, is_mesh_field};
use isthmus_proxy_core::snapshot::Snapshot;

use super::CONNECT_TIMEOUT;
use crate::connect::{self, Hop, Upstream};
use crate::exchange::Plan;
use crate::exchange::reply::Refusal;
use crate::worker::Worker;

/// What a proxy says about a request beside the request itself.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) port: Option<u16>,
    was_http1: bool,
}

impl Asked {
    /// Only peers of the mesh are listened to.
    pub(super) fn read(head: &RequestHead, meshed: bool) -> Self {
        let text = |name: &[u8]| {
            head.fields
                .get(name)
                .filter(|_| meshed)
                .and_then(|v| std::str::from_utf8(v).ok())
        };
        let port = text(b"x-mesh-port")
            .and_then(|v| v.parse().ok())
            .filter(|port| *port != 0);
        let was_http1 = text(b"x-mesh-version") == Some("1") || head.version != Version::Http2;
        Self { port, was_http1 }
    }

    /// Does the application get HTTP/2? What its port declares, else what the client spoke.
    pub(super) fn wants_http2(&self, snapshot: &Snapshot, port: u16, head: &RequestHead) -> bool {
        let declared = snapshot
            .own
            .as_ref()
            .map_or(Protocol::Unspecified, |o| o.protocol_of(port));
        match declared {
            Protocol::Http2 | Protocol::Grpc => head.protocol.is_empty() || !self.was_http1,
            Protocol::Http1 => false,
            Protocol::Unspecified | Protocol::Tcp | Protocol::Tls => !self.was_http1,
        }
    }
}

/// To the application beside us: one place, so another try only where a kept connection had died.
pub(super) struct ToApplication<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) permit: Permit,
    pub(super) hop: Hop,
    pub(super) head: &'a RequestHead,
    /// Without a byte either way.
    pub(super) idle: Duration,
    /// A proxy of the mesh asks.
    pub(super) by_peer: bool,
    /// A second try was made.
    pub(super) again: bool,
}

impl Plan for ToApplication<'_> {
    fn head(&self) -> &RequestHead {
        self.head
    }

    async fn open(&mut self, end: bool) -> Result<Upstream, Failure> {
        connect::request(
            self.worker,
            &self.permit,
            &self.hop,
            (self.head, end),
            CONNECT_TIMEOUT,
        )
        .await
    }

    fn answered(&mut self, _: &ResponseHead, _: bool, _: Option<Box<Refusal>>) -> bool {
        false
    }

    fn failed(&mut self, failure: Failure, reused: bool) -> bool {
        let stale = reused && failure == Failure::UpstreamReset && self.head.method.is_idempotent();
        let again = !self.again && (stale || failure == Failure::UpstreamRefused);
        self.again |= again;
        again
    }

    fn respond(&mut self, head: &mut ResponseHead) {
        // An application can't speak for the mesh.
        head.fields.retain(|name, _| !is_mesh_field(name));
    }

    fn asked_by_peer(&self) -> bool {
        self.by_peer
    }

    fn try_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_timeout(&self) -> Option<Duration> {
        None
    }

    fn idle_timeout(&self) -> Duration {
        self.idle
    }
}
