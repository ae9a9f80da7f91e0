//! What do types not say that the decoders insist on?
//!
//! Each rule is added to the schema of `Type` or `Type.field` (`[]`: of its items). A rule whose
//! place is gone fails the generator.

use isthmus_control_plane_core::world::RESERVED;
use serde_json::{Value, json};

/// The type of `spec` itself.
pub(crate) const TOP: &str = "Spec";

/// A DNS label (RFC 1123 §2.1).
const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";

/// A DNS name in lower case: labels joined by dots.
fn name() -> String {
    format!("{LABEL}(\\.{LABEL})*")
}

/// Parts of the name of an object: a label of any length.
const PART: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// The name of an object that Kubernetes bounds as a whole.
fn object() -> String {
    format!("{PART}(\\.{PART})*")
}

fn object_name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": format!("^{}$", object()) })
}

fn dns_name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": format!("^{}$", name()) })
}

fn label() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": format!("^{LABEL}$") })
}

/// A list that is not empty: an empty one could be read as "nobody" or as "everybody".
fn some(most: u32) -> Value {
    json!({ "minItems": 1, "maxItems": most })
}

fn cel(rules: &[(&str, &str)]) -> Value {
    let one = |(rule, message): &(&str, &str)| json!({ "rule": rule, "message": message });
    json!({ "x-kubernetes-validations": rules.iter().map(one).collect::<Vec<_>>() })
}

/// What the name of an object of this kind must be.
pub(crate) fn metadata(kind: &str) -> Value {
    match kind {
        // Names of clusters are parts of trust domains.
        "MeshCluster" => json!({ "type": "object", "properties": { "name": {
            "type": "string", "maxLength": 63, "pattern": format!("^{LABEL}$"),
        } } }),
        _ => json!({ "type": "object" }),
    }
}

/// What must hold of a name and the spec together; `null`: nothing.
pub(crate) fn whole(kind: &str) -> Value {
    if kind != "MeshCluster" {
        return Value::Null;
    }
    let reserved = RESERVED.map(|name| format!("'{name}'")).join(", ");
    let name = format!("!(self.metadata.name in [{reserved}])");
    let domain =
        "!has(self.spec.trustDomain) || self.spec.trustDomain.startsWith(self.metadata.name + '.')";
    cel(&[
        (&name, "metadata.name: is reserved for the mesh itself"),
        (
            domain,
            "spec.trustDomain: begins with the cluster's name and a dot",
        ),
    ])["x-kubernetes-validations"]
        .take()
}

/// The rules of a kind.
pub(crate) fn of(kind: &str) -> Vec<(&'static str, Value)> {
    match kind {
        "MeshCluster" => mesh_cluster(),
        "AccessPolicy" => access_policy(),
        "TrafficPolicy" => traffic_policy(),
        "TrustPolicy" => trust_policy(),
        _ => Vec::new(),
    }
}

fn mesh_cluster() -> Vec<(&'static str, Value)> {
    let mut rules = pod_ranges();
    rules.extend([
        ("Spec.network", dns_name()),
        ("Spec.region", json!({ "maxLength": 253 })),
        ("Spec.zone", json!({ "maxLength": 253 })),
        ("Spec.trustDomain", dns_name()),
        ("Spec.priority", json!({ "maximum": 9 })),
        ("Spec.price", json!({ "maximum": 10_000 })),
        (
            "Spec.gateways",
            json!({ "minItems": 1, "maxItems": 16, "x-kubernetes-list-type": "atomic" }),
        ),
        (
            "Spec.gateways",
            cel(&[(
                "self.all(one, self.exists_one(other, other == one))",
                "no gateway is named twice",
            )]),
        ),
        ("RawGateway.name", object_name()),
        (
            "RawGateway.address",
            json!({ "minLength": 1, "maxLength": 253, "pattern": "^[0-9A-Za-z:.-]+$" }),
        ),
        ("RawGateway.port", json!({ "minimum": 1 })),
        (
            "RawGateway",
            cel(&[
                (
                    "has(self.name) != has(self.address) && (has(self.address) || !has(self.port))",
                    "either name, or address and perhaps port",
                ),
                (
                    "!has(self.address) || isIP(self.address) || self.address.matches('^([0-9A-Za-z]([-0-9A-Za-z]{0,61}[0-9A-Za-z])?[.]?)+$')",
                    "address: neither an IP address nor a host name",
                ),
                (
                    "!has(self.address) || !isIP(self.address) || ip(self.address).isGlobalUnicast()",
                    "address: leads nowhere from another network",
                ),
                (
                    "!has(self.address) || !self.address.matches('^([^.]+[.])*[Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt][.]?$')",
                    "address: leads nowhere from another network",
                ),
            ]),
        ),
        ("SecretRef.name", object_name()),
        ("IssuerSecretRef.name", object_name()),
        (
            "SecretRef.key",
            json!({ "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$" }),
        ),
    ]);
    rules
}

fn pod_ranges() -> Vec<(&'static str, Value)> {
    vec![
        (
            "Spec.podRanges",
            json!({ "minItems": 1, "maxItems": 32, "x-kubernetes-list-type": "set" }),
        ),
        (
            "Spec.podRanges[]",
            json!({ "type": "string", "minLength": 1, "maxLength": 43, "pattern": "^[0-9a-fA-F:.]+/[0-9]+$" }),
        ),
        (
            "Spec.podRanges[]",
            cel(&[
                ("isCIDR(self)", "no range of addresses in CIDR notation"),
                (
                    "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                    "its address has bits beyond the prefix",
                ),
                (
                    "!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 4 : 12)",
                    "wider than /4 (IPv4) or /12 (IPv6): no cluster has so many pods",
                ),
            ]),
        ),
    ]
}

fn access_policy() -> Vec<(&'static str, Value)> {
    let mut rules = vec![
        (
            "Spec.scope",
            json!({ "enum": ["Mesh", "Cluster", "Namespace", "Service", "Workload"] }),
        ),
        ("Spec.targetRefs", some(16)),
        ("Spec.rules", json!({ "maxItems": 128 })),
        (
            "Spec",
            cel(&[
                (
                    "!(has(self.targetRefs) && has(self.selector))",
                    "targetRefs and selector: one of them",
                ),
                (
                    "!has(self.scope) || self.scope != 'Service' || has(self.targetRefs)",
                    "scope: Service needs targetRefs",
                ),
                (
                    "!has(self.scope) || self.scope != 'Workload' || has(self.selector)",
                    "scope: Workload needs selector",
                ),
                (
                    "!has(self.scope) || !has(self.targetRefs) || self.scope == 'Service'",
                    "scope: says another thing than targetRefs",
                ),
                (
                    "!has(self.scope) || !has(self.selector) || self.scope == 'Workload'",
                    "scope: says another thing than selector",
                ),
                (
                    "has(self.action) || (has(self.inbound) && !has(self.rules))",
                    "action: is required",
                ),
            ]),
        ),
        ("TargetRef.group", json!({ "enum": ["", "core"] })),
        ("TargetRef.kind", json!({ "enum": ["Service"] })),
        ("TargetRef.name", dns_name()),
        ("Selector.matchLabels", json!({ "maxProperties": 32 })),
        ("RawRule.from", some(64)),
        ("RawRule.to", some(64)),
        ("RawRule.headers", some(32)),
        // Names nobody: it could be read as everybody.
        ("RawCaller", json!({ "minProperties": 1 })),
        ("RawCaller.authenticated", json!({ "enum": [true] })),
        ("RawCaller.except", some(64)),
    ];
    rules.extend(access_lists());
    rules.extend(access_headers());
    rules
}

/// Lists of callers and operations, and what stands in them.
fn access_lists() -> Vec<(&'static str, Value)> {
    // A literal that no canonical host or path contains would never match.
    let host = ["^[-a-z0-9._:\\[\\]]+$"; 3];
    let path = ["^/[!-)+-~]*$", "^(/[!-~]*|[*])$", "^[!-~]+$"];
    let account = format!("^({LABEL}/)?{}$", object());
    let identity = format!("^spiffe://{}/ns/{LABEL}/sa/{}$", name(), object());
    let mut rules = Vec::new();
    for (field, items, one) in [
        (
            "RawCaller.trustDomains",
            "RawCaller.trustDomains[]",
            dns_name(),
        ),
        ("RawCaller.clusters", "RawCaller.clusters[]", label()),
        ("RawCaller.namespaces", "RawCaller.namespaces[]", label()),
        (
            "RawCaller.serviceAccounts",
            "RawCaller.serviceAccounts[]",
            json!({ "type": "string", "maxLength": 317, "pattern": account }),
        ),
        (
            "RawCaller.identities",
            "RawCaller.identities[]",
            json!({ "type": "string", "maxLength": 2048, "pattern": identity }),
        ),
        (
            "RawOperation.ports",
            "RawOperation.ports[]",
            json!({ "minimum": 1 }),
        ),
        (
            "RawOperation.methods",
            "RawOperation.methods[]",
            json!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z-]+$" }),
        ),
        ("RawOperation.hosts", "RawOperation.hosts[]", matcher(host)),
        ("RawOperation.paths", "RawOperation.paths[]", matcher(path)),
    ] {
        rules.push((field, some(256)));
        rules.push((items, one));
    }
    rules
}

/// Headers: a name, and one matcher.
fn access_headers() -> Vec<(&'static str, Value)> {
    let mut rules = vec![(
        "RawHeader.name",
        json!({ "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" }),
    )];
    for (field, most) in [
        ("exact", 2048),
        ("prefix", 2048),
        ("suffix", 2048),
        ("regex", 1024),
    ] {
        let place = match field {
            "exact" => "RawHeader.exact",
            "prefix" => "RawHeader.prefix",
            "suffix" => "RawHeader.suffix",
            _ => "RawHeader.regex",
        };
        rules.push((place, json!({ "minLength": 1, "maxLength": most })));
    }
    rules.push(("RawHeader.present", json!({ "enum": [true] })));
    // The name and one matcher.
    rules.push((
        "RawHeader",
        json!({ "minProperties": 2, "maxProperties": 2 }),
    ));
    rules
}

/// A plain text, or an object with exactly one matcher. Kubernetes has no unions of types: without a
/// type each constraint holds for the values that it can be about, and the last three let nothing
/// else through. Patterns: of a plain text; of what is compared with the beginning; with the end.
fn matcher([plain, begins, ends]: [&str; 3]) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "maxLength": 2048, "pattern": pattern });
    let has = |key: &str| json!({ "required": [key] });
    json!({
        "x-kubernetes-preserve-unknown-fields": true,
        "pattern": plain,
        "minLength": 1,
        "maxLength": 2048,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "exact": text(begins), "prefix": text(begins), "suffix": text(ends),
            "regex": { "type": "string", "minLength": 1, "maxLength": 1024 }, "present": { "type": "boolean", "enum": [true] },
        },
        "anyOf": [has("exact"), has("prefix"), has("suffix"), has("regex"), has("present")],
        "minItems": 1,
        "maxItems": 0,
        "minimum": 1,
        "maximum": 0,
        "not": { "enum": [true, false] },
    })
}

/// One time is not longer than another one. 0 is as good as not written.
fn within(inner: &str, outer: &str) -> String {
    format!(
        "!has(self.{inner}) || !has(self.{outer}) || duration(self.{outer}) == duration('0s') || \
         duration(self.{inner}) <= duration(self.{outer})"
    )
}

fn traffic_policy() -> Vec<(&'static str, Value)> {
    let mut rules = vec![
        (
            "TargetRef.kind",
            json!({ "enum": ["Service", "ServiceImport"] }),
        ),
        ("TargetRef.name", dns_name()),
        (
            "TargetRef",
            cel(&[
                (
                    "self.kind != 'Service' || !has(self.group) || self.group in ['', 'core']",
                    "group: a Service is of the core group",
                ),
                (
                    "self.kind != 'ServiceImport' || !has(self.group) || self.group == 'multicluster.x-k8s.io'",
                    "group: a ServiceImport is of multicluster.x-k8s.io",
                ),
            ]),
        ),
        (
            "Spec",
            cel(&[(
                "!has(self.coverImported) || !self.coverImported || self.targetRef.kind == 'Service'",
                "coverImported: an import covers them already; it is for kind Service",
            )]),
        ),
        (
            "RawOutlier",
            cel(&[(
                "!has(self.baseEjection) || !has(self.maxEjection) || duration(self.maxEjection) == duration('0s') || duration(self.baseEjection) <= duration(self.maxEjection)",
                "baseEjection: more than maxEjection",
            )]),
        ),
        // A shorter one ends both: the longer one could never apply.
        (
            "RawTimeouts",
            cel(&[
                (&within("try", "request"), "try: more than request"),
                (&within("try", "stream"), "try: more than stream"),
                (&within("request", "stream"), "request: more than stream"),
            ]),
        ),
        ("RawRetries.attempts", json!({ "maximum": 10 })),
        ("RawRetries.budgetPercent", json!({ "maximum": 100 })),
        ("RawRetries.statuses", some(200)),
        (
            "RawRetries.statuses[]",
            json!({ "minimum": 400, "maximum": 599 }),
        ),
        ("RawOutlier.maxEjectedPercent", json!({ "maximum": 100 })),
    ];
    for (field, most) in [
        ("RawTimeouts.connect", "24h"),
        ("RawTimeouts.request", "24h"),
        ("RawTimeouts.try", "24h"),
        ("RawTimeouts.idle", "24h"),
        ("RawTimeouts.stream", "24h"),
        ("RawOutlier.baseEjection", "24h"),
        ("RawOutlier.maxEjection", "24h"),
        ("RawBalancing.zonePenalty", "60s"),
        ("RawBalancing.clusterPenalty", "60s"),
    ] {
        rules.push((field, json!({ "maxLength": 28 })));
        let rule = format!("duration(self) <= duration('{most}')");
        rules.push((field, cel(&[(&rule, &format!("at most {most}"))])));
    }
    rules
}

fn trust_policy() -> Vec<(&'static str, Value)> {
    vec![
        (
            "Spec.distrustedClusters",
            json!({ "minItems": 1, "maxItems": 200, "x-kubernetes-list-type": "set" }),
        ),
        ("Spec.distrustedClusters[]", label()),
    ]
}
