//! Where are the control plane's keys kept, and how are they written?
//!
//! One folder (0700). A secret is a file (0600) that appears whole or not at all and is never
//! overwritten: two processes that start at once end up with the same key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::crypto::SecureRandom;

/// Largest file that is read from the state folder, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Who may read a secret: its owner.
const SECRET_MODE: u32 = 0o600;
/// Who may read what is public.
const PUBLIC_MODE: u32 = 0o644;

/// Leaves what this process has in memory, keys above all, out of core dumps (core(5)): there are none.
/// A program that the kernel hands them to is not bound by that; it gets one without memory.
pub fn keep_out_of_dumps() {
    let limit = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    let limited = setrlimit(Resource::Core, none).map_err(io::Error::from);
    let emptied = fs::write("/proc/self/coredump_filter", "0");
    if let Err(error) = limited.and(emptied) {
        tracing::warn!(%error, "a core dump of this process would hold its keys");
    }
}

/// What went wrong with the state folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system's random numbers failed.
    #[error("the system gives no random numbers")]
    Random,
}

/// The folder of keys.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens the folder; makes it if it is not there.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let state = Self {
            root: path.to_path_buf(),
        };
        state.folder(path)?;
        Ok(state)
    }

    /// The path of a file in it, for messages.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Reads a secret; `None` if there is none. A mode that lets others read is taken back.
    ///
    /// # Errors
    /// The file is there and can't be read, or is larger than 1 MiB.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => {
                return Err(StateError::Io {
                    act: "open",
                    path,
                    cause,
                });
            }
        };
        let failed = |act| {
            let path = path.clone();
            move |cause| StateError::Io { act, path, cause }
        };
        let meta = file.metadata().map_err(failed("look at"))?;
        if meta.permissions().mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "a secret was readable by others; now it is not");
            let owner_only = fs::Permissions::from_mode(SECRET_MODE);
            file.set_permissions(owner_only)
                .map_err(failed("restrict"))?;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed("read"))?;
        if u64::try_from(bytes.len()).is_ok_and(|n| n > FILE_BYTES_MAX) {
            return Err(StateError::Invalid {
                path,
                why: "larger than 1 MiB".to_owned(),
            });
        }
        Ok(Some(bytes))
    }

    /// Writes a secret that is not there yet. False: somebody else was first, and nothing was
    /// written.
    ///
    /// # Errors
    /// The file system refused.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StateError> {
        let path = self.path(name);
        let draft = self.draft(&path, bytes, SECRET_MODE)?;
        // A hard link is made only where there is no file yet; a rename would overwrite.
        let linked = fs::hard_link(&draft, &path);
        let removed = fs::remove_file(&draft);
        match linked {
            Ok(()) => {
                removed.map_err(|cause| StateError::Io {
                    act: "remove",
                    path: draft,
                    cause,
                })?;
                self.settle(&path)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(cause) => Err(StateError::Io {
                act: "create",
                path,
                cause,
            }),
        }
    }

    /// The secret of this name; made by `make` if there is none.
    ///
    /// # Errors
    /// The file system refused, or `make` failed.
    pub fn read_or_create(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u8>, StateError>,
    ) -> Result<Vec<u8>, StateError> {
        if let Some(bytes) = self.read(name)? {
            return Ok(bytes);
        }
        let made = make()?;
        if self.create(name, &made)? {
            return Ok(made);
        }
        let why = || "was there and is gone".to_owned();
        self.read(name)?.ok_or_else(|| StateError::Invalid {
            path: self.path(name),
            why: why(),
        })
    }

    /// Writes a file that everybody may read, over an old one if there is one.
    ///
    /// # Errors
    /// The file system refused.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        let draft = self.draft(&path, bytes, PUBLIC_MODE)?;
        fs::rename(&draft, &path).map_err(|cause| StateError::Io {
            act: "write",
            path: path.clone(),
            cause,
        })?;
        self.settle(&path)
    }

    /// Writes a file for us alone, piece by piece, over an old one if there is one: whoever looks sees
    /// the old one or the new one, whole.
    ///
    /// # Errors
    /// The file system refused, or `fill` did.
    pub fn replace<T>(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<T>,
    ) -> Result<T, StateError> {
        let path = self.path(name);
        let (draft, done) = self.fill(&path, SECRET_MODE, |file| fill(file))?;
        fs::rename(&draft, &path).map_err(|cause| StateError::Io {
            act: "write",
            path: path.clone(),
            cause,
        })?;
        self.settle(&path)?;
        Ok(done)
    }

    /// Keeps other processes away from a file until what is returned is dropped, if they ask as we do.
    ///
    /// # Errors
    /// The file system refused.
    pub fn lock(&self, name: &str) -> Result<File, StateError> {
        let path = self.path(&format!("{name}.lock"));
        self.folder(path.parent().unwrap_or(&self.root))?;
        let lock = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            let file = options.mode(SECRET_MODE).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|cause| StateError::Io {
            act: "lock",
            path: path.clone(),
            cause,
        })
    }

    /// Opens a file; `None` if there is none.
    ///
    /// # Errors
    /// It is there and can't be opened.
    pub fn open_file(&self, name: &str) -> Result<Option<File>, StateError> {
        let path = self.path(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(StateError::Io {
                act: "open",
                path,
                cause,
            }),
        }
    }

    /// Leaves a file aside, with `.refused` behind its name, so that nobody takes it for a good one
    /// and somebody can look at it. One that was left aside before is gone then.
    ///
    /// # Errors
    /// The file system refused.
    pub fn set_aside(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        fs::rename(&path, self.path(&format!("{name}.refused"))).map_err(|cause| StateError::Io {
            act: "rename",
            path,
            cause,
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(StateError::Io {
                act: "remove",
                path,
                cause,
            }),
        }
    }

    /// Makes a folder in the folder, and clears away what a crash has left half-written in it.
    ///
    /// # Errors
    /// The file system refused.
    pub fn clear_drafts(&self, folder: &str) -> Result<(), StateError> {
        let path = self.path(folder);
        self.folder(&path)?;
        let clear = || -> io::Result<()> {
            for entry in fs::read_dir(&path)? {
                let file = entry?.path();
                if file.extension().is_some_and(|end| end == "new") {
                    fs::remove_file(file)?;
                }
            }
            Ok(())
        };
        clear().map_err(|cause| StateError::Io {
            act: "clear",
            path: path.clone(),
            cause,
        })
    }

    fn folder(&self, path: &Path) -> Result<(), StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|cause| StateError::Io {
                act: "make the folder",
                path: path.to_path_buf(),
                cause,
            })
    }

    /// A file beside `path` with this content, on disk.
    fn draft(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, StateError> {
        let (draft, ()) = self.fill(path, mode, |file| file.write_all(bytes))?;
        Ok(draft)
    }

    /// A file beside `path` with what `fill` writes, on disk.
    fn fill<T>(
        &self,
        path: &Path,
        mode: u32,
        fill: impl FnOnce(&mut File) -> io::Result<T>,
    ) -> Result<(PathBuf, T), StateError> {
        self.folder(path.parent().unwrap_or(&self.root))?;
        let tag = u64::from_be_bytes(random::<8>()?);
        let draft = path.with_extension(format!("{tag:016x}.new"));
        let write = || -> io::Result<T> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&draft)?;
            let done = fill(&mut file)?;
            file.sync_all()?;
            Ok(done)
        };
        match write() {
            Ok(done) => Ok((draft, done)),
            Err(cause) => {
                // Best effort: the error that counts is the first one.
                let _ = fs::remove_file(&draft);
                Err(StateError::Io {
                    act: "write",
                    path: draft,
                    cause,
                })
            }
        }
    }

    /// Makes a new name in a folder survive a crash.
    fn settle(&self, path: &Path) -> Result<(), StateError> {
        let folder = path.parent().unwrap_or(&self.root);
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|cause| StateError::Io {
                act: "sync",
                path: folder.to_path_buf(),
                cause,
            })
    }
}

/// Random bytes for keys, serial numbers and nonces.
///
/// # Errors
/// The system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], StateError> {
    let mut bytes = [0u8; N];
    let source: &dyn SecureRandom = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| StateError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_the_owners_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.read("keys/x").unwrap(), None);
        assert!(state.create("keys/x", b"one").unwrap());
        assert!(!state.create("keys/x", b"two").unwrap());
        assert_eq!(state.read("keys/x").unwrap().unwrap(), b"one");
        assert_eq!(mode(&state.path("keys/x")), 0o600);
        assert_eq!(mode(&state.path("keys")), 0o700);
        let left = fs::read_dir(state.path("keys")).unwrap().count();
        assert_eq!(left, 1, "no draft is left behind");
    }

    #[test]
    fn whoever_comes_second_gets_the_first_ones_key() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let other = state.clone();
        let mine = state.read_or_create("k", || {
            other.create("k", b"theirs")?;
            Ok(b"mine".to_vec())
        });
        assert_eq!(mine.unwrap(), b"theirs");
    }

    #[test]
    fn a_mode_that_lets_others_read_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        assert!(state.create("k", b"x").unwrap());
        fs::set_permissions(state.path("k"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(state.read("k").unwrap().is_some());
        assert_eq!(mode(&state.path("k")), 0o600);
    }
}
