//! How do we reach the admin page of a control plane that is a pod?
//!
//! The page answers its own machine only, so somebody must knock from inside the pod. `kubectl` does
//! that with whatever credential the user has; it ends with us.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use isthmus_proto::admin::Token;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::args::Reach;
use crate::client::Door;
use crate::install::objects::SYSTEM;

/// Longest time until the way is open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Port of the control plane's admin page.
const ADMIN_PORT: u16 = 15014;
/// Most that is read of what `kubectl` complains of, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// An open way; closed when it is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    /// Where to knock.
    at: SocketAddr,
    _kubectl: Child,
}

impl Forward {
    /// Opens the way to a pod of the control plane in the cluster of this context.
    ///
    /// # Errors
    /// There is no `kubectl`, or it does not reach the pod.
    pub(super) async fn open(reach: &Reach, pod: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("kubectl");
        if let Some(file) = &reach.kubeconfig {
            // It may be a list of files, which the flag does not take.
            command.env("KUBECONFIG", file);
        }
        if let Some(context) = &reach.context {
            command.args(["--context", context]);
        }
        let target = format!("pod/{pod}");
        command
            .args(["--namespace", SYSTEM, "port-forward", &target])
            .arg(format!(":{ADMIN_PORT}"))
            .args(["--address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut kubectl = command.spawn().context(
            "kubectl, which opens the way into the control plane's pod, cannot be started; \
             --control-plane names an address that is reachable without it",
        )?;
        let opened = timeout(OPEN_TIMEOUT, opened(&mut kubectl, pod)).await;
        let at = opened.with_context(|| {
            let seconds = OPEN_TIMEOUT.as_secs();
            format!("kubectl port-forward opened nothing within {seconds} s")
        })??;
        Ok(Self {
            at,
            _kubectl: kubectl,
        })
    }
}

impl Forward {
    /// The pages there, with what they ask for.
    pub(super) fn door(&self, token: &Token) -> Door {
        Door {
            at: self.at,
            token: Some(token.clone()),
        }
    }
}

async fn opened(kubectl: &mut Child, pod: &str) -> anyhow::Result<SocketAddr> {
    let stdout = kubectl.stdout.take().context("kubectl has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.context("reading from kubectl")? {
        if let Some(at) = forwarded(&line) {
            // What it says later is nobody's concern, but must not stop it.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(at);
        }
    }
    let mut why = String::new();
    if let Some(stderr) = kubectl.stderr.take() {
        let mut stderr = stderr.take(COMPLAINT_BYTES_MAX);
        stderr
            .read_to_string(&mut why)
            .await
            .context("reading from kubectl")?;
    }
    bail!("kubectl port-forward to pod {SYSTEM}/{pod}: {}", why.trim())
}

/// `Forwarding from 127.0.0.1:40123 -> 15014`
fn forwarded(line: &str) -> Option<SocketAddr> {
    let rest = line.strip_prefix("Forwarding from ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_kubectl_says() {
        let at = forwarded("Forwarding from 127.0.0.1:40123 -> 15014");
        assert_eq!(at, Some("127.0.0.1:40123".parse().unwrap()));
        assert_eq!(forwarded("Handling connection for 40123"), None);
        assert_eq!(forwarded("Forwarding from nowhere"), None);
    }
}
