//! What holds for every set of policies and every call?

use proptest::prelude::*;

use super::*;

// Few different values, so that things meet.
fn label() -> impl Strategy<Value = String> {
    "[ab]{1,2}"
}

fn few<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(one, 0..3)
}

fn domain() -> impl Strategy<Value = String> {
    "[ab]\\.m"
}

fn identity() -> impl Strategy<Value = String> {
    (domain(), label(), label()).prop_map(|(td, ns, sa)| format!("spiffe://{td}/ns/{ns}/sa/{sa}"))
}

fn plain_caller() -> impl Strategy<Value = Caller> {
    let account = prop_oneof![
        label(),
        (label(), label()).prop_map(|(ns, sa)| format!("{ns}/{sa}"))
    ];
    let lists = (
        few(domain()),
        few("[ab]"),
        few(label()),
        few(account),
        few(identity()),
    );
    (lists, any::<bool>()).prop_map(|(lists, authenticated)| {
        let (trust_domains, clusters, namespaces, service_accounts, identities) = lists;
        let mut caller = Caller {
            trust_domains,
            clusters,
            namespaces,
            service_accounts,
            identities,
            authenticated,
            except: vec![],
        };
        caller.authenticated |= caller == Caller::default();
        caller
    })
}

fn caller() -> impl Strategy<Value = Caller> {
    (plain_caller(), few(plain_caller())).prop_map(|(caller, except)| Caller { except, ..caller })
}

fn text_match(text: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text.clone().prop_map(|t| exact(&t)),
        text.clone().prop_map(|t| exact(&t)),
        text.clone().prop_map(|t| prefix(&t)),
        text.prop_map(|t| suffix(&t)),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    (
        few(80u32..83),
        few(text_match("[ab]{1,2}")),
        few("(GET|POST|get)"),
        few(text_match("/[ab]{0,2}")),
    )
        .prop_map(|(mut ports, hosts, methods, paths)| {
            if ports.is_empty() && hosts.is_empty() && methods.is_empty() && paths.is_empty() {
                ports.push(80);
            }
            Operation {
                ports,
                hosts,
                methods,
                paths,
            }
        })
}

fn rule() -> impl Strategy<Value = AccessRule> {
    let headers =
        few(("[xy]", text_match("[ab]{1,2}")).prop_map(|(name, value)| header(&name, value)));
    (few(caller()), few(operation()), headers).prop_map(|(from, to, headers)| AccessRule {
        from,
        to,
        headers,
    })
}

fn a_policy() -> impl Strategy<Value = AccessPolicy> {
    let action = prop_oneof![Just(Raw::Allow), Just(Raw::Deny), Just(Raw::Audit)];
    ("[a-z]{3}", action, proptest::collection::vec(rule(), 0..4))
        .prop_map(|(name, action, rules)| policy(&name, action, rules))
}

fn policies() -> impl Strategy<Value = Vec<AccessPolicy>> {
    proptest::collection::vec(a_policy(), 0..5)
}

fn a_call() -> impl Strategy<Value = Call> {
    let request = (
        prop_oneof![
            Just(Method::Get),
            Just(Method::Post),
            Just(Method::Other("get".into()))
        ],
        "[ab]{0,3}",
        "(/[ab]{0,3})?",
        few(("[xy]", "[ab]{0,2}")),
    );
    (
        proptest::option::of(identity()),
        80u16..83,
        proptest::option::of(request),
    )
        .prop_map(|(peer, port, request)| {
            let request = request.map(|(method, host, path, headers)| {
                let mut fields = Fields::default();
                for (name, value) in headers {
                    fields.push(name.as_bytes(), value.as_bytes());
                }
                (method, host, path, fields)
            });
            Call {
                request,
                ..Call::by(peer.as_deref().unwrap_or("")).port(port)
            }
        })
}

/// The rules of matching once more, straight from the messages, without any of the product's code:
/// slow and obvious.
mod oracle {
    use super::*;

    fn holds<T>(list: &[T], mut one: impl FnMut(&T) -> bool) -> bool {
        list.is_empty() || list.iter().any(&mut one)
    }

    fn names(caller: &Caller) -> bool {
        !caller.trust_domains.is_empty()
            || !caller.clusters.is_empty()
            || !caller.namespaces.is_empty()
            || !caller.service_accounts.is_empty()
            || !caller.identities.is_empty()
    }

    fn caller(caller_: &Caller, peer: Option<&str>, allow: bool) -> bool {
        let Some(peer) = peer else {
            let excepted = |e: &Caller| if allow { names(e) } else { false };
            return !caller_.authenticated
                && !names(caller_)
                && !caller_.except.iter().any(excepted);
        };
        let [td, _, ns, _, sa] = peer["spiffe://".len()..].split('/').collect::<Vec<_>>()[..]
        else {
            panic!("{peer}")
        };
        let account = |a: &String| *a == sa || *a == format!("{ns}/{sa}");
        holds(&caller_.trust_domains, |t| t == td)
            && holds(&caller_.clusters, |c| td.split('.').next() == Some(c))
            && holds(&caller_.namespaces, |n| n == ns)
            && holds(&caller_.service_accounts, account)
            && holds(&caller_.identities, |i| i == peer)
            && !caller_.except.iter().any(|e| caller(e, Some(peer), allow))
    }

    fn text(matcher: &StringMatch, text: &str) -> bool {
        match matcher.kind.as_ref().unwrap() {
            Kind::Exact(t) => t == text,
            Kind::Prefix(t) => text.starts_with(t.as_str()),
            Kind::Suffix(t) => text.ends_with(t.as_str()),
            Kind::Regex(_) | Kind::Present(_) => unreachable!(),
        }
    }

    fn operation(op: &Operation, call: &Call, allow: bool) -> bool {
        let seen = |list: &[StringMatch], t: &str| {
            holds(list, |m| if t.is_empty() { !allow } else { text(m, t) })
        };
        let http = match &call.request {
            None => !allow || (op.hosts.is_empty() && op.methods.is_empty() && op.paths.is_empty()),
            Some((method, host, path, _)) => {
                seen(&op.hosts, host)
                    && holds(&op.methods, |m| m == method.as_str())
                    && seen(&op.paths, path)
            }
        };
        holds(&op.ports, |p| *p == u32::from(call.port)) && http
    }

    fn field(term: &HeaderMatch, call: &Call, allow: bool) -> bool {
        let Some((.., fields)) = &call.request else {
            return !allow;
        };
        let values: Vec<&str> = fields
            .get_all(term.name.as_bytes())
            .map(|v| std::str::from_utf8(v).unwrap())
            .collect();
        let one = |value: &&str| text(term.value.as_ref().unwrap(), value);
        if allow {
            !values.is_empty() && values.iter().all(one)
        } else {
            values.iter().any(one)
        }
    }

    fn rule(rule: &AccessRule, call: &Call, allow: bool) -> bool {
        let peer = call.peer.as_ref().map(|p| p.id.as_str());
        holds(&rule.from, |c| caller(c, peer, allow))
            && holds(&rule.to, |o| operation(o, call, allow))
            && rule.headers.iter().all(|h| field(h, call, allow))
    }

    pub(super) fn permits(policies: &[AccessPolicy], call: &Call) -> bool {
        let of = |action: Raw| policies.iter().filter(move |p| p.action() == action);
        let denied = of(Raw::Deny).any(|p| p.rules.iter().any(|r| rule(r, call, false)));
        let open = of(Raw::Allow).next().is_none();
        !denied && (open || of(Raw::Allow).any(|p| p.rules.iter().any(|r| rule(r, call, true))))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_verdict_is_the_oracles(policies in policies(), calls in proptest::collection::vec(a_call(), 8)) {
        let known = set(&policies);
        for call in &calls {
            prop_assert_eq!(call.asks(&known).is_ok(), oracle::permits(&policies, call), "{:?}", call);
        }
    }

    #[test]
    fn another_deny_policy_never_allows_more(policies in policies(), rules in few(rule()), call in a_call()) {
        let more = [policies.clone(), vec![policy("new", Raw::Deny, rules)]].concat();
        prop_assert!(call.may(&policies) || !call.may(&more));
    }

    #[test]
    fn another_allow_policy_never_denies_more_once_there_is_one(
        policies in policies(), one in few(rule()), rules in few(rule()), call in a_call()
    ) {
        let policies = [policies, vec![policy("one", Raw::Allow, one)]].concat();
        let more = [policies.clone(), vec![policy("new", Raw::Allow, rules)]].concat();
        prop_assert!(!call.may(&policies) || call.may(&more));
    }

    #[test]
    fn audit_never_changes_the_verdict(policies in policies(), rules in few(rule()), call in a_call()) {
        let more = [policies.clone(), vec![policy("new", Raw::Audit, rules)]].concat();
        prop_assert_eq!(call.may(&policies), call.may(&more));
    }

    #[test]
    fn an_invalid_policy_leaves_nothing_allowed(policies in policies(), call in a_call()) {
        let broken = AccessPolicy { invalid: "?".into(), ..policy("bad", Raw::Allow, vec![]) };
        prop_assert!(!call.may(&[policies, vec![broken]].concat()));
    }

    #[test]
    fn to_hide_a_request_escapes_no_deny_rule(policies in policies(), call in a_call()) {
        let deny: Vec<_> = policies.into_iter().filter(|p| p.action() == Raw::Deny).collect();
        let hidden = Call { request: None, ..call.clone() };
        prop_assert!(!hidden.may(&deny) || call.may(&deny));
    }

    #[test]
    fn the_order_of_policies_does_not_matter(policies in policies(), call in a_call()) {
        let mut turned = policies.clone();
        turned.reverse();
        prop_assert_eq!(call.may(&policies), call.may(&turned));
    }

    #[test]
    fn the_explanation_tells_the_same_verdict(policies in policies(), call in a_call()) {
        let known = set(&policies);
        let steps = call.explained(&known);
        let said = |action| steps.iter().any(move |s| s.action == action && s.matched);
        let open = !policies.iter().any(|p| p.action() == Raw::Allow);
        let permitted = !said(Action::Deny) && (open || said(Action::Allow));
        let verdict = call.asks(&known);
        prop_assert_eq!(verdict.is_ok(), permitted);
        let audit = verdict.map_or_else(|denied| denied.audit, |permit| permit.audit);
        prop_assert_eq!(!audit.is_empty(), said(Action::Audit));
    }

    #[test]
    fn what_the_control_plane_encodes_is_known_in_full(policy in a_policy()) {
        prop_assert!(Policy::decode(&policy.encode_to_vec()).is_ok());
    }

    #[test]
    fn no_bytes_panic_and_no_text_either(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,40}") {
        let _ = Policy::decode(&bytes);
        let _ = crate::wire::unknown_field(&wire::POLICY, &bytes);
        for pattern in [exact(&text), prefix(&text), suffix(&text), regex(&text)] {
            let rule = AccessRule {
                from: vec![namespace(&text)],
                to: vec![Operation { hosts: vec![pattern.clone()], methods: strings(&[&text]), ports: vec![], paths: vec![pattern.clone()] }],
                headers: vec![header(&text, pattern)],
            };
            let _ = Policy::compile(&policy(&text, Raw::Allow, vec![rule]));
        }
    }
}

proptest! {
    // S22: names with the signs of patterns in them match no other text.
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn literals_never_match_more_than_they_say(
        literal in "/[ab.*+?|()\\[\\]^$]{1,5}", path in "/[ab.*+]{0,5}", start in 0usize..3
    ) {
        let call = Call::by(CART).get(&path);
        let whole = [exact, prefix, suffix][start](&literal);
        let rule = to(vec![paths(&[whole])]);
        if Policy::compile(&policy("p", Raw::Allow, vec![rule.clone()])).is_ok() {
            let want = [path == literal, path.starts_with(&literal), path.ends_with(&literal)][start];
            prop_assert_eq!(matched(&rule, &call), (want, want));
        }
        // A name that is no name is refused, never read as a pattern.
        let name = literal.trim_start_matches('/');
        let caller = Policy::compile(&policy("p", Raw::Allow, vec![from(vec![namespace(name)])]));
        prop_assert_eq!(caller.is_ok(), isthmus_proto::ids::is_label(name));
    }
}
