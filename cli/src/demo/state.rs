//! Where do the other commands find a demo that is held? In a small file.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::plan::{Plan, Role};
use crate::client::Door;

/// Only its owner reads and writes it.
const MODE: u32 = 0o600;
/// Bits of those who could write beside the owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Longest wait for a control plane on this machine that may have ended.
const RUNS_TIMEOUT: Duration = Duration::from_secs(1);

/// Admin addresses of a running mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the control plane.
    pub(crate) control_plane: SocketAddr,
    /// Of each proxy, by `cluster/namespace/pod`.
    pub(crate) proxies: BTreeMap<String, SocketAddr>,
    /// Who listens at each of these addresses has its state here, and the token that it asks for.
    pub(crate) states: BTreeMap<SocketAddr, PathBuf>,
    /// Where its manifests are.
    pub(crate) folder: PathBuf,
}

impl State {
    /// Of the demo at these addresses.
    pub(super) fn of(plan: &Plan, folder: &Folder) -> Self {
        let pods = plan.pods();
        let sidecars = pods.iter().filter(|pod| pod.role == Role::Sidecar);
        let gateways = pods.iter().filter(|pod| pod.role == Role::Gateway);
        let states = pods
            .iter()
            .map(|pod| (plan.admin(pod), folder.pod_state(pod)));
        let control_plane = (plan.control_admin(), folder.control_state());
        Self {
            states: states.chain([control_plane]).collect(),
            control_plane: plan.control_admin(),
            proxies: sidecars
                .chain(gateways)
                .map(|pod| (pod.id(), plan.admin(pod)))
                .collect(),
            folder: folder.root().to_owned(),
        }
    }

    /// How to ask at one of its addresses.
    pub(crate) fn door(&self, at: SocketAddr) -> Door {
        match self.states.get(&at) {
            Some(state) => Door::of(at, state),
            None => Door { at, token: None },
        }
    }

    /// Writes it where the other commands look; removed when the result is dropped.
    ///
    /// # Errors
    /// The folder can't be written to, or somebody else has a file of that name there.
    pub(super) fn publish(&self) -> anyhow::Result<Published> {
        self.publish_at(default_path())
    }

    fn publish_at(&self, path: PathBuf) -> anyhow::Result<Published> {
        let before = Self::own(&path).ok();
        self.write(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Published {
            path,
            state: self.clone(),
            before,
        })
    }

    /// What this user's file says.
    fn own(path: &Path) -> anyhow::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let text = own_text(path, &found, rustix::process::geteuid().as_raw())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Does its control plane take connections?
    fn runs(&self) -> bool {
        TcpStream::connect_timeout(&self.control_plane, RUNS_TIMEOUT).is_ok()
    }

    /// By a new file that takes the name's place: a link that lies in wait there is not followed.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing JSON")?;
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(MODE).open(&new)?;
        let written = file.write_all((text + "\n").as_bytes());
        let moved = written.and_then(|()| fs::rename(&new, path));
        if moved.is_err() {
            let _gone = fs::remove_file(&new);
        }
        Ok(moved?)
    }

    /// Reads one; where no path is given, from where a held demo writes it. There, only a file of
    /// the caller's own counts: the folder may be everybody's, and whoever wrote the file says whom
    /// we ask.
    ///
    /// # Errors
    /// There is none: no demo is held. Or it is not the caller's.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let (path, named) = match path {
            Some(path) => (path.to_owned(), true),
            None => (default_path(), false),
        };
        let absent = || {
            format!(
                "no demo is held here ({} can't be read); start one with `isthmus demo --hold`, or \
                 give addresses with --control-plane and --proxy",
                path.display()
            )
        };
        let text = if named {
            fs::read_to_string(&path).with_context(absent)?
        } else {
            let found = fs::symlink_metadata(&path).with_context(absent)?;
            own_text(&path, &found, rustix::process::geteuid().as_raw())?
        };
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }
}

/// What stands in a file that is this user's, and nobody else's.
fn own_text(path: &Path, found: &Metadata, user: u32) -> anyhow::Result<String> {
    let reading = || format!("reading {}", path.display());
    let refused = |why: &str| {
        format!(
            "{} is not read: {why}; remove it and start the demo again, or name the file that you mean with --demo",
            path.display()
        )
    };
    // Looked at before it is opened: opening a pipe would wait for whoever laid it there.
    if let Some(why) = not_own(found, user) {
        bail!(refused(&why));
    }
    let mut file = File::open(path).with_context(reading)?;
    let opened = file.metadata().with_context(reading)?;
    if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
        bail!(refused("it was replaced meanwhile"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(reading)?;
    Ok(text)
}

/// Why a file may be somebody else's; `None`: it is this user's own.
fn not_own(found: &Metadata, user: u32) -> Option<String> {
    if found.is_symlink() {
        Some("it is a symbolic link".to_owned())
    } else if !found.is_file() {
        Some("it is no file".to_owned())
    } else if found.uid() != user {
        Some(format!(
            "it belongs to user {}, and you are {user}",
            found.uid()
        ))
    } else if found.mode() & WRITABLE_BY_OTHERS != 0 {
        Some("others may write to it".to_owned())
    } else {
        None
    }
}

/// A state file. When dropped, the file of the demo whose place it took is back, if that one runs;
/// otherwise there is none.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    state: State,
    /// Of the demo that was held before.
    before: Option<State>,
}

impl Drop for Published {
    fn drop(&mut self) {
        // Another demo has taken the place: the file is its own.
        if !State::own(&self.path).is_ok_and(|there| there == self.state) {
            return;
        }
        let _as_it_was = match self.before.as_ref().filter(|before| before.runs()) {
            Some(before) => before.write(&self.path),
            None => fs::remove_file(&self.path).map_err(Into::into),
        };
    }
}

/// In the user's own runtime folder; without one, in the system's for temporary files.
fn default_path() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    path_of(
        runtime,
        &env::temp_dir(),
        rustix::process::geteuid().as_raw(),
    )
}

/// The folder for temporary files is everybody's: there the name says whose the file is.
fn path_of(runtime: Option<PathBuf>, temporary: &Path, user: u32) -> PathBuf {
    match runtime.filter(|dir| dir.is_dir()) {
        Some(dir) => dir.join("isthmus-demo.json"),
        None => temporary.join(format!("isthmus-demo-{user}.json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let plan = Plan::claim().unwrap();
        let folder = Folder::make(false).unwrap();
        let state = State::of(&plan, &folder);
        assert_eq!(state.proxies.len(), plan.pods().len());
        let path = folder.root().join("state.json");
        fs::write(&path, serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(State::read(Some(&path)).unwrap(), state);
        let none = State::read(Some(&folder.root().join("none"))).unwrap_err();
        assert!(none.to_string().contains("isthmus demo --hold"), "{none}");
    }

    /// Of a demo whose control plane is there, in this folder.
    fn of_control_plane(listener: &std::net::TcpListener, folder: &str) -> State {
        State {
            control_plane: listener.local_addr().unwrap(),
            proxies: BTreeMap::new(),
            states: BTreeMap::new(),
            folder: folder.into(),
        }
    }

    #[test]
    fn a_demo_that_ends_takes_no_others_file_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("isthmus-demo.json");
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, there) = (listen(), listen());
        let first = of_control_plane(&here, "/first");
        let second = of_control_plane(&there, "/second");
        let read = || State::own(&path);
        // The first one ends, and the second is found.
        let held = (
            first.publish_at(path.clone()).unwrap(),
            second.publish_at(path.clone()).unwrap(),
        );
        drop(held.0);
        assert_eq!(read().unwrap(), second);
        drop(here);
        drop(held.1);
        assert!(!path.exists(), "the first one runs no more");
        // The second one ends, and the first is found again.
        let here = listen();
        let first = of_control_plane(&here, "/first");
        let held = first.publish_at(path.clone()).unwrap();
        drop(second.publish_at(path.clone()).unwrap());
        assert_eq!(read().unwrap(), first);
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn in_everybodys_folder_the_files_name_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |runtime: &Path, user| path_of(Some(runtime.to_owned()), Path::new("/tmp"), user);
        let own = folder.path().join("isthmus-demo.json");
        assert_eq!(at(folder.path(), 7), own);
        let none = folder.path().join("none");
        assert_eq!(at(&none, 7), Path::new("/tmp/isthmus-demo-7.json"));
        assert_ne!(at(&none, 7), at(&none, 8));
    }

    #[test]
    fn only_a_file_of_ones_own_is_read() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("state.json"), folder.path().join("link"));
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let state = State {
            control_plane: at,
            proxies: BTreeMap::new(),
            states: BTreeMap::new(),
            folder: "/".into(),
        };
        state.write(&file).unwrap();
        symlink(&file, &link).unwrap();
        let me = rustix::process::geteuid().as_raw();
        let read = |path: &Path, user: u32| {
            let found = fs::symlink_metadata(path).unwrap();
            own_text(path, &found, user).map_err(|error| error.to_string())
        };
        let text = read(&file, me).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        let refused = |path: &Path, user: u32, why: &str| {
            let told = read(path, user).unwrap_err();
            let names = told.contains(&path.display().to_string()) && told.contains("--demo");
            assert!(names && told.contains(why), "{told}");
        };
        refused(&link, me, "symbolic link");
        refused(folder.path(), me, "no file");
        refused(&file, me + 1, &format!("belongs to user {me}"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        refused(&file, me, "others may write");
        // One that is replaced between the look and the opening.
        let found = fs::symlink_metadata(&link).unwrap();
        state.write(&link).unwrap();
        assert!(own_text(&link, &found, me).is_err());
        assert!(
            !fs::symlink_metadata(&link).unwrap().is_symlink(),
            "the link was not followed"
        );
    }
}
