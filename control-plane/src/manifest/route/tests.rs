//! Do routes come out as the Gateway API means them?

use super::super::tests::{one, read};
use super::*;
use isthmus_control_plane_core::model::Kind;
use isthmus_proto::resource::{path_match, route_filter};

fn route(spec: &str) -> Route {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n{spec}"
    );
    let parsed = read(&text);
    assert_eq!(parsed.errors, vec![], "{text}");
    let Spec::Route(route) = parsed.objects[0].spec.clone() else {
        panic!("a route")
    };
    route
}

#[test]
fn an_http_route_is_converted() {
    let route = route(
        "  parentRefs:\n  - {kind: Service, group: \"\", name: cart, port: 80}\n\
         \x20 - {kind: ServiceImport, group: multicluster.x-k8s.io, name: cart, namespace: other}\n\
         \x20 - {name: some-gateway}\n\
         \x20 hostnames: [Cart.example, \"*.shop\"]\n\
         \x20 rules:\n\
         \x20 - matches:\n\
         \x20   - {path: {value: /v1}, headers: [{name: X-Canary, value: \"yes\"}, {name: x-canary, value: \"no\"}], method: GET,\n\
         \x20      queryParams: [{name: q, type: RegularExpression, value: a+}]}\n\
         \x20   filters:\n\
         \x20   - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [C]}}\n\
         \x20   - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}\n\
         \x20   - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 10}}\n\
         \x20   timeouts: {request: 2s, backendRequest: 500ms}\n\
         \x20   retry: {attempts: 1, codes: [503]}\n\
         \x20   backendRefs:\n\
         \x20   - {name: cart, port: 80, weight: 9}\n\
         \x20   - {name: cart, port: 80, kind: ServiceImport, group: multicluster.x-k8s.io, weight: 1}\n\
         \x20   - {name: what, kind: Bucket, group: x.example}\n",
    );
    assert_eq!(route.invalid, None);
    let parents: Vec<_> = route
        .parents
        .iter()
        .map(|p| (p.service.service_name(), p.port))
        .collect();
    assert_eq!(
        parents,
        [
            ("shop/cart.shop.svc.cluster.local".to_owned(), Some(80)),
            ("other/cart.other.svc.clusterset.local".to_owned(), None),
        ]
    );
    // GEP-1294: they may be a gateway's.
    assert_eq!(route.hostnames, Vec::<String>::new());
    let rule = &route.rules[0];
    let matched = &rule.matches[0];
    assert_eq!(
        matched.path.clone().unwrap().kind,
        Some(path_match::Kind::Prefix("/v1".into()))
    );
    assert_eq!(
        (matched.headers.len(), matched.headers[0].name.as_str()),
        (1, "x-canary")
    );
    assert_eq!(matched.method, "GET");
    let Some(route_filter::Kind::RequestHeaders(headers)) = &rule.filters[0].kind else {
        panic!()
    };
    assert_eq!(
        (headers.set[0].name.as_str(), headers.remove[0].as_str()),
        ("a", "c")
    );
    let Some(route_filter::Kind::Mirror(mirror)) = &rule.filters[2].kind else {
        panic!()
    };
    assert_eq!(mirror.millionths, Some(100_000));
    assert_eq!(rule.backend_timeout.unwrap().nanos, 500_000_000);
    assert_eq!(rule.retries.as_ref().unwrap().statuses, [503]);
    let backends: Vec<&str> = rule.backends.iter().map(|b| b.service.as_str()).collect();
    assert_eq!(
        backends,
        [
            "shop/cart.shop.svc.cluster.local",
            "shop/cart.shop.svc.clusterset.local",
            ""
        ]
    );
}

#[test]
fn what_a_route_cannot_do_makes_it_invalid() {
    let parent = "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n";
    for (rule, expected) in [
        (
            "  - filters: [{type: ExtensionRef}]\n",
            "spec.rules[0]: filters: \"ExtensionRef\"",
        ),
        (
            "  - matches: [{path: {type: Glob, value: /a}}]\n",
            "the type \"Glob\"",
        ),
        (
            "  - matches: [{path: {value: a}}]\n",
            "does not begin with a slash",
        ),
        ("  - matches: [{method: get}]\n", "method: \"get\""),
        ("  - backendRefs: [{name: cart}]\n", "needs a port"),
        ("  - sessionPersistence: {}\n", "sessionPersistence"),
        (
            "  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\nc\"}]}}]\n",
            "no value",
        ),
        (
            "  - filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]\n",
            "the status 200",
        ),
    ] {
        let why = route(&format!("{parent}{rule}")).invalid.unwrap();
        assert!(why.contains(expected), "{why:?} lacks {expected:?}");
    }
    let gateway =
        route("  parentRefs: [{name: gw}]\n  rules: [{filters: [{type: ExtensionRef}]}]\n");
    assert_eq!(
        (gateway.parents, gateway.invalid),
        (vec![], None),
        "another one's route"
    );
}

#[test]
fn grpc_tcp_and_tls_routes_are_converted() {
    let text = |kind: &str, rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n\
                 spec:\n  parentRefs: [{{kind: Service, group: \"\", name: cart}}]\n  rules: [{{{rest}}}]\n"
        )
    };
    let matched = |method: &str| {
        let object = one(&text(
            "GRPCRoute",
            &format!("matches: [{{method: {method}}}]"),
        ));
        let Spec::Route(route) = object.spec else {
            panic!("a route")
        };
        route.rules[0].matches[0].clone()
    };
    let path = |method: &str| matched(method).path.unwrap().kind.unwrap();
    for (method, characters) in [
        ("{service: a.B, method: C}", (3, 1)),
        ("{service: a.B}", (3, 0)),
        ("{method: C.d}", (0, 3)),
        ("{type: RegularExpression, service: a|b}", (0, 0)),
    ] {
        let matched = matched(method);
        let said = (matched.service_characters, matched.method_characters);
        assert_eq!(said, characters, "{method}");
    }
    assert_eq!(
        path("{service: a.B, method: C}"),
        path_match::Kind::Exact("/a.B/C".into())
    );
    assert_eq!(
        path("{service: a.B}"),
        path_match::Kind::Prefix("/a.B".into())
    );
    assert_eq!(
        path("{method: C.d}"),
        path_match::Kind::Regex("/[^/]+/C\\.d".into())
    );
    let regex = path("{type: RegularExpression, service: a|b}");
    assert_eq!(regex, path_match::Kind::Regex("/(?:a|b)/(?:[^/]+)".into()));
    for (kind, expected) in [("TCPRoute", Kind::TcpRoute), ("TLSRoute", Kind::TlsRoute)] {
        let object = one(&text(kind, "backendRefs: [{name: cart, port: 80}]"));
        assert_eq!(object.spec.kind(), expected);
    }
}

#[test]
fn a_rule_that_cannot_be_done_fails_alone_and_closed() {
    let route = route(
        "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n\
         \x20 - {matches: [{path: {value: /a}}], backendRefs: [{name: cart, port: 80}]}\n\
         \x20 - {matches: [{path: {value: /b}}], filters: [{type: CORS}], backendRefs: [{name: cart, port: 80}]}\n\
         \x20 - {matches: [{path: {type: RegularExpression, value: \"(\"}}], backendRefs: [{name: cart, port: 80}]}\n",
    );
    assert_eq!(route.invalid, None);
    // The second answers 500 for what it matches; nobody knows what the third would match.
    assert_eq!(route.rules.len(), 2);
    assert_eq!(route.rules[1].backends, vec![]);
    assert_eq!(route.rules[1].filters, vec![]);
    assert!(route.rules[1].matches[0].path.is_some());
    assert!(
        route.failing[0].starts_with("spec.rules[1]: filters: \"CORS\""),
        "{:?}",
        route.failing
    );
    assert!(
        route.dropped[0].starts_with("spec.rules[2]: path: regular expression"),
        "{:?}",
        route.dropped
    );
    assert_eq!((route.failing.len(), route.dropped.len()), (1, 1));
}

/// Gateway API: a filter MUST NOT be skipped; its requests MUST get an error.
#[test]
fn a_route_of_which_no_rule_is_understood_fails_all_that_it_means() {
    let parent = "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n";
    let filtered = "  - {matches: [{path: {value: /a}}], filters: [{type: ExtensionRef}], backendRefs: [{name: cart, port: 80}]}\n";
    let one = route(&format!("{parent}{filtered}"));
    assert!(one.invalid.unwrap().contains("ExtensionRef"));
    assert_eq!(one.rules.len(), 1);
    assert!(one.rules[0].matches[0].path.is_some());
    assert_eq!(
        (one.rules[0].backends.len(), one.rules[0].filters.len()),
        (0, 0)
    );
    let unread =
        "  - {matches: [{path: {type: Glob, value: /a}}], backendRefs: [{name: cart, port: 80}]}\n";
    let all = route(&format!("{parent}{unread}"));
    assert!(all.invalid.unwrap().contains("Glob"));
    assert_eq!(all.rules, [RouteRule::default()], "every request");
    let both = route(&format!("{parent}{filtered}{unread}"));
    assert_eq!(both.rules.len(), 1, "what is known of it");
    assert!(both.rules[0].matches[0].path.is_some());
}

#[test]
fn a_redirect_and_a_rewrite_in_one_rule_are_incompatible() {
    let both = "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n\
         \x20 - filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {port: 81}}]\n";
    assert!(route(both).incompatible);
    let also = format!("{both}  - backendRefs: [{{name: cart, port: 80}}]\n");
    let also = route(&also);
    assert_eq!((also.incompatible, also.failing.len()), (false, 1));
}

#[test]
fn a_tls_route_without_a_name_that_is_understood_refuses_every_connection() {
    let text = |hosts: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TLSRoute\nmetadata: {{name: r, namespace: shop}}\n\
             spec:\n  parentRefs: [{{kind: Service, group: \"\", name: cart}}]\n  hostnames: [{hosts}]\n\
             \x20 rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]\n"
        )
    };
    let read = |hosts| {
        let Spec::Route(route) = read(&text(hosts)).objects[0].spec.clone() else {
            panic!("a route")
        };
        route
    };
    let none = read("\"a b\"");
    assert!(none.invalid.is_some());
    assert_eq!(none.rules, [RouteRule::default()]);
    let some = read("\"a b\", Shop.example");
    assert_eq!(some.hostnames, ["shop.example"]);
    assert_eq!((some.invalid, some.failing.len()), (None, 1));
    assert_eq!(some.rules[0].backends.len(), 1);
}

#[test]
fn what_a_proxy_would_refuse_is_said_to_the_author() {
    let parent = "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n";
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}";
    let mirrors = format!("  - filters: [{}]\n", [mirror; 5].join(", "));
    for (rule, expected) in [
        (
            "  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]\n",
            "the header host may not be changed",
        ),
        (
            "  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [X-Mesh-Port]}}]\n",
            "x-mesh-port may not",
        ),
        (
            "  - backendRefs: [{name: cart, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]\n",
            "backendRefs.filters: \"URLRewrite\"",
        ),
        (mirrors.as_str(), "more than 4 mirrors"),
        (
            "  - filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {port: 81}}]\n",
            "more than one redirect or rewrite",
        ),
        (
            "  - matches: [{headers: [{name: a, type: RegularExpression, value: \"a)|(b\"}]}]\n",
            "a: regular expression",
        ),
    ] {
        let why = route(&format!("{parent}{rule}")).invalid.unwrap();
        assert!(why.contains(expected), "{why:?} lacks {expected:?}");
    }
}

#[test]
fn more_attempts_than_we_make_are_as_many_as_we_make_and_that_is_told() {
    let route = route(
        "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n\
         \x20 rules:\n  - retry: {attempts: 3}\n  - retry: {attempts: 11}\n",
    );
    let attempts = route
        .rules
        .iter()
        .map(|rule| rule.retries.as_ref().unwrap().attempts);
    assert_eq!(attempts.collect::<Vec<_>>(), [3, 10]);
    assert_eq!((route.invalid, route.failing), (None, vec![]));
    let told = "spec.rules[1].retry.attempts: 11 counts as 10, which is the most";
    assert_eq!(route.limited, [told]);
}

#[test]
fn of_several_query_parameters_with_one_name_the_first_counts() {
    let route = route(
        "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n\
         \x20 rules: [{matches: [{queryParams: [{name: q, value: a}, {name: q, value: b}, {name: Q, value: c}]}]}]\n",
    );
    let query = &route.rules[0].matches[0].query;
    assert_eq!(query.len(), 2);
    assert_eq!(query[0].value, Some(exact("a")));
    assert_eq!(query[1].name, "Q");
}

#[test]
fn a_parent_is_repeated_in_the_status_as_it_was_written() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {name: r, namespace: shop, generation: 7}\n\
         spec:\n  parentRefs:\n\
         \x20 - {kind: Service, group: \"\", name: cart, sectionName: http}\n\
         \x20 - {kind: Service, group: \"\", name: cart, namespace: shop, port: 80}\n\
         status:\n  parents:\n\
         \x20 - {controllerName: example.com/other, parentRef: {kind: Service, group: \"\", name: cart}}\n\
         \x20 - controllerName: isthmus.dev/controller\n\
         \x20   parentRef: {kind: Service, group: \"\", name: cart, namespace: shop, port: 80}\n\
         \x20   conditions:\n\
         \x20   - {type: Accepted, status: \"False\", reason: NoMatchingParent, message: no, observedGeneration: 6, lastTransitionTime: \"2026-11-22T17:03:00Z\"}\n\
         \x20   - {type: SomethingElse, status: \"True\"}\n";
    let Spec::Route(route) = one(text).spec else {
        panic!("a route")
    };
    assert_eq!(route.generation, 7);
    let written: Vec<_> = route.parents.iter().map(ParentRef::written).collect();
    assert_eq!(
        (written[0].section.as_deref(), written[0].port),
        (Some("http"), None)
    );
    assert_eq!(written[0].namespace, None);
    assert_eq!(written[1].namespace.as_deref(), Some("shop"));
    assert_eq!(route.statuses.len(), 1);
    assert_eq!(route.statuses[0].parent, written[1]);
    let said = &route.statuses[0].conditions;
    assert_eq!(
        (said.len(), said[0].reason.as_str(), said[0].generation),
        (1, "NoMatchingParent", 6)
    );
    assert!(said[0].since.is_some());
}

/// They are not used; who writes one that is none is told so.
#[test]
fn a_hostname_that_is_none_is_told_also_where_none_is_used() {
    let parsed = read(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a, namespace: shop}\n\
         spec:\n  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  hostnames: [cart.example, \"*.*.bad..host\"]\n",
    );
    let told: Vec<String> = parsed.invalid.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("spec.hostnames: \"*.*.bad..host\""),
        "{told:?}"
    );
    let Spec::Route(route) = &parsed.objects[0].spec else {
        panic!("a route")
    };
    assert_eq!((route.invalid.as_ref(), route.failing.len()), (None, 0));
}
