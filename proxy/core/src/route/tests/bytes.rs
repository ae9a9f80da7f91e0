//! Does the table choose for a connection as the text of the Gateway API says?
//!
//! As the [oracle](super::oracle) of requests: all that a connection fulfils, and then the criteria of
//! the specification (TLSRoute.hostnames, and what GEP-1294 and `apis/v1` say of routes of one kind)
//! leave some of it out, until one route is left. A TCPRoute takes what no TLSRoute names.

use std::cmp::Reverse;

use super::oracle::{HOSTS, host_fulfilled, literal, most, objects};
use super::*;

/// A TLSRoute, or a TCPRoute, as its author writes it.
#[derive(Debug, Clone)]
struct Written {
    namespace: &'static str,
    name: &'static str,
    created: i64,
    /// 0: one parent reference without a port.
    port: u16,
    /// `None`: a TCPRoute. Empty: every name.
    server_names: Option<Vec<&'static str>>,
    /// Of which all but the first can't be reached.
    rules: usize,
}

impl Written {
    fn is_on(&self, port: u16) -> bool {
        self.port == 0 || self.port == port
    }

    fn object(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn resource(&self, at: usize) -> resource::Route {
        let (kind, suffix) = match self.server_names {
            Some(_) => (resource::RouteKind::Tls, "+tls"),
            None => (resource::RouteKind::Tcp, "+tcp"),
        };
        let port = match self.port {
            0 => String::new(),
            port => format!(":{port}"),
        };
        let rule = |n| resource::RouteRule {
            backends: vec![backend(&format!("b{at}-{n}"), 1)],
            ..Default::default()
        };
        let names = self.server_names.iter().flatten();
        resource::Route {
            name: format!("{}{suffix}{port}@{SERVICE}", self.object()),
            service: SERVICE.to_owned(),
            port: self.port.into(),
            kind: kind.into(),
            hostnames: names.map(|name| (*name).to_owned()).collect(),
            rules: (0..self.rules).map(rule).collect(),
            created: self.created,
            origin: None,
        }
    }
}

/// A route that the connection fulfils, and for which of its names.
struct Fulfilled<'a> {
    host: &'a str,
    at: usize,
    written: &'a Written,
}

fn fulfilled<'a>(
    routes: &'a [Written],
    port: u16,
    fits: impl Fn(&Written, &str) -> bool,
) -> Vec<Fulfilled<'a>> {
    let mut found = Vec::new();
    for (at, written) in routes.iter().enumerate() {
        let names = written.server_names.as_deref().unwrap_or_default();
        let names = if names.is_empty() { &[""] } else { names };
        let names = names.iter().filter(|host| fits(written, host));
        found.extend(names.map(|host| Fulfilled { host, at, written }));
    }
    found.retain(|one| one.written.is_on(port));
    found
}

fn chosen(routes: &[Written], port: u16, server_name: Option<&str>) -> Result<String, Failure> {
    let is_tls = |written: &Written| written.server_names.is_some();
    let named = |written: &Written, host: &str| {
        // Who names nobody is meant by no TLSRoute, not even by one for every name.
        let fits = |name| host.is_empty() || host_fulfilled(host, name);
        is_tls(written) && server_name.is_some_and(fits)
    };
    let mut found = fulfilled(routes, port, named);
    // "Characters in a matching non-wildcard hostname", "characters in a matching hostname".
    most(&mut found, |one| literal(one.host));
    most(&mut found, |one| one.host.len());
    if found.is_empty() {
        found = fulfilled(routes, port, |written, _| !is_tls(written));
    }
    // "The oldest Route based on creation timestamp", "first in alphabetical order by
    // {namespace}/{name}".
    most(&mut found, |one| Reverse(one.written.created));
    most(&mut found, |one| Reverse(one.written.object()));
    let Some(first) = found.first() else {
        let has_tls = routes.iter().any(|one| is_tls(one) && one.is_on(port));
        return if has_tls {
            Err(Failure::NoRoute)
        } else {
            Ok(SERVICE.split_once('/').unwrap().1.to_owned())
        };
    };
    match first.written.rules {
        0 => Err(Failure::InvalidBackend),
        _ => Ok(format!("b{}-0", first.at)),
    }
}

fn any_written() -> impl Strategy<Value = Vec<Written>> {
    let names = prop_oneof![
        1 => Just(Vec::new()),
        3 => proptest::sample::subsequence(HOSTS, 1..=2),
    ];
    let kind = prop_oneof![2 => names.prop_map(Some), 1 => Just(None)];
    let port = proptest::sample::select(&[0, 0, 80, 81][..]);
    let one = (0..2i64, port, kind, 0..3_usize);
    let objects = proptest::sample::subsequence(objects(), 0..=6).prop_shuffle();
    (objects, proptest::collection::vec(one, 6)).prop_map(|(objects, all)| {
        let named = |((namespace, name), (created, port, server_names, rules))| Written {
            namespace,
            name,
            created,
            port,
            server_names,
            rules,
        };
        objects.into_iter().zip(all).map(named).collect()
    })
}

fn any_asked() -> impl Strategy<Value = (u16, Option<&'static str>)> {
    let names = [
        "a.example",
        "b.a.example",
        "c.b.a.example",
        "c.example",
        "example",
    ];
    let name = proptest::option::of(proptest::sample::select(names.to_vec()));
    (proptest::sample::select(&[80, 80, 81][..]), name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn of_all_routes_that_take_a_connection_the_one_is_chosen_that_the_gateway_api_names(
        routes in any_written(),
        asked in proptest::collection::vec(any_asked(), 8),
        backwards: bool,
        random: u64,
    ) {
        let numbered = routes.iter().enumerate();
        let mut resources: Vec<_> = numbered.map(|(at, written)| written.resource(at)).collect();
        if backwards {
            resources.reverse();
        }
        let table = table(&resources);
        let service: ServiceName = SERVICE.parse().unwrap();
        for (port, server_name) in asked {
            let got = route_l4(Some(&table), &service, port, server_name, random);
            let got = got.map(|choice| choice.backend.service.hostname().to_owned());
            let wanted = chosen(&routes, port, server_name);
            prop_assert_eq!(got, wanted, "port {}, {:?}", port, server_name);
        }
    }
}
