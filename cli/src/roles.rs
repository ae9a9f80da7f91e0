//! How do the proxy and the control plane become roles of this binary?
//!
//! The only file that calls their crates, so that a change of an entry point is a change here.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::args::RoleOptions;
use crate::{logging, shutdown};

/// `isthmus proxy`. The proxy builds its own runtimes: this is not inside one.
///
/// # Errors
/// The configuration can't be read, or the proxy says why it stopped.
pub(crate) fn proxy(options: &RoleOptions) -> anyhow::Result<()> {
    logging::start(&options.log)?;
    let config: isthmus_proxy::Config = read(&options.config)?;
    isthmus_proxy::run(config, shutdown::requested(options.exit_with_stdin))
}

/// `isthmus control-plane`.
///
/// # Errors
/// The configuration can't be read, or the control plane says why it stopped.
pub(crate) fn control_plane(options: &RoleOptions) -> anyhow::Result<()> {
    logging::start(&options.log)?;
    let config: isthmus_control_plane::Config = read(&options.config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control-plane")
        .build()
        .context("starting the runtime")?
        .block_on(isthmus_control_plane::run(config, shutdown::requested(options.exit_with_stdin)))
}

/// Whom a token is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenFor<'a> {
    /// The workload's cluster.
    pub(crate) cluster: &'a str,
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its service account.
    pub(crate) service_account: &'a str,
    /// Its pod.
    pub(crate) pod: &'a str,
}

/// A service-account token, signed with the cluster's token key in `state_dir`.
///
/// # Errors
/// There is no such key: the control plane has not started with this cluster yet.
pub(crate) fn token(state_dir: &Path, whom: TokenFor<'_>) -> anyhow::Result<String> {
    let claims = isthmus_control_plane::token::Claims {
        cluster: whom.cluster.to_owned(),
        namespace: whom.namespace.to_owned(),
        service_account: whom.service_account.to_owned(),
        pod: whom.pod.to_owned(),
    };
    isthmus_control_plane::token::mint(state_dir, &claims)
        .with_context(|| format!("minting a token with the keys in {}", state_dir.display()))
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
}
