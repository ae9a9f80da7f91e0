//! Is what is accepted here what proxies apply?

use isthmus_proxy_core::authorize::Policy;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use resource::string_match::Kind;

use super::*;

/// Of each kind some that are taken and some that are not.
const TEXTS: &[&str] = &[
    "",
    "/",
    "*",
    "/*",
    "/a",
    "a",
    "/a/",
    "/a//b",
    "/a/./b",
    "/a/..",
    "/.",
    "..",
    "/a?b",
    "/a#b",
    "/a\\b",
    "/ä",
    "/a b",
    "/a%20b",
    "Cart.Shop",
    "cart.shop",
    "cart.shop.",
    "cart.shop:80",
    ":",
    "[::1]",
    "::1",
    "*.shop",
    ".shop",
    "cart_1",
    " x",
    "x ",
    "x\ty",
    "x\ny",
    "a/b/../c",
    "/b/..",
];
const REGEXES: &[&str] = &[
    "",
    "a",
    "(?u)a",
    "(?u:a)",
    "(?iu-s)a",
    "(?i)a",
    r"\p{Greek}",
    r"\w+",
    "[α-ω]",
    "ä",
    "a)|(?:b",
    "(",
    "a{1000}{1000}",
    r"\d{5}",
    "(?-u)a",
    "(?x) a # (b",
    "x*",
    "(?<u>a)",
    "[^a]",
    ".",
    r"\B",
];
const NAMES: &[&str] = &[
    "cart",
    "Cart",
    "a.b",
    "shop/cart",
    "Shop/cart",
    "shop/a.b",
    "east.mesh.internal",
    "",
    "spiffe://east.mesh.internal/ns/shop/sa/cart",
    "spiffe://East/ns/shop/sa/cart",
    "a/b/c",
];
const METHODS: &[&str] = &["GET", "get", "", "A B", "X-Y"];
const HEADERS: &[&str] = &[
    "x-a", "X-A", "", "host", "te", "x a", "x_a", "upgrade", "cookie",
];

fn of(list: &'static [&'static str]) -> impl Strategy<Value = String> {
    let long = (2_040usize..2_060, 60usize..70, any::<bool>()).prop_map(|(much, some, which)| {
        format!("/{}", "a".repeat(if which { much } else { some }))
    });
    prop_oneof![
        20 => proptest::sample::select(list).prop_map(str::to_owned),
        1 => long,
    ]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec(of(NAMES), 0..2)
}

fn text() -> impl Strategy<Value = resource::StringMatch> {
    let kind = prop_oneof![
        of(TEXTS).prop_map(Kind::Exact),
        of(TEXTS).prop_map(Kind::Prefix),
        of(TEXTS).prop_map(Kind::Suffix),
        of(REGEXES).prop_map(Kind::Regex),
        "\\PC{0,6}".prop_map(Kind::Regex),
        "\\PC{0,6}".prop_map(Kind::Exact),
        any::<bool>().prop_map(Kind::Present),
    ];
    option::weighted(0.98, kind).prop_map(|kind| resource::StringMatch { kind })
}

fn caller() -> impl Strategy<Value = resource::Caller> {
    let leaf = (names(), names(), names(), (names(), names()), any::<bool>());
    let leaf = leaf.prop_map(
        |(identities, trust_domains, clusters, (namespaces, service_accounts), authenticated)| {
            resource::Caller {
                identities,
                trust_domains,
                clusters,
                namespaces,
                service_accounts,
                authenticated,
                except: Vec::new(),
            }
        },
    );
    let named = of(NAMES).prop_map(|name| resource::Caller {
        namespaces: vec![name],
        ..Default::default()
    });
    prop_oneof![leaf, named].prop_recursive(6, 8, 2, |inner| {
        (inner.clone(), vec(inner, 0..2))
            .prop_map(|(caller, except)| resource::Caller { except, ..caller })
    })
}

fn operation() -> impl Strategy<Value = resource::Operation> {
    let port = prop_oneof![10 => 1u32..=65_535, 1 => Just(0), 1 => Just(65_536)];
    let texts = || vec(text(), 0..2);
    (vec(port, 0..2), texts(), vec(of(METHODS), 0..2), texts()).prop_map(
        |(ports, hosts, methods, paths)| resource::Operation {
            ports,
            hosts,
            methods,
            paths,
        },
    )
}

fn rule() -> impl Strategy<Value = resource::AccessRule> {
    let header = (of(HEADERS), option::weighted(0.95, text()))
        .prop_map(|(name, value)| resource::HeaderMatch { name, value });
    (
        vec(caller(), 0..2),
        vec(operation(), 0..2),
        vec(header, 0..2),
    )
        .prop_map(|(from, to, headers)| resource::AccessRule { from, to, headers })
}

fn policy() -> impl Strategy<Value = resource::AccessPolicy> {
    (-1i32..5, vec(rule(), 0..2)).prop_map(|(action, rules)| resource::AccessPolicy {
        name: "east/shop/p".into(),
        action,
        rules,
        ..Default::default()
    })
}

/// A policy of so many rules with this one.
fn many(count: usize, rule: resource::AccessRule) -> resource::AccessPolicy {
    resource::AccessPolicy {
        name: "east/shop/p".into(),
        action: resource::Action::Deny.into(),
        rules: vec![rule; count],
        ..Default::default()
    }
}

fn same(policy: &resource::AccessPolicy) {
    let (here, there) = (check(policy), Policy::compile(policy));
    assert_eq!(
        here.is_ok(),
        there.is_ok(),
        "{here:?}, {there:?}: {policy:?}"
    );
}

/// More with `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(2_048),
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_accepted_is_what_proxies_apply(policy in policy()) {
        same(&policy);
    }
}

#[test]
fn the_bounds_are_those_of_the_proxies() {
    let path = |kind| resource::StringMatch { kind: Some(kind) };
    let paths = |paths| resource::AccessRule {
        to: vec![resource::Operation {
            paths,
            ..Default::default()
        }],
        ..Default::default()
    };
    let caller = resource::Caller {
        authenticated: true,
        ..Default::default()
    };
    for more in 0..2 {
        let regexes = vec![path(Kind::Regex("a".into())); 64 + more];
        let literals = vec![path(Kind::Exact("/".into())); 1_024 + more];
        let from = vec![caller.clone(); 256 + more];
        for policy in [
            many(1, paths(regexes)),
            many(64 + more, paths(vec![path(Kind::Regex("a".into()))])),
            many(1, paths(literals)),
            many(1_024 + more, resource::AccessRule::default()),
            many(
                1,
                resource::AccessRule {
                    from,
                    ..Default::default()
                },
            ),
        ] {
            same(&policy);
            assert_eq!(check(&policy).is_ok(), more == 0);
        }
    }
}

#[test]
fn what_would_deny_everybody_is_told_by_its_place() {
    let anybody = resource::AccessRule {
        from: vec![resource::Caller::default()],
        ..Default::default()
    };
    let why = check(&many(2, anybody)).unwrap_err();
    assert!(
        why.starts_with("spec.rules[0].from[0]: names nobody"),
        "{why}"
    );
}
