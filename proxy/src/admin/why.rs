//! How does a replayed decision read as JSON?

use isthmus_proxy_core::authorize::Step;
use isthmus_proxy_core::balance::Ticks;
use isthmus_proxy_core::explain::{
    EndpointStep, Explanation, Found, InboundQuestion, Question, RequestQuestion, RouteStep,
    explain_inbound, explain_outbound,
};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};

use super::dump;

/// Longest text of a parameter, bytes.
const PARAMETER_BYTES_MAX: usize = 4096;

/// Replays a call of our application: `host`, `port`, and for a request `path`, `method`, `header`.
///
/// # Errors
/// A parameter is missing or can't be read.
pub(super) fn outbound(
    snapshot: &Snapshot,
    query: &str,
    now: Ticks,
    mesh_domain: &str,
) -> Result<Value, String> {
    let question = Question {
        host: parameter(query, "host").ok_or("the parameter host is missing")?,
        port: port(query)?,
        request: Some(request(query)),
        server_name: parameter(query, "server_name"),
        mesh_domain: mesh_domain.to_owned(),
        random: now.0,
        now,
    };
    Ok(explanation(&explain_outbound(snapshot, &question), now))
}

/// Replays a call to our workload: `port`, `identity`, and for a request `host`, `path`, `method`.
///
/// # Errors
/// A parameter is missing or can't be read.
pub(super) fn inbound(
    snapshot: &Snapshot,
    query: &str,
    is_ours: impl Fn(u16) -> bool,
) -> Result<Value, String> {
    let identity = parameter(query, "identity")
        .map(|id| {
            id.parse()
                .map_err(|e| format!("the parameter identity: {e}"))
        })
        .transpose()?;
    let is_request = ["path", "method", "header"]
        .iter()
        .any(|name| parameter(query, name).is_some());
    let question = InboundQuestion {
        identity,
        port: port(query)?,
        host: parameter(query, "host").unwrap_or_default(),
        request: is_request.then(|| request(query)),
    };
    let found = explain_inbound(snapshot, &question);
    if is_ours(question.port) {
        return Ok(json!({
            "generation": found.generation.0,
            "workload": found.workload,
            "port": question.port,
            "allowed": false,
            "failure": Failure::Denied.name(),
            "flag": Failure::Denied.flag(),
            "reason": "the proxy itself listens there",
            "steps": [],
        }));
    }
    Ok(json!({
        "generation": found.generation.0,
        "policy_generation": found.policy_generation.map(|g| g.0),
        "workload": found.workload,
        "port": question.port,
        "protocol": found.protocol,
        "services": found.services,
        "allowed": found.allowed,
        "failure": found.failure.map(|f| f.name()),
        "flag": found.failure.map(|f| f.flag()),
        "policy": found.policy,
        "reason": found.reason,
        "remedy": found.remedy,
        "steps": found.steps.iter().map(step).collect::<Vec<_>>(),
    }))
}

fn request(query: &str) -> RequestQuestion {
    let headers = parameters(query, "header")
        .filter_map(|line| {
            line.split_once(':')
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
        })
        .collect();
    RequestQuestion {
        method: parameter(query, "method").unwrap_or_default(),
        path: parameter(query, "path").unwrap_or_default(),
        headers,
    }
}

fn explanation(found: &Explanation, now: Ticks) -> Value {
    let service = match &found.found {
        Found::Service(name) => json!(name),
        Found::Absent => json!({ "absent": "discovery says that there is none" }),
        Found::Unknown => json!({ "unknown": "never asked for, or not answered yet" }),
    };
    let usable = found.endpoints.iter().find(|e| e.usable);
    json!({
        "generation": found.generation.0,
        "service": service,
        "route": found.route.as_ref().map(route),
        // One that could be chosen now: chance and load decide among all that are usable.
        "endpoint": usable.map(|e| e.endpoint.name.as_str()),
        "target_port": usable.and_then(|e| e.target_port),
        "endpoints": found.endpoints.iter().map(|e| endpoint(e, now)).collect::<Vec<_>>(),
        "endpoints_total": found.endpoints_total,
        "places": found.places.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>(),
        "clusters": found.clusters.iter().map(|c| json!({
            "name": c.name, "state": c.state.name(), "reason": c.reason,
        })).collect::<Vec<_>>(),
        "failure": found.failure.map(|f| f.name()),
        "flag": found.failure.map(|f| f.flag()),
        "verdict": found.verdict,
    })
}

fn route(route: &RouteStep) -> Value {
    json!({
        "rule": route.rule,
        "backends": route.backends.iter().map(|b| json!({
            "backend": b.backend, "weight": b.weight,
        })).collect::<Vec<_>>(),
        "chosen": route.chosen,
        "path": route.path,
        "authority": route.authority,
        "redirect": route.redirect,
        "mirrors": route.mirrors,
    })
}

fn endpoint(step: &EndpointStep, now: Ticks) -> Value {
    json!({
        "endpoint": dump::endpoint(&step.endpoint, now),
        "distance": format!("{:?}", step.distance).to_lowercase(),
        "target_port": step.target_port,
        "usable": step.usable,
        "why": step.why,
        "next_hop": step.next_hop,
    })
}

fn step(step: &Step) -> Value {
    json!({
        "policy": &*step.policy,
        "action": format!("{:?}", step.action).to_lowercase(),
        "rule": step.rule,
        "matched": step.matched,
        "why": step.why,
    })
}

fn port(query: &str) -> Result<u16, String> {
    let text = parameter(query, "port").ok_or("the parameter port is missing")?;
    text.parse()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| format!("the parameter port: {text:?} is not 1 to 65,535"))
}

/// The first value of a query parameter, decoded. Empty ones are none.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query, name)
        .next()
        .filter(|value| !value.is_empty())
}

fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, value)| *key == name && value.len() <= PARAMETER_BYTES_MAX)
        .map(|(_, value)| decode(value))
}

/// Percent-decoding; what is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once() {
        let query = "path=%2Fa%252Fb&x=1&header=a:1&header=b%3A2&empty=";
        assert_eq!(parameter(query, "path").as_deref(), Some("/a%2Fb"));
        assert_eq!(parameter(query, "empty"), None);
        assert_eq!(
            parameters(query, "header").collect::<Vec<_>>(),
            ["a:1", "b:2"]
        );
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%f"), "%zz%f");
    }
}
