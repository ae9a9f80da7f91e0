//! How does a whole mesh start, change and stop?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Once;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::address::Subnet;
use crate::app::AppServer;
use crate::client::Client;
use crate::control::ControlPlane;
use crate::link::Link;
use crate::manifest::{self, PodManifest};
use crate::plan::{ClusterPlan, MeshPlan, NAMESPACE, SYSTEM, ServicePlan};
use crate::proxy::{GATEWAY_PORT, MESH_PORT, Proxy};

/// Host parts of a network's addresses. Gateways: 2 to 9, their links: 202 to 209.
const GATEWAY_FIRST: u8 = 2;
const LINK_OFFSET: u8 = 200;
const POD_FIRST: u8 = 10;

/// A mesh that runs. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    proxies: BTreeMap<String, Proxy>,
    apps: BTreeMap<(String, u16), AppServer>,
    pods: BTreeMap<String, PodManifest>,
    links: BTreeMap<String, Link>,
    listeners: BTreeMap<String, Vec<Listener>>,
    control: ControlPlane,
    folder: TempDir,
    _subnets: BTreeMap<String, Subnet>,
}

/// What a client's explicit listener stands for.
#[derive(Debug, Clone)]
struct Listener {
    service: String,
    port: u16,
    host: String,
    destination: String,
}

impl Mesh {
    /// A mesh to be.
    #[must_use]
    pub fn builder() -> MeshPlan {
        MeshPlan {
            workers: 1,
            drain_seconds: 1,
            ..MeshPlan::default()
        }
    }

    /// A client of the sidecar `cluster/name`.
    ///
    /// # Panics
    /// There is no such client.
    #[must_use]
    pub fn client(&self, name: &str) -> Caller<'_> {
        let name = format!("{name}-1");
        let listeners = self.listeners.get(&name).expect("a client of this name");
        Caller {
            proxy: self.proxy(&name),
            listeners,
        }
    }

    /// A proxy: `cluster/pod`; the gateways are `gateway-1` and so on.
    ///
    /// # Panics
    /// There is no such proxy.
    #[must_use]
    pub fn proxy(&self, name: &str) -> &Proxy {
        self.proxies.get(name).expect("a proxy of this name")
    }

    /// The same, to be stopped and started.
    ///
    /// # Panics
    /// There is no such proxy.
    pub fn proxy_mut(&mut self, name: &str) -> &mut Proxy {
        self.proxies.get_mut(name).expect("a proxy of this name")
    }

    /// What answers on a pod's first port: `cluster/pod`.
    ///
    /// # Panics
    /// There is no such pod.
    #[must_use]
    pub fn app(&self, name: &str) -> &AppServer {
        let (_, app) = self
            .apps
            .iter()
            .find(|((pod, _), _)| pod == name)
            .expect("an app of this pod");
        app
    }

    /// What answers on a service port of a pod.
    ///
    /// # Panics
    /// There is no such pod or port.
    #[must_use]
    pub fn app_on(&self, name: &str, port: u16) -> &AppServer {
        self.apps
            .get(&(name.to_owned(), port))
            .expect("an app of this pod and port")
    }

    /// What answers on a pod's first port, to be stopped and started.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn app_mut(&mut self, name: &str) -> &mut AppServer {
        let mut apps = self.apps.iter_mut();
        apps.find(|((pod, _), _)| pod == name)
            .map(|(_, app)| app)
            .expect("an app of this pod")
    }

    /// The link in front of a gateway: `cluster/gateway-1`.
    ///
    /// # Panics
    /// The cluster's gateways have no links.
    #[must_use]
    pub fn link(&self, name: &str) -> &Link {
        self.links.get(name).expect("a link of this name")
    }

    /// The control plane.
    #[must_use]
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The control plane, to be killed and started.
    pub fn control_mut(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// Writes a manifest into a cluster's folder, as editors do: whole or not at all.
    ///
    /// # Panics
    /// The folder can't be written to.
    pub fn write(&self, cluster: &str, file: &str, text: &str) {
        put(&self.folder.path().join(cluster), file, text);
    }

    /// Removes a manifest from a cluster's folder.
    ///
    /// # Panics
    /// It is not there.
    pub fn remove(&self, cluster: &str, file: &str) {
        let path = self.folder.path().join(cluster).join(file);
        std::fs::remove_file(path).expect("a manifest that is there");
    }

    /// Changes a pod's manifest: `cluster/pod`.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn edit_pod(&mut self, name: &str, edit: impl FnOnce(&mut PodManifest)) {
        let pod = self.pods.get_mut(name).expect("a pod of this name");
        edit(pod);
        let (text, file) = (pod.text(), format!("pod-{}.yaml", pod.name));
        let cluster = name.split('/').next().unwrap_or_default();
        self.write(cluster, &file, &text);
    }

    /// Says whether a pod is ready, as a kubelet would.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn mark(&mut self, name: &str, ready: bool) {
        self.edit_pod(name, |pod| pod.ready = ready);
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.apps.clear();
        self.links.clear();
        // All at once, so that they drain side by side.
        let stopping: Vec<_> = self
            .proxies
            .values_mut()
            .filter_map(Proxy::ask_to_stop)
            .collect();
        for one in stopping {
            one.join();
        }
    }
}

/// Calls through one sidecar.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    proxy: &'a Proxy,
    listeners: &'a [Listener],
}

impl Caller<'_> {
    /// A client of a service's first port.
    ///
    /// # Panics
    /// There is no such service.
    #[must_use]
    pub fn http(&self, service: &str) -> Client {
        self.find(|listener| listener.service == service)
    }

    /// A client of a service's port.
    ///
    /// # Panics
    /// There is no such service or port.
    #[must_use]
    pub fn port(&self, service: &str, port: u16) -> Client {
        self.find(|listener| listener.service == service && listener.port == port)
    }

    /// A client of a destination that `client_with` named.
    ///
    /// # Panics
    /// There is no such destination.
    #[must_use]
    pub fn destination(&self, destination: &str) -> Client {
        self.find(|listener| listener.destination == destination)
    }

    fn find(&self, wanted: impl Fn(&Listener) -> bool) -> Client {
        let at = self
            .listeners
            .iter()
            .position(wanted)
            .expect("a listener for this");
        let bound = self
            .proxy
            .listeners()
            .virtuals
            .get(at)
            .expect("as many as were asked for");
        let host = self
            .listeners
            .get(at)
            .map(|listener| listener.host.clone())
            .unwrap_or_default();
        Client::new(*bound, &host)
    }
}

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
            folders.push((cluster.name.clone(), files));
            subnets.insert(cluster.name.clone(), Subnet::claim());
        }
        let first = subnets.values().next().expect("at least one cluster");
        let state_dir = folder.path().join("control-plane");
        let control = ControlPlane::new(first.host(1), &state_dir, &folders);
        let mut mesh = Mesh {
            proxies: BTreeMap::new(),
            apps: BTreeMap::new(),
            pods: BTreeMap::new(),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            control,
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
        Box::pin(mesh.run()).await;
        mesh
    }
}

impl Mesh {
    async fn run(&mut self) {
        self.control.start().await;
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
        let listen = json!({
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
        let token = self.mesh.control.token(cluster, namespace, name, account);
        std::fs::write(place.join("token"), token).expect("a token on disk");
        let config = json!({
            "role": role,
            "cluster": cluster,
            "network": self.cluster.network,
            "namespace": namespace,
            "pod": name,
            "service_account": account,
            "addresses": [address],
            "control_plane": {
                "address": self.mesh.control.discovery().to_string(),
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
            "access_log": std::env::var_os("ISTHMUS_LOG").map(|_| "-"),
        });
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

/// Whole or not at all. The name on the way is one that nobody reads.
fn put(folder: &std::path::Path, file: &str, text: &str) {
    let fresh = folder.join(format!(".{file}.new"));
    std::fs::write(&fresh, text).expect("a folder that can be written to");
    std::fs::rename(&fresh, folder.join(file)).expect("a folder that can be written to");
}

/// `ISTHMUS_LOG=debug` shows what everything does, with the access logs.
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
