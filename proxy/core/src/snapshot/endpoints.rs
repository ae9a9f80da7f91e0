//! Which endpoints of one service are held?
//!
//! There are ten times as many endpoints as all other resources together, so they are held in
//! the smallest form: compiled, what siblings have in common once, and without their encoded
//! content, which can be made anew when it is saved.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::ids::WorkloadName;
use isthmus_proto::resource;
use prost::Message;
use smallvec::SmallVec;

use super::Rejected;
use super::compile::{decode, same_name, same_parent};
use super::hosts::Hosts;
use super::persist::{Record, checksum};
use super::shelf::{Change, Item, merged};
use super::update::Kind;
use crate::balance::{Endpoint, EndpointStats, Health};

/// The endpoints of one service, by `cluster/namespace/pod`.
#[derive(Default)]
pub(super) struct Endpoints {
    held: BTreeMap<WorkloadName, Held>,
    /// Those of the last endpoint. Siblings have the same, and share them.
    aliases: Arc<[Box<str>]>,
    /// Has there been an answer, even one that says that there is nothing?
    pub(super) answered: bool,
    /// Changed since it was last taken.
    dirty: bool,
}

struct Held {
    aliases: Arc<[Box<str>]>,
    version: SmallVec<[u8; 16]>,
    /// Of the content as it came.
    checksum: u64,
    endpoint: Arc<Endpoint>,
}

impl Endpoints {
    /// Stores an endpoint. Its measurements outlive the change, unless its addresses changed:
    /// then another pod has taken over the name.
    pub(super) fn upsert(&mut self, item: &Item, hosts: Hosts) -> Result<Change, Rejected> {
        let (parent, short) = item.name.split_once('#').unwrap_or(("", &item.name));
        let checksum = checksum(&item.body);
        let old = self.held.get_mut(short);
        let mut aliases = merged(old.as_ref().map(|held| &held.aliases), &item.aliases);
        if aliases == self.aliases {
            aliases = self.aliases.clone();
        } else {
            self.aliases = aliases.clone();
        }
        let version = SmallVec::from_slice(item.version.as_bytes());
        if let Some(held) = old.filter(|old| old.checksum == checksum) {
            let same = held.aliases == aliases;
            held.aliases = aliases;
            held.version = version;
            return Ok(if same {
                Change::Nothing
            } else {
                Change::Aliases
            });
        }
        let endpoint = self
            .compile((parent, short), &item.body, hosts)
            .map_err(|why| Rejected {
                name: item.name.clone(),
                why,
            })?;
        let endpoint = Arc::new(endpoint);
        let held = Held {
            aliases,
            version,
            checksum,
            endpoint,
        };
        self.held.insert(held.endpoint.name.clone(), held);
        self.dirty = true;
        self.answered = true;
        Ok(Change::Content)
    }

    fn compile(
        &self,
        (parent, short): (&str, &str),
        body: &[u8],
        hosts: Hosts,
    ) -> Result<Endpoint, String> {
        let endpoint: resource::Endpoint = decode(body)?;
        same_name(short, &endpoint.name)?;
        same_parent(parent, &endpoint.service)?;
        let stats = Arc::<EndpointStats>::default();
        let mut compiled = Endpoint::compile(&endpoint, stats).map_err(|rejected| rejected.why)?;
        hosts.check_all(compiled.addresses.iter().copied())?;
        let old = self.held.get(short).map(|held| &held.endpoint);
        if let Some(old) = old.filter(|old| old.addresses == compiled.addresses) {
            compiled.stats = old.stats.clone();
        }
        // Names begin with the cluster, so that the neighbours are the most alike.
        let before = self
            .held
            .range::<str, _>((Bound::Unbounded, Bound::Included(short)));
        let after = self
            .held
            .range::<str, _>((Bound::Excluded(short), Bound::Unbounded));
        for (_, held) in before.rev().take(1).chain(after.take(1)) {
            share(&mut compiled, &held.endpoint);
        }
        Ok(compiled)
    }

    /// Takes an endpoint away. True if it was there.
    pub(super) fn remove(&mut self, short: &str) -> bool {
        let was = self.held.remove(short).is_some();
        self.dirty |= was;
        was
    }

    /// Changed since this was last called?
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Was the last endpoint an answer for this key?
    pub(super) fn is_aliased(&self, key: &str) -> bool {
        self.aliases.iter().any(|alias| **alias == *key)
    }

    /// All of them, by name.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.held.values().map(|held| &held.endpoint)
    }

    /// What is saved. The content is made anew; only when its origin saw it is lost.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.held.iter().map(|(short, held)| Record {
            kind: Kind::Endpoint,
            name: format!("{}#{short}", held.endpoint.service),
            aliases: held.aliases.iter().map(ToString::to_string).collect(),
            version: String::from_utf8_lossy(&held.version).into_owned(),
            body: encode(&held.endpoint),
        })
    }
}

/// One allocation serves all siblings that have the same.
fn share(endpoint: &mut Endpoint, sibling: &Endpoint) {
    endpoint.service = sibling.service.clone();
    if endpoint.network == sibling.network {
        endpoint.network = sibling.network.clone();
    }
    if endpoint.cluster == sibling.cluster {
        endpoint.cluster = sibling.cluster.clone();
    }
    if endpoint.locality == sibling.locality {
        endpoint.locality = sibling.locality.clone();
    }
    if endpoint.identity == sibling.identity {
        endpoint.identity = sibling.identity.clone();
    }
}

/// The resource that compiles to this endpoint.
fn encode(endpoint: &Endpoint) -> Bytes {
    let address = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        std::net::IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    };
    let health = match endpoint.health {
        Health::Healthy => resource::Health::Healthy,
        Health::Draining => resource::Health::Draining,
        Health::Unhealthy => resource::Health::Unhealthy,
    };
    let mapping = |(from, to): &(u16, u16)| resource::PortMapping {
        service_port: u32::from(*from),
        target_port: u32::from(*to),
    };
    let text = |text: Option<&str>| text.unwrap_or("").to_owned();
    let message = resource::Endpoint {
        name: endpoint.name.to_string(),
        service: endpoint.service.to_string(),
        addresses: endpoint.addresses.iter().map(address).collect(),
        network: endpoint.network.to_string(),
        identity: text(endpoint.identity.as_ref().map(|id| id.as_str())),
        weight: Some(endpoint.weight),
        health: health.into(),
        origin: Some(resource::Origin {
            cluster: endpoint.cluster.to_string(),
            observed_at: None,
            generation: 0,
        }),
        locality: Some(resource::Locality {
            region: endpoint.locality.region.clone(),
            zone: endpoint.locality.zone.clone(),
        }),
        ports: endpoint.ports.iter().map(mapping).collect(),
        tunnel_port: endpoint.tunnel_port.map_or(0, u32::from),
        handle: text(endpoint.handle.as_deref()),
        charge_ms: endpoint.charge_ms,
    };
    message.encode_to_vec().into()
}
