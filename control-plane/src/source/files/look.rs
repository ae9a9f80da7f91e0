//! Which manifests are in a folder, and what is in one of them?

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

use crate::manifest::Problem;

/// Most files of one cluster.
const FILES_MAX: usize = 20_000;
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Folders in folders.
const DEPTH_MAX: usize = 16;

/// What a look at a manifest's name found.
pub(super) enum Found {
    /// A file.
    File(Metadata),
    /// A link to what is not there, or can't be looked at.
    Dangling(String),
}

/// The manifests in a folder and below it. Hidden files are editors' and version control's.
pub(super) fn list(
    folder: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, Found>,
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
        match find(&path) {
            Ok(Some(file)) => drop(found.insert(path, file)),
            Ok(None) => {}
            Err(error) => return Err((path, error)),
        }
        if found.len() > FILES_MAX {
            return Err(failed(io::Error::other("more than 20,000 manifests")));
        }
    }
    Ok(())
}

/// What a name leads to; `None`: no file, or nothing any more.
pub(super) fn find(path: &Path) -> io::Result<Option<Found>> {
    let error = match fs::metadata(path) {
        Ok(meta) => return Ok(meta.is_file().then_some(Found::File(meta))),
        Err(error) => error,
    };
    // Is there a link that leads nowhere, or nothing at all?
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let to = fs::read_link(path).unwrap_or_default();
            let why = format!("is a link to {}: {error}", to.display());
            Ok(Some(Found::Dangling(why)))
        }
        // Another file has taken the name meanwhile.
        Ok(meta) if meta.is_file() => Ok(Some(Found::File(meta))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a file was not read.
pub(super) enum Unread {
    /// It is not there.
    Gone,
    Bad(Problem),
}

pub(super) fn read(path: &Path) -> Result<String, Unread> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Gone,
        _ => Unread::Bad(Problem::of_file(error.to_string())),
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    let length = read.map_err(failed)?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let why = "larger than 8 MiB".to_owned();
        return Err(Unread::Bad(Problem::of_file(why)));
    }
    String::from_utf8(bytes).map_err(|error| Unread::Bad(not_text(&error)))
}

/// Where the first byte is that is no text.
fn not_text(error: &FromUtf8Error) -> Problem {
    let good = error.utf8_error().valid_up_to();
    let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default());
    let line = before.rsplit('\n').next().unwrap_or_default();
    let from_one = |count: usize| u64::try_from(count.saturating_add(1)).unwrap_or(u64::MAX);
    let byte = error.as_bytes().get(good).copied().unwrap_or_default();
    Problem {
        line: from_one(before.matches('\n').count()),
        column: from_one(line.chars().count()),
        object: String::new(),
        message: format!("is not UTF-8: byte 0x{byte:02x}"),
    }
}
