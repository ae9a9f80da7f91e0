//! Which pods does the demo run, and at which addresses?
//!
//! Every pod has a loopback address of its own, so every port is the one that a cluster would use.
//! Two demos on one machine take different second octets.

use std::env;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The mesh's domain.
pub(crate) const MESH_DOMAIN: &str = "mesh.internal";
/// Ports of a proxy, as operators know them.
pub(crate) const MESH_PORT: u16 = 15_008;
const ADMIN_PORT: u16 = 15_000;
const READY_PORT: u16 = 15_020;
const GATEWAY_PORT: u16 = 15_443;
/// Ports of the control plane.
const DISCOVERY_PORT: u16 = 15_012;
const CONTROL_ADMIN_PORT: u16 = 15_014;
/// Held by the demo while it runs: the claim on its addresses.
const CLAIM_PORT: u16 = 15_011;
/// Demos that fit on one machine.
const DEMOS_MAX: u8 = 10;

/// One of the two clusters. Each is a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cluster {
    /// Where the client is.
    East,
    /// Where the services are that east doesn't have.
    West,
}

impl Cluster {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::East, Self::West];

    /// The name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::East => "east",
            Self::West => "west",
        }
    }

    /// Second octet of its addresses, in the first demo on a machine.
    fn octet(self) -> u8 {
        match self {
            Self::East => 20,
            Self::West => 30,
        }
    }
}

/// What a pod's proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    Gateway,
}

impl Role {
    /// As the proxy's configuration calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "gateway",
        }
    }
}

/// What runs in a pod beside its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppKind {
    Http,
    Grpc,
    Tcp,
    /// TCP that speaks first.
    Greeter,
    Redis,
}

impl AppKind {
    /// The container's port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http => 8_080,
            Self::Grpc => 9_000,
            Self::Tcp => 9_001,
            Self::Greeter => 9_002,
            Self::Redis => 6_379,
        }
    }

    /// For logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Greeter => "greeter",
            Self::Redis => "redis",
        }
    }
}

/// A pod: a proxy, and perhaps applications.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: &'static str,
    /// Unique in the demo.
    pub(crate) name: &'static str,
    pub(crate) account: &'static str,
    /// Last octet of its address.
    host: u8,
    pub(crate) role: Role,
    pub(crate) apps: &'static [AppKind],
}

impl Pod {
    /// `cluster/namespace/pod`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}/{}", self.cluster.name(), self.namespace, self.name)
    }
}

const fn sidecar(
    cluster: Cluster,
    account: &'static str,
    name: &'static str,
    host: u8,
    apps: &'static [AppKind],
) -> Pod {
    Pod {
        cluster,
        namespace: "shop",
        name,
        account,
        host,
        role: Role::Sidecar,
        apps,
    }
}

const fn gateway(cluster: Cluster, name: &'static str) -> Pod {
    Pod {
        cluster,
        namespace: "isthmus-system",
        name,
        account: "gateway",
        host: 2,
        role: Role::Gateway,
        apps: &[],
    }
}

/// The client: its application is the demo itself.
pub(crate) const WEB: Pod = sidecar(Cluster::East, "web", "web-1", 11, &[]);
/// `cart` in the client's own cluster.
pub(crate) const CART_EAST: [Pod; 2] = [
    sidecar(Cluster::East, "cart", "cart-1", 21, &[AppKind::Http]),
    sidecar(Cluster::East, "cart", "cart-2", 22, &[AppKind::Http]),
];
/// `cart` in the other.
pub(crate) const CART_WEST: [Pod; 2] = [
    sidecar(Cluster::West, "cart", "cart-3", 21, &[AppKind::Http]),
    sidecar(Cluster::West, "cart", "cart-4", 22, &[AppKind::Http]),
];
/// `reviews`, in the other cluster only.
pub(crate) const REVIEWS: [Pod; 3] = [
    sidecar(Cluster::West, "reviews", "reviews-1", 31, &[AppKind::Http]),
    sidecar(Cluster::West, "reviews", "reviews-2", 32, &[AppKind::Http]),
    sidecar(Cluster::West, "reviews", "reviews-3", 33, &[AppKind::Http]),
];
/// Other protocols, in the other cluster only.
pub(crate) const ECHO: Pod = sidecar(
    Cluster::West,
    "echo",
    "echo-1",
    41,
    &[AppKind::Grpc, AppKind::Tcp, AppKind::Greeter],
);
/// Only where redis-server is installed.
pub(crate) const REDIS: Pod = sidecar(Cluster::West, "redis", "redis-1", 51, &[AppKind::Redis]);
/// The gateways.
pub(crate) const GATEWAY_EAST: Pod = gateway(Cluster::East, "gateway-east");
/// West's is the one that calls from east go through.
pub(crate) const GATEWAY_WEST: Pod = gateway(Cluster::West, "gateway-west");

/// Something that web calls: a listener of its sidecar stands for the service's virtual address.
///
/// A laptop without root has no capture: the application connects to the listener, and the sidecar
/// treats the connection as one to the virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Callee {
    /// Service, in namespace `shop`.
    pub(crate) service: &'static str,
    /// The service's port.
    pub(crate) port: u16,
    /// Its virtual address in east.
    virtual_address: Ipv4Addr,
    /// Port of web's sidecar that stands for it.
    local_port: u16,
}

const fn callee(service: &'static str, port: u16, last: u8, local_port: u16) -> Callee {
    Callee {
        service,
        port,
        virtual_address: Ipv4Addr::new(10, 97, 0, last),
        local_port,
    }
}

impl Callee {
    pub(crate) const REVIEWS: Self = callee("reviews", 80, 30, 18_080);
    pub(crate) const CART: Self = callee("cart", 80, 20, 18_081);
    pub(crate) const GRPC: Self = callee("echo", 9_000, 40, 18_090);
    pub(crate) const TCP: Self = callee("echo", 9_001, 40, 18_091);
    pub(crate) const GREETER: Self = callee("echo", 9_002, 40, 18_092);
    pub(crate) const REDIS: Self = callee("redis", 6_379, 50, 18_093);
    /// Every one.
    pub(crate) const ALL: [Self; 6] = [
        Self::REVIEWS,
        Self::CART,
        Self::GRPC,
        Self::TCP,
        Self::GREETER,
        Self::REDIS,
    ];

    /// The name that covers every cluster (MCS API).
    pub(crate) fn host(&self) -> String {
        format!("{}.shop.svc.clusterset.local", self.service)
    }

    /// Virtual address and port.
    pub(crate) fn destination(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.virtual_address), self.port)
    }
}

/// The demo's addresses, claimed until it is dropped.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Added to the second octet.
    offset: u8,
    /// Where redis-server is, if it is installed.
    pub(crate) redis: Option<PathBuf>,
    _claim: TcpListener,
}

impl Plan {
    /// Finds addresses that nobody uses.
    ///
    /// # Errors
    /// All are in use, or this machine has no 127.0.0.0/8.
    pub(crate) fn claim() -> anyhow::Result<Self> {
        let redis = find_program("redis-server");
        for offset in 0..DEMOS_MAX {
            let address = SocketAddr::new(loopback(10 + offset, 1), CLAIM_PORT);
            match TcpListener::bind(address) {
                Ok(claim) => {
                    let plan = Self {
                        offset,
                        redis: redis.clone(),
                        _claim: claim,
                    };
                    if plan.is_free()? {
                        return Ok(plan);
                    }
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).with_context(|| unusable(address)),
            }
        }
        bail!(
            "the ports of the demo are in use on all of its loopback addresses (127.20 to 127.29)"
        )
    }

    /// Every pod that runs here.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        let mut pods = vec![GATEWAY_EAST, GATEWAY_WEST, WEB];
        pods.extend(CART_EAST);
        pods.extend(CART_WEST);
        pods.extend(REVIEWS);
        pods.push(ECHO);
        if self.redis.is_some() {
            pods.push(REDIS);
        }
        pods
    }

    /// The pod's address.
    pub(crate) fn address(&self, pod: &Pod) -> IpAddr {
        loopback(pod.cluster.octet() + self.offset, pod.host)
    }

    /// Where an application of the pod listens.
    pub(crate) fn app(&self, pod: &Pod, app: AppKind) -> SocketAddr {
        SocketAddr::new(self.address(pod), app.port())
    }

    /// The pod's mesh listener.
    pub(crate) fn mesh(&self, pod: &Pod) -> SocketAddr {
        SocketAddr::new(self.address(pod), MESH_PORT)
    }

    /// The pod's admin listener.
    pub(crate) fn admin(&self, pod: &Pod) -> SocketAddr {
        SocketAddr::new(self.address(pod), ADMIN_PORT)
    }

    /// The pod's ready listener.
    pub(crate) fn ready(&self, pod: &Pod) -> SocketAddr {
        SocketAddr::new(self.address(pod), READY_PORT)
    }

    /// The gateway's listener for other networks.
    pub(crate) fn gateway(&self, pod: &Pod) -> SocketAddr {
        SocketAddr::new(self.address(pod), GATEWAY_PORT)
    }

    /// The addresses of a cluster's network.
    pub(crate) fn network(&self, cluster: Cluster) -> String {
        format!("127.{}.0.0/16", cluster.octet() + self.offset)
    }

    /// Where web reaches a service.
    pub(crate) fn local(&self, callee: &Callee) -> SocketAddr {
        SocketAddr::new(self.address(&WEB), callee.local_port)
    }

    /// Discovery of the control plane.
    pub(crate) fn discovery(&self) -> SocketAddr {
        SocketAddr::new(loopback(10 + self.offset, 1), DISCOVERY_PORT)
    }

    /// Admin of the control plane.
    pub(crate) fn control_admin(&self) -> SocketAddr {
        SocketAddr::new(loopback(10 + self.offset, 1), CONTROL_ADMIN_PORT)
    }

    /// The manifests name the first demo's addresses; this demo may have others.
    pub(crate) fn readdress(&self, manifest: &str) -> String {
        let mut text = manifest.to_owned();
        for cluster in Cluster::ALL {
            let octet = cluster.octet();
            text = text.replace(
                &format!("127.{octet}."),
                &format!("127.{}.", octet + self.offset),
            );
        }
        text
    }

    /// Can every listener be bound?
    fn is_free(&self) -> anyhow::Result<bool> {
        let mut addresses = vec![self.discovery(), self.control_admin()];
        for pod in self.pods() {
            addresses.extend([self.mesh(&pod), self.admin(&pod), self.ready(&pod)]);
            addresses.extend(pod.apps.iter().map(|app| self.app(&pod, *app)));
            if pod.role == Role::Gateway {
                addresses.push(self.gateway(&pod));
            }
        }
        addresses.extend(Callee::ALL.iter().map(|callee| self.local(callee)));
        for address in addresses {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(false),
                Err(error) => return Err(error).with_context(|| unusable(address)),
            }
        }
        Ok(true)
    }
}

fn loopback(second: u8, last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, second, 0, last))
}

fn unusable(address: SocketAddr) -> String {
    format!(
        "listening on {address}: the demo needs the whole of 127.0.0.0/8, as Linux has it \
         (elsewhere: add the address to the loopback interface)"
    )
}

/// The program's file, as a shell would find it.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_file(file).unwrap_or(false))
}

fn is_file(path: &Path) -> io::Result<bool> {
    Ok(path.metadata()?.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_addresses_are_unique() {
        let plan = Plan::claim().unwrap();
        let pods = plan.pods();
        let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name).collect();
        let addresses: BTreeSet<IpAddr> = pods.iter().map(|pod| plan.address(pod)).collect();
        assert_eq!((names.len(), addresses.len()), (pods.len(), pods.len()));
        let locals: BTreeSet<u16> = Callee::ALL.iter().map(|callee| callee.local_port).collect();
        assert_eq!(locals.len(), Callee::ALL.len());
    }

    #[test]
    fn two_demos_have_different_addresses() {
        let first = Plan::claim().unwrap();
        let second = Plan::claim().unwrap();
        assert_ne!(first.address(&WEB), second.address(&WEB));
        let text = second.readdress("podIP: 127.20.0.11 # and 127.30.0.2");
        assert!(text.contains(&second.address(&WEB).to_string()), "{text}");
        assert!(
            text.contains(&second.address(&GATEWAY_WEST).to_string()),
            "{text}"
        );
    }
}
