//! What was each cluster when it was last seen?
//!
//! The last good world of every cluster lies in the state folder, so that a control plane that starts
//! while a cluster can't be reached serves what it had, marked stale and as old as it is. A file that
//! is cut, altered, of another mesh or of a newer version says nothing: it is left aside, and
//! operators are told. Policies are among what is kept, so a restart never knows fewer of them.

mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::world::{LastSeen, Place, State};
use isthmus_proto::ids::ClusterId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::hub::Hub;
use crate::source::Report;
use crate::state::{StateDir, StateError};
use format::{About, Written};
pub use format::{Mark, Refused};

/// A cluster that changes is written this often at most.
const WRITE_EVERY: Duration = Duration::from_secs(3);
/// ... and this often, however long it takes.
const WRITE_AT_LEAST: Duration = Duration::from_secs(60);
/// Times as long as writing takes, nothing is written after it.
const REST: u32 = 20;
/// A cluster that is only confirmed is written this often: a control plane that is killed may
/// think that what it knows is older than it is, by so much.
const CONFIRM_EVERY: Duration = Duration::from_secs(60);
/// Objects that are taken out of the world in one go; its writer gets its turn in between.
const PAGE_OBJECTS: usize = 256;
/// The folder in the state folder.
const FOLDER: &str = "worlds";

/// The worlds on disk.
#[derive(Debug)]
pub struct Saved {
    state: StateDir,
    mesh_domain: String,
    clusters: Mutex<BTreeMap<ClusterId, Kept>>,
    /// Held while a file is written or removed.
    writing: Mutex<()>,
}

/// What was done for one cluster.
#[derive(Debug, Clone, Default)]
struct Kept {
    note: Note,
    /// Which cluster it was, and up to where it was seen, before this source of it.
    mark: Mark,
    /// What its source says now.
    report: Option<watch::Receiver<Report>>,
    /// The world's revision and confirmation that are on disk, and since when.
    written: Option<(u64, Option<SystemTime>, Instant)>,
}

/// What operators should know about a saved world.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// Objects that were there at the start; `None`: nothing was restored.
    pub restored: Option<usize>,
    /// Why the file that was there at the start was left aside.
    pub refused: Option<String>,
    /// Objects of the file as it is.
    pub objects: usize,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Why it could not be written the last time.
    pub failed: Option<String>,
}

impl Kept {
    /// Up to where the cluster was seen; kinds that its source has not seen yet as far as before.
    fn mark(&self) -> Mark {
        let mut mark = self.mark.clone();
        if let Some(report) = &self.report {
            let versions = report.borrow().versions();
            mark.versions.extend(versions);
        }
        mark
    }
}

impl Saved {
    /// The saved worlds of a mesh. What a crash has left half-written is cleared away.
    ///
    /// # Errors
    /// The state folder can't be used.
    pub fn open(state: &StateDir, mesh_domain: &str) -> Result<Self, StateError> {
        state.clear_drafts(FOLDER)?;
        Ok(Self {
            state: state.clone(),
            mesh_domain: mesh_domain.to_owned(),
            clusters: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    /// Gives a cluster, of which nothing is known yet, what was known when it was last seen. What
    /// stands in the way is said, and stops nobody.
    pub fn restore(&self, hub: &Hub, cluster: &ClusterId) {
        let mut kept = Kept::default();
        match self.read(cluster) {
            Ok(None) => {}
            Ok(Some((about, objects))) => {
                let seen = about.seen;
                kept.mark = about.mark;
                let (mut taken, mut found) = (false, (0, None));
                hub.change(|world| {
                    let known = LastSeen {
                        at: about.seen,
                        unknown: &about.unknown,
                        older: &about.older,
                    };
                    let (done, dirty) = world.restore(cluster, &objects, known, SystemTime::now());
                    taken = done;
                    found = revision(world, cluster).unwrap_or_default();
                    dirty
                });
                if taken {
                    let objects = objects.len();
                    let age = SystemTime::now().duration_since(seen).unwrap_or_default();
                    let seconds = age.as_secs();
                    tracing::info!(%cluster, objects, seconds, "restored as it was last seen");
                    kept.note.restored = Some(objects);
                    kept.written = Some((found.0, found.1, Instant::now()));
                }
            }
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(%cluster, "the saved world says nothing: {why}");
                if let Err(error) = self.state.set_aside(&file(cluster)) {
                    let error = anyhow::Error::from(error);
                    tracing::error!(%cluster, "it can't be left aside: {error:#}");
                }
                kept.note.refused = Some(why);
            }
        }
        self.lock().insert(cluster.clone(), kept);
    }

    /// A cluster has left the mesh, and the world: it will not come back by itself.
    pub fn forget(&self, cluster: &ClusterId) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().remove(cluster);
        if let Err(error) = self.state.remove(&file(cluster)) {
            let error = anyhow::Error::from(error);
            tracing::error!(%cluster, "the saved world stays: {error:#}");
        }
    }

    /// What operators should know about a cluster's file; `None`: it was not asked for.
    #[must_use]
    pub fn note(&self, cluster: &ClusterId) -> Option<Note> {
        self.lock().get(cluster).map(|kept| kept.note.clone())
    }

    /// Which cluster this one is, and up to where it was seen.
    #[must_use]
    pub fn mark(&self, cluster: &ClusterId) -> Mark {
        self.lock().get(cluster).map(Kept::mark).unwrap_or_default()
    }

    /// The cluster is this one; the file will say so.
    pub fn identify(&self, cluster: &ClusterId, uid: &str) {
        if let Some(kept) = self.lock().get_mut(cluster)
            && kept.mark.uid.as_deref() != Some(uid)
        {
            kept.mark.uid = Some(uid.to_owned());
            kept.written = None;
        }
    }

    /// The cluster is seen by another source from now on.
    pub fn follow(&self, cluster: &ClusterId, report: watch::Receiver<Report>) {
        if let Some(kept) = self.lock().get_mut(cluster) {
            kept.mark = kept.mark();
            kept.report = Some(report);
        }
    }

    /// Writes what has changed, again and again.
    pub async fn keep(self: Arc<Self>, hub: Arc<Hub>) {
        loop {
            let begun = Instant::now();
            let (saved, hub) = (Arc::clone(&self), Arc::clone(&hub));
            let writing = tokio::task::spawn_blocking(move || saved.write(&hub, CONFIRM_EVERY));
            if writing.await.is_err() {
                tracing::error!("writing the saved worlds panicked");
            }
            sleep(rest(begun.elapsed())).await;
        }
    }

    /// Writes every cluster that has changed, or whose confirmation on disk is older than this. A
    /// cluster that was never listed is not written: what is known of it is not whole.
    pub fn write(&self, hub: &Hub, confirm_every: Duration) {
        let known: Vec<_> = hub.read(|world| {
            let listed = world.clusters().filter(|status| match status.state {
                State::Unknown => false,
                State::Synced | State::Stale => true,
            });
            listed
                .map(|status| {
                    let told = (status.revision, status.confirmed_at);
                    let kinds = (status.unknown.clone(), status.older.clone());
                    (status.cluster.clone(), told, kinds)
                })
                .collect()
        });
        for (cluster, (revision, confirmed), (unknown, older)) in known {
            let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(kept) = self.lock().get(&cluster).cloned() else {
                continue;
            };
            let due = kept.written.is_none_or(|(old, told, since)| {
                old != revision || (told != confirmed && since.elapsed() >= confirm_every)
            });
            let Some(seen) = confirmed.filter(|_| due) else {
                continue;
            };
            let mut about = About::new(&self.mesh_domain, &cluster, seen);
            about.mark = kept.mark();
            (about.unknown, about.older) = (unknown, older);
            let result = self.write_one(hub, &cluster, &about);
            let mut clusters = self.lock();
            let Some(kept) = clusters.get_mut(&cluster) else {
                continue;
            };
            match result {
                Ok(done) => {
                    kept.written = Some((revision, confirmed, Instant::now()));
                    kept.note.objects = done.objects;
                    kept.note.bytes = done.bytes;
                    kept.note.failed = None;
                }
                Err(error) => {
                    let why = format!("{:#}", anyhow::Error::from(error));
                    if kept.note.failed.as_ref() != Some(&why) {
                        tracing::error!(%cluster, "the world on disk stays as it was: {why}");
                    }
                    kept.note.failed = Some(why);
                }
            }
        }
    }

    fn write_one(
        &self,
        hub: &Hub,
        cluster: &ClusterId,
        about: &About,
    ) -> Result<Written, StateError> {
        self.state.replace(&file(cluster), |out| {
            let page = |after: Option<&Place>| {
                let some = hub.read(|world| world.page(cluster, after, PAGE_OBJECTS));
                some.ok_or_else(|| io::Error::other("the cluster has left"))
            };
            format::write(out, about, page)
        })
    }

    fn read(
        &self,
        cluster: &ClusterId,
    ) -> Result<Option<(About, Vec<isthmus_control_plane_core::model::Object>)>, Refused> {
        let Some(input) = self
            .state
            .open_file(&file(cluster))
            .map_err(Refused::State)?
        else {
            return Ok(None);
        };
        format::read(BufReader::new(input), &self.mesh_domain, cluster).map(Some)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ClusterId, Kept>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn revision(
    world: &isthmus_control_plane_core::world::World,
    cluster: &ClusterId,
) -> Option<(u64, Option<SystemTime>)> {
    let status = world.clusters().find(|status| status.cluster == cluster)?;
    Some((status.revision, status.confirmed_at))
}

/// How long nothing is written after writing took so long: where much changes all the time, clients
/// need the processor more than the disk does.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(REST).clamp(WRITE_EVERY, WRITE_AT_LEAST)
}

fn file(cluster: &ClusterId) -> String {
    format!("{FOLDER}/{cluster}.world")
}
