//! How does a mesh come to be?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;

use isthmus_test_clusters::Programs;
use serde_json::{Value, json};

use super::{Listener, Mesh, put};
use crate::address::Subnet;
use crate::app::AppServer;
use crate::control::ControlPlane;
use crate::front::Writes;
use crate::link::Link;
use crate::manifest::{self, PodManifest};
use crate::plan::{ClusterPlan, MeshPlan, NAMESPACE, SYSTEM, ServicePlan};
use crate::proxy::{GATEWAY_PORT, MESH_PORT, Proxy};
use crate::servers::{self, Server};

/// Where captured connections are led to.
const OUTBOUND_PORT: u16 = 15_001;
const INBOUND_PORT: u16 = 15_006;
/// Host parts of a network's addresses. Gateways: 2 to 9, their links: 202 to 209.
const GATEWAY_FIRST: u8 = 2;
const LINK_OFFSET: u8 = 200;
const POD_FIRST: u8 = 10;
/// The control plane, and the second one.
const FIRST: u8 = 1;
const REPLICA: u8 = 251;

impl MeshPlan {
    /// Starts it all, and waits until every proxy is ready.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(self) -> Mesh {
        log_if_wanted();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut subnets, mut folders) = (BTreeMap::new(), Vec::new());
        for cluster in &self.clusters {
            let files = folder.path().join(&cluster.name);
            std::fs::create_dir(&files).expect("a folder for a cluster");
            let joins = self.joined && !folders.is_empty();
            match &self.servers {
                _ if joins => {}
                None => folders.push(json!({ "name": cluster.name, "files": files })),
                Some(_) => folders.push(servers::origin(&cluster.name, folder.path())),
            }
            subnets.insert(cluster.name.clone(), Subnet::claim());
        }
        let (control, other) = self.replicas(folder.path(), &folders, &subnets);
        let mut mesh = Mesh {
            proxies: BTreeMap::new(),
            apps: BTreeMap::new(),
            pods: BTreeMap::new(),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            control,
            other,
            servers: BTreeMap::new(),
            folder,
            _subnets: BTreeMap::new(),
        };
        for cluster in &self.clusters {
            if let Some(subnet) = subnets.get(&cluster.name) {
                Building {
                    mesh: &mut mesh,
                    plan: &self,
                    cluster,
                    subnet,
                    next: POD_FIRST,
                }
                .build()
                .await;
            }
        }
        mesh._subnets = subnets;
        if let Some(programs) = &self.servers {
            Box::pin(mesh.move_to_servers(programs, &self)).await;
        }
        Box::pin(mesh.run()).await;
        mesh
    }

    /// The control plane, and a second one where there are two.
    fn replicas(
        &self,
        folder: &Path,
        origins: &[Value],
        subnets: &BTreeMap<String, Subnet>,
    ) -> (ControlPlane, Option<ControlPlane>) {
        let (home, subnet) = subnets.first_key_value().expect("at least one cluster");
        let replica = |host, state_dir| {
            let (at, state_dir) = (subnet.host(host), folder.join(state_dir));
            let mut replica = ControlPlane::new(at, &state_dir, origins, self.certificate_seconds);
            if self.joined || self.replicas {
                replica.set_home(json!({ "cluster": home, "allow": ["loopback"] }));
                replica.share_keys();
            }
            if self.joined {
                replica.configure("secret_copies", json!(state_dir.with_extension("copies")));
            }
            if let Some(program) = &self.program {
                replica.set_program(program, &format!("replica-{}", u8::from(host == REPLICA)));
            }
            replica
        };
        let other = || replica(REPLICA, "other-control-plane");
        (replica(FIRST, "control-plane"), self.replicas.then(other))
    }
}

impl Mesh {
    /// What was written into folders goes into API servers.
    async fn move_to_servers(&mut self, programs: &Programs, plan: &MeshPlan) {
        for cluster in &plan.clusters {
            let name = cluster.name.clone();
            let mut server = Server::start(programs, &name).await;
            if plan.fronts {
                server.set_front(&Writes::default()).await;
            }
            let root = self.folder.path();
            server.fill(&root.join(&name)).await;
            server.write_kubeconfig(root);
            let pods = self.pods.iter().filter_map(|(full, pod)| {
                let (cluster, _) = full.split_once('/')?;
                (cluster == name).then_some(pod)
            });
            for pod in pods {
                let token = server.token(pod).await;
                let place = root.join("proxies").join(&name).join(&pod.name);
                std::fs::write(place.join("token"), token).expect("a token on disk");
            }
            match self.servers.values().next() {
                Some(home) if plan.joined => home.invite(&server, &cluster.network).await,
                Some(_) | None => {}
            }
            self.servers.insert(name, server);
        }
    }

    async fn run(&mut self) {
        self.control.start().await;
        if let Some(other) = &mut self.other {
            other.start().await;
        }
        for proxy in self.proxies.values_mut() {
            proxy.start().await;
        }
        for proxy in self.proxies.values() {
            proxy.ready().await;
        }
    }
}

/// One cluster on its way.
struct Building<'a> {
    mesh: &'a mut Mesh,
    plan: &'a MeshPlan,
    cluster: &'a ClusterPlan,
    subnet: &'a Subnet,
    next: u8,
}

impl Building<'_> {
    async fn build(mut self) {
        let cluster = self.cluster;
        self.put(
            "cluster.yaml",
            &manifest::cluster(&cluster.name, &cluster.network),
        );
        for (file, text) in &cluster.manifests {
            self.put(file, text);
        }
        for number in (1u8..).take(cluster.gateways) {
            self.gateway(number).await;
        }
        for (number, service) in cluster.services.iter().enumerate() {
            let ip = format!("10.96.0.{}", number + 10);
            self.put(
                &format!("service-{}.yaml", service.name),
                &manifest::service(service, &ip),
            );
            for pod in 1..=service.pods {
                self.pod(service, pod).await;
            }
        }
        for client in &cluster.clients {
            let listeners = self.listeners(&client.also);
            let destinations: Vec<String> = listeners
                .iter()
                .map(|listener| listener.destination.clone())
                .collect();
            let name = format!("{}-1", client.name);
            self.mesh
                .listeners
                .insert(format!("{}/{name}", cluster.name), listeners);
            let pod = self.declare(NAMESPACE, &name, &client.name);
            self.sidecar(&pod, &destinations);
        }
    }

    fn put(&self, file: &str, text: &str) {
        put(
            &self.mesh.folder.path().join(&self.cluster.name),
            file,
            text,
        );
    }

    /// Writes a pod's manifest.
    fn declare(&mut self, namespace: &str, name: &str, account: &str) -> PodManifest {
        let address = self.subnet.host(self.next);
        self.next += 1;
        let pod = PodManifest {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            app: account.to_owned(),
            account: account.to_owned(),
            address,
            ready: true,
            node: None,
        };
        self.keep(&pod);
        pod
    }

    fn keep(&mut self, pod: &PodManifest) {
        self.put(&format!("pod-{}.yaml", pod.name), &pod.text());
        self.mesh
            .pods
            .insert(format!("{}/{}", self.cluster.name, pod.name), pod.clone());
    }

    async fn pod(&mut self, service: &ServicePlan, number: usize) {
        let name = format!("{}-{number}", service.name);
        let pod = self.declare(NAMESPACE, &name, &service.name);
        let full = format!("{}/{name}", self.cluster.name);
        for port in &service.ports {
            let address = SocketAddr::new(pod.address, port.target());
            let app = AppServer::start(&full, address, port.app.clone()).await;
            self.mesh.apps.insert((full.clone(), port.port), app);
        }
        self.sidecar(&pod, &[]);
    }

    async fn gateway(&mut self, number: u8) {
        let name = format!("gateway-{number}");
        let host = GATEWAY_FIRST + number - 1;
        let address = self.subnet.host(host);
        let full = format!("{}/{name}", self.cluster.name);
        let mut front = address;
        if self.cluster.linked {
            front = self.subnet.host(LINK_OFFSET + host);
            let [from, to] = [front, address].map(|ip| SocketAddr::new(ip, GATEWAY_PORT));
            self.mesh
                .links
                .insert(full.clone(), Link::start(from, to, u64::from(number)).await);
        }
        self.put(
            &format!("{name}.yaml"),
            &manifest::gateway(&name, front, GATEWAY_PORT),
        );
        let pod = PodManifest {
            namespace: SYSTEM.to_owned(),
            name: name.clone(),
            app: "gateway".to_owned(),
            account: "gateway".to_owned(),
            address,
            ready: true,
            node: None,
        };
        self.keep(&pod);
        let listen =
            json!({ "gateway": SocketAddr::new(address, GATEWAY_PORT), "admin": "127.0.0.1:0" });
        self.proxy(&pod, "gateway", &listen);
    }

    fn sidecar(&mut self, pod: &PodManifest, destinations: &[String]) {
        let virtuals: Vec<Value> = destinations
            .iter()
            .map(|to| json!({ "listen": "127.0.0.1:0", "destination": to }))
            .collect();
        let captured = |port| {
            self.plan
                .captured
                .then(|| SocketAddr::new(pod.address, port))
        };
        let listen = json!({
            "inbound": captured(INBOUND_PORT),
            "outbound": captured(OUTBOUND_PORT),
            "mesh": SocketAddr::new(pod.address, MESH_PORT),
            "virtual": virtuals,
            "admin": "127.0.0.1:0",
        });
        self.proxy(pod, "sidecar", &listen);
    }

    fn proxy(&mut self, pod: &PodManifest, role: &str, listen: &Value) {
        let PodManifest {
            namespace,
            name,
            account,
            address,
            ..
        } = pod;
        let cluster = &self.cluster.name;
        let place: PathBuf = self
            .mesh
            .folder
            .path()
            .join("proxies")
            .join(cluster)
            .join(name);
        std::fs::create_dir_all(&place).expect("a folder for a proxy");
        // On API servers the token comes when the pod is there.
        if self.plan.servers.is_none() {
            let token = self.mesh.control.token(cluster, namespace, name, account);
            std::fs::write(place.join("token"), token).expect("a token on disk");
        }
        let replicas = std::iter::once(&self.mesh.control).chain(&self.mesh.other);
        let replicas: Vec<_> = replicas.map(ControlPlane::discovery).collect();
        let mut config = json!({
            "role": role,
            "cluster": cluster,
            "network": self.cluster.network,
            "namespace": namespace,
            "pod": name,
            "service_account": account,
            "addresses": [address],
            "control_plane": {
                "address": replicas,
                "roots_file": self.mesh.control.roots_file(),
            },
            "token_file": place.join("token"),
            "listen": listen,
            // From other networks only the gateway is open.
            "mesh_accept_from": if role == "sidecar" { vec![self.subnet.cidr()] } else { Vec::new() },
            "source": address,
            "application": address,
            "workers": self.plan.workers,
            "drain_seconds": self.plan.drain_seconds,
            "access_log": place.join("access.log"),
        });
        if let Some(keys) = config.as_object_mut() {
            keys.extend(self.plan.settings.clone());
        }
        let full = format!("{cluster}/{name}");
        self.mesh
            .proxies
            .insert(full.clone(), Proxy::new(&full, config, place.join("state")));
    }

    /// A listener for every port of every service, and for what else is wanted.
    fn listeners(&self, also: &[String]) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = Vec::new();
        for cluster in &self.plan.clusters {
            let visible = |s: &&ServicePlan| s.exported || cluster.name == self.cluster.name;
            for service in cluster.services.iter().filter(visible) {
                for port in &service.ports {
                    let destination = format!("{}:{}", service.host(), port.port);
                    if listeners
                        .iter()
                        .all(|listener| listener.destination != destination)
                    {
                        let (service, port, host) =
                            (service.name.clone(), port.port, service.host());
                        listeners.push(Listener {
                            service,
                            port,
                            host,
                            destination,
                        });
                    }
                }
            }
        }
        listeners.extend(also.iter().map(|destination| Listener {
            service: String::new(),
            port: 0,
            host: destination.clone(),
            destination: destination.clone(),
        }));
        listeners
    }
}

/// `ISTHMUS_LOG=debug` shows what everything does. Access logs are files: see [`Proxy::log`].
fn log_if_wanted() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = std::env::var("ISTHMUS_LOG") {
            // Somebody else's subscriber is as good.
            let _ = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_thread_names(true)
                .try_init();
        }
    });
}
