//! Which objects does a generated cluster have?
//!
//! Made from numbers when they are asked for; as large as what an API server sends of a usual pod.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Outcome;

/// Of everything in a cluster.
pub(crate) const NAMESPACE: &str = "shop";
/// Bytes that a pod has besides what is read: managed fields, volumes, environment, probes.
const POD_PADDING: usize = 4_300;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// API servers.
    pub(crate) clusters: usize,
    /// API servers besides that mean harm.
    pub(crate) hostile: usize,
    /// Services of all clusters together, all of them exported.
    pub(crate) services: usize,
    /// Endpoints of all clusters together: pods, and their places in slices.
    pub(crate) endpoints: usize,
    /// Proxies that call services ...
    pub(crate) proxies: usize,
    /// ... so many each ...
    pub(crate) each: usize,
    /// ... and proxies that call none.
    pub(crate) idle: usize,
    /// Changes of endpoints each second ...
    pub(crate) rate: usize,
    /// ... for so long.
    pub(crate) seconds: usize,
    /// Seconds without a control plane before it is started again.
    pub(crate) away: usize,
    /// 1: real API servers, two of them unless it is said else.
    pub(crate) real: bool,
}

impl Size {
    /// The targets' size, with what `KEY=VALUE` words say else.
    pub(crate) fn of(words: &[String]) -> Outcome<Self> {
        let mut size = Self {
            clusters: 10,
            hostile: 0,
            services: 10_000,
            endpoints: 100_000,
            proxies: 1_000,
            each: 10,
            idle: 50,
            rate: 1_000,
            seconds: 20,
            away: 0,
            real: false,
        };
        if words.iter().any(|word| word == "real=1") {
            size = size.of_real_servers();
        }
        for word in words {
            let (key, value) = word.split_once('=').ok_or("KEY=VALUE is wanted")?;
            let value: usize = value.parse()?;
            match key {
                "clusters" => size.clusters = value.max(1),
                "hostile" => size.hostile = value,
                "services" => size.services = value.max(1),
                "endpoints" => size.endpoints = value.max(1),
                "proxies" => size.proxies = value,
                "each" => size.each = value,
                "idle" => size.idle = value,
                "rate" => size.rate = value.max(1),
                "seconds" => size.seconds = value.max(1),
                "away" => size.away = value,
                "real" => size.real = value > 0,
                _ => return Err(format!("{key} is no key").into()),
            }
        }
        Ok(size)
    }

    /// As words, for another process: how much there is.
    pub(crate) fn words(self) -> [String; 3] {
        [
            format!("clusters={}", self.clusters),
            format!("services={}", self.services),
            format!("endpoints={}", self.endpoints),
        ]
    }

    /// What two API servers of a laptop take in a minute.
    fn of_real_servers(self) -> Self {
        Self {
            clusters: 2,
            services: 300,
            endpoints: 3_000,
            proxies: 100,
            each: 3,
            idle: 10,
            real: true,
            ..self
        }
    }

    /// Services of one cluster.
    pub(crate) fn services_each(self) -> usize {
        (self.services / self.clusters).max(1)
    }

    /// Pods of one service.
    pub(crate) fn pods_each(self) -> usize {
        (self.endpoints / self.services).max(1)
    }

    /// Pods of one cluster.
    pub(crate) fn pods_of_cluster(self) -> usize {
        self.services_each() * self.pods_each()
    }

    /// Where the service of this number is: cluster, and number in it.
    pub(crate) fn place(self, service: usize) -> (usize, usize) {
        let wrapped = service % (self.services_each() * self.clusters);
        (
            wrapped / self.services_each(),
            wrapped % self.services_each(),
        )
    }
}

/// A cluster's name.
pub(crate) fn cluster_name(cluster: usize) -> String {
    format!("c{cluster}")
}

/// A service's name in its cluster; no two clusters have one in common.
pub(crate) fn service_name(cluster: usize, service: usize) -> String {
    format!("s{cluster}-{service}")
}

/// What a proxy subscribes to.
pub(crate) fn subscription(cluster: usize, service: usize) -> String {
    let name = service_name(cluster, service);
    format!("{NAMESPACE}/{name}.{NAMESPACE}.svc.clusterset.local")
}

/// A pod's name.
pub(crate) fn pod_name(service: usize, pod: usize) -> String {
    format!("p{service}-{pod}")
}

/// What a proxy in a pod is called.
pub(crate) fn workload(cluster: usize, service: usize, pod: usize) -> String {
    let (cluster, pod) = (cluster_name(cluster), pod_name(service, pod));
    format!("{cluster}/{NAMESPACE}/{pod}")
}

/// The collections that a cluster has, by path, and how many objects each has.
pub(crate) fn collections(size: Size) -> Vec<(&'static str, usize)> {
    let services = size.services_each();
    vec![
        ("/api/v1/namespaces", 1),
        ("/api/v1/nodes", 1),
        ("/api/v1/configmaps", 0),
        ("/api/v1/services", services),
        ("/api/v1/pods", size.pods_of_cluster()),
        ("/apis/discovery.k8s.io/v1/endpointslices", services),
        (
            "/apis/multicluster.x-k8s.io/v1beta1/serviceexports",
            services,
        ),
        ("/apis/isthmus.dev/v1alpha1/meshclusters", 1),
        ("/apis/isthmus.dev/v1alpha1/accesspolicies", 0),
        ("/apis/isthmus.dev/v1alpha1/trustpolicies", 0),
        ("/apis/isthmus.dev/v1alpha1/trafficpolicies", 0),
    ]
}

/// One object of a collection.
pub(crate) fn object(size: Size, path: &str, cluster: usize, number: usize) -> Value {
    let plural = path.rsplit('/').next().unwrap_or("");
    match plural {
        "namespaces" => json!({ "metadata": meta("", NAMESPACE, cluster, number) }),
        "nodes" => {
            let mut node = json!({ "metadata": meta("", "node", cluster, number) });
            node["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": "a" });
            node
        }
        "services" => service(cluster, number),
        "pods" => pod(size, cluster, number),
        "endpointslices" => slice(size, (cluster, number), &Slice::default()),
        "serviceexports" => {
            let name = service_name(cluster, number);
            json!({ "metadata": meta(NAMESPACE, &name, cluster, number) })
        }
        _ => {
            let name = cluster_name(cluster);
            let network = format!("{name}-net");
            json!({ "metadata": meta("", &name, cluster, number), "spec": { "network": network } })
        }
    }
}

fn meta(namespace: &str, name: &str, cluster: usize, number: usize) -> Value {
    let mut meta = json!({
        "name": name, "uid": format!("{cluster}-{namespace}-{name}-{number}"), "resourceVersion": "1",
        "creationTimestamp": "2026-11-01T00:00:00Z",
    });
    if !namespace.is_empty() {
        meta["namespace"] = namespace.into();
    }
    meta
}

fn service(cluster: usize, number: usize) -> Value {
    let name = service_name(cluster, number);
    let ip = format!("10.{}.{}.{}", 100 + cluster, number / 250, 1 + number % 250);
    json!({
        "metadata": meta(NAMESPACE, &name, cluster, number),
        "spec": {
            "clusterIP": ip, "selector": { "app": name }, "type": "ClusterIP",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
        },
    })
}

fn address(cluster: usize, pod: usize) -> String {
    format!("10.{cluster}.{}.{}", pod / 250, 1 + pod % 250)
}

fn pod(size: Size, cluster: usize, number: usize) -> Value {
    let (service, pod) = (number / size.pods_each(), number % size.pods_each());
    let (name, ip) = (pod_name(service, pod), address(cluster, number));
    let app = service_name(cluster, service);
    let mut meta = meta(NAMESPACE, &name, cluster, number);
    meta["labels"] = json!({ "app": app, "isthmus.dev/mesh": "true" });
    meta["annotations"] = json!({ "padding": "x".repeat(POD_PADDING) });
    json!({
        "metadata": meta,
        "spec": {
            "nodeName": "node", "serviceAccountName": app,
            "containers": [{ "name": "app", "image": "app:1",
                "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }] }],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// What has become of a service's slice.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) version: u64,
    /// Pods that are not ready.
    pub(crate) down: BTreeSet<usize>,
}

impl Default for Slice {
    fn default() -> Self {
        Self {
            version: 1,
            down: BTreeSet::new(),
        }
    }
}

/// The slice of a service.
pub(crate) fn slice(size: Size, (cluster, service): (usize, usize), state: &Slice) -> Value {
    let name = service_name(cluster, service);
    let mut meta = meta(NAMESPACE, &name, cluster, service);
    meta["resourceVersion"] = state.version.to_string().into();
    meta["labels"] = json!({ "kubernetes.io/service-name": name });
    let endpoint = |pod: usize| {
        let number = service * size.pods_each() + pod;
        let ready = !state.down.contains(&pod);
        json!({
            "addresses": [address(cluster, number)], "zone": "a", "nodeName": "node",
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
            "targetRef": { "kind": "Pod", "name": pod_name(service, pod), "namespace": NAMESPACE },
        })
    };
    let endpoints: Vec<Value> = (0..size.pods_each()).map(endpoint).collect();
    json!({
        "metadata": meta, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}
