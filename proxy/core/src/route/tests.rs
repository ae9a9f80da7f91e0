//! Does the precedence of the Gateway API hold?

use super::*;
use crate::canonical;
use crate::message::{BodyLength, Fields, Method, Version};
use isthmus_proto::resource::{path_match, string_match};
use proptest::prelude::*;

mod oracle;
mod bytes;

const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

fn to() -> BackendRef {
    BackendRef {
        service: SERVICE.parse().unwrap(),
        port: 80,
    }
}

fn backend(name: &str, weight: u32) -> resource::WeightedBackend {
    let service = if name.is_empty() {
        String::new()
    } else {
        format!("shop/{name}")
    };
    resource::WeightedBackend {
        service,
        port: 80,
        weight: Some(weight),
        filters: Vec::new(),
    }
}

fn matching(path: Option<path_match::Kind>) -> resource::RouteMatch {
    let path = path.map(|kind| resource::PathMatch { kind: Some(kind) });
    resource::RouteMatch {
        path,
        ..Default::default()
    }
}

fn prefix(path: &str) -> resource::RouteMatch {
    matching(Some(path_match::Kind::Prefix(path.to_owned())))
}

fn header(name: &str, value: &str) -> resource::HeaderMatch {
    let kind = Some(string_match::Kind::Exact(value.to_owned()));
    let value = Some(resource::StringMatch { kind });
    resource::HeaderMatch {
        name: name.to_owned(),
        value,
    }
}

fn route(name: &str, matches: Vec<resource::RouteMatch>) -> resource::Route {
    let rule = resource::RouteRule {
        matches,
        backends: vec![backend(name, 1)],
        ..Default::default()
    };
    resource::Route {
        name: name.to_owned(),
        service: SERVICE.to_owned(),
        kind: resource::RouteKind::Http.into(),
        rules: vec![rule],
        ..Default::default()
    }
}

fn table(routes: &[resource::Route]) -> RouteTable {
    RouteTable::new(
        routes
            .iter()
            .map(|r| Arc::new(Route::compile(r).unwrap()))
            .collect(),
    )
}

fn get(path: &str) -> RequestHead {
    RequestHead {
        method: Method::Get,
        version: Version::Http11,
        https: false,
        authority: b"cart".to_vec(),
        path: path.into(),
        protocol: Vec::new(),
        fields: Fields::default(),
        body: BodyLength::Empty,
        keep_alive: true,
        expects_continue: false,
    }
}

fn choose(table: &RouteTable, host: &str, head: &RequestHead) -> Result<String, Failure> {
    let path = canonical::path(&head.path).unwrap();
    route_http(Some(table), &to(), host, &path, head, 0)
        .map(|chosen| chosen.backend.service.hostname().to_owned())
}

fn by_path(table: &RouteTable, path: &str) -> Result<String, Failure> {
    choose(table, "cart", &get(path))
}

#[test]
fn without_routes_the_service_itself_is_called() {
    let path = canonical::path(b"/").unwrap();
    let empty = RouteTable::default();
    for table in [None, Some(&empty)] {
        let chosen = route_http(table, &to(), "cart", &path, &get("/"), 0).unwrap();
        assert_eq!((chosen.rule, chosen.backend), (None, to()));
        let choice = route_l4(table, &to().service, 80, None, 0).unwrap();
        assert_eq!((choice.rule, choice.backend), (None, to()));
    }
}

#[test]
fn a_route_of_another_port_has_no_say() {
    let other = resource::Route {
        port: 8080,
        ..route("a", vec![prefix("/only")])
    };
    assert_eq!(
        by_path(&table(&[other]), "/"),
        Ok("cart.shop.svc.cluster.local".to_owned())
    );
    let here = resource::Route {
        port: 80,
        ..route("a", vec![prefix("/only")])
    };
    assert_eq!(by_path(&table(&[here]), "/"), Err(Failure::NoRoute));
}

#[test]
fn exact_paths_go_before_patterns_before_longer_prefixes() {
    let table = table(&[
        route("all", vec![]),
        route("short", vec![prefix("/a")]),
        route("long", vec![prefix("/a/b")]),
        route(
            "exact",
            vec![matching(Some(path_match::Kind::Exact("/a/b".into())))],
        ),
        route(
            "pattern",
            vec![matching(Some(path_match::Kind::Regex("/a/b[0-9]".into())))],
        ),
    ]);
    for (path, expected) in [
        ("/a/b", "exact"),
        ("/a/b/", "long"),
        ("/a/b/c", "long"),
        ("/a/b1", "pattern"),
        ("/a/bc", "short"),
        ("/ab", "all"),
        ("/", "all"),
    ] {
        assert_eq!(by_path(&table, path).unwrap(), expected, "{path}");
    }
}

#[test]
fn among_equal_paths_method_then_headers_then_query_decide() {
    let query = |n: usize| {
        (0..n)
            .map(|i| resource::QueryMatch {
                name: format!("q{i}"),
                value: Some(resource::StringMatch {
                    kind: Some(string_match::Kind::Present(true)),
                }),
            })
            .collect::<Vec<_>>()
    };
    let two = vec![header("x-a", "1"), header("x-b", "1")];
    let table = table(&[
        route("plain", vec![]),
        route(
            "method",
            vec![resource::RouteMatch {
                method: "GET".into(),
                ..Default::default()
            }],
        ),
        route(
            "two",
            vec![resource::RouteMatch {
                headers: two,
                ..Default::default()
            }],
        ),
        route(
            "one",
            vec![resource::RouteMatch {
                headers: vec![header("X-A", "1")],
                query: query(2),
                ..Default::default()
            }],
        ),
    ]);
    let mut post = get("/?q0=1&q1=1");
    post.method = Method::Post;
    assert_eq!(choose(&table, "cart", &post).unwrap(), "plain");
    post.fields.push(b"x-a", b"1");
    assert_eq!(choose(&table, "cart", &post).unwrap(), "one");
    post.fields.push(b"x-b", b"1");
    assert_eq!(choose(&table, "cart", &post).unwrap(), "two");
    post.method = Method::Get;
    assert_eq!(choose(&table, "cart", &post).unwrap(), "method");
}

#[test]
fn an_exact_host_goes_before_wildcards_and_long_wildcards_before_short() {
    let host = |name: &str, host: &str| resource::Route {
        hostnames: vec![host.to_owned()],
        ..route(name, vec![])
    };
    let table = table(&[
        host("short", "*.example"),
        host("exact", "a.b.example"),
        host("long", "*.b.example"),
    ]);
    for (name, expected) in [
        ("a.b.example", "exact"),
        ("c.b.example", "long"),
        ("c.example", "short"),
    ] {
        assert_eq!(choose(&table, name, &get("/")).unwrap(), expected);
    }
    assert_eq!(choose(&table, "example", &get("/")), Err(Failure::NoRoute));
}

#[test]
fn the_older_route_wins_then_the_name() {
    let aged = |name: &str, created| resource::Route {
        created,
        ..route(name, vec![])
    };
    assert_eq!(
        by_path(&table(&[aged("a", 9), aged("b", 3)]), "/").unwrap(),
        "b"
    );
    assert_eq!(
        by_path(&table(&[aged("b", 3), aged("a", 3)]), "/").unwrap(),
        "a"
    );
    // "{namespace}/{name}" decides, and nothing that discovery adds to it.
    let named = |name: &str, to: &str| {
        let mut route = route(name, vec![]);
        route.rules[0].backends = vec![backend(to, 1)];
        route
    };
    let both = [
        named("shop/a-b@shop/cart", "second"),
        named("shop/a@shop/cart", "first"),
    ];
    assert_eq!(by_path(&table(&both), "/").unwrap(), "first");
}

#[test]
fn a_route_without_rules_leads_nowhere() {
    let mut empty = route("x", vec![]);
    empty.rules.clear();
    assert_eq!(by_path(&table(&[empty]), "/"), Err(Failure::InvalidBackend));
}

#[test]
fn of_grpc_methods_the_longer_service_then_the_longer_method_goes_first() {
    let grpc = |name: &str, kind, service_characters, method_characters| resource::Route {
        kind: resource::RouteKind::Grpc.into(),
        ..route(
            name,
            vec![resource::RouteMatch {
                service_characters,
                method_characters,
                ..matching(kind)
            }],
        )
    };
    let regex = |text: &str| Some(path_match::Kind::Regex(text.to_owned()));
    let exact = |text: &str| Some(path_match::Kind::Exact(text.to_owned()));
    let service = |text: &str| Some(path_match::Kind::Prefix(text.to_owned()));
    let table = table(&[
        grpc("all", None, 0, 0),
        grpc("pattern", regex("/shop\\..*/.*"), 0, 0),
        grpc("method", regex("/[^/]+/Get"), 0, 3),
        grpc("service", service("/shop.Cart"), 9, 0),
        grpc("both", exact("/shop.Cart/Pay"), 9, 3),
    ]);
    for (path, expected) in [
        ("/shop.Cart/Pay", "both"),
        // A service goes before a method, whatever their lengths.
        ("/shop.Cart/Get", "service"),
        ("/shop.Bill/Get", "method"),
        ("/shop.Bill/Pay", "pattern"),
        ("/bank.Bill/Pay", "all"),
    ] {
        assert_eq!(by_path(&table, path).unwrap(), expected, "{path}");
    }
}

#[test]
fn backends_are_chosen_by_weight_and_invalid_ones_fail_their_share() {
    let mut weighted = route("x", vec![]);
    weighted.rules[0].backends = vec![
        backend("never", 0),
        backend("three", 3),
        backend("", 1),
        backend("four", 4),
    ];
    let table = table(&[weighted]);
    let (path, head) = (canonical::path(b"/").unwrap(), get("/"));
    let mut counts = std::collections::BTreeMap::new();
    for n in 0..8_000u64 {
        let random = n * (u64::MAX / 8_000);
        let name = match route_http(Some(&table), &to(), "cart", &path, &head, random) {
            Ok(chosen) => chosen.backend.service.hostname().to_owned(),
            Err(failure) => failure.name().to_owned(),
        };
        *counts.entry(name).or_insert(0u32) += 1;
    }
    let near = |name: &str, expected: u32| counts[name].abs_diff(expected) <= 2;
    assert!(near("three", 3_000) && near("invalid_backend", 1_000) && near("four", 4_000));
    assert_eq!(counts.len(), 3, "{counts:?}");
}

#[test]
fn no_backend_with_a_weight_is_an_invalid_backend() {
    for backends in [vec![], vec![backend("a", 0), backend("b", 0)]] {
        let mut empty = route("x", vec![]);
        empty.rules[0].backends = backends;
        assert_eq!(by_path(&table(&[empty]), "/"), Err(Failure::InvalidBackend));
    }
}

#[test]
fn tls_routes_choose_by_server_name_and_tcp_routes_take_the_rest() {
    let kind = |name: &str, kind: resource::RouteKind, hosts: &[&str]| resource::Route {
        kind: kind.into(),
        hostnames: hosts.iter().map(|h| (*h).to_owned()).collect(),
        ..route(name, vec![])
    };
    let tls = kind("tls", resource::RouteKind::Tls, &["*.example"]);
    let tcp = kind("tcp", resource::RouteKind::Tcp, &[]);
    let both = table(&[tls.clone(), tcp]);
    let chosen = |table: &RouteTable, name| {
        route_l4(Some(table), &to().service, 80, name, 0)
            .map(|choice| choice.backend.service.hostname().to_owned())
    };
    assert_eq!(chosen(&both, Some("a.example")).unwrap(), "tls");
    assert_eq!(chosen(&both, Some("b.test")).unwrap(), "tcp");
    assert_eq!(chosen(&both, None).unwrap(), "tcp");
    assert_eq!(
        chosen(&table(&[tls]), Some("b.test")),
        Err(Failure::NoRoute)
    );
    // A TCP route speaks of HTTP connections too, where no HTTP route does.
    assert_eq!(by_path(&both, "/").unwrap(), "tcp");
}

#[test]
fn a_redirect_needs_no_backend() {
    let mut redirect = route("x", vec![]);
    redirect.rules[0].backends.clear();
    let kind = resource::route_filter::Kind::Redirect(resource::Redirect::default());
    redirect.rules[0].filters = vec![resource::RouteFilter { kind: Some(kind) }];
    assert!(by_path(&table(&[redirect]), "/").is_ok());
}

#[test]
fn a_route_that_is_not_understood_in_full_is_refused_with_the_place() {
    let refused = |change: fn(&mut resource::Route)| {
        let mut changed = route("shop/r@x", vec![prefix("/a")]);
        change(&mut changed);
        Route::compile(&changed).unwrap_err()
    };
    let bad = refused(|r| r.rules[0].matches[0].headers.push(header("a b", "1")));
    assert_eq!(bad.name, "shop/r@x");
    assert_eq!(
        bad.why,
        "rule 0: match 0: header \"a b\" is not a field name"
    );
    refused(|r| r.kind = 0);
    refused(|r| r.kind = 99);
    refused(|r| r.port = 65_536);
    refused(|r| r.hostnames = vec!["*".to_owned()]);
    refused(|r| r.rules[0].matches[0].method = "G T".to_owned());
    refused(|r| r.rules[0].backends[0].port = 0);
    refused(|r| r.rules[0].backends[0].weight = Some(1_000_001));
    refused(|r| r.rules[0].backends[0].service = "cart".to_owned());
    refused(|r| r.rules = vec![resource::RouteRule::default(); RULES_MAX + 1]);
    refused(|r| {
        r.rules[0].request_timeout = Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        });
    });
    refused(|r| r.kind = resource::RouteKind::Tcp.into());
}

/// What is longer than a policy may name would overflow the time of day, at each request.
#[test]
fn no_limit_of_a_route_is_longer_than_a_day() {
    type Set = fn(&mut resource::RouteRule, prost_types::Duration);
    let limits: [(&str, Set); 3] = [
        ("request_timeout", |r, d| r.request_timeout = Some(d)),
        ("backend_timeout", |r, d| r.backend_timeout = Some(d)),
        ("backoff", |r, d| {
            r.retries = Some(resource::route_rule::Retries {
                backoff: Some(d),
                ..Default::default()
            });
        }),
    ];
    for (name, set) in limits {
        let limited = |seconds, nanos| {
            let mut limited = route("x", vec![]);
            set(
                &mut limited.rules[0],
                prost_types::Duration { seconds, nanos },
            );
            Route::compile(&limited).map_err(|rejected| rejected.why)
        };
        for (seconds, nanos) in [(0, 0), (0, 1), (86_400, 0)] {
            assert!(limited(seconds, nanos).is_ok(), "{name} {seconds}");
        }
        for (seconds, nanos) in [(86_400, 1), (i64::MAX, 0), (1, -1), (1, 1_000_000_000)] {
            let why = limited(seconds, nanos).unwrap_err();
            assert!(why.starts_with(&format!("rule 0: {name}: ")), "{why}");
        }
    }
}

/// A WebSocket over HTTP/2 is the GET that it is to policies (RFC 8441).
#[test]
fn an_extended_connect_is_matched_as_the_get_that_it_is() {
    let asked = |method: &str| {
        let mut by_method = matching(None);
        by_method.method = method.to_owned();
        let head = RequestHead {
            method: Method::Connect,
            version: Version::Http2,
            protocol: b"websocket".to_vec(),
            ..get("/")
        };
        choose(&table(&[route("x", vec![by_method])]), "cart", &head)
    };
    assert_eq!(asked("GET").as_deref(), Ok("x"));
    assert_eq!(asked("CONNECT"), Err(Failure::NoRoute));
}

/// Everything that a route can say.
fn whole() -> resource::Route {
    use resource::path_modifier::Kind as NewPath;
    use resource::route_filter::Kind as Filtering;
    let named = |name: &str| resource::Header {
        name: name.to_owned(),
        value: "v".to_owned(),
    };
    let modifier = resource::HeaderModifier {
        set: vec![named("a")],
        add: vec![named("b")],
        remove: vec!["c".to_owned()],
    };
    let path = |kind| Some(resource::PathModifier { kind: Some(kind) });
    let second = Some(prost_types::Duration {
        seconds: 1,
        nanos: 1,
    });
    let filters = [
        Filtering::RequestHeaders(modifier.clone()),
        Filtering::ResponseHeaders(modifier),
        Filtering::Rewrite(resource::Rewrite {
            hostname: "other".to_owned(),
            path: path(NewPath::ReplacePrefix("/b".to_owned())),
        }),
        Filtering::Mirror(resource::Mirror {
            backend: Some(backend("mirror", 1)),
            millionths: Some(5),
        }),
    ];
    let filters = filters.map(|kind| resource::RouteFilter { kind: Some(kind) });
    let kind = Some(string_match::Kind::Exact("v".to_owned()));
    let matches = resource::RouteMatch {
        headers: vec![header("h", "v")],
        query: vec![resource::QueryMatch {
            name: "q".to_owned(),
            value: Some(resource::StringMatch { kind }),
        }],
        method: "GET".to_owned(),
        service_characters: 1,
        method_characters: 1,
        ..prefix("/a")
    };
    let mut target = backend("cart", 1);
    target.filters = filters[..2].to_vec();
    resource::Route {
        port: 80,
        hostnames: vec!["cart".to_owned()],
        created: 1,
        origin: Some(resource::Origin {
            cluster: "east".to_owned(),
            ..Default::default()
        }),
        rules: vec![resource::RouteRule {
            matches: vec![matches],
            filters: filters.to_vec(),
            backends: vec![target],
            request_timeout: second,
            backend_timeout: second,
            retries: Some(resource::route_rule::Retries {
                attempts: 1,
                statuses: vec![503],
                backoff: second,
            }),
        }],
        ..route("shop/r", vec![])
    }
}

/// F26: a term that a newer control plane sent must not be dropped: without it a match takes all.
#[test]
fn a_term_that_is_not_known_is_not_dropped_from_a_route() {
    const NEWER: [u8; 5] = [0x9a, 0x06, 2, b'h', b'i'];
    let body = whole().encode_to_vec();
    assert_eq!(&**Route::decode(&body).unwrap().name(), "shop/r");
    let mut redirect = whole();
    let to = resource::Redirect {
        scheme: "https".to_owned(),
        hostname: "other".to_owned(),
        path: Some(resource::PathModifier {
            kind: Some(resource::path_modifier::Kind::ReplaceFull("/".to_owned())),
        }),
        port: 443,
        status: 302,
    };
    redirect.rules[0].backends.clear();
    redirect.rules[0].filters = vec![resource::RouteFilter {
        kind: Some(resource::route_filter::Kind::Redirect(to)),
    }];
    assert!(Route::decode(&redirect.encode_to_vec()).is_ok());
    // One in another, from the outside: rules, and what is in them.
    let places: [(&[u8], &str); 8] = [
        (&[], "field 99"),
        (&[6], "rules.field 99"),
        (&[6, 1], "rules.matches.field 99"),
        (&[6, 1, 1], "rules.matches.path.field 99"),
        (&[6, 1, 3, 2], "rules.matches.query.value.field 99"),
        (&[6, 2], "rules.filters.field 99"),
        (&[6, 3, 4], "rules.backends.filters.field 99"),
        (&[6, 6], "rules.retries.field 99"),
    ];
    for (path, place) in places {
        let newer = path.iter().rev().fold(NEWER.to_vec(), |inner, number| {
            let length = u8::try_from(inner.len()).unwrap();
            [vec![number << 3 | 2, length], inner].concat()
        });
        let refused = Route::decode(&[body.clone(), newer].concat()).unwrap_err();
        let why = format!("{place} is not known to this version");
        assert_eq!((refused.name.as_str(), refused.why), ("shop/r", why));
    }
}
