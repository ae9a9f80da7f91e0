//! Which one host and port does this authority name?

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::failure::Failure;

/// Fixed by DNS (RFC 1035 §2.3.4), in text without the root's dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// What `http` stands for. The HTTP that a mesh can read is `http`.
const DEFAULT_PORT: u16 = 80;

/// A host with, perhaps, a port, in its only form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// A name in lower case without the root's dot, an IPv4 address, or an IPv6 address in
    /// brackets (RFC 5952).
    pub host: String,
    /// The port; `None` where none was given, or 80.
    pub port: Option<u16>,
}

impl Authority {
    /// Does it stand there in its only form already?
    #[must_use]
    pub fn is(&self, raw: &[u8]) -> bool {
        match (raw.strip_prefix(self.host.as_bytes()), self.port) {
            (Some(b""), None) => true,
            // A port has one form only, or it would have been refused.
            (Some([b':', port @ ..]), Some(own)) => read_port(port) == Ok(own),
            _ => false,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Brings `Host`, `:authority` or the authority of a URI into its only form.
///
/// # Errors
/// `BadRequest` for user information, a list, a port that is no number from 1 to 65535, and
/// whatever is no DNS name, IPv4 address in four decimal parts, or IPv6 address in brackets.
pub fn authority(raw: &[u8]) -> Result<Authority, Failure> {
    let parts = parse(raw).map_err(Failure::BadRequest)?;
    let host = match parts.host {
        Host::Name(name) => String::from_utf8_lossy(name).to_ascii_lowercase(),
        Host::V4(address) => address.to_string(),
        Host::V6(address) => format!("[{address}]"),
    };
    Ok(Authority {
        host,
        port: parts.port.filter(|port| *port != DEFAULT_PORT),
    })
}

/// Is it one that [`authority`] takes? Returns its port.
pub(crate) fn check_authority(raw: &[u8]) -> Result<Option<u16>, &'static str> {
    parse(raw).map(|parts| parts.port)
}

/// Do two authorities name the same host and port?
pub(crate) fn same_authority(a: &[u8], b: &[u8], https: bool) -> Result<bool, &'static str> {
    let default = if https { 443 } else { DEFAULT_PORT };
    let (a, b) = (parse(a)?, parse(b)?);
    let same_host = match (a.host, b.host) {
        (Host::Name(a), Host::Name(b)) => a.eq_ignore_ascii_case(b),
        (Host::V4(a), Host::V4(b)) => a == b,
        (Host::V6(a), Host::V6(b)) => a == b,
        (Host::Name(_) | Host::V4(_) | Host::V6(_), _) => false,
    };
    Ok(same_host && a.port.unwrap_or(default) == b.port.unwrap_or(default))
}

struct Parts<'r> {
    host: Host<'r>,
    port: Option<u16>,
}

enum Host<'r> {
    /// In any case, without the root's dot.
    Name(&'r [u8]),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

fn parse(raw: &[u8]) -> Result<Parts<'_>, &'static str> {
    if let Some(rest) = raw.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']');
        let (address, after) = end
            .and_then(|end| rest.split_at_checked(end))
            .ok_or(NOT_IPV6)?;
        let address = std::str::from_utf8(address).map_err(|_| NOT_IPV6)?;
        let address = address.parse().map_err(|_| NOT_IPV6)?;
        let port = match after {
            b"]" => None,
            [b']', b':', port @ ..] => Some(read_port(port)?),
            _ => return Err(NOT_IPV6),
        };
        return Ok(Parts {
            host: Host::V6(address),
            port,
        });
    }
    let (host, port) = match raw.iter().position(|byte| *byte == b':') {
        None => (raw, None),
        Some(colon) => {
            let (host, port) = raw.split_at_checked(colon).unwrap_or((raw, b""));
            (host, Some(read_port(port.get(1..).unwrap_or_default())?))
        }
    };
    Ok(Parts {
        host: read_host(host)?,
        port,
    })
}

const NOT_IPV6: &str = "host is no IPv6 address in brackets, RFC 3986 §3.2.2";

/// No sign, no zero in front, not 0, not empty.
fn read_port(text: &[u8]) -> Result<u16, &'static str> {
    const WHY: &str = "port is no number from 1 to 65535, RFC 3986 §3.2.3";
    match text {
        [b'1'..=b'9', rest @ ..] if rest.len() < 5 && rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or(WHY)
        }
        _ => Err(WHY),
    }
}

fn read_host(raw: &[u8]) -> Result<Host<'_>, &'static str> {
    let name = raw.strip_suffix(b".").unwrap_or(raw);
    if name.is_empty() {
        return Err("host is empty, RFC 9110 §4.2.1");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("host is too long, RFC 1035 §2.3.4");
    }
    let mut label_starts = 0;
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                if at - label_starts >= LABEL_BYTES_MAX {
                    return Err("label of the host is too long, RFC 1035 §2.3.4");
                }
            }
            b'.' if at == label_starts => return Err("empty label in the host, RFC 1035 §2.3.1"),
            b'.' => label_starts = at + 1,
            b'@' => return Err("user information in the authority, RFC 9110 §4.2.4"),
            b',' => return Err("list in the authority, RFC 9112 §3.2"),
            _ => return Err("character in the host, RFC 3986 §3.2.2"),
        }
    }
    let last = name.get(label_starts..).unwrap_or_default();
    if last.is_empty() {
        return Err("empty label in the host, RFC 1035 §2.3.1");
    }
    if !is_number(last) {
        return Ok(Host::Name(name));
    }
    // A name that ends in a number is read as an IPv4 address by some, in up to four parts and
    // three bases (URL standard §3.5). Only the common form is read alike by all.
    let text = std::str::from_utf8(name).unwrap_or_default();
    text.parse()
        .map(Host::V4)
        .map_err(|_| "host is no IPv4 address in four decimal parts")
}

fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        _ => label.iter().all(u8::is_ascii_digit),
    }
}
