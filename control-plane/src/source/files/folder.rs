//! What has changed in a folder since it was looked at last?
//!
//! A file that can't be understood counts as it was. One that never was may declare anything: what the
//! others say is told, nothing is gone, and the cluster is lost until it is understood. A folder that
//! can't be read is lost, not empty. What is missing is looked at twice before it is gone: a file on its way from one name to
//! another, or half-written, is not a deletion. Nor is a link to nothing: that is a file that can't be read.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane_core::model::{Change, Kind, Object, ObjectRef};
use isthmus_proto::ids::ClusterId;

use super::look::{self, Found, Unread};
use crate::manifest::{self, Parsed, Problem};
use crate::source::Report;
use crate::source::kubernetes::hosts::misleading;

/// What is missing for this long is gone.
const MISSING: Duration = Duration::from_millis(80);

/// What a look at the folder came to.
#[derive(Default)]
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
    /// Which file an object is in that counts.
    owners: BTreeMap<ObjectRef, PathBuf>,
    /// Since when links lead to nothing. One may be on its way: a ConfigMap's key that was removed is
    /// such a link, for a moment.
    dangling: BTreeMap<PathBuf, Instant>,
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

impl File {
    fn new() -> Self {
        Self {
            stamp: None,
            good: None,
            errors: Vec::new(),
            modified: SystemTime::UNIX_EPOCH,
        }
    }

    /// What it said stays. It is read again at the next look.
    fn fail(&mut self, problem: Problem) {
        self.errors = vec![problem];
        self.stamp = None;
    }
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
            owners: BTreeMap::new(),
            dangling: BTreeMap::new(),
            stage: Stage::Unlisted(None),
        }
    }

    /// Looks, and says what has changed.
    pub(super) fn scan(&mut self, now: Instant, time: SystemTime) -> Scan {
        let mut paths = BTreeMap::new();
        if let Err((path, error)) = look::list(&self.root, 0, &mut paths) {
            return self.lose(format!("{}: {error}", path.display()));
        }
        self.files.retain(|path, _| paths.contains_key(path));
        let mut dangling = BTreeMap::new();
        for (path, found) in &paths {
            if let Some(why) = self.look(path, found) {
                dangling.insert(path.clone(), why);
            }
        }
        let on_its_way = self.judge(&dangling, now);
        let objects = self.objects();
        let mut scan = match self.stage {
            Stage::Listed => self.compare(objects, now, time),
            // What such a link says is not known yet, and what is told now is told as the whole.
            _ if on_its_way => Scan::default(),
            Stage::Unlisted(_) | Stage::Partly(_) | Stage::Returning(_) => self.list(objects),
        };
        scan.again |= on_its_way;
        scan
    }

    /// Reads what is there. Why it can't be, if it is a link to nothing.
    fn look(&mut self, path: &Path, found: &Found) -> Option<String> {
        match found {
            Found::File(meta) => self.read(path, meta),
            Found::Dangling(why) => Some(why.clone()),
        }
    }

    /// A link that leads to nothing for so long is a file that can't be read; until then the file is as
    /// it was. Is there one of which that can't be said yet?
    fn judge(&mut self, dangling: &BTreeMap<PathBuf, String>, now: Instant) -> bool {
        self.dangling.retain(|path, _| dangling.contains_key(path));
        let mut on_its_way = false;
        for (path, why) in dangling {
            let since = *self.dangling.entry(path.clone()).or_insert(now);
            if now.saturating_duration_since(since) < MISSING {
                on_its_way = true;
                continue;
            }
            let file = self.files.entry(path.clone()).or_insert_with(File::new);
            file.fail(Problem::of_file(why.clone()));
        }
        on_its_way
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

    /// Reads a file if it has changed. Why it can't, if what the name leads to is not there.
    fn read(&mut self, path: &Path, meta: &Metadata) -> Option<String> {
        let stamp = Some(Stamp {
            inode: (meta.dev(), meta.ino()),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        });
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let file = self
            .files
            .entry(path.to_path_buf())
            .or_insert_with(|| File {
                modified,
                ..File::new()
            });
        if file.stamp == stamp {
            return None;
        }
        match look::read(path) {
            Ok(text) => {
                let mut parsed = manifest::parse(&text, &self.cluster);
                let wrong = astray(&parsed);
                parsed.errors.extend(wrong);
                file.errors.clone_from(&parsed.errors);
                if parsed.errors.is_empty() {
                    file.good = Some(parsed);
                }
                file.stamp = stamp;
            }
            // Gone since it was listed, or its name has become another's: the next look tells.
            Err(Unread::Gone) => match look::find(path) {
                Ok(None) => drop(self.files.remove(path)),
                Ok(Some(Found::Dangling(why))) => return Some(why),
                Ok(Some(Found::File(_))) => return Some("is replaced as it is read".to_owned()),
                Err(error) => return Some(error.to_string()),
            },
            Err(Unread::Bad(problem)) => file.fail(problem),
        }
        None
    }

    /// What all files declare. Of two that declare the same object, the one that did so before counts, or
    /// else the first by name: a file that is added takes nothing over.
    fn objects(&mut self) -> BTreeMap<ObjectRef, Object> {
        let mut objects: BTreeMap<ObjectRef, (Object, (&Path, u64))> = BTreeMap::new();
        let mut twice: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for (path, file) in &self.files {
            let declared = file
                .good
                .iter()
                .flat_map(|good| good.objects.iter().zip(&good.lines));
            for (object, own_line) in declared {
                match objects.entry(object.reference()) {
                    Entry::Vacant(place) => {
                        let mut object = object.clone();
                        // Held in memory: an edit does not make the object younger.
                        let seen = self
                            .seen
                            .entry(place.key().clone())
                            .or_insert(file.modified);
                        object.created = object.created.or(Some(*seen));
                        place.insert((object, (path, *own_line)));
                    }
                    Entry::Occupied(mut place) => {
                        let (first, (other, line)) = place.get();
                        let is_owner = self.owners.get(place.key()) == Some(path);
                        let own: (&Path, u64) = (path, *own_line);
                        let (loser, counts) = if is_owner && *other != path {
                            let lost = (*other, *line);
                            let mut object = object.clone();
                            object.created = object.created.or(first.created);
                            place.insert((object, own));
                            (lost, own)
                        } else {
                            (own, (*other, *line))
                        };
                        let problem = Problem {
                            line: loser.1,
                            column: 1,
                            object: title(place.key()),
                            message: format!(
                                "is in {}:{} already, which counts",
                                self.name(counts.0),
                                counts.1
                            ),
                        };
                        twice.entry(loser.0.to_owned()).or_default().push(problem);
                    }
                }
            }
        }
        let of = |(at, (_, (path, _))): (&ObjectRef, &(Object, (&Path, u64)))| {
            (at.clone(), path.to_path_buf())
        };
        let owners = objects.iter().map(of).collect();
        let objects: BTreeMap<ObjectRef, Object> = objects
            .into_iter()
            .map(|(at, (object, _))| (at, object))
            .collect();
        (self.twice, self.owners) = (twice, owners);
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
            let name = self.name(path);
            let reason = file.errors.first().map(|why| why.in_file(&name));
            let reason = reason.unwrap_or(name);
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
        let all_seen = self.missing.is_empty() && self.dangling.is_empty();
        if all_seen && self.files.values().all(|file| file.errors.is_empty()) {
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

/// `Deployment shop/reviews`: the cluster is the folder's.
/// Objects at addresses that no pod has. Those of this machine are the demo's.
fn astray(parsed: &Parsed) -> Vec<Problem> {
    let told = parsed.objects.iter().zip(&parsed.lines);
    let wrong = |(object, line): (&Object, &u64)| {
        Some(Problem {
            line: *line,
            column: 1,
            object: title(&object.reference()),
            message: misleading(&object.spec, true)?,
        })
    };
    told.filter_map(wrong).collect()
}

fn title(at: &ObjectRef) -> String {
    match &at.namespace {
        Some(namespace) => format!("{} {namespace}/{}", at.kind, at.name),
        None => format!("{} {}", at.kind, at.name),
    }
}

#[cfg(test)]
mod tests;
