//! How does a snapshot read as JSON?

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use isthmus_proxy_core::balance::{StatsView, Ticks};
use isthmus_proxy_core::snapshot::Snapshot;
use isthmus_proxy_core::snapshot::describe::{EndpointView, ServiceView, describe_service};
use serde_json::{Value, json};

/// Everything but the services, with the measurements of now.
pub(super) fn besides_services(snapshot: &Snapshot, now: Ticks) -> Value {
    let described = snapshot.describe_besides_services(Some(now));
    let content = described.content;
    let [cluster, network, region, zone] = &content.place;
    json!({
        "generation": described.generation.0,
        "place": { "cluster": cluster, "network": network, "region": region, "zone": zone },
        "own": content.own.map(|own| json!({
            "name": own.name, "identity": own.identity, "addresses": own.addresses,
            "permissive": own.permissive,
            "passthrough_denied": own.passthrough_denied,
            "ports": own.ports.iter().map(|(port, protocol, services)| json!({
                "port": port, "protocol": protocol, "services": services,
            })).collect::<Vec<_>>(),
        })),
        "policies": content.policies.map(|policies| policies.iter().map(|p| json!({
            "name": p.name, "invalid": p.invalid,
        })).collect::<Vec<_>>()),
        "trust": content.trust.iter().map(|(domain, roots, sequence)| json!({
            "trust_domain": domain, "roots": roots, "sequence": sequence,
        })).collect::<Vec<_>>(),
        "gateways": content.gateways.iter().map(|g| json!({
            "name": g.name, "cluster": g.cluster, "network": g.network, "addresses": g.addresses,
            "stats": g.stats.as_ref().map(|s| stats(s, now)),
        })).collect::<Vec<_>>(),
        "clusters": content.clusters.iter().map(|c| json!({
            "name": c.name, "state": c.state.name(), "reason": c.reason,
            "confirmed_at": seconds(c.confirmed_at),
            "older_kinds": c.kinds.iter().map(|(kind, of)| json!({
                "kind": kind, "state": of.state.name(), "reason": of.reason,
                "confirmed_at": seconds(of.confirmed_at),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "exports": content.exports,
        "handle_epochs": content.handle_epochs,
    })
}

/// Since 1970.
fn seconds(at: Option<SystemTime>) -> Option<f64> {
    let since = at?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs_f64())
}

/// The text of an object and then, as one field more, of all services: one after another as they are written, so
/// that to look at ten thousand endpoints takes no more room than to look at those of one service.
pub(super) fn with_services(object: &Value, snapshot: &Snapshot, now: Ticks) -> Pieces {
    let mut head = format!("{object:#}");
    // An object with fields ends so.
    head.truncate(head.trim_end_matches("\n}").len());
    head += ",\n  \"services\": [\n";
    let services: Vec<_> = snapshot.services.iter().cloned().collect();
    let last = services.len().saturating_sub(1);
    let services = services.into_iter().enumerate().map(move |(at, each)| {
        let comma = if at < last { "," } else { "" };
        let each = service(&describe_service(&each, Some(now)), now);
        format!("{each:#}{comma}\n")
    });
    let all = std::iter::once(head).chain(services);
    Pieces(Box::new(all.chain(["]\n}\n".to_owned()])))
}

/// A body that is made as it is sent.
pub(super) struct Pieces(Box<dyn Iterator<Item = String> + Send>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.get_mut().0.next();
        Poll::Ready(piece.map(|text| Ok(Frame::data(text.into()))))
    }
}

fn service(service: &ServiceView, now: Ticks) -> Value {
    json!({
        "name": service.name,
        "hostnames": service.hostnames,
        "addresses": service.addresses,
        "local_only": service.local_only,
        "ports": service.ports.iter().map(|(port, name, protocol)| json!({
            "port": port, "name": name, "protocol": protocol,
        })).collect::<Vec<_>>(),
        "routes": service.routes,
        "endpoints": service.endpoints.as_ref().map(|endpoints| {
            endpoints.iter().map(|e| endpoint(e, now)).collect::<Vec<_>>()
        }),
    })
}

/// An endpoint with its measurements.
pub(super) fn endpoint(endpoint: &EndpointView, now: Ticks) -> Value {
    let [cluster, network, region, zone] = &endpoint.place;
    json!({
        "name": endpoint.name, "cluster": cluster, "network": network, "region": region, "zone": zone,
        "addresses": endpoint.addresses, "identity": endpoint.identity, "weight": endpoint.weight,
        "health": endpoint.health, "tunnel_port": endpoint.tunnel_port, "exported": endpoint.exported,
        "stats": endpoint.stats.as_ref().map(|s| stats(s, now)),
    })
}

fn stats(stats: &StatsView, now: Ticks) -> Value {
    json!({
        "in_flight": stats.in_flight,
        "latency_mean_ms": stats.latency_mean.as_secs_f64() * 1e3,
        "latency_peak_ms": stats.latency_peak.as_secs_f64() * 1e3,
        "error_rate": stats.error_rate,
        "consecutive_failures": stats.consecutive_failures,
        "ejected": stats.ejected_until.is_some(),
        "ejected_for_seconds": stats.ejected_until.map(|until| until.since(now).as_secs_f64()),
        "ejections": stats.ejections,
        "attempts": stats.attempts_total,
        "failures": stats.failures_total,
        "ejections_total": stats.ejections_total,
    })
}
