//! Which objects does a cluster have that are not taken as they are?

use isthmus_proto::ids::is_dns_name;

use crate::model::{Kind, Object, ObjectRef, Refusal, Spec};
use crate::world::cluster::{Cluster, key};

/// Objects that one cluster may declare; more are refused with a condition.
const OBJECTS_MAX: usize = 400_000;
/// Endpoints of one slice (Kubernetes allows as many).
const SLICE_ENDPOINTS_MAX: usize = 1_000;
/// Refused objects that are remembered for people, each cluster.
const REFUSED_MAX: usize = 1_000;

/// An object that is not taken as it is.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    /// The last list that named it.
    list: u64,
}

impl Cluster {
    /// May the object be taken in? The text says why not.
    pub(crate) fn admit(&self, object: &Object) -> Result<(), String> {
        let kind = object.spec.kind();
        let global = match kind {
            Kind::Namespace
            | Kind::GatewayClass
            | Kind::ClusterProperty
            | Kind::MeshCluster
            | Kind::AccessPolicy
            | Kind::TrustPolicy => true,
            Kind::ServiceAccount
            | Kind::Pod
            | Kind::Deployment
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ServiceExport
            | Kind::ServiceImport
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute
            | Kind::ReferenceGrant
            | Kind::Gateway
            | Kind::ClusterProfile
            | Kind::TrafficPolicy
            | Kind::ConfigMap => false,
        };
        if object.namespace.is_none() && !global {
            return Err(format!("a {kind} needs a namespace"));
        }
        if !is_object_name(&object.name) {
            return Err("the name is not a DNS name in lower case".to_owned());
        }
        if let Spec::EndpointSlice(slice) = &object.spec
            && slice.endpoints.len() > SLICE_ENDPOINTS_MAX
        {
            return Err(format!(
                "more than {SLICE_ENDPOINTS_MAX} endpoints in one slice"
            ));
        }
        let (namespace, name) = key(object.namespace.as_ref(), &object.name);
        if self.objects >= OBJECTS_MAX && !self.has(kind, namespace, name) {
            return Err(format!("the cluster has its {OBJECTS_MAX} objects already"));
        }
        Ok(())
    }

    /// Notes an object that was not admitted; what was known under its name stays. False: that was
    /// noted already.
    pub(crate) fn refuse(&mut self, at: ObjectRef, why: Refusal) -> bool {
        let list = self.list;
        let (namespace, name) = key(at.namespace.as_ref(), &at.name);
        self.keep(at.kind, namespace, name);
        // All of what was one object where it comes from.
        let parts = (2_usize..).map(|part| format!("{name}#{part}"));
        for part in parts
            .take_while(|part| self.has(at.kind, namespace, part))
            .collect::<Vec<_>>()
        {
            self.keep(at.kind, namespace, &part);
        }
        if let Some(before) = self.refused.get_mut(&at) {
            before.list = list;
            let new = before.why != why;
            before.why = why;
            return new;
        }
        if self.refused.len() >= REFUSED_MAX {
            return false;
        }
        self.refused.insert(at, Refused { why, list });
        true
    }

    /// What the whole list of these kinds has not named is refused no more.
    pub(crate) fn forget_refused(&mut self, asked: impl Fn(Kind) -> bool) {
        let list = self.list;
        self.refused
            .retain(|at, refused| refused.list == list || !asked(at.kind));
    }
}

/// A Kubernetes name; a source that makes several objects of one (a policy with several targets)
/// tells them apart by `#` and a number.
fn is_object_name(name: &str) -> bool {
    let (name, part) = name.split_once('#').unwrap_or((name, "0"));
    is_dns_name(name) && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}
