//! Which write is sent next, of all that wait for one cluster?
//!
//! What others depend on comes before what is only told: an import that nobody can call yet does not wait
//! behind four thousand statuses. Within each sort namespaces take turns, so that whoever has much to be
//! told waits for himself. Nothing waits forever: now and then it is the turn of what comes last.

use std::collections::{BTreeMap, VecDeque};

use isthmus_control_plane_core::model::{Kind, ObjectRef};
use isthmus_control_plane_core::write::{Body, Write};
use isthmus_proto::ids::Namespace;

/// Which object, and what of it.
pub(super) type Key = (ObjectRef, &'static str);

/// Sorts of writes.
const SORTS: usize = 3;
/// Of so many writes one is of the second sort, and one of the third, whatever else waits.
const TURNS: usize = 16;

/// What waits, in the order in which it is sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    sorts: [Turns; SORTS],
    sent: usize,
}

/// Namespaces take turns; within each of them it is first come, first served.
#[derive(Debug, Default)]
struct Turns {
    spaces: BTreeMap<Option<Namespace>, VecDeque<Key>>,
    order: VecDeque<Option<Namespace>>,
}

/// How much depends on a write: the less, the more.
fn sort(write: &Write) -> usize {
    let owns_the_mesh = matches!(
        write.object.kind,
        Kind::MeshCluster | Kind::TrustPolicy | Kind::GatewayClass
    );
    match &write.body {
        Body::Import(_)
        | Body::Service(_)
        | Body::Roots(_)
        | Body::Slice(_)
        | Body::Delete { .. } => 0,
        // Where a gateway is reached is of use to others than its author.
        Body::Gateway(_) => 1,
        Body::Conditions(_) if owns_the_mesh => 1,
        Body::Conditions(_) | Body::ImportStatus(_) | Body::Parents(_) => 2,
    }
}

impl Queue {
    pub(super) fn push(&mut self, key: Key, write: &Write) {
        if let Some(turns) = self.sorts.get_mut(sort(write)) {
            turns.push(key);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Key> {
        self.sent = (self.sent + 1) % TURNS;
        let first = match self.sent {
            0 => 2,
            at if at == TURNS / 2 => 1,
            _ => 0,
        };
        let mut all = (0..SORTS).map(|at| (first + at) % SORTS);
        all.find_map(|at| self.sorts.get_mut(at)?.pop())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sorts.iter().all(|turns| turns.order.is_empty())
    }

    pub(super) fn clear(&mut self) {
        self.sorts = Default::default();
    }
}

impl Turns {
    fn push(&mut self, key: Key) {
        let space = key.0.namespace.clone();
        let waiting = self.spaces.entry(space.clone()).or_default();
        if waiting.is_empty() {
            self.order.push_back(space);
        }
        waiting.push_back(key);
    }

    fn pop(&mut self) -> Option<Key> {
        let space = self.order.pop_front()?;
        let waiting = self.spaces.get_mut(&space)?;
        let key = waiting.pop_front()?;
        if waiting.is_empty() {
            self.spaces.remove(&space);
        } else {
            self.order.push_back(space);
        }
        Some(key)
    }
}
