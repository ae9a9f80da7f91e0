//! Does the table choose as the text of the Gateway API says?
//!
//! The oracle knows no order of matches. It takes all that a request fulfils, and lets the criteria
//! of the specification (HTTPRouteRule.matches, GRPCRouteRule.matches, HTTPRoute.hostnames in
//! `apis/v1`) leave some of them out, one criterion after the other, until one rule is left.

use std::cmp::Reverse;

use super::*;

/// The port that is called.
const PORT: u16 = 80;

/// A route as its author writes it.
#[derive(Debug, Clone)]
struct Written {
    namespace: &'static str,
    name: &'static str,
    created: i64,
    /// `None`: one parent reference without a port.
    ports: Option<Vec<u16>>,
    hostnames: Vec<&'static str>,
    rules: Vec<Vec<Said>>,
}

/// One match.
#[derive(Debug, Clone)]
struct Said {
    path: Path,
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Debug, Clone)]
enum Path {
    /// Not written: the prefix `/`.
    Absent,
    Exact(&'static str),
    Prefix(&'static str),
    Regex(&'static str),
    /// GRPCRoute: service and method, empty where not written.
    Grpc(&'static str, &'static str),
}

#[derive(Debug, Clone)]
struct Asked {
    host: &'static str,
    path: &'static str,
    post: bool,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

impl Path {
    fn fulfilled(&self, path: &str) -> bool {
        let below = |prefix: &str| {
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match *self {
            Self::Absent | Self::Prefix("/") => true,
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => below(prefix),
            Self::Regex("/a.*") => path.starts_with("/a"),
            Self::Regex(_) => path == "/a/b" || path == "/b/b",
            Self::Grpc(service, method) => {
                let (own, asked) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
                (service.is_empty() || service == own) && (method.is_empty() || method == asked)
            }
        }
    }

    /// "Exact" path match; "Prefix" path match with largest number of characters. The place of
    /// patterns is the implementation's: here between the two, the longer pattern first.
    fn of_http(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Regex(text) => (1, text.len()),
            Self::Prefix(text) => (0, text.len()),
            Self::Absent | Self::Grpc(..) => (0, 1),
        }
    }

    /// Characters in a matching service, characters in a matching method.
    fn of_grpc(&self) -> (usize, usize) {
        match self {
            Self::Grpc(service, method) => (service.len(), method.len()),
            Self::Absent | Self::Exact(_) | Self::Prefix(_) | Self::Regex(_) => (0, 0),
        }
    }

    fn resource(&self) -> Option<path_match::Kind> {
        match *self {
            Self::Absent => None,
            Self::Exact(text) => Some(path_match::Kind::Exact(text.to_owned())),
            Self::Prefix(text) => Some(path_match::Kind::Prefix(text.to_owned())),
            Self::Regex(text) => Some(path_match::Kind::Regex(text.to_owned())),
            // As the control plane writes it.
            Self::Grpc(service, "") => Some(path_match::Kind::Prefix(format!("/{service}"))),
            Self::Grpc("", method) => Some(path_match::Kind::Regex(format!("/[^/]+/{method}"))),
            Self::Grpc(service, method) => {
                Some(path_match::Kind::Exact(format!("/{service}/{method}")))
            }
        }
    }
}

impl Said {
    fn fulfilled(&self, asked: &Asked) -> bool {
        let all = |wanted: &[(&str, &str)], given: &[(&str, &str)]| {
            wanted.iter().all(|pair| given.contains(pair))
        };
        self.path.fulfilled(asked.path)
            && self.method.is_none_or(|m| (m == "POST") == asked.post)
            && all(&self.headers, &asked.headers)
            && all(&self.query, &asked.query)
    }

    fn resource(&self, grpc: bool) -> resource::RouteMatch {
        let text = |value: &str| {
            let kind = Some(string_match::Kind::Exact(value.to_owned()));
            Some(resource::StringMatch { kind })
        };
        let query = |(name, value): &(&str, &str)| resource::QueryMatch {
            name: (*name).to_owned(),
            value: text(value),
        };
        let (service, method) = self.path.of_grpc();
        let characters = |count: usize| {
            if grpc {
                u32::try_from(count).unwrap()
            } else {
                0
            }
        };
        resource::RouteMatch {
            headers: self.headers.iter().map(|(n, v)| header(n, v)).collect(),
            query: self.query.iter().map(query).collect(),
            method: self.method.unwrap_or_default().to_owned(),
            service_characters: characters(service),
            method_characters: characters(method),
            ..matching(self.path.resource())
        }
    }
}

impl Written {
    fn is_on(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|own| own.contains(&port))
    }

    /// The resources of the route, one for each port that it names.
    fn resources(&self, at: usize, grpc: bool) -> Vec<resource::Route> {
        let suffix = if grpc { "+grpc" } else { "" };
        let rule = |(n, said): (usize, &Vec<Said>)| resource::RouteRule {
            matches: said.iter().map(|said| said.resource(grpc)).collect(),
            backends: vec![backend(&format!("b{at}-{n}"), 1)],
            ..Default::default()
        };
        let one = |port: u16| {
            let number = if port == 0 {
                String::new()
            } else {
                format!(":{port}")
            };
            let kind = if grpc {
                resource::RouteKind::Grpc
            } else {
                resource::RouteKind::Http
            };
            resource::Route {
                name: format!("{}/{}{suffix}{number}@{SERVICE}", self.namespace, self.name),
                service: SERVICE.to_owned(),
                port: port.into(),
                kind: kind.into(),
                hostnames: self.hostnames.iter().map(|h| (*h).to_owned()).collect(),
                rules: self.rules.iter().enumerate().map(rule).collect(),
                created: self.created,
                origin: None,
            }
        };
        let ports = self.ports.clone().unwrap_or_else(|| vec![0]);
        ports.into_iter().map(one).collect()
    }
}

pub(super) fn host_fulfilled(written: &str, host: &str) -> bool {
    match written.strip_prefix('*') {
        // "*.example.com would match both test.example.com, and foo.test.example.com, but not
        // example.com."
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => written == host,
    }
}

/// One match that the request fulfils, and for which of the route's hosts.
struct Fulfilled<'a> {
    host: &'a str,
    route: usize,
    written: &'a Written,
    rule: usize,
    said: &'a Said,
}

/// The length of a name that is no pattern.
pub(super) fn literal(host: &str) -> usize {
    if host.starts_with('*') { 0 } else { host.len() }
}

/// Leaves those of which the specification says that they have the most.
pub(super) fn most<T, K: Ord>(found: &mut Vec<T>, of: impl Fn(&T) -> K) {
    if let Some(most) = found.iter().map(&of).max() {
        found.retain(|one| of(one) == most);
    }
}

fn fulfilled<'a>(routes: &'a [Written], asked: &Asked, any: &'a Said) -> Vec<Fulfilled<'a>> {
    let mut found = Vec::new();
    for (route, written) in routes.iter().enumerate() {
        let hosts = match written.hostnames.as_slice() {
            [] => vec![""],
            some => some.to_vec(),
        };
        for host in hosts {
            for (rule, matches) in written.rules.iter().enumerate() {
                // No matches: every request.
                let matches = match matches.as_slice() {
                    [] => std::slice::from_ref(any),
                    some => some,
                };
                let ours = |said: &&Said| said.fulfilled(asked);
                found.extend(matches.iter().filter(ours).map(|said| Fulfilled {
                    host,
                    route,
                    written,
                    rule,
                    said,
                }));
            }
        }
    }
    found.retain(|one| one.written.is_on(PORT));
    found.retain(|one| one.host.is_empty() || host_fulfilled(one.host, asked.host));
    found
}

fn chosen(routes: &[Written], grpc: bool, asked: &Asked) -> Result<String, Failure> {
    let any = Said {
        path: Path::Absent,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    };
    if !routes.iter().any(|route| route.is_on(PORT)) {
        return Ok("cart.shop.svc.cluster.local".to_owned());
    }
    let mut found = fulfilled(routes, asked, &any);
    // "Characters in a matching non-wildcard hostname", "characters in a matching hostname".
    most(&mut found, |one| literal(one.host));
    most(&mut found, |one| one.host.len());
    if grpc {
        most(&mut found, |one| one.said.path.of_grpc().0);
        most(&mut found, |one| one.said.path.of_grpc().1);
        most(&mut found, |one| one.said.headers.len());
    } else {
        most(&mut found, |one| one.said.path.of_http());
        most(&mut found, |one| one.said.method.is_some());
        most(&mut found, |one| one.said.headers.len());
        most(&mut found, |one| one.said.query.len());
    }
    // "The oldest Route based on creation timestamp", "first in alphabetical order by
    // {namespace}/{name}", "the first matching rule".
    most(&mut found, |one| Reverse(one.written.created));
    most(&mut found, |one| {
        Reverse(format!("{}/{}", one.written.namespace, one.written.name))
    });
    most(&mut found, |one| Reverse(one.rule));
    let first = found.first().ok_or(Failure::NoRoute)?;
    Ok(format!("b{}-{}", first.route, first.rule))
}

fn some_of(
    all: &'static [(&'static str, &'static str)],
) -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    proptest::sample::subsequence(all, 0..=all.len())
}

const HEADERS: &[(&str, &str)] = &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")];
const QUERY: &[(&str, &str)] = &[("p", "1"), ("q", "1")];
pub(super) const HOSTS: &[&str] = &["a.example", "b.a.example", "*.example", "*.a.example"];
/// `-`, `.` and digits come before and after what discovery adds to a name.
const NAMES: &[&str] = &["a", "a-b", "a.b", "a1", "ab", "b"];

/// Namespaces and names of routes.
pub(super) fn objects() -> Vec<(&'static str, &'static str)> {
    ["shop", "shop-x"]
        .iter()
        .flat_map(|namespace| NAMES.iter().map(move |name| (*namespace, *name)))
        .collect()
}

fn any_path(grpc: bool) -> BoxedStrategy<Path> {
    if grpc {
        let service = proptest::sample::select(&["", "a", "ab", "a.b"][..]);
        let method = proptest::sample::select(&["", "c", "cd"][..]);
        let both = (service, method).prop_filter("one is written", |(s, m)| s.len() + m.len() > 0);
        return prop_oneof![1 => Just(Path::Absent), 4 => both.prop_map(|(s, m)| Path::Grpc(s, m))]
            .boxed();
    }
    let text = || proptest::sample::select(&["/a", "/a/b", "/b", "/a/b/c"][..]);
    prop_oneof![
        Just(Path::Absent),
        Just(Path::Prefix("/")),
        text().prop_map(Path::Exact),
        text().prop_map(Path::Prefix),
        proptest::sample::select(&["/a.*", "/[ab]/b"][..]).prop_map(Path::Regex),
    ]
    .boxed()
}

fn any_said(grpc: bool) -> impl Strategy<Value = Said> {
    let method = prop_oneof![3 => Just(None), 1 => Just(Some("GET")), 1 => Just(Some("POST"))];
    (any_path(grpc), method, some_of(HEADERS), some_of(QUERY)).prop_map(
        move |(path, method, headers, query)| Said {
            path,
            method: method.filter(|_| !grpc),
            headers,
            query: if grpc { Vec::new() } else { query },
        },
    )
}

fn any_written(grpc: bool) -> impl Strategy<Value = Vec<Written>> {
    let hosts = prop_oneof![
        2 => Just(Vec::new()),
        3 => proptest::sample::subsequence(HOSTS, 1..=2),
    ];
    let ports = prop_oneof![
        3 => Just(None),
        1 => Just(Some(vec![PORT])),
        1 => Just(Some(vec![81])),
        1 => Just(Some(vec![PORT, 81])),
    ];
    let matches = proptest::collection::vec(any_said(grpc), 0..3);
    // The API has no HTTPRoute without a rule.
    let rules = proptest::collection::vec(matches, 1..3);
    let one = (0..2i64, ports, hosts, rules);
    let names = proptest::sample::subsequence(objects(), 1..=4).prop_shuffle();
    (names, proptest::collection::vec(one, 4)).prop_map(|(names, all)| {
        let named = |((namespace, name), (created, ports, hostnames, rules))| Written {
            namespace,
            name,
            created,
            ports,
            hostnames,
            rules,
        };
        names.into_iter().zip(all).map(named).collect()
    })
}

fn any_asked(grpc: bool) -> impl Strategy<Value = Asked> {
    let host = proptest::sample::select(
        &[
            "a.example",
            "b.a.example",
            "c.b.a.example",
            "c.example",
            "example",
            "cart",
        ][..],
    );
    let path = if grpc {
        proptest::sample::select(&["/a/c", "/ab/cd", "/a.b/c", "/a/cd", "/z/z"][..])
    } else {
        proptest::sample::select(&["/", "/a", "/a/b", "/a/b/c", "/b", "/b/b", "/ab", "/a/c"][..])
    };
    (host, path, any::<bool>(), some_of(HEADERS), some_of(QUERY)).prop_map(
        |(host, path, post, headers, query)| Asked {
            host,
            path,
            post,
            headers,
            query,
        },
    )
}

fn any_case() -> impl Strategy<Value = (bool, Vec<Written>, Vec<Asked>)> {
    any::<bool>().prop_flat_map(|grpc| {
        let asked = proptest::collection::vec(any_asked(grpc), 8);
        (Just(grpc), any_written(grpc), asked)
    })
}

fn head(asked: &Asked) -> RequestHead {
    let pairs = asked.query.iter().map(|(n, v)| format!("{n}={v}"));
    let query = pairs.collect::<Vec<_>>().join("&");
    let path = match query.as_str() {
        "" => asked.path.to_owned(),
        query => format!("{}?{query}", asked.path),
    };
    let mut head = get(&path);
    if asked.post {
        head.method = Method::Post;
    }
    for (name, value) in &asked.headers {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn of_all_rules_that_match_the_one_is_chosen_that_the_gateway_api_names(
        (grpc, routes, asked) in any_case(),
        backwards: bool,
    ) {
        let numbered = routes.iter().enumerate();
        let mut resources: Vec<_> = numbered.flat_map(|(at, r)| r.resources(at, grpc)).collect();
        if backwards {
            resources.reverse();
        }
        let table = table(&resources);
        for asked in &asked {
            let got = choose(&table, asked.host, &head(asked));
            prop_assert_eq!(got, chosen(&routes, grpc, asked), "{:?}", asked);
        }
    }
}
