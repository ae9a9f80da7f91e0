//! How much does a decision among 1,000 rules look at, and how long does it take?

use std::hint::black_box;
use std::time::Instant;

use super::*;

/// 1,000 rules in the shapes that meshes have, and a call that one of the last rules allows.
fn shapes() -> Vec<(&'static str, PolicyTable, Call)> {
    let id = |n: u32| format!("spiffe://east.mesh.internal/ns/ns-{n}/sa/app-{n}");
    let by_caller = |caller: &dyn Fn(u32) -> Caller| {
        (0..1_000)
            .map(|n| policy(&format!("p{n}"), Raw::Allow, vec![from(vec![caller(n)])]))
            .collect()
    };
    let by_operation = |operation: &dyn Fn(u32) -> Operation| {
        let rule = |n| AccessRule {
            from: vec![namespace("ns-990")],
            to: vec![operation(n)],
            headers: vec![],
        };
        vec![policy("p", Raw::Allow, (0..1_000).map(rule).collect())]
    };
    let shapes: Vec<(&str, Vec<AccessPolicy>)> = vec![
        (
            "identity",
            by_caller(&|n| Caller {
                identities: vec![id(n)],
                ..Caller::default()
            }),
        ),
        ("namespace", by_caller(&|n| namespace(&format!("ns-{n}")))),
        (
            "account",
            by_caller(&|n| Caller {
                namespaces: strings(&["ns-990"]),
                service_accounts: vec![format!("app-{n}")],
                ..Caller::default()
            }),
        ),
        (
            "port",
            by_operation(&|n| Operation {
                ports: vec![n + 7_010],
                ..Operation::default()
            }),
        ),
        (
            "path",
            by_operation(&|n| paths(&[exact(&format!("/items/{n}"))])),
        ),
        ("paths of one rule", {
            let all: Vec<_> = (0..1_000).map(|n| exact(&format!("/items/{n}"))).collect();
            vec![policy("p", Raw::Allow, vec![to(vec![paths(&all)])])]
        }),
        ("deny and allow", {
            let deny = |n| from(vec![namespace(&format!("bad-{n}"))]);
            let allow = |n: u32| {
                from(vec![Caller {
                    identities: vec![id(n)],
                    ..Caller::default()
                }])
            };
            vec![
                policy("d", Raw::Deny, (0..500).map(deny).collect()),
                policy("p", Raw::Allow, (500..1_000).map(allow).collect()),
            ]
        }),
    ];
    let call = || Call::by(&id(990)).port(8_000).get("/items/990");
    shapes
        .into_iter()
        .map(|(name, policies)| (name, table(&policies), call()))
        .collect()
}

#[test]
fn a_decision_looks_at_few_of_a_thousand_rules() {
    for (name, table, call) in shapes() {
        let policies = PolicySet::Known(table.clone());
        assert!(call.asks(&policies).is_ok(), "{name}");
        let looked = call.judged(|conn, request| {
            let (facts, mut looked) = (Facts::new(conn, request), 0);
            let mut count = |_| {
                looked += 1;
                false
            };
            table.tables.allow.visit(&facts, Unseen::Misses, &mut count);
            table.tables.deny.visit(&facts, Unseen::Matches, &mut count);
            looked
        });
        assert!(looked <= 2, "{name}: {looked} rules");
    }
}

/// Run with `cargo test --release -p isthmus-proxy-core speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_a_decision_among_a_thousand_rules() {
    const ROUNDS: u32 = 200_000;
    for (name, table, call) in shapes() {
        let policies = PolicySet::Known(table);
        let spent = call.judged(|conn, request| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                let permit = authorize(black_box(&policies), black_box(conn), black_box(request));
                let _ = black_box(permit.is_ok());
            }
            start.elapsed()
        });
        println!(
            "{name}: {:.0} ns",
            spent.as_secs_f64() * 1e9 / f64::from(ROUNDS)
        );
    }
}
