//! How does the proxy write to disk so that a crash leaves the old or the new, never a half?

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Replaces a file that only its owner may read.
///
/// # Errors
/// The folder is full, read-only or not there.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Leaves what this process has in memory, keys above all, out of core dumps (core(5)): there are none.
/// A program that the kernel hands them to is not bound by that; it gets one without memory.
pub fn keep_out_of_dumps() {
    let limit = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    let limited = setrlimit(Resource::Core, none).map_err(std::io::Error::from);
    let emptied = fs::write("/proc/self/coredump_filter", "0");
    if let Err(error) = limited.and(emptied) {
        tracing::warn!(%error, "a core dump of this process would hold its keys");
    }
}

/// The folder is ours until the file is dropped, or we end however we end. `None`: its file system has no locks.
///
/// # Errors
/// Another process uses it, or it can't be written to.
pub fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join("lock");
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = open.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => bail!("{}: another proxy runs with it", folder.display()),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "{} can't be locked", folder.display());
            Ok(None)
        }
    }
}

/// A PEM block (RFC 7468).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let mut body = String::with_capacity(text.len() + text.len() / 64 + 1);
    for (at, c) in text.char_indices() {
        if at > 0 && at % 64 == 0 {
            body.push('\n');
        }
        body.push(c);
    }
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// RFC 4648 §4, with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len() / 3 * 4 + 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = usize::try_from((bits >> (18 - 6 * at)) & 63).unwrap_or(0);
            let digit = ALPHABET.get(index).copied().unwrap_or(b'A');
            text.push(if at <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn pem_reads_back() {
        for length in [1usize, 2, 3, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..length)
                .map(|n| u8::try_from(n % 251).unwrap())
                .collect();
            let text = pem("CERTIFICATE", &der);
            let back = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(&*back, der.as_slice(), "{text}");
        }
    }

    #[test]
    fn a_folder_is_one_proxys_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let refused = lock(dir.path()).unwrap_err().to_string();
        assert!(refused.ends_with("another proxy runs with it"), "{refused}");
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_private_file_is_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private(&path, b"old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(write_private(&dir.path().join("no/where"), b"x").is_err());
    }
}
