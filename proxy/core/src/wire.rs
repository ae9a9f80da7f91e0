//! Does a resource say something that this version can't read?
//!
//! Decoders skip fields that they don't know. Where something is decided by what a resource says that
//! is dangerous: an ALLOW rule without the term that was skipped allows more than was written, and
//! a route's match without it takes every request. So the bytes are walked once, next to the
//! decoder, and any field that is not in the resource's tables is told.

/// The fields of a message that this version reads.
pub(crate) struct Known(pub(crate) &'static [(u64, Kind)]);

pub(crate) enum Kind {
    /// Read whole, or without meaning for a decision.
    Leaf,
    /// A message, or several, whose fields count.
    Message(&'static str, &'static Known),
}

/// `HeaderMatch` of common.proto.
pub(crate) static HEADER: Known = Known(&[(1, Kind::Leaf), (2, Kind::Message("value", &STRING))]);
/// `StringMatch`.
pub(crate) static STRING: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Leaf),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
]);

/// Deepest message in one another; the decoder allows 100.
const DEPTH_MAX: usize = 32;

/// The first field of a message that is not known, as its place. The bytes must be ones that the
/// decoder has accepted.
pub(crate) fn unknown_field(known: &Known, body: &[u8]) -> Option<String> {
    walk(known, body, "", 0)
}

fn walk(known: &Known, mut body: &[u8], place: &str, depth: usize) -> Option<String> {
    let unreadable = || Some(format!("{place}(something unreadable)"));
    if depth > DEPTH_MAX {
        return unreadable();
    }
    while !body.is_empty() {
        let Some((number, value)) = field(&mut body) else {
            return unreadable();
        };
        let Some((_, kind)) = known.0.iter().find(|(of, _)| *of == number) else {
            return Some(format!("{place}field {number}"));
        };
        if let Kind::Message(name, inner) = kind {
            let Some(value) = value else {
                return unreadable();
            };
            let found = walk(
                inner,
                value,
                &format!("{place}{name}."),
                depth.saturating_add(1),
            );
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// Takes a field from the front: its number, and its bytes if it has a length.
fn field<'a>(body: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(body)?;
    let number = key >> 3;
    // Wire types of the protobuf encoding; groups (3 and 4) are not in proto3.
    match key & 7 {
        0 => varint(body).map(|_| (number, None)),
        1 => take(body, 8).map(|_| (number, None)),
        2 => {
            let length = usize::try_from(varint(body)?).ok()?;
            take(body, length).map(|value| (number, Some(value)))
        }
        5 => take(body, 4).map(|_| (number, None)),
        _ => None,
    }
}

fn take<'a>(body: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(bytes)?;
    *body = rest;
    Some(taken)
}

fn varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    // At most 10 bytes of 7 bits each.
    for shift in (0..70).step_by(7) {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
