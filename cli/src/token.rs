//! Which token lets this workload ask for its certificate?

use serde_json::json;

use crate::args::{Format, TokenOptions};
use crate::{output, roles};

/// Prints a token, and nothing else.
///
/// # Errors
/// The state folder has no key for the cluster.
pub(crate) fn run(options: &TokenOptions, format: Format) -> anyhow::Result<()> {
    let whom = roles::TokenFor {
        cluster: &options.cluster,
        namespace: &options.namespace,
        service_account: &options.service_account,
        pod: &options.pod,
    };
    let token = roles::token(&options.state_dir, whom)?;
    match format {
        Format::Text => output::line(&token),
        Format::Json => output::json(&json!({ "token": token })),
    }
    Ok(())
}
