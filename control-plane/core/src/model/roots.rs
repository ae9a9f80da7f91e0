//! What do pods need to find the control plane, and to believe it?

use isthmus_proto::ids::ClusterId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{Labels, Managed};

/// The name of the ConfigMap in every meshed namespace.
pub const ROOTS_NAME: &str = "isthmus-roots";

/// A ConfigMap of the name [`ROOTS_NAME`], as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigMap {
    /// Made by the mesh; `None`: by somebody else.
    pub managed: Option<Managed>,
    /// The digest of what it holds. What others put there may be a megabyte, in every namespace.
    pub digest: [u8; 32],
}

impl ConfigMap {
    /// The digest of what a ConfigMap holds.
    #[must_use]
    pub fn digest(data: &Labels) -> [u8; 32] {
        let mut sum = Sha256::new();
        for text in data.iter().flat_map(|(key, value)| [key, value]) {
            sum.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            sum.update(text);
        }
        sum.finalize().into()
    }
}

/// What pods are told, apart from their own trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertised {
    /// By which the control plane's certificate is checked, PEM.
    pub roots_pem: String,
    /// HOST:PORT for proxies of every cluster; `None`: those of the home cluster only are told.
    pub address: Option<String>,
    /// HOST:PORT for proxies of this cluster, where it is another one.
    pub home: Option<(ClusterId, String)>,
}

impl Advertised {
    /// Where proxies of this cluster find the control plane.
    #[must_use]
    pub fn address_for(&self, cluster: &ClusterId) -> Option<&str> {
        let home = self.home.iter().find(|(home, _)| home == cluster);
        home.map(|(_, address)| address)
            .or(self.address.as_ref())
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_apart_also_where_the_joined_text_is_the_same() {
        let of = |list: &[(&str, &str)]| {
            let entry = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            ConfigMap::digest(&list.iter().map(entry).collect())
        };
        assert_eq!(of(&[("a", "b"), ("c", "d")]), of(&[("c", "d"), ("a", "b")]));
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "bcd")]));
    }

    #[test]
    fn the_home_cluster_has_an_address_of_its_own() {
        let told = Advertised {
            roots_pem: String::new(),
            address: Some("cp.example.com:15012".to_owned()),
            home: Some((
                "east".parse().unwrap(),
                "control-plane.svc:15012".to_owned(),
            )),
        };
        let of = |cluster: &str| {
            told.address_for(&cluster.parse().unwrap())
                .map(str::to_owned)
        };
        assert_eq!(of("east").unwrap(), "control-plane.svc:15012");
        assert_eq!(of("west").unwrap(), "cp.example.com:15012");
        let own = Advertised {
            address: None,
            ..told
        };
        assert_eq!(own.address_for(&"west".parse().unwrap()), None);
    }
}
