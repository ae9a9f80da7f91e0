//! What do the fields of a head say about the message itself, and which of them go on?
//!
//! The fields are copied once, as one block; names are lowered in place, and the fields that end
//! here are left out of the index.

use std::ops::Range;

use smallvec::SmallVec;

use crate::message::{
    BodyLength, Fields, Version, hides_http, is_mesh_field, is_protocol, is_token,
};

/// The rule that a message breaks.
pub(super) type Why = &'static str;

/// Options of `Connection` in one message, ours to tune: honest ones have up to three.
const CONNECTION_OPTIONS_MAX: usize = 32;

/// Whose fields? Their rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// What the fields say about the message.
#[derive(Debug, Default)]
pub(super) struct Facts<'b> {
    /// `Host`, of a request.
    pub(super) host: Option<&'b [u8]>,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding`: how the content is cut, and perhaps more than that.
    coding: Coding,
    /// `Expect: 100-continue`, of a request.
    pub(super) expects_continue: bool,
    close: bool,
    keep_alive: bool,
    upgrade_allowed: bool,
    upgrade: Upgrade<'b>,
    options: usize,
    named: SmallVec<[&'b [u8]; 4]>,
}

/// The transfer codings of a message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    /// Well-formed, and none that we have: where it ends can't be known.
    Unknown,
}

#[derive(Debug, Default, Clone, Copy)]
enum Upgrade<'b> {
    #[default]
    None,
    One(&'b [u8]),
    Many,
}

impl Facts<'_> {
    /// May the connection carry another message (RFC 9112 §9.3)? HTTP/1.0 only if it was asked.
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 | Version::Http2 => !self.close,
        }
    }

    /// The length that the fields alone declare; `None` if they declare none.
    pub(super) fn declared(&self) -> Option<BodyLength> {
        match (self.coding, self.length) {
            (Coding::Chunked | Coding::Unknown, _) => Some(BodyLength::Marked),
            (Coding::None, Some(length)) => Some(BodyLength::Exact(length)),
            (Coding::None, None) => None,
        }
    }

    /// Is there a transfer coding that is not `chunked`?
    pub(super) fn needs_another_coding(&self) -> bool {
        self.coding == Coding::Unknown
    }

    /// The one protocol to upgrade to, in lower case. `None`: nothing, several, not named by
    /// `Connection`, HTTP/1.0 (RFC 9110 §7.8), or one that would hide HTTP from the policy.
    pub(super) fn protocol(&self, version: Version) -> Option<Vec<u8>> {
        match self.upgrade {
            Upgrade::One(token) if self.upgrade_allowed && version == Version::Http11 => {
                let token = token.to_ascii_lowercase();
                (is_protocol(&token) && !hides_http(&token)).then_some(token)
            }
            Upgrade::One(_) | Upgrade::None | Upgrade::Many => None,
        }
    }
}

/// Reads the fields. `head` is the whole head, `lines` are cut out of it by httparse.
pub(super) fn read<'b>(
    head: &'b [u8],
    lines: &[httparse::Header<'b>],
    side: Side,
    version: Version,
) -> Result<(Fields, Facts<'b>), Why> {
    let mut facts = Facts::default();
    let Some(first) = lines.first() else {
        return Ok((Fields::default(), facts));
    };
    let start = offset(head, first.name.as_bytes());
    let block = head.get(start..).unwrap_or_default();
    let mut fields = Fields::of_block(block);
    for line in lines {
        let name = range(block, line.name.as_bytes());
        let value = range(block, line.value);
        match kind(fields.lower(name.clone()), side) {
            Kind::EndToEnd => fields.push_cut(name, value),
            Kind::HopByHop => {}
            Kind::Host => facts.host(line.value)?,
            Kind::ContentLength => {
                facts.content_length(line.value)?;
                fields.push_cut(name, value);
            }
            Kind::TransferEncoding => facts.transfer_encoding(line.value, version)?,
            Kind::Connection => facts.connection(line.value)?,
            Kind::Upgrade => facts.upgrade(line.value),
            Kind::Te => {
                if line.value.eq_ignore_ascii_case(b"trailers") {
                    fields.lower(value.clone());
                    fields.push_cut(name, value);
                } else if elements(line.value).any(|e| e.eq_ignore_ascii_case(b"trailers")) {
                    fields.push(b"te", b"trailers");
                }
            }
            // RFC 9110 §10.1.1: in HTTP/1.0 the expectation is ignored.
            Kind::Expect if version == Version::Http10 => {}
            Kind::Expect => {
                facts.expects_continue |= line.value.eq_ignore_ascii_case(b"100-continue");
                fields.push_cut(name, value);
            }
        }
    }
    if facts.coding != Coding::None && facts.length.is_some() {
        return Err("both content-length and transfer-encoding, RFC 9112 §6.3");
    }
    if !facts.named.is_empty() {
        fields.retain(|name, _| !facts.named.iter().any(|n| n.eq_ignore_ascii_case(name)));
    }
    Ok((fields, facts))
}

/// Does every line end in CRLF (RFC 9112 §2.2 lets a reader take a bare LF; we don't)? The end of
/// a line is what stands before the next field's name, or before the end.
pub(super) fn lines_end_in_crlf(head: &[u8], lines: &[httparse::Header<'_>]) -> bool {
    head.ends_with(b"\r\n\r\n")
        && lines.iter().all(|line| {
            let before = head
                .get(..offset(head, line.name.as_bytes()))
                .unwrap_or_default();
            before.is_empty() || before.ends_with(b"\r\n")
        })
}

enum Kind {
    EndToEnd,
    HopByHop,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
}

fn kind(name: &[u8], side: Side) -> Kind {
    match name {
        b"content-length" => Kind::ContentLength,
        b"transfer-encoding" => Kind::TransferEncoding,
        b"connection" => Kind::Connection,
        b"upgrade" => Kind::Upgrade,
        // RFC 9110 §7.6.1; http2-settings: RFC 9113 §3.1.
        b"keep-alive" | b"proxy-connection" | b"http2-settings" => Kind::HopByHop,
        b"te" => match side {
            Side::Request => Kind::Te,
            Side::Response => Kind::HopByHop,
        },
        b"host" if side == Side::Request => Kind::Host,
        b"expect" if side == Side::Request => Kind::Expect,
        _ => Kind::EndToEnd,
    }
}

impl<'b> Facts<'b> {
    fn host(&mut self, value: &'b [u8]) -> Result<(), Why> {
        match self.host.replace(value) {
            None => Ok(()),
            Some(_) => Err("two host fields, RFC 9112 §3.2"),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Why> {
        let length = decimal(value).ok_or("content-length is not one number, RFC 9110 §8.6")?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err("two content-length fields, RFC 9112 §6.3"),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Why> {
        if version == Version::Http10 {
            return Err("transfer-encoding in HTTP/1.0, RFC 9112 §6.1");
        }
        if self.coding != Coding::None {
            return Err("two transfer-encoding fields, RFC 9112 §6.1");
        }
        self.coding = coding(value).ok_or(
            "transfer codings are malformed, or chunked is not once and last, RFC 9112 §6.1",
        )?;
        Ok(())
    }

    fn connection(&mut self, value: &'b [u8]) -> Result<(), Why> {
        for option in elements(value) {
            self.options += 1;
            if self.options > CONNECTION_OPTIONS_MAX {
                return Err("too many connection options, RFC 9110 §7.6.1");
            }
            match option {
                _ if option.eq_ignore_ascii_case(b"close") => self.close = true,
                _ if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade_allowed = true,
                // What may stay of `te` is decided by its value.
                _ if option.eq_ignore_ascii_case(b"te") => {}
                _ if !is_token(option) => {
                    return Err("a connection option is not a token, RFC 9110 §7.6.1");
                }
                _ if must_not_be_named(option) => {
                    return Err("connection names a field that is not the hop's, RFC 9110 §7.6.1");
                }
                _ => self.named.push(option),
            }
        }
        Ok(())
    }

    fn upgrade(&mut self, value: &'b [u8]) {
        for protocol in elements(value) {
            self.upgrade = match self.upgrade {
                Upgrade::None => Upgrade::One(protocol),
                Upgrade::One(_) | Upgrade::Many => Upgrade::Many,
            };
        }
    }
}

/// `None`: no list of tokens (a coding that is registered has no parameters), or `chunked` not once
/// and last (RFC 9112 §6.1, §6.3): so a body is hidden from another reader.
fn coding(value: &[u8]) -> Option<Coding> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Some(Coding::Chunked);
    }
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let last = codings.next_back().unwrap_or_default();
    let unknown = is_chunked(last) && codings.all(|c| is_token(c) && !is_chunked(c));
    unknown.then_some(Coding::Unknown)
}

/// Fields that a client could strip from its own request, by naming them in `Connection`, to look
/// like another: framing, the authority, and what proxies vouch for.
fn must_not_be_named(option: &[u8]) -> bool {
    let option = option.to_ascii_lowercase();
    matches!(
        option.as_slice(),
        b"host" | b"content-length" | b"forwarded" | b"x-real-ip"
    ) || is_mesh_field(&option)
        || option.starts_with(b"x-forwarded-")
}

/// The elements of a comma-separated list; empty ones are skipped (RFC 9110 §5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|e| !e.is_empty())
}

/// Digits only, no sign, no needless zero in front, below 2^63 so that sums can't overflow.
fn decimal(text: &[u8]) -> Option<u64> {
    let first = text.first()?;
    if *first == b'0' && text.len() > 1 {
        return None;
    }
    let mut number = 0_u64;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    i64::try_from(number).is_ok().then_some(number)
}

/// Where `part` begins in `whole`, of which it was cut.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr())
}

fn range(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = offset(whole, part);
    start..start.saturating_add(part.len())
}
