//! Who is it? SPIFFE IDs, parsed strictly and compared whole.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::ids::{ClusterId, InvalidName, is_dns_name, is_label, is_object_name};

/// Longest SPIFFE ID (SPIFFE-ID §2.3).
pub const ID_BYTES_MAX: usize = 2048;

/// A trust domain: `<cluster>.<mesh domain>`, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain of a cluster.
    ///
    /// # Errors
    /// The result is longer than a DNS name may be, or `mesh_domain` is none.
    pub fn of_cluster(cluster: &ClusterId, mesh_domain: &str) -> Result<Self, InvalidName> {
        format!("{cluster}.{mesh_domain}").parse()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first label: the cluster, in a mesh like ours.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.0.split('.').next().unwrap_or("")
    }
}

crate::ids::serde_as_text!(TrustDomain);

impl FromStr for TrustDomain {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_dns_name(text) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidName::new(
                "trust domain",
                text,
                "not a DNS name in lower case",
            ))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Other shapes of path are refused: what the mesh can't name, it can't allow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    /// Where in `text` the namespace and the service account stand.
    namespace: (usize, usize),
    account: (usize, usize),
}

/// By its text alone, which says all the rest.
impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl SpiffeId {
    /// Puts an identity together.
    ///
    /// # Errors
    /// The namespace or the account is not a Kubernetes name.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        account: &str,
    ) -> Result<Self, InvalidName> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").parse()
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part after `spiffe://`.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text
            .get(self.namespace.0..self.namespace.1)
            .unwrap_or("")
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.text.get(self.account.0..self.account.1).unwrap_or("")
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad = |why| InvalidName::new("SPIFFE ID", text, why);
        if text.len() > ID_BYTES_MAX {
            return Err(bad("longer than 2,048 bytes"));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| bad("does not begin with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| bad("has no path"))?;
        let trust_domain: TrustDomain = domain
            .parse()
            .map_err(|_| bad("the trust domain is not a DNS name in lower case"))?;
        let shape = "the path is not /ns/<namespace>/sa/<service account>";
        let (namespace, account) = path
            .strip_prefix("ns/")
            .and_then(|p| p.split_once("/sa/"))
            .ok_or_else(|| bad(shape))?;
        // Neither check lets a slash, a percent sign or a dot segment through.
        if !is_label(namespace) || !is_object_name(account) {
            return Err(bad(shape));
        }
        let at = text.len() - path.len() + "ns/".len();
        let after = at + namespace.len() + "/sa/".len();
        Ok(Self {
            text: Arc::from(text),
            trust_domain,
            namespace: (at, at + namespace.len()),
            account: (after, text.len()),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_parts_are_found() {
        let id: SpiffeId = "spiffe://east.mesh.internal/ns/shop/sa/cart"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain().as_str(), "east.mesh.internal");
        assert_eq!(id.trust_domain().cluster(), "east");
        assert_eq!((id.namespace(), id.service_account()), ("shop", "cart"));
    }

    #[test]
    fn ambiguous_ids_are_refused() {
        let long = format!("spiffe://a.b/ns/x/sa/{}", "y".repeat(2048));
        for bad in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "SPIFFE://a/ns/x/sa/y",
            "spiffe://A/ns/x/sa/y",
            "spiffe://u@a/ns/x/sa/y",
            "spiffe://a:1/ns/x/sa/y",
            "spiffe://a/ns/x/sa/y/",
            "spiffe://a/ns/x/sa/y?q",
            "spiffe://a/ns/x/sa/y#f",
            "spiffe://a/ns/%2e/sa/y",
            "spiffe://a/ns/../sa/y",
            "spiffe://a//ns/x/sa/y",
            "spiffe://a/ns/x//sa/y",
            "spiffe://a/ns/x/sa/y\0",
            "spiffe://a/ns/x/sa/y/z",
            long.as_str(),
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(td in "[a-z]{1,8}\\.[a-z]{1,8}", ns in "[a-z]{1,9}", sa in "[a-z]{1,9}") {
            let id = SpiffeId::new(&td.parse().unwrap(), &ns, &sa).unwrap();
            let again: SpiffeId = id.as_str().parse().unwrap();
            prop_assert_eq!(&again, &id);
            prop_assert_eq!(again.namespace(), ns);
            prop_assert_eq!(again.service_account(), sa);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<SpiffeId>();
            let _ = format!("spiffe://{text}").parse::<SpiffeId>();
        }
    }
}
