//! What do tests build their worlds of?

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use isthmus_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use isthmus_proto::handle::HandleKey;
use isthmus_proto::ids::ClusterId;
use isthmus_proto::locality::Locality;
use isthmus_proto::resource;
use isthmus_proto::spiffe::SpiffeId;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::*;
use crate::session::{Client, ResourceType, Session};
use crate::world::{Dirty, World};

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

pub(crate) fn id(name: &str) -> ClusterId {
    name.parse().unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn object(cluster: &str, namespace: &str, name: &str, spec: Spec) -> Object {
    let namespace = (!namespace.is_empty()).then(|| namespace.parse().unwrap());
    Object {
        cluster: id(cluster),
        namespace,
        name: name.to_owned(),
        created: Some(at(0)),
        spec,
    }
}

/// A ready pod `shop/<app>-<number>` with the account `<app>`.
pub(crate) fn pod(cluster: &str, app: &str, number: u8) -> Object {
    let net = match cluster {
        "east" => 1,
        "west" => 2,
        _ => 3,
    };
    let pod = Pod {
        labels: labels(&[("app", app)]),
        service_account: app.to_owned(),
        ips: vec![IpAddr::from([10, net, 0, number])],
        ready: true,
        ports: vec![ContainerPort {
            name: "web".into(),
            port: 8080,
        }],
        meshed: true,
        ..Pod::default()
    };
    object(cluster, "shop", &format!("{app}-{number}"), Spec::Pod(pod))
}

pub(crate) fn port(name: &str, port: u16) -> ServicePort {
    let target = TargetPort::Name("web".into());
    ServicePort {
        name: name.into(),
        port,
        target,
        protocol: resource::Protocol::Http1,
        app_protocol: None,
    }
}

pub(crate) fn service(cluster: &str, app: &str, ip: u8) -> Object {
    let service = Service {
        cluster_ips: vec![IpAddr::from([10, 96, 0, ip])],
        selector: labels(&[("app", app)]),
        ports: vec![port("http", 80)],
        ..Service::default()
    };
    object(cluster, "shop", app, Spec::Service(service))
}

pub(crate) fn export(cluster: &str, app: &str) -> Object {
    object(
        cluster,
        "shop",
        app,
        Spec::ServiceExport(ServiceExport::default()),
    )
}

pub(crate) fn gateway(cluster: &str, ip: u8) -> Object {
    let addresses = vec![GatewayAddress::Ip(IpAddr::from([192, 0, 2, ip]))];
    let gateway = Gateway {
        class: GATEWAY_CLASS.into(),
        addresses,
        port: 15_443,
        ..Gateway::default()
    };
    object(cluster, SYSTEM_NAMESPACE, "ew", Spec::Gateway(gateway))
}

/// The pods behind these.
pub(crate) fn services(names: &[&str]) -> PolicyTarget {
    PolicyTarget::Services(names.iter().map(|name| (*name).to_owned()).collect())
}

pub(crate) fn allow(target: PolicyTarget) -> AccessPolicy {
    let from = resource::Caller {
        service_accounts: vec!["web".into()],
        ..Default::default()
    };
    let rule = resource::AccessRule {
        from: vec![from],
        ..Default::default()
    };
    let body = resource::AccessPolicy {
        action: resource::Action::Allow.into(),
        rules: vec![rule],
        ..Default::default()
    };
    AccessPolicy {
        target,
        body: Some(body),
        inbound: None,
        invalid: None,
        observed: Observed::default(),
    }
}

pub(crate) fn mesh(cluster: &str, network: &str) -> Object {
    let locality = Locality {
        region: "r1".into(),
        zone: "r1a".into(),
    };
    let mesh = MeshCluster {
        network: network.parse().unwrap(),
        pod_ranges: Vec::new(),
        locality,
        cluster_domain: None,
        passthrough_denied: false,
        trust_domain: None,
        gateways: Vec::new(),
        priority: 0,
        price: 0,
        credential: None,
        issuer: None,
        root: None,
        uid: None,
        quota: Allotment::default(),
        observed: Observed::default(),
    };
    object(cluster, "", cluster, Spec::MeshCluster(mesh))
}

/// A world that expects these clusters.
pub(crate) fn world(clusters: &[&str]) -> World {
    let mut world = World::new("mesh.internal").unwrap();
    for (number, cluster) in (1..).zip(clusters) {
        world.add_cluster(&id(cluster)).unwrap();
        world.set_handle_keys(&id(cluster), vec![HandleKey::new(number, [number; 32])]);
    }
    world
}

/// A whole list of a cluster.
pub(crate) fn list(world: &mut World, cluster: &str, objects: &[Object]) -> Dirty {
    let mut dirty = world.apply(
        Change::Init {
            cluster: id(cluster),
        },
        at(1),
    );
    for object in objects
        .iter()
        .filter(|object| object.cluster == id(cluster))
    {
        dirty.merge(&world.apply(Change::Apply(object.clone()), at(1)));
    }
    dirty.merge(&world.apply(
        Change::InitDone {
            cluster: id(cluster),
            kept: BTreeSet::new(),
        },
        at(1),
    ));
    dirty
}

/// A whole list of a cluster, but for one kind.
pub(crate) fn list_without(world: &mut World, cluster: &str, objects: &[Object], kind: Kind) {
    let cluster = id(cluster);
    let begin = Change::Init {
        cluster: cluster.clone(),
    };
    world.apply(begin, at(1));
    let told = objects
        .iter()
        .filter(|object| object.cluster == cluster && object.spec.kind() != kind);
    for object in told {
        world.apply(Change::Apply(object.clone()), at(1));
    }
    let kept = [kind].into();
    world.apply(Change::InitDone { cluster, kept }, at(1));
}

/// East: web (calls), cart. West: cart, exported, behind a gateway.
pub(crate) fn shop() -> Vec<Object> {
    vec![
        mesh("east", "east-net"),
        mesh("west", "west-net"),
        pod("east", "web", 1),
        service("east", "cart", 5),
        pod("east", "cart", 11),
        export("east", "cart"),
        gateway("east", 1),
        service("west", "cart", 5),
        pod("west", "cart", 12),
        export("west", "cart"),
        gateway("west", 2),
    ]
}

pub(crate) fn client(world: &World, workload: &str, account: &str, role: &str) -> Client {
    let mut parts = workload.split('/');
    let (cluster, namespace) = (parts.next().unwrap(), parts.next().unwrap());
    let identity: SpiffeId =
        format!("spiffe://{cluster}.mesh.internal/ns/{namespace}/sa/{account}")
            .parse()
            .unwrap();
    Client::of_node(world, identity, &node(workload, role)).unwrap()
}

pub(crate) fn node(workload: &str, role: &str) -> Node {
    let role = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(role.to_owned())),
    };
    let metadata = prost_types::Struct {
        fields: [("role".to_owned(), role)].into(),
    };
    Node {
        id: workload.to_owned(),
        metadata: Some(metadata),
        ..Node::default()
    }
}

/// A client that holds what it is told, as the contract says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxy {
    pub(crate) wants: BTreeMap<ResourceType, BTreeSet<String>>,
    pub(crate) holds: BTreeMap<ResourceType, BTreeMap<String, (String, Vec<u8>)>>,
    /// Keys that were said to be absent or empty.
    pub(crate) absent: BTreeSet<(ResourceType, String)>,
    /// Keys that came as an alias.
    pub(crate) known: BTreeSet<(ResourceType, String)>,
    /// Everything that was ever sent: type, name, version.
    pub(crate) received: Vec<(ResourceType, String, String)>,
    /// Resources that it refuses, by name.
    pub(crate) refuses: BTreeSet<String>,
}

impl Proxy {
    pub(crate) fn wanting(keys: &[&str]) -> Self {
        let mut proxy = Self::default();
        for kind in [
            ResourceType::Service,
            ResourceType::Endpoint,
            ResourceType::Route,
        ] {
            proxy
                .wants
                .insert(kind, keys.iter().map(|key| (*key).to_owned()).collect());
        }
        proxy
    }

    pub(crate) fn with(mut self, kind: ResourceType, name: &str) -> Self {
        self.wants.entry(kind).or_default().insert(name.to_owned());
        self
    }

    /// All that a sidecar asks for.
    pub(crate) fn sidecar(client: &Client, keys: &[&str]) -> Self {
        Self::wanting(keys)
            .with(ResourceType::Workload, client.workload().as_str())
            .with(ResourceType::AccessPolicy, "*")
            .with(ResourceType::TrustBundle, "*")
            .with(ResourceType::Gateway, "*")
            .with(ResourceType::ClusterFreshness, "*")
    }

    /// The first requests of a stream.
    pub(crate) fn hello(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.absent.clear();
        let request = |(kind, names): (&ResourceType, &BTreeSet<String>)| {
            let held = self.holds.get(kind).into_iter().flatten();
            DeltaDiscoveryRequest {
                type_url: kind.type_url(),
                resource_names_subscribe: names.iter().cloned().collect(),
                initial_resource_versions: held
                    .map(|(name, (version, _))| (name.clone(), version.clone()))
                    .collect(),
                ..Default::default()
            }
        };
        self.wants.iter().map(request).collect()
    }

    /// Takes a response, and says what is to be answered.
    pub(crate) fn take(&mut self, response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let kind = ResourceType::of_url(&response.type_url).unwrap();
        let holds = self.holds.entry(kind).or_default();
        let mut refused = Vec::new();
        for one in &response.resources {
            self.received
                .push((kind, one.name.clone(), one.version.clone()));
            if self.refuses.contains(&one.name) {
                refused.push(format!("{}: not liked", one.name));
                continue;
            }
            let body = one.resource.as_ref().unwrap().value.clone();
            holds.insert(one.name.clone(), (one.version.clone(), body));
            for alias in one.aliases.iter().chain([&one.name]) {
                self.absent.remove(&(kind, alias.clone()));
                self.known.insert((kind, alias.clone()));
            }
        }
        for name in &response.removed_resources {
            holds.remove(name);
            if self
                .wants
                .get(&kind)
                .is_some_and(|wants| wants.contains(name))
            {
                self.absent.insert((kind, name.clone()));
            }
        }
        let message = refused.join("\n");
        DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: (!refused.is_empty()).then_some(Status { code: 3, message }),
            ..Default::default()
        }
    }

    /// Opens a stream.
    pub(crate) fn connect(&mut self, client: Client) -> Session {
        self.connect_as(client, &Node::default())
    }

    /// Opens a stream, and says this of itself.
    pub(crate) fn connect_as(&mut self, client: Client, node: &Node) -> Session {
        let mut session = Session::of_node(client, node);
        for request in self.hello() {
            session.handle(&request).unwrap();
        }
        session
    }

    /// Talks until there is nothing to say; the responses that came.
    pub(crate) fn settle(
        &mut self,
        session: &mut Session,
        world: &World,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        while let Some(response) = session.poll(world) {
            let answer = self.take(&response);
            session.handle(&answer).unwrap();
            responses.push(response);
            assert!(
                responses.len() < 1_000,
                "the session never stops: {responses:?}"
            );
        }
        responses
    }

    pub(crate) fn names(&self, kind: ResourceType) -> Vec<&str> {
        self.holds
            .get(&kind)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect()
    }

    pub(crate) fn get<M: prost::Message + Default>(&self, kind: ResourceType, name: &str) -> M {
        let found = self.holds.get(&kind).and_then(|holds| holds.get(name));
        let (_, body) = found.unwrap_or_else(|| panic!("{kind:?} {name}: {:?}", self.names(kind)));
        M::decode(body.as_slice()).unwrap()
    }

    /// Name → version of everything held.
    pub(crate) fn state(&self) -> BTreeMap<(ResourceType, String), String> {
        let all = self.holds.iter();
        all.flat_map(|(kind, held)| {
            held.iter()
                .map(move |(name, (version, _))| ((*kind, name.clone()), version.clone()))
        })
        .collect()
    }

    pub(crate) fn is_absent(&self, kind: ResourceType, key: &str) -> bool {
        self.absent.contains(&(kind, key.to_owned()))
    }
}
