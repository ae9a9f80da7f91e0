//! What is written in an object's status, as it was seen there?
//!
//! Kept so that the writer writes only what differs. Only what this mesh writes is looked at: what
//! other controllers say of the same object is theirs.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{Labels, Reach, Spec};

/// The label by which objects that the mesh made are known. Objects without it are somebody else's:
/// never overwritten, never deleted.
pub const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "isthmus";

/// Does a condition hold?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Truth {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`.
    Unknown,
}

impl Truth {
    /// As it stands in Kubernetes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One condition of a status (`metav1.Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// `Accepted`, `Conflict`, ...
    pub kind: String,
    /// Does it hold?
    pub status: Truth,
    /// One word in CamelCase, or several with commas.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation of the object that it speaks of; 0: none was named.
    pub generation: i64,
    /// Since when `status` is so.
    pub since: Option<SystemTime>,
}

impl Said {
    /// Does the other one say the same? Since when is left out.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.status == other.status
            && self.reason == other.reason
            && self.message == other.message
            && self.generation == other.generation
    }
}

/// What an object's API server says about it, and what the mesh had written in its status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// `metadata.generation`: grows with the spec. 0: not known.
    pub generation: i64,
    /// `status.conditions`, of the types that the mesh writes.
    pub conditions: Vec<Said>,
    /// It has a deletion timestamp: it is there until its last finalizer is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

impl Observed {
    /// Is nothing known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Spec {
    /// What stands in the status, of kinds whose author is told when they are refused.
    #[must_use]
    pub fn observed(&self) -> Option<&Observed> {
        match self {
            Self::MeshCluster(mesh) => Some(&mesh.observed),
            Self::AccessPolicy(policy) => Some(&policy.observed),
            Self::TrafficPolicy(policy) => Some(&policy.observed),
            Self::TrustPolicy(policy) => Some(&policy.observed),
            Self::Namespace(_)
            | Self::ServiceAccount
            | Self::Pod(_)
            | Self::Deployment
            | Self::Service(_)
            | Self::EndpointSlice(_)
            | Self::ServiceExport(_)
            | Self::ServiceImport(_)
            | Self::Route(_)
            | Self::ReferenceGrant(_)
            | Self::Gateway(_)
            | Self::GatewayClass(_)
            | Self::ClusterProperty(_)
            | Self::ClusterProfile(_)
            | Self::ConfigMap(_) => None,
        }
    }
}

/// Why an object is not taken as its cluster has it. What it said before still counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word in CamelCase, for a condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What stands in its status.
    pub observed: Observed,
}

/// What the mesh had written about one parent of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentStatus {
    /// The parent, as the route names it.
    pub parent: Parent,
    /// What was said of it.
    pub conditions: Vec<Said>,
}

/// A parent as a route names it: the status must repeat it word by word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// `kind: Service` or `kind: ServiceImport`.
    pub reach: Reach,
    /// `None`: not written, so the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The name of a port.
    pub section: Option<String>,
    /// The number of a port.
    pub port: Option<u16>,
}

/// What is known of an object that the mesh made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// `metadata.uid`.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// The `uid` of the ServiceImport that owns it.
    pub owner: String,
}

impl Managed {
    /// Do its labels say that the mesh made it?
    #[must_use]
    pub fn is_ours(labels: &Labels) -> bool {
        labels.get(MANAGED_LABEL).map(String::as_str) == Some(MANAGED_BY)
    }

    /// With the words of others as hashes only: an import carries what another cluster exports, and what
    /// that writes must not fill the memory that is the importing cluster's own.
    #[must_use]
    pub fn folded(self) -> Self {
        Self {
            labels: fold(&self.labels),
            annotations: fold(&self.annotations),
            ..self
        }
    }
}

/// Keys that the mesh itself writes.
const OWN_PREFIXES: [&str; 3] = ["multicluster.kubernetes.io/", "isthmus.dev/", MANAGED_LABEL];

/// Where the hashes of others' words stand.
const OTHERS: &str = "#";

/// Keys of our own as they are; of the others a hash of each with its value, all in one text.
fn fold(words: &Labels) -> Labels {
    let (mut folded, mut others) = (Labels::new(), String::new());
    for (key, value) in words {
        if is_own(key) {
            folded.insert(key.clone(), value.clone());
        } else {
            others.push_str(&short_hash([key, value]));
            others.push(' ');
        }
    }
    if !others.is_empty() {
        folded.insert(OTHERS.to_owned(), others);
    }
    folded
}

/// Do folded words have all that is wanted?
pub(crate) fn folded_hold(folded: &Labels, wanted: &Labels) -> bool {
    let others = folded.get(OTHERS).map(String::as_str).unwrap_or_default();
    wanted.iter().all(|(key, value)| {
        let hashed = || {
            let hash = short_hash([key, value]);
            others.split(' ').any(|one| one == hash)
        };
        folded.get(key) == Some(value) || !is_own(key) && hashed()
    })
}

fn is_own(key: &str) -> bool {
    OWN_PREFIXES.iter().any(|own| key.starts_with(own))
}

/// Tells lists of texts apart, in 16 characters.
pub(crate) fn short_hash<'a, T: AsRef<str> + ?Sized + 'a>(
    parts: impl IntoIterator<Item = &'a T>,
) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        sha.update(part.len().to_be_bytes());
        sha.update(part);
    }
    let digest: [u8; 32] = sha.finalize().into();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
