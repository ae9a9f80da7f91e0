//! Where do the mesh's keys lie, and who makes them?
//!
//! A key is made once and never overwritten: whoever comes second takes what is there. In files one
//! control plane keeps them for itself; in Secrets of the home cluster all replicas have the same, and
//! only the one that leads makes any. The others wait.

mod files;
mod secrets;
#[cfg(test)]
mod tests;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::spiffe::TrustDomain;

use crate::kubernetes::ApiError;
use crate::state::{StateDir, StateError};
pub use secrets::Secrets;

/// One thing that is kept. Root and issuer of a trust domain lie apart: who signs for workloads needs
/// the root's key only to make the next issuer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// Key and certificate of a trust domain's root, by its number from 1.
    Root(TrustDomain, u32),
    /// Key and chain of what signs under a root, by its number from 1.
    Issuer(TrustDomain, u32),
    /// How far a trust domain's roots are on their way from one to the next. This one is replaced.
    Rotation(TrustDomain),
    /// A cluster's handle key, by its epoch.
    Handle(ClusterId, u8),
}

/// What is kept, and by what two states of it are told apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// The content.
    pub bytes: Vec<u8>,
    /// For [`KeyStore::replace`].
    pub version: String,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Why a key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The home cluster does not give or take a Secret.
    #[error("{act} the {place}")]
    Api {
        /// What was tried.
        act: &'static str,
        /// The Secret.
        place: String,
        /// What was answered.
        #[source]
        cause: ApiError,
    },
    /// What lies there is something else.
    #[error("the {place}: {why}")]
    Invalid {
        /// The file or the Secret.
        place: String,
        /// What is wrong with it, without a part of it.
        why: String,
    },
    /// It is not there yet, and somebody else makes it.
    #[error("the {place} is not there yet: the replica that leads makes it")]
    Awaited {
        /// The Secret.
        place: String,
    },
    /// The cluster that has the Secrets.
    #[error("the home cluster {0}, which has the keys, was not reached yet")]
    NoHome(ClusterId),
}

/// Where keys lie. Clones have the same.
#[derive(Debug, Clone)]
pub enum KeyStore {
    /// In the state folder, for one control plane: demos, laptops, machines.
    Files(StateDir),
    /// In Secrets of the home cluster, for all replicas.
    Secrets(Secrets),
}

impl KeyStore {
    /// What an item is called where it lies, for messages.
    #[must_use]
    pub fn place(&self, item: &Item) -> String {
        match self {
            Self::Files(state) => format!("file {}", state.path(&item.file()).display()),
            Self::Secrets(secrets) => secrets.place(item),
        }
    }

    /// May this replica make what is not there?
    #[must_use]
    pub fn makes(&self) -> bool {
        match self {
            Self::Files(_) => true,
            Self::Secrets(secrets) => secrets.leads(),
        }
    }

    /// Reads; `None` if there is nothing.
    ///
    /// # Errors
    /// It can't be read, or is something else.
    pub async fn read(&self, item: &Item) -> Result<Option<Vec<u8>>, KeyError> {
        Ok(self.look(item).await?.map(|kept| kept.bytes))
    }

    /// As [`read`](Self::read), with the version that [`replace`](Self::replace) compares.
    ///
    /// # Errors
    /// It can't be read, or is something else.
    pub async fn look(&self, item: &Item) -> Result<Option<Kept>, KeyError> {
        match self {
            Self::Files(state) => files::look(state, item).await,
            Self::Secrets(secrets) => secrets.look(item).await,
        }
    }

    /// Writes what is not there yet. False: somebody else was first, and nothing was written.
    ///
    /// # Errors
    /// It can't be written, or is not ours to make.
    pub async fn create(&self, item: &Item, bytes: &[u8]) -> Result<bool, KeyError> {
        match self {
            Self::Files(state) => files::create(state, item, bytes).await,
            Self::Secrets(secrets) => secrets.create(item, bytes).await,
        }
    }

    /// What is there; made by `make` if there is nothing and this replica may.
    ///
    /// # Errors
    /// It can't be read or written, is awaited from another replica, or `make` failed.
    pub async fn read_or_create<E: From<KeyError>>(
        &self,
        item: &Item,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        if let Some(bytes) = self.read(item).await? {
            return Ok(bytes);
        }
        let place = || self.place(item);
        if !self.makes() {
            return Err(KeyError::Awaited { place: place() }.into());
        }
        let made = make()?;
        if self.create(item, &made).await? {
            return Ok(made);
        }
        let why = || "was there and is gone".to_owned();
        self.read(item).await?.ok_or_else(|| {
            let (place, why) = (place(), why());
            KeyError::Invalid { place, why }.into()
        })
    }

    /// Writes over what was [looked](Self::look) at. False: it is another one meanwhile, and nothing
    /// was written. For what is no key: a key is never replaced.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn replace(&self, item: &Item, bytes: &[u8], over: &str) -> Result<bool, KeyError> {
        if item.is_lasting() {
            let (place, why) = (self.place(item), "a key is never replaced".to_owned());
            return Err(KeyError::Invalid { place, why });
        }
        match self {
            Self::Files(state) => files::replace(state, item, bytes, over).await,
            Self::Secrets(secrets) => secrets.replace(item, bytes, over).await,
        }
    }

    /// All of a series, from its first number until one is not there.
    ///
    /// # Errors
    /// One can't be read, or is something else.
    pub async fn list(
        &self,
        numbers: impl IntoIterator<Item = u32>,
        of: impl Fn(u32) -> Item,
    ) -> Result<Vec<(u32, Vec<u8>)>, KeyError> {
        let mut found = Vec::new();
        for number in numbers {
            let Some(bytes) = self.read(&of(number)).await? else {
                break;
            };
            found.push((number, bytes));
        }
        Ok(found)
    }
}

impl Item {
    /// Below the state folder.
    fn file(&self) -> String {
        match self {
            Self::Root(domain, 1) => format!("ca/{domain}/root.pem"),
            Self::Root(domain, number) => format!("ca/{domain}/root-{number}.pem"),
            Self::Issuer(domain, number) => format!("ca/{domain}/issuer-{number}.pem"),
            Self::Rotation(domain) => format!("ca/{domain}/rotation.json"),
            Self::Handle(cluster, epoch) => format!("handles/{cluster}.{epoch}.key"),
        }
    }

    /// The one behind it in its series; `None`: it stands alone, or is the last that can be.
    fn next(&self) -> Option<Self> {
        match self {
            Self::Root(domain, number) => Some(Self::Root(domain.clone(), number.checked_add(1)?)),
            Self::Issuer(domain, number) => {
                Some(Self::Issuer(domain.clone(), number.checked_add(1)?))
            }
            Self::Rotation(_) => None,
            Self::Handle(cluster, epoch) => {
                Some(Self::Handle(cluster.clone(), epoch.checked_add(1)?))
            }
        }
    }

    /// Is it written once, for all its life?
    fn is_lasting(&self) -> bool {
        match self {
            Self::Root(..) | Self::Issuer(..) | Self::Handle(..) => true,
            Self::Rotation(_) => false,
        }
    }
}
