//! What are the things of a mesh called?
//!
//! Names are parsed once, where they enter, and compared whole afterwards. They are `Arc<str>`
//! inside: cheap to clone, and never a bare `String` whose meaning has to be guessed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest DNS label (RFC 1035 §2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest DNS name (RFC 1035 §2.3.4), without the trailing dot.
pub const NAME_BYTES_MAX: usize = 253;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?}: {why}")]
pub struct InvalidName {
    /// What was to be named.
    pub kind: &'static str,
    /// The text, cut to 80 bytes.
    pub value: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl InvalidName {
    /// Says why `value` is no `kind`.
    #[must_use]
    pub fn new(kind: &'static str, value: &str, why: &'static str) -> Self {
        Self {
            kind,
            value: value.chars().take(80).collect(),
            why,
        }
    }
}

/// Is this a DNS label: 1 to 63 small letters, digits and inner hyphens (RFC 1123 §2.1)?
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_plain(text)
}

/// A label of any length.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

/// Is this a DNS name in lower case: labels joined by dots, at most 253 bytes?
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

/// Is this a name that Kubernetes gives to an object, where it is no label: like a DNS name, but only
/// its whole length is bounded, and not that of its labels? Not each of them is a name in DNS.
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_plain)
}

/// Is this a token (RFC 9110 §5.6.2)?
#[inline]
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Reads and writes a name as its text; what is read is parsed.
macro_rules! serde_as_text {
    ($name:ident) => {
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr, $why:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared: for who keeps it beside other texts.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(InvalidName::new($kind, text, $why))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        serde_as_text!($name);
    };
}

name_type!(
    /// A cluster: a DNS label, unique in the mesh.
    ClusterId, "cluster", is_label, "not a DNS label (1 to 63 of a-z, 0-9, inner -)"
);
name_type!(
    /// A network: addresses on the same network reach each other without a gateway.
    NetworkId, "network", is_dns_name, "not a DNS name in lower case"
);
name_type!(
    /// A Kubernetes namespace: a DNS label.
    Namespace, "namespace", is_label, "not a DNS label (1 to 63 of a-z, 0-9, inner -)"
);
name_type!(
    /// A service's name in discovery: `namespace/hostname`. A pod's name may make a hostname that is none
    /// in DNS.
    ServiceName, "service",
    |t| t.split_once('/').is_some_and(|(ns, host)| is_label(ns) && is_object_name(host)),
    "not namespace/hostname"
);
name_type!(
    /// A pod's name in discovery: `cluster/namespace/pod`.
    WorkloadName, "workload",
    |t| {
        let mut parts = t.split('/');
        parts.next().is_some_and(is_label)
            && parts.next().is_some_and(is_label)
            && parts.next().is_some_and(is_object_name)
            && parts.next().is_none()
    },
    "not cluster/namespace/pod"
);

impl ServiceName {
    /// The part before the slash.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(ns, _)| ns)
    }

    /// The part after the slash.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, host)| host)
    }
}

impl WorkloadName {
    /// The first part.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.0.split('/').next().unwrap_or("")
    }

    /// The second part.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or("")
    }

    /// The third part.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.0.split('/').nth(2).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_with_its_kind_and_text() {
        let error = "East".parse::<ClusterId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cluster \"East\": not a DNS label (1 to 63 of a-z, 0-9, inner -)"
        );
        for bad in ["", "-a", "a-", "a.b", "a_b", &"a".repeat(64)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_parts_of_a_name_are_found() {
        let service: ServiceName = "shop/cart.shop.svc.cluster.local".parse().unwrap();
        assert_eq!(
            (service.namespace(), service.hostname()),
            ("shop", "cart.shop.svc.cluster.local")
        );
        let pod: WorkloadName = "east/shop/cart-1".parse().unwrap();
        assert_eq!(
            (pod.cluster(), pod.namespace(), pod.pod()),
            ("east", "shop", "cart-1")
        );
        assert!("east/shop".parse::<WorkloadName>().is_err());
        assert!("east/shop/a/b".parse::<WorkloadName>().is_err());
    }

    #[test]
    fn an_object_may_have_a_name_that_no_host_has() {
        let long = "a".repeat(253);
        for name in ["a", "a-1.b", &long, &format!("b.{}", &long[..251])] {
            assert!(is_object_name(name), "{name}");
            let pod = format!("east/shop/{name}").parse::<WorkloadName>().unwrap();
            assert_eq!(pod.pod(), name);
        }
        assert!(!is_dns_name(&long) && !is_label(&long));
        for bad in [
            "",
            "-a",
            "a-",
            "a..b",
            ".a",
            "A",
            "a_b",
            "a/b",
            &"a".repeat(254),
        ] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }
}
