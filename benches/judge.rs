//! What does it cost to judge a request, to route it, and to find its service?

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use isthmus_benches::{Outcome, ns_each};
use isthmus_proto::resource::{self, path_match, string_match};
use isthmus_proxy_core::authorize::{
    ConnFacts, Policy, PolicySet, PolicyTable, RequestFacts, authorize,
};
use isthmus_proxy_core::canonical;
use isthmus_proxy_core::identify::PeerIdentity;
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, Version};
use isthmus_proxy_core::route::{BackendRef, Route, RouteTable, route_http};
use isthmus_proxy_core::snapshot::Generation;

const COUNT: u32 = 200_000;
/// Rules of one policy.
const RULES: usize = 10;

/// Authorization against few and many rules, canonical forms, and routing by few and many rules.
pub(crate) fn report(row: &mut dyn FnMut(&str, f64)) -> Outcome {
    let peer = PeerIdentity {
        id: "spiffe://west.mesh.internal/ns/bench/sa/client".parse()?,
    };
    let conn = ConnFacts {
        peer: Some(&peer),
        port: 8080,
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let head = head();
    let facts = RequestFacts {
        method: &head.method,
        host: "cart.shop",
        path: "/v1/items/7",
        fields: &head.fields,
    };
    for rules in [1, 100, 1_000] {
        let set = policies(rules)?;
        let judged = ns_each(COUNT, || {
            black_box(authorize(&set, &conn, Some(&facts)))?;
            Ok(())
        });
        row(&format!("authorize against {rules} rules"), judged?);
    }
    let cost = ns_each(COUNT, || {
        black_box(canonical::path(black_box(b"/v1/items/7?page=2"))?);
        Ok(())
    });
    row("canonical path", cost?);
    let cost = ns_each(COUNT, || {
        black_box(canonical::authority(black_box(
            b"cart.shop.svc.cluster.local:8080",
        ))?);
        Ok(())
    });
    row("canonical authority", cost?);
    let path = canonical::path(b"/v1/items/7?page=2")?;
    let to = BackendRef {
        service: "shop/cart.shop.svc.cluster.local".parse()?,
        port: 8080,
    };
    for rules in [0, 1, 100] {
        let table = routes(rules)?;
        let routed = ns_each(COUNT, || {
            black_box(route_http(Some(&table), &to, "cart.shop", &path, &head, 1))?;
            Ok(())
        });
        row(&format!("route by {rules} rules"), routed?);
    }
    Ok(())
}

fn head() -> RequestHead {
    let mut fields = Fields::default();
    fields.push(b"user-agent", b"bench/1");
    fields.push(b"accept", b"*/*");
    RequestHead {
        method: Method::Get,
        version: Version::Http11,
        https: false,
        authority: b"cart.shop".to_vec(),
        path: b"/v1/items/7?page=2".to_vec(),
        protocol: Vec::new(),
        fields,
        body: BodyLength::Empty,
        keep_alive: true,
        expects_continue: false,
    }
}

/// ALLOW rules for so many callers; the last one is for ours.
fn policies(rules: usize) -> Result<PolicySet, Box<dyn std::error::Error>> {
    let rule = |at: usize| {
        let client = if at + 1 == rules {
            "client".to_owned()
        } else {
            format!("other-{at}")
        };
        resource::AccessRule {
            from: vec![resource::Caller {
                identities: vec![format!("spiffe://west.mesh.internal/ns/bench/sa/{client}")],
                ..Default::default()
            }],
            to: vec![resource::Operation {
                methods: vec!["GET".into()],
                paths: vec![resource::StringMatch {
                    kind: Some(string_match::Kind::Prefix("/v1/".into())),
                }],
                ..Default::default()
            }],
            headers: Vec::new(),
        }
    };
    let all: Vec<_> = (0..rules).map(rule).collect();
    let mut compiled = Vec::new();
    for (at, rules) in all.chunks(RULES).enumerate() {
        compiled.push(Arc::new(Policy::compile(&resource::AccessPolicy {
            name: format!("west/bench/policy-{at}"),
            action: resource::Action::Allow.into(),
            rules: rules.to_vec(),
            ..Default::default()
        })?));
    }
    Ok(PolicySet::Known(PolicyTable::new(compiled, Generation(1))))
}

/// Routes by path prefix; the last one matches.
fn routes(rules: usize) -> Result<RouteTable, Box<dyn std::error::Error>> {
    if rules == 0 {
        return Ok(RouteTable::default());
    }
    let rule = |at: usize| {
        let prefix = if at + 1 == rules {
            "/v1".to_owned()
        } else {
            format!("/other-{at}/long")
        };
        resource::RouteRule {
            matches: vec![resource::RouteMatch {
                path: Some(resource::PathMatch {
                    kind: Some(path_match::Kind::Prefix(prefix)),
                }),
                ..Default::default()
            }],
            backends: vec![resource::WeightedBackend {
                service: "shop/cart.shop.svc.cluster.local".into(),
                port: 8080,
                ..Default::default()
            }],
            ..Default::default()
        }
    };
    let route = resource::Route {
        name: "west/shop/cart@shop/cart.shop.svc.cluster.local".into(),
        service: "shop/cart.shop.svc.cluster.local".into(),
        port: 8080,
        kind: resource::RouteKind::Http.into(),
        rules: (0..rules).map(rule).collect(),
        ..Default::default()
    };
    Ok(RouteTable::new(vec![Arc::new(Route::compile(&route)?)]))
}
