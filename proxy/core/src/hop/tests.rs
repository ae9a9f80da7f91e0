//! Does every endpoint have the right way, or none?

use super::*;
use crate::balance::{Outcome, OutlierPolicy, Rng};
use proptest::prelude::*;
use std::time::Duration;

type Break = fn(&mut resource::Gateway);

fn me() -> Me {
    Me {
        cluster: "east".parse().unwrap(),
        network: "east-net".parse().unwrap(),
        locality: Default::default(),
    }
}

fn endpoint(network: &str, change: fn(&mut resource::Endpoint)) -> Endpoint {
    let mut from = resource::Endpoint {
        name: "west/shop/cart-1".into(),
        service: "shop/cart.shop.svc.clusterset.local".into(),
        addresses: vec![vec![10, 1, 0, 7].into()],
        network: network.into(),
        identity: "spiffe://west.mesh.internal/ns/shop/sa/cart".into(),
        health: resource::Health::Healthy.into(),
        origin: Some(resource::Origin {
            cluster: "west".into(),
            ..Default::default()
        }),
        ports: vec![resource::PortMapping {
            service_port: 80,
            target_port: 8080,
        }],
        tunnel_port: 15008,
        handle: "abc".into(),
        ..Default::default()
    };
    change(&mut from);
    Endpoint::compile(&from, Arc::default()).unwrap()
}

fn raw_gateway(name: &str) -> resource::Gateway {
    resource::Gateway {
        name: format!("west/isthmus-system/{name}"),
        cluster: "west".into(),
        network: "west-net".into(),
        addresses: vec![resource::GatewayAddress {
            kind: Some(Kind::Ip(vec![192, 0, 2, 1].into())),
            port: 15443,
        }],
        origin: None,
    }
}

fn gateway(name: &str) -> Arc<Gateway> {
    Arc::new(Gateway::compile(&raw_gateway(name), Arc::default()).unwrap())
}

fn hop(endpoint: &Endpoint, gateways: &GatewayTable) -> Result<NextHop, Failure> {
    let hop = next_hop(endpoint, 8080, &me(), gateways, "mesh.internal");
    assert_eq!(reachable(endpoint, &me(), gateways), hop.is_ok());
    hop
}

#[test]
fn on_our_network_the_way_is_direct() {
    let none = GatewayTable::default();
    let Ok(NextHop::Tunnel {
        address,
        sni,
        identity,
    }) = hop(&endpoint("east-net", |_| ()), &none)
    else {
        panic!("no tunnel")
    };
    assert_eq!(address.to_string(), "10.1.0.7:15008");
    assert_eq!(sni.as_deref(), Some("abc.west.mesh.internal"));
    assert_eq!(
        identity.as_str(),
        "spiffe://west.mesh.internal/ns/shop/sa/cart"
    );
    let unnamed = endpoint("east-net", |e| e.handle.clear());
    assert!(matches!(
        hop(&unnamed, &none),
        Ok(NextHop::Tunnel { sni: None, .. })
    ));
    let plain = endpoint("east-net", |e| e.tunnel_port = 0);
    let Ok(NextHop::Plain { address }) = hop(&plain, &none) else {
        panic!("not plain")
    };
    assert_eq!(address.to_string(), "10.1.0.7:8080");
}

#[test]
fn another_network_needs_a_handle_and_a_gateway() {
    let table = GatewayTable::new([gateway("one"), gateway("two")]);
    let Ok(NextHop::ViaGateway {
        gateways,
        sni,
        identity,
    }) = hop(&endpoint("west-net", |_| ()), &table)
    else {
        panic!("not through a gateway")
    };
    assert_eq!(
        (gateways.len(), sni.as_ref()),
        (2, "abc.west.mesh.internal")
    );
    assert_eq!(identity.service_account(), "cart");
    for (endpoint, table) in [
        (endpoint("west-net", |e| e.handle.clear()), &table),
        (endpoint("west-net", |e| e.tunnel_port = 0), &table),
        (endpoint("west-net-2", |_| ()), &table),
        (endpoint("west-net", |_| ()), &GatewayTable::default()),
    ] {
        assert_eq!(
            hop(&endpoint, table).unwrap_err(),
            Failure::NoHealthyEndpoint
        );
    }
}

#[test]
fn a_gateway_without_addresses_is_known_but_no_way() {
    let mut from = raw_gateway("one");
    from.addresses.clear();
    let table = GatewayTable::new([Arc::new(Gateway::compile(&from, Arc::default()).unwrap())]);
    assert_eq!(table.all().len(), 1);
    assert!(hop(&endpoint("west-net", |_| ()), &table).is_err());
}

#[test]
fn every_rule_of_gateways_is_kept_and_named() {
    let breaks: &[(&str, Break)] = &[
        ("name", |g| g.name = "one".into()),
        ("cluster", |g| g.cluster.clear()),
        ("cluster", |g| g.cluster = "east".into()),
        ("network", |g| g.network.clear()),
        ("addresses", |g| g.addresses[0].kind = None),
        ("addresses.ip", |g| {
            g.addresses[0].kind = Some(Kind::Ip(vec![1, 2].into()))
        }),
        ("addresses.hostname", |g| {
            g.addresses[0].kind = Some(Kind::Hostname("A B".into()))
        }),
        ("addresses.port", |g| g.addresses[0].port = 0),
        ("addresses", |g| {
            g.addresses = vec![g.addresses[0].clone(); GATEWAY_ADDRESSES_MAX + 1]
        }),
    ];
    for (field, break_it) in breaks {
        let mut from = raw_gateway("one");
        break_it(&mut from);
        let rejected = Gateway::compile(&from, Arc::default()).unwrap_err();
        assert!(
            rejected.why.starts_with(&format!("{field}:")),
            "{field}: {rejected}"
        );
        assert_eq!(rejected.name, from.name);
    }
    let mut named = raw_gateway("one");
    named.addresses[0].kind = Some(Kind::Hostname("gw.example.com".into()));
    assert_eq!(
        Gateway::compile(&named, Arc::default()).unwrap().addresses,
        [GatewayAddress::Hostname("gw.example.com".into(), 15443)]
    );
}

#[test]
fn a_broken_gateway_is_ejected_and_the_last_one_never() {
    let gateways = [gateway("one"), gateway("two"), gateway("three")];
    let (mut rng, now) = (Rng::new(1), Ticks(1_000_000));
    assert!(pick_gateway(&[], &mut rng, now).is_none());
    let mut failures = 0;
    for _ in 0..1_000 {
        let chosen = pick_gateway(&gateways, &mut rng, now).unwrap();
        let broken = Arc::ptr_eq(&chosen, &gateways[0]);
        failures += u32::from(broken);
        let outcome = if broken {
            Outcome::NoAnswer
        } else {
            Outcome::Success
        };
        let call = chosen.stats.begin(now);
        let _ = call.finish(
            outcome,
            Duration::from_millis(20),
            now,
            &OutlierPolicy::default(),
        );
    }
    assert!(failures <= 5, "{failures}");
    for gateway in &gateways {
        for _ in 0..5 {
            let call = gateway.stats.begin(now);
            let policy = OutlierPolicy::default();
            let _ = call.finish(Outcome::NoAnswer, Duration::from_millis(20), now, &policy);
        }
    }
    assert!(pick_gateway(&gateways, &mut rng, now).is_some());
}

#[test]
fn a_gateway_answers_for_a_dead_pod_only_if_another_one_reaches_it() {
    let gateways = [gateway("one"), gateway("two")];
    let (mut rng, now, policy) = (Rng::new(5), Ticks(1_000_000), OutlierPolicy::default());
    let mut call = |reach: &dyn Fn(&Arc<Gateway>) -> Tried| {
        let first = pick_gateway(&gateways, &mut rng, now).unwrap();
        let mut tries = vec![(first.stats.begin(now), reach(&first))];
        if tries[0].1 != Tried::Answered {
            let other = gateways.iter().find(|g| !Arc::ptr_eq(g, &first)).unwrap();
            tries.push((other.stats.begin(now), reach(other)));
        }
        let answered = tries.iter().any(|(_, tried)| *tried == Tried::Answered);
        for (attempt, tried) in tries {
            if let Some(outcome) = tried.outcome(answered) {
                let _ = attempt.finish(outcome, Duration::from_millis(20), now, &policy);
            }
        }
    };
    let failures = || {
        let of = |gateway: &Arc<Gateway>| gateway.stats.view(now).failures_total;
        [of(&gateways[0]), of(&gateways[1])]
    };
    for _ in 0..100 {
        call(&|_| Tried::Silent);
    }
    assert_eq!(failures(), [0, 0], "the pod is dead");
    for _ in 0..100 {
        call(&|gateway| match gateway.name.as_str() {
            name if name.ends_with("one") => Tried::Silent,
            _ => Tried::Answered,
        });
    }
    let [one, two] = failures();
    assert!(
        one > 0 && two == 0,
        "its neighbour reaches the pod: {one}, {two}"
    );
    for _ in 0..100 {
        call(&|_| Tried::Unreached);
    }
    assert!(
        gateways.iter().all(|g| g.stats.is_ejected(now)),
        "nobody else can be to blame"
    );
}

#[test]
fn equal_gateways_share_evenly() {
    let gateways = [gateway("one"), gateway("two"), gateway("three")];
    let mut rng = Rng::new(3);
    let mut counts = [0u32; 3];
    for i in 0..9_000 {
        let now = Ticks(i * 1_000_000);
        let chosen = pick_gateway(&gateways, &mut rng, now).unwrap();
        counts[gateways
            .iter()
            .position(|g| Arc::ptr_eq(g, &chosen))
            .unwrap()] += 1;
        let latency = Duration::from_micros(20_000 + i % 100);
        let _ = chosen.stats.begin(now).finish(
            Outcome::Success,
            latency,
            now,
            &OutlierPolicy::default(),
        );
    }
    assert!(
        counts.iter().all(|c| (2_800..3_200).contains(c)),
        "{counts:?}"
    );
}

proptest! {
    #[test]
    fn reachable_and_next_hop_agree(
        network in prop_oneof!["east-net", "west-net", "other"], handle: bool, tunnel: bool,
        gateways in 0usize..3,
    ) {
        let mut endpoint = endpoint(&network, |_| ());
        if !handle {
            endpoint.handle = None;
        }
        if !tunnel {
            endpoint.tunnel_port = None;
        }
        let table = GatewayTable::new((0..gateways).map(|i| gateway(&format!("g{i}"))));
        let _ = hop(&endpoint, &table);
    }
}
