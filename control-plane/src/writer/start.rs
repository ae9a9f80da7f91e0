//! Which replica writes?
//!
//! The replicas agree by a Lease in one cluster, which each of them finds in its own configuration:
//! the home cluster, else the first by name that has an API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_control_plane_core::lease::Timing;
use isthmus_control_plane_core::model::SYSTEM_NAMESPACE;
use isthmus_proto::ids::ClusterId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Limits, Problems, Writer};
use crate::config::{Config, Origin};
use crate::hub::Hub;
use crate::kubernetes::lease::Servers;
use crate::kubernetes::{Api, Candidate, Leadership};
use crate::metrics::Metrics;

/// The Lease.
const LEASE: &str = "isthmus-control-plane";

/// The cluster that holds the Lease; `None`: no cluster has an API server, or the operator wants
/// nothing to be written.
#[must_use]
pub fn home(config: &Config) -> Option<ClusterId> {
    if !config.write {
        return None;
    }
    if let Some(home) = &config.home {
        return Some(home.cluster.clone());
    }
    let served = config.clusters.iter().filter_map(|cluster| {
        matches!(cluster.origin, Origin::Kubernetes(_)).then_some(&cluster.name)
    });
    served.min().cloned()
}

/// What the writer needs of the others.
#[derive(Debug)]
pub struct Parts {
    /// The world.
    pub hub: Arc<Hub>,
    /// The API servers, as they come and go.
    pub apis: watch::Receiver<BTreeMap<ClusterId, Api>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What people are told.
    pub problems: Arc<Problems>,
    /// How much may be written.
    pub limits: Limits,
}

/// Takes part in the election from now on, until `stop`; `None`: there is nothing to lead.
#[must_use]
pub fn elect(
    config: &Config,
    apis: Servers,
    stop: watch::Receiver<bool>,
) -> Option<(Leadership, JoinHandle<()>)> {
    let home = home(config)?;
    let me = std::env::var("HOSTNAME").unwrap_or_else(|_| "isthmus".to_owned());
    let candidate = Candidate::new(
        (&home, apis),
        (SYSTEM_NAMESPACE, LEASE),
        &me,
        Timing::default(),
    );
    match candidate {
        Ok((candidate, leadership)) => Some((leadership, tokio::spawn(candidate.run(stop)))),
        Err(error) => {
            tracing::error!(%error, "this replica can't take part in the election");
            None
        }
    }
}

/// Writes while this replica leads; until `stop`.
pub async fn run(parts: Parts, leadership: Leadership, stop: watch::Receiver<bool>) {
    let leads = watch::Sender::new(false);
    let writer = Writer {
        hub: parts.hub,
        servers: parts.apis,
        leads: leads.subscribe(),
        metrics: parts.metrics,
        problems: parts.problems,
        limits: parts.limits,
    };
    until(stop, async {
        tokio::join!(leadership.tell(leads), writer.run());
    })
    .await;
}

/// Runs until it is over, or has to be.
async fn until(mut stop: watch::Receiver<bool>, run: impl Future<Output = ()>) {
    tokio::select! {
        // What is under way is given up: the next leader looks for itself.
        () = run => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_that_may_not_write_takes_no_part_in_the_election() {
        let home_of = |write: bool, named: serde_json::Value| {
            let server = |name: &str| {
                let server = serde_json::json!({ "kubeconfig": "file" });
                serde_json::json!({ "name": name, "kubernetes": server })
            };
            let config = serde_json::json!({
                "state_dir": "state", "write": write, "home": named,
                "listen": { "discovery": "127.0.0.1:0", "admin": "127.0.0.1:0" },
                "clusters": [server("west"), server("east")],
            });
            let found = home(&Config::parse(&config.to_string()).unwrap());
            found.map(|home| home.to_string())
        };
        let west = || serde_json::json!({ "cluster": "west" });
        let none = || serde_json::Value::Null;
        assert_eq!(home_of(true, none()).as_deref(), Some("east"));
        assert_eq!(home_of(true, west()).as_deref(), Some("west"));
        assert_eq!(home_of(false, none()), None);
        assert_eq!(home_of(false, west()), None);
    }
}
