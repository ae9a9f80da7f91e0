//! What does a source tell of its cluster?

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use isthmus_proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use super::{Kind, Object, ObjectRef, Refusal};

/// What a source tells, in order, for each cluster.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "handed on one by one, and most are Apply"
)]
pub enum Change {
    /// A full list begins. What was known stays until `InitDone`.
    Init {
        /// Of this cluster.
        cluster: ClusterId,
    },
    /// An object is there, or has changed.
    Apply(Object),
    /// An object is there, and is not taken as it is: what was known under its name stays.
    Refused {
        /// This object.
        at: ObjectRef,
        /// Why.
        why: Refusal,
    },
    /// An object is gone.
    Delete(ObjectRef),
    /// The list is complete: what it did not name is gone.
    InitDone {
        /// Of this cluster.
        cluster: ClusterId,
        /// But for these kinds, which could not be listed: what was known of them stays.
        kept: BTreeSet<Kind>,
    },
    /// A kind that the last `InitDone` had kept is listed now: what was not applied since the last
    /// `Init` is gone.
    Listed {
        /// Of this cluster.
        cluster: ClusterId,
        /// This kind.
        kind: Kind,
    },
    /// The source cannot see the cluster any more; all that was known is kept.
    Lost {
        /// This cluster.
        cluster: ClusterId,
        /// For people.
        reason: String,
    },
    /// These kinds are not as fresh as the cluster, and all others are: until it is said anew.
    Older {
        /// Of this cluster.
        cluster: ClusterId,
        /// By kind.
        kinds: BTreeMap<Kind, KindFreshness>,
    },
    /// The source has looked, and its view was right at that time (a bookmark, a quiet rescan).
    Confirmed {
        /// This cluster.
        cluster: ClusterId,
        /// When.
        at: SystemTime,
    },
    /// All that the cluster's store says of a kind up to this position was told.
    Reached {
        /// Of this cluster.
        cluster: ClusterId,
        /// This kind.
        kind: Kind,
        /// A `resourceVersion`.
        position: u64,
    },
}

/// Kinds whose positions are told ([`Change::Reached`]): what makes endpoints and policies.
pub const POSITIONED: [Kind; 4] = [
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::ServiceExport,
    Kind::AccessPolicy,
];

/// What is known of a kind that is not as fresh as its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindFreshness {
    /// When the source's view of it was last known to be right; `None`: it was never listed.
    #[serde(with = "super::wire::time")]
    pub confirmed_at: Option<SystemTime>,
    /// For people: why.
    pub reason: String,
}
