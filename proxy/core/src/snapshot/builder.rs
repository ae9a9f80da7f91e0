//! How does news become the next generation of tables?
//!
//! One resource at a time: a bad one is refused by name and its last good version stays, its
//! siblings apply. The order does not matter: a child may come before its parent, an empty answer
//! before the service that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_proto::ids::{ClusterId, ServiceName};
use isthmus_proto::resource;

use super::cluster::ClusterFreshness;
use super::compile::{decode, policy, same_name, service_name};
use super::hosts::Hosts;
use super::own::OwnWorkload;
use super::service::Service;
use super::shelf::{Change, Item, Shelf, changed};
use super::slot::{Empty, Slot};
use super::table::{Index, ServiceTable};
use super::update::{Key, Kind, Update};
use super::{Generation, Rejected, Snapshot};
use crate::authorize::{Policy, PolicySet, PolicyTable};
use crate::balance::Me;
use crate::handle::{Export, ExportTable, HandleKeys};
use crate::hop::{Gateway, GatewayTable};
use crate::identify::{ReadRoot, TrustBundles, TrustRoots};

/// Most keys of one kind that are remembered to lead nowhere. Beyond that they stay unknown.
pub const EMPTY_KEYS_MAX: usize = 65_536;

/// Holds what was accepted, and makes snapshots of it.
pub struct SnapshotBuilder {
    /// As configured; the locality comes from the own workload once that is known.
    me: Me,
    read_root: ReadRoot,
    hosts: Hosts,
    generation: u64,
    pub(super) workloads: Shelf<Arc<OwnWorkload>>,
    pub(super) policies: Shelf<Arc<Policy>>,
    pub(super) trust: Shelf<Arc<TrustRoots>>,
    pub(super) gateways: Shelf<Arc<Gateway>>,
    pub(super) clusters: Shelf<(ClusterId, ClusterFreshness)>,
    pub(super) exports: Shelf<Arc<Export>>,
    pub(super) handle_keys: Shelf<HandleKeys>,
    pub(super) slots: BTreeMap<ServiceName, Slot>,
    pub(super) empty: Empty,
    /// Services to build anew.
    touched: BTreeSet<ServiceName>,
    /// A name, address or key leads elsewhere than before.
    index_dirty: bool,
    last: Arc<Snapshot>,
}

impl SnapshotBuilder {
    /// Knows nothing yet, except where it is and how a root certificate is read.
    #[must_use]
    pub fn new(me: Me, read_root: ReadRoot) -> Self {
        Self {
            read_root,
            hosts: Hosts::default(),
            generation: 0,
            workloads: Shelf::default(),
            policies: Shelf::default(),
            trust: Shelf::default(),
            gateways: Shelf::default(),
            clusters: Shelf::default(),
            exports: Shelf::default(),
            handle_keys: Shelf::default(),
            slots: BTreeMap::new(),
            empty: Empty::default(),
            touched: BTreeSet::new(),
            index_dirty: false,
            last: Arc::new(Snapshot::empty(me.clone())),
            me,
        }
    }

    /// Where others may be, which are called.
    #[must_use]
    pub fn among(self, hosts: Hosts) -> Self {
        Self { hosts, ..self }
    }

    /// Continues the count of an earlier life: the next generation is larger than `generation`.
    pub fn continue_after(&mut self, generation: Generation) {
        self.generation = self.generation.max(generation.0);
    }

    /// Of the last snapshot that was built, here or in an earlier life.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// Takes one piece of news. What it refuses, it names; the list goes into the NACK.
    pub fn apply(&mut self, update: Update) -> Vec<Rejected> {
        match update {
            Update::Upsert {
                kind,
                name,
                aliases,
                version,
                body,
            } => {
                let item = Item {
                    name,
                    aliases,
                    version,
                    body,
                };
                self.upsert(kind, item).err().into_iter().collect()
            }
            Update::Remove { kind, name } => {
                self.remove(kind, &name);
                Vec::new()
            }
            Update::Forget { kind, name } => {
                self.forget(kind, &name);
                Vec::new()
            }
            Update::Answered { kind } => {
                self.answered(kind);
                Vec::new()
            }
        }
    }

    /// Would a snapshot made now differ from the last one?
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let flat = [
            self.workloads.is_dirty(),
            self.policies.is_dirty(),
            self.trust.is_dirty(),
            self.gateways.is_dirty(),
            self.clusters.is_dirty(),
            self.exports.is_dirty(),
            self.handle_keys.is_dirty(),
        ];
        self.index_dirty || !self.touched.is_empty() || flat.contains(&true)
    }

    fn upsert(&mut self, kind: Kind, item: Item) -> Result<Change, Rejected> {
        match kind {
            Kind::Workload => self.workloads.upsert(item, |item, _| {
                let workload: resource::Workload = decode(&item.body)?;
                same_name(&item.name, &workload.name)?;
                OwnWorkload::compile(&workload).map(Arc::new)
            }),
            Kind::AccessPolicy => self.upsert_policy(item),
            Kind::TrustBundle => self.trust.upsert(item, |item, old| {
                let bundle: resource::TrustBundle = decode(&item.body)?;
                same_name(&item.name, &bundle.trust_domain)?;
                TrustRoots::after(old.map(Arc::as_ref), &bundle, self.read_root)
                    .map(Arc::new)
                    .map_err(|rejected| rejected.why)
            }),
            Kind::Gateway => self.gateways.upsert(item, |item, old| {
                let gateway: resource::Gateway = decode(&item.body)?;
                same_name(&item.name, &gateway.name)?;
                let stats = old.map(|old| old.stats.clone()).unwrap_or_default();
                let gateway = Gateway::compile(&gateway, stats).map_err(|r| r.why)?;
                self.hosts.check_all(gateway.ips())?;
                Ok(Arc::new(gateway))
            }),
            Kind::ClusterFreshness => self.clusters.upsert(item, |item, _| {
                let freshness: resource::ClusterFreshness = decode(&item.body)?;
                same_name(&item.name, &freshness.cluster)?;
                let cluster = item.name.parse().map_err(|e| format!("{e}"))?;
                Ok((cluster, ClusterFreshness::compile(&freshness)?))
            }),
            Kind::ExportedEndpoint => self.exports.upsert(item, |item, _| {
                let export: resource::ExportedEndpoint = decode(&item.body)?;
                same_name(&item.name, &format!("{:016x}", export.id))?;
                let export = Export::compile(&export).map_err(|r| r.why)?;
                self.hosts.check_all([export.address.ip()])?;
                Ok(Arc::new(export))
            }),
            Kind::HandleKeys => self.handle_keys.upsert(item, |item, _| {
                let keys: resource::HandleKeys = decode(&item.body)?;
                same_name(&item.name, &keys.cluster)?;
                HandleKeys::compile(&keys).map_err(|rejected| rejected.why)
            }),
            Kind::Service => self.upsert_service(item),
            Kind::Route | Kind::Endpoint => self.upsert_child(kind, item),
        }
    }

    /// A policy that was never understood must not be missing: it denies until it is.
    fn upsert_policy(&mut self, item: Item) -> Result<Change, Rejected> {
        let (name, body) = (item.name.clone(), item.body.clone());
        let result = self
            .policies
            .upsert(item, |item, _| policy(&item.name, &item.body).map(Arc::new));
        if let Err(rejected) = &result {
            let refusing = Policy::refusing(&name, &rejected.why);
            self.policies.stand_in(&name, body, Arc::new(refusing));
        }
        result
    }

    fn upsert_service(&mut self, item: Item) -> Result<Change, Rejected> {
        let name = service_name(&item.name, &item.name)?;
        let keys = item.aliases.clone();
        let slot = self.slots.entry(name.clone()).or_default();
        let result = slot.upsert_service(item);
        match &result {
            Ok(Change::Content | Change::Aliases) => {
                for key in slot.keys() {
                    self.empty.services.remove(&key);
                }
                // A key means one service: the one that answered last.
                for (_, other) in self.slots.iter_mut().filter(|(other, _)| **other != name) {
                    for key in &keys {
                        other.lose_key(key);
                    }
                }
                self.index_dirty = true;
                self.touched.insert(name);
            }
            Ok(Change::Nothing) => {}
            Err(_) => self.drop_left_over(&name),
        }
        result
    }

    fn upsert_child(&mut self, kind: Kind, item: Item) -> Result<Change, Rejected> {
        let name = service_name(&item.name, kind.parent(&item.name).unwrap_or(""))?;
        let keys = if kind == Kind::Route {
            &mut self.empty.routes
        } else {
            &mut self.empty.endpoints
        };
        keys.remove(name.as_str());
        for alias in &item.aliases {
            keys.remove(alias.as_str());
        }
        let slot = self.slots.entry(name.clone()).or_default();
        let result = if kind == Kind::Route {
            slot.upsert_route(item)
        } else {
            slot.endpoints.upsert(&item, self.hosts)
        };
        match &result {
            Ok(Change::Content) => {
                self.touched.insert(name);
            }
            Ok(Change::Aliases | Change::Nothing) => {}
            Err(_) => self.drop_left_over(&name),
        }
        result
    }

    fn drop_left_over(&mut self, name: &ServiceName) {
        if self.slots.get(name).is_some_and(Slot::is_left_over) {
            self.slots.remove(name);
        }
    }

    fn answered(&mut self, kind: Kind) {
        match kind {
            Kind::Workload => self.workloads.answer(),
            Kind::AccessPolicy => self.policies.answer(),
            Kind::TrustBundle => self.trust.answer(),
            Kind::Gateway => self.gateways.answer(),
            Kind::ClusterFreshness => self.clusters.answer(),
            Kind::ExportedEndpoint => self.exports.answer(),
            Kind::HandleKeys => self.handle_keys.answer(),
            // Asked for and answered one by one.
            Kind::Service | Kind::Route | Kind::Endpoint => {}
        }
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Service => self.remove_service(name, true),
            Kind::Route | Kind::Endpoint => self.remove_child(kind, name, true),
            Kind::Workload
            | Kind::AccessPolicy
            | Kind::TrustBundle
            | Kind::Gateway
            | Kind::ClusterFreshness
            | Kind::ExportedEndpoint
            | Kind::HandleKeys => {
                self.remove_flat(kind, name);
                self.answered(kind);
            }
        }
    }

    fn forget(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Service => self.remove_service(name, false),
            Kind::Route | Kind::Endpoint => self.remove_child(kind, name, false),
            Kind::Workload
            | Kind::AccessPolicy
            | Kind::TrustBundle
            | Kind::Gateway
            | Kind::ClusterFreshness
            | Kind::ExportedEndpoint
            | Kind::HandleKeys => self.remove_flat(kind, name),
        }
    }

    /// `*` takes all of a kind away.
    fn remove_flat(&mut self, kind: Kind, name: &str) {
        fn from<T>(shelf: &mut Shelf<T>, name: &str) {
            if name == "*" {
                shelf.clear();
            } else {
                shelf.remove(name);
            }
        }
        match kind {
            Kind::Workload => from(&mut self.workloads, name),
            Kind::AccessPolicy => from(&mut self.policies, name),
            Kind::TrustBundle => from(&mut self.trust, name),
            Kind::Gateway => from(&mut self.gateways, name),
            Kind::ClusterFreshness => from(&mut self.clusters, name),
            Kind::ExportedEndpoint => from(&mut self.exports, name),
            Kind::HandleKeys => from(&mut self.handle_keys, name),
            Kind::Service | Kind::Route | Kind::Endpoint => {}
        }
    }

    /// Is it known that there is no service under this key?
    #[must_use]
    pub fn is_absent(&self, key: &str) -> bool {
        self.empty.services.contains(key)
    }

    /// A service by its name, or what is known about a key. `absent`: it is known that there is
    /// none; otherwise it becomes unknown. A key alone takes no service away: another may lead
    /// to it, and the subscription knows which are wanted.
    fn remove_service(&mut self, name: &str, absent: bool) {
        let Ok(key) = name.parse::<Key>() else { return };
        self.index_dirty |= note(&mut self.empty.services, name, absent);
        if let Key::Name(service) = key {
            let Some(slot) = self.slots.get_mut(&service) else {
                return;
            };
            let aliases = slot
                .spec()
                .map(|held| held.aliases.clone())
                .unwrap_or_default();
            if slot.remove_service() {
                for alias in aliases.iter().filter(|_| absent) {
                    note(&mut self.empty.services, alias, true);
                }
                self.index_dirty = true;
                self.touched.insert(service);
            }
            return;
        }
        for slot in self.slots.values_mut() {
            self.index_dirty |= slot.lose_key(name);
        }
    }

    /// A child by its name; or all children of a kind by the service's key, of which it becomes
    /// known or unknown whether there are any.
    fn remove_child(&mut self, kind: Kind, name: &str, known: bool) {
        if let Some(parent) = kind.parent(name) {
            let Ok(parent) = parent.parse::<ServiceName>() else {
                return;
            };
            let Some(slot) = self.slots.get_mut(&parent) else {
                return;
            };
            if slot.remove_child(kind, name, known) {
                self.touched.insert(parent);
            }
            return;
        }
        let Ok(key) = name.parse::<Key>() else { return };
        let keys = if kind == Kind::Route {
            &mut self.empty.routes
        } else {
            &mut self.empty.endpoints
        };
        note(keys, name, known);
        for (service, slot) in &mut self.slots {
            if slot.answers_to(name, &key) {
                slot.answer_children(kind, known);
                self.touched.insert(service.clone());
            }
        }
    }

    /// The snapshot of what is held now. Shares every table that did not change with the one
    /// before; without any change it is the one before.
    pub fn build(&mut self) -> Arc<Snapshot> {
        if !self.is_dirty() && self.generation > 0 && self.last.generation.0 > 0 {
            return self.last.clone();
        }
        self.generation = self.generation.saturating_add(1);
        let generation = Generation(self.generation);
        let last = self.last.clone();
        let (own, me) = self.build_own(&last);
        let services = self.build_services(&last, &me);
        let policies = match self.policies.take_dirty() {
            true => Arc::new(PolicySet::Known(PolicyTable::new(
                self.policies.values().cloned().collect(),
                generation,
            ))),
            false => last.policies.clone(),
        };
        self.last = Arc::new(Snapshot {
            generation,
            own,
            policies,
            trust: changed(&mut self.trust, &last.trust, |trust| {
                TrustBundles::new(trust.values().cloned())
            }),
            gateways: changed(&mut self.gateways, &last.gateways, |gateways| {
                GatewayTable::new(gateways.values().cloned())
            }),
            clusters: changed(&mut self.clusters, &last.clusters, |clusters| {
                clusters.values().cloned().collect()
            }),
            services,
            exports: changed(&mut self.exports, &last.exports, |exports| {
                ExportTable::new(exports.values().cloned())
            }),
            handle_keys: changed(&mut self.handle_keys, &last.handle_keys, |keys| {
                let own = keys.values().filter(|keys| keys.cluster == me.cluster);
                own.flat_map(|keys| keys.keys.iter().cloned()).collect()
            }),
            me,
        });
        self.last.clone()
    }

    fn build_own(&mut self, last: &Snapshot) -> (Option<Arc<OwnWorkload>>, Me) {
        if !self.workloads.take_dirty() {
            return (last.own.clone(), last.me.clone());
        }
        let own = self.workloads.values().next().cloned();
        let locality = own
            .as_ref()
            .map_or(&self.me.locality, |own| &own.locality)
            .clone();
        (
            own,
            Me {
                locality,
                ..self.me.clone()
            },
        )
    }

    fn build_services(&mut self, last: &Snapshot, me: &Me) -> Arc<ServiceTable> {
        let moved = me.locality != last.me.locality;
        if moved {
            self.touched.extend(self.slots.keys().cloned());
        }
        if self.touched.is_empty() && !self.index_dirty {
            return last.services.clone();
        }
        for name in std::mem::take(&mut self.touched) {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.build(me, moved, &self.empty);
            }
            self.drop_left_over(&name);
        }
        let built: Vec<Arc<Service>> = self
            .slots
            .values()
            .filter_map(|slot| slot.built().cloned())
            .collect();
        let index = if std::mem::take(&mut self.index_dirty) {
            let named = self
                .slots
                .values()
                .filter_map(|slot| Some((slot.built()?.as_ref(), &*slot.spec()?.aliases)));
            let absent = self.empty.services.iter().map(|key| &**key);
            Arc::new(Index::new(&me.network, named, absent))
        } else {
            last.services.index().clone()
        };
        Arc::new(ServiceTable::new(built, index))
    }
}

/// Notes that a key leads nowhere, or that this is not known. True if that is news.
fn note(keys: &mut BTreeSet<Box<str>>, key: &str, empty: bool) -> bool {
    match empty {
        true => keys.len() < EMPTY_KEYS_MAX && keys.insert(key.into()),
        false => keys.remove(key),
    }
}
