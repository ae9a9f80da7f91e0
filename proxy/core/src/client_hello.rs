//! Which name and which protocols does a TLS client ask for, before anything is decrypted?
//!
//! Only the first handshake message is read (RFC 8446 §4.1.2), over as many records as it comes in,
//! and nothing is guessed: what two readers could understand in two ways is refused.

use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::IpAddr;

use isthmus_proto::ids::{NAME_BYTES_MAX, is_dns_name};

// Fixed by the protocol.
/// Content type of handshake records (RFC 8446 §5.1).
const RECORD_HANDSHAKE: u8 = 22;
/// Longest fragment of a plaintext record (RFC 8446 §5.1).
const FRAGMENT_BYTES_MAX: usize = 16_384;
/// Handshake type of a ClientHello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Bytes before a handshake message's body.
const MESSAGE_HEADER_BYTES: usize = 4;
/// `supported_versions` names TLS 1.3 so (RFC 8446 §4.2.1).
const TLS13: u16 = 0x0304;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_ENCRYPTED_HELLO: u16 = 0xfe0d;

// Ours to tune.
/// Most bytes of input, record headers included, that are looked at. A caller's buffer of this
/// size always gets an answer.
pub const HELLO_BYTES_MAX: usize = 16_384;
/// Most extensions in one hello; browsers send about 20.
pub const EXTENSIONS_MAX: usize = 128;
/// Most protocols in the ALPN list.
pub const PROTOCOLS_MAX: usize = 32;

/// What a client says of itself in the clear. Nothing of it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI (RFC 6066 §3): a DNS name in lower case, no IP address. `None`: the client sent none.
    pub server_name: Option<String>,
    /// ALPN (RFC 7301), in the client's order. Empty: none offered.
    pub alpn: Vec<Vec<u8>>,
    /// Does `supported_versions` offer TLS 1.3? False: an older client.
    pub tls13: bool,
    /// Is there an encrypted hello (real or grease)? Then `server_name` is only the outer name.
    pub encrypted: bool,
}

/// Why bytes are no ClientHello that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHello {
    /// Not a TLS handshake record.
    #[error("not a TLS handshake record")]
    NotTls,
    /// TLS, but the first message is another.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// Longer than [`HELLO_BYTES_MAX`].
    #[error("the ClientHello is longer than 16,384 bytes")]
    TooLong,
    /// A length, a count or an order that RFC 8446 does not allow.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// More than one name in SNI: two readers could take different ones.
    #[error("the ClientHello names more than one server")]
    SeveralNames,
    /// SNI holds something else than a DNS name in lower case.
    #[error("the server name is refused: {0}")]
    Name(&'static str),
}

/// Reads the ClientHello at the start of a connection; bytes after it are not looked at.
///
/// `None`: all is well so far, come back with more bytes. That never happens at
/// [`HELLO_BYTES_MAX`] bytes or more.
///
/// # Errors
/// The bytes can't become a ClientHello that we accept, whatever follows.
pub fn read(input: &[u8]) -> Result<Option<ClientHello>, InvalidHello> {
    let seen = input.get(..HELLO_BYTES_MAX).unwrap_or(input);
    match message(seen)? {
        Some(body) => hello(&body).map(Some),
        None if seen.len() == HELLO_BYTES_MAX => Err(InvalidHello::TooLong),
        None => Ok(None),
    }
}

/// The body of the first handshake message, out of the records that carry it.
fn message(input: &[u8]) -> Result<Option<Cow<'_, [u8]>>, InvalidHello> {
    let mut header: SmallVec<[u8; MESSAGE_HEADER_BYTES]> = SmallVec::new();
    let mut rest = input;
    // Bytes of fragments before this record: a second walk is only needed when there are several.
    let mut gathered = 0usize;
    loop {
        let Some(record) = fragment(&mut rest)? else {
            return Ok(None);
        };
        let missing = MESSAGE_HEADER_BYTES.saturating_sub(header.len());
        header.extend(record.bytes.iter().take(missing).copied());
        if header.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(InvalidHello::NotClientHello);
        }
        if let [_, a, b, c] = header.as_slice() {
            let body = u24(*a, *b, *c);
            let whole = body.saturating_add(MESSAGE_HEADER_BYTES);
            if whole > HELLO_BYTES_MAX {
                return Err(InvalidHello::TooLong);
            }
            let known = gathered.saturating_add(record.length);
            if known > whole {
                // RFC 8446 §5.1: nothing may follow a ClientHello before the server's answer.
                return Err(InvalidHello::Malformed(
                    "a record goes on after the ClientHello",
                ));
            }
            if known == whole {
                if !record.is_whole() {
                    return Ok(None);
                }
                return Ok(Some(body_of(input, gathered, record.bytes, whole)));
            }
        } else if !record.is_whole() {
            return Ok(None);
        }
        gathered = gathered.saturating_add(record.length);
        if !record.is_whole() {
            return Ok(None);
        }
    }
}

/// One record's fragment, perhaps not all of it here yet.
struct Fragment<'a> {
    /// As the record's header says.
    length: usize,
    /// What is here of it.
    bytes: &'a [u8],
}

impl Fragment<'_> {
    fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }
}

/// Takes a record from the front. `None`: its header is not complete.
fn fragment<'a>(rest: &mut &'a [u8]) -> Result<Option<Fragment<'a>>, InvalidHello> {
    // Each byte is judged as soon as it is here: a stranger is refused by the first.
    if rest.first().is_some_and(|kind| *kind != RECORD_HANDSHAKE) {
        return Err(InvalidHello::NotTls);
    }
    if rest.get(1).is_some_and(|major| *major != 3) || rest.get(2).is_some_and(|minor| *minor > 4) {
        return Err(InvalidHello::NotTls);
    }
    let Some(([_, _, _, high, low], after)) = rest.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length == 0 || length > FRAGMENT_BYTES_MAX {
        // RFC 8446 §5.1: no empty fragments of handshake messages.
        return Err(InvalidHello::Malformed(
            "a record's length is 0 or above 16,384",
        ));
    }
    let (bytes, after) = after.split_at_checked(length).unwrap_or((after, &[]));
    *rest = after;
    Ok(Some(Fragment { length, bytes }))
}

/// The complete message without its header: borrowed if one record holds it, else put together.
fn body_of<'a>(input: &'a [u8], gathered: usize, last: &'a [u8], whole: usize) -> Cow<'a, [u8]> {
    if gathered == 0 {
        return Cow::Borrowed(last.get(MESSAGE_HEADER_BYTES..).unwrap_or_default());
    }
    let mut joined = Vec::with_capacity(whole);
    let mut rest = input;
    while joined.len() < whole {
        // The caller has walked these records: they are there and in order.
        let Ok(Some(record)) = fragment(&mut rest) else {
            break;
        };
        joined.extend_from_slice(record.bytes);
    }
    joined.drain(..MESSAGE_HEADER_BYTES.min(joined.len()));
    Cow::Owned(joined)
}

/// Reads the body (RFC 8446 §4.1.2).
fn hello(body: &[u8]) -> Result<ClientHello, InvalidHello> {
    let mut body = Reader(body);
    let version = body.u16("no version")?;
    if !(0x0300..=0x0303).contains(&version) {
        return Err(InvalidHello::Malformed(
            "legacy_version is above TLS 1.2 or below SSL 3",
        ));
    }
    body.take(32, "no random")?;
    if body.vector8("session id")?.0.len() > 32 {
        return Err(InvalidHello::Malformed(
            "the session id is longer than 32 bytes",
        ));
    }
    let suites = body.vector16("cipher suites")?;
    if suites.0.is_empty() || !suites.0.len().is_multiple_of(2) {
        return Err(InvalidHello::Malformed(
            "the cipher suites' length is odd or 0",
        ));
    }
    let compressions = body.vector8("compression methods")?;
    if !compressions.0.contains(&0) {
        return Err(InvalidHello::Malformed("compression can't be left out"));
    }
    let mut found = ClientHello {
        server_name: None,
        alpn: Vec::new(),
        tls13: false,
        encrypted: false,
    };
    if body.0.is_empty() {
        // Older than TLS 1.3, without extensions.
        return Ok(found);
    }
    let extensions = body.vector16("extensions")?;
    body.finish("bytes after the extensions")?;
    read_extensions(extensions, &mut found)?;
    if found.tls13 && compressions.0 != [0] {
        // RFC 8446 §4.1.2: exactly the null method.
        return Err(InvalidHello::Malformed(
            "compression is offered with TLS 1.3",
        ));
    }
    Ok(found)
}

fn read_extensions(mut all: Reader<'_>, found: &mut ClientHello) -> Result<(), InvalidHello> {
    let mut kinds: SmallVec<[u16; 32]> = SmallVec::new();
    while !all.0.is_empty() {
        let kind = all.u16("an extension's type is cut off")?;
        let body = all.vector16("extension")?;
        if kinds.len() == EXTENSIONS_MAX {
            return Err(InvalidHello::Malformed("more than 128 extensions"));
        }
        if kinds.contains(&kind) {
            // RFC 8446 §4.2.
            return Err(InvalidHello::Malformed("an extension is there twice"));
        }
        kinds.push(kind);
        match kind {
            EXTENSION_SERVER_NAME => found.server_name = Some(server_name(body)?),
            EXTENSION_ALPN => found.alpn = protocols(body)?,
            EXTENSION_SUPPORTED_VERSIONS => found.tls13 = offers_tls13(body)?,
            EXTENSION_ENCRYPTED_HELLO => found.encrypted = true,
            _ => {}
        }
    }
    Ok(())
}

/// RFC 6066 §3, with exactly one entry, and that a host name.
fn server_name(mut body: Reader<'_>) -> Result<String, InvalidHello> {
    let mut list = body.vector16("server name list")?;
    body.finish("bytes after the server name list")?;
    let kind = list.u8("the server name list is empty")?;
    if kind != 0 {
        return Err(InvalidHello::Name("not a host name"));
    }
    let name = list.vector16("server name")?.0;
    if !list.0.is_empty() {
        return Err(InvalidHello::SeveralNames);
    }
    checked_name(name)
}

fn checked_name(name: &[u8]) -> Result<String, InvalidHello> {
    if name.is_empty() {
        return Err(InvalidHello::Name("empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(InvalidHello::Name("longer than 253 bytes"));
    }
    if name.iter().any(u8::is_ascii_uppercase) {
        return Err(InvalidHello::Name("upper case"));
    }
    if name.ends_with(b".") {
        return Err(InvalidHello::Name("ends with a dot"));
    }
    let text = std::str::from_utf8(name).map_err(|_| InvalidHello::Name("not ASCII"))?;
    // RFC 6066 §3: literal addresses are not permitted.
    if text.parse::<IpAddr>().is_ok() {
        return Err(InvalidHello::Name("an IP address"));
    }
    if !is_dns_name(text) {
        return Err(InvalidHello::Name("not a DNS name"));
    }
    Ok(text.to_owned())
}

/// RFC 7301 §3.1.
fn protocols(mut body: Reader<'_>) -> Result<Vec<Vec<u8>>, InvalidHello> {
    let mut list = body.vector16("protocol list")?;
    body.finish("bytes after the protocol list")?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8("protocol name")?.0;
        if name.is_empty() {
            return Err(InvalidHello::Malformed("a protocol name is empty"));
        }
        if names.len() == PROTOCOLS_MAX {
            return Err(InvalidHello::Malformed("more than 32 protocols"));
        }
        names.push(name.to_vec());
    }
    if names.is_empty() {
        return Err(InvalidHello::Malformed("the protocol list is empty"));
    }
    Ok(names)
}

/// RFC 8446 §4.2.1.
fn offers_tls13(mut body: Reader<'_>) -> Result<bool, InvalidHello> {
    let list = body.vector8("versions")?;
    body.finish("bytes after the versions")?;
    let (versions, odd) = list.0.as_chunks::<2>();
    if versions.is_empty() || !odd.is_empty() {
        return Err(InvalidHello::Malformed("the versions' length is odd or 0"));
    }
    Ok(versions
        .iter()
        .any(|version| u16::from_be_bytes(*version) == TLS13))
}

/// What is left to read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize, cut: &'static str) -> Result<&'a [u8], InvalidHello> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(InvalidHello::Malformed(cut))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, cut: &'static str) -> Result<u8, InvalidHello> {
        let (byte, rest) = self.0.split_first().ok_or(InvalidHello::Malformed(cut))?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u16(&mut self, cut: &'static str) -> Result<u16, InvalidHello> {
        let (two, rest) = self
            .0
            .split_first_chunk()
            .ok_or(InvalidHello::Malformed(cut))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*two))
    }

    /// A vector with one byte of length; `what` is named if it is cut off.
    fn vector8(&mut self, what: &'static str) -> Result<Self, InvalidHello> {
        let bytes = usize::from(self.u8(what)?);
        self.take(bytes, what).map(Self)
    }

    /// A vector with two bytes of length.
    fn vector16(&mut self, what: &'static str) -> Result<Self, InvalidHello> {
        let bytes = usize::from(self.u16(what)?);
        self.take(bytes, what).map(Self)
    }

    fn finish(self, extra: &'static str) -> Result<(), InvalidHello> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(InvalidHello::Malformed(extra))
        }
    }
}

fn u24(a: u8, b: u8, c: u8) -> usize {
    (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c)
}

#[cfg(test)]
mod tests;
