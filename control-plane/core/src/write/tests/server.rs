//! API servers, as far as the writer needs them: they give uids and addresses, and refuse what real
//! ones refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_proto::ids::ClusterId;

use crate::import::listed;
use crate::model::*;
use crate::sample::at;
use crate::write::{Body, ImportBody, RootsBody, ServiceBody, SliceBody, Write};

#[derive(Debug, Default)]
pub(super) struct Servers {
    objects: BTreeMap<ObjectRef, Object>,
    touched: BTreeSet<ObjectRef>,
    count: u32,
}

impl Servers {
    pub(super) fn objects(&self, cluster: &ClusterId) -> Vec<Object> {
        let all = self.objects.values();
        all.filter(|object| object.cluster == *cluster)
            .cloned()
            .collect()
    }

    /// Somebody writes an object as a whole. A status survives that.
    pub(super) fn put(&mut self, mut object: Object) {
        let at = object.reference();
        if let Some(before) = self.objects.get(&at) {
            keep_status(&before.spec, &mut object.spec);
        }
        self.touched.insert(at.clone());
        self.objects.insert(at, object);
    }

    pub(super) fn remove(&mut self, at: &ObjectRef) {
        if self.objects.remove(at).is_some() {
            self.touched.insert(at.clone());
        }
    }

    pub(super) fn get(&self, cluster: &str, kind: Kind, name: &str) -> Option<Spec> {
        let at = ObjectRef {
            cluster: cluster.parse().unwrap(),
            kind,
            namespace: Some("shop".parse().unwrap()),
            name: name.to_owned(),
        };
        self.objects.get(&at).map(|object| object.spec.clone())
    }

    /// In any namespace.
    pub(super) fn find(&self, cluster: &str, kind: Kind, name: &str) -> Option<Spec> {
        let found = self.objects.values().find(|object| {
            object.cluster.as_str() == cluster && object.spec.kind() == kind && object.name == name
        });
        found.map(|object| object.spec.clone())
    }

    /// What a watch of the clusters that are seen tells; of the others nobody hears.
    pub(super) fn changes(&mut self, seen: impl Fn(&ClusterId) -> bool) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let told = touched.filter(|at| seen(&at.cluster));
        told.map(|at| match self.objects.get(&at) {
            Some(object) => Change::Apply(object.clone()),
            None => Change::Delete(at),
        })
        .collect()
    }

    /// What Kubernetes' garbage collector does: what has an owner goes after it.
    pub(super) fn collect_garbage(&mut self) {
        let uid = |object: &Object| match &object.spec {
            Spec::ServiceImport(import) => import.managed.as_ref().map(|m| m.uid.clone()),
            _ => None,
        };
        let alive: BTreeSet<_> = self.objects.values().filter_map(uid).collect();
        let orphans = self.objects.values().filter(|object| match &object.spec {
            Spec::Service(Service {
                managed: Some(m), ..
            })
            | Spec::EndpointSlice(EndpointSlice {
                managed: Some(m), ..
            }) => !m.owner.is_empty() && !alive.contains(&m.owner),
            _ => false,
        });
        let orphans: Vec<_> = orphans.map(Object::reference).collect();
        for at in orphans {
            self.remove(&at);
        }
    }

    pub(super) fn write(&mut self, write: &Write) -> Result<(), String> {
        let at = &write.object;
        match &write.body {
            Body::Import(body) => self.import(at, body),
            Body::Service(body) => self.service(at, body),
            Body::Roots(body) => self.roots(at, body),
            Body::Slice(body) => self.slice(at, body),
            Body::Delete { uid } => {
                match self.managed(at) {
                    Some(found) if found.uid == *uid => self.remove(at),
                    Some(_) => return Err("409".to_owned()),
                    None => {}
                }
                Ok(())
            }
            Body::ImportStatus(status) => self.status(at, |spec| match spec {
                Spec::ServiceImport(import) => {
                    import.clusters.clone_from(&status.clusters);
                    import.observed.conditions.clone_from(&status.conditions);
                }
                _ => panic!("no import"),
            }),
            Body::Conditions(conditions) => self.status(at, |spec| {
                let observed = match spec {
                    Spec::ServiceExport(export) => &mut export.observed,
                    Spec::MeshCluster(cluster) => &mut cluster.observed,
                    Spec::AccessPolicy(policy) => &mut policy.observed,
                    Spec::TrafficPolicy(policy) => &mut policy.observed,
                    Spec::TrustPolicy(policy) => &mut policy.observed,
                    Spec::GatewayClass(class) => &mut class.observed,
                    _ => panic!("no conditions"),
                };
                observed.conditions.clone_from(conditions);
            }),
            Body::Gateway(body) => self.status(at, |spec| match spec {
                Spec::Gateway(gateway) => {
                    let told = &mut gateway.status;
                    gateway.observed.conditions.clone_from(&body.conditions);
                    told.listeners.clone_from(&body.listeners);
                    if let Some(addresses) = &body.addresses {
                        told.addresses.clone_from(addresses);
                    }
                }
                _ => panic!("no gateway"),
            }),
            Body::Parents(parents) => self.status(at, |spec| match spec {
                Spec::Route(route) => route.statuses.clone_from(parents),
                _ => panic!("no route"),
            }),
        }
    }

    fn managed(&self, at: &ObjectRef) -> Option<Managed> {
        match &self.objects.get(at)?.spec {
            Spec::ServiceImport(import) => import.managed.clone(),
            Spec::Service(service) => service.managed.clone(),
            Spec::ConfigMap(found) => found.managed.clone(),
            Spec::EndpointSlice(slice) => slice.managed.clone(),
            _ => None,
        }
    }

    fn slice(&mut self, at: &ObjectRef, body: &SliceBody) -> Result<(), String> {
        let before = self.managed(at);
        let uid = self.uid(before.as_ref(), &body.uid)?;
        let foreign = |e: &SliceEndpoint| {
            e.addresses.len() != 1 || IpFamily::of(e.addresses[0]) != body.family
        };
        if body.endpoints.len() > 1_000 || body.endpoints.iter().any(foreign) {
            return Err("422: endpoints".to_owned());
        }
        let spec = EndpointSlice {
            service: body.labels["kubernetes.io/service-name"].clone(),
            ports: body.ports.clone(),
            endpoints: body.endpoints.clone(),
            managed: Some(Managed {
                uid,
                labels: body.labels.clone(),
                annotations: Labels::new(),
                owner: body.owner.1.clone(),
            }),
        };
        self.store(at, Spec::EndpointSlice(spec));
        Ok(())
    }

    fn status(&mut self, at: &ObjectRef, change: impl Fn(&mut Spec)) -> Result<(), String> {
        let found = self.objects.get_mut(at).ok_or("404")?;
        change(&mut found.spec);
        self.touched.insert(at.clone());
        Ok(())
    }

    fn import(&mut self, at: &ObjectRef, body: &ImportBody) -> Result<(), String> {
        let before = self.objects.get(at).map(|object| object.spec.clone());
        let before = match before {
            Some(Spec::ServiceImport(ServiceImport { managed: None, .. })) => {
                return Err("409: owned by somebody else".to_owned());
            }
            Some(Spec::ServiceImport(import)) => Some(import),
            _ => None,
        };
        let uid = self.uid(before.as_ref().and_then(|i| i.managed.as_ref()), &body.uid)?;
        let spec = ServiceImport {
            ips: body.ips.clone(),
            headless: body.headless,
            ports: body.ports.clone(),
            affinity: body.affinity,
            spread: body.spread.clone(),
            families: body.families.clone(),
            is_alpha: false,
            clusters: before
                .as_ref()
                .map(|i| i.clusters.clone())
                .unwrap_or_default(),
            observed: before.map(|i| i.observed).unwrap_or_default(),
            managed: Some(
                Managed {
                    uid,
                    labels: body.labels.clone(),
                    annotations: body.annotations.clone(),
                    owner: String::new(),
                }
                .folded(),
            ),
        };
        self.store(at, Spec::ServiceImport(spec));
        Ok(())
    }

    fn service(&mut self, at: &ObjectRef, body: &ServiceBody) -> Result<(), String> {
        let before = match self.objects.get(at).map(|object| object.spec.clone()) {
            Some(Spec::Service(Service { managed: None, .. })) => {
                return Err("409: owned by somebody else".to_owned());
            }
            Some(Spec::Service(service)) => Some(service),
            _ => None,
        };
        if let Some(before) = &before
            && (before.kind == ServiceType::Headless) != body.headless
        {
            return Err("422: clusterIP is immutable".to_owned());
        }
        let named = body.ports.len() < 2 || body.ports.iter().all(|port| !port.name.is_empty());
        if !named || (body.ports.is_empty() && !body.headless) {
            return Err("422: ports".to_owned());
        }
        let uid = self.uid(before.as_ref().and_then(|s| s.managed.as_ref()), &body.uid)?;
        let (tcp, others): (Vec<_>, Vec<_>) = body
            .ports
            .iter()
            .cloned()
            .partition(|port| port.transport == Transport::Tcp);
        let tcp = tcp.into_iter().map(|port| ServicePort {
            target: TargetPort::Number(port.port),
            protocol: isthmus_proto::resource::Protocol::Unspecified,
            name: port.name,
            port: port.port,
            app_protocol: port.app_protocol,
        });
        let [_, _, high, low] = self.count.to_be_bytes();
        let fresh = vec![IpAddr::from([10, 97, high, low])];
        let service = Service {
            kind: if body.headless {
                ServiceType::Headless
            } else {
                ServiceType::ClusterIp
            },
            cluster_ips: match &before {
                Some(before) => before.cluster_ips.clone(),
                None if body.headless => Vec::new(),
                None => fresh,
            },
            ports: tcp.collect(),
            others,
            client_ip_affinity: body.affinity.is_some(),
            affinity_seconds: body.affinity,
            managed: Some(Managed {
                uid,
                labels: body.labels.clone(),
                annotations: Labels::new(),
                owner: body.owner.1.clone(),
            }),
            ..Service::default()
        };
        assert_eq!(listed(&service).len(), body.ports.len());
        self.store(at, Spec::Service(service));
        Ok(())
    }

    fn roots(&mut self, at: &ObjectRef, body: &RootsBody) -> Result<(), String> {
        if self.objects.contains_key(at) && self.managed(at).is_none() {
            return Err("409: owned by somebody else".to_owned());
        }
        let before = self.managed(at);
        let uid = self.uid(before.as_ref(), &body.uid)?;
        let managed = Managed {
            uid,
            labels: body.labels.clone(),
            ..Managed::default()
        };
        let spec = ConfigMap {
            managed: Some(managed),
            digest: ConfigMap::digest(&body.data),
        };
        self.store(at, Spec::ConfigMap(spec));
        Ok(())
    }

    /// Only the object that is meant is changed, and none is made in its place.
    fn uid(&mut self, before: Option<&Managed>, meant: &str) -> Result<String, String> {
        self.count += 1;
        match before {
            Some(found) if found.uid == meant || meant.is_empty() => Ok(found.uid.clone()),
            Some(_) => Err("422: uid is immutable".to_owned()),
            None if meant.is_empty() => Ok(format!("uid-{}", self.count)),
            None => Err("409: no object with this uid".to_owned()),
        }
    }

    fn store(&mut self, at: &ObjectRef, spec: Spec) {
        self.touched.insert(at.clone());
        let object = Object {
            cluster: at.cluster.clone(),
            namespace: at.namespace.clone(),
            name: at.name.clone(),
            created: Some(self::at(u64::from(self.count))),
            spec,
        };
        self.objects.insert(at.clone(), object);
    }
}

fn keep_status(before: &Spec, after: &mut Spec) {
    match (before, after) {
        (Spec::ServiceExport(before), Spec::ServiceExport(after)) => {
            after
                .observed
                .conditions
                .clone_from(&before.observed.conditions);
        }
        (Spec::Gateway(before), Spec::Gateway(after)) => {
            after.status.clone_from(&before.status);
            let conditions = &before.observed.conditions;
            after.observed.conditions.clone_from(conditions);
        }
        (Spec::Route(before), Spec::Route(after)) => {
            after.statuses.clone_from(&before.statuses);
        }
        _ => {}
    }
}
