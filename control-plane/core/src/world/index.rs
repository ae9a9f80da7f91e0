//! What belongs together in one cluster: which pods, slices, routes and addresses to which service?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_proto::ids::NetworkId;
use isthmus_proto::locality::Locality;

use crate::model::{
    CLUSTER_DOMAIN, EndpointSlice, Kind, Labels, MeshCluster, Pod, Reach, Route, Spec,
};
use crate::world::cluster::{Cluster, Names, RouteAt};
use crate::world::table::{Age, Entry};

/// A virtual address that an object claims. The first claim counts: a service's before an import's,
/// then the oldest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VipClaim {
    pub(crate) reach: Reach,
    pub(crate) age: Age,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Pods that have something: namespace and name, in order. Few.
pub(crate) type Holders = Vec<(String, String)>;

/// Indexes, and what is looked up in them.
impl Cluster {
    /// Puts what an object means into the indexes, or takes it out.
    pub(crate) fn index(&mut self, kind: Kind, namespace: &str, name: &str, present: bool) {
        match kind {
            Kind::Pod => self.index_pod(namespace, name, present),
            Kind::Service => self.index_service(namespace, name, present),
            Kind::EndpointSlice => self.index_slice(namespace, name, present),
            Kind::ServiceImport => self.index_import(namespace, name, present),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
                self.index_route(&(kind, namespace.to_owned(), name.to_owned()), present);
            }
            Kind::Namespace
            | Kind::ServiceAccount
            | Kind::Deployment
            | Kind::ServiceExport
            | Kind::ReferenceGrant
            | Kind::Gateway
            | Kind::GatewayClass
            | Kind::ClusterProperty
            | Kind::MeshCluster
            | Kind::ClusterProfile
            | Kind::AccessPolicy
            | Kind::TrafficPolicy
            | Kind::TrustPolicy
            | Kind::ConfigMap => {}
        }
    }

    /// Would the object stand in the indexes exactly as what has its name now? What changes often seldom
    /// moves there: a pod becomes ready, and its slice says so.
    pub(super) fn is_indexed_alike(&self, namespace: &str, name: &str, spec: &Spec) -> bool {
        match spec {
            Spec::Pod(new) => self.pods.get(namespace, name).is_some_and(|old| {
                let old = &old.value;
                old.finished == new.finished && old.ips == new.ips
            }),
            Spec::EndpointSlice(new) => self.slices.get(namespace, name).is_some_and(|old| {
                let old = &old.value;
                let (before, now) = (old.endpoints.iter(), new.endpoints.iter());
                let same_pods = before.map(|e| &e.pod).eq(now.map(|e| &e.pod));
                old.service == new.service && same_pods
            }),
            Spec::Namespace(_)
            | Spec::ServiceAccount
            | Spec::Deployment
            | Spec::Service(_)
            | Spec::ServiceExport(_)
            | Spec::ServiceImport(_)
            | Spec::Route(_)
            | Spec::ReferenceGrant(_)
            | Spec::Gateway(_)
            | Spec::GatewayClass(_)
            | Spec::ClusterProperty(_)
            | Spec::MeshCluster(_)
            | Spec::ClusterProfile(_)
            | Spec::AccessPolicy(_)
            | Spec::TrafficPolicy(_)
            | Spec::TrustPolicy(_)
            | Spec::ConfigMap(_) => false,
        }
    }

    fn index_pod(&mut self, namespace: &str, name: &str, present: bool) {
        let Some(entry) = self.pods.get(namespace, name) else {
            return;
        };
        let id = crate::translate::endpoint_id(&self.id, namespace, name);
        let at = (namespace.to_owned(), name.to_owned());
        hold(&mut self.ids, id, &at, present);
        // Who has ended keeps its address in its status, and another one may have it by now.
        if !entry.value.finished {
            for ip in &entry.value.ips {
                hold(&mut self.pods_at, ip.to_canonical(), &at, present);
            }
        }
    }

    fn index_service(&mut self, namespace: &str, name: &str, present: bool) {
        let Some(entry) = self.services.get(namespace, name) else {
            return;
        };
        if let Some((label, value)) = entry.value.selector.first_key_value() {
            let at = (namespace.to_owned(), label.clone(), value.clone());
            change(&mut self.selectors, at, name.to_owned(), present);
        }
        for ip in &entry.value.cluster_ips {
            let claim = claim(entry.age(), namespace, name, Reach::Cluster);
            change(&mut self.vips, *ip, claim, present);
        }
    }

    fn index_import(&mut self, namespace: &str, name: &str, present: bool) {
        let Some(entry) = self.imports.get(namespace, name) else {
            return;
        };
        for ip in &entry.value.ips {
            let claim = claim(entry.age(), namespace, name, Reach::Clusterset);
            change(&mut self.vips, *ip, claim, present);
        }
    }

    fn index_slice(&mut self, namespace: &str, name: &str, present: bool) {
        let Some(entry) = self.slices.get(namespace, name) else {
            return;
        };
        let at = (namespace.to_owned(), entry.value.service.clone());
        change(&mut self.slices_of_service, at, name.to_owned(), present);
        for pod in entry.value.endpoints.iter().filter_map(|e| e.pod.as_ref()) {
            let at = (namespace.to_owned(), pod.clone());
            change(&mut self.slices_of_pod, at, name.to_owned(), present);
        }
    }

    fn index_route(&mut self, route: &RouteAt, present: bool) {
        let found = self
            .routes
            .get(&route.0)
            .and_then(|t| t.get(&route.1, &route.2));
        let Some(entry) = found else { return };
        for parent in &entry.value.parents {
            let service = &parent.service;
            let at = (
                service.reach,
                service.namespace.to_string(),
                service.name.clone(),
            );
            change(&mut self.routes_of, at, route.clone(), present);
        }
    }

    /// The network that its addresses are on.
    pub(crate) fn network(&self) -> Option<NetworkId> {
        // Without a MeshCluster: a network of its own, which can be reached through a gateway only.
        self.mesh().map_or_else(
            || self.id.as_str().parse().ok(),
            |m| Some(m.network.clone()),
        )
    }

    /// The place of pods that do not say where they are.
    pub(crate) fn locality(&self, own: &Locality) -> Locality {
        let default = self.mesh().map(|m| m.locality.clone()).unwrap_or_default();
        // A zone belongs to its region: a default zone never joins another region.
        if own.region.is_empty() || own.region == default.region {
            let or = |a: &String, b: String| if a.is_empty() { b } else { a.clone() };
            return Locality {
                region: or(&own.region, default.region),
                zone: or(&own.zone, default.zone),
            };
        }
        own.clone()
    }

    /// Must its sidecars refuse what is no service?
    pub(crate) fn denies_passthrough(&self) -> bool {
        self.mesh().is_some_and(|m| m.passthrough_denied)
    }

    /// The domain of its names in DNS.
    pub(crate) fn domain(&self) -> &str {
        let said = self.mesh().and_then(|mesh| mesh.cluster_domain.as_deref());
        said.unwrap_or(CLUSTER_DOMAIN)
    }

    /// What is said of it by who speaks for the mesh; else its own MeshCluster that has its name; else
    /// its oldest.
    pub(crate) fn mesh(&self) -> Option<&MeshCluster> {
        let other = |name: &str| name != self.id.as_str();
        let own = || {
            let own = self.mesh.iter();
            let own = own.min_by_key(|(_, name, e)| (other(name), e.age(), *name));
            own.map(|(_, _, e)| &e.value)
        };
        self.declared.as_ref().or_else(own)
    }

    /// Is the service of this name offered to all clusters?
    pub(crate) fn exported(&self, namespace: &str, name: &str) -> bool {
        self.exports.get(namespace, name).is_some()
    }

    /// The services whose selector takes this pod, by name.
    pub(crate) fn selecting(&self, namespace: &str, labels: &Labels) -> Names {
        let mut found = Names::new();
        for (label, value) in labels {
            let at = (namespace.to_owned(), label.clone(), value.clone());
            for name in self.selectors.get(&at).into_iter().flatten() {
                let service = self.services.get(namespace, name);
                if service.is_some_and(|s| selects(&s.value.selector, labels)) {
                    found.insert(name.clone());
                }
            }
        }
        found
    }

    /// The services whose slices name this pod.
    pub(crate) fn slicing(&self, namespace: &str, pod: &str) -> Names {
        let at = (namespace.to_owned(), pod.to_owned());
        let slices = self.slices_of_pod.get(&at).into_iter().flatten();
        slices
            .filter_map(|slice| self.slices.get(namespace, slice))
            .map(|entry| entry.value.service.clone())
            .collect()
    }

    /// The slices of a service, by name.
    pub(crate) fn slices_of(&self, namespace: &str, service: &str) -> Vec<&Entry<EndpointSlice>> {
        let at = (namespace.to_owned(), service.to_owned());
        let names = self.slices_of_service.get(&at).into_iter().flatten();
        names
            .filter_map(|name| self.slices.get(namespace, name))
            .collect()
    }

    /// The slices of a service, each with its name.
    pub(crate) fn named_slices_of(
        &self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = (&str, &Entry<EndpointSlice>)> {
        let at = (namespace.to_owned(), service.to_owned());
        let names = self.slices_of_service.get(&at).into_iter().flatten();
        let found: Vec<_> = names
            .filter_map(|name| self.slices.entry(namespace, name))
            .collect();
        found.into_iter()
    }

    /// The pods that a selector takes, by name. An empty one takes none.
    pub(crate) fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a str, &'a Entry<Pod>)> {
        let none = selector.is_empty();
        self.pods
            .within(namespace)
            .filter(move |(_, pod)| !none && selects(selector, &pod.value.labels))
    }

    /// The routes that name this parent: kind, namespace, name, route.
    pub(crate) fn routes_of(
        &self,
        at: &(Reach, String, String),
    ) -> impl Iterator<Item = (&RouteAt, &Entry<Route>)> {
        self.routes_of
            .get(at)
            .into_iter()
            .flatten()
            .filter_map(|route| {
                let entry = self.routes.get(&route.0)?.get(&route.1, &route.2)?;
                Some((route, entry))
            })
    }

    /// Whose virtual address is it? The first claim counts. An import has its address from a service
    /// without pods that was made for it (KEP-1645's derived service), and takes it from that one, but
    /// from no other: nobody could catch calls by importing.
    pub(crate) fn vip(&self, ip: IpAddr) -> Option<&VipClaim> {
        let claims = self.vips.get(&ip)?;
        let first = claims.first()?;
        let service = self.services.get(&first.namespace, &first.name);
        if first.reach == Reach::Clusterset || service.is_none_or(|s| !s.value.selector.is_empty())
        {
            return Some(first);
        }
        let import = claims
            .iter()
            .find(|claim| claim.reach == Reach::Clusterset && claim.namespace == first.namespace);
        Some(import.unwrap_or(first))
    }

    /// The one pod that has this address: namespace and name. Those on their host's network share one, and
    /// who is meant can't be said.
    pub(crate) fn pod_at(&self, ip: IpAddr) -> Option<(&str, &str)> {
        let pods = self.pods_at.get(&ip)?;
        let (namespace, name) = pods.first().filter(|_| pods.len() == 1)?;
        Some((namespace, name))
    }

    /// The endpoint id of a pod. `None`: another pod has the same id, and comes first.
    pub(crate) fn endpoint_id(&self, namespace: &str, pod: &str) -> Option<u64> {
        let id = crate::translate::endpoint_id(&self.id, namespace, pod);
        let (first_ns, first) = self.ids.get(&id)?.first()?;
        (first_ns == namespace && first == pod).then_some(id)
    }

    /// Pods that share their endpoint id with one that comes first.
    pub(crate) fn without_id(&self) -> impl Iterator<Item = &(String, String)> {
        self.ids.values().flat_map(|pods| pods.iter().skip(1))
    }
}

/// Does a pod with these labels have all that the selector asks for?
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(label, value)| labels.get(label) == Some(value))
}

fn claim(age: Age, namespace: &str, name: &str, reach: Reach) -> VipClaim {
    VipClaim {
        age,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        reach,
    }
}

/// The same of pods. Nearly always it is one: a list of one is twenty times smaller than a set.
fn hold<K: Ord>(index: &mut BTreeMap<K, Holders>, key: K, pod: &(String, String), present: bool) {
    let Some(pods) = index.get_mut(&key) else {
        if present {
            index.insert(key, vec![pod.clone()]);
        }
        return;
    };
    match pods.binary_search(pod) {
        Err(place) if present => pods.insert(place, pod.clone()),
        Ok(place) if !present => {
            pods.remove(place);
        }
        Ok(_) | Err(_) => {}
    }
    if pods.is_empty() {
        index.remove(&key);
    }
}

fn change<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V, present: bool) {
    if present {
        index.entry(key).or_default().insert(value);
    } else if let Some(set) = index.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            index.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
