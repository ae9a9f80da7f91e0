//! How does a replayed decision read as JSON?

use isthmus_proxy_core::authorize::Step;
use isthmus_proxy_core::balance::{PlaceView, Ticks};
use isthmus_proxy_core::explain::{
    EndpointStep, Explanation, Found, InboundQuestion, Question, RequestQuestion, RouteStep, Said,
    explain_inbound, explain_outbound,
};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};

use super::dump;

/// Longest text of a parameter, bytes.
const PARAMETER_BYTES_MAX: usize = 4096;

/// Replays a call of our application: `host`, `port`, and what [`said`] reads.
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
        said: said(query)?,
        mesh_domain: mesh_domain.to_owned(),
        random: now.0,
        now,
    };
    Ok(explanation(&explain_outbound(snapshot, &question), now))
}

/// Replays a call to our workload: `port`, `identity`, `host`, and what [`said`] reads.
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
    let question = InboundQuestion {
        identity,
        port: port(query)?,
        host: parameter(query, "host").unwrap_or_default(),
        said: said(query)?,
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
        "judged_as": found.judged_as,
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

/// What the call would carry: `as` (`request` or `connection`); without it, `path`, `method` or
/// `header` mean a request and `server_name` a connection. Without any, the port says it.
fn said(query: &str) -> Result<Said, String> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    if let Some((name, _)) = values
        .into_iter()
        .find(|(_, v)| v.len() > PARAMETER_BYTES_MAX)
    {
        return Err(format!(
            "a parameter is longer than {PARAMETER_BYTES_MAX} bytes: {name}"
        ));
    }
    let has = |name| parameter(query, name).is_some();
    let connection = || Said::Connection {
        server_name: parameter(query, "server_name"),
    };
    match parameter(query, "as").as_deref() {
        Some("request") => Ok(Said::Request(request(query)?)),
        Some("connection") => Ok(connection()),
        Some(other) => Err(format!(
            "the parameter as: {other:?} is neither request nor connection"
        )),
        None if ["path", "method", "header"].into_iter().any(has) => {
            Ok(Said::Request(request(query)?))
        }
        None if has("server_name") => Ok(connection()),
        None => Ok(Said::Nothing),
    }
}

/// One that can't be read is said: without it the answer would be another one.
fn request(query: &str) -> Result<RequestQuestion, String> {
    let field = |line: String| match line.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("the parameter header: {line:?} is not name:value")),
    };
    Ok(RequestQuestion {
        method: parameter(query, "method").unwrap_or_default(),
        path: parameter(query, "path").unwrap_or_default(),
        headers: parameters(query, "header")
            .map(field)
            .collect::<Result<_, _>>()?,
    })
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
        "protocol": found.protocol,
        "judged_as": found.judged_as,
        "route": found.route.as_ref().map(route),
        // One that could be chosen now: chance and load decide among all that are usable.
        "endpoint": usable.map(|e| e.endpoint.name.as_str()),
        "target_port": usable.and_then(|e| e.target_port),
        "endpoints": found.endpoints.iter().map(|e| endpoint(e, now)).collect::<Vec<_>>(),
        "endpoints_total": found.endpoints_total,
        "places": found.places.iter().map(place).collect::<Vec<_>>(),
        "clusters": found.clusters.iter().map(|c| json!({
            "name": c.name, "state": c.state.name(), "reason": c.reason,
            "older_kinds": c.kinds.iter().map(|(kind, of)| json!({
                "kind": kind, "state": of.state.name(), "reason": of.reason,
            })).collect::<Vec<_>>(),
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
        "method": route.method,
        "path": route.path,
        "authority": route.authority,
        "headers": route.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>(),
        "redirect": route.redirect,
        "mirrors": route.mirrors,
    })
}

fn endpoint(step: &EndpointStep, now: Ticks) -> Value {
    json!({
        "endpoint": dump::endpoint(&step.endpoint, now),
        "distance": step.distance.name(),
        "target_port": step.target_port,
        "usable": step.usable,
        "why": step.why,
        "next_hop": step.next_hop,
    })
}

/// Latencies in milliseconds, shares from 0 to 1. `cost_ms` 0: never measured.
fn place(place: &PlaceView) -> Value {
    json!({
        "distance": place.distance.name(),
        "healthy": place.healthy,
        "available": place.available,
        "penalty_ms": place.penalty.as_secs_f64() * 1e3,
        "cost_ms": place.cost.as_secs_f64() * 1e3,
        "share": place.share,
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
    fn what_a_call_carries_is_said_or_left_to_the_port() {
        let name = |query: &str| match said(query) {
            Ok(Said::Nothing) => "nothing".to_owned(),
            Ok(Said::Request(request)) => format!("request {}", request.path),
            Ok(Said::Connection { server_name }) => format!("connection {server_name:?}"),
            Err(why) => why,
        };
        assert_eq!(name("host=a&port=1"), "nothing");
        assert_eq!(name("path=/x&server_name=a"), "request /x");
        assert_eq!(name("header=a:b"), "request ");
        assert_eq!(name("server_name=a"), "connection Some(\"a\")");
        assert_eq!(name("as=connection&path=/x"), "connection None");
        let wrong = "the parameter as: \"udp\" is neither request nor connection";
        assert_eq!(name("as=udp"), wrong);
        let wrong = "the parameter header: \"a\" is not name:value";
        assert_eq!(name("header=a"), wrong);
        let long = format!("path=/{}", "a".repeat(PARAMETER_BYTES_MAX));
        assert_eq!(name(&long), "a parameter is longer than 4096 bytes: path");
    }

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
