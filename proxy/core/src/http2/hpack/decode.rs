//! Which fields does a block hold?

use super::Invalid;
use super::table::Table;
use crate::http2::frame::size;
use crate::http2::huffman;

/// Ours: no number in a block needs more than these five bytes after its first.
const INTEGER_MAX: u32 = 1 << 28;
/// Ours: the room for Huffman-coded strings that an idle connection keeps, bytes.
const SCRATCH_KEPT: usize = 1024;

/// The reading end of a connection's header state.
#[derive(Debug)]
pub(in crate::http2) struct Decoder {
    table: Table,
    /// Strings that had to be unpacked; for the time of one field.
    scratch: Vec<u8>,
}

/// A string in a block: as it lies there, or unpacked into the scratch.
#[derive(Clone, Copy)]
enum Text<'b> {
    Plain(&'b [u8]),
    Unpacked { start: usize, end: usize },
}

impl Text<'_> {
    fn bytes<'a>(&'a self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Unpacked { start, end } => scratch.get(*start..*end).unwrap_or_default(),
        }
    }
}

impl Decoder {
    pub(in crate::http2) fn new() -> Self {
        Self {
            table: Table::new(),
            scratch: Vec::new(),
        }
    }

    /// Reads a whole block and tells each field. The state moves on whatever `field` does.
    pub(in crate::http2) fn decode(
        &mut self,
        mut block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Invalid> {
        let mut may_resize = true;
        while let Some((&first, rest)) = block.split_first() {
            block = rest;
            if first & 0x80 != 0 {
                let (name, value) = self.table.get(integer(first, 7, &mut block)?)?;
                field(name, value);
            } else if first & 0x40 != 0 {
                self.literal(first, 6, &mut block, &mut field)?;
            } else if first & 0x20 != 0 {
                // RFC 7541 §4.2: at the beginning of a block.
                if !may_resize {
                    return Err(Invalid("header table size update after a field"));
                }
                self.table.resize(integer(first, 5, &mut block)?)?;
                continue;
            } else {
                self.literal(first, 4, &mut block, &mut field)?;
            }
            may_resize = false;
        }
        if self.scratch.capacity() > SCRATCH_KEPT {
            self.scratch = Vec::new();
        }
        Ok(())
    }

    /// A field whose value is written out, and perhaps its name. A prefix of six bits: it goes
    /// into the table.
    fn literal(
        &mut self,
        first: u8,
        prefix: u32,
        block: &mut &[u8],
        field: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Invalid> {
        let keep = prefix == 6;
        let index = integer(first, prefix, block)?;
        self.scratch.clear();
        if index == 0 {
            let name = self.text(block)?;
            let value = self.text(block)?;
            let (name, value) = (name.bytes(&self.scratch), value.bytes(&self.scratch));
            field(name, value);
            if keep {
                self.table.insert(name, value);
            }
            return Ok(());
        }
        let value = self.text(block)?;
        let value = value.bytes(&self.scratch);
        field(self.table.get(index)?.0, value);
        if keep {
            self.table.insert_named(index, value)?;
        }
        Ok(())
    }

    /// A string (RFC 7541 §5.2).
    fn text<'b>(&mut self, block: &mut &'b [u8]) -> Result<Text<'b>, Invalid> {
        let short = Invalid("header block ends in a string");
        let (&first, rest) = block.split_first().ok_or(short)?;
        *block = rest;
        let length = integer(first, 7, block)?;
        let (text, rest) = block.split_at_checked(size(length)).ok_or(short)?;
        *block = rest;
        if first & 0x80 == 0 {
            return Ok(Text::Plain(text));
        }
        let start = self.scratch.len();
        huffman::decode(text, &mut self.scratch)
            .map_err(|huffman::Invalid| Invalid("bad Huffman code"))?;
        Ok(Text::Unpacked {
            start,
            end: self.scratch.len(),
        })
    }
}

/// A number that begins in the low bits of `first` (RFC 7541 §5.1).
fn integer(first: u8, prefix: u32, block: &mut &[u8]) -> Result<u32, Invalid> {
    let mask = (1_u32 << prefix) - 1;
    let mut number = u32::from(first) & mask;
    if number < mask {
        return Ok(number);
    }
    for shift in [0, 7, 14, 21, 28] {
        let (&byte, rest) = block
            .split_first()
            .ok_or(Invalid("header block ends in a number"))?;
        *block = rest;
        // The fifth byte may add nothing: some encoders pad with zeros.
        let more = u64::from(byte & 0x7f) << shift;
        let sum = u64::from(number) + more;
        number = u32::try_from(sum).unwrap_or(u32::MAX);
        if number > INTEGER_MAX {
            break;
        }
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Invalid("number too large in a header block"))
}

#[cfg(test)]
impl Decoder {
    pub(in crate::http2) fn table_used(&self) -> u32 {
        self.table.used()
    }

    pub(in crate::http2) fn table_len(&self) -> usize {
        self.table.len()
    }

    pub(in crate::http2) fn table_memory(&self) -> usize {
        self.table.memory()
    }
}
