//! What would a sidecar be told of a service that it has not asked for, for `/first-use`?

use isthmus_control_plane_core::world::FirstUse;
use isthmus_proto::ids::WorkloadName;
use isthmus_proto::resource::{self, Health, Protocol};
use serde_json::{Value, json};

use super::{Admin, services, state};

impl Admin {
    /// The answer to `client=cluster/namespace/pod&host=NAME&port=PORT`.
    ///
    /// # Errors
    /// A parameter is missing or can't be read, or there is no such pod.
    pub(super) fn first_use(&self, query: &str) -> Result<Value, String> {
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(key, value)| *key == name && !value.is_empty());
            let missing = || format!("the parameter {name} is missing");
            found.next().map(|(_, value)| value).ok_or_else(missing)
        };
        let client: WorkloadName = parameter("client")?
            .parse()
            .map_err(|error| format!("the parameter client: {error}"))?;
        let (host, port) = (parameter("host")?, parameter("port")?);
        let port: u16 = port
            .parse()
            .map_err(|_| format!("the parameter port: {port:?} is not 0 to 65,535"))?;
        let found = self.hub.read(|world| world.first_use(&client, host));
        let found = found.ok_or_else(|| format!("no pod {client} is known"))?;
        Ok(view(&found, port))
    }
}

fn view(found: &FirstUse, port: u16) -> Value {
    let usable = found
        .endpoints
        .iter()
        .find(|e| target(e, port).is_some() && serves(e));
    let declared = found.declared.iter().map(|one| {
        let of = format!("{}/", one.cluster);
        let endpoints = found.endpoints.iter().filter(|e| e.name.starts_with(&of));
        json!({
            "cluster": one.cluster.as_str(), "state": state(one.state),
            "exported": one.exported, "endpoints": endpoints.count(),
        })
    });
    let ports = found.definition.iter().flat_map(|service| &service.ports);
    json!({
        "service": found.service,
        "exists": found.exists,
        "ports": ports.map(|p| json!({ "port": p.port, "protocol": protocol(p.protocol()) })).collect::<Vec<_>>(),
        "declared": declared.collect::<Vec<_>>(),
        "routes": found.routes,
        "endpoints": found.endpoints.iter().map(|e| json!({
            "name": e.name, "health": services::health(e.health()), "network": e.network,
            "identity": e.identity, "target_port": target(e, port),
        })).collect::<Vec<_>>(),
        // One that could be chosen, if no route chooses another service.
        "endpoint": usable.map(|e| e.name.as_str()),
        "target_port": usable.and_then(|e| target(e, port)),
        "verdict": verdict(found, port),
    })
}

/// In one sentence.
fn verdict(found: &FirstUse, port: u16) -> String {
    let unexported = found.declared.iter().filter(|one| !one.exported);
    let unexported: Vec<&str> = unexported.map(|one| one.cluster.as_str()).collect();
    let unexported = unexported.join(", ");
    let serving = found.endpoints.iter().filter(|e| serves(e)).count();
    let all = found.endpoints.len();
    match (found.exists, &found.definition) {
        (None, _) => {
            "too little is known: not every cluster that may have it was listed".to_owned()
        }
        (Some(false), _) if unexported.is_empty() => {
            "no service of the mesh has this name or address".to_owned()
        }
        (Some(false), _) => {
            format!("no service that this client may call: it is in {unexported}, and not exported")
        }
        (Some(true), Some(service)) if service.ports.iter().all(|p| p.port != u32::from(port)) => {
            format!("the service exists, and has no port {port}")
        }
        (Some(true), _) if serving == 0 => {
            format!("the service exists, and none of its {all} endpoints serves")
        }
        (Some(true), _) => format!("the service exists: {serving} of {all} endpoints serve"),
    }
}

fn serves(endpoint: &resource::Endpoint) -> bool {
    matches!(endpoint.health(), Health::Healthy | Health::Draining)
}

/// The pod's port behind a port of the service.
fn target(endpoint: &resource::Endpoint, port: u16) -> Option<u32> {
    let mapping = endpoint
        .ports
        .iter()
        .find(|p| p.service_port == u32::from(port))?;
    Some(mapping.target_port)
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified => "not declared",
        Protocol::Tcp => "tcp",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
    }
}
