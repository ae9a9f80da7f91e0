//! What is held of one service: itself, its routes and its endpoints, in whatever order they came?

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::ids::NetworkId;
use isthmus_proto::resource;

use super::Rejected;
use super::compile::{decode, same_name, same_parent};
use super::endpoints::Endpoints;
use super::service::{Known, Service, Spec};
use super::shelf::{Change, Held, Item, Shelf, accept};
use super::update::{Key, Kind};
use crate::balance::{EndpointSet, Me};
use crate::guard::ServiceGuard;
use crate::route::{Route, RouteTable};

/// A service's place. Children wait here for their parent.
#[derive(Default)]
pub(super) struct Slot {
    spec: Option<Held<Arc<Spec>>>,
    pub(super) routes: Shelf<Arc<Route>>,
    pub(super) endpoints: Endpoints,
    guard: Option<Arc<ServiceGuard>>,
    built: Option<Arc<Service>>,
    /// Has the parent been here? Then a slot without any content is a left-over.
    had_spec: bool,
}

impl Slot {
    /// The service as it was built last.
    pub(super) fn built(&self) -> Option<&Arc<Service>> {
        self.built.as_ref()
    }

    /// The service as it was accepted.
    pub(super) fn spec(&self) -> Option<&Held<Arc<Spec>>> {
        self.spec.as_ref()
    }

    /// Nothing is here, and nothing is waited for.
    pub(super) fn is_left_over(&self) -> bool {
        let nothing = self.spec.is_none() && self.routes.is_empty() && self.endpoints.is_empty();
        nothing && (self.had_spec || !(self.routes.answered || self.endpoints.answered))
    }

    /// Does this key mean the service, as far as is known here?
    pub(super) fn answers_to(&self, text: &str, key: &Key) -> bool {
        let Some(held) = &self.spec else {
            return self.routes.is_aliased(text) || self.endpoints.is_aliased(text);
        };
        let spec = &held.value;
        held.aliases.iter().any(|alias| **alias == *text)
            || match key {
                Key::Host(host) => spec.hostnames.iter().any(|own| **own == **host),
                Key::Vip(network, ip) => spec
                    .addresses
                    .iter()
                    .any(|(of, own)| of == network && own == ip),
                Key::Name(name) => spec.name == *name,
            }
    }

    /// Every key under which the service may have been asked for.
    pub(super) fn keys(&self) -> Vec<Box<str>> {
        let Some(held) = &self.spec else {
            return Vec::new();
        };
        let spec = &held.value;
        let mut keys = vec![Box::from(spec.name.as_str())];
        keys.extend(held.aliases.iter().cloned());
        keys.extend(
            spec.hostnames
                .iter()
                .map(|host| format!("host:{host}").into()),
        );
        let vip = |(network, ip): &(NetworkId, IpAddr)| format!("vip:{network}/{ip}").into();
        keys.extend(spec.addresses.iter().map(vip));
        keys
    }

    /// Stores the service itself.
    pub(super) fn upsert_service(&mut self, item: Item) -> Result<Change, Rejected> {
        let result = accept(&mut self.spec, item, |item, _| {
            let service: resource::Service = decode(&item.body)?;
            same_name(&item.name, &service.name)?;
            Spec::compile(&service).map(Arc::new)
        });
        self.had_spec |= self.spec.is_some();
        result
    }

    /// Takes the service itself away; its children stay until they are taken away as well.
    pub(super) fn remove_service(&mut self) -> bool {
        self.spec.take().is_some()
    }

    /// Takes a key off the service. True if it led here.
    pub(super) fn lose_key(&mut self, key: &str) -> bool {
        let Some(held) = &mut self.spec else {
            return false;
        };
        if !held.aliases.iter().any(|alias| **alias == *key) {
            return false;
        }
        held.aliases = held
            .aliases
            .iter()
            .filter(|alias| ***alias != *key)
            .cloned()
            .collect();
        true
    }

    /// Stores a route.
    pub(super) fn upsert_route(&mut self, item: Item) -> Result<Change, Rejected> {
        self.routes.upsert(item, |item, _| {
            let route = Route::decode(&item.body).map_err(|rejected| rejected.why)?;
            let (short, parent) = item.name.split_once('@').unwrap_or((&item.name, ""));
            if **route.name() != *short {
                same_name(&item.name, route.name())?;
            }
            same_parent(parent, route.service().as_str())?;
            Ok(Arc::new(route))
        })
    }

    /// Takes a child away by its whole name. `known`: it is known to be gone; otherwise, when
    /// none is left, it is unknown whether there are any.
    pub(super) fn remove_child(&mut self, kind: Kind, name: &str, known: bool) -> bool {
        if kind == Kind::Route {
            let was = self.routes.remove(name);
            self.routes.answered &= known || !self.routes.is_empty();
            was
        } else {
            let was = self
                .endpoints
                .remove(name.split_once('#').map_or("", |(_, short)| short));
            self.endpoints.answered &= known || !self.endpoints.is_empty();
            was
        }
    }

    /// Notes whether it is known that there are no more children than those that are here.
    pub(super) fn answer_children(&mut self, kind: Kind, known: bool) {
        if kind == Kind::Route {
            self.routes.answered = known || !self.routes.is_empty();
        } else {
            self.endpoints.answered = known || !self.endpoints.is_empty();
        }
    }

    /// Makes the service anew from what is held. Parts that did not change are kept.
    ///
    /// `moved`: the proxy's own place changed. `empty`: the keys for which there are known to be
    /// no children.
    pub(super) fn build(&mut self, me: &Me, moved: bool, empty: &Empty) {
        let routes_dirty = self.routes.take_dirty();
        let endpoints_dirty = self.endpoints.take_dirty();
        let routes_known = self.routes.answered || self.is_in(&empty.routes);
        let endpoints_known = self.endpoints.answered || self.is_in(&empty.endpoints);
        let Some(held) = &self.spec else {
            self.built = None;
            return;
        };
        let spec = &held.value;
        let last = self.built.as_deref();
        let routes = match last {
            Some(last) if !routes_dirty => last.routes.clone(),
            Some(_) | None => Arc::new(RouteTable::new(self.routes.values().cloned().collect())),
        };
        let endpoints = match last.and_then(|last| last.endpoints.known()) {
            Some(set) if endpoints_known && !endpoints_dirty && !moved => Known::Known(set.clone()),
            Some(_) | None if endpoints_known => {
                let all = self.endpoints.values().cloned().collect();
                Known::Known(Arc::new(EndpointSet::new(all, me)))
            }
            Some(_) | None => Known::Unknown,
        };
        let guard = self.guard.get_or_insert_default().clone();
        self.built = Some(Arc::new(Service {
            name: spec.name.clone(),
            hostnames: spec.hostnames.clone(),
            addresses: spec.addresses.clone(),
            ports: spec.ports.clone(),
            traffic: spec.traffic.clone(),
            scope: spec.scope,
            closed: spec.closed,
            routes,
            routes_known,
            endpoints,
            guard,
        }));
    }

    fn is_in(&self, keys: &BTreeSet<Box<str>>) -> bool {
        !keys.is_empty() && self.keys().iter().any(|key| keys.contains(key))
    }
}

/// Keys that were asked for, and under which there is known to be nothing.
#[derive(Default)]
pub(super) struct Empty {
    pub(super) services: BTreeSet<Box<str>>,
    pub(super) routes: BTreeSet<Box<str>>,
    pub(super) endpoints: BTreeSet<Box<str>>,
}
