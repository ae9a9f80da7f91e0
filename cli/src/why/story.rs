//! How do the proxies' answers read?

use serde_json::Value;

use crate::output::{leaf, tree};

/// An explanation, for people and for programs.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    /// For people.
    pub(crate) text: String,
    /// For programs: the proxies' answers.
    pub(crate) json: Value,
}

impl Story {
    /// Of a refusal that a proxy remembers.
    pub(super) fn of_reason(answer: Value) -> Self {
        let text = match answer.get("event").filter(|event| event.is_object()) {
            Some(event) => {
                let mut text = refusal(&text_of(&answer, "id"), event);
                text.push_str(&answer.get("endpoints").map(excluded).unwrap_or_default());
                text
            }
            None => tree(&answer),
        };
        Self { text, json: answer }
    }

    /// Of a call, replayed at both ends.
    pub(super) fn of_call(client: &str, answers: Value) -> Self {
        let mut text = format!("As the sidecar of {client} would decide:\n");
        text.push_str(&answers.get("outbound").map(tree).unwrap_or_default());
        let first_use = answers.get("first_use");
        text.push_str(
            &first_use
                .map(|told| untold(client, told))
                .unwrap_or_default(),
        );
        let decided = first_use.or(answers.get("outbound"));
        let chosen = decided.and_then(endpoint);
        let inbound = answers.get("inbound").filter(|inbound| !inbound.is_null());
        let unavailable = inbound.and_then(|inbound| inbound.get("unavailable"));
        let server = chosen.as_deref().unwrap_or("the server");
        text.push_str(&match (inbound, unavailable) {
            (_, Some(why)) => format!(
                "The sidecar of {server} could not be asked: {}\n",
                leaf(why)
            ),
            (Some(inbound), None) => {
                format!("As the sidecar of {server} would decide:\n{}", tree(inbound))
            }
            (None, None) if chosen.is_some() => format!(
                "The sidecar of {server} was not asked: its address is not known; --server names it.\n"
            ),
            (None, None) => {
                "No server's sidecar was asked: no endpoint of the mesh was chosen.\n".to_owned()
            }
        });
        Self {
            text,
            json: answers,
        }
    }
}

/// Who called what, who refused it and by which rule, and what would have to change.
fn refusal(id: &str, event: &Value) -> String {
    let field = |key: &str| text_of(event, key);
    let or = |key: &str, otherwise: &str| {
        Some(field(key))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| otherwise.to_owned())
    };
    let proxy = id.split_once(':').map_or(id, |(workload, _)| workload);
    let place = match field("direction").as_str() {
        "inbound" => "on the server's side, by the sidecar of",
        "outbound" => "on the client's side, by the sidecar of",
        "gateway" => "on the way, by the gateway",
        _ => "by",
    };
    let call = match (field("method"), field("path")) {
        (method, path) if !path.is_empty() => format!("{method} {path}"),
        // A path that was ambiguous has no form; the detail says how it was written.
        (method, _) if !method.is_empty() => method,
        _ if event.get("method").is_some() => format!("a {} request", or("protocol", "HTTP")),
        _ => format!("a {} connection", or("protocol", "TCP")),
    };
    let generation = field("generation");
    let outcome = format!("{} ({})", or("failure", "failed"), or("flag", "-"));
    let lines = [
        (
            "caller",
            format!(
                "{}, cluster {}",
                or("source", "not known"),
                or("source_cluster", "?")
            ),
        ),
        (
            "call",
            format!("{call} to {}", or("service", "no service of the mesh")),
        ),
        (
            "to",
            format!(
                "{}, cluster {}",
                or("endpoint", "-"),
                or("destination_cluster", "?")
            ),
        ),
        (
            "decided",
            format!("{place} {proxy}, configuration generation {generation}"),
        ),
        (
            "outcome",
            format!("{outcome}, status {}", or("status", "none")),
        ),
        ("blame", field("blame")),
        ("policy", field("policy")),
        ("route", field("route")),
        ("hop", field("hop")),
        ("detail", field("detail")),
        ("there", there(&field("upstream_reason"))),
        ("remedy", remedy(&field("failure"), &field("policy"))),
    ];
    let said = lines.iter().filter(|(_, text)| !text.is_empty());
    said.map(|(key, text)| format!("  {key:<8} {text}\n"))
        .collect()
}

/// The endpoints as they were, each with what excluded it.
fn excluded(endpoints: &Value) -> String {
    let field = |key: &str| text_of(endpoints, key);
    let mut text = format!(
        "  as it was then, with configuration generation {}: none of the {} endpoints of {} could \
         take it\n",
        field("generation"),
        field("total"),
        field("service"),
    );
    let reasons = endpoints.get("reasons").and_then(Value::as_object);
    for (why, count) in reasons.into_iter().flatten() {
        text.push_str(&format!("    {} × {why}\n", leaf(count)));
    }
    let named = endpoints.get("named").and_then(Value::as_array);
    for one in named.into_iter().flatten() {
        let (name, why) = (text_of(one, "name"), text_of(one, "why"));
        text.push_str(&format!("    {name}: {why}\n"));
    }
    text
}

/// Who refused it knows more than who was refused.
fn there(id: &str) -> String {
    if id.is_empty() {
        return String::new();
    }
    format!("`isthmus why {id}` says what decided")
}

/// What would have to change, by the failure's name. Empty: nothing that an operator could.
fn remedy(failure: &str, policy: &str) -> String {
    let text = match failure {
        "denied" if !policy.is_empty() => {
            return format!("edit or remove the AccessPolicy {policy}: it decided");
        }
        "denied" => "allow this caller: AccessPolicies select the workload, none of them allows it",
        "policy_unknown" => {
            "connect the sidecar to the control plane: before its first policies it denies"
        }
        "unauthenticated" => "call through a sidecar: no certificate that is believed was shown",
        "identity_mismatch" => "see who answers at the endpoint's address: its identity is another",
        "no_destination" => "create or export the service, or let unknown destinations pass",
        "invalid_backend" => {
            "correct the route: its backend is not there, or may not be referred to"
        }
        "no_route" => "add a rule to the service's routes: none of theirs matches",
        "no_endpoint" => "start a pod that the service selects, or export one from another cluster",
        "no_healthy_endpoint" => {
            "see `isthmus status`: endpoints are unready, ejected or beyond a gateway that is missing"
        }
        "endpoints_unknown" => {
            "connect the sidecar to the control plane: it was never told the endpoints"
        }
        "no_certificate" => {
            "see the log of the caller's sidecar, and `isthmus status`: it can't renew its certificate"
        }
        "overflow" => "raise the limits in the service's TrafficPolicy, or send less",
        "connect_failed" | "connect_timeout" => {
            "see whether the pod runs, and whether its network is reachable"
        }
        "request_deadline" | "idle_timeout" => {
            "raise the timeout in the route or TrafficPolicy, or speed the server up"
        }
        "upstream_reset" | "upstream_refused" | "upstream_protocol" => {
            "see the log of the server's application"
        }
        "bad_request" | "not_implemented" | "head_too_large" | "request_timeout" => {
            "correct the client: its request can't be taken as it is"
        }
        "no_handle" => "export the service: a gateway forwards to nothing else",
        _ => "",
    };
    text.to_owned()
}

/// What a sidecar has not asked for, and would hear.
fn untold(client: &str, told: &Value) -> String {
    let begun = format!(
        "The sidecar of {client} has never asked for it: it does at the first call, which waits for the answer.\n"
    );
    match told.get("unavailable") {
        Some(why) => format!(
            "{begun}The control plane could not be asked what it would answer: {}\n",
            leaf(why)
        ),
        None => format!(
            "{begun}As the control plane would answer now:\n{}",
            tree(told)
        ),
    }
}

/// Has the client's sidecar not been told of the service yet?
pub(super) fn is_first_use(outbound: &Value) -> bool {
    let service = outbound.get("service");
    service.is_some_and(|service| service.get("unknown").is_some())
}

/// A field as text; empty if it isn't there.
fn text_of(value: &Value, key: &str) -> String {
    value
        .get(key)
        .filter(|found| !found.is_null())
        .map(leaf)
        .unwrap_or_default()
}

/// `cluster/namespace/pod` of an endpoint that could be chosen now. None: there is none.
pub(super) fn endpoint(outbound: &Value) -> Option<String> {
    let name = outbound.get("endpoint")?.as_str()?;
    Some(name.rsplit('#').next().unwrap_or(name).to_owned())
}

/// The SPIFFE ID of a proxy, from its `/config`.
pub(super) fn identity(config: &Value) -> Option<String> {
    let identity = config.pointer("/certificate/identity")?;
    identity.as_str().map(ToOwned::to_owned)
}

/// The port of the pod that the call arrives on.
pub(super) fn target_port(outbound: &Value) -> Option<u16> {
    outbound
        .get("target_port")?
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_names_the_rule_and_what_would_change_it() {
        let event = json!({
            "direction": "inbound", "source": "spiffe://east.mesh.internal/ns/shop/sa/web",
            "source_cluster": "east", "destination_cluster": "west", "service": "shop/reviews",
            "endpoint": "", "policy": "west/shop/no-web", "status": 403, "flag": "UAEX",
            "failure": "denied", "method": "GET", "path": "/", "generation": 17, "detail": "",
        });
        let story = Story::of_reason(json!({ "id": "west/shop/reviews-1:2a", "event": event }));
        for part in [
            "caller   spiffe://east.mesh.internal/ns/shop/sa/web, cluster east",
            "call     GET / to shop/reviews",
            "by the sidecar of west/shop/reviews-1, configuration generation 17",
            "denied (UAEX), status 403",
            "policy   west/shop/no-web",
            "remedy   edit or remove the AccessPolicy west/shop/no-web",
        ] {
            assert!(
                story.text.contains(part),
                "{part:?} is not in\n{}",
                story.text
            );
        }
        assert!(!story.text.contains("detail"), "{}", story.text);
    }

    #[test]
    fn what_could_not_be_read_was_a_request_all_the_same() {
        let story = |event: Value| {
            let service = json!({ "protocol": "http/2", "service": "shop/cart" });
            let mut all = service.as_object().unwrap().clone();
            all.extend(event.as_object().unwrap().clone());
            Story::of_reason(json!({ "id": "east/shop/web-1:2a", "event": all })).text
        };
        for (event, call) in [
            (json!({ "method": "GET", "path": "" }), "GET to shop/cart"),
            (json!({ "method": "", "path": "" }), "a http/2 request to"),
            (json!({}), "a http/2 connection to shop/cart"),
        ] {
            let text = story(event);
            assert!(text.contains(&format!("call     {call}")), "{text}");
        }
    }

    #[test]
    fn a_call_reads_from_client_to_server() {
        let outbound = json!({ "service": "shop/cart", "endpoint": "west/shop/cart-3" });
        let inbound = json!({ "allowed": false, "policy": "east-may-not" });
        let story = Story::of_call("web-1", json!({ "outbound": outbound, "inbound": inbound }));
        let at = |text: &str| {
            story
                .text
                .find(text)
                .unwrap_or_else(|| panic!("{text} in {}", story.text))
        };
        assert!(at("sidecar of web-1") < at("shop/cart"));
        assert!(at("shop/cart") < at("sidecar of west/shop/cart-3"));
        assert!(at("sidecar of west/shop/cart-3") < at("policy: east-may-not"));
    }

    #[test]
    fn a_server_that_cannot_be_asked_takes_nothing_of_the_clients_half_away() {
        let outbound = json!({ "service": "shop/cart", "endpoint": "west/shop/cart-3" });
        let read = |inbound: Value| {
            Story::of_call("web-1", json!({ "outbound": outbound, "inbound": inbound })).text
        };
        let text = read(json!({ "unavailable": "asking http://127.0.0.1:1: refused" }));
        let last =
            "sidecar of west/shop/cart-3 could not be asked: asking http://127.0.0.1:1: refused";
        assert!(
            text.contains("service: shop/cart") && text.contains(last),
            "{text}"
        );
        let text = read(Value::Null);
        assert!(text.contains("--server names it"), "{text}");
    }
}
