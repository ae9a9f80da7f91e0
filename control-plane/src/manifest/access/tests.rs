//! Does a policy deny whenever it is not understood?

use super::super::tests::{one, read};
use super::*;
use crate::manifest::Problem;
use isthmus_proto::resource::string_match;

fn policy(spec: &str) -> (AccessPolicy, Vec<Problem>) {
    let text = format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    );
    let parsed = read(&text);
    assert_eq!(parsed.errors, vec![], "{text}");
    let Spec::AccessPolicy(policy) = parsed.objects[0].spec.clone() else {
        panic!("a policy")
    };
    (policy, parsed.invalid)
}

/// What is not read again would be written for ever.
#[test]
fn all_that_is_written_about_a_policy_is_read_again() {
    let text = "  action: Deny\nstatus:\n  conditions:\n  - {type: Accepted, status: \"True\"}\n  \
                - {type: ResolvedRefs, status: \"False\"}\n  - {type: Others, status: \"True\"}\n";
    let (policy, _) = policy(text);
    let read = policy.observed.conditions.iter();
    let types: Vec<&str> = read.map(|said| said.kind.as_str()).collect();
    assert_eq!(types, ["Accepted", "ResolvedRefs"]);
}

/// What is wrong in policies of a namespace, and a part of the reason.
const OF_A_NAMESPACE: [(&str, &str); 16] = [
    ("  action: Allow\n  rule: []\n", "unknown field"),
    (
        "  action: Allow\n  targetRefs: [{kind: Pod, name: cart}]\n",
        "no Service",
    ),
    ("  action: Allow\n  scope: mesh\n", "is not Mesh, Cluster"),
    ("  action: Permit\n", "unknown variant"),
    ("  rules: []\n", "spec.action: is required"),
    ("  action: Allow\n  rules: [{from: []}]\n", "from: is empty"),
    (
        "  action: Deny\n  rules: [{from: [{namespaces: ['dev-*']}]}]\n",
        "no patterns",
    ),
    (
        "  action: Deny\n  rules: [{from: [{identities: ['spiffe://x']}]}]\n",
        "spec.rules[0].from[0].identities[0]: \"spiffe://x\" is no SPIFFE ID",
    ),
    (
        "  action: Deny\n  rules: [{headers: [{name: a, exact: b, prefix: c}]}]\n",
        "exactly one",
    ),
    (
        "  action: Deny\n  rules: [{headers: [{name: a, present: false}]}]\n",
        "present: false",
    ),
    (
        "  action: Deny\n  rules: [{to: [{methods: [get]}]}]\n",
        "no method",
    ),
    (
        "  action: Deny\n  rules: [{from: [{}]}]\n",
        "spec.rules[0].from[0]: names nobody",
    ),
    (
        "  action: Deny\n  rules: [{to: [{paths: [admin]}]}]\n",
        "spec.rules[0].to[0].paths[0]: \"admin\" does not begin with /",
    ),
    (
        "  action: Deny\n  rules: [{to: [{hosts: [Cart.Shop]}]}]\n",
        "spec.rules[0].to[0].hosts[0]: \"Cart.Shop\" has capitals",
    ),
    (
        "  action: Deny\n  rules: [{to: [{paths: [{regex: '\\p{Greek}'}]}]}]\n",
        "regular expression",
    ),
    (
        "  action: Deny\n  rules: [{headers: [{name: Host, exact: a}]}]\n",
        "policy never sees this header",
    ),
];

/// What is wrong, where it denies, and a part of the reason.
fn misunderstood() -> Vec<(&'static str, PolicyTarget, &'static str)> {
    let labels = [("app".to_owned(), "cart".to_owned())].into();
    let mut cases = vec![
        (
            "  action: Allow\n  scope: Mesh\n  rules: [{form: []}]\n",
            PolicyTarget::Mesh,
            "unknown field",
        ),
        (
            "  action: Allow\n  selector: {matchLabels: {app: cart}}\n  rules: [{to: [{ports: [http]}]}]\n",
            PolicyTarget::Workloads(labels),
            "",
        ),
        (
            "  action: Allow\n  targetRefs: [{kind: Service, name: cart}]\n  rules: [{to: [{paths: [/api/*]}]}]\n",
            PolicyTarget::Services(["cart".to_owned()].into()),
            "a star has no meaning",
        ),
    ];
    let of_a_namespace = OF_A_NAMESPACE.map(|(spec, why)| (spec, PolicyTarget::Namespace, why));
    cases.extend(of_a_namespace);
    cases
}

/// DESIGN 7: an Audit changes no verdict; who can't be known to be one denies.
#[test]
fn an_audit_that_is_not_understood_is_known_as_one() {
    const BAD: &str = "  rules: [{to: [{paths: [{regex: '('}]}]}]\n";
    for (spec, action, inbound) in [
        ("  action: Audit\n", Some(Action::Audit), None),
        (
            "  action: Audit\n  inbound: Strict\n",
            Some(Action::Audit),
            Some(InboundMode::Strict),
        ),
        // What it says of inbound would be lost.
        ("  action: Audit\n  inbound: strict\n", None, None),
        ("  action: audit\n", None, None),
        ("  action: [Audit]\n", None, None),
        ("  action: Deny\n  inbound: Strict\n", None, None),
    ] {
        let (policy, invalid) = policy(&format!("{spec}{BAD}"));
        assert_eq!(invalid.len(), 1, "{spec}");
        assert!(policy.invalid.is_some(), "{spec}");
        let body = policy.body.map(|body| (body.action, body.rules.len()));
        assert_eq!(body, action.map(|action| (action.into(), 0)), "{spec}");
        assert_eq!(policy.inbound, inbound, "{spec}");
    }
}

#[test]
fn a_policy_is_read_with_its_target() {
    let (policy, invalid) = policy(
        "  targetRefs: [{kind: Service, name: cart}]\n  action: Allow\n  rules:\n\
         \x20 - from: [{clusters: [east], serviceAccounts: [shop/web], except: [{namespaces: [dev]}]}]\n\
         \x20   to: [{ports: [80], methods: [GET], paths: [/a, {prefix: /b/}], hosts: [{suffix: .shop}]}]\n\
         \x20   headers: [{name: X-Team, exact: a}]\n",
    );
    assert_eq!(invalid, vec![]);
    assert_eq!(
        policy.target,
        PolicyTarget::Services(["cart".to_owned()].into())
    );
    let body = policy.body.unwrap();
    assert_eq!(body.action(), Action::Allow);
    let rule = &body.rules[0];
    assert_eq!(rule.from[0].except[0].namespaces, ["dev"]);
    let paths: Vec<_> = rule.to[0]
        .paths
        .iter()
        .map(|p| p.kind.clone().unwrap())
        .collect();
    let expected = [
        string_match::Kind::Exact("/a".into()),
        string_match::Kind::Prefix("/b/".into()),
    ];
    assert_eq!(paths, expected);
    assert_eq!(rule.headers[0].name, "x-team");
}

#[test]
fn what_is_not_understood_denies_where_it_was_to_apply() {
    for (spec, target, expected) in misunderstood() {
        let (policy, problems) = policy(spec);
        assert_eq!(policy.target, target, "{spec}");
        assert_eq!(policy.body, None, "{spec}");
        let why = policy.invalid.unwrap();
        assert!(why.contains(expected), "{why:?} lacks {expected:?}");
        assert_eq!((problems.len(), &problems[0].message), (1, &why));
        assert!(problems[0].line >= 1);
    }
}

#[test]
fn an_unknown_field_of_a_policy_has_its_place() {
    let (_, problems) = policy("  action: Allow\n  rules:\n  - form: []\n");
    assert_eq!(
        (problems[0].line, problems[0].column),
        (7, 5),
        "{}",
        problems[0]
    );
    assert_eq!(problems[0].object, "AccessPolicy shop/p");
}

#[test]
fn policies_can_have_several_targets_or_only_a_mode() {
    let text = "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\n\
                spec: {action: Deny, rules: [{}], targetRefs: [{kind: Service, name: a}, {kind: Service, name: b}]}";
    let Spec::AccessPolicy(both) = one(text).spec else {
        panic!("a policy")
    };
    let services = ["a", "b"].map(str::to_owned).into();
    assert_eq!(both.target, PolicyTarget::Services(services));
    let (policy, invalid) = policy("  inbound: Permissive\n");
    assert_eq!(
        (policy.body, policy.inbound, invalid),
        (None, Some(InboundMode::Permissive), vec![])
    );
    let text = "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec: {scope: Mesh, action: Allow}";
    assert_eq!(
        one(text).namespace,
        None,
        "a policy for the mesh need not be in a namespace"
    );
}

#[test]
fn a_policy_of_another_version_denies_where_it_was_to_apply() {
    let service = PolicyTarget::Services(["cart".to_owned()].into());
    for (version, spec, target) in [
        (
            "v1beta1",
            "{targetRefs: [{kind: Service, name: cart}], action: Allow}",
            service,
        ),
        (
            "v2",
            "{action: Allow, rules: [{}]}",
            PolicyTarget::Namespace,
        ),
        (
            "v2",
            "{scope: Mesh, rules: {of: another, shape: 1}}",
            PolicyTarget::Mesh,
        ),
        ("v2", "{scope: {of: another}}", PolicyTarget::Namespace),
        ("v2", "another", PolicyTarget::Namespace),
        ("v1alpha1", "another", PolicyTarget::Namespace),
    ] {
        let parsed = read(&format!(
            "apiVersion: isthmus.dev/{version}\nkind: AccessPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        ));
        let Spec::AccessPolicy(policy) = &parsed.objects[0].spec else {
            panic!("a policy")
        };
        assert_eq!((&policy.target, &policy.body), (&target, &None), "{spec}");
        let [problem] = &parsed.invalid[..] else {
            panic!("{parsed:?}")
        };
        assert_eq!(policy.invalid.as_ref(), Some(&problem.message));
        assert_eq!(problem.object, "AccessPolicy shop/p");
        let is_of_another = version != "v1alpha1";
        assert_eq!(
            problem.message.contains("known of this group: v1alpha1"),
            is_of_another
        );
        assert!(!is_of_another || problem.line == 1, "{problem}");
        assert_eq!(parsed.errors, vec![]);
    }
}
