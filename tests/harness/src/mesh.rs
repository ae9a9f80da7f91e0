//! How does a whole mesh start, change and stop?

use std::collections::BTreeMap;

use tempfile::TempDir;

use crate::address::Subnet;
use crate::app::AppServer;
use crate::client::Client;
use crate::control::ControlPlane;
use crate::link::Link;
use crate::manifest::PodManifest;
use crate::plan::MeshPlan;
use crate::proxy::Proxy;
use crate::servers::Server;

mod build;

/// A mesh that runs. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    proxies: BTreeMap<String, Proxy>,
    apps: BTreeMap<(String, u16), AppServer>,
    pods: BTreeMap<String, PodManifest>,
    links: BTreeMap<String, Link>,
    listeners: BTreeMap<String, Vec<Listener>>,
    control: ControlPlane,
    /// The second replica, where there are two.
    other: Option<ControlPlane>,
    servers: BTreeMap<String, Server>,
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

    /// Both replicas of the control plane.
    ///
    /// # Panics
    /// There is only one.
    #[must_use]
    pub fn replicas(&self) -> [&ControlPlane; 2] {
        let other = self.other.as_ref().expect("two control planes");
        [&self.control, other]
    }

    /// One of them, to be killed and started.
    ///
    /// # Panics
    /// There is only one.
    pub fn replica_mut(&mut self, number: usize) -> &mut ControlPlane {
        let other = self.other.as_mut().expect("two control planes");
        match number {
            0 => &mut self.control,
            _ => other,
        }
    }

    /// A cluster's API server, where the mesh is on such.
    ///
    /// # Panics
    /// It isn't.
    #[must_use]
    pub fn server(&self, cluster: &str) -> &Server {
        self.servers.get(cluster).expect("a mesh on API servers")
    }

    /// The same, to be killed and stopped.
    ///
    /// # Panics
    /// The mesh isn't on API servers.
    pub fn server_mut(&mut self, cluster: &str) -> &mut Server {
        self.servers
            .get_mut(cluster)
            .expect("a mesh on API servers")
    }

    /// Says in the API server whether a pod is ready, as a kubelet would: `cluster/pod`.
    ///
    /// # Panics
    /// There is no such pod, or the API server refuses.
    pub async fn mark_in_server(&mut self, name: &str, ready: bool) {
        let pod = self.pods.get_mut(name).expect("a pod of this name");
        pod.ready = ready;
        let text = pod.text();
        let cluster = name.split('/').next().unwrap_or_default();
        self.server(cluster).apply(&text).await;
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

    /// The client `cluster/name` calls this destination, too: its sidecar starts again with a listener
    /// more.
    ///
    /// # Panics
    /// There is no such client, or its sidecar does not start.
    pub async fn also_calls(&mut self, client: &str, destination: &str) {
        let name = format!("{client}-1");
        let listeners = self.listeners.get_mut(&name).expect("a client");
        listeners.push(Listener {
            service: String::new(),
            port: 0,
            host: destination.to_owned(),
            destination: destination.to_owned(),
        });
        let proxy = self.proxy_mut(&name);
        proxy.listen_for(destination);
        proxy.restart().await;
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

/// Whole or not at all. The name on the way is one that nobody reads.
fn put(folder: &std::path::Path, file: &str, text: &str) {
    let fresh = folder.join(format!(".{file}.new"));
    std::fs::write(&fresh, text).expect("a folder that can be written to");
    std::fs::rename(&fresh, folder.join(file)).expect("a folder that can be written to");
}
