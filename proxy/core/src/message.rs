//! What does a message's head say, whatever wire it came on?
//!
//! A head is one flat block of bytes with an index of cuts, so that parsing copies it once,
//! translating between HTTP/1.1 and HTTP/2 is one walk over the index, and dropping a field costs
//! nothing. Names are in lower case; values are bytes, without surrounding white space.

pub use isthmus_proto::ids::is_token;
use std::fmt;
use std::ops::Range;

/// A piece of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
}

/// Room for so many fields is made at once.
const FIELDS_USUAL: usize = 12;

/// The fields of a head or of trailers, in their order. Repeated fields stay apart.
#[derive(Clone, Default)]
pub struct Fields {
    block: Vec<u8>,
    /// On the heap: a head is moved from hand to hand far more often than it is made.
    index: Vec<Field>,
}

impl Fields {
    /// No fields, with room for `bytes` of names and values.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            block: Vec::with_capacity(bytes),
            index: Vec::with_capacity(FIELDS_USUAL),
        }
    }

    /// Adds a field. The caller vouches that the name is a token in lower case and that the value
    /// holds no CR, LF or NUL: every parser here does.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.index.push(Field { name, value });
    }

    /// Adds a field whose name may be in any case.
    pub fn push_lower(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        if let Some(stored) = self.block.get_mut(range(name)) {
            stored.make_ascii_lowercase();
        }
        let value = self.store(value);
        self.index.push(Field { name, value });
    }

    /// No fields yet, but all their bytes, copied at once; `push_cut` picks fields out of them.
    pub(crate) fn of_block(block: &[u8]) -> Self {
        Self {
            block: block.to_vec(),
            index: Vec::with_capacity(FIELDS_USUAL),
        }
    }

    /// Lowers the case of a stretch of the block, and shows it.
    pub(crate) fn lower(&mut self, name: Range<usize>) -> &[u8] {
        match self.block.get_mut(name) {
            Some(name) => {
                name.make_ascii_lowercase();
                name
            }
            None => &[],
        }
    }

    /// Adds a field that is in the block already, its name in lower case. A stretch that is not
    /// in the block reads as empty.
    pub(crate) fn push_cut(&mut self, name: Range<usize>, value: Range<usize>) {
        self.index.push(Field {
            name: span(&name),
            value: span(&value),
        });
    }

    /// Takes all fields of this name away, and adds one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.push(name, value);
    }

    /// Takes all fields of this name away. True if there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.index.len();
        let block = &self.block;
        self.index
            .retain(|field| block.get(range(field.name)) != Some(name));
        before != self.index.len()
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let block = &self.block;
        self.index
            .retain(|field| keep(cut(block, field.name), cut(block, field.value)));
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Every value of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.index
            .iter()
            .map(|field| (cut(&self.block, field.name), cut(&self.block, field.value)))
    }

    /// How many fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.block.len();
        self.block.extend_from_slice(bytes);
        span(&(start..self.block.len()))
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (text(n), text(v))))
            .finish()
    }
}

// Blocks are bounded far below 4 GiB by every parser's limits.
fn span(range: &Range<usize>) -> Span {
    let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span {
        start: at(range.start),
        end: at(range.end),
    }
}

fn range(span: Span) -> Range<usize> {
    let at = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    at(span.start)..at(span.end)
}

fn cut(block: &[u8], span: Span) -> &[u8] {
    block.get(range(span)).unwrap_or_default()
}

/// How long is the body that follows a head?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// `content-length` says so; it stays among the fields.
    Exact(u64),
    /// Chunked, or an HTTP/2 stream without `content-length`: until its end is marked.
    Marked,
    /// HTTP/1 responses only: until the connection ends.
    UntilClose,
}

/// Which HTTP a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no keep-alive unless asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// A request method (RFC 9110 §9). Case matters: `get` is another, legal, method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Trace,
    Connect,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// Reads a token; `None` if it isn't one (RFC 9110 §5.6.2).
    #[must_use]
    pub fn parse(token: &[u8]) -> Option<Self> {
        Some(match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"CONNECT" => Self::Connect,
            _ if is_token(token) => Self::Other(Box::from(std::str::from_utf8(token).ok()?)),
            _ => return None,
        })
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other(token) => token,
        }
    }

    /// May it be sent twice without asking (RFC 9110 §9.2.2)?
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self,
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace
        )
    }
}

/// Is this a protocol of `Upgrade`, token or token "/" token (RFC 9110 §7.8)? `:protocol` takes the same
/// words (RFC 8441 §5), or else some upgrades could not travel between proxies.
#[must_use]
pub fn is_protocol(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b'/');
    parts.all(is_token)
}

/// Is this a protocol behind which more requests would travel, unseen by policy?
#[must_use]
pub fn hides_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    matches!(name.as_slice(), b"h2c" | b"h2" | b"http" | b"tls")
}

/// Is this, in lower case, a field by which proxies of the mesh speak, and nobody else may? `_` counts
/// as `-`: who reads fields from its environment (RFC 3875 §4.1.18) can't tell one from the other.
#[must_use]
pub fn is_mesh_field(name: &[u8]) -> bool {
    const CERTIFICATE: &[u8] = b"x-forwarded-client-cert";
    let begins_with = |with: &[u8]| {
        let alike = |(said, meant): (&u8, &u8)| said == meant || (*said, *meant) == (b'_', b'-');
        name.len() >= with.len() && name.iter().zip(with).all(alike)
    };
    begins_with(b"x-mesh-") || (name.len() == CERTIFICATE.len() && begins_with(CERTIFICATE))
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// What is asked for.
    pub method: Method,
    /// What it came by.
    pub version: Version,
    /// `https`? What `:scheme` or the absolute form said; `false` where nothing did.
    pub https: bool,
    /// Host and port: `:authority`, or the absolute form's, or `Host`. Empty: none was given.
    /// `host` is not among the fields.
    pub authority: Vec<u8>,
    /// Path and query, as they came. For CONNECT without `protocol`: empty. For `OPTIONS *`: `*`.
    pub path: Vec<u8>,
    /// `:protocol` of an extended CONNECT (RFC 8441), or the single token of an HTTP/1.1
    /// `Upgrade` (then `upgrade` and `connection` are not among the fields). Empty: neither.
    pub protocol: Vec<u8>,
    /// The fields, without hop-by-hop ones (RFC 9110 §7.6.1). `te: trailers` may stay.
    pub fields: Fields,
    /// How long the body is.
    pub body: BodyLength,
    /// May the connection carry another message after this one? Always true for HTTP/2.
    pub keep_alive: bool,
    /// Does the client wait for `100 Continue`? The field `expect` stays among the fields.
    pub expects_continue: bool,
}

impl RequestHead {
    /// The method that counts, for policies and for an HTTP/1.1 application: an extended CONNECT is a GET
    /// that asks for another protocol, and is written as one (RFC 8441 §5).
    #[must_use]
    pub fn asked_method(&self) -> &Method {
        match self.method {
            Method::Connect if !self.protocol.is_empty() => &Method::Get,
            _ => &self.method,
        }
    }
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100 to 599. 1xx other than 101: informational, another head follows.
    pub status: u16,
    /// What it came by.
    pub version: Version,
    /// With status 101: the token of `Upgrade`. Empty otherwise.
    pub protocol: Vec<u8>,
    /// The fields, without hop-by-hop ones.
    pub fields: Fields,
    /// How long the body is.
    pub body: BodyLength,
    /// May the connection carry another message after this one?
    pub keep_alive: bool,
}

impl ResponseHead {
    /// A head of our own making.
    #[must_use]
    pub fn new(status: u16, body: BodyLength) -> Self {
        Self {
            status,
            version: Version::Http11,
            protocol: Vec::new(),
            fields: Fields::default(),
            body,
            keep_alive: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_repeats() {
        let mut fields = Fields::default();
        fields.push(b"a", b"1");
        fields.push_lower(b"B", b"2");
        fields.push(b"a", b"3");
        assert_eq!(fields.get_all(b"a").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(fields.get(b"b"), Some(b"2".as_slice()));
        assert!(fields.remove(b"a") && !fields.remove(b"a"));
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn fields_are_cut_out_of_a_block() {
        let mut fields = Fields::of_block(b"NaMe: Value");
        assert_eq!(fields.lower(0..4), b"name");
        fields.push_cut(0..4, 6..11);
        fields.push(b"b", b"2");
        fields.push_cut(0..4, 90..99);
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(
            all,
            [(&b"name"[..], &b"Value"[..]), (b"b", b"2"), (b"name", b"")]
        );
        assert!(fields.lower(9..99).is_empty());
    }

    #[test]
    fn methods_are_told_apart_by_case() {
        assert_eq!(Method::parse(b"GET"), Some(Method::Get));
        assert_eq!(Method::parse(b"get"), Some(Method::Other("get".into())));
        assert_eq!(Method::parse(b"G T"), None);
        assert_eq!(Method::parse(b""), None);
    }
}
