//! Which objects does a cluster have that are not taken as they are?

use crate::model::{Governs, Kind, NOT_TAKEN, Object, ObjectRef, Refusal, Spec};
use crate::translate::authorization;
use crate::world::World;
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
        let stands_in = kind == Kind::AccessPolicy && object.name == NOT_TAKEN;
        if !stands_in && !kind.has_name(&object.name) {
            return Err("the name is not a name in lower case".to_owned());
        }
        if let Spec::EndpointSlice(slice) = &object.spec
            && slice.endpoints.len() > SLICE_ENDPOINTS_MAX
        {
            return Err(format!(
                "more than {SLICE_ENDPOINTS_MAX} endpoints in one slice"
            ));
        }
        let (namespace, name) = key(object.namespace.as_ref(), &object.name);
        // What governs is bounded by its source, and is missed by everybody.
        let bounded = matches!(kind.governs(), None | Some(Governs::Traffic));
        if bounded && self.objects >= OBJECTS_MAX && !self.has(kind, namespace, name) {
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
        if let Some(before) = self.refused.get_mut(&at) {
            before.list = list;
            let new = before.why != why;
            before.why = why;
            return new;
        }
        if self.refused.len() >= REFUSED_MAX && !self.forget_lesser(at.kind) {
            return false;
        }
        self.refused.insert(at, Refused { why, list });
        true
    }

    /// Makes room for a refusal of this kind, if there is one that matters less.
    fn forget_lesser(&mut self, kind: Kind) -> bool {
        let last = self.refused.keys().max_by_key(|at| weight(at.kind));
        let Some(last) = last.filter(|last| weight(last.kind) > weight(kind)) else {
            return false;
        };
        let last = last.clone();
        self.refused.remove(&last);
        true
    }

    /// What the whole list of these kinds has not named is refused no more.
    pub(crate) fn forget_refused(&mut self, asked: impl Fn(Kind) -> bool) {
        let list = self.list;
        self.refused
            .retain(|at, refused| refused.list == list || !asked(at.kind));
    }
}

/// Which refusals are remembered first where there are too many: the least.
#[must_use]
pub fn weight(kind: Kind) -> u8 {
    match kind.governs() {
        Some(Governs::Mesh) => 0,
        Some(Governs::Access) => 1,
        Some(Governs::Traffic) => 2,
        None if kind == Kind::ClusterProfile => 2,
        None => 3,
    }
}

impl World {
    /// Why an object is not taken though it is the cluster's own word: its last good state counts, and
    /// this one has none. A policy of the same name that was made anew is another one.
    pub(super) fn keeps_last_good(&self, object: &Object) -> Option<Refusal> {
        let Spec::AccessPolicy(new) = &object.spec else {
            return None;
        };
        let (namespace, name) = key(object.namespace.as_ref(), &object.name);
        let cluster = self.clusters.get(&object.cluster)?;
        let held = cluster.policies.get(namespace, name)?;
        if held.created != object.created {
            return None;
        }
        let why = authorization::invalidity(self, namespace, new)?;
        let is_good = authorization::invalidity(self, namespace, &held.value).is_none();
        is_good.then(|| Refusal {
            reason: "Invalid",
            message: format!("what it said before counts: {why}"),
            observed: new.observed.clone(),
        })
    }
}
