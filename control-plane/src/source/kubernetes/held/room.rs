//! Is there room for an object, apart from what others take?

use isthmus_control_plane_core::model::Kind;
use isthmus_control_plane_core::quota::{Cost, Ledger, Over, Quota, Shares};

use super::Key;

/// What governs may have this part of the quota, of each sort, besides the quota.
const GOVERNING_PART: usize = 8;
/// Who was refused and is not remembered is thought to take this part of what there is.
const SOME_PART: usize = 10;
/// ... or so much, in bytes, of what namespaces share.
const SOME_BYTES: usize = 16 * 1024;

/// Who competes with whom for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Whatever runs in the cluster.
    Running,
    /// What only those write who own the mesh: who is in it, and who is cut off.
    Mesh,
    /// Who may call, by namespace.
    Access,
    /// How calls are treated, by namespace.
    Traffic,
}

/// What a cluster's objects take. Nothing that fills up the quota keeps a policy out, nor what cuts a
/// cluster off; nobody who may write policies in his namespace keeps out those of others.
#[derive(Debug)]
pub(super) struct Rooms {
    running: Ledger<Key>,
    mesh: Ledger<Key>,
    access: Shares<Key>,
    traffic: Shares<Key>,
}

fn sort(kind: Kind) -> Sort {
    match kind {
        Kind::MeshCluster | Kind::TrustPolicy => Sort::Mesh,
        Kind::AccessPolicy => Sort::Access,
        Kind::TrafficPolicy => Sort::Traffic,
        Kind::Namespace
        | Kind::ServiceAccount
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
        | Kind::GatewayClass
        | Kind::ClusterProperty
        | Kind::ClusterProfile
        | Kind::ConfigMap => Sort::Running,
    }
}

impl Rooms {
    pub(super) fn new(quota: Quota) -> Self {
        let part = quota.bytes / GOVERNING_PART;
        let mesh = Quota {
            bytes: part,
            ..quota
        };
        Self {
            running: Ledger::new(quota),
            mesh: Ledger::new(mesh),
            access: Shares::new(part),
            traffic: Shares::new(part),
        }
    }

    /// Takes an object in; what was held under its key is, if there is no room.
    pub(super) fn admit(&mut self, key: Key, cost: Cost) -> Result<(), Over> {
        let namespace = key.1.clone();
        match sort(key.0) {
            Sort::Running => self.running.admit(key, cost),
            Sort::Mesh => self.mesh.admit(key, cost),
            Sort::Access => self.access.admit(&namespace, key, cost),
            Sort::Traffic => self.traffic.admit(&namespace, key, cost),
        }
    }

    /// The object is gone. `false`: it was not held.
    pub(super) fn release(&mut self, key: &Key) -> bool {
        match sort(key.0) {
            Sort::Running => self.running.release(key),
            Sort::Mesh => self.mesh.release(key),
            Sort::Access => self.access.release(&key.1, key),
            Sort::Traffic => self.traffic.release(&key.1, key),
        }
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        match sort(key.0) {
            Sort::Running => self.running.holds(key),
            Sort::Mesh => self.mesh.holds(key),
            Sort::Access => self.access.holds(&key.1, key),
            Sort::Traffic => self.traffic.holds(&key.1, key),
        }
    }

    pub(super) fn has_room(&self, kind: Kind, namespace: &str, cost: Cost) -> bool {
        match sort(kind) {
            Sort::Running => self.running.has_room(cost),
            Sort::Mesh => self.mesh.has_room(cost),
            Sort::Access => self.access.has_room(namespace, cost),
            Sort::Traffic => self.traffic.has_room(namespace, cost),
        }
    }

    /// What an object is thought to take of which nobody knows.
    pub(super) fn some(&self, kind: Kind) -> Cost {
        let part = |of: &Ledger<Key>| Cost {
            endpoints: of.quota().endpoints / SOME_PART,
            bytes: of.quota().bytes / SOME_PART,
        };
        let share = |of: &Shares<Key>| Cost {
            endpoints: 0,
            bytes: SOME_BYTES.min(of.share() / SOME_PART),
        };
        match sort(kind) {
            Sort::Running => part(&self.running),
            Sort::Mesh => part(&self.mesh),
            Sort::Access => share(&self.access),
            Sort::Traffic => share(&self.traffic),
        }
    }
}
