//! Which bytes stand for a field?

use crate::http2::frame::wire;

/// A literal that nobody keeps in a table; four bits of index follow.
const LITERAL: u8 = 0x00;
/// A literal that nobody may ever keep in a table (RFC 7541 §7.1); four bits of index follow.
const SECRET: u8 = 0x10;

/// The writing end of a connection's header state. It never uses the dynamic table.
#[derive(Debug, Default)]
pub(in crate::http2) struct Encoder {
    /// The next block must begin with a size update.
    resize: bool,
    /// The table is of size zero for the peer, too.
    empty: bool,
}

/// How a field's name is written.
enum Name {
    /// By its number in the static table.
    Known(u8),
    /// The same, and the value must never be in a table.
    Secret(u8),
    /// In letters. Names from nowhere carry tokens, so their values are secrets.
    Spelled,
    /// Not at all: HTTP/2 has no such field (RFC 9113 §8.2.2), or it is written otherwise.
    Dropped,
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE. A smaller table than before must be confirmed in the
    /// next block, though we use none (RFC 7541 §4.2).
    pub(in crate::http2) fn peer_table(&mut self, bytes: u32) {
        if bytes < super::TABLE_BYTES_MAX && !self.empty {
            (self.resize, self.empty) = (true, true);
        }
    }

    /// Begins a block.
    pub(in crate::http2) fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.resize) {
            out.push(0x20);
        }
    }
}

/// Writes a field that is a whole entry of the static table.
pub(in crate::http2) fn whole(index: u8, out: &mut Vec<u8>) {
    out.push(0x80 | index);
}

/// Writes a field with a name from the static table, by its number below 15.
pub(in crate::http2) fn named(index: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(LITERAL | index);
    text(value, out);
}

/// Writes a pseudo field without a number.
pub(in crate::http2) fn spelled(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(LITERAL);
    text(name, out);
    text(value, out);
}

/// Writes a regular field, unless HTTP/2 has none of that name.
pub(in crate::http2) fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    match name_of(name, value) {
        Name::Known(index) => integer(LITERAL, 4, u32::from(index), out),
        Name::Secret(index) => integer(SECRET, 4, u32::from(index), out),
        Name::Spelled => {
            out.push(SECRET);
            text(name, out);
        }
        Name::Dropped => return,
    }
    text(value, out);
}

fn name_of(name: &[u8], value: &[u8]) -> Name {
    let known = match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
        | b"host" => return Name::Dropped,
        b"te" if value != b"trailers" => return Name::Dropped,
        b"authorization" => return Name::Secret(23),
        b"cookie" => return Name::Secret(32),
        b"proxy-authorization" => return Name::Secret(49),
        b"set-cookie" => return Name::Secret(55),
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"strict-transport-security" => 56,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return Name::Spelled,
    };
    Name::Known(known)
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, wire(bytes.len()), out);
    out.extend_from_slice(bytes);
}

/// RFC 7541 §5.1.
fn integer(flags: u8, prefix: u32, number: u32, out: &mut Vec<u8>) {
    let mask = (1_u8 << prefix) - 1;
    if let Ok(small) = u8::try_from(number)
        && small < mask
    {
        out.push(flags | small);
        return;
    }
    out.push(flags | mask);
    let mut rest = number.saturating_sub(u32::from(mask));
    loop {
        let [.., low] = rest.to_be_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}
