//! What is to be said of objects that are not taken as they are?

use crate::model::{Kind, Refusal, Said, Truth};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::{Plan, Settings, Subject, policy};

pub(super) fn look(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    let member = |name: &str| {
        let found = world.standings().filter(|(home, _)| **home == cluster.id);
        let standing = found.is_some_and(|(_, standings)| {
            standings.contains_key(&(Kind::MeshCluster, name.to_owned()))
        });
        standing && cluster.mesh.get("", name).is_some()
    };
    for (at, refused) in &cluster.refused {
        // What a member is told says it, too.
        if !is_told(at.kind) || (at.kind == Kind::MeshCluster && member(&at.name)) {
            continue;
        }
        let wanted = vec![not_accepted(&refused.why)];
        let observed = &refused.why.observed.conditions;
        plan.conditions(at.clone(), (wanted, observed), settings, subject);
    }
}

/// The condition that says so.
pub(super) fn not_accepted(why: &Refusal) -> Said {
    let accepted = (Truth::False, why.reason, why.message.as_str());
    policy::said(&why.observed, "Accepted", accepted)
}

/// Is the author of a refused object of this kind told in its status? These are the mesh's own kinds.
fn is_told(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::MeshCluster | Kind::AccessPolicy | Kind::TrafficPolicy | Kind::TrustPolicy
    )
}
