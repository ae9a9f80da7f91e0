//! Which of two states of a store is the older one?

/// A `resourceVersion`. Two numbers can be compared (KEP-5504: decimal, growing); anything else can
/// only be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// A number.
    Number(u128),
    /// Something else.
    Opaque(Box<str>),
}

/// Longest version that is taken, in bytes.
const BYTES_MAX: usize = 256;

impl Version {
    /// Reads one; `None`: there is none. `0` is no version, but a question for any.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if text.is_empty() || text == "0" || text.len() > BYTES_MAX {
            return None;
        }
        let number = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        Some(match text.parse() {
            Ok(value) if number => Self::Number(value),
            Ok(_) | Err(_) => Self::Opaque(text.into()),
        })
    }

    /// As a number, if it is one of a store that is met: etcd counts in 63 bits.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            Self::Opaque(_) => None,
        }
    }

    /// Is it known to be older than the other?
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one < other,
            (Self::Opaque(_), _) | (_, Self::Opaque(_)) => false,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Opaque(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_and_other_texts_are_only_equal_or_not() {
        let read = |text| Version::read(text).unwrap();
        assert!(read("9").is_before(&read("10")));
        assert!(!read("10").is_before(&read("9")));
        assert!(!read("10").is_before(&read("10")));
        // More than 64 bits.
        assert!(read("18446744073709551615").is_before(&read("18446744073709551616")));
        for odd in ["a", "01", "-1", "1.5", " 1", "+1", &"9".repeat(60)] {
            let odd = read(odd);
            assert!(matches!(odd, Version::Opaque(_)), "{odd}");
            assert!(!odd.is_before(&read("5")) && !read("5").is_before(&odd));
            assert_eq!(Version::read(&odd.to_string()), Some(odd));
        }
        for none in ["", "0", &"9".repeat(300)] {
            assert_eq!(Version::read(none), None, "{none}");
        }
    }
}
