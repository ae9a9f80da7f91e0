//! What is to be said of objects that are not taken as they are?

use crate::model::{Kind, ObjectRef, Refusal, Said, Truth};
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
        // What a member is told says it, too. Policies are looked at one by one.
        let here = match at.kind {
            Kind::MeshCluster => !member(&at.name),
            kind => kind == Kind::TrustPolicy,
        };
        if here {
            one(at.clone(), &refused.why, settings, subject, plan);
        }
    }
}

/// What is said of one that its author is told of: these are the mesh's own kinds.
pub(super) fn one(
    at: ObjectRef,
    why: &Refusal,
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    let wanted = vec![not_accepted(why)];
    plan.conditions(at, (wanted, &why.observed.conditions), settings, subject);
}

/// The condition that says so.
pub(super) fn not_accepted(why: &Refusal) -> Said {
    let accepted = (Truth::False, why.reason, why.message.as_str());
    policy::said(&why.observed, "Accepted", accepted)
}
