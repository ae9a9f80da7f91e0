//! What does it cost to pick an endpoint?

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use isthmus_benches::{Outcome as Outcomes, ns_per_op};
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;
use isthmus_proxy_core::balance::{
    BalancePolicy, Call, Endpoint, EndpointSet, Me, Outcome, OutlierPolicy, Rng, Ticks, pick,
};
use isthmus_proxy_core::hop::{Gateway, GatewayTable, reachable};

const PICKS: u32 = 400_000;
/// Calls that are in flight while the next is picked.
const OPEN: usize = 64;

/// Picks alone, and with begin and finish of the call, for sets of several sizes.
pub(crate) fn report(row: &mut dyn FnMut(&str, f64)) -> Outcomes {
    for count in [16, 100, 10_000] {
        let set = endpoints(count)?;
        row(&format!("pick among {count}"), measure(&set, picks)?);
        row(
            &format!("pick, begin, finish among {count}"),
            measure(&set, calls)?,
        );
    }
    Ok(())
}

/// What is needed for a pick.
struct Bench {
    set: EndpointSet,
    me: Me,
    gateways: GatewayTable,
    policy: BalancePolicy,
}

fn measure(
    bench: &Bench,
    round: fn(&Bench, &mut Rng, u64) -> Outcomes,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut rng = Rng::new(7);
    ns_per_op(PICKS, |at| {
        round(
            bench,
            &mut rng,
            u64::from(at + 1) * u64::from(PICKS) * 1_000,
        )
    })
}

/// The first try, to the port that all have.
const CALL: Call<'_> = Call {
    port: 80,
    tried: &[],
};

/// Picks alone, a microsecond apart.
fn picks(bench: &Bench, rng: &mut Rng, from: u64) -> Outcomes {
    let way = |e: &Endpoint| reachable(e, &bench.me, &bench.gateways);
    for at in 0..PICKS {
        let now = Ticks(from + u64::from(at) * 1_000);
        black_box(pick(&bench.set, &bench.policy, &way, &CALL, rng, now)?);
    }
    Ok(())
}

/// Whole calls: a pick, its begin, and the finish of one that began some calls ago.
fn calls(bench: &Bench, rng: &mut Rng, from: u64) -> Outcomes {
    let way = |e: &Endpoint| reachable(e, &bench.me, &bench.gateways);
    let outlier = OutlierPolicy::default();
    let mut open = std::collections::VecDeque::with_capacity(OPEN);
    for at in 0..PICKS {
        let now = Ticks(from + u64::from(at) * 1_000);
        let chosen = pick(&bench.set, &bench.policy, &way, &CALL, rng, now)?;
        open.push_back(chosen.stats.begin(now));
        if open.len() == OPEN
            && let Some(call) = open.pop_front()
        {
            let latency = Duration::from_micros(4_000 + rng.bits() % 2_000);
            black_box(call.finish(Outcome::Success, latency, now, &outlier));
        }
    }
    Ok(())
}

/// So many pods in two clusters: two in three are here.
fn endpoints(count: usize) -> Result<Bench, Box<dyn std::error::Error>> {
    let me = Me {
        cluster: "east".parse()?,
        network: "east-net".parse()?,
        locality: Locality {
            region: "r".into(),
            zone: "a".into(),
        },
    };
    let mut endpoints = Vec::with_capacity(count);
    for pod in 0..count {
        let cluster = if pod % 3 == 2 { "west" } else { "east" };
        endpoints.push(Arc::new(Endpoint::compile(
            &endpoint(cluster, pod),
            Arc::default(),
        )?));
    }
    let gateway = resource::Gateway {
        name: "west/isthmus-system/gateway".into(),
        cluster: "west".into(),
        network: "west-net".into(),
        addresses: vec![resource::GatewayAddress {
            kind: Some(resource::gateway_address::Kind::Hostname(
                "gateway.example".into(),
            )),
            port: 15443,
        }],
        origin: None,
    };
    Ok(Bench {
        set: EndpointSet::new(endpoints, &me),
        gateways: GatewayTable::new([Arc::new(Gateway::compile(&gateway, Arc::default())?)]),
        policy: BalancePolicy::default(),
        me,
    })
}

fn endpoint(cluster: &str, pod: usize) -> resource::Endpoint {
    resource::Endpoint {
        name: format!("{cluster}/shop/cart-{pod}"),
        service: "shop/cart.shop.svc.clusterset.local".into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        network: format!("{cluster}-net"),
        identity: format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/cart"),
        health: resource::Health::Healthy.into(),
        origin: Some(resource::Origin {
            cluster: cluster.into(),
            ..Default::default()
        }),
        ports: vec![resource::PortMapping {
            service_port: 80,
            target_port: 8080,
        }],
        tunnel_port: 15008,
        handle: "handle".into(),
        ..Default::default()
    }
}
