//! What does a client speak where its port does not say it, and whom does it ask for?

use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_proto::resource::Protocol;
use isthmus_proxy_core::detect::Detected;
use tokio::time::timeout;

use super::{Outbound, Said, bytes};
use crate::detect::{FIRST_BYTE_TIMEOUT, detect, hello};
use crate::hints::Hint;
use crate::race;
use crate::worker::Accepted;

/// From a TLS client's first bytes to the end of its ClientHello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

impl Outbound {
    pub(super) fn reads_names(&self) -> bool {
        self.service.routes.reads_server_name(self.port)
    }

    /// Routes choose by the name that a TLS client asks for: here it is the client that speaks first.
    pub(super) async fn by_name(self: Rc<Self>, conn: Accepted, declared: Protocol) {
        let Some((mut bytes, kind)) = detect(&conn.io, FIRST_BYTE_TIMEOUT).await else {
            return self.closing("tcp", &conn).silent();
        };
        match kind {
            Detected::Http1 if declared == Protocol::Unspecified => self.http1(conn, bytes).await,
            Detected::Http2 if declared == Protocol::Unspecified => self.http2(conn, bytes).await,
            Detected::Http1 | Detected::Http2 | Detected::Tls | Detected::Opaque => {
                let hello = timeout(HELLO_TIMEOUT, hello(&conn.io, &mut bytes)).await;
                // What names nobody, or in no way that we accept, goes where no name is asked for.
                let server_name = hello.ok().and_then(Result::ok).and_then(|h| h.server_name);
                let said = Said { bytes, server_name };
                self.relay(conn, said, None).await;
            }
        }
    }

    /// Nothing is declared: the client's first bytes and the server's race.
    pub(super) async fn race(self: Rc<Self>, conn: Accepted) {
        let port = (self.service.name.clone(), self.port);
        let (hints, now) = (&self.worker.hints, Instant::now());
        let hint = hints.get(&port, now);
        if hint == Some(Hint::Bytes) {
            return self.relay(conn, Said::default(), None).await;
        }
        let silence = self.service.traffic.timeouts.idle_tcp;
        let opening = bytes::open(&self, None);
        let first = race::first(&conn.io, (hint, silence), opening, |o| &mut o.right.rx).await;
        let (bytes, opened) = match first {
            race::First::Client {
                bytes,
                kind: kind @ (Detected::Http1 | Detected::Http2),
                opened,
            } => {
                hints.set(port, Hint::Http, Instant::now());
                drop(opened);
                return match kind {
                    Detected::Http2 => self.http2(conn, bytes).await,
                    Detected::Http1 | Detected::Tls | Detected::Opaque => {
                        self.http1(conn, bytes).await;
                    }
                };
            }
            race::First::Client { bytes, opened, .. } => (bytes, opened),
            race::First::Server { opened, always } => {
                if always {
                    hints.set(port, Hint::Bytes, Instant::now());
                }
                (Vec::new(), Some(Ok(opened)))
            }
            race::First::Unreachable(failed) => (Vec::new(), Some(Err(failed))),
            race::First::Nobody => return self.closing("tcp", &conn).silent(),
        };
        let said = Said {
            bytes,
            server_name: None,
        };
        self.relay(conn, said, opened).await;
    }
}
