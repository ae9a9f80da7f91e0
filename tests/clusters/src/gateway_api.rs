//! What does the Gateway API insist on in its routes, and what does it add to them?
//!
//! Written after its reference, not its definitions: the defaults that an API server fills in, so that what
//! reads routes meets them as they come from a real one; and the bounds of the statuses, so that one that
//! a real one would refuse is refused here. All other fields are taken as they are.

use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";
/// Most parents that a route has a status for.
const PARENTS_MAX: u32 = 32;
/// Most conditions of one of them.
const CONDITIONS_MAX: u32 = 8;

/// The schema of a route of this kind; `None`: it is no route.
pub(crate) fn route(kind: &str) -> Option<Value> {
    let rules = match kind {
        "HTTPRoute" => http_rules(),
        "GRPCRoute" => rules(json!({ "matches": list(grpc_match()) })),
        "TCPRoute" | "TLSRoute" => rules(json!({})),
        _ => return None,
    };
    let parents = list(parent());
    let spec = open(json!({ "parentRefs": parents, "rules": rules }));
    let mut route = open(json!({ "spec": spec, "status": status() }));
    route["required"] = json!(["spec"]);
    Some(route)
}

fn http_rules() -> Value {
    let everything = json!([{ "path": { "type": "PathPrefix", "value": "/" } }]);
    let mut path = open(json!({
        "type": { "type": "string", "default": "PathPrefix" },
        "value": { "type": "string", "default": "/", "maxLength": 1024 },
    }));
    path["default"] = everything[0]["path"].clone();
    let one = open(json!({ "path": path, "headers": list(exact()), "queryParams": list(exact()) }));
    let mut matches = list(one);
    matches["default"].clone_from(&everything);
    let mut rules = rules(json!({ "matches": matches, "filters": list(filter()) }));
    rules["default"] = json!([{ "matches": everything }]);
    rules
}

fn grpc_match() -> Value {
    let method = open(json!({ "type": { "type": "string", "default": "Exact" } }));
    open(json!({ "method": method, "headers": list(exact()) }))
}

/// A header or a parameter that is matched.
fn exact() -> Value {
    open(json!({ "type": { "type": "string", "default": "Exact" } }))
}

fn filter() -> Value {
    let mirror = open(json!({ "backendRef": reference("", "Service") }));
    let code = json!({ "type": "integer", "default": 302 });
    open(json!({
        "requestMirror": mirror,
        "requestRedirect": open(json!({ "statusCode": code })),
    }))
}

fn rules(mut fields: Value) -> Value {
    let mut backend = reference("", "Service");
    backend["properties"]["weight"] =
        json!({ "type": "integer", "default": 1, "minimum": 0, "maximum": 1_000_000 });
    fields["backendRefs"] = list(backend);
    list(open(fields))
}

fn parent() -> Value {
    reference(GROUP, "Gateway")
}

fn reference(group: &str, kind: &str) -> Value {
    let mut reference = open(json!({
        "group": { "type": "string", "default": group, "maxLength": 253 },
        "kind": { "type": "string", "default": kind, "minLength": 1, "maxLength": 63 },
        "name": { "type": "string", "minLength": 1, "maxLength": 253 },
        "namespace": { "type": "string", "minLength": 1, "maxLength": 63 },
        "port": { "type": "integer", "minimum": 1, "maximum": 65_535 },
    }));
    reference["required"] = json!(["name"]);
    reference
}

fn status() -> Value {
    let controller = json!({ "type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9.-]+/[A-Za-z0-9/._~%!$&'()*+,;=:-]+$" });
    let conditions = json!({ "type": "array", "minItems": 1, "maxItems": CONDITIONS_MAX,
        "items": condition(), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"] });
    let parent = json!({ "type": "object", "required": ["parentRef", "controllerName", "conditions"],
        "properties": { "parentRef": parent(), "controllerName": controller, "conditions": conditions } });
    let parents = json!({ "type": "array", "maxItems": PARENTS_MAX, "items": parent,
        "x-kubernetes-list-type": "atomic" });
    json!({ "type": "object", "required": ["parents"], "properties": { "parents": parents } })
}

/// As every kind of Kubernetes has it (`metav1.Condition`).
fn condition() -> Value {
    json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": { "type": "string", "format": "date-time" },
            "message": { "type": "string", "maxLength": 32_768 },
            "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            "reason": { "type": "string", "minLength": 1, "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" },
            "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
            "type": { "type": "string", "maxLength": 316 },
        },
    })
}

fn list(items: Value) -> Value {
    let mut list = json!({ "type": "array", "x-kubernetes-list-type": "atomic" });
    list["items"] = items;
    list
}

/// An object with these fields, and any others.
fn open(fields: Value) -> Value {
    let mut object = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    object["properties"] = fields;
    object
}
