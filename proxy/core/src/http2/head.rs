//! Is this list of fields the head of a message (RFC 9113 §8)?
//!
//! Every rule that is broken makes the message malformed. Requests are judged more strictly than
//! the RFC demands, because they are routed and authorized by what they say: one host, one length,
//! a path that begins with a slash.

use super::stream::{Asked, UNKNOWN};
use crate::http1::is_forbidden_trailer;
use crate::message::{
    BodyLength, Fields, Method, RequestHead, ResponseHead, Version, hides_http, is_protocol,
};

/// What is wrong with a list of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Too many fields or bytes.
    TooLarge,
    /// A rule is broken.
    Malformed(&'static str),
}

/// The fields of a block, as the decoder tells them.
#[derive(Debug)]
pub(super) struct List {
    fields: Fields,
    method: Option<Method>,
    https: Option<bool>,
    authority: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    protocol: Option<Vec<u8>>,
    status: Option<u16>,
    host: Option<Vec<u8>>,
    length: Option<u64>,
    cookies: u32,
    expects_continue: bool,
    regular: bool,
    bytes_left: u32,
    fields_left: u32,
    fault: Option<Fault>,
}

impl List {
    /// An empty list that may become so large; `room`: a guess at its bytes.
    pub(super) fn new(bytes_max: u32, fields_max: u32, room: usize) -> Self {
        Self {
            fields: Fields::with_capacity(room),
            method: None,
            https: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            host: None,
            length: None,
            cookies: 0,
            expects_continue: false,
            regular: false,
            bytes_left: bytes_max,
            fields_left: fields_max,
            fault: None,
        }
    }

    /// Takes a field in. After the first fault nothing is kept.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let bytes = super::frame::wire(name.len().saturating_add(value.len()));
        let Some(left) = self.bytes_left.checked_sub(bytes) else {
            self.fault = Some(Fault::TooLarge);
            return;
        };
        self.bytes_left = left;
        let done = if name.first() == Some(&b':') {
            self.pseudo(name, value)
        } else {
            self.regular = true;
            self.regular(name, value)
        };
        if let Err(fault) = done {
            self.fault = Some(fault);
        }
    }

    /// RFC 9113 §8.3: known, once, and before all others.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if self.regular {
            return Err(Fault::Malformed("pseudo field after a regular one"));
        }
        let bad = Fault::Malformed;
        let new = match name {
            b":method" => {
                let method = Method::parse(value).ok_or(bad(":method is not a token"))?;
                self.method.replace(method).is_none()
            }
            b":scheme" => {
                let https = match value {
                    b"http" => false,
                    b"https" => true,
                    _ => return Err(bad(":scheme is neither http nor https")),
                };
                self.https.replace(https).is_none()
            }
            b":authority" => {
                check_authority(value)?;
                self.authority.replace(value.to_vec()).is_none()
            }
            b":path" => {
                if value.iter().any(|b| *b <= b' ' || *b == 0x7f || *b == b'#') {
                    return Err(bad(":path holds white space, a control character or #"));
                }
                self.path.replace(value.to_vec()).is_none()
            }
            b":protocol" => {
                if !is_protocol(value) || hides_http(value) {
                    return Err(bad(":protocol names none, or one that hides HTTP"));
                }
                self.protocol.replace(value.to_vec()).is_none()
            }
            b":status" => {
                let status = match value {
                    [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => [a, b, c]
                        .iter()
                        .fold(0, |n, d| n * 10 + u16::from(**d - b'0')),
                    _ => return Err(bad(":status is not 100 to 599")),
                };
                self.status.replace(status).is_none()
            }
            _ => return Err(bad("unknown pseudo field")),
        };
        if new {
            Ok(())
        } else {
            Err(bad("pseudo field twice"))
        }
    }

    /// RFC 9113 §8.2.
    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.fields_left = self.fields_left.checked_sub(1).ok_or(Fault::TooLarge)?;
        let bad = Fault::Malformed;
        if !is_name(name) {
            return Err(bad("field name is not a token in lower case"));
        }
        check_value(value)?;
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return Err(bad("connection-specific field")),
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => {
                return Err(bad("te is not trailers"));
            }
            b"host" => {
                check_authority(value)?;
                return match self.host.replace(value.to_vec()) {
                    None => Ok(()),
                    Some(_) => Err(bad("two hosts")),
                };
            }
            b"content-length" => {
                let length = decimal(value).ok_or(bad("content-length is not a number"))?;
                if self.length.replace(length).is_some() {
                    return Err(bad("two content-lengths"));
                }
            }
            b"cookie" => self.cookies += 1,
            b"expect" => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        self.fields.push(name, value);
        Ok(())
    }

    /// The list as a request (RFC 9113 §8.3.1, §8.5; RFC 8441 §4), and what its content length is.
    pub(super) fn take_request(
        &mut self,
        end: bool,
        connect_protocol: bool,
    ) -> Result<(RequestHead, u64), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let bad = Fault::Malformed;
        if self.status.is_some() {
            return Err(bad(":status in a request"));
        }
        let method = self.method.take().ok_or(bad("no :method"))?;
        let protocol = self.protocol.take();
        if protocol.is_some() && (method != Method::Connect || !connect_protocol) {
            return Err(bad(":protocol was not offered, or not with CONNECT"));
        }
        let authority = self.one_authority()?;
        let tunnel = method == Method::Connect && protocol.is_none();
        let (https, path) = if tunnel {
            if self.https.is_some() || self.path.is_some() {
                return Err(bad("CONNECT with :scheme or :path"));
            }
            check_port(&authority)?;
            (false, Vec::new())
        } else {
            let https = self.https.ok_or(bad("no :scheme"))?;
            let path = self.path.take().ok_or(bad("no :path"))?;
            let asterisk = method == Method::Options && path == b"*";
            if path.first() != Some(&b'/') && !asterisk {
                return Err(bad(":path does not begin with /"));
            }
            (https, path)
        };
        let body = match self.length {
            Some(_) if method == Method::Connect => return Err(bad("CONNECT with content-length")),
            Some(0) | None if end => BodyLength::Empty,
            Some(_) if end => return Err(bad("content-length without content")),
            Some(length) => BodyLength::Exact(length),
            None => BodyLength::Marked,
        };
        if self.cookies > 1 {
            self.join_cookies();
        }
        let head = RequestHead {
            method,
            version: Version::Http2,
            https,
            authority,
            path,
            protocol: protocol.unwrap_or_default(),
            fields: std::mem::take(&mut self.fields),
            body,
            keep_alive: true,
            expects_continue: self.expects_continue,
        };
        Ok((head, self.length.unwrap_or(UNKNOWN)))
    }

    /// `:authority` and `host` must agree, and one must be there.
    fn one_authority(&mut self) -> Result<Vec<u8>, Fault> {
        match (self.authority.take(), self.host.take()) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(&host) => {
                Err(Fault::Malformed("host is not :authority"))
            }
            (Some(authority), _) => Ok(authority),
            (None, Some(host)) => Ok(host),
            (None, None) => Err(Fault::Malformed("neither :authority nor host")),
        }
    }

    /// RFC 9113 §8.2.3: the crumbs become one field before they leave HTTP/2.
    fn join_cookies(&mut self) {
        let crumbs: Vec<&[u8]> = self.fields.get_all(b"cookie").collect();
        let joined = crumbs.join(b"; ".as_slice());
        self.fields.set(b"cookie", &joined);
    }

    /// The list as a response (RFC 9113 §8.3.2), and what its content length is.
    pub(super) fn take_response(
        &mut self,
        end: bool,
        asked: Asked,
    ) -> Result<(ResponseHead, u64), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let bad = Fault::Malformed;
        let status = self.status.ok_or(bad("no :status"))?;
        if self.has_request_pseudo() {
            return Err(bad("pseudo field of a request in a response"));
        }
        // RFC 9113 §8.6: there is no 101 in HTTP/2. §8.1: informational heads end nothing.
        if status == 101 || (status < 200 && end) {
            return Err(bad(
                "101, or an informational response that ends the stream",
            ));
        }
        let opened = asked.is_opened_by(status);
        // RFC 9110 §8.6: these have no content-length that means anything.
        if status < 200 || status == 204 || opened {
            self.fields.remove(b"content-length");
            self.length = None;
        }
        let bodiless = asked == Asked::Head || matches!(status, 204 | 304);
        let (body, content) = match self.length {
            _ if status < 200 => (BodyLength::Empty, UNKNOWN),
            _ if bodiless => (BodyLength::Empty, 0),
            Some(0) | None if end => (BodyLength::Empty, 0),
            Some(_) if end => return Err(bad("content-length without content")),
            Some(length) => (BodyLength::Exact(length), length),
            None => (BodyLength::Marked, UNKNOWN),
        };
        let head = ResponseHead {
            status,
            version: Version::Http2,
            protocol: Vec::new(),
            fields: std::mem::take(&mut self.fields),
            body,
            keep_alive: true,
        };
        Ok((head, content))
    }

    /// The list as trailers (RFC 9113 §8.1): no pseudo fields. What frames or routes a message
    /// means nothing at its end, and is dropped (RFC 9110 §6.5.1).
    pub(super) fn take_trailers(&mut self) -> Result<Fields, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.status.is_some() || self.has_request_pseudo() {
            return Err(Fault::Malformed("pseudo field in trailers"));
        }
        self.fields.retain(|name, _| !is_forbidden_trailer(name));
        Ok(std::mem::take(&mut self.fields))
    }

    fn has_request_pseudo(&self) -> bool {
        self.method.is_some()
            || self.https.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
    }
}

/// The bytes of a token in lower case (RFC 9110 §5.6.2).
static NAME_BYTES: [bool; 256] = name_bytes();

#[expect(
    clippy::indexing_slicing,
    reason = "const: out of bounds does not compile"
)]
const fn name_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
    let mut k = 0;
    while k < letters.len() {
        table[letters[k] as usize] = true;
        k += 1;
    }
    table
}

/// A token without upper case.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|b| NAME_BYTES.get(usize::from(*b)).is_some_and(|ok| *ok))
}

/// RFC 9113 §8.2.1 and RFC 9110 §5.5: no control characters, no white space at the ends.
fn check_value(value: &[u8]) -> Result<(), Fault> {
    // Without an early exit, so that it becomes a few vector instructions.
    let control = value.iter().fold(false, |bad, b| {
        bad | (*b < b' ') & (*b != b'\t') | (*b == 0x7f)
    });
    let white = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if control {
        Err(Fault::Malformed("control character in a field value"))
    } else if white(value.first()) || white(value.last()) {
        Err(Fault::Malformed("white space around a field value"))
    } else {
        Ok(())
    }
}

/// RFC 9113 §8.3.1: a host and a port, no user. `canonical` reads it more closely.
fn check_authority(value: &[u8]) -> Result<(), Fault> {
    let bad = |b: &u8| *b <= b' ' || *b >= 0x7f || b"@/\\?#,".contains(b);
    if value.is_empty() || value.iter().any(bad) {
        return Err(Fault::Malformed("authority is not host[:port]"));
    }
    Ok(())
}

/// RFC 9110 §9.3.6: CONNECT names the port.
fn check_port(authority: &[u8]) -> Result<(), Fault> {
    let port = authority
        .rsplit(|b| *b == b':')
        .next()
        .filter(|port| port.len() < authority.len());
    match port.and_then(decimal) {
        Some(1..=65_535) => Ok(()),
        Some(_) | None => Err(Fault::Malformed("CONNECT without a port")),
    }
}

/// Digits, and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let number = text.iter().try_fold(0_u64, |n, digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(u64::from(digit))
    });
    number.filter(|n| *n != UNKNOWN)
}
