//! What is in a mesh: which clusters, services, pods?

use std::path::{Path, PathBuf};

use isthmus_test_clusters::Programs;

use crate::app::App;

/// A mesh to be.
#[derive(Debug, Default)]
pub struct MeshPlan {
    pub(crate) clusters: Vec<ClusterPlan>,
    pub(crate) workers: usize,
    pub(crate) drain_seconds: u64,
    pub(crate) certificate_seconds: Option<u64>,
    pub(crate) captured: bool,
    pub(crate) settings: serde_json::Map<String, serde_json::Value>,
    pub(crate) servers: Option<Programs>,
    pub(crate) replicas: bool,
    pub(crate) program: Option<PathBuf>,
    pub(crate) fronts: bool,
    pub(crate) joined: bool,
}

/// A cluster to be.
#[derive(Debug)]
pub struct ClusterPlan {
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) services: Vec<ServicePlan>,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) gateways: usize,
    pub(crate) linked: bool,
    pub(crate) manifests: Vec<(String, String)>,
}

/// A service to be, with its pods.
#[derive(Debug, Clone)]
pub struct ServicePlan {
    pub(crate) name: String,
    pub(crate) pods: usize,
    pub(crate) ports: Vec<PortPlan>,
    pub(crate) exported: bool,
}

/// A port of a service, and what answers there.
#[derive(Debug, Clone)]
pub struct PortPlan {
    /// Its name in the Service.
    pub name: String,
    /// Its number in the Service. The pods listen on this plus 8000.
    pub port: u16,
    /// `appProtocol`; empty: undeclared.
    pub protocol: String,
    /// What answers.
    pub app: App,
}

impl PortPlan {
    /// Where a pod listens.
    #[must_use]
    pub fn target(&self) -> u16 {
        self.port.saturating_add(8000)
    }
}

/// A pod without an application of its own, whose sidecar has a listener for every service.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    pub(crate) name: String,
    pub(crate) also: Vec<String>,
}

impl MeshPlan {
    /// Adds a cluster.
    #[must_use]
    pub fn cluster(mut self, name: &str, plan: impl FnOnce(ClusterPlan) -> ClusterPlan) -> Self {
        self.clusters.push(plan(ClusterPlan::new(name)));
        self
    }

    /// Worker threads of each proxy. Default: 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The clusters' objects live in API servers, one for each. Default: in folders.
    #[must_use]
    pub fn on_servers(mut self, programs: Programs) -> Self {
        self.servers = Some(programs);
        self
    }

    /// Two control planes, equal, with their keys in the first cluster, which has an API server.
    #[must_use]
    pub fn two_replicas(mut self, programs: Programs) -> Self {
        self.replicas = true;
        self.on_servers(programs)
    }

    /// The control planes are processes of this program, `isthmus`. Default: threads of ours.
    #[must_use]
    pub fn as_processes(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Puts a [`crate::Front`] before each API server.
    #[must_use]
    pub fn fronted(mut self) -> Self {
        self.fronts = true;
        self
    }

    /// The first cluster is home and has the keys, and the others join by its objects: each by a Secret
    /// and a MeshCluster of its name. What its Secrets say is kept. Default: all are configured.
    #[must_use]
    pub fn joined(mut self) -> Self {
        self.joined = true;
        self
    }

    /// How long a proxy that stops waits for what is open. Default: 1 s.
    #[must_use]
    pub fn drain_seconds(mut self, seconds: u64) -> Self {
        self.drain_seconds = seconds;
        self
    }

    /// Sidecars listen on 15001 and 15006 too, for connections that the kernel leads there.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.captured = true;
        self
    }

    /// A key of every proxy's configuration.
    #[must_use]
    pub fn proxies(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// How long workloads' certificates are valid. Default: 36 h.
    #[must_use]
    pub fn certificate_seconds(mut self, seconds: u64) -> Self {
        self.certificate_seconds = Some(seconds);
        self
    }
}

impl ClusterPlan {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            network: format!("{name}-net"),
            services: Vec::new(),
            clients: Vec::new(),
            gateways: 1,
            linked: false,
            manifests: Vec::new(),
        }
    }

    /// The network it is on. Default: one of its own.
    #[must_use]
    pub fn network(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// An exported service with an HTTP/1.1 port 80 and this many pods, `<name>-1` and so on.
    #[must_use]
    pub fn service(self, name: &str, pods: usize) -> Self {
        self.service_with(name, pods, |service| {
            service.port("http", 80, "http", App::Http)
        })
    }

    /// An exported service with the ports that `plan` adds.
    #[must_use]
    pub fn service_with(
        mut self,
        name: &str,
        pods: usize,
        plan: impl FnOnce(ServicePlan) -> ServicePlan,
    ) -> Self {
        self.services.push(plan(ServicePlan::new(name, pods)));
        self
    }

    /// A client, `shop/<name>-1`, whose service account is its name.
    #[must_use]
    pub fn client(self, name: &str) -> Self {
        self.client_with(name, &[])
    }

    /// A client with listeners for other destinations too.
    #[must_use]
    pub fn client_with(mut self, name: &str, also: &[&str]) -> Self {
        let also = also
            .iter()
            .map(|&destination| destination.to_owned())
            .collect();
        self.clients.push(ClientPlan {
            name: name.to_owned(),
            also,
        });
        self
    }

    /// How many gateways it has. Default: 1.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// Puts a [`crate::Link`] in front of each gateway.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// A manifest that is there from the beginning.
    #[must_use]
    pub fn manifest(mut self, file: &str, text: &str) -> Self {
        self.manifests.push((file.to_owned(), text.to_owned()));
        self
    }
}

impl ServicePlan {
    /// An exported service without a port.
    #[must_use]
    pub fn new(name: &str, pods: usize) -> Self {
        Self {
            name: name.to_owned(),
            pods,
            ports: Vec::new(),
            exported: true,
        }
    }

    /// Adds a port. `protocol`: its `appProtocol`, empty for none.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, protocol: &str, app: App) -> Self {
        let (name, protocol) = (name.to_owned(), protocol.to_owned());
        self.ports.push(PortPlan {
            name,
            port,
            protocol,
            app,
        });
        self
    }

    /// Not for other clusters.
    #[must_use]
    pub fn unexported(mut self) -> Self {
        self.exported = false;
        self
    }

    /// Its name for clients: of the whole mesh where it is exported, of its cluster where not.
    #[must_use]
    pub fn host(&self) -> String {
        let zone = if self.exported {
            "clusterset.local"
        } else {
            "cluster.local"
        };
        format!("{}.{NAMESPACE}.svc.{zone}", self.name)
    }
}

/// The namespace of every service and client.
pub const NAMESPACE: &str = "shop";
/// The namespace of gateways and the control plane.
pub const SYSTEM: &str = "isthmus-system";
