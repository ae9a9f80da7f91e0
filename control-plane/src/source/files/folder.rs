//! What has changed in a folder since it was looked at last?
//!
//! A file that can't be understood counts as it was. One that never was may declare anything: what the
//! others say is told, nothing is gone, and the cluster is lost until it is understood. A folder that
//! can't be read is lost, not empty. What is missing is looked at twice before it is gone: a file on its way from one name to
//! another, or half-written, is not a deletion.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::model::{Change, Kind, Object, ObjectRef};
use isthmus_proto::ids::ClusterId;

use crate::manifest::{self, Parsed, Problem};
use crate::source::Report;

/// Most files of one cluster.
const FILES_MAX: usize = 20_000;
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Folders in folders.
const DEPTH_MAX: usize = 16;
/// What is missing for this long is gone.
const MISSING: Duration = Duration::from_millis(80);

/// What a look at the folder came to.
pub(super) struct Scan {
    /// What to tell, in order.
    pub(super) changes: Vec<Change>,
    /// Something is on its way: look again soon.
    pub(super) again: bool,
}

/// What is known of a folder.
pub(super) struct Folder {
    cluster: ClusterId,
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What was told.
    told: BTreeMap<ObjectRef, Object>,
    /// When an object was first seen that does not say when it was created.
    seen: BTreeMap<ObjectRef, SystemTime>,
    /// Since when objects are missing that were told.
    missing: BTreeMap<ObjectRef, Instant>,
    /// Objects that two files declare: the file that does not count, and the one that does.
    twice: BTreeMap<PathBuf, Vec<Problem>>,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    /// Not told as a whole: never, or not since it was lost. The reason was told.
    Unlisted(Option<String>),
    /// Told, but for files that were never understood. The reason was told.
    Partly(String),
    /// Back after it was lost, with this many objects.
    Returning(usize),
    Listed,
}

/// What is known of one file.
struct File {
    /// By what a change of the file shows. `None`: it could not be read.
    stamp: Option<Stamp>,
    /// What it said when it was last understood.
    good: Option<Parsed>,
    /// Why it is not understood now.
    errors: Vec<Problem>,
    modified: SystemTime,
}

#[derive(PartialEq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Folder {
    pub(super) fn new(cluster: ClusterId, root: PathBuf) -> Self {
        Self {
            cluster,
            root,
            files: BTreeMap::new(),
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
            missing: BTreeMap::new(),
            twice: BTreeMap::new(),
            stage: Stage::Unlisted(None),
        }
    }

    /// Looks, and says what has changed.
    pub(super) fn scan(&mut self, now: Instant, time: SystemTime) -> Scan {
        let mut paths = BTreeMap::new();
        if let Err((path, error)) = list(&self.root, 0, &mut paths) {
            return self.lose(format!("{}: {error}", path.display()));
        }
        self.files.retain(|path, _| paths.contains_key(path));
        for (path, meta) in &paths {
            self.read(path, meta);
        }
        let objects = self.objects();
        match self.stage {
            Stage::Listed => self.compare(objects, now, time),
            Stage::Unlisted(_) | Stage::Partly(_) | Stage::Returning(_) => self.list(objects),
        }
    }

    /// What operators should know.
    pub(super) fn report(&self) -> Report {
        let mut report = Report {
            origin: self.root.display().to_string(),
            files: self.files.len(),
            ..Report::default()
        };
        for (path, file) in &self.files {
            let name = self.name(path);
            let twice = self.twice.get(path).into_iter().flatten();
            let errors: Vec<Problem> = file.errors.iter().chain(twice).cloned().collect();
            if !errors.is_empty() {
                report.errors.insert(name.clone(), errors);
            }
            let Some(good) = &file.good else { continue };
            if !good.invalid.is_empty() {
                report.invalid.insert(name, good.invalid.clone());
            }
            for kind in &good.ignored {
                *report.ignored.entry(kind.clone()).or_default() += 1;
            }
        }
        report
    }

    /// A path as operators know it: inside the folder.
    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// The folder can't be seen. What was told stays; the files are read anew when it is back.
    fn lose(&mut self, reason: String) -> Scan {
        self.missing.clear();
        for file in self.files.values_mut() {
            file.stamp = None;
        }
        let told = matches!(&self.stage, Stage::Unlisted(Some(old)) if *old == reason);
        self.stage = Stage::Unlisted(Some(reason.clone()));
        let cluster = self.cluster.clone();
        let changes = if told {
            Vec::new()
        } else {
            vec![Change::Lost { cluster, reason }]
        };
        Scan {
            changes,
            again: false,
        }
    }

    /// Reads a file if it has changed.
    fn read(&mut self, path: &Path, meta: &Metadata) {
        let stamp = Some(Stamp {
            inode: (meta.dev(), meta.ino()),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        });
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let empty = File {
            stamp: None,
            good: None,
            errors: Vec::new(),
            modified,
        };
        let file = self.files.entry(path.to_path_buf()).or_insert(empty);
        if file.stamp == stamp {
            return;
        }
        match read(path) {
            Ok(text) => {
                let parsed = manifest::parse(&text, &self.cluster);
                file.errors.clone_from(&parsed.errors);
                if parsed.errors.is_empty() {
                    file.good = Some(parsed);
                }
                file.stamp = stamp;
            }
            Err(error) => {
                let message = error.to_string();
                let problem = Problem {
                    line: 0,
                    column: 0,
                    object: String::new(),
                    message,
                };
                file.errors = vec![problem];
                file.stamp = None;
            }
        }
    }

    /// What all files declare. Of two that declare the same object, the first by name counts.
    fn objects(&mut self) -> BTreeMap<ObjectRef, Object> {
        let mut objects: BTreeMap<ObjectRef, (Object, &Path)> = BTreeMap::new();
        let mut twice: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for (path, file) in &self.files {
            for object in file.good.iter().flat_map(|good| &good.objects) {
                let at = object.reference();
                match objects.entry(at) {
                    Entry::Vacant(place) => {
                        let mut object = object.clone();
                        // Held in memory: an edit does not make the object younger.
                        let seen = self
                            .seen
                            .entry(place.key().clone())
                            .or_insert(file.modified);
                        object.created = object.created.or(Some(*seen));
                        place.insert((object, path));
                    }
                    Entry::Occupied(place) => {
                        let other = self.root.join(place.get().1);
                        let other = other.strip_prefix(&self.root).unwrap_or(&other);
                        let message = format!("is in {} already, which counts", other.display());
                        let object = place.key().to_string();
                        let problem = Problem {
                            line: 0,
                            column: 0,
                            object,
                            message,
                        };
                        twice.entry(path.clone()).or_default().push(problem);
                    }
                }
            }
        }
        let objects: BTreeMap<ObjectRef, Object> = objects
            .into_iter()
            .map(|(at, (object, _))| (at, object))
            .collect();
        self.twice = twice;
        let told = &self.told;
        self.seen
            .retain(|at, _| objects.contains_key(at) || told.contains_key(at));
        objects
    }

    /// Tells everything, or what is understood of it.
    fn list(&mut self, objects: BTreeMap<ObjectRef, Object>) -> Scan {
        let cluster = self.cluster.clone();
        let unread = self.files.iter().find(|(_, file)| file.good.is_none());
        if let Some((path, file)) = unread {
            let why = file.errors.first();
            let why = why.map(ToString::to_string).unwrap_or_default();
            let reason = format!("{}:{why}", self.name(path));
            return self.list_partly(objects, reason);
        }
        // What comes back after a loss may come back piece by piece.
        let returning = matches!(self.stage, Stage::Unlisted(Some(_)) | Stage::Partly(_));
        if returning || matches!(self.stage, Stage::Returning(count) if count != objects.len()) {
            self.stage = Stage::Returning(objects.len());
            return Scan {
                changes: Vec::new(),
                again: true,
            };
        }
        let mut changes = vec![Change::Init {
            cluster: cluster.clone(),
        }];
        changes.extend(objects.values().cloned().map(Change::Apply));
        changes.push(Change::InitDone {
            cluster,
            kept: BTreeSet::new(),
        });
        self.told = objects;
        self.stage = Stage::Listed;
        Scan {
            changes,
            again: false,
        }
    }

    /// Tells what is understood. What is not may declare anything: of no kind does absence mean anything,
    /// or proxies would drop what they have.
    fn list_partly(&mut self, objects: BTreeMap<ObjectRef, Object>, reason: String) -> Scan {
        let cluster = self.cluster.clone();
        let mut changes = Vec::new();
        let begun = matches!(self.stage, Stage::Partly(_));
        if !begun {
            self.told.clear();
            changes.push(Change::Init {
                cluster: cluster.clone(),
            });
        }
        for (at, object) in objects {
            if self.told.get(&at) != Some(&object) {
                changes.push(Change::Apply(object.clone()));
                self.told.insert(at, object);
            }
        }
        if !begun {
            changes.push(Change::InitDone {
                cluster: cluster.clone(),
                kept: Kind::ALL.into(),
            });
        }
        let told = matches!(&self.stage, Stage::Partly(old) if *old == reason);
        if !told {
            self.stage = Stage::Partly(reason.clone());
            changes.push(Change::Lost { cluster, reason });
        }
        Scan {
            changes,
            again: false,
        }
    }

    /// Tells what is different.
    fn compare(
        &mut self,
        objects: BTreeMap<ObjectRef, Object>,
        now: Instant,
        time: SystemTime,
    ) -> Scan {
        let mut changes = Vec::new();
        for (at, object) in &objects {
            if self.told.get(at) != Some(object) {
                changes.push(Change::Apply(object.clone()));
            }
        }
        let gone: BTreeSet<ObjectRef> = self
            .told
            .keys()
            .filter(|at| !objects.contains_key(*at))
            .cloned()
            .collect();
        self.missing.retain(|at, _| gone.contains(at));
        let mut told = objects;
        for at in gone {
            let since = *self.missing.entry(at.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= MISSING {
                self.missing.remove(&at);
                changes.push(Change::Delete(at));
            } else if let Some(object) = self.told.remove(&at) {
                // Still told, until it is missed a second time.
                told.insert(at, object);
            }
        }
        self.told = told;
        // With a file that is not understood the view is not known to be right.
        if self.missing.is_empty() && self.files.values().all(|file| file.errors.is_empty()) {
            changes.push(Change::Confirmed {
                cluster: self.cluster.clone(),
                at: time,
            });
        }
        Scan {
            changes,
            again: !self.missing.is_empty(),
        }
    }
}

/// The manifests in a folder and below it. Hidden files are editors' and version control's.
fn list(
    folder: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, Metadata>,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_path_buf(), error);
    if depth > DEPTH_MAX {
        return Err(failed(io::Error::other("more than 16 folders deep")));
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(failed)?;
        // Links to folders are not followed: they can lead in a circle.
        if kind.is_dir() {
            match list(&path, depth + 1, found) {
                // Removed since it was listed.
                Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            continue;
        }
        let manifest = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !manifest {
            continue;
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                found.insert(path, meta);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, error)),
        }
        if found.len() > FILES_MAX {
            return Err(failed(io::Error::other("more than 20,000 manifests")));
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|n| n > FILE_BYTES_MAX) {
        return Err(io::Error::other("larger than 8 MiB"));
    }
    Ok(text)
}
