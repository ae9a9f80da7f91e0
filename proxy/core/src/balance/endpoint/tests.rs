//! Is a sound endpoint taken, and any other refused by name?

use super::*;
use proptest::prelude::*;

type Break = fn(&mut resource::Endpoint);

fn sound() -> resource::Endpoint {
    resource::Endpoint {
        name: "east/shop/cart-1".into(),
        service: "shop/cart.shop.svc.clusterset.local".into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        network: "east-net".into(),
        identity: "spiffe://east.mesh.internal/ns/shop/sa/cart".into(),
        weight: None,
        health: resource::Health::Healthy.into(),
        origin: Some(resource::Origin {
            cluster: "east".into(),
            ..Default::default()
        }),
        locality: None,
        ports: vec![resource::PortMapping {
            service_port: 80,
            target_port: 8080,
        }],
        tunnel_port: 15008,
        handle: "abc".into(),
        charge_ms: 10,
    }
}

fn compile(from: &resource::Endpoint) -> Result<Endpoint, Rejected> {
    Endpoint::compile(from, Arc::default())
}

#[test]
fn a_sound_endpoint_is_taken_whole() {
    let endpoint = compile(&sound()).unwrap();
    assert_eq!(endpoint.weight, 1);
    assert_eq!(endpoint.target_port(80), Some(8080));
    assert_eq!(endpoint.target_port(81), None);
    assert_eq!(
        endpoint.sni("mesh.internal").unwrap().as_ref(),
        "abc.east.mesh.internal"
    );
    assert_eq!(endpoint.sni("other").unwrap().as_ref(), "abc.east.other");
    assert_eq!(endpoint.id, compile(&sound()).unwrap().id);
    let mapped = resource::Endpoint {
        addresses: vec![vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1].into()],
        ..sound()
    };
    assert_eq!(
        compile(&mapped).unwrap().addresses[0],
        IpAddr::from([10, 0, 0, 1])
    );
}

#[test]
fn every_rule_is_kept_and_named() {
    let breaks: &[(&str, Break)] = &[
        ("name", |e| e.name = "cart-1".into()),
        ("service", |e| e.service = "cart".into()),
        ("addresses", |e| e.addresses.clear()),
        ("addresses", |e| e.addresses = vec![vec![1, 2, 3].into()]),
        ("addresses", |e| e.addresses = vec![vec![0, 0, 0, 0].into()]),
        ("addresses", |e| {
            e.addresses = vec![vec![10, 0, 0, 1].into(); ADDRESSES_MAX + 1]
        }),
        ("network", |e| e.network.clear()),
        ("identity", |e| e.identity.clear()),
        ("identity", |e| e.identity = "spiffe://east/x".into()),
        ("health", |e| e.health = 0),
        ("health", |e| e.health = 9),
        ("origin", |e| e.origin = None),
        ("origin.cluster", |e| {
            e.origin = Some(resource::Origin::default())
        }),
        ("origin.cluster", |e| {
            e.origin = Some(resource::Origin {
                cluster: "west".into(),
                ..Default::default()
            });
        }),
        ("ports", |e| e.ports.clear()),
        ("ports.service_port", |e| e.ports[0].service_port = 0),
        ("ports.target_port", |e| e.ports[0].target_port = 65_536),
        ("ports.service_port", |e| e.ports.push(e.ports[0])),
        ("tunnel_port", |e| e.tunnel_port = 70_000),
        ("charge_ms", |e| e.charge_ms = 60_001),
        ("handle", |e| e.handle = "A.b".into()),
        ("handle", |e| e.handle = "a".repeat(HANDLE_CHARS + 1)),
    ];
    for (field, break_it) in breaks {
        let mut endpoint = sound();
        break_it(&mut endpoint);
        let rejected = compile(&endpoint).unwrap_err();
        assert!(
            rejected.why.starts_with(&format!("{field}:")),
            "{field}: {rejected}"
        );
        assert_eq!(
            rejected.name,
            format!("{}#{}", endpoint.service, endpoint.name)
        );
    }
}

#[test]
fn a_pod_without_a_proxy_needs_no_identity() {
    let plain = resource::Endpoint {
        tunnel_port: 0,
        identity: String::new(),
        handle: String::new(),
        weight: Some(0),
        ..sound()
    };
    let plain = compile(&plain).unwrap();
    assert_eq!(
        (plain.identity, plain.tunnel_port, plain.weight),
        (None, None, 0)
    );
}

proptest! {
    #[test]
    fn no_resource_panics(
        name in "\\PC{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..20),
        port: u32, health: i32, handle in "\\PC{0,50}",
    ) {
        let endpoint = resource::Endpoint {
            name, addresses: vec![bytes.into()], health, tunnel_port: port, handle, ..sound()
        };
        let _ = compile(&endpoint);
    }
}
