//! Which service does an address, a host name or a name mean?

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::ids::{NetworkId, ServiceName};
use smallvec::SmallVec;

use super::service::Service;
use super::update::Key;
use crate::balance::Ticks;

/// What a look-up found.
#[derive(Debug, Clone, Copy)]
pub enum Lookup<'a> {
    /// This one.
    Found(&'a Arc<Service>),
    /// It was asked for, and the answer is that there is none.
    Absent,
    /// It was never asked for, or the answer has not come.
    Unknown,
}

impl<'a> Lookup<'a> {
    /// The service, if there is one.
    #[must_use]
    pub fn found(self) -> Option<&'a Arc<Service>> {
        match self {
            Self::Found(service) => Some(service),
            Self::Absent | Self::Unknown => None,
        }
    }
}

/// All services that the proxy knows, and the names that it knows to mean none.
#[derive(Default)]
pub struct ServiceTable {
    /// Sorted by name.
    services: Vec<Arc<Service>>,
    index: Arc<Index>,
}

/// Where in the table each name leads. Shared between generations while only endpoints, routes
/// or policies of services change.
#[derive(Debug, Default)]
pub(super) struct Index {
    hosts: HashMap<Arc<str>, usize>,
    /// On the proxy's own network only. More than one service may share an address, by port.
    vips: HashMap<IpAddr, SmallVec<[usize; 1]>>,
    absent_hosts: HashSet<Box<str>>,
    absent_vips: HashSet<IpAddr>,
    absent_names: HashSet<ServiceName>,
}

impl ServiceTable {
    /// The service that a client means by a virtual address of the proxy's own network and a
    /// port. A known address without that port is absent.
    #[must_use]
    pub fn lookup_vip(&self, address: IpAddr, port: u16) -> Lookup<'_> {
        let Some(places) = self.index.vips.get(&address) else {
            return missing(self.index.absent_vips.contains(&address));
        };
        let mut services = places.iter().filter_map(|place| self.services.get(*place));
        services
            .find(|service| service.port(port).is_some())
            .map_or(Lookup::Absent, Lookup::Found)
    }

    /// Is the address one at which nothing passes that is for no port of its service?
    #[must_use]
    pub fn is_closed(&self, address: IpAddr) -> bool {
        let places = self.index.vips.get(&address).into_iter().flatten();
        let mut services = places.filter_map(|place| self.services.get(*place));
        services.any(|service| service.closed)
    }

    /// The service that a host name means; lower case, no port, no trailing dot.
    #[must_use]
    pub fn lookup_host(&self, host: &str) -> Lookup<'_> {
        match self
            .index
            .hosts
            .get(host)
            .and_then(|place| self.services.get(*place))
        {
            Some(service) => Lookup::Found(service),
            None => missing(self.index.absent_hosts.contains(host)),
        }
    }

    /// The service of this name.
    #[must_use]
    pub fn lookup_name(&self, name: &ServiceName) -> Lookup<'_> {
        let place = self
            .services
            .binary_search_by(|service| service.name.cmp(name));
        match place.ok().and_then(|place| self.services.get(place)) {
            Some(service) => Lookup::Found(service),
            None => missing(self.index.absent_names.contains(name)),
        }
    }

    /// When a service that this key means was used last. `None`: it means none that is known.
    #[must_use]
    pub fn used(&self, key: &Key, now: Ticks) -> Option<Ticks> {
        let used = |service: &Arc<Service>| service.guard.used(now);
        match key {
            Key::Host(host) => self.lookup_host(host).found().map(used),
            Key::Name(name) => self.lookup_name(name).found().map(used),
            Key::Vip(_, address) => {
                let places = self.index.vips.get(address)?;
                let services = places.iter().filter_map(|place| self.services.get(*place));
                services.map(used).max()
            }
        }
    }

    /// Every service, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// How many services.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// `services` are sorted by name, as the index was made for them.
    pub(super) fn new(services: Vec<Arc<Service>>, index: Arc<Index>) -> Self {
        Self { services, index }
    }

    pub(super) fn index(&self) -> &Arc<Index> {
        &self.index
    }
}

impl fmt::Debug for ServiceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.services.iter().map(|s| &s.name))
            .finish()
    }
}

fn missing(absent: bool) -> Lookup<'static> {
    if absent {
        Lookup::Absent
    } else {
        Lookup::Unknown
    }
}

impl Index {
    /// `services` come sorted by name, each with the keys under which discovery answered with it.
    /// Where two services claim a host, the one whose canonical name it is wins, then the first
    /// by name.
    pub(super) fn new<'a>(
        network: &NetworkId,
        services: impl Iterator<Item = (&'a Service, &'a [Box<str>])>,
        absent: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut index = Self::default();
        for (place, (service, keys)) in services.enumerate() {
            for host in service.hostnames.iter() {
                index.claim_host(host.clone(), place, &**host == service.name.hostname());
            }
            for (of, address) in service.addresses.iter().filter(|(of, _)| of == network) {
                index.claim_key(Key::Vip(of.clone(), *address), place, network);
            }
            for key in keys.iter().filter_map(|key| key.parse().ok()) {
                index.claim_key(key, place, network);
            }
        }
        for key in absent.filter_map(|key| key.parse().ok()) {
            index.note_absent(key, network);
        }
        index
    }

    fn claim_host(&mut self, host: Arc<str>, place: usize, canonical: bool) {
        if canonical {
            self.hosts.insert(host, place);
        } else {
            self.hosts.entry(host).or_insert(place);
        }
    }

    fn claim_key(&mut self, key: Key, place: usize, network: &NetworkId) {
        match key {
            Key::Host(host) => self.claim_host(host.into(), place, false),
            Key::Vip(of, address) if of == *network => {
                let places = self.vips.entry(address).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
            // Another network's address means nothing here; names are found by binary search.
            Key::Vip(..) | Key::Name(_) => {}
        }
    }

    fn note_absent(&mut self, key: Key, network: &NetworkId) {
        match key {
            Key::Host(host) => {
                self.absent_hosts.insert(host);
            }
            Key::Vip(of, address) => {
                if of == *network {
                    self.absent_vips.insert(address);
                }
            }
            Key::Name(name) => {
                self.absent_names.insert(name);
            }
        }
    }
}
