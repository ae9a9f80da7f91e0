//! When does a request turn into a stream of bytes?
//!
//! An HTTP/1.1 upgrade travels through the mesh as an extended CONNECT (RFC 8441) and is restored
//! at the other end: 101 on HTTP/1.1, 200 on HTTP/2. The handshake's own fields
//! (`sec-websocket-key` and its answer) travel as they are.
//!
//! A server may refuse by answering the request, also with 200. On HTTP/2 any 2xx would open the
//! stream (RFC 8441 §5), so there such an answer goes under 501; the caller's sidecar is told the
//! status that it had.

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http1::ResponseContext;
use isthmus_proxy_core::message::{BodyLength, RequestHead, ResponseHead, Version};

use super::Downstream;
use crate::connect::Upstream;
use crate::relay::Duplex;
use crate::stream::{Rx, Tx};

/// Between proxies: the status of an answer that did not switch protocols, where HTTP/2 would take
/// it for a switch.
const STATUS_FIELD: &[u8] = b"x-mesh-status";
/// ... and under which status it travels (RFC 9220 §3: a protocol that is not supported).
const REFUSED: u16 = 501;
const UNASKED: &str = "101 that nobody asked for, RFC 9110 §7.8";

/// What came of asking for another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// None was asked for.
    Unasked,
    /// Bytes follow, both ways.
    Accepted,
    /// The answer is an ordinary one.
    Refused,
}

/// Did the upstream switch protocols? An answer that a proxy of the mesh (`peer`) had to disguise
/// gets its status back.
///
/// # Errors
/// It did without being asked.
pub fn read(asked: &RequestHead, head: &mut ResponseHead, peer: bool) -> Result<Switch, Failure> {
    if asked.protocol.is_empty() {
        return match head.status {
            101 => Err(Failure::UpstreamProtocol(UNASKED)),
            _ => Ok(Switch::Unasked),
        };
    }
    let said = head.fields.get(STATUS_FIELD).and_then(status);
    if head.fields.remove(STATUS_FIELD)
        && peer
        && head.status == REFUSED
        && let Some(said) = said
    {
        head.status = said;
        return Ok(Switch::Refused);
    }
    let accepted = match head.version {
        Version::Http2 => is_success(head.status),
        Version::Http10 | Version::Http11 => head.status == 101,
    };
    Ok(if accepted {
        Switch::Accepted
    } else {
        Switch::Refused
    })
}

/// Says a refusal in the client's words. `peer`: the client is a proxy of the mesh, and is told the
/// status that the answer had.
pub fn refuse(head: &mut ResponseHead, to: &ResponseContext, peer: bool) {
    if to.version != Version::Http2 || !is_success(head.status) {
        return;
    }
    if peer {
        let said = head.status.to_string();
        head.fields.push(STATUS_FIELD, said.as_bytes());
    }
    head.status = REFUSED;
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Only a success had to be disguised.
fn status(value: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(value).ok()?;
    let status = text.parse().ok()?;
    (is_success(status) && text.len() == 3).then_some(status)
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

#[cfg(test)]
mod tests {
    use isthmus_proxy_core::message::Fields;

    use super::*;
    use isthmus_proxy_core::message::Method;

    fn asking_for(protocol: &[u8]) -> RequestHead {
        RequestHead {
            method: Method::Get,
            version: Version::Http11,
            https: false,
            authority: b"cart".to_vec(),
            path: b"/".to_vec(),
            protocol: protocol.to_vec(),
            fields: Fields::default(),
            body: BodyLength::Empty,
            keep_alive: true,
            expects_continue: false,
        }
    }

    fn answer(version: Version, status: u16, said: Option<&str>) -> ResponseHead {
        let mut head = ResponseHead::new(status, BodyLength::Empty);
        head.version = version;
        if let Some(said) = said {
            head.fields.push(STATUS_FIELD, said.as_bytes());
        }
        head
    }

    #[test]
    fn a_refusal_keeps_its_status_between_proxies_and_opens_nothing() {
        let (asked, client) = (asking_for(b"foo"), asking_for(b"foo"));
        for said in [200, 204, 299, 302, 426, 501, 503] {
            let mut head = answer(Version::Http11, said, None);
            assert_eq!(read(&asked, &mut head, false), Ok(Switch::Refused));
            let to = |version| ResponseContext {
                version,
                method: Method::Connect,
            };
            let mut foreign = head.clone();
            refuse(&mut foreign, &to(Version::Http2), false);
            assert!(!is_success(foreign.status) && foreign.fields.is_empty());
            refuse(&mut head, &to(Version::Http2), true);
            assert!(!is_success(head.status), "{said}");
            head.version = Version::Http2;
            assert_eq!(read(&client, &mut head, true), Ok(Switch::Refused));
            refuse(&mut head, &to(Version::Http11), false);
            assert_eq!((head.status, head.fields.len()), (said, 0));
        }
    }

    #[test]
    fn only_a_peer_is_believed_and_only_about_a_refusal() {
        let asked = asking_for(b"foo");
        let read = |version, status, said, peer| {
            let mut head = answer(version, status, Some(said));
            let switch = read(&asked, &mut head, peer).unwrap();
            assert!(head.fields.is_empty(), "nobody else is told");
            (switch, head.status)
        };
        let h2 = Version::Http2;
        assert_eq!(read(h2, 501, "200", false), (Switch::Refused, 501));
        assert_eq!(read(h2, 200, "204", true), (Switch::Accepted, 200));
        for said in ["", "101", "403", "99999", "+200", "x"] {
            assert_eq!(read(h2, 501, said, true), (Switch::Refused, 501), "{said}");
        }
    }

    #[test]
    fn who_switches_unasked_has_broken_the_protocol() {
        let mut head = answer(Version::Http11, 101, None);
        let plain = asking_for(b"");
        assert_eq!(
            read(&plain, &mut head, false),
            Err(Failure::UpstreamProtocol(UNASKED))
        );
        let mut head = answer(Version::Http2, 200, None);
        assert_eq!(read(&plain, &mut head, true), Ok(Switch::Unasked));
    }
}
