//! Are pods, services and the mesh's own kinds read as they are meant?

use super::*;
use isthmus_control_plane_core::model::{
    GatewayAddress, IpFamily, Kind, Reach, ServiceType, TargetPort, TrafficPolicy,
};
use isthmus_proto::resource::Protocol;

mod taken;

pub(super) fn read(text: &str) -> Parsed {
    parse(text, &"east".parse().unwrap())
}

/// The one object of a manifest that has nothing wrong with it.
pub(super) fn one(text: &str) -> Object {
    let mut parsed = read(text);
    assert_eq!(
        (&parsed.errors, &parsed.invalid),
        (&vec![], &vec![]),
        "{text}"
    );
    assert_eq!(parsed.objects.len(), 1, "{:?}", parsed.objects);
    parsed.objects.remove(0)
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
    assert_eq!(pod.node.as_deref(), Some("n1"));
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

/// A finalizer may hold what its author has taken back.
#[test]
fn an_export_that_is_being_deleted_is_none() {
    let export = |deleted: &str| {
        let parsed = read(&format!(
            "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
             metadata: {{name: cart, namespace: shop, finalizers: [a/b]{deleted}}}\n"
        ));
        assert_eq!(parsed.errors, vec![]);
        parsed.objects.len()
    };
    assert_eq!(export(""), 1);
    assert_eq!(export(", deletionTimestamp: \"2026-11-22T17:03:00Z\""), 0);
}

#[test]
fn a_mesh_cluster_that_is_being_deleted_is_one_and_says_so() {
    let parsed = read(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\n\
         metadata: {name: west, deletionTimestamp: \"2026-11-22T17:03:00Z\"}\n\
         spec: {network: west-net}\n",
    );
    let [object] = &parsed.objects[..] else {
        panic!("{parsed:?}")
    };
    let Spec::MeshCluster(cluster) = &object.spec else {
        panic!("{object:?}")
    };
    assert!(cluster.observed.deleting);
}

#[test]
fn in_a_cluster_a_pod_has_a_sidecar_only_if_somebody_says_so() {
    let meshed = |metadata: &str, spec: &str| {
        let json = format!(r#"{{"metadata": {{"name": "a"{metadata}}}, "spec": {{{spec}}}}}"#);
        let parsed = object(json.as_bytes(), "v1", "Pod", &"east".parse().unwrap());
        let [
            Object {
                spec: Spec::Pod(pod),
                ..
            },
        ] = &parsed.objects[..]
        else {
            panic!("{parsed:?}")
        };
        pod.meshed
    };
    let app = r#""containers": [{"name": "app"}]"#;
    let beside = r#""containers": [{"name": "app"}, {"name": "isthmus-proxy"}]"#;
    let native =
        r#""containers": [{"name": "app"}], "initContainers": [{"name": "isthmus-proxy"}]"#;
    let labelled = |word: &str| format!(r#", "labels": {{"isthmus.dev/mesh": "{word}"}}"#);
    let annotated = r#", "annotations": {"isthmus.dev/mesh": "enabled"}"#;
    // What asks for a sidecar is none.
    let asked = r#", "labels": {"isthmus.dev/inject": "true"}"#;
    assert!(!meshed("", app) && !meshed(asked, app));
    assert!(meshed("", beside) && meshed("", native));
    assert!(meshed(&labelled("true"), app) && meshed(annotated, app));
    assert!(!meshed(&labelled("false"), beside));
    let host = format!(r#"{beside}, "hostNetwork": true"#);
    assert!(!meshed("", &host) && !meshed(&labelled("true"), &host));
}

#[test]
fn hints_of_a_slice_and_the_mode_of_a_service_are_read() {
    let slice = one(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: \
         {kubernetes.io/service-name: cart}}\naddressType: IPv4\nports: []\nendpoints:\n\
         - {addresses: [10.0.0.1], zone: a, hints: {forZones: [{name: b}, {name: c}]}}\n\
         - {addresses: [10.0.0.2], hints: {}}\n- {addresses: [10.0.0.3]}",
    );
    let Spec::EndpointSlice(slice) = slice.spec else {
        panic!("a slice")
    };
    let zones: Vec<&[String]> = slice.endpoints.iter().map(|e| &e.for_zones[..]).collect();
    assert_eq!(zones, [&["b".to_owned(), "c".to_owned()][..], &[], &[]]);
    let aware = |annotation: &str| {
        let service = one(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{{annotation}}}}}\n\
             spec: {{ports: [{{port: 80}}]}}"
        ));
        let Spec::Service(service) = service.spec else {
            panic!("a service")
        };
        service.topology_aware
    };
    assert!(aware("service.kubernetes.io/topology-mode: Auto"));
    assert!(aware("service.kubernetes.io/topology-aware-hints: auto"));
    assert!(!aware("service.kubernetes.io/topology-mode: Disabled") && !aware(""));
}

#[test]
fn a_service_account_that_is_no_name_is_an_error() {
    for bad in ["Cart_1", "cart/1", "-cart", "cart..a"] {
        let parsed = read(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  serviceAccountName: {bad}\n"
        ));
        let [problem] = &parsed.errors[..] else {
            panic!("{parsed:?}")
        };
        let expected = format!("spec.serviceAccountName: {bad:?} is no name of an object");
        assert_eq!((problem.line, &problem.message), (5, &expected));
        assert!(parsed.objects.is_empty());
    }
}

#[test]
fn endpoint_slices_have_the_defaults_of_kubernetes() {
    let object = one(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}\n\
         ports: [{name: http, port: 8080}]\n\
         endpoints:\n\
         - {addresses: [10.0.0.1], targetRef: {kind: Pod, name: cart-1}, zone: eu-a, nodeName: n1}\n\
         - {addresses: [10.0.0.2], nodeName: n2, conditions: {ready: false, serving: true, terminating: true}}\n",
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
    let nodes = (first.node.as_deref(), second.node.as_deref());
    assert_eq!(nodes, (None, Some("n2")), "that of a pod is the pod's");
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

/// Of a file with its line, of an API server's object and of an item of a List by its path alone.
#[test]
fn a_field_of_a_wrong_type_is_named_with_its_path() {
    let backends = "rules: [{backendRefs: [{name: cart, port: 80}, {name: pay, weight: many}]}]";
    let pod = "containers: [{ports: [{containerPort: high}]}]";
    let weight = "spec.rules[0].backendRefs[1].weight";
    let container = "spec.containers[0].ports[0].containerPort";
    let ours = "isthmus.dev/v1alpha1";
    // Of what kind, the spec, the value that does not fit, its path.
    let cases = [
        ("v1 Service", "ports: none", "none", "spec.ports"),
        (
            "v1 Service",
            "ports: [{port: low}]",
            "low",
            "spec.ports[0].port",
        ),
        (
            "v1 Service",
            "ports: [{port: 70000}]",
            "70000",
            "spec.ports[0].port",
        ),
        (
            "gateway.networking.k8s.io/v1 HTTPRoute",
            backends,
            "many",
            weight,
        ),
        ("v1 Pod", pod, "high", container),
        (
            &format!("{ours} MeshCluster"),
            "zones: a",
            "zones",
            "spec.zones",
        ),
    ];
    let before = "kind: Pod\napiVersion: v1\nmetadata: {name: a}\n---\n";
    for (of, spec, value, path) in cases {
        let (version, kind) = of.split_once(' ').unwrap();
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n  {spec}\n"
        );
        let expected = format!("{path}: ");
        let problem = &read(&format!("{before}{text}")).errors[0];
        let column = 3 + spec.rfind(value).unwrap() as u64;
        assert_eq!((problem.line, problem.column), (9, column), "{problem}");
        assert!(problem.message.starts_with(&expected), "{problem}");
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let cluster = "east".parse().unwrap();
        let told = object(value.to_string().as_bytes(), version, kind, &cluster);
        let message = &told.errors[0].message;
        assert!(message.starts_with(&expected), "{message}");
        assert!(!message.contains("at line"), "{message}");
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [value] });
        let message = &read(&list.to_string()).errors[0].message;
        assert!(
            message.starts_with(&format!("items[0]: {expected}")),
            "{message}"
        );
    }
    let whole = object(b"7", "v1", "Pod", &"east".parse().unwrap());
    assert!(
        whole.errors[0].message.starts_with("invalid type"),
        "{:?}",
        whole.errors
    );
}

#[test]
fn other_kinds_are_ignored_and_named_but_not_ours() {
    let parsed = read("apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n");
    assert_eq!(
        (parsed.ignored, parsed.errors),
        (vec!["batch/v1 Job".to_owned()], vec![])
    );
    let parsed = read("apiVersion: isthmus.dev/v1alpha1\nkind: AcessPolicy\nmetadata: {name: x}\n");
    let told = &parsed.errors[0];
    let expected = "kind: isthmus.dev/v1alpha1 has no kind \"AcessPolicy\"";
    assert_eq!((told.message.as_str(), told.line), (expected, 2));
    for known in ["v1\nkind: Secret", "apps/v1\nkind: DaemonSet"] {
        let parsed = read(&format!("apiVersion: {known}\nmetadata: {{name: x}}\n"));
        assert_eq!((parsed.ignored.len(), parsed.errors), (1, vec![]));
    }
    for (bad, message) in [
        ("v1\nkind: Servce", "kind: v1 has no kind \"Servce\""),
        (
            "gateway.networking.k8s.io/v9\nkind: HTTPRoute",
            "apiVersion: \"gateway.networking.k8s.io/v9\" is no version that is known; known of this group: \
             v1, v1beta1, v1alpha3, v1alpha2",
        ),
        (
            "isthmus.dev/v1beta1\nkind: MeshCluster",
            "apiVersion: \"isthmus.dev/v1beta1\" is no version that is known; known of this group: v1alpha1",
        ),
    ] {
        let parsed = read(&format!("# a\napiVersion: {bad}\nmetadata: {{name: x}}\n"));
        assert_eq!(parsed.errors[0].message, message);
        assert!(parsed.errors[0].line > 0 && parsed.ignored.is_empty());
    }
}

#[test]
fn what_kubernetes_refuses_is_refused() {
    for (kind, rest, message) in [
        (
            "Service",
            "spec: {sessionAffinity: Clientip}",
            "spec.sessionAffinity: \"Clientip\" is unknown; it must be ClientIP or None",
        ),
        (
            "Service",
            "spec: {internalTrafficPolicy: local}",
            "spec.internalTrafficPolicy: \"local\" is unknown; it must be Cluster or Local",
        ),
        (
            "Service",
            "spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}",
            "spec.ports[1].port: 80 is there twice",
        ),
        (
            "Pod",
            "status: {conditions: [{type: Ready, status: \"Yes\"}]}",
            "status.conditions: \"Yes\" is unknown; it must be True or False or Unknown",
        ),
    ] {
        let parsed = read(&format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n{rest}\n"
        ));
        let told: Vec<_> = parsed.errors.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(told, [message]);
    }
    one("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n\
         spec: {ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]}\n");
}

#[test]
fn directives_are_of_the_document_that_follows() {
    let space =
        |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    let (a, b) = (space("a"), space("b"));
    let parsed = read(&format!(
        "# c\n%YAML 1.2\n---\n{a}...\n%YAML 1.2\n# d\n---\n{b}"
    ));
    assert_eq!(parsed.errors, vec![]);
    let names: Vec<_> = parsed.objects.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let bad = b.replace("{name: b}", "{name: b, labels: 1}");
    let parsed = read(&format!("%YAML 1.2\n---\n{a}---\n{bad}"));
    assert_eq!(parsed.errors[0].line, 9, "{:?}", parsed.errors);
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
fn every_bad_item_of_a_list_is_told() {
    let bad = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: 1}}";
    let good = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
    let list = |items: &[&str]| {
        read(&format!(
            "apiVersion: v1\nkind: List\nitems: [{}]",
            items.join(", ")
        ))
    };
    let told = list(&[bad, good, "{kind: Pod}", bad]).errors;
    let begins = |at: usize| format!("items[{at}]: ");
    let places: Vec<bool> = told
        .iter()
        .zip([0, 2, 3])
        .map(|(problem, at)| problem.message.starts_with(&begins(at)))
        .collect();
    assert_eq!(places, [true; 3], "{told:?}");
    let told = list(&[bad; 300]).errors;
    assert_eq!(told.len(), BAD_ITEMS_MAX + 1);
    assert!(told[BAD_ITEMS_MAX].message.contains("was not read"));
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
    assert!(!cluster.passthrough_denied);
    let object = one(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {name: east}\nspec: {network: n, passthrough: Deny}\n",
    );
    assert!(matches!(object.spec, Spec::MeshCluster(c) if c.passthrough_denied));
    let unknown = read(
        "apiVersion: isthmus.dev/v1alpha1\nkind: MeshCluster\nmetadata: {name: east}\nspec: {network: n, passthrough: No}\n",
    );
    assert_eq!((unknown.errors.len(), unknown.objects.len()), (1, 0));
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
fn a_class_of_gateways_and_the_name_that_a_cluster_states_are_read() {
    let object = one(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: mesh, generation: 2}\n\
         spec: {controllerName: isthmus.dev/controller}\n\
         status: {conditions: [{type: Accepted, status: Unknown, reason: Pending, message: Waiting for controller}]}\n",
    );
    assert_eq!(object.namespace, None);
    let Spec::GatewayClass(class) = object.spec else {
        panic!("a class")
    };
    assert_eq!(class.controller, "isthmus.dev/controller");
    let observed = class.observed;
    assert_eq!((observed.generation, observed.conditions.len()), (2, 1));
    let property = |name: &str, value: &str| {
        read(&format!(
            "apiVersion: about.k8s.io/v1alpha1\nkind: ClusterProperty\nmetadata: {{name: {name}}}\nspec: {{value: {value}}}\n"
        ))
    };
    let id = property("cluster.clusterset.k8s.io", "east");
    let Spec::ClusterProperty(id) = &id.objects[0].spec else {
        panic!("a property")
    };
    assert_eq!(id.value, "east");
    let other = property("color.example.com", "blue");
    assert_eq!((other.objects.len(), other.errors.len()), (0, 0));
    let empty = property("cluster.clusterset.k8s.io", "\"\"");
    assert!(empty.errors[0].message.contains("spec.value"));
}

#[test]
fn a_traffic_policy_has_durations() {
    let text = |spec: &str| {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let object = one(&text(
        "{targetRef: {kind: Service, name: cart}, coverImported: true, timeouts: {connect: 500ms, try: 2s, stream: 4h}, \
         retries: {attempts: 0, budgetPercent: 10, statuses: [503]}, outlierDetection: {consecutiveFailures: 3, baseEjection: 5s}, \
         limits: {maxInFlight: 10}, balancing: {clusterPenalty: 30ms}}",
    ));
    let Spec::TrafficPolicy(TrafficPolicy {
        reach,
        service,
        body,
        cover_imported,
        invalid,
        ..
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
    assert_eq!(timeouts.stream.unwrap().seconds, 4 * 3600);
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
fn documents_keep_their_line_numbers_whatever_is_between() {
    let text = "# head\r\n---\r\na: 1\r\n--- # again\nb: |\n  text\n  ---\n...\n---\n---x: 1\n";
    let lines: Vec<u64> = documents::of(text).iter().map(|d| d.line).collect();
    assert_eq!(lines, [2, 4, 9]);
}

#[test]
fn no_bytes_of_a_manifest_panic() {
    // Prefixes of a good file, and the file with one byte changed.
    for at in (0..SHOP.len()).step_by(13) {
        let _ = read(&SHOP[..at]);
        let mut bytes = SHOP.as_bytes().to_vec();
        bytes[at] = b':';
        let _ = read(&String::from_utf8(bytes).unwrap());
    }
}

#[test]
fn a_service_and_its_import_say_whom_their_clients_prefer() {
    let service = one("
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {clusterIP: 10.0.0.1, internalTrafficPolicy: Local, trafficDistribution: PreferClose, ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}
");
    let Spec::Service(service) = service.spec else {
        panic!("a service")
    };
    assert!(service.spread.node_only && service.spread.prefers_zone());
    assert_eq!(service.families, [IpFamily::V6, IpFamily::V4]);
    let import = |version: &str| {
        let text = format!("
apiVersion: multicluster.x-k8s.io/{version}
kind: ServiceImport
metadata: {{name: cart, generation: 3}}
spec: {{type: Headless, ports: [], internalTrafficPolicy: Cluster, trafficDistribution: '', ipFamilies: [IPv4]}}
status: {{conditions: [{{type: Ready, status: 'False', reason: Pending}}, {{type: Other, status: 'True'}}]}}
");
        match one(&text).spec {
            Spec::ServiceImport(import) => import,
            _ => panic!("an import"),
        }
    };
    let found = import("v1beta1");
    assert!(found.spread.is_plain() && !found.is_alpha);
    assert_eq!(found.families, [IpFamily::V4]);
    assert_eq!(found.observed.generation, 3);
    assert_eq!(found.observed.conditions.len(), 1);
    assert!(import("v1alpha1").is_alpha);
}

/// Left out, it would make another service of it: one without a port, or for other addresses.
#[test]
fn a_transport_or_a_family_that_is_unknown_is_told_where_it_stands() {
    let service = "apiVersion: v1\nkind: Service";
    let import = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceImport";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice";
    let labels = "name: cart, namespace: shop, labels: {kubernetes.io/service-name: cart}";
    let ports = "ports:\n- port: 80\n- port: 81\n  protocol: TPC";
    let inner = ports.replace('\n', "\n  ");
    let cases = [
        (
            service,
            format!("spec:\n  {inner}"),
            "spec.ports[1].protocol: \"TPC\"",
            (8, 15),
        ),
        (
            import,
            format!("spec:\n  {inner}"),
            "spec.ports[1].protocol: \"TPC\"",
            (8, 15),
        ),
        (
            slice,
            ports.to_owned(),
            "ports[1].protocol: \"TPC\"",
            (7, 13),
        ),
        (
            slice,
            "ports:\n- port: 8080\n- port: 0".into(),
            "ports[1].port: 0 is not",
            (6, 3),
        ),
        (
            slice,
            "addressType: IPv5".into(),
            "addressType: \"IPv5\" is unknown",
            (4, 14),
        ),
        (
            slice,
            "addressType: IPv4\nendpoints:\n- addresses: [10.0.0.1]\n- addresses: ['fe80::1']"
                .into(),
            "endpoints[1].addresses: \"fe80::1\" is not of the addressType",
            (7, 16),
        ),
        (
            service,
            "spec: {ipFamilies: [IPv4, IPv5]}".into(),
            "spec.ipFamilies: \"IPv5\"",
            (4, 27),
        ),
        (
            import,
            "spec: {ipFamilies: [IPv5]}".into(),
            "spec.ipFamilies: \"IPv5\"",
            (4, 21),
        ),
    ];
    for (head, body, message, place) in cases {
        let parsed = read(&format!("{head}\nmetadata: {{{labels}}}\n{body}\n"));
        assert_eq!(parsed.objects, [], "{body}");
        let problem = &parsed.errors[0];
        assert_eq!((problem.line, problem.column), place, "{problem}");
        assert!(problem.message.starts_with(message), "{problem}");
        assert!(problem.object.ends_with(" shop/cart"), "{problem}");
    }
}

/// A grant is for a kind of a group: one for a namesake of another group grants nothing.
#[test]
fn a_grant_is_for_the_kinds_of_its_groups() {
    let grant = |from: &str, to: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: shop}}\n\
             spec:\n  from: [{{group: {from}, namespace: bank}}]\n  to: [{{group: {to}}}]\n"
        );
        match one(&text).spec {
            Spec::ReferenceGrant(grant) => (grant.from.len(), grant.to.len()),
            other => panic!("{other:?}"),
        }
    };
    let (route, service) = (
        "gateway.networking.k8s.io, kind: HTTPRoute",
        "\"\", kind: Service",
    );
    assert_eq!(grant(route, service), (1, 1));
    let import = "multicluster.x-k8s.io, kind: ServiceImport";
    assert_eq!(grant(route, import), (1, 1));
    for from in [
        "\"\", kind: HTTPRoute",
        "example.com, kind: HTTPRoute",
        "gateway.networking.k8s.io, kind: Gateway",
    ] {
        assert_eq!(grant(from, service), (0, 1), "{from}");
    }
    for to in [
        "serving.knative.dev, kind: Service",
        "\"\", kind: ServiceImport",
        "\"\", kind: Secret",
    ] {
        assert_eq!(grant(route, to), (1, 0), "{to}");
    }
}

/// Kubernetes bounds these names as a whole, and not their labels.
#[test]
fn an_object_may_have_a_name_that_no_host_has() {
    let long = "a".repeat(253);
    let named = |version: &str, kind: &str, spec: &str| {
        read(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {long}, namespace: shop}}\n{spec}"
        ))
    };
    for (version, kind, spec) in [
        (
            "isthmus.dev/v1alpha1",
            "AccessPolicy",
            "spec: {action: Deny}",
        ),
        ("v1", "Pod", "spec: {serviceAccountName: SA}"),
        ("v1", "ServiceAccount", ""),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "spec: {}"),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "addressType: IPv4\nendpoints: []",
        ),
    ] {
        let spec = spec.replace("SA", &"b".repeat(100));
        let parsed = named(version, kind, &spec);
        // A slice of no service is of no interest, and no error.
        assert!(parsed.errors.is_empty(), "{kind}: {:?}", parsed.errors);
        assert!(parsed.invalid.is_empty(), "{kind}: {:?}", parsed.invalid);
    }
    // What has a host's name has one that fits.
    for kind in ["Service", "Namespace"] {
        assert_eq!(named("v1", kind, "").errors.len(), 1, "{kind}");
    }
}
