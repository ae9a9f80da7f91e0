//! Does the mesh behave as the Multi-Cluster Services API (KEP-1645) says, towards real API servers?
//!
//! What others' conformance tests look at, but for connections: one service for each behaviour, all of
//! them at once in the same two clusters.

use isthmus_control_plane_core::write::derived_name;
use isthmus_test_clusters::Cluster;
use serde_json::{Value, json};

use crate::write::{Control, find, two, until};

const MULTICLUSTER: &str = "/apis/multicluster.x-k8s.io/v1beta1/namespaces";

/// What stands in one cluster of one service.
struct Stand {
    import: Value,
    export: Value,
    derived: Value,
    slices: Vec<Value>,
}

impl Stand {
    async fn of(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        let derived = derived_name(namespace, name);
        let services = format!("/api/v1/namespaces/{namespace}/services");
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let all = find(cluster, &slices).await;
        let ours = all["items"].as_array().cloned().unwrap_or_default();
        let label = "multicluster.kubernetes.io/service-name";
        let of_it = |slice: &Value| slice["metadata"]["labels"][label] == name;
        Self {
            import: find(
                cluster,
                &format!("{MULTICLUSTER}/{namespace}/serviceimports/{name}"),
            )
            .await,
            export: find(
                cluster,
                &format!("{MULTICLUSTER}/{namespace}/serviceexports/{name}"),
            )
            .await,
            derived: find(cluster, &format!("{services}/{derived}")).await,
            slices: ours.into_iter().filter(of_it).collect(),
        }
    }

    /// A condition of the export: status and reason.
    fn said(&self, kind: &str) -> (String, String) {
        said(&self.export, kind)
    }

    fn clusters(&self) -> Vec<&str> {
        let listed = self.import["status"]["clusters"].as_array();
        let listed = listed.into_iter().flatten();
        listed.filter_map(|one| one["cluster"].as_str()).collect()
    }

    fn is_ready(&self) -> bool {
        said(&self.import, "Ready") == ("True".to_owned(), "Ready".to_owned())
    }

    fn conflicts(&self) -> String {
        let (status, reason) = self.said("Conflict");
        if status == "True" {
            reason
        } else {
            String::new()
        }
    }
}

fn said(object: &Value, kind: &str) -> (String, String) {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|one| one["type"] == kind);
    let found = found.cloned().unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// One behaviour: what is exported where, and what must come of it.
struct Case {
    promise: &'static str,
    name: &'static str,
    /// The Services' specs in east and in west; `null`: that cluster exports nothing.
    specs: [Value; 2],
    /// `spec` of east's ServiceExport.
    export: Value,
    holds: fn(&Stand, &Stand) -> bool,
}

fn ports(list: &[(&str, u16)]) -> Value {
    let port = |(name, port): &(&str, u16)| json!({ "name": name, "port": port });
    list.iter().map(port).collect()
}

fn web() -> Value {
    json!({ "selector": { "app": "x" }, "ports": ports(&[("http", 80)]) })
}

fn with(key: &str, value: Value) -> Value {
    let mut spec = web();
    spec[key] = value;
    spec
}

fn case(
    promise: &'static str,
    name: &'static str,
    specs: [Value; 2],
    holds: fn(&Stand, &Stand) -> bool,
) -> Case {
    let export = json!({});
    Case {
        promise,
        name,
        specs,
        export,
        holds,
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let none = || Value::Null;
    vec![
        case(
            "an import of type ClusterSetIP with an address in each cluster",
            "plain",
            [web(), none()],
            |east, west| {
                [east, west].iter().all(|stand| {
                    stand.is_ready()
                        && stand.import["spec"]["type"] == "ClusterSetIP"
                        && stand.import["spec"]["ips"][0] == stand.derived["spec"]["clusterIP"]
                        && stand.import["spec"]["ports"][0]["port"] == 80
                        && stand.clusters() == ["east"]
                }) && east.said("Valid").0 == "True"
                    && east.said("Ready").0 == "True"
            },
        ),
        case(
            "the names of all exporters",
            "named",
            [web(), web()],
            |east, west| {
                [east, west].iter().all(|s| {
                    s.is_ready() && s.clusters() == ["east", "west"] && s.conflicts().is_empty()
                })
            },
        ),
        Case {
            export: json!({ "exportedLabels": { "team": "a" }, "exportedAnnotations": { "note": "b" } }),
            ..case(
                "labels and annotations that are exported, and no others",
                "labelled",
                [web(), none()],
                |east, west| {
                    [east, west].iter().all(|stand| {
                        let meta = &stand.import["metadata"];
                        meta["labels"]["team"] == "a"
                            && meta["annotations"]["note"] == "b"
                            && meta["labels"]["own"].is_null()
                    })
                },
            )
        },
        Case {
            export: json!({ "exportedLabels": { "team": "a" }, "exportedAnnotations": { "note": "b" } }),
            ..case(
                "of labels that differ the oldest export's, told to both",
                "relabelled",
                [web(), web()],
                |east, west| {
                    [east, west].iter().all(|stand| {
                        stand.import["metadata"]["labels"]["team"] == "a"
                            && stand.conflicts() == "AnnotationsConflict,LabelsConflict"
                    })
                },
            )
        },
        case(
            "the union of the ports, told to both",
            "united",
            [web(), with("ports", ports(&[("http", 80), ("admin", 90)]))],
            |east, west| {
                [east, west].iter().all(|stand| {
                    let ports = stand.import["spec"]["ports"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default();
                    ports
                        .iter()
                        .map(|port| port["port"].clone())
                        .collect::<Vec<_>>()
                        == [80, 90]
                        && stand.conflicts() == "PortConflict"
                })
            },
        ),
        case(
            "of ports that differ the oldest export's, told to both",
            "ported",
            [web(), with("ports", ports(&[("http", 81)]))],
            |east, west| {
                [east, west].iter().all(|stand| {
                    stand.import["spec"]["ports"]
                        == json!([{ "name": "http", "port": 80, "protocol": "TCP" }])
                        && stand.conflicts() == "PortConflict"
                })
            },
        ),
        case(
            "the affinity of the exported service",
            "sticky",
            [with("sessionAffinity", json!("ClientIP")), none()],
            |east, west| {
                [east, west].iter().all(|stand| {
                    let spec = &stand.import["spec"];
                    spec["sessionAffinity"] == "ClientIP"
                        && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 10_800
                })
            },
        ),
        case(
            "affinity, places and policies that differ, told to both",
            "apart",
            [with("sessionAffinity", json!("ClientIP")), {
                let mut other = with("trafficDistribution", json!("PreferClose"));
                other["internalTrafficPolicy"] = json!("Local");
                other
            }],
            |east, west| {
                [east, west].iter().all(|stand| {
                stand.conflicts() == "SessionAffinityConflict,InternalTrafficPolicyConflict,TrafficDistributionConflict"
                    && stand.import["spec"]["internalTrafficPolicy"] == "Cluster"
                    && stand.import["spec"]["trafficDistribution"].is_null()
            })
            },
        ),
        case(
            "the oldest export's type where one is headless, told to both",
            "typed",
            [web(), with("clusterIP", json!("None"))],
            |east, west| {
                [east, west].iter().all(|stand| {
                    stand.import["spec"]["type"] == "ClusterSetIP"
                        && stand.conflicts().starts_with("TypeConflict")
                })
            },
        ),
        case(
            "a headless import without an address, and a slice of each cluster's pods",
            "headless",
            [with("clusterIP", json!("None")), none()],
            |east, west| {
                [east, west].iter().all(|stand| {
                    let [slice] = stand.slices.as_slice() else {
                        return false;
                    };
                    let labels = &slice["metadata"]["labels"];
                    stand.is_ready()
                        && stand.import["spec"]["type"] == "Headless"
                        && stand.import["spec"]["ips"].is_null()
                        && stand.derived["spec"]["clusterIP"] == "None"
                        && labels["multicluster.kubernetes.io/source-cluster"] == "east"
                        && labels["endpointslice.kubernetes.io/managed-by"]
                            == "controller.isthmus.dev"
                        && slice["metadata"]["ownerReferences"][0]["uid"]
                            == stand.import["metadata"]["uid"]
                        && slice["addressType"] == "IPv4"
                        && slice["endpoints"][0]["addresses"] == json!(["10.20.0.1"])
                        && slice["endpoints"][0]["hostname"] == "headless-0"
                        && slice["ports"][0]["port"] == 8080
                })
            },
        ),
        case(
            "no import of an ExternalName, told to its exporter",
            "alias",
            [
                json!({ "type": "ExternalName", "externalName": "example.com" }),
                none(),
            ],
            |east, west| {
                east.said("Valid") == ("False".to_owned(), "InvalidServiceType".to_owned())
                    && east.import.is_null()
                    && west.import.is_null()
            },
        ),
    ]
}

/// A pod of the headless service, as a cluster's own controllers would tell of it.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: headless-0, namespace: shop, labels: { app: x } }
spec: { hostname: headless-0, subdomain: headless, containers: [ { name: a, image: a } ] }
status:
  phase: Running
  podIP: 10.20.0.1
  podIPs: [ { ip: 10.20.0.1 } ]
  conditions: [ { type: Ready, status: 'True' } ]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: headless-abc, namespace: shop, labels: { kubernetes.io/service-name: headless } }
addressType: IPv4
ports: [ { name: http, port: 8080, protocol: TCP } ]
endpoints:
- addresses: [ 10.20.0.1 ]
  hostname: headless-0
  conditions: { ready: true, serving: true, terminating: false }
  targetRef: { kind: Pod, name: headless-0, namespace: shop }
";
const LONELY: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: lonely }
---
apiVersion: v1
kind: Service
metadata: { name: plain, namespace: lonely }
spec: { selector: { app: x }, ports: [ { port: 80 } ] }
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: { name: plain, namespace: lonely }
";

fn service(name: &str, spec: &Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "labels": { "own": "label" } });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

fn export(name: &str, spec: &Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop" });
    json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": metadata, "spec": spec })
}

/// Without kubelets nobody says that a pod has an address: it is told by hand. Both clusters are on one
/// network.
async fn prepare(east: &Cluster, west: &Cluster) {
    for cluster in [east, west] {
        let mesh = json!({ "apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster",
            "metadata": { "name": cluster.name() }, "spec": { "network": "flat" } });
        cluster.admin().apply(&mesh).await.unwrap();
    }
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "default", "namespace": "shop" } });
    east.admin().apply(&account).await.unwrap();
    east.admin().apply_text(POD).await.unwrap();
    east.admin().apply_text(LONELY).await.unwrap();
    for case in cases() {
        // East's export is the oldest, or of the same second and first by name.
        for (cluster, spec) in [(east, &case.specs[0]), (west, &case.specs[1])] {
            if spec.is_null() {
                continue;
            }
            cluster
                .admin()
                .apply(&service(case.name, spec))
                .await
                .unwrap();
            let own = if cluster.name() == "east" {
                case.export.clone()
            } else {
                json!({})
            };
            cluster
                .admin()
                .apply(&export(case.name, &own))
                .await
                .unwrap();
        }
    }
}

/// Until every case holds; says which do not.
async fn all_hold(east: &Cluster, west: &Cluster) {
    for case in cases() {
        until(case.promise, async || {
            let stands = [
                Stand::of(east, "shop", case.name).await,
                Stand::of(west, "shop", case.name).await,
            ];
            (case.holds)(&stands[0], &stands[1])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_all_clusters_behave_as_the_standard_says() {
    let Some([east, west]) = two().await else {
        return;
    };
    prepare(&east, &west).await;
    let control = Control::start(&[&east, &west]);
    all_hold(&east, &west).await;

    // No namespace, no import: who owns the name there decides.
    until("an import where the namespace is", async || {
        Stand::of(&east, "lonely", "plain").await.is_ready()
    })
    .await;
    assert!(Stand::of(&west, "lonely", "plain").await.import.is_null());

    // Another control plane changes nothing, least of all an address.
    let before = Stand::of(&west, "shop", "plain").await;
    drop(control);
    let control = Control::start(&[&east, &west]);
    let lonely =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "lonely" } });
    west.admin().apply(&lonely).await.unwrap();
    until("an import in a namespace that came later", async || {
        Stand::of(&west, "lonely", "plain").await.is_ready()
    })
    .await;
    let after = Stand::of(&west, "shop", "plain").await;
    assert_eq!(before.import["spec"]["ips"], after.import["spec"]["ips"]);
    assert_eq!(
        before.import["metadata"]["uid"],
        after.import["metadata"]["uid"]
    );

    // An import is there as long as one cluster exports it, and goes with the last.
    east.admin()
        .delete(&export("named", &json!({})))
        .await
        .unwrap();
    until("one exporter less", async || {
        let stand = Stand::of(&east, "shop", "named").await;
        stand.clusters() == ["west"] && stand.is_ready()
    })
    .await;
    for case in cases() {
        for cluster in [&east, &west] {
            cluster
                .admin()
                .delete(&export(case.name, &json!({})))
                .await
                .unwrap();
        }
    }
    for case in cases() {
        until("gone with the last export", async || {
            let stands = [
                Stand::of(&east, "shop", case.name).await,
                Stand::of(&west, "shop", case.name).await,
            ];
            let is_gone =
                |s: &Stand| s.import.is_null() && s.derived.is_null() && s.slices.is_empty();
            stands.iter().all(is_gone)
        })
        .await;
    }
    assert_eq!(control.problems.list(), vec![]);
    for cluster in [east, west] {
        cluster.end().await.unwrap();
    }
}
