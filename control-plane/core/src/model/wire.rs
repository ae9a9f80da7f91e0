//! How do messages of the contract and times stand in a saved object?
//!
//! Messages as protobuf in hexadecimal digits. What was written by a newer version may have fields
//! that this one does not know; protobuf would drop them silently, and a rule would be wider than it
//! was written. So a message that does not come out as long as it went in is refused.

use prost::Message;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A message in hexadecimal digits.
struct Hex<M>(M);

impl<M: Message> Serialize for Hex<&M> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.encode_to_vec();
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        let text: String = bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
            .collect();
        to.serialize_str(&text)
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Hex<M> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let bytes = bytes_of(&text).ok_or_else(|| D::Error::custom("not hexadecimal digits"))?;
        let message = M::decode(bytes.as_slice()).map_err(D::Error::custom)?;
        if message.encoded_len() != bytes.len() {
            return Err(D::Error::custom("a message says what is not known here"));
        }
        Ok(Self(message))
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?));
    rest.is_empty().then(|| bytes.collect()).flatten()
}

pub(super) fn serialize<M: Message, S: Serializer>(of: &M, to: S) -> Result<S::Ok, S::Error> {
    Hex(of).serialize(to)
}

pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
    from: D,
) -> Result<M, D::Error> {
    Hex::deserialize(from).map(|hex| hex.0)
}

/// `Option<M>`.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, Hex, Message, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands the field over like this")]
    pub(in super::super) fn serialize<M: Message, S: Serializer>(
        of: &Option<M>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        of.as_ref().map(Hex).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<M>, D::Error> {
        Ok(Option::<Hex<M>>::deserialize(from)?.map(|hex| hex.0))
    }
}

/// `Vec<M>`.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Hex, Message, Serializer};

    pub(in super::super) fn serialize<M: Message, S: Serializer>(
        of: &[M],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(of.iter().map(Hex))
    }

    pub(in super::super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<M>, D::Error> {
        let list = Vec::<Hex<M>>::deserialize(from)?;
        Ok(list.into_iter().map(|hex| hex.0).collect())
    }
}

/// An enumeration of the contract, by its number.
pub(super) mod number {
    use super::{Deserialize, Deserializer, Serializer};
    use serde::de::Error as _;

    pub(in super::super) fn serialize<E: Copy + Into<i32>, S: Serializer>(
        of: &E,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_i32((*of).into())
    }

    pub(in super::super) fn deserialize<'de, E, D>(from: D) -> Result<E, D::Error>
    where
        E: TryFrom<i32>,
        D: Deserializer<'de>,
    {
        let number = i32::deserialize(from)?;
        E::try_from(number).map_err(|_| D::Error::custom(format!("{number} is not known here")))
    }
}

/// `Option` of an enumeration.
pub(super) mod optional_number {
    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use serde::de::Error as _;

    #[expect(clippy::ref_option, reason = "serde hands the field over like this")]
    pub(in super::super) fn serialize<E: Copy + Into<i32>, S: Serializer>(
        of: &Option<E>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        of.map(Into::into).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, E, D>(from: D) -> Result<Option<E>, D::Error>
    where
        E: TryFrom<i32>,
        D: Deserializer<'de>,
    {
        let number = Option::<i32>::deserialize(from)?;
        let known = number.map(E::try_from).transpose();
        known.map_err(|_| D::Error::custom("a number is not known here"))
    }
}

/// `Option<SystemTime>`, as seconds and nanoseconds after (true) or before 1970.
pub(super) mod time {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::{Deserialize, Deserializer, Serialize, Serializer};
    use serde::de::Error as _;

    #[expect(clippy::ref_option, reason = "serde hands the field over like this")]
    pub(in super::super) fn serialize<S: Serializer>(
        of: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let signed = |at: SystemTime| match at.duration_since(UNIX_EPOCH) {
            Ok(since) => (true, since.as_secs(), since.subsec_nanos()),
            Err(before) => {
                let until = before.duration();
                (false, until.as_secs(), until.subsec_nanos())
            }
        };
        of.map(signed).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let Some((after, seconds, nanos)) = Option::<(bool, u64, u32)>::deserialize(from)? else {
            return Ok(None);
        };
        let nanos = Duration::from_nanos(u64::from(nanos));
        let span = Duration::from_secs(seconds).checked_add(nanos);
        let at = span.and_then(|span| match after {
            true => UNIX_EPOCH.checked_add(span),
            false => UNIX_EPOCH.checked_sub(span),
        });
        at.map(Some).ok_or_else(|| D::Error::custom("no time"))
    }
}
