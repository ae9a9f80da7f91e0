//! Does a replay tell what the data path does, whatever a service's endpoints are like?

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::{Call, Endpoint, Outcome, OutlierPolicy, Rng};
use crate::hop::next_hop;

const NOW: Ticks = Ticks(1_000_000_000);

/// What an endpoint is like.
#[derive(Debug, Clone)]
struct Like {
    near: bool,
    health: resource::Health,
    weight: u32,
    port: u32,
    exported: bool,
    ejected: bool,
}

fn like() -> impl Strategy<Value = Like> {
    let health = prop_oneof![
        4 => Just(resource::Health::Healthy),
        1 => Just(resource::Health::Draining),
        1 => Just(resource::Health::Unhealthy),
    ];
    let port = prop_oneof![3 => Just(80), 1 => Just(81)];
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.3));
    (health, 0..3u32, port, flags).prop_map(|(health, weight, port, flags)| Like {
        near: flags.0,
        health,
        weight,
        port,
        exported: flags.1,
        ejected: flags.2,
    })
}

fn endpoint((at, like): (usize, &Like)) -> Update {
    let cluster = if like.near { "east" } else { "west" };
    let (name, mut endpoint) = endpoint_of(CART, &format!("{cluster}/shop/cart-{at}"));
    endpoint.health = like.health.into();
    endpoint.weight = Some(like.weight);
    endpoint.ports[0].service_port = like.port;
    if like.exported {
        endpoint.handle = format!("handle-{at}");
    }
    upsert(Kind::Endpoint, &name, &[], &endpoint)
}

fn gateway() -> Update {
    let ip = resource::gateway_address::Kind::Ip(bytes::Bytes::from_static(&[10, 9, 0, 1]));
    let gateway = resource::Gateway {
        name: "west/shop/gateway".into(),
        cluster: "west".into(),
        network: "west-net".into(),
        addresses: vec![resource::GatewayAddress {
            kind: Some(ip),
            port: 15443,
        }],
        ..Default::default()
    };
    upsert(Kind::Gateway, "west/shop/gateway", &[], &gateway)
}

fn eject(endpoint: &Endpoint) {
    for _ in 0..5 {
        let (call, policy) = (endpoint.stats.begin(NOW), OutlierPolicy::default());
        call.finish(Outcome::NoAnswer, Duration::from_millis(1), NOW, &policy);
    }
}

/// Somebody of the service for a call to port 80, and the way there: as the proxy does it.
fn called(snapshot: &Snapshot, rng: &mut Rng) -> Result<(String, String), Failure> {
    let service = snapshot.services.lookup_host(HOST).found().unwrap();
    let set = service.endpoints.known().unwrap();
    let ways = |e: &Endpoint| reachable(e, &snapshot.me, &snapshot.gateways);
    let call = Call {
        port: 80,
        tried: &[],
    };
    let chosen = pick(set, &service.traffic.balance, &ways, &call, rng, NOW)?;
    let target = chosen.target_port(80).ok_or(Failure::NoDestination)?;
    let (me, gateways) = (&snapshot.me, &snapshot.gateways);
    let hop = next_hop(&chosen, target, me, gateways, "mesh.internal")?;
    Ok((chosen.name.to_string(), outbound::describe_hop(&hop)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_call_goes_where_the_replay_says_or_fails_as_it_says(
        likes in prop::collection::vec(like(), 0..6), has_gateway in any::<bool>(), seed in any::<u64>()
    ) {
        let mut updates = vec![cart(), none(Kind::Route), none(Kind::Endpoint)];
        updates.extend(likes.iter().enumerate().map(endpoint));
        updates.extend(has_gateway.then(gateway));
        let (_, snapshot) = built(updates);
        let service = snapshot.services.lookup_host(HOST).found().unwrap();
        for endpoint in service.endpoints.known().unwrap().endpoints() {
            let at: usize = endpoint.name.as_str().rsplit('-').next().unwrap().parse().unwrap();
            if likes[at].ejected { eject(endpoint); }
        }
        let mut rng = Rng::new(seed);
        // How many may be ejected is judged at a call.
        let _ = called(&snapshot, &mut rng);
        let told = explain_outbound(&snapshot, &Question { now: NOW, ..question(HOST) });
        prop_assert_eq!(told.endpoints_total, likes.len());
        for _ in 0..20 {
            match called(&snapshot, &mut rng) {
                Ok((name, hop)) => {
                    prop_assert_eq!(told.failure, None, "{} is called", name);
                    let step = told.endpoints.iter().find(|s| s.endpoint.name == name).unwrap();
                    prop_assert!(step.usable, "{}: {}", name, step.why);
                    prop_assert_eq!(step.next_hop.as_deref(), Some(&*hop));
                }
                Err(failure) => prop_assert_eq!(told.failure, Some(failure), "{}", told.verdict),
            }
        }
        // What excludes each of them is the same story, in numbers.
        let found = exclusions(&snapshot, service, 80, "mesh.internal", NOW);
        prop_assert_eq!(found.reasons.values().sum::<usize>(), likes.len());
        for step in told.endpoints.iter().filter(|step| !step.usable) {
            prop_assert!(found.reasons.contains_key(&step.why), "{}", step.why);
        }
    }
}
