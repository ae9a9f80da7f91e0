//! Does a proxy take all that the control plane tells it, whatever the clusters declare?
//!
//! Manifests with odd and ordinary values go through both cores, without a socket: what is understood of
//! them is translated, and each resource is one that a proxy accepts. In whatever order they came. What an
//! API server refuses by its schema is not among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use isthmus_control_plane::manifest;
use isthmus_control_plane_core::model::{Change, Object, ObjectRef};
use isthmus_control_plane_core::session::{Client, Session};
use isthmus_control_plane_core::world::World;
use isthmus_proto::discovery::{DeltaDiscoveryRequest, Node};
use isthmus_proto::handle::HandleKey;
use isthmus_proxy_core::balance::Me;
use isthmus_proxy_core::snapshot::{Kind, SnapshotBuilder, Update};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const CLUSTERS: [&str; 2] = ["east", "west"];
/// Services that are asked for, by name, host and address.
const KEYS: [&str; 8] = [
    "shop/cart.shop.svc.cluster.local",
    "shop/cart.shop.svc.clusterset.local",
    "shop/pay.shop.svc.cluster.local",
    "shop/pay.shop.svc.clusterset.local",
    "host:cart",
    "host:pay.shop.svc.clusterset.local",
    "vip:east-net/10.96.0.5",
    "vip:east-net/fd00::96",
];

/// What every cluster has: itself, a gateway, a pod that calls.
fn base(cluster: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1
kind: MeshCluster
metadata: {{name: {cluster}}}
spec: {{network: {cluster}-net, region: r, zone: z, priority: 1, price: 20}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: east-west, namespace: isthmus-system}}
spec:
  gatewayClassName: isthmus-east-west
  listeners: [{{name: mesh, port: 15443, protocol: TLS, tls: {{mode: Passthrough}}}}]
  addresses: [{{type: IPAddress, value: 203.0.113.7}}, {{type: Hostname, value: gw.example.com}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: shop, labels: {{app: web}}}}
spec: {{serviceAccountName: web}}
status: {{phase: Running, podIP: 10.0.0.100}}
"
    )
}

fn service() -> impl Strategy<Value = String> {
    // Kubernetes takes no number twice, nor a name.
    let numbers = vec!["80", "81", "65535", "0", "70000"];
    let like = (
        select(vec!["8080", "web", "none", "0", "65535"]),
        select(vec![
            "",
            "http",
            "kubernetes.io/h2c",
            "grpc",
            "tcp",
            "tls",
            "own.dev/x",
        ]),
    );
    let likes = prop::collection::vec(like, 2);
    let ports = (subsequence(numbers, 0..3), likes).prop_map(|(numbers, likes)| {
        let port = |(number, (target, protocol)): (&str, (&str, &str))| {
            format!("{{name: p{number}, port: {number}, targetPort: {target}, appProtocol: '{protocol}'}}")
        };
        let all: Vec<String> = numbers.into_iter().zip(likes).map(port).collect();
        all.join(", ")
    });
    let ips = select(vec![
        "[10.96.0.5]",
        "[10.96.0.5, 'fd00::96']",
        "['::ffff:10.96.0.5']",
        "[None]",
        "[0.0.0.0]",
        "[]",
    ]);
    let extra = select(vec![
        "",
        ", sessionAffinity: ClientIP",
        ", type: ExternalName, externalName: example.com",
        ", publishNotReadyAddresses: true",
    ]);
    (app(), ports, ips, extra).prop_map(|(app, ports, ips, extra)| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {app}, namespace: shop}}\n\
             spec: {{clusterIPs: {ips}, selector: {{app: {app}}}, ports: [{ports}]{extra}}}\n"
        )
    })
}

fn app() -> impl Strategy<Value = &'static str> {
    select(vec!["cart", "pay"])
}

fn address() -> impl Strategy<Value = &'static str> {
    select(vec![
        "10.0.0.1",
        "10.0.0.2",
        "fd00::1",
        "::ffff:10.0.0.3",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "::",
        "255.255.255.255",
    ])
}

fn pod() -> impl Strategy<Value = String> {
    let extra = select(vec![
        "",
        ", deletionTimestamp: '2030-01-01T00:00:00Z'",
        ", annotations: {isthmus.dev/inject: 'false'}",
    ]);
    let ready = select(vec!["True", "False"]);
    let ips = prop::collection::vec(address(), 1..3);
    (app(), 1..4u8, ips, ready, extra).prop_map(|(app, number, ips, ready, extra)| {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {app}-{number}, namespace: shop, labels: {{app: {app}}}{extra}}}\n\
             spec: {{serviceAccountName: {app}, containers: [{{name: app, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIPs: [{}], conditions: [{{type: Ready, status: '{ready}'}}]}}\n",
            ips.join(", ")
        )
    })
}

fn slice() -> impl Strategy<Value = String> {
    let pod = select(vec!["", ", targetRef: {kind: Pod, name: cart-1}"]);
    let port = select(vec!["80", "8080", "0"]);
    (app(), address(), pod, port).prop_map(|(app, ip, pod, port)| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {app}-s, namespace: shop, labels: {{kubernetes.io/service-name: {app}}}}}\n\
             addressType: IPv4\nports: [{{name: web, port: {port}}}]\n\
             endpoints: [{{addresses: ['{ip}'], conditions: {{ready: true}}{pod}}}]\n"
        )
    })
}

fn route() -> impl Strategy<Value = String> {
    let matches = select(vec![
        "{path: {type: PathPrefix, value: /}}",
        "{path: {type: Exact, value: /a/../b}}",
        "{path: {type: RegularExpression, value: '/v[0-9]+(/.*)?'}}",
        "{path: {type: RegularExpression, value: '(?=x)'}}",
        "{headers: [{name: Host, value: a}, {name: X-Y, type: RegularExpression, value: '.*'}]}",
        "{method: GET, queryParams: [{name: q, value: ''}]}",
    ]);
    let filter = select(vec![
        "",
        "{type: URLRewrite, urlRewrite: {hostname: a.b, path: {type: ReplaceFullPath, replaceFullPath: /x}}}",
        "{type: RequestRedirect, requestRedirect: {scheme: https, port: 65535, statusCode: 301}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}], remove: [x-c]}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x_mesh_peer, value: b}]}}",
        "{type: RequestMirror, requestMirror: {backendRef: {name: pay, port: 80}, percent: 7}}",
        "{type: ExtensionRef}",
    ]);
    let backend = (
        select(vec!["cart", "pay", "none"]),
        select(vec![0u32, 1, 1_000_000]),
    );
    let backend =
        backend.prop_map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"));
    let parent = select(vec![
        "{group: '', kind: Service, name: cart}",
        "{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}",
    ]);
    let timeouts = select(vec![
        "",
        ", timeouts: {request: 0s}",
        ", timeouts: {request: 10s, backendRequest: 1ms}",
    ]);
    let backends = prop::collection::vec(backend, 0..3);
    (parent, matches, filter, backends, timeouts).prop_map(
        |(parent, matches, filter, backends, timeouts)| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {{name: r, namespace: shop}}\n\
                 spec:\n  parentRefs: [{parent}]\n  rules:\n\
                 \x20 - {{matches: [{matches}], filters: [{filter}], backendRefs: [{}]{timeouts}}}\n",
                backends.join(", ")
            )
        },
    )
}

fn policy() -> impl Strategy<Value = String> {
    let target = select(vec![
        "scope: Namespace",
        "targetRefs: [{kind: Service, name: cart}]",
        "selector: {matchLabels: {app: web}}",
    ]);
    let action = select(vec!["Allow", "Deny", "Audit", "Other"]);
    let rule = select(vec![
        "{}",
        "{from: [{clusters: [east], namespaces: [shop], serviceAccounts: [web, shop/web]}]}",
        "{from: [{identities: ['spiffe://east.mesh.internal/ns/shop/sa/web'], except: [{clusters: [west]}]}]}",
        "{to: [{ports: [65535], methods: [GET], hosts: [{suffix: .test}], paths: [{regex: '/a+'}, {prefix: /b}]}]}",
        "{to: [{paths: [{regex: '('}]}]}",
        "{headers: [{name: x-y, exact: z}]}",
    ]);
    (target, action, prop::collection::vec(rule, 0..3)).prop_map(|(target, action, rules)| {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: p, namespace: shop}}\n\
             spec: {{{target}, action: {action}, rules: [{}]}}\n",
            rules.join(", ")
        )
    })
}

fn traffic() -> impl Strategy<Value = String> {
    let body = select(vec![
        "timeouts: {connect: 1ms, request: 24h, try: 2s}",
        "timeouts: {connect: 0s}",
        "retries: {attempts: 0}",
        "retries: {attempts: 10, budgetPercent: 100, statuses: [502, 599]}",
        "outlierDetection: {consecutiveFailures: 0, maxEjectedPercent: 100}",
        "limits: {maxInFlight: 1, maxPending: 4294967295}",
        "balancing: {zonePenalty: 2ms, clusterPenalty: 10s}",
    ]);
    (app(), body).prop_map(|(app, body)| {
        format!(
            "apiVersion: isthmus.dev/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: {app}, namespace: shop}}\n\
             spec: {{targetRef: {{group: multicluster.x-k8s.io, kind: ServiceImport, name: {app}}}, {body}}}\n"
        )
    })
}

fn export() -> impl Strategy<Value = String> {
    app().prop_map(|app| {
        format!(
            "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
             metadata: {{name: {app}, namespace: shop}}\n"
        )
    })
}

/// What is understood of what the clusters declare; of one name the last. Not everything is.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let text = prop_oneof![
        4 => service(),
        6 => pod(),
        2 => slice(),
        4 => export(),
        2 => route(),
        2 => policy(),
        2 => traffic(),
    ];
    prop::collection::vec((select(CLUSTERS.to_vec()), text), 0..24).prop_map(|declared| {
        let base = CLUSTERS.map(|cluster| (cluster, base(cluster)));
        let mut known: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        for (cluster, text) in base.into_iter().chain(declared) {
            for object in manifest::parse(&text, &cluster.parse().unwrap()).objects {
                known.insert(object.reference(), object);
            }
        }
        known.into_values().collect()
    })
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn world(objects: &[Object]) -> World {
    let mut world = World::new("mesh.internal").unwrap();
    for (number, cluster) in (1..).zip(CLUSTERS) {
        let cluster = cluster.parse().unwrap();
        world.add_cluster(&cluster).unwrap();
        world.set_handle_keys(&cluster, vec![HandleKey::new(number, [number; 32])]);
        let init = Change::Init {
            cluster: cluster.clone(),
        };
        world.apply(init, now());
        for object in objects.iter().filter(|object| object.cluster == cluster) {
            world.apply(Change::Apply(object.clone()), now());
        }
        let kept = BTreeSet::new();
        world.apply(Change::InitDone { cluster, kept }, now());
    }
    world
}

fn client(world: &World, workload: &str, role: &str) -> Client {
    let parts: Vec<&str> = workload.split('/').collect();
    let account = parts[2].split('-').next().unwrap();
    let identity = format!(
        "spiffe://{}.mesh.internal/ns/{}/sa/{account}",
        parts[0], parts[1]
    );
    let role = prost_types::value::Kind::StringValue(role.to_owned());
    let role = prost_types::Value { kind: Some(role) };
    let node = Node {
        id: workload.to_owned(),
        metadata: Some(prost_types::Struct {
            fields: [("role".to_owned(), role)].into(),
        }),
        ..Node::default()
    };
    Client::of_node(world, identity.parse().unwrap(), &node).unwrap()
}

/// What a new proxy is told, name → version, and what it refuses of that.
fn told(
    world: &World,
    workload: &str,
    role: &str,
) -> (BTreeMap<(String, String), String>, Vec<String>) {
    let cluster = workload.split('/').next().unwrap();
    let me = Me {
        cluster: cluster.parse().unwrap(),
        network: format!("{cluster}-net").parse().unwrap(),
        locality: isthmus_proto::locality::Locality::default(),
    };
    let mut builder = SnapshotBuilder::new(me, |_| Ok(()));
    let mut session = Session::new(client(world, workload, role));
    let all = vec!["*".to_owned()];
    let keys: Vec<String> = KEYS.map(str::to_owned).into();
    let mut wants = vec![
        (Kind::AccessPolicy, all.clone()),
        (Kind::ClusterFreshness, all.clone()),
        (Kind::Workload, vec![workload.to_owned()]),
    ];
    if role == "gateway" {
        wants.extend([
            (Kind::ExportedEndpoint, all.clone()),
            (Kind::HandleKeys, all),
        ]);
    } else {
        wants.push((Kind::Gateway, all));
        wants.extend([Kind::Service, Kind::Endpoint, Kind::Route].map(|kind| (kind, keys.clone())));
    }
    let request = |kind: &str| DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    for (kind, names) in wants {
        let mut asked = request(kind.type_url());
        asked.resource_names_subscribe = names;
        session.handle(&asked).unwrap();
    }
    let (mut held, mut refused) = (BTreeMap::new(), Vec::new());
    while let Some(response) = session.poll(world) {
        let kind = Kind::of_type_url(&response.type_url).unwrap();
        for one in response.resources {
            let name = (response.type_url.clone(), one.name.clone());
            held.insert(name, one.version.clone());
            let news = Update::Upsert {
                kind,
                name: one.name,
                aliases: one.aliases,
                version: one.version,
                body: one.resource.unwrap().value.into(),
            };
            let rejected = builder.apply(news);
            refused.extend(rejected.iter().map(|r| format!("{kind} {r}")));
        }
        let mut answer = request(&response.type_url);
        answer.response_nonce = response.nonce;
        session.handle(&answer).unwrap();
    }
    builder.build();
    (held, refused)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_resource_is_one_that_a_proxy_accepts_and_no_order_matters(
        (objects, turned) in objects().prop_flat_map(|o| (Just(o.clone()), Just(o).prop_shuffle()))
    ) {
        let (world, other) = (world(&objects), world(&turned));
        for (workload, role) in [
            ("east/shop/web-1", "sidecar"),
            ("west/shop/cart-1", "sidecar"),
            ("west/isthmus-system/gateway-1", "gateway"),
        ] {
            let (held, refused) = told(&world, workload, role);
            prop_assert!(refused.is_empty(), "{workload}: {refused:#?}");
            prop_assert_eq!(held, told(&other, workload, role).0, "{}", workload);
        }
    }
}
