//! How do the proxy and the control plane become roles of this binary?
//!
//! The only file that calls their crates, so that a change of an entry point is a change here.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use isthmus_control_plane::kubernetes::{Allow, kubeconfig};
use isthmus_control_plane::token;
use isthmus_proto::ids::WorkloadName;
use serde_json::Value;

use crate::args::{Format, ProxyOptions, RoleOptions};
use crate::{logging, shutdown};

/// `isthmus proxy`. The proxy builds its own runtimes: this is not inside one.
///
/// # Errors
/// The configuration can't be read, or the proxy says why it stopped.
pub(crate) fn proxy(options: &ProxyOptions, format: Format) -> anyhow::Result<()> {
    let ProxyOptions { role, set } = options;
    logging::start(&role.log, format)?;
    let config = isthmus_proxy::config::Config::load_with(&role.config, set)?;
    isthmus_proxy::run(config, shutdown::requested(role.exit_with_stdin))
}

/// `isthmus control-plane`.
///
/// # Errors
/// The configuration can't be read, or the control plane says why it stopped.
pub(crate) fn control_plane(options: &RoleOptions, format: Format) -> anyhow::Result<()> {
    logging::start(&options.log, format)?;
    let config = isthmus_control_plane::config::Config::read(&options.config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control-plane")
        .build()
        .context("starting the runtime")?
        .block_on(isthmus_control_plane::run(
            config,
            shutdown::requested(options.exit_with_stdin),
        ))
}

/// Does a context of a kubeconfig lead to an API server, as far as can be seen without asking it?
///
/// # Errors
/// It doesn't, or says something that is not in `allow`; the text names the field.
pub(crate) fn check_kubeconfig(file: &Path, context: &str, allow: &[Value]) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let allow = Allow::of(allow)?;
    kubeconfig(&text, Some(context), &allow)
        .with_context(|| format!("the context {context} of {}", file.display()))?;
    Ok(())
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
    let workload: WorkloadName = format!("{}/{}/{}", whom.cluster, whom.namespace, whom.pod)
        .parse()
        .context("the workload's name")?;
    let expires = SystemTime::now() + token::TOKEN_LIFETIME;
    let claims = token::Claims::new(&workload, whom.service_account, expires)?;
    token::mint(state_dir, &claims)
        .with_context(|| format!("minting a token with the keys in {}", state_dir.display()))
}
