//! Which addresses belong to whom?

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ids::InvalidName;

/// A range of IP addresses in CIDR notation: `10.8.0.0/16`, `fd00:8::/48`. Written as the first of its
/// addresses: what has bits beyond the prefix may be meant otherwise than it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    first: IpAddr,
    bits: u8,
}

/// Fewest bits of the prefix of a range of pods, IPv4: the largest block that clusters take pods from is
/// 240.0.0.0/4. One without any would take every address of its network as its own.
pub const POD_BITS_MIN_V4: u8 = 4;
/// ... and IPv6. The block of private addresses (fc00::/7) is everybody's.
pub const POD_BITS_MIN_V6: u8 = 12;

impl IpRange {
    /// Can it be where the pods of one cluster are? Else how many bits its prefix needs at least.
    ///
    /// # Errors
    /// It is wider than that.
    pub fn of_pods(self) -> Result<Self, InvalidName> {
        let (least, why) = if self.first.is_ipv4() {
            (
                POD_BITS_MIN_V4,
                "wider than /4: no cluster has so many pods",
            )
        } else {
            (
                POD_BITS_MIN_V6,
                "wider than /12: no cluster has so many pods",
            )
        };
        if self.bits < least {
            return Err(InvalidName::new("range", &self.to_string(), why));
        }
        Ok(self)
    }

    /// Is the address in it? IPv4 written as IPv6 is IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.first.is_ipv4()
            && prefix(ip, self.bits) == prefix(self.first, self.bits)
    }

    /// Are all addresses of the other one in it?
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.first)
    }

    /// Is there an address that is in both?
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

/// The first bits of an address, at the right end.
fn prefix(ip: IpAddr, bits: u8) -> u128 {
    let (number, width) = match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32_u8),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let rest = u32::from(width.saturating_sub(bits));
    number.checked_shr(rest).unwrap_or(0)
}

impl FromStr for IpRange {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refused = |why| InvalidName::new("range", text, why);
        let (ip, bits) = text
            .split_once('/')
            .ok_or_else(|| refused("not ADDRESS/BITS"))?;
        let first: IpAddr = ip.parse().map_err(|_| refused("its address is none"))?;
        if first.to_canonical() != first {
            return Err(refused("IPv4 written as IPv6"));
        }
        let digits = bits.bytes().all(|b| b.is_ascii_digit());
        let plain = digits && (bits == "0" || !bits.starts_with('0'));
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits
            .parse::<u8>()
            .ok()
            .filter(|bits| plain && *bits <= width);
        let bits = bits.ok_or_else(|| refused("no such number of bits"))?;
        let rest = u32::from(width.saturating_sub(bits));
        if prefix(first, bits).checked_shl(rest).unwrap_or(0) != prefix(first, width) {
            return Err(refused("its address has bits beyond the prefix"));
        }
        Ok(Self { first, bits })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for IpRange {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for IpRange {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn no_cluster_has_pods_everywhere() {
        for (text, can) in [
            ("0.0.0.0/0", false),
            ("128.0.0.0/3", false),
            ("240.0.0.0/4", true),
            ("10.8.3.7/32", true),
            ("::/0", false),
            ("fc00::/7", false),
            ("fd00::/11", false),
            ("fd00::/12", true),
        ] {
            assert_eq!(range(text).of_pods().is_ok(), can, "{text}");
        }
        let why = range("0.0.0.0/0").of_pods().unwrap_err().to_string();
        assert!(why.contains("0.0.0.0/0") && why.contains("/4"), "{why}");
    }

    #[test]
    fn a_range_has_its_addresses_and_no_others() {
        for (of, ip, is_in) in [
            ("10.8.0.0/16", "10.8.255.255", true),
            ("10.8.0.0/16", "10.9.0.0", false),
            ("10.8.0.0/16", "::ffff:10.8.0.1", true),
            ("10.8.3.7/32", "10.8.3.7", true),
            ("10.8.3.7/32", "10.8.3.6", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "10.8.0.1", false),
            ("fd00:8::/48", "fd00:8:0:ffff::1", true),
            ("fd00:8::/48", "fd00:8:1::1", false),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(range(of).contains(ip), is_in, "{of} {ip}");
        }
    }

    #[test]
    fn ranges_overlap_if_they_have_an_address_in_common() {
        for (a, b, meet) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "203.0.113.0/24", true),
            ("::/0", "10.0.0.0/8", false),
            ("fd00::/64", "fd00::1:0:0/96", true),
        ] {
            let (one, other) = (range(a), range(b));
            assert_eq!(one.overlaps(&other), meet, "{a} {b}");
            assert_eq!(other.overlaps(&one), meet, "{b} {a}");
            assert_eq!(one.covers(&other) || other.covers(&one), meet, "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_and_the_rest_is_written_as_it_is_read() {
        for bad in [
            "",
            "10.8.0.0",
            "10.8.0.0/",
            "10.8.0.0/33",
            "10.8.0.1/16",
            "10.8/16",
            "10.8.0.0/+8",
            "10.8.0.0/016",
            "10.8.0.0/16/1",
            "fd00::/129",
            "fd00::1/64",
            "::ffff:10.8.0.0/112",
            "cart/16",
            " 10.8.0.0/16",
        ] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad:?}");
        }
        for good in [
            "10.8.0.0/16",
            "0.0.0.0/0",
            "fd00:8::/48",
            "10.8.3.7/32",
            "::/0",
        ] {
            assert_eq!(range(good).to_string(), good);
        }
    }
}
