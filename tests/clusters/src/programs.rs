//! Where are the programs of a cluster?

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The folder that holds them, as envtest and kubebuilder know it.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Says that a test was skipped, and why. Not by `println!`: of a test that passes, nobody would see
/// it.
pub fn skipped(why: &anyhow::Error) {
    use std::io::Write as _;
    // Nobody reads the output any more: then nobody is told.
    let _gone = writeln!(std::io::stdout().lock(), "skipped: {why}");
}

/// The programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
}

impl Programs {
    /// Looks in the folder that `KUBEBUILDER_ASSETS` names, then in `PATH`.
    ///
    /// # Errors
    /// One of them is nowhere: one line says which, and how to get it.
    pub fn find() -> anyhow::Result<Self> {
        Self::find_in(env::var_os(ASSETS), env::var_os("PATH").as_deref())
    }

    fn find_in(assets: Option<OsString>, path: Option<&OsStr>) -> anyhow::Result<Self> {
        let folders: Vec<PathBuf> = assets
            .into_iter()
            .map(PathBuf::from)
            .chain(
                path.iter()
                    .flat_map(|path| env::split_paths(path).collect::<Vec<_>>()),
            )
            .collect();
        let found = |name: &str| {
            let mut files = folders.iter().map(|folder| folder.join(name));
            files.find(|file| is_program(file))
        };
        match (found("etcd"), found("kube-apiserver")) {
            (Some(etcd), Some(kube_apiserver)) => Ok(Self {
                etcd,
                kube_apiserver,
            }),
            (etcd, _) => {
                let missing = if etcd.is_none() {
                    "etcd"
                } else {
                    "kube-apiserver"
                };
                anyhow::bail!(
                    "{missing} is neither in {ASSETS} nor in PATH; get it by: go install \
                     sigs.k8s.io/controller-runtime/tools/setup-envtest@latest && export \
                     {ASSETS}=$(setup-envtest use -p path)"
                )
            }
        }
    }
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_folder_of_the_variable_comes_before_the_path() {
        let [assets, path] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        fs::write(path.path().join("etcd"), "").unwrap();
        fs::write(path.path().join("kube-apiserver"), "").unwrap();
        let find = || Programs::find_in(Some(assets.path().into()), Some(path.path().as_os_str()));
        assert_eq!(find().unwrap().etcd, path.path().join("etcd"));
        fs::write(assets.path().join("etcd"), "").unwrap();
        let mixed = find().unwrap();
        assert_eq!(mixed.etcd, assets.path().join("etcd"));
        assert_eq!(mixed.kube_apiserver, path.path().join("kube-apiserver"));
    }

    #[test]
    fn what_is_missing_is_said_in_one_line_with_its_cure() {
        let empty = tempfile::tempdir().unwrap();
        let error = Programs::find_in(None, Some(empty.path().as_os_str())).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("etcd is neither"), "{text}");
        assert!(text.contains("setup-envtest use"), "{text}");
        assert!(!text.contains('\n'), "{text}");
        fs::write(empty.path().join("etcd"), "").unwrap();
        let error = Programs::find_in(Some(empty.path().into()), None).unwrap_err();
        assert!(error.to_string().starts_with("kube-apiserver is neither"));
    }
}
