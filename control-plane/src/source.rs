//! Where does the world learn from?
//!
//! A source tells one cluster's objects as they come: Init, Apply ..., InitDone, then Apply and
//! Delete. When it can't see the cluster it says Lost, and never that things are gone.

pub mod files;

use std::collections::BTreeMap;
use std::future::Future;

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
    /// Kinds that are not looked at, and how many objects there are of each.
    pub ignored: BTreeMap<String, usize>,
}
