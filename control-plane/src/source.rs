//! Where does the world learn from?
//!
//! A source tells one cluster's objects as they come: Init, Apply ..., InitDone, then Apply and
//! Delete. When it can't see the cluster it says Lost, and never that things are gone.

pub mod files;
pub mod kubernetes;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::model::Change;
use isthmus_proto::ids::ClusterId;
use tokio::sync::{mpsc, watch};

use crate::manifest::Problem;

/// One maker of changes.
pub trait Source: Send + 'static {
    /// Of this cluster.
    fn cluster(&self) -> &ClusterId;

    /// What operators should know of it.
    fn report(&self) -> watch::Receiver<Report>;

    /// Tells until nobody listens.
    fn run(self, out: mpsc::Sender<Change>) -> impl Future<Output = ()> + Send;
}

/// What is wrong with what a source sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Where it looks.
    pub origin: String,
    /// Files that were read.
    pub files: usize,
    /// Files that could not be understood: what they said before still counts.
    pub errors: BTreeMap<String, Vec<Problem>>,
    /// Objects that were understood in part, and count as invalid.
    pub invalid: BTreeMap<String, Vec<Problem>>,
    /// Looks that ended in a panic: each is a bug.
    pub panics: u64,
    /// Kinds that are not looked at, and how many objects there are of each.
    pub ignored: BTreeMap<String, usize>,
    /// Objects are refused because they are beyond the cluster's quota.
    pub over_quota: bool,
    /// What is known of each kind; empty where a source sees all kinds at once.
    pub kinds: BTreeMap<&'static str, KindReport>,
}

impl Report {
    /// How many files or objects are not understood in full: what is wrong with them stands in `errors`
    /// or in `invalid`.
    #[must_use]
    pub fn not_understood(&self) -> usize {
        let only_invalid = self.invalid.keys();
        let only_invalid = only_invalid.filter(|name| !self.errors.contains_key(*name));
        self.errors.len() + only_invalid.count()
    }

    /// The newest version of each kind that was seen.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, String> {
        let seen = self.kinds.iter();
        let seen = seen.filter(|(_, kind)| !kind.resource_version.is_empty());
        seen.map(|(name, kind)| ((*name).to_owned(), kind.resource_version.clone()))
            .collect()
    }
}

/// How well a source sees one kind of objects.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KindReport {
    /// Does it see them?
    pub state: KindState,
    /// Why it does not, for people; empty if it does.
    pub reason: String,
    /// When the view was last known to be right.
    #[serde(serialize_with = "seconds")]
    pub confirmed_at: Option<SystemTime>,
    /// Full lists that were asked for.
    pub lists: u64,
    /// Watches that were begun again.
    pub restarts: u64,
    /// Bytes that lists and watches brought.
    pub bytes: u64,
    /// The newest `resourceVersion` that was seen; empty: none.
    pub resource_version: String,
    /// The API server does not know who we are (401).
    pub unauthorized: bool,
}

/// Does a source see a kind?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KindState {
    /// Not asked yet.
    Unknown,
    /// The first list is on its way.
    Listing,
    /// Listed, and watched.
    Watching,
    /// Was seen, and is not now.
    Lost,
    /// The credential may not read it; what was known stays.
    Forbidden,
    /// Its definition is gone, and it says who may do what, or who belongs to the mesh: what was known stays.
    Unserved,
    /// The cluster has no such kind; asked again from time to time.
    Absent,
}

/// Seconds since 1970, as the admin port tells times.
#[expect(clippy::ref_option, reason = "serde hands the field over like this")]
fn seconds<S: serde::Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    serde::Serialize::serialize(&since.map(|since| since.as_secs_f64()), to)
}
