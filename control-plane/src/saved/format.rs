//! How does a cluster's world lie in a file?
//!
//! Lines of JSON: what the file is, one line for each object, and at the end how many there are and
//! the SHA-256 of all that stands before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::model::{Kind, KindFreshness, Object};
use isthmus_control_plane_core::world::Place;
use isthmus_proto::ids::ClusterId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::source::kubernetes::Versions;
use crate::state::StateError;

/// What a file of ours begins with.
const FORMAT: &str = "isthmus-world";
/// Grows when what is written means something else than before.
/// Version 1 had no UID, no versions and no unknown kinds, and is still read.
const VERSION: u32 = 2;
/// Largest file that is written or read, in bytes.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Longest line, in bytes: an object.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The first bytes of the last line; no object begins so.
const END: &[u8] = b"{\"objects\":";

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It can't be opened.
    #[error("open the saved world")]
    State(#[source] StateError),
    /// It can't be read.
    #[error("read the saved world")]
    Read(#[source] io::Error),
    /// Not a file of ours.
    #[error("the file is no saved world")]
    Unknown,
    /// A newer control plane has written it.
    #[error("the file is of version {0}, and {VERSION} is understood here")]
    Newer(u32),
    /// It speaks of another mesh or cluster.
    #[error("the file is of cluster {cluster:?} in the mesh {mesh_domain:?}")]
    Foreign {
        /// Of this cluster.
        cluster: String,
        /// In this mesh.
        mesh_domain: String,
    },
    /// It ends before its end.
    #[error("the file is cut")]
    Cut,
    /// Its checksum does not match, or bytes follow it.
    #[error("the file was altered")]
    Altered,
    /// Larger than any that is written.
    #[error("the file is larger than {} MiB, or a line of it than {} MiB", FILE_BYTES_MAX >> 20, LINE_BYTES_MAX >> 20)]
    TooLarge,
    /// An object says what this version does not know.
    #[error("line {line} is not understood: {why}")]
    Object {
        /// From 1.
        line: usize,
        /// Why not.
        why: String,
    },
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    mesh_domain: String,
    cluster: String,
    /// When the source's view was last known to be right.
    pub(super) seen: SystemTime,
    /// What told the cluster from others.
    pub(super) mark: Mark,
    /// Kinds that were never seen.
    pub(super) unknown: BTreeSet<Kind>,
    /// Kinds that were not as fresh as the rest.
    pub(super) older: BTreeMap<Kind, KindFreshness>,
}

/// Which cluster was seen, and up to where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// The UID of its namespace `kube-system`; `None`: it was not told.
    pub uid: Option<String>,
    /// The newest version of each kind that was seen.
    pub versions: Versions,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    mesh_domain: String,
    cluster: String,
    seen_seconds: u64,
    seen_nanos: u32,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    versions: Versions,
    #[serde(default)]
    unknown: BTreeSet<Kind>,
    #[serde(default)]
    older: BTreeMap<Kind, KindFreshness>,
}

#[derive(Serialize)]
struct End {
    objects: usize,
    sha256: String,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) objects: usize,
    pub(super) bytes: u64,
}

impl About {
    pub(super) fn new(mesh_domain: &str, cluster: &ClusterId, seen: SystemTime) -> Self {
        Self {
            mesh_domain: mesh_domain.to_owned(),
            cluster: cluster.to_string(),
            seen,
            mark: Mark::default(),
            unknown: BTreeSet::new(),
            older: BTreeMap::new(),
        }
    }
}

/// Counts and sums what passes.
struct Summing<W> {
    out: W,
    sum: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(bytes)?;
        let passed = bytes.get(..taken).unwrap_or_default();
        self.sum.update(passed);
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        if self.bytes > FILE_BYTES_MAX {
            return Err(io::Error::other("the world is larger than a file may be"));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a world, page by page.
pub(super) fn write(
    out: &mut dyn Write,
    about: &About,
    mut page: impl FnMut(Option<&Place>) -> io::Result<Vec<Object>>,
) -> io::Result<Written> {
    let mut out = Summing {
        out: io::BufWriter::new(out),
        sum: Sha256::new(),
        bytes: 0,
    };
    let seen = about.seen.duration_since(UNIX_EPOCH).unwrap_or_default();
    let head = Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        mesh_domain: about.mesh_domain.clone(),
        cluster: about.cluster.clone(),
        seen_seconds: seen.as_secs(),
        seen_nanos: seen.subsec_nanos(),
        uid: about.mark.uid.clone(),
        versions: about.mark.versions.clone(),
        unknown: about.unknown.clone(),
        older: about.older.clone(),
    };
    line(&mut out, &head)?;
    let (mut objects, mut place) = (0usize, None);
    loop {
        let some = page(place.as_ref())?;
        let Some(last) = some.last() else { break };
        place = Some(Place::of(last));
        for object in &some {
            line(&mut out, object)?;
        }
        objects = objects.saturating_add(some.len());
    }
    let sha256 = hex(&out.sum.clone().finalize());
    line(&mut out, &End { objects, sha256 })?;
    out.flush()?;
    let bytes = out.bytes;
    Ok(Written { objects, bytes })
}

fn line(out: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, what)?;
    out.write_all(b"\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a world of this mesh and cluster, or nothing.
///
/// # Errors
/// Why the file says nothing.
pub(super) fn read(
    mut input: impl BufRead,
    mesh_domain: &str,
    cluster: &ClusterId,
) -> Result<(About, Vec<Object>), Refused> {
    let (mut sum, mut bytes, mut line) = (Sha256::new(), 0u64, Vec::new());
    next(&mut input, &mut line)?;
    let about = head(&line, mesh_domain, cluster)?;
    let mut objects = Vec::new();
    loop {
        sum.update(&line);
        bytes = bytes.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        if bytes > FILE_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        next(&mut input, &mut line)?;
        if line.starts_with(END) {
            break;
        }
        let number = objects.len().saturating_add(2);
        objects.push(object(&line).map_err(|why| Refused::Object { line: number, why })?);
    }
    let rest = input.fill_buf().map_err(Refused::Read)?;
    let end = End {
        objects: objects.len(),
        sha256: hex(&sum.finalize()),
    };
    let mut expected = serde_json::to_vec(&end).map_err(|_| Refused::Altered)?;
    expected.push(b'\n');
    if line != expected || !rest.is_empty() {
        return Err(Refused::Altered);
    }
    Ok((about, objects))
}

/// The next line, with its end.
fn next(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Refused> {
    line.clear();
    let mut bounded = input.take(LINE_BYTES_MAX);
    bounded.read_until(b'\n', line).map_err(Refused::Read)?;
    match (line.last(), bounded.limit()) {
        (Some(b'\n'), _) => Ok(()),
        (_, 0) => Err(Refused::TooLarge),
        (Some(_) | None, _) => Err(Refused::Cut),
    }
}

fn head(line: &[u8], mesh_domain: &str, cluster: &ClusterId) -> Result<About, Refused> {
    let head: Head = serde_json::from_slice(line).map_err(|_| Refused::Unknown)?;
    if head.format != FORMAT {
        return Err(Refused::Unknown);
    }
    if head.version > VERSION {
        return Err(Refused::Newer(head.version));
    }
    if head.mesh_domain != mesh_domain || head.cluster != cluster.as_str() {
        return Err(Refused::Foreign {
            cluster: head.cluster,
            mesh_domain: head.mesh_domain,
        });
    }
    let since = Duration::from_secs(head.seen_seconds)
        .checked_add(Duration::from_nanos(u64::from(head.seen_nanos)));
    let seen = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    let seen = seen.ok_or(Refused::Unknown)?;
    Ok(About {
        mark: Mark {
            uid: head.uid,
            versions: head.versions,
        },
        unknown: head.unknown,
        older: head.older,
        ..About::new(mesh_domain, cluster, seen)
    })
}

/// An object that comes out as it went in. What another version has written and this one does not
/// know would be dropped silently, and a rule would be wider than it was.
fn object(line: &[u8]) -> Result<Object, String> {
    let object: Object = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let again = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
    match line.strip_suffix(b"\n") {
        Some(text) if text == again => Ok(object),
        Some(_) | None => Err("it says what is not known here".to_owned()),
    }
}
