//! What would a client be told of a service that it has never called?
//!
//! A sidecar asks at the first call, and knows nothing before it. For people who want to know
//! beforehand, this is the answer that it would get.

use std::net::IpAddr;

use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::resource;
use prost::Message;

use crate::model::ServiceRef;
use crate::translate::service::{Resolved, definition, resolve};
use crate::translate::{Answer, Client, Role, direct, endpoint, route};
use crate::world::{State, World};

/// An answer before it is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FirstUse {
    /// `namespace/hostname`. `None`: the name or address means no service, or nobody knows yet which.
    pub service: Option<String>,
    /// Is there one, for this client? `None`: too little is known.
    pub exists: Option<bool>,
    /// The clusters that have a service of this name, for this client or not.
    pub declared: Vec<Declared>,
    /// The service itself.
    pub definition: Option<resource::Service>,
    /// Names of the routes that would choose the backend.
    pub routes: Vec<String>,
    /// The endpoints among which one would be chosen.
    pub endpoints: Vec<resource::Endpoint>,
}

/// A cluster that has a service of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Which.
    pub cluster: ClusterId,
    /// Is the cluster seen?
    pub state: State,
    /// Does it export the service?
    pub exported: bool,
}

impl World {
    /// What this pod's sidecar would be told of a host name, or of a virtual address of its network.
    /// `None`: there is no such pod.
    #[must_use]
    pub fn first_use(&self, client: &WorkloadName, host: &str) -> Option<FirstUse> {
        let cluster = self.clusters.get(client.cluster())?;
        let client = Client {
            identity: self.identity_of(client)?,
            workload: client.clone(),
            cluster: cluster.id.clone(),
            role: Role::Sidecar,
        };
        let key = match (host.parse::<IpAddr>(), cluster.network()) {
            (Ok(ip), Some(network)) => format!("vip:{network}/{ip}"),
            // Which addresses are its own can't be said.
            (Ok(_), None) => return Some(FirstUse::default()),
            (Err(_), _) => format!("host:{host}"),
        };
        Some(match resolve(self, &client, &key) {
            Resolved::Service(service) => self.would_tell(&client, &service),
            Resolved::Pod(pod) => self.would_lead_to(&client, &pod),
            Resolved::Nothing => FirstUse {
                exists: Some(false),
                ..FirstUse::default()
            },
            Resolved::Unknown => FirstUse::default(),
        })
    }

    /// A pod that is called by its own address.
    fn would_lead_to(&self, client: &Client, pod: &WorkloadName) -> FirstUse {
        let answer = direct::definition(self, client, pod);
        let definition: Option<resource::Service> = decoded(&answer).next();
        FirstUse {
            service: Some(direct::service_name(pod)),
            exists: answer.known.then_some(definition.is_some()),
            definition,
            endpoints: decoded(&direct::endpoints(self, client, pod).0).collect(),
            ..FirstUse::default()
        }
    }

    fn would_tell(&self, client: &Client, service: &ServiceRef) -> FirstUse {
        let answer = definition(self, client, service);
        let definition: Option<resource::Service> = decoded(&answer).next();
        let complete = answer.known && answer.complete;
        let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
        let declared = self.clusters.values().filter_map(|cluster| {
            cluster.services.get(namespace, name)?;
            Some(Declared {
                cluster: cluster.id.clone(),
                state: cluster.state,
                exported: cluster.exported(namespace, name),
            })
        });
        let routes = route::routes(self, client, service);
        FirstUse {
            service: Some(service.service_name()),
            exists: (definition.is_some() || complete).then_some(definition.is_some()),
            declared: declared.collect(),
            definition,
            routes: routes.resources().map(|r| r.name.to_string()).collect(),
            endpoints: decoded(&endpoint::endpoints(self, client, service).0).collect(),
        }
    }
}

/// What was encoded here is read again.
fn decoded<M: Message + Default>(answer: &Answer) -> impl Iterator<Item = M> {
    let bodies = answer.resources().map(|resource| resource.body.clone());
    bodies.filter_map(|body| M::decode(body).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{export, list, pod, service, world};

    const CART: &str = "cart.shop.svc.clusterset.local";

    fn world_with(exported: bool) -> World {
        let mut world = world(&["east", "west"]);
        list(&mut world, "east", &[pod("east", "web", 1)]);
        let mut objects = vec![pod("west", "cart", 1), service("west", "cart", 10)];
        objects.extend(exported.then(|| export("west", "cart")));
        list(&mut world, "west", &objects);
        world
    }

    fn ask(world: &World, host: &str) -> FirstUse {
        let web = "east/shop/web-1".parse().unwrap();
        world.first_use(&web, host).unwrap()
    }

    #[test]
    fn what_a_first_call_would_bring_is_known_before_it() {
        let world = world_with(true);
        let told = ask(&world, CART);
        assert_eq!(told.service.as_deref(), Some(&*format!("shop/{CART}")));
        assert_eq!(told.exists, Some(true));
        let west = Declared {
            cluster: "west".parse().unwrap(),
            state: State::Synced,
            exported: true,
        };
        assert_eq!(told.declared, [west]);
        let ports = told.definition.unwrap().ports;
        assert!(ports.iter().any(|port| port.port == 80), "{ports:?}");
        let names: Vec<&str> = told.endpoints.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["west/shop/cart-1"]);
        assert!(
            world
                .first_use(&"east/shop/none-1".parse().unwrap(), CART)
                .is_none()
        );
    }

    #[test]
    fn a_service_that_is_not_exported_is_absent_and_it_is_said_who_has_it() {
        let told = ask(&world_with(false), CART);
        assert_eq!((told.exists, told.endpoints.len()), (Some(false), 0));
        assert_eq!(told.declared.len(), 1);
        assert!(!told.declared[0].exported);
        let other = ask(&world_with(true), "none.shop.svc.clusterset.local");
        assert_eq!((other.exists, other.declared.len()), (Some(false), 0));
        let foreign = ask(&world_with(true), "10.99.99.99");
        assert_eq!((foreign.exists, foreign.service), (Some(false), None));
    }

    #[test]
    fn what_a_cluster_that_was_never_listed_may_have_is_unknown() {
        let mut world = world(&["east", "west"]);
        list(&mut world, "east", &[pod("east", "web", 1)]);
        assert_eq!(ask(&world, CART).exists, None);
    }
}
