//! Do proxies take what was accepted here?
//!
//! They refuse a service for a bad policy, and a route for a bad rule; nobody but operators sees it.

use isthmus_control_plane_core::model::{Route, RouteKind, Spec};
use isthmus_proto::resource;
use isthmus_proxy_core::guard::TrafficPolicy;
use isthmus_proxy_core::route::Route as Compiled;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::read;

const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

fn manifest(version: &str, kind: &str, spec: &Value) -> String {
    let metadata = json!({ "name": "p", "namespace": "shop" });
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec }).to_string()
}

/// What the only object of a manifest says; `None`: it is not accepted.
fn accepted(version: &str, kind: &str, spec: &Value) -> Option<Spec> {
    let mut parsed = read(&manifest(version, kind, spec));
    let fine = parsed.errors.is_empty() && parsed.invalid.is_empty();
    parsed.objects.pop().map(|o| o.spec).filter(|_| fine)
}

fn traffic(spec: &Value) -> Option<resource::TrafficPolicy> {
    match accepted("isthmus.dev/v1alpha1", "TrafficPolicy", spec)? {
        Spec::TrafficPolicy(policy) => Some(policy.body),
        other => panic!("{other:?}"),
    }
}

/// As a proxy gets it if it is a route at all: a rule that was not understood is told to the
/// author, and sent so that its requests fail.
fn route(kind: &str, spec: &Value) -> Option<resource::Route> {
    let version = "gateway.networking.k8s.io/v1";
    let mut parsed = read(&manifest(version, kind, spec));
    let Some(Spec::Route(Route {
        kind,
        hostnames,
        rules,
        ..
    })) = parsed.objects.pop().map(|object| object.spec)
    else {
        assert!(!parsed.errors.is_empty(), "{spec}");
        return None;
    };
    let kind = match kind {
        RouteKind::Http => resource::RouteKind::Http,
        RouteKind::Grpc => resource::RouteKind::Grpc,
        RouteKind::Tcp => resource::RouteKind::Tcp,
        RouteKind::Tls => resource::RouteKind::Tls,
    };
    Some(resource::Route {
        name: format!("shop/p@{SERVICE}"),
        service: SERVICE.to_owned(),
        kind: kind.into(),
        hostnames,
        rules,
        ..resource::Route::default()
    })
}

fn span() -> impl Strategy<Value = Value> {
    let usual = select(&["0s", "1ms", "5s", "60s", "1h", "24h"][..]);
    let bad = select(&["60s1ms", "24h1ms", "25h"][..]);
    prop_oneof![12 => usual, 1 => bad].prop_map(Value::from)
}

fn number(good: u32) -> impl Strategy<Value = Value> {
    prop_oneof![12 => 0..=good, 1 => good..=good + 2, 1 => any::<u32>()].prop_map(Value::from)
}

/// All of these keys: without one of them the file would not be understood.
fn whole(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let (keys, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let pairs = move |values: Vec<Value>| {
        let keys = keys.iter().map(|key| (*key).to_owned());
        keys.zip(values).collect()
    };
    values.prop_map(pairs).boxed()
}

/// Some of these keys.
fn object(
    fields: Vec<(&'static str, BoxedStrategy<Value>)>,
) -> impl Strategy<Value = Value> + Clone {
    let one = |(key, value): (&'static str, BoxedStrategy<Value>)| {
        proptest::option::of(value.prop_map(move |value| (key, value)))
    };
    let all: Vec<_> = fields.into_iter().map(|f| one(f).boxed()).collect();
    all.prop_map(|found| {
        let found = found.into_iter().flatten();
        found.map(|(key, value)| (key.to_owned(), value)).collect()
    })
    .boxed()
}

fn list(items: impl Strategy<Value = Value> + 'static, most: usize) -> BoxedStrategy<Value> {
    proptest::collection::vec(items, 0..most)
        .prop_map(Value::from)
        .boxed()
}

fn a_traffic_policy() -> impl Strategy<Value = Value> {
    let timeouts = ["connect", "request", "try", "idle", "stream"];
    let timeouts = object(timeouts.map(|key| (key, span().boxed())).into());
    let retries = object(vec![
        ("attempts", number(10).boxed()),
        ("budgetPercent", number(100).boxed()),
        ("statuses", list((395u32..=600).prop_map(Value::from), 3)),
    ]);
    let outlier = object(vec![
        ("baseEjection", span().boxed()),
        ("maxEjection", span().boxed()),
        ("maxEjectedPercent", number(100).boxed()),
    ]);
    let balancing = object(vec![
        ("zonePenalty", span().boxed()),
        ("clusterPenalty", span().boxed()),
    ]);
    object(vec![
        ("timeouts", timeouts.boxed()),
        ("retries", retries.boxed()),
        ("outlierDetection", outlier.boxed()),
        ("balancing", balancing.boxed()),
    ])
    .prop_map(|mut spec| {
        spec["targetRef"] = json!({ "kind": "Service", "name": "cart" });
        spec
    })
}

fn texts(list: &'static [&'static str]) -> BoxedStrategy<Value> {
    let long = (4_090usize..8_200).prop_map(|many| format!("/{}", "a".repeat(many)));
    prop_oneof![20 => select(list).prop_map(str::to_owned), 1 => long]
        .prop_map(Value::from)
        .boxed()
}

fn path_modifier() -> BoxedStrategy<Value> {
    let paths = [
        "/a", "/a/", "", "a", "/a?b", "//", "/a/..", "/a b", "/ä", "/",
    ];
    (select(paths.to_vec()), any::<bool>())
        .prop_map(|(path, whole)| match whole {
            true => json!({ "type": "ReplaceFullPath", "replaceFullPath": path }),
            false => json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": path }),
        })
        .boxed()
}

fn a_filter() -> impl Strategy<Value = Value> {
    let names = texts(&["x-a", "X-B", "host", "x-mesh-a", "", "a b"]);
    let values = texts(&["a", "", " a ", "ä", "a\nb"]);
    let one = whole(vec![("name", names.clone()), ("value", values)]);
    let set = prop_oneof![
        9 => list(one, 3),
        1 => Just(json!(vec![json!({ "name": "x", "value": "" }); 65])),
    ];
    let edit = object(vec![("set", set.boxed()), ("remove", list(names, 2))]);
    let redirect = object(vec![
        ("scheme", texts(&["http", "https", "ftp"])),
        ("hostname", texts(&["a.b", "A.b", "a_b", "*.b"])),
        ("path", path_modifier()),
        ("statusCode", number(309).boxed()),
    ]);
    let rewrite = object(vec![("path", path_modifier())]);
    let mirror = number(100).prop_map(
        |percent| json!({ "percent": percent, "backendRef": { "name": "cart", "port": 80 } }),
    );
    prop_oneof![
        edit.prop_map(|e| json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": e })),
        redirect.prop_map(|r| json!({ "type": "RequestRedirect", "requestRedirect": r })),
        rewrite.prop_map(|r| json!({ "type": "URLRewrite", "urlRewrite": r })),
        mirror.prop_map(|m| json!({ "type": "RequestMirror", "requestMirror": m })),
    ]
}

fn a_match(grpc: bool) -> BoxedStrategy<Value> {
    let kinds = texts(&["Exact", "PathPrefix", "RegularExpression"]);
    let paths = texts(&["/", "/a", "a", "/a?b", "/a#", "/a+", "(", "a)|(b"]);
    let path = object(vec![("type", kinds.clone()), ("value", paths)]);
    let names = texts(&["x-a", "q", "", "a b"]);
    let values = texts(&["a", "", "(", "(?u)ä"]);
    let value = whole(vec![
        ("type", kinds.clone()),
        ("name", names),
        ("value", values),
    ]);
    let service = texts(&["shop.Cart", "a?b", "", "#", "("]);
    let method = object(vec![
        ("type", kinds),
        ("service", service.clone()),
        ("method", service),
    ]);
    let mut fields = vec![("headers", list(value.clone(), 2))];
    if grpc {
        fields.push(("method", method.boxed()));
    } else {
        fields.push(("path", path.boxed()));
        fields.push(("queryParams", list(value, 2)));
        fields.push(("method", texts(&["GET", "get", "X"])));
    }
    object(fields).boxed()
}

fn a_route() -> impl Strategy<Value = (&'static str, Value)> {
    let kinds = select(&["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"][..]);
    kinds.prop_flat_map(|kind| {
        let backend = object(vec![
            ("port", Just(json!(80)).boxed()),
            ("weight", number(1_000_000).boxed()),
            ("filters", list(a_filter(), 2)),
        ]);
        let backend = backend.prop_map(|mut backend| {
            backend["name"] = json!("cart");
            backend
        });
        let many = prop_oneof![
            9 => list(a_filter(), 3),
            1 => Just(json!(vec![json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": {} }); 17])),
        ];
        let matches = match kind {
            "HTTPRoute" | "GRPCRoute" => list(a_match(kind == "GRPCRoute"), 3),
            _ => list(Just(json!({})), 2),
        };
        let retry = object(vec![
            ("attempts", number(10).boxed()),
            ("backoff", span().boxed()),
        ]);
        let timeouts = ["request", "backendRequest"];
        let timeouts = object(timeouts.map(|key| (key, span().boxed())).into());
        let rule = object(vec![
            ("matches", matches),
            ("filters", many.boxed()),
            ("backendRefs", list(backend, 3)),
            ("retry", retry.boxed()),
            ("timeouts", timeouts.boxed()),
        ]);
        let hosts = texts(&["a.b", "*.b", "A.b", "_", "*"]);
        let spec = object(vec![("rules", list(rule, 3)), ("hostnames", list(hosts, 3))]);
        spec.prop_map(move |mut spec| {
            spec["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": "cart" }]);
            (kind, spec)
        })
    })
}

/// More with `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(1_024),
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn traffic_policies_that_are_accepted(spec in a_traffic_policy()) {
        if let Some(policy) = traffic(&spec) {
            let compiled = TrafficPolicy::compile(Some(&policy), SERVICE);
            prop_assert!(compiled.is_ok(), "{:?}: {}", compiled, spec);
        }
    }

    #[test]
    fn routes_as_they_are_sent((kind, spec) in a_route()) {
        if let Some(route) = route(kind, &spec) {
            let compiled = Compiled::compile(&route);
            prop_assert!(compiled.is_ok(), "{:?}: {}", compiled, spec);
        }
    }
}

#[test]
fn bounds_are_told_by_their_place() {
    let target = json!({ "kind": "Service", "name": "cart" });
    for (key, spec) in [
        (
            "spec.retries.attempts",
            json!({ "retries": { "attempts": 11 } }),
        ),
        (
            "spec.timeouts.idle",
            json!({ "timeouts": { "idle": "24h1ms" } }),
        ),
        (
            "spec.timeouts.try: 2s is more than request, 1s",
            json!({ "timeouts": { "request": "1s", "try": "2s", "stream": "0s" } }),
        ),
        (
            "spec.timeouts.try",
            json!({ "timeouts": { "try": "2s", "stream": "1s" } }),
        ),
        (
            "spec.timeouts.request",
            json!({ "timeouts": { "request": "1m", "stream": "59s" } }),
        ),
        (
            "spec.balancing.zonePenalty",
            json!({ "balancing": { "zonePenalty": "61s" } }),
        ),
        (
            "spec.outlierDetection.baseEjection",
            json!({ "outlierDetection": { "baseEjection": "2s", "maxEjection": "1s" } }),
        ),
    ] {
        let mut spec = spec;
        spec["targetRef"] = target.clone();
        let parsed = read(&manifest("isthmus.dev/v1alpha1", "TrafficPolicy", &spec));
        let [problem] = &parsed.errors[..] else {
            panic!("{parsed:?}")
        };
        assert!(problem.message.starts_with(key), "{problem}");
    }
}

#[test]
fn a_route_with_too_many_of_something_fails_and_is_told() {
    let parents = json!([{ "group": "", "kind": "Service", "name": "cart" }]);
    let backend = json!({ "name": "cart", "port": 80 });
    let rule = |rule: Value| json!({ "parentRefs": parents, "rules": [rule] });
    for spec in [
        json!({ "parentRefs": parents, "rules": vec![json!({}); 129] }),
        rule(json!({ "matches": vec![json!({}); 65] })),
        rule(json!({ "backendRefs": vec![backend.clone(); 65] })),
        rule(json!({ "backendRefs": [{ "name": "cart", "port": 80, "weight": 1_000_001 }] })),
    ] {
        let sent = route("HTTPRoute", &spec).unwrap();
        Compiled::compile(&sent).unwrap();
        assert!(sent.rules.iter().all(|rule| rule.backends.is_empty()));
        assert_eq!(
            accepted("gateway.networking.k8s.io/v1", "HTTPRoute", &spec),
            None
        );
    }
}
