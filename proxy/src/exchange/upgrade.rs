//! When does a request turn into a stream of bytes?
//!
//! An HTTP/1.1 upgrade travels through the mesh as an extended CONNECT (RFC 8441) and is restored
//! at the other end: 101 on HTTP/1.1, 200 on HTTP/2. The handshake's own fields
//! (`sec-websocket-key` and its answer) travel as they are.

use isthmus_proxy_core::http1::ResponseContext;
use isthmus_proxy_core::message::{BodyLength, ResponseHead, Version};

use super::{Downstream, Request};
use crate::connect::Upstream;
use crate::relay::Duplex;
use crate::stream::{Rx, Tx};

/// Did the upstream switch protocols?
#[must_use]
pub fn accepted(request: &Request, head: &ResponseHead) -> bool {
    if request.head.protocol.is_empty() {
        return false;
    }
    match head.version {
        Version::Http2 => head.status == 200,
        Version::Http10 | Version::Http11 => head.status == 101,
    }
}

/// Says it in the client's words.
pub fn translate(head: &mut ResponseHead, to: &ResponseContext, protocol: &[u8]) {
    match to.version {
        Version::Http2 => {
            head.status = 200;
            head.protocol = Vec::new();
            head.body = BodyLength::Marked;
        }
        Version::Http10 | Version::Http11 => {
            head.status = 101;
            head.protocol = protocol.to_vec();
            head.body = BodyLength::Empty;
        }
    }
    head.fields.remove(b"content-length");
}

/// Both sides as they are from here on: bytes, both ways.
#[must_use]
pub fn halves(down: Downstream, upstream: Upstream) -> (Duplex, Duplex) {
    let left = bytes(down.rx, down.answer.tx);
    (left, bytes(upstream.rx, upstream.tx))
}

/// A connection without messages from here on; a stream stays as it is.
fn bytes(rx: Rx, tx: Tx) -> Duplex {
    let rx = match rx {
        Rx::H1(rx) => Rx::Tcp(rx.into_tcp()),
        other => other,
    };
    let tx = match tx {
        Tx::H1(tx) => Tx::Tcp(tx.into_tcp()),
        other => other,
    };
    Duplex { rx, tx }
}
