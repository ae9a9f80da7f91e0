//! What may operators and their metrics see?
//!
//! Plain HTTP. `/ready` and `/metrics` answer everybody who reaches the address; the dumps name
//! workloads and addresses, and answer only admins who are on this machine (SECURITY S10).

mod front;
mod guard;
mod page;
mod services;
mod first_use;
mod readiness;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use isthmus_control_plane_core::model::Object;
use isthmus_control_plane_core::world::{ClusterStatus, Place, State};
use isthmus_proto::ids::ClusterId;

use crate::authority::registry::Authorities;
use crate::clients::Clients;
use crate::fleet::Fleet;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::rotation::Told;
use crate::saved::Note;
use crate::source::Report;
use crate::writer::Problems;
pub use front::Front;
pub use guard::{ACCOUNT, AUDIENCE, Guard};
pub use readiness::Begin;
use readiness::Readiness;

/// Objects that are read in one go: the world's writer waits meanwhile.
const OBJECTS_PAGE: usize = 500;
/// Objects that one dump shows.
const OBJECTS_MAX: usize = 20_000;

/// What there is to see.
#[derive(Debug)]
pub struct Admin {
    /// The world.
    pub hub: Arc<Hub>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What could not be written into the clusters.
    pub problems: Arc<Problems>,
    /// Who signs.
    pub authorities: Arc<Authorities>,
    /// How far roots are on their way.
    pub told: Arc<Told>,
    /// Who belongs to the mesh, and what their sources complain of.
    pub fleet: Arc<Fleet>,
    /// Since when it waits to be ready.
    pub begin: Begin,
}

#[derive(serde::Serialize)]
struct ClusterView {
    cluster: String,
    state: &'static str,
    reason: String,
    /// Since the source's view was last known to be right.
    age_seconds: Option<f64>,
    objects: BTreeMap<&'static str, usize>,
    /// Kinds of which nothing is known, in a cluster of which the rest is.
    unknown_kinds: Vec<&'static str>,
    /// Addresses of pods and slices that others are not told, because of declared ranges.
    withheld_addresses: usize,
    source: Option<Report>,
    /// Seconds since 1970: when the credential ends, if it says so.
    credential_ends: Option<u64>,
    /// How far its API server's clock is ahead of this machine's.
    clock_ahead_seconds: Option<i64>,
    /// What is on disk, for a control plane that starts while the cluster can't be reached.
    saved: Option<Note>,
}

/// Everybody who reaches the address may see whether this one is ready, and its metrics. All else names
/// workloads and addresses: an admin may see it who is on this machine, or whom a cluster lets forward a
/// port to it. From elsewhere the token would come in the clear.
fn is_for_admins(path: &str) -> bool {
    !matches!(path, "/ready" | "/metrics")
}

/// May somebody at this address ask for this path, who is an admin?
fn may_ask(path: &str, remote: IpAddr) -> bool {
    !is_for_admins(path) || remote.to_canonical().is_loopback()
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match path {
            "/ready" => {
                let readiness = self.readiness();
                let ok = if readiness.ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                json(ok, &readiness)
            }
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics());
                let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/clusters" => json(StatusCode::OK, &self.clusters()),
            "/proxies" => json(StatusCode::OK, &self.clients.all()),
            "/trust" => json(StatusCode::OK, &self.told.all()),
            "/services" => json(StatusCode::OK, &self.services()),
            "/world" => json(StatusCode::OK, &self.world()),
            "/first-use" => match self.first_use(request.uri().query().unwrap_or_default()) {
                Ok(told) => json(StatusCode::OK, &told),
                Err(why) => text(StatusCode::BAD_REQUEST, why + "\n"),
            },
            _ => {
                let cluster = path
                    .strip_prefix("/world/")
                    .and_then(|name| name.parse().ok());
                let kind = request.uri().query().and_then(|q| q.strip_prefix("kind="));
                match cluster.and_then(|cluster| self.objects(&cluster, kind)) {
                    Some(objects) => json(StatusCode::OK, &objects),
                    None => text(
                        StatusCode::NOT_FOUND,
                        "/ready /metrics /clusters /proxies /services /trust /world /world/CLUSTER?kind=KIND /first-use\n",
                    ),
                }
            }
        }
    }

    /// What a cluster declares, as it was understood: all of it, or of one kind.
    fn objects(&self, cluster: &ClusterId, kind: Option<&str>) -> Option<serde_json::Value> {
        let (mut found, mut after, mut more) = (Vec::new(), None, false);
        loop {
            let page = self
                .hub
                .read(|world| world.page(cluster, after.as_ref(), OBJECTS_PAGE))?;
            let Some(last) = page.last() else { break };
            after = Some(Place::of(last));
            let wanted = |object: &Object| kind.is_none_or(|k| object.spec.kind().as_str() == k);
            found.extend(page.into_iter().filter(wanted));
            if found.len() > OBJECTS_MAX {
                found.truncate(OBJECTS_MAX);
                more = true;
                break;
            }
        }
        Some(serde_json::json!({ "objects": found, "more": more }))
    }

    fn readiness(&self) -> Readiness {
        let (refused, now) = (self.fleet.awaited(), Instant::now());
        self.hub
            .read(|world| self.begin.readiness(world, &refused, now))
    }

    fn clusters(&self) -> Vec<ClusterView> {
        let now = SystemTime::now();
        let awaited = self.fleet.awaited().into_iter();
        let awaited = awaited.map(|(cluster, reason)| ClusterView {
            cluster: cluster.to_string(),
            state: state(State::Unknown),
            reason,
            age_seconds: None,
            objects: BTreeMap::new(),
            unknown_kinds: Vec::new(),
            withheld_addresses: 0,
            source: None,
            credential_ends: None,
            clock_ahead_seconds: None,
            saved: None,
        });
        self.hub.read(|world| {
            let view = world.clusters().map(|status| ClusterView {
                cluster: status.cluster.to_string(),
                state: state(status.state),
                reason: told(&status),
                age_seconds: status
                    .confirmed_at
                    .map(|at| now.duration_since(at).unwrap_or_default().as_secs_f64()),
                objects: status
                    .objects
                    .iter()
                    .map(|(kind, n)| (kind.as_str(), *n))
                    .collect(),
                unknown_kinds: status.unknown.iter().map(|kind| kind.as_str()).collect(),
                withheld_addresses: world.withheld_addresses(status.cluster.as_str()),
                source: self.fleet.report(status.cluster),
                credential_ends: self.credential_ends(status.cluster),
                clock_ahead_seconds: self.fleet.clock_ahead(status.cluster),
                saved: self.fleet.saved().note(status.cluster),
            });
            view.chain(awaited).collect()
        })
    }

    fn credential_ends(&self, cluster: &ClusterId) -> Option<u64> {
        let ends = self.fleet.credential_ends(cluster)?;
        let since = ends.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    }

    fn world(&self) -> serde_json::Value {
        let clusters = self.clusters();
        self.hub.read(|world| {
            let conditions = world.conditions().into_iter().map(|condition| {
                serde_json::json!({
                    "object": condition.object.to_string(), "kind": condition.kind,
                    "holds": condition.holds, "reason": condition.reason,
                    "message": condition.message,
                })
            });
            let trust = world.trust_bundles().map(|bundle| {
                serde_json::json!({
                    "trust_domain": bundle.trust_domain, "cluster": bundle.cluster,
                    "sequence": bundle.sequence, "roots": bundle.roots.len(),
                })
            });
            let unwritten = self.problems.list().into_iter().map(
                |(object, why)| serde_json::json!({ "object": object.to_string(), "why": why }),
            );
            serde_json::json!({
                "mesh_domain": world.mesh_domain(),
                "generation": world.generation(),
                "trust_awaits": world.mesh_author_awaited().map(ToString::to_string),
                "clusters": clusters,
                "trust": trust.collect::<Vec<_>>(),
                "conditions": conditions.collect::<Vec<_>>(),
                "unwritten": unwritten.collect::<Vec<_>>(),
            })
        })
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Unknown => "unknown",
        State::Synced => "synced",
        State::Stale => "stale",
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Why a cluster is not seen, and what that means for the others.
fn told(status: &ClusterStatus<'_>) -> String {
    let withdrawn = if status.expired {
        "; its endpoints are withdrawn from the other clusters"
    } else {
        ""
    };
    format!("{}{withdrawn}", status.reason)
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            let mut response = text(status, bytes);
            let kind = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S10
    #[test]
    fn who_is_not_on_this_machine_sees_whether_it_is_ready_and_its_metrics_and_nothing_else() {
        let here = ["127.0.0.1", "127.3.0.9", "::1", "::ffff:127.0.0.1"];
        // The API server's proxy comes from an address of its own, as every pod does.
        let elsewhere = [
            "10.0.0.1",
            "169.254.1.1",
            "::",
            "::ffff:10.0.0.1",
            "fd00::1",
        ];
        let may = |path, from: &str| may_ask(path, from.parse().unwrap());
        for path in ["/ready", "/metrics"] {
            assert!(here.iter().chain(&elsewhere).all(|from| may(path, from)));
            assert!(!is_for_admins(path));
        }
        for path in [
            "/clusters",
            "/proxies",
            "/services",
            "/trust",
            "/world",
            "/world/east",
            "/first-use",
            "/",
            "/ready/",
            "//metrics",
            "/metrics/../world",
            "/a-page-of-tomorrow",
        ] {
            assert!(here.iter().all(|from| may(path, from)), "{path}");
            assert!(is_for_admins(path), "{path}");
            assert!(!elsewhere.iter().any(|from| may(path, from)), "{path}");
        }
    }
}
