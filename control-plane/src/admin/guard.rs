//! Who may see what names workloads and addresses?
//!
//! Whoever shows the token that lies in the state folder, for its owner alone; or, where there is a home
//! cluster, a token of the service account for admins there, for this audience. Whom the cluster lets make
//! one is an admin (SECURITY S10).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use isthmus_proto::admin::{TOKEN_FILE, Token};
use isthmus_proto::ids::ClusterId;
use tokio::sync::watch;

use crate::config::Home;
use crate::kubernetes::client::Api;
use crate::kubernetes::review;
use crate::state::{self, StateDir, StateError};

/// The service account of the home cluster whose tokens are an admin's.
pub const ACCOUNT: &str = "isthmus-admin";
/// For whom its tokens are made.
pub const AUDIENCE: &str = "isthmus-admin";
/// The namespace of that account where `home.namespace` names none.
const NAMESPACE: &str = isthmus_control_plane_core::model::SYSTEM_NAMESPACE;
/// For so long the home cluster is not asked about the same token again.
const BELIEVED: Duration = Duration::from_secs(60);
/// Tokens that are believed at once.
const BELIEVED_MAX: usize = 64;

/// Whom the home cluster is asked about.
type Apis = watch::Receiver<BTreeMap<ClusterId, Api>>;

/// Lets admins in.
#[derive(Debug)]
pub struct Guard {
    token: Token,
    file: PathBuf,
    /// The home cluster, and whose tokens of it count.
    home: Option<(ClusterId, String)>,
    apis: Apis,
    believed: Mutex<Vec<(Token, Instant)>>,
}

impl Guard {
    /// With the token of the state folder, which is made if there is none.
    ///
    /// # Errors
    /// The file can't be read or made, or holds something else.
    pub fn open(state: &StateDir, home: Option<&Home>, apis: Apis) -> Result<Self, StateError> {
        let make = || Ok(Token::of(state::random()?).text().into_bytes());
        let text = state.read_or_create(TOKEN_FILE, make)?;
        let file = state.path(TOKEN_FILE);
        let token = Token::read(&text).map_err(|why| StateError::Invalid {
            path: file.clone(),
            why: why.to_string(),
        })?;
        let account = |home: &Home| {
            let named = home
                .namespace
                .as_ref()
                .map_or(NAMESPACE, |name| name.as_str());
            (home.cluster.clone(), format!("{named}:{ACCOUNT}"))
        };
        Ok(Self {
            token,
            file,
            home: home.map(account),
            apis,
            believed: Mutex::default(),
        })
    }

    /// May whoever shows this see everything?
    ///
    /// # Errors
    /// What has to be shown, and what is wrong with this.
    pub(super) async fn admits(&self, authorization: Option<&[u8]>) -> Result<(), String> {
        let Some(shown) = authorization.and_then(Token::shown) else {
            return Err(self.asks("no token is shown"));
        };
        if self.token.is(&shown) || self.believes(&shown) {
            return Ok(());
        }
        let Some((cluster, account)) = &self.home else {
            return Err(self.asks("the token is another one"));
        };
        let api = self.apis.borrow().get(cluster).cloned();
        let Some(api) = api else {
            return Err(self.asks(&format!(
                "there is no way to {cluster}, to ask about the token"
            )));
        };
        match review::account(&api, cluster, shown.as_str(), AUDIENCE).await {
            Ok(found) if found == *account => {
                self.believe(shown);
                Ok(())
            }
            Ok(found) => Err(self.asks(&format!("the token is that of {found}"))),
            Err(why) => Err(self.asks(&why.to_string())),
        }
    }

    fn asks(&self, why: &str) -> String {
        let other = match &self.home {
            Some((cluster, account)) => {
                format!(
                    ", or one of service account {account} of {cluster} for the audience {AUDIENCE}"
                )
            }
            None => String::new(),
        };
        let file = self.file.display();
        format!("asks for `authorization: Bearer TOKEN` with the token in {file}{other}: {why}\n")
    }

    fn believes(&self, shown: &Token) -> bool {
        let now = Instant::now();
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed.retain(|(_, since)| now.saturating_duration_since(*since) < BELIEVED);
        believed.iter().any(|(token, _)| token.is(shown))
    }

    fn believe(&self, token: Token) {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if believed.len() >= BELIEVED_MAX {
            believed.remove(0);
        }
        believed.push((token, Instant::now()));
    }
}
