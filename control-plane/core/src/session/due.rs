//! What of a client's has to be looked at again after a change?

use std::net::IpAddr;

use crate::model::{Reach, ServiceRef};
use crate::session::question::Subject;
use crate::session::{Channel, ResourceType, Session};
use crate::translate::direct;
use crate::world::Dirty;
use crate::world::dirty::{Affected, PolicyScope, ServiceKey};

impl Session {
    /// Takes note of what may be different in the world.
    pub fn dirty(&mut self, dirty: &Dirty) {
        if dirty.all {
            self.channels.values_mut().for_each(Channel::all_due);
            return;
        }
        let mut redefined = false;
        for (key, affected) in &dirty.services {
            if !affected.concerns(&self.client.cluster) {
                continue;
            }
            redefined |= affected.definition;
            if self.wanted.contains(key) {
                self.service_due(key, affected);
            }
        }
        if redefined {
            self.addresses_due();
        }
        for ip in &dirty.addresses {
            if self.wanted.has_address(*ip) {
                self.address_due(*ip);
            }
        }
        self.rest_due(dirty);
    }

    /// Everything about a service.
    pub(crate) fn wholly_due(&mut self, key: &ServiceKey) {
        let all = Affected {
            definition: true,
            ..Affected::default()
        };
        self.service_due(key, &all);
    }

    fn service_due(&mut self, key: &ServiceKey, affected: &Affected) {
        let Ok(namespace) = key.namespace.parse() else {
            return;
        };
        let mut service = ServiceRef {
            reach: Reach::Cluster,
            namespace,
            name: key.name.clone(),
        };
        for reach in [Reach::Cluster, Reach::Clusterset] {
            service.reach = reach;
            let subject = Subject::Service(service.clone());
            let endpoints = affected.definition || !affected.providers.is_empty();
            let routes = affected.definition || affected.routes;
            self.due(ResourceType::Service, affected.definition, &subject);
            self.due(ResourceType::Endpoint, endpoints, &subject);
            self.due(ResourceType::Route, routes, &subject);
        }
    }

    /// Virtual addresses may have moved.
    fn addresses_due(&mut self) {
        for channel in self.channels.values_mut() {
            let addresses = channel.keys.keys().filter(|key| key.starts_with("vip:"));
            channel
                .due_keys
                .extend(addresses.cloned().collect::<Vec<_>>());
        }
    }

    /// Who has an address, or what is spoken there, may be different.
    pub(crate) fn address_due(&mut self, ip: IpAddr) {
        for channel in self.channels.values_mut() {
            let keys = channel.keys.iter();
            let about = keys.filter(|(key, _)| direct::address_of(key) == Some(ip));
            for (key, known) in about {
                channel.due_keys.insert(key.clone());
                channel.due.extend(known.subject.clone());
            }
        }
    }

    fn rest_due(&mut self, dirty: &Dirty) {
        let own = &self.client.cluster;
        let me = dirty.workloads.contains(&self.client.workload);
        let mine = dirty.policies.iter().any(|scope| match scope {
            PolicyScope::Mesh => true,
            PolicyScope::Cluster(cluster) => cluster == own,
            PolicyScope::Namespace(cluster, namespace) => {
                cluster == own && namespace == self.client.namespace()
            }
        });
        let gateways = !dirty.gateways.is_disjoint(&self.clusters);
        let freshness = !dirty.freshness.is_disjoint(&self.clusters);
        let exports = dirty.exports.contains(own);
        // A policy may also set what the workload's inbound accepts.
        self.due(ResourceType::Workload, me || mine, &Subject::All);
        self.due(ResourceType::AccessPolicy, me || mine, &Subject::All);
        self.due(ResourceType::TrustBundle, dirty.trust, &Subject::All);
        self.due(ResourceType::Gateway, gateways, &Subject::All);
        self.due(ResourceType::ClusterFreshness, freshness, &Subject::All);
        self.due(ResourceType::ExportedEndpoint, exports, &Subject::All);
    }

    /// Looks at a subject of a type again, if it is affected and asked for.
    pub(crate) fn due(&mut self, kind: ResourceType, affected: bool, subject: &Subject) {
        if affected && let Some(channel) = self.channels.get_mut(&kind) {
            channel.subject_due(subject);
        }
    }
}
