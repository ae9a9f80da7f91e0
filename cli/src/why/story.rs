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
        Self {
            text: tree(&answer),
            json: answer,
        }
    }

    /// Of a call, replayed at both ends.
    pub(super) fn of_call(client: &str, answers: Value) -> Self {
        let mut text = format!("As the sidecar of {client} would decide:\n");
        text.push_str(&answers.get("outbound").map(tree).unwrap_or_default());
        match answers.get("inbound").filter(|inbound| !inbound.is_null()) {
            Some(inbound) => {
                let server = endpoint(answers.get("outbound").unwrap_or(&Value::Null));
                let server = server.unwrap_or_else(|| "the server".to_owned());
                text.push_str(&format!("As the sidecar of {server} would decide:\n"));
                text.push_str(&tree(inbound));
            }
            None => text
                .push_str("No server's sidecar was asked: no endpoint of the mesh was chosen.\n"),
        }
        Self {
            text,
            json: answers,
        }
    }
}

/// `cluster/namespace/pod` of the endpoint that was chosen.
pub(super) fn endpoint(outbound: &Value) -> Option<String> {
    let name = search(outbound, &["endpoint", "chosen", "picked"])?;
    let name = match name {
        Value::Object(fields) => leaf(fields.get("name").or_else(|| fields.get("pod"))?),
        other => leaf(other),
    };
    Some(name.rsplit('#').next().unwrap_or(&name).to_owned()).filter(|name| name.contains('/'))
}

/// The SPIFFE ID of the proxy that answered.
pub(super) fn identity(answer: &Value) -> Option<String> {
    let found = search(answer, &["client_identity", "own_identity"]).or_else(|| {
        let certificate = search(answer, &["certificate"])?;
        search(certificate, &["identity"])
    });
    Some(leaf(found?)).filter(|id| id.starts_with("spiffe://"))
}

/// The port of the pod that the call arrives on.
pub(super) fn target_port(outbound: &Value) -> Option<u16> {
    search(outbound, &["target_port"])?
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
}

/// The first value under one of these keys, nearer ones first.
fn search<'v>(value: &'v Value, keys: &[&str]) -> Option<&'v Value> {
    if let Value::Object(fields) = value {
        let here = keys
            .iter()
            .find_map(|key| fields.get(*key))
            .filter(|found| !found.is_null());
        return here.or_else(|| fields.values().find_map(|inner| search(inner, keys)));
    }
    value
        .as_array()?
        .iter()
        .find_map(|inner| search(inner, keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_chosen_endpoint_is_found_where_it_stands() {
        let direct = json!({ "endpoint": "shop/cart.shop#west/shop/cart-3" });
        let nested = json!({ "steps": [{ "chosen": { "name": "west/shop/cart-3" } }] });
        for answer in [direct, nested] {
            assert_eq!(endpoint(&answer).as_deref(), Some("west/shop/cart-3"));
        }
        assert_eq!(endpoint(&json!({ "endpoint": null })), None);
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
}
