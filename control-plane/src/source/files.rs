//! What does this folder of manifests say, now and from now on?
//!
//! File events only say when to look; what is told comes from comparing what is there with what was
//! told before. Without events (some file systems have none) the folder is looked at all the same,
//! only later.

mod folder;
mod look;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::model::Change;
use isthmus_proto::ids::ClusterId;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{Report, Source};
use folder::{Folder, Scan};

/// A folder without events is looked at this often.
const POLL: Duration = Duration::from_secs(2);
/// After an event the folder is looked at when none came for this long ...
const QUIET: Duration = Duration::from_millis(30);
/// ... and at the latest after this.
const QUIET_MAX: Duration = Duration::from_millis(300);
/// How long until a second look at what seems to be on its way.
const SETTLE: Duration = Duration::from_millis(100);

/// A folder per cluster.
#[derive(Debug)]
pub struct FilesSource {
    cluster: ClusterId,
    root: PathBuf,
    report: watch::Sender<Report>,
}

impl FilesSource {
    /// A source that reads `root` and the folders below it.
    #[must_use]
    pub fn new(cluster: &ClusterId, root: &Path) -> Self {
        let origin = root.display().to_string();
        let report = watch::Sender::new(Report {
            origin,
            ..Report::default()
        });
        Self {
            cluster: cluster.clone(),
            root: root.to_path_buf(),
            report,
        }
    }
}

impl Source for FilesSource {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    async fn run(self, out: mpsc::Sender<Change>) {
        self.look_with(Folder::scan, out).await;
    }
}

/// One look at a folder.
type Look = fn(&mut Folder, Instant, SystemTime) -> Scan;

impl FilesSource {
    async fn look_with(self, look: Look, out: mpsc::Sender<Change>) {
        let fresh = || Folder::new(self.cluster.clone(), self.root.clone());
        let (mut events, mut folder) = (Events::new(&self.root), fresh());
        let mut lost = false;
        loop {
            // First listen, then look: nothing that happens in between is missed.
            events.listen();
            let looking = tokio::task::spawn_blocking(move || {
                let scan = look(&mut folder, Instant::now(), SystemTime::now());
                (folder, scan)
            });
            let Scan { changes, again } = match looking.await {
                Ok((back, scan)) => {
                    folder = back;
                    self.tell(folder.report());
                    scan
                }
                // What the folder was known to say went with it, and is told anew.
                Err(_) => {
                    folder = fresh();
                    self.report.send_modify(|report| report.panics += 1);
                    tracing::error!(cluster = %self.cluster, "reading the folder panicked");
                    self.panicked()
                }
            };
            for change in changes {
                lost = self.log(&change, lost);
                if out.send(change).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                // Both are cancel-safe: nothing is taken that the next look would need.
                () = out.closed() => return,
                () = events.wait(again) => {}
            }
        }
    }

    fn panicked(&self) -> Scan {
        let (cluster, reason) = (self.cluster.clone(), "reading it panicked".to_owned());
        Scan {
            changes: vec![Change::Lost { cluster, reason }],
            again: false,
        }
    }

    /// Says when the cluster is lost and when it is back. Is it lost after this change?
    fn log(&self, change: &Change, lost: bool) -> bool {
        let (cluster, folder) = (&self.cluster, self.root.display());
        match change {
            Change::Lost { reason, .. } => {
                tracing::warn!(%cluster, %folder, "lost, what was known of it stays: {reason}");
                true
            }
            Change::InitDone { .. } if lost => {
                tracing::info!(%cluster, %folder, "back");
                false
            }
            _ => lost,
        }
    }

    /// Publishes what is wrong, and logs what is wrong anew.
    fn tell(&self, mut report: Report) {
        self.report.send_if_modified(|old| {
            report.panics = old.panics;
            for (file, problems) in report.errors.iter().chain(&report.invalid) {
                let known = [old.errors.get(file), old.invalid.get(file)];
                for problem in problems {
                    if !known.iter().flatten().any(|list| list.contains(problem)) {
                        tracing::warn!(cluster = %self.cluster, "{}", problem.in_file(file));
                    }
                }
            }
            let changed = *old != report;
            *old = report;
            changed
        });
    }
}

/// Tells when something may have happened in a folder.
struct Events {
    root: PathBuf,
    /// The watcher and the folder that it watches, by device and inode: a folder that takes
    /// another's place is another one.
    watcher: Option<(RecommendedWatcher, (u64, u64))>,
    happened: mpsc::Receiver<()>,
    happen: mpsc::Sender<()>,
}

impl Events {
    fn new(root: &Path) -> Self {
        // One place: that something happened is all there is to say.
        let (happen, happened) = mpsc::channel(1);
        Self {
            root: root.to_path_buf(),
            watcher: None,
            happened,
            happen,
        }
    }

    /// Watches the folder that is there now.
    fn listen(&mut self) {
        let there = std::fs::metadata(&self.root)
            .map(|meta| (meta.dev(), meta.ino()))
            .ok();
        if there.is_some() && self.watcher.as_ref().map(|(_, watched)| *watched) == there {
            return;
        }
        self.watcher = None;
        let Some(there) = there else { return };
        let happen = self.happen.clone();
        let watcher = notify::recommended_watcher(move |event| {
            if !is_news(&event) {
                return;
            }
            // Full: the look that is due will see this too.
            let _ = happen.try_send(());
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => self.watcher = Some((watcher, there)),
            Err(error) => {
                let folder = self.root.display();
                tracing::warn!(%folder, %error, "no file events; looking every 2 s instead");
            }
        }
    }

    /// Until it is time to look again.
    async fn wait(&mut self, again: bool) {
        if again {
            tokio::time::sleep(SETTLE).await;
            return;
        }
        if timeout(POLL, self.happened.recv()).await.is_err() {
            return;
        }
        let quiet = async { while timeout(QUIET, self.happened.recv()).await.is_ok() {} };
        // Whoever writes all the time is looked at all the same.
        let _ = timeout(QUIET_MAX, quiet).await;
    }
}

/// Can it have changed what the folder says? What is only opened and read has not, and our own look
/// does that: it would lead to the next one, for ever.
fn is_news(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(AccessKind::Close(AccessMode::Write))) => true,
        Ok(EventKind::Access(_)) => false,
        // After a failure events may be missing.
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
