//! Is every verdict the one that the policy's author would expect, or a stricter one?

use super::*;
use isthmus_proto::resource::string_match::Kind;
use isthmus_proto::resource::{
    AccessPolicy, AccessRule, Action as Raw, Caller, HeaderMatch, Operation, StringMatch,
};
use prost::Message as _;
use std::net::Ipv4Addr;

mod properties;
mod speed;

const CART: &str = "spiffe://east.mesh.internal/ns/shop/sa/cart";
const OPS: &str = "spiffe://west.mesh.internal/ns/ops/sa/robot";

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn exact(text: &str) -> StringMatch {
    StringMatch {
        kind: Some(Kind::Exact(text.into())),
    }
}

fn prefix(text: &str) -> StringMatch {
    StringMatch {
        kind: Some(Kind::Prefix(text.into())),
    }
}

fn suffix(text: &str) -> StringMatch {
    StringMatch {
        kind: Some(Kind::Suffix(text.into())),
    }
}

fn regex(text: &str) -> StringMatch {
    StringMatch {
        kind: Some(Kind::Regex(text.into())),
    }
}

fn namespace(name: &str) -> Caller {
    Caller {
        namespaces: strings(&[name]),
        ..Caller::default()
    }
}

fn paths(list: &[StringMatch]) -> Operation {
    Operation {
        paths: list.to_vec(),
        ..Operation::default()
    }
}

fn header(name: &str, value: StringMatch) -> HeaderMatch {
    HeaderMatch {
        name: name.into(),
        value: Some(value),
    }
}

fn from(callers: Vec<Caller>) -> AccessRule {
    AccessRule {
        from: callers,
        ..AccessRule::default()
    }
}

fn to(operations: Vec<Operation>) -> AccessRule {
    AccessRule {
        to: operations,
        ..AccessRule::default()
    }
}

fn when(headers: Vec<HeaderMatch>) -> AccessRule {
    AccessRule {
        headers,
        ..AccessRule::default()
    }
}

fn policy(name: &str, action: Raw, rules: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy {
        name: name.into(),
        action: action.into(),
        rules,
        ..AccessPolicy::default()
    }
}

fn table(policies: &[AccessPolicy]) -> PolicyTable {
    let compiled = policies
        .iter()
        .map(|p| Arc::new(Policy::compile(p).unwrap()))
        .collect();
    PolicyTable::new(compiled, Generation(7))
}

fn set(policies: &[AccessPolicy]) -> PolicySet {
    PolicySet::Known(table(policies))
}

/// A call, owned, so that tests can write it down.
#[derive(Debug, Clone)]
struct Call {
    peer: Option<PeerIdentity>,
    port: u16,
    request: Option<(Method, String, String, Fields)>,
}

impl Call {
    fn by(peer: &str) -> Self {
        let peer = (!peer.is_empty()).then(|| PeerIdentity {
            id: peer.parse().unwrap(),
        });
        Self {
            peer,
            port: 80,
            request: None,
        }
    }

    fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    fn http(mut self, method: &str, host: &str, path: &str) -> Self {
        let method = Method::parse(method.as_bytes()).unwrap();
        self.request = Some((method, host.into(), path.into(), Fields::default()));
        self
    }

    fn get(self, path: &str) -> Self {
        self.http("GET", "cart.shop", path)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.request
            .as_mut()
            .unwrap()
            .3
            .push(name.as_bytes(), value.as_bytes());
        self
    }

    fn judged<T>(&self, judge: impl FnOnce(&ConnFacts<'_>, Option<&RequestFacts<'_>>) -> T) -> T {
        let source = Ipv4Addr::LOCALHOST.into();
        let conn = ConnFacts {
            peer: self.peer.as_ref(),
            port: self.port,
            source,
        };
        let request = self
            .request
            .as_ref()
            .map(|(method, host, path, fields)| RequestFacts {
                method,
                host,
                path,
                fields,
            });
        judge(&conn, request.as_ref())
    }

    fn asks(&self, policies: &PolicySet) -> Result<Permit, Denied> {
        self.judged(|conn, request| authorize(policies, conn, request))
    }

    fn explained(&self, policies: &PolicySet) -> Vec<Step> {
        self.judged(|conn, request| explain(policies, conn, request))
    }

    fn may(&self, policies: &[AccessPolicy]) -> bool {
        self.asks(&set(policies)).is_ok()
    }
}

/// Is this rule matched, as one of an ALLOW policy, and as one of a DENY policy?
fn matched(rule: &AccessRule, call: &Call) -> (bool, bool) {
    let allow = policy("a", Raw::Allow, vec![rule.clone()]);
    let deny = policy("d", Raw::Deny, vec![rule.clone()]);
    (call.may(&[allow]), !call.may(&[deny]))
}

#[test]
fn without_a_known_policy_nothing_is_allowed() {
    for call in [Call::by(CART), Call::by(""), Call::by(CART).get("/")] {
        let denied = call.asks(&PolicySet::Unknown).unwrap_err();
        assert_eq!(denied.failure, Failure::PolicyUnknown);
        assert_eq!(call.asks(&PolicySet::default()).unwrap_err(), denied);
        assert!(call.explained(&PolicySet::Unknown)[0].matched);
    }
}

#[test]
fn without_any_policy_everything_is_allowed() {
    let permit = Call::by("").asks(&set(&[])).unwrap();
    assert_eq!((permit.rule, permit.generation), (None, Generation(7)));
    let deny = policy("d", Raw::Deny, vec![from(vec![namespace("ops")])]);
    assert!(Call::by(CART).may(std::slice::from_ref(&deny)));
    assert!(!Call::by(OPS).may(&[deny]));
}

#[test]
fn an_allow_policy_makes_the_rest_denied() {
    let allow = policy(
        "east/shop/own",
        Raw::Allow,
        vec![from(vec![namespace("shop")])],
    );
    let permit = Call::by(CART)
        .asks(&set(std::slice::from_ref(&allow)))
        .unwrap();
    assert_eq!(permit.rule.as_deref(), Some("east/shop/own"));
    let denied = Call::by(OPS).asks(&set(&[allow])).unwrap_err();
    assert_eq!((denied.failure, denied.policy), (Failure::Denied, None));
    assert_eq!(
        denied.reason,
        format!(
            "no ALLOW policy matched: caller {OPS}, port 80; \
             nearest: east/shop/own rule 0: from.namespaces: wanted shop, saw ops"
        )
    );
}

#[test]
fn an_allow_policy_without_rules_allows_nothing() {
    let denied = Call::by(CART)
        .asks(&set(&[policy("a", Raw::Allow, vec![])]))
        .unwrap_err();
    assert!(
        denied.reason.ends_with("the ALLOW policies have no rules"),
        "{}",
        denied.reason
    );
    // ... and a rule without terms allows everything, also to nobody in particular.
    let all = policy("b", Raw::Allow, vec![AccessRule::default()]);
    assert!(Call::by("").may(&[policy("a", Raw::Allow, vec![]), all]));
    assert!(Call::by(CART).may(&[policy("d", Raw::Deny, vec![])]));
}

#[test]
fn deny_goes_before_allow() {
    let all = policy("a", Raw::Allow, vec![AccessRule::default()]);
    let deny = policy(
        "z",
        Raw::Deny,
        vec![
            to(vec![paths(&[prefix("/x")])]),
            to(vec![paths(&[prefix("/admin")])]),
        ],
    );
    let denied = Call::by(CART)
        .get("/admin/1")
        .asks(&set(&[all.clone(), deny.clone()]))
        .unwrap_err();
    assert_eq!(denied.reason, "DENY policy z rule 1 matched");
    assert_eq!(denied.policy.as_deref(), Some("z"));
    assert!(Call::by(CART).get("/shop").may(&[all, deny]));
}

#[test]
fn audit_is_noted_and_changes_nothing() {
    let audit = policy(
        "watch",
        Raw::Audit,
        vec![from(vec![namespace("shop")]), AccessRule::default()],
    );
    let permit = Call::by(CART)
        .asks(&set(std::slice::from_ref(&audit)))
        .unwrap();
    assert_eq!(permit.audit.as_slice(), [Arc::from("watch")]);
    let deny = policy("d", Raw::Deny, vec![AccessRule::default()]);
    let denied = Call::by(CART).asks(&set(&[audit, deny])).unwrap_err();
    assert_eq!(denied.audit.as_slice(), [Arc::from("watch")]);
}

#[test]
fn an_invalid_policy_denies_everything() {
    let all = policy("a", Raw::Allow, vec![AccessRule::default()]);
    for action in [Raw::Allow, Raw::Deny, Raw::Audit, Raw::Unspecified] {
        let broken = AccessPolicy {
            invalid: "what is\n\"frm\"?".into(),
            ..policy("b", action, vec![])
        };
        let denied = Call::by(CART)
            .asks(&set(&[all.clone(), broken.clone()]))
            .unwrap_err();
        assert_eq!(denied.policy.as_deref(), Some("b"));
        assert_eq!(
            denied.reason,
            "policy b is invalid, so it denies everything: what is\\n\\\"frm\\\"?"
        );
        assert!(Call::by(CART).explained(&set(&[broken]))[0].matched);
    }
    assert_eq!(Policy::refusing("a\nb", "").name(), "a\\nb");
    let refusing = Arc::new(Policy::refusing("c", "field 9 is not known"));
    let known = PolicySet::Known(PolicyTable::new(vec![refusing], Generation(1)));
    assert!(Call::by(CART).asks(&known).is_err());
}

#[test]
fn callers_are_compared_whole() {
    let caller = |edit: fn(&mut Caller)| {
        let mut caller = Caller::default();
        edit(&mut caller);
        from(vec![caller])
    };
    // Who matches: CART, OPS, nobody.
    for (rule, want) in [
        (
            caller(|c| c.identities = strings(&[CART])),
            [true, false, false],
        ),
        (
            caller(|c| c.identities = strings(&["spiffe://west.mesh.internal/ns/shop/sa/cart"])),
            [false; 3],
        ),
        (
            caller(|c| c.trust_domains = strings(&["west.mesh.internal"])),
            [false, true, false],
        ),
        (
            caller(|c| c.clusters = strings(&["east", "north"])),
            [true, false, false],
        ),
        (
            caller(|c| c.namespaces = strings(&["sho", "shopp", "ops"])),
            [false, true, false],
        ),
        (
            caller(|c| c.service_accounts = strings(&["cart"])),
            [true, false, false],
        ),
        (
            caller(|c| c.service_accounts = strings(&["shop/cart"])),
            [true, false, false],
        ),
        (
            caller(|c| c.service_accounts = strings(&["ops/cart", "shop/robot"])),
            [false; 3],
        ),
        (
            caller(|c| c.service_accounts = strings(&["ops/cart", "robot"])),
            [false, true, false],
        ),
        (caller(|c| c.authenticated = true), [true, true, false]),
        (
            caller(|c| {
                c.namespaces = strings(&["shop"]);
                c.clusters = strings(&["west"]);
            }),
            [false; 3],
        ),
        (
            caller(|c| {
                c.clusters = strings(&["east", "west"]);
                c.except = vec![namespace("shop")];
            }),
            [false, true, false],
        ),
        (AccessRule::default(), [true; 3]),
    ] {
        for (peer, want) in [CART, OPS, ""].into_iter().zip(want) {
            assert_eq!(
                matched(&rule, &Call::by(peer)),
                (want, want),
                "{peer}: {rule:?}"
            );
        }
    }
}

#[test]
fn an_exception_is_held_against_the_unproven() {
    let all_but = |except| {
        from(vec![Caller {
            except: vec![except],
            ..Caller::default()
        }])
    };
    let proven = Caller {
        authenticated: true,
        ..Caller::default()
    };
    let nested = Caller {
        except: vec![namespace("ops")],
        ..Caller::default()
    };
    for (rule, peer, want) in [
        (all_but(namespace("shop")), CART, (false, false)),
        (all_but(namespace("shop")), OPS, (true, true)),
        // Who proves nothing may be the one that is excepted: not allowed, and denied.
        (all_but(namespace("shop")), "", (false, true)),
        (all_but(proven.clone()), CART, (false, false)),
        (all_but(proven.clone()), "", (true, true)),
        (all_but(nested.clone()), OPS, (true, true)),
        (all_but(nested.clone()), CART, (false, false)),
        (all_but(nested.clone()), "", (false, true)),
    ] {
        assert_eq!(matched(&rule, &Call::by(peer)), want, "{peer}: {rule:?}");
    }
}

#[test]
fn what_cannot_be_seen_is_denied_and_not_allowed() {
    let http_terms = [
        to(vec![paths(&[exact("/a")])]),
        to(vec![paths(&[prefix("/a")])]),
        to(vec![Operation {
            methods: strings(&["GET"]),
            ..Operation::default()
        }]),
        to(vec![Operation {
            hosts: vec![exact("cart.shop")],
            ..Operation::default()
        }]),
        when(vec![header("x-role", exact("admin"))]),
    ];
    for rule in &http_terms {
        assert_eq!(matched(rule, &Call::by(CART)), (false, true), "{rule:?}");
        let port = Operation {
            ports: vec![443],
            ..rule.to.first().cloned().unwrap_or_default()
        };
        let other = AccessRule {
            to: vec![port],
            ..rule.clone()
        };
        assert_eq!(
            matched(&other, &Call::by(CART)),
            (false, false),
            "{other:?}"
        );
    }
    // A CONNECT has no path, and a request may have no host.
    let bare = Call::by(CART).http("CONNECT", "", "");
    assert_eq!(matched(&http_terms[0], &bare), (false, true));
    assert_eq!(matched(&http_terms[1], &bare), (false, true));
    assert_eq!(matched(&http_terms[3], &bare), (false, true));
    // One of two operations can be judged.
    let either = to(vec![
        paths(&[exact("/a")]),
        Operation {
            ports: vec![80],
            ..Operation::default()
        },
    ]);
    assert_eq!(matched(&either, &Call::by(CART)), (true, true));
    let denied = Call::by(CART).asks(&set(&[policy(
        "a",
        Raw::Allow,
        vec![http_terms[0].clone()],
    )]));
    assert!(
        denied
            .unwrap_err()
            .reason
            .ends_with("to: wanted an HTTP request, saw bytes that are no HTTP request")
    );
}

#[test]
fn operations_are_matched_literally() {
    let method = |m: &str| {
        to(vec![Operation {
            methods: strings(&[m]),
            ..Operation::default()
        }])
    };
    let host = |h| {
        to(vec![Operation {
            hosts: vec![h],
            ..Operation::default()
        }])
    };
    let path = |p| to(vec![paths(&[p])]);
    let present = StringMatch {
        kind: Some(Kind::Present(true)),
    };
    let call = Call::by(CART).http("GET", "api.cart.shop", "/v1/items/7");
    for (rule, want) in [
        (method("GET"), true),
        (method("get"), false),
        (method("POST"), false),
        (host(exact("api.cart.shop")), true),
        (host(exact("cart.shop")), false),
        (host(exact("api-cart.shop")), false),
        (host(suffix(".cart.shop")), true),
        (host(prefix("api.")), true),
        (host(regex("API\\.cart\\.shop")), true),
        (host(regex("api")), false),
        (host(present.clone()), true),
        (path(exact("/v1/items/7")), true),
        (path(exact("/v1/items")), false),
        (path(exact("/v1/items/7/")), false),
        (path(prefix("/v1/")), true),
        (path(prefix("/v2/")), false),
        (path(suffix("/7")), true),
        (path(suffix("/17")), false),
        (path(regex("/v[0-9]+/items/.*")), true),
        (path(regex("/v[0-9]+/items")), false),
        (path(regex("items")), false),
        (path(present), true),
        (
            to(vec![paths(&[
                exact("/x"),
                exact("/v1/items/7"),
                exact("/y"),
            ])]),
            true,
        ),
        (
            to(vec![
                paths(&[exact("/x"), prefix("/z")]),
                paths(&[prefix("/v1")]),
            ]),
            true,
        ),
    ] {
        assert_eq!(matched(&rule, &call), (want, want), "{rule:?}");
    }
    let port = to(vec![Operation {
        ports: vec![8080, 80, 443],
        ..Operation::default()
    }]);
    assert_eq!(matched(&port, &call), (true, true));
    assert_eq!(matched(&port, &call.port(81)), (false, false));
}

/// Where every path is meant, the server as a whole is, too.
#[test]
fn the_prefix_of_every_path_is_one_of_the_server_as_a_whole() {
    let call = Call::by(CART).http("OPTIONS", "api.cart.shop", "*");
    for (pattern, want) in [
        (prefix("/"), true),
        (prefix("/v1"), false),
        (exact("*"), true),
    ] {
        let rule = to(vec![paths(&[pattern])]);
        assert_eq!(matched(&rule, &call), (want, want), "{rule:?}");
    }
}

/// S16: as (ALLOW, DENY).
#[test]
fn header_rules_see_every_value_in_the_safe_way() {
    let role = |pattern| when(vec![header("x-role", pattern)]);
    let admin = || role(exact("admin"));
    let one = |value: &str| Call::by(CART).get("/").with("x-role", value);
    for (rule, call, want) in [
        (admin(), Call::by(CART).get("/"), (false, false)),
        (admin(), one("admin"), (true, true)),
        (admin(), one("Admin"), (false, false)),
        (admin(), one("user"), (false, false)),
        (admin(), one(""), (false, false)),
        // Repeated
        (admin(), one("admin").with("x-role", "admin"), (true, true)),
        (admin(), one("user").with("x-role", "admin"), (false, true)),
        (admin(), one("admin").with("x-role", "user"), (false, true)),
        (admin(), one("admin").with("x-role", ""), (false, true)),
        // A list
        (admin(), one("user, admin"), (false, true)),
        (admin(), one("user,admin\t,x"), (false, true)),
        (
            role(exact("a, b")),
            one("a").with("x-role", "b"),
            (false, true),
        ),
        (
            role(exact("a,b")),
            one("a").with("x-role", "b"),
            (false, true),
        ),
        (role(exact("a,b")), one("a, b"), (false, true)),
        (
            role(regex(".*admin.*user.*")),
            one("admin").with("x-role", "user"),
            (false, true),
        ),
        (
            role(prefix("adm")),
            one("user").with("x-role", "adm-1"),
            (false, true),
        ),
    ] {
        assert_eq!(matched(&rule, &call), want, "{rule:?} {call:?}");
    }
}

/// S16: as (ALLOW, DENY).
#[test]
fn no_spelling_and_no_charset_hides_a_header() {
    let role = |pattern| when(vec![header("x-role", pattern)]);
    let admin = || role(exact("admin"));
    let one = |value: &str| Call::by(CART).get("/").with("x-role", value);
    for (rule, call, want) in [
        (
            admin(),
            Call::by(CART).get("/").with("x_role", "admin"),
            (false, true),
        ),
        (admin(), one("admin").with("x_role", "user"), (false, true)),
        (admin(), one("user").with("x_role", "admin"), (false, true)),
        (
            admin(),
            Call::by(CART).get("/").with("x-rule", "admin"),
            (false, false),
        ),
        (
            role(StringMatch {
                kind: Some(Kind::Present(true)),
            }),
            one(""),
            (false, false),
        ),
        (
            role(StringMatch {
                kind: Some(Kind::Present(true)),
            }),
            one("x"),
            (true, true),
        ),
        (
            when(vec![
                header("x-role", exact("a")),
                header("x-zone", exact("b")),
            ]),
            one("a"),
            (false, false),
        ),
    ] {
        assert_eq!(matched(&rule, &call), want, "{rule:?} {call:?}");
    }
    // Bytes that are no UTF-8 hide nothing.
    let mut call = Call::by(CART).get("/");
    call.request
        .as_mut()
        .unwrap()
        .3
        .push(b"x-role", b"\xff\xfeadmin\x80");
    assert_eq!(matched(&role(regex(".*admin.*")), &call), (true, true));
}

#[test]
fn a_cookie_is_one_however_it_is_cut() {
    let cookie = |text: &str| when(vec![header("cookie", exact(text))]);
    let cut = Call::by(CART)
        .get("/")
        .with("cookie", "a=1")
        .with("cookie", "b=2");
    let whole = Call::by(CART).get("/").with("cookie", "a=1; b=2");
    for call in [cut, whole] {
        assert_eq!(matched(&cookie("a=1; b=2"), &call), (true, true));
        assert_eq!(matched(&cookie("a=1"), &call), (false, true));
        assert_eq!(matched(&cookie("c=3"), &call), (false, false));
    }
}

#[test]
fn what_is_not_understood_is_rejected_with_its_place() {
    let long = "a".repeat(REGEX_CHARS_MAX + 1);
    let rules = |rule| policy("east/shop/p", Raw::Allow, vec![AccessRule::default(), rule]);
    let caller = |c| rules(from(vec![c]));
    let op = |o| rules(to(vec![o]));
    let hosts = |h| {
        op(Operation {
            hosts: vec![h],
            ..Operation::default()
        })
    };
    let path = |p| op(paths(&[exact("/ok"), p]));
    let head = |n: &str, v| rules(when(vec![header(n, v)]));
    let deep = (0..=EXCEPT_DEPTH_MAX).fold(namespace("a"), |inner, _| Caller {
        except: vec![inner],
        ..Caller::default()
    });
    for (bad, place) in [
        (policy("", Raw::Allow, vec![]), "name: empty"),
        (policy("a\nb", Raw::Allow, vec![]), "name: not visible"),
        (policy("p", Raw::Unspecified, vec![]), "action: unspecified"),
        (
            AccessPolicy {
                action: 9,
                ..policy("p", Raw::Allow, vec![])
            },
            "action: 9 is not known",
        ),
        (
            policy("p", Raw::Allow, vec![AccessRule::default(); RULES_MAX + 1]),
            "rules: 1025;",
        ),
        (caller(Caller::default()), "rules[1].from[0]: names nobody"),
        (
            caller(namespace("Shop")),
            "rules[1].from[0].namespaces[0]: namespace \"Shop\"",
        ),
        (caller(namespace("*")), "rules[1].from[0].namespaces[0]: "),
        (caller(namespace("")), "rules[1].from[0].namespaces[0]: "),
        (
            caller(Caller {
                clusters: strings(&["a", "b.c"]),
                ..Caller::default()
            }),
            "rules[1].from[0].clusters[1]: ",
        ),
        (
            caller(Caller {
                trust_domains: strings(&["A.b"]),
                ..Caller::default()
            }),
            "rules[1].from[0].trust_domains[0]: ",
        ),
        (
            caller(Caller {
                identities: strings(&["spiffe://a/b"]),
                ..Caller::default()
            }),
            "rules[1].from[0].identities[0]: ",
        ),
        (
            caller(Caller {
                service_accounts: strings(&["a/b/c"]),
                ..Caller::default()
            }),
            "rules[1].from[0].service_accounts[0]: ",
        ),
        (
            caller(Caller {
                service_accounts: strings(&["a/*"]),
                ..Caller::default()
            }),
            "rules[1].from[0].service_accounts[0]: ",
        ),
        (
            caller(Caller {
                except: vec![namespace("-")],
                ..Caller::default()
            }),
            "rules[1].from[0].except[0].namespaces[0]: ",
        ),
        (
            caller(Caller {
                except: vec![Caller::default()],
                ..Caller::default()
            }),
            "rules[1].from[0].except[0]: names nobody",
        ),
        (
            caller(deep),
            "rules[1].from[0].except[0].except[0].except[0].except[0].except[0]: more than 4",
        ),
        (
            caller(Caller {
                namespaces: vec!["a".into(); VALUES_MAX + 1],
                ..Caller::default()
            }),
            "rules[1].from[0].namespaces: 1025 values",
        ),
        (
            rules(from(vec![namespace("a"); ALTERNATIVES_MAX + 1])),
            "rules[1].from: 257 callers",
        ),
        (
            rules(to(vec![paths(&[exact("/a")]); ALTERNATIVES_MAX + 1])),
            "rules[1].to: 257 operations",
        ),
        (op(Operation::default()), "rules[1].to[0]: names nothing"),
        (
            op(Operation {
                ports: vec![80, 0],
                ..Operation::default()
            }),
            "rules[1].to[0].ports[1]: 0 is not",
        ),
        (
            op(Operation {
                ports: vec![65_536],
                ..Operation::default()
            }),
            "rules[1].to[0].ports[0]: ",
        ),
        (
            op(Operation {
                methods: strings(&["G T"]),
                ..Operation::default()
            }),
            "rules[1].to[0].methods[0]: ",
        ),
        (
            op(Operation {
                methods: strings(&[""]),
                ..Operation::default()
            }),
            "rules[1].to[0].methods[0]: ",
        ),
        (
            hosts(StringMatch { kind: None }),
            "rules[1].to[0].hosts[0]: empty matcher",
        ),
        (
            hosts(exact("")),
            "rules[1].to[0].hosts[0]: exact \"\": empty",
        ),
        (
            hosts(exact("*.shop")),
            "rules[1].to[0].hosts[0]: exact \"*.shop\": a host has no wildcard",
        ),
        (hosts(exact("Cart.shop")), "rules[1].to[0].hosts[0]: "),
        (hosts(exact("cart.shop:80")), "rules[1].to[0].hosts[0]: "),
        (hosts(suffix("shop.")), "rules[1].to[0].hosts[0]: "),
        (
            path(prefix("")),
            "rules[1].to[0].paths[1]: prefix \"\": empty",
        ),
        (
            path(prefix("admin")),
            "rules[1].to[0].paths[1]: prefix \"admin\": a path begins with /",
        ),
        (path(exact("/a?b")), "rules[1].to[0].paths[1]: "),
        (path(exact("/a/../b")), "rules[1].to[0].paths[1]: "),
        (path(exact("/a/..")), "rules[1].to[0].paths[1]: "),
        (path(exact("/a//b")), "rules[1].to[0].paths[1]: "),
        (path(exact("/é")), "rules[1].to[0].paths[1]: "),
        (
            path(StringMatch {
                kind: Some(Kind::Present(false)),
            }),
            "rules[1].to[0].paths[1]: present",
        ),
        (
            path(regex("")),
            "rules[1].to[0].paths[1]: regex \"\": empty",
        ),
        (path(regex(&long)), "rules[1].to[0].paths[1]: regex \"aaa"),
        (
            path(regex("(")),
            "rules[1].to[0].paths[1]: regex \"(\": unclosed group",
        ),
        (path(regex("/a)|(?:/b")), "rules[1].to[0].paths[1]: "),
        (
            path(regex("(?:a{1000}){1000}")),
            "rules[1].to[0].paths[1]: regex \"(?:a{1000}){1000}\": compiled larger",
        ),
        (path(regex("(?u)/é")), "rules[1].to[0].paths[1]: "),
        (path(regex("/[é]")), "rules[1].to[0].paths[1]: "),
        (path(regex("(?=a)")), "rules[1].to[0].paths[1]: "),
        (path(regex(r"(a)\1")), "rules[1].to[0].paths[1]: "),
        (head("X-Role", exact("a")), "rules[1].headers[0].name: "),
        (head("", exact("a")), "rules[1].headers[0].name: "),
        (head(":path", exact("a")), "rules[1].headers[0].name: "),
        (head("host", exact("a")), "rules[1].headers[0].name: "),
        (
            head("transfer-encoding", exact("a")),
            "rules[1].headers[0].name: ",
        ),
        (head("x", exact(" a")), "rules[1].headers[0].value: "),
        (head("x", suffix("a\r\n")), "rules[1].headers[0].value: "),
        (
            rules(when(vec![HeaderMatch {
                name: "x".into(),
                value: None,
            }])),
            "rules[1].headers[0].value: empty matcher",
        ),
    ] {
        let rejected = Policy::compile(&bad).unwrap_err();
        assert_eq!(rejected.name, bad.name);
        assert!(
            rejected.why.starts_with(place),
            "{} is not {place}",
            rejected.why
        );
        assert!(rejected.why.len() < 400, "{}", rejected.why);
    }
}

#[test]
fn regular_expressions_are_counted_and_stay_anchored() {
    let many = |count| {
        policy(
            "p",
            Raw::Deny,
            vec![to(vec![paths(&vec![regex("/a"); count])])],
        )
    };
    assert!(Policy::compile(&many(REGEXES_MAX)).is_ok());
    assert!(Policy::compile(&many(REGEXES_MAX + 1)).is_err());
    for (source, path, want) in [
        ("/a|/b", "/b", true),
        ("/a|/b", "/ab", false),
        ("/a|/b", "/a/b", false),
        ("(?m)^/a$", "/a", true),
        ("(?i)/A", "/a", true),
        ("(?P<user>/a)", "/a", true),
        ("(?i-u:/A)", "/a", true),
        ("/a.*", "/a", true),
        ("/(a*)*b", &format!("/{}", "a".repeat(5_000)), false),
    ] {
        let rule = to(vec![paths(&[regex(source)])]);
        assert_eq!(
            matched(&rule, &Call::by(CART).get(path)),
            (want, want),
            "{source} {path}"
        );
    }
    assert!(
        Policy::compile(&policy(
            "p",
            Raw::Deny,
            vec![to(vec![paths(&[regex("(?x)/a #")])])]
        ))
        .is_err()
    );
}

/// S22: patterns don't leak out of names.
#[test]
fn signs_of_patterns_are_literal() {
    for (literal, near) in [
        ("/a.b", "/axb"),
        ("/a*", "/aaa"),
        ("/a+", "/aa"),
        ("/[ab]", "/a"),
        ("/a|/b", "/a"),
        ("/(a)", "/a"),
        ("/a$", "/a"),
        ("/.*", "/anything"),
    ] {
        let rule = |pattern| to(vec![paths(&[pattern])]);
        for pattern in [exact(literal), prefix(literal), suffix(literal)] {
            assert_eq!(
                matched(&rule(pattern.clone()), &Call::by(CART).get(near)),
                (false, false)
            );
            assert_eq!(
                matched(&rule(pattern), &Call::by(CART).get(literal)),
                (true, true)
            );
        }
    }
    // In a host's suffix the dot is a dot.
    let rule = to(vec![Operation {
        hosts: vec![suffix(".shop")],
        ..Operation::default()
    }]);
    assert_eq!(
        matched(&rule, &Call::by(CART).http("GET", "cartxshop", "/")),
        (false, false)
    );
}

#[test]
fn reasons_are_one_short_line_without_secrets() {
    let rule = AccessRule {
        to: vec![paths(&[prefix("/")])],
        headers: vec![header("authorization", exact("Bearer right"))],
        ..AccessRule::default()
    };
    let policies = set(&[policy("p", Raw::Allow, vec![rule])]);
    let call = Call::by(CART).get(&format!("/{}", "a".repeat(60_000)));
    let secret = call.clone().with("authorization", "Bearer stolen");
    let reason = secret.asks(&policies).unwrap_err().reason;
    assert!(
        reason.ends_with("saw another value") && !reason.contains("stolen"),
        "{reason}"
    );
    let rule = AccessRule {
        to: vec![paths(&[
            exact("/x"),
            exact("/y"),
            exact("/z"),
            exact("/w"),
            prefix("/v"),
        ])],
        headers: vec![],
        from: vec![],
    };
    let policies = set(&[policy("p", Raw::Allow, vec![rule.clone()])]);
    let reason = call.asks(&policies).unwrap_err().reason;
    assert!(reason.len() <= REASON_BYTES_MAX + 3, "{reason}");
    assert!(
        reason.contains("wanted exact \"/w\" or exact \"/x\" or exact \"/y\" or 2 more"),
        "{reason}"
    );
    let rule = when(vec![header("x-role", exact("a"))]);
    let forged = Call::by(CART)
        .get("/")
        .with("x-role", "b\u{1b}[31m\nFAKE \"line\"");
    let reason = forged
        .asks(&set(&[policy("p", Raw::Allow, vec![rule])]))
        .unwrap_err()
        .reason;
    assert!(reason.chars().all(|c| !c.is_control()), "{reason:?}");
    assert!(
        reason.ends_with(r#"saw x-role: "b\x1b[31m\nFAKE \"line\"""#),
        "{reason}"
    );
}

#[test]
fn the_nearest_rule_is_told() {
    let rules = vec![
        from(vec![namespace("ops")]),
        AccessRule {
            from: vec![namespace("shop")],
            to: vec![paths(&[exact("/a")])],
            headers: vec![],
        },
        AccessRule {
            from: vec![namespace("shop")],
            to: vec![Operation {
                ports: vec![443],
                ..Operation::default()
            }],
            headers: vec![],
        },
    ];
    let policies = set(&[policy("p", Raw::Allow, rules)]);
    let call = Call::by(CART).get("/b");
    let reason = call.asks(&policies).unwrap_err().reason;
    assert!(
        reason.ends_with("p rule 1: to.paths: wanted exact \"/a\", saw \"/b\""),
        "{reason}"
    );
    let steps = call.explained(&policies);
    let told: Vec<&str> = steps.iter().map(|step| step.why.as_str()).collect();
    assert_eq!(
        told,
        [
            "from.namespaces: wanted ops, saw shop",
            "to.paths: wanted exact \"/a\", saw \"/b\"",
            "to.ports: wanted 443, saw 80",
        ]
    );
    assert_eq!(
        steps.iter().map(|step| step.rule).collect::<Vec<_>>(),
        [Some(0), Some(1), Some(2)]
    );
    let nobody = Call::by("").get("/a").explained(&policies);
    assert_eq!(
        nobody[0].why,
        "from.authenticated: wanted a caller with a verified identity, saw an unauthenticated caller"
    );
}

/// A field, as a newer control plane might send it: number 99, a string.
const NEWER: [u8; 5] = [0x9a, 0x06, 2, b'h', b'i'];

#[test]
fn a_field_that_is_not_known_is_not_dropped() {
    let caller = Caller {
        except: vec![namespace("b")],
        ..namespace("a")
    };
    let operation = Operation {
        ports: vec![80, 300],
        hosts: vec![exact("h")],
        methods: strings(&["GET"]),
        paths: vec![prefix("/")],
    };
    let headers = vec![header("x", exact("y"))];
    let whole = AccessPolicy {
        scope: "namespace shop".into(),
        origin: Some(isthmus_proto::resource::Origin {
            cluster: "east".into(),
            ..Default::default()
        }),
        ..policy(
            "p",
            Raw::Allow,
            vec![AccessRule {
                from: vec![caller],
                to: vec![operation],
                headers,
            }],
        )
    };
    let body = whole.encode_to_vec();
    assert_eq!(Policy::decode(&body).unwrap().name(), "p");
    let nested = |outer: &[u8], inner: Vec<u8>| {
        // Wraps `inner` as field 3 of the policy: a rule that holds field `outer`.
        let field = [outer, &[u8::try_from(inner.len()).unwrap()], &inner].concat();
        [
            body.clone(),
            vec![0x1a, u8::try_from(field.len()).unwrap()],
            field,
        ]
        .concat()
    };
    for (bytes, place) in [
        ([body.clone(), NEWER.to_vec()].concat(), "field 99"),
        (nested(&NEWER[..2], vec![]), "rules.field 99"),
        (nested(&[0x0a], NEWER.to_vec()), "rules.from.field 99"),
        (
            nested(&[0x0a], [vec![0x3a, 5], NEWER.to_vec()].concat()),
            "rules.from.except.field 99",
        ),
        (nested(&[0x12], NEWER.to_vec()), "rules.to.field 99"),
        (
            nested(&[0x12], [vec![0x22, 5], NEWER.to_vec()].concat()),
            "rules.to.paths.field 99",
        ),
        (nested(&[0x1a], NEWER.to_vec()), "rules.headers.field 99"),
        (
            nested(&[0x1a], [vec![0x12, 5], NEWER.to_vec()].concat()),
            "rules.headers.value.field 99",
        ),
    ] {
        AccessPolicy::decode(bytes.as_slice()).unwrap();
        let rejected = Policy::decode(&bytes).unwrap_err();
        assert_eq!(
            rejected.to_string(),
            format!("p: {place} is not known to this version")
        );
    }
    // Where it comes from is no term of the policy: a newer origin is no reason to deny.
    let origin = [body.clone(), vec![0x2a, 5], NEWER.to_vec()].concat();
    assert!(Policy::decode(&origin).is_ok());
    assert!(Policy::decode(b"\xff").is_err());
}

#[test]
fn a_permit_for_what_we_call_ourselves_names_its_generation() {
    let permit = Permit::outbound(Generation(3));
    assert_eq!((permit.rule, permit.generation), (None, Generation(3)));
}
