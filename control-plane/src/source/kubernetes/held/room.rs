//! Is there room for an object, apart from what others take?

use isthmus_control_plane_core::model::{Governs, Kind};
use isthmus_control_plane_core::quota::{Cost, Ledger, Over, Quota, Shares};

use super::Key;

/// What governs may have this part of the quota, of each sort, besides the quota.
const GOVERNING_PART: usize = 8;
/// Who was refused and is not remembered is thought to take this part of what there is.
const SOME_PART: usize = 10;
/// ... or so much, in bytes, of what namespaces share.
const SOME_BYTES: usize = 16 * 1024;

/// What a cluster's objects take. Nothing that fills up the quota keeps a policy out, nor what cuts a
/// cluster off; nobody who may write policies in his namespace keeps out those of others.
#[derive(Debug)]
pub(super) struct Rooms {
    running: Ledger<Key>,
    mesh: Ledger<Key>,
    access: Shares<Key>,
    traffic: Shares<Key>,
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
        match key.0.governs() {
            None => self.running.admit(key, cost),
            Some(Governs::Mesh) => self.mesh.admit(key, cost),
            Some(Governs::Access) => self.access.admit(&namespace, key, cost),
            Some(Governs::Traffic) => self.traffic.admit(&namespace, key, cost),
        }
    }

    /// The object is gone. `false`: it was not held.
    pub(super) fn release(&mut self, key: &Key) -> bool {
        match key.0.governs() {
            None => self.running.release(key),
            Some(Governs::Mesh) => self.mesh.release(key),
            Some(Governs::Access) => self.access.release(&key.1, key),
            Some(Governs::Traffic) => self.traffic.release(&key.1, key),
        }
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        match key.0.governs() {
            None => self.running.holds(key),
            Some(Governs::Mesh) => self.mesh.holds(key),
            Some(Governs::Access) => self.access.holds(&key.1, key),
            Some(Governs::Traffic) => self.traffic.holds(&key.1, key),
        }
    }

    pub(super) fn has_room(&self, kind: Kind, namespace: &str, cost: Cost) -> bool {
        match kind.governs() {
            None => self.running.has_room(cost),
            Some(Governs::Mesh) => self.mesh.has_room(cost),
            Some(Governs::Access) => self.access.has_room(namespace, cost),
            Some(Governs::Traffic) => self.traffic.has_room(namespace, cost),
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
        match kind.governs() {
            None => part(&self.running),
            Some(Governs::Mesh) => part(&self.mesh),
            Some(Governs::Access) => share(&self.access),
            Some(Governs::Traffic) => share(&self.traffic),
        }
    }
}
