//! Which text does a Huffman-coded string hold (RFC 7541 §5.2 and appendix B)?
//!
//! The code of appendix B is canonical: it follows from the lengths alone. Codes of up to eight
//! bits, which is nearly all of a header, are one lookup; longer ones are found by their length.

/// The bits of the code of each symbol; the last is the end of a string, which never occurs.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The longest code, bits.
const LONGEST: usize = 30;
/// Codes of up to so many bits are in `SHORT`.
const SHORT_BITS: u32 = 8;

/// All codes of one length: they are neighbours, and so are their symbols in `SORTED`.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    count: u32,
    offset: u32,
}

/// Symbols by length of their code, then by value.
static SORTED: [u16; 257] = sorted();
/// Codes by length.
static ROWS: [Row; LONGEST + 1] = rows();
/// The next eight bits → symbol and length of its code; length 0: a longer one.
static SHORT: [(u8, u8); 1 << SHORT_BITS] = short();

#[expect(
    clippy::indexing_slicing,
    reason = "const: out of bounds does not compile"
)]
#[expect(clippy::cast_possible_truncation, reason = "const: 257 fits 16 bits")]
const fn sorted() -> [u16; 257] {
    let mut symbols = [0; 257];
    let (mut at, mut length) = (0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

#[expect(
    clippy::indexing_slicing,
    reason = "const: out of bounds does not compile"
)]
const fn rows() -> [Row; LONGEST + 1] {
    let mut rows = [Row {
        first: 0,
        count: 0,
        offset: 0,
    }; LONGEST + 1];
    let (mut code, mut offset, mut length) = (0_u32, 0_u32, 1);
    while length <= LONGEST {
        let mut count = 0;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                count += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        rows[length] = Row {
            first: code,
            count,
            offset,
        };
        code += count;
        offset += count;
        length += 1;
    }
    rows
}

#[expect(
    clippy::indexing_slicing,
    reason = "const: out of bounds does not compile"
)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "const: symbols of short codes fit 8 bits"
)]
const fn short() -> [(u8, u8); 1 << SHORT_BITS] {
    let (sorted, rows) = (sorted(), rows());
    let mut table = [(0, 0); 1 << SHORT_BITS];
    let mut length = 1;
    while length <= SHORT_BITS {
        let row = rows[length as usize];
        let mut k = 0;
        while k < row.count {
            let symbol = sorted[(row.offset + k) as usize] as u8;
            let first = (row.first + k) << (SHORT_BITS - length);
            let mut rest = 0;
            while rest < 1 << (SHORT_BITS - length) {
                table[(first + rest) as usize] = (symbol, length as u8);
                rest += 1;
            }
            k += 1;
        }
        length += 1;
    }
    table
}

/// The string is no Huffman code: the end symbol, or padding that is too long or not ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

/// Appends the text of `input` to `out`, at most 8/5 of its length.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    out.reserve(input.len() + input.len() / 2 + input.len() / 8 + 1);
    let mut bits = 0_u64; // the unread ones, from the left
    let mut have = 0_u32;
    let mut rest = input;
    loop {
        if let Some((word, after)) = rest.split_first_chunk::<4>()
            && have <= 32
        {
            bits |= u64::from(u32::from_be_bytes(*word)) << (32 - have);
            have += 32;
            rest = after;
        } else {
            while have <= 56
                && let Some((byte, after)) = rest.split_first()
            {
                bits |= u64::from(*byte) << (56 - have);
                have += 8;
                rest = after;
            }
        }
        let enough = if rest.is_empty() { 1 } else { 32 };
        while have >= enough {
            let Some((symbol, length)) = next(bits, have)? else {
                return padding(bits, have);
            };
            out.push(symbol);
            bits <<= length;
            have -= length;
        }
        if rest.is_empty() && have == 0 {
            return Ok(());
        }
    }
}

/// The first symbol of the bits, and its length; `None`: fewer than a symbol are left.
#[inline]
fn next(bits: u64, have: u32) -> Result<Option<(u8, u32)>, Invalid> {
    let index = usize::from(bits.to_be_bytes()[0]);
    let (symbol, length) = SHORT.get(index).copied().unwrap_or_default();
    if length > 0 {
        return Ok((u32::from(length) <= have).then_some((symbol, u32::from(length))));
    }
    for (length, row) in (0..).zip(&ROWS).skip(9) {
        if length > have {
            break;
        }
        // Codes have at most 30 bits.
        let code = u32::try_from(bits >> (64 - length)).unwrap_or(u32::MAX);
        if let Some(k) = code.checked_sub(row.first)
            && k < row.count
        {
            let at = usize::try_from(row.offset + k).unwrap_or(usize::MAX);
            let symbol = SORTED.get(at).copied().unwrap_or(256);
            return u8::try_from(symbol)
                .map(|symbol| Some((symbol, length)))
                .map_err(|_| Invalid);
        }
    }
    Ok(None)
}

/// RFC 7541 §5.2: the rest of the last byte is the start of the end symbol: fewer than eight ones.
fn padding(bits: u64, have: u32) -> Result<(), Invalid> {
    let ones = !0_u64 << (64 - have.clamp(1, 63));
    if have < 8 && bits == ones {
        Ok(())
    } else {
        Err(Invalid)
    }
}

#[cfg(test)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0_u32);
    for symbol in text {
        let length = usize::from(LENGTHS[usize::from(*symbol)]);
        let row = ROWS[length];
        let place = SORTED
            .iter()
            .position(|s| *s == u16::from(*symbol))
            .unwrap();
        let code = row.first + u32::try_from(place).unwrap() - row.offset;
        bits = bits << length | u64::from(code);
        have += u32::try_from(length).unwrap();
        while have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xff).unwrap());
        }
    }
    if have > 0 {
        let last = bits << (8 - have) | (0xff >> have);
        out.push(u8::try_from(last & 0xff).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_complete_and_ends_in_ones() {
        // Kraft's sum is one, and the end symbol is thirty ones, as appendix B says.
        let sum: u64 = LENGTHS.iter().map(|length| 1 << (30 - length)).sum();
        assert_eq!(sum, 1 << 30);
        let last = ROWS[30];
        assert_eq!(last.first + last.count - 1, (1 << 30) - 1);
        assert_eq!(SORTED[256], 256);
        assert_eq!(SORTED[0], u16::from(b'0'));
    }

    #[test]
    fn every_symbol_alone_and_among_others() {
        for symbol in 0..=255_u8 {
            for text in [
                vec![symbol],
                vec![symbol; 9],
                vec![b'a', symbol, b'0', symbol],
            ] {
                let mut code = Vec::new();
                encode(&text, &mut code);
                assert_eq!(decoded(&code), Ok(text));
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_appendix() {
        for (symbol, code) in [
            (0, &[0xff, 0xc7][..]),
            (b'0', &[0x07]),
            (b'a', &[0x1f]),
            (b'&', &[0xf8]),
            (b'\\', &[0xff, 0xfe, 0x1f]),
            (10, &[0xff, 0xff, 0xff, 0xf3]),
            (255, &[0xff, 0xff, 0xfb, 0xbf]),
            (249, &[0xff, 0xff, 0xff, 0xef]),
        ] {
            let mut encoded = Vec::new();
            encode(&[symbol], &mut encoded);
            assert_eq!(encoded, code, "symbol {symbol}");
        }
    }

    #[test]
    fn bad_padding_and_the_end_symbol_are_refused() {
        assert_eq!(decoded(&[]), Ok(Vec::new()));
        assert_eq!(decoded(&[0xff]), Err(Invalid), "eight bits of padding");
        assert_eq!(
            decoded(&[0x1f, 0xff]),
            Err(Invalid),
            "a, then more than seven"
        );
        assert_eq!(decoded(&[0x18]), Err(Invalid), "a, padded with zeros");
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xff]),
            Err(Invalid),
            "the end symbol"
        );
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xfc]),
            Err(Invalid),
            "the end symbol, bare"
        );
    }
}
