use super::*;
use isthmus_control_plane_core::model::{
    AccessPolicy, GatewayAddress, Kind, PolicyTarget, Reach, Route, ServiceType, TargetPort,
    TrafficPolicy,
};
use isthmus_proto::resource::{
    self, InboundMode, Protocol, path_match, route_filter, string_match,
};

fn read(text: &str) -> Parsed {
    parse(text, &"east".parse().unwrap())
}

/// The one object of a manifest that has nothing wrong with it.
fn one(text: &str) -> Object {
    let mut parsed = read(text);
    assert_eq!(
        (&parsed.errors, &parsed.invalid),
        (&vec![], &vec![]),
        "{text}"
    );
    assert_eq!(parsed.objects.len(), 1, "{:?}", parsed.objects);
    parsed.objects.remove(0)
}

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

fn route(spec: &str) -> Route {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n{spec}"
    );
    let parsed = read(&text);
    assert_eq!(parsed.errors, vec![], "{text}");
    let Spec::Route(route) = parsed.objects[0].spec.clone() else {
        panic!("a route")
    };
    route
}

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: cart-1
  namespace: shop
  creationTimestamp: \"2026-11-22T17:03:09Z\"
  labels: {app: cart, topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}
spec:
  serviceAccountName: cart
  nodeName: n1
  containers:
  - name: app
    image: cart
    ports: [{name: http, containerPort: 8080}, {containerPort: 9090}]
status:
  podIP: 127.20.0.11
  podIPs: [{ip: 127.20.0.11}, {ip: \"fd00::1\"}]
  phase: Running
  conditions: [{type: Ready, status: \"True\"}]
---
# only a comment
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  selector: {app: cart}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: grpc-api, port: 81, targetPort: 9090}
  - {name: dns, port: 53, protocol: UDP}
  - {name: raw, port: 82, appProtocol: kubernetes.io/h2c}
";

#[test]
fn pods_and_services_are_read() {
    let parsed = read(SHOP);
    assert_eq!(parsed.errors, vec![]);
    let Spec::Pod(pod) = &parsed.objects[0].spec else {
        panic!("a pod")
    };
    assert_eq!(pod.service_account, "cart");
    assert_eq!(
        pod.ips,
        [
            "127.20.0.11".parse::<std::net::IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
    assert!(pod.ready && pod.meshed && !pod.terminating && !pod.finished);
    assert_eq!((pod.ports.len(), pod.ports[0].port), (1, 8080));
    assert_eq!(
        (pod.locality.region.as_str(), pod.locality.zone.as_str()),
        ("eu", "eu-a")
    );
    assert!(parsed.objects[0].created.is_some());
    let Spec::Service(service) = &parsed.objects[1].spec else {
        panic!("a service")
    };
    assert_eq!(service.kind, ServiceType::ClusterIp);
    let ports: Vec<_> = service.ports.iter().map(|p| (p.port, p.protocol)).collect();
    let expected = [
        (80, Protocol::Http1),
        (81, Protocol::Grpc),
        (82, Protocol::Http2),
    ];
    assert_eq!(ports, expected, "UDP is left out");
    assert_eq!(service.ports[0].target, TargetPort::Name("http".to_owned()));
    assert_eq!(service.ports[1].target, TargetPort::Number(9090));
}

#[test]
fn a_pod_says_whether_it_serves() {
    let pod = |more: &str| {
        let object = one(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a{more}"
        ));
        let Spec::Pod(pod) = object.spec else {
            panic!("a pod")
        };
        (pod.ready, pod.meshed, pod.finished, pod.terminating)
    };
    assert_eq!(pod("}"), (false, true, false, false), "no address yet");
    assert_eq!(
        pod("}\nstatus: {podIP: 10.0.0.1}"),
        (true, true, false, false)
    );
    assert_eq!(
        pod("}\nstatus: {podIP: 10.0.0.1, conditions: [{type: Ready, status: \"False\"}]}"),
        (false, true, false, false)
    );
    assert_eq!(
        pod("}\nstatus: {podIP: 10.0.0.1, phase: Failed}"),
        (false, true, true, false)
    );
    assert_eq!(
        pod(", labels: {isthmus.dev/mesh: \"false\"}}"),
        (false, false, false, false)
    );
    assert_eq!(
        pod(", annotations: {isthmus.dev/inject: \"false\"}}"),
        (false, false, false, false)
    );
    assert_eq!(
        pod(", deletionTimestamp: x}\nspec: {hostNetwork: true}"),
        (false, false, false, true)
    );
}

#[test]
fn endpoint_slices_have_the_defaults_of_kubernetes() {
    let object = one(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}\n\
         ports: [{name: http, port: 8080}]\n\
         endpoints:\n\
         - {addresses: [10.0.0.1], targetRef: {kind: Pod, name: cart-1}, zone: eu-a}\n\
         - {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}\n",
    );
    let Spec::EndpointSlice(slice) = object.spec else {
        panic!("a slice")
    };
    assert_eq!(
        (slice.service.as_str(), slice.ports[0].port),
        ("cart", 8080)
    );
    let first = &slice.endpoints[0];
    assert!(first.ready && first.serving && !first.terminating);
    assert_eq!(first.pod.as_deref(), Some("cart-1"));
    let second = &slice.endpoints[1];
    assert!(!second.ready && second.serving && second.terminating && second.pod.is_none());
}

#[test]
fn errors_have_line_and_column() {
    let parsed = read(
        "\napiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec:\n  ports:\n  - port: high\n",
    );
    let problem = &parsed.errors[0];
    assert_eq!((problem.line, problem.column), (7, 11), "{problem}");
    assert_eq!(problem.object, "Service cart");
    let parsed = read(&format!(
        "{SHOP}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: b\n"
    ));
    assert_eq!(parsed.objects.len(), 2);
    let lines = SHOP.lines().count() as u64;
    let line = parsed.errors[0].line;
    assert!(
        (lines + 2..=lines + 5).contains(&line),
        "{:?}",
        parsed.errors
    );
    let parsed = read("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0}\n");
    assert!(
        parsed.errors[0]
            .message
            .contains("\"10.0.0\" is no IP address")
    );
    assert_eq!(read("just text").errors.len(), 1);
    assert_eq!(
        read("kind: Pod").errors[0].message,
        "apiVersion and kind are required"
    );
    let nameless = read("apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}");
    assert!(nameless.errors[0].message.contains("metadata.name"));
}

#[test]
fn other_kinds_are_ignored_and_named_but_not_ours() {
    let parsed = read("apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n");
    assert_eq!(
        (parsed.ignored, parsed.errors),
        (vec!["batch/v1 Job".to_owned()], vec![])
    );
    let parsed = read("apiVersion: isthmus.dev/v1alpha1\nkind: AcessPolicy\nmetadata: {name: x}\n");
    assert!(parsed.errors[0].message.contains("no such kind"));
}

#[test]
fn a_list_is_its_items() {
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n\
         - {apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: shop}}\n",
    );
    let kinds: Vec<Kind> = parsed.objects.iter().map(|o| o.spec.kind()).collect();
    assert_eq!(kinds, [Kind::Namespace, Kind::ServiceAccount]);
    assert_eq!(parsed.objects[0].namespace, None);
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: 1}}]",
    );
    assert!(
        parsed.errors[0].message.starts_with("items[0]: "),
        "{:?}",
        parsed.errors
    );
}

#[test]
fn the_cluster_and_its_gateway_are_read() {
    let object = one(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {name: east}\nspec: {network: east-net, region: eu}\n",
    );
    let Spec::MeshCluster(cluster) = object.spec else {
        panic!("a cluster")
    };
    assert_eq!(
        (cluster.network.as_str(), cluster.locality.region.as_str()),
        ("east-net", "eu")
    );
    let unknown = read(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {name: east}\nspec: {network: n, zones: a}\n",
    );
    assert_eq!(
        (unknown.errors[0].line, unknown.objects.len()),
        (4, 0),
        "{:?}",
        unknown.errors
    );
    let object = one(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: isthmus-system}\n\
         spec:\n  gatewayClassName: isthmus-east-west\n  listeners: [{name: a, port: 15443, protocol: TLS}]\n\
         \x20 addresses: [{value: 127.20.0.2}, {type: Hostname, value: GW.example.}]\n",
    );
    let Spec::Gateway(gateway) = object.spec else {
        panic!("a gateway")
    };
    let addresses = [
        GatewayAddress::Ip("127.20.0.2".parse().unwrap()),
        GatewayAddress::Hostname("gw.example".to_owned()),
    ];
    assert_eq!(
        (gateway.port, gateway.addresses.as_slice()),
        (15443, addresses.as_slice())
    );
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
    assert_eq!(policy.target, PolicyTarget::Service("cart".to_owned()));
    let body = policy.body.unwrap();
    assert_eq!(body.action(), resource::Action::Allow);
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
    let cases = [
        (
            "  action: Allow\n  rule: []\n",
            PolicyTarget::Namespace,
            "unknown field",
        ),
        (
            "  action: Allow\n  scope: Mesh\n  rules: [{form: []}]\n",
            PolicyTarget::Mesh,
            "unknown field",
        ),
        (
            "  action: Allow\n  selector: {matchLabels: {app: cart}}\n  rules: [{to: [{ports: [http]}]}]\n",
            PolicyTarget::Workloads([("app".to_owned(), "cart".to_owned())].into()),
            "",
        ),
        (
            "  action: Allow\n  targetRefs: [{kind: Service, name: cart}]\n  rules: [{to: [{paths: [/api/*]}]}]\n",
            PolicyTarget::Service("cart".to_owned()),
            "a star has no meaning",
        ),
        (
            "  action: Allow\n  targetRefs: [{kind: Pod, name: cart}]\n",
            PolicyTarget::Namespace,
            "no Service",
        ),
        (
            "  action: Allow\n  scope: mesh\n",
            PolicyTarget::Namespace,
            "is not Mesh, Cluster",
        ),
        (
            "  action: Permit\n",
            PolicyTarget::Namespace,
            "unknown variant",
        ),
        (
            "  rules: []\n",
            PolicyTarget::Namespace,
            "spec.action: is required",
        ),
        (
            "  action: Allow\n  rules: [{from: []}]\n",
            PolicyTarget::Namespace,
            "from: is empty",
        ),
        (
            "  action: Deny\n  rules: [{from: [{namespaces: ['dev-*']}]}]\n",
            PolicyTarget::Namespace,
            "no patterns",
        ),
        (
            "  action: Deny\n  rules: [{from: [{identities: ['spiffe://x']}]}]\n",
            PolicyTarget::Namespace,
            "SPIFFE ID",
        ),
        (
            "  action: Deny\n  rules: [{headers: [{name: a, exact: b, prefix: c}]}]\n",
            PolicyTarget::Namespace,
            "exactly one",
        ),
        (
            "  action: Deny\n  rules: [{headers: [{name: a, present: false}]}]\n",
            PolicyTarget::Namespace,
            "present: false",
        ),
        (
            "  action: Deny\n  rules: [{to: [{methods: [get]}]}]\n",
            PolicyTarget::Namespace,
            "no method",
        ),
    ];
    for (spec, target, expected) in cases {
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
    let names: Vec<String> = read(text).objects.into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["p", "p#2"]);
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
fn a_traffic_policy_has_durations() {
    let text = |spec: &str| {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let object = one(&text(
        "{targetRef: {kind: Service, name: cart}, coverImported: true, timeouts: {connect: 500ms, try: 2s}, \
         retries: {attempts: 0, budgetPercent: 10, statuses: [503]}, outlierDetection: {consecutiveFailures: 3, baseEjection: 5s}, \
         limits: {maxInFlight: 10}, balancing: {clusterPenalty: 30ms}}",
    ));
    let Spec::TrafficPolicy(TrafficPolicy {
        reach,
        service,
        body,
        cover_imported,
        invalid,
    }) = object.spec
    else {
        panic!("a traffic policy")
    };
    assert_eq!(
        (reach, service.as_str(), cover_imported, invalid),
        (Reach::Cluster, "cart", true, None)
    );
    let timeouts = body.timeouts.unwrap();
    assert_eq!(timeouts.connect.unwrap().nanos, 500_000_000);
    assert_eq!(timeouts.r#try.unwrap().seconds, 2);
    assert_eq!(body.retries.unwrap().attempts, Some(0));
    assert_eq!(body.balancing.unwrap().cluster_penalty_ms, Some(30));
    for (spec, expected) in [
        (
            "{targetRef: {kind: Service, name: cart}, timeout: 1s}",
            "unknown field",
        ),
        (
            "{targetRef: {kind: Service, name: cart}, timeouts: {connect: 1.5s}}",
            "no duration",
        ),
        ("{targetRef: {kind: Pod, name: cart}}", "neither Service"),
        (
            "{targetRef: {kind: ServiceImport, name: cart}, coverImported: true}",
            "coverImported",
        ),
        (
            "{targetRef: {kind: Service, name: cart}, retries: {budgetPercent: 101}}",
            "more than 100",
        ),
    ] {
        let parsed = read(&text(spec));
        assert!(
            parsed.errors[0].message.contains(expected),
            "{:?}",
            parsed.errors
        );
    }
}

#[test]
fn an_http_route_is_converted() {
    let route = route(
        "  parentRefs:\n  - {kind: Service, group: \"\", name: cart, port: 80}\n\
         \x20 - {kind: ServiceImport, group: multicluster.x-k8s.io, name: cart, namespace: other}\n\
         \x20 - {name: some-gateway}\n\
         \x20 hostnames: [Cart.example, \"*.shop\"]\n\
         \x20 rules:\n\
         \x20 - matches:\n\
         \x20   - {path: {value: /v1}, headers: [{name: X-Canary, value: \"yes\"}, {name: x-canary, value: \"no\"}], method: GET,\n\
         \x20      queryParams: [{name: q, type: RegularExpression, value: a+}]}\n\
         \x20   filters:\n\
         \x20   - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [C]}}\n\
         \x20   - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}\n\
         \x20   - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 10}}\n\
         \x20   timeouts: {request: 2s, backendRequest: 500ms}\n\
         \x20   retry: {attempts: 1, codes: [503]}\n\
         \x20   backendRefs:\n\
         \x20   - {name: cart, port: 80, weight: 9}\n\
         \x20   - {name: cart, port: 80, kind: ServiceImport, group: multicluster.x-k8s.io, weight: 1}\n\
         \x20   - {name: what, kind: Bucket, group: x.example}\n",
    );
    assert_eq!(route.invalid, None);
    let parents: Vec<_> = route
        .parents
        .iter()
        .map(|p| (p.service.service_name(), p.port))
        .collect();
    assert_eq!(
        parents,
        [
            ("shop/cart.shop.svc.cluster.local".to_owned(), Some(80)),
            ("other/cart.other.svc.clusterset.local".to_owned(), None),
        ]
    );
    assert_eq!(route.hostnames, ["cart.example", "*.shop"]);
    let rule = &route.rules[0];
    let matched = &rule.matches[0];
    assert_eq!(
        matched.path.clone().unwrap().kind,
        Some(path_match::Kind::Prefix("/v1".into()))
    );
    assert_eq!(
        (matched.headers.len(), matched.headers[0].name.as_str()),
        (1, "x-canary")
    );
    assert_eq!(matched.method, "GET");
    let Some(route_filter::Kind::RequestHeaders(headers)) = &rule.filters[0].kind else {
        panic!()
    };
    assert_eq!(
        (headers.set[0].name.as_str(), headers.remove[0].as_str()),
        ("a", "c")
    );
    let Some(route_filter::Kind::Mirror(mirror)) = &rule.filters[2].kind else {
        panic!()
    };
    assert_eq!(mirror.millionths, Some(100_000));
    assert_eq!(rule.backend_timeout.unwrap().nanos, 500_000_000);
    assert_eq!(rule.retries.as_ref().unwrap().statuses, [503]);
    let backends: Vec<&str> = rule.backends.iter().map(|b| b.service.as_str()).collect();
    assert_eq!(
        backends,
        [
            "shop/cart.shop.svc.cluster.local",
            "shop/cart.shop.svc.clusterset.local",
            ""
        ]
    );
}

#[test]
fn what_a_route_cannot_do_makes_it_invalid() {
    let parent = "  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n";
    for (rule, expected) in [
        (
            "  - filters: [{type: ExtensionRef}]\n",
            "spec.rules[0]: filters: \"ExtensionRef\"",
        ),
        (
            "  - matches: [{path: {type: Glob, value: /a}}]\n",
            "the type \"Glob\"",
        ),
        (
            "  - matches: [{path: {value: a}}]\n",
            "does not begin with a slash",
        ),
        ("  - matches: [{method: get}]\n", "method: \"get\""),
        ("  - backendRefs: [{name: cart}]\n", "needs a port"),
        ("  - sessionPersistence: {}\n", "sessionPersistence"),
        (
            "  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\nc\"}]}}]\n",
            "no value",
        ),
        (
            "  - filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]\n",
            "the status 200",
        ),
    ] {
        let why = route(&format!("{parent}{rule}")).invalid.unwrap();
        assert!(why.contains(expected), "{why:?} lacks {expected:?}");
    }
    let gateway =
        route("  parentRefs: [{name: gw}]\n  rules: [{filters: [{type: ExtensionRef}]}]\n");
    assert_eq!(
        (gateway.parents, gateway.invalid),
        (vec![], None),
        "another one's route"
    );
}

#[test]
fn grpc_tcp_and_tls_routes_are_converted() {
    let text = |kind: &str, rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n\
                 spec:\n  parentRefs: [{{kind: Service, group: \"\", name: cart}}]\n  rules: [{{{rest}}}]\n"
        )
    };
    let path = |method: &str| {
        let object = one(&text(
            "GRPCRoute",
            &format!("matches: [{{method: {method}}}]"),
        ));
        let Spec::Route(route) = object.spec else {
            panic!("a route")
        };
        route.rules[0].matches[0]
            .path
            .clone()
            .unwrap()
            .kind
            .unwrap()
    };
    assert_eq!(
        path("{service: a.B, method: C}"),
        path_match::Kind::Exact("/a.B/C".into())
    );
    assert_eq!(
        path("{service: a.B}"),
        path_match::Kind::Prefix("/a.B".into())
    );
    assert_eq!(
        path("{method: C.d}"),
        path_match::Kind::Regex("/[^/]+/C\\.d".into())
    );
    let regex = path("{type: RegularExpression, service: a|b}");
    assert_eq!(regex, path_match::Kind::Regex("/(?:a|b)/(?:[^/]+)".into()));
    for (kind, expected) in [("TCPRoute", Kind::TcpRoute), ("TLSRoute", Kind::TlsRoute)] {
        let object = one(&text(kind, "backendRefs: [{name: cart, port: 80}]"));
        assert_eq!(object.spec.kind(), expected);
    }
}

#[test]
fn documents_keep_their_line_numbers_whatever_is_between() {
    let text = "# head\r\n---\r\na: 1\r\n--- # again\nb: |\n  text\n  ---\n...\n---\n---x: 1\n";
    let lines: Vec<u64> = documents(text).iter().map(|d| d.line).collect();
    assert_eq!(lines, [2, 4, 9]);
}

#[test]
fn no_bytes_of_a_manifest_panic() {
    // Every prefix of a good file, and every file with one byte changed.
    for at in (0..SHOP.len()).step_by(3) {
        let _ = read(&SHOP[..at]);
        let mut bytes = SHOP.as_bytes().to_vec();
        bytes[at] = b':';
        let _ = read(&String::from_utf8(bytes).unwrap());
    }
}
