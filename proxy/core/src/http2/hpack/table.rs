//! Which field does an index stand for (RFC 7541 §2.3)?

use std::collections::VecDeque;

use super::{Invalid, TABLE_BYTES_MAX};
use crate::http2::frame::{size, wire};

/// Fixed by the protocol: what an entry costs besides its bytes.
const ENTRY_OVERHEAD: u32 = 32;

/// RFC 7541 appendix A.
pub(super) static STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The fixed table and the one that grows: newest entry first, after the fixed ones.
#[derive(Debug)]
pub(super) struct Table {
    /// Names and values one after another; what lies before the oldest entry is garbage.
    bytes: Vec<u8>,
    /// Newest at the front.
    entries: VecDeque<Entry>,
    used: u32,
    most: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    name: u32,
    value: u32,
}

impl Entry {
    fn cost(self) -> u32 {
        self.name + self.value + ENTRY_OVERHEAD
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            used: 0,
            most: TABLE_BYTES_MAX,
        }
    }

    /// The field of an index, which counts from one.
    pub(super) fn get(&self, index: u32) -> Result<(&[u8], &[u8]), Invalid> {
        let nothing = Invalid("header index outside of the tables");
        let index = size(index).checked_sub(1).ok_or(nothing)?;
        if let Some(field) = STATIC.get(index) {
            return Ok(*field);
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(nothing)?;
        let field = self.bytes.get(size(entry.start)..).unwrap_or_default();
        let (name, rest) = field.split_at_checked(size(entry.name)).unwrap_or_default();
        Ok((name, rest.get(..size(entry.value)).unwrap_or_default()))
    }

    /// Adds a field in front.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let start = self.room(name.len() + value.len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.admit(Entry {
            start,
            name: wire(name.len()),
            value: wire(value.len()),
        });
    }

    /// Adds a field in front that has the name of another.
    pub(super) fn insert_named(&mut self, index: u32, value: &[u8]) -> Result<(), Invalid> {
        if let Some((name, _)) = size(index).checked_sub(1).and_then(|k| STATIC.get(k)) {
            self.insert(name, value);
            return Ok(());
        }
        let name = self.get(index)?.0.len();
        let start = self.room(name + value.len());
        // The room may have moved the entry, so look again. The name is copied before anything is
        // evicted, because its own entry may have to go (RFC 7541 §4.4).
        let k = size(index) - 1 - STATIC.len();
        let from = self.entries.get(k).map_or(0, |entry| size(entry.start));
        self.bytes.extend_from_within(from..from + name);
        self.bytes.extend_from_slice(value);
        self.admit(Entry {
            start,
            name: wire(name),
            value: wire(value.len()),
        });
        Ok(())
    }

    /// The encoder chose another size (RFC 7541 §6.3).
    pub(super) fn resize(&mut self, most: u32) -> Result<(), Invalid> {
        if most > TABLE_BYTES_MAX {
            return Err(Invalid("header table larger than granted"));
        }
        self.most = most;
        self.evict(0);
        Ok(())
    }

    /// Throws the garbage out when there is more of it than of anything else. Returns the place of
    /// the next entry.
    fn room(&mut self, more: usize) -> u32 {
        let oldest = self
            .entries
            .back()
            .map_or(self.bytes.len(), |entry| size(entry.start));
        if oldest > 0 && self.bytes.len() + more > 2 * size(TABLE_BYTES_MAX) {
            self.bytes.drain(..oldest);
            for entry in &mut self.entries {
                entry.start -= wire(oldest);
            }
        }
        wire(self.bytes.len())
    }

    /// Takes the entry in whose bytes were appended, or nothing if it is too large for the table,
    /// which is then empty (RFC 7541 §4.4).
    fn admit(&mut self, entry: Entry) {
        self.evict(entry.cost());
        if entry.cost() <= self.most {
            self.entries.push_front(entry);
            self.used += entry.cost();
        } else {
            self.bytes = Vec::new();
        }
    }

    fn evict(&mut self, coming: u32) {
        while self.used.saturating_add(coming) > self.most {
            let Some(oldest) = self.entries.pop_back() else {
                return;
            };
            self.used -= oldest.cost();
        }
    }
}

#[cfg(test)]
impl Table {
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.len()
    }
}
