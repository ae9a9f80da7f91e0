//! How does a cluster say what it has? Ordinary Kubernetes YAML.

use std::net::IpAddr;

use crate::plan::{NAMESPACE, SYSTEM, ServicePlan};

/// The cluster itself and its namespaces.
#[must_use]
pub fn cluster(name: &str, network: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1
kind: MeshCluster
metadata:
  name: {name}
spec:
  network: {network}
  region: {name}-region
  zone: {name}-a
---
apiVersion: v1
kind: Namespace
metadata:
  name: {SYSTEM}
---
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
"
    )
}

/// A gateway of the cluster.
#[must_use]
pub fn gateway(name: &str, address: IpAddr, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
  namespace: {SYSTEM}
spec:
  gatewayClassName: isthmus-east-west
  listeners:
  - name: mesh
    port: {port}
    protocol: TLS
    tls:
      mode: Passthrough
  addresses:
  - type: IPAddress
    value: {address}
"
    )
}

/// A service, and its export if it is for all clusters.
#[must_use]
pub fn service(plan: &ServicePlan, virtual_ip: &str) -> String {
    let name = &plan.name;
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  clusterIP: {virtual_ip}
  selector:
    app: {name}
  ports:
"
    );
    for port in &plan.ports {
        let (name, number, target) = (&port.name, port.port, port.target());
        text += &format!("  - {{name: {name}, port: {number}, targetPort: {target}");
        if !port.protocol.is_empty() {
            text += &format!(", appProtocol: {}", port.protocol);
        }
        text += "}\n";
    }
    if plan.exported {
        text += &export(name);
    }
    text
}

/// The export of a service.
#[must_use]
pub fn export(name: &str) -> String {
    format!(
        "---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata:
  name: {name}
  namespace: {NAMESPACE}
"
    )
}

/// What a pod's manifest says.
#[derive(Debug, Clone)]
pub struct PodManifest {
    /// `shop`, mostly.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The label `app`.
    pub app: String,
    /// Who it is.
    pub account: String,
    /// Its address.
    pub address: IpAddr,
    /// Does it serve?
    pub ready: bool,
    /// The node that it runs on; `None`: it names none.
    pub node: Option<String>,
}

impl PodManifest {
    /// As YAML.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            namespace,
            name,
            app,
            account,
            address,
            ready,
            node,
        } = self;
        let node = node.iter().map(|name| format!("\n  nodeName: {name}"));
        let node: String = node.collect();
        let ready = if *ready { "True" } else { "False" };
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app: {app}
    isthmus.dev/mesh: \"true\"
spec:
  serviceAccountName: {account}{node}
  containers:
  - name: app
    image: app
status:
  phase: Running
  podIP: {address}
  conditions:
  - type: Ready
    status: \"{ready}\"
"
        )
    }
}
